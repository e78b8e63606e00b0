"""What the bot says, segment by segment: the state machine behind bot-output (PROTOCOL.md 1.4 and 2.4).

A segment lives like this; every arrow is a message, except into ``held``:

    text ─▶ held ─▶ new ─▶ in progress ─▶ … ─▶ completed      spoken to its end
                     └──────────┴────────────▶ closed         cut short: completed, with less accumulated
    text ─▶ (held) ─▶ new                                     nothing to speak: ends as it begins

The rules: `new` comes before any progress, progress only grows, and whatever was shown as to be spoken ends as
completed or closed. Text to be spoken is held until the bot speaks, and everything behind it, so that the order stays.
Where pipecat-ai 1.14.0 does otherwise it is argued against: progress waits for its segment (deviation D20), completion
is judged on the segment's own text (D21), an interrupted segment is closed (PROTOCOL.md 5).

Messages are made for every version at once; `server.shape` picks what a client's version gets: words as they are spoken
for 1.x, progress for 2.x.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from msgspec import UNSET, Struct, UnsetType, structs

from rtvi_actors.protocol.server import (
    BotInterrupted,
    BotOutput,
    BotOutputData,
    BotStartedSpeaking,
    BotStoppedSpeaking,
    ServerMessage,
    SpokenProgress,
    SpokenStatus,
)

__all__ = ["LIMIT", "MAX_ID", "Segment", "Segments", "SegmentsState", "Sentences"]

MAX_ID: Final = 2**31 - 1
"""Android parses segment ids as Int32 (PROTOCOL.md 1.4)."""

LIMIT: Final = 256
"""Segments kept at once. Beyond, the oldest is closed: a bot whose speech never comes keeps memory bounded."""

_WORD: Final = re.compile(r"\S+")
_SENTENCE_END: Final = re.compile(
    r"[.!?\u2026\u3002\uff01\uff1f\uff0e\uff61\u0964\u061f\u06d4][\"')\]\u201d\u2019\u00bb]*\s*\Z"
)
"""Full stop, exclamation and question mark, ellipsis, their CJK, Devanagari and Arabic kin; closing quotes; spaces."""


class Segment(Struct, frozen=True):
    """A segment that is held or open."""

    id: int
    text: str
    type: str
    will_be_spoken: bool
    interruptible: bool = True
    held: bool = False
    """Whether its `new` has not been sent yet."""
    spoken_chars: int = 0
    """How much of `text` has been spoken."""

    @property
    def complete(self) -> bool:
        return self.spoken_chars >= len(self.text)


class SegmentsState(Struct, frozen=True):
    """Immutable, so that an actor hands it out as its snapshot."""

    speaking: bool = False
    next_id: int = 1
    segments: tuple[Segment, ...] = ()
    """Held and open ones, oldest first."""


class Segments:
    """The machine. Every method returns the messages to send, in order; `state` is all there is to keep."""

    def __init__(self, state: SegmentsState | None = None) -> None:
        self.state = state or SegmentsState()

    def text(
        self,
        text: str,
        *,
        type: str = "sentence",  # noqa: A002  the wire's word
        will_be_spoken: bool,
        interruptible: bool = True,
        segment_id: int | None = None,
    ) -> list[ServerMessage]:
        """The bot has a segment to say or show.

        The id is the next free one unless `segment_id` says otherwise (`allocate` gives one in advance, for whoever
        must name the segment before). Raises `ValueError` for an id that is no positive Int32 or is in use.
        """
        ident = self.allocate() if segment_id is None else self._claim(segment_id)
        held = not self.state.speaking and (will_be_spoken or any(s.held for s in self.state.segments))
        segment = Segment(ident, text, type, will_be_spoken, interruptible, held)
        out = self._make_room()
        if not held:
            out.append(_new(segment))
        if held or (will_be_spoken and text):
            self._keep((*self.state.segments, segment))
        return out

    def allocate(self) -> int:
        """The next free segment id; after 2**31-1 they start again."""
        used = {s.id for s in self.state.segments}
        ident = self.state.next_id
        while ident in used:
            ident = ident % MAX_ID + 1
        self.state = structs.replace(self.state, next_id=ident % MAX_ID + 1)
        return ident

    def spoken(
        self, segment_id: int, *, accumulated_chars: int | None = None, accumulated_text: str | None = None
    ) -> list[ServerMessage]:
        """So much of a segment has been spoken; without a number, all of it.

        Less than before changes nothing, more than there is counts as all. A segment that is unknown, closed or
        completed is ignored: reports may come late. A text counts by its length, be it the segment's own or not (D21).
        """
        segment = next((s for s in self.state.segments if s.id == segment_id), None)
        if segment is None or not segment.will_be_spoken:
            return []
        if accumulated_text is not None:
            accumulated_chars = len(accumulated_text)
        chars = len(segment.text) if accumulated_chars is None else min(accumulated_chars, len(segment.text))
        if chars <= segment.spoken_chars:
            return []
        after = structs.replace(segment, spoken_chars=chars)
        self._replace(segment, after)
        return [] if segment.held else list(_progress(segment, after))

    def lost(self, segment_id: int) -> list[ServerMessage]:
        """The rest of a segment's speech will never come: it is closed, or shown as not to be spoken.

        What was held behind it alone is shown, too. A segment that is unknown or ended is ignored.
        """
        segment = next((s for s in self.state.segments if s.id == segment_id), None)
        if segment is None or not segment.will_be_spoken:
            return []
        if not segment.held:
            self._keep(tuple(s for s in self.state.segments if s is not segment))
            return [_closed(segment)]
        silent = structs.replace(segment, will_be_spoken=False, spoken_chars=0)
        self._keep(tuple(silent if s is segment else s for s in self.state.segments))
        return self._release_silent()

    def bot_started_speaking(self) -> list[ServerMessage]:
        """bot-started-speaking, then what was held for it."""
        out: list[ServerMessage] = [BotStartedSpeaking()]
        self.state = structs.replace(self.state, speaking=True)
        return out + self._release()

    def bot_stopped_speaking(self) -> list[ServerMessage]:
        """bot-stopped-speaking. What is open stays open: the bot may only have paused."""
        self.state = structs.replace(self.state, speaking=False)
        return [BotStoppedSpeaking()]

    def interrupted(self) -> list[ServerMessage]:
        """bot-interrupted, and every open segment closed with what was really spoken.

        What was held and never shown is dropped. What may not be interrupted goes on, held or open.
        """
        kept = tuple(s for s in self.state.segments if not s.interruptible)
        cut = [s for s in self.state.segments if s.interruptible and not s.held]
        self._keep(kept)
        return [BotInterrupted(), *map(_closed, cut)]

    def finish(self) -> list[ServerMessage]:
        """The response or the session is over: show what was held, close what is open."""
        out = self._release()
        out += map(_closed, self.state.segments)
        self._keep(())
        return out

    # -- within --

    def _claim(self, segment_id: int) -> int:
        if not 1 <= segment_id <= MAX_ID or any(s.id == segment_id for s in self.state.segments):
            raise ValueError(f"segment id {segment_id} is no positive Int32, or in use")
        return segment_id

    def _release(self) -> list[ServerMessage]:
        """Show what is held, with the progress that waited for it."""
        out: list[ServerMessage] = []
        for segment in self.state.segments:
            if segment.held:
                out += _shown(segment)
        shown = (structs.replace(s, held=False) for s in self.state.segments)
        self._keep(tuple(s for s in shown if s.will_be_spoken and not s.complete))
        return out

    def _release_silent(self) -> list[ServerMessage]:
        """Show what is held, up to the first segment that really waits for speech."""
        out: list[ServerMessage] = []
        kept: list[Segment] = []
        waits = False
        for segment in self.state.segments:
            waits = waits or (segment.held and segment.will_be_spoken)
            if waits or not segment.held:
                kept.append(segment)
            else:
                out.append(_new(segment))
        self._keep(tuple(kept))
        return out

    def _make_room(self) -> list[ServerMessage]:
        """Close the oldest segment when there are too many, showing it first if it is held."""
        if len(self.state.segments) < LIMIT:
            return []
        oldest, *rest = self.state.segments
        self._keep(tuple(rest))
        out = _shown(oldest) if oldest.held else []
        return [*out, _closed(oldest)] if oldest.will_be_spoken and not oldest.complete else out

    def _replace(self, before: Segment, after: Segment) -> None:
        gone = after.complete and not after.held
        self._keep(tuple(after if s is before else s for s in self.state.segments if not (gone and s is before)))

    def _keep(self, segments: tuple[Segment, ...]) -> None:
        self.state = structs.replace(self.state, segments=segments)


def _shown(segment: Segment) -> list[ServerMessage]:
    """A held segment's `new`, and the progress that it has made meanwhile."""
    out: list[ServerMessage] = [_new(segment)]
    if segment.spoken_chars:
        out += _progress(structs.replace(segment, spoken_chars=0), segment)
    return out


