"""Supervision as in OTP, with the back-off that OTP lacks. README.md beside this file says exactly what it does.

The supervisor is an actor, so it is in the registry and can be asked what it does; but it decides in a call of the
runtime's, between two handlers, so that a restart in place costs microseconds and no message.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from rtvi_actors.errors import DeclarationError, RestartLimit, StartFailed, Unknown
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.clock import Timer
from rtvi_actors.runtime.context import LOCAL, check_fence
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.signals import ExitReason, Stop

__all__ = ["Backoff", "ChildSpec", "Escalation", "Poison", "Restart", "Strategy", "Supervisor"]

logger = logging.getLogger("rtvi_actors.runtime")

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
"""permanent: restarted whenever it ends; transient: unless it ends as it was asked to; temporary: never."""
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
"""Who restarts with a child: nobody, all its siblings, those behind it in start order."""
Poison: TypeAlias = Literal["drop", "retry_once"]
"""What becomes of a message that crashes its receiver: a dead letter, at once or when it has crashed the next one
too."""

ABNORMAL: Final[frozenset[ExitReason]] = frozenset({"killed", "error", "timeout", "start failed"})
ASKED_FOR: Final[frozenset[ExitReason]] = frozenset({"normal", "shutdown"})
RESTARTED_AFTER: Final[Mapping[Restart, frozenset[ExitReason]]] = {
    "permanent": ABNORMAL | ASKED_FOR,
    "transient": ABNORMAL,
    "temporary": frozenset(),
}
"""Restart type → the exits that another incarnation follows."""


class Backoff(msgspec.Struct, frozen=True):
    """How long a child that keeps failing waits for its next start."""

    immediate: int = 3
    """So many failures in a row restart at once; a failed *start* waits always."""
    first_s: float = 0.02
    factor: float = 2.0
    max_s: float = 0.5
    jitter: float = 0.2
    """Each delay is multiplied by a random factor within 1 ± jitter: what failed together should not return
    together."""
    reset_s: float = 5.0
    """An incarnation that lived so long has made good for those before it."""

    def delay_s(self, failures: int, how: ExitReason, random: Callable[[], float]) -> float:
        """Before the restart that follows the `failures`-th failure in a row."""
        beyond = failures - self.immediate
        if beyond <= 0 and how != "start failed":
            return 0.0
        # Powers of a float overflow: what is certainly beyond max_s need not be computed exactly.
        delay_s = min(self.max_s, self.first_s * self.factor ** min(max(0, beyond - 1), 64))
        return delay_s * (1 + self.jitter * (2 * random() - 1)) if self.jitter else delay_s


class Escalation(msgspec.Struct, frozen=True):
    """A supervisor has given up on a child."""

    supervisor: str
    child: str
    """Its full name, ``supervisor/child``."""
    error: BaseException
    """What the child failed with at last: a `RestartLimit` where it was a supervisor itself."""


class ChildSpec(msgspec.Struct, frozen=True):
    """How to start a child, and what to do when it ends."""

    name: str
    """Unique among its siblings; its registry name is ``supervisor/name``."""
    actor: Any
    """The actor class; or an instance that has not been started, whose class and arguments serve for restarts."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    links: tuple[str, ...] = ()
    """The siblings that it may send to, by name (`AnyioActor.link`)."""
    context: Any = None
    """What every incarnation finds in `cell.context`, immutable."""
    restart: Restart = "permanent"
    on_poison: Poison = "drop"
    shutdown_s: float = 1.0
    """How long it may drain when it is stopped; 0 is at once."""
    backoff: Backoff = Backoff()
    on_lost: Callable[[Any, str], None] | None = None
    """Called with every declared message that it did not handle, decoded, and the reason. Must not raise."""
    on_restarted: Callable[[], None] | None = None
    """Called when a new incarnation runs. Must not raise."""

    def __post_init__(self) -> None:
        """Here, and not at the first crash, a word that is none is refused: `DeclarationError`."""
        _check_word("restart", self.restart, Restart)
        _check_word("on_poison", self.on_poison, Poison)
        if not isinstance(self.backoff, Backoff):
            raise DeclarationError(f"backoff is a Backoff, not {self.backoff!r}")


