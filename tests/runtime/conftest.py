"""The runtime runs on three event loops, and every test proves that it leaves no task on any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import Book

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
async def system() -> AsyncIterator[ActorSystem]:
    """An open system; afterwards no actor and no task of it may be left."""
    async with ActorSystem() as opened:
        yield opened
    assert len(opened.registry) == 0
    # The system's tasks are all named; asyncio's own are "Task-1" and so on, the test runner's among them.
    left = [name for task in anyio.get_running_tasks() if ":" in (name := str(task.name)) or "rtvi" in name]
    assert not left, f"tasks left behind: {left}"
