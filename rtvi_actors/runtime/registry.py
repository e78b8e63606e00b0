"""Names, and what can be asked of every actor.

A system's registry maps names and URNs to references in O(1). Every actor is in `pykka.ActorRegistry` too, which is
what `statistics` reads: it shows the actors of all systems of the process, and those of plain pykka as well.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pykka

from rtvi_actors.errors import NameTaken, Unknown
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.refs import ActorRef

__all__ = ["ActorStatistics", "Registry", "of_cell", "statistics"]


class ActorStatistics(msgspec.Struct, frozen=True):
    """What an actor is and has done, at one moment."""

    name: str
    urn: str
    class_name: str
    state: str
    """new, running, restarting, stopping or dead; an actor of plain pykka is running or dead."""
    parent: str | None
    """The name of its supervisor."""
    depth: int
    """Messages in its mailbox."""
    depth_bytes: int
    received: int
    """Messages that arrived in its mailbox, over all incarnations."""
    handled: int
    failed: int
    """Handlers, jobs and hooks that raised."""
    dropped: int
    """Messages that left unhandled: crashed, expired, overflow, dead."""
    refused: int
    """Messages that senders were told do not fit."""
    running: int
    """Asynchronous handlers that run."""
    abandoned: int
    """Asynchronous handlers that refused cancellation and were given up."""
    restarts: int
    generation: int
    """Which incarnation runs, from 1."""


class Registry:
    """The living actors of one system. Loop thread only."""

    def __init__(self) -> None:
        self._by_name: dict[str, Cell] = {}
        self._by_urn: dict[str, Cell] = {}

    def __len__(self) -> int:
        return len(self._by_urn)

    def add(self, cell: Cell) -> None:
        """Register a cell. Raises `NameTaken`, and then has registered nothing."""
        if cell.named:
            if cell.name in self._by_name:
                raise NameTaken(cell.name)
            self._by_name[cell.name] = cell
        self._by_urn[cell.urn] = cell
        pykka.ActorRegistry.register(cell.ref)

    def remove(self, cell: Cell) -> None:
        """Forget a cell. Idempotent."""
        if self._by_urn.pop(cell.urn, None) is not None:
            pykka.ActorRegistry.unregister(cell.ref)
            if self._by_name.get(cell.name) is cell:
                del self._by_name[cell.name]

    def get(self, name: str) -> ActorRef[Any]:
        """The actor of this name. Raises `Unknown`."""
        cell = self._by_name.get(name)
        if cell is None:
            raise Unknown(f"no actor is named {name}")
        return cell.ref

    def cells(self) -> list[Cell]:
        """All cells, in the order they were started."""
        return list(self._by_urn.values())


def statistics() -> tuple[ActorStatistics, ...]:
    """Every actor in `pykka.ActorRegistry`, in the order they were started.

    From any thread; counters are read as they are.
    """
    return tuple(
        of_cell(ref.cell) if isinstance(ref, ActorRef) else _of_plain(ref) for ref in pykka.ActorRegistry.get_all()
    )


def of_cell(cell: Cell) -> ActorStatistics:
    """The statistics of one of this runtime's actors."""
    return ActorStatistics(
        name=cell.name,
        urn=cell.urn,
        class_name=cell.actor_class.__name__,
        state=cell.state,
        parent=cell.parent.name if cell.parent is not None else None,
        depth=len(cell.mailbox.user),
        depth_bytes=cell.mailbox.user_bytes,
        received=cell.mailbox.received,
        handled=cell.handled,
        failed=cell.failed,
        dropped=cell.dropped,
        refused=cell.mailbox.refused,
        running=sum(group.running for group in cell.groups.values()),
        abandoned=cell.abandoned,
        restarts=cell.restarts,
        generation=cell.generation,
    )


def _of_plain(ref: pykka.ActorRef[Any]) -> ActorStatistics:
    """What can be known of an actor of pykka's own."""
    size = getattr(ref.actor_inbox, "qsize", None)
    depth = size() if size is not None else 0
    return ActorStatistics(
        name=str(ref),
        urn=ref.actor_urn,
        class_name=ref.actor_class.__name__,
        state="running" if ref.is_alive() else "dead",
        parent=None,
        depth=depth,
        depth_bytes=0,
        received=0,
        handled=0,
        failed=0,
        dropped=0,
        refused=0,
        running=0,
        abandoned=0,
        restarts=0,
        generation=1,
    )
