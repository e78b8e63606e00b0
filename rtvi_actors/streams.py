"""A transport's contract: a receive half, a send half, and the wire messages that cross them.

A transport is one connection to one client. It knows framing and sizes, no RTVI semantics, and it has no actor: the
session's reader task calls `receive`, its writer task calls `send`, nobody else calls either.

What arrives is one of four frozen Structs. They are ingress's mailbox messages as they stand, so nothing is copied
between the socket and the first actor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

__all__ = [
    "ClientAudio",
    "ClientInterruption",
    "ClientText",
    "Malformed",
    "ReceiveStream",
    "SendStream",
    "ServerAudio",
    "ServerText",
    "Transport",
    "WireIn",
    "WireOut",
    "size_bytes",
]


class ClientText(Struct, frozen=True, tag=True):
    """One RTVI JSON message, UTF-8, unread. Its size is already within the transport's limit."""

    data: bytes


class ClientAudio(Struct, frozen=True, tag=True):
    """Microphone audio that came in a binary frame: PCM16 little-endian, interleaved."""

    audio: bytes
    sample_rate: int
    """Hz, as the frame declares it: unchecked."""
    num_channels: int
    """As the frame declares it: unchecked."""


class ClientInterruption(Struct, frozen=True, tag=True):
    """A binary interruption frame (Frame.interruption; PROTOCOL.md 4.1)."""


class Malformed(Struct, frozen=True, tag=True):
    """A frame that is no wire message. It costs itself, not the call; `reason` is ours, never the client's bytes."""

    reason: str


WireIn: TypeAlias = ClientText | ClientAudio | ClientInterruption | Malformed


def size_bytes(wire: WireIn) -> int:
    """How much a wire message weighs against the reader's credit."""
    return len(wire.data) if isinstance(wire, ClientText) else len(wire.audio) if isinstance(wire, ClientAudio) else 0


class ServerText(Struct, frozen=True):
    """One RTVI JSON message, UTF-8, ready to be framed."""

    data: bytes


class ServerAudio(Struct, frozen=True):
    """Bot audio, PCM16 little-endian, already at the client's playing rate."""

    audio: bytes
    sample_rate: int
    num_channels: int


WireOut: TypeAlias = ServerText | ServerAudio


class ReceiveStream(Protocol):
    """The receive half."""

    async def receive(self) -> WireIn:
        """Wait for the next wire message.

        Raises `anyio.EndOfStream` when the client is gone, however it went. Nothing that a client sends raises
        anything else: an unreadable frame is a `Malformed`.
        """
        ...


class SendStream(Protocol):
    """The send half."""

    async def send(self, batch: Sequence[WireOut]) -> None:
        """Send wire messages in order. Waits while the client reads slowly.

        Raises `anyio.BrokenResourceError` when the client is gone.
        """
        ...

    async def aclose(self, reason: str) -> None:
        """Close the connection, in good order where the transport has one. Idempotent; never raises."""
        ...


class Transport(ReceiveStream, SendStream, Protocol):
    """Both halves, and what the session must know of the client's side."""

    @property
    def playing_rate_hz(self) -> int | None:
        """The one rate at which the client plays bot audio, or `None` where it follows each frame's own."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The largest JSON message that the client accepts, in bytes."""
        ...
