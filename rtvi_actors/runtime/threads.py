"""`ThreadingActor`: for handlers that block. Declarations, supervision and reference as ever, and a thread of its own.

Everything of the actor is decided on the loop, as for any other; the thread only runs what people wrote, one call after
the other: handlers, hooks, and the making of the next incarnation. A handler's outcome goes back to the loop with what
it has sent, which leaves there.

A call that never returns holds up only its own actor. Where the loop cannot wait for it (a kill, a drain deadline, a
restart of the group, `handler_timeout_s`) it is given up: its message is lost, the thread is fenced, so that nothing
that it still sends has an effect, and the next incarnation gets another thread. The given-up instance's last hook runs
when the call returns, if it does.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, ClassVar, Protocol, SupportsIndex, cast

from pykka import messages as pykka_messages

from rtvi_actors.errors import DeclarationError, Fenced, HandlerTimeout
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.cell import Cell, Host
from rtvi_actors.runtime.clock import Timer
from rtvi_actors.runtime.context import CURRENT, LOCAL, Effect
from rtvi_actors.runtime.mailbox import VOID, Lane, Letter
from rtvi_actors.runtime.signals import Inject, Inspect
from rtvi_actors.runtime.watchdog import StuckHandler, letter_type

__all__ = ["ThreadCell", "ThreadHost", "ThreadingActor"]

logger = logging.getLogger("rtvi_actors.runtime")


class ThreadHost(Host, Protocol):
    """What a thread's cell asks beyond what every cell does."""

    def report_stuck(self, report: StuckHandler) -> None: ...


class _Undecodable(Exception):
    """The letter, not the handler, is to blame; the cause says why."""


class _Stage(list[Effect]):
    """What a call on a thread has sent. A fenced thread's takes nothing more, and gives nothing away.

    What leaves early, as the handler blocks for an answer (`commit`), crosses to the loop, where effects are at home.
    """

    def __init__(self, thread: _Thread) -> None:
        super().__init__()
        self._thread = thread

    def append(self, effect: Effect, /) -> None:
        self._thread.check()
        super().append(effect)

    def pop(self, index: SupportsIndex = -1, /) -> Effect:
        self._thread.check()
        effect, argument = super().pop(index)
        return partial(self._thread.bridge, cast("Callable[[Any], None]", effect)), argument


