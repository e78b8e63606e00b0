from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import pytest

import rtvi_actors as rtvi
from rtvi_actors.commands import Commands
from rtvi_actors.protocol import server
from tests.session_kit import calling, message, types

pytestmark = pytest.mark.anyio

MESSAGE = rtvi.ClientMessage("m1", "topic")


def user_speech(commands: Commands) -> None:
    commands.user_started_speaking()
    commands.user_stopped_speaking()


def llm(commands: Commands) -> None:
    commands.llm_started()
    commands.llm_text("Yes.")
    commands.llm_stopped()


def tts(commands: Commands) -> None:
    commands.tts_started()
    commands.tts_text("Yes.")
    commands.tts_stopped()


def bot_speech(commands: Commands) -> None:
    commands.bot_started_speaking()
    commands.bot_stopped_speaking()


COMMANDS: dict[str, tuple[Callable[[Commands], None], list[tuple[str, Any]]]] = {
    "interrupt_bot": (lambda c: c.interrupt_bot(), [("bot-interrupted", None)]),
    "send_server_message": (lambda c: c.send_server_message([1, None]), [("server-message", [1, None])]),
    "send_server_response": (
        lambda c: c.send_server_response(MESSAGE, 0),
        [("server-response", {"t": "topic", "d": 0})],
    ),
    "send_server_response of nothing": (
        lambda c: c.send_server_response(MESSAGE),
        [("server-response", {"t": "topic"})],
    ),
    "send_error_response": (lambda c: c.send_error_response(MESSAGE, "No."), [("error-response", {"error": "No."})]),
    "send_error": (
        lambda c: c.send_error("Oh.", fatal=True),
        [("error", {"error": "Oh.", "message": "Oh.", "fatal": True})],
    ),
    "error": (lambda c: c.error("Oh."), [("error", {"error": "Oh.", "message": "Oh.", "fatal": False})]),
    "push": (lambda c: c.push(server.BotTtsStarted()), [("bot-tts-started", None)]),
    "push of a mapping": (
        lambda c: c.push({"type": "bot-tts-text", "data": {"text": "Yes."}}),
        [("bot-tts-text", {"text": "Yes."})],
    ),
    "handle_function_call": (
        lambda c: c.handle_function_call("f", "t1", {"a": 1}),
        [("llm-function-call", {"function_name": "f", "tool_call_id": "t1", "args": {"a": 1}})],
    ),
    "user speech": (
        user_speech,
        [("user-started-speaking", None), ("user-stopped-speaking", None)],
    ),
    "llm": (
        llm,
        [
            ("bot-llm-started", None),
            ("bot-llm-text", {"text": "Yes."}),
            ("bot-transcription", {"text": "Yes."}),
            ("bot-llm-stopped", None),
        ],
    ),
    "tts": (
        tts,
        [("bot-tts-started", None), ("bot-tts-text", {"text": "Yes."}), ("bot-tts-stopped", None)],
    ),
    "bot speech": (
        bot_speech,
        [("bot-started-speaking", None), ("bot-stopped-speaking", None)],
    ),
    "transcription": (
        lambda c: c.transcription("hi", "u", "2026-01-01T00:00:00Z", final=False),
        [
            (
                "user-input",
                {
                    "text": "hi",
                    "input_type": "transcription",
                    "timestamp": "2026-01-01T00:00:00Z",
                    "final": False,
                    "user_id": "u",
                },
            ),
            (
                "user-transcription",
                {"text": "hi", "user_id": "u", "timestamp": "2026-01-01T00:00:00Z", "final": False},
            ),
        ],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_is_the_same_on_the_bot_and_on_the_control(name: str) -> None:
    command, expected = COMMANDS[name]
    bot = rtvi.Bot()
    async with calling(bot) as call:
        for commands in (bot, call.session.control):
            command(commands)
            heard = await call.heard()
            assert [(wire["type"], wire.get("data")) for wire in heard] == expected


async def test_a_segment_reports_its_progress_by_its_id() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.bot_text("one two", segment_id=7)
        control.bot_started_speaking()
        control.bot_spoken(7, 3)
        control.bot_spoken(7)
        control.bot_text("shown", will_be_spoken=False)
        heard = await call.heard()
        assert types(heard) == ["bot-started-speaking", *["bot-output"] * 4]
        progress = [(wire["data"]["segment_id"], wire["data"]["spoken_status"]) for wire in heard[1:4]]
        assert progress == [(7, "new"), (7, "in-progress"), (7, "completed")]


async def test_the_control_may_be_used_from_any_thread_and_keeps_its_senders_order() -> None:
    async with calling(rtvi.Bot()) as call:

        def talk() -> None:
            for index in range(500):
                call.session.control.send_server_message([threading.get_ident(), index])

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(anyio.to_thread.run_sync, talk)
        by_thread: dict[int, list[int]] = {}
        for wire in await call.heard():
            by_thread.setdefault(wire["data"][0], []).append(wire["data"][1])
        numbers = sorted(number for numbers in by_thread.values() for number in numbers)
        assert numbers == sorted([*range(500)] * 3)
        for of_thread in by_thread.values():
            halves = [index for index, number in enumerate(of_thread) if number == 0]
            for start, end in zip(halves, [*halves[1:], len(of_thread)], strict=True):
                assert of_thread[start:end] == list(range(end - start))


async def test_an_injected_message_is_handled_and_counted_as_if_the_client_had_sent_it() -> None:
    async with calling(rtvi.Bot()) as call:
        before = call.books.conservation.received
        for form in (
            message("client-message", "a", {"t": "x"}),
            '{"label":"rtvi-ai","type":"client-message","id":"b"}',
        ):
            call.session.control.handle_message(form)
        heard = await call.heard()
        assert [(wire["id"], wire["type"]) for wire in heard] == [("a", "error-response"), ("b", "error-response")]
        assert call.books.conservation.received == before + 2


async def test_a_host_that_knows_its_client_takes_it_as_ready() -> None:
    class Greeter(rtvi.Bot):
        async def on_client_ready(self, client: rtvi.ClientReady) -> None:
            self.send_server_message("welcome")

    async with calling(Greeter(), ready=False) as call:
        call.session.control.set_client_ready()
        assert types(await call.heard()) == ["bot-ready", "server-message"]
        assert call.session.client_is_ready


async def test_bot_ready_may_be_said_before_any_client_ready_and_has_no_id_then() -> None:
    async with calling(rtvi.Bot(), ready=False) as call:
        call.session.control.set_bot_ready()
        assert (await call.heard())[0]["id"] == ""


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (lambda c: c.send_server_message(float("nan")), rtvi.NotJson),
        (lambda c: c.send_server_message({1: 2}), rtvi.NotJson),
        (lambda c: c.send_server_message(b"bytes"), rtvi.NotJson),
        (lambda c: c.send_error("\ud800"), rtvi.NotJson),
        (lambda c: c.send_error(5), TypeError),
        (lambda c: c.llm_text(None), TypeError),
        (lambda c: c.transcription(None), TypeError),
        (lambda c: c.set_bot_ready([1]), TypeError),
        (lambda c: c.handle_function_call("f", "t", []), TypeError),
        (lambda c: c.bot_text("x", segment_id=0), ValueError),
        (lambda c: c.bot_text("x", segment_id=2**31), ValueError),
        (lambda c: c.push(object()), rtvi.Undeclared),
        (lambda c: c.push({"type": "nope", "data": {}}), ValueError),
        (lambda c: c.push({"type": "bot-tts-text", "data": {"text": 5}}), ValueError),
        (lambda c: c.push({}), ValueError),
    ],
)
async def test_what_cannot_be_sent_raises_where_it_was_said(
    command: Callable[[Any], None], error: type[Exception]
) -> None:
    async with calling(rtvi.Bot()) as call:
        with pytest.raises(error):
            command(call.session.control)
        assert await call.heard() == []


async def test_a_segment_id_that_is_in_use_is_ignored_and_crashes_nothing() -> None:
    async with calling(rtvi.Bot()) as call:
        call.session.control.bot_started_speaking()
        call.session.control.bot_text("one", segment_id=7)
        call.session.control.bot_text("other", segment_id=7)
        assert types(await call.heard()) == ["bot-started-speaking", "bot-output"]
        assert call.restarts("observer") == 0


async def test_end_lets_what_was_emitted_before_leave_first() -> None:
    async with calling(rtvi.Bot()) as call:
        for index in range(50):
            call.session.control.send_server_message(index)
        call.session.control.end("that is all")
        assert await call.session.wait_closed() == "that is all"
    assert [wire["data"] for wire in call._texts(call.client.drain())] == list(range(50))
