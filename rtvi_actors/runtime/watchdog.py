"""The watchdog: who holds the event loop.

A synchronous handler cannot be interrupted, and neither can what an asynchronous one does between two awaits; while it
runs no other actor does, nor any timer. A thread asks the loop for a sign of life a few times a second. Where none
comes it reads the stack of the loop's thread, finds the actor in it, and tells the log and whoever has subscribed.

A handler costs nothing for this: the frames of the runtime's own functions, which are on that stack anyway, say whose
handler it is, on every event loop.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import msgspec

from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.groups import Job, JobOwner, _Worker
from rtvi_actors.runtime.mailbox import Letter

__all__ = ["BEAT_S", "OVERSLEPT_S", "StuckHandler", "StuckReports", "Watchdog", "letter_type", "watching"]

logger = logging.getLogger("rtvi_actors.runtime")

BEAT_S: Final = 0.25
"""The pause between two heartbeats: an idle loop is woken four times a second at the most."""
OVERSLEPT_S: Final = 1.0
"""A watchdog that wakes this much too late was itself kept from running, by a suspended machine or a stopped process:
the loop then gets its time anew."""


class StuckHandler(msgspec.Struct, frozen=True):
    """A handler that runs for longer than it may."""

    actor: str
    """Its name; "?" where the event loop is held by something that is no actor's."""
    message: str
    """The message's type, or the job's method; empty in a hook."""
    age_s: float
    """How long the event loop has given no sign of life; of a `ThreadingActor`, how long the handler has run."""
    stack: str
    """Of the thread, the innermost call last, as a traceback prints it."""


class StuckReports:
    """Who is told of stuck handlers, and how many there were. From any thread."""

    def __init__(self) -> None:
        self.count = 0
        self._sinks: list[Callable[[StuckHandler], None]] = []

    def subscribe(self, sink: Callable[[StuckHandler], None]) -> Callable[[], None]:
        """Have `sink` called with every report, on the watchdog's thread: the loop itself is stuck. A
        `ThreadingActor`'s come on the loop's thread. What it raises is logged. Returns the unsubscriber.
        """
        self._sinks.append(sink)
        return lambda: self._sinks.remove(sink)

    def tell(self, report: StuckHandler) -> None:
        """Count a report and hand it to all. Never raises."""
        self.count += 1
        for sink in tuple(self._sinks):
            try:
                sink(report)
            except BaseException as error:
                logger.error("a subscriber of stuck handlers failed", exc_info=error)


class Watchdog:
    """A daemon thread that wants to hear from one event loop, from `start` to `end`.

    One hold is told once it is `watchdog_s` old, and again whenever its age has doubled. The age counts from the
    heartbeat that the hold keeps waiting, so it is up to `BEAT_S` less than the handler's. A C function that keeps the
    interpreter to itself holds up this thread as well, and is not seen.
    """

    def __init__(
        self,
        backend: Backend,
        watchdog_s: float,
        report: Callable[[StuckHandler], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._watchdog_s = watchdog_s
        self._report = report
        self._now = now
        self._changed = threading.Condition()
        self._alive = False
        """Whether the loop has answered the last heartbeat."""
        self._ended = False
        self._thread = threading.Thread(target=self._main, name="rtvi-actors watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Ask the thread to end; nobody waits for it, as a sink may be waiting for the loop. From any thread."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _main(self) -> None:
        while not self._wait(lambda: self._ended, BEAT_S):
            self._alive = False
            try:
                self._backend.soon_from_thread(self._beat)
            except RuntimeError:  # the loop has ended
                return
            self._await_beat()

    def _beat(self) -> None:
        """On the loop's thread: the sign of life."""
        with self._changed:
            self._alive = True
            self._changed.notify()

    def _heard(self) -> bool:
        return self._alive or self._ended

    def _wait(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(predicate, timeout_s)

    def _await_beat(self) -> None:
        since_s = self._now()
        limit_s = self._watchdog_s
        while not self._wait(self._heard, since_s + limit_s - self._now()):
            now_s = self._now()
            if now_s - since_s - limit_s > OVERSLEPT_S:
                since_s = now_s
                continue
            self._tell(now_s - since_s)
            limit_s = 2 * (now_s - since_s)

    def _tell(self, age_s: float) -> None:
        frame = sys._current_frames().get(self._backend.thread_id)
        if frame is None:  # the thread has ended, and never closed its system
            self.end()
            return
        actor, message = _holder(frame)
        stack = "".join(traceback.format_stack(frame))
        if self._heard():
            return  # it has just let go: what was read may be another's
        logger.warning(
            "%s holds the event loop with %s, for %.1f s so far\n%s", actor, message or "a hook", age_s, stack
        )
        self._report(StuckHandler(actor, message, age_s, stack))


@contextmanager
def watching(backend: Backend, watchdog_s: float | None, report: Callable[[StuckHandler], None]) -> Iterator[None]:
    """Run a watchdog of this loop inside the `with`; none where `watchdog_s` is `None`."""
    if watchdog_s is None:
        yield
        return
    watchdog = Watchdog(backend, watchdog_s, report)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.end()


def letter_type(cell: Cell, letter: Letter | None) -> str:
    """The type of a message by its name; empty where there is none. From any thread."""
    if letter is None:
        return ""
    message = letter.body
    if letter.coded and cell.declaration is not None:
        message = cell.declaration.decode(message)
    return type(message).__name__


def _holder(frame: FrameType | None) -> tuple[str, str]:
    """The actor and what it handles, from the innermost of the runtime's own frames that belongs to an actor."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_RUNTIME):
            owner = frame.f_locals.get("self")
            if isinstance(owner, Cell):  # a synchronous handler, or a hook
                return owner.name, letter_type(owner, owner.current)
            if isinstance(owner, _Worker) and owner.job is not None:  # an asynchronous handler, between two awaits
                return owner.group.owner.name, _job_type(owner.group.owner, owner.job)
        frame = frame.f_back
    return "?", ""


def _job_type(owner: JobOwner, job: Job) -> str:
    return (letter_type(owner, job.letter) if isinstance(owner, Cell) else "") or job.method


_RUNTIME: Final = __name__.rpartition(".")[0] + "."
