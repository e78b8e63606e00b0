"""The cell: what stays of an actor over its crashes.

The *actor* is what people write: handlers and state; a crash throws it away. The *cell* has the URN, the reference, the
name, the mailbox, the registry entry, the counters, the groups and the snapshot.

A cell runs on the loop's thread: the dispatcher calls `run`, a bounded batch at a time. Synchronous handlers run right
there, staged; asynchronous ones become jobs of the group ``main``, and hold up the mailbox until they end, unless
a synchronous handler hands them to a group of the actor's own with `submit`.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
from pykka import messages as pykka_messages

from rtvi_actors.errors import ActorError, Crash, HandlerFailed, Rejected, StartFailed
from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.clock import Timer, Timers
from rtvi_actors.runtime.context import LOCAL, Effect, new_uuid
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import Group, GroupSpec, Job
from rtvi_actors.runtime.mailbox import Letter, Mailbox
from rtvi_actors.runtime.refs import ActorDead, ActorRef, ActorTimeout

if TYPE_CHECKING:
    from rtvi_actors.runtime.actor import AnyioActor

__all__ = ["MAIN", "Cell", "DeadLetter", "Host", "Inject", "Parent", "Stop"]

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
    """A message that was not handled, with the reason.

    crashed, failed (a contained asynchronous handler), cancelled, restarted, overflow, expired, undecodable, killed,
    dead.
    """

    receiver: str
    reason: str
    body: Any
    """The encoded message (bytes), or the object where the receiver takes objects."""


class Host(Protocol):
    """What a cell asks of the system that it runs in."""

    backend: Backend
    timers: Timers

    schedule: Callable[[Cell], None]
    bridge: Callable[[Callable[[Any], None], Any], None]
    mail_thread_id: int
    """The thread whose mail needs no bridge: the loop's; in a simulation none."""
    instrument: Callable[[Cell, Callable[[Any], Any]], Callable[[Any], Any]] | None
    """What a simulation puts around every synchronous handler."""

    def adopt(self, cell: Cell) -> None: ...

    def forget(self, cell: Cell) -> None: ...

    def dead_letter(self, letter: DeadLetter) -> None: ...

    def run_on_loop(self, function: Callable[[], S]) -> S: ...


