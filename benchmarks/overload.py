"""Who overloads whom: the bots and the clients of the soak.

Ten times overload is ten times what real time has, of audio, or ten times what the handlers can do, of requests.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import anyio
import websockets

import rtvi_actors as rtvi
from benchmarks.load import AUDIO_BYTES, message
from rtvi_actors.streams import WireIn
from rtvi_actors.transports import memory

__all__ = [
    "SCENARIOS",
    "Busy",
    "Client",
    "Flood",
    "Gate",
    "MemoryClient",
    "Quick",
    "Scenario",
    "SocketClient",
    "Stuck",
    "StuckButHearing",
    "Talkative",
    "Tally",
]

TICK_S: Final = 0.02
"""How often a client sends: a frame of audio is so long."""
OVERLOAD: Final = 10
WIDE: Final = 16 * 1024
"""Bytes of a message that a client does not read."""
HANDLER_S: Final = 0.8
"""What a slow request takes: with 32 at once that makes 40 a second for a session."""

PCM: Final = bytes(i * 7 % 251 for i in range(AUDIO_BYTES))
AUDIO: Final = message(
    "raw-audio",
    "audio",
    {"base64Audio": base64.b64encode(PCM).decode("ascii"), "sampleRate": 16_000, "numChannels": 1},
)
REQUEST: Final = message("client-message", "request", {"t": "work", "d": None})
TEXT: Final = message("send-text", "text", {"content": "hello"})


# -- the bots --------------------------------------------------------------------------


class Quick(rtvi.Bot):
    """Answers as fast as it can, and hears in real time, no faster."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = ""

    @rtvi.request("work")
    async def work(self) -> dict[str, int]:
        """One request."""
        await anyio.lowlevel.checkpoint()
        return {"celsius": 21}

    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        """A speech recogniser that takes as long as the audio lasts."""
        await anyio.sleep(TICK_S)

    async def on_disconnect(self, reason: str) -> None:
        """Why the session ended."""
        self.reason = reason


class Busy(Quick):
    """Its requests take long."""

    @rtvi.request("work")
    async def work(self) -> dict[str, int]:
        """One request."""
        await anyio.sleep(HANDLER_S)
        return {"celsius": 21}


class Talkative(Quick):
    """Says far more than a client that does not read takes."""

    async def on_client_ready(self, client: rtvi.ClientReady) -> None:
        """Until the session ends."""
        text = "x" * WIDE
        while True:
            for _ in range(OVERLOAD):
                self.send_server_message(text)
            await anyio.sleep(TICK_S)


class Stuck(Quick):
    """No asynchronous handler of it ever returns."""

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        """A turn."""
        await anyio.sleep_forever()

    @rtvi.request("work")
    async def work(self) -> dict[str, int]:
        """A request."""
        await anyio.sleep_forever()
        return {}

    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        """Audio."""
        await anyio.sleep_forever()


class StuckButHearing(Stuck):
    """Hears on the fast path, while its turns and requests never return."""

    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:  # type: ignore[override]
        """Audio, at once."""


# -- the clients -----------------------------------------------------------------------


class Client(Protocol):
    """The client's end of a connection, as far as the load needs it."""

    async def text(self, data: bytes) -> None:
        """Send a JSON message. Waits while the server does not read; raises `anyio.BrokenResourceError` at the end."""
        ...

    async def audio(self) -> None:
        """Send a frame of audio. Otherwise as `text`."""
        ...

    async def read(self) -> None:
        """Read and count; raises `anyio.EndOfStream` at the end."""
        ...


Load: TypeAlias = Callable[[Client], Awaitable[None]]


@dataclass(frozen=True)
class Flood:
    """What a client sends in a tick, on and on. A server that does not read holds it up, as TCP would."""

    audio: int = 0
    requests: int = 0
    texts: int = 0

    async def __call__(self, client: Client) -> None:
        next_s = time.monotonic()
        while True:
            for _ in range(self.audio):
                await client.audio()
            for _ in range(self.requests):
                await client.text(REQUEST)
            for _ in range(self.texts):
                await client.text(TEXT)
            next_s = max(next_s + TICK_S, time.monotonic() - 1.0)  # behind by a second: the rest is not caught up
            await anyio.sleep(max(0.0, next_s - time.monotonic()))


