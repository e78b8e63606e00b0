"""10,000 random inputs at the WebSocket: whatever a client sends, nothing crashes and the session answers on.

Near-valid messages from hypothesis, a byte fuzzer over valid ones, and nesting beyond every stack; in both dialects,
most of them through the ASGI application itself, some hundreds through a real socket.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect

import rtvi_actors as rtvi
from rtvi_actors.protocol.client import CLIENT
from rtvi_actors.server import ServerOptions, asgi
from rtvi_actors.transports.frames_pb2 import Frame
from rtvi_actors.transports.serializers import pack_audio, pack_interruption, pack_message
from tests.serving import serving
from tests.session_kit import message

pytestmark = pytest.mark.anyio

BYTE_INPUTS: Final = 4_000
"""Of the byte fuzzer, in each dialect and on each event loop; hypothesis adds its own to more than 10,000."""
SOCKET_INPUTS: Final = 300
SEED: Final = 20_250

Input: TypeAlias = str | bytes
"""A text or a binary WebSocket message."""


class Listener(rtvi.Bot):
    """Has a handler for everything, and none that fails by itself."""

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            await out.text(turn.messages[0].content)

    async def on_client_message(self, message: rtvi.ClientMessage) -> None:
        if message.type.startswith("e"):
            self.send_server_response(message, message.payload)

    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        assert len(frame.audio) % (2 * frame.num_channels) == 0

    @rtvi.request("number")
    def number(self, number: int) -> int:
        return number

    @rtvi.request("texts")
    async def texts(self, texts: list[str]) -> int:
        return len(texts)

    @rtvi.message("note")
    async def note(self, value: dict[str, Any]) -> None: ...

    @rtvi.request("ping")
    def ping(self) -> str:
        return "pong"


# -- inputs ----------------------------------------------------------------------------

# disconnect-bot is what ends a session, so it is the one type that is not among them.
TYPES: Final = (*sorted(set(CLIENT) - {"disconnect-bot"}), "interruption", "dtmf", "", "bot-ready", "no-such-type")
KINDS: Final = ("number", "texts", "note", "echo", "other", "")

VALID: Final[tuple[dict[str, Any], ...]] = (
    message("client-ready", "1", {"version": "2.2.0", "about": {"library": "x", "platform_details": {"a": [1]}}}),
    message("client-message", "2", {"t": "number", "d": 1}),
    message("client-message", "3", {"t": "texts", "d": ["a", "b"]}),
    message("client-message", "4", {"t": "note", "d": {"a": {"b": None}}}),
    message("client-message", "5", {"t": "echo", "d": [1.5, "\u20ac", {"x": True}]}),
    message("send-text", "6", {"content": "Hello.", "options": {"run_immediately": True, "audio_response": False}}),
    message("raw-audio", "7", {"base64Audio": "AAAAAA==", "sampleRate": 16000, "numChannels": 1}),
    message("raw-audio-batch", "8", {"base64AudioBatch": ["AAA=", "AAA="], "sampleRate": 8000, "numChannels": 1}),
    message(
        "llm-function-call-result", "9", {"function_name": "f", "tool_call_id": "t", "arguments": {}, "result": "r"}
    ),
    message("dtmf", "10", {"button": "1"}),
)


def _nested(rng: random.Random) -> bytes:
    """Deep nesting somewhere in a message, closed or not."""
    depth = rng.choice((64, 900, 921, 1_000, 5_000, 100_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = opening * depth + b"1" + (closing * depth if rng.random() < 0.7 else b"")
    kind, field = rng.choice((("client-message", b"d"), ("client-ready", b"about"), ("send-text", b"content")))
    whole = json.dumps(message(kind, "n", {"t": "echo", "X": 0})).encode()
    return whole.replace(b'"X": 0', b'"%b":%b' % (field, deep))


def _mutated(rng: random.Random, data: bytes) -> bytes:
    """A few random edits: what breaks framing, numbers, texts and UTF-8."""
    edited = bytearray(data)
    for _ in range(rng.randint(0, 4)):
        at = rng.randint(0, len(edited))
        end = min(len(edited), at + rng.randint(1, 12))
        match rng.randint(0, 5):
            case 0:
                del edited[at:end]
            case 1:
                edited[at:end] = rng.randbytes(rng.randint(1, 6))
            case 2:
                edited[at:at] = edited[at:end]
            case 3:
                edited[at:end] = rng.choice(
                    (b"null", b"-1", b"1e999", b'"', b"\\ud800", b"{}", b"[", b"\xff", b"9" * 40)
                )
            case 4:
                del edited[at:]
            case _:
                edited[at:at] = json.dumps(rng.choice((None, True, -0.0, 2**64, "\x00\ud83d", [], {}))).encode()
    return bytes(edited)


def _revalued(rng: random.Random, whole: dict[str, Any]) -> bytes:
    """Sound JSON with a wrong value in the payload, or with none."""
    data = dict(whole["data"])
    for name in rng.sample(sorted(data), k=rng.randint(0, len(data))):
        data[name] = rng.choice((None, True, 0, -1, 2**63, 1.5, "", "x", "AAA=", "AAA", [], ["AA=="], {}, {"a": [1]}))
    return json.dumps({**whole, "data": data}).encode()


def _message(rng: random.Random) -> bytes:
    if rng.random() < 0.02:
        return _nested(rng)
    if rng.random() < 0.5:
        return _revalued(rng, rng.choice(VALID))
    chosen = dict(rng.choice(VALID))
    if rng.random() < 0.2:
        chosen["type"] = rng.choice(TYPES)
    if rng.random() < 0.2:
        chosen.pop(rng.choice(("label", "type", "id", "data")), None)
    return _mutated(rng, json.dumps(chosen).encode())


def json_input(rng: random.Random) -> Input:
    """Mostly text; a lone surrogate where the bytes are no UTF-8, as a lenient ASGI server would give."""
    if rng.random() < 0.1:
        return binary_input(rng)
    return _message(rng).decode(errors="surrogateescape")


def binary_input(rng: random.Random) -> Input:
    """Frames of every kind, whole and broken."""
    match rng.randint(0, 9):
        case 0:
            frame = pack_audio(rng.randbytes(rng.randint(0, 64)), rng.choice((0, 16_000, 2**32 - 1)), rng.randint(0, 9))
        case 1:
            frame = pack_interruption()
        case 2:
            frame = rng.randbytes(rng.randint(0, 64))
        case 3:
            frame = Frame(text={"text": "x"}).SerializeToString()
        case _:
            return pack_message(_message(rng).decode(errors="replace").encode())
    return _mutated(rng, frame)


GENERATORS: Final[dict[str, Callable[[random.Random], Input]]] = {"json": json_input, "protobuf": binary_input}

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    (
        "version", "about", "t", "d", "content", "options", "run_immediately", "audio_response", "base64Audio",
        "base64AudioBatch", "sampleRate", "numChannels", "function_name", "tool_call_id", "arguments", "result",
    )
)  # fmt: skip
NEAR_VALID = st.fixed_dictionaries(
    {"label": st.sampled_from(("rtvi-ai", "rtvi-ai", "rtvi-ai", "other")), "type": st.sampled_from(TYPES)},
    optional={
        "id": st.text(max_size=6) | SCALARS,
        "data": st.dictionaries(FIELDS, VALUES | st.sampled_from(KINDS), max_size=4) | VALUES,
    },
).map(json.dumps)
INPUTS = st.one_of(NEAR_VALID, NEAR_VALID.map(lambda text: pack_message(text.encode())), st.binary(max_size=40))


# -- the client ------------------------------------------------------------------------


class Client:
    """The other side of the ASGI application's three callables."""

    def __init__(self, bot: rtvi.Bot) -> None:
        self.bot = bot
        self._give, self._take = anyio.create_memory_object_stream[dict[str, Any]](64)
        self._sent: list[dict[str, Any]] = []
        self._changed = anyio.Event()
        self.count = 0

    async def receive(self) -> dict[str, Any]:
        return await self._take.receive()

    async def send(self, event: Any) -> None:
        self._sent.append(event)
        self._changed.set()

    async def give(self, inputs: Sequence[Input]) -> None:
        for item in inputs:
            key = "text" if isinstance(item, str) else "bytes"
            await self._give.send({"type": "websocket.receive", key: item})
        self.count += len(inputs)

    async def probe(self) -> None:
        """The session answers: everything before has been handled then."""
        await self.give([json.dumps(message("client-message", "probe", {"t": "ping"}))])
        while not any(b"probe" in (event.get("bytes") or event.get("text", "").encode()) for event in self._sent):
            assert not any(event["type"] == "websocket.close" for event in self._sent)
            self._changed = anyio.Event()
            await self._changed.wait()
        self._sent.clear()

    def assert_unharmed(self) -> None:
        """No actor was restarted, and every input ended once."""
        books = self.bot.ledger.conservation()
        assert books.holds
        assert (books.received, books.dead) == (self.count, 0)
        cells = [self.bot.cell, *(ref.cell for ref in self.bot.cell.links.values())]
        assert {cell.state for cell in cells} == {"running"}
        assert {cell.restarts for cell in cells} == {0}

    async def leave(self) -> None:
        await self._give.send({"type": "websocket.disconnect", "code": 1000})


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    bot = Listener()
    client = Client(bot)
    app = asgi(lambda: bot, options=ServerOptions(session=rtvi.SessionOptions(drain_s=0.2)))
    scope: dict[str, Any] = {
        "type": "websocket", "asgi": {"version": "3.0"}, "path": "/ws", "raw_path": b"/ws", "root_path": "",
        "scheme": "ws", "query_string": b"", "headers": [], "subprotocols": [], "server": ("127.0.0.1", 1),
    }  # fmt: skip
    with client._give, client._take:
        async with anyio.create_task_group() as tasks:
            client._give.send_nowait({"type": "websocket.connect"})
            tasks.start_soon(app, scope, client.receive, client.send)
            yield client
            await client.leave()


