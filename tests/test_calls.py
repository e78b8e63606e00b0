from __future__ import annotations

from typing import Any, Final, NamedTuple

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rtvi_actors as rtvi
from rtvi_actors.calls import MAX_CALLS
from tests.session_kit import Call, Wire, calling, of_type, types, virtual_time

pytestmark = pytest.mark.anyio


class Location(msgspec.Struct):
    city: str
    accuracy_m: float = 1.0


class Guide(rtvi.Bot):
    """Asks the client where it is, in whatever kind of handler, and remembers what came of it."""

    def __init__(self, outcomes: list[Any] | None = None) -> None:
        super().__init__(outcomes)
        self.outcomes: list[Any] = [] if outcomes is None else outcomes
        """Results and errors, over all incarnations if the list is given."""

    async def ask_client(self, **options: Any) -> Any:
        try:
            result = await self.call_client("get_location", {"accuracy": "high"}, **options)
        except BaseException as error:
            self.outcomes.append(error)
            raise
        self.outcomes.append(result)
        return result

    @rtvi.request("where")
    async def where(self, options: dict[str, Any] | None) -> Any:
        return await self.ask_client(**(options or {}))

    @rtvi.request("ping")
    def ping(self) -> None: ...

    @rtvi.request("place")
    async def place(self) -> str:
        return (await self.call_client("get_location", result_type=Location)).city

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        await self.ask_client(cancel_on_interruption=turn.messages[0].content != "on")


CALLED: Final = ("llm-function-call-in-progress", "llm-function-call")
STOPPED: Final = "llm-function-call-stopped"


async def called(call: Call) -> Wire:
    """Wait until the client is asked to run something."""
    return (await call.until(lambda wire: wire["type"] in CALLED))[-1]


async def so_far(call: Call) -> list[Wire]:
    """What has come until now, while handlers wait for the client: no session is idle then."""
    await call.ask("ping", msg_id="ping")
    return (await call.until(lambda wire: wire.get("id") == "ping"))[:-1]


async def answer(call: Call, asked: Wire, result: object, msg_id: str = "r") -> None:
    data = asked["data"]
    await call.send(
        "llm-function-call-result",
        msg_id,
        {
            "function_name": data["function_name"],
            "tool_call_id": data["tool_call_id"],
            "arguments": data.get("arguments", data.get("args")),
            "result": result,
        },
    )


def stopped(messages: list[Wire]) -> list[tuple[str, bool]]:
    """The calls that the client heard the end of, and whether as cancelled."""
    return [(wire["data"]["tool_call_id"], wire["data"]["cancelled"]) for wire in of_type(messages, STOPPED)]


def cancelled(asked: Wire) -> list[tuple[str, bool]]:
    return [(asked["data"]["tool_call_id"], True)]


# -- asked and answered --------------------------------------------------------------------------


async def test_a_call_asks_the_client_and_its_result_is_what_the_handler_gets() -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.ask("where", msg_id="q")
        started, asked = await call.until(lambda wire: wire["type"] in CALLED)
        assert (started["type"], started["data"]) == ("llm-function-call-started", {"function_name": "get_location"})
        assert asked["type"] == "llm-function-call-in-progress"
        assert (asked["data"]["function_name"], asked["data"]["arguments"]) == ("get_location", {"accuracy": "high"})
        await answer(call, asked, {"city": "Rome"})
        heard = await call.heard()
        assert types(heard) == [STOPPED, "server-response"]
        assert stopped(heard) == [(asked["data"]["tool_call_id"], False)]
        assert heard[1]["data"]["d"] == {"city": "Rome"}
        assert (call.books.open_calls, call.books.stray_results) == (0, 0)


@pytest.mark.parametrize("result", ["", {}, "0", "text", {"a": None}, 0, False, []])
async def test_results_arrive_as_they_are_falsy_ones_too(result: object) -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.ask("where")
        await answer(call, await called(call), result)
        assert (await call.answer("q"))["data"]["d"] == result
        assert bot.outcomes == [result]


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("1.0.0", "llm-function-call"),
        ("1.1.0", "llm-function-call"),
        ("1.2.0", "llm-function-call-in-progress"),
        ("2.2.0", "llm-function-call-in-progress"),
        ("9.0.0", "llm-function-call"),
    ],
)
async def test_each_version_is_asked_once_and_in_its_own_form(version: str, kind: str) -> None:
    bot = Guide()
    async with calling(bot, ready=False) as call:
        await call.ready(version=version)
        await call.heard()
        await call.ask("where")
        heard = await call.until(lambda wire: wire["type"] in CALLED)
        heard += await so_far(call)
        assert types(heard) == ["llm-function-call-started", kind]
        asked = heard[-1]
        if asked["type"] == "llm-function-call":
            assert sorted(asked["data"]) == ["args", "function_name", "tool_call_id"]
            assert asked["data"]["args"] == {"accuracy": "high"}
        await answer(call, asked, "here")
        assert (await call.answer("q"))["data"]["d"] == "here"