@dataclass
class Tally:
    """What the clients of a scenario have seen, all sessions together."""

    offered: int = 0
    """Messages that the transport has taken from clients."""
    answers: int = 0
    refusals: int = 0
    """error and error-response."""

    def heard(self, data: bytes) -> None:
        """A client has read a message."""
        if b'"type":"server-response"' in data:
            self.answers += 1
        elif b'"type":"error' in data:
            self.refusals += 1


class MemoryClient:
    """Over the memory transport."""

    def __init__(self, end: memory.ClientEnd, tally: Tally, binary: bool) -> None:
        self._end = end
        self._tally = tally
        self._binary = binary

    async def text(self, data: bytes) -> None:
        """As `Client`."""
        await self._end.send_text(data)
        self._tally.offered += 1

    async def audio(self) -> None:
        """As `Client`; in a binary frame or as JSON."""
        if self._binary:
            await self._end.send_audio(PCM)
            self._tally.offered += 1
        else:
            await self.text(AUDIO)

    async def read(self) -> None:
        """As `Client`."""
        while True:
            self._tally.heard(getattr(await self._end.receive(), "data", b""))


class SocketClient:
    """Over a WebSocket, in JSON."""

    def __init__(self, connection: websockets.ClientConnection, tally: Tally) -> None:
        self._connection = connection
        self._tally = tally

    async def text(self, data: bytes) -> None:
        """As `Client`."""
        try:
            await self._connection.send(data, text=True)
        except websockets.ConnectionClosed as error:
            raise anyio.BrokenResourceError from error
        self._tally.offered += 1

    async def audio(self) -> None:
        """As `Client`."""
        await self.text(AUDIO)

    async def read(self) -> None:
        """As `Client`."""
        try:
            while True:
                self._tally.heard(await self._connection.recv(decode=False))
        except websockets.ConnectionClosed as error:
            raise anyio.EndOfStream from error


class Gate:
    """The server's end of a memory transport, which counts what it hands over."""

    def __init__(self, inner: memory.MemoryTransport) -> None:
        self._inner = inner
        self.playing_rate_hz = inner.playing_rate_hz
        self.max_message_bytes = inner.max_message_bytes
        self.send = inner.send
        self.aclose = inner.aclose
        self.handed_over = 0

    async def receive(self) -> WireIn:
        """As the transport's own."""
        wire = await self._inner.receive()
        self.handed_over += 1
        return wire


# -- a scenario ------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """Who overloads whom."""

    what: str
    bot: Callable[[], Quick]
    load: Load
    sessions: int
    reads: bool = True
    """Whether its clients read."""
    socket: bool = False
    """Over a real WebSocket on loopback, server and clients in this process."""


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "slow-client": Scenario(
        "clients that never read, of a bot that says 8 MB a second", Talkative, Flood(requests=1), 8, reads=False
    ),
    "stuck-bot": Scenario(
        "no async handler returns; audio at 10x real time, 100 requests and 50 texts a second",
        Stuck,
        Flood(audio=OVERLOAD, requests=2, texts=1),
        8,
    ),
    "stuck-bot-sync-audio": Scenario(
        "the same, but for a plain on_audio", StuckButHearing, Flood(audio=OVERLOAD, requests=2, texts=1), 8
    ),
    "audio-flood": Scenario("audio at 10x real time, for a bot that hears in real time", Quick, Flood(OVERLOAD), 16),
    "request-flood": Scenario("400 requests a second, for a bot that does 40", Busy, Flood(requests=8), 12),
    "websocket": Scenario(
        "a real WebSocket: audio at 10x real time, 100 requests a second",
        Quick,
        Flood(audio=OVERLOAD, requests=2),
        4,
        socket=True,
    ),
}
