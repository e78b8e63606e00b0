"""Static files: our own page at ``/``, the ecosystem's prebuilt client at ``/client/`` where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from rtvi_actors.web.http import error_response

__all__ = ["page_routes", "prebuilt_directory", "prebuilt_routes"]

_ASSETS: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
_HEADERS: Final = {
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # blob: is the microphone's AudioWorklet, which the one script makes; the WebSocket may be another server's.
    "content-security-policy": (
        "default-src 'none'; script-src 'self' blob:; worker-src blob:; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
}
_NO_PREBUILT: Final = "The prebuilt client is not installed: pip install rtvi-actors[prebuilt]"


def page_routes() -> list[BaseRoute]:
    """``/`` and the two files that it loads, read once."""
    return [Route(path, _asset(name, media_type)) for path, (name, media_type) in _ASSETS.items()]


def _asset(name: str, media_type: str) -> Callable[[Request], Response]:
    content = files("rtvi_actors.web").joinpath(name).read_bytes()

    def respond(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return respond


def prebuilt_directory() -> Path | None:
    """Where `pipecat-ai-prebuilt` keeps its built page (1.3.0: ``client/dist``).

    Found without importing it: its module prints, and needs FastAPI.
    """
    spec = find_spec("pipecat_ai_prebuilt")
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent / "client" / "dist"
    return directory if directory.is_dir() else None


def prebuilt_routes() -> list[BaseRoute]:
    """``/client/``, and the way there from ``/client``."""
    directory = prebuilt_directory()
    if directory is None:
        return [Route("/client", _no_prebuilt), Route("/client/{path:path}", _no_prebuilt)]
    return [Route("/client", _to_client), Mount("/client", StaticFiles(directory=directory, html=True))]


async def _no_prebuilt(_request: Request) -> Response:
    return error_response(404, _NO_PREBUILT)


async def _to_client(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/client/")