async def test_a_call_before_client_ready_is_held_until_the_version_is_known() -> None:
    class Early(Guide):
        async def on_bot_started(self) -> None:
            await self.ask_client()

    bot = Early()
    async with calling(bot, ready=False) as call:
        while not call.books.held:
            await anyio.lowlevel.checkpoint()
        await call.send("client-ready", "ready", {"version": "1.0.0"})
        asked = await called(call)
        assert asked["type"] == "llm-function-call"
        await answer(call, asked, "here")
        await call.heard()
        assert bot.outcomes == ["here"]


async def test_calls_have_ids_of_their_own_and_may_be_answered_in_any_order() -> None:
    bot = Guide()
    async with calling(bot) as call:
        asked = []
        for number in range(5):
            await call.ask("where", msg_id=f"q{number}")
            asked.append(await called(call))
        assert len({wire["data"]["tool_call_id"] for wire in asked}) == 5
        for number in reversed(range(5)):
            await answer(call, asked[number], str(number))
        answers = {wire["id"]: wire["data"]["d"] for wire in of_type(await call.heard(), "server-response")}
        assert sorted(answers.values()) == ["0", "1", "2", "3", "4"]


async def test_a_call_in_a_turn_holds_up_nobody_else() -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.say("hi")
        asked = await called(call)
        await call.ask("where", msg_id="q")
        await answer(call, await called(call), "there")
        assert (await call.answer("q"))["data"]["d"] == "there"
        await answer(call, asked, "here")
        await call.heard()
        assert bot.outcomes == ["there", "here"]


@pytest.mark.parametrize("level", ["disabled", "none", "name", "arguments", "full"])
async def test_whatever_is_reported_the_client_is_asked_and_hears_of_the_end(level: str) -> None:
    """The level decides how much of the end: its result is the client's own word."""
    async with calling(Guide()) as call:
        call.session.control.configure_observer(function_call_report_level={"*": level})
        await call.ask("where")
        asked = await called(call)
        assert asked["data"]["arguments"] == {"accuracy": "high"}
        await answer(call, asked, "")
        (end,) = of_type(await call.heard(), STOPPED)
        assert (end["data"]["tool_call_id"], end["data"]["cancelled"]) == (asked["data"]["tool_call_id"], False)
        assert ("result" in end["data"]) is (level == "full")


@pytest.mark.parametrize("level", ["disabled", "none", "full"])
async def test_whatever_is_reported_the_client_hears_of_a_cancelled_call(level: str) -> None:
    async with calling(Guide()) as call:
        call.session.control.configure_observer(function_call_report_level={"*": level})
        await call.say("hi")
        asked = await called(call)
        await call.client.send_interruption()
        assert stopped(await call.heard()) == cancelled(asked)


# -- typed results -------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [{"city": "Rome"}, '{"city": "Rome", "accuracy_m": 5}'])
async def test_a_result_is_decoded_to_the_type_that_was_asked_for(result: object) -> None:
    """Also a text, where it is no text that was asked for: that is read as JSON."""
    async with calling(Guide()) as call:
        await call.ask("place")
        await answer(call, await called(call), result)
        assert (await call.answer("q"))["data"]["d"] == "Rome"


@pytest.mark.parametrize(
    ("kind", "result", "value"),
    [(int, "42", 42), (str, "42", "42"), (str | int, "42", "42"), (list[int], "[1]", [1]), (dict[str, int], {}, {}),
     (int | None, "null", None), (Any, "null", "null"), (str, "", "")],
)  # fmt: skip
async def test_a_text_that_is_not_of_the_type_is_read_as_json(kind: Any, result: object, value: object) -> None:
    class Typed(Guide):
        @rtvi.request("typed")
        async def typed(self) -> None:
            await self.ask_client(result_type=kind)

    bot = Typed()
    async with calling(bot) as call:
        await call.ask("typed")
        await answer(call, await called(call), result)
        await call.heard()
        assert bot.outcomes == [value]


