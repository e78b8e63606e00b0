"""UI workers (RTVI 1.3 and 1.4): what a bot may do to the client's page, what it sees of it, and background jobs.

The rules of a job group, by its id; any other step raises `JobGroupError`::

    started ─▶ (update of a worker)* ─▶ completed, once for each worker ─▶ group completed

A group that names its workers ends when each of them has completed. One that names none has those that appear.
Clients of 1.3 knew these messages as ui-task; they get ui-job-group, as from pipecat-ai 1.14.0, and ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

from msgspec import UNSET, Struct, UnsetType, ValidationError
from msgspec.structs import asdict

from rtvi_actors.errors import JobGroupError
from rtvi_actors.protocol.envelope import Json

__all__ = [
    "COMMANDS",
    "MAX_GROUPS",
    "MAX_TREE_DEPTH",
    "MAX_TREE_NODES",
    "MAX_WORKERS",
    "A11yNode",
    "A11ySelection",
    "Click",
    "Command",
    "Focus",
    "GroupCompleted",
    "GroupStarted",
    "Highlight",
    "JobCompleted",
    "JobEvent",
    "JobGroups",
    "JobGroupsState",
    "JobStatus",
    "JobUpdate",
    "Navigate",
    "OpenGroup",
    "ScrollTo",
    "SelectText",
    "SetInputValue",
    "Snapshot",
    "TargetCommand",
    "Toast",
    "WireNode",
    "WireSelection",
    "WireSnapshot",
    "check_tree",
    "whole_snapshot",
]

# -- what the bot may do to the page ---------------------------------------------


class Command(Struct, frozen=True):
    """A standard command, which client SDKs have a handler for. Raises `TypeError` or `ValueError` for what is none.

    What is `None` is left out of the payload.
    """

    command: ClassVar[str]

    def __post_init__(self) -> None:
        names = self.__struct_fields__
        required = names[: len(names) - len(self.__struct_defaults__)]
        for name in names:
            value = getattr(self, name)
            if value is not None or name in required:
                _check_field(name, value)

    @property
    def payload(self) -> dict[str, Any]:
        """What goes with the command's name."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in fields.items() if value is not None}


_FIELDS: Final[Mapping[str, type]] = {
    "duration_ms": int,
    "start_offset": int,
    "end_offset": int,
    "params": Mapping,
    "replace": bool,
}
"""Field of a command → what it is; all others are text."""


def _check_field(name: str, value: object) -> None:
    kind = _FIELDS.get(name, str)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} must be {kind.__name__}, not {type(value).__name__}")
    if isinstance(value, int) and value < 0:
        raise ValueError(f"{name} must not be negative")


class TargetCommand(Command, frozen=True):
    """A command for an element of the page: `ref` as a snapshot has it, which the client looks for first, or
    `target_id` as the page has it. One must be there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (getattr(self, "ref", None) or getattr(self, "target_id", None)):
            raise ValueError(f"{self.command} needs a ref or a target_id")


class Toast(Command, frozen=True):
    """A short notice. Without `duration_ms`, the client's own time."""

    command: ClassVar[str] = "toast"

    title: str
    subtitle: str | None = None
    description: str | None = None
    image_url: str | None = None
    duration_ms: int | None = None


class Navigate(Command, frozen=True):
    """Go to a view, as the application names it."""

    command: ClassVar[str] = "navigate"

    view: str
    params: Mapping[str, Any] | None = None

    @property
    def payload(self) -> dict[str, Any]:
        return {"view": self.view} if self.params is None else {"view": self.view, "params": dict(self.params)}


class ScrollTo(TargetCommand, frozen=True):
    """Scroll an element into view. `behavior` is the browser's: ``smooth``, ``instant``."""

    command: ClassVar[str] = "scroll_to"

    ref: str | None = None
    target_id: str | None = None
    behavior: str | None = None


class Highlight(TargetCommand, frozen=True):
    """Point an element out for a while."""

    command: ClassVar[str] = "highlight"

    ref: str | None = None
    target_id: str | None = None
    duration_ms: int | None = None


class Focus(TargetCommand, frozen=True):
    """Move the input focus."""

    command: ClassVar[str] = "focus"

    ref: str | None = None
    target_id: str | None = None


class Click(TargetCommand, frozen=True):
    """Click. Clients do nothing where the element is disabled."""

    command: ClassVar[str] = "click"

    ref: str | None = None
    target_id: str | None = None


class SetInputValue(TargetCommand, frozen=True):
    """Write into a field, over what stands there, or behind it. Clients leave disabled, read-only and hidden ones
    alone."""

    command: ClassVar[str] = "set_input_value"

    value: str
    ref: str | None = None
    target_id: str | None = None
    replace: bool = True


