"""Random stories for supervision: a seed makes a tree and what happens to it.

All times lie on a grid of binary fractions, so that sums are exact: a restart exactly `period_s` ago, two delays that
end together and the like are frequent. A story is made by telling it to the model, which says what may happen next.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, TypeVar

from tests.simulated.supervision_model import HOT, BackoffPlan, Cell, ChildPlan, Mail, Model, SupervisorPlan

__all__ = ["STEP_S", "TIMEOUTS_S", "Operation", "Story", "chance_at", "tell_story"]

T = TypeVar("T")

STEP_S: Final = 1 / 8
"""The grid of operations."""
TIMEOUTS_S: Final = tuple(3 * STEP_S + (n + 1) / 512 for n in range(4))
"""Off the grid, and each a little different: a timeout seldom falls on the end of a delay, where no rule says which of
the two is first."""
SHUTDOWNS_S: Final = tuple((n + 1) * STEP_S + (n + 1) / 1024 for n in range(4))
NAMES: Final = "abcdefg"

Operation = tuple[str, tuple[Any, ...]]
"""A method of the model's, and its arguments."""


def chance_at(now_s: float) -> float:
    """A random number within 0 and 1 for a time: it does not matter how often the runtime draws."""
    return int(now_s * 1024) * 7 % 8 / 8


@dataclass
class Story:
    """What happens, and what the model says of it."""

    seed: int
    top: ChildPlan
    escalates: bool
    model: Model
    """It has been through all of it."""
    operations: list[Operation] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    """Of each operation: whether a child started, or nothing."""
    states: list[dict[str, bool]] = field(default_factory=list)
    """Before the first operation and after each: who is not dead, and whether it is up."""

    def __str__(self) -> str:
        """For who looks into a failure."""
        done = "\n".join(f"  {n}. {method}{arguments}" for n, (method, arguments) in enumerate(self.operations, 1))
        return f"{_drawn(self.top)}\n  on_escalate: {self.escalates}\n{done}"


def _drawn(plan: ChildPlan, indent: str = "") -> str:
    lines = [f"{indent}{plan.name}: {plan.restart}, {plan.backoff}"]
    if plan.supervisor is not None:
        tree = plan.supervisor
        lines.append(f"{indent}  {tree.strategy}, at most {tree.intensity} in {tree.period_s}")
        lines += [_drawn(child, indent + "    ") for child in tree.children]
    return "\n".join(lines)


class _Dice(random.Random):
    def weighted(self, table: dict[T, int]) -> T:
        return self.choices(list(table), list(table.values()))[0]


def tell_story(seed: int) -> Story:
    dice = _Dice(seed)
    top, escalates = _child(dice, "s", 0), dice.random() < 0.7
    story = Story(seed, top, escalates, Model(top, escalates=escalates, chance=chance_at))
    teller = _Teller(dice, story)
    for _ in range(dice.randint(8, 40)):
        if not teller.go_on():
            break
    teller.end()
    return story


# -- the tree ------------------------------------------------------------------------


def _child(dice: _Dice, name: str, depth: int) -> ChildPlan:
    nested = depth == 0 or dice.random() < (0, 0.2, 0.12, 0)[depth]
    return ChildPlan(
        name,
        dice.weighted({"permanent": 5, "transient": 3, "temporary": 1}),
        _backoff(dice),
        30.0 if nested else dice.choice(SHUTDOWNS_S),
        dice.choice(TIMEOUTS_S),
        _supervisor(dice, depth) if nested else None,
    )


def _supervisor(dice: _Dice, depth: int) -> SupervisorPlan:
    names = NAMES[: dice.randint(1, 5 if depth == 0 else 3)]
    return SupervisorPlan(
        dice.choice(("one_for_one", "one_for_all", "rest_for_one")),
        dice.choice((0, 1, 2, 3, 4, 5, 5, 5) if depth == 0 else (0, 1, 1, 2, 2, 3)),
        dice.choice((2, 4, 8, 16)) * STEP_S,
        tuple(_child(dice, name, depth + 1) for name in names),
    )


def _backoff(dice: _Dice) -> BackoffPlan:
    return BackoffPlan(
        immediate=dice.choice((0, 0, 1, 2, 3)),
        first_s=dice.choice((1, 1, 2, 4)) * STEP_S,
        factor=dice.choice((1.0, 2.0, 2.0, 3.0)),
        max_s=dice.choice((4, 8, 16)) * STEP_S,
        jitter=dice.choice((0.0, 0.0, 0.0, 0.5)),
        reset_s=dice.choice((4, 8, 32)) * STEP_S,
    )


# -- what happens --------------------------------------------------------------------


