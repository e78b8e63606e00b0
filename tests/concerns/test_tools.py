from __future__ import annotations

from typing import Any, Final

import anyio
import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.concerns.tools import AGAIN_S
from rtvi_actors.ledger import ENDED_CALLS, Ledger, OpenCall
from rtvi_actors.messages import CallClient
from rtvi_actors.protocol.codec import from_json
from rtvi_actors.runtime.futures import ActorFuture
from tests.session_kit import Call, Frame, Wire, calling, of_type, types, virtual_time

pytestmark = pytest.mark.anyio

RESULT: Final[Wire] = {"function_name": "f", "tool_call_id": "t", "arguments": {"x": 1}, "result": "r"}


class Ended(rtvi.Bot):
    """Has no hook for results; only takes down what tools sends it."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[frames.ClientCallEnded] = []

    def on_frame(self, frame: Frame) -> None:
        if isinstance(frame, frames.ClientCallEnded):
            self.ended.append(frame)
        super().on_frame(frame)


class Tool(Ended):
    """Takes the results of calls that it has made in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[rtvi.FunctionCallResult] = []

    async def on_function_call_result(self, result: rtvi.FunctionCallResult) -> None:
        self.results.append(result)


class Deaf(Ended):
    """Does not end the calls that tools says have ended."""

    def on_frame(self, frame: Frame) -> None:
        if isinstance(frame, frames.ClientCallEnded):
            self.ended.append(frame)
        else:
            super().on_frame(frame)


def ledger_of(call: Call) -> Ledger:
    ledger = call.session.actor("tools").cell.context
    assert isinstance(ledger, Ledger)
    return ledger


def open_call(call: Call, tool_call_id: str = "t", timeout_s: float = 8.0, name: str = "f") -> OpenCall:
    """As the bot does it."""
    opened = OpenCall(name, timeout_s, call.session.system.timers.now() + timeout_s, ActorFuture())
    ledger_of(call).open_call((tool_call_id, opened))
    call.session.actor("tools").tell(CallClient(opened.due_s))
    return opened


async def result(call: Call, msg_id: str = "r", **fields: object) -> list[Wire]:
    """A llm-function-call-result. Returns what answers it."""
    await call.send("llm-function-call-result", msg_id, {**RESULT, **fields})
    return of_type(await call.heard(), "error-response", "error")


def is_unknown(replies: list[Wire], msg_id: str = "r") -> bool:
    return [(reply["id"], reply["data"]["error"]) for reply in replies] == [(msg_id, "Unknown tool call")]


# -- results of open calls ---------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "text", {}, {"a": [0]}, 0, 5, False, [], None])
async def test_the_result_of_an_open_call_ends_it_falsy_or_not(value: Any) -> None:
    bot = Ended()
    async with calling(bot) as call:
        opened = open_call(call)
        assert await result(call, result=value) == []
        assert [frame.tool_call_id for frame in bot.ended] == ["t"]
        assert from_json(opened.result.result()) == value
        assert (call.books.open_calls, call.books.stray_results) == (0, 0)


@pytest.mark.parametrize(("field", "value"), [("arguments", []), ("tool_call_id", None)])
@pytest.mark.parametrize("bot", [Ended, Tool])
async def test_a_result_of_the_wrong_kind_is_refused_by_its_field_and_ends_nothing(
    bot: type[rtvi.Bot], field: str, value: Any
) -> None:
    async with calling(bot()) as call:
        opened = open_call(call)
        (reply,) = await result(call, **{field: value})
        assert (reply["id"], reply["data"]["error"].endswith(f"(data.{field})")) == ("r", True)
        assert (opened.result.done(), call.books.open_calls) == (False, 1)


@pytest.mark.parametrize("value", [0, 5, False, [], None])
async def test_a_call_of_somebody_elses_returns_an_object_or_text(value: Any) -> None:
    async with calling(Tool()) as call:
        (reply,) = await result(call, result=value)
        assert (reply["id"], reply["data"]["error"].endswith("(data.result)")) == ("r", True)


