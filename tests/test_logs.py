from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rtvi_actors as rtvi
from rtvi_actors import logs
from rtvi_actors.logs import LOG_LINES_PER_S, MAX_LINE_CHARS, MAX_READ_CHARS, _Router, _text
from rtvi_actors.reporting import ObserverParams
from tests.session_kit import Wire, calling, message, of_type, types, virtual_time

pytestmark = pytest.mark.anyio

LOGS = ObserverParams(system_logs_enabled=True)
SHAPE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| (\w+) +\| ([\w.]+):(\w+):\d+ - (.*)", re.DOTALL)
app = logging.getLogger("app")


@pytest.fixture(autouse=True)
def everything_is_logged() -> Iterator[None]:
    app.setLevel(logging.DEBUG)
    yield
    app.setLevel(logging.NOTSET)
    assert logs._ROUTER not in logging.getLogger().handlers


def lines(messages: list[Wire]) -> list[str]:
    """What was logged, without time and place."""
    found = [SHAPE.fullmatch(wire["data"]["text"]) for wire in of_type(messages, "system-log")]
    return [match[4].partition("\n")[0] for match in found if match is not None]


class Chatty(rtvi.Bot):
    @rtvi.request("log")
    def log(self, text: str) -> str:
        app.info("plain %s", text)
        return text

    @rtvi.request("later")
    async def log_later(self, text: str) -> str:
        await anyio.lowlevel.checkpoint()
        app.info("async %s", text)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._in_task, text)
        await anyio.to_thread.run_sync(app.info, "thread %s", text)
        return text

    @rtvi.request("fail")
    def fail(self, text: str) -> str:
        app.info("before %s", text)
        raise ValueError(text)

    @rtvi.request("many")
    def many(self, count: int) -> int:
        for number in range(count):
            app.info("line %d", number)
        return count

    @staticmethod
    async def _in_task(text: str) -> None:
        app.info("task %s", text)


async def test_no_line_leaves_unless_somebody_asks() -> None:
    async with calling(Chatty()) as call:
        assert logs._ROUTER not in logging.getLogger().handlers
        await call.ask("log", "x")
        assert types(await call.heard()) == ["server-response"]


async def test_what_handlers_tasks_and_worker_threads_log_goes_to_the_client() -> None:
    async with calling(Chatty(), observer=LOGS) as call:
        await call.ask("log", "a")
        await call.ask("later", "b", "last")
        heard = await call.until(lambda wire: wire.get("id") == "last")
        heard += await call.heard()
        assert lines(heard) == ["plain a", "async b", "task b", "thread b"]


async def test_a_line_has_the_shape_of_the_peers() -> None:
    async with calling(Chatty(), observer=LOGS) as call:
        await call.ask("log", "a")
        line = of_type(await call.heard(), "system-log")[0]["data"]["text"]
    match = SHAPE.fullmatch(line)
    assert match is not None
    assert match.groups() == ("INFO", "app", "log", "plain a")


async def test_each_client_gets_the_lines_of_its_own_session_and_nobody_those_of_none() -> None:
    async with (
        calling(Chatty(), observer=LOGS) as one,
        calling(Chatty(), observer=LOGS) as two,
        calling(Chatty()) as no,
    ):
        await one.ask("log", "one")
        await two.ask("log", "two")
        await no.ask("log", "no")
        app.warning("nobody's")
        assert lines(await one.heard()) == ["plain one"]
        assert lines(await two.heard()) == ["plain two"]
        assert types(await no.heard()) == ["server-response"]


async def test_a_handler_that_fails_has_logged_all_the_same() -> None:
    async with calling(Chatty(), observer=LOGS) as call:
        await call.ask("fail", "why")
        heard = await call.heard()
        assert lines(heard)[0] == "before why"
        reasons = [wire["data"]["text"] for wire in of_type(heard, "system-log") if "ValueError: why" in str(wire)]
        assert len(reasons) == 1  # the operator has asked for it; the error-response does not have it
        assert "why" not in str(of_type(heard, "error-response"))