class SelectText(TargetCommand, frozen=True):
    """Select text, all of the element's or from one character up to before another."""

    command: ClassVar[str] = "select_text"

    ref: str | None = None
    target_id: str | None = None
    start_offset: int | None = None
    end_offset: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_offset is not None and self.end_offset < (self.start_offset or 0):
            raise ValueError("end_offset must not be before start_offset")


COMMANDS: Final[Mapping[str, type[Command]]] = MappingProxyType(
    {each.command: each for each in (Toast, Navigate, ScrollTo, Highlight, Focus, Click, SetInputValue, SelectText)}
)
"""Name on the wire → Struct (PROTOCOL.md 1.4, ui-command)."""

# -- what the bot sees -------------------------------------------------------------

MAX_TREE_DEPTH: Final = 254
"""Nodes of a snapshot within each other. The peer's limit (pipecat-ai 1.14.0, observed)."""
MAX_TREE_NODES: Final = 50_000
"""Nodes of a snapshot; so many of the smallest fill a message of 1 MiB."""
TEXT_NODES: Final = 1_000
"""Nodes that `to_text` writes unless it is told otherwise."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class WireNode(Struct, frozen=True):
    """What the protocol names of an element of the page."""

    ref: str
    """The client's name for it, for as long as it is there."""
    role: str
    """ARIA."""
    name: str | None = None
    value: str | None = None
    state: tuple[str, ...] | None = None
    level: int | None = None
    colcount: int | None = None
    rowcount: int | None = None
    children: tuple[WireNode, ...] | None = None


class A11yNode(WireNode, frozen=True):
    """An element of the page."""

    children: tuple[A11yNode, ...] | None = None
    extra: Mapping[str, Any] = _NOTHING
    """What the protocol does not name, as it came."""

    def walk(self) -> Iterator[A11yNode]:
        """It and all that is within it, as a page is read."""
        return (node for _, node in self._levels())

    def find(self, ref: str) -> A11yNode | None:
        """The first node of this ref."""
        return next((node for node in self.walk() if node.ref == ref), None)

    def to_text(self, max_nodes: int = TEXT_NODES) -> str:
        """An outline, one line a node, for a prompt: ``- button "Go" [e2] (focused)``."""
        return "\n".join(self._lines(max_nodes))

    def _levels(self) -> Iterator[tuple[int, A11yNode]]:
        """Each node and how deep it is. Without recursion: the tree may be as deep as the stack."""
        rest: list[tuple[int, A11yNode]] = [(0, self)]
        while rest:
            depth, node = rest.pop()
            yield depth, node
            rest.extend((depth + 1, child) for child in reversed(node.children or ()))

    def _lines(self, max_nodes: int) -> Iterator[str]:
        left_out = 0
        for number, (depth, node) in enumerate(self._levels()):
            if number < max_nodes:
                yield "  " * depth + node._line()
            else:
                left_out += 1
        if left_out:
            yield f"({left_out} more)"

    def _line(self) -> str:
        parts = ["-", _word(self.role)]
        if self.name:
            parts.append(_quote(self.name))
        parts.append(f"[{_word(self.ref)}]")
        if self.value is not None:
            parts.append(f"value={_quote(self.value)}")
        for what, number in (("level", self.level), ("columns", self.colcount), ("rows", self.rowcount)):
            if number is not None:
                parts.append(f"{what}={number}")
        if self.state:
            parts.append(f"({', '.join(map(_word, self.state))})")
        return " ".join(parts)


class WireSelection(Struct, frozen=True):
    """What the protocol names of a selection."""

    ref: str
    text: str
    start_offset: int | None = None
    """Characters; client-js gives them within a field only."""
    end_offset: int | None = None


class A11ySelection(WireSelection, frozen=True):
    """What the user has selected."""

    extra: Mapping[str, Any] = _NOTHING


class WireSnapshot(Struct, frozen=True):
    """What the protocol names of a snapshot: the shape that the wire is checked for."""

    root: WireNode
    captured_at: int
    """Milliseconds since the epoch, by the client's clock."""
    selection: WireSelection | None = None


