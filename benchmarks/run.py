"""The benchmark: our session against the codec's floor and against Pipecat, in one run.

    python -m benchmarks [--rounds N] [--quick] [--loop uvloop] [--python PEER_PYTHON]

Each side is a process of its own, and the sides take turns within every round, so that a machine that slows down slows
all of them. The ratios are the verdict: each is the median over the rounds of the ratio within a round. Absolute times
are of this machine, at this moment.

* floor: msgspec alone, decoding and encoding the same messages, no actors, no transport;
* ours: the memory transport, a full session (every concern, encoded mailboxes, supervision, deadlines, accounting on);
* pipecat: RTVIProcessor and RTVIObserver in the worker that Pipecat's constructor makes; `lean`: the same with
  everything off that can be off (see `peer_pipecat.py`).

The runtime has tables of its own (`runtime.py`): what a hop, an ask, a restart, a stop and a deadline cost, and what
10,000 open sessions do to the next one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from benchmarks.runtime import CROWDS, QUICK_CROWDS, RuntimePlan, measure, runtime_lines
from benchmarks.worker import Figures, Worker

ROWS = {
    "sync": "request, sync handler",
    "async": "request, async handler",
    "raw_audio": "20 ms of raw-audio",
}
"""A request is client-message → server-response; raw-audio ends in the bot's handler."""
WINDOWS = {"throughput": 64, "latency": 1}
SIDES = ("floor", "ours", "pipecat", "lean")
COUNTS = {
    ("floor", "throughput"): 20_000,
    ("floor", "latency"): 5_000,
    ("ours", "throughput"): 20_000,
    ("ours", "latency"): 5_000,
    ("pipecat", "throughput"): 2_000,
    ("pipecat", "latency"): 1_000,
    ("lean", "throughput"): 2_000,
    ("lean", "latency"): 1_000,
}
"""Messages a round: enough for a 99th percentile, few enough that a round takes seconds."""


@dataclass
class Plan:
    """What to run."""

    rounds: int
    scale: float
    """1 for the whole number of messages; smaller for a quick look."""
    ours: Sequence[str]
    """Further arguments of our side."""
    peer: str | None
    """An interpreter that can import pipecat."""

    def start(self, side: str) -> Worker:
        """A fresh process of a side."""
        if side in ("floor", "ours"):
            return Worker("benchmarks.side_ours", sys.executable, *self.ours)
        assert self.peer is not None
        return Worker("benchmarks.peer_pipecat", self.peer)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that this machine can run."""
        return SIDES if self.peer else SIDES[:2]


@dataclass
class Cell:
    """One row in one mode: each side's figures, round by round."""

    figures: dict[str, list[Figures]] = field(default_factory=dict)

    def median(self, side: str, figure: str = "us") -> float:
        """The median over the rounds; NaN where the side did not run."""
        values = [one[figure] for one in self.figures.get(side, ()) if figure in one]
        return statistics.median(values) if values else float("nan")

    def ratio(self, over: str, under: str) -> float:
        """The median over the rounds of one side's time over another's in the same round."""
        pairs = zip(self.figures.get(over, ()), self.figures.get(under, ()), strict=False)
        ratios = [a["us"] / b["us"] for a, b in pairs]
        return statistics.median(ratios) if ratios else float("nan")


Cells: TypeAlias = dict[tuple[str, str], Cell]


