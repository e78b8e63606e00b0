from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.inspection import ActorNode, tree


@dataclass(frozen=True)
class Counts:
    name: str
    parent: str | None = None
    class_name: str = "Audio"
    state: str = "running"
    depth: int = 1
    received: int = 2
    handled: int = 3
    failed: int = 4
    dropped: int = 5
    losses: Mapping[str, int] = field(default_factory=lambda: {"crashed": 5})
    restarts: int = 6
    generation: int = 7


def flat(nodes: tuple[ActorNode, ...]) -> list[str]:
    return [name for node in nodes for name in (node.name, *flat(node.children))]


def test_children_stand_below_their_supervisor_in_snapshot_order() -> None:
    roots = tree([Counts("s/a", "s"), Counts("s"), Counts("s/b", "s"), Counts("alone")])
    assert [root.name for root in roots] == ["s", "alone"]
    assert [child.name for child in roots[0].children] == ["s/a", "s/b"]


def test_a_child_whose_supervisor_has_gone_is_a_root() -> None:
    assert [node.name for node in tree([Counts("s/a", "s")])] == ["s/a"]


def test_a_node_carries_every_count_and_survives_json() -> None:
    (node,) = tree([Counts("s")])
    assert node == ActorNode("s", "Audio", "running", 1, 2, 3, 4, 5, {"crashed": 5}, 6, 7)
    assert msgspec.json.decode(msgspec.json.encode(node), type=ActorNode) == node


@given(st.lists(st.integers(-1, 20), max_size=20))
def test_every_actor_is_shown_exactly_once(parents: list[int]) -> None:
    actors = [
        Counts(str(place), str(parent) if 0 <= parent < place or parent >= len(parents) else None)
        for place, parent in enumerate(parents)
    ]
    assert sorted(flat(tree(actors))) == sorted(actor.name for actor in actors)
