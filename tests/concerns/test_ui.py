from __future__ import annotations

from typing import Any

import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.protocol.ui import MAX_TREE_DEPTH, A11yNode
from tests.session_kit import Wire, calling

pytestmark = pytest.mark.anyio

LEAF = {"ref": "e1", "role": "main"}


class Page(rtvi.Bot):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    async def on_ui_event(self, event: frames.UIEvent) -> None:
        self.heard.append(event)

    async def on_ui_snapshot(self, snapshot: frames.UISnapshot) -> None:
        self.heard.append(snapshot)

    async def on_ui_cancel_job_group(self, cancel: frames.UICancelJobGroup) -> None:
        self.heard.append(cancel)


async def hears(kind: str, data: object) -> tuple[list[Any], list[Wire]]:
    """What the bot and the client hear of one message."""
    bot = Page()
    async with calling(bot) as call:
        await call.send(kind, "m", data)
        heard = await call.heard()
        assert call.books.conservation.delivered == 1 + len(bot.heard)
        return bot.heard, heard


def nested(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = LEAF
    for _ in range(levels - 1):
        node = {**LEAF, "children": [node]}
    return node


@pytest.mark.parametrize("version", ["1.3.0", "2.2.0"])
@pytest.mark.parametrize(
    ("payload", "data"),
    [({}, None), ({"payload": None}, None), ({"payload": 0}, 0), ({"payload": {"a": [None]}}, {"a": [None]})],
)
async def test_an_event_reaches_the_bot_with_any_payload(payload: dict[str, Any], data: Any, version: str) -> None:
    bot = Page()
    async with calling(bot, ready=False) as call:
        await call.ready(version=version)
        await call.send("ui-event", "e", {"event": "click", **payload})
        assert await call.heard() == []
        (event,) = bot.heard
        assert (event.msg_id, event.event, event.data) == ("e", "click", data)


async def test_a_snapshot_reaches_the_bot_typed_with_what_the_protocol_does_not_name() -> None:
    root = {**LEAF, "extra": 1, "children": [{"ref": "e2", "role": "button", "state": ["focused"], "x": {"y": None}}]}
    selection = {"ref": "e2", "text": "Go", "start_offset": 0, "lang": "en"}
    (snapshot,), heard = await hears("ui-snapshot", {"tree": {"root": root, "captured_at": 7, "selection": selection}})
    assert heard == []
    assert snapshot.msg_id == "m"
    tree = snapshot.tree
    assert tree.root == A11yNode(
        "e1",
        "main",
        children=(A11yNode("e2", "button", state=("focused",), extra={"x": {"y": None}}),),
        extra={"extra": 1},
    )
    assert (tree.captured_at, tree.selection.text, tree.selection.extra) == (7, "Go", {"lang": "en"})


@pytest.mark.parametrize("nothing", [{}, {"children": None}, {"children": [], "state": None}])
async def test_what_a_node_has_not_may_be_absent_or_null(nothing: dict[str, Any]) -> None:
    (snapshot,), heard = await hears(
        "ui-snapshot", {"tree": {"root": {**LEAF, **nothing}, "captured_at": 7, "selection": None}}
    )
    assert heard == []
    assert snapshot.tree.root == A11yNode("e1", "main", children=() if nothing.get("children") == [] else None)


@pytest.mark.parametrize("reason", [{}, {"reason": None}, {"reason": "changed my mind"}])
@pytest.mark.parametrize(("kind", "field"), [("ui-cancel-job-group", "job_id"), ("ui-cancel-task", "task_id")])
async def test_a_cancellation_reaches_the_bot_by_its_new_name_and_by_its_old_one(
    kind: str, field: str, reason: dict[str, Any]
) -> None:
    (cancel,), heard = await hears(kind, {field: "j1", **reason})
    assert heard == []
    assert cancel == frames.UICancelJobGroup("m", "j1", reason.get("reason"))


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        ("ui-event", None, "data"),
        ("ui-event", {}, "data.event"),
        ("ui-event", {"event": None}, "data.event"),
        ("ui-event", {"event": 1}, "data.event"),
        ("ui-cancel-job-group", {}, "data.job_id"),
        ("ui-cancel-job-group", {"task_id": "t"}, "data.job_id"),
        ("ui-cancel-job-group", {"job_id": "j", "reason": 1}, "data.reason"),
        ("ui-cancel-task", {"job_id": "j"}, "data.task_id"),
        ("ui-snapshot", {}, "data.tree"),
        ("ui-snapshot", {"tree": None}, "data.tree"),
        ("ui-snapshot", {"tree": 1}, "data.tree"),
        ("ui-snapshot", {"tree": {}}, "data.tree.root"),
        ("ui-snapshot", {"tree": {"root": LEAF}}, "data.tree.captured_at"),
        ("ui-snapshot", {"tree": {"root": None, "captured_at": 1}}, "data.tree.root"),
        ("ui-snapshot", {"tree": {"root": {"ref": "e"}, "captured_at": 1}}, "data.tree.root.role"),
        ("ui-snapshot", {"tree": {"root": LEAF, "captured_at": "1"}}, "data.tree.captured_at"),
        ("ui-snapshot", {"tree": {"root": LEAF, "captured_at": 1, "selection": {}}}, "data.tree.selection.ref"),
        ("ui-snapshot", {"tree": {"root": {**LEAF, "level": 1.5}, "captured_at": 1}}, "data.tree.root.level"),
        ("ui-snapshot", {"tree": {"root": {**LEAF, "state": "on"}, "captured_at": 1}}, "data.tree.root.state"),
        (
            "ui-snapshot",
            {"tree": {"root": {**LEAF, "children": [LEAF, {**LEAF, "name": 1}]}, "captured_at": 1}},
            "data.tree.root.children[1].name",
        ),
        ("ui-snapshot", {"tree": {"root": nested(MAX_TREE_DEPTH + 1), "captured_at": 1}}, "data.tree.root"),
        ("ui-snapshot", {"tree": {"root": nested(400), "captured_at": 1}}, "data.tree.root"),
    ],
)
async def test_what_is_none_is_refused_by_its_field_and_reaches_nobody(kind: str, data: Any, field: str) -> None:
    bot_heard, (reply,) = await hears(kind, data)
    assert bot_heard == []
    assert (reply["type"], reply["id"]) == ("error-response", "m")
    assert reply["data"]["error"].startswith("Invalid message: ")
    assert reply["data"]["error"].endswith(f"({field})")


