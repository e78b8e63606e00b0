"""The runtime's table of the benchmark: what supervision, lanes and bounds cost, and what 10,000 sessions do to one.

Two kinds of workers, in turns within every round: one `side_runtime` for the rows of the runtime itself, and a
`side_ours` for each size of the crowd, which opens it once and then opens and closes one session more, again and again.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from benchmarks.worker import Figures, Worker

__all__ = ["CROWDS", "QUICK_CROWDS", "Rounds", "RuntimePlan", "measure", "runtime_lines"]

SLICES: Final = 5
"""Turns that the rows of a slice take in a round: short ones, so that what else the machine does hits all alike."""
SLICED: Final = {
    "ping_pong": 10_000,
    "batched": 40_000,
    "ask": 2_000,
    "asks": 4_000,
    "restart": 1_000,
    "deadline": 4_000,
}
"""Row of `side_runtime` → messages, crashes or deadlines a slice."""
SAMPLED: Final = {"stop": 20, "kill": 20, "inspect": 100}
"""Row → samples a round, behind a backlog each."""
LEAST: Final = {"restart": 1_000, "stop": 4, "kill": 4, "inspect": 20}
"""What a quick look does not go below."""
CROWDS: Final = (0, 1_000, 10_000)
"""Sessions that are open while one is opened and closed."""
QUICK_CROWDS: Final = (0, 100, 1_000)
CHURN: Final = 10
"""Sessions opened and closed a slice."""
LIST_CHURN: Final = 2
"""The same with pykka's own list, which is slow where it matters."""
COSTS: Final = {
    "ping_pong": "hop, one message under way",
    "batched": "hop, 64 a handler",
    "ask": "ask, one under way",
    "asks": "ask, 64 under way",
}
"""Row → what it is called; these have a floor."""
ENDS: Final = {"stop": "system.stop(ref, 0)", "kill": "system.kill(ref)", "inspect": "system.inspect(ref)"}

Rounds: TypeAlias = dict[str, list[Figures]]
"""Row → its figures, slice by slice or round by round."""


@dataclass
class RuntimePlan:
    """What to run."""

    rounds: int
    scale: float
    """1 for the whole count; smaller for a quick look."""
    crowds: Sequence[int] = CROWDS
    ours: Sequence[str] = ()
    """Further arguments of our sides."""

    def count(self, row: str) -> int:
        """How many of a row at a time."""
        return max(LEAST.get(row, 100), int((SLICED | SAMPLED)[row] * self.scale))


@dataclass
class _Crowd:
    """One size of the crowd, in a process of its own."""

    size: int
    plan: RuntimePlan
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.worker = Worker("benchmarks.side_ours", sys.executable, *self.plan.ours)
        self.worker.ask(row="crowd", count=self.size)
        self.worker.ask(row="one more", count=CHURN)


def measure(plan: RuntimePlan) -> Rounds:
    """Every row in every round. The crowd's rows are ``one more N``; with pykka's own list, ``in a list N``."""
    rounds: Rounds = defaultdict(list)
    crowds: list[_Crowd] = []
    runtime = Worker("benchmarks.side_runtime", sys.executable, *plan.ours)
    try:
        for size in plan.crowds:
            crowds.append(_Crowd(size, plan))
            print(f"{size:,} sessions open", file=sys.stderr)
        for turn in range(plan.rounds):
            for at in range(SLICES):
                for row in SLICED:
                    rounds[row].append(runtime.ask(row=row, count=plan.count(row)))
                _one_more(rounds, crowds, at)
            for row in SAMPLED:
                rounds[row].append(runtime.ask(row=row, count=plan.count(row)))
            print(f"runtime: round {turn + 1} of {plan.rounds} done", file=sys.stderr)
    finally:
        for worker in (runtime, *(crowd.worker for crowd in crowds)):
            worker.kill()
    return dict(rounds)


def _one_more(rounds: Rounds, crowds: Sequence[_Crowd], at: int) -> None:
    """A slice of every crowd, each time another one first."""
    at %= len(crowds)
    for row, count in (("one more", CHURN), ("in a list", LIST_CHURN)):
        for crowd in (*crowds[at:], *crowds[:at]):
            rounds[f"{row} {crowd.size}"].append(crowd.worker.ask(row=row, count=count))


# -- what is printed -------------------------------------------------------------------


def median(rounds: Rounds, row: str, figure: str = "us") -> float:
    """The median over the rounds."""
    return statistics.median(one[figure] for one in rounds[row])


def ratio(rounds: Rounds, over: tuple[str, str], under: tuple[str, str]) -> float:
    """The median of one figure over another of the same slice; each is a row and a figure."""
    pairs = zip(rounds[over[0]], rounds[under[0]], strict=True)
    return statistics.median(a[over[1]] / b[under[1]] for a, b in pairs)


def runtime_lines(rounds: Rounds) -> Iterator[str]:
    """The runtime's tables. Ratios are of one round; absolute times are of this machine, at this moment."""
    yield from _costs(rounds)
    yield ""
    yield from _ends(rounds)
    yield ""
    yield from _crowds(rounds)


def _costs(rounds: Rounds) -> Iterator[str]:
    yield "the runtime, µs, the median of the rounds; absolute times are of this machine"
    yield f"{'':46}{'ours':>12}{'against':>12}{'ratio':>9}"
    for row, what in COSTS.items():
        values = median(rounds, row), median(rounds, row, "floor_us")
        yield _cost(f"{what}; its codec alone", *values, ratio(rounds, (row, "us"), (row, "floor_us")))
    values = median(rounds, "deadline"), median(rounds, "deadline", "scope_us")
    both = ("deadline", "us"), ("deadline", "scope_us")
    yield _cost("a deadline, cancelled; anyio.fail_after", *values, ratio(rounds, *both))
    values = median(rounds, "restart"), median(rounds, "ping_pong")
    both = ("restart", "us"), ("ping_pong", "us")
    yield _cost("crash and restart in place; a hop", *values, ratio(rounds, *both))


def _cost(what: str, ours: float, against: float, times: float) -> str:
    return f"{what:46}{ours:12.3f}{against:12.3f}{times:9.2f}"


def _ends(rounds: Rounds) -> Iterator[str]:
    yield "behind a backlog of 100,000 messages, while a neighbour is flooded too, µs: p50 and p99 of a round"
    yield f"{'':28}{'the actor is at it':>26}{'the caller has heard':>26}"
    for row, what in ENDS.items():
        acted = "acted" if "acted_p50_us" in rounds[row][0] else "heard"
        figures = (f"{one}_{share}_us" for one in (acted, "heard") for share in ("p50", "p99"))
        yield f"{what:28}" + "".join(f"{median(rounds, row, figure):13.1f}" for figure in figures)


def _crowds(rounds: Rounds) -> Iterator[str]:
    sizes = [int(row.removeprefix("one more ")) for row in rounds if row.startswith("one more ")]
    alone = f"one more {min(sizes)}", "us"
    yield "one session more, opened and closed, memory transport, µs; the ratio is to the fewest others"
    yield f"{'others open':16}" + f"{'median':>13}{'ratio':>9}{'mean':>13}" * 2
    for size in sorted(sizes):
        values = ""
        for row in (f"one more {size}", f"in a list {size}"):
            times = ratio(rounds, (row, "us"), alone)
            values += f"{median(rounds, row):13.1f}{times:9.2f}{median(rounds, row, 'mean_us'):13.1f}"
        yield f"{size:<16,}{values}"
    yield "on the right with pykka's own list, which it walks over all actors of the process for each one that ends"
