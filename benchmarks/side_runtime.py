"""The runtime's side of the benchmark: what a hop, an ask, a restart, a stop and a deadline cost, without RTVI.

Where a row has a floor it is measured in the same breath: msgspec alone, encoding and decoding the row's messages, the
least that a runtime with bytes in its mailboxes can do. What actors log of a crash is turned off: it is formatted and
written by whatever logging the host has chosen.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final, TypeAlias

import anyio
import msgspec

from benchmarks.load import Figures, percentile
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem

__all__ = ["ROWS", "main", "obey"]

BATCH: Final = 64
"""Messages that one handler sends, or asks that are under way, in the rows that are not one at a time."""
BACKLOG: Final = 100_000
"""Messages that wait in the mailbox of the actor that is stopped or inspected."""
NEIGHBOURS: Final = 20_000
"""Messages that wait in its neighbour's, all the while."""
PARKED: Final = 10_000
"""Deadlines that stand in the heap while another one is set and cancelled."""
FOREVER: Final = 10**9


class Ball(msgspec.Struct, frozen=True, tag=True):
    """One hop; `left` more follow."""

    left: int


class Batch(msgspec.Struct, frozen=True, tag=True):
    """Send a batch; `left` more follow."""

    left: int


class Fail(msgspec.Struct, frozen=True, tag=True):
    """Raise."""


class Note(msgspec.Struct, frozen=True, tag=True):
    """Answer with `n`."""

    n: int


DECODE: Final = msgspec.msgpack.Decoder(Ball | Batch | Fail | Note).decode
ENCODE: Final = msgspec.msgpack.Encoder().encode


class Player(AnyioActor):
    """One of two. `over` is called when the game is over."""

    def __init__(self, other: str, over: Callable[[], None]) -> None:
        super().__init__(other, over)
        self._other = other
        self._over = over

    def on_ball(self, message: Ball) -> None:
        """One hop."""
        if message.left:
            self.link(self._other).tell(Ball(message.left - 1))
        else:
            self._over()

    def on_batch(self, message: Batch) -> None:
        """A batch for the other one, whose last message has it do the same."""
        if not message.left:
            self._over()
            return
        other = self.link(self._other)
        for n in range(BATCH - 1):
            other.tell(Note(n))
        other.tell(Batch(message.left - 1))

    def on_note(self, message: Note) -> None:
        """One of a batch."""


class Worked(AnyioActor):
    """Answers; crashes when it is told to, and has nothing to do when it comes back."""

    max_mail: ClassVar[int] = 2 * BACKLOG

    def on_note(self, message: Note) -> int:
        """The least that a handler can do."""
        return message.n

    def on_fail(self, message: Fail) -> None:
        """A crash."""
        raise ValueError("on purpose")


class Flooded(Worked):
    """Calls `ends` when it stops, between two messages of its backlog."""

    def __init__(self, ends: Callable[[], None]) -> None:
        super().__init__(ends)
        self._ends = ends

    def on_stop(self) -> None:
        """The actor is at its end; its mail is still to be buried."""
        self._ends()


# -- the rows --------------------------------------------------------------------------


def floor_us(count: int) -> float:
    """Microseconds to encode and decode one message."""
    started = time.perf_counter()
    for n in range(count):
        DECODE(ENCODE(Note(n)))
    return (time.perf_counter() - started) / count * 1e6


def per_message(started: float, count: int) -> Figures:
    """The figures of a row whose clock has just been stopped."""
    return {"us": (time.perf_counter() - started) / count * 1e6, "floor_us": floor_us(count)}


async def game(system: ActorSystem, opening: msgspec.Struct, count: int) -> Figures:
    """Two actors send each other `count` messages."""
    over: ActorFuture[None] = ActorFuture()
    specs = [
        ChildSpec("first", Player, ("second", lambda: over.set(None)), links=("second",)),
        ChildSpec("second", Player, ("first", lambda: over.set(None)), links=("first",)),
    ]
    pair = system.spawn(Supervisor, specs, name="pair")
    started = time.perf_counter()
    system.get("pair/first").tell(opening)
    await over
    figures = per_message(started, count)
    await system.stop(pair)
    return figures


async def ping_pong(system: ActorSystem, count: int) -> Figures:
    """One message is under way: each hop is to the other actor."""
    return await game(system, Ball(count - 1), count)


