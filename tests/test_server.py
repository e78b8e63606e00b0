from __future__ import annotations

import json
import socket as socketlib
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

import rtvi_actors as rtvi
from rtvi_actors.client import BotAudio, RtviClient
from rtvi_actors.server import SOCKET_PATHS, ServerOptions, asgi
from rtvi_actors.transports import serializers
from rtvi_actors.transports.serializers import Dialect
from tests.serving import serving

PCM = bytes(range(240)) * 8
"""40 ms at 24 kHz."""


class EchoBot(rtvi.Bot):
    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            await out.text(f"You said {turn.messages[-1].content}.")

    @rtvi.request("double")
    async def double(self, number: int) -> int:
        return 2 * number

    @rtvi.request("speak")
    async def speak(self) -> str:
        await self.say_audio(PCM, 24_000)
        return "spoken"


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn and the client are asyncio's."""
    return "asyncio"


def ready(socket: ClientConnection) -> dict[str, Any]:
    """Send client-ready as JSON; the bot-ready that answers it."""
    socket.send(json.dumps({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": {"version": "2.2.0"}}))
    message: dict[str, Any] = json.loads(socket.recv(timeout=10))
    return message


# -- sessions ------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("path", SOCKET_PATHS)
@pytest.mark.parametrize("dialect", ["json", "protobuf"])
async def test_a_turn_and_a_request_in_either_dialect(dialect: Dialect, path: str) -> None:
    with serving(asgi(EchoBot)) as address:
        async with RtviClient.connect(f"ws://{address}{path}", dialect=dialect) as client:
            assert await client.request("double", 21) == 42
            await client.send_text("hello")
            assert (await client.wait_for("bot-llm-text")).data == {"text": "You said hello."}


@pytest.mark.anyio
@pytest.mark.parametrize("dialect", ["json", "protobuf"])
async def test_bot_audio_is_heard_in_either_dialect(dialect: Dialect) -> None:
    with serving(asgi(EchoBot)) as address:
        async with RtviClient.connect(f"ws://{address}/ws", dialect=dialect) as client:
            assert await client.request("speak") == "spoken"
            heard = b""
            with anyio.fail_after(10):
                async for event in client:
                    heard += event.audio if isinstance(event, BotAudio) else b""
                    if len(heard) >= len(PCM):
                        break
            assert heard[: len(PCM)] == PCM


@pytest.mark.anyio
async def test_mounted_in_an_app_that_passes_no_lifespan_it_works_and_stops_with_each_session() -> None:
    host = FastAPI()
    host.mount("/voice", asgi(EchoBot))
    with serving(host) as address:
        async with httpx.AsyncClient(base_url=f"http://{address}/voice") as web:
            start = (await web.post("/start", json={})).json()
            assert start == {"wsUrl": f"ws://{address}/voice/ws"}
            async with RtviClient.connect(start["wsUrl"]) as client, RtviClient.connect(start["wsUrl"]) as other:
                assert await client.request("double", 1) == 2
                assert await other.request("double", 2) == 4
                assert len((await web.get("/inspect")).json()["actors"]) == 2


@pytest.mark.anyio
async def test_a_server_that_stops_ends_its_sessions() -> None:
    with serving(asgi(EchoBot)) as address:
        async with RtviClient.connect(f"ws://{address}/ws") as client:
            assert await client.request("double", 1) == 2


def test_an_unreadable_frame_costs_itself_and_not_the_call() -> None:
    with serving(asgi(EchoBot)) as address, connect(f"ws://{address}/ws") as socket:
        assert ready(socket)["type"] == "bot-ready"
        for frame in (b"\xff\xff", "{", "x" * ((1 << 20) + 1)):
            socket.send(frame)
            assert json.loads(socket.recv(timeout=10))["type"] == "error"
        socket.send('{"label":"rtvi-ai","type":"client-message","id":"2","data":{"t":"double","d":4}}')
        assert json.loads(socket.recv(timeout=10))["data"] == {"t": "double", "d": 8}


def test_no_subprotocol_is_picked() -> None:
    with serving(asgi(EchoBot)) as address, connect(f"ws://{address}/ws") as socket:
        assert socket.subprotocol is None


def broken_factory() -> rtvi.Bot:
    raise ZeroDivisionError("secret")


def test_a_bot_that_cannot_be_made_closes_the_connection_without_saying_why() -> None:
    with serving(asgi(broken_factory)) as address, connect(f"ws://{address}/ws") as socket:
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert (socket.close_code, socket.close_reason) == (1011, "internal error")


# -- who is let in -------------------------------------------------------------


@pytest.mark.parametrize("first", ['{"label":"rtvi-ai"}', serializers.pack_message(b"{}")])
def test_a_full_server_says_so_in_the_clients_dialect(first: str | bytes) -> None:
    with (
        serving(asgi(EchoBot, options=ServerOptions(max_sessions=1))) as address,
        connect(f"ws://{address}/ws") as kept,
    ):
        assert ready(kept)["type"] == "bot-ready"
        refused = httpx.post(f"http://{address}/start", json={})
        assert (refused.status_code, "info" in refused.json()) == (503, True)
        with connect(f"ws://{address}/ws") as socket:
            socket.send(first)
            frame = socket.recv(timeout=10)
            text = frame if isinstance(frame, str) else serializers.decode_binary(frame).data  # type: ignore[union-attr]
            message = json.loads(text)
            assert (message["type"], message["data"]["fatal"]) == ("error", True)
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)
            assert socket.close_code == 1013


def test_a_session_that_ends_makes_room() -> None:
    with serving(asgi(EchoBot, options=ServerOptions(max_sessions=1))) as address:
        for _ in range(3):
            with connect(f"ws://{address}/ws") as socket:
                assert ready(socket)["type"] == "bot-ready"
                socket.send('{"label":"rtvi-ai","type":"disconnect-bot","id":"2","data":{}}')
                assert socket.close_code is None
                for _ in socket:  # until the server closes
                    pass
            _until(lambda: httpx.get(f"http://{address}/healthz").json()["sessions"] == 0)


def _until(condition: Callable[[], bool]) -> None:
    """Each look is a round trip; the server's side of a closed connection is a few of its own turns behind."""
    for _ in range(2000):
        if condition():
            return
    raise AssertionError("the condition did not become true")


def test_another_sites_page_is_refused_and_a_listed_one_let_in() -> None:
    with serving(asgi(EchoBot, options=ServerOptions(allowed_origins=("https://app.example",)))) as address:
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"ws://{address}/ws", origin=Origin("http://evil.example")),
        ):
            pass
        assert refused.value.response.status_code == 403
        assert "origin" in json.loads(refused.value.response.body)["detail"]
        for origin in ("https://app.example", f"http://{address}"):
            with connect(f"ws://{address}/ws", origin=Origin(origin)) as socket:
                assert ready(socket)["type"] == "bot-ready"


