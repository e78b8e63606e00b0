"""A small RTVI client for Python: tests, scripts, the `chat` command. asyncio, over `websockets` (extra `server`).

::

    async with RtviClient.connect("ws://127.0.0.1:7860/ws") as client:
        await client.send_text("hello")
        async for event in client:
            print(event)

Unlike the JavaScript client it settles everything: `connect` ends with `TimeoutError` when no bot-ready comes, a
request with its deadline, and all open requests with `ConnectionLost` when the connection goes (PROTOCOL.md 7).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from rtvi_actors.errors import RtviError
from rtvi_actors.streams import ClientAudio, ClientText
from rtvi_actors.transports.serializers import (
    Dialect,
    decode_binary,
    pack_audio,
    pack_interruption,
    pack_message,
)

__all__ = ["FUNCTION_CALLS", "BotAudio", "ConnectionLost", "Event", "Received", "RequestFailed", "RtviClient"]

VERSION: Final = "2.2.0"
READY_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 10.0
"""client-js's own default."""
MAX_FRAME_BYTES: Final = 16 << 20
FUNCTION_CALLS: Final = ("llm-function-call-in-progress", "llm-function-call")
"""The events that ask the client to run a function, where they name one; the latter before protocol 1.2."""
CAPACITY: Final = 4096
"""Events that wait for a reader; beyond it the oldest is dropped and counted."""


class RequestFailed(RtviError):
    """The server answered a request with an error-response; `text` is what it said."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class ConnectionLost(RtviError):
    """The connection ended before the answer came."""


class Event(Struct, frozen=True):
    """One server message."""

    type: str
    data: Any = None
    id: str = ""


class BotAudio(Struct, frozen=True):
    """A piece of the bot's voice, PCM16 little-endian, interleaved; `sample_rate` in Hz."""

    audio: bytes
    sample_rate: int
    num_channels: int


Received: TypeAlias = Event | BotAudio


class _ServerMessage(Struct):
    label: str
    type: str
    id: str = ""
    data: Any = None


class _ClientMessage(Struct):
    type: str
    id: str
    label: str = "rtvi-ai"
    data: Any | UnsetType = UNSET


_decode = msgspec.json.Decoder(_ServerMessage).decode
_encode = msgspec.json.Encoder().encode


