from __future__ import annotations

from typing import Any

import pytest

import rtvi_actors as rtvi
from tests.session_kit import Frame, calling, types

pytestmark = pytest.mark.anyio


class Frames(rtvi.Bot):
    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Any] = []

    def on_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        super().on_frame(frame)


def append(text: str, run: bool = True) -> rtvi.LLMMessagesAppend:
    return rtvi.LLMMessagesAppend((rtvi.LLMMessage("user", text),), run, "s")


async def frames_of(call: Any, bot: Frames) -> list[Any]:
    """What the bot got since."""
    await call.heard()
    taken, bot.frames = bot.frames, []
    return taken


async def test_send_text_interrupts_then_appends() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.say("hi")
        assert await frames_of(call, bot) == [rtvi.Interruption(), append("hi")]


async def test_text_that_is_not_to_run_neither_interrupts_nor_runs() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.say("hi", run_immediately=False)
        assert await frames_of(call, bot) == [append("hi", run=False)]


async def test_the_switch_is_turned_for_a_text_that_wants_another_answer_and_turned_back() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.say("quiet", audio_response=False, run_immediately=False)
        on, text, off = await frames_of(call, bot)
        assert (on, text, bool(off.skip_tts)) == (rtvi.LLMConfigureOutput(True), append("quiet", run=False), False)
        call.session.control.configure_output(True)
        await frames_of(call, bot)
        await call.say("quiet", audio_response=False, run_immediately=False)
        assert await frames_of(call, bot) == [append("quiet", run=False)]


async def test_the_client_gets_its_text_back_behind_the_interruption() -> None:
    async with calling(Frames()) as call:
        await call.say("hi", "s9")
        heard = await call.heard()
        assert types(heard) == ["bot-interrupted", "user-input"]
        assert (heard[1]["data"]["text"], heard[1]["data"]["msg_id"]) == ("hi", "s9")


async def test_a_binary_interruption_reaches_the_bot_in_its_place() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.client.send_interruption()
        assert await frames_of(call, bot) == [rtvi.Interruption()]


async def test_a_text_that_is_none_is_refused() -> None:
    async with calling(Frames()) as call:
        await call.send("send-text", "s", {"content": 5})
        (reply,) = await call.heard()
        assert (reply["id"], reply["data"]["error"].endswith("(data.content)")) == ("s", True)
