"""The soak: memory stays flat under ten times overload, and every message is accounted for.

    python -m benchmarks.soak [--seconds 60] [--only SCENARIO]

Each scenario (`overload.SCENARIOS`) is a process of its own with many sessions in it, all of them overloaded for the
whole time. A session that closes for what its client does to it is followed by the next at once, as by a client that
connects again. The exit code is 1 where, in any scenario,

* resident memory grows: the median of the last third is more than `GROWTH` and `GROWTH_BYTES` above that of the middle
  third (in the first third buffers fill up to their bounds);
* received = delivered + answered + dropped + dead + open does not hold of a session, at any sample or at its end;
* the books of an actor do not balance, at any sample: the same one storey below;
* a session does not say that it has received what its transport has handed over.

Linux: resident memory is read from /proc.
"""

from __future__ import annotations

import argparse
import logging
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio
import uvicorn
import websockets

import rtvi_actors as rtvi
from benchmarks.load import hello
from benchmarks.overload import SCENARIOS, TICK_S, Client, Gate, MemoryClient, Quick, SocketClient, Tally
from benchmarks.worker import ROOT
from rtvi_actors.ledger import Conservation, Ledger
from rtvi_actors.server import ServerOptions, asgi
from rtvi_actors.transports import memory
from rtvi_actors.wire import READ_AHEAD

__all__ = ["Report", "Soak", "Watched", "grown_bytes", "lines", "main", "rss_bytes"]

GROWTH: Final = 0.03
"""By how much resident memory may be above what it was: what an allocator moves about."""
GROWTH_BYTES: Final = 4 * 1024 * 1024
"""And by so many bytes beyond that."""
JUDGED_FROM_S: Final = 20.0
"""A shorter soak says nothing about memory: buffers are still filling."""
SAMPLES_PER_S: Final = 10
PIPE: Final = 64
"""Messages between a client and its session: as few as a socket's buffers hold, for the session's bounds are meant."""
OPTIONS: Final = rtvi.SessionOptions(drain_s=0.2)
END: Final = "the soak is over"

Live: TypeAlias = Callable[[int], Awaitable[None]]
"""One connection of the client of this number, until it closes or the soak is over."""


@dataclass
class Watched:
    """A session that runs."""

    bot: Quick
    gate: Gate | None = None

    @property
    def ledger(self) -> Ledger | None:
        """Its books; `None` before it is open."""
        ledger: Ledger | None = self.bot.cell.context
        return ledger


@dataclass
class Report:
    """What came of a scenario."""

    name: str
    seconds: float
    tally: Tally = field(default_factory=Tally)
    opened: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    """Sessions, by the reason of their end."""
    books: Counter[str] = field(default_factory=Counter)
    """The sums of all sessions' `Conservation`."""
    dropped: Counter[str] = field(default_factory=Counter)
    """By policy."""
    start_bytes: int = 0
    rss: list[int] = field(default_factory=list)
    """Resident memory, bytes, sample by sample."""
    broken: list[str] = field(default_factory=list)
    """What does not balance."""

    def problems(self) -> list[str]:
        """Why the soak has failed."""
        found = self.broken[:5]
        grown = grown_bytes(self.rss)
        if self.seconds >= JUDGED_FROM_S and grown > 0:
            found.append(f"resident memory grows: {mib(grown)} MiB more than it may")
        return found

    def sample(self, sessions: Sequence[Watched], system: rtvi.ActorSystem) -> None:
        """One look at everything, between two handlers."""
        self.rss.append(rss_bytes())
        for session in sessions:
            if session.ledger is not None:
                # What has no room yet is in the reader's hands, of which it is not said that it has been received.
                self._check(session, session.ledger, READ_AHEAD + 1)
        for cell in system.registry.cells():
            if not cell.books().holds:
                self.broken.append(f"the books of {cell.name} do not balance: {cell.books()}")

    def settle(self, session: Watched) -> None:
        """A session has ended: into the sums with it."""
        ledger = session.ledger
        if ledger is None:
            return
        self._check(session, ledger, 0)
        books = ledger.conservation()
        self.books.update({term: getattr(books, term) for term in Conservation.__struct_fields__})
        for policies in (ledger.control.dropped, ledger.audio.dropped, ledger.unnumbered_dropped):
            self.dropped.update(policies)

    def _check(self, session: Watched, ledger: Ledger, held_most: int) -> None:
        books = ledger.conservation()
        if not books.holds:
            self.broken.append(f"{ledger.session_id} does not balance: {books}")
        if session.gate is not None and not 0 <= session.gate.handed_over - books.received <= held_most:
            self.broken.append(f"{ledger.session_id} was handed {session.gate.handed_over} messages: {books}")


