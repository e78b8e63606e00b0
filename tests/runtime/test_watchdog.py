from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest

from rtvi_actors.runtime import watchdog
from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.runtime.watchdog import StuckHandler, StuckReports, Watchdog
from tests.runtime.messages import Book, Fail, Hold, Note, Recorder, Run, Through

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0
"""When a test gives up on a report that does not come."""


@pytest.fixture(autouse=True)
def beat_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BEAT_S", 0.001)


@pytest.fixture
async def system() -> AsyncIterator[ActorSystem]:
    async with ActorSystem(watchdog_s=0.01) as opened:
        yield opened


class Stall:
    """Holds whoever calls it until the watchdog has told of it `times` times. What else it tells (a slow machine holds
    the loop as well) is left out."""

    def __init__(self, system: ActorSystem, actor: str, message: str, times: int = 1) -> None:
        self.reports: list[StuckHandler] = []
        self._sought = (actor, message)
        self._times = times
        self._begun = False
        self._told = threading.Event()
        self.unsubscribe = system.subscribe_stuck(self._sink)

    def _sink(self, report: StuckHandler) -> None:
        if self._begun and (report.actor, report.message) == self._sought:
            self.reports.append(report)
            if len(self.reports) >= self._times:
                self._told.set()

    def __call__(self, actor: Any = None) -> None:
        self._begun = True
        assert self._told.wait(PATIENCE_S), "nobody told of it"
        self._begun = False


class Blocking(Recorder):
    """Its asynchronous handler, and its job, block."""

    async def on_hold(self, message: Hold) -> int:
        await anyio.lowlevel.checkpoint()
        self.book.acts["block"](self)
        return message.n

    async def hold(self, n: int) -> None:
        await anyio.lowlevel.checkpoint()
        self.book.acts["block"](self)
        self.book.begun.set()


