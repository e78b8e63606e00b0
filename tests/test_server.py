from __future__ import annotations

import json
import socket as socketlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from rtvi_actors.files import FileStore
from rtvi_actors.protocol.files import FilePolicy
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


# -- uploads -------------------------------------------------------------------


class FileBot(EchoBot):
    """Says what it has been sent."""

    accepts_files = True

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            for file in turn.files:
                await out.text(f"{file.name} {file.format} {len(file.data or b'')} {(file.data or b'')[:5].decode()}")


@contextmanager
def with_files(**options: Any) -> Iterator[tuple[str, FileStore]]:
    store = FileStore()
    session = rtvi.SessionOptions(file_store=store)
    with serving(asgi(FileBot, options=ServerOptions(session=session, **options))) as address:
        yield address, store


def upload(url: str, data: bytes = b"hello", **arguments: Any) -> httpx.Response:
    return httpx.post(url, files={"file": ("notes.txt", data, "text/plain")}, **arguments)


def is_alive(address: str) -> bool:
    """A round trip."""
    return httpx.get(f"http://{address}/healthz").is_success


def send_file(socket: ClientConnection, file: object) -> dict[str, Any]:
    """Send a file as JSON; the first answer, or the first text of the bot's."""
    data = {"content": "look", "file": file}
    socket.send(json.dumps({"label": "rtvi-ai", "type": "send-file", "id": "f", "data": data}))
    while True:
        message: dict[str, Any] = json.loads(socket.recv(timeout=10))
        if message["type"] in ("error-response", "bot-llm-text"):
            return message


@pytest.mark.parametrize("size_bytes", [5, 3_000_000])
def test_what_is_uploaded_reaches_the_bot_by_a_send_file(size_bytes: int) -> None:
    data = (b"hello" * size_bytes)[:size_bytes]
    with with_files() as (address, _), connect(f"ws://{address}/ws") as socket:
        ready(socket)
        file = upload(f"http://{address}/files", data).json()
        for _ in range(2):  # it may be sent again
            answer = send_file(socket, file)
            assert (answer["type"], answer["data"]) == (
                "bot-llm-text",
                {"text": f"notes.txt text/plain {size_bytes} hello"},
            )


def test_a_session_has_files_of_its_own_which_go_with_it() -> None:
    with with_files() as (address, store), connect(f"ws://{address}/ws") as other:
        ready(other)
        with connect(f"ws://{address}/ws") as socket:
            ready(socket)
            names = [actor["name"] for actor in httpx.get(f"http://{address}/inspect").json()["actors"]]
            file = upload(f"http://{address}/sessions/{names[-1]}/files").json()
            assert send_file(socket, file)["type"] == "bot-llm-text"
            assert send_file(other, file)["type"] == "error-response"
        _until(lambda: is_alive(address) and store.count == 0)
        assert upload(f"http://{address}/sessions/{names[-1]}/files").status_code == 404


def test_an_upload_that_outlasts_its_session_is_not_kept() -> None:
    with with_files() as (address, store):
        leave = threading.Event()

        def content() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + b"x" * 500_000
            assert leave.wait(20)
            yield b"\r\n--b--\r\n"

        with connect(f"ws://{address}/ws") as socket, ThreadPoolExecutor(1) as pool:
            ready(socket)
            (session,) = httpx.get(f"http://{address}/inspect").json()["actors"]
            kind = {"content-type": "multipart/form-data; boundary=b"}
            url = f"http://{address}/sessions/{session['name']}/files"
            answer = pool.submit(httpx.post, url, content=content(), headers=kind, timeout=30)
            _until(lambda: is_alive(address) and store.held_bytes > 0)
            socket.close()
            _until(lambda: httpx.get(f"http://{address}/healthz").json()["sessions"] == 0)
            leave.set()
            assert answer.result().status_code == 404
        assert (store.count, store.held_bytes) == (0, 0)


class BrokenBot(FileBot):
    def on_start(self) -> None:
        raise ZeroDivisionError