@pytest.mark.parametrize("bot", [Ended, Tool])
async def test_the_name_must_be_that_of_the_call_which_otherwise_waits_on(bot: type[Ended]) -> None:
    ours = bot()
    async with calling(ours) as call:
        opened = open_call(call)
        assert is_unknown(await result(call, function_name="g"))
        assert (opened.result.done(), ours.ended, call.books.stray_results) == (False, [], 1)
        assert await result(call) == []
        assert opened.result.done()


@pytest.mark.parametrize("bot", [Ended, Tool])
async def test_a_second_result_is_refused_and_counted_and_no_hook_sees_it(bot: type[Ended]) -> None:
    ours = bot()
    async with calling(ours) as call:
        opened = open_call(call)
        assert await result(call, result="first") == []
        assert is_unknown(await result(call, "second", result="second"), "second")
        assert from_json(opened.result.result()) == "first"
        assert (len(ours.ended), call.books.stray_results) == (1, 1)
        assert getattr(ours, "results", []) == []


async def test_a_second_result_is_refused_while_the_first_is_still_on_its_way_to_the_bot() -> None:
    bot = Ended()
    async with calling(bot) as call:
        opened = open_call(call)
        call.session.actor("door").cell.suspended = True
        await call.send("llm-function-call-result", "1", {**RESULT, "result": "first"})
        await call.send("llm-function-call-result", "2", {**RESULT, "result": "second"})
        (reply,) = await call.until(lambda wire: wire["type"] == "error-response")
        assert is_unknown([reply], "2")
        call.session.actor("door").cell.suspended = False
        call.session.actor("door").cell.notify()
        await call.heard()
        assert from_json(opened.result.result()) == "first"


# -- results of other calls --------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "text", {}, {"a": [0]}])
async def test_a_result_of_a_call_that_was_not_made_here_reaches_the_hook_falsy_or_not(value: Any) -> None:
    bot = Tool()
    async with calling(bot) as call:
        assert await result(call, result=value) == []
        assert [r.tool_call_id for r in bot.results] == ["t"]
        assert from_json(bot.results[0].result) == value
        assert call.books.stray_results == 0


async def test_without_a_hook_such_a_result_is_refused_and_counted() -> None:
    async with calling(Ended()) as call:
        assert is_unknown(await result(call, "x", result={"secret": "s"}), "x")
        assert (call.books.stray_results, call.books.control["answered"]) == (1, 1)


async def test_a_handler_of_the_hosts_is_as_good_as_the_hook() -> None:
    seen: list[str] = []
    async with calling(Ended()) as call:
        call.session.control.on("function-call-result", lambda frame: seen.append(frame.tool_call_id))
        assert await result(call) == []
        assert (seen, call.books.stray_results) == (["t"], 0)


async def test_the_client_hears_that_such_a_call_has_stopped_when_the_bot_has_it() -> None:
    async with calling(Tool()) as call:
        await call.send("llm-function-call-result", "r", RESULT)
        (stopped,) = await call.heard()
        assert (stopped["type"], stopped["data"]["tool_call_id"]) == ("llm-function-call-stopped", "t")
        assert stopped["data"]["cancelled"] is False


async def test_the_last_ended_calls_are_remembered_and_no_more() -> None:
    bot = Tool()
    async with calling(bot) as call:
        for number in range(ENDED_CALLS + 1):
            open_call(call, f"t{number}")
            await call.send("llm-function-call-result", "r", {**RESULT, "tool_call_id": f"t{number}"})
            await call.session.idle()
        await call.heard()
        assert len(ledger_of(call).ended_calls) == ENDED_CALLS
        assert is_unknown(await result(call, tool_call_id="t1"))
        assert await result(call, tool_call_id="t0") == []
        assert [r.tool_call_id for r in bot.results] == ["t0"]