@pytest.mark.parametrize(
    "result",
    [{"city": 5}, {}, "", "Rome", '{"town": "Rome"}', '"' * 9, "[" * 5_000, '{"city": ' + "[" * 5_000, "\x00", "NaN"],
)
async def test_a_result_of_another_type_is_an_error_in_the_handler_and_no_secret_gets_out(result: object) -> None:
    class Typed(Guide):
        @rtvi.request("typed")
        async def typed(self) -> None:
            await self.ask_client(result_type=Location)

    bot = Typed()
    async with calling(bot) as call:
        await call.ask("typed")
        asked = await called(call)
        await answer(call, asked, result)
        heard = await call.heard()
        (error,) = bot.outcomes
        assert isinstance(error, rtvi.ClientResultInvalid)
        assert (error.function_name, call.books.stray_results) == ("get_location", 0)
        assert stopped(heard) == [(asked["data"]["tool_call_id"], False)]
        assert heard[-1]["data"]["error"].startswith("Exception processing message: ")
        assert "Location" not in str(heard)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"arguments": {"a": float("nan")}}, rtvi.NotJson),
        ({"arguments": {1: 2}}, rtvi.NotJson),
        ({"arguments": [1]}, TypeError),
        ({"function_name": 5}, TypeError),
        ({"timeout_s": 0}, ValueError),
        ({"timeout_s": float("nan")}, ValueError),
        ({"timeout_s": float("inf")}, ValueError),
        ({"result_type": Call | Wire}, TypeError),
    ],
)
async def test_what_cannot_be_asked_raises_at_the_caller_and_nothing_is_sent(
    wrong: dict[str, Any], expected: type[Exception]
) -> None:
    class Wrong(Guide):
        @rtvi.request("wrong")
        async def wrong(self) -> None:
            with pytest.raises(expected):
                await self.call_client(**{"function_name": "f", **wrong})

    async with calling(Wrong()) as call:
        await call.ask("wrong")
        assert types(await call.heard()) == ["server-response"]
        assert call.books.open_calls == 0


async def test_so_many_calls_may_be_open_and_one_more_raises() -> None:
    class Eager(Guide):
        @rtvi.request("many")
        async def many(self, count: int) -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(self.ask_client)

    bot = Eager()
    async with calling(bot) as call:
        await call.ask("many", MAX_CALLS, "q")
        asked = [await called(call) for _ in range(MAX_CALLS)]
        assert call.books.open_calls == MAX_CALLS
        await call.ask("where", msg_id="over")
        assert (await call.answer("over"))["type"] == "error-response"
        (error,) = bot.outcomes
        assert isinstance(error, rtvi.TooManyClientCalls)
        await answer(call, asked[0], "x")
        await call.until(lambda wire: wire["type"] == STOPPED)
        await call.ask("where", msg_id="again")
        assert (await called(call))["data"]["tool_call_id"] not in {wire["data"]["tool_call_id"] for wire in asked}


