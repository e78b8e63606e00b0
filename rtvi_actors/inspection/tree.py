"""The actors as a tree, each under its supervisor: the shape that ``GET /inspect`` answers with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from msgspec import Struct

__all__ = ["ActorNode", "Countable", "tree"]


class Countable(Protocol):
    """What this room reads of `rtvi_actors.runtime.registry.ActorStatistics`."""

    @property
    def name(self) -> str: ...
    @property
    def class_name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def parent(self) -> str | None: ...
    @property
    def depth(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def handled(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def losses(self) -> Mapping[str, int]: ...
    @property
    def restarts(self) -> int: ...
    @property
    def generation(self) -> int: ...


class ActorNode(Struct, frozen=True):
    """One actor and those it supervises. Counts are since the actor's name was taken: restarts do not reset them."""

    name: str
    class_name: str
    state: str
    depth: int
    """Messages that wait in the mailbox."""
    received: int
    handled: int
    failed: int
    dropped: int
    losses: Mapping[str, int]
    """The messages among what was dropped, by reason."""
    restarts: int
    generation: int
    """How many incarnations there have been."""
    children: tuple[ActorNode, ...] = ()


def tree(statistics: Iterable[Countable]) -> tuple[ActorNode, ...]:
    """The roots, in the order of the snapshot, and below them what they supervise.

    A snapshot may hold a child whose supervisor has just gone: it is a root then, so every actor is shown exactly once.
    """
    actors = tuple(statistics)
    known = {actor.name for actor in actors}
    below: dict[str | None, list[Countable]] = {}
    for actor in actors:
        parent = actor.parent if actor.parent in known and actor.parent != actor.name else None
        below.setdefault(parent, []).append(actor)
    return tuple(_node(actor, below) for actor in below.get(None, ()))


def _node(actor: Countable, below: dict[str | None, list[Countable]]) -> ActorNode:
    return ActorNode(
        name=actor.name,
        class_name=actor.class_name,
        state=str(actor.state),
        depth=actor.depth,
        received=actor.received,
        handled=actor.handled,
        failed=actor.failed,
        dropped=actor.dropped,
        losses=dict(actor.losses),
        restarts=actor.restarts,
        generation=actor.generation,
        children=tuple(_node(child, below) for child in below.get(actor.name, ())),
    )
