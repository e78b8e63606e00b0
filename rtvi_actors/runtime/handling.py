"""Handling: how letters go through an actor's handlers, and what becomes of those that do not.

A batch is bounded; synchronous handlers run right there, staged; asynchronous ones become jobs of the group ``main``,
and hold up the mailbox until they end, unless a synchronous handler hands them to a group of the actor's own. What an
incarnation's life and end are is the cell's (`cell`), which derives from this.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pykka import messages as pykka_messages

from rtvi_actors.errors import ActorError, Crash, HandlerFailed, Rejected
from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.context import LOCAL, Effect
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import Group, Job
from rtvi_actors.runtime.mailbox import DRAINED, DROPPED, VOID, Lane, Letter, Mailbox
from rtvi_actors.runtime.refs import ActorDead, ActorRef, ActorTimeout
from rtvi_actors.runtime.signals import Books, DeadLetter

if TYPE_CHECKING:
    from rtvi_actors.runtime.actor import AnyioActor

__all__ = ["MAIN", "OVERTAKES", "Handling"]

logger = logging.getLogger("rtvi_actors.runtime")

MAIN: Final = "main"
"""The group of asynchronous handlers that were not given to another: exclusive, and a failure crashes the actor."""
OVERTAKES: Final = 7
"""The letters of the user lane that may go before one of the bulk lane."""


class Handling(ABC):
    """The mail of one cell, and its books. Loop thread only, but for the mailbox and the counters it reads."""

    host: Any
    """`cell.Host`."""
    backend: Backend
    ref: ActorRef[Any]

    def __init__(self, actor_class: type[AnyioActor], name: str, mailbox: Mailbox) -> None:
        self.actor_class = actor_class
        self.name = name
        self.mailbox = mailbox
        self.actor: AnyioActor | None = None
        self.state = "new"
        self.queued = False
        self.suspended = False
        """Whether the mailbox waits for an asynchronous handler."""
        self.current: Letter | None = None
        """The letter in a synchronous handler right now. The watchdog reads it from its own thread."""
        self._overtakes = 0
        """Letters that went before the bulk mail that waits."""
        self.handled = 0
        self.failed = 0
        self.dropped = 0
        self.losses: dict[str, int] = {}
        """Messages that were not handled, by reason."""
        self.on_lost: Callable[[Any, str], None] | None = None
        self.groups: dict[str, Group] = {}
        self._bound: dict[type, Callable[[Any], Any]] = {}
        """The synchronous handlers of the instance."""
        self._room: list[ActorFuture[None]] = []
        """Who waits for room."""
        self._stop_replies: list[ActorFuture[Any]] = []
        self._drain_letter: Letter | None = None
        declaration = self.declaration = actor_class.declaration
        self._decode = declaration.decode if declaration is not None else None
        self._handled_hook = actor_class.hears_handled
        mailbox.owner = name
        if declaration is not None:
            bulk = mailbox.accepts_bulk = actor_class.bulk
            mailbox.accepts = {kind: handler for kind, handler in declaration.handlers.items() if kind not in bulk}
        mailbox.max_count = actor_class.max_mail
        mailbox.max_bytes = actor_class.max_mail_bytes
        mailbox.max_bulk = actor_class.max_bulk
        mailbox.max_bulk_bytes = actor_class.max_bulk_bytes
        mailbox.set_policy(actor_class.overflow, actor_class.mail_key)
        mailbox.on_lost = self.lost

    # -- what the cell decides -----------------------------------------------------------

    @abstractmethod
    def notify(self) -> None:
        """There is mail, or may be."""

    @abstractmethod
    def begin_stop(self) -> None:
        """Take no more mail."""

    @abstractmethod
    def _control(self, message: Any) -> None:
        """A message of the urgent lanes."""

    @abstractmethod
    def _failed(self, letter: Letter | None, error: BaseException, job: Job | None = None) -> None:
        """A handler crashed the actor."""

    @abstractmethod
    def _hook(self, place: str, hook: Callable[..., object], *arguments: Any) -> None:
        """Run a hook behind the firewall."""

    # -- handling letters ----------------------------------------------------------------

    def run(self, batch: int) -> int:
        """Handle up to `batch` letters, control first. Called by the dispatcher; never raises."""
        mailbox = self.mailbox
        user, bulk = mailbox.user, mailbox.bulk
        count = 0
        while count < batch:
            if mailbox.control:
                self._control(mailbox.control.popleft())
                count += 1
            elif self.state != "running" or self.suspended:
                break
            elif user and not (bulk and self._overtakes >= OVERTAKES):
                handled = self._handle_next(user, min(batch - count, OVERTAKES) if bulk else batch - count)
                self._overtakes = self._overtakes + handled if bulk else 0
                count += handled
            elif bulk:
                self._overtakes = 0
                count += self._handle_next(bulk, 1 if user else batch - count)
            else:
                break
        if self._room:
            self._release_room()
        if mailbox.on_low is not None:
            mailbox.sink()
        self.queued = False
        if mailbox.control or (self.state == "running" and not self.suspended and (user or bulk)):
            self.notify()
        return count

    def _handle_next(self, lane: Lane, limit: int) -> int:
        if lane[0].coded:
            return self._handle_row(lane, limit)
        letter = lane.popleft()
        self.mailbox.taken(letter)
        self._handle_object(letter)
        return 1

    def _handle_row(self, lane: Lane, limit: int) -> int:
        """Handle the encoded letters that come next, as far as nothing else is due; returns how many."""
        mailbox = self.mailbox
        control = mailbox.control
        stage: list[Effect] = []
        LOCAL.stage, LOCAL.actor = stage, self.actor
        count = 0
        try:
            while lane and count < limit and lane[0].coded and not control and not self.suspended:
                self.current = letter = lane.popleft()
                lane.size_bytes -= len(letter.body)
                if letter.key is not None:
                    mailbox.taken(letter)
                count += 1
                if not self._handle_staged(letter, stage):
                    break
        finally:
            LOCAL.stage = LOCAL.actor = self.current = None
        return count

    def _handle_staged(self, letter: Letter, stage: list[Effect]) -> bool:
        """Handle a letter with `stage` open, and let what was staged leave. Returns whether the actor lives on.

        While effects run the stage stays open: what they send in turn leaves behind what was staged before.
        """
        if letter.due_s and letter.due_s <= self.backend.now():
            self.current = None
            self.lost(letter, "expired")
        else:
            try:
                message = self._decode(letter.body)  # type: ignore[misc]
            except Exception as error:  # msgspec's, a nesting too deep, or what a field's own decoder raises
                logger.error("%s was sent a message it cannot decode", self.name, exc_info=error)
                self.current = None
                self.lost(letter, "undecodable")
                return self._commit(stage)
            handler = self._bound.get(type(message))
            if handler is None:
                handlers = self.declaration.handlers  # type: ignore[union-attr]
                self.current = None
                self._start_job(Job(handlers[type(message)], (message,), letter))
                return self._commit(stage)
            try:
                result = handler(message)
                if self._handled_hook:
                    self.actor.on_handled(message)  # type: ignore[union-attr]
            except BaseException as error:
                stage.clear()
                LOCAL.stage = LOCAL.actor = self.current = None
                self._failed(letter, error)
                return False
            self.handled += 1
            self.current = None
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

    def _handle_object(self, letter: Letter) -> None:
        """pykka's own messages, and any message of an actor that declares none: pykka's rules."""
        if letter.body is VOID:
            return
        if letter.body is DRAINED:
            self._drain_letter = None
            self.begin_stop()
            return
        if isinstance(letter.body, pykka_messages._ActorStop):
            self.handled += 1
            if letter.reply is not None:
                self._stop_replies.append(letter.reply)
            self.begin_stop()
            return
        if letter.due_s and letter.due_s <= self.backend.now():
            self.lost(letter, "expired")
            return
        stage: list[Effect] = []
        LOCAL.actor, LOCAL.stage = self.actor, stage
        self.current = letter
        try:
            result = self.actor._handle_receive(letter.body)  # type: ignore[union-attr]
        except BaseException as error:
            LOCAL.stage = LOCAL.actor = self.current = None
            if not self._askers_own(letter, error):
                self._failed(letter, error)
            return
        LOCAL.stage = LOCAL.actor = self.current = None
        if hasattr(result, "cr_await"):
            self._leave(iter(stage))
            self._start_job(Job("proxied call", (), letter, result))
            return
        self.handled += 1
        self._leave(iter(stage))
        if letter.reply is not None:
            letter.reply.try_set(result)

    def _askers_own(self, letter: Letter, error: BaseException) -> bool:
        """An error of an asked object, of a proxied call above all, is the asker's (pykka), and no crash."""
        if letter.coded or letter.reply is None or not isinstance(error, Exception) or isinstance(error, Crash):
            return False
        self.failed += 1
        self.handled += 1
        logger.info("Exception returned from %s to caller:", self.ref, exc_info=error)  # as pykka words it
        letter.reply.try_fail(error)
        return True

    def _release_room(self) -> None:
        waiting, self._room = self._room, []
        for future in waiting:
            future.try_set(None)

    # -- jobs ----------------------------------------------------------------------------

    def _start_job(self, job: Job) -> None:
        group = self.groups[self.actor_class.async_group]
        try:
            group.check_room(job)
        except Rejected:
            self.job_lost(job, "overflow")
            return
        self.suspended = group.name == MAIN
        group.submit(job)

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
        self.job_lost(job, "cancelled")
        self._report(job, None)

    def job_overflowed(self, job: Job) -> None:
        self.job_lost(job, "overflow")
        self._report(job, None)

    def job_lost(self, job: Job, reason: str) -> None:
        """A job that was not done: its letter is lost, and a call that never ran is closed."""
        if job.letter is not None:
            self.lost(job.letter, reason)
        if inspect.iscoroutine(job.awaitable) and inspect.getcoroutinestate(job.awaitable) == inspect.CORO_CREATED:
            job.awaitable.close()

    def _report(self, job: Job, error: BaseException | None) -> None:
        """Tell the actor of a job that did not end well."""
        if self.actor is not None:
            self._hook("on_error", self.actor.on_error, job.method, job.arguments, error)

    # -- what is lost --------------------------------------------------------------------

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
            self.handled += 1  # a stop that finds the actor stopped is no loss
            return
        self.dropped += 1
        self.losses[reason] = self.losses.get(reason, 0) + 1
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
        if reason in ("overflow", "coalesced"):
            return Rejected(self.name, letter.body)
        if reason in ("undecodable", "cancelled", "restarted"):
            return HandlerFailed(f"{self.name} did not handle the message: {reason}")
        return ActorDead(f"{self.ref} stopped before handling the message")

    def books(self) -> Books:
        """Where every message that was sent to it is. Counted, not derived: the equation is a check."""
        mailbox = self.mailbox
        in_hand = sum(group.letters for group in self.groups.values()) + (self.current is not None)
        return Books(
            received=mailbox.received + mailbox.refused,
            handled=self.handled,
            refused=mailbox.refused,
            dropped={reason: count for reason, count in self.losses.items() if reason in DROPPED},
            dead={reason: count for reason, count in self.losses.items() if reason not in DROPPED},
            open=len(mailbox) + in_hand,
        )
