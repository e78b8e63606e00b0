from __future__ import annotations

import pytest

import rtvi_actors as rtvi
from tests.session_kit import calling, of_type, types

pytestmark = pytest.mark.anyio


async def test_a_sentence_is_told_when_it_ends_and_what_is_left_at_the_end() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        for text in ("One. Two", ".", " three"):
            control.llm_text(text)
        control.llm_stopped()
        heard = await call.heard()
        assert [wire["data"]["text"] for wire in of_type(heard, "bot-transcription")] == ["One. Two.", " three"]


async def test_segments_and_the_unfinished_sentence_survive_a_crash() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.bot_started_speaking()
        control.bot_text("one two", segment_id=3)
        control.llm_text("Half a ")
        await call.heard()
        call.session.system.crash(call.session.actor("observer"))
        control.bot_spoken(3)
        control.llm_text("sentence.")
        heard = await call.heard()
        assert types(heard) == ["bot-output", "bot-llm-text", "bot-transcription"]
        assert heard[0]["data"]["spoken_status"] == "completed"
        assert heard[2]["data"]["text"] == "Half a sentence."


async def test_an_interruption_drops_what_was_never_shown_and_closes_what_was() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.bot_text("held back", segment_id=1)
        control.interrupt_bot()  # which goes over the bot, so what follows would overtake it
        await call.session.idle()
        control.bot_started_speaking()
        control.bot_text("one two", segment_id=2)
        control.bot_spoken(2, 3)
        await call.session.idle()
        control.interrupt_bot()
        outputs = of_type(await call.heard(), "bot-output")
        assert {wire["data"]["segment_id"] for wire in outputs} == {2}
        assert outputs[-1]["data"]["spoken_progress"] == {"accumulated_text": "one", "remaining_text": ""}


@pytest.mark.parametrize(("version", "kinds"), [("1.3.0", [["word", "one"]]), ("2.2.0", [["sentence", "one two"]])])
async def test_progress_is_told_in_the_form_of_the_clients_version(version: str, kinds: list[list[str]]) -> None:
    async with calling(rtvi.Bot(), ready=False) as call:
        await call.ready(version=version)
        control = call.session.control
        control.bot_started_speaking()
        control.bot_text("one two", segment_id=2)
        await call.heard()
        control.bot_spoken(2, 3)
        outputs = of_type(await call.heard(), "bot-output")
        assert [[wire["data"]["output_type"], wire["data"]["text"]] for wire in outputs] == kinds


async def test_a_response_that_was_never_ended_is_closed_by_the_next() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.llm_started()
        control.llm_text("Half a ")
        await call.heard()
        call.session.system.crash(call.session.actor("observer"))  # it knows that over a crash, too
        control.llm_started()
        control.llm_text("Whole.")
        control.llm_stopped()
        heard = await call.heard()
        assert types(heard) == [
            "bot-llm-stopped",
            "bot-llm-started",
            "bot-llm-text",
            "bot-transcription",
            "bot-llm-stopped",
        ]
        assert heard[3]["data"]["text"] == "Whole."
