from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from rtvi_actors.client import BotAudio, ConnectionLost, Event, RequestFailed, RtviClient
from rtvi_actors.protocol.client import CLIENT
from rtvi_actors.protocol.codec import decode_envelope, decode_payload
from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, ServerAudio, ServerText, WireIn, WireOut
from rtvi_actors.transports.serializers import Dialect, decode_binary, decode_text, encode_binary, encode_text

pytestmark = pytest.mark.anyio

DIALECTS: list[Dialect] = ["json", "protobuf"]


@pytest.fixture
def anyio_backend() -> str:
    """The client is asyncio's alone: `websockets` is."""
    return "asyncio"


class Peer:
    """The server's side of one connection, scripted by a test; it answers in the dialect it is spoken to."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.binary = False
        assert socket.request is not None
        self.path = socket.request.path

    async def receive(self) -> WireIn:
        frame = await self.socket.recv()
        if isinstance(frame, str):
            return decode_text(frame)
        self.binary = True
        return decode_binary(frame)

    async def message(self) -> dict[str, Any]:
        wire = await self.receive()
        assert isinstance(wire, ClientText)
        message: dict[str, Any] = json.loads(wire.data)
        return message

    async def send(self, wire: WireOut) -> None:
        await self.socket.send(encode_binary(wire) if self.binary else encode_text(wire))

    async def say(self, message_type: str, data: Any = None, message_id: str | None = None) -> None:
        fields = {"id": message_id, "data": data}
        message = {"label": "rtvi-ai", "type": message_type} | {k: v for k, v in fields.items() if v is not None}
        await self.send(ServerText(json.dumps(message).encode()))

    async def ready(self) -> dict[str, Any]:
        message = await self.message()
        await self.say("bot-ready", {"version": "2.2.0"}, message["id"])
        return message


@asynccontextmanager
async def peer(script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve `script`; what it raises fails the test."""
    failures: list[BaseException] = []

    async def handle(socket: ServerConnection) -> None:
        try:
            await script(Peer(socket))
        except AssertionError as error:
            failures.append(error)

    async with serve(handle, "127.0.0.1", 0) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        yield f"ws://{host}:{port}"
    if failures:
        raise failures[0]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_connect_is_over_when_the_bot_is_ready(dialect: Dialect) -> None:
    async def script(server: Peer) -> None:
        assert server.path == ("/ws?audio=1" if dialect == "json" else "/ws")
        message = await server.ready()
        assert (message["label"], message["type"], message["data"]["version"]) == ("rtvi-ai", "client-ready", "1.2.0")

    async with peer(script) as url, RtviClient.connect(url, dialect=dialect, version="1.2.0") as client:
        assert client.bot_ready.data == {"version": "2.2.0"}
        assert [event async for event in client] == [client.bot_ready]
        assert client.close_reason == (1000, "")


async def test_connect_raises_when_the_bot_does_not_become_ready() -> None:
    async def script(server: Peer) -> None:
        await server.socket.wait_closed()

    async with peer(script) as url:
        with pytest.raises(TimeoutError):
            async with RtviClient.connect(url, ready_timeout_s=0):
                pass


async def test_connect_raises_when_the_server_closes_instead() -> None:
    async def script(server: Peer) -> None:
        await server.message()

    async with peer(script) as url:
        with pytest.raises(ConnectionLost):
            async with RtviClient.connect(url):
                pass


async def test_an_http_address_is_the_websocket_next_to_it() -> None:
    async def script(server: Peer) -> None:
        assert server.path == "/ws"
        await server.ready()

    async with peer(script) as url, RtviClient.connect(url.replace("ws:", "http:") + "/", audio=False):
        pass


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_requests_are_paired_by_id_and_not_shown_as_events(dialect: Dialect) -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        first, second = await server.message(), await server.message()
        await server.say("server-response", {"t": "b", "d": second["data"]["d"]}, second["id"])
        await server.say("server-response", {"t": "a"}, first["id"])

    async with peer(script) as url, RtviClient.connect(url, dialect=dialect) as client:
        answers = await asyncio.gather(client.request("a"), client.request("b", [1, None]))
        assert list(answers) == [None, [1, None]]
        assert [event async for event in client] == [client.bot_ready]


async def test_an_error_response_to_a_request_raises_its_text() -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        message = await server.message()
        await server.say("error-response", {"error": "no such city"}, message["id"])

    async with peer(script) as url, RtviClient.connect(url) as client:
        with pytest.raises(RequestFailed, match="no such city"):
            await client.request("weather", {"city": "?"})


async def test_a_request_without_an_answer_ends_at_its_deadline() -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        await server.socket.wait_closed()

    async with peer(script) as url, RtviClient.connect(url) as client:
        with pytest.raises(TimeoutError):
            await client.request("a", timeout_s=0)