class Snapshot(WireSnapshot, frozen=True):
    """The page, as an accessibility tree."""

    root: A11yNode
    selection: A11ySelection | None = None
    extra: Mapping[str, Any] = _NOTHING

    def walk(self) -> Iterator[A11yNode]:
        """All nodes, as a page is read."""
        return self.root.walk()

    def find(self, ref: str) -> A11yNode | None:
        """The first node of this ref, or `None`."""
        return self.root.find(ref)

    def to_text(self, max_nodes: int = TEXT_NODES) -> str:
        """An outline for a prompt: one line a node, then what is selected."""
        outline = self.root.to_text(max_nodes)
        if self.selection is None:
            return outline
        return f"{outline}\nselected in [{_word(self.selection.ref)}]: {_quote(self.selection.text)}"


def check_tree(root: WireNode) -> None:
    """Raises `msgspec.ValidationError` for a tree that is too deep or too large. Level by level, without recursion."""
    level: Sequence[WireNode] = (root,)
    depth = nodes = 0
    while level:
        depth += 1
        nodes += len(level)
        if depth > MAX_TREE_DEPTH or nodes > MAX_TREE_NODES:
            what = f"{MAX_TREE_DEPTH} levels" if depth > MAX_TREE_DEPTH else f"{MAX_TREE_NODES} nodes"
            raise ValidationError(f"More than {what} - at `$.root`")
        level = [child for node in level if node.children for child in node.children]


def whole_snapshot(shape: WireSnapshot, plain: Mapping[str, Any]) -> Snapshot:
    """A checked snapshot with what the protocol does not name, from the same JSON as Python has it."""
    selected = shape.selection
    selection = None
    if selected is not None:
        selection = A11ySelection(**asdict(selected), extra=_extra(selected, plain["selection"]))
    root = _whole_tree(shape.root, plain["root"])
    return Snapshot(root, shape.captured_at, selection, _extra(shape, plain))


def _whole_tree(root: WireNode, plain: Mapping[str, Any]) -> A11yNode:
    """Every node after those within it: the order of a walk, backwards. Without recursion."""
    found: list[tuple[WireNode, Mapping[str, Any]]] = []
    rest = [(root, plain)]
    while rest:
        node, fields = rest.pop()
        found.append((node, fields))
        if node.children:
            rest.extend(zip(node.children, fields["children"], strict=True))
    made: list[A11yNode] = []
    for node, fields in reversed(found):  # the children of a node are the last that were made, in order
        at = len(made) - len(node.children or ())
        children = node.children if node.children is None else tuple(made[at:])
        del made[at:]
        made.append(A11yNode(**{**asdict(node), "children": children}, extra=_extra(node, fields)))
    return made[0]


