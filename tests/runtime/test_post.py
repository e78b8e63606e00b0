"""Faults do what they say, on the edges that they are for, and keep the order of each."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rtvi_actors.errors import AskTimeout
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.choices import Edges, Faults
from rtvi_actors.runtime.post import HOST, STORY
from rtvi_actors.runtime.signals import Terminated
from rtvi_actors.runtime.simulation import Run, SimulatedSystem
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from tests.runtime.worlds import Number, Question, Relay, Sum, Work, passed


def outcomes(faults: Faults, edges: Edges | None = None, seeds: int = 30) -> list[tuple[list[int], Run]]:
    """What a sum was told by its relay, which was told 0 … 9, seed by seed."""
    done: list[tuple[list[int], Run]] = []
    for seed in range(seeds):
        seen: list[int] = []

        async def story(system: SimulatedSystem, seen: list[int] = seen) -> None:
            specs = [ChildSpec(name="sum", actor=Sum, args=(seen,))]
            top = system.spawn(Supervisor, specs, intensity=1000, name="top")
            relay = system.spawn(Relay, top.cell.actor.child("sum"), name="relay")  # type: ignore[union-attr]
            for n in range(10):
                relay.tell(Number(n))
            await system.settle()
            await anyio.sleep(10)
            assert system.get("top/sum").cell.books().holds

        done.append((seen, passed(story, seed=seed, faults=faults, edges=edges)))
    return done


def test_a_dropped_message_is_a_dead_letter_and_the_books_hold() -> None:
    told = outcomes(Faults(drop=0.3))
    assert any(len(seen) < 10 for seen, _ in told)
    for seen, done in told:
        dropped = [line for line in done.trace if "dead      top/sum dropped" in line]
        assert len(seen) + len(dropped) == 10
        assert seen == sorted(seen)


def test_a_duplicate_arrives_right_behind_its_first() -> None:
    told = outcomes(Faults(duplicate=0.3))
    assert any(len(seen) > 10 for seen, _ in told)
    for seen, _ in told:
        assert sorted(set(seen)) == list(range(10))
        assert seen == sorted(seen)


def test_a_delay_keeps_the_order_of_the_edge() -> None:
    told = outcomes(Faults(delay=0.5, max_delay_s=0.4))
    assert all(seen == list(range(10)) for seen, _ in told)
    assert any("delay     relay -> top/sum until 0.4" in line for _, done in told for line in done.trace)


def test_a_crash_between_messages_loses_none() -> None:
    told = outcomes(Faults(crash=0.3))
    assert all(seen == list(range(10)) for seen, _ in told)
    assert any("top/sum running, incarnation 3" in line for _, done in told for line in done.trace)


def test_a_crash_after_the_handler_unsends_what_it_sent() -> None:
    for seed in range(30):
        seen: list[int] = []

        async def story(system: SimulatedSystem, seen: list[int] = seen) -> None:
            total = system.spawn(Sum, seen, name="sum")
            specs = [ChildSpec(name="relay", actor=Relay, args=(total,))]
            top = system.spawn(Supervisor, specs, intensity=1000, name="top")
            for n in range(10):
                top.cell.actor.child("relay").tell(Number(n))  # type: ignore[union-attr]
            await system.settle()
            await anyio.sleep(10)

        done = passed(story, seed=seed, edges={(STORY, "top/relay"): Faults(crash_after=0.4)})
        lost = [line for line in done.trace if "dead      top/relay crashed" in line]
        assert len(seen) + len(lost) == 10
        assert len(set(seen)) == len(seen)


def test_who_asks_with_a_message_that_is_lost_hears_nothing_until_the_deadline() -> None:
    async def story(system: SimulatedSystem) -> None:
        with pytest.raises(AskTimeout):
            await system.spawn(Sum, [], name="sum").call(Question(), timeout_s=3)
        assert system.backend.now() == 3

    passed(story, edges={(STORY, "sum"): Faults(drop=1.0)})


def test_a_duplicated_question_is_answered_once() -> None:
    async def story(system: SimulatedSystem) -> None:
        assert await system.spawn(Sum, [20, 22], name="sum").call(Question()) == 42
        await system.settle()

    done = passed(story, edges={(STORY, "sum"): Faults(duplicate=1.0)})
    assert len([line for line in done.trace if "handle    sum Question" in line]) == 2


def test_the_first_edge_that_matches_counts_and_spares_who_it_does_not_name() -> None:
    lossy = Faults(drop=1.0)
    assert all(seen == list(range(10)) for seen, _ in outcomes(Faults(), {("sum", "*"): lossy}, 3))
    assert all(seen == [] for seen, _ in outcomes(Faults(), {("relay", "top/*"): lossy}, 3))
    assert all(seen == list(range(10)) for seen, _ in outcomes(lossy, {("re*", "*"): Faults()}, 3))
    assert all(seen == [] for seen, _ in outcomes(Faults(), {(STORY, "*"): lossy}, 3))


def test_a_run_knows_which_edges_a_message_took() -> None:
    edges = {("relay", "top/sum"): Faults(), ("*", "top/sum"): Faults(), ("re*", "nobody"): Faults()}
    ((_, done),) = outcomes(Faults(), edges, 1)
    assert done.edges == {("relay", "top/sum")}


def test_the_systems_own_tasks_have_a_name_as_senders() -> None:
    async def story(system: SimulatedSystem) -> None:
        seen: list[int] = []
        ref = system.spawn(Sum, seen, name="sum")

        async def tell() -> None:
            ref.tell(Number(1))

        await system.run_async(tell)
        await system.settle()
        assert seen == []

    passed(story, edges={(HOST, "sum"): Faults(drop=1.0)})


def test_timers_and_stops_meet_no_fault() -> None:
    class Alarm(AnyioActor):
        rang = 0

        def on_start(self) -> None:
            self.after(1, Number(1))

        def on_number(self, number: Number) -> None:
            type(self).rang += number.n

    async def story(system: SimulatedSystem) -> None:
        ref = system.spawn(Alarm)
        await anyio.sleep(2)
        assert await ref.stop(block=False)

    passed(story, edges={("*", "*"): Faults(drop=1.0, duplicate=1.0, delay=1.0, crash=1.0)})
    assert Alarm.rang == 1


class Watcher(AnyioActor):
    def __init__(self, seen: list[object]) -> None:
        super().__init__(seen)
        self.seen = seen

    def on_number(self, number: Number) -> None:
        self.seen.append(number.n)

    def on_terminated(self, ended: Terminated) -> None:
        self.seen.append(ended.reason)


class Brief(Relay):
    """Sends a number on; stops itself with 4, and never gets done with work."""

    def on_number(self, number: Number) -> None:
        self.to.tell(number)
        if number.n == 4:
            self.stop()

    async def on_work(self, work: Work) -> None:
        await anyio.sleep_forever()


@pytest.mark.parametrize("stuck", [False, True])
def test_a_watcher_hears_of_the_end_behind_what_the_dead_one_had_sent(stuck: bool) -> None:
    async def story(system: SimulatedSystem) -> None:
        seen: list[object] = []
        watcher = system.spawn(Watcher, seen, name="watcher")
        brief = system.spawn(Brief, watcher, name="brief")
        watcher.cell.watch(brief.cell)
        for n in range(4):
            brief.tell(Number(n))
        brief.tell(Work(0) if stuck else Number(4))
        await anyio.lowlevel.checkpoint()
        await system.stop(brief, 0.01)
        await system.settle()
        assert [n for n in seen if isinstance(n, int)] == list(range(4 if stuck else 5))
        assert isinstance(seen[-1], str)

    for seed in range(20):
        passed(story, seed=seed, faults=Faults(delay=0.5))
