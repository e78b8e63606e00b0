"""What the registry knows, made readable: statistics → tree → JSON or text. Reads only; asks no actor anything."""

from __future__ import annotations

from rtvi_actors.inspection.text import render
from rtvi_actors.inspection.tree import ActorNode, Countable, tree

__all__ = ["ActorNode", "Countable", "render", "tree"]
