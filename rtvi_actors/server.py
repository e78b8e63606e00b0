"""The app people run, or mount: the page, `/start`, the WebSocket, inspection.

``rtvi_actors.asgi(MyBot)`` is a Starlette application for any ASGI server. Its lifespan owns one actor system. Mounted
in another app, whose server calls no lifespan of ours, every session runs in a system of its own, opened and closed
with the connection: nothing has to be stopped later. To share one system there, hand one over in the options.

=========================== =========================================================================================
``GET /``                   our page
``GET /client/``            the ecosystem's prebuilt page, where installed
``POST /start`` `/connect`  ``{"wsUrl"}``, and ``"token"`` where tokens are required (PROTOCOL.md 3.1)
``GET /status`` `/healthz`  ready, transports; sessions open
``WS /ws`` `/ws-client`     RTVI, both dialects
``POST /files``             an upload; answers the File for a `send-file` (web/uploads.py)
``POST /sessions/ID/files`` the same, for that session alone, and gone with it
``GET /inspect``            every actor, as a tree
``POST /inspect/NAME/kill`` crash one, and see it come back (`demo` only)
=========================== =========================================================================================

**Uploads.** `/start` cannot say where to (websocket-transport 1.7.1 refuses keys that it does not know): it is
``/files``, beside `/start`, for whoever may start. Where tokens are required, an upload shows one, as ``Bearer`` or as
``?token=``: from `/start` until the session ends that it opens, and an upload does not use it up. ID is such a token,
also before its session is there; or, where none are required, the id of a session that is open (`Session.id`), which
its bot may tell its client.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import anyio
import msgspec
import pykka
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from rtvi_actors.bot import Bot
from rtvi_actors.errors import Crash
from rtvi_actors.files import MAX_BYTES, FileStore
from rtvi_actors.inspection import tree
from rtvi_actors.protocol.codec import encode_server
from rtvi_actors.protocol.server import Error
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.registry import statistics
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.session import SessionOptions, open_session
from rtvi_actors.streams import ServerText
from rtvi_actors.transports.asgi import PLAYING_RATE_HZ, WebSocketTransport
from rtvi_actors.transports.serializers import MAX_IN_BYTES
from rtvi_actors.web import http
from rtvi_actors.web.pages import page_routes, prebuilt_routes
from rtvi_actors.web.tickets import Tickets, session_id_of
from rtvi_actors.web.uploads import Refused, Uploads

__all__ = ["BotFactory", "ServerOptions", "asgi"]

log = logging.getLogger("rtvi_actors.server")

BotFactory: TypeAlias = Callable[[], Bot]
"""Called once a session: the bot's class, or anything that makes one."""

SOCKET_PATHS: Final = ("/ws", "/ws-client")
TRANSPORT: Final = "websocket"
NO_TOKEN: Final = "A token from POST /start is needed, each for one connection"  # noqa: S105
NO_SESSION: Final = "No session has this id"
FULL: Final = "This server holds as many sessions as it may; try again later"
INTERNAL_CLOSE: Final = 1011
TRY_AGAIN_CLOSE: Final = 1013
LISTEN_S: Final = 1.0
"""How long a refused client may take to send the first message, which shows the dialect to refuse it in."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What a host may decide."""

    session: SessionOptions = field(default_factory=SessionOptions)
    system: ActorSystem | None = None
    """A running system to use, and not to close; `None`: one of its own."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of other sites whose pages may connect, beside the page's own; ``("*",)``: all."""
    allowed_hosts: tuple[str, ...] = (http.ANY_HOST,)
    """Names that this server is reached under, beside ``localhost`` and addresses, which always are its own.

    ``("*",)``, all, is for an app that stands behind a host that checks names itself. Anything else should list them:
    a page of a site whose name points at this machine (DNS rebinding) otherwise counts as the server's own, and the
    origin check is passed. ``rtvi-actors serve`` lists what ``--host`` and ``--allow-host`` say.
    """
    require_token: bool = False
    """Whether the WebSocket asks for the one-use token that ``/start`` then gives."""
    max_sessions: int = 100
    ready_timeout_s: float = 30.0
    """How long a client may take to its client-ready: one that never says it would hold a session's place for ever."""
    max_body_bytes: int = 64 * 1024
    max_in_bytes: int = MAX_IN_BYTES
    """The largest message taken from a client."""
    playing_rate_hz: int = PLAYING_RATE_HZ
    """What protobuf clients play."""
    uploads: bool = True
    """Whether to take uploads for a bot that takes files (`Bot.accepts_files`), as far as the policy `session.files`
    takes them: into `session.file_store`, or, where that is `None`, into a store of the server's own."""
    max_files_bytes: int = MAX_BYTES
    """All files in that store together: in memory, and those above 1 MiB in the temporary directory, each for an hour
    at most. A store that you make has more to choose."""
    max_uploads: int = 8
    """Uploads at once."""
    upload_timeout_s: float = 120.0
    """How long one may take."""
    page: bool = True
    """Whether to serve the pages: ``/`` and ``/client/``."""
    inspect: bool = True
    """Whether to serve ``/inspect``: names and counts, no payloads. It asks for no token: whoever reaches the server
    may read it, so leave it out where that is everybody."""
    demo: bool = False
    """Whether actors may be crashed from the page, under a host name that `allowed_hosts` lists (``*`` lists none), on
    ``localhost`` or an address. Never in production."""