def test_files_for_a_session_that_cannot_start_are_not_kept() -> None:
    store = FileStore()
    options = ServerOptions(session=rtvi.SessionOptions(file_store=store), require_token=True)
    with serving(asgi(BrokenBot, options=options)) as address:
        start = httpx.post(f"http://{address}/start").json()
        assert upload(f"http://{address}/sessions/{start['token']}/files").status_code == 200
        with connect(f"{start['wsUrl']}?token={start['token']}") as socket, pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        _until(lambda: is_alive(address) and store.count == 0)


@pytest.mark.parametrize("name", ["x", "session-0000000000000000", "%00", "x" * 5000])
def test_a_session_that_is_not_there_takes_no_uploads(name: str) -> None:
    with with_files() as (address, store):
        answer = upload(f"http://{address}/sessions/{name}/files")
        assert (answer.status_code, set(answer.json()), store.count) == (404, {"detail", "info"}, 0)


def test_a_ticket_uploads_before_and_during_the_session_that_it_opens_and_not_after() -> None:
    with with_files(require_token=True) as (address, store):
        start = httpx.post(f"http://{address}/start").json()
        own = f"http://{address}/sessions/{start['token']}/files"
        before = upload(own).json()
        with connect(f"{start['wsUrl']}?token={start['token']}") as socket:
            ready(socket)
            for file in (before, upload(own).json()):
                assert send_file(socket, file)["type"] == "bot-llm-text"
            (session,) = httpx.get(f"http://{address}/inspect").json()["actors"]
            assert start["token"] not in session["name"]
            by_name = upload(f"http://{address}/sessions/{session['name']}/files")
            assert by_name.status_code == 404, "names are shown to everybody"
        _until(lambda: is_alive(address) and store.count == 0)
        assert upload(own).status_code == 404


def test_where_tokens_are_required_an_upload_shows_one_and_does_not_use_it_up() -> None:
    with with_files(require_token=True) as (address, _):
        start = httpx.post(f"http://{address}/start").json()
        bearer = {"authorization": f"Bearer {start['token']}"}
        url = f"http://{address}/files"
        assert upload(url).status_code == 403
        assert upload(url, headers={"authorization": "Bearer forged"}).status_code == 403
        assert upload(url, headers={"authorization": f"Basic {start['token']}"}).status_code == 403
        assert upload(url, headers=bearer).status_code == 200
        file = upload(f"{url}?token={start['token']}").json()
        with connect(f"{start['wsUrl']}?token={start['token']}") as socket:
            ready(socket)
            assert upload(url, headers=bearer).status_code == 200
            assert send_file(socket, file)["type"] == "bot-llm-text"
        _until(lambda: upload(url, headers=bearer).status_code == 403)


def test_another_sites_page_may_upload_only_where_it_is_listed() -> None:
    with with_files(allowed_origins=("https://app.example",), allowed_hosts=("bot.example",)) as (address, store):
        url = f"http://{address}/files"
        assert upload(url, headers={"origin": "https://evil.example"}).status_code == 403
        assert upload(url, headers={"host": "evil.example"}).status_code == 400
        assert store.count == 0
        answer = upload(url, headers={"origin": "https://app.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")


def test_a_bot_that_takes_no_files_has_a_server_that_takes_no_uploads() -> None:
    with serving(asgi(EchoBot)) as address:
        assert upload(f"http://{address}/files").status_code == 503
    with serving(asgi(lambda: FileBot())) as address:  # noqa: PLW0108  nobody knows what a function makes
        assert upload(f"http://{address}/files").status_code == 200


def test_an_upload_may_be_as_large_as_the_policy_says_and_all_together_as_the_server_says() -> None:
    session = rtvi.SessionOptions(files=FilePolicy(max_bytes=1000))
    with serving(asgi(FileBot, options=ServerOptions(session=session, max_files_bytes=1500))) as address:
        url = f"http://{address}/files"
        assert upload(url, b"x" * 1001).status_code == 413
        assert upload(url, b"x" * 1000).status_code == 200
        assert upload(url, b"x" * 1000).status_code == 507
