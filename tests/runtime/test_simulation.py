"""The same seed gives the same trace, whatever the process; a run leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rtvi_actors.errors import Crash, NoSystem, RealIo, Stalled, WouldBlock
from rtvi_actors.runtime.actor import current_host
from rtvi_actors.runtime.context import LOCAL, new_uuid, wall_time_s
from rtvi_actors.runtime.simulation import EPOCH_S, SimulatedSystem
from rtvi_actors.runtime.threads import ThreadingActor
from tests.runtime.worlds import ALL_FAULTS, Crew, Number, Relay, Sum, Work, busy, passed, run

ROOT = Path(__file__).resolve().parent.parent.parent


# -- the same seed, the same trace ---------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_same_seed_gives_the_same_trace_byte_for_byte(seed: int) -> None:
    first = passed(busy, seed=seed, faults=ALL_FAULTS)
    again = passed(busy, seed=seed, faults=ALL_FAULTS)
    assert first.trace == again.trace
    assert first.schedule == again.schedule


@pytest.mark.parametrize("seed", range(5))
def test_the_schedule_of_a_run_repeats_it(seed: int) -> None:
    first = passed(busy, seed=seed, faults=ALL_FAULTS)
    again = passed(busy, seed=seed, faults=ALL_FAULTS, schedule=first.schedule)
    assert first.trace == again.trace


def print_traces() -> None:
    for seed in range(3):
        print(*passed(busy, seed=seed, faults=ALL_FAULTS).trace, sep="\n")


def test_another_process_with_another_hash_seed_gives_the_same_trace() -> None:
    program = f"from {__name__} import print_traces; print_traces()"
    printed = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    (text,) = printed
    assert text.decode().splitlines() == [
        line for seed in range(3) for line in passed(busy, seed=seed, faults=ALL_FAULTS).trace
    ]


def test_different_seeds_explore_different_orders() -> None:
    orders = set()

    async def story(system: SimulatedSystem) -> None:
        seen: list[int] = []
        total = system.spawn(Sum, seen)
        for n in range(3):
            system.spawn(Relay, total).tell(Number(n))
        await system.settle()
        orders.add(tuple(seen))

    for seed in range(60):
        passed(story, seed=seed)
    assert len(orders) == 6
    orders.clear()
    passed(story, schedule={})
    assert orders == {(0, 1, 2)}


def test_what_the_runtime_and_the_module_random_draw_comes_from_the_seed() -> None:
    drawn: list[tuple[object, ...]] = []

    async def story(system: SimulatedSystem) -> None:
        drawn.append((new_uuid(), random.random(), LOCAL.sources.random.random()))
        await anyio.sleep(2)
        assert not gc.isenabled(), "weak references would depend on when it runs"
        assert wall_time_s() == EPOCH_S + 2

    state, sources = random.getstate(), LOCAL.sources
    assert gc.isenabled()
    for seed in (1, 1, 2):
        passed(story, seed=seed)
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])
    assert gc.isenabled()
    assert random.getstate() == state
    assert LOCAL.sources is sources


def test_a_calm_run_needs_no_schedule() -> None:
    done = passed(busy, schedule={}, faults=ALL_FAULTS)
    assert done.schedule == {}
    assert not [line for line in done.trace if " drop " in line or " crash " in line or " delay " in line]


def test_each_decision_of_order_that_strays_and_each_asynchronous_handler_has_its_line() -> None:
    async def story(system: SimulatedSystem) -> None:
        total = system.spawn(Sum, [], name="sum")
        for n in range(3):
            system.spawn(Relay, total, name=f"relay{n}").tell(Number(n))
        system.spawn(Crew, total, name="crew").tell(Work(1))
        await anyio.sleep(10)

    lines = [line for seed in range(30) for line in passed(story, seed=seed).trace]
    for event in ("relay1 before relay0", "relay0 waits a turn", "sum takes 1 at a time"):
        assert any(f" order     {event}" in line for line in lines), event
    assert any(line.endswith("state     crew running, incarnation 1, in on_work(Work)") for line in lines)
    calm = passed(story, schedule={}).trace
    assert not [line for line in calm if " order " in line]


def test_a_story_that_swallows_its_end_is_ended_all_the_same_and_leaves_nothing() -> None:
    handler = signal.getsignal(signal.SIGINT)

    async def story(system: SimulatedSystem) -> None:
        system.spawn(Sum, [])
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    assert isinstance(run(story).error, Stalled)
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(NoSystem):
        current_host()


def test_a_simulation_does_not_run_within_an_event_loop() -> None:
    async def story(system: SimulatedSystem) -> None: ...

    async def main() -> None:
        with pytest.raises(WouldBlock):
            run(story)

    asyncio.run(main())


def test_a_threading_actor_does_not_start_and_leaves_no_name() -> None:
    class Blocking(ThreadingActor):
        def on_number(self, number: Number) -> None: ...

    async def story(system: SimulatedSystem) -> None:
        with pytest.raises(RealIo):
            system.spawn(Blocking, name="blocking")
        assert len(system.registry) == 0

    passed(story)


def test_an_error_of_the_story_is_reported_and_an_interrupt_is_raised() -> None:
    async def fails(system: SimulatedSystem) -> None:
        system.spawn(Sum, [])
        raise Crash("of the story's own")

    async def interrupted(system: SimulatedSystem) -> None:
        raise KeyboardInterrupt

    assert isinstance(run(fails).error, Crash)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted)
