"""A chooser decides by its seed, or repeats; 0 is always the calm choice."""

from __future__ import annotations

import pytest

from rtvi_actors.runtime.choices import Chooser, Faults, Trace


def test_a_chooser_repeats_by_its_schedule_and_is_calm_where_that_says_nothing() -> None:
    chooser = Chooser(schedule={1: 1, 2: 2, 5: 9, 6: 9})
    assert [chooser.choose(3) for _ in range(4)] == [0, 2, 0, 2]
    assert chooser.chance(0.5)
    assert not chooser.chance(1.0)
    assert chooser.chance(0.5, 4) == 4
    assert chooser.strayed == {1: 1, 2: 2, 5: 4, 6: 2}
    assert chooser.made == 7


def test_what_is_decided_of_order_does_not_shift_the_numbers_of_faults() -> None:
    schedule = {1: 1}
    for orders in range(3):
        chooser = Chooser(schedule=schedule)
        for _ in range(orders):
            chooser.choose(2)
        assert (chooser.chance(0.5), chooser.chance(0.5)) == (1, 0)


def test_what_leaves_no_choice_is_no_decision() -> None:
    chooser = Chooser(1)
    assert (chooser.choose(1), chooser.choose(0), chooser.chance(0.0), chooser.made) == (0, 0, 0, 0)


def test_a_seed_decides_and_its_schedule_decides_the_same() -> None:
    def decide(chooser: Chooser) -> list[int]:
        return [chooser.choose(4) for _ in range(50)] + [chooser.chance(0.5, 3) for _ in range(50)]

    for seed in range(20):
        chooser = Chooser(seed)
        decided = decide(chooser)
        assert decide(Chooser(seed)) == decided
        assert decide(Chooser(seed + 1, chooser.strayed)) == decided
        numbers = [*range(0, 100, 2), *range(1, 101, 2)]
        assert {number: choice for number, choice in zip(numbers, decided, strict=True) if choice} == chooser.strayed


def test_seeds_differ_in_how_bold_they_are() -> None:
    strayed = []
    for seed in range(30):
        chooser = Chooser(seed)
        for _ in range(100):
            chooser.choose(2)
        strayed.append(len(chooser.strayed))
    assert min(strayed) < 20
    assert max(strayed) > 35


@pytest.mark.parametrize("faults", [{"drop": 5}, {"crash": -0.1}, {"delay": float("nan")}, {"max_delay_s": -1}])
def test_faults_that_cannot_be_are_refused_by_name(faults: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(faults))):
        Faults(**faults)


def test_a_trace_has_a_line_each_and_knows_which_ones_stray() -> None:
    trace = Trace(lambda: 1.5)
    trace.add("tell", "a", "->", "b\nc")
    trace.add("drop", "a", "->", "b")
    assert trace.lines == ["     1.500000 tell      a -> b c", "     1.500000 drop      a -> b"]
    assert Trace.strays(trace.lines) == trace.lines[1:]
