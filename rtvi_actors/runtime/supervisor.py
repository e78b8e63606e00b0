"""Supervision as in OTP: child specs, one_for_one, a restart limit over a sliding window.

The supervisor is an actor, so it is in the registry and can be asked what it does; but it decides in a call of the
runtime's, between two handlers, so that a restart in place costs microseconds and no message. Children start in the order of the
list and stop in reverse. Beyond `intensity` restarts in `period_s` seconds the supervisor stops its children and tells its
own parent, or, at the top, `on_escalate`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from rtvi_actors.errors import StartFailed
from rtvi_actors.runtime.actor import AnyioActor, Cell, Stop
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef

__all__ = ["ChildSpec", "Restart", "Supervisor"]

logger = logging.getLogger("rtvi_actors.runtime")

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
"""permanent: restarted whenever it ends; transient: after a crash; temporary: never."""


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
        for spec in self._specs:
            self._make(spec)
        for spec in self._specs:
            self._start(spec)

    def on_stop(self) -> None:
        for cell, _ in reversed(list(self._children.values())):
            if cell.state != "dead":
                cell._stop_now("supervisor stopped")

    # -- children --------------------------------------------------------------------------

    def child(self, name: str) -> ActorRef[Any]:
        """A child by the name in its spec."""
        return self._children[name][0].ref

    def children(self) -> list[ActorRef[Any]]:
        """In start order."""
        return [cell.ref for cell, _ in self._children.values()]

    def start_child(self, spec: ChildSpec) -> ActorRef[Any]:
        """Add a child while running. Raises `StartFailed`."""
        self._make(spec)
        self._start(spec)
        return self.child(spec.name)

    def _make(self, spec: ChildSpec) -> None:
        name = f"{self.name}/{spec.name}"
        if isinstance(spec.actor, AnyioActor):
            cell = spec.actor.cell
            cell.name, cell.named = name, True
        else:
            cell = spec.actor.cell_class(spec.actor, spec.args, spec.kwargs, name=name)
            cell.bind_ref()
        cell.parent = self
        cell.on_lost = spec.on_lost
        cell.context = spec.context
        self._children[spec.name] = (cell, spec)
        cell.attach(self.cell.host)
        self.cell.host.adopt(cell)

    def _start(self, spec: ChildSpec) -> None:
        cell, _ = self._children[spec.name]
        cell.links = {name: self._children[name][0].ref for name in spec.links}
        try:
            cell.incarnate()
        except BaseException as error:
            cell.finish("start failed")
            raise StartFailed(f"{cell.name} did not start: {type(error).__name__}") from error

    # -- what the runtime calls ------------------------------------------------------------

    def child_failed(self, cell: Cell, error: BaseException) -> None:
        """A child crashed: restart it, give it up, or give up."""
        spec = next(spec for other, spec in self._children.values() if other is cell)
        if self.cell.state != "running" or spec.restart == "temporary":
            cell.finish("crashed")
            return
        if self._too_many():
            self._escalate(cell, error)
            return
        try:
            cell.restart()
        except BaseException as problem:
            logger.error("%s did not restart", cell.name, exc_info=problem)
            cell.state = "restarting"
            # Not at once: a start that fails at once would burn the limit in microseconds.
            self.cell.timers.after(0.05, lambda: self._retry(cell, problem))
            return
        if spec.on_restarted is not None:
            spec.on_restarted()

    def _retry(self, cell: Cell, error: BaseException) -> None:
        if cell.state == "restarting":
            self.child_failed(cell, error)

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
            self._on_escalate(cell.name, error)
        elif self.cell.parent is not None:
            self.cell.suspend()
            self.cell.parent.child_failed(self.cell, error)
        else:
            self.cell._stop_now("restart limit")

    # -- the end ---------------------------------------------------------------------------

    async def stop_children(self) -> None:
        """Stop them in reverse order, each with its own `shutdown_s` to drain."""
        for cell, spec in reversed(list(self._children.values())):
            if cell.state == "dead":
                continue
            done: ActorFuture[bool] = ActorFuture()
            cell.mailbox.deliver_control(Stop(spec.shutdown_s, "shutdown", done))
            await done
