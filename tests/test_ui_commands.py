from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.commands import Commands
from rtvi_actors.errors import Dead, JobGroupError, NotJson, SessionClosed
from rtvi_actors.protocol import ui
from rtvi_actors.ui_commands import JobGroup, UICommands
from tests.session_kit import Call, Wire, calling, of_type

COMMANDS: dict[str, tuple[Callable[[Commands], None], dict[str, Any]]] = {
    "ui_command": (lambda c: c.ui_command("wave", [None, 0]), {"command": "wave", "payload": [None, 0]}),
    "ui_command of nothing": (lambda c: c.ui_command("wave"), {"command": "wave"}),
    "ui_command of something falsy": (lambda c: c.ui_command("wave", ""), {"command": "wave", "payload": ""}),
    "toast": (
        lambda c: c.toast("Hi", duration_ms=5),
        {"command": "toast", "payload": {"title": "Hi", "duration_ms": 5}},
    ),
    "navigate": (
        lambda c: c.navigate("item", {"id": 7}),
        {"command": "navigate", "payload": {"view": "item", "params": {"id": 7}}},
    ),
    "scroll_to": (
        lambda c: c.scroll_to("e1", behavior="smooth"),
        {"command": "scroll_to", "payload": {"ref": "e1", "behavior": "smooth"}},
    ),
    "highlight": (lambda c: c.highlight(target_id="top"), {"command": "highlight", "payload": {"target_id": "top"}}),
    "focus": (lambda c: c.focus("e1"), {"command": "focus", "payload": {"ref": "e1"}}),
    "click": (
        lambda c: c.click("e1", target_id="go"),
        {"command": "click", "payload": {"ref": "e1", "target_id": "go"}},
    ),
    "set_input_value": (
        lambda c: c.set_input_value("x", "e1", replace=False),
        {"command": "set_input_value", "payload": {"value": "x", "ref": "e1", "replace": False}},
    ),
    "select_text": (
        lambda c: c.select_text("e1", start_offset=1, end_offset=3),
        {"command": "select_text", "payload": {"ref": "e1", "start_offset": 1, "end_offset": 3}},
    ),
}


def test_every_method_for_a_standard_command_is_one_of_the_examples() -> None:
    assert set(ui.COMMANDS) <= set(COMMANDS)
    assert set(ui.COMMANDS) <= set(vars(UICommands))


@pytest.mark.anyio
@pytest.mark.parametrize("version", ["1.2.0", "1.3.0", "2.2.0"])
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_reaches_the_client_from_the_bot_from_the_host_and_from_a_thread(
    name: str, version: str
) -> None:
    command, data = COMMANDS[name]
    bot = rtvi.Bot()
    async with calling(bot, ready=False) as call:
        await call.ready(version=version)
        command(bot)
        command(call.session.control)
        await anyio.to_thread.run_sync(command, call.session.control)
        heard = await call.heard()
        assert [wire["data"] for wire in of_type(heard, "ui-command")] == [data] * 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.ui_command(5), TypeError),
        (lambda c: c.ui_command("x", float("nan")), NotJson),
        (lambda c: c.ui_command("\ud800"), NotJson),
        (lambda c: c.toast(5), TypeError),
        (lambda c: c.toast("\ud800"), NotJson),
        (lambda c: c.toast("x", duration_ms=-1), ValueError),
        (lambda c: c.navigate("x", {"id": object()}), NotJson),
        (lambda c: c.navigate("x", {5: 6}), NotJson),
        (lambda c: c.highlight(), ValueError),
        (lambda c: c.click(ref=""), ValueError),
        (lambda c: c.job_group("search"), TypeError),
        (lambda c: c.job_group([5]), TypeError),
        (lambda c: c.job_group(label=5), TypeError),
        (lambda c: c.job_group(job_id=5), TypeError),
        (lambda c: c.job_group(cancellable=None), TypeError),
        (lambda c: c.job_group(["a", "a"]), JobGroupError),
    ],
)
async def test_what_is_no_command_raises_at_the_caller_and_reaches_nobody(
    call: Callable[[Any], None], error: type[Exception]
) -> None:
    async with calling(rtvi.Bot()) as client:
        with pytest.raises(error):
            call(client.session.control)
        assert await client.heard() == []


