from __future__ import annotations

import json
from collections import deque
from collections.abc import MutableMapping
from typing import Any

import anyio
import pytest
from websockets.sync.client import connect

from rtvi_actors.streams import (
    ClientAudio,
    ClientInterruption,
    ClientText,
    Malformed,
    ServerAudio,
    ServerText,
    Transport,
)
from rtvi_actors.transports import serializers
from rtvi_actors.transports.asgi import Receive, Scope, Send, WebSocketTransport
from tests.serving import serving

pytestmark = pytest.mark.anyio

Event = MutableMapping[str, Any]
TEXT: Event = {"type": "websocket.receive", "text": "{}"}
BINARY: Event = {"type": "websocket.receive", "bytes": serializers.pack_message(b"{}")}
GONE: Event = {"type": "websocket.disconnect", "code": 1005}


class FakeServer:
    """The ASGI side: events to give, events taken, and a send that can be made to fail or to hang."""

    def __init__(self, *events: Event, query: bytes = b"", fail: Exception | None = None, hang: bool = False) -> None:
        self.events = deque(events)
        self.sent: list[Event] = []
        self.fail = fail
        self.hang = hang
        self.transport = WebSocketTransport({"type": "websocket", "query_string": query}, self.receive, self.send)

    async def receive(self) -> Event:
        if not self.events:
            raise RuntimeError("receive after the end")
        return self.events.popleft()

    async def send(self, event: Event) -> None:
        if self.fail is not None:
            raise self.fail
        if self.hang:
            await anyio.sleep_forever()
        self.sent.append(event)


async def test_accepting_offers_no_subprotocol() -> None:
    server = FakeServer({"type": "websocket.connect"})
    await server.transport.accept()
    assert server.sent == [{"type": "websocket.accept"}]


async def test_a_client_that_leaves_before_the_handshake_is_gone() -> None:
    with pytest.raises(anyio.EndOfStream):
        await FakeServer(GONE).transport.accept()


async def test_a_first_text_message_makes_answers_text() -> None:
    server = FakeServer(TEXT)
    assert await server.transport.receive() == ClientText(b"{}")
    await server.transport.send([ServerText(b"[1]"), ServerText(b"[2]")])
    assert [event["text"] for event in server.sent] == ["[1]", "[2]"]


async def test_a_first_binary_message_makes_answers_binary() -> None:
    server = FakeServer({**BINARY, "text": None})
    assert await server.transport.receive() == ClientText(b"{}")
    await server.transport.send([ServerText(b"[1]"), ServerAudio(b"\0\0", 24_000, 1)])
    assert [serializers.decode_binary(event["bytes"]) for event in server.sent] == [
        ClientText(b"[1]"),
        ClientAudio(b"\0\0", 24_000, 1),
    ]


async def test_later_messages_are_read_by_their_own_kind_and_answered_as_the_first() -> None:
    interruption: Event = {"type": "websocket.receive", "bytes": serializers.pack_interruption()}
    server = FakeServer(BINARY, TEXT, interruption)
    await server.transport.receive()
    assert await server.transport.receive() == ClientText(b"{}")
    assert await server.transport.receive() == ClientInterruption()
    assert server.transport.dialect == "protobuf"


async def test_bot_audio_reaches_a_json_client_only_when_it_asked() -> None:
    audio = ServerAudio(b"\0\0", 16_000, 1)
    quiet, asking = FakeServer(TEXT), FakeServer(TEXT, query=b"token=x&audio=1")
    for server in (quiet, asking):
        await server.transport.receive()
        await server.transport.send([audio])
    assert quiet.sent == []
    assert json.loads(asking.sent[0]["text"])["type"] == "bot-tts-audio"


async def test_the_playing_rate_is_fixed_unless_a_json_client_asked_for_audio() -> None:
    fixed: Transport = FakeServer().transport
    free: Transport = FakeServer(query=b"audio=1").transport
    assert (fixed.playing_rate_hz, free.playing_rate_hz) == (24_000, None)


