"""The cell: what stays of an actor over its crashes.

The *actor* is what people write: handlers and state; a crash throws it away. The *cell* has the URN, the reference, the
name, the mailbox, the registry entry, the counters, the groups and the snapshot. This file is its life: how
incarnations begin, stop, crash and end, who is told, and who waits. How letters go through handlers is in `handling`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

from rtvi_actors.errors import Crash, CyclicAsk, HandlerTimeout, Rejected, StartFailed
from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.clock import Timer, Timers
from rtvi_actors.runtime.context import CURRENT, LOCAL, Effect, new_uuid
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import Group, GroupSpec, Job
from rtvi_actors.runtime.handling import MAIN, Handling
from rtvi_actors.runtime.mailbox import DRAINED, VOID, Letter, Mailbox, encode
from rtvi_actors.runtime.refs import ActorDead, ActorRef
from rtvi_actors.runtime.signals import DeadLetter, ExitReason, Inject, Inspect, Stop, Terminated

if TYPE_CHECKING:
    from rtvi_actors.runtime.actor import AnyioActor

__all__ = ["Cell", "Host", "Parent"]

logger = logging.getLogger("rtvi_actors.runtime")

S = TypeVar("S")


BURIED_AT_ONCE: Final = 512
"""Letters of a dead actor's that become dead letters in one turn of the loop."""


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

    def bury(self, cell: Cell) -> None:
        """Have `Cell.bury` called turn by turn until it is done."""
        ...

    def run_on_loop(self, function: Callable[[], S]) -> S: ...


class Parent(Protocol):
    """The supervisor of a cell: it is called on the loop's thread, between handlers."""

    @property
    def name(self) -> str: ...

    def restarts(self, cell: Cell, how: ExitReason) -> bool:
        """Whether an incarnation that ends so is to be followed by another."""
        ...

    def child_exited(self, cell: Cell, how: ExitReason, error: BaseException | None) -> None:
        """An incarnation has ended, and the cell is suspended: restart it, now or later, or finish it."""
        ...

    def child_restarted(self, cell: Cell) -> None:
        """A restart that was to be told later has succeeded."""
        ...

    def child_stopped(self, cell: Cell) -> None:
        """The cell is dead."""
        ...


