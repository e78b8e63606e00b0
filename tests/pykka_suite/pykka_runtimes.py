"""A pytest plugin: puts this package's runtime in the place of pykka's own while pykka's tests run.

It is imported by itself, not as one of our tests: in that process `tests` is pykka's package. pykka's `conftest.py`
gives its tests the runtime by two fixtures, `runtime` and `events`; ours take their place before pytest has read them.
Tests that use neither try pykka, not a runtime, and are left out. What differs on purpose is in `deviations.json`, and
only that may fail, only with the error named there, and then must.
"""

from __future__ import annotations

import builtins
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from unittest import mock

import pykka
import pytest

from rtvi_actors import errors
from rtvi_actors.runtime.actor import AnyioActor, current_actor, current_host
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.system import start_blocking_system
from rtvi_actors.runtime.threads import ThreadingActor

__all__ = [
    "DEVIATIONS",
    "RUNTIMES",
    "EndEvent",
    "Events",
    "Mocker",
    "Runtime",
    "events",
    "mocker",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_plugin_registered",
    "runtime",
]

DEVIATIONS = Path(__file__).with_name("deviations.json")

RUNTIMES: dict[str, tuple[type[AnyioActor], Literal["asyncio", "trio"]]] = {
    "asyncio": (AnyioActor, "asyncio"),
    "trio": (AnyioActor, "trio"),
    "threads": (ThreadingActor, "asyncio"),
}
"""Name → the actor class, and the event loop of its system."""


class Runtime(NamedTuple):
    """What pykka's tests ask of a runtime (pykka 4.5, `tests/types.py`)."""

    name: str
    actor_class: type[AnyioActor]
    event_class: type[threading.Event]
    future_class: type[ActorFuture[Any]]
    sleep_func: Callable[[float], None]


class EndEvent(threading.Event):
    """Set by the last hook of an actor; whoever waits for it waits for that actor's end, too.

    pykka ends an actor just before `on_stop` and `on_failure`, and its tests look for the end as soon as the hook has
    begun. Here the hook runs first, as pykka's documentation has it ("before the actor stops"): the end comes after it,
    in a turn of the loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ending: ActorRef[Any] | None = None

    def set(self) -> None:
        actor = current_actor()
        self._ending = actor.ref if actor is not None else None
        super().set()

    def wait(self, timeout: float | None = None) -> bool:
        if not super().wait(timeout):
            return False
        if self._ending is not None:
            self._ending.actor_stopped.wait(timeout)
            current_host().run_on_loop(lambda: None)  # the registry forgets it in the same turn
        return True


class Events(NamedTuple):
    """What pykka's actors in the tests set (pykka 4.5, `tests/types.py`)."""

    on_start_was_called: threading.Event
    on_stop_was_called: threading.Event
    on_failure_was_called: threading.Event
    greetings_was_received: threading.Event
    actor_registered_before_on_start_was_called: threading.Event


class Mocker:
    """What pykka's tests use of pytest-mock, which is no dependency of ours: mocks, and patches that the test's end
    undoes.
    """

    Mock = mock.Mock
    MagicMock = mock.MagicMock
    NonCallableMock = mock.NonCallableMock

    def __init__(self, undone: ExitStack) -> None:
        self._undone = undone
        self.patch = SimpleNamespace(object=self._patch_object)

    def _patch_object(self, target: object, name: str, **options: Any) -> Any:
        return self._undone.enter_context(mock.patch.object(target, name, **options))


@pytest.fixture(scope="session")
def runtime(pytestconfig: pytest.Config) -> Iterator[Runtime]:
    """The runtime under test, on a system that runs in a thread of its own."""
    name = str(pytestconfig.getoption("runtime"))
    actor_class, backend = RUNTIMES[name]
    with start_blocking_system(backend=backend):
        yield Runtime(name, actor_class, threading.Event, ActorFuture, time.sleep)
    left = [str(ref) for ref in pykka.ActorRegistry.get_all()]
    assert not left, f"actors left behind: {left}"


@pytest.fixture
def events(runtime: Runtime) -> Events:
    return Events(threading.Event(), EndEvent(), EndEvent(), threading.Event(), threading.Event())


@pytest.fixture
def mocker() -> Iterator[Mocker]:
    with ExitStack() as undone:
        yield Mocker(undone)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runtime", choices=list(RUNTIMES), required=True, help="the runtime under test")


@pytest.hookimpl(tryfirst=True)
def pytest_plugin_registered(plugin: object) -> None:
    """Before pytest reads the fixtures of pykka's conftest."""
    if hasattr(plugin, "RUNTIMES") and hasattr(plugin, "events"):
        vars(plugin).update(runtime=runtime, events=events)


@pytest.hookimpl(tryfirst=True)  # before -k leaves out what is listed
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what tries no runtime of ours, and mark what differs on purpose."""
    ours = [item for item in items if "runtime" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours
    listed = _listed()
    unknown = listed.keys() - {item.nodeid for item in ours}
    if unknown:
        raise pytest.UsageError(f"{DEVIATIONS.name} names tests that pykka does not have: {sorted(unknown)}")
    for item in ours:
        if item.nodeid in listed:
            item.add_marker(listed[item.nodeid])


def _listed() -> dict[str, pytest.MarkDecorator]:
    """The test's id → how it fails."""
    return {
        test: pytest.mark.xfail(strict=True, reason=deviation["reason"], raises=_error(deviation["raises"]))
        for deviation in json.loads(DEVIATIONS.read_text(encoding="utf-8"))["deviations"]
        for test in deviation["tests"]
    }


def _error(name: str) -> type[BaseException]:
    kind: type[BaseException] = getattr(errors, name, None) or getattr(builtins, name)
    return kind
