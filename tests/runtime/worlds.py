"""Actors and runs for the tests of the simulation."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.choices import Edges, Faults, Schedule
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.simulation import Plan, Run, SimulatedSystem, run_plan
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor

__all__ = ["ALL_FAULTS", "Crew", "Number", "Question", "Relay", "Sum", "Work", "busy", "passed", "run"]


class Number(msgspec.Struct, frozen=True, tag=True):
    n: int


class Question(msgspec.Struct, frozen=True, tag=True):
    n: int = 0


class Work(msgspec.Struct, frozen=True, tag=True):
    n: int


class Sum(AnyioActor):
    """Keeps what it was told, in order."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__(seen)
        self.seen = seen

    def on_number(self, number: Number) -> None:
        self.seen.append(number.n)

    def on_question(self, question: Question) -> int:
        return sum(self.seen)


class Relay(AnyioActor):
    def __init__(self, to: ActorRef[Any]) -> None:
        super().__init__(to)
        self.to = to

    def on_number(self, number: Number) -> None:
        self.to.tell(number)


class Crew(AnyioActor):
    """A user's own asynchronous handlers: task groups, sleeps, chance."""

    groups: ClassVar = {"jobs": GroupSpec(concurrency=3)}
    async_group = "jobs"

    def __init__(self, to: ActorRef[Any]) -> None:
        super().__init__(to)
        self.to = to

    async def on_work(self, work: Work) -> None:
        async with anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(self.step, work.n * 10 + n)

    async def step(self, n: int) -> None:
        await anyio.sleep(random.random() / 10)
        self.to.tell(Number(n))
        await anyio.lowlevel.checkpoint()
        self.to.tell(Number(-n))


def run(
    story: Callable[[SimulatedSystem], Awaitable[None]],
    *,
    seed: int = 0,
    faults: Faults | None = None,
    edges: Edges | None = None,
    schedule: Schedule | None = None,
    max_turns: int = 20_000,
) -> Run:
    return run_plan(Plan(story, seed, faults or Faults(), edges or {}, max_turns, __file__), schedule)


def passed(story: Callable[[SimulatedSystem], Awaitable[None]], **options: Any) -> Run:
    done = run(story, **options)
    if done.error is not None:
        raise done.error
    return done


async def busy(system: SimulatedSystem) -> None:
    """Restarts, asynchronous handlers, relays: something of everything."""
    total = system.spawn(Sum, [], name="sum")
    specs = [ChildSpec(name=f"relay{n}", actor=Relay, args=(total,)) for n in range(3)]
    crew = ChildSpec(name="crew", actor=Crew, args=(total,))
    top = system.spawn(Supervisor, [*specs, crew], intensity=1000, name="top")
    refs = top.cell.actor.children()  # type: ignore[union-attr]
    async with anyio.create_task_group() as group:
        for n, ref in enumerate(refs[:3]):
            group.start_soon(say, ref, n)
        for n in range(4):
            refs[3].tell(Work(n))
    await system.settle()
    await anyio.sleep(10)


async def say(ref: ActorRef[Any], start: int) -> None:
    for n in range(5):
        ref.tell(Number(start * 100 + n))
        await anyio.sleep(0.01)


ALL_FAULTS = Faults(crash=0.1, crash_after=0.1, delay=0.3, drop=0.1, duplicate=0.1)