def grown_bytes(samples: Sequence[int]) -> float:
    """By how many bytes the last third is above what the middle third allows; negative where it is not."""
    third = len(samples) // 3
    if not third:
        return -float(GROWTH_BYTES)
    before, after = statistics.median(samples[third : 2 * third]), statistics.median(samples[2 * third :])
    return after - before * (1 + GROWTH) - GROWTH_BYTES


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


# -- running ---------------------------------------------------------------------------


class Soak:
    """One scenario."""

    def __init__(self, name: str, seconds: float) -> None:
        self.scenario = SCENARIOS[name]
        self.report = Report(name, seconds)
        self._running: list[Watched] = []
        self._until_s = 0.0

    async def run(self) -> Report:
        """All of it; the last sessions are closed as it ends."""
        async with rtvi.ActorSystem() as system, AsyncExitStack() as stack:
            live: Live = lambda number: self._live_in_memory(system, number)  # noqa: E731
            if self.scenario.socket:
                live = await stack.enter_async_context(self._server(system))
            self.report.start_bytes = rss_bytes()
            self._until_s = time.monotonic() + self.report.seconds
            async with anyio.create_task_group() as group:
                for number in range(self.scenario.sessions):
                    group.start_soon(self._reconnect, live, number)
                await self._sample(system)
        return self.report

    @property
    def _left_s(self) -> float:
        return self._until_s - time.monotonic()

    async def _sample(self, system: rtvi.ActorSystem) -> None:
        while self._left_s > 0:
            await anyio.sleep(1 / SAMPLES_PER_S)
            self.report.sample(self._running, system)

    async def _reconnect(self, live: Live, number: int) -> None:
        """A client that connects again whenever its session ends. They begin one after the other."""
        await anyio.sleep(number * TICK_S)
        while self._left_s > 0:
            await live(number)

    def _watch(self, session: Watched) -> Watched:
        self.report.opened += 1
        self._running.append(session)
        return session

    async def _converse(self, client: Client) -> None:
        """What the client does, until its connection or the soak is over."""
        with anyio.move_on_after(self._left_s):
            async with anyio.create_task_group() as group:
                if self.scenario.reads:
                    group.start_soon(_until_end, client.read)
                await _until_end(lambda: client.text(hello()))
                await _until_end(lambda: self.scenario.load(client))
                group.cancel_scope.cancel()

    async def _live_in_memory(self, system: rtvi.ActorSystem, number: int) -> None:
        transport, end = memory.pair(capacity=PIPE)
        gate = Gate(transport)
        session = self._watch(Watched(self.scenario.bot(), gate))
        client = MemoryClient(end, self.report.tally, binary=bool(number % 2))
        reason = END
        async with (
            rtvi.open_session(session.bot, gate, options=OPTIONS, system=system) as opened,
            anyio.create_task_group() as group,
        ):
            group.start_soon(self._converse, client)
            with anyio.move_on_after(self._left_s):
                reason = await opened.wait_closed()
            group.cancel_scope.cancel()
        end.drain()  # what a client has not read is gone with its socket, and not with the collector's next walk
        self._running.remove(session)
        self.report.settle(session)
        self.report.closed[reason] += 1

    # -- over a WebSocket ----------------------------------------------------------------

    @asynccontextmanager
    async def _server(self, system: rtvi.ActorSystem) -> AsyncIterator[Live]:
        """A server on loopback, in this very event loop. Its sessions are settled when it has ended."""
        options = ServerOptions(session=OPTIONS, system=system, page=False)
        app = asgi(lambda: self._watch(Watched(self.scenario.bot())).bot, options=options)
        server = uvicorn.Server(uvicorn.Config(app, ws="websockets-sansio", lifespan="on", log_level="critical"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            url = f"ws://127.0.0.1:{listener.getsockname()[1]}/ws"
            async with anyio.create_task_group() as group:
                group.start_soon(server.serve, [listener])
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await anyio.sleep(TICK_S)
                yield lambda number: self._live_on_a_socket(url)
                server.should_exit = True
        for session in self._running:
            self.report.settle(session)

    async def _live_on_a_socket(self, url: str) -> None:
        async with websockets.connect(url, compression=None, close_timeout=1.0) as connection:
            await self._converse(SocketClient(connection, self.report.tally))
        self.report.closed[END if self._left_s <= 0 else connection.close_reason or "connection lost"] += 1


async def _until_end(act: Callable[[], Awaitable[None]]) -> None:
    with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
        await act()


# -- what is printed -------------------------------------------------------------------


def mib(size_bytes: float) -> str:
    """A size, or a difference of sizes."""
    return f"{size_bytes / 2**20:.1f}"


def lines(report: Report) -> Iterator[str]:
    """The scenario's table."""
    scenario, books, tally = SCENARIOS[report.name], report.books, report.tally
    third = max(1, len(report.rss) // 3)
    middle, last = (statistics.median(part) for part in (report.rss[third : 2 * third] or [0], report.rss[-third:]))
    rate = tally.offered / report.seconds
    yield f"{report.name}: {scenario.what}; {scenario.sessions} sessions at once, {report.seconds:g} s"
    start, peak, end = map(mib, (report.start_bytes, max(report.rss), report.rss[-1]))
    yield f"  resident, MiB       start {start}, peak {peak}, end {end}"
    yield f"  its medians, MiB    middle third {mib(middle)}, last third {mib(last)}"
    yield f"  messages            offered {tally.offered:,} ({rate:,.0f} a second), received {books['received']:,}"
    terms = ("delivered", "answered", "dropped", "dead", "open")
    yield "  of the received     " + ", ".join(f"{term} {books[term]:,}" for term in terms)
    yield f"  dropped             {_counts(report.dropped)}"
    yield f"  clients have read   answers {tally.answers:,}, refusals {tally.refusals:,}"
    yield f"  sessions            opened {report.opened:,}; closed: {_counts(report.closed)}"
    if report.seconds < JUDGED_FROM_S:
        yield f"  memory is not judged: that takes {JUDGED_FROM_S:g} s"
    for problem in report.problems():
        yield f"  FAILED: {problem}"


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in counts.most_common()) or "none"


# -- the program -----------------------------------------------------------------------


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Whether memory stays flat under ten times overload.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each scenario")
    parser.add_argument("--only", choices=tuple(SCENARIOS), help="this one, in this process")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print. The exit code is 1 where something does not hold."""
    args = arguments(argv)
    if args.only:
        return _run_one(args.only, args.seconds)
    codes = [_run_apart(name, args.seconds) for name in SCENARIOS]
    return int(any(codes))


def _run_one(name: str, seconds: float) -> int:
    logger = logging.getLogger("rtvi_actors")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # it tells of every refusal
    try:
        report = anyio.run(Soak(name, seconds).run)
    finally:
        logger.setLevel(before)
    print(*lines(report), sep="\n", flush=True)
    return int(bool(report.problems()))


def _run_apart(name: str, seconds: float) -> int:
    """In a process of its own: its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.soak", "--only", name, "--seconds", str(seconds)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
