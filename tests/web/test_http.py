from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from rtvi_actors.web import http

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::starlette.exceptions.StarletteDeprecationWarning"
)


async def fail(_request: Request) -> Response:
    raise ZeroDivisionError("secret")


async def body(request: Request) -> Response:
    return JSONResponse(await http.json_object(request, 100))


def client(allowed: Sequence[str] = ()) -> TestClient:
    app = Starlette(
        routes=[Route("/fail", fail), Route("/body", body, methods=["POST"])],
        middleware=[
            Middleware(http.Cors, allowed=allowed),
            Middleware(http.JsonErrors),
            Middleware(http.OriginGuard, allowed=allowed),
        ],
        exception_handlers={HTTPException: http.http_error},
    )
    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/none", 404), ("GET", "/body", 405), ("GET", "/fail", 500)]
)
def test_every_error_has_a_json_body_that_client_js_reads(method: str, path: str, status: int) -> None:
    answer = client().request(method, path)
    assert answer.status_code == status
    assert answer.json()["info"] == answer.json()["detail"] != ""


def test_a_failing_handler_tells_the_client_an_id_and_the_log_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        detail = client().get("/fail").json()["detail"]
    assert "secret" not in detail
    assert detail.rpartition(" ")[2] in caplog.text
    assert "secret" in caplog.text


def test_a_page_of_a_listed_origin_may_read_an_error() -> None:
    answer = client(["https://app.example"]).get("/fail", headers={"origin": "https://app.example"})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'"x"', b"\xff", b"[" * 90])
def test_a_body_that_is_no_json_object_is_an_empty_one(content: bytes) -> None:
    assert client().post("/body", content=content).json() == {}


def test_a_json_object_is_read() -> None:
    assert client().post("/body", content=b'{"a":[1]}').json() == {"a": [1]}


def test_a_body_above_the_limit_is_refused() -> None:
    answer = client().post("/body", content=b" " * 101)
    assert answer.status_code == 413
    assert "100" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "allowed", "expected"),
    [
        ({}, (), True),
        ({"origin": "http://localhost:7860", "host": "localhost:7860"}, (), True),
        ({"origin": "https://bot.example", "host": "bot.example"}, (), True),
        ({"origin": "http://localhost:5173", "host": "localhost:7860"}, (), False),
        ({"origin": "null", "host": "localhost:7860"}, (), False),
        ({"origin": "http://evil.example"}, (), False),
        ({"origin": "http://localhost:5173", "host": "localhost:7860"}, ("http://localhost:5173",), True),
        ({"origin": "http://anything", "host": "x"}, ("*",), True),
    ],
)
def test_a_browser_comes_from_the_same_origin_or_a_listed_one(
    headers: dict[str, str], allowed: tuple[str, ...], expected: bool
) -> None:
    assert http.origin_allowed(Headers(headers), allowed) is expected


def test_what_another_sites_page_would_change_is_refused() -> None:
    answer = client().post("/body", content=b"{}", headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert "allowed_origins" in answer.json()["detail"]


def test_the_log_has_of_a_refused_path_what_is_no_token(caplog: pytest.LogCaptureFixture) -> None:
    client().post("/sessions/a-token/files", headers={"origin": "http://evil.example"})
    assert "refused /sessions from" in caplog.text
    assert "a-token" not in caplog.text


def test_a_preflight_is_answered_for_a_listed_origin_and_refused_in_json_for_another() -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-mine"}
    site = client(["https://app.example"])
    granted = site.options("/body", headers={"origin": "https://app.example", **asked})
    assert granted.status_code == 200
    assert granted.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-mine" in granted.headers["access-control-allow-headers"]
    refused = site.options("/body", headers={"origin": "http://evil.example", **asked})
    assert refused.status_code == 400
    assert "origin" in refused.json()["detail"]
    assert "access-control-allow-origin" not in refused.headers


def connection(scheme: str, host: str, root_path: str = "") -> HTTPConnection:
    headers = [(b"host", host.encode())] if host else []
    scope = {"type": "http", "scheme": scheme, "headers": headers, "root_path": root_path, "path": "/start"}
    return HTTPConnection({**scope, "server": ("10.0.0.1", 80), "query_string": b""})


@pytest.mark.parametrize(
    ("scheme", "host", "root_path", "expected"),
    [
        ("http", "localhost:7860", "", "ws://localhost:7860/ws"),
        ("https", "bot.example", "/voice", "wss://bot.example/voice/ws"),
        ("http", "[::1]:7860", "", "ws://[::1]:7860/ws"),
        ("http", "", "", "ws://10.0.0.1/ws"),
    ],
)
def test_the_websocket_is_where_the_client_reached_us(scheme: str, host: str, root_path: str, expected: str) -> None:
    assert http.websocket_url(connection(scheme, host, root_path), "/ws") == expected


@pytest.mark.parametrize("host", ["evil.example/x?", "a b", 'x"', "user@host"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(HTTPException):
        http.websocket_url(connection("http", host), "/ws")


# -- hosts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed", "expected"),
    [
        ("localhost:7860", (), True),
        ("127.0.0.1:7860", (), True),
        ("192.168.1.4", (), True),
        ("[::1]:7860", (), True),
        ("[::1]", (), True),
        ("LOCALHOST.", (), True),
        ("evil.example", (), False),
        ("evil.example", ("*",), True),
        ("bot.example:80", ("Bot.example",), True),
        ("a.bot.example", ("bot.example",), False),
        ("a.bot.example", ("*.bot.example",), True),
        ("bot.example", ("*.bot.example",), False),
        ("127.0.0.1.evil.example", (), False),
        ("localhost@evil.example", (), False),
        ("", (), False),
        ("[", (), False),
    ],
)
def test_a_host_is_ours_when_it_is_listed_or_an_address(host: str, allowed: tuple[str, ...], expected: bool) -> None:
    assert http.host_allowed(Headers({"host": host}), allowed) is expected


def test_an_origin_that_is_no_url_is_refused_and_not_an_error() -> None:
    assert client().post("/body", headers={"origin": "http://["}, content=b"{}").status_code == 403