async def test_what_the_runtime_says_of_a_sessions_actor_is_the_sessions() -> None:
    async with calling(Chatty(), observer=LOGS) as call, calling(Chatty(), observer=LOGS) as other:
        call.session.system.crash(call.session.actor("text"), RuntimeError("planted"))
        heard = await call.heard()
        assert lines(heard) == [f"{call.session.id}/text crashed"]
        assert "RuntimeError: planted" in str(heard)
        assert await other.heard() == []


@pytest.mark.parametrize("child", sorted(logs.SILENT))
async def test_what_the_actors_on_the_way_out_log_makes_no_line(child: str) -> None:
    async with calling(Chatty(), observer=LOGS) as call:
        call.session.system.crash(call.session.actor(child))
        await call.session.idle()
        ledger = call.session.actor(child).cell.context
        ledger.error_id("named by its number")  # without an actor that runs
        assert lines(await call.heard()) == [f"error {call.session.id}.1: named by its number"]


async def test_a_custom_actors_lines_are_the_sessions() -> None:
    class Own(rtvi.Concern):
        def on_received(self, message: rtvi.Received) -> None:
            app.info("own %s", message.type)

    async with calling(Chatty(), observer=LOGS, actors=(rtvi.CustomActor("own", Own, routes=("mine",)),)) as call:
        await call.send("mine")
        assert lines(await call.heard()) == ["own mine"]


async def test_a_threaded_actors_lines_are_the_sessions() -> None:
    class Blocking(rtvi.ThreadingActor):
        def on_message(self, message: rtvi.Received) -> None:
            app.info("blocking %s", message.type)

    custom = rtvi.CustomActor("blocking", Blocking)
    async with calling(Chatty(), observer=LOGS, actors=(custom,)) as call:
        call.session.actor("blocking").tell(rtvi.Received(0, "x", "", None))
        assert lines(await call.until(lambda wire: wire["type"] == "system-log")) == ["blocking x"]


async def test_logs_may_be_turned_on_and_off_while_the_session_runs() -> None:
    async with calling(Chatty()) as call:
        for wanted in (True, False, True):
            call.session.control.configure_observer(system_logs_enabled=wanted)
            await call.heard()
            assert (logs._ROUTER in logging.getLogger().handlers) is wanted
            await call.ask("log", "x")
            assert lines(await call.heard()) == (["plain x"] if wanted else [])


async def test_lines_wait_for_the_client_without_taking_the_place_of_what_the_bot_says() -> None:
    class Early(Chatty):
        async def on_bot_started(self) -> None:
            for number in range(2 * LOG_LINES_PER_S):
                app.info("early %d", number)
            self.send_server_message("hello")

    async with calling(Early(), ready=False, observer=LOGS) as call:
        assert await call.heard() == []
        assert call.books.held == 1
        heard = await call.ready() + await call.heard()
        assert types(heard)[:2] == ["bot-ready", "server-message"]
        assert lines(heard) == [f"early {number}" for number in range(LOG_LINES_PER_S)]


async def test_a_client_that_is_behind_is_spared_its_logs() -> None:
    async with calling(Chatty(), observer=LOGS, outbox_bytes=64 * 1024, capacity=1) as call:
        for _ in range(40):
            call.session.control.send_server_message("x" * 1000)
        await call.session._until(lambda: call.session._outbox.is_high)
        call.session.system.crash(call.session.actor("text"))
        await call.session._until(lambda: call.session._logs._left_out == 1)
        while call.session._outbox.is_high:
            await call.client.receive()
        call.session.system.crash(call.session.actor("tools"))
        heard = await call.until(lambda wire: wire["type"] == "system-log")
        assert lines(heard) == [f"{call.session.id}/tools crashed"]


