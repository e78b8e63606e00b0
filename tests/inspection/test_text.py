from __future__ import annotations

from rtvi_actors.inspection import ActorNode, render


def node(name: str, *children: ActorNode, restarts: int = 0) -> ActorNode:
    return ActorNode(name, "Audio", "running", 0, 0, 12, 0, 0, {}, restarts, 1, children)


def test_the_tree_is_drawn_with_names_relative_to_the_supervisor() -> None:
    drawn = render([node("s", node("s/a", node("s/a/x")), node("s/b", restarts=3)), node("alone")])
    assert drawn.splitlines() == [
        "actor    class  state    depth  handled  failed  dropped  restarts",
        "s        Audio  running  0      12       0       0        0",
        "├─ a     Audio  running  0      12       0       0        0",
        "│  └─ x  Audio  running  0      12       0       0        0",
        "└─ b     Audio  running  0      12       0       0        3",
        "alone    Audio  running  0      12       0       0        0",
    ]


def test_nothing_is_the_header_alone() -> None:
    assert len(render([]).splitlines()) == 1