# -- deadlines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", [virtual_time()])
class TestDeadlines:
    async def test_each_call_ends_at_its_own_deadline_in_whatever_order_they_were_made(self) -> None:
        bot = Ended()
        async with calling(bot) as call:
            began = anyio.current_time()
            opened = {timeout_s: open_call(call, f"t{timeout_s}", timeout_s) for timeout_s in (5.0, 1.0, 3.0)}
            for timeout_s in (1.0, 3.0, 5.0):
                with pytest.raises(rtvi.ClientCallTimeout):
                    await opened[timeout_s].result
                assert anyio.current_time() - began == pytest.approx(timeout_s)
            assert [frame.result for frame in bot.ended] == [None, None, None]
            assert call.books.open_calls == 0

    async def test_after_the_deadline_a_result_is_a_stray_one(self) -> None:
        bot = Tool()
        async with calling(bot) as call:
            open_call(call, timeout_s=1.0)
            await anyio.sleep(1.5)
            await call.heard()
            assert is_unknown(await result(call))
            assert (bot.results, call.books.stray_results) == ([], 1)

    async def test_a_result_at_the_deadline_is_late_though_the_bot_has_not_heard_of_the_deadline(self) -> None:
        bot = Deaf()
        async with calling(bot) as call:
            open_call(call, timeout_s=1.0)
            await anyio.sleep(1.0)
            assert is_unknown(await result(call))
            assert [frame.result for frame in bot.ended] == [None]

    async def test_a_bot_that_has_not_heard_of_a_deadline_is_told_again_and_again(self) -> None:
        bot = Deaf()
        async with calling(bot) as call:
            open_call(call, timeout_s=2.0)
            await anyio.sleep(2.0 + 3.5 * AGAIN_S)
            await call.heard()
            assert [frame.tool_call_id for frame in bot.ended] == ["t"] * 4

    @pytest.mark.parametrize("crashes", [1, 3])
    async def test_a_crash_between_call_and_deadline_changes_nothing(self, crashes: int) -> None:
        bot = Ended()
        async with calling(bot) as call:
            began = anyio.current_time()
            opened = open_call(call, timeout_s=5.0)
            for _ in range(crashes):
                await anyio.sleep(1.0)
                call.session.system.crash(call.session.actor("tools"))
            with pytest.raises(rtvi.ClientCallTimeout):
                await opened.result
            assert anyio.current_time() - began == pytest.approx(5.0)
            await call.heard()
            assert {frame.tool_call_id for frame in bot.ended} == {"t"}
            assert call.books.open_calls == 0

    @pytest.mark.parametrize("handler", ["on_call_client", "on_calls_expire"])
    async def test_a_crash_on_the_call_or_on_its_deadline_leaves_the_deadline(
        self, handler: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with calling(Ended()) as call:
            tools = call.session.actor("tools")
            monkeypatch.setattr(tools.cell.actor, handler, _fail)  # of this incarnation
            tools.cell._bind_handlers()
            began = anyio.current_time()
            opened = open_call(call, timeout_s=5.0)
            with pytest.raises(rtvi.ClientCallTimeout):
                await opened.result
            assert anyio.current_time() - began == pytest.approx(5.0)
            assert call.restarts("tools") == 1

    async def test_a_crash_between_call_and_result_loses_neither(self) -> None:
        async with calling(Ended()) as call:
            opened = open_call(call)
            call.session.system.crash(call.session.actor("tools"))
            await anyio.sleep(1.0)
            assert await result(call) == []
            assert from_json(opened.result.result()) == "r"

    async def test_a_result_that_is_lost_on_its_way_leaves_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with calling(Ended()) as call:
            opened = open_call(call, timeout_s=3.0)
            door = call.session.actor("door")
            monkeypatch.setattr(door.cell.actor, "on_release", _fail)
            door.cell._bind_handlers()
            await call.send("llm-function-call-result", "r", RESULT)
            replies = await call.heard()
            assert types(replies) == ["error-response"]
            with pytest.raises(rtvi.ClientCallTimeout):
                await opened.result
            assert call.books.open_calls == 0


def _fail(message: object) -> None:
    raise RuntimeError("a handler")