async def test_a_send_before_the_first_message_waits_for_it() -> None:
    server = FakeServer(BINARY)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.transport.send, [ServerText(b"early")])
        await anyio.wait_all_tasks_blocked()
        assert server.sent == []
        await server.transport.receive()
    assert serializers.decode_binary(server.sent[0]["bytes"]) == ClientText(b"early")


async def test_a_send_that_waits_ends_with_the_connection() -> None:
    server = FakeServer(GONE)

    async def leave() -> None:
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.EndOfStream):
            await server.transport.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        with pytest.raises(anyio.BrokenResourceError):
            await server.transport.send([ServerText(b"never")])


@pytest.mark.parametrize("events", [[GONE], []])
async def test_the_end_of_the_connection_is_the_end_of_the_stream_for_ever(events: list[Event]) -> None:
    server = FakeServer(*events)
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await server.transport.receive()


@pytest.mark.parametrize("error", [OSError("reset"), RuntimeError("websocket.send after websocket.close")])
async def test_a_failing_send_is_a_broken_resource(error: Exception) -> None:
    server = FakeServer(TEXT, fail=error)
    await server.transport.receive()
    for _ in range(2):
        with pytest.raises(anyio.BrokenResourceError):
            await server.transport.send([ServerText(b"")])


async def test_a_close_is_sent_once_with_a_reason_that_fits() -> None:
    server = FakeServer()
    await server.transport.aclose("é" * 100)
    await server.transport.aclose("again")
    (close,) = server.sent
    assert close == {"type": "websocket.close", "code": 1000, "reason": "é" * 61}


async def test_a_close_never_raises() -> None:
    await FakeServer(fail=OSError("reset")).transport.aclose("bye")


async def test_a_close_does_not_wait_for_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtvi_actors.transports.asgi.CLOSE_WAIT_S", 0)
    await FakeServer(hang=True).transport.aclose("bye")


async def test_an_unreadable_frame_is_malformed_and_the_next_is_read() -> None:
    server = FakeServer({"type": "websocket.receive", "bytes": b"\xff\xff"}, {"type": "websocket.receive"}, TEXT)
    assert isinstance(await server.transport.receive(), Malformed)
    assert isinstance(await server.transport.receive(), Malformed)
    assert await server.transport.receive() == ClientText(b"{}")


async def test_without_protobuf_a_binary_client_is_answered_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "_load", lambda: None)
    server = FakeServer(BINARY)
    assert await server.transport.receive() == Malformed(serializers.NO_PROTOBUF)
    await server.transport.send([ServerText(b'{"refused":1}')])
    assert server.sent[0]["text"] == '{"refused":1}'


# -- a real socket -------------------------------------------------------------


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says back what it hears, until the client says ``bye``."""
    transport = WebSocketTransport(scope, receive, send, max_in_bytes=1000)
    await transport.accept()
    while True:
        try:
            message = await transport.receive()
        except anyio.EndOfStream:
            return
        match message:
            case ClientText(data=b"bye"):
                await transport.aclose("as you wish")
            case ClientText(data=data):
                await transport.send([ServerText(data)])
            case ClientAudio(audio=audio, sample_rate=rate, num_channels=channels):
                await transport.send([ServerAudio(audio, rate, channels)])
            case other:
                await transport.send([ServerText(type(other).__name__.encode())])


def test_over_a_real_socket_both_dialects_work() -> None:
    with serving(echo, lifespan="off") as address:
        with connect(f"ws://{address}/") as client:
            client.send("héllo")
            assert client.recv() == "héllo"
            client.send("x" * 2000)
            assert client.recv() == "Malformed"
            client.send("bye")
            assert list(client) == []
            assert (client.close_code, client.close_reason) == (1000, "as you wish")
        with connect(f"ws://{address}/") as client:
            client.send(serializers.pack_audio(b"\1\2", 16_000, 1))
            assert client.recv() == serializers.pack_audio(b"\1\2", 16_000, 1)
            client.send(b"\xff")
            assert client.recv() == serializers.pack_message(b"Malformed")