def _extra(shape: Struct, plain: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = plain.keys() - shape.__struct_fields__
    return {name: value for name, value in plain.items() if name in unknown} if unknown else _NOTHING


def _quote(text: str) -> str:
    """As JSON: whatever a page says, it stays on its line and within its quotes."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _word(text: str) -> str:
    """As it is where it is one word, else quoted."""
    return text if text.isprintable() and text and not set(text) & _ENDS_A_WORD else _quote(text)


_ENDS_A_WORD: Final = frozenset(' "[](),')


# -- job groups ----------------------------------------------------------------

JobStatus: TypeAlias = Literal["running", "completed", "cancelled", "failed", "error"]
"""What client SDKs know. A worker that completes is not ``running`` any more."""


class GroupStarted(Struct, frozen=True, tag_field="kind", tag="group_started"):
    """Work begins."""

    job_id: str
    at: int
    """Milliseconds since the epoch, as for the others."""
    workers: tuple[str, ...] | UnsetType = UNSET
    """Absent and empty mean the same to us; client-js 1.13.1 wants it to be there."""
    label: str | UnsetType = UNSET
    """What to show the user."""
    cancellable: bool = True


class JobUpdate(Struct, frozen=True, tag_field="kind", tag="job_update"):
    """A worker has something to say."""

    job_id: str
    worker_name: str
    at: int
    data: Json | UnsetType = UNSET


class JobCompleted(Struct, frozen=True, tag_field="kind", tag="job_completed"):
    """A worker is done."""

    job_id: str
    worker_name: str
    status: JobStatus
    at: int
    response: Json | UnsetType = UNSET


class GroupCompleted(Struct, frozen=True, tag_field="kind", tag="group_completed"):
    """All workers are done."""

    job_id: str
    at: int


JobEvent: TypeAlias = GroupStarted | JobUpdate | JobCompleted | GroupCompleted

MAX_GROUPS: Final = 64
"""Groups that may be open at once; and so many of those that have ended are remembered, lest one starts again."""
MAX_WORKERS: Final = 256
"""Workers of a group."""


class OpenGroup(Struct, frozen=True):
    """A group that has not ended."""

    named: bool
    """Whether it began with its workers' names."""
    workers: Mapping[str, bool]
    """Name → whether it is done, in the order of their names or of their appearance."""

    @property
    def open_workers(self) -> tuple[str, ...]:
        return tuple(name for name, done in self.workers.items() if not done)


class JobGroupsState(Struct, frozen=True):
    """What `JobGroups` goes on from. A value: no step changes it."""

    groups: Mapping[str, OpenGroup] = MappingProxyType({})
    """By job id, the oldest first."""
    ended: tuple[str, ...] = ()
    """The latest `MAX_GROUPS` that have ended."""


class JobGroups:
    """The lifecycle of all job groups of a session. A step that raises changes nothing."""

    def __init__(self, state: JobGroupsState | None = None) -> None:
        self.state = state or JobGroupsState()

    def apply(self, event: JobEvent) -> None:
        """Take a step. Raises `JobGroupError` for one that the rules forbid."""
        _STEPS[type(event)](self, event)

    def cancel_all(self, at_ms: int) -> list[JobEvent]:
        """End every open group as cancelled; returns the steps, which have been taken."""
        return [step for job_id in tuple(self.state.groups) for step in self.finish(job_id, "cancelled", at_ms)]

    def finish(self, job_id: str, status: JobStatus, at_ms: int) -> list[JobEvent]:
        """Complete the workers that are open, all with one status, and the group; returns the steps, which have been
        taken. Raises `JobGroupError` where no such group is open."""
        group = self._group(job_id)
        steps: list[JobEvent] = [JobCompleted(job_id, name, status, at_ms) for name in group.open_workers]
        steps.append(GroupCompleted(job_id, at_ms))
        for step in steps:
            self.apply(step)
        return steps

    # -- the steps ---------------------------------------------------------------------

    def _started(self, event: GroupStarted) -> None:
        job_id, state = event.job_id, self.state
        workers = event.workers or ()
        if job_id in state.groups or job_id in state.ended:
            raise JobGroupError(job_id, "it has started before")
        if len(state.groups) >= MAX_GROUPS:
            raise JobGroupError(job_id, f"{MAX_GROUPS} groups are open already")
        if len(set(workers)) < len(workers):
            raise JobGroupError(job_id, "it names a worker twice")
        if len(workers) > MAX_WORKERS:
            raise JobGroupError(job_id, f"it has more than {MAX_WORKERS} workers")
        self._put(job_id, OpenGroup(bool(workers), dict.fromkeys(workers, False)))

    def _updated(self, event: JobUpdate) -> None:
        self._work(event.job_id, event.worker_name, done=False)

    def _completed(self, event: JobCompleted) -> None:
        if event.status not in _ENDS:
            raise JobGroupError(event.job_id, f"a worker completes as {', '.join(_ENDS)}")
        self._work(event.job_id, event.worker_name, done=True)

    def _work(self, job_id: str, worker: str, *, done: bool) -> None:
        """A worker speaks: for the last time, if it is done."""
        group = self._group(job_id)
        is_done = group.workers.get(worker)
        if is_done:
            raise JobGroupError(job_id, "the worker has completed")
        if is_done is None and group.named:
            raise JobGroupError(job_id, "it has no such worker")
        if is_done is None and len(group.workers) >= MAX_WORKERS:
            raise JobGroupError(job_id, f"it has {MAX_WORKERS} workers already")
        if is_done is not done:
            self._put(job_id, OpenGroup(group.named, {**group.workers, worker: done}))

    def _group_completed(self, event: GroupCompleted) -> None:
        if self._group(event.job_id).open_workers:
            raise JobGroupError(event.job_id, "not all of its workers have completed")
        groups = {job_id: group for job_id, group in self.state.groups.items() if job_id != event.job_id}
        self.state = JobGroupsState(groups, (*self.state.ended, event.job_id)[-MAX_GROUPS:])

    def _group(self, job_id: str) -> OpenGroup:
        group = self.state.groups.get(job_id)
        if group is None:
            raise JobGroupError(job_id, "it has ended" if job_id in self.state.ended else "it has not started")
        return group

    def _put(self, job_id: str, group: OpenGroup) -> None:
        self.state = JobGroupsState({**self.state.groups, job_id: group}, self.state.ended)


_ENDS: Final = tuple(status for status in get_args(JobStatus) if status != "running")

_STEPS: Final[Mapping[type[Struct], Callable[[JobGroups, Any], None]]] = {
    GroupStarted: JobGroups._started,
    JobUpdate: JobGroups._updated,
    JobCompleted: JobGroups._completed,
    GroupCompleted: JobGroups._group_completed,
}