def test_under_a_name_that_is_not_its_own_a_server_answers_nobody() -> None:
    rebound = {"host": "evil.example", "origin": "http://evil.example"}
    options = ServerOptions(allowed_hosts=("bot.example",), demo=True)
    with serving(asgi(EchoBot, options=options)) as address:
        for method, path in (("POST", "/start"), ("GET", "/"), ("GET", "/inspect"), ("POST", "/inspect/x/kill")):
            answer = httpx.request(method, f"http://{address}{path}", headers=rebound)
            assert (answer.status_code, set(answer.json())) == (400, {"detail", "info"})
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(f"ws://evil.example{SOCKET_PATHS[0]}", sock=dial(address)),
        ):
            pass
        assert refused.value.response.status_code == 403
        with connect(f"ws://bot.example{SOCKET_PATHS[0]}", sock=dial(address)) as socket:
            assert ready(socket)["type"] == "bot-ready"


def dial(address: str) -> socketlib.socket:
    """A connection to the server, to speak to it under another name."""
    host, port = address.split(":")
    return socketlib.create_connection((host, int(port)))


def test_a_library_app_takes_any_host_but_crashes_nothing_under_a_foreign_name() -> None:
    with serving(asgi(EchoBot, options=ServerOptions(demo=True))) as address:
        foreign = {"host": "evil.example"}
        assert httpx.get(f"http://{address}/inspect", headers=foreign).status_code == 200
        assert httpx.post(f"http://{address}/inspect/x/kill", headers=foreign).status_code == 400
        assert httpx.post(f"http://{address}/inspect/x/kill").status_code == 404


def test_a_client_that_is_turned_away_keeps_its_token() -> None:
    with serving(asgi(EchoBot, options=ServerOptions(max_sessions=1, require_token=True))) as address:
        first, second = (httpx.post(f"http://{address}/start").json() for _ in range(2))
        with connect(f"{first['wsUrl']}?token={first['token']}") as kept:
            assert ready(kept)["type"] == "bot-ready"
            with connect(f"{second['wsUrl']}?token={second['token']}") as socket:
                socket.send('{"label":"rtvi-ai"}')
                assert json.loads(socket.recv(timeout=10))["type"] == "error"
        _until(lambda: httpx.get(f"http://{address}/healthz").json()["sessions"] == 0)
        with connect(f"{second['wsUrl']}?token={second['token']}") as socket:
            assert ready(socket)["type"] == "bot-ready"


