"""`AnyioActor` and its cell.

The *actor* is what people write: handlers and state; a crash throws it away. The *cell* is what stays: URN, reference,
name, mailbox, registry entry, counters, groups, snapshot. `pykka.Actor` documents `_create_actor_inbox`,
`_create_future` and `_start_actor_loop` for implementors of new actor types; everything here hangs on these three.

A cell runs on the loop's thread: the dispatcher calls `run`, a bounded batch at a time. Synchronous handlers run right
there, staged; asynchronous ones become jobs of the group ``main``, and hold up the mailbox until they end, unless
a synchronous handler hands them to a group of the actor's own with `submit`.
"""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Self, TypeVar

import msgspec
import pykka
from pykka import messages as pykka_messages

from rtvi_actors.errors import AskTimeout, Crash, HandlerFailed, NoSystem, RtviError, StartFailed, Unknown
from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.clock import Timer, Timers
from rtvi_actors.runtime.context import CURRENT, LOCAL, later
from rtvi_actors.runtime.declare import Declaration, declare
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import Group, GroupSpec, Job
from rtvi_actors.runtime.mailbox import Letter, Mailbox, Overflow
from rtvi_actors.runtime.refs import ActorDead, ActorRef

__all__ = ["AnyioActor", "Cell", "DeadLetter", "Host", "Inject", "Parent", "Stop", "current_actor", "current_host", "set_host"]

logger = logging.getLogger("rtvi_actors.runtime")

S = TypeVar("S")

MAIN = "main"
"""The group of asynchronous handlers that were not given to another: exclusive, and a failure crashes the actor."""


class Stop(msgspec.Struct):
    """Control lane: stop now (`drain_s` 0: a kill), or when the mail that is there is handled."""

    drain_s: float
    reason: str
    done: ActorFuture[bool]


class Inject(msgspec.Struct):
    """Control lane: crash as if a handler had raised `error`, between two messages (tests, demonstrations)."""

    error: BaseException


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was not handled, with the reason: crashed, dead, overflow, expired, undecodable, killed."""

    receiver: str
    reason: str
    body: Any
    """The encoded message (bytes), or the object where the receiver takes objects."""


class Host(Protocol):
    """What a cell asks of the system that it runs in."""

    backend: Backend
    timers: Timers

    def schedule(self, cell: Cell) -> None: ...

    def bridge(self, deliver: Callable[[Letter], None], letter: Letter) -> None: ...

    def adopt(self, cell: Cell) -> None: ...

    def forget(self, cell: Cell) -> None: ...

    def dead_letter(self, letter: DeadLetter) -> None: ...

    def run_on_loop(self, function: Callable[[], S]) -> S: ...


class Parent(Protocol):
    """The supervisor of a cell: it is called on the loop's thread, between handlers."""

    name: str

    def child_failed(self, cell: Cell, error: BaseException) -> None: ...

    def child_stopped(self, cell: Cell) -> None: ...


_HOSTS: dict[int, Host] = {}
_DEFAULT: list[Host] = []


def set_host(host: Host, thread_id: int, present: bool) -> None:
    """Say that `host` runs on this thread, or no longer does. The newest is also the default of foreign threads."""
    if present:
        _HOSTS[thread_id] = host
        _DEFAULT.append(host)
    else:
        _HOSTS.pop(thread_id, None)
        _DEFAULT.remove(host)


def current_host() -> Host:
    """The system of this thread, else the newest one in the process. Raises `NoSystem`."""
    host = _HOSTS.get(threading.get_ident())
    if host is None and _DEFAULT:
        host = _DEFAULT[-1]
    if host is None:
        raise NoSystem("no actor system runs: open one with `async with ActorSystem()` or `start_blocking_system()`")
    return host


def current_actor() -> AnyioActor | None:
    """The actor whose handler runs in this thread or task."""
    if LOCAL.actor is not None:
        actor: AnyioActor = LOCAL.actor
        return actor
    running = CURRENT.get()
    return running.actor if running is not None else None