async def test_a_lost_connection_settles_open_requests_and_refuses_new_ones() -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        await server.message()

    async with peer(script) as url, RtviClient.connect(url) as client:
        with pytest.raises(ConnectionLost):
            await client.request("a")
        with pytest.raises(ConnectionLost):
            await client.request("b")
        with pytest.raises(ConnectionLost):
            await client.wait_for("bot-llm-text")


async def test_what_is_said_goes_out_as_rtvi() -> None:
    seen: list[WireIn] = []

    async def script(server: Peer) -> None:
        await server.ready()
        seen.extend([await server.receive() for _ in range(5)])

    async with peer(script) as url, RtviClient.connect(url) as client:
        await client.send_text("hi", audio_response=False)
        await client.message("note", {"x": None})
        await client.send_audio(b"\0\1")
        await client.disconnect_bot()
        await client.interrupt()
        assert [event async for event in client] == [client.bot_ready]
    messages = [json.loads(wire.data) for wire in seen if isinstance(wire, ClientText)]
    assert [(message["type"], message["data"]) for message in messages] == [
        ("send-text", {"content": "hi", "options": {"run_immediately": True, "audio_response": False}}),
        ("client-message", {"t": "note", "d": {"x": None}}),
        ("raw-audio", {"base64Audio": "AAE=", "sampleRate": 16_000, "numChannels": 1}),
        ("disconnect-bot", {}),
    ]
    assert len({message["id"] for message in messages}) == len(messages)
    assert seen[-1] == ClientInterruption()


async def test_protobuf_audio_goes_out_as_a_frame() -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        assert await server.receive() == ClientAudio(b"\0\1", 8_000, 2)

    async with peer(script) as url, RtviClient.connect(url, dialect="protobuf") as client:
        await client.send_audio(b"\0\1", 8_000, 2)
        assert [event async for event in client] == [client.bot_ready]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_bot_audio_is_an_event_in_either_dialect(dialect: Dialect) -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        await server.send(ServerAudio(b"\1\2", 24_000, 1))

    async with peer(script) as url, RtviClient.connect(url, dialect=dialect) as client:
        events = [event async for event in client]
        assert events[1:] == [BotAudio(b"\1\2", 24_000, 1)]


async def test_what_is_no_message_is_counted_and_the_next_is_read() -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        for frame in ("{", "[]", b"\xff\xff"):
            await server.socket.send(frame)
        await server.say("bot-llm-text", {"text": "on"})

    async with peer(script) as url, RtviClient.connect(url) as client:
        assert (await client.wait_for("bot-llm-text")).data == {"text": "on"}
        assert client.dropped == 3


async def test_events_that_nobody_reads_are_bounded() -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        message = await server.message()
        for number in range(10):
            await server.say("n", number)
        await server.say("server-response", {"t": "done"}, message["id"])

    async with peer(script) as url, RtviClient.connect(url, capacity=3) as client:
        await client.request("done")
        assert [event async for event in client] == [Event("n", 7), Event("n", 8), Event("n", 9)]
        assert client.dropped == len(["bot-ready"]) + 7


UPLOADED = {"name": "a.pdf", "format": "application/pdf", "source": {"type": "url", "url": "rtvi:1"}}
CALL = Event("llm-function-call-in-progress", {"function_name": "f", "tool_call_id": "c", "arguments": {"a": 1}})
OLD_CALL = Event("llm-function-call", {"function_name": "f", "tool_call_id": "c", "args": {"a": 1}})

SAID: list[tuple[str, Callable[[RtviClient], Awaitable[str]]]] = [
    ("send-file", lambda client: client.send_file("look", b"\x00\x01", format="image/png", name="a.png")),
    ("send-file", lambda client: client.send_file("look", UPLOADED, run_immediately=False)),
    ("append-to-context", lambda client: client.append_to_context("user", "hi")),
    ("dtmf", lambda client: client.send_dtmf("12#")),
    ("llm-function-call-result", lambda client: client.answer_function_call(CALL, {"city": "Rome"})),
    ("llm-function-call-result", lambda client: client.answer_function_call(OLD_CALL, "")),
    ("ui-event", lambda client: client.ui_event("click")),
    ("ui-event", lambda client: client.ui_event("click", {"ref": "e1"})),
    ("ui-snapshot", lambda client: client.ui_snapshot({"root": {"ref": "e1", "role": "main"}, "captured_at": 1})),
    ("ui-cancel-job-group", lambda client: client.cancel_job_group("j1")),
]


@pytest.mark.parametrize(("message_type", "say"), SAID)
async def test_what_the_client_says_is_what_the_protocol_has(
    message_type: str, say: Callable[[RtviClient], Awaitable[str]]
) -> None:
    async def script(server: Peer) -> None:
        await server.ready()
        wire = await server.receive()
        assert isinstance(wire, ClientText)
        envelope = decode_envelope(wire.data)
        assert envelope.type == message_type
        decode_payload(envelope, CLIENT[message_type])
        await server.say("server-message", "understood")

    async with peer(script) as url, RtviClient.connect(url) as client:
        await say(client)
        assert (await client.wait_for("server-message")).data == "understood"
