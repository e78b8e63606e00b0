"""What lies between outbound and the writer task: encoded messages in order, bounded in bytes.

The session owns it, so a restart of outbound loses nothing that was emitted, nor what is held until the client's
version is known. Loop thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from rtvi_actors.streams import ServerAudio, WireOut

__all__ = ["SLICE_BYTES", "Outbox"]

SLICE_BYTES: Final = 16 * 1024
"""What the writer takes at a time: 0.3 s of speech at 24 kHz, which an interruption then cannot void."""


class Outbox:
    """`max_bytes` is the budget of a slow client: beyond it the session closes."""

    def __init__(self, max_bytes: int = 8 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.sent = 0
        """Wire messages that the writer has taken."""
        self.held: deque[bytes] = deque()
        """Messages in outbound's own encoding that wait for the client's version."""
        self.hold_dropped = 0
        self.closing: str | None = None
        """The reason for which the session is to end."""
        self.finished = False
        self.abandoned = False
        self.overrun = False
        self._queue: deque[WireOut] = deque()
        self._taken_bytes = 0
        self.on_close: Callable[[], None] | None = None
        """Called once, at the first `close`."""
        self.wake: Callable[[], None] | None = None
        """Set by the writer while it waits."""

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, message: WireOut) -> None:
        """Queue a message. Beyond the budget nothing more is taken, and the session closes."""
        size = _size(message)
        if self.abandoned:
            return
        if self.size_bytes + size > self.max_bytes:
            self.overrun = True
            self.close("client too slow")
            return
        self.size_bytes += size
        self._queue.append(message)
        self._wake()

    def take(self) -> list[WireOut]:
        """The next messages to send, `SLICE_BYTES` at most unless one is larger: what is taken cannot be voided any
        more.

        They count against the budget until the next call says that they have been sent.
        """
        self.size_bytes -= self._taken_bytes
        batch: list[WireOut] = []
        size = 0
        while self._queue and (not batch or size + _size(self._queue[0]) <= SLICE_BYTES):
            message = self._queue.popleft()
            size += _size(message)
            batch.append(message)
        self._taken_bytes = size
        self.sent += len(batch)
        return batch

    def drop_audio(self) -> int:
        """Audio that has not left is void (barge-in); returns how many messages that were."""
        kept = [message for message in self._queue if not isinstance(message, ServerAudio)]
        dropped = len(self._queue) - len(kept)
        self._queue = deque(kept)
        self.size_bytes = self._taken_bytes + sum(map(_size, kept))
        return dropped

    def close(self, reason: str) -> None:
        """The session is to end. The first reason counts; the queue still leaves."""
        if self.closing is None:
            self.closing = reason
            if self.on_close is not None:
                self.on_close()
        self._wake()

    def finish(self) -> None:
        """Nothing more will be put: the writer ends when the queue has left."""
        self.finished = True
        self._wake()

    def abandon(self) -> None:
        """The writer has ended: what is left, and what comes, goes nowhere."""
        self.finished = self.abandoned = True
        self._queue.clear()
        self.size_bytes = self._taken_bytes = 0

    def _wake(self) -> None:
        if self.wake is not None:
            wake, self.wake = self.wake, None
            wake()


def _size(message: WireOut) -> int:
    return len(message.audio) if isinstance(message, ServerAudio) else len(message.data)
