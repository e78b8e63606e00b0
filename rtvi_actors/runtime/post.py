"""The post of a simulation: every letter goes through it, and through the faults of its edge.

An edge is a sender and a receiver. Whatever happens to a letter, those of one edge arrive in the order sent.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from rtvi_actors.errors import Crash
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.choices import CALM, Chooser, Edges, Faults, Trace
from rtvi_actors.runtime.context import CURRENT, LOCAL
from rtvi_actors.runtime.mailbox import Letter, Mailbox
from rtvi_actors.runtime.signals import Inject
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.runtime.virtual import in_task

__all__ = ["HOST", "STORY", "TELLING", "Post", "shown"]

STORY: Final = "story"
"""The sender's name of what a test sends itself."""
HOST: Final = "host"
"""The sender's name of the system's own tasks: a session's reader is one."""
RUNTIME: Final = "runtime"
"""The sender's name of timers: they need no faults, and get none."""

DELAY_STEPS: Final = 8
"""A delay is one of so many parts of the longest."""
SHOWN_BYTES: Final = 256
"""Longer messages appear in the trace by their size alone."""
SHOWN_CHARS: Final = 72

TELLING: ContextVar[bool] = ContextVar("rtvi_actors_telling", default=False)
"""Whether this task is the story's, or one that it started."""


def shown(cell: Cell | None, letter: Letter) -> str:
    """A message as the trace has it: type, checksum and, where it is short, its content."""
    if not letter.coded:
        return type(letter.body).__name__
    body: bytes = letter.body
    name = "?"
    content: object = f"{len(body)} bytes"
    try:
        if cell is not None and cell._decode is not None:
            name = type(cell._decode(body)).__name__
        if len(body) <= SHOWN_BYTES:
            content = msgspec.msgpack.decode(body)
    except Exception:  # what cannot be decoded is the receiver's business
        name = "undecodable"
    return f"{name} #{zlib.crc32(body):08x} {str(content)[:SHOWN_CHARS]}"


class _Flight(msgspec.Struct):
    """A letter on its way."""

    deliver: Callable[[Letter], None]
    letter: Letter
    due_s: float
    crash: bool