class TestInVirtualTime:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_a_second_takes_so_many_lines_and_what_is_left_out_is_said(self) -> None:
        async with calling(Chatty(), observer=LOGS) as call:
            await call.ask("many", 3 * LOG_LINES_PER_S)
            assert lines(await call.heard()) == [f"line {number}" for number in range(LOG_LINES_PER_S)]
            await anyio.sleep(1.01)
            heard = await call.heard()
            assert [wire["data"]["text"] for wire in heard] == [f"{2 * LOG_LINES_PER_S} log lines are left out"]
            await call.ask("log", "again")
            assert lines(await call.heard()) == ["plain again"]
            await anyio.sleep(10)
            assert await call.heard() == []

    async def test_a_client_that_comes_late_hears_how_much_it_has_missed(self) -> None:
        async with calling(Chatty(), ready=False, observer=LOGS) as call:
            for _ in range(3):
                await call.client.send_text(message("client-message", "q", {"t": "many", "d": LOG_LINES_PER_S}))
                await call.session.idle()
                await anyio.sleep(1.01)
            await call.ready()
            assert lines(await call.heard()) == [f"line {number}" for number in range(LOG_LINES_PER_S)]
            await anyio.sleep(1.01)
            assert str(2 * LOG_LINES_PER_S) in str(await call.heard())


# -- texts ---------------------------------------------------------------------------------


def record(text: str, *args: object, name: str = "app") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, __file__, 1, text, args, None, "here")


def test_secrets_are_masked() -> None:
    assert _text(record("calling with api_key=%s", "abc123")).endswith("calling with api_key=[REDACTED]")


def test_a_long_line_loses_its_middle() -> None:
    text = _text(record("start %s end", "x" * 5000))
    assert len(text) <= MAX_LINE_CHARS
    assert "start xxx" in text
    assert text.endswith("xxx end")


def test_a_secret_that_the_first_cut_goes_through_is_left_out_whole() -> None:
    for shift in range(60):
        secret = "sk-" + "s" * 40
        text = _text(record("%s", "a" * shift + f" {secret}" * (2 * MAX_READ_CHARS // len(secret))))
        assert "sss" not in text


@given(st.text(max_size=300), st.integers(1, 200))
def test_every_line_is_bounded_and_can_be_sent(text: str, times: int) -> None:
    line = _text(record("%s", text * times))
    assert len(line) <= MAX_LINE_CHARS
    line.encode()


# -- the handler ---------------------------------------------------------------------------


async def test_a_record_that_cannot_be_formatted_is_reported_as_logging_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Clumsy(Chatty):
        @rtvi.request("clumsy")
        def clumsy(self) -> None:
            logs._ROUTER.emit(record("%d", "no number"))
            app.info("goes on")

    async with calling(Clumsy(), observer=LOGS) as call:
        await call.ask("clumsy")
        assert lines(await call.heard()) == ["goes on"]
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_program_without_handlers_keeps_its_warnings_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    router = _Router()
    alone = logging.getLogger("tests.alone")
    alone.propagate, alone.handlers = False, [router]
    try:
        alone.warning("seen")
        alone.info("not seen")
        alone.addHandler(logging.NullHandler())
        alone.warning("somebody else's")
    finally:
        alone.propagate, alone.handlers = True, []
    assert capsys.readouterr().err == "seen\n"


def test_only_our_own_loggers_are_read_for_what_a_line_is_about() -> None:
    session_of = logs._session_of
    assert session_of(record("%s crashed", "session-1/bot", name="rtvi_actors.runtime")) == "session-1"
    assert session_of(record("%s: failed", "session-1", name="rtvi_actors")) == "session-1"
    assert session_of(record("error %s: %s", "session-1.12", "session-2/bot", name="rtvi_actors")) == "session-1"
    assert session_of(record("%s crashed", "session-1/outbound", name="rtvi_actors.runtime")) == ""
    assert session_of(record("%s", "session-1/bot", name="app")) == ""
    assert session_of(record("%s", "session-1/bot", name="rtvi_actors_of_somebody_else")) == ""
    assert session_of(record("no arguments", name="rtvi_actors")) == ""
    assert session_of(record("%d", 1, name="rtvi_actors")) == ""