def asgi(bot_factory: BotFactory, *, options: ServerOptions | None = None) -> Starlette:
    """The application. Run it, or mount it: ``other_app.mount("/voice", asgi(MyBot))``."""
    return _Server(bot_factory, options or ServerOptions()).app()


class _Server:
    def __init__(self, bot_factory: BotFactory, options: ServerOptions) -> None:
        self._bot_factory = bot_factory
        self._options = options
        self._session_options = _with_store(options)
        self._system = options.system
        self._tickets = Tickets()
        self._sessions: set[str] = set()
        """The ids of those that are open."""
        self._uploads = Uploads(
            self._session_options.file_store if options.uploads and _takes_files(bot_factory) else None,
            options.session.files,
            timeout_s=options.upload_timeout_s,
            max_at_once=options.max_uploads,
        )

    def app(self) -> Starlette:
        origins = self._options.allowed_origins
        middleware = [
            Middleware(http.Cors, allowed=origins),
            Middleware(http.JsonErrors),
            Middleware(http.HostGuard, allowed=self._options.allowed_hosts),
            Middleware(http.OriginGuard, allowed=origins),
        ]
        return Starlette(
            routes=self._routes(),
            middleware=middleware,
            exception_handlers={HTTPException: http.http_error},
            lifespan=self._lifespan,
        )

    def _routes(self) -> list[BaseRoute]:
        options = self._options
        routes: list[BaseRoute] = [WebSocketRoute(path, _Connect(self)) for path in SOCKET_PATHS]
        routes += [Route(path, self._start, methods=["POST"]) for path in ("/start", "/connect")]
        routes += [Route(path, self._upload, methods=["POST"]) for path in ("/files", "/sessions/{id}/files")]
        routes += [Route("/status", self._status), Route("/healthz", self._health)]
        if options.inspect:
            routes.append(Route("/inspect", self._inspect))
        if options.demo:
            routes.append(Route("/inspect/{name:path}/kill", self._kill, methods=["POST"]))
        if options.page:
            routes += [*page_routes(), *prebuilt_routes()]
        return routes

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        if self._options.system is not None:
            yield
            return
        async with ActorSystem() as system:
            self._system = system
            try:
                yield
            finally:
                self._system = None

    # -- HTTP ------------------------------------------------------------------

    async def _start(self, request: Request) -> Response:
        """Where to connect. Exactly these keys: websocket-transport 1.7.1 refuses any other (PROTOCOL.md 3.1)."""
        body = await http.json_object(request, self._options.max_body_bytes)
        if body.get("transport") not in (None, TRANSPORT):
            raise HTTPException(400, f"This server has one transport: {TRANSPORT}")
        if self._full:
            raise HTTPException(503, FULL, {"retry-after": "5"})
        answer = {"wsUrl": http.websocket_url(request, SOCKET_PATHS[0])}
        if self._options.require_token:
            answer["token"] = self._tickets.issue()
        return JSONResponse(answer)

    async def _upload(self, request: Request) -> Response:
        return await self._uploads.answer(request, lambda: self._admit(request))

    def _admit(self, request: Request) -> str | None:
        """For which session an upload is; `None`: any. Raises `Refused`."""
        name = request.path_params.get("id")
        if name is None:
            if self._options.require_token and not any(map(self._is_good, _tokens(request))):
                raise Refused(403, NO_TOKEN)
            return None
        if self._is_good(name):
            return session_id_of(name)
        if name in self._sessions and not self._options.require_token:
            return str(name)
        raise Refused(404, NO_SESSION)

    def _is_good(self, token: str) -> bool:
        """Whether a token opens a session, or has opened one that is still there."""
        return self._tickets.holds([token]) or session_id_of(token) in self._sessions

    async def _status(self, _request: Request) -> Response:
        return JSONResponse({"status": "ready", "transports": [TRANSPORT]})

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "sessions": len(self._sessions)})

    async def _inspect(self, _request: Request) -> Response:
        answer = {"demo": self._options.demo, "sessions": len(self._sessions), "actors": tree(statistics())}
        return Response(msgspec.json.encode(answer), media_type="application/json", headers=_UNCACHED)

    async def _kill(self, request: Request) -> Response:
        """Crash an actor as a failing handler would. One that nobody supervises would not come back: refused."""
        named = [name for name in self._options.allowed_hosts if name != http.ANY_HOST]
        if not http.host_allowed(request.headers, named):
            raise HTTPException(400, http.WRONG_HOST)
        cells = [ref.cell for ref in pykka.ActorRegistry.get_all() if isinstance(ref, ActorRef)]
        cell = next((cell for cell in cells if cell.name == request.path_params["name"]), None)
        if cell is None:
            raise HTTPException(404, "No actor has this name")
        if cell.parent is None or cell.state != "running":
            raise HTTPException(409, "Only a running, supervised actor can be crashed")
        ActorSystem.crash(cell.ref, Crash("crashed from the demo page"))
        return JSONResponse({"crashed": cell.name}, 202)

    # -- WebSocket -------------------------------------------------------------

    @property
    def _full(self) -> bool:
        return len(self._sessions) >= self._options.max_sessions

    async def connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from handshake to close."""
        tokens = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        token = next((token for token in tokens if self._tickets.holds([token])), None)
        if self._options.require_token and token is None:
            refusal = http.error_response(403, NO_TOKEN)
            await http.deny(scope, receive, send, refusal)
            return
        options = self._options
        transport = WebSocketTransport(
            scope, receive, send, playing_rate_hz=options.playing_rate_hz, max_in_bytes=options.max_in_bytes
        )
        if self._full:
            await _turn_away(transport)  # its token stays good for another try
            return
        self._tickets.use(tokens)
        session_id = session_id_of(token or secrets.token_hex())
        self._sessions.add(session_id)
        try:
            await self._serve(transport, session_id)
        finally:
            self._sessions.remove(session_id)

    async def _serve(self, transport: WebSocketTransport, session_id: str) -> None:
        try:
            await transport.accept()
            bot = self._bot_factory()
            async with open_session(
                bot, transport, options=self._session_options, system=self._system, session_id=session_id
            ) as session:
                with anyio.move_on_after(self._options.ready_timeout_s):
                    await session.wait_client_ready()
                if not session.client_is_ready:
                    session.close("no client-ready")
                await session.wait_closed()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            log.debug("a client left during the handshake")
        except Exception:
            log.exception("a session failed")
            await transport.aclose("internal error", INTERNAL_CLOSE)


class _Connect:
    """A WebSocket route that is an ASGI application: Starlette's own wrapper costs a layer per message."""

    def __init__(self, server: _Server) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._server.connect(scope, receive, send)


