from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rtvi_actors.errors import InvalidData, JobGroupError
from rtvi_actors.protocol import ui
from rtvi_actors.protocol.codec import check_snapshot, decode_server, encode_server, read_snapshot, to_json
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.server import UIJobGroup
from tests.structs import PLAIN, any_of

# -- commands ----------------------------------------------------------------------

PAYLOADS: list[tuple[ui.Command, str, dict[str, Any]]] = [
    (ui.Toast("Hi"), "toast", {"title": "Hi"}),
    (
        ui.Toast("Hi", "sub", "more", "https://x/y.png", 0),
        "toast",
        {"title": "Hi", "subtitle": "sub", "description": "more", "image_url": "https://x/y.png", "duration_ms": 0},
    ),
    (ui.Navigate("home"), "navigate", {"view": "home"}),
    (ui.Navigate("item", {"id": None}), "navigate", {"view": "item", "params": {"id": None}}),
    (ui.ScrollTo("e1"), "scroll_to", {"ref": "e1"}),
    (ui.ScrollTo(None, "top", "smooth"), "scroll_to", {"target_id": "top", "behavior": "smooth"}),
    (ui.Highlight("e1", "top", 500), "highlight", {"ref": "e1", "target_id": "top", "duration_ms": 500}),
    (ui.Focus("e1"), "focus", {"ref": "e1"}),
    (ui.Click(target_id="go"), "click", {"target_id": "go"}),
    (ui.SetInputValue("", "e1"), "set_input_value", {"value": "", "ref": "e1", "replace": True}),
    (ui.SetInputValue("x", "e1", None, False), "set_input_value", {"value": "x", "ref": "e1", "replace": False}),
    (ui.SelectText("e1"), "select_text", {"ref": "e1"}),
    (ui.SelectText("e1", None, 0, 0), "select_text", {"ref": "e1", "start_offset": 0, "end_offset": 0}),
]


@pytest.mark.parametrize(("command", "name", "payload"), PAYLOADS, ids=lambda value: str(value)[:30])
def test_a_command_carries_what_is_set_and_nothing_else(
    command: ui.Command, name: str, payload: dict[str, Any]
) -> None:
    assert ui.COMMANDS[name] is type(command)
    assert command.payload == payload
    assert msgspec.json.decode(to_json(command.payload).raw) == payload


def test_every_command_of_the_table_is_one_of_the_examples() -> None:
    assert {name for _, name, _ in PAYLOADS} == set(ui.COMMANDS)


@pytest.mark.parametrize("command", [each for each in ui.COMMANDS.values() if issubclass(each, ui.TargetCommand)])
def test_a_command_for_an_element_names_one(command: Callable[..., ui.Command]) -> None:
    value = {"value": "x"} if command is ui.SetInputValue else {}
    for nothing in ({}, {"ref": ""}, {"ref": None, "target_id": None}):
        with pytest.raises(ValueError, match="needs a ref or a target_id"):
            command(**value, **nothing)
    with pytest.raises(TypeError, match="ref must be str, not int"):
        command(**value, ref=5)


@pytest.mark.parametrize(
    ("command", "fields", "error"),
    [
        (ui.Toast, {"title": None}, TypeError),
        (ui.Toast, {"title": b"x"}, TypeError),
        (ui.Toast, {"title": "x", "duration_ms": "3"}, TypeError),
        (ui.Toast, {"title": "x", "duration_ms": True}, TypeError),
        (ui.Toast, {"title": "x", "duration_ms": 1.5}, TypeError),
        (ui.Toast, {"title": "x", "duration_ms": -1}, ValueError),
        (ui.Navigate, {"view": "x", "params": ["id"]}, TypeError),
        (ui.SetInputValue, {"value": None, "ref": "e1"}, TypeError),
        (ui.SetInputValue, {"value": "x", "ref": "e1", "replace": 1}, TypeError),
        (ui.SelectText, {"ref": "e1", "start_offset": -1}, ValueError),
        (ui.SelectText, {"ref": "e1", "start_offset": 3, "end_offset": 2}, ValueError),
    ],
)
def test_what_is_no_command_raises_where_it_is_made(
    command: Callable[..., ui.Command], fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        command(**fields)


# -- snapshots ---------------------------------------------------------------------

LEAF = {"ref": "e", "role": "r"}


def snapshot_json(root: object, **more: Any) -> Json:
    return to_json({"root": root, "captured_at": 1, **more})


def chain(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = LEAF
    for _ in range(levels - 1):
        node = {**LEAF, "children": [node]}
    return node


NAMES = set(ui.WireNode.__struct_fields__)
EXTRA = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name.isascii() and name not in NAMES), PLAIN, max_size=2
)


