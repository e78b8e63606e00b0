"""A connection without a socket: both ends in one process, for tests, benchmarks and embedding.

Works on asyncio and trio. Neither side takes a turn of the event loop when it need not: a send into a queue with room
and a receive from one with items return at once, so a reader that must be fair to others yields by itself. Everything
here belongs to one event loop; nothing is safe to call from another thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import anyio
import msgspec

from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, Malformed, WireIn, WireOut
from rtvi_actors.transports.serializers import MAX_IN_BYTES

__all__ = ["ClientEnd", "MemoryTransport", "pair"]

T = TypeVar("T")

DEFAULT_CAPACITY = 1024
"""Messages that wait in one direction before its sender waits, as TCP's buffers would make it."""

_TOO_LARGE = Malformed(reason="frame exceeds the size limit")


class _Pipe(Generic[T]):
    """A bounded queue with an end. The event exists only while somebody waits."""

    __slots__ = ("_capacity", "_changed", "_items", "closed")

    def __init__(self, capacity: int) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._changed: anyio.Event | None = None
        self.closed = False

    async def put(self, item: T) -> None:
        """Waits while full. Raises `anyio.BrokenResourceError` once closed."""
        while len(self._items) >= self._capacity and not self.closed:
            await self._wait()
        if self.closed:
            raise anyio.BrokenResourceError
        self._items.append(item)
        self._notify()

    async def get(self) -> T:
        """Waits while empty. Raises `anyio.EndOfStream` when closed and empty: what was sent before the end arrives."""
        while not self._items:
            if self.closed:
                raise anyio.EndOfStream
            await self._wait()
        item = self._items.popleft()
        self._notify()
        return item

    def take_all(self) -> list[T]:
        taken = list(self._items)
        self._items.clear()
        self._notify()
        return taken

    def close(self) -> None:
        self.closed = True
        self._notify()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()


class MemoryTransport:
    """The server's end: a `streams.Transport`."""

    def __init__(
        self, inward: _Pipe[WireIn], outward: _Pipe[WireOut], playing_rate_hz: int | None, max_message_bytes: int
    ) -> None:
        self._inward = inward
        self._outward = outward
        self._playing_rate_hz = playing_rate_hz
        self._max_message_bytes = max_message_bytes
        self.close_reason: str | None = None
        """What the session said when it closed; `None` before, and when the client left first."""

    @property
    def playing_rate_hz(self) -> int | None:
        return self._playing_rate_hz

    @property
    def max_message_bytes(self) -> int:
        return self._max_message_bytes

    async def receive(self) -> WireIn:
        """The next message; raises `anyio.EndOfStream` after the last one."""
        return await self._inward.get()

    async def send(self, batch: Sequence[WireOut]) -> None:
        """Waits while the client's queue is full; raises `anyio.BrokenResourceError` when the client is gone."""
        put = self._outward.put
        for message in batch:
            await put(message)

    async def aclose(self, reason: str) -> None:
        """The client still receives what was sent before."""
        if not self._outward.closed:
            self.close_reason = reason
        self._outward.close()
        self._inward.close()


class ClientEnd:
    """The client's end: what an SDK on the other side of a socket would do."""

    def __init__(
        self, inward: _Pipe[WireIn], outward: _Pipe[WireOut], transport: MemoryTransport, max_in_bytes: int
    ) -> None:
        self._inward = inward
        self._outward = outward
        self._transport = transport
        self._max_in_bytes = max_in_bytes

    @property
    def close_reason(self) -> str | None:
        """The reason of the server's close; `None` while it has not closed."""
        return self._transport.close_reason

    async def send_text(self, message: bytes | Mapping[str, object]) -> None:
        """One RTVI message: JSON as it stands, or something to encode.

        Raises `anyio.BrokenResourceError` when the server has closed; so do the others.
        """
        data = message if isinstance(message, bytes) else msgspec.json.encode(message)
        await self._inward.put(ClientText(data) if len(data) <= self._max_in_bytes else _TOO_LARGE)

    async def send_audio(self, audio: bytes, sample_rate: int = 16_000, num_channels: int = 1) -> None:
        """Microphone audio as a binary frame brings it."""
        fits = len(audio) <= self._max_in_bytes
        await self._inward.put(ClientAudio(audio, sample_rate, num_channels) if fits else _TOO_LARGE)

    async def send_interruption(self) -> None:
        """A binary interruption frame."""
        await self._inward.put(ClientInterruption())

    async def send_malformed(self, reason: str = "binary frame is not a protobuf Frame") -> None:
        """A frame that a serializer could not read."""
        await self._inward.put(Malformed(reason))

    async def receive(self) -> WireOut:
        """The next server message; raises `anyio.EndOfStream` after the last one."""
        return await self._outward.get()

    def drain(self) -> list[WireOut]:
        """What has arrived and was not yet received, without waiting."""
        return self._outward.take_all()

    async def aclose(self) -> None:
        """Leave. The server still receives what was sent before; what it sends from now on fails."""
        self._outward.close()
        self._inward.close()


def pair(
    *,
    playing_rate_hz: int | None = None,
    max_message_bytes: int = MAX_IN_BYTES,
    max_in_bytes: int = MAX_IN_BYTES,
    capacity: int = DEFAULT_CAPACITY,
) -> tuple[MemoryTransport, ClientEnd]:
    """Connect a server to a client.

    `playing_rate_hz` and `max_message_bytes` are what the session reads from its transport. A message from the client
    above `max_in_bytes` arrives as `Malformed`. `capacity` bounds each direction in messages.
    """
    inward: _Pipe[WireIn] = _Pipe(capacity)
    outward: _Pipe[WireOut] = _Pipe(capacity)
    transport = MemoryTransport(inward, outward, playing_rate_hz, max_message_bytes)
    return transport, ClientEnd(inward, outward, transport, max_in_bytes)
