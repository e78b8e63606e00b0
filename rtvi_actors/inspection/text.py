"""The tree as plain text, for a log, a test's failure message or a terminal without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rtvi_actors.inspection.tree import ActorNode

__all__ = ["render", "short_name"]

HEADER = ("actor", "class", "state", "depth", "handled", "failed", "dropped", "restarts")


def render(nodes: Sequence[ActorNode]) -> str:
    """One line an actor, aligned; names are relative to the supervisor's. Ends without a line break."""
    rows = [HEADER, *_rows(nodes, "", "")]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def short_name(name: str, parent: str) -> str:
    """``session-3f2a/audio`` below ``session-3f2a`` is ``audio``."""
    return name.removeprefix(f"{parent}/") if parent else name


def _rows(nodes: Sequence[ActorNode], parent: str, indent: str) -> Iterator[tuple[str, ...]]:
    for place, node in enumerate(nodes, start=1):
        last = place == len(nodes)
        branch = ("└─ " if last else "├─ ") if parent else ""
        yield (f"{indent}{branch}{short_name(node.name, parent)}", *_cells(node))
        below = indent + (("   " if last else "│  ") if parent else "")
        yield from _rows(node.children, node.name, below)


def _cells(node: ActorNode) -> tuple[str, ...]:
    counts = (node.depth, node.handled, node.failed, node.dropped, node.restarts)
    return (node.class_name, node.state, *map(str, counts))