def nodes() -> st.SearchStrategy[ui.A11yNode]:
    """Any tree, with what the protocol does not name here and there."""
    flat = any_of(msgspec.defstruct("Flat", [(f.name, f.type) for f in msgspec.structs.fields(ui.WireNode)[:-1]]))
    made = st.tuples(flat, EXTRA).map(lambda parts: {**msgspec.structs.asdict(parts[0]), "extra": parts[1]})
    return st.recursive(
        made.map(lambda fields: ui.A11yNode(**fields)),
        lambda inner: st.builds(
            lambda fields, children: ui.A11yNode(**fields, children=tuple(children)), made, st.lists(inner, max_size=3)
        ),
        max_leaves=8,
    )


def wire(node: ui.A11yNode) -> dict[str, Any]:
    """As a client writes it: what is not there is null, or absent."""
    fields = msgspec.structs.asdict(node)
    extra = fields.pop("extra")
    children = fields.pop("children")
    inner = {} if children is None else {"children": [wire(child) for child in children]}
    return {**{name: value for name, value in fields.items() if value is not None or name == "name"}, **inner, **extra}


@given(root=nodes(), extra=EXTRA)
def test_a_snapshot_is_read_as_the_client_wrote_it(root: ui.A11yNode, extra: Mapping[str, Any]) -> None:
    more = {name: value for name, value in extra.items() if name not in ui.WireSnapshot.__struct_fields__}
    raw = snapshot_json(wire(root), **more, selection={"ref": "e", "text": "t", "more": more})
    check_snapshot(raw, "m")
    read = read_snapshot(raw)
    assert read.root == root
    assert read.extra == more
    assert read.selection == ui.A11ySelection("e", "t", extra={"more": more})


@given(root=nodes())
def test_a_walk_meets_every_node_once_as_a_page_is_read(root: ui.A11yNode) -> None:
    def recursively(node: ui.A11yNode) -> list[ui.A11yNode]:
        return [node, *(inner for child in node.children or () for inner in recursively(child))]

    assert list(root.walk()) == recursively(root)
    for node in root.walk():
        assert root.find(node.ref) == next(each for each in root.walk() if each.ref == node.ref)
    assert root.find("no such ref") is None


@given(root=nodes(), kept=st.integers(0, 20))
def test_the_outline_has_one_line_a_node_whatever_the_page_says(root: ui.A11yNode, kept: int) -> None:
    lines = root.to_text(kept).splitlines()
    count = len(list(root.walk()))
    assert len(lines) == min(count, kept) + (count > kept)
    assert all(line.lstrip(" ").startswith("- ") for line in lines[:kept])


def test_the_outline_of_a_page_is_as_a_prompt_wants_it() -> None:
    root = {
        "ref": "e1",
        "role": "main",
        "children": [
            {"ref": "e2", "role": "heading", "name": 'All "tea"\n', "level": 1},
            {"ref": "e3", "role": "textbox", "name": "Name", "value": "", "state": ["focused", "not ok"]},
            {"ref": "e 4", "role": "grid", "colcount": 2, "rowcount": 0, "children": [{"ref": "e5", "role": "cell"}]},
        ],
    }
    raw = snapshot_json(root, selection={"ref": "e2", "text": "tea"})
    assert read_snapshot(raw).to_text().splitlines() == [
        "- main [e1]",
        '  - heading "All \\"tea\\"\\n" [e2] level=1',
        '  - textbox "Name" [e3] value="" (focused, "not ok")',
        '  - grid ["e 4"] columns=2 rows=0',
        "    - cell [e5]",
        'selected in [e2]: "tea"',
    ]
    assert read_snapshot(snapshot_json(root)).to_text(2).splitlines()[2:] == ["(3 more)"]