def _takes_files(bot_factory: BotFactory) -> bool:
    """Of what a function will make, nobody knows."""
    return bot_factory.accepts_files if isinstance(bot_factory, type) and issubclass(bot_factory, Bot) else True


def _with_store(options: ServerOptions) -> SessionOptions:
    """The sessions' options, with somewhere to put uploads."""
    if options.session.file_store is not None or not options.uploads:
        return options.session
    store = FileStore(max_bytes=options.max_files_bytes)
    return msgspec.structs.replace(options.session, file_store=store)


def _tokens(request: Request) -> list[str]:
    """What an upload shows."""
    kind, _, shown = request.headers.get("authorization", "").partition(" ")
    return [*request.query_params.getlist("token"), *([shown.strip()] if kind.lower() == "bearer" else [])]


async def _turn_away(transport: WebSocketTransport) -> None:
    """Say why in the client's own dialect, then close with 1013 (RFC 6455's registry: try again later)."""
    try:
        await transport.accept()
        with anyio.move_on_after(LISTEN_S):
            await transport.receive()
            await transport.send([ServerText(encode_server(Error.of(FULL, fatal=True)))])
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        log.debug("a client left before it was turned away")
    await transport.aclose(FULL, TRY_AGAIN_CLOSE)


_UNCACHED: Final[dict[str, Any]] = {"cache-control": "no-store"}