def assert_quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    """Refusals are warnings; an error would be a crash, or a hook of the runtime that failed."""
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


# -- the tests -------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", GENERATORS)
async def test_random_bytes_crash_nothing(dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    rng = random.Random(SEED)
    async with connected() as client:
        for _ in range(BYTE_INPUTS // 100):
            await client.give([GENERATORS[dialect](rng) for _ in range(100)])
            await client.probe()
        client.assert_unharmed()
    assert_quiet_log(caplog)


def test_messages_that_are_nearly_right_crash_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    async def talk(inputs: list[Input]) -> None:
        async with connected() as client:
            await client.give(inputs)
            await client.probe()
            client.assert_unharmed()

    @settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(INPUTS, min_size=20, max_size=40))
    def fuzz(inputs: list[Input]) -> None:
        anyio.run(talk, inputs)

    fuzz()
    assert_quiet_log(caplog)


@pytest.mark.parametrize("dialect", GENERATORS)
def test_random_bytes_through_a_real_socket_crash_nothing(dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    rng = random.Random(SEED)
    bots: list[Listener] = []

    def factory() -> Listener:
        bots.append(Listener())
        return bots[-1]

    with serving(asgi(factory)) as address, connect(f"ws://{address}/ws", max_size=None) as socket:
        for _ in range(SOCKET_INPUTS):
            item = GENERATORS[dialect](rng)
            # What is no UTF-8 is the WebSocket library's to refuse: it closes the connection, as RFC 6455 says.
            socket.send(item.encode(errors="replace").decode() if isinstance(item, str) else item)
        socket.send(json.dumps(message("client-message", "probe", {"t": "ping"})))
        while b"probe" not in (answer.encode() if isinstance(answer := socket.recv(), str) else answer):
            continue
        books = bots[0].ledger.conservation()
        assert books.holds
        assert (books.received, books.dead, bots[0].cell.restarts) == (SOCKET_INPUTS + 1, 0, 0)
    assert_quiet_log(caplog)
