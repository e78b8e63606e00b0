"""`ThreadingActor`: for handlers that block. Declarations, supervision and reference as ever, and a thread of its own.

Handlers and hooks run on the actor's thread, staged as on the loop. What is decided about the actor (a restart, a stop,
its end) is decided on the loop and told to the thread as an order; the new instance is made on the thread. A handler
that never returns holds up only its own actor: a kill, or the drain deadline, ends the actor at once, whatever its
thread does, and what the handler still sends then is refused.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from rtvi_actors.errors import DeclarationError, Fenced
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.cell import Cell, Host, Inject, Stop
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import Job
from rtvi_actors.runtime.mailbox import Letter, Mailbox

__all__ = ["ThreadCell", "ThreadMailbox", "ThreadingActor"]

logger = logging.getLogger("rtvi_actors.runtime")


def _nobody(message: Any) -> None:
    """The control sink of a mailbox whose actor has not started."""


class ThreadMailbox(Mailbox):
    """A mailbox that every thread fills directly, under a lock, and one empties. Control messages go to the loop."""

    __slots__ = ("control_sink", "lock", "loop_id")

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self.loop_id: int | None = None
        self.control_sink: Callable[[Any], None] = _nobody

    def _append(self, letter: Letter) -> None:
        with self.lock:
            super()._append(letter)

    def deliver_control(self, message: Any) -> None:
        if self.bridge is None or self.loop_id == threading.get_ident():
            self.control_sink(message)
        else:
            self.bridge(self.control_sink, message)


class ThreadCell(Cell):
    """A cell whose letters are handled on a thread.

    One lock guards what both sides touch: the mailbox, `_orders`, `_finished`, and who waits for room. It is never held
    while a handler or a hook runs.
    """

    mailbox: ThreadMailbox  # pyright: ignore[reportIncompatibleVariableOverride] - made once, by the actor's class

    def attach(self, host: Host) -> None:
        super().attach(host)
        self.mailbox.thread_id = None  # no bridge: the lock is the way in
        self.mailbox.loop_id = host.backend.thread_id
        self.mailbox.control_sink = self._control
        self._wake = threading.Condition(self.mailbox.lock)
        self._orders: deque[Callable[[], None]] = deque()
        self._finished = False
        self._owes_on_stop = False
        self._current: Letter | None = None
        self._started: ActorFuture[None] = ActorFuture()
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        with self._wake:
            self._wake.notify_all()

    # -- on the loop ---------------------------------------------------------------------

    def incarnate(self) -> None:
        """Have the thread make the first instance. Waits for it, as the caller is to be told of a failure.

        `on_start` must therefore not wait for the event loop.
        """
        self._thread = threading.Thread(target=self._main, name=self.name, daemon=True)
        self._thread.start()
        started = threading.Event()
        self._started.when_done(started.set)
        started.wait()
        self._started.result()

    def restart(self) -> bool:
        self.restarts += 1
        self._order(self._incarnate_again)
        return False

    def _order(self, order: Callable[[], None]) -> None:
        with self._wake:
            self._orders.append(order)
            self._wake.notify_all()

    def _control(self, message: Any) -> None:
        if isinstance(message, Stop):
            with self._wake:
                if not self._finished:
                    self._stops.append(message.done)
            if self._finished:
                message.done.try_set(False)
            elif message.drain_s <= 0 or self.state not in ("running", "stopping"):
                self._stop_now(message.reason)
            else:
                self._drain(message)
        elif isinstance(message, Inject):
            self._order(lambda: self._failed(None, message.error))

    def _drain(self, message: Stop) -> None:
        with self._wake:
            super()._drain(message)
            self._wake.notify_all()

    def _when_room(self, room: ActorFuture[None]) -> None:
        with self._wake:
            super()._when_room(room)

    # -- on the thread -------------------------------------------------------------------

    def _main(self) -> None:
        try:
            super().incarnate()
        except BaseException as error:
            self._started.try_fail(error)
            return
        self._started.try_set(None)
        while (work := self._next()) is not None:
            work()
        if self._owes_on_stop and self.actor is not None:
            self._hook("on_stop", self.actor.on_stop)

    def _next(self) -> Callable[[], None] | None:
        """Wait for an order or a letter; `None` at the end."""
        with self._wake:
            while True:
                if self._finished:
                    return None
                if self._orders:
                    return self._orders.popleft()
                if self.mailbox.user and self.state == "running":
                    letter = self._current = self.mailbox.take()
                    self._release_room()
                    return lambda: self._work(letter)
                self._wake.wait()

    def _work(self, letter: Letter) -> None:
        (self._handle if letter.coded else self._handle_object)(letter)
        self._current = None

    def _incarnate_again(self) -> None:
        parent = self.parent
        assert parent is not None
        try:
            super().incarnate()
        except BaseException as error:
            failure = error
            self._still_dead("restarting")
            self._on_loop(lambda: parent.restart_failed(self, failure))
        else:
            self._still_dead("running")
            self._on_loop(lambda: parent.child_restarted(self))

    def _still_dead(self, state: str) -> None:
        """The end, decided on the loop meanwhile, outlasts what the thread has just become."""
        with self._wake:
            self.state = "dead" if self.stopped.is_set() else state

    def _bind_handlers(self) -> None:
        super()._bind_handlers()
        self._bound = {kind: self._fencing(handler) for kind, handler in self._bound.items()}

    def _fencing(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def handle(message: Any) -> Any:
            result = handler(message)
            if self._finished:
                raise Fenced("the actor was killed while its handler ran")
            return result

        return handle

    def _start_job(self, job: Job) -> None:
        """A proxied call gave a coroutine, which only an event loop can run."""
        self.failed += 1
        if job.letter is not None and job.letter.reply is not None:
            job.letter.reply.try_fail(TypeError(f"{self.name} runs on a thread, and no coroutines"))
        self.job_lost(Job(job.method, (), None, job.awaitable), "undecodable")

    def _failed(self, letter: Letter | None, error: BaseException, job: Job | None = None) -> None:
        self._current = None
        if self._finished:
            return  # whoever killed it has counted the letter
        super()._failed(letter, error, job)
        self._still_dead(self.state)

    def _ask_parent(self, error: BaseException) -> None:
        parent = self.parent
        if parent is not None:
            self._on_loop(lambda: parent.child_failed(self, error))

    # -- on either -----------------------------------------------------------------------

    def _stop_now(self, reason: str) -> None:
        """From the loop: at once, whatever the thread does; the thread runs `on_stop` when its handler returns."""
        if threading.current_thread() is self._thread:
            super()._stop_now(reason)
            return
        with self._wake:
            self._owes_on_stop = self.state in ("running", "stopping") and not self._finished
        self.finish(reason)

    def finish(self, reason: str) -> None:
        with self._wake:
            if self._finished:
                return
            self._finished = self.mailbox.closed = True
            letter, self._current = self._current, None
        if letter is not None and threading.current_thread() is not self._thread:
            self.abandoned += 1
            self.lost(letter, reason)
        self.notify()
        if threading.get_ident() == self.backend.thread_id:
            super().finish(reason)
        else:
            # Whoever is told of the end finds the name free: all of it happens in one turn of the loop.
            finish = super().finish
            try:
                self.backend.soon_from_thread(lambda: finish(reason))
            except RuntimeError:  # the loop has ended
                finish(reason)

    def lost(self, letter: Letter, reason: str) -> None:
        """As for every cell; the counters, `on_lost` and the dead letters belong to the loop's thread."""
        if threading.get_ident() == self.backend.thread_id:
            super().lost(letter, reason)
            return
        lose = super().lost
        try:
            self.backend.soon_from_thread(lambda: lose(letter, reason))
        except RuntimeError:  # the loop has ended
            if letter.reply is not None:
                letter.reply.try_fail(self._unhandled(letter, reason))

    def _on_loop(self, callback: Callable[[], None]) -> None:
        try:
            self.backend.soon_from_thread(callback)
        except RuntimeError:  # the loop has ended, and with it whoever decides
            self.finish("dead")


class ThreadingActor(AnyioActor):
    """An actor on its own thread, for blocking code. Handlers are synchronous; what they send is staged all the same.

    A handler that blocks for an answer (`ref.ask(...)`, ``future.get()``) commits what it has sent until then.
    """

    cell_class: ClassVar[type[Cell]] = ThreadCell

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.declaration is not None and cls.declaration.asynchronous:
            raise DeclarationError(f"{cls.__qualname__}: a ThreadingActor's handlers are synchronous")
        if cls.groups:
            raise DeclarationError(f"{cls.__qualname__}: groups are of the event loop; a ThreadingActor has none")

    @staticmethod
    def _create_actor_inbox() -> ThreadMailbox:
        return ThreadMailbox()
