"""Names, and what can be asked of every actor.

A system's registry maps names and URNs to references in O(1). Every actor is in `pykka.ActorRegistry` too, which is
what `statistics` reads: it shows the actors of all systems of the process, and those of plain pykka as well.

pykka keeps its references in a list, which it walks twice to unregister one (measured: 0.4 to 0.6 ms for the newest of
10,000, so several milliseconds for the actors of one session). The first registry puts `References` in its place, which
answers the same in O(1). What pykka computes over all actors (`get_by_urn`, `get_by_class`, `broadcast`) stays linear:
it walks whatever it is given. No message and no session of ours asks that way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import msgspec
import pykka

from rtvi_actors.errors import NameTaken, Unknown
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.signals import Books

__all__ = [
    "ActorStatistics",
    "Inspection",
    "References",
    "Registry",
    "hasten_pykka",
    "inspection",
    "of_cell",
    "statistics",
]

logger = logging.getLogger("rtvi_actors.runtime")


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
    """What left unhandled, for whatever reason."""
    losses: Mapping[str, int]
    """The messages among that, by reason (`DeadLetter` names them)."""
    open: int
    """Messages in the mailbox or in a handler."""
    refused: int
    """Messages that senders were told do not fit."""
    running: int
    """Asynchronous handlers that run."""
    abandoned: int
    """Asynchronous handlers that refused cancellation and were given up."""
    restarts: int
    generation: int
    """Which incarnation runs, from 1."""


class References(Sequence[pykka.ActorRef[Any]]):
    """What `pykka.ActorRegistry` uses of its list, with `append`, ``in`` and `remove` in O(1).

    In the order of registration; a slice is a list, a copy. References are equal only to themselves, so a dict has them
    as the list had them, but for one that is registered twice: here it is there once. Guarded by pykka's own lock, as
    the list was.
    """

    def __init__(self, references: Iterable[pykka.ActorRef[Any]] = ()) -> None:
        self._references = dict.fromkeys(references)

    def __len__(self) -> int:
        return len(self._references)

    def __contains__(self, reference: object) -> bool:
        return reference in self._references

    def __iter__(self) -> Iterator[pykka.ActorRef[Any]]:
        return iter(self._references)

    @overload
    def __getitem__(self, index: int) -> pykka.ActorRef[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[pykka.ActorRef[Any]]: ...
    def __getitem__(self, index: int | slice) -> pykka.ActorRef[Any] | list[pykka.ActorRef[Any]]:
        return list(self._references)[index]

    def append(self, reference: pykka.ActorRef[Any]) -> None:
        self._references[reference] = None

    def remove(self, reference: pykka.ActorRef[Any]) -> None:
        """Raises `ValueError` where it is not there, as a list does."""
        try:
            del self._references[reference]
        except KeyError:
            raise ValueError(f"{reference} is not registered") from None

    def clear(self) -> None:
        self._references.clear()


def hasten_pykka() -> None:
    """Put `References` in the place of pykka's list, once in a process, under pykka's lock. From any thread.

    Only a plain list is replaced, which is what pykka 4.5 has there: a pykka that keeps its references otherwise is
    left as it is, and only slower.
    """
    registry: Any = pykka.ActorRegistry
    lock = getattr(registry, "_actor_refs_lock", None)
    if lock is None:
        logger.debug("pykka.ActorRegistry has no lock that is known: left as it is")
        return
    with lock:
        kept = getattr(registry, "_actor_refs", None)
        if type(kept) is list:
            registry._actor_refs = References(kept)
        elif not isinstance(kept, References):
            logger.debug("pykka.ActorRegistry keeps its references in a %s: left as it is", type(kept).__name__)


class Registry:
    """The living actors of one system. Loop thread only."""

    def __init__(self) -> None:
        hasten_pykka()
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


class Inspection(msgspec.Struct, frozen=True):
    """One actor, as it is between two messages."""

    statistics: ActorStatistics
    books: Books
    state: Mapping[str, Any]
    """What its `on_inspect` shows; empty while no instance runs."""


def inspection(cell: Cell) -> Inspection:
    """Read a cell. On its loop's thread, between two messages."""
    state = cell.actor.on_inspect() if cell.actor is not None and cell.state in ("running", "stopping") else {}
    return Inspection(of_cell(cell), cell.books(), state)


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
        depth=len(cell.mailbox),
        depth_bytes=cell.mailbox.size_bytes,
        received=cell.mailbox.received,
        handled=cell.handled,
        failed=cell.failed,
        dropped=cell.dropped,
        losses=dict(cell.losses),
        open=cell.books().open,
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
        losses={},
        open=depth,
        refused=0,
        running=0,
        abandoned=0,
        restarts=0,
        generation=1,
    )