def _new(segment: Segment) -> BotOutput:
    progress = SpokenProgress("", segment.text) if segment.will_be_spoken else UNSET
    return _output(segment, "new", progress, spoken=False)


def _progress(before: Segment, after: Segment) -> Iterator[BotOutput]:
    """The messages for progress from `before` to `after`.

    From nothing to all in one step is speech without word timing: one message for every version. Otherwise 1.x hears
    of each word that ended, 2.x of the whole.
    """
    text, chars = after.text, after.spoken_chars
    if before.spoken_chars == 0 and after.complete:
        yield _output(after, "completed", SpokenProgress(text, ""), spoken=True)
        return
    for word in _WORD.finditer(text):
        if before.spoken_chars < word.end() <= chars:
            yield _word(after, word.group())
    yield _output(after, "completed" if after.complete else "in-progress", SpokenProgress(text[:chars], text[chars:]))


def _closed(segment: Segment) -> BotOutput:
    """An end short of the text: nothing remains, and what accumulated is what was spoken."""
    return _output(segment, "completed", SpokenProgress(segment.text[: segment.spoken_chars], ""))


def _word(segment: Segment, word: str) -> BotOutput:
    """A spoken word, under the id of its segment: 1.x clients only (`server.shape`)."""
    return _output(structs.replace(segment, text=word, type="word"), "completed", SpokenProgress(word, ""), spoken=True)


def _output(
    segment: Segment, status: SpokenStatus, progress: SpokenProgress | UnsetType, spoken: bool | UnsetType = UNSET
) -> BotOutput:
    return BotOutput(
        data=BotOutputData(
            text=segment.text,
            output_type=segment.type,
            text_type=segment.type,
            aggregated_by=segment.type,
            segment_id=segment.id,
            will_be_spoken=segment.will_be_spoken,
            spoken_status=status,
            spoken=spoken,
            spoken_progress=progress,
        )
    )


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
        return self.finish() if _SENTENCE_END.search(self.pending[-_TAIL_CHARS:]) else None

    def finish(self) -> str | None:
        """The response is over: what is pending, if it says anything (deviation D19)."""
        rest, self.pending = self.pending, ""
        return rest if rest.strip() else None

    def drop(self) -> None:
        """The response was interrupted: what is pending belongs to nothing (deviation D19)."""
        self.pending = ""


_TAIL_CHARS: Final = 64
"""How far back a sentence end is looked for: a fixed amount of work per token, however long the sentence."""
