"""The soak itself (`benchmarks/soak.py`), in short: every scenario balances its books, and what does not hold is told.

Whether memory stays flat takes a minute of each: ``make soak``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import soak
from benchmarks.overload import SCENARIOS, Quick
from benchmarks.soak import END, GROWTH_BYTES, JUDGED_FROM_S, Report, Soak, Watched, grown_bytes, lines
from benchmarks.worker import ROOT
from rtvi_actors.ledger import Ledger

SECONDS = 1.0
"""Of each scenario: the first session of a slow client has ended by then, and every mailbox is full."""
MIB = 2**20
TERMS = ("delivered", "answered", "dropped", "dead", "open")


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn's."""
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_message_of_a_flood_is_accounted_for(name: str) -> None:
    report = await Soak(name, SECONDS).run()
    assert report.problems() == []
    assert report.tally.offered > report.opened == sum(report.closed.values()) >= SCENARIOS[name].sessions
    assert 0 < report.books["received"] == sum(report.books[term] for term in TERMS)
    assert report.books["received"] <= report.tally.offered
    assert report.books["dropped"] == sum(report.dropped.values())


@pytest.mark.slow
def test_two_seconds_of_one_scenario_end_with_exit_code_zero() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "2", "--only", "request-flood"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "of the received     delivered" in done.stdout


def watched(handed_over: int, received: int) -> Watched:
    """A session that was handed so many messages, and says that it has received so many."""
    ledger = Ledger("session", now=lambda: 0.0)
    for _ in range(received):
        ledger.arrived()
    bot = SimpleNamespace(cell=SimpleNamespace(context=ledger))
    return Watched(cast("Quick", bot), cast("Any", SimpleNamespace(handed_over=handed_over)))


def test_what_a_session_was_handed_and_has_not_received_fails_the_soak() -> None:
    report = Report("audio-flood", SECONDS)
    report.settle(watched(handed_over=3, received=3))
    assert report.problems() == []
    report.settle(watched(handed_over=3, received=2))
    assert len(report.problems()) == 1
    assert "was handed 3 messages" in report.problems()[0]


def test_books_that_do_not_balance_fail_the_soak() -> None:
    session = watched(handed_over=1, received=1)
    assert session.ledger is not None
    session.ledger.control.last = 1  # a number that was given out, and never opened
    session.ledger.unread = 0
    report = Report("audio-flood", SECONDS)
    report.settle(session)
    assert "does not balance" in report.problems()[0]


@pytest.mark.parametrize(
    ("samples", "grows"),
    [
        ([100 * MIB] * 30, False),
        ([20 * MIB] * 10 + [100 * MIB] * 20, False),
        ([100 * MIB, 60 * MIB] * 15, False),
        ([100 * MIB] * 20 + [106 * MIB] * 10, False),
        ([100 * MIB] * 20 + [108 * MIB] * 10, True),
        ([(100 + second) * MIB for second in range(60)], True),
        ([100 * MIB], False),
    ],
    ids=["flat", "fills up at first", "up and down", "a little", "more than a little", "a leak", "one sample"],
)
def test_memory_grows_where_the_last_third_is_above_the_middle_one(samples: Sequence[int], grows: bool) -> None:
    assert (grown_bytes(samples) > 0) is grows


def leaking(seconds: float) -> Report:
    report = Report("audio-flood", seconds, rss=[MIB * n for n in range(30)])
    report.closed[END] = 1
    return report


def test_growing_memory_fails_the_soak_only_when_it_was_long_enough() -> None:
    assert leaking(JUDGED_FROM_S - 1).problems() == []
    assert [problem.partition(":")[0] for problem in leaking(JUDGED_FROM_S).problems()] == ["resident memory grows"]
    assert grown_bytes([0, 0, GROWTH_BYTES]) == 0


def test_the_exit_code_is_that_of_the_scenario(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(self: Soak) -> Report:
        return leaking(self.report.seconds)

    monkeypatch.setattr(Soak, "run", run)
    assert soak.main(["--only", "audio-flood", "--seconds", "1"]) == 0
    assert "memory is not judged" in capsys.readouterr().out
    assert soak.main(["--only", "audio-flood", "--seconds", "60"]) == 1
    assert "FAILED: resident memory grows" in capsys.readouterr().out


@pytest.mark.parametrize(("failing", "code"), [("nobody", 0), ("stuck-bot", 1)])
def test_the_soak_fails_where_any_scenario_does(failing: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []

    def one(command: Sequence[str], **_: object) -> SimpleNamespace:
        run.append(command[command.index("--only") + 1])
        return SimpleNamespace(returncode=int(run[-1] == failing))

    monkeypatch.setattr(subprocess, "run", one)
    assert soak.main(["--seconds", "1"]) == code
    assert run == list(SCENARIOS)


def test_a_report_without_samples_is_printed_too() -> None:
    assert any("closed: none" in line for line in lines(Report("websocket", 0.1, rss=[MIB])))