async def test_a_deep_fault_is_answered_in_few_words() -> None:
    node: dict[str, Any] = {"ref": "secret"}
    for _ in range(200):
        node = {**LEAF, "children": [node]}
    _, (reply,) = await hears("ui-snapshot", {"tree": {"root": node, "captured_at": 1}})
    assert reply["data"]["error"].endswith("(data.tree.root.children[...].role)")
    assert "secret" not in str(reply)


async def test_a_number_that_python_cannot_hold_is_refused_here_and_not_met_by_the_bot() -> None:
    bot = Page()
    async with calling(bot) as call:
        tree = '{"root": {"ref": "e", "role": "r", "x": 1e999}, "captured_at": 1}'
        call.session.control.handle_message(
            f'{{"label": "rtvi-ai", "type": "ui-snapshot", "id": "m", "data": {{"tree": {tree}}}}}'
        )
        (reply,) = await call.heard()
        assert "(data.tree" in reply["data"]["error"]
        assert bot.heard == []


async def test_what_the_page_says_keeps_its_order_among_itself_and_with_the_rest() -> None:
    bot = Page()
    async with calling(bot) as call:
        for number in range(20):
            await call.send("ui-event", str(number), {"event": "tick"})
            await call.send("ui-cancel-task", str(number), {"task_id": "t"})
        await call.send("ui-snapshot", "20", {"tree": {"root": LEAF, "captured_at": 20}})
        await call.heard()
        assert [frame.msg_id for frame in bot.heard] == [*(str(number) for number in range(20) for _ in range(2)), "20"]


async def test_a_crash_of_the_concern_costs_the_message_it_crashed_on_and_nothing_else() -> None:
    bot = Page()
    async with calling(bot) as call:
        call.session.system.crash(call.session.actor("ui"))
        await call.send("ui-event", "e", {"event": "click"})
        assert await call.heard() == []
        assert [event.event for event in bot.heard] == ["click"]
        assert call.restarts("ui") == 1


async def test_a_host_hears_them_by_name() -> None:
    heard: list[Any] = []
    async with calling(rtvi.Bot()) as call:
        for event in ("ui-event", "ui-snapshot", "ui-cancel-job-group"):
            call.session.control.on(event, heard.append)
        await call.send("ui-event", "1", {"event": "click"})
        await call.send("ui-snapshot", "2", {"tree": {"root": LEAF, "captured_at": 1}})
        await call.send("ui-cancel-job-group", "3", {"job_id": "j"})
        await call.heard()
    assert [frame.msg_id for frame in heard] == ["1", "2", "3"]
