"""`ActorSystem`: one event loop's actors. Opened by `async with`, or on a thread of its own by `start_blocking_system`.

It owns the backend, the dispatcher, the timers, the registry and SIGINT: a Ctrl-C stops the actors in order and then raises
KeyboardInterrupt out of the `async with`, whichever handler it landed in.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio

from rtvi_actors.errors import Crash, NoSystem
from rtvi_actors.runtime.actor import AnyioActor, Cell, DeadLetter, Inject, Stop, set_host
from rtvi_actors.runtime.backend import Backend, open_backend
from rtvi_actors.runtime.clock import Timers
from rtvi_actors.runtime.dispatcher import Dispatcher
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.mailbox import Letter
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.registry import Registry

__all__ = ["ActorSystem", "start_blocking_system"]

logger = logging.getLogger("rtvi_actors.runtime")

S = TypeVar("S")


class ActorSystem:
    """The actors of one event loop (asyncio, uvloop or trio).

    Methods belong to the loop's thread, but for `spawn`, `run_on_loop`, `run_async`, `stop` and `kill`, which any
    thread may call.
    """

    def __init__(self, *, drain_s: float = 1.0) -> None:
        self.drain_s = drain_s
        """How long each actor may drain when the system closes."""
        self.backend: Backend
        self.timers: Timers
        self.registry = Registry()
        self.dead_letters = 0
        """How many messages were not handled, of all actors."""
        self._dead_letter_sinks: list[Callable[[DeadLetter], None]] = []
        self._stack = AsyncExitStack()
        self._interrupted = False
        self._restore_sigint: Callable[[], None] | None = None

    # -- life ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self.backend = await self._stack.enter_async_context(open_backend())
        self.timers = Timers(self.backend.now, self.backend.arm)
        self._dispatcher = Dispatcher(self.backend)
        self.schedule = self._dispatcher.schedule
        self.bridge = self._dispatcher.bridge
        set_host(self, self.backend.thread_id, True)
        self._own_sigint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            with anyio.CancelScope(shield=True):
                await self._stop_all()
        finally:
            if self._restore_sigint is not None:
                self._restore_sigint()
            set_host(self, self.backend.thread_id, False)
            await self._stack.__aexit__(kind, error, trace)
        if self._interrupted:
            raise KeyboardInterrupt
        return None

    async def _stop_all(self) -> None:
        """Stop what is left, the newest first; each drains within `drain_s`."""
        while cells := self.registry.cells():
            cell = cells[-1]
            supervisor = cell.parent
            if isinstance(supervisor, AnyioActor) and supervisor.cell.state == "running":
                cell = supervisor.cell
                await getattr(supervisor, "stop_children", _nothing)()
            await self.stop(cell.ref, self.drain_s)

    def _own_sigint(self) -> None:
        """trio raises KeyboardInterrupt in whatever runs, handlers included: take it here and shut down in order.

        asyncio's runner cancels the main task instead, which already does the right thing, and a server's own handler stays.
        """
        if threading.current_thread() is not threading.main_thread() or self.backend.name != "trio":
            return
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler and getattr(before, "__module__", "").split(".")[0] != "trio":
            return

        def on_sigint(signum: int, frame: FrameType | None) -> None:
            self._interrupted = True
            self.backend.soon_from_thread(self.backend.cancel_host)

        signal.signal(signal.SIGINT, on_sigint)
        self._restore_sigint = lambda: void(signal.signal(signal.SIGINT, before))

    # -- Host: what cells ask ------------------------------------------------------------

    def schedule(self, cell: Cell) -> None:
        self._dispatcher.schedule(cell)

    def bridge(self, deliver: Callable[[Letter], None], letter: Letter) -> None:
        self._dispatcher.bridge(deliver, letter)

    def adopt(self, cell: Cell) -> None:
        self.registry.add(cell)

    def forget(self, cell: Cell) -> None:
        if threading.get_ident() == self.backend.thread_id:
            self.registry.remove(cell)
        else:
            self.backend.soon_from_thread(lambda: self.registry.remove(cell))

    def dead_letter(self, letter: DeadLetter) -> None:
        self.dead_letters += 1
        for sink in self._dead_letter_sinks:
            try:
                sink(letter)
            except Exception:
                logger.exception("a subscriber of the dead letters failed")

    # -- for people ----------------------------------------------------------------------

    def subscribe_dead_letters(self, sink: Callable[[DeadLetter], None]) -> Callable[[], None]:
        """Have `sink` called with every message that is not handled, on the loop's thread. Returns the unsubscriber."""
        self._dead_letter_sinks.append(sink)
        return lambda: self._dead_letter_sinks.remove(sink)

    def spawn(self, actor: type[AnyioActor] | AnyioActor, *args: Any, name: str = "", **kwargs: Any) -> ActorRef[Any]:
        """Start an actor at the top of the system, unsupervised. From any thread.

        Raises `NameTaken` or `StartFailed`.
        """

        def spawn() -> ActorRef[Any]:
            cell = actor.cell if isinstance(actor, AnyioActor) else actor(*args, **kwargs).cell
            if name:
                cell.name, cell.named = name, True
            cell.open(self)
            return cell.ref

        return self.run_on_loop(spawn)

    def get(self, name: str) -> ActorRef[Any]:
        """The actor of this name. Raises `Unknown`."""
        return self.registry.get(name)

    def stop(self, ref: ActorRef[Any], drain_s: float = 1.0) -> ActorFuture[bool]:
        """Stop an actor when the mail that it has is handled, or in `drain_s` seconds. Ahead of user mail. From any thread."""
        return self._stop(ref, Stop(drain_s, "stopped", ActorFuture()))

    def kill(self, ref: ActorRef[Any]) -> ActorFuture[bool]:
        """Stop an actor at once: between two messages, or at the next await. From any thread."""
        return self._stop(ref, Stop(0.0, "killed", ActorFuture()))

    def crash(self, ref: ActorRef[Any], error: BaseException | None = None) -> None:
        """Crash an actor between two messages, as if a handler had raised: to see it come back. From any thread."""
        ref.cell.mailbox.deliver_control(Inject(error or Crash("injected")))

    def _stop(self, ref: ActorRef[Any], message: Stop) -> ActorFuture[bool]:
        if ref.actor_stopped.is_set():
            message.done.try_set(False)
        else:
            ref.cell.mailbox.deliver_control(message)
        return message.done

    def run_on_loop(self, function: Callable[[], S]) -> S:
        """Call `function` on the loop's thread and return what it returns; in another thread, wait for it."""
        if threading.get_ident() == self.backend.thread_id:
            return function()
        future: ActorFuture[S] = ActorFuture()
        self.backend.soon_from_thread(lambda: _settle(future, function))
        return future.get()

    def run_async(self, function: Callable[[], Awaitable[S]]) -> ActorFuture[S]:
        """Run an async function as a task of the system. From any thread; the future has what it returns or raises."""
        future: ActorFuture[S] = ActorFuture()

        async def main() -> None:
            try:
                future.try_set(await function())
            except BaseException as error:
                future.try_fail(error)
                if not isinstance(error, Exception):
                    raise

        if threading.get_ident() == self.backend.thread_id:
            self.backend.spawn(main, "rtvi-actors task")
        else:
            self.backend.soon_from_thread(lambda: self.backend.spawn(main, "rtvi-actors task"))
        return future

    @property
    def idle(self) -> bool:
        """Whether no actor has mail and no asynchronous handler runs or waits."""
        return self._dispatcher.idle and all(
            all(group.idle for group in cell.groups.values()) for cell in self.registry.cells()
        )