# -- what ends a call besides its result ---------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", [virtual_time()])
class TestDeadlines:
    async def test_a_client_that_does_not_answer_is_waited_for_until_the_deadline(self) -> None:
        bot = Guide()
        async with calling(bot) as call:
            began = anyio.current_time()
            await call.ask("where", {"timeout_s": 2.5})
            asked = await called(call)
            heard = await call.until(lambda wire: wire["type"] == "error-response")
            assert anyio.current_time() - began == pytest.approx(2.5)
            assert stopped(heard) == cancelled(asked)
            (error,) = bot.outcomes
            assert isinstance(error, rtvi.ClientCallTimeout)
            assert isinstance(error, TimeoutError)
            assert (error.timeout_s, str(error)) == (2.5, "get_location: no result from the client within 2.5 s")
            await answer(call, asked, "late", "late")
            (reply,) = await call.heard()
            assert (reply["id"], reply["data"]["error"]) == ("late", "Unknown tool call")
            assert call.books.stray_results == 1

    async def test_the_deadline_of_the_request_ends_its_call(self) -> None:
        bot = Guide()
        async with calling(bot, request_timeout_s=3.0) as call:
            await call.ask("where", {"timeout_s": 60})
            asked = await called(call)
            heard = await call.until(lambda wire: wire["type"] == STOPPED)
            assert stopped(heard) == cancelled(asked)
            assert not isinstance(bot.outcomes[0], Exception)  # its handler was cancelled
            assert call.books.open_calls == 0
            await answer(call, asked, "late", "late")
            assert types(await call.heard()) == ["error-response"]

    async def test_a_handler_that_refuses_its_cancellation_leaves_its_call_to_the_deadline(self) -> None:
        class Stubborn(Guide):
            @rtvi.request("stubborn")
            async def stubborn(self) -> None:
                with anyio.CancelScope(shield=True):
                    await self.ask_client(timeout_s=30)

        bot = Stubborn()
        async with calling(bot, request_timeout_s=2.0) as call:
            await call.ask("stubborn")
            asked = await called(call)
            heard = await call.until(lambda wire: wire["type"] == STOPPED)
            assert stopped(heard) == cancelled(asked)
            await call.heard()
            assert [type(error) for error in bot.outcomes] == [rtvi.ClientCallTimeout]
            assert call.books.open_calls == 0

    @pytest.mark.parametrize("crashes", ["tools", "door", "observer", "outbound", "ingress"])
    async def test_a_crash_of_another_actor_meanwhile_changes_nothing(self, crashes: str) -> None:
        bot = Guide()
        async with calling(bot) as call:
            await call.ask("where", msg_id="a")
            await call.ask("where", {"timeout_s": 4.0}, "b")
            first = await called(call)
            second = await called(call)
            call.session.system.crash(call.session.actor(crashes))
            await anyio.sleep(1)
            await answer(call, first, "here")
            heard = await call.until(lambda wire: wire.get("id") == "b")
            assert sorted(stopped(heard)) == sorted([(first["data"]["tool_call_id"], False), *cancelled(second)])
            assert [getattr(outcome, "timeout_s", outcome) for outcome in bot.outcomes] == ["here", 4.0]


async def test_a_second_result_is_refused_and_the_first_one_counts() -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.ask("where")
        asked = await called(call)
        await answer(call, asked, "first", "1")
        await answer(call, asked, "second", "2")
        heard = await call.heard()
        assert [(wire["id"], wire["data"]["error"]) for wire in of_type(heard, "error-response")] == [
            ("2", "Unknown tool call")
        ]
        assert (bot.outcomes, call.books.stray_results) == (["first"], 1)


async def test_an_interruption_cancels_the_turns_call() -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.say("hi")
        asked = await called(call)
        await call.client.send_interruption()
        assert stopped(await call.heard()) == cancelled(asked)
        assert [isinstance(error, Exception) for error in bot.outcomes] == [False]
        assert call.books.open_calls == 0
        await answer(call, asked, "late")
        assert types(await call.heard()) == ["error-response"]


async def test_a_turn_that_is_cancelled_gives_up_also_a_call_that_outlives_interruptions() -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.say("on")
        asked = await called(call)
        await call.client.send_interruption()
        assert stopped(await call.heard()) == cancelled(asked)
        assert (len(bot.outcomes), call.books.open_calls) == (1, 0)


async def test_an_interruption_cancels_the_call_of_a_request_which_may_go_on_without() -> None:
    class Flexible(Guide):
        @rtvi.request("flexible")
        async def flexible(self) -> str:
            try:
                return str(await self.call_client("f"))
            except rtvi.ClientCallCancelled as error:
                return error.reason

    async with calling(Flexible()) as call:
        await call.ask("flexible")
        asked = await called(call)
        await call.client.send_interruption()
        heard = await call.heard()
        assert stopped(heard) == cancelled(asked)
        assert heard[-1]["data"]["d"] == "interrupted"


async def test_a_call_may_outlive_an_interruption_of_the_bots_own_too() -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.ask("where", {"cancel_on_interruption": False})
        asked = await called(call)
        await call.client.send_interruption()
        call.session.control.interrupt_bot()
        assert stopped(await so_far(call)) == []
        await answer(call, asked, "here")
        assert (await call.answer("q"))["data"]["d"] == "here"


