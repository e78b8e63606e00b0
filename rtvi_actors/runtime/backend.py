"""The only file that knows asyncio and trio: run soon, run at, spawn, park, cancel one handler, wake from a thread.

Everything else in the package awaits anyio or its own futures. A backend belongs to one running event loop and is
used on that loop's thread, but for `soon_from_thread`.

Callbacks and tasks run in a context of the backend's own: asyncio's `call_soon` would hand them the context of
whoever scheduled them first, and with it the identity of an unrelated actor.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import trio

__all__ = ["Attempt", "Backend", "Parker", "loops_own", "on_event_loop", "open_backend", "waiter"]


logger = logging.getLogger("rtvi_actors.runtime")


class Parker(Protocol):
    """Lets one task wait for one event. An `unpark` before the `park` is remembered, once."""

    async def park(self) -> None: ...

    def unpark(self) -> None: ...


class Attempt(Protocol):
    """One run of an asynchronous handler that can be cancelled without cancelling the task around it."""

    async def run(self, awaitable: Awaitable[Any]) -> tuple[bool, Any]:
        """Await it. Returns (was it cancelled by `cancel`, its result). Re-raises a cancellation of the backend's."""
        ...

    def cancel(self) -> None:
        """Raise the backend's cancellation at the handler's next await, once."""
        ...

    def abandon(self) -> None:
        """Stop insisting: what still runs is no longer interrupted, so that a handler that refuses does not spin."""
        ...


class Backend(Protocol):
    """What the runtime asks of an event loop."""

    name: str
    thread_id: int

    def now(self) -> float: ...

    def soon(self, callback: Callable[[], None]) -> None: ...

    def soon_from_thread(self, callback: Callable[[], None]) -> None:
        """Any thread. Raises RuntimeError when the loop has ended."""
        ...

    def arm(self, due_s: float, callback: Callable[[], None]) -> None:
        """Keep one timer; the latest call wins."""
        ...

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run a task until the backend closes. `main` must not raise but the backend's own cancellation."""
        ...

    def parker(self) -> Parker: ...

    def attempt(self) -> Attempt: ...

    def cancel_host(self) -> None:
        """Cancel the task that opened the backend."""
        ...


def _trio(name: str) -> Any:
    """Something of trio's, where it is imported; `None` where another thread is still at it: nothing runs on it yet."""
    return getattr(sys.modules.get("trio"), name, None)


def on_event_loop() -> bool:
    """Whether this thread is running an event loop right now, so that blocking it would freeze the loop."""
    if asyncio._get_running_loop() is not None:
        return True
    running = getattr(_trio("lowlevel"), "in_trio_run", None)
    return running is not None and bool(running())


def loops_own(error: BaseException) -> bool:
    """Whether the event loop itself ends the current task with `error`: it must go on up, through every firewall.

    A handler can raise these exceptions too, and is then just a failing handler. asyncio counts the cancellations that
    somebody asked for (an `Attempt` has taken out the actor's own); trio's `Cancelled` cannot be made by hand; a loop
    that is gone throws GeneratorExit into what it leaves behind, with no task running.
    """
    if not isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        cancelled = _trio("Cancelled")
        return cancelled is not None and isinstance(error, cancelled)
    if _in_trio():
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    return task is None or (isinstance(error, asyncio.CancelledError) and task.cancelling() > 0)


def _in_trio() -> bool:
    running = getattr(_trio("lowlevel"), "in_trio_task", None)
    return running is not None and bool(running())


def waiter() -> tuple[Parker, Callable[[], None]]:
    """A parker for the current task of any event loop, and a wake-up for it that any thread may call."""
    if _in_trio():
        import trio

        token = trio.lowlevel.current_trio_token()
        trio_parker = _TrioParker()
        return trio_parker, lambda: _quietly(lambda: token.run_sync_soon(trio_parker.unpark))
    loop = asyncio.get_running_loop()
    here = threading.get_ident()
    parker = _AsyncioParker(loop)

    def wake() -> None:
        if threading.get_ident() == here:
            parker.unpark()
        else:
            _quietly(lambda: loop.call_soon_threadsafe(parker.unpark))

    return parker, wake