async def test_a_synchronous_handler_that_holds_the_loop_is_named(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    ref = system.spawn(Recorder, book, name="it")
    stall = book.acts["block"] = Stall(system, "it", "Through")
    with caplog.at_level(logging.WARNING, "rtvi_actors.runtime"):
        await ref.call(Through("block"))
    report = stall.reports[0]
    assert report.age_s >= 0.01
    assert "in on_through" in report.stack
    assert "_told.wait(PATIENCE_S)" in report.stack
    assert "it holds the event loop with Through" in caplog.text
    assert system.stuck_reports >= 1


async def test_it_is_told_again_whenever_its_age_has_doubled(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    stall = book.acts["block"] = Stall(system, "it", "Through", times=3)
    await ref.call(Through("block"))
    ages = [report.age_s for report in stall.reports]
    assert all(later >= 2 * earlier for earlier, later in pairwise(ages))
    assert system.stuck_reports >= 3


async def test_what_an_asynchronous_handler_does_between_two_awaits_is_its_own(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Blocking, book, name="it")
    stall = book.acts["block"] = Stall(system, "it", "Hold")
    assert await ref.call(Hold(1)) == 1
    assert "in on_hold" in stall.reports[0].stack


async def test_a_job_is_named_by_its_method(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Blocking, book, name="it")
    book.acts["block"] = Stall(system, "it", "hold")
    ref.tell(Run("jobs", "hold"))
    await book.begun.wait()


async def test_a_proxied_call_is_named_as_such(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Blocking, book, name="it")
    stall = book.acts["block"] = Stall(system, "it", "ProxyCall")
    await ref.proxy().on_through(Through("block"))
    assert "in on_through" in stall.reports[0].stack


async def test_the_hooks_of_a_start_and_of_a_restart_are_the_actors(system: ActorSystem, book: Book) -> None:
    class Slow(Recorder):
        def on_start(self) -> None:
            self.book.acts["block"](self)

    first = book.acts["block"] = Stall(system, "sup/it", "")
    system.spawn(Supervisor, [ChildSpec("it", Slow, (book,))], name="sup")
    first.unsubscribe()
    again = book.acts["block"] = Stall(system, "sup/it", "")
    system.get("sup/it").tell(Fail())
    assert await system.get("sup/it").call(Note(1)) == 1
    for stall in (first, again):
        assert "in on_start" in stall.reports[0].stack


async def test_what_is_no_actors_is_told_without_a_name(system: ActorSystem) -> None:
    stall = Stall(system, "?", "")
    stall()
    assert "stall()" in stall.reports[0].stack


async def test_a_subscriber_that_raises_is_logged_and_one_that_left_hears_nothing(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: StuckHandler) -> None:
        raise SystemExit

    heard: list[StuckHandler] = []
    system.subscribe_stuck(heard.append)()
    system.subscribe_stuck(fail)
    ref = system.spawn(Recorder, book, name="it")
    book.acts["block"] = Stall(system, "it", "Through")
    await ref.call(Through("block"))
    assert not heard
    assert "a subscriber of stuck handlers failed" in caplog.text


async def test_a_subscriber_that_leaves_as_it_is_told_costs_the_next_one_nothing() -> None:
    reports, heard = StuckReports(), list[str]()

    def once(report: StuckHandler) -> None:
        heard.append("once")
        leave()

    leave = reports.subscribe(once)
    reports.subscribe(lambda report: heard.append("always"))
    for _ in range(2):
        reports.tell(StuckHandler("it", "", 1.0, ""))
    assert heard == ["once", "always", "always"]
    assert reports.count == 2


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rtvi-actors watchdog"]


async def test_it_is_a_daemon_and_ends_with_its_system() -> None:
    async with ActorSystem():
        (thread,) = watchdogs()
        assert thread.daemon
    await anyio.to_thread.run_sync(thread.join)
    assert not watchdogs()


async def test_a_system_can_do_without() -> None:
    async with ActorSystem(watchdog_s=None) as system:
        assert not watchdogs()
    assert system.stuck_reports == 0


class Loop:
    """A backend that does with the heartbeats what the test says."""

    def __init__(self, take: Callable[[Callable[[], None]], None]) -> None:
        self.thread_id = threading.get_ident()
        self.soon_from_thread = take


def run_watchdog(take: Callable[[Callable[[], None]], None], **options: Any) -> list[StuckHandler]:
    """Run one over a `Loop` until it ends. It is ended by its first report, if nobody ends it before."""
    reports: list[StuckHandler] = []

    def report(found: StuckHandler) -> None:
        reports.append(found)
        dog.end()

    loop = Loop(take)
    loop.thread_id = options.pop("thread_id", loop.thread_id)
    dog = Watchdog(cast("Backend", loop), 0.01, report, **options)
    dog.start()
    dog._thread.join(PATIENCE_S)
    assert not dog._thread.is_alive()
    return reports


def ignore(beat: Callable[[], None]) -> None:
    """A loop that is held."""


def test_a_loop_that_answers_is_left_in_peace() -> None:
    beats = 0

    def answer(beat: Callable[[], None]) -> None:
        nonlocal beats
        beats += 1
        if beats > 20:
            raise RuntimeError("the loop has ended")
        beat()

    assert run_watchdog(answer) == []
    assert beats == 21


def test_time_that_the_watchdog_itself_slept_through_does_not_count() -> None:
    times_s = [0.0, 0.0, 3600.0, 3600.0, 3600.01]

    def now() -> float:
        return times_s.pop(0) if len(times_s) > 1 else times_s[0]

    (report,) = run_watchdog(ignore, now=now)
    assert report.age_s == pytest.approx(0.01)


def test_a_thread_that_is_gone_is_not_watched() -> None:
    assert run_watchdog(ignore, thread_id=0) == []


def test_reports_are_counted_without_anybody_to_tell() -> None:
    reports = StuckReports()
    reports.tell(StuckHandler("it", "Note", 1.0, ""))
    assert reports.count == 1