class Post:
    """Carries every letter from its sender to its mailbox, through the faults of that edge, and keeps their order."""

    def __init__(
        self,
        system: ActorSystem,
        cells: Mapping[Mailbox, Cell],
        trace: Trace,
        chooser: Chooser,
        faults: Faults,
        edges: Edges,
    ) -> None:
        self._system = system
        self._cells = cells
        self._trace = trace
        self._chooser = chooser
        self._faults = faults
        self._edges = edges
        self.calm = False
        """No faults from now on."""
        self.trusted: set[str] = set()
        """Whom `faults` spares: the actors of the test itself. Only ever asked for membership."""
        self.taken: set[tuple[str, str]] = set()
        """The edges that some message took."""
        self.turn: Cell | None = None
        """The actor that the dispatcher runs right now."""
        self.doomed: list[tuple[Cell, bytes]] = []
        """Whose handler is to crash with which message."""
        self._flights: dict[tuple[str, Cell], deque[_Flight]] = {}

    @property
    def in_flight(self) -> int:
        return sum(len(flights) for flights in self._flights.values())

    @property
    def next_due_s(self) -> float:
        """When the next letter on its way arrives."""
        return min(flights[0].due_s for flights in self._flights.values() if flights)

    def carry(self, deliver: Callable[[Any], None], item: Any) -> None:
        """The bridge of a simulated system: everything that is to get into a mailbox."""
        mailbox = getattr(deliver, "__self__", None)
        if type(item) is not Letter or not isinstance(mailbox, Mailbox):
            deliver(item)
            return
        cell, sender = self._cells.get(mailbox), self._sender()
        self._trace.add("tell", sender, "->", mailbox.owner, shown(cell, item))
        faults = CALM if item.own or cell is None else self._faults_of(sender, mailbox.owner)
        if cell is None or faults is CALM:
            self._send(cell, sender, _Flight(deliver, item, self._now_s, False))
        else:
            self._send_through(faults, cell, sender, deliver, item)

    def _send_through(
        self, faults: Faults, cell: Cell, sender: str, deliver: Callable[[Letter], None], letter: Letter
    ) -> None:
        chance, trace = self._chooser.chance, self._trace
        # All is decided for every letter, so that one fault less leaves the numbers of the others' decisions alone.
        lost, crash, crash_after = chance(faults.drop), chance(faults.crash), chance(faults.crash_after)
        delay, twice = chance(faults.delay, DELAY_STEPS), chance(faults.duplicate)
        if lost:
            trace.add("drop", sender, "->", cell.name)
            cell.mailbox.count_crossing(-1, letter)
            cell.mailbox.received += 1
            # Without its reply: who asks hears nothing, as of any message that got lost.
            cell.mailbox.on_lost(msgspec.structs.replace(letter, reply=None), "dropped")
            return
        flight = _Flight(deliver, letter, self._now_s, bool(crash))
        if letter.coded and crash_after:
            self.doomed.append((cell, letter.body))
        if delay:
            flight.due_s += faults.max_delay_s * delay / DELAY_STEPS
            trace.add("delay", sender, "->", cell.name, f"until {flight.due_s:.6f}")
        self._send(cell, sender, flight)
        if twice:
            trace.add("duplicate", sender, "->", cell.name)
            again = msgspec.structs.replace(letter, reply=None)
            cell.mailbox.count_crossing(1, again)
            self._send(cell, sender, _Flight(deliver, again, flight.due_s, False))

    def _send(self, cell: Cell | None, sender: str, flight: _Flight) -> None:
        """Behind what is on its way along the same edge."""
        flights = self._flights.get((sender, cell)) if cell is not None else None
        if flights:
            flight.due_s = max(flight.due_s, flights[-1].due_s)
        elif cell is None or flight.due_s <= self._now_s:
            self._arrive(flight)
            return
        assert cell is not None
        key = (sender, cell)
        self._flights.setdefault(key, deque()).append(flight)
        self._system.timers.at(flight.due_s, lambda: self._land(key))

    def _land(self, key: tuple[str, Cell]) -> None:
        flights = self._flights.get(key)
        if flights and flights[0].due_s <= self._now_s:
            self._arrive(flights.popleft())

    def _arrive(self, flight: _Flight) -> None:
        mailbox: Mailbox = flight.deliver.__self__  # type: ignore[attr-defined]
        if flight.crash:
            self._trace.add("crash", mailbox.owner)
            mailbox.deliver_control(Inject(Crash("injected by the simulation")))
        flight.deliver(flight.letter)

    def land_all_of(self, sender: str | None = None) -> None:
        """What is on its way, of this sender or of all, arrives now: its end is told behind what it had sent."""
        for (name, _), flights in list(self._flights.items()):
            while flights and (sender is None or name == sender):
                self._arrive(flights.popleft())

    @property
    def _now_s(self) -> float:
        return self._system.backend.now()

    def _sender(self) -> str:
        actor = LOCAL.actor
        if actor is None:
            running = CURRENT.get()
            actor = running.actor if running is not None else None
        if actor is not None:
            name: str = actor.cell.name
            return name
        if self.turn is not None:
            return self.turn.name
        if TELLING.get():
            return STORY
        return RUNTIME if not in_task() else HOST

    def _faults_of(self, sender: str, receiver: str) -> Faults:
        if self.calm or sender == RUNTIME:
            return CALM
        for edge, faults in self._edges.items():
            if fnmatchcase(sender, edge[0]) and fnmatchcase(receiver, edge[1]):
                self.taken.add(edge)
                return faults
        if sender in (STORY, HOST) or sender in self.trusted or receiver in self.trusted:
            return CALM
        return self._faults
