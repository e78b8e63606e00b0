"""The load that every side of the benchmark carries, and the little protocol between `run.py` and the sides.

A side is a process of its own (`side_ours.py`, `peer_pipecat.py`): it reads one JSON command a line from standard input
and answers one JSON line. So that the comparison is fair, both sides import this file: the same messages, the same
window, the same clock, the same statistics. Standard library only, because the peer lives in another environment.

Throughput: at most `window` messages are under way; the figure is the time per message. Latency: one message is under
way; the figures are the median and the 99th percentile of the time from handing in the bytes to the answer's bytes.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import math
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

__all__ = ["Counter", "Endpoint", "Figures", "Side", "hello", "load", "obey", "percentile", "serve", "traffic"]

Figures: TypeAlias = dict[str, float]
"""What a side answers: a figure by name, the unit in the name."""

AUDIO_BYTES = 640
"""20 ms of PCM16 mono at 16 kHz: what a microphone of the field sends."""
CLIENT_READY = {"version": "2.2.0", "about": {"library": "benchmark"}}


def message(kind: str, identity: str, data: Mapping[str, Any]) -> bytes:
    """One RTVI message as the client's JSON bytes."""
    whole = {"label": "rtvi-ai", "type": kind, "id": identity, "data": data}
    return json.dumps(whole, separators=(",", ":")).encode("ascii")


def traffic(row: str, count: int) -> list[bytes]:
    """`count` messages of a row, each with its own id, made before the clock starts."""
    if row == "raw_audio":
        pcm = base64.b64encode(bytes(i * 7 % 251 for i in range(AUDIO_BYTES))).decode("ascii")
        audio = {"base64Audio": pcm, "sampleRate": 16_000, "numChannels": 1}
        return [message("raw-audio", f"{i:08x}", audio) for i in range(count)]
    query = {"t": row, "d": {"city": "Berlin", "days": 3, "detailed": True}}
    return [message("client-message", f"{i:08x}", query) for i in range(count)]


def hello() -> bytes:
    """The handshake that opens every session."""
    return message("client-ready", "hello", CLIENT_READY)


class Endpoint(Protocol):
    """One open session of a side, seen from its client's end."""

    async def send(self, data: bytes) -> None:
        """Hand one message in, as a transport would that has just read it."""
        ...

    async def close(self) -> None:
        """End the session and wait until it has ended."""
        ...


class Side(Protocol):
    """What `serve` needs of a side.

    `answered` is called once a message: when its answer is bytes, or its audio has arrived.
    """

    async def open(self, answered: Callable[[], None]) -> Endpoint:
        """A session whose handshake is done."""
        ...


class Counter:
    """Counts answers, and lets one coroutine wait until few enough messages are under way."""

    def __init__(self) -> None:
        self.answered = 0
        self._goal = math.inf
        self._reached = asyncio.Event()
        self.last_s = 0.0

    def __call__(self) -> None:
        """One more answer."""
        self.answered += 1
        if self.answered >= self._goal:
            self.last_s = time.perf_counter()
            self._goal = math.inf
            self._reached.set()

    async def reach(self, goal: int) -> None:
        """Wait until `goal` messages are answered."""
        if self.answered >= goal:
            return
        self._reached.clear()
        self._goal = goal
        await self._reached.wait()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def load(endpoint: Endpoint, counter: Counter, messages: Sequence[bytes], window: int) -> Figures:
    """Carry the messages, `window` under way at most. A window of one also gives each message's latency."""
    latencies: list[float] = []
    base = counter.answered
    started = time.perf_counter()
    if window == 1:
        for i, data in enumerate(messages, base + 1):
            sent = time.perf_counter()
            await endpoint.send(data)
            await counter.reach(i)
            latencies.append(counter.last_s - sent)
    else:
        low = window // 2
        for i, data in enumerate(messages, base):
            if i - counter.answered >= window:
                await counter.reach(i - low)
            await endpoint.send(data)
        await counter.reach(base + len(messages))
    total_s = time.perf_counter() - started
    figures = {"us": total_s / len(messages) * 1e6}
    if latencies:
        figures["p50_us"] = percentile(latencies, 0.50) * 1e6
        figures["p99_us"] = percentile(latencies, 0.99) * 1e6
    return figures


# -- the cost of a session -----------------------------------------------------


def rss_bytes() -> int:
    """Resident memory of this process. Linux only, as is the peer's figure it is compared with."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def churn(side: Side, count: int) -> Figures:
    """Sessions opened (handshake included) and closed, one after the other."""
    started = time.perf_counter()
    for _ in range(count):
        endpoint = await side.open(lambda: None)
        await endpoint.close()
    return {"us": (time.perf_counter() - started) / count * 1e6}


async def footprint(side: Side, count: int) -> Figures:
    """Memory and tasks of idle sessions, each after its handshake and one answered message."""
    endpoints = [await opened(side)]
    gc.collect()
    tasks, rss = len(asyncio.all_tasks()), rss_bytes()
    endpoints += [await opened(side) for _ in range(count)]
    gc.collect()
    figures = {"tasks": (len(asyncio.all_tasks()) - tasks) / count, "rss_bytes": (rss_bytes() - rss) / count}
    tracemalloc.start()  # not before: its own books are resident too
    endpoints += [await opened(side) for _ in range(count)]
    gc.collect()
    figures["traced_bytes"] = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    for endpoint in endpoints:
        await endpoint.close()
    return figures


async def opened(side: Side) -> Endpoint:
    """A session that has answered one message."""
    counter = Counter()
    endpoint = await side.open(counter)
    await load(endpoint, counter, traffic("sync", 1), 1)
    return endpoint


# -- the protocol --------------------------------------------------------------


async def obey(side: Side, command: Mapping[str, Any]) -> Figures:
    """One command. Rows: ``sync``, ``async``, ``raw_audio``, ``churn``, ``footprint``."""
    row, count = command["row"], command["count"]
    if row == "churn":
        return await churn(side, count)
    if row == "footprint":
        return await footprint(side, count)
    counter = Counter()
    endpoint = await side.open(counter)
    window = command["window"]
    await load(endpoint, counter, traffic(row, min(200, count)), window)
    gc.collect()
    figures = await load(endpoint, counter, traffic(row, count), window)
    await endpoint.close()
    return figures


async def serve(side: Side, more: Callable[[Mapping[str, Any]], Awaitable[Figures] | None] = lambda _: None) -> None:
    """Obey commands until standard input ends. `more` may take a command that only this side knows."""
    answers = sys.stdout
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        own = more(command)
        figures = await (obey(side, command) if own is None else own)
        print(json.dumps(figures), file=answers, flush=True)
