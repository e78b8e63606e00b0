"""``rtvi-actors``: serve a bot, look at its actors, talk to it. Needs the `server` extra."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect as introspection
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, cast
from urllib.error import URLError
from urllib.request import urlopen

import msgspec
import typer
import uvicorn
from rich.console import Console
from rich.table import Table

from rtvi_actors.client import ConnectionLost, Event, RtviClient
from rtvi_actors.files import MAX_BYTES as MAX_FILES_BYTES
from rtvi_actors.inspection import ActorNode
from rtvi_actors.inspection.text import short_name
from rtvi_actors.protocol.files import MAX_BYTES as MAX_FILE_BYTES
from rtvi_actors.protocol.files import FilePolicy
from rtvi_actors.redaction import redact
from rtvi_actors.server import ServerOptions, asgi
from rtvi_actors.session import SessionOptions
from rtvi_actors.web.http import ANY_ORIGIN

__all__ = ["app", "load_bot", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="RTVI for any Python bot.")

MAX_FRAME_BYTES: Final = 4 << 20
"""Above the largest message taken, so that one too large is refused and not the end of the call."""
FILE_MIB: Final = FilePolicy().max_bytes >> 20
FILES_MIB: Final = MAX_FILES_BYTES >> 20
FETCH_TIMEOUT_S: Final = 5.0
TURN_TIMEOUT_S: Final = 60.0
SHUTDOWN_S: Final = 5
STARTUP_FAILED: Final = 3
"""uvicorn's own exit code for it."""


def main() -> None:
    """The console script."""
    app()


# -- serve ---------------------------------------------------------------------


@app.command()
def serve(
    bot: Annotated[str, typer.Argument(metavar="MODULE:BOT", help="my_package.bot:MyBot or path/to/bot.py:MyBot")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 7860,
    demo: Annotated[bool, typer.Option("--demo", help="Let the page crash actors.")] = False,
    origin: Annotated[list[str] | None, typer.Option(help="Let pages of this origin connect; repeatable.")] = None,
    open_origins: Annotated[bool, typer.Option("--open-origins", help="Let pages of any site connect.")] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that this server is reached under; repeatable. Addresses and localhost always are."),
    ] = None,
    require_token: Annotated[bool, typer.Option("--require-token", help="Connect only through /start.")] = False,
    uploads: Annotated[bool, typer.Option(help="Take files at POST /files.")] = True,
    max_file_mib: Annotated[int, typer.Option(min=1, max=MAX_FILE_BYTES >> 20, help="The largest file.")] = FILE_MIB,
    max_files_mib: Annotated[int, typer.Option(min=1, help="All files that are kept, together.")] = FILES_MIB,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error")] = "info",
) -> None:
    """Serve a bot: web page, RTVI over WebSocket, inspection."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addFilter(_mask)
    with _refusing(ImportError, AttributeError, TypeError, FileNotFoundError):
        factory = load_bot(bot)
    options = ServerOptions(
        demo=demo,
        require_token=require_token,
        allowed_origins=(ANY_ORIGIN,) if open_origins else tuple(origin or ()),
        allowed_hosts=(host, *(allow_host or ())),
        uploads=uploads,
        session=SessionOptions(files=FilePolicy(max_bytes=max_file_mib << 20)),
        max_files_bytes=max_files_mib << 20,
    )
    config = uvicorn.Config(
        asgi(factory, options=options),
        host=host,
        port=port,
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # audio does not shrink, and a small frame cannot unfold into a large one
        loop="auto",  # uvloop where installed
        log_config=None,
        log_level=log_level.lower(),
        access_log=log_level.lower() == "debug",
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    server = _Announcing(config)
    with _refusing(OSError), _listening(host, port) as listener, suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(STARTUP_FAILED)


def _mask(record: logging.LogRecord) -> bool:
    """uvicorn names each WebSocket with its query string, where the token is."""
    record.msg, record.args = redact(record.getMessage()), None
    return True


class _Announcing(uvicorn.Server):
    """Prints its address when it accepts connections, not before: whoever reads the line may connect at once."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"Serving on http://{shown}:{port}", flush=True)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        yield listener