class _Call:
    """One run of what people wrote. The thread fills in the outcome, and then sets `ended`."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], tell: Callable[[_Call], None]) -> None:
        self.function = function
        self.arguments = arguments
        self.tell = tell
        """Called on the thread."""
        self.actor: AnyioActor | None = None
        self.letter: Letter | None = None
        self.is_hook = False
        """What a last hook sends leaves at once, as on the loop."""
        self.result: Any = None
        self.error: BaseException | None = None
        self.sent: list[Effect] = []
        self.ended = False


class _Thread:
    """One thread of a cell's. It is what `CURRENT` says of whatever runs there: no group's job; it may be fenced."""

    group: None = None
    job: None = None

    def __init__(self, cell: Cell) -> None:
        self.fenced = False
        self.actor: AnyioActor | None = None
        self.bridge = cell.host.bridge
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._main, name=cell.name, daemon=True)
        self.thread.start()

    def make(self, call: _Call) -> None:
        self._calls.put(call)

    def retire(self) -> None:
        """End behind the calls that are there."""
        self._calls.put(None)

    def check(self) -> None:
        if self.fenced:
            raise Fenced("the actor has given up on this handler")

    def stack(self) -> str:
        frame = sys._current_frames().get(self.thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def _main(self) -> None:
        CURRENT.set(self)
        while (call := self._calls.get()) is not None:
            self._make(call)
            call.ended = True
            call.tell(call)

    def _make(self, call: _Call) -> None:
        call.sent = _Stage(self)
        self.actor = LOCAL.actor = call.actor
        LOCAL.stage = None if call.is_hook else call.sent
        try:
            call.result = call.function(*call.arguments)
        except BaseException as error:
            call.error = error
        finally:
            LOCAL.stage = LOCAL.actor = self.actor = None


class ThreadCell(Cell):
    """A cell whose actor lives on a thread. Loop thread only, but for `_make_actor`, `_receive` and `_receive_object`.

    A message costs a crossing to the thread and one back: some 25 µs, 19 with uvloop (measured).
    """

    blocks: ClassVar[bool] = True

    def attach(self, host: Host) -> None:
        super().attach(host)
        self._thread: _Thread | None = None
        self._call: _Call | None = None
        """What the thread does and this cell waits for: a start, a letter (`current`), or the last `on_stop`."""
        self._deadline: Timer | None = None
        self._has_stopped = False
        """Whether `on_stop` has been called, or is about to be."""
        self._deferred: list[Any] = []
        """Control messages for the instance, while it is on the thread."""

    # -- calls ---------------------------------------------------------------------------

    def _post(self, call: _Call) -> _Call:
        assert self._thread is not None
        self._thread.make(call)
        return call

    def _then(self, ended: Callable[[_Call], None]) -> Callable[[_Call], None]:
        """Have the outcome of the call that this cell waits for told on the loop."""
        return partial(self.host.bridge, partial(self._end, ended))

    def _end(self, ended: Callable[[_Call], None], call: _Call) -> None:
        if call is not self._call:
            return  # it was given up
        self._call = None
        ended(call)
        self._catch_up()

    def _hook(self, place: str, hook: Callable[..., object], *arguments: Any) -> None:
        """Run a hook on the instance's thread, behind what runs there, and wait for nothing."""
        call = _Call(hook, arguments, partial(self.host.bridge, partial(self._hook_ended, place)))
        call.actor, call.is_hook = self.actor, True
        self._post(call)

    def _hook_ended(self, place: str, call: _Call) -> None:
        if call.error is not None:
            self.failed += 1
            logger.error("%s failed in %s", self.name, place, exc_info=call.error)

    # -- life ----------------------------------------------------------------------------

    def incarnate(self) -> None:
        """Have the thread make the first instance, and hold the loop until it runs: the caller is to be told of a
        failure. `on_start` must therefore not wait for the loop, and what takes long is better done in a handler.
        """
        made = threading.Event()
        call = self._start(lambda _: made.set())
        made.wait()
        if call.error is not None:
            raise call.error
        self._begin(call.sent)

    def restart(self) -> bool:
        """Have the thread make the next instance; the loop goes on meanwhile."""
        self.restarts += 1
        self._call = self._start(self._then(self._restarted))
        timeout_s = self.actor_class.handler_timeout_s
        if timeout_s is not None:
            error = HandlerTimeout(f"not started within {timeout_s:g} s")
            self._deadline = self.timers.after(timeout_s, lambda: self._abort_start(error))
        return False

    def _abort_start(self, error: BaseException) -> None:
        """A start that hangs is one that failed."""
        call, parent = self._call, self.parent
        if call is None or call.letter is not None or call.ended or parent is None:
            return
        self._give_up()
        parent.child_exited(self, "start failed", error)
        self._catch_up()

    def _restarted(self, call: _Call) -> None:
        self._take_back()
        parent = self.parent
        assert parent is not None
        if call.error is None:
            self._begin(call.sent)
            parent.child_restarted(self)
        else:
            logger.error("%s did not restart", self.name, exc_info=call.error)
            parent.child_exited(self, "start failed", call.error)

    def _start(self, tell: Callable[[_Call], None]) -> _Call:
        if self._thread is not None and self._thread.fenced:
            self._thread.retire()
            self._thread = None
        if self._thread is None:
            self._thread = _Thread(self)
        return self._post(_Call(self._make_actor, (self._next_generation(),), tell))

    def _begin(self, sent: list[Effect]) -> None:
        self._has_stopped = False
        super()._begin(sent)

    # -- mail ----------------------------------------------------------------------------

    def _handle_next(self, lane: Lane, limit: int) -> int:
        if self._is_runtimes_own(lane[0]):
            return super()._handle_next(lane, limit)
        letter = lane.take()
        self.mailbox.taken(letter)
        if letter.due_s and letter.due_s <= self.backend.now():
            self.lost(letter, "expired")
        else:
            self._hand_over(letter)
        return 1

    def _is_runtimes_own(self, letter: Letter) -> bool:
        """A stop's, or a voided one: the instance does not see it."""
        return letter.body is VOID or letter is self._drain_letter or isinstance(letter.body, pykka_messages._ActorStop)

    def _hand_over(self, letter: Letter) -> None:
        receive = partial(self._receive, self._bound) if letter.coded else self._receive_object
        call = _Call(receive, (self.actor, letter.body), self._then(self._handled))
        call.actor, call.letter = self.actor, letter
        self.current, self.suspended = letter, True
        timeout_s = self.actor_class.handler_timeout_s
        if timeout_s is not None:
            self._deadline = self.timers.after(timeout_s, lambda: self._overdue(call, timeout_s))
        self._call = self._post(call)

    def _receive(self, bound: dict[type, Callable[[Any], Any]], actor: AnyioActor, body: bytes) -> Any:
        """`bound` and `actor` are given: a call that was given up never gets at the next instance."""
        try:
            message = self._decode(body)  # type: ignore[misc]
        except Exception as error:
            raise _Undecodable from error
        result = bound[type(message)](message)
        if self._handled_hook:
            actor.on_handled(message)
        return result

    def _receive_object(self, actor: AnyioActor, body: Any) -> Any:
        result = actor._handle_receive(body)
        if hasattr(result, "cr_await"):
            result.close()
            raise TypeError(f"{self.name} runs on a thread, and no coroutines")
        return result

    def _handled(self, call: _Call) -> None:
        letter = self._take_back()
        assert letter is not None
        if call.error is None:
            self._succeeded(letter, call)
        elif isinstance(call.error, _Undecodable):
            logger.error("%s was sent a message it cannot decode", self.name, exc_info=call.error.__cause__)
            self.lost(letter, "undecodable")
        elif not self._askers_own(letter, call.error):
            self._failed(letter, call.error)
        self.notify()

    def _succeeded(self, letter: Letter, call: _Call) -> None:
        self.handled += 1
        LOCAL.stage = stage = list(call.sent)
        LOCAL.actor = self.actor
        try:
            self._commit(stage)
        finally:
            LOCAL.stage = LOCAL.actor = None
        if letter.reply is not None:
            letter.reply.try_set(call.result)

    def _take_back(self) -> Letter | None:
        """The letter is not in a handler any more."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        letter, self.current = self.current, None
        self.suspended = False
        return letter

    def _control(self, message: Any) -> None:
        """A crash, and a look at the instance, come between two calls."""
        crashes = isinstance(message, Inject) and self.current is not None
        if crashes or (isinstance(message, Inspect) and self._call is not None):
            self._deferred.append(message)
        else:
            super()._control(message)

    def _catch_up(self) -> None:
        deferred, self._deferred = self._deferred, []
        for message in deferred:
            self._control(message)

    # -- giving up -----------------------------------------------------------------------

    def _give_up(self) -> Letter | None:
        """Wait no longer for what the thread does. The letter, where it was one, is the caller's to account for.

        A handler that has returned, and whose outcome is on its way, has handled its letter.
        """
        call, self._call = self._call, None
        if call is None:
            return None
        letter = self._take_back()
        if not call.ended:
            assert self._thread is not None
            self._thread.fenced = True
            self.abandoned += 1
        elif letter is not None and call.error is None:
            self._succeeded(letter, call)
            return None
        return letter

    def _overdue(self, call: _Call, timeout_s: float) -> None:
        """The handler has had its time. One that has returned, to a loop that was held up, is not to blame."""
        if call is not self._call or call.ended:
            return
        assert self._thread is not None
        stack = self._thread.stack()
        letter = self._give_up()
        if letter is not None:  # else it has returned at the last moment
            report = StuckHandler(self.name, letter_type(self, letter), timeout_s, stack)
            logger.error("%s gives up on %s after %g s\n%s", self.name, report.message, timeout_s, stack)
            cast("ThreadHost", self.host).report_stuck(report)
            self._failed(letter, HandlerTimeout(f"not done within {timeout_s:g} s"))
        self._catch_up()
        self.notify()

    def suspend(self) -> None:
        self._lose("restarted")
        super().suspend()
        self._catch_up()

    def finish(self, reason: str) -> None:
        if self.state == "dead":
            return
        self._lose(reason if reason == "killed" else "dead")
        self.mailbox.control.extend(self._deferred)
        self._deferred.clear()
        super().finish(reason)
        if self._thread is not None:
            self._thread.retire()

    def _lose(self, reason: str) -> None:
        letter = self._give_up()
        if letter is not None:
            self.lost(letter, reason)

    # -- stopping ------------------------------------------------------------------------

    def maybe_stopped(self) -> None:
        """All mail is handled: the end waits for `on_stop`, until the drain's deadline."""
        if self.state == "stopping" and self._call is None and self.actor is not None:
            self._has_stopped = True
            call = _Call(self.actor.on_stop, (), self._then(self._stop_ended))
            call.actor, call.is_hook = self.actor, True
            self._call = self._post(call)

    def _stop_ended(self, call: _Call) -> None:
        self._hook_ended("on_stop", call)
        self._exit(self.exit)

    def _last_hook(self) -> None:
        """`on_stop`, unless it has been called; of an instance that is being started, when that has succeeded."""
        if self.state == "restarting" and self._call is not None:
            self._hook("on_stop", self._stop_started, self._call)
        elif not self._has_stopped:
            super()._last_hook()

    def _stop_started(self, start: _Call) -> None:
        if start.error is None and self.actor is not None:
            self.actor.on_stop()


class ThreadingActor(AnyioActor):
    """An actor on its own thread, for blocking code. Handlers are synchronous; what they send is staged all the same.

    A handler that blocks for an answer (`ref.ask(...)`, ``future.get()``) commits what it has sent until then. Hooks
    run on the thread too, but for `on_inspect`, which is called on the loop's, between two of the thread's calls.
    """

    cell_class: ClassVar[type[Cell]] = ThreadCell

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.declaration is not None and cls.declaration.asynchronous:
            raise DeclarationError(f"{cls.__qualname__}: a ThreadingActor's handlers are synchronous")
        if cls.groups:
            raise DeclarationError(f"{cls.__qualname__}: groups are of the event loop; a ThreadingActor has none")