# -- job groups --------------------------------------------------------------------------


def told(heard: list[Wire]) -> list[Any]:
    """The steps, as (kind, worker, what it says)."""
    steps = []
    for wire in of_type(heard, "ui-job-group"):
        data = wire["data"]
        said = data.get("data", data.get("status"))
        steps.append((data["kind"], data.get("worker_name"), said))
    return steps


async def all_told(call: Call) -> list[Any]:
    return told(await call.heard())


@pytest.mark.anyio
async def test_a_group_is_told_step_by_step_with_what_it_was_given() -> None:
    async with calling(rtvi.Bot()) as call:
        jobs = call.session.control.job_group(["search", "rank"], label="Looking", cancellable=False, job_id="j1")
        jobs.update("search", {"found": 0})
        jobs.complete("search", response=[])
        jobs.update("rank")
        jobs.complete("rank", "failed")
        heard = [wire["data"] for wire in await call.heard()]
        ats = [data.pop("at") for data in heard]
        assert ats == sorted(ats)
        assert all(at > 1_600_000_000_000 for at in ats)
        assert heard == [
            {
                "kind": "group_started",
                "job_id": "j1",
                "workers": ["search", "rank"],
                "label": "Looking",
                "cancellable": False,
            },
            {"kind": "job_update", "job_id": "j1", "worker_name": "search", "data": {"found": 0}},
            {"kind": "job_completed", "job_id": "j1", "worker_name": "search", "status": "completed", "response": []},
            {"kind": "job_update", "job_id": "j1", "worker_name": "rank"},
            {"kind": "job_completed", "job_id": "j1", "worker_name": "rank", "status": "failed"},
            {"kind": "group_completed", "job_id": "j1"},
        ]


@pytest.mark.anyio
async def test_a_group_without_names_has_the_workers_that_appear_and_ends_when_it_is_told_to() -> None:
    async with calling(rtvi.Bot()) as call:
        jobs = call.session.control.job_group()
        jobs.update("a")
        jobs.complete("a")
        jobs.complete("b", "error")
        jobs.update("c", 1)
        jobs.finish()
        heard = await call.heard()
        assert told(heard) == [
            ("group_started", None, None),
            ("job_update", "a", None),
            ("job_completed", "a", "completed"),
            ("job_completed", "b", "error"),
            ("job_update", "c", 1),
            ("job_completed", "c", "completed"),
            ("group_completed", None, None),
        ]
        assert heard[0]["data"]["workers"] == []
        assert {wire["data"]["job_id"] for wire in heard} == {jobs.job_id}


@pytest.mark.anyio
async def test_what_is_left_open_completes_when_the_block_ends_well() -> None:
    async with calling(rtvi.Bot()) as call:
        with call.session.control.job_group(["a", "b"]) as jobs:
            jobs.complete("a", "failed")
        assert (await all_told(call))[1:] == [
            ("job_completed", "a", "failed"),
            ("job_completed", "b", "completed"),
            ("group_completed", None, None),
        ]


@pytest.mark.anyio
async def test_what_is_left_open_has_failed_when_the_block_raises() -> None:
    async with calling(rtvi.Bot()) as call:
        with pytest.raises(KeyError, match="the work's own"), call.session.control.job_group(["a"]):
            raise KeyError("the work's own")
        assert (await all_told(call))[1:] == [("job_completed", "a", "failed"), ("group_completed", None, None)]


def is_update(wire: Wire) -> bool:
    return told([wire])[:1] == [("job_update", "a", "go")]