def messages(plan: Plan) -> Cells:
    """Every row in both modes, the sides interleaved within each round, in turning order."""
    cells: Cells = {(row, mode): Cell() for row in ROWS for mode in WINDOWS}
    # Each side in its own process, also the peer's two shapes: neither meets the other's garbage.
    workers = {side: plan.start(side) for side in plan.sides}
    try:
        for turn in range(plan.rounds):
            order = [*plan.sides[turn % len(plan.sides) :], *plan.sides[: turn % len(plan.sides)]]
            for (row, mode), cell in cells.items():
                for side in order:
                    count = max(100, int(COUNTS[side, mode] * plan.scale))
                    answer = workers[side].ask(row=row, count=count, window=WINDOWS[mode], shape=side)
                    cell.figures.setdefault(side, []).append(answer)
            print(f"round {turn + 1} of {plan.rounds} done", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.__exit__(None, None, None)
    return cells


def sessions(plan: Plan) -> dict[str, Figures]:
    """What a session costs, per side: opened and closed, and idle in memory (each in a fresh process)."""
    costs: dict[str, Figures] = {}
    for side in plan.sides[1:]:
        with plan.start(side) as worker:
            churn = [
                worker.ask(row="churn", count=max(5, int(50 * plan.scale)), shape=side) for _ in range(plan.rounds)
            ]
        with plan.start(side) as worker:
            idle = worker.ask(row="footprint", count=max(5, int(100 * plan.scale)), shape=side)
        costs[side] = {**idle, "churn_us": statistics.median(one["us"] for one in churn)}
    return costs


# -- what is printed -----------------------------------------------------------


def shown(value: float) -> str:
    """A figure, or a dash where there is none."""
    return f"{'–' if math.isnan(value) else format(value, '.2f'):>13}"


def lines(cells: Cells) -> Iterator[str]:
    """The tables of messages: the time for each, and the latency with one under way."""
    yield f"µs a message, the median of the rounds; at most {WINDOWS['throughput']} under way, or one"
    yield f"{'':34}" + "".join(f"{head:>13}" for head in (*SIDES, "ours/floor", "pipecat/ours", "lean/ours"))
    for (row, mode), cell in cells.items():
        values = [cell.median(side) for side in SIDES]
        values += [cell.ratio("ours", "floor"), cell.ratio("pipecat", "ours"), cell.ratio("lean", "ours")]
        yield f"{ROWS[row]:28}{f'≤ {WINDOWS[mode]}':6}{''.join(map(shown, values))}"
    yield ""
    yield "latency with one message under way, µs, p50 and p99"
    yield f"{'':34}" + "".join(f"{side:>26}" for side in SIDES[1:])
    for row, what in ROWS.items():
        cell = cells[row, "latency"]
        pairs = (shown(cell.median(side, figure)) for side in SIDES[1:] for figure in ("p50_us", "p99_us"))
        yield f"{what:34}{''.join(pairs)}"


def session_lines(costs: Mapping[str, Figures]) -> Iterator[str]:
    """The table of sessions."""
    yield "per session"
    yield f"{'':12}{'open + close':>16}{'sessions/s':>13}{'allocated':>13}{'resident':>13}{'tasks':>8}"
    for side, cost in costs.items():
        kib = (f"{cost[figure] / 1024:9.1f} KiB" for figure in ("traced_bytes", "rss_bytes"))
        churn = f"{cost['churn_us']:13.1f} µs{1e6 / cost['churn_us']:13.0f}"
        yield f"{side:12}{churn}{''.join(kib)}{cost['tasks']:8.1f}"


# -- the program ---------------------------------------------------------------


def peer_python(given: str | None) -> str | None:
    """The interpreter with pipecat: as given, from PEER_PYTHON, or this one where it has it."""
    chosen = given or os.environ.get("PEER_PYTHON")
    return chosen or (sys.executable if importlib.util.find_spec("pipecat") else None)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Our session against msgspec alone and against Pipecat.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, two rounds: a look, no verdict")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio", help="of our side")
    parser.add_argument("--python", help="an interpreter with pipecat-ai (default: PEER_PYTHON, or this one)")
    parser.add_argument("--json", type=Path, help="also write every figure of every round there")
    return parser.parse_args()


def main() -> int:
    """Run and print. The exit code says nothing about speed."""
    args = arguments()
    rounds, scale = (2, 0.1) if args.quick else (args.rounds, 1.0)
    plan = Plan(rounds, scale, ("--loop", args.loop), peer_python(args.python))
    if plan.peer is None:
        print("no interpreter with pipecat-ai: the peer is left out (see --python)", file=sys.stderr)
    cells = messages(plan)
    costs = sessions(plan)
    crowds = QUICK_CROWDS if args.quick else CROWDS
    runtime = measure(RuntimePlan(rounds, scale, crowds, plan.ours))
    print(*lines(cells), "", *session_lines(costs), "", *runtime_lines(runtime), sep="\n")
    if args.json:
        rows = {f"{row} {mode}": cell.figures for (row, mode), cell in cells.items()}
        args.json.write_text(
            json.dumps({"messages": rows, "sessions": costs, "runtime": runtime}, indent=1), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
