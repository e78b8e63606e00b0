"""Supervision as in OTP: child specs, one_for_one, a restart limit over a sliding window.

The supervisor is an actor, so it is in the registry and can be asked what it does; but it decides in a call of the
runtime's, between two handlers, so that a restart in place costs microseconds and no message. Children start in the
order of the list and stop in reverse. Beyond `intensity` restarts in `period_s` seconds the supervisor stops its
children and tells its own parent, or, at the top, `on_escalate`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias

import msgspec

from rtvi_actors.errors import StartFailed, Unknown
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.cell import Cell, Stop
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef

__all__ = ["ChildSpec", "Restart", "Supervisor"]

logger = logging.getLogger("rtvi_actors.runtime")

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
"""permanent: restarted whenever it ends; transient: after a crash; temporary: never."""

RETRY_S: Final = 0.05
"""How long a child whose restart failed waits for the next."""


class ChildSpec(msgspec.Struct, frozen=True):
    """How to start a child, and what to do when it crashes."""

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
    shutdown_s: float = 1.0
    """How long it may drain when it is stopped."""
    on_lost: Callable[[Any, str], None] | None = None
    """Called with every declared message that it did not handle, decoded, and the reason. Must not raise."""
    on_restarted: Callable[[], None] | None = None
    """Called when a new incarnation runs. Must not raise."""


class Supervisor(AnyioActor):
    """one_for_one: the child that crashed is restarted, its siblings go on."""

    def __init__(
        self,
        specs: Sequence[ChildSpec] = (),
        *,
        intensity: int = 10,
        period_s: float = 10.0,
        on_escalate: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        super().__init__(specs, intensity=intensity, period_s=period_s, on_escalate=on_escalate)
        self._specs = tuple(specs)
        self._intensity = intensity
        self._period_s = period_s
        self._on_escalate = on_escalate
        self._restarts_s: deque[float] = deque()
        self._children: dict[str, tuple[Cell, ChildSpec]] = {}

    def on_start(self) -> None:
        """Make every child's cell first, so that links may point forward, then start them in order."""
        try:
            for spec in self._specs:
                self._make(spec)
            for spec in self._specs:
                self._start(spec)
        except BaseException:
            self._end_children("supervisor did not start")
            raise

    def on_stop(self) -> None:
        self._end_children("supervisor stopped")

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Its children do not outlive it: the next incarnation makes them anew."""
        self._end_children("supervisor crashed")

    def _end_children(self, reason: str) -> None:
        for cell, _ in reversed(list(self._children.values())):
            if cell.state != "dead":
                cell._stop_now(reason)
        self._children.clear()

    # -- children --------------------------------------------------------------------------

    def child(self, name: str) -> ActorRef[Any]:
        """A child by the name in its spec."""
        return self._children[name][0].ref

    def children(self) -> list[ActorRef[Any]]:
        """In start order."""
        return [cell.ref for cell, _ in self._children.values()]

    def start_child(self, spec: ChildSpec) -> ActorRef[Any]:
        """Add a child while running. Raises `NameTaken` or `StartFailed`."""
        self._make(spec)
        self._start(spec)
        return self.child(spec.name)

    def _make(self, spec: ChildSpec) -> None:
        cell = _new_cell(spec, f"{self.name}/{spec.name}")
        cell.parent = self
        cell.on_lost = spec.on_lost
        cell.context = spec.context
        cell.attach(self.cell.host)
        self.cell.host.adopt(cell)
        self._children.pop(spec.name, None)  # a dead one of this name: start order is the new one's
        self._children[spec.name] = (cell, spec)

    def _start(self, spec: ChildSpec) -> None:
        cell, _ = self._children[spec.name]
        try:
            cell.links = {name: self._link(name) for name in spec.links}
            cell.incarnate()
        except BaseException as error:
            cell.finish("start failed")
            del self._children[spec.name]
            raise StartFailed(f"{cell.name} did not start: {type(error).__name__}") from error

    def _link(self, name: str) -> ActorRef[Any]:
        try:
            return self._children[name][0].ref
        except KeyError:
            raise Unknown(f"{self.name} has no child named {name}") from None

    # -- what the runtime calls ------------------------------------------------------------

    def child_failed(self, cell: Cell, error: BaseException) -> None:
        """A child crashed: restart it, give it up, or give up."""
        spec = self._spec_of(cell)
        if spec is None or self.cell.state != "running" or spec.restart == "temporary":
            cell.finish("crashed")
            return
        if self._too_many():
            self._escalate(cell, error)
            return
        try:
            running = cell.restart()
        except BaseException as problem:
            cell.state = "restarting"
            self.restart_failed(cell, problem)
            return
        if running:
            self.child_restarted(cell)

    def child_restarted(self, cell: Cell) -> None:
        """A new incarnation runs."""
        spec = self._spec_of(cell)
        if spec is not None and spec.on_restarted is not None:
            self.cell._hook("on_restarted", spec.on_restarted)

    def restart_failed(self, cell: Cell, error: BaseException) -> None:
        """A constructor or `on_start` raised: try again later. At once, it would burn the limit in microseconds."""
        logger.error("%s did not restart", cell.name, exc_info=error)
        self.cell.timers.after(RETRY_S, lambda: self._retry(cell, error))

    def _retry(self, cell: Cell, error: BaseException) -> None:
        if cell.state == "restarting":
            self.child_failed(cell, error)

    def _spec_of(self, cell: Cell) -> ChildSpec | None:
        """`None` where it is no child any more."""
        if cell.stopped.is_set():
            return None
        return next((spec for other, spec in self._children.values() if other is cell), None)

    def child_stopped(self, cell: Cell) -> None:
        """A child ended for good."""

    def _too_many(self) -> bool:
        now_s = self.cell.timers.now()
        restarts = self._restarts_s
        restarts.append(now_s)
        while restarts[0] < now_s - self._period_s:
            restarts.popleft()
        return len(restarts) > self._intensity

    def _escalate(self, cell: Cell, error: BaseException) -> None:
        logger.error("%s gives up: %s crashed too often", self.name, cell.name)
        cell.finish("restart limit")
        if self._on_escalate is not None:
            self.cell._hook("on_escalate", self._on_escalate, cell.name, error)
        elif self.cell.parent is not None:
            self.cell._failed(None, error)
        else:
            self.cell._stop_now("restart limit")

    # -- the end ---------------------------------------------------------------------------

    async def stop_children(self) -> None:
        """Stop them in reverse order, each with its `shutdown_s` to drain, a supervisor's own children before it."""
        for cell, spec in reversed(list(self._children.values())):
            if cell.state == "dead":
                continue
            if isinstance(cell.actor, Supervisor):
                await cell.actor.stop_children()
            done: ActorFuture[bool] = ActorFuture()
            cell.mailbox.deliver_control(Stop(spec.shutdown_s, "shutdown", done))
            await done


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