class RtviClient:
    """One connection, ready for use. Made by `connect`; iterate over it, once, for what the server sends."""

    def __init__(self, socket: ClientConnection, dialect: Dialect, capacity: int) -> None:
        self._socket = socket
        self._dialect: Dialect = dialect
        self._events: deque[Received] = deque(maxlen=capacity)
        self._arrived = asyncio.Event()
        self._ended = False
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self.dropped = 0
        """Events that nobody read in time, and frames that were no message."""

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        dialect: Dialect = "json",
        version: str = VERSION,
        audio: bool = True,
        ready_timeout_s: float = READY_TIMEOUT_S,
        capacity: int = CAPACITY,
    ) -> AsyncIterator[Self]:
        """Connect, send client-ready and wait for bot-ready.

        `url` is ``ws://host:port/ws``, or the server's ``http://host:port``. `audio` asks for bot audio in the JSON
        dialect; protobuf always brings it. Raises `TimeoutError`, `ConnectionLost`, or what `websockets` raises when
        the handshake is refused.
        """
        target = _socket_url(url, audio=audio and dialect == "json")
        async with open_websocket(target, max_size=MAX_FRAME_BYTES, proxy=None) as socket:
            client = cls(socket, dialect, capacity)
            reader = asyncio.create_task(client._read(), name="rtvi client reader")
            try:
                about = {"library": "rtvi-actors", "platform": "python"}
                await client.send("client-ready", {"version": version, "about": about})
                async with asyncio.timeout(ready_timeout_s):
                    await asyncio.shield(client._ready)
                yield client
            finally:
                reader.cancel()
                with suppress(asyncio.CancelledError):
                    await reader
                client._end()

    # -- what the server said --------------------------------------------------

    @property
    def bot_ready(self) -> Event:
        """The server's bot-ready."""
        return self._ready.result()

    @property
    def close_reason(self) -> tuple[int | None, str]:
        """The close code and reason once the connection has ended."""
        return self._socket.close_code, self._socket.close_reason or ""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        """The next event, bot-ready first; stops when the connection has ended and all were read."""
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    async def wait_for(self, message_type: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> Event:
        """The next event of this type; those before it are passed over. Raises `TimeoutError` or `ConnectionLost`."""
        async with asyncio.timeout(timeout_s):
            async for event in self:
                if isinstance(event, Event) and event.type == message_type:
                    return event
        raise ConnectionLost(f"the connection ended before {message_type}")

    # -- what we say -----------------------------------------------------------

    async def send(self, message_type: str, data: Any | UnsetType = UNSET, *, message_id: str = "") -> str:
        """Any RTVI message; returns its id. Raises `ConnectionLost`."""
        message = _ClientMessage(message_type, message_id or secrets.token_hex(4), data=data)
        await self.send_raw(_encode(message))
        return message.id

    async def send_raw(self, message: bytes) -> None:
        """JSON as it stands, well-formed or not."""
        await self._transmit(message.decode() if self._dialect == "json" else pack_message(message))

    async def send_text(self, content: str, *, run_immediately: bool = True, audio_response: bool = True) -> str:
        """What a user types."""
        options = {"run_immediately": run_immediately, "audio_response": audio_response}
        return await self.send("send-text", {"content": content, "options": options})

    async def send_file(
        self,
        content: str,
        file: Mapping[str, Any] | bytes,
        *,
        format: str = "application/octet-stream",  # noqa: A002  the wire's word
        name: str | None = None,
        run_immediately: bool = True,
        audio_response: bool = True,
    ) -> str:
        """A user's turn with a file: its bytes, or what an upload has answered, which says format and name itself."""
        if isinstance(file, bytes):
            source = {"type": "bytes", "bytes": base64.b64encode(file).decode()}
            file = {"format": format, "source": source} | ({} if name is None else {"name": name})
        options = {"run_immediately": run_immediately, "audio_response": audio_response}
        return await self.send("send-file", {"content": content, "file": file, "options": options})

    async def append_to_context(self, role: str, content: Any, *, run_immediately: bool = False) -> str:
        """A message for the bot's context: text, or parts."""
        data = {"role": role, "content": content, "run_immediately": run_immediately}
        return await self.send("append-to-context", data)

    async def send_dtmf(self, buttons: str) -> str:
        """Keys of a telephone's keypad, in order: ``0123456789*#``."""
        return await self.send("dtmf", {"buttons": list(buttons)})

    async def answer_function_call(self, call: Event, result: Mapping[str, Any] | str) -> str:
        """The result of a function that the bot has asked for (`FUNCTION_CALLS`)."""
        arguments = call.data.get("arguments", call.data.get("args", {}))
        data = {
            "function_name": call.data["function_name"],
            "tool_call_id": call.data["tool_call_id"],
            "arguments": arguments,
            "result": result,
        }
        return await self.send("llm-function-call-result", data)

    async def ui_event(self, event: str, payload: Any | UnsetType = UNSET) -> str:
        """Something happened in the page."""
        return await self.send("ui-event", {"event": event} | ({} if payload is UNSET else {"payload": payload}))

    async def ui_snapshot(self, tree: Mapping[str, Any]) -> str:
        """The page: ``{"root": {"ref", "role", …}, "captured_at": ms}``."""
        return await self.send("ui-snapshot", {"tree": tree})

    async def cancel_job_group(self, job_id: str, reason: str | None = None) -> str:
        """The user wants no more of it."""
        return await self.send("ui-cancel-job-group", {"job_id": job_id, "reason": reason})

    async def message(self, t: str, d: Any | UnsetType = UNSET) -> str:
        """A client-message that expects no answer."""
        return await self.send("client-message", _client_message(t, d))

    async def request(self, t: str, d: Any | UnsetType = UNSET, *, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
        """A client-message that does; returns the answer's ``d``.

        Raises `RequestFailed` on an error-response, `TimeoutError`, or `ConnectionLost`.
        """
        request_id = secrets.token_hex(4)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        try:
            await self.send("client-message", _client_message(t, d), message_id=request_id)
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._answers.pop(request_id, None)

    async def send_audio(self, pcm: bytes, sample_rate: int = 16_000, num_channels: int = 1) -> None:
        """Microphone audio, PCM16."""
        if self._dialect == "protobuf":
            await self._transmit(pack_audio(pcm, sample_rate, num_channels))
            return
        encoded = base64.b64encode(pcm).decode()
        await self.send("raw-audio", {"base64Audio": encoded, "sampleRate": sample_rate, "numChannels": num_channels})

    async def interrupt(self) -> None:
        """Stop the bot where it is: a binary frame in either dialect, since RTVI has no such message."""
        await self._transmit(pack_interruption())

    async def disconnect_bot(self) -> None:
        """Ask the bot to end."""
        await self.send("disconnect-bot", {})

    async def _transmit(self, frame: str | bytes) -> None:
        try:
            await self._socket.send(frame)
        except ConnectionClosed as error:
            raise ConnectionLost("the connection has ended") from error

    # -- the reader ------------------------------------------------------------

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                self._take(frame)
        except ConnectionClosed:
            pass  # an abrupt end; the code says how
        finally:
            self._end()

    def _take(self, frame: str | bytes) -> None:
        wire = ClientText(frame.encode()) if isinstance(frame, str) else decode_binary(frame, MAX_FRAME_BYTES)
        match wire:
            case ClientText(data=data):
                self._take_message(data)
            case ClientAudio(audio=audio, sample_rate=rate, num_channels=channels):
                self._keep(BotAudio(audio, rate, channels))
            case _:
                self.dropped += 1

    def _take_message(self, data: bytes) -> None:
        try:
            message = _decode(data)
        except msgspec.DecodeError:
            self.dropped += 1
            return
        event = Event(message.type, message.data, message.id)
        if event.type == "bot-ready" and not self._ready.done():
            self._ready.set_result(event)
        elif event.type == "bot-tts-audio":
            body = event.data
            self._keep(BotAudio(base64.b64decode(body["audio"]), body["sample_rate"], body["num_channels"]))
            return
        elif self._settle(event):
            return
        self._keep(event)

    def _settle(self, event: Event) -> bool:
        """Whether this was the answer to a request."""
        answer = self._answers.get(event.id)
        if answer is None or answer.done() or event.type not in {"server-response", "error-response"}:
            return False
        if event.type == "error-response":
            answer.set_exception(RequestFailed(event.data["error"]))
        else:
            answer.set_result(event.data.get("d"))
        return True

    def _keep(self, event: Received) -> None:
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(event)
        self._arrived.set()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()
        lost = ConnectionLost("the connection has ended")
        for waiting in (self._ready, *self._answers.values()):
            if not waiting.done():
                waiting.set_exception(lost)
                waiting.exception()  # seen: nobody may be waiting


def _client_message(t: str, d: Any | UnsetType) -> dict[str, Any]:
    return {"t": t} if d is UNSET else {"t": t, "d": d}


def _socket_url(url: str, *, audio: bool) -> str:
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = "/ws" if parts.path in {"", "/"} else parts.path
    query = parse_qsl(parts.query) + ([("audio", "1")] if audio else [])
    return urlunsplit((scheme, parts.netloc, path, urlencode(query), ""))