@pytest.mark.parametrize("by", ["client", "host"])
async def test_the_end_of_the_session_ends_the_call(by: str) -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.ask("where", {"timeout_s": 600})
        asked = await called(call)
        if by == "client":
            await call.leave()
        else:
            call.session.close()
        session = call.session
    (error,) = bot.outcomes
    assert isinstance(error, rtvi.ClientCallCancelled)
    assert error.reason == "gone"
    assert session.statistics().open_calls == 0
    if by == "host":
        heard = call._texts(call.client.drain())
        assert (stopped(heard), types(heard)[-1]) == (cancelled(asked), "error-response")


async def test_a_call_at_the_end_of_the_session_is_refused_at_once() -> None:
    class Polite(Guide):
        async def on_disconnect(self, reason: str) -> None:
            await self.ask_client()

    bot = Polite()
    async with calling(bot) as call:
        await call.leave()
    assert [getattr(error, "reason", None) for error in bot.outcomes] == ["gone"]


async def test_a_crash_of_the_bot_cancels_the_calls_of_the_incarnation_before_and_no_others() -> None:
    outcomes: list[Any] = []
    async with calling(Guide(outcomes)) as call:
        await call.ask("where", msg_id="old")
        asked = await called(call)
        call.session.system.crash(call.session.actor("bot"))
        assert stopped(await call.heard()) == cancelled(asked)
        assert call.books.open_calls == 0
        await call.ask("where", msg_id="new")
        newer = await called(call)
        await answer(call, asked, "late", "late")
        await answer(call, newer, "here")
        heard = await call.heard()
        assert [wire["data"].get("d") for wire in of_type(heard, "server-response")] == ["here"]
        assert [wire["id"] for wire in of_type(heard, "error-response")] == ["late"]
        assert outcomes[-1] == "here"


async def test_a_result_that_arrives_while_the_bot_is_down_closes_the_call_for_the_client() -> None:
    async with calling(Guide([])) as call:
        bot = call.session.actor("bot")
        await call.ask("where", msg_id="old")
        asked = await called(call)
        bot.cell.suspended = True
        await answer(call, asked, "here")
        while not bot.cell.mailbox.user:
            await anyio.lowlevel.checkpoint()
        call.session.system.crash(bot)
        bot.cell.suspended = False
        bot.cell.notify()
        assert stopped(await call.heard()) == cancelled(asked)
        assert (call.books.open_calls, call.books.stray_results) == (0, 0)


async def test_the_handler_may_give_up_by_itself() -> None:
    class Impatient(Guide):
        @rtvi.request("soon")
        async def soon(self) -> str:
            with anyio.move_on_after(0.01):
                await self.ask_client()
            return "never mind"

    bot = Impatient()
    async with calling(bot) as call:
        await call.ask("soon")
        heard = await call.until(lambda wire: wire["type"] == "server-response")
        assert [was_cancelled for _, was_cancelled in stopped(heard)] == [True]
        assert call.books.open_calls == 0


@pytest.mark.parametrize("name", ["tools", "observer"])
async def test_where_an_actor_takes_no_mail_the_call_raises_and_leaves_nothing_open(name: str) -> None:
    bot = Guide()
    async with calling(bot) as call:
        await call.session.idle()
        cell = call.session.actor(name).cell
        cell.mailbox.max_count = 0
        await call.ask("where")
        while not bot.outcomes:
            await anyio.lowlevel.checkpoint()
        assert [type(error) for error in bot.outcomes] == [rtvi.Rejected]
        assert call.books.open_calls == 0
        cell.mailbox.max_count = 100
        await call.ask("where", msg_id="again")
        heard = await call.until(lambda wire: wire["type"] in CALLED)
        assert stopped(heard) == []  # nothing ends that the client has never heard of


async def test_a_bot_that_is_given_up_leaves_no_call_open() -> None:
    outcomes: list[Any] = []
    async with calling(Guide(outcomes), restart_intensity=0) as call:
        await call.ask("where")
        await called(call)
        call.session.system.crash(call.session.actor("bot"))
        await call.session.wait_closed()
        session = call.session
    assert (session.statistics().open_calls, len(outcomes)) == (0, 1)


# -- any order of everything ---------------------------------------------------------------------


class Made(NamedTuple):
    """What the model knows of a call."""

    tool_call_id: str
    due_s: float
    interruptible: bool


