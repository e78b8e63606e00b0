from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rtvi_actors.runtime.clock import COMPACT_FROM, Timer, Timers


class Loop:
    """A loop with one timer, and a clock that only `advance` moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.due_s = math.inf
        self.callback: Callable[[], None] | None = None
        self.timers = Timers(lambda: self.now_s, self.arm)

    def arm(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s, self.callback = due_s, callback

    def advance(self, by_s: float) -> None:
        target_s = self.now_s + by_s
        while self.due_s <= target_s and self.callback is not None:
            self.now_s = max(self.now_s, self.due_s)
            callback, self.callback, self.due_s = self.callback, None, math.inf
            callback()
        self.now_s = target_s


class TimersAgainstAModel(RuleBasedStateMachine):
    """The model is a list: whatever is due fires, in order of time and then of setting, unless it was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.fired: list[int] = []
        self.expected: list[int] = []
        self.pending: dict[int, tuple[float, Timer]] = {}
        self.count = 0

    @rule(delay_s=st.integers(0, 20))
    def set_one(self, delay_s: int) -> None:
        number, self.count = self.count, self.count + 1
        timer = self.loop.timers.after(delay_s, lambda: self.fired.append(number))
        self.pending[number] = (timer.due_s, timer)

    @rule(which=st.integers(0, 1000))
    def cancel_one(self, which: int) -> None:
        if self.pending:
            number = list(self.pending)[which % len(self.pending)]
            self.pending.pop(number)[1].cancel()

    @rule(by_s=st.integers(0, 10))
    def advance(self, by_s: int) -> None:
        self.loop.advance(by_s)
        due = [number for number, (due_s, _) in self.pending.items() if due_s <= self.loop.now_s]
        self.expected += sorted(due, key=lambda number: (self.pending[number][0], number))
        for number in due:
            del self.pending[number]

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.fired == self.expected
        assert len(self.loop.timers) == len(self.pending)


TestTimersAgainstAModel = TimersAgainstAModel.TestCase


@given(st.lists(st.integers(0, 5), max_size=20))
def test_equal_times_fire_in_the_order_they_were_set(delays: list[int]) -> None:
    loop, fired = Loop(), []
    for number, delay_s in enumerate(delays):
        loop.timers.after(delay_s, lambda number=number: fired.append(number))  # type: ignore[misc]
    loop.advance(10)
    assert fired == sorted(range(len(delays)), key=lambda number: (delays[number], number))


def test_a_timer_that_raises_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    loop, fired = Loop(), []

    def fail() -> None:
        raise SystemExit

    loop.timers.after(1, fail)
    loop.timers.after(1, lambda: fired.append(1))
    loop.timers.after(2, lambda: fired.append(2))
    loop.advance(3)
    assert fired == [1, 2]
    assert "a timer failed" in caplog.text


def test_cancelling_many_while_firing_loses_no_timer() -> None:
    loop = Loop()
    fired: list[str] = []
    many = [loop.timers.after(50, lambda: fired.append("cancelled")) for _ in range(3 * COMPACT_FROM)]

    def cancel_all() -> None:
        for timer in many:
            timer.cancel()
        loop.timers.after(1, lambda: fired.append("set while firing"))

    loop.timers.after(1, cancel_all)
    loop.timers.after(60, lambda: fired.append("last"))
    loop.advance(100)
    assert fired == ["set while firing", "last"]
    assert len(loop.timers) == 0


def test_a_cancelled_timer_frees_the_heap_in_time() -> None:
    loop = Loop()
    for _ in range(10 * COMPACT_FROM):
        loop.timers.after(1000, lambda: None).cancel()
    assert len(loop.timers._heap) < 3 * COMPACT_FROM


def test_a_timer_that_sets_itself_again_without_delay_yields_to_the_loop() -> None:
    loop, count = Loop(), 0

    def again() -> None:
        nonlocal count
        count += 1
        loop.timers.after(0, again)

    loop.timers.after(0, again)
    loop.timers.fire()
    assert count == 1
    loop.timers.fire()
    assert count == 2


def test_a_prepared_timer_is_set_by_add_and_not_at_all_when_cancelled_before() -> None:
    loop, fired = Loop(), []
    kept = loop.timers.prepare(1, lambda: fired.append("kept"))
    gone = loop.timers.prepare(1, lambda: fired.append("gone"))
    loop.advance(0.5)
    assert len(loop.timers) == 0
    gone.cancel()
    gone.cancel()
    loop.timers.add(gone)
    loop.timers.add(kept)
    loop.advance(2)
    assert fired == ["kept"]