async def _nothing() -> None:
    return None


def void(_: object) -> None:
    """Drop a result."""


def _settle(future: ActorFuture[S], function: Callable[[], S]) -> None:
    try:
        future.try_set(function())
    except BaseException as error:
        future.try_fail(error)


@contextmanager
def start_blocking_system(*, backend: Literal["asyncio", "trio"] = "asyncio") -> Iterator[ActorSystem]:
    """An actor system on a thread of its own, for programs of plain threads.

    Inside the `with`, actors are started and asked with blocking calls; on exit they are stopped in reverse order.
    """
    opened: ActorFuture[ActorSystem] = ActorFuture()
    closing: list[anyio.Event] = []

    async def main() -> None:
        async with ActorSystem() as system:
            closing.append(anyio.Event())
            opened.try_set(system)
            await closing[0].wait()

    def run() -> None:
        try:
            anyio.run(main, backend=backend)
        except BaseException as error:
            if not opened.try_fail(error):
                logger.exception("the blocking actor system ended")

    thread = threading.Thread(target=run, name="rtvi-actors system", daemon=True)
    thread.start()
    system = opened.get()
    try:
        yield system
    finally:
        try:
            system.backend.soon_from_thread(lambda: closing[0].set())
        except RuntimeError as error:
            raise NoSystem("the system has ended before its with block") from error
        finally:
            thread.join()
