"""A WebSocket under any ASGI server, spoken to by the three ASGI callables themselves.

The client chooses the dialect: its first message is text or binary, and answers go out the same way (PROTOCOL.md 4.1).
Later messages are read by their own kind, whatever the first one was. A server that has something to say before the
client's first message waits for it; sessions hold output until client-ready anyway (DESIGN.md 4).

No WebSocket subprotocol is ever picked: the real clients offer none, and a picked one breaks their connection
(PROTOCOL.md 7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import anyio

from rtvi_actors.streams import Malformed, ServerText, WireIn, WireOut
from rtvi_actors.transports.serializers import (
    MAX_IN_BYTES,
    NO_PROTOBUF,
    Dialect,
    decode_binary,
    decode_text,
    encode_binary,
    encode_text,
    has_protobuf,
)

__all__ = ["PLAYING_RATE_HZ", "Receive", "Scope", "Send", "WebSocketTransport"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PLAYING_RATE_HZ: Final = 24_000
"""websocket-transport 1.7.1 plays 24 kHz mono, whatever rate a frame declares (PROTOCOL.md 4.1, 7)."""

CLOSE_CODE: Final = 1000
CLOSE_REASON_BYTES: Final = 123
"""RFC 6455, 5.5: a control frame holds 125 bytes, two of them the code."""
CLOSE_WAIT_S: Final = 2.0
"""How long a close may wait for a client that does not read."""


class WebSocketTransport:
    """One accepted WebSocket: a `streams.Transport`.

    Either call `accept` once, or accept the connection yourself and hand over the rest of it, as with Starlette's or
    FastAPI's `websocket.scope, websocket.receive, websocket.send`.

    A JSON client that asks for it in the URL (``?audio=1``) gets bot audio, as `bot-tts-audio` messages at the bot's
    own rate; one that does not ask gets none. A protobuf client always gets it, at `playing_rate_hz`.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        playing_rate_hz: int | None = PLAYING_RATE_HZ,
        max_in_bytes: int = MAX_IN_BYTES,
        max_message_bytes: int = MAX_IN_BYTES,
    ) -> None:
        self._receive = receive
        self._send = send
        self._json_audio = _asks_for_audio(scope)
        self._playing_rate_hz = None if self._json_audio else playing_rate_hz
        self._max_in_bytes = max_in_bytes
        self._max_message_bytes = max_message_bytes
        self._dialect: Dialect | None = None
        self._settled = anyio.Event()  # set by the first message, or by the end before one
        self._ended = False

    @property
    def dialect(self) -> Dialect | None:
        """`None` until the client's first message."""
        return self._dialect

    @property
    def playing_rate_hz(self) -> int | None:
        return self._playing_rate_hz

    @property
    def max_message_bytes(self) -> int:
        return self._max_message_bytes

    async def accept(self) -> None:
        """Answer the WebSocket handshake. Raises `anyio.EndOfStream` when the client left before."""
        event = await self._receive()
        if event["type"] != "websocket.connect":
            self._end()
            raise anyio.EndOfStream
        await self._transmit({"type": "websocket.accept"})

    async def receive(self) -> WireIn:
        """The next message; raises `anyio.EndOfStream` when the connection is over, whoever ended it."""
        if self._ended:
            raise anyio.EndOfStream
        try:
            event = await self._receive()
        except Exception as error:  # servers differ in what a receive after the end raises
            self._end()
            raise anyio.EndOfStream from error
        if event["type"] == "websocket.disconnect":
            self._end()
            raise anyio.EndOfStream
        text = event.get("text")
        if text is not None:
            self._settle("json")
            return decode_text(text, self._max_in_bytes)
        return self._read_binary(event.get("bytes") or b"")

    def _read_binary(self, frame: bytes) -> WireIn:
        """Where protobuf is missing, the refusal must reach the client, so it is answered in JSON."""
        if not has_protobuf():
            self._settle("json")
            return Malformed(reason=NO_PROTOBUF)
        self._settle("protobuf")
        return decode_binary(frame, self._max_in_bytes)

    async def send(self, batch: Sequence[WireOut]) -> None:
        """Waits for the client's first message, then while it reads slowly.

        Raises `anyio.BrokenResourceError` when the connection is over.
        """
        if self._dialect is None:
            await self._settled.wait()
        for message in batch:
            if self._ended:
                raise anyio.BrokenResourceError
            if self._dialect == "protobuf":
                await self._transmit({"type": "websocket.send", "bytes": encode_binary(message)})
            elif self._json_audio or isinstance(message, ServerText):
                await self._transmit({"type": "websocket.send", "text": encode_text(message)})

    async def aclose(self, reason: str, code: int = CLOSE_CODE) -> None:
        """Close with `code` and as much of `reason` as a close frame holds. Idempotent; never raises."""
        if self._ended:
            return
        self._end()
        shown = reason.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
        with anyio.move_on_after(CLOSE_WAIT_S, shield=True):
            with suppress(Exception):  # the client is gone already, which is what a close is for
                await self._send({"type": "websocket.close", "code": code, "reason": shown})

    async def _transmit(self, event: MutableMapping[str, Any]) -> None:
        try:
            await self._send(event)
        except Exception as error:  # OSError, or what a framework in between makes of it
            self._end()
            raise anyio.BrokenResourceError from error

    def _settle(self, dialect: Dialect) -> None:
        if self._dialect is None:
            self._dialect = dialect
            self._settled.set()

    def _end(self) -> None:
        self._ended = True
        self._settled.set()


def _asks_for_audio(scope: Scope) -> bool:
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query.decode("latin-1")).get("audio", ["0"])[-1] in {"1", "true"}
