"""`ActorFuture`: pykka's future, awaitable on any event loop, blocking from any thread but an event loop's own.

pykka's `Future.__await__` blocks the loop until the value is there (measured: a 511 ms gap between 10 ms ticks), and
`get` would do the same. Here `await` parks the task, and a blocking `get` on a thread that runs an event loop raises
`WouldBlock` at once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterable
from functools import reduce
from typing import Any, TypeVar

import anyio.to_thread
import pykka

from rtvi_actors.errors import WouldBlock
from rtvi_actors.runtime.backend import on_event_loop, waiter
from rtvi_actors.runtime.context import commit

__all__ = ["ActorFuture"]

T = TypeVar("T")

_PENDING: Any = object()
_LOCK = threading.Lock()
"""One lock for all futures: it is held for a few instructions, and a lock each would cost more than it frees."""


class ActorFuture(pykka.Future[T]):
    """The reply to an ask, the end of a stop, or what was mapped from one.

    Set once, from any thread; a second `set` raises `RuntimeError`, a late one after `fail_if_pending` is ignored
    through `try_set`. The value can be read any number of times.
    """

    def __init__(self) -> None:
        super().__init__()
        self._value: Any = _PENDING
        self._error: BaseException | None = None
        self._waiters: list[Callable[[], None]] | None = None
        self._sources: tuple[pykka.Future[Any], ...] | None = None
        self._hook: Callable[[float | None], Any] | None = None

    def done(self) -> bool:
        """Whether a value or an error is there (of a mapped future: whether its sources are known to be done)."""
        if self._sources is not None:
            return all(isinstance(source, ActorFuture) and source.done() for source in self._sources)
        return self._value is not _PENDING or self._error is not None

    # -- setting -----------------------------------------------------------------

    def _settle(self, value: Any, error: BaseException | None) -> bool:
        with _LOCK:
            if self._value is not _PENDING or self._error is not None or self._hook is not None:
                return False
            self._value, self._error = value, error
            waiters, self._waiters = self._waiters, None
        for wake in waiters or ():
            wake()
        return True

    def try_set(self, value: Any) -> bool:
        """Set it unless it is set; returns whether it was."""
        return self._settle(value, None)

    def try_fail(self, error: BaseException) -> bool:
        """Fail it unless it is set; returns whether it was."""
        return self._settle(_PENDING, error)

    def set(self, value: T | None = None) -> None:
        if not self.try_set(value):
            raise RuntimeError("the future is already set")

    def set_exception(self, exc_info: Any = None) -> None:
        """As pykka: `exc_info` is the three-tuple of `sys.exc_info()`, by default the exception being handled."""
        kind, error, trace = exc_info or sys.exc_info()
        if error is None:
            error = kind() if kind is not None else RuntimeError("no exception is being handled")
        if not self.try_fail(error.with_traceback(trace)):
            raise RuntimeError("the future is already set")

    def set_get_hook(self, func: Callable[[float | None], T]) -> None:
        with _LOCK:
            if self._value is not _PENDING or self._error is not None:
                raise RuntimeError("the future is already set")
            self._hook = func
            super().set_get_hook(func)
            waiters, self._waiters = self._waiters, None
        for wake in waiters or ():
            wake()

    # -- waiting -----------------------------------------------------------------

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, in the thread that settles it, or now if it is settled. It must not raise or block."""
        with _LOCK:
            if not self.done() and self._hook is None:
                if self._waiters is None:
                    self._waiters = []
                self._waiters.append(callback)
                return
        callback()

    def result(self) -> T:
        """The value of a future that is done; raises its error."""
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def get(self, *, timeout: float | None = None) -> T:
        """Block this thread until the value is there, for `timeout` seconds at most.

        Raises `WouldBlock` on a thread that runs an event loop, `pykka.Timeout`, or the error that was set. In a
        `ThreadingActor`'s handler a wait commits: what the handler has sent until now leaves first, its question
        included.
        """
        if not self.done():
            if on_event_loop():
                raise WouldBlock("this thread runs an event loop: await the future instead")
            commit()
        if self._hook is None and not self.done():
            event = threading.Event()
            self.when_done(event.set)
            if not event.wait(timeout):
                raise pykka.Timeout(f"{timeout} seconds")
        if self._hook is not None:
            return super().get(timeout=timeout)
        return self.result()

    async def wait(self) -> T:
        """The value, awaited. Cancelling the waiter leaves the future as it is."""
        await self._settled()
        return self.result() if self._hook is None else super().get(timeout=0)

    async def _settled(self) -> None:
        """Wait until it is done, whatever the outcome."""
        if self._hook is None and not self.done():
            parker, wake = waiter()
            self.when_done(wake)
            while not self.done() and not self._has_hook():
                await parker.park()
        if self._sources is not None:
            for source in self._sources:
                await (source._settled() if isinstance(source, ActorFuture) else _until_done(source))
        elif self._has_hook():
            await _until_done(self)

    def _has_hook(self) -> bool:
        return self._hook is not None

    def __await__(self) -> Generator[Any, Any, T]:
        return self.wait().__await__()

    __iter__ = __await__

    # -- pykka's combinators, with their sources known so that await need not block ---

    def derive(self, hook: Callable[[float | None], Any], *sources: pykka.Future[Any]) -> ActorFuture[Any]:
        """A future whose value `hook(timeout)` computes, lazily and once, when the sources are done."""
        future: ActorFuture[Any] = ActorFuture()
        future.set_get_hook(hook)
        future._sources = sources
        return future

    def filter(self: ActorFuture[Iterable[Any]], func: Callable[[Any], bool]) -> ActorFuture[Any]:
        return self.derive(lambda timeout: list(filter(func, self.get(timeout=timeout))), self)

    def join(self: ActorFuture[Any], *futures: pykka.Future[Any]) -> ActorFuture[Any]:
        everyone = (self, *futures)
        return self.derive(lambda timeout: [future.get(timeout=timeout) for future in everyone], *everyone)

    def map(self, func: Callable[[T], Any]) -> ActorFuture[Any]:
        return self.derive(lambda timeout: func(self.get(timeout=timeout)), self)

    def reduce(self: ActorFuture[Iterable[Any]], func: Callable[[Any, Any], Any], *args: Any) -> ActorFuture[Any]:
        return self.derive(lambda timeout: reduce(func, self.get(timeout=timeout), *args), self)


async def _until_done(future: pykka.Future[Any]) -> None:
    """Wait in a worker thread for a future that can only be waited for by blocking."""

    def outcome() -> None:
        try:
            future.get()
        except BaseException:
            return  # whoever awaits gets it from the future itself

    await anyio.to_thread.run_sync(outcome, abandon_on_cancel=True)