class _Teller:
    """Chooses operations of which the page says what follows, carries them out on the model, and writes them down."""

    def __init__(self, dice: _Dice, story: Story) -> None:
        self.dice = dice
        self.story = story
        self.model = story.model
        self._notes = 0
        self._over = False
        self._look()

    def go_on(self) -> bool:
        """One more operation, or none where what was chosen may not be. Returns whether the story can go on."""
        if self.dice.random() < 0.4:
            self._advance()
        else:
            self.dice.weighted(_CHOICES)(self)
        return not self._over and self.model.top.state != "dead"

    def end(self) -> None:
        """Stop or kill the top; where no time may pass any more, kill it."""
        self._let_drain()
        if self.model.top.state != "dead" and not self._over and self.dice.random() < 0.7:
            self.do("stop", "s", 60.0)
            self._let_drain()
        if self.model.top.state != "dead":
            self.do("kill", "s")

    @property
    def _draining(self) -> bool:
        return any(cell.state == "stopping" for cell in self.model.cells.values())

    def _let_drain(self) -> None:
        while self._draining and not self._over:
            self._advance()

    def do(self, method: str, *arguments: Any) -> Any:
        self.model.operation += 1
        answer = getattr(self.model, method)(*arguments)
        self.story.operations.append((method, arguments))
        self.story.answers.append(answer)
        self._look()
        return answer

    def _look(self) -> None:
        self.story.states.append({name: cell.has_instance for name, cell in self.model.cells.items()})

    def _advance(self) -> None:
        steps = self.dice.choice((1, 1, 1, 2, 2, 4, 8, 16))
        goal_s = (self.model.now_s // STEP_S + steps) * STEP_S
        if not self.do("advance", goal_s):
            self._over = True
            self.story.operations[-1] = ("advance", (self.model.now_s,))
        self.story.answers[-1] = None

    def _chosen(self, may: Callable[[Cell], bool]) -> Cell | None:
        """Any but the top of which this holds, and which does not stop already: no rule says what a second stop, or
        a kill, does to that."""
        cells = [cell for cell in self.model.cells.values() if cell.state != "stopping" and cell.parent and may(cell)]
        return self.dice.choice(cells) if cells else None

    def _tell(self, mail: Mail) -> None:
        """Actors that come back at the same instant handle their mail in any order: where some waits that does
        something, it is all that waits."""
        leaf = self._chosen(_is_leaf)
        if leaf is None:
            return
        others = [other.mail for other in self.model.leaves() if other is not leaf and other.mail]
        waiting = {mail, *leaf.mail, *chain(*others)}
        at_once = leaf.state == "running" and leaf.busy is None
        if at_once or not others or waiting.isdisjoint(HOT):
            self.do("tell", leaf.name, mail)

    def note(self) -> None:
        self._notes += 1
        self._tell(self._notes)

    def hot(self) -> None:
        self._tell(self.dice.weighted(_HOT))

    def crash(self) -> None:
        cell = self._chosen(_is_idle)
        if cell is not None:
            self.do("crash", cell.name)

    def stop(self) -> None:
        cell = self._chosen(_is_steady)
        if cell is not None:
            self.do("stop", cell.name, self.dice.choice(SHUTDOWNS_S if cell.tree else (0.0, *SHUTDOWNS_S)))

    def drain(self) -> None:
        """Stop one that is busy, or a supervisor above it: then it takes time, in which others go on."""
        cell = self._chosen(_is_idle_leaf)
        if cell is None:
            return
        self.do("tell", cell.name, self.dice.choice(("hang", "nap")))
        while cell.parent is not None and cell.parent.cell.parent is not None and self.dice.random() < 0.6:
            cell = cell.parent.cell
        if cell.state == "running" and _is_steady(cell):
            if self.dice.random() < 0.5:
                self.do("stop", cell.name, self.dice.choice(SHUTDOWNS_S))
            else:
                self.do("stop_child", cell.name)

    def kill(self) -> None:
        cell = self._chosen(_is_any)
        if cell is not None:
            self.do("kill", cell.name)

    def fail_starts(self) -> None:
        leaf = self._chosen(_is_leaf)
        if leaf is not None:
            self.do("fail_starts", leaf.name, self.dice.randint(1, 3))

    def start_child(self) -> None:
        """Under a name that is free: one that was never taken, or that of one that is dead."""
        supervisors = [cell for cell in self.model.cells.values() if cell.tree is not None and not cell.tree.over]
        if not supervisors:
            return
        supervisor = self.dice.choice(supervisors)
        free = [name for name in NAMES if f"{supervisor.name}/{name}" not in self.model.cells]
        if not free:
            return
        name = self.dice.choice(free)
        if self.dice.random() < 0.2:
            self.do("fail_starts", f"{supervisor.name}/{name}", 1)
        self.do("start_child", supervisor.name, _child(self.dice, name, supervisor.name.count("/") + 1))

    def stop_child(self) -> None:
        cell = self._chosen(_is_steady)
        if cell is not None:
            self.do("stop_child", cell.name)


def _is_any(cell: Cell) -> bool:
    return True


def _is_leaf(cell: Cell) -> bool:
    return cell.plan.supervisor is None


def _is_idle(cell: Cell) -> bool:
    return cell.state == "running" and cell.busy is None


def _is_idle_leaf(cell: Cell) -> bool:
    return _is_idle(cell) and _is_leaf(cell)


def _is_steady(cell: Cell) -> bool:
    """Nobody stops above it or below it: one that stops is not asked a second time."""
    above = cell.parent
    while above is not None:
        if above.over:
            return False
        above = above.cell.parent
    return _is_quiet(cell)


def _is_quiet(cell: Cell) -> bool:
    return cell.tree is None or all(child.state != "stopping" and _is_quiet(child) for child in cell.tree.children)


_HOT: Final[dict[Mail, int]] = {"fail": 12, "quit": 4, "hang": 4, "nap": 3}
_CHOICES: Final[dict[Callable[[_Teller], None], int]] = {
    _Teller.note: 20,
    _Teller.hot: 24,
    _Teller.crash: 4,
    _Teller.stop: 4,
    _Teller.drain: 4,
    _Teller.kill: 6,
    _Teller.fail_starts: 14,
    _Teller.start_child: 4,
    _Teller.stop_child: 3,
}