class Parent(Protocol):
    """The supervisor of a cell: it is called on the loop's thread, between handlers."""

    @property
    def name(self) -> str: ...

    def child_failed(self, cell: Cell, error: BaseException) -> None: ...

    def child_restarted(self, cell: Cell) -> None: ...

    def restart_failed(self, cell: Cell, error: BaseException) -> None: ...

    def child_stopped(self, cell: Cell) -> None: ...


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
        self.urn = urn or new_uuid().urn
        self.name = name or actor_class.__name__
        self.named = bool(name)
        self.mailbox: Mailbox = mailbox if mailbox is not None else actor_class._create_actor_inbox()
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
        """The synchronous handlers of the instance."""
        self._room: list[ActorFuture[None]] = []
        self._own_timers: set[Timer] = set()
        """What `AnyioActor.after` has set and is still to come."""
        declaration = self.declaration = actor_class.declaration
        self._handled_hook = actor_class.hears_handled
        mailbox = self.mailbox
        mailbox.owner = self.name
        mailbox.accepts = declaration.handlers if declaration is not None else None
        mailbox.max_count = actor_class.max_mail
        mailbox.max_bytes = actor_class.max_mail_bytes
        mailbox.overflow = actor_class.overflow
        mailbox.on_lost = self.lost
        self._decode = declaration.decode if declaration is not None else None

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
        self.mailbox.thread_id = host.mail_thread_id
        self.mailbox.notify = self.notify
        specs = {**self.actor_class.groups, MAIN: GroupSpec(contain=False, max_queued=1_000_000)}
        self.groups = {name: Group(self, name, spec) for name, spec in specs.items()}
        for name, group in self.groups.items():
            group.on_idle = self._main_idle if name == MAIN else self._maybe_stopped

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
        """Make and start an instance. What its constructor, `restore` or `on_start` raises goes to the caller.

        What these send leaves when the instance runs, and not at all if they raise.
        """
        first = self.generation == 0
        self.generation += 1
        stage = LOCAL.stage
        actor_before = LOCAL.actor
        sent: list[Effect] = []
        LOCAL.stage = sent
        LOCAL.actor = None
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
        self.suspended = not self.groups[MAIN].idle
        self._leave(iter(sent))
        for group in self.groups.values():
            group.resume()
        self.notify()

    def _bind_handlers(self) -> None:
        if self.declaration is not None:
            handlers, later_ones = self.declaration.handlers, self.declaration.asynchronous
            self._bound = {kind: getattr(self.actor, name) for kind, name in handlers.items() if kind not in later_ones}
            if self.host.instrument is not None:
                self._bound = {kind: self.host.instrument(self, handler) for kind, handler in self._bound.items()}

    def restart(self) -> bool:
        """A new instance behind the same identity. Raises what the constructor or `on_start` raised.

        Returns whether it runs; otherwise the parent will be told what came of it.
        """
        self.restarts += 1
        self.incarnate()
        return True

    def suspend(self) -> None:
        """Take the instance down but keep the cell: mail waits until `restart`."""
        self.state = "restarting"
        for group in self.groups.values():
            for job in group.fence():
                self._report(job, None)
                self.job_lost(job, "restarted")

    def finish(self, reason: str) -> None:
        """The end: no more mail, no more tasks, no registry entry. Idempotent."""
        if self.state == "dead":
            return
        self.state = "dead"
        self.mailbox.closed = True
        self.stopped.set()
        for timer in list(self._own_timers):
            timer.cancel()
        for group in self.groups.values():
            for job in group.close():
                self.job_lost(job, reason)
        while self.mailbox.user:
            self.lost(self.mailbox.take(), "dead")
        self.host.forget(self)
        for reply in self._stop_replies:
            reply.try_set(None)
        while self.mailbox.control:
            message = self.mailbox.control.popleft()
            if isinstance(message, Stop):
                self._stops.append(message.done)
        for done in self._stops:
            done.try_set(True)
        self._release_room()
        self._tell_parent_stopped()

    def _tell_parent_stopped(self) -> None:
        if self.parent is not None:
            self.parent.child_stopped(self)

    def _ask_parent(self, error: BaseException) -> None:
        """Suspended: what now?"""
        if self.parent is not None:
            self.parent.child_failed(self, error)

    def _stop_now(self, reason: str) -> None:
        """Run `on_stop`, then finish."""
        if self.state in ("running", "stopping") and self.actor is not None:
            self.state = "stopping"
            self._hook("on_stop", self.actor.on_stop)
        self.finish(reason)

    def _hook(self, place: str, hook: Callable[..., object], *arguments: Any) -> None:
        """Run a hook behind the firewall: what it raises is counted, and logged with name and place."""
        before = LOCAL.stage, LOCAL.actor
        LOCAL.stage, LOCAL.actor = None, self.actor
        try:
            hook(*arguments)
        except BaseException as error:
            self.failed += 1
            logger.error("%s failed in %s", self.name, place, exc_info=error)
        finally:
            LOCAL.stage, LOCAL.actor = before

    def begin_stop(self) -> None:
        """Take no more mail; stop when the jobs that run or wait are done."""
        self.state = "stopping"
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
        letter = self.mailbox.seal(message, future, host.backend.now() + timeout_s)
        try:
            self.mailbox.send(letter)
        except Rejected:
            raise Rejected(self.name, message) from None
        if threading.get_ident() == host.backend.thread_id:
            self._set_deadline(letter)
        else:
            host.bridge(self._set_deadline, letter)

    def _set_deadline(self, letter: Letter) -> None:
        """Fail an ask when it is due. Loop thread."""
        future = letter.reply
        if future is None or future.done():
            return
        failing = future.try_fail
        timer = self.timers.at(letter.due_s, lambda: _void(failing(self._unhandled(letter, "expired"))))
        future.when_done(timer.cancel)

    def set_timer(self, timer: Timer) -> None:
        """Set a prepared timer. From any thread."""
        if threading.get_ident() == self.backend.thread_id:
            self._add_timer(timer)
        else:
            self.backend.soon_from_thread(lambda: self._add_timer(timer))

    def _add_timer(self, timer: Timer) -> None:
        """Loop thread. One that was cancelled before is not set, nor one of an actor that has died."""
        if timer.callback is not None and self.state != "dead":
            timer.keeper = self._own_timers
            self._own_timers.add(timer)
            self.timers.add(timer)

    def run(self, batch: int) -> int:
        """Handle up to `batch` letters, control first. Called by the dispatcher; never raises."""
        mailbox = self.mailbox
        user = mailbox.user
        count = 0
        while count < batch:
            if mailbox.control:
                self._control(mailbox.control.popleft())
                count += 1
            elif user and self.state == "running" and not self.suspended:
                if user[0].coded:
                    count += self._handle_row(batch - count)
                else:
                    self._handle_object(user.popleft())
                    count += 1
            else:
                break
        if self._room:
            self._release_room()
        self.queued = False
        if mailbox.control or (user and self.state == "running" and not self.suspended):
            self.notify()
        return count

    def _handle_row(self, limit: int) -> int:
        """Handle the encoded letters that come next, as far as nothing else is due; returns how many."""
        mailbox = self.mailbox
        user, control = mailbox.user, mailbox.control
        stage: list[Effect] = []
        LOCAL.stage, LOCAL.actor = stage, self.actor
        count = 0
        try:
            while user and count < limit and user[0].coded and not control and not self.suspended:
                letter = user.popleft()
                mailbox.user_bytes -= len(letter.body)
                count += 1
                if not self._handle_staged(letter, stage):
                    break
        finally:
            LOCAL.stage = LOCAL.actor = None
        return count

    def _handle(self, letter: Letter) -> None:
        """Handle one encoded letter."""
        stage: list[Effect] = []
        LOCAL.stage, LOCAL.actor = stage, self.actor
        try:
            self._handle_staged(letter, stage)
        finally:
            LOCAL.stage = LOCAL.actor = None

    def _handle_staged(self, letter: Letter, stage: list[Effect]) -> bool:
        """Handle a letter with `stage` open, and let what was staged leave. Returns whether the actor lives on.

        While effects run the stage stays open: what they send in turn leaves behind what was staged before.
        """
        if letter.due_s and letter.due_s <= self.backend.now():
            self.lost(letter, "expired")
        else:
            try:
                message = self._decode(letter.body)  # type: ignore[misc]
            except Exception as error:  # msgspec's, a nesting too deep, or what a field's own decoder raises
                logger.error("%s was sent a message it cannot decode", self.name, exc_info=error)
                self.lost(letter, "undecodable")
                return self._commit(stage)
            handler = self._bound.get(type(message))
            if handler is None:
                handlers = self.declaration.handlers  # type: ignore[union-attr]
                self._start_job(Job(handlers[type(message)], (message,), letter))
                return self._commit(stage)
            try:
                result = handler(message)
                if self._handled_hook:
                    self.actor.on_handled(message)  # type: ignore[union-attr]
            except BaseException as error:
                stage.clear()
                LOCAL.stage = LOCAL.actor = None
                self._failed(letter, error)
                return False
            self.handled += 1
            if letter.reply is not None:
                self._commit(stage)
                letter.reply.try_set(result)
        return self._commit(stage)

    def _commit(self, stage: list[Effect]) -> bool:
        """What was staged leaves, and so does what that stages in turn. Where one effect fails, the others leave."""
        if stage:
            effects = iter(stage)
            try:
                for effect, argument in effects:
                    effect(argument)
            except BaseException as error:
                self._effect_failed(error)
                self._leave(effects)
            stage.clear()
        return self.state == "running"

    def _leave(self, effects: Iterator[Effect]) -> None:
        """What was staged leaves; where one effect fails, the others leave all the same."""
        for effect, argument in effects:
            try:
                effect(argument)
            except BaseException as error:
                self._effect_failed(error)

    def _effect_failed(self, error: BaseException) -> None:
        self.failed += 1
        logger.error("an effect of %s failed", self.name, exc_info=error)

    def _start_job(self, job: Job) -> None:
        group = self.groups[self.actor_class.async_group]
        try:
            group.check_room(job)
        except Rejected:
            self.job_lost(job, "overflow")
            return
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
        stage: list[Effect] = []
        LOCAL.actor, LOCAL.stage = self.actor, stage
        try:
            result = self.actor._handle_receive(letter.body)  # type: ignore[union-attr]
        except BaseException as error:
            LOCAL.stage = LOCAL.actor = None
            if not self._askers_own(letter, error):
                self._failed(letter, error)
            return
        LOCAL.stage = LOCAL.actor = None
        self._leave(iter(stage))
        if hasattr(result, "cr_await"):
            self._start_job(Job("proxied call", (), letter, result))
            return
        self.handled += 1
        if letter.reply is not None:
            letter.reply.try_set(result)

    def _askers_own(self, letter: Letter, error: BaseException) -> bool:
        """An error of an asked object, of a proxied call above all, is the asker's (pykka), and no crash."""
        if letter.coded or letter.reply is None or not isinstance(error, Exception) or isinstance(error, Crash):
            return False
        self.failed += 1
        letter.reply.try_fail(error)
        return True

    def _control(self, message: Any) -> None:
        if isinstance(message, Stop):
            if self.state == "dead":
                message.done.try_set(False)
                return
            self._stops.append(message.done)
            if message.drain_s <= 0 or self.state not in ("running", "stopping"):
                self._stop_now(message.reason)
            else:
                self._drain(message)
        elif isinstance(message, Inject) and self.state == "running":
            self._failed(None, message.error)

    def _drain(self, message: Stop) -> None:
        """Stop behind the mail that is there; at the deadline, now."""
        timer = self.timers.after(message.drain_s, lambda: self._stop_now("drain deadline"))
        message.done.when_done(timer.cancel)
        if self.state == "running":
            self.mailbox.user.append(Letter(pykka_messages._ActorStop(), None, 0.0, False))

    # -- the ends of handlers ------------------------------------------------------------

    def job_done(self, group: Group, job: Job, result: Any) -> None:
        letter = job.letter
        if letter is None:
            return
        if self._handled_hook and letter.coded and not self._handled_late(job):
            return
        self.handled += 1
        if letter.reply is not None:
            letter.reply.try_set(result)

    def _handled_late(self, job: Job) -> bool:
        """`on_handled` for an asynchronous handler: staged, and a crash if it raises, as for a synchronous one."""
        if self.actor is None:
            return True
        stage: list[Effect] = []
        LOCAL.stage, LOCAL.actor = stage, self.actor
        try:
            self.actor.on_handled(job.arguments[0])
        except BaseException as error:
            LOCAL.stage = LOCAL.actor = None
            self._failed(job.letter, error, job)
            return False
        LOCAL.stage = LOCAL.actor = None
        self._leave(iter(stage))
        return True

    def job_failed(self, group: Group, job: Job, error: BaseException) -> None:
        letter = job.letter
        if not group.spec.contain or isinstance(error, Crash):
            if letter is None or not self._askers_own(letter, error):
                self._failed(letter, error, job)
            return
        self.failed += 1
        logger.error("%s failed in %s", self.name, job.method, exc_info=error)
        if letter is not None:
            self._fail_reply(letter, error)
            self.lost(letter, "failed")
        self._report(job, error)

    def job_cancelled(self, group: Group, job: Job) -> None:
        self._report(job, None)
        self.job_lost(job, "cancelled")

    def _report(self, job: Job, error: BaseException | None) -> None:
        """Tell the actor of a job that did not end well."""
        if self.actor is not None:
            self._hook("on_error", self.actor.on_error, job.method, job.arguments, error)

    def job_lost(self, job: Job, reason: str) -> None:
        """A job that was not done: its letter is lost, and a call that never ran is closed."""
        if job.letter is not None:
            self.lost(job.letter, reason)
        if inspect.iscoroutine(job.awaitable) and inspect.getcoroutinestate(job.awaitable) == inspect.CORO_CREATED:
            job.awaitable.close()

    def _failed(self, letter: Letter | None, error: BaseException, job: Job | None = None) -> None:
        """A handler crashed the actor: nothing it sent has left; its message leaves; the parent decides.

        An actor that was stopping is not restarted.
        """
        stopping = self.state == "stopping"
        self.failed += 1
        logger.error("%s crashed%s", self.name, f" in {job.method}" if job else "", exc_info=error)
        if job is not None:
            self._report(job, error)
        if letter is not None:
            self._fail_reply(letter, error)
            self.lost(letter, "crashed")
        self.state = "crashed"
        if self.actor is not None:
            self._hook("on_failure", self.actor.on_failure, type(error), error, error.__traceback__)
        if self.parent is None or stopping:
            self.finish("crashed")
        else:
            self.suspend()
            self._ask_parent(error)

    def _fail_reply(self, letter: Letter, error: BaseException) -> None:
        if letter.reply is not None:
            failure = HandlerFailed(f"{self.name} failed: {type(error).__name__}")
            failure.__cause__ = error
            letter.reply.try_fail(failure)

    def lost(self, letter: Letter, reason: str) -> None:
        """A letter that will not be handled.

        It is counted, answered if it is an ask, and a dead letter. Never raises.
        """
        if letter.reply is not None:
            letter.reply.try_fail(self._unhandled(letter, reason))
        if isinstance(letter.body, pykka_messages._ActorStop):
            return  # a stop that finds the actor stopped is no loss
        self.dropped += 1
        if letter.coded and self.on_lost is not None and self._decode is not None:
            try:
                self.on_lost(self._decode(letter.body), reason)
            except BaseException as problem:
                logger.error("the on_lost of %s failed", self.name, exc_info=problem)
        self.host.dead_letter(DeadLetter(self.name, reason, letter.body))

    def _unhandled(self, letter: Letter, reason: str) -> ActorError:
        """What the asker of a lost letter gets."""
        if reason == "expired":
            return ActorTimeout(f"{self.name} did not reply in time")
        if reason == "overflow":
            return Rejected(self.name, letter.body)
        if reason in ("undecodable", "cancelled", "restarted"):
            return HandlerFailed(f"{self.name} did not handle the message: {reason}")
        return ActorDead(f"{self.ref} stopped before handling the message")

    # -- room ----------------------------------------------------------------------------

    async def wait_room(self) -> None:
        """Wait until the mailbox takes a message (`ActorRef.send`). From any event loop."""
        while self._is_full():
            room: ActorFuture[None] = ActorFuture()
            if threading.get_ident() == self.backend.thread_id:
                self._when_room(room)
            else:
                self.backend.soon_from_thread(lambda room=room: self._when_room(room))  # type: ignore[misc]
            await room

    def _is_full(self) -> bool:
        mailbox = self.mailbox
        return not mailbox.closed and (
            len(mailbox.user) >= mailbox.max_count or mailbox.user_bytes >= mailbox.max_bytes
        )

    def _when_room(self, room: ActorFuture[None]) -> None:
        """Set `room` after the next batch, or now where there is some. Loop thread."""
        if self._is_full():
            self._room.append(room)
        else:
            room.try_set(None)

    def _release_room(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            future.try_set(None)


def _void(_: object) -> None:
    """Drop a result."""