class Working(rtvi.Bot):
    """Works as long as it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[str, JobGroup] = {}
        self.cancelled = anyio.Event()

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        with self.job_group(["a"], job_id="j") as jobs:
            self.open["j"] = jobs
            jobs.update("a", turn.messages[0].content)
            await self.cancelled.wait()

    async def on_ui_cancel_job_group(self, cancel: frames.UICancelJobGroup) -> None:
        self.open[cancel.job_id].cancel()
        self.cancelled.set()


@pytest.mark.anyio
async def test_what_is_left_open_is_cancelled_with_the_turn_that_works_on_it() -> None:
    async with calling(Working()) as call:
        await call.say("go")
        await call.until(is_update)
        call.session.control.interrupt_bot()
        assert await all_told(call) == [("job_completed", "a", "cancelled"), ("group_completed", None, None)]


@pytest.mark.anyio
async def test_a_user_who_cancels_is_heard_and_the_bot_decides() -> None:
    async with calling(Working()) as call:
        await call.say("go")
        await call.until(is_update)
        await call.send("ui-cancel-job-group", "c", {"job_id": "j"})
        assert await all_told(call) == [("job_completed", "a", "cancelled"), ("group_completed", None, None)]


class Plain(rtvi.Bot):
    """Begins a group in a handler that is all or nothing."""

    @rtvi.request("work")
    def work(self, fails: bool) -> None:
        jobs = self.job_group(["a"])
        jobs.complete("a")
        if fails:
            raise rtvi.RequestError("no")


@pytest.mark.anyio
@pytest.mark.parametrize(("fails", "steps"), [(True, 0), (False, 3)])
async def test_a_plain_handler_that_fails_has_begun_nothing(fails: bool, steps: int) -> None:
    async with calling(Plain()) as call:
        await call.ask("work", fails)
        assert len(await all_told(call)) == steps


@pytest.mark.anyio
async def test_a_bot_that_crashes_leaves_no_group_open() -> None:
    bot = Working()
    async with calling(bot) as call:
        await call.say("go")
        await call.until(is_update)
        call.session.system.crash(call.session.actor("bot"))
        assert sorted(await all_told(call), key=str) == sorted(
            [("job_completed", "a", "cancelled"), ("group_completed", None, None)], key=str
        )
        again = call.session.control.job_group(["a"])
        again.finish()
        assert len(await all_told(call)) == 3


@pytest.mark.anyio
async def test_a_group_of_the_hosts_ends_with_a_bot_that_crashes_and_goes_on_to_nobody() -> None:
    async with calling(rtvi.Bot()) as call:
        jobs = call.session.control.job_group(["a"])
        await call.heard()
        call.session.system.crash(call.session.actor("bot"))
        told = await all_told(call)
        jobs.finish()
        assert [kind for kind, _, _ in told] == ["job_completed", "group_completed"]
        assert await all_told(call) == []


@pytest.mark.anyio
async def test_of_more_groups_than_may_be_open_the_first_reach_the_client() -> None:
    async with calling(rtvi.Bot()) as call:
        groups = [call.session.control.job_group(["a"]) for _ in range(ui.MAX_GROUPS + 1)]
        for jobs in groups:
            jobs.finish()
        assert len(await all_told(call)) == 3 * ui.MAX_GROUPS


@pytest.mark.anyio
async def test_a_group_goes_on_over_a_crash_of_the_observer() -> None:
    async with calling(rtvi.Bot()) as call:
        jobs = call.session.control.job_group(["a"])
        await call.heard()
        call.session.system.crash(call.session.actor("observer"))
        jobs.update("a", 1)
        jobs.finish()
        assert await all_told(call) == [
            ("job_update", "a", 1),
            ("job_completed", "a", "completed"),
            ("group_completed", None, None),
        ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "misuse",
    [
        lambda jobs: jobs.update("b"),
        lambda jobs: jobs.complete("b"),
        lambda jobs: jobs.complete("a", "running"),
        lambda jobs: jobs.complete("a", "done"),
        lambda jobs: (jobs.complete("a"), jobs.update("a")),
        lambda jobs: (jobs.complete("a"), jobs.complete("a")),
        lambda jobs: (jobs.cancel(), jobs.update("a")),
        lambda jobs: (jobs.finish(), jobs.complete("a")),
    ],
)
async def test_a_step_that_the_rules_forbid_raises_at_the_caller_and_reaches_nobody(
    misuse: Callable[[JobGroup], object],
) -> None:
    async with calling(rtvi.Bot()) as call:
        jobs = call.session.control.job_group(["a"])
        with pytest.raises(JobGroupError) as refused:
            misuse(jobs)
        assert refused.value.job_id == jobs.job_id
        jobs.finish()
        jobs.cancel()  # nothing any more
        kinds = [kind for kind, _, _ in await all_told(call)]
        assert kinds == ["group_started", "job_completed", "group_completed"]


@pytest.mark.anyio
async def test_what_json_cannot_hold_leaves_the_group_as_it_was() -> None:
    async with calling(rtvi.Bot()) as call:
        jobs = call.session.control.job_group(["a"])
        with pytest.raises(NotJson):
            jobs.update("a", object())
        with pytest.raises(NotJson):
            jobs.complete("a", response=float("inf"))
        with pytest.raises(TypeError):
            jobs.update(5)  # type: ignore[arg-type]
        jobs.complete("a", response=0)
        assert [kind for kind, _, _ in await all_told(call)] == ["group_started", "job_completed", "group_completed"]


@pytest.mark.anyio
async def test_an_id_that_is_open_already_reaches_the_client_once() -> None:
    async with calling(rtvi.Bot()) as call:
        first = call.session.control.job_group(["a"], job_id="j")
        call.session.control.job_group(["a", "b"], job_id="j")  # another object: the observer is who knows of both
        first.complete("a")
        kinds = [kind for kind, _, _ in await all_told(call)]
        assert kinds == ["group_started", "job_completed", "group_completed"]


@pytest.mark.anyio
async def test_after_the_session_a_step_raises_and_an_exception_in_the_block_is_not_hidden_by_that() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        jobs = control.job_group(["a"])
        failing = control.job_group(["a"])
    with pytest.raises(SessionClosed):
        jobs.update("a")
    assert not jobs.ended
    with pytest.raises(SessionClosed):
        control.job_group(["a"])
    with pytest.raises(KeyError), failing:
        raise KeyError
    with pytest.raises(SessionClosed), jobs:
        pass


@pytest.mark.anyio
async def test_threads_may_work_on_one_group_and_each_worker_is_told_in_order() -> None:
    count, updates = 4, 25
    async with calling(rtvi.Bot()) as call:
        names = [f"w{number}" for number in range(count)]
        jobs = call.session.control.job_group(names)
        together = threading.Barrier(count)

        def work(name: str) -> None:
            together.wait(10)
            for number in range(updates):
                jobs.update(name, number)
            jobs.complete(name)

        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(anyio.to_thread.run_sync, work, name)
        steps = await all_told(call)
        assert steps[0][0] == "group_started"
        assert steps[-1][0] == "group_completed"
        for name in names:
            said = [what for kind, worker, what in steps if worker == name]
            assert said == [*range(updates), "completed"]


# -- without a session: any use of a group is a lifecycle ---------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.sampled_from("abc")),
        st.tuples(st.just("complete"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(("finish", "cancel"))),
    ),
    max_size=12,
)
ENDS = st.sampled_from((None, ValueError, asyncio.CancelledError, KeyboardInterrupt))


class Refusing(UICommands):
    """Takes every so many messages and refuses the others."""

    def __init__(self, refuses: set[int]) -> None:
        self.refuses = refuses
        self.sent = 0
        self.taken: list[ui.JobEvent] = []

    def _to(self, name: str, message: Any) -> None:
        self.sent += 1
        if self.sent in self.refuses:
            raise Dead("observer")
        self.taken.append(message.event)


@given(steps=STEPS, names=st.sets(st.sampled_from("abc")), end=ENDS, refuses=st.sets(st.integers(2, 12)))
def test_whatever_is_called_and_refused_what_left_is_a_lifecycle(
    steps: list[tuple[str, ...]], names: set[str], end: type[BaseException] | None, refuses: set[int]
) -> None:
    commands = Refusing(refuses)
    with suppress(end or Dead), commands.job_group(sorted(names)) as jobs:
        for method, *arguments in steps:
            with suppress(JobGroupError, Dead):
                getattr(jobs, method)(*arguments)
        if end is not None:
            raise end
    judge = ui.JobGroups()
    for event in commands.taken:
        judge.apply(event)
    assert jobs.ended == (not judge.state.groups)
    assert jobs.ended or refuses
