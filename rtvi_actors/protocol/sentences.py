"""Where a generated sentence ends: for bot-transcription, and for sentences that are shown as segments."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Sentences"]

_SENTENCE_END: Final = re.compile(
    "[.!?;\u2026\u3002\uff1f\uff01\uff1b\uff0e"
    "\uff61\u0964\u0965\u061f\u061b\u06d4\u060f\u104a\u104b\u17d4"
    "\u17d5\u0ecc\u0f0d\u0f0e\u0589\u055c\u055e\u1362\u1367\u1368]"
    "[\"')\\]\u201d\u2019\u00bb]*\\s*\\Z"
)
"""What pipecat-ai 1.14.0 ends a sentence with (observed), and closing quotes and brackets behind it."""
_MAX_CHARS: Final = 16_384
"""A longer text is taken for a sentence: one whose end never comes keeps memory bounded."""
_TAIL_CHARS: Final = 64
"""How far back a sentence end is looked for: a fixed amount of work per token, however long the sentence."""


class Sentences:
    """Collects generated text up to sentence ends, for bot-transcription and for sentence segments.

    What ends a sentence is judged on the end of what has been collected (pipecat-ai 1.14.0, observed: "Pi is 3." ends
    one). `pending` is all there is to keep.
    """

    def __init__(self, pending: str = "") -> None:
        self.pending = pending

    def add(self, text: str) -> str | None:
        """Collect; returns all that is pending when it ends a sentence."""
        self.pending += text
        ends = len(self.pending) > _MAX_CHARS or _SENTENCE_END.search(self.pending[-_TAIL_CHARS:])
        return self.finish() if ends else None

    def finish(self) -> str | None:
        """The response is over: what is pending, if it says anything (deviation D19)."""
        rest, self.pending = self.pending, ""
        return rest if rest.strip() else None

    def drop(self) -> None:
        """The response was interrupted: what is pending belongs to nothing (deviation D19)."""
        self.pending = ""
