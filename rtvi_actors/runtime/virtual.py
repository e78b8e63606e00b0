"""An asyncio loop without a selector: its time is a number, and which of the ready tasks goes on is a choice.

Nothing that is real can be reached from it: sockets, processes, other threads raise `RealIo`, whether they are asked
for through the loop or past it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from pathlib import PurePath
from types import FrameType
from typing import Any, Final, TypeAlias, TypeVarTuple, Unpack

from rtvi_actors.errors import RealIo, Stalled
from rtvi_actors.runtime.choices import Chooser

__all__ = ["MAX_TURNS", "SimulationLoop", "in_task", "real_io", "sealed"]

Ts = TypeVarTuple("Ts")

MAX_TURNS: Final = 200_000
"""Turns of the loop after which a run counts as one that never ends."""
GRACE_TURNS: Final = 20_000
"""Turns that a run which was stopped so may take to end in order."""
MACHINERY: Final = frozenset({*sys.stdlib_module_names, "anyio", "rtvi_actors"})
"""Where nobody looks for the one who waits."""


def in_task() -> bool:
    """Whether a task of the event loop runs, and not a callback."""
    return asyncio.current_task() is not None


class _Future(asyncio.Future[Any]):
    """Knows how many were made before it in its run."""

    number = 0


class _Task(asyncio.Task[Any]):
    """As `_Future`."""

    number = 0


def _nothing(*arguments: object) -> None:
    """The hook of a loop that nobody observes."""


class SimulationLoop(asyncio.BaseEventLoop):
    """The event loop of one run.

    As on trio, the tasks that are ready in one turn have no order among themselves. Callbacks (`call_soon`) keep
    theirs, to each other and to the tasks around them, as asyncio promises. What needs the world outside raises
    `RealIo`.
    """

    def __init__(self, chooser: Chooser, *, max_turns: int = MAX_TURNS) -> None:
        super().__init__()
        self.on_turn: Callable[[], None] = _nothing
        self.on_stray: Callable[[str, str], None] = _nothing
        """Called with the task that goes on before the one whose turn it was."""
        self.describe: Callable[[], list[str]] = list
        """What else waits, for `Stalled`."""
        self.stalled: Stalled | None = None
        """Why the run was ended before its time."""
        self.main: asyncio.Task[Any] | None = None
        """The task that is cancelled where the run stalls."""
        self.turns = 0
        self._max_turns = max_turns
        self._chooser = chooser
        self._own_thread = threading.get_ident()
        self._now_s = 0.0
        self._numbers = itertools.count(1)
        self._handles: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._quiet: list[asyncio.Future[None]] = []

    def time(self) -> float:
        return self._now_s

    # -- what asyncio asks of a loop -------------------------------------------------------

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._handles.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.get_ident() != self._own_thread:
            raise RealIo("another thread calls into a simulation")
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when it is due."""

    def create_future(self) -> asyncio.Future[Any]:
        future = _Future(loop=self)
        future.number = next(self._numbers)
        return future

    def create_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: Context | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[Any]:
        number = next(self._numbers)
        task = _Task(coro, loop=self, name=str(name or f"task-{number}"), context=context, **kwargs)
        task.number = number
        return task

    # -- turns -----------------------------------------------------------------------------

    def quiet(self) -> asyncio.Future[None]:
        """Done when nothing is ready any more, and before time goes on."""
        future = self.create_future()
        self._quiet.append(future)
        return future

    def _run_once(self) -> None:
        """One turn; `BaseEventLoop.run_forever` calls it."""
        self.turns += 1
        if self.turns > self._max_turns:
            self._max_turns += GRACE_TURNS
            self._stall(f"no end after {self.turns} turns of the event loop")
        self._release_due()
        if not self._handles:
            self._wait()
        ready = list(self._handles)
        self._handles.clear()
        for handle in self._shuffled(ready):
            before = len(self._handles)
            if not handle.cancelled():
                handle._run()
            if len(self._handles) - before > 1:
                self._put_in_order(before)
        self.on_turn()

    def _wait(self) -> None:
        """Nobody has anything to do now: tell those who wait for that, or let time pass up to the next deadline."""
        if self._quiet:
            waiting, self._quiet = self._quiet, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
            return
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if timers:
            self._now_s = max(self._now_s, timers[0][0])
            self._release_due()
        else:
            self._stall("nothing can happen any more")

    def _release_due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self._now_s:
            self._handles.append(heapq.heappop(timers)[2])

    def _shuffled(self, handles: list[asyncio.Handle]) -> Iterator[asyncio.Handle]:
        """Each row of neighbouring tasks in a chosen order. A task made ready meanwhile waits for the next turn."""
        row: list[asyncio.Handle] = []
        for handle in handles:
            if _task_of(handle) is not None:
                row.append(handle)
                continue
            yield from self._drawn(row)
            yield handle
        yield from self._drawn(row)

    def _drawn(self, row: list[asyncio.Handle]) -> Iterator[asyncio.Handle]:
        while row:
            place = self._chooser.choose(len(row))
            if place:
                self.on_stray(_name_of(row[place]), _name_of(row[0]))
            yield row.pop(place)

    def _put_in_order(self, start: int) -> None:
        """The tasks that one callback made ready, in the order in which they, or what they waited for, were made.

        A library that keeps tasks in a set wakes them in the order of their addresses.
        """
        fresh = [self._handles.pop() for _ in range(len(self._handles) - start)][::-1]
        tasks = iter(sorted((handle for handle in fresh if _task_of(handle) is not None), key=_number_of))
        self._handles.extend(handle if _task_of(handle) is None else next(tasks) for handle in fresh)

    # -- the end -----------------------------------------------------------------------------

    def _stall(self, reason: str) -> None:
        """End the main task, once, so that its `finally` clauses run; where that does not help, end the loop."""
        error = Stalled(reason, (*self._who_waits(), *self.describe()))
        if self.stalled is not None or self.main is None or self.main.done():
            raise error
        self.stalled = error
        self.main.cancel()

    def _who_waits(self) -> Iterator[str]:
        for task in sorted(asyncio.all_tasks(self), key=lambda task: getattr(task, "number", 0)):
            frames = list(_frames_of(task))
            own = [frame for frame in frames if not _is_machinery(frame)]
            if own:
                code = own[-1].f_code
                yield f"{task.get_name()} waits in {PurePath(code.co_filename).name}:{own[-1].f_lineno} {code.co_name}"

    def clear(self) -> None:
        """End what still runs, and close the loop."""
        self.stalled = self.main = None
        self._max_turns = self.turns + GRACE_TURNS
        left = sorted(asyncio.all_tasks(self), key=lambda task: getattr(task, "number", 0))
        self.set_exception_handler(lambda loop, context: None)
        try:
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.wait(left))
            self.run_until_complete(self.shutdown_asyncgens())
        except Stalled:
            for task in asyncio.all_tasks(self):
                _drop(task)
        finally:
            self.close()


