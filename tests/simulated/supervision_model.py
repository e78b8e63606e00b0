"""Supervision, executable: what the runtime's README says of ends, restarts, strategies, back-off and the limit, as a
simulator of discrete events. Written from that page and not from the code; imports nothing of the package.

A `Model` is one tree of supervisors and leaves. Operations happen at the model's time; `advance` lets time pass. Within
an instant first everything that falls due then happens, in the order in which it was set; then mail is handled.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = [
    "HOT",
    "NAP_S",
    "RESTARTS",
    "BackoffPlan",
    "Cell",
    "ChildPlan",
    "Event",
    "Exit",
    "Handled",
    "Mail",
    "Model",
    "Restart",
    "Strategy",
    "SupervisorPlan",
    "TimerKind",
    "Tree",
]

Exit: TypeAlias = Literal["normal", "shutdown", "killed", "error", "timeout", "start failed"]
Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
Mail: TypeAlias = int | Literal["fail", "quit", "hang", "nap", "leave"]
"""A number is a note. `quit` has the actor call `self.stop()`, whose message, `leave`, goes to the end of the mailbox.
Two are asynchronous, and hold up the mailbox: `nap` takes `NAP_S`, `hang` for ever."""
TimerKind: TypeAlias = Literal["delay", "timeout", "nap", "drain"]

RESTARTS: Final[dict[Restart, frozenset[Exit]]] = {
    "permanent": frozenset(("normal", "shutdown", "killed", "error", "timeout", "start failed")),
    "transient": frozenset(("killed", "error", "timeout", "start failed")),
    "temporary": frozenset(),
}
"""Restart type → the exits after which a child is restarted."""
HOT: Final[frozenset[Mail]] = frozenset(("fail", "quit", "hang", "nap", "leave"))
"""Mail that does more than to be written down: it is not all one in which order two actors handle theirs."""
NAP_S: Final = 1 / 8 + 1 / 256


@dataclass(frozen=True)
class BackoffPlan:
    immediate: int
    first_s: float
    factor: float
    max_s: float
    jitter: float
    reset_s: float

    def wait_s(self, failures: int, start_failed: bool, chance: float) -> float:
        """How long failure number `failures` in a row waits; `chance` is within 0 and 1."""
        beyond = failures - self.immediate
        if beyond <= 0 and not start_failed:
            return 0.0
        wait_s = min(self.max_s, self.first_s * self.factor ** max(0, beyond - 1))
        return wait_s * (1 - self.jitter + 2 * self.jitter * chance)


@dataclass(frozen=True)
class SupervisorPlan:
    strategy: Strategy
    intensity: int
    period_s: float
    children: tuple[ChildPlan, ...]


@dataclass(frozen=True)
class ChildPlan:
    name: str
    restart: Restart
    backoff: BackoffPlan
    shutdown_s: float
    timeout_s: float
    """After how long its asynchronous handler has timed out."""
    supervisor: SupervisorPlan | None = None
    """What it supervises; `None` for a leaf."""


class Event(NamedTuple):
    at_s: float
    what: str
    """start, start failed, on_stop, crash, timeout (the two kinds of `on_failure`), gave up."""
    child: str
    """The full name: "s/a"; of a supervisor that gave up, with the child after it: "s: s/a"."""
    serial: int
    """Which cell of this name: a restart keeps it, a child that is made anew has the next."""


class Handled(NamedTuple):
    """A note, and by whom it was handled."""

    at_s: float
    serial: int
    incarnation: int
    number: int


class Timer:
    """Something that falls due. Cancelled, it stays on the agenda and does nothing."""

    def __init__(self, due_s: float, kind: TimerKind, act: Callable[[], None]) -> None:
        self.due_s = due_s
        self.kind = kind
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self.act = None


@dataclass(eq=False)
class Cell:
    """An actor over its incarnations."""

    plan: ChildPlan
    name: str
    serial: int
    parent: Tree | None
    made_at: int
    """The number of the operation in which it was made."""
    state: Literal["running", "stopping", "down", "dead"] = "down"
    incarnation: int = 0
    failures: int = 0
    started_s: float = 0.0
    mail: deque[Mail] = field(default_factory=deque)
    tree: Tree | None = None
    """A supervisor's children while it runs."""
    delay: Timer | None = None
    busy: Timer | None = None
    """When the asynchronous handler that runs ends or times out."""
    drain: Timer | None = None
    to_drain: int = 0
    """How much of its mail was there when it was asked to stop. What comes later waits for the next incarnation."""
    for_good: bool = False
    """Asked to end by `stop_child`, or by a supervisor that ends."""

    @property
    def has_instance(self) -> bool:
        return self.state in ("running", "stopping")

    @property
    def is_ready(self) -> bool:
        return bool(self.mail) and self.has_instance and self.busy is None


