"""`ActorSystem`: one event loop's actors. Opened by `async with`, or on a thread of its own by `start_blocking_system`.

It owns the backend, the dispatcher, the timers, the registry and SIGINT: a Ctrl-C stops the actors in order and then
raises KeyboardInterrupt out of the `async with`, whichever handler it landed in.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Literal, Self, TypeVar

import anyio
import anyio.lowlevel

from rtvi_actors.errors import Crash, NoSystem, WouldBlock
from rtvi_actors.runtime.actor import AnyioActor, make_cell, set_host
from rtvi_actors.runtime.backend import Backend, loops_own, on_event_loop, open_backend
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.clock import Timers
from rtvi_actors.runtime.context import LOCAL, Effect
from rtvi_actors.runtime.dispatcher import Dispatcher
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorDead, ActorRef
from rtvi_actors.runtime.registry import Inspection, Registry, inspection
from rtvi_actors.runtime.signals import DeadLetter, Inject, Inspect, Stop
from rtvi_actors.runtime.watchdog import StuckHandler, StuckReports, watching

__all__ = ["ActorSystem", "start_blocking_system"]

logger = logging.getLogger("rtvi_actors.runtime")

S = TypeVar("S")


class ActorSystem:
    """The actors of one event loop (asyncio, uvloop or trio).

    Methods belong to the loop's thread, but for `spawn`, `run_on_loop`, `run_async`, `stop` and `kill`, which any
    thread may call.
    """

    def __init__(self, *, drain_s: float = 1.0, watchdog_s: float | None = 1.0) -> None:
        self.drain_s = drain_s
        """How long each actor may drain when the system closes."""
        self.watchdog_s = watchdog_s
        """How long a handler may hold the event loop before the watchdog reports it; `None`: no watchdog."""
        self.backend: Backend
        self.timers: Timers
        self.schedule: Callable[[Cell], None]
        self.bridge: Callable[[Callable[[Any], None], Any], None]
        self.mail_thread_id: int
        self.instrument: Callable[[Cell, Callable[[Any], Any]], Callable[[Any], Any]] | None = None
        self.registry = Registry()
        self.dead_letters = 0
        """How many messages were not handled, of all actors."""
        self._dead_letter_sinks: list[Callable[[DeadLetter], None]] = []
        self._telling = False
        """Whether a subscriber of the dead letters runs."""
        self._echoing = False
        """Whether what these have sent leaves."""
        self._untold: deque[Callable[[], None]] = deque()
        """What has come of telling them, for a turn of its own."""
        self._graves: deque[Cell] = deque()
        """Dead actors that have left too much mail for one turn of the loop."""
        self._stuck = StuckReports()
        self.report_stuck = self._stuck.tell
        self._stack = AsyncExitStack()
        self._tasks: set[ActorFuture[Any]] = set()
        """Of `run_async`, what is not done."""
        self._interrupted = False
        self._closing = False
        self._closed = False
        self._restore_sigint: Callable[[], None] | None = None

    # -- life ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._stack.callback(self._fail_tasks)  # the last of all: a task that never began cannot say so itself
        self.backend = await self._stack.enter_async_context(open_backend())
        self.timers = Timers(self.backend.now, self.backend.arm)
        self._dispatcher = self._make_dispatcher()
        # What cells ask of their host: no method of ours in between, this is the path of every message.
        self.schedule = self._dispatcher.schedule
        self.bridge = self._dispatcher.bridge
        self.mail_thread_id = self.backend.thread_id
        set_host(self, self.backend.thread_id, True)
        self._stack.enter_context(watching(self.backend, self.watchdog_s, self.report_stuck))
        self._own_sigint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        try:
            with anyio.CancelScope(shield=True):
                await self._stop_all()
        finally:
            self._closed = True
            self._dispatcher.end()  # letters on their way find the dead, and their askers are told
            self._tell_untold()
            set_host(self, self.backend.thread_id, False)
            # The body's error passes by: trio's nursery would wrap it in a group.
            await self._stack.__aexit__(None, None, None)
            if self._restore_sigint is not None:
                self._restore_sigint()
        if self._interrupted:
            raise KeyboardInterrupt

    def _make_dispatcher(self) -> Dispatcher:
        """A simulation has one of its own."""
        return Dispatcher(self.backend)

    def _fail_tasks(self) -> None:
        for future in tuple(self._tasks):
            future.try_fail(NoSystem("the system has closed"))

    async def _stop_all(self) -> None:
        """Stop what is left: the actors at the top, the newest first, each with its children before it."""
        while cells := self.registry.cells():
            top = [cell for cell in cells if not _is_supervised(cell)] or cells
            for cell in reversed(top):
                await self.stop(cell.ref, self.drain_s)
            await anyio.lowlevel.checkpoint()  # a thread's actor leaves the registry in a turn of the loop's
        while self._graves:
            await anyio.lowlevel.checkpoint()

    def _own_sigint(self) -> None:
        """Python's own handler, and trio's, raise KeyboardInterrupt in whatever runs, handlers included, where the
        firewall would catch it: take the signal here and shut down in order. A second one ends the handler that holds
        that up.

        asyncio's runner cancels the main task instead, which already does the right thing, and a server's own handler
        stays.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler and getattr(before, "__module__", "").split(".")[0] != "trio":
            return

        def on_sigint(signum: int, frame: FrameType | None) -> None:
            if self._interrupted and LOCAL.stage is not None:
                raise KeyboardInterrupt
            self._interrupted = True
            self.backend.soon_from_thread(self.backend.cancel_host)

        def restore() -> None:
            if signal.getsignal(signal.SIGINT) is on_sigint:
                signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, on_sigint)
        self._restore_sigint = restore

    # -- Host: what cells ask ------------------------------------------------------------

    def adopt(self, cell: Cell) -> None:
        """Raises `NameTaken`; `NoSystem` where the system closes: then a supervisor may still start its children."""
        if self._closed or (self._closing and cell.parent is None):
            raise NoSystem("the system closes")
        self.registry.add(cell)

    def forget(self, cell: Cell) -> None:
        if threading.get_ident() == self.backend.thread_id:
            self.registry.remove(cell)
        else:
            self._dispatcher.call(lambda: self.registry.remove(cell))

    def dead_letter(self, letter: DeadLetter) -> None:
        self.dead_letters += 1
        if not self._dead_letter_sinks or self._echoing:
            return
        if not self._telling:
            self._tell(letter)
        elif not self._dispatcher.ended:
            self._tell_later(lambda: self._tell(letter))

    def _tell(self, letter: DeadLetter) -> None:
        """Tell the subscribers. What they send leaves later: a mailbox may be just about to make room, and what is sent
        to it now would take that, and be the next dead letter."""
        before = LOCAL.stage, LOCAL.actor
        sent: list[Effect] = []
        LOCAL.stage, LOCAL.actor = sent, None
        self._telling = True
        try:
            for sink in tuple(self._dead_letter_sinks):
                _call_sink(sink, letter)
        finally:
            self._telling = False
            LOCAL.stage, LOCAL.actor = before
        if sent:
            self._tell_later(lambda: self._echo(sent))

    def _echo(self, sent: list[Effect]) -> None:
        self._echoing = True
        try:
            for effect, argument in sent:
                try:
                    effect(argument)
                except BaseException as error:
                    logger.error("what a subscriber of the dead letters sent did not leave", exc_info=error)
        finally:
            self._echoing = False

    def _tell_later(self, step: Callable[[], None]) -> None:
        self._untold.append(step)
        if self._dispatcher.ended:
            self._tell_untold()
        elif len(self._untold) == 1:
            self.backend.soon(self._tell_untold)

    def _tell_untold(self) -> None:
        """What is there now: what comes of that has its own turn."""
        steps, self._untold = self._untold, deque()
        for step in steps:
            step()

    def bury(self, cell: Cell) -> None:
        self._graves.append(cell)
        if len(self._graves) == 1:
            self.backend.soon(self._bury_some)

    def _bury_some(self) -> None:
        if self._graves and self._graves[0].bury():
            self._graves.popleft()
        if self._graves:
            self.backend.soon(self._bury_some)

    # -- for people ----------------------------------------------------------------------

    def subscribe_dead_letters(self, sink: Callable[[DeadLetter], None]) -> Callable[[], None]:
        """Have `sink` called with every message that is not handled, as it is lost, on the loop's thread (once the
        system has closed, on its sender's). Returns the unsubscriber.

        What sinks send leaves in a turn of its own. Dead letters that this makes are counted in `dead_letters` and not
        told: a sink that sends to a full mailbox would never be done. What else is lost while they are being told
        they are told afterwards.
        """
        self._dead_letter_sinks.append(sink)
        return lambda: self._dead_letter_sinks.remove(sink)

    @asynccontextmanager
    async def dead_letter_stream(self, max_waiting: int = 1024) -> AsyncIterator[AsyncIterator[DeadLetter]]:
        """The dead letters from now on, as an async iterator. One more than `max_waiting` that wait is left out, and
        counted in `dead_letters` alone."""
        send, receive = anyio.create_memory_object_stream[DeadLetter](max_waiting)

        def sink(letter: DeadLetter) -> None:
            with suppress(anyio.WouldBlock):
                send.send_nowait(letter)

        unsubscribe = self.subscribe_dead_letters(sink)
        with send, receive:
            try:
                yield receive
            finally:
                unsubscribe()

    def subscribe_stuck(self, sink: Callable[[StuckHandler], None]) -> Callable[[], None]:
        """Have `sink` called with every handler that holds the event loop for `watchdog_s`, on the watchdog's thread,
        and with every one that a `ThreadingActor` gave up, on the loop's. Returns the unsubscriber.
        """
        return self._stuck.subscribe(sink)

    def spawn(self, actor: type[AnyioActor] | AnyioActor, *args: Any, name: str = "", **kwargs: Any) -> ActorRef[Any]:
        """Start an actor at the top of the system, unsupervised. From any thread.

        Raises `NameTaken`, `StartFailed`, or `NoSystem` where the system closes, or has closed.
        """

        def spawn() -> ActorRef[Any]:
            if self._closing:
                raise NoSystem("the system closes")
            cell = actor.cell if isinstance(actor, AnyioActor) else make_cell(actor, *args, **kwargs)
            if name:
                cell.name, cell.named = name, True
            cell.open(self)
            return cell.ref

        return self.run_on_loop(spawn)

    def get(self, name: str) -> ActorRef[Any]:
        """The actor of this name. Raises `Unknown`."""
        return self.registry.get(name)

    def stop(self, ref: ActorRef[Any], drain_s: float = 1.0) -> ActorFuture[bool]:
        """Stop an actor when the mail that it has is handled, or in `drain_s` seconds. Ahead of user mail. From any
        thread.

        Its supervisor restarts a permanent one (`Supervisor.stop_child` ends a child for good). A supervisor's
        children stop before it, in reverse order, each in the time of its spec.
        """
        return self._stop(ref, Stop(drain_s, "shutdown", ActorFuture()))

    def kill(self, ref: ActorRef[Any]) -> ActorFuture[bool]:
        """Stop an actor at once: between two messages, or at the next await. From any thread.

        Its supervisor restarts it unless it is temporary (`Supervisor.stop_child` ends a child for good).
        """
        return self._stop(ref, Stop(0.0, "killed", ActorFuture()))

    def inspect(self, ref: ActorRef[Any]) -> ActorFuture[Inspection]:
        """What an actor is, has done and holds (`AnyioActor.on_inspect`), read ahead of its mail. From any thread.

        Fails with `Dead` where it has stopped, and with what its `on_inspect` raises.
        """
        message = Inspect(inspection, ActorFuture())
        if ref.actor_stopped.is_set():
            message.done.try_fail(ActorDead(f"{ref} not found"))
        else:
            ref.cell.mailbox.deliver_control(message)
        return message.done

    @staticmethod
    def crash(ref: ActorRef[Any], error: BaseException | None = None) -> None:
        """Crash an actor between two messages, as if a handler had raised: to see it come back. From any thread."""
        ref.cell.mailbox.deliver_control(Inject(error or Crash("injected")))

    def _stop(self, ref: ActorRef[Any], message: Stop) -> ActorFuture[bool]:
        if ref.actor_stopped.is_set():
            message.done.try_set(False)
        else:
            ref.cell.mailbox.deliver_control(message)
        return message.done

    def run_on_loop(self, function: Callable[[], S]) -> S:
        """Call `function` on the loop's thread and return what it returns; in another thread, wait for it.

        Raises `WouldBlock` on the thread of another event loop, `NoSystem` where the system has closed.
        """
        self._check_open()
        if threading.get_ident() == self.backend.thread_id:
            return function()
        if on_event_loop():
            raise WouldBlock("this thread runs another event loop: use `run_async`, and await the future")
        future: ActorFuture[S] = ActorFuture()
        self._to_loop(future, lambda: _settle(future, function))
        return future.get()

    def _check_open(self) -> None:
        if self._closed:
            raise NoSystem("the system has closed")

    def _to_loop(self, future: ActorFuture[Any], callback: Callable[[], None]) -> None:
        """Over the bridge: unlike the loop, it says what it cannot do any more."""

        def arrive() -> None:
            if self._dispatcher.ended:
                future.try_fail(NoSystem("the system's event loop has ended"))
            else:
                callback()

        self._dispatcher.call(arrive)

    def run_async(self, function: Callable[[], Awaitable[S]]) -> ActorFuture[S]:
        """Run an async function as a task of the system. From any thread; the future has what it returns or raises.

        Where the system closes first it is cancelled, and the future fails with `NoSystem`. Raises that where the
        system has closed.
        """
        self._check_open()
        future: ActorFuture[S] = ActorFuture()

        async def main() -> None:
            try:
                future.try_set(await function())
            except BaseException as error:
                if loops_own(error):
                    future.try_fail(NoSystem("the system closed"))
                    raise
                future.try_fail(error)
            finally:
                self._tasks.discard(future)

        def begin() -> None:
            self._tasks.add(future)
            self.backend.spawn(main, "rtvi-actors task")

        if threading.get_ident() == self.backend.thread_id:
            begin()
        else:
            self._to_loop(future, begin)
        return future

    @property
    def stuck_reports(self) -> int:
        """How many stuck handlers were reported."""
        return self._stuck.count

    @property
    def idle(self) -> bool:
        """Whether no actor has mail that it could handle now, no handler runs, and no asynchronous one waits."""
        return (
            not self._graves
            and not self._untold
            and self._dispatcher.idle
            and all(map(_is_idle, self.registry.cells()))
        )


def _is_idle(cell: Cell) -> bool:
    """Whether nothing happens in an actor before something else does. A `ThreadingActor`'s handler is in no group."""
    mailbox = cell.mailbox
    takes_mail = cell.state == "running" and not cell.suspended
    return (
        cell.current is None
        and not mailbox.control
        and (mailbox.empty() or not takes_mail)
        and all(group.idle for group in cell.groups.values())
    )


def _is_supervised(cell: Cell) -> bool:
    """Whether a living supervisor will stop it."""
    parent: object = cell.parent
    return isinstance(parent, AnyioActor) and parent.cell.state != "dead"


def _call_sink(sink: Callable[[DeadLetter], None], letter: DeadLetter) -> None:
    try:
        sink(letter)
    except BaseException as error:
        logger.error("a subscriber of the dead letters failed", exc_info=error)


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
            system.backend.soon_from_thread(closing[0].set)
        except RuntimeError as error:
            raise NoSystem("the system has ended before its with block") from error
        finally:
            thread.join()
