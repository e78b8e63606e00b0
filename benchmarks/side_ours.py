"""Our side of the benchmark: a full session on the memory transport; and the floor, in the same process.

Nothing is turned off: encoded mailboxes, supervision, deadlines and accounting are as every session has them.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import msgspec
import pykka

import rtvi_actors as rtvi
from benchmarks.floor import floor
from benchmarks.load import Counter, Endpoint, Figures, hello, serve
from rtvi_actors.streams import WireOut
from rtvi_actors.transports import memory


class Query(msgspec.Struct):
    """What both handlers ask for."""

    city: str
    days: int
    detailed: bool


class Bot(rtvi.Bot):
    """Answers at once, answers after one turn of the event loop, hears."""

    def __init__(self, answered: Callable[[], None]) -> None:
        super().__init__()
        self.answered = answered

    @rtvi.request("sync")
    def at_once(self, query: Query) -> dict[str, int]:
        """The synchronous handler."""
        return {"celsius": 21}

    @rtvi.request("async")
    async def after_a_turn(self, query: Query) -> dict[str, int]:
        """The asynchronous handler; it does wait once."""
        await anyio.lowlevel.checkpoint()
        return {"celsius": 21}

    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        """Where microphone audio arrives."""
        self.answered()


class Probe:
    """The memory transport, whose client counts each message where it arrives, as the peer's sink does."""

    playing_rate_hz: int | None = None

    def __init__(self, inner: memory.MemoryTransport, answered: Callable[[], None]) -> None:
        self.receive = inner.receive
        self.aclose = inner.aclose
        self.max_message_bytes = inner.max_message_bytes
        self.answered = answered

    async def send(self, batch: Sequence[WireOut]) -> None:
        """The client's side of the wire."""
        for _ in batch:
            self.answered()


class Session:
    """One session with its client, in a task of its own, as a server runs it."""

    def __init__(self, answered: Callable[[], None], system: rtvi.ActorSystem) -> None:
        transport, self.client = memory.pair(capacity=4096)
        self.ready = Counter()
        self.probe = Probe(transport, self.ready)
        self.bot = Bot(answered)
        self.system = system
        self.leave = asyncio.Event()

    async def live(self) -> None:
        """From the connection to the end."""
        async with rtvi.open_session(self.bot, self.probe, system=self.system):
            await self.leave.wait()

    async def open(self) -> None:
        """Open it and shake hands."""
        self.life = asyncio.create_task(self.live())
        await self.send(hello())
        await self.ready.reach(1)
        self.probe.answered = self.bot.answered

    async def send(self, data: bytes) -> None:
        """One message into the wire."""
        await self.client.send_text(data)

    async def close(self) -> None:
        """Leave, and wait until the session has ended."""
        await self.client.aclose()
        self.leave.set()
        await self.life


class Ours:
    """The side, as `load.serve` wants it: one system for all sessions of the process."""

    def __init__(self, system: rtvi.ActorSystem) -> None:
        self.system = system

    async def open(self, answered: Callable[[], None]) -> Endpoint:
        """A session whose handshake is done."""
        session = Session(answered, self.system)
        await session.open()
        return session


class Crowd:
    """Sessions that stay open while others come and go."""

    def __init__(self, side: Ours) -> None:
        self.side = side
        self.endpoints: list[Endpoint] = []

    async def grow(self, count: int) -> Figures:
        """Open sessions until so many are; returns how many actors that makes."""
        while len(self.endpoints) < count:
            self.endpoints.append(await self.side.open(lambda: None))
        return {"actors": len(pykka.ActorRegistry.get_all())}

    async def one_more(self, count: int) -> Figures:
        """Open and close one session beside the crowd, `count` times: the median, which the collector's rare walk over
        the whole crowd does not move, and the mean, which it does."""
        times_s: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            endpoint = await self.side.open(lambda: None)
            await endpoint.close()
            times_s.append(time.perf_counter() - started)
        return {"us": statistics.median(times_s) * 1e6, "mean_us": statistics.fmean(times_s) * 1e6}

    async def one_more_in_a_list(self, count: int) -> Figures:
        """The same while pykka's registry keeps its references as it would by itself."""
        with pykkas_own_list():
            return await self.one_more(count)


@contextmanager
def pykkas_own_list() -> Iterator[None]:
    """The registry as pykka has it."""
    registry: Any = pykka.ActorRegistry
    before = registry._actor_refs
    registry._actor_refs = before[:]
    try:
        yield
    finally:
        registry._actor_refs = before


def own(crowd: Crowd, command: Mapping[str, Any]) -> Awaitable[Figures] | None:
    """The commands for the floor, and those for a crowd."""
    row, count = command["row"], command["count"]
    if command.get("shape") == "floor":
        return floor(row, count)
    rows = {"crowd": crowd.grow, "one more": crowd.one_more, "in a list": crowd.one_more_in_a_list}
    return rows[row](count) if row in rows else None


async def obey_all() -> None:
    """Serve commands until standard input ends."""
    async with rtvi.ActorSystem() as system:
        side = Ours(system)
        crowd = Crowd(side)
        await serve(side, lambda command: own(crowd, command))


def main() -> None:
    """Serve commands on standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    factory = importlib.import_module("uvloop").new_event_loop if parser.parse_args().loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(obey_all())


if __name__ == "__main__":
    main()