def _quietly(wake: Callable[[], object]) -> None:
    """Wake a loop that may have ended: then nobody waits any more."""
    try:
        wake()
    except RuntimeError:  # asyncio: loop is closed; trio.RunFinishedError is a RuntimeError
        return


@asynccontextmanager
async def open_backend() -> AsyncIterator[Backend]:
    """The backend of the running event loop. On exit every task that it spawned is cancelled and waited for.

    A handler that refused cancellation is cancelled once more; trio waits for it as long as it goes on refusing.
    """
    if _in_trio():
        backend = _TrioBackend()
        await backend.open()
        try:
            with backend.host_scope:
                yield backend
        finally:
            await backend.close()
    else:
        asyncio_backend = _AsyncioBackend()
        try:
            yield asyncio_backend
        finally:
            await asyncio_backend.close()


# -- asyncio (and uvloop, which runs asyncio's tasks) ----------------------------


class _AsyncioParker:
    __slots__ = ("_future", "_loop", "_token")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        self._token = False

    async def park(self) -> None:
        if not self._token:
            self._future = self._loop.create_future()
            try:
                await self._future
            finally:
                self._future = None
        self._token = False

    def unpark(self) -> None:
        self._token = True
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)


class _AsyncioAttempt:
    __slots__ = ("_requests", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._requests = 0

    async def run(self, awaitable: Awaitable[Any]) -> tuple[bool, Any]:
        task = self._task = asyncio.current_task()
        assert task is not None
        try:
            result = await awaitable
            if self._requests:
                await asyncio.sleep(0)  # a handler that cancels itself as it ends: the cancellation arrives here
            return False, result
        except asyncio.CancelledError:
            if self._requests == 0 or task.cancelling() > self._requests:
                raise
            return True, None
        finally:
            self._task = None
            if self._requests:
                await self._settle(task)

    async def _settle(self, task: asyncio.Task[Any]) -> None:
        """Take the requests back; one that came too late for the handler's last await would hit the next job's."""
        for _ in range(self._requests):
            task.uncancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if task.cancelling():
                raise

    def cancel(self) -> None:
        if self._task is not None:
            self._requests += 1
            self._task.cancel()

    def abandon(self) -> None:
        """Nothing insists here: every `cancel` is delivered once."""


class _AsyncioBackend:
    name = "asyncio"

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.now = self._loop.time
        self._context = contextvars.Context()
        self._tasks: set[asyncio.Task[None]] = set()
        self._host = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None

    def soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback, context=self._context)

    def soon_from_thread(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback, context=self._context)

    def arm(self, due_s: float, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, callback, context=self._context)

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = self._loop.create_task(main(), name=name, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def parker(self) -> Parker:
        return _AsyncioParker(self._loop)

    def attempt(self) -> Attempt:
        return _AsyncioAttempt()

    def cancel_host(self) -> None:
        if self._host is not None:
            self._host.cancel()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            # A task that refuses has been given up by its actor already; the loop's own end deals with it.
            await asyncio.wait(tasks, timeout=1.0)


# -- trio ------------------------------------------------------------------------


class _TrioParker:
    __slots__ = ("_task", "_token")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._token = False

    async def park(self) -> None:
        import trio

        if self._token:
            self._token = False
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._token = False

    def unpark(self) -> None:
        import trio

        if self._task is None:
            self._token = True
        else:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)