@pytest.mark.parametrize(
    ("root", "fits"),
    [
        (chain(131), True),
        (chain(ui.MAX_TREE_DEPTH), True),
        (chain(ui.MAX_TREE_DEPTH + 1), False),
        (chain(301), False),
        ({**LEAF, "children": [LEAF] * (ui.MAX_TREE_NODES - 1)}, True),
        ({**LEAF, "children": [LEAF] * ui.MAX_TREE_NODES}, False),
        ({**LEAF, "children": [chain(200)] * 200}, True),
    ],
    ids=["130", "deepest", "too deep", "300", "largest", "too large", "wide and deep"],
)
def test_a_tree_has_bounds(root: dict[str, Any], fits: bool) -> None:
    raw = snapshot_json(root)
    if fits:
        check_snapshot(raw, "m")
        tree = read_snapshot(raw)
        assert sum(1 for _ in tree.walk()) == raw.raw.count(b'"ref"')
        assert tree.find("none") is None
        assert tree == read_snapshot(raw)
    else:
        with pytest.raises(InvalidData) as refused:
            check_snapshot(raw, "m")
        assert (refused.value.field, refused.value.reply_id) == ("data.tree.root", "m")
        with pytest.raises(msgspec.DecodeError):
            read_snapshot(raw)


@given(root=nodes(), at=st.integers(0, 20), name=st.sampled_from(sorted(NAMES)), value=PLAIN | nodes().map(wire))
def test_what_is_checked_can_be_read_and_what_is_not_is_refused_by_our_own_words(
    root: ui.A11yNode, at: int, name: str, value: object
) -> None:
    """One field of one node is anything."""
    tree = wire(root)
    level = [tree]
    for _ in range(at):
        level = [child for node in level for child in node.get("children", ())] or level
    level[at % len(level)][name] = value
    raw = snapshot_json(tree)
    try:
        check_snapshot(raw, "m")
    except InvalidData as refused:
        words = set(refused.field.replace("[", ".[").split("."))
        assert words <= {"data", "tree", "root", *NAMES, "[...]", *(f"[{index}]" for index in range(10))}
        with pytest.raises(msgspec.DecodeError):
            read_snapshot(raw)
    else:
        read_snapshot(raw)


def test_no_stack_of_the_callers_makes_a_recursion_error_of_a_tree() -> None:
    raw = snapshot_json(chain(ui.MAX_TREE_DEPTH))
    fitting = []

    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
            return
        try:
            check_snapshot(raw, "m")
            read_snapshot(raw)
        except (msgspec.DecodeError, InvalidData):
            return
        fitting.append(levels)

    used = 0
    frame = sys._getframe()
    while frame.f_back is not None:
        frame, used = frame.f_back, used + 1
    for room in range(100, 700, 25):
        deeper(sys.getrecursionlimit() - used - room)
    assert fitting, "there is room enough in the end"


# -- job groups --------------------------------------------------------------------

JOBS = st.sampled_from(("a", "b", "c"))
WORKERS = st.sampled_from(("v", "w", "x"))
STATUS = st.sampled_from(("running", "completed", "cancelled", "failed", "error"))


