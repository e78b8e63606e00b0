"""What every test gets: both event loops, patience instead of deadlines, and a check that it left nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import hypothesis
import pykka
import pytest

THREAD_ENDS_S = 5.0
"""How long a thread that a test started may take to end after it."""

KEPT_THREADS = ("Trio thread", "AnyIO worker thread")
"""Workers that a library keeps for the next task and ends itself."""

# No deadlines: a slow machine is no bug (no timed assertions). `print_blob` gives the command to replay a failure.
hypothesis.settings.register_profile("rtvi", deadline=None, print_blob=True)
hypothesis.settings.load_profile("rtvi")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every `@pytest.mark.anyio` test runs on asyncio and on trio; a test that means only one overrides this."""
    return str(request.param)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves an actor or a thread (fixtures of a wider scope may keep theirs)."""
    actors = set(pykka.ActorRegistry.get_all())
    threads = set(threading.enumerate())
    yield
    left = [str(ref) for ref in pykka.ActorRegistry.get_all() if ref not in actors]
    if left:
        pykka.ActorRegistry.stop_all(block=False)
    running = _still_running(threads)
    assert not left, f"actors left behind: {left}"
    assert not running, f"threads left behind: {running}"


def _still_running(before: set[threading.Thread]) -> list[str]:
    """The names of threads that started since and do not end."""
    started = [
        thread for thread in threading.enumerate() if thread not in before and not thread.name.startswith(KEPT_THREADS)
    ]
    for thread in started:
        thread.join(THREAD_ENDS_S)
    return [thread.name for thread in started if thread.is_alive()]
