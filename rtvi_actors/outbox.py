"""What lies between outbound and the writer task: encoded messages in order, bounded in bytes.

The session owns it, so a restart of outbound loses nothing that was emitted, nor what is held until the client's
version is known. Loop thread only.

What a slow client costs, in this order: beyond `BEHIND_BYTES` a message of a type that may be coalesced gives way to a
newer one; beyond half the budget the reader stops, so that TCP slows the client, until a quarter is left; beyond the
budget the session closes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypeAlias

from rtvi_actors.streams import ServerAudio, WireOut

__all__ = ["BEHIND_BYTES", "HOLD_BYTES", "HOLD_LIMIT", "SLICE_BYTES", "Key", "Outbox"]

SLICE_BYTES: Final = 16 * 1024
"""What the writer takes at a time: 0.3 s of speech at 24 kHz, which an interruption then cannot void."""
BEHIND_BYTES: Final = 64 * 1024
"""A client that has left more unread (or an eighth of a smaller budget) is behind: four slices of the writer's."""
HOLD_LIMIT: Final = 256
"""Messages that may wait for the client's version; the oldest give way."""
HOLD_BYTES: Final = 4 * 1024 * 1024
"""As much as they may weigh. One that weighs more is not held."""

Key: TypeAlias = tuple[str, str]
"""Message type, and what tells its streams apart: a newer message makes an older one of the same key void."""


class Outbox:
    """`max_bytes` is the budget of a slow client: beyond it the session closes."""

    def __init__(self, max_bytes: int = 8 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.sent = 0
        """Wire messages that the writer has taken."""
        self.coalesced: dict[str, int] = {}
        """Messages that a newer one made void while the client was behind, by type."""
        self.held: deque[bytes] = deque()
        """Messages in outbound's own encoding that wait for the client's version."""
        self.held_bytes = 0
        self.hold_dropped = 0
        self.closing: str | None = None
        """The reason for which the session is to end."""
        self.finished = False
        self.overrun = False
        self.is_high = False
        """Half the budget was reached, and a quarter has not been since: nothing more should be asked of the bot."""
        self._queue: OrderedDict[int, tuple[WireOut, Key | None]] = OrderedDict()
        """By the order of `put`: ordered, and one in the middle goes in constant time and leaves no gap."""
        self._last = 0
        self._newest: dict[Key, int] = {}
        """The newest message of each key that waits."""
        self._behind_bytes = min(BEHIND_BYTES, max_bytes // 8)
        self._taken_bytes = 0
        self.on_close: Callable[[], None] | None = None
        """Called once, at the first `close`."""
        self.on_low: Callable[[], None] | None = None
        """Set by whoever waits for `is_high` to end; called once."""
        self.wake: Callable[[], None] | None = None
        """Set by the writer while it waits."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_shut(self) -> bool:
        """Whether nothing that is put now leaves any more."""
        return self.finished or self.overrun

    def put(self, message: WireOut, key: Key | None = None) -> None:
        """Queue a message. Beyond the budget nothing more is taken, and the session closes.

        While the client is behind, one with a key takes the place of the one with the same key that waits: it stands
        where it was put, so that what the client gets is still in the order emitted.
        """
        if self.is_shut:
            return
        if key is not None and self.size_bytes > self._behind_bytes:
            self._void(key)
        size = self.size_bytes + _size(message)
        if size > self.max_bytes:
            self.too_slow()
            return
        self.size_bytes = size
        if size * 2 >= self.max_bytes:
            self.is_high = True
        self._last += 1
        self._queue[self._last] = message, key
        if key is not None:
            self._newest[key] = self._last
        self._wake()

    def put_newer(self, entry: tuple[Key, WireOut]) -> None:
        """`put` with a key, in one argument (`AnyioActor.later`)."""
        self.put(entry[1], entry[0])

    def _void(self, key: Key) -> None:
        number = self._newest.pop(key, None)
        if number is not None:
            self.size_bytes -= _size(self._queue.pop(number)[0])
            self.coalesced[key[0]] = self.coalesced.get(key[0], 0) + 1

    def take(self) -> list[WireOut]:
        """The next messages to send, `SLICE_BYTES` at most unless one is larger: what is taken cannot be voided any
        more.

        They count against the budget until the next call says that they have been sent.
        """
        queue = self._queue
        batch: list[WireOut] = []
        size = 0
        while queue:
            number, (message, key) = queue.popitem(last=False)
            size += _size(message)
            if batch and size > SLICE_BYTES:
                size -= _size(message)
                queue[number] = message, key
                queue.move_to_end(number, last=False)
                break
            batch.append(message)
            if key is not None and self._newest.get(key) == number:
                del self._newest[key]
        self.sent += len(batch)
        self._shrink(self.size_bytes - self._taken_bytes)
        self._taken_bytes = size
        return batch

    def drop_audio(self) -> int:
        """Audio that has not left is void (barge-in); returns how many messages that were."""
        entries = self._queue.items()
        kept = OrderedDict((number, entry) for number, entry in entries if not isinstance(entry[0], ServerAudio))
        dropped = len(self._queue) - len(kept)
        self._queue = kept
        self._shrink(self._taken_bytes + sum(_size(message) for message, _ in kept.values()))
        return dropped

    def _shrink(self, size_bytes: int) -> None:
        """Down to `size_bytes`; at a quarter of the budget whoever waits goes on."""
        self.size_bytes = size_bytes
        if self.is_high and size_bytes * 4 <= self.max_bytes:
            self.is_high = False
            if self.on_low is not None:
                wake, self.on_low = self.on_low, None
                wake()

    def hold(self, body: bytes) -> None:
        """Keep a message until the client's version is known. The oldest give way, counted."""
        if len(body) > HOLD_BYTES:
            self.hold_dropped += 1
            return
        while len(self.held) >= HOLD_LIMIT or self.held_bytes + len(body) > HOLD_BYTES:
            self.held_bytes -= len(self.held.popleft())
            self.hold_dropped += 1
        self.held.append(body)
        self.held_bytes += len(body)

    def clear_held(self) -> None:
        """What was held has been emitted."""
        self.held.clear()
        self.held_bytes = 0

    def close(self, reason: str) -> None:
        """The session is to end. The first reason counts; the queue still leaves."""
        if self.closing is None:
            self.closing = reason
            if self.on_close is not None:
                self.on_close()

    def too_slow(self) -> None:
        """The client takes too little: the session is to end, and the queue does not leave."""
        self.overrun = True
        self.close("client too slow")

    def finish(self) -> None:
        """Take nothing more: the writer ends when the queue has left."""
        self.finished = True
        self._wake()

    def abandon(self) -> None:
        """The writer has ended: what is left, and what comes, goes nowhere."""
        self.finished = True
        self._queue.clear()
        self._newest.clear()
        self._taken_bytes = 0
        self._shrink(0)

    def _wake(self) -> None:
        if self.wake is not None:
            wake, self.wake = self.wake, None
            wake()


def _size(message: WireOut) -> int:
    return len(message.audio) if isinstance(message, ServerAudio) else len(message.data)