class JobGroupsAgainstAModel(RuleBasedStateMachine):
    """The model: who is open in which group, and which groups there have been."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs = ui.JobGroups()
        self.open: dict[str, dict[str, bool]] = {}
        self.named: dict[str, bool] = {}
        """Every group that there has been."""
        self.now_ms = 0

    def take(self, event: ui.JobEvent, allowed: bool) -> bool:
        before = self.jobs.state
        if allowed:
            self.jobs.apply(event)
            return True
        with pytest.raises(JobGroupError) as refused:
            self.jobs.apply(event)
        assert refused.value.job_id == event.job_id
        assert self.jobs.state is before
        return False

    def may_work(self, job: str, worker: str) -> bool:
        return job in self.open and not self.open[job].get(worker, self.named[job])

    @rule(job=JOBS, workers=st.lists(WORKERS, max_size=3) | st.none())
    def start(self, job: str, workers: list[str] | None) -> None:
        names = msgspec.UNSET if workers is None else tuple(workers)
        distinct = workers is None or len(set(workers)) == len(workers)
        if self.take(ui.GroupStarted(job, self.now_ms, names), job not in self.named and distinct):
            self.open[job] = dict.fromkeys(workers or (), False)
            self.named[job] = bool(workers)

    @rule(job=JOBS, worker=WORKERS)
    def update(self, job: str, worker: str) -> None:
        if self.take(ui.JobUpdate(job, worker, self.now_ms), self.may_work(job, worker)):
            self.open[job][worker] = False

    @rule(job=JOBS, worker=WORKERS, status=STATUS)
    def complete(self, job: str, worker: str, status: ui.JobStatus) -> None:
        allowed = self.may_work(job, worker) and status != "running"
        if self.take(ui.JobCompleted(job, worker, status, self.now_ms), allowed):
            self.open[job][worker] = True

    @rule(job=JOBS)
    def complete_group(self, job: str) -> None:
        if self.take(ui.GroupCompleted(job, self.now_ms), job in self.open and all(self.open[job].values())):
            del self.open[job]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), status=STATUS.filter(lambda status: status != "running"))
    def finish(self, data: st.DataObject, status: ui.JobStatus) -> None:
        job = data.draw(st.sampled_from(sorted(self.open)))
        steps = self.jobs.finish(job, status, 7)
        waiting = [worker for worker, done in self.open.pop(job).items() if not done]
        assert steps == [*(ui.JobCompleted(job, worker, status, 7) for worker in waiting), ui.GroupCompleted(job, 7)]

    @rule()
    def cancel_all(self) -> None:
        before = self.jobs.state
        steps = self.jobs.cancel_all(9)
        assert sum(isinstance(step, ui.GroupCompleted) for step in steps) == len(self.open)
        assert all(step.status == "cancelled" for step in steps if isinstance(step, ui.JobCompleted))
        again = ui.JobGroups(before)
        for step in steps:
            again.apply(step)
        assert again.state == self.jobs.state
        self.open.clear()

    @rule()
    def restart(self) -> None:
        self.jobs = ui.JobGroups(self.jobs.state)

    @invariant()
    def what_is_open_is_what_the_model_says(self) -> None:
        assert {job: dict(group.workers) for job, group in self.jobs.state.groups.items()} == self.open
        assert set(self.jobs.state.ended) == set(self.named) - set(self.open)


TestJobGroupsAgainstAModel = JobGroupsAgainstAModel.TestCase


def test_open_groups_and_their_workers_are_bounded_and_the_oldest_ended_are_forgotten() -> None:
    jobs = ui.JobGroups()
    for number in range(ui.MAX_GROUPS):
        jobs.apply(ui.GroupStarted(str(number), 0))
    with pytest.raises(JobGroupError, match="open already"):
        jobs.apply(ui.GroupStarted("one more", 0))
    with pytest.raises(JobGroupError, match="has started before"):
        jobs.apply(ui.GroupStarted("0", 0))
    jobs.cancel_all(0)
    assert jobs.state.groups == {}
    names = tuple(map(str, range(ui.MAX_WORKERS)))
    jobs.apply(ui.GroupStarted("named", 0, names))
    with pytest.raises(JobGroupError, match="more than"):
        jobs.apply(ui.GroupStarted("too many", 0, (*names, "another")))
    jobs.apply(ui.GroupStarted("open", 0))
    for name in names:
        jobs.apply(ui.JobUpdate("open", name, 0))
    with pytest.raises(JobGroupError, match="workers already"):
        jobs.apply(ui.JobUpdate("open", "another", 0))
    jobs.cancel_all(0)
    assert len(jobs.state.ended) == ui.MAX_GROUPS
    jobs.apply(ui.GroupStarted("0", 0))


def test_finishing_with_no_end_or_what_is_not_open_is_refused() -> None:
    jobs = ui.JobGroups()
    with pytest.raises(JobGroupError, match="has not started"):
        jobs.finish("j", "completed", 0)
    jobs.apply(ui.GroupStarted("j", 0, ("w",)))
    with pytest.raises(JobGroupError, match="completes as completed, cancelled, failed, error"):
        jobs.finish("j", "running", 0)
    jobs.finish("j", "failed", 0)
    with pytest.raises(JobGroupError, match="has ended"):
        jobs.finish("j", "failed", 0)


def test_an_error_quotes_no_more_of_an_id_than_a_log_line_bears() -> None:
    assert len(str(JobGroupError("x" * 10_000, "rule"))) < 100


@given(event=any_of(ui.JobEvent))
def test_a_step_is_read_as_it_was_written(event: ui.JobEvent) -> None:
    message = UIJobGroup(data=event)
    assert decode_server(encode_server(message)) == message