class Model:
    """A session whose calls are answered, late, doubly and wrongly, while actors crash: each ends once, as it must."""

    def __init__(self, call: Call, outcomes: list[Any]) -> None:
        self.call = call
        self.outcomes = outcomes
        self.made: list[Made] = []
        self.open: dict[str, Made] = {}
        self.ends: list[tuple[str, bool]] = []
        """As the client must hear them."""
        self.strays = 0
        self.messages = 0
        self.heard: list[Wire] = []

    def end(self, tool_call_id: str, was_cancelled: bool = True) -> None:
        del self.open[tool_call_id]
        self.ends.append((tool_call_id, was_cancelled))

    async def settle(self, for_s: float = 0.01) -> None:
        """Let time pass; everything that can happen by then has happened."""
        await anyio.sleep(for_s)
        self.heard += self.call._texts(self.call.client.drain())
        for made in sorted(self.open.values(), key=lambda made: made.due_s):
            if made.due_s <= anyio.current_time():
                self.end(made.tool_call_id)

    # -- what may happen -------------------------------------------------------------------

    async def make(self, timeout_s: float, interruptible: bool) -> None:
        due_s = anyio.current_time() + timeout_s
        options = {"timeout_s": timeout_s, "cancel_on_interruption": interruptible}
        await self.call.ask("where", options, f"q{len(self.made)}")
        await self.settle()
        asked = of_type(self.heard, "llm-function-call-in-progress")[-1]
        made = Made(asked["data"]["tool_call_id"], due_s, interruptible)
        self.made.append(made)
        self.open[made.tool_call_id] = made

    async def answer(self, at: int, name: str) -> None:
        """The result of some call that was made, or of none."""
        tool_call_id = self.made[at % len(self.made)].tool_call_id if self.made else "made up"
        self.messages += 1
        if name == "get_location" and tool_call_id in self.open:
            self.end(tool_call_id, False)
        else:
            self.strays += 1
        data = {"function_name": name, "tool_call_id": tool_call_id, "arguments": {}, "result": "x"}
        await self.call.send("llm-function-call-result", f"r{self.messages}", data)

    async def interrupt(self) -> None:
        await self.call.client.send_interruption()
        for made in [made for made in self.open.values() if made.interruptible]:
            self.end(made.tool_call_id)

    def crash(self, name: str) -> None:
        self.call.session.system.crash(self.call.session.actor(name))
        if name == "bot":
            for tool_call_id in list(self.open):
                self.end(tool_call_id)

    # -- what must hold --------------------------------------------------------------------

    def check(self) -> None:
        books = self.call.books
        assert (books.open_calls, books.stray_results) == (len(self.open), self.strays)
        assert sorted(stopped(self.heard)) == sorted(self.ends)
        assert len(self.outcomes) == len(self.made) - len(self.open)
        refused = [wire for wire in of_type(self.heard, "error-response") if wire["id"].startswith("r")]
        assert len(refused) == self.strays


CRASHED: Final = ("ingress", "tools", "door", "observer", "outbound", "bot")
STEPS: Final = st.one_of(
    st.tuples(st.just("make"), st.sampled_from([1.003, 2.005, 7.007]), st.booleans()),
    st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from(["get_location"] * 3 + ["other"])),
    st.tuples(st.just("sleep"), st.sampled_from([0.5, 1.5])),
    st.tuples(st.just("interrupt")),
    st.tuples(st.just("crash"), st.sampled_from(CRASHED)),
)
PATIENT: Final[dict[str, Any]] = {"restart_intensity": 10**6, "restart_backoff": rtvi.Backoff(immediate=10**6)}


async def live(steps: list[Any]) -> None:
    outcomes: list[Any] = []
    async with calling(Guide(outcomes), request_timeout_s=600.0, **PATIENT) as call:
        model = Model(call, outcomes)
        for what, *arguments in steps:
            if what == "sleep":
                await model.settle(*arguments)
            elif what == "crash":
                model.crash(*arguments)
            else:
                await getattr(model, what)(*arguments)
            await model.settle()
            model.check()
        left = len(model.open)
    assert call.session.statistics().open_calls == 0
    assert len(outcomes) == len(model.made)
    reasons = [getattr(outcome, "reason", None) for outcome in outcomes[len(outcomes) - left :]]
    assert reasons == ["gone"] * left


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=1, max_size=25))
def test_whatever_happens_every_call_ends_exactly_once(steps: list[Any]) -> None:
    backend, options = virtual_time()
    anyio.run(live, steps, backend=backend, backend_options=options)