class AnyioActor(pykka.Actor):
    """An actor on the event loop. Subclass it and write handlers (see `declare`).

    Handlers, hooks and state belong to the loop's thread. `__init__` may take arguments; they are kept, and every restart
    passes them again, so they should be immutable.
    """

    groups: ClassVar[Mapping[str, GroupSpec]] = {}
    """The groups that `submit` knows, by name."""
    not_handlers: ClassVar[frozenset[str]] = frozenset()
    """Methods named on_… that are hooks of a base class's own, not handlers."""
    max_mail: ClassVar[int] = 10_000
    """The bound of the mailbox, in messages."""
    max_mail_bytes: ClassVar[int] = 64 * 1024 * 1024
    """The bound of the mailbox, in bytes."""
    overflow: ClassVar[Overflow] = "refuse"
    async_group: ClassVar[str] = MAIN
    """The group of asynchronous handlers. ``main`` is exclusive: the mailbox waits for them."""
    declaration: ClassVar[Declaration | None] = None

    cell_class: ClassVar[type[Cell]]
    """What runs its handlers: the event loop, or a thread of its own (`ThreadingActor`)."""
    cell: Cell
    _recipe: tuple[tuple[Any, ...], dict[str, Any]]
    _slot: Cell | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        frame = sys._getframe(1)
        cls.declaration = declare(cls, cls.not_handlers, frame.f_locals)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        actor = super().__new__(cls)
        actor._recipe = (args, kwargs)
        actor._slot = None
        return actor

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        cell, self._slot = self._slot, None
        if cell is None:
            super().__init__()
            cell = self.cell_class(type(self), *self._recipe, mailbox=self.actor_inbox, urn=self.actor_urn)
            cell.stopped = self.actor_stopped
            cell.bind_ref()
            cell.actor = self
        self.cell = cell
        self.actor_urn = cell.urn
        self.actor_inbox = cell.mailbox
        self.actor_stopped = cell.stopped
        self._actor_ref = cell.ref

    @classmethod
    def start(cls, *args: Any, **kwargs: Any) -> ActorRef[Self]:  # type: ignore[override]
        """Start it in the current system, unsupervised: a crash stops it, as in pykka. Returns its reference.

        Raises `NoSystem`, or `StartFailed` where the constructor or `on_start` raised.
        """
        host = current_host()

        def start() -> ActorRef[Self]:
            cell = cls(*args, **kwargs).cell
            cell.open(host)
            return cell.ref

        return host.run_on_loop(start)

    @staticmethod
    def _create_actor_inbox() -> Mailbox:  # type: ignore[override]
        return Mailbox()

    @staticmethod
    def _create_future() -> ActorFuture[Any]:
        return ActorFuture()

    def _start_actor_loop(self) -> None:
        """pykka's hook; `start` opens the cell itself, so that a failed start is reported to the starter."""
        self.cell.open(current_host())

    def stop(self) -> None:
        """Stop this actor after the mail that it has."""
        self.actor_ref.tell(pykka_messages._ActorStop())

    # -- what a handler may do ---------------------------------------------------------

    @property
    def ref(self) -> ActorRef[Self]:
        """This actor's own reference, as this runtime types it."""
        return self.cell.ref

    @property
    def name(self) -> str:
        return self.cell.name

    def link(self, name: str) -> ActorRef[Any]:
        """The actor that this one's child spec links under `name`. Raises `Unknown`."""
        try:
            return self.cell.links[name]
        except KeyError:
            raise Unknown(f"{self.cell.name} has no link named {name}") from None

    def later(self, effect: Callable[[Any], object], argument: Any) -> None:
        """Do `effect(argument)` when the running synchronous handler has returned, and not at all if it raises."""
        later(effect, argument)

    def submit(self, group: str, method: str, *arguments: Any) -> None:
        """Run ``self.method(*arguments)`` in a group. Raises `Rejected` where the group is full."""
        target = self.cell.groups[group]
        job = Job(method, arguments)
        target.check_room(job)
        later(target.submit, job)

    def cancel_group(self, group: str) -> int:
        """Cancel the jobs that run in a group (not those that wait); returns how many. Takes effect at their next await."""
        return self.cell.groups[group].cancel_running()

    def after(self, delay_s: float, message: Any) -> Timer:
        """Send itself a message in `delay_s` seconds. A crash does not lose it: timers belong to the cell."""
        letter = self.cell.mailbox.seal(message)
        return self.cell.timers.after(delay_s, lambda: self.cell.mailbox.deliver(letter))

    def snapshot(self, state: Any) -> None:
        """Hand out the immutable state that a restarted instance is given (`restore`)."""
        later(self.cell.keep_snapshot, state)

    # -- hooks -------------------------------------------------------------------------

    def restore(self, state: Any) -> None:
        """Called on a restarted instance before `on_start`, with the last snapshot, if one was handed out."""

    def on_handled(self, message: Any) -> None:
        """Called when a declared message has been handled, still within the handler's stage and firewall."""

    def on_error(self, method: str, arguments: tuple[Any, ...], error: BaseException | None) -> None:
        """Called when a job of a containing group failed, or was cancelled or lost (`error` is then `None`)."""