def test_with_tokens_required_only_a_ticket_from_start_connects_and_once() -> None:
    with serving(asgi(EchoBot, options=ServerOptions(require_token=True))) as address:
        start = httpx.post(f"http://{address}/connect", content=b"not json").json()
        assert set(start) == {"wsUrl", "token"}
        url = f"{start['wsUrl']}?token={start['token']}"
        with connect(url) as socket:
            assert ready(socket)["type"] == "bot-ready"
        for refused in (url, start["wsUrl"]):
            with pytest.raises(InvalidStatus) as error, connect(refused):
                pass
            assert error.value.response.status_code == 403
            assert "token" in json.loads(error.value.response.body)["detail"]


# -- HTTP ----------------------------------------------------------------------


def test_start_answers_what_the_sdk_accepts_and_nothing_else() -> None:
    with serving(asgi(EchoBot)) as address:
        for content in (
            b"",
            b"{",
            b'{"transport":"websocket"}',
            b'{"rtvi_client_version":"0.3.5"}',
            b'{"transport":null}',
        ):
            answer = httpx.post(f"http://{address}/start", content=content)
            assert (answer.status_code, answer.json()) == (200, {"wsUrl": f"ws://{address}/ws"})
        behind_proxy = httpx.post(
            f"http://{address}/start", headers={"host": "bot.example", "x-forwarded-proto": "https"}
        )
        assert behind_proxy.json() == {"wsUrl": "wss://bot.example/ws"}
        other = httpx.post(f"http://{address}/start", json={"transport": "daily"})
        assert (other.status_code, set(other.json())) == (400, {"detail", "info"})


def test_what_a_monitor_asks() -> None:
    with serving(asgi(EchoBot)) as address:
        assert httpx.get(f"http://{address}/status").json() == {"status": "ready", "transports": ["websocket"]}
        assert httpx.get(f"http://{address}/healthz").json() == {"status": "ok", "sessions": 0}


def test_the_page_can_be_left_out() -> None:
    with serving(asgi(EchoBot, options=ServerOptions(page=False, inspect=False))) as address:
        for path in ("/", "/client/", "/inspect"):
            assert httpx.get(f"http://{address}{path}").status_code == 404


# -- inspection ----------------------------------------------------------------


def test_a_sessions_actors_are_shown_below_its_supervisor() -> None:
    with serving(asgi(EchoBot)) as address, connect(f"ws://{address}/ws") as socket:
        ready(socket)
        shown = httpx.get(f"http://{address}/inspect").json()
        assert (shown["sessions"], shown["demo"]) == (1, False)
        (session,) = shown["actors"]
        assert {"ingress", "handshake", "audio", "text", "requests", "door", "outbound"} <= {
            child["name"].removeprefix(f"{session['name']}/") for child in session["children"]
        }


def test_an_actor_crashed_from_the_page_comes_back_and_the_call_goes_on() -> None:
    with serving(asgi(EchoBot, options=ServerOptions(demo=True))) as address, connect(f"ws://{address}/ws") as socket:
        ready(socket)
        (session,) = httpx.get(f"http://{address}/inspect").json()["actors"]
        name = f"{session['name']}/audio"
        assert httpx.post(f"http://{address}/inspect/{name}/kill").status_code == 202

        def restarts() -> int:
            (session,) = httpx.get(f"http://{address}/inspect").json()["actors"]
            return sum(child["restarts"] for child in session["children"] if child["name"] == name)

        _until(lambda: restarts() == 1)
        socket.send('{"label":"rtvi-ai","type":"client-message","id":"2","data":{"t":"double","d":4}}')
        assert json.loads(socket.recv(timeout=10))["data"] == {"t": "double", "d": 8}
        unknown = httpx.post(f"http://{address}/inspect/nobody/kill")
        assert (unknown.status_code, set(unknown.json())) == (404, {"detail", "info"})
        top = httpx.post(f"http://{address}/inspect/{session['name']}/kill")
        assert top.status_code == 409


def test_without_the_demo_option_nothing_can_be_crashed() -> None:
    with serving(asgi(EchoBot)) as address, connect(f"ws://{address}/ws") as socket:
        ready(socket)
        (session,) = httpx.get(f"http://{address}/inspect").json()["actors"]
        assert httpx.post(f"http://{address}/inspect/{session['name']}/audio/kill").status_code == 404