@dataclass(eq=False)
class Tree:
    """One incarnation of a supervisor: its list of children and its memory of restarts die with it."""

    cell: Cell
    plan: SupervisorPlan
    children: list[Cell] = field(default_factory=list)
    decisions_s: deque[float] = field(default_factory=deque)
    over: bool = False
    """It ends or has ended: nobody is restarted any more."""
    then: Callable[[], None] | None = None
    """What to do when the last child has drained."""

    def group(self, child: Cell) -> list[Cell]:
        """Who restarts with this child, in start order."""
        if self.plan.strategy == "one_for_one":
            return [child]
        if self.plan.strategy == "one_for_all":
            return list(self.children)
        return self.children[self.children.index(child) :]

    def next_to_start(self) -> Cell | None:
        """The first child that is down and waits neither for its own delay nor for a neighbour's."""
        if self.plan.strategy == "one_for_all" and any(child.delay is not None for child in self.children):
            return None
        for child in self.children:
            if child.delay is not None:
                if self.plan.strategy == "rest_for_one":
                    return None
            elif child.state == "down":
                return child
        return None


class Model:
    """A tree with `top` as its root, from the moment it was spawned.

    `escalates` says whether the top has an `on_escalate`. `chance` gives the random number, within 0 and 1, that is
    drawn at a time: so the model need not know how often the runtime draws.
    """

    def __init__(self, top: ChildPlan, *, escalates: bool, chance: Callable[[float], float]) -> None:
        self.now_s = 0.0
        self.events: list[Event] = []
        self.handled: dict[str, list[Handled]] = {}
        """By full name."""
        self.ends: dict[tuple[str, int], str] = {}
        """(full name, serial) → the reason that watchers are given."""
        self.cells: dict[str, Cell] = {}
        """Those that are not dead."""
        self.failing_starts: dict[str, int] = {}
        """Full name → how many of its next starts fail."""
        self.operation = 0
        self._escalates = escalates
        self._chance = chance
        self._agenda: list[tuple[float, int, Timer]] = []
        self._timers = 0
        self._serials: dict[str, int] = {}
        self.top = self._make(top, None)
        self._start(self.top)

    # -- what a story does ---------------------------------------------------------------

    def advance(self, to_s: float) -> bool:
        """Let time pass. Returns whether it got there: it stops before an instant at which the order of what falls due
        decides, and no rule says which is first (a handler's timeout and the end of a delay, say)."""
        while (due_s := self._next_s()) is not None and due_s <= to_s:
            due = [timer for _, _, timer in sorted(self._agenda) if timer.due_s == due_s and timer.act is not None]
            if len(due) > 1 and any(timer.kind != "delay" for timer in due):
                return False
            self.now_s = due_s
            for timer in due:
                act, timer.act = timer.act, None
                if act is not None:
                    act()
            self._settle()
        self.now_s = to_s
        return True

    def tell(self, name: str, mail: Mail) -> None:
        self.cells[name].mail.append(mail)
        self._settle()

    def stop(self, name: str, drain_s: float) -> None:
        """`system.stop`. Of a supervisor, each child drains for its own time."""
        cell = self.cells[name]
        if cell.has_instance:
            self._drain(cell, drain_s)
        else:
            self._asked_while_down(cell, "shutdown")
        self._settle()

    def kill(self, name: str) -> None:
        """`system.kill`."""
        cell = self.cells[name]
        if cell.has_instance:
            self._cut(cell)
            self._left(cell, "killed")
        else:
            self._asked_while_down(cell, "killed")
        self._settle()

    def crash(self, name: str) -> None:
        """`system.crash`, of one that runs and is not busy."""
        self._fail(self.cells[name], "error")
        self._settle()

    def start_child(self, name: str, plan: ChildPlan) -> bool:
        """Returns whether it started; what does not is not in the list. It starts whoever is delayed: its starter
        waits for the answer."""
        tree = self.cells[name].tree
        assert tree is not None
        started = self._add(tree, plan)
        self._settle()
        return started

    def stop_child(self, name: str) -> None:
        cell = self.cells[name]
        cell.for_good = True
        self.stop(name, cell.plan.shutdown_s)

    def fail_starts(self, name: str, count: int) -> None:
        self.failing_starts[name] = count

    # -- what a story asks ---------------------------------------------------------------

    def leaves(self) -> Iterator[Cell]:
        return (cell for cell in self.cells.values() if cell.plan.supervisor is None)

    # -- time and mail -------------------------------------------------------------------

    def _next_s(self) -> float | None:
        while self._agenda and self._agenda[0][2].act is None:
            heapq.heappop(self._agenda)
        return self._agenda[0][0] if self._agenda else None

    def _at(self, delay_s: float, kind: TimerKind, act: Callable[[], None]) -> Timer:
        timer = Timer(self.now_s + delay_s, kind, act)
        self._timers += 1
        heapq.heappush(self._agenda, (timer.due_s, self._timers, timer))
        return timer

    def _settle(self) -> None:
        while (cell := next((cell for cell in self.cells.values() if cell.is_ready), None)) is not None:
            self._handle(cell, cell.mail.popleft())

    def _handle(self, cell: Cell, mail: Mail) -> None:
        cell.to_drain -= 1
        if mail == "fail":
            self._fail(cell, "error")
        elif mail == "quit":
            cell.mail.append("leave")
        elif mail == "leave":
            asked: Exit = "shutdown" if cell.state == "stopping" else "normal"
            self._cut(cell)
            self._left(cell, asked)
        elif mail == "hang":
            cell.busy = self._at(cell.plan.timeout_s, "timeout", lambda: self._fail(cell, "timeout"))
        elif mail == "nap":
            cell.busy = self._at(NAP_S, "nap", lambda: self._wake(cell))
        else:
            note = Handled(self.now_s, cell.serial, cell.incarnation, mail)
            self.handled.setdefault(cell.name, []).append(note)
        self._maybe_drained(cell)

    def _wake(self, cell: Cell) -> None:
        """Its asynchronous handler has ended."""
        cell.busy = None
        self._maybe_drained(cell)

    def _maybe_drained(self, cell: Cell) -> None:
        if cell.state == "stopping" and cell.busy is None and cell.to_drain <= 0:
            self._drained(cell)

    # -- the life of a cell --------------------------------------------------------------

    def _log(self, what: str, cell: Cell) -> None:
        if cell.plan.supervisor is None:
            self.events.append(Event(self.now_s, what, cell.name, cell.serial))

    def _make(self, plan: ChildPlan, parent: Tree | None) -> Cell:
        name = f"{parent.cell.name}/{plan.name}" if parent is not None else plan.name
        serial = self._serials[name] = self._serials.get(name, 0) + 1
        return Cell(plan, name, serial, parent, self.operation)

    def _add(self, tree: Tree, plan: ChildPlan) -> bool:
        """Make a child and start it, at its supervisor's start or by `start_child`."""
        child = self._make(plan, tree)
        if not self._start(child):
            return False
        tree.children.append(child)
        return True

    def _start(self, cell: Cell) -> bool:
        """Begin an incarnation. A supervisor one of whose children does not start has not started either."""
        cell.incarnation += 1
        if not (self._start_leaf(cell) if cell.plan.supervisor is None else self._start_tree(cell)):
            return False
        cell.state = "running"
        cell.started_s = self.now_s
        self.cells[cell.name] = cell
        return True

    def _start_leaf(self, cell: Cell) -> bool:
        failing = self.failing_starts.get(cell.name, 0)
        if failing:
            self.failing_starts[cell.name] = failing - 1
        self._log("start failed" if failing else "start", cell)
        return not failing

    def _start_tree(self, cell: Cell) -> bool:
        assert cell.plan.supervisor is not None
        cell.tree = Tree(cell, cell.plan.supervisor)
        if all(self._add(cell.tree, plan) for plan in cell.tree.plan.children):
            return True
        self._end_children(cell)
        return False

    def _fail(self, cell: Cell, exit_: Literal["error", "timeout"]) -> None:
        """A handler raised, or ran too long. Who crashes while it stops has stopped."""
        self._log("crash" if exit_ == "error" else "timeout", cell)
        self._end_children(cell)
        self._left(cell, "shutdown" if cell.state == "stopping" else exit_)

    def _cut(self, cell: Cell) -> None:
        """End an incarnation from outside, now: its children, the last first, then its own hook."""
        self._end_children(cell)
        self._log("on_stop", cell)

    def _end_children(self, cell: Cell) -> None:
        """A supervisor that stops or crashes ends all of its children, the last first."""
        tree, cell.tree = cell.tree, None
        if tree is None:
            return
        tree.over = True
        for child in reversed(tree.children):
            if child.has_instance:
                self._cut(child)
                self._put_down(child)
            self._die(child, "shutdown", listed=False)
        tree.children.clear()

    def _put_down(self, cell: Cell) -> None:
        """There is no instance any more."""
        cell.state = "down"
        if self.now_s - cell.started_s >= cell.plan.backoff.reset_s:
            cell.failures = 0
        for timer in (cell.busy, cell.drain):
            if timer is not None:
                timer.cancel()
        cell.busy = cell.drain = None

    def _die(self, cell: Cell, reason: str, *, listed: bool = True) -> None:
        """For good. `listed`: take it from its supervisor's list."""
        cell.state = "dead"
        if cell.delay is not None:
            cell.delay.cancel()
            cell.delay = None
        cell.mail.clear()
        del self.cells[cell.name]
        # Who watches does so when an operation is over.
        self.ends[cell.name, cell.serial] = "dead" if cell.made_at == self.operation else reason
        if listed and cell.parent is not None:
            cell.parent.children.remove(cell)

    def _left(self, cell: Cell, exit_: Exit) -> None:
        """An incarnation is over, its hook has run: what follows."""
        self._put_down(cell)
        tree = cell.parent
        if tree is None:
            self._die(cell, exit_)
        elif tree.over:
            self._die(cell, exit_)
            self._drain_next(tree)
        elif cell.for_good or exit_ not in RESTARTS[cell.plan.restart]:
            self._die(cell, exit_)
            self._start_what_may(tree)
        else:
            self._restart(tree, cell, exit_)

    # -- stopping ------------------------------------------------------------------------

    def _asked_while_down(self, cell: Cell, exit_: Exit) -> None:
        """A stop or a kill of one that is down already."""
        tree = cell.parent
        assert tree is not None
        if tree.over or cell.for_good or exit_ not in RESTARTS[cell.plan.restart]:
            self._die(cell, exit_)
            self._start_what_may(tree)

    def _drain(self, cell: Cell, drain_s: float) -> None:
        """Let it handle what is there, for so long at the most; a supervisor's children before it, the last first."""
        cell.state = "stopping"
        cell.to_drain = len(cell.mail)
        if cell.tree is not None:
            cell.tree.over = True
            cell.tree.then = lambda: self._drained(cell)
            self._drain_next(cell.tree)
        elif cell.busy is None or drain_s == 0:
            self._drained(cell)
        else:
            cell.drain = self._at(drain_s, "drain", lambda: self._drained(cell))

    def _drain_next(self, tree: Tree) -> None:
        """One child after the other: each begins when the one behind it has ended."""
        if tree.then is None:
            return
        if not tree.children:
            then, tree.then = tree.then, None
            then()
            return
        child = tree.children[-1]
        if child.state == "stopping":
            return  # its turn already
        if child.has_instance:
            self._drain(child, child.plan.shutdown_s)
        else:
            self._die(child, "shutdown")
            self._drain_next(tree)

    def _drained(self, cell: Cell) -> None:
        self._cut(cell)
        self._left(cell, "shutdown")

    # -- restarting ----------------------------------------------------------------------

    def _restart(self, tree: Tree, child: Cell, exit_: Exit) -> None:
        child.failures += 1
        window = tree.decisions_s
        while window and self.now_s - window[0] > tree.plan.period_s:
            window.popleft()
        if len(window) >= tree.plan.intensity:
            self._give_up(tree, child)
            return
        window.append(self.now_s)
        for other in reversed(tree.group(child)):
            if other.has_instance:
                self._take_down(other)
        wait_s = child.plan.backoff.wait_s(child.failures, exit_ == "start failed", self._chance(self.now_s))
        if wait_s > 0:
            child.delay = self._at(wait_s, "delay", lambda: self._delay_over(tree, child))
        self._start_what_may(tree)

    def _take_down(self, cell: Cell) -> None:
        """With its group. Who was about to end does; who was about to stop has stopped."""
        was_stopping = cell.state == "stopping"
        self._cut(cell)
        self._put_down(cell)
        ends = cell.for_good or (was_stopping and "shutdown" not in RESTARTS[cell.plan.restart])
        if ends or cell.plan.restart == "temporary":
            self._die(cell, "shutdown")

    def _delay_over(self, tree: Tree, child: Cell) -> None:
        child.delay = None
        self._start_what_may(tree)

    def _start_what_may(self, tree: Tree) -> None:
        while not tree.over and (child := tree.next_to_start()) is not None:
            if not self._start(child):
                self._restart(tree, child, "start failed")

    def _give_up(self, tree: Tree, child: Cell) -> None:
        supervisor = tree.cell
        self._die(child, "restart limit")
        if supervisor.parent is None and self._escalates:
            self.events.append(Event(self.now_s, "gave up", f"{supervisor.name}: {child.name}", supervisor.serial))
            self._start_what_may(tree)
        elif supervisor.parent is not None:
            self._fail(supervisor, "error")
        else:
            self._cut(supervisor)
            self._die(supervisor, "restart limit")
