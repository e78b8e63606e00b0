"""One shared run queue per event loop.

An actor with mail is in the queue once, runs a batch, and gets in line again if mail is left. After a budget the
dispatcher yields to the event loop. Only a shared queue crosses actors without a turn of the loop, which costs 3.7 to
5.6 µs on asyncio (measured: 0.6 µs a hop here, 5.7 with a task and a queue per actor).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from rtvi_actors.errors import Rejected
from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.mailbox import Letter

__all__ = ["BATCH", "BRIDGE_MAX", "BUDGET", "Dispatcher"]

logger = logging.getLogger("rtvi_actors.runtime")

BATCH: Final = 64
"""Letters that one actor handles before the next one's turn."""
BUDGET: Final = 512
"""Letters between two turns of the event loop: with these, another actor waits 110 µs (p99) while one is flooded."""
BRIDGE_MAX: Final = 100_000
"""Letters from other threads that may wait for the loop; one more raises `Rejected` in its sender."""


class Dispatcher:
    """The run queue of one event loop, and the bridge that foreign threads send over."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._queue: deque[Cell] = deque()
        self._planned = False
        self._bridged: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._bridge_planned = False

    @property
    def idle(self) -> bool:
        """Whether no actor has mail that it could handle now."""
        return not self._queue and not self._bridged

    def schedule(self, cell: Cell) -> None:
        """Get a cell in line. Loop thread only; the cell sees that it is in line once."""
        self._queue.append(cell)
        if not self._planned:
            self._planned = True
            self._backend.soon(self._run)

    def _run(self) -> None:
        queue = self._queue
        budget = BUDGET
        while queue and budget > 0:
            cell = queue.popleft()
            try:
                budget -= cell.run(BATCH) or 1
            except BaseException as error:
                budget -= self._leaked(cell, error)
        self._plan_next()

    def _leaked(self, cell: Cell, error: BaseException) -> int:
        """Everything that can raise has a firewall of its own; should one leak, the queue goes on all the same."""
        logger.error("the batch of %s failed", cell.name, exc_info=error)
        cell.failed += 1
        cell.queued = False
        cell.notify()
        return 1

    def _plan_next(self) -> None:
        if self._queue:
            self._backend.soon(self._run)
        else:
            self._planned = False

    # -- from foreign threads ------------------------------------------------------------

    def bridge(self, deliver: Callable[[Any], None], letter: Any) -> None:
        """Carry a letter over from another thread, in order, with one coalesced wake-up (0.14 µs against 8 each).

        Raises `Rejected` where the loop is too far behind; the runtime's own messages always cross.
        """
        if len(self._bridged) >= BRIDGE_MAX and type(letter) is Letter:
            raise Rejected("the event loop", letter.body)
        self._bridged.append((deliver, letter))
        if not self._bridge_planned:
            self._bridge_planned = True
            try:
                self._backend.soon_from_thread(self.cross)
            except RuntimeError:  # the loop has ended, and every actor with it: each letter finds the dead and says so
                self.cross()

    def cross(self) -> None:
        """Deliver what other threads have sent. Loop thread."""
        # Reset first: what is appended from now on plans a crossing of its own.
        self._bridge_planned = False
        bridged = self._bridged
        while bridged:
            deliver, letter = bridged.popleft()
            try:
                deliver(letter)
            except BaseException as error:
                logger.error("a message from another thread was not delivered", exc_info=error)