class _Child:
    """What the supervisor knows of a child beside its cell's own state."""

    def __init__(self, cell: Cell, spec: ChildSpec) -> None:
        self.cell = cell
        self.spec = spec
        self.failures = 0
        """In a row."""
        self.started_s = 0.0
        self.delay: Timer | None = None
        """Set while it is in back-off."""
        self.starting = False
        """Its restart has been ordered, and what came of it will be told (`ThreadingActor`)."""

    @property
    def down(self) -> bool:
        return self.cell.state == "restarting" and not self.starting


class Supervisor(AnyioActor):
    """Starts its children in order, restarts them by `strategy`, stops them in reverse.

    Beyond `intensity` restarts in `period_s` seconds it gives up: to its own supervisor, or to `on_escalate`, which is
    called on the loop's thread and must not raise, or by stopping.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec] = (),
        *,
        strategy: Strategy = "one_for_one",
        intensity: int = 10,
        period_s: float = 10.0,
        on_escalate: Callable[[Escalation], None] | None = None,
    ) -> None:
        super().__init__(specs, strategy=strategy, intensity=intensity, period_s=period_s, on_escalate=on_escalate)
        _check_word("strategy", strategy, Strategy)
        self._specs = tuple(specs)
        self._strategy = strategy
        self._intensity = intensity
        self._period_s = period_s
        self._on_escalate = on_escalate
        self._restarts_s: deque[float] = deque()
        self._children: dict[str, _Child] = {}
        """By name, in start order; those that have ended for good are not in it."""
        self._is_changing = False

    def on_start(self) -> None:
        """Make every child's cell first, so that links may point forward, then start them in order."""
        if not self.cell.named and self.cell.generation == 1:
            self.cell.name += f"-{self.cell.urn[-8:]}"  # its children's names are to be their own
        try:
            for spec in self._specs:
                self._make(spec)
            for spec in self._specs:
                self._start(spec)
        except BaseException:
            self._end_children("shutdown")
            raise

    def on_stop(self) -> None:
        self._end_children("shutdown")

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Its children do not outlive it: the next incarnation makes them anew."""
        self._end_children("shutdown")

    def _end_children(self, reason: str) -> None:
        with self._changing():
            for child in reversed(list(self._children.values())):
                self._cancel_delay(child)
                child.cell.end(reason)
            self._children.clear()

    # -- children --------------------------------------------------------------------------

    def child(self, name: str) -> ActorRef[Any]:
        """A living child by the name in its spec. Raises `Unknown`."""
        return self._by_name(name).cell.ref

    def children(self) -> list[ActorRef[Any]]:
        """Those that live, in start order."""
        return [child.cell.ref for child in self._children.values()]

    def start_child(self, spec: ChildSpec) -> ActorRef[Any]:
        """Add a child while running, behind the others, and start it at once. Raises `NameTaken` or `StartFailed`.

        Loop thread; from elsewhere by a proxy: ``system.get("name").proxy().start_child(spec)``.
        """
        check_fence()
        if self.cell.state in ("stopping", "crashed", "dead"):
            raise StartFailed(f"{self.name} has ended, or is about to")
        self._make(spec)
        self._start(spec)
        return self.child(spec.name)

    def stop_child(self, name: str) -> ActorFuture[bool]:
        """End a child for good, whatever its restart type: it has its `shutdown_s` to drain. Raises `Unknown`.

        The future says whether it lived.
        """
        check_fence()
        child = self._by_name(name)
        done: ActorFuture[bool] = ActorFuture()
        child.cell.mailbox.deliver_control(Stop(child.spec.shutdown_s, "shutdown", done, final=True))
        return done

    def _by_name(self, name: str) -> _Child:
        try:
            return self._children[name]
        except KeyError:
            raise Unknown(f"{self.name} has no child named {name}") from None

    def _make(self, spec: ChildSpec) -> None:
        cell = _new_cell(spec, f"{self.name}/{spec.name}")
        cell.parent = self
        cell.on_lost = spec.on_lost
        cell.context = spec.context
        cell.retries_poison = spec.on_poison == "retry_once"
        cell.attach(self.cell.host)
        self.cell.host.adopt(cell)
        self._children[spec.name] = _Child(cell, spec)

    def _start(self, spec: ChildSpec) -> None:
        child = self._children[spec.name]
        cell = child.cell
        try:
            cell.links = {name: self.child(name) for name in spec.links}
            cell.incarnate()
        except BaseException as error:
            cell.finish("start failed")
            raise StartFailed(f"{cell.name} did not start: {type(error).__name__}") from error
        child.started_s = self._now_s

    @property
    def _now_s(self) -> float:
        return self.cell.timers.now()

    # -- what the runtime calls ------------------------------------------------------------

    def restarts(self, cell: Cell, how: ExitReason) -> bool:
        """The table of restart types. While the supervisor itself stops, nothing is restarted."""
        child = self._of(cell)
        return child is not None and self.cell.state == "running" and how in RESTARTED_AFTER[child.spec.restart]

    def child_exited(self, cell: Cell, how: ExitReason, error: BaseException | None) -> None:
        """A child is down: end it, or take its group down and start what may start; or give up."""
        child = self._of(cell)
        if child is None or not self.restarts(cell, how):
            cell.finish(how)
            return
        child.starting = False
        with self._changing():
            if self._too_many():
                self._give_up(cell, error or RestartLimit(self.name, cell.name))
            else:
                self._take_down_group(child)
                self._delay(child, how)
        self._start_due()

    def child_restarted(self, cell: Cell) -> None:
        """A new incarnation runs."""
        child = self._of(cell)
        if child is None:
            return
        child.starting = False
        child.started_s = self._now_s
        if child.spec.on_restarted is not None:
            self.cell._hook("on_restarted", child.spec.on_restarted)
        self._start_due()

    def child_stopped(self, cell: Cell) -> None:
        """A child ended for good: forget it. Those that waited for it may start."""
        child = self._of(cell)
        if child is not None:
            self._cancel_delay(child)
            del self._children[child.spec.name]
            self._start_due()
            if self.cell.state == "stopping" and not self._is_changing:
                self.stop_children()
                self.cell.maybe_stopped()

    def _of(self, cell: Cell) -> _Child | None:
        """`None` where it is no child any more."""
        child = self._children.get(cell.name.removeprefix(f"{self.name}/"))
        return child if child is not None and child.cell is cell else None

    # -- a restart -------------------------------------------------------------------------

    def _group(self, child: _Child) -> list[_Child]:
        """Who restarts with a child, itself included, in start order."""
        children = list(self._children.values())
        return {
            "one_for_one": [child],
            "one_for_all": children,
            "rest_for_one": children[children.index(child) :],
        }[self._strategy]

    def _take_down_group(self, failed: _Child) -> None:
        for child in reversed(self._group(failed)):
            cell = child.cell
            if child is failed or not (child.starting or cell.state in ("running", "stopping")):
                continue
            child.starting = False
            self._forgive(child)
            cell.take_stops()
            if child.spec.restart == "temporary":
                cell.end("shutdown")
            elif cell.stops and (cell.final or not self.restarts(cell, cell.exit)):
                cell.end(cell.exit)
            else:
                cell.take_down()

    def _delay(self, child: _Child, how: ExitReason) -> None:
        """Count a failure, and set the back-off that follows from it."""
        if how != "start failed":
            self._forgive(child)
        child.failures += 1
        delay_s = child.spec.backoff.delay_s(child.failures, how, LOCAL.sources.random.random)
        self._cancel_delay(child)
        if delay_s > 0:
            child.delay = self.cell.timers.after(delay_s, lambda: self._delay_over(child))

    def _forgive(self, child: _Child) -> None:
        """An incarnation has ended: if it lived long enough, the failures before it do not count any more."""
        if self._now_s - child.started_s >= child.spec.backoff.reset_s:
            child.failures = 0

    def _delay_over(self, child: _Child) -> None:
        child.delay = None
        self._start_due()

    @staticmethod
    def _cancel_delay(child: _Child) -> None:
        if child.delay is not None:
            child.delay.cancel()
            child.delay = None

    def _start_due(self) -> None:
        """Start, in order, the children that are down and need not wait: for their own delay, or for a neighbour."""
        if self._is_changing:
            return  # who changes something looks again when it is done
        with self._changing():
            while self.cell.state == "running" and (child := self._next_due()) is not None:
                self._restart(child)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Nobody is started in between."""
        before, self._is_changing = self._is_changing, True
        try:
            yield
        finally:
            self._is_changing = before

    def _next_due(self) -> _Child | None:
        children = list(self._children.values())
        if self._strategy == "one_for_all" and any(child.delay for child in children if child.down):
            return None
        for child in children:
            if child.down and child.delay is None:
                return child
            if (child.down or child.starting) and self._strategy != "one_for_one":
                return None
        return None

    def _restart(self, child: _Child) -> None:
        cell = child.cell
        child.starting = True
        try:
            running = cell.restart()
        except BaseException as error:
            logger.error("%s did not restart", cell.name, exc_info=error)
            self.child_exited(cell, "start failed", error)
            return
        if running:
            self.child_restarted(cell)

    # -- the limit -------------------------------------------------------------------------

    def _too_many(self) -> bool:
        """Count a restart, unless it would be one too many."""
        now_s = self._now_s
        restarts = self._restarts_s
        while restarts and restarts[0] < now_s - self._period_s:
            restarts.popleft()
        if len(restarts) >= self._intensity:
            return True
        restarts.append(now_s)
        return False

    def _give_up(self, cell: Cell, error: BaseException) -> None:
        logger.error("%s gives up: %s had to be restarted too often", self.name, cell.name)
        cell.finish("restart limit")
        if self._on_escalate is not None:
            self.cell._hook("on_escalate", self._on_escalate, Escalation(self.name, cell.name, error))
        elif self.cell.parent is not None:
            limit = RestartLimit(self.name, cell.name)
            limit.__cause__ = error
            self.cell._failed(None, limit)
        else:
            self.cell.end("restart limit")

    # -- the end ---------------------------------------------------------------------------

    @property
    def has_children(self) -> bool:
        return bool(self._children)

    def stop_children(self) -> None:
        """Stop the last one: in reverse order, one after the other, each with its `shutdown_s` to drain."""
        if self._children:
            self.stop_child(next(reversed(self._children)))


def _check_word(what: str, word: object, words: Any) -> None:
    if word not in get_args(words):
        raise DeclarationError(f"{what} is one of {', '.join(get_args(words))}, not {word!r}")


def _new_cell(spec: ChildSpec, name: str) -> Cell:
    """The cell of a spec's class, or of its instance; a spent instance gives its class and arguments for another."""
    if not isinstance(spec.actor, AnyioActor):
        actor_class, (args, kwargs) = spec.actor, (spec.args, spec.kwargs)
    elif spec.actor.cell.state == "new":
        spec.actor.cell.name, spec.actor.cell.named = name, True
        return spec.actor.cell
    else:
        actor_class, (args, kwargs) = spec.actor.cell.actor_class, spec.actor.cell.recipe
    cell: Cell = actor_class.cell_class(actor_class, args, kwargs, name=name)
    cell.bind_ref()
    return cell
