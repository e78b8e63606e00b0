"""Rules that hold for every route.

* Every error has a JSON body ``{"detail", "info"}``: client-js reads ``info ?? detail`` of a failed request and throws
  a parse error where the body is not JSON (PROTOCOL.md 3.1). What is no HTTP, the ASGI server refuses in its own words.
* A browser may come from the page's own origin or from a listed one. Requests without an Origin are not a browser's.
* "The page's own" is only worth something under a Host that is ours: a name that another site points at this machine
  (DNS rebinding) makes its page and its origin look like ours. `HostGuard` knows our names.
* A request's body is bounded, and read before anything is made of it.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

__all__ = [
    "ANY_HOST",
    "ANY_ORIGIN",
    "Cors",
    "HostGuard",
    "JsonErrors",
    "OriginGuard",
    "deny",
    "error_response",
    "host_allowed",
    "http_error",
    "json_object",
    "origin_allowed",
    "websocket_url",
]

log = logging.getLogger("rtvi_actors.server")

ANY_ORIGIN: Final = "*"
ANY_HOST: Final = "*"
_SOCKET_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
WRONG_HOST: Final = "This host name is not allowed; the server's allowed_hosts (--allow-host) decides"
_HOST: Final = re.compile(r"[A-Za-z0-9._\-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")


# -- errors --------------------------------------------------------------------


def error_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The one shape of an error body. `detail` is ours: nothing a client sent is quoted."""
    return JSONResponse({"detail": detail, "info": detail}, status, headers)


async def http_error(_request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405, …) in that shape."""
    if not isinstance(error, HTTPException):
        raise error
    return error_response(error.status_code, error.detail, error.headers)


class JsonErrors:
    """A handler that raises is answered with 500 and an error id; the log has the details under it.

    Inside `Cors`, unlike Starlette's own 500, so that a page on another origin may read the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            error_id = secrets.token_hex(4)
            log.exception("error %s: %s %s failed", error_id, scope["method"], _place(scope))
            if started:
                raise
            await error_response(500, f"Internal error {error_id}")(scope, receive, send)


# -- hosts ---------------------------------------------------------------------


def host_allowed(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether the request's Host is one of ours: a listed name, ``localhost``, or an address.

    An address is always good: no name service stands behind it, so nobody can have made it point here. A listed
    ``*.example.com`` is any name below it.
    """
    if ANY_HOST in allowed:
        return True
    host = headers.get("host", "")
    if _HOST.fullmatch(host) is None:
        return False
    name = (host if host.endswith("]") else re.sub(r":\d+$", "", host)).strip("[]").rstrip(".").lower()
    listed = {entry.strip("[]").lower() for entry in allowed}
    return name == "localhost" or _is_address(name) or name in listed or "*." + name.partition(".")[2] in listed


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class HostGuard:
    """400 (a WebSocket: 403) for a Host that is none of ours, whatever the path."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self.app = app
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or host_allowed(Headers(scope=scope), self.allowed):
            await self.app(scope, receive, send)
            return
        log.warning("refused %s under host %r", _place(scope), Headers(scope=scope).get("host", "")[:100])
        status = 400 if scope["type"] == "http" else 403
        await deny(scope, receive, send, error_response(status, WRONG_HOST))


# -- origins -------------------------------------------------------------------


def origin_allowed(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether a browser may come from where this request comes from: the page's own origin, or a listed one."""
    origin = headers.get("origin")
    if origin is None or ANY_ORIGIN in allowed or origin in allowed:
        return True
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # such as "http://["
        return False


class OriginGuard:
    """403 for what another site's page would change here. Reads are left to the browser, which enforces CORS."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self.app = app
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changes = scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in _SAFE_METHODS)
        if not changes or origin_allowed(Headers(scope=scope), self.allowed):
            await self.app(scope, receive, send)
            return
        detail = "This origin is not allowed; the server's allowed_origins (--origin) decides"
        log.warning("refused %s from origin %r", _place(scope), Headers(scope=scope).get("origin", "")[:100])
        await deny(scope, receive, send, error_response(403, detail))


async def deny(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    """Answer instead of the application; a WebSocket handshake too, where the server can (others send a bare 403)."""
    if scope["type"] == "http":
        await response(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})


class Cors(CORSMiddleware):
    """Starlette's, with a JSON body on a refused preflight."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        super().__init__(
            app, allow_origins=tuple(allowed), allow_methods=("GET", "POST", "OPTIONS"), allow_headers=("*",)
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        refused = error_response(answer.status_code, bytes(answer.body).decode())
        kept = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        refused.headers.update(kept)
        return refused


# -- requests ------------------------------------------------------------------


async def json_object(request: Request, limit_bytes: int) -> dict[str, Any]:
    """The body as a JSON object; anything else that fits is an empty one (pipecat-ai 1.14.0's runner, observed).

    Raises `HTTPException` 413 above `limit_bytes`.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise HTTPException(413, f"The body is larger than {limit_bytes} bytes")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def websocket_url(connection: HTTPConnection, path: str) -> str:
    """This application's `path` as the client reaches it: its own Host, scheme and mount point.

    Raises `HTTPException` 400 for a Host header that is none.
    """
    host = connection.headers.get("host", "") or connection.url.netloc
    if _HOST.fullmatch(host) is None:
        raise HTTPException(400, "The Host header is not a host")
    scheme = _SOCKET_SCHEMES[connection.scope.get("scheme", "http")]
    return f"{scheme}://{host}{connection.scope.get('root_path', '')}{path}"


def _place(scope: Scope) -> str:
    """The first part of the path, for the log: what follows may be a token."""
    path: str = scope["path"]
    return "/" + path.lstrip("/").partition("/")[0]