def _drop(task: asyncio.Task[Any]) -> None:
    """End a task that refuses to, here and not whenever it is collected: what it still tries has no loop any more."""
    coroutine: Any = task.get_coro()
    with suppress(BaseException):
        coroutine.close()


def _task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    """The task whose next step a handle is; `None` for any other callback."""
    owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return owner if isinstance(owner, asyncio.Task) else None


def _name_of(handle: asyncio.Handle) -> str:
    task = _task_of(handle)
    return task.get_name() if task is not None else "?"


def _number_of(handle: asyncio.Handle) -> int:
    """Of what the task waited for, or else of the task."""
    arguments = handle._args or ()
    number = getattr(arguments[0], "number", 0) if arguments else 0
    return number or getattr(_task_of(handle), "number", 0)


def _frames_of(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Where a task waits, the outermost call first."""
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None) or getattr(step, "ag_frame", None)
        if frame is not None:
            yield frame
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None) or getattr(step, "ag_await", None)


def _is_machinery(frame: FrameType) -> bool:
    """Whether a frame is of the libraries that wait for others."""
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] in MACHINERY


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(self: SimulationLoop, *args: object, **kwargs: object) -> Any:
        raise real_io(f"event loop's {name}")

    return refuse


for _name in (
    *("add_reader", "remove_reader", "add_writer", "remove_writer", "add_signal_handler", "remove_signal_handler"),
    *("create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection"),
    *("create_unix_server", "connect_accepted_socket", "connect_read_pipe", "connect_write_pipe", "start_tls"),
    *("subprocess_exec", "subprocess_shell", "run_in_executor", "getaddrinfo", "getnameinfo", "sendfile"),
    *("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendto"),
    *("sock_connect", "sock_accept", "sock_sendfile"),
):
    setattr(SimulationLoop, _name, _refusal(_name))


# -- nothing real ------------------------------------------------------------------------

Report: TypeAlias = Callable[[str], None]

SECOND: Final = "second actor system, which has real threads: use `world.system`"
"""How the watchdog's thread is called, and that of `start_blocking_system`: what was forgotten is `system=`."""
_AUDITED: Final[Mapping[str, str]] = {
    "os.fork": "process",
    "os.posix_spawn": "process",
    "os.system": "process",
    "socket.bind": "socket",
    "socket.connect": "socket",
    "socket.getaddrinfo": "name service",
    "socket.gethostbyname": "name service",
    "socket.sendto": "socket",
    "subprocess.Popen": "process",
}
"""Audit events (PEP 578) of what a simulation has not, and how it is called."""


class _Here(threading.local):
    report: Report | None = None
    """Told of what the simulation that this thread runs has tried."""


_HERE = _Here()
_SEALS: list[Callable[..., object]] = []
"""What stands guard in this process since its first simulation: an audit hook cannot be taken back."""


def _refuse_real_io(event: str, arguments: object) -> None:
    """Raises in the thread that runs a simulation, from within the call that would leave it."""
    if event in _AUDITED and _HERE.report is not None:
        raise real_io(f"{_AUDITED[event]} ({event})")


def real_io(what: str) -> RealIo:
    """The error, which is reported as well: the actor that meets it may just crash of it."""
    if _HERE.report is not None:
        _HERE.report(what)
    return RealIo(f"a simulation has no {what}")


def _seal() -> None:
    """Threads have no audit event before Python 3.12, so their `start` is guarded too."""
    start = threading.Thread.start

    def start_if_real(thread: threading.Thread) -> None:
        if _HERE.report is not None:
            name = thread.name
            raise real_io(SECOND if name.startswith("rtvi-actors ") else f"thread ({name.partition('-')[0]})")
        start(thread)

    sys.addaudithook(_refuse_real_io)
    threading.Thread.start = start_if_real  # type: ignore[assignment, method-assign]
    _SEALS.append(start_if_real)


@contextmanager
def sealed(report: Report) -> Iterator[None]:
    """Within, this thread cannot reach what is real."""
    if not _SEALS:
        _seal()
    _HERE.report = report
    try:
        yield
    finally:
        _HERE.report = None