async def batched(system: ActorSystem, count: int) -> Figures:
    """Each handler sends `BATCH` messages."""
    return await game(system, Batch(count // BATCH), count // BATCH * BATCH)


async def ask(system: ActorSystem, count: int) -> Figures:
    """One ask at a time, each with its deadline. Its reply comes as the object that it is."""
    ref = system.spawn(Worked)
    started = time.perf_counter()
    for n in range(count):
        await ref.call(Note(n))
    figures = per_message(started, count)
    await system.stop(ref)
    return figures


async def asks(system: ActorSystem, count: int) -> Figures:
    """`BATCH` asks under way, each with its deadline."""
    ref = system.spawn(Worked)
    started = time.perf_counter()
    for start in range(0, count, BATCH):
        for future in [ref.ask(Note(n), block=False) for n in range(start, start + BATCH)]:
            await future
    figures = per_message(started, -(-count // BATCH) * BATCH)
    await system.stop(ref)
    return figures


async def restart(system: ActorSystem, count: int) -> Figures:
    """A supervised actor crashes again and again and comes back in place, under the same reference.

    Neither back-off nor limit: what a restart costs, not how long it waits.
    """
    spec = ChildSpec("it", Worked, backoff=Backoff(immediate=FOREVER))
    supervisor = system.spawn(Supervisor, [spec], intensity=FOREVER, name="s")
    ref = system.get("s/it")
    await ref.call(Note(0))
    started = time.perf_counter()
    for _ in range(count):
        ref.tell(Fail())
    await ref.call(Note(0))
    total_s = time.perf_counter() - started
    if ref.cell.generation != count + 1 or system.get("s/it") is not ref:
        raise RuntimeError(f"{count} crashes, and {ref!r} is of generation {ref.cell.generation}")
    await system.stop(supervisor)
    return {"us": total_s / count * 1e6}


def fill(ref: ActorRef[Any], count: int) -> None:
    """Have `count` messages wait. No actor runs meanwhile."""
    body = ref.encode(Note(0))
    for _ in range(count - len(ref.cell.mailbox.user)):
        ref.forward(body)


Act: TypeAlias = Callable[[ActorRef[Any]], Awaitable[Any]]


async def ended_behind_a_backlog(system: ActorSystem, act: Act, count: int) -> Figures:
    """How long until an actor with a backlog is at its end, and until whoever ended it hears so."""
    neighbour = system.spawn(Worked)
    acted: list[float] = []
    heard: list[float] = []
    for _ in range(count):
        at_end: list[float] = []
        victim = system.spawn(Flooded, lambda at_end=at_end: at_end.append(time.perf_counter()))
        fill(neighbour, NEIGHBOURS)
        fill(victim, BACKLOG)
        started = time.perf_counter()
        await act(victim)
        heard.append(time.perf_counter() - started)
        acted.append(at_end[0] - started)
    await system.kill(neighbour)
    return {**spread("acted", acted), **spread("heard", heard)}


async def stop(system: ActorSystem, count: int) -> Figures:
    """`system.stop` without time to drain."""
    return await ended_behind_a_backlog(system, lambda ref: system.stop(ref, 0.0), count)


async def kill(system: ActorSystem, count: int) -> Figures:
    """`system.kill`."""
    return await ended_behind_a_backlog(system, system.kill, count)


async def inspect(system: ActorSystem, count: int) -> Figures:
    """`system.inspect`, whose answer comes between two messages."""
    neighbour, ref = system.spawn(Worked), system.spawn(Worked)
    heard: list[float] = []
    for _ in range(count):
        fill(neighbour, NEIGHBOURS)
        fill(ref, BACKLOG)
        started = time.perf_counter()
        await system.inspect(ref)
        heard.append(time.perf_counter() - started)
    await system.kill(neighbour)
    await system.kill(ref)
    return spread("heard", heard)


def spread(what: str, times_s: list[float]) -> Figures:
    """The median and the 99th percentile, in microseconds."""
    return {f"{what}_p50_us": percentile(times_s, 0.50) * 1e6, f"{what}_p99_us": percentile(times_s, 0.99) * 1e6}


async def deadline(system: ActorSystem, count: int) -> Figures:
    """One deadline set and cancelled while others stand; and what the same is as a scope of anyio's."""
    parked = [system.timers.after(3600.0 + n, _nothing) for n in range(PARKED)]
    started = time.perf_counter()
    for _ in range(count):
        system.timers.after(10.0, _nothing).cancel()
    timer_us = (time.perf_counter() - started) / count * 1e6
    started = time.perf_counter()
    for _ in range(count):
        with anyio.fail_after(10.0):  # noqa: ASYNC100 - the scope alone is what is measured
            pass
    scope_us = (time.perf_counter() - started) / count * 1e6
    for timer in parked:
        timer.cancel()
    return {"us": timer_us, "scope_us": scope_us}


def _nothing() -> None:
    """What a deadline of the row does, were it ever due."""


Row: TypeAlias = Callable[[ActorSystem, int], Awaitable[Figures]]
ROWS: Final[Mapping[str, Row]] = {
    row.__name__: row for row in (ping_pong, batched, ask, asks, restart, stop, kill, inspect, deadline)
}


# -- the program -----------------------------------------------------------------------


async def obey(command: Mapping[str, Any]) -> Figures:
    """One row, in a system of its own, after a little of it that does not count."""
    row, count = ROWS[command["row"]], command["count"]
    async with ActorSystem() as system:
        await row(system, max(1, count // 20))
        gc.collect()
        return await row(system, count)


async def obey_all() -> None:
    """Serve commands until standard input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await obey(json.loads(line))), flush=True)


def main() -> None:
    """Serve commands on standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    factory = importlib.import_module("uvloop").new_event_loop if parser.parse_args().loop == "uvloop" else None
    logging.getLogger("rtvi_actors").setLevel(logging.CRITICAL)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(obey_all())


if __name__ == "__main__":
    main()