class Cell:
    """What stays of an actor over its crashes. Loop thread only, but for the mailbox and the counters it reads."""

    def __init__(
        self,
        actor_class: type[AnyioActor],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        name: str = "",
        mailbox: Any = None,
        urn: str = "",
    ) -> None:
        self.actor_class = actor_class
        self.recipe = (args, kwargs or {})
        self.urn = urn or uuid.uuid4().urn
        self.name = name or actor_class.__name__
        self.named = bool(name)
        self.mailbox: Mailbox = mailbox if mailbox is not None else Mailbox()
        self.stopped = threading.Event()
        self.ref: ActorRef[Any]
        self.actor: AnyioActor | None = None
        self.parent: Parent | None = None
        self.links: Mapping[str, ActorRef[Any]] = {}
        self.context: Any = None
        self.on_lost: Callable[[Any, str], None] | None = None
        self.state = "new"
        self.generation = 0
        self.handled = 0
        self.failed = 0
        self.dropped = 0
        self.abandoned = 0
        self.restarts = 0
        self.queued = False
        self.suspended = False
        self.groups: dict[str, Group] = {}
        self._saved: Any = None
        self._has_saved = False
        self._stops: list[ActorFuture[bool]] = []
        self._stop_replies: list[ActorFuture[Any]] = []
        self._bound: dict[type, Callable[[Any], Any]] = {}
        self._room: list[ActorFuture[None]] = []
        declaration = self.declaration = actor_class.declaration
        self._handled_hook = actor_class.on_handled is not AnyioActor.on_handled
        mailbox = self.mailbox
        mailbox.owner = self.name
        mailbox.accepts = declaration.handlers if declaration is not None else None
        mailbox.max_count = actor_class.max_mail
        mailbox.max_bytes = actor_class.max_mail_bytes
        mailbox.overflow = actor_class.overflow
        mailbox.on_lost = self.lost
        self._decode = declaration.decode if declaration is not None else None
        self._asynchronous = declaration.asynchronous if declaration is not None else frozenset[type]()

    def __repr__(self) -> str:
        return f"<Cell {self.name} {self.state}>"

    def bind_ref(self) -> ActorRef[Any]:
        """Make the one reference."""
        self.ref = ActorRef(self, self.actor_class)
        return self.ref

    def current_actor(self) -> AnyioActor | None:
        return self.actor

    def keep_snapshot(self, state: Any) -> None:
        self._saved, self._has_saved = state, True

    # -- life ----------------------------------------------------------------------------

    def attach(self, host: Host) -> None:
        """Bind to a system, before the first instance: mail may arrive from now on and waits."""
        self.host = host
        self.backend = host.backend
        self.timers = host.timers
        self.mailbox.owner = self.name
        self.mailbox.bridge = host.bridge
        self.mailbox.thread_id = host.backend.thread_id
        self.mailbox.notify = self.notify
        specs = {**self.actor_class.groups, MAIN: GroupSpec(contain=False, max_queued=1_000_000)}
        self.groups = {name: Group(self, name, spec) for name, spec in specs.items()}
        self.groups[MAIN].on_idle = self._main_idle

    def open(self, host: Host) -> None:
        """Start the first instance. Raises `StartFailed`, and leaves nothing behind then."""
        self.attach(host)
        host.adopt(self)
        try:
            self.incarnate()
        except BaseException as error:
            self.finish("start failed")
            raise StartFailed(f"{self.name} did not start: {type(error).__name__}") from error

    def incarnate(self) -> None:
        """Make and start an instance. What its constructor, `restore` or `on_start` raises goes to the caller."""
        first = self.generation == 0
        self.generation += 1
        stage = LOCAL.stage
        actor_before = LOCAL.actor
        LOCAL.stage, LOCAL.actor = None, None
        try:
            if not (first and self.actor is not None):
                args, kwargs = self.recipe
                actor = self.actor_class.__new__(self.actor_class, *args, **kwargs)
                actor._slot = self
                self.actor = actor
                actor.__init__(*args, **kwargs)  # type: ignore[misc]
            assert self.actor is not None
            if self._has_saved:
                self.actor.restore(self._saved)
            LOCAL.actor = self.actor
            self.actor.on_start()
        finally:
            LOCAL.stage, LOCAL.actor = stage, actor_before
        self._bind_handlers()
        self.state = "running"
        self.suspended = False
        for group in self.groups.values():
            group.resume()
        self.notify()

    def _bind_handlers(self) -> None:
        if self.declaration is not None:
            self._bound = {kind: getattr(self.actor, name) for kind, name in self.declaration.handlers.items()}

    def restart(self) -> None:
        """A new instance behind the same identity. Raises what the constructor or `on_start` raised."""
        self.restarts += 1
        self.incarnate()

    def suspend(self) -> None:
        """Take the instance down but keep the cell: mail waits until `restart`."""
        self.state = "restarting"
        for group in self.groups.values():
            for job in group.fence():
                self._report(job, None)
                self._lose_job(job, "restarted")

    def finish(self, reason: str) -> None:
        """The end: no more mail, no more tasks, no registry entry. Idempotent."""
        if self.state == "dead":
            return
        self.state = "dead"
        self.mailbox.closed = True
        self.stopped.set()
        for group in self.groups.values():
            for job in (*group.fence(), *group.drop_queued()):
                self._lose_job(job, reason)
        while self.mailbox.user:
            self.lost(self.mailbox.take(), "dead")
        self.host.forget(self)
        for reply in self._stop_replies:
            reply.try_set(None)
        for done in self._stops:
            done.try_set(True)
        self._release_room()
        if self.parent is not None:
            self.parent.child_stopped(self)

    def _stop_now(self, reason: str) -> None:
        """Run `on_stop`, then finish."""
        if self.state in ("running", "stopping") and self.actor is not None:
            self.state = "stopping"
            before = LOCAL.actor
            LOCAL.actor = self.actor
            try:
                self.actor.on_stop()
            except BaseException as error:
                self.failed += 1
                logger.error("%s failed in on_stop", self.name, exc_info=error)
            finally:
                LOCAL.actor = before
        self.finish(reason)

    def begin_stop(self) -> None:
        """Take no more mail; stop when the jobs that run or wait are done."""
        self.state = "stopping"
        for group in self.groups.values():
            if not group.idle:
                group.on_idle = self._maybe_stopped
        self._maybe_stopped()

    def _maybe_stopped(self) -> None:
        if self.state == "stopping" and all(group.idle for group in self.groups.values()):
            self._stop_now("stopped")

    # -- mail ----------------------------------------------------------------------------

    def notify(self) -> None:
        """There is mail, or may be: get into the run queue, once."""
        if not self.queued:
            self.queued = True
            self.host.schedule(self)

    def ask(self, message: Any, future: ActorFuture[Any], timeout_s: float) -> None:
        """Send with a reply future and a deadline. The deadline is kept on the loop, whoever asks."""
        host: Host | None = getattr(self, "host", None)
        if host is None:
            future.try_fail(ActorDead(f"{self.name} has not started"))
            return
        due_s = host.backend.now() + timeout_s
        letter = self.mailbox.seal(message, future, due_s)
        if threading.get_ident() == host.backend.thread_id:
            timer = self.timers.at(due_s, lambda: future.try_fail(self._timeout_error(timeout_s)))
            future.when_done(timer.cancel)
        self.mailbox.send(letter)

    def _timeout_error(self, timeout_s: float) -> AskTimeout:
        return AskTimeout(f"{self.name} did not reply within {timeout_s} s")

    def run(self, batch: int) -> int:
        """Handle up to `batch` letters, control first. Called by the dispatcher; never raises."""
        mailbox = self.mailbox
        user = mailbox.user
        count = 0
        while count < batch:
            if mailbox.control:
                self._control(mailbox.control.popleft())
            elif user and self.state == "running" and not self.suspended:
                letter = user.popleft()
                if letter.coded:
                    mailbox.user_bytes -= len(letter.body)
                    self._handle(letter)
                else:
                    self._handle_object(letter)
            else:
                break
            count += 1
        if self._room:
            self._release_room()
        self.queued = False
        if mailbox.control or (user and self.state == "running" and not self.suspended):
            self.notify()
        return count

    def _handle(self, letter: Letter) -> None:
        if letter.due_s and letter.due_s <= self.backend.now():
            self.lost(letter, "expired")
            return
        try:
            message = self._decode(letter.body)  # type: ignore[misc]
        except (msgspec.MsgspecError, RtviError) as error:
            logger.error("%s was sent a message it cannot decode", self.name, exc_info=error)
            self.lost(letter, "undecodable")
            return
        kind = type(message)
        if kind in self._asynchronous:
            self._start_job(Job(self.declaration.handlers[kind], (message,), letter))  # type: ignore[union-attr]
            return
        local = LOCAL
        local.stage = stage = []
        local.actor = self.actor
        try:
            result = self._bound[kind](message)
            if self._handled_hook:
                self.actor.on_handled(message)  # type: ignore[union-attr]
        except BaseException as error:
            local.stage = local.actor = None
            self._failed(letter, error)
            return
        local.stage = local.actor = None
        self.handled += 1
        for effect, argument in stage:
            effect(argument)
        if letter.reply is not None:
            letter.reply.try_set(result)

    def _start_job(self, job: Job) -> None:
        group = self.groups[self.actor_class.async_group]
        self.suspended = group.name == MAIN
        group.submit(job)

    def _main_idle(self) -> None:
        self.suspended = False
        if self.state == "stopping":
            self._maybe_stopped()
        else:
            self.notify()

    def _handle_object(self, letter: Letter) -> None:
        """pykka's own messages, and any message of an actor that declares none: pykka's rules."""
        if isinstance(letter.body, pykka_messages._ActorStop):
            if letter.reply is not None:
                self._stop_replies.append(letter.reply)
            self.begin_stop()
            return
        if letter.due_s and letter.due_s <= self.backend.now():
            self.lost(letter, "expired")
            return
        LOCAL.actor = self.actor
        LOCAL.stage = stage = []
        try:
            result = self.actor._handle_receive(letter.body)  # type: ignore[union-attr]
        except BaseException as error:
            LOCAL.stage = LOCAL.actor = None
            if letter.reply is not None and isinstance(error, Exception) and not isinstance(error, Crash):
                self.failed += 1
                letter.reply.try_fail(error)  # an asked error is the asker's (pykka)
            else:
                self._failed(letter, error)
            return
        LOCAL.stage = LOCAL.actor = None
        for effect, argument in stage:
            effect(argument)
        if hasattr(result, "cr_await"):
            self._start_job(Job("proxied call", (), letter, result))
            return
        self.handled += 1
        if letter.reply is not None:
            letter.reply.try_set(result)

    def _control(self, message: Any) -> None:
        if isinstance(message, Stop):
            self._stops.append(message.done)
            if message.drain_s <= 0 or self.state != "running":
                self._stop_now(message.reason) if self.state == "running" else self.finish(message.reason)
            else:
                self._drain(message)
        elif isinstance(message, Inject) and self.state == "running":
            self._failed(None, message.error)

    def _drain(self, message: Stop) -> None:
        """Stop behind the mail that is there; at the deadline, now."""
        timer = self.timers.after(message.drain_s, lambda: self._stop_now("drain deadline"))
        message.done.when_done(timer.cancel)
        self.mailbox.user.append(Letter(pykka_messages._ActorStop(), None, 0.0, False))

    # -- the ends of handlers ------------------------------------------------------------

    def job_done(self, group: Group, job: Job, result: Any) -> None:
        letter = job.letter
        if letter is None:
            return
        self.handled += 1
        if self._handled_hook and letter.coded and self.actor is not None:
            self.actor.on_handled(job.arguments[0])
        if letter.reply is not None:
            letter.reply.try_set(result)

    def job_failed(self, group: Group, job: Job, error: BaseException) -> None:
        letter = job.letter
        if not group.spec.contain or isinstance(error, Crash):
            if letter is not None and not letter.coded and letter.reply is not None:
                self.failed += 1
                letter.reply.try_fail(error)
                return
            self._failed(letter, error, job)
            return
        self.failed += 1
        logger.error("%s failed in %s", self.name, job.method, exc_info=error)
        self._report(job, error)

    def job_cancelled(self, group: Group, job: Job) -> None:
        self._report(job, None)
        self._lose_job(job, "cancelled")

    def _report(self, job: Job, error: BaseException | None) -> None:
        """Tell the actor of a job that did not end well. What that raises crashes it."""
        if self.actor is None:
            return
        try:
            self.actor.on_error(job.method, job.arguments, error)
        except BaseException as problem:
            logger.error("%s failed in on_error", self.name, exc_info=problem)
            self.failed += 1

    def _lose_job(self, job: Job, reason: str) -> None:
        if job.letter is not None:
            self.lost(job.letter, reason)

    def _failed(self, letter: Letter | None, error: BaseException, job: Job | None = None) -> None:
        """A handler crashed the actor: nothing it sent has left; its message leaves; the parent decides."""
        self.failed += 1
        logger.error("%s crashed%s", self.name, f" in {job.method}" if job else "", exc_info=error)
        if job is not None:
            self._report(job, error)
        if letter is not None:
            if letter.reply is not None:
                failure = HandlerFailed(f"{self.name} failed: {type(error).__name__}")
                failure.__cause__ = error
                letter.reply.try_fail(failure)
            self.lost(letter, "crashed")
        old, self.state = self.actor, "crashed"
        if old is not None:
            try:
                old.on_failure(type(error), error, error.__traceback__)
            except BaseException as problem:
                logger.error("%s failed in on_failure", self.name, exc_info=problem)
        if self.parent is not None:
            self.suspend()
            self.parent.child_failed(self, error)
        else:
            self.finish("crashed")

    def lost(self, letter: Letter, reason: str) -> None:
        """A letter that will not be handled. It is counted, answered if it is an ask, and a dead letter. Never raises."""
        self.dropped += 1
        if letter.reply is not None:
            if isinstance(letter.body, pykka_messages._ActorStop):
                letter.reply.try_fail(ActorDead(f"{self.ref} not found"))
            else:
                letter.reply.try_fail(ActorDead(f"{self.ref} stopped before handling the message"))
        if letter.coded and self.on_lost is not None and self._decode is not None:
            try:
                self.on_lost(self._decode(letter.body), reason)
            except BaseException as problem:
                logger.error("the on_lost of %s failed", self.name, exc_info=problem)
        self.host.dead_letter(DeadLetter(self.name, reason, letter.body))

    # -- room ----------------------------------------------------------------------------

    async def wait_room(self) -> None:
        """Wait until the mailbox takes a message (`ActorRef.send`)."""
        mailbox = self.mailbox
        while not mailbox.closed and (
            len(mailbox.user) >= mailbox.max_count or mailbox.user_bytes >= mailbox.max_bytes
        ):
            future: ActorFuture[None] = ActorFuture()
            self._room.append(future)
            await future

    def _release_room(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            future.try_set(None)


AnyioActor.cell_class = Cell