class _TrioAttempt:
    """Two scopes: `outer` delivers the cancellation, `inner` can shield what refuses it (trio insists otherwise)."""

    __slots__ = ("_abandoned", "_inner", "_outer")

    def __init__(self, abandoned: set[_TrioAttempt]) -> None:
        import trio

        self._abandoned = abandoned
        self._outer = trio.CancelScope()
        self._inner = trio.CancelScope()

    async def run(self, awaitable: Awaitable[Any]) -> tuple[bool, Any]:
        result = None
        try:
            with self._outer, self._inner:
                result = await awaitable
        finally:
            self._abandoned.discard(self)
        return self._outer.cancelled_caught, result

    def cancel(self) -> None:
        self._outer.cancel()

    def abandon(self) -> None:
        self._inner.shield = True
        self._abandoned.add(self)

    def insist(self) -> None:
        """The backend closes: deliver the cancellation after all."""
        self._inner.shield = False


class _TrioBackend:
    """Its tasks live in a nursery of a system task's: as on asyncio, who cancels the host does not cancel them with it.

    The host's last act is to stop the actors in order, which these tasks carry out.
    """

    name = "trio"

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._nursery: trio.Nursery
        self._opened, self._ended = trio.Event(), trio.Event()
        self.host_scope = trio.CancelScope()
        self._abandoned: set[_TrioAttempt] = set()
        self._is_closed = False
        self._token = trio.lowlevel.current_trio_token()
        self.thread_id = threading.get_ident()
        clock = trio.lowlevel.current_clock()
        self.now = clock.current_time
        self._context = contextvars.Context()
        self._ready: deque[Callable[[], None]] = deque()
        self._pump_parker = _TrioParker()
        self._timer_parker = _TrioParker()
        self._due_s = math.inf
        self._on_due: Callable[[], None] | None = None

    async def open(self) -> None:
        """Start the nursery, and in it the tasks that run callbacks and the timer."""
        self._trio.lowlevel.spawn_system_task(self._hold_nursery, name="rtvi-actors tasks", context=self._context)
        await self._opened.wait()
        self.spawn(self._pump, "rtvi-actors pump")
        self.spawn(self._timer, "rtvi-actors timer")

    async def _hold_nursery(self) -> None:
        try:
            async with self._trio.open_nursery() as nursery:
                self._nursery = nursery
                self._opened.set()
                await self._trio.sleep_forever()
        finally:
            self._ended.set()

    def soon(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)
        if self._is_closed:
            self._run_ready()
        else:
            self._pump_parker.unpark()

    def soon_from_thread(self, callback: Callable[[], None]) -> None:
        self._token.run_sync_soon(self.soon, callback)

    def arm(self, due_s: float, callback: Callable[[], None]) -> None:
        self._due_s = due_s
        self._on_due = callback
        self._timer_parker.unpark()

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        async def guarded() -> None:
            try:
                await main()
            except BaseException as error:
                if loops_own(error):
                    raise
                logger.error("the task %s failed", name, exc_info=error)

        # trio copies the context of the caller: give it the backend's.
        self._context.copy().run(lambda: self._nursery.start_soon(guarded, name=name))

    def parker(self) -> Parker:
        return _TrioParker()

    def attempt(self) -> Attempt:
        return _TrioAttempt(self._abandoned)

    def cancel_host(self) -> None:
        self.host_scope.cancel()

    async def close(self) -> None:
        """End every task. What a thread still sends then runs at once, as on an asyncio loop that goes on."""
        for attempt in self._abandoned:
            attempt.insist()
        self._nursery.cancel_scope.cancel()
        with self._trio.CancelScope(shield=True):
            await self._ended.wait()
        self._is_closed = True
        self._run_ready()

    async def _pump(self) -> None:
        while True:
            await self._pump_parker.park()
            while self._ready:
                self._run_ready()
                await self._trio.lowlevel.checkpoint()

    def _run_ready(self) -> None:
        for _ in range(len(self._ready)):
            callback = self._ready.popleft()
            try:
                callback()
            except BaseException as error:
                logger.error("a callback failed", exc_info=error)

    async def _timer(self) -> None:
        while True:
            with self._trio.CancelScope(deadline=self._due_s) as scope:
                await self._timer_parker.park()
            if scope.cancelled_caught:
                callback, self._on_due, self._due_s = self._on_due, None, math.inf
                if callback is not None:
                    callback()