class Cell(Handling):
    """What stays of an actor over its crashes. Loop thread only, but for the mailbox and the counters it reads."""

    blocks: ClassVar[bool] = False
    """Whether its synchronous handlers may wait, on a thread of their own."""

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
        inbox: Mailbox = mailbox if mailbox is not None else actor_class._create_actor_inbox()
        super().__init__(actor_class, name or actor_class.__name__, inbox)
        inbox.await_room = self._block_for_room
        self.recipe = (args, kwargs or {})
        self.urn = urn or new_uuid().urn
        self.named = bool(name)
        self.stopped = threading.Event()
        self.parent: Parent | None = None
        self.links: Mapping[str, ActorRef[Any]] = {}
        self.context: Any = None
        self.retries_poison = False
        """Whether a message that crashes an incarnation is handled once more, by the next."""
        self.exit: ExitReason = "normal"
        """As what the incarnation that stops is to end."""
        self.final = False
        """Whether that is the end for good."""
        self.stops = False
        """Whether this incarnation is to stop, and at the most handles what is there until then."""
        self._out_of_time = False
        """Whether its time to drain is over."""
        self.generation = 0
        self.abandoned = 0
        self.restarts = 0
        self._saved: Any = None
        self._has_saved = False
        self._stops: list[ActorFuture[bool]] = []
        self._own_timers: dict[Timer, None] = {}
        """What `AnyioActor.after` has set and is still to come."""
        self._drain_timer: Timer | None = None
        self._watchers: dict[Cell, None] = {}
        self._watched: dict[Cell, None] = {}

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
        main = GroupSpec(contain=False, max_queued=1_000_000, timeout_s=self.actor_class.handler_timeout_s)
        specs = {**self.actor_class.groups, MAIN: main}
        self.groups = {name: Group(self, name, spec) for name, spec in specs.items()}
        for name, group in self.groups.items():
            group.on_idle = self._main_idle if name == MAIN else self.maybe_stopped

    def open(self, host: Host) -> None:
        """Start the first instance. Raises `StartFailed`, and leaves nothing behind then."""
        if self.state != "new":
            raise StartFailed(f"{self.name} has been started already")
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
        is_given = self._next_generation()
        stage = LOCAL.stage
        actor_before = LOCAL.actor
        sent: list[Effect] = []
        LOCAL.stage = sent
        LOCAL.actor = None
        try:
            self._make_actor(is_given)
        finally:
            LOCAL.stage, LOCAL.actor = stage, actor_before
        self._begin(sent)

    def _next_generation(self) -> bool:
        """Count it. Returns whether its instance is there already: the one that was given to be started."""
        self.generation += 1
        return self.generation == 1 and self.actor is not None

    def _make_actor(self, is_given: bool) -> None:
        """What people wrote of a start."""
        if not is_given:
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

    def _begin(self, sent: list[Effect]) -> None:
        """The instance runs: nobody has asked this incarnation to stop, and what it has sent as it started leaves."""
        self._bind_handlers()
        self.state = "running"
        self.exit, self.final, self.stops, self._out_of_time = "normal", False, False, False
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
                self.job_lost(job, "restarted")
                self._report(job, None)
        self._stops_done()

    def take_stops(self) -> None:
        """This incarnation is about to end: the stops that are on their way to it concern it, and not the next one."""
        control = self.mailbox.control
        for message in [message for message in control if isinstance(message, Stop)]:
            control.remove(message)
            self._note_stop(message)

    def _note_stop(self, message: Stop) -> None:
        self._stops.append(message.done)
        self.stops = True
        self.exit = message.exit
        self.final = self.final or message.final

    def take_down(self) -> None:
        """Suspend an incarnation that has done nothing wrong: it goes with its group (`Supervisor`)."""
        self._last_hook()
        self.suspend()

    def end(self, reason: str) -> None:
        """Run `on_stop` where there is an instance, then finish. For good, whatever the supervisor would say."""
        self._last_hook()
        self.finish(reason)

    def _last_hook(self) -> None:
        if self.state in ("running", "stopping") and self.actor is not None:
            self.state = "stopping"
            self._hook("on_stop", self.actor.on_stop)

    def _exit(self, how: ExitReason) -> None:
        """A stop or a kill that was asked for takes effect now."""
        if self.state == "dead":
            return
        parent = self.parent
        if parent is None or self.final or not parent.restarts(self, how):
            self.end(how)
        elif self.state == "restarting":
            self._stops_done()  # it is down already, and comes back in its own time
            if how == "killed":
                self._abort_start(Crash("killed as it started"))
        else:
            self.take_down()
            parent.child_exited(self, how, None)

    def _abort_start(self, error: BaseException) -> None:
        """Give up a start that is under way: on the loop there is none between two messages."""

    def _stops_done(self) -> None:
        """Whoever asked for a stop has it: this incarnation has ended."""
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
        if self._drain_letter is not None:
            self._drain_letter.body = VOID
            self._drain_letter = None
        replies, self._stop_replies = self._stop_replies, []
        for reply in replies:
            reply.try_set(None)
        stops, self._stops = self._stops, []
        for done in stops:
            done.try_set(True)

    def finish(self, reason: str) -> None:
        """The end: no more mail, no more tasks, no registry entry. Idempotent."""
        if self.state == "dead":
            return
        self.state = "dead"
        self.mailbox.close()
        self.stopped.set()
        for timer in list(self._own_timers):
            timer.cancel()
        for group in self.groups.values():
            for job in group.close():
                self.job_lost(job, reason if reason == "killed" else "dead")
        if not self.bury():
            self.host.bury(self)
        self.host.forget(self)
        self._end_control()
        self._release_room()
        self._tell_watchers(reason)
        if self.parent is not None:
            self.parent.child_stopped(self)

    def bury(self, count: int = BURIED_AT_ONCE) -> bool:
        """Make dead letters of the mail that a dead cell has left, so much of it; returns whether that was all.

        A hundred thousand at once would hold up everybody else for a tenth of a second.
        """
        mailbox = self.mailbox
        for _ in range(count):
            if mailbox.empty():
                return True
            letter = mailbox.take()
            if letter.body is not VOID and letter.body is not DRAINED:
                self.lost(letter, "dead")
        return mailbox.empty()

    def _end_control(self) -> None:
        control = self.mailbox.control
        while control:
            message = control.popleft()
            if isinstance(message, Stop):
                self._stops.append(message.done)
            elif isinstance(message, Inspect):
                message.done.try_fail(ActorDead(f"{self.ref} stopped"))
        self._stops_done()

    def _ask_parent(self, how: ExitReason, error: BaseException) -> None:
        """Suspended by a failure: what now?"""
        if self.parent is not None:
            self.parent.child_exited(self, how, error)

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
        """Take no more mail; stop when the jobs that run or wait are done, and the children are dead."""
        self.state = "stopping"
        self.stops = True
        if self.actor is not None:
            self.actor.stop_children()
        self.maybe_stopped()

    def _drain_over(self) -> None:
        """Whatever still runs is not waited for any more; children have times of their own."""
        self._out_of_time = True
        if self.actor is None or not self.actor.has_children:
            self._exit(self.exit)
        elif self.state == "running":
            self.begin_stop()

    def maybe_stopped(self) -> None:
        """Whoever held up the stop does so no longer."""
        if self.state != "stopping" or (self.actor is not None and self.actor.has_children):
            return
        if self._out_of_time or all(group.idle for group in self.groups.values()):
            self._exit(self.exit)

    # -- death watch ---------------------------------------------------------------------

    def watch(self, other: Cell) -> None:
        """Have this cell told when `other` is dead. Loop thread of `other`."""
        if other.state == "dead":
            self._terminated(other, "dead")
        else:
            other._watchers[self] = None
            self._watched[other] = None

    def unwatch(self, other: Cell) -> None:
        """Take it back, also where the message is there already. Loop thread."""
        other._watchers.pop(self, None)
        self._watched.pop(other, None)
        key = _end_of(other)
        self.mailbox.void_where(lambda letter: letter.key == key)

    def _tell_watchers(self, reason: str) -> None:
        for other in self._watched:
            other._watchers.pop(self, None)
        self._watched.clear()
        watchers, self._watchers = self._watchers, {}
        for watcher in watchers:
            watcher._watched.pop(self, None)
            watcher._terminated(self, reason)

    def _terminated(self, other: Cell, reason: str) -> None:
        message = Terminated(other.name, other.urn, reason)
        coded = self.declaration is not None
        body = encode(message) if coded else message
        self.mailbox.deliver(Letter(body, coded=coded, own=True, key=_end_of(other)))

    # -- mail ----------------------------------------------------------------------------

    def notify(self) -> None:
        """There is mail, or may be: get into the run queue, once."""
        if not self.queued:
            self.queued = True
            self.host.schedule(self)

    def ask(self, message: Any, future: ActorFuture[Any], timeout_s: float, *, blocking: bool = False) -> None:
        """Send with a reply future and a deadline. The deadline is kept on the loop, whoever asks."""
        host: Host | None = getattr(self, "host", None)
        if host is None:
            future.try_fail(ActorDead(f"{self.name} has not started"))
            return
        due_s = host.backend.now() + timeout_s
        letter = self.mailbox.seal(message, future, due_s)
        if not letter.own:  # who stops itself does not wait for it
            self._join_chain(letter, blocking)
        try:
            self.mailbox.send(letter)
        except Rejected:
            raise Rejected(self.name, message) from None
        if threading.get_ident() == host.backend.thread_id:
            self._set_deadline(letter)
        else:
            host.bridge(self._set_deadline, letter)

    def _join_chain(self, letter: Letter, blocking: bool) -> None:
        """The ask may be part of another one's answer: the earlier deadline counts, and nobody may be in it twice."""
        asker, asked = _who_asks(blocking)
        path: tuple[Cell, ...] = asked.path if asked is not None else ()
        if asker is not None:
            path = (*path, asker)
        if self in path:
            raise CyclicAsk(tuple(cell.name for cell in (*path, self)))
        letter.path = path
        if asked is not None and asked.due_s:
            letter.due_s = min(letter.due_s, asked.due_s)

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
            self.host.bridge(self._add_timer, timer)

    def _add_timer(self, timer: Timer) -> None:
        """Loop thread. One that was cancelled before is not set, nor one of an actor that has died."""
        if timer.callback is not None and self.state != "dead":
            timer.keeper = self._own_timers
            self._own_timers[timer] = None
            self.timers.add(timer)

    def _main_idle(self) -> None:
        self.suspended = False
        if self.state == "stopping":
            self.maybe_stopped()
        else:
            self.notify()

    def _control(self, message: Any) -> None:
        if isinstance(message, Stop):
            self._stop(message)
        elif isinstance(message, Inject):
            if self.state == "running":
                self._failed(None, message.error)
        elif isinstance(message, Inspect):
            self._inspect(message)

    def _inspect(self, message: Inspect) -> None:
        if self.state == "dead":
            message.done.try_fail(ActorDead(f"{self.ref} stopped"))
            return
        try:
            message.done.try_set(message.read(self))
        except BaseException as error:
            message.done.try_fail(error)

    def _stop(self, message: Stop) -> None:
        if self.state == "dead":
            message.done.try_set(False)
            return
        self._note_stop(message)
        if message.drain_s <= 0 or self.state not in ("running", "stopping"):
            self._exit(message.exit)
        else:
            self._drain(message)

    def _drain(self, message: Stop) -> None:
        """Stop behind the mail that is there; at the deadline, now. Of two deadlines the earlier one holds."""
        due_s, timer = self.timers.now() + message.drain_s, self._drain_timer
        if timer is None or due_s < timer.due_s:
            if timer is not None:
                timer.cancel()
            self._drain_timer = self.timers.at(due_s, self._drain_over)
        if self.state == "running" and self._drain_letter is None:
            self._drain_letter = Letter(DRAINED, None, 0.0, False, own=True)
            self.mailbox.voids += 1
            self.mailbox.user.append(self._drain_letter)

    # -- the ends of handlers ------------------------------------------------------------

    def _failed(self, letter: Letter | None, error: BaseException, job: Job | None = None) -> None:
        """A handler crashed the actor: nothing it sent has left; its message leaves; the parent decides.

        An actor that was stopping has stopped.
        """
        self.take_stops()
        stopping = self.stops
        how: ExitReason = "timeout" if isinstance(error, HandlerTimeout) else "error"
        self.failed += 1
        logger.error("%s crashed%s", self.name, f" in {job.method}" if job else "", exc_info=error)
        if letter is not None:
            self._poison(letter, error, "timeout" if how == "timeout" else "crashed", stopping)
        if job is not None:
            self._report(job, error)
        self.state = "crashed"
        if self.actor is not None:
            self._hook("on_failure", self.actor.on_failure, type(error), error, error.__traceback__)
        if stopping:
            self._stopped_by_crash(error)
        elif self.parent is None:
            self.finish(how)
        else:
            self.suspend()
            self._ask_parent(how, error)

    def _stopped_by_crash(self, error: BaseException) -> None:
        how, parent = self.exit, self.parent
        if parent is None or self.final or not parent.restarts(self, how):
            self.finish(how)
        else:
            self.suspend()
            self._ask_parent(how, error)

    def _poison(self, letter: Letter, error: BaseException, reason: str, stopping: bool) -> None:
        """The message that crashed it: lost, or, once, for the next incarnation."""
        if self.retries_poison and letter.coded and not letter.retried and not stopping and self.parent is not None:
            letter.retried = True
            self.mailbox.put_back(letter)
            return
        self._fail_reply(letter, error)
        self.lost(letter, reason)

    # -- room ----------------------------------------------------------------------------

    async def wait_room(self) -> None:
        """Wait until the mailbox takes a message (`ActorRef.send`). From any event loop."""
        while self._is_full():
            self._check_not_own(_who_asks(blocking=True)[0])
            room: ActorFuture[None] = ActorFuture()
            if threading.get_ident() == self.backend.thread_id:
                self._when_room(room)
            else:
                self.host.bridge(self._when_room, room)
            await room

    def _block_for_room(self) -> None:
        """As `wait_room`, once, for a sender on a foreign thread."""
        self._check_not_own(_who_asks(blocking=True)[0])
        room: ActorFuture[None] = ActorFuture()
        self.host.bridge(self._when_room, room)
        room.get()

    def _check_not_own(self, waiting: Cell | None) -> None:
        """Who waits for room in its own mailbox waits for itself."""
        if waiting is self:
            self.mailbox.refused += 1
            raise Rejected(self.name, None)

    def _is_full(self) -> bool:
        return not self.mailbox.closed and self.mailbox.is_full()

    def _when_room(self, room: ActorFuture[None]) -> None:
        """Set `room` after the next batch, or now where there is some. Loop thread."""
        if self._is_full():
            self._room.append(room)
        else:
            room.try_set(None)


def _end_of(cell: Cell) -> tuple[str, str]:
    """By what a waiting `Terminated` is known."""
    return ("terminated", cell.urn)


def _void(_: object) -> None:
    """Drop a result."""


def _who_asks(blocking: bool) -> tuple[Cell | None, Letter | None]:
    """Who asks from within a handler: the cell that waits so that its mailbox is held up, and the ask that the handler
    answers.

    A synchronous handler on the loop waits for nothing; one on a thread waits where its ask blocks.
    """
    actor = LOCAL.actor
    if actor is not None:
        cell: Cell = actor.cell
        return (cell if blocking else None, cell.current) if cell.blocks else (None, None)
    running = CURRENT.get()
    if running is None or running.job is None:
        return None, None
    holds_up = running.group.name == MAIN
    return (running.actor.cell if holds_up else None), running.job.letter
