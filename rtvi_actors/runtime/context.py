"""Who is running, on this thread and in this task.

Two questions, two answers. A *synchronous* handler runs with `LOCAL.stage` set to a list: everything it sends is put
there and leaves when it returns (DESIGN.md 6.2, all or nothing). An *asynchronous* handler runs in a task whose context
holds its `Worker` in `CURRENT`: once the worker is fenced, everything it sends is refused.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

from rtvi_actors.errors import Fenced

__all__ = [
    "CURRENT",
    "LOCAL",
    "Effect",
    "Running",
    "Sources",
    "check_fence",
    "commit",
    "later",
    "new_uuid",
    "savepoint",
    "wall_time_s",
]

Effect: TypeAlias = tuple[Callable[[Any], object], Any]


class Running(Protocol):
    """What the runtime knows of the task that runs."""

    fenced: bool
    actor: Any
    group: Any
    job: Any


class Sources:
    """Where chance and the time of day come from. A simulation sets its own, for its thread (`LOCAL.sources`)."""

    random: random.Random = random.SystemRandom()
    """Jitter."""

    @staticmethod
    def uuid() -> uuid.UUID:
        return uuid.uuid4()

    @staticmethod
    def wall_time_s() -> float:
        """Seconds since the epoch."""
        return time.time()


class _Local(threading.local):
    sources: Sources = Sources()
    stage: list[Effect] | None = None
    """Effects of the synchronous handler that runs on this thread, in order; `None` when none runs."""
    actor: Any = None
    """The actor whose synchronous handler runs on this thread."""


LOCAL = _Local()
CURRENT: ContextVar[Running | None] = ContextVar("rtvi_actors_current", default=None)


def new_uuid() -> uuid.UUID:
    """Of an actor, a session."""
    return LOCAL.sources.uuid()


def wall_time_s() -> float:
    """The time of day, in seconds since the epoch."""
    return LOCAL.sources.wall_time_s()


def check_fence() -> None:
    """Raise `Fenced` in a task whose actor has given it up."""
    running = CURRENT.get()
    if running is not None and running.fenced:
        raise Fenced("the actor has been restarted, or has given up on this handler")


def later(effect: Callable[[Any], object], argument: Any) -> None:
    """Do `effect(argument)` when the running synchronous handler has returned, or now where none runs."""
    stage = LOCAL.stage
    if stage is not None:
        stage.append((effect, argument))
    else:
        check_fence()
        effect(argument)


def commit() -> None:
    """Let what the running handler has sent leave now.

    It is about to block for an answer (only in a `ThreadingActor`).
    """
    stage = LOCAL.stage
    while stage:
        effect, argument = stage.pop(0)
        effect(argument)


def savepoint() -> Callable[[], None]:
    """What the returned function takes back: everything staged since. For a handler that contains another's failure."""
    stage = LOCAL.stage
    mark = len(stage) if stage is not None else 0

    def rollback() -> None:
        if stage is not None:
            del stage[mark:]

    return rollback
