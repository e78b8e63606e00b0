"""A real server on a loopback port of its own choice, for tests that need sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn

START_LIMIT_S = 20.0


class _Signalling(uvicorn.Server):
    """Says when it accepts connections, so that no test has to guess."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


@contextmanager
def serving(app: object, *, lifespan: str = "auto") -> Iterator[str]:
    """Run an ASGI app in a thread; yields ``127.0.0.1:port``. The server has stopped when the block is left."""
    config = uvicorn.Config(
        cast("Any", app),
        ws="websockets-sansio",
        lifespan=cast("Any", lifespan),
        log_level="critical",
        timeout_graceful_shutdown=5,
    )
    server = _Signalling(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="uvicorn")
    thread.start()
    try:
        assert server.accepting.wait(START_LIMIT_S), "the server did not start"
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