def load_bot(target: str) -> Callable[[], Any]:
    """The bot that ``MODULE:BOT`` names; MODULE is a module on the path, or a file.

    Raises `ImportError`, `FileNotFoundError`, `AttributeError`, or `TypeError` when it is nothing to call.
    """
    module_name, _, attribute = target.rpartition(":")
    if not module_name or not attribute:
        raise ImportError(f"{target!r} is not of the form MODULE:BOT")
    found: Any = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    for name in attribute.split("."):
        found = getattr(found, name)
    if not callable(found) or introspection.iscoroutinefunction(found):
        raise TypeError(f"{target} is neither a bot's class nor a function that makes one")
    return cast("Callable[[], Any]", found)


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _refusing(*kinds: type[Exception]) -> Iterator[None]:
    """One line instead of a traceback for what the user can mend; exit code 1."""
    try:
        yield
    except kinds as error:
        typer.echo(f"rtvi-actors: {error}", err=True)
        raise typer.Exit(1) from error


# -- inspect -------------------------------------------------------------------


class _Inspection(msgspec.Struct):
    actors: tuple[ActorNode, ...]
    sessions: int = 0


@app.command()
def inspect(url: Annotated[str, typer.Argument(help="http://127.0.0.1:7860")] = "http://127.0.0.1:7860") -> None:
    """Show the actors of a running server."""
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter("the address starts with http:// or https://")
    with _refusing(URLError, TimeoutError, msgspec.DecodeError):
        found = _fetch(f"{url.rstrip('/')}/inspect")
    table = Table(title=f"{found.sessions} sessions", box=None, title_justify="left")
    table.add_column("actor")
    table.add_column("class")
    table.add_column("state")
    for heading in ("depth", "handled", "failed", "dropped", "restarts"):
        table.add_column(heading, justify="right")
    _add_rows(table, found.actors, "", 0)
    Console().print(table)


def _fetch(url: str) -> _Inspection:
    with urlopen(url, timeout=FETCH_TIMEOUT_S) as answer:  # noqa: S310  the scheme is checked above
        return msgspec.json.decode(answer.read(), type=_Inspection)


def _add_rows(table: Table, nodes: tuple[ActorNode, ...], parent: str, level: int) -> None:
    for node in nodes:
        colour = "green" if node.state == "running" else "yellow"
        counts = (node.depth, node.handled, node.failed, node.dropped, node.restarts)
        name = "  " * level + short_name(node.name, parent)
        table.add_row(name, node.class_name, f"[{colour}]{node.state}", *map(str, counts))
        _add_rows(table, node.children, node.name, level + 1)


# -- chat ----------------------------------------------------------------------


@app.command()
def chat(
    url: Annotated[str, typer.Argument(help="ws://host:port/ws or http://host:port")] = "http://127.0.0.1:7860",
    turn_timeout_s: Annotated[float, typer.Option(help="How long the bot may take for an answer.")] = TURN_TIMEOUT_S,
) -> None:
    """Talk to a bot by text: a line in, an answer out. Reads standard input, so it works in a pipe too."""
    with _refusing(OSError, TimeoutError, ConnectionLost), _interruptible():
        asyncio.run(_chat(url, turn_timeout_s))


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo()


async def _chat(url: str, turn_timeout_s: float) -> None:
    prompt = "you: " if sys.stdin.isatty() else ""
    async with RtviClient.connect(url, audio=False) as client:
        lines = _Lines()
        while line := await lines.read(prompt):
            if not line.strip():
                continue
            await client.send_text(line.strip())
            async with asyncio.timeout(turn_timeout_s):
                await _print_turn(client)


class _Lines:
    """Standard input without blocking the loop, on a daemon thread: Ctrl-C need not wait for a last line."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wanted = threading.Semaphore(0)
        self._line: asyncio.Future[str] = self._loop.create_future()
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    async def read(self, prompt: str) -> str:
        """The next line; empty at the end."""
        print(prompt, end="", flush=True)
        self._line = self._loop.create_future()
        self._wanted.release()
        return await self._line

    def _run(self) -> None:
        while self._wanted.acquire():
            line = sys.stdin.readline()
            with suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._deliver, line)

    def _deliver(self, line: str) -> None:
        if not self._line.done():
            self._line.set_result(line)


async def _print_turn(client: RtviClient) -> None:
    """Print the answer as it comes, on one line. Raises `ConnectionLost`."""
    print("bot: ", end="", flush=True)
    async for event in client:
        if not isinstance(event, Event):
            continue
        match event.type:
            case "bot-llm-text":
                print(event.data["text"], end="", flush=True)
            case "bot-llm-stopped":
                print(flush=True)
                return
            case "error" | "error-response":
                print(f"[{event.data['error']}]", flush=True)
                return
    raise ConnectionLost("the bot has left")


if __name__ == "__main__":
    main()
