"""Time is injected: one clock per system, one heap of deadlines, one armed timer of the backend.

Every deadline of a system (asks, requests, restarts, graces) lives in one `Timers`. A cancelled timer stays in the heap
until it would fire or until half the heap is cancelled; cancelling is therefore O(1), which is what asks need: nearly
all of their deadlines are cancelled by the reply. A scope of anyio per ask costs 33 µs, a heap entry under one
(measured on CPython 3.11).
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from typing import Final

__all__ = ["Timer", "Timers"]

logger = logging.getLogger("rtvi_actors.runtime")

COMPACT_FROM: Final = 512
"""Heaps smaller than this are never compacted."""


class Timer:
    """One deadline. `cancel` is idempotent, from any thread: a reply on another thread cancels the asker's deadline."""

    __slots__ = ("_timers", "callback", "due_s", "keeper")

    def __init__(self, timers: Timers, due_s: float, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.due_s = due_s
        self.callback: Callable[[], None] | None = callback
        self.keeper: dict[Timer, None] | None = None
        """Whose timer it is: it leaves this set when it fires or is cancelled."""

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self.leave()
            self._timers.one_cancelled()

    def leave(self) -> None:
        """Nobody's any more."""
        if self.keeper is not None:
            self.keeper.pop(self, None)


class Timers:
    """The deadlines of one system, in the order they fall due; equal times fire in the order they were set.

    Loop thread only, but for `prepare` and `Timer.cancel`. `now` and `arm` are the backend's: `arm(due_s, fire)` keeps
    one timer, the latest call wins.
    """

    def __init__(self, now: Callable[[], float], arm: Callable[[float, Callable[[], None]], None]) -> None:
        self.now = now
        self._arm = arm
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._cancelled = 0
        self._armed_s = float("inf")

    def __len__(self) -> int:
        """Timers that are still to fire."""
        return sum(timer.callback is not None for _, _, timer in self._heap)

    def after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the loop's thread in `delay_s` seconds.

        What it raises is logged and stops no other timer.
        """
        return self.at(self.now() + delay_s, callback)

    def at(self, due_s: float, callback: Callable[[], None]) -> Timer:
        """As `after`, at a time of the system's clock."""
        timer = Timer(self, due_s, callback)
        self.add(timer)
        return timer

    def prepare(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """A timer that `add` is still to set: what a handler sets is staged like what it sends. From any thread."""
        return Timer(self, self.now() + delay_s, callback)

    def add(self, timer: Timer) -> None:
        """Set a prepared timer, unless it has been cancelled since."""
        if timer.callback is None:
            return
        if self._cancelled > COMPACT_FROM and self._cancelled * 2 > len(self._heap):
            self._compact()
        self._count += 1
        heapq.heappush(self._heap, (timer.due_s, self._count, timer))
        if timer.due_s < self._armed_s:
            self._armed_s = timer.due_s
            self._arm(timer.due_s, self.fire)

    def fire(self) -> None:
        """Fire what is due and was set before this turn, then arm the next: a timer that sets itself again yields."""
        now_s = self.now()
        newest = self._count
        heap = self._heap
        while heap and (heap[0][2].callback is None or (heap[0][0] <= now_s and heap[0][1] <= newest)):
            timer = heapq.heappop(heap)[2]
            callback, timer.callback = timer.callback, None
            timer.leave()
            if callback is None:
                self._cancelled -= 1
                continue
            try:
                callback()
            except BaseException as error:
                logger.error("a timer failed", exc_info=error)
        self._armed_s = heap[0][0] if heap else float("inf")
        if heap:
            self._arm(self._armed_s, self.fire)

    def one_cancelled(self) -> None:
        """Count it, to know when compacting pays. A count lost between two threads does no harm."""
        self._cancelled += 1

    def _compact(self) -> None:
        # In place: `fire` may be walking this very heap.
        self._heap[:] = [entry for entry in self._heap if entry[2].callback is not None]
        heapq.heapify(self._heap)
        self._cancelled = 0
