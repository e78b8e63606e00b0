from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.concerns import observer as observer_module
from rtvi_actors.concerns.observer import _REPORTS, _SWITCHES, OWN_IDS
from rtvi_actors.protocol import server, ui
from rtvi_actors.protocol.envelope import Json
from tests.session_kit import Call, Wire, calling, of_type, types
from tests.test_reports import EVERYTHING, REPORTS

pytestmark = pytest.mark.anyio


def texts(heard: list[Wire], *kinds: str) -> list[str]:
    """The texts of the messages of these types."""
    return [wire["data"]["text"] for wire in of_type(heard, *kinds)]


def report(call: Call, frame: Any) -> None:
    """As the bot, or playout, reports it."""
    call.session.actor("observer").tell(frame)


async def test_a_sentence_is_told_when_it_ends_and_what_is_left_at_the_end() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        for text in ("One. Two", ".", " three"):
            control.llm_text(text)
        control.llm_stopped()
        heard = await call.heard()
        assert [wire["data"]["text"] for wire in of_type(heard, "bot-transcription")] == ["One. Two.", " three"]


async def test_a_sentence_that_is_not_to_be_shown_is_not_shown_before_speech_nor_at_the_end() -> None:
    class Answering(rtvi.Bot):
        async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
            async with self.response() as out:
                self.llm_text("Not shown, ")
                await out.say("Shown.", b"", 16_000)
                await out.text("Shown, ")
                await out.say("too.", b"", 16_000)
                self.llm_text("At the end")

    async with calling(Answering()) as call:
        await call.say("hi")
        heard = await call.heard()
        assert texts(heard, "bot-output") == ["Shown.", "Shown, ", "too."]
        assert texts(heard, "bot-transcription") == ["Not shown, ", "Shown.", "Shown, ", "too.", "At the end"]


async def test_a_segment_without_an_id_never_takes_that_of_another() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.bot_text("one", segment_id=1)
        control.bot_text("two", will_be_spoken=False)
        control.bot_text("three", segment_id=2)
        control.bot_started_speaking()
        outputs = of_type(await call.heard(), "bot-output")
        assert texts(outputs, "bot-output") == ["one", "two", "three"]
        assert [wire["data"]["segment_id"] for wire in outputs] == [1, OWN_IDS, 2]


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
        assert [[wire["data"]["aggregated_by"], wire["data"]["text"]] for wire in outputs] == kinds


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


async def test_what_is_open_is_closed_before_the_session_is() -> None:
    async with calling(rtvi.Bot()) as call:
        call.session.control.bot_text("one two", segment_id=1, with_speech=False)
        call.session.control.end()
        await call.session.wait_closed()
    assert [wire["data"]["spoken_status"] for wire in call._texts(call.client.drain())] == ["new", "completed"]


# -- parameters --


@pytest.mark.parametrize("name", sorted(set(_SWITCHES.values())))
async def test_a_parameter_turns_its_messages_off_and_no_others(name: str) -> None:
    gone = {kind for kind, struct in server.SERVER.items() if _SWITCHES.get(struct) == name}
    async with calling(rtvi.Bot(), observer=structs.replace(EVERYTHING, **{name: False})) as call:
        for said, messages in REPORTS.values():
            said(call.session.control)
            assert types(await call.heard()) == [kind for kind, _ in messages if kind not in gone]
            call.session.actor("observer").tell(frames.SpeechLost(7))
            await call.heard()


async def test_bot_output_is_off_as_a_whole() -> None:
    async with calling(rtvi.Bot(), observer=rtvi.ObserverParams(bot_output_enabled=False)) as call:
        control = call.session.control
        control.bot_started_speaking()
        control.bot_text("one two", segment_id=1)
        control.tts_text("one", kind="word", segment_id=1)
        control.configure_observer(bot_output_enabled=True)
        control.bot_spoken(1)
        assert types(await call.heard()) == ["bot-started-speaking", "bot-tts-text"]


async def test_who_speaks_is_known_though_it_is_not_told() -> None:
    async with calling(rtvi.Bot(), observer=rtvi.ObserverParams(bot_speaking_enabled=False)) as call:
        control = call.session.control
        control.bot_text("one", segment_id=1)
        control.bot_started_speaking()
        control.bot_text("two", segment_id=2)
        control.bot_stopped_speaking()
        assert texts(await call.heard(), "bot-output") == ["one", "two"]


async def test_a_change_takes_effect_between_what_was_reported_before_and_after() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        for enabled in (False, True, False):
            control.user_started_speaking()
            control.configure_observer(user_speaking_enabled=enabled)
            control.user_stopped_speaking()
        expected = ["user-started-speaking", "user-stopped-speaking", "user-started-speaking"]
        assert types(await call.heard()) == expected


async def test_changes_of_several_parameters_add_up() -> None:
    async with calling(rtvi.Bot()) as call:
        call.session.control.configure_observer(bot_llm_enabled=False)
        call.session.control.configure_observer(function_call_report_level={"*": "full"})
        await call.session.idle()
        expected = rtvi.ObserverParams(
            bot_llm_enabled=False, function_call_report_level={"*": rtvi.FunctionCallReportLevel.FULL}
        )
        assert call.session._ledger.observer == expected
        assert call.session._ledger._observer_changes == {}


async def test_a_handler_that_fails_has_changed_nothing() -> None:
    class Failing(rtvi.Bot):
        @rtvi.message("go")
        def go(self) -> None:
            self.configure_observer(bot_llm_enabled=False)
            raise RuntimeError

    async with calling(Failing()) as call:
        await call.ask("go")
        await call.session.idle()
        assert call.session._ledger.observer == rtvi.ObserverParams()
        assert call.session._ledger._observer_changes == {}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"bot_llm_enabled": 1}, TypeError),
        ({"none_such": True}, TypeError),
        ({"audio_level_period_secs": -1}, ValueError),
    ],
)
async def test_what_cannot_be_a_parameter_raises_at_the_caller(changes: dict[str, Any], error: type[Exception]) -> None:
    async with calling(rtvi.Bot()) as call:
        with pytest.raises(error):
            call.session.control.configure_observer(**changes)


async def test_a_change_survives_a_crash() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.configure_observer(user_speaking_enabled=False)
        await call.session.idle()
        call.session.system.crash(call.session.actor("observer"))
        control.user_started_speaking()
        control.llm_started()
        assert types(await call.heard()) == ["bot-llm-started"]
        assert call.restarts("observer") == 1


async def test_a_change_that_the_observer_crashes_on_is_made_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise SystemExit

    rows: dict[type[Any], Any] = {**_REPORTS, frames.ConfigureObserver: crash}
    monkeypatch.setattr(observer_module, "_REPORTS", rows)
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.bot_text("one", segment_id=1, with_speech=False)
        control.configure_observer(user_speaking_enabled=False, bot_output_enabled=False)
        control.user_started_speaking()
        control.llm_started()
        heard = await call.heard()
        assert types(heard) == ["bot-output", "bot-output", "bot-llm-started"]
        assert heard[1]["data"]["spoken_status"] == "completed"
        assert call.restarts("observer") == 1


async def test_a_change_that_is_lost_without_a_crash_is_made_all_the_same() -> None:
    async with calling(rtvi.Bot()) as call:
        ledger = call.session._ledger
        ledger.plan_observer((99, {"user_speaking_enabled": False}))
        call.session._losses.lost("observer", frames.ConfigureObserver(99), "overflow")
        call.session.control.user_started_speaking()
        call.session.control.llm_started()
        assert types(await call.heard()) == ["bot-llm-started"]


# -- function calls, jobs, metrics --

LEVELS = {
    "disabled": [],
    "none": [{}, {"tool_call_id": "c"}, {"tool_call_id": "c", "cancelled": False}],
    "name": [
        {"function_name": "f"},
        {"tool_call_id": "c", "function_name": "f"},
        {"tool_call_id": "c", "function_name": "f", "cancelled": False},
    ],
    "arguments": [
        {"function_name": "f"},
        {"tool_call_id": "c", "function_name": "f", "arguments": {"a": 1}},
        {"tool_call_id": "c", "function_name": "f", "cancelled": False},
    ],
    "full": [
        {"function_name": "f"},
        {"tool_call_id": "c", "function_name": "f", "arguments": {"a": 1}},
        {"tool_call_id": "c", "function_name": "f", "cancelled": False, "result": 0},
    ],
}


@pytest.mark.parametrize("level", LEVELS)
async def test_a_function_call_is_told_as_far_as_its_level_says(level: str) -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.configure_observer(function_call_report_level={"f": level, "*": "disabled"})
        for name in ("f", "g"):
            control.function_calls_started([(name, "c", {"a": 1})])
            control.function_call_in_progress(name, "c", {"a": 1})
            control.function_call_result(name, "c", 0)
        assert [wire["data"] for wire in await call.heard()] == LEVELS[level]


@pytest.mark.parametrize("result", [0, "", [], {}, False, 0.0, None])
async def test_a_result_is_left_out_only_where_there_is_none(result: Any) -> None:
    async with calling(rtvi.Bot(), observer=EVERYTHING) as call:
        call.session.control.function_call_result("f", "c", result)
        (wire,) = await call.heard()
        assert wire["data"].get("result", "absent") == ("absent" if result is None else result)


async def test_metrics_of_nothing_are_not_told() -> None:
    async with calling(rtvi.Bot()) as call:
        call.session.control.metrics(server.MetricsData())
        assert await call.heard() == []


async def test_a_step_of_a_job_group_that_its_rules_forbid_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with calling(rtvi.Bot()) as call:
        report(call, frames.JobReport(ui.JobUpdate("j", "w", 1)))
        report(call, frames.JobReport(ui.GroupStarted("j", 1, ("w",))))
        report(call, frames.JobReport(ui.GroupCompleted("j", 2)))
        heard = await call.heard()
        assert [wire["data"]["kind"] for wire in heard] == ["group_started"]
        errors = [record.message for record in caplog.records if "is not reported" in record.message]
        assert len(errors) == 2
        assert f"error {call.session.id}.1: JobReport" in errors[0]
        assert call.restarts("observer") == 0


async def test_jobs_are_known_over_a_crash_and_cancelled_when_they_are_lost() -> None:
    async with calling(rtvi.Bot()) as call:
        report(call, frames.JobReport(ui.GroupStarted("j", 1, ("a", "b"))))
        report(call, frames.JobReport(ui.JobCompleted("j", "a", "completed", 2)))
        await call.heard()
        call.session.system.crash(call.session.actor("observer"))
        report(call, frames.JobsLost())
        report(call, frames.JobsLost())
        heard = [wire["data"] for wire in await call.heard()]
        assert [data["kind"] for data in heard] == ["job_completed", "group_completed"]
        assert (heard[0]["worker_name"], heard[0]["status"]) == ("b", "cancelled")


async def test_typed_text_that_has_arrived_is_user_input() -> None:
    async with calling(rtvi.Bot()) as call:
        report(call, frames.UserText("hi", "m7", "T"))
        (wire,) = await call.heard()
        assert wire["type"] == "user-input"
        assert wire["data"] == {"text": "hi", "input_type": "chat", "timestamp": "T", "final": True, "msg_id": "m7"}


# -- what is not shown --


async def test_types_that_are_skipped_are_skipped_with_their_words() -> None:
    async with calling(rtvi.Bot(), observer=rtvi.ObserverParams(skip_text_types=frozenset({"code"}))) as call:
        control = call.session.control
        control.bot_started_speaking()
        await call.heard()
        control.bot_text("c d", kind="code", segment_id=1)
        control.tts_text("c", kind="word", segment_id=1)
        control.bot_text_progress(1, "c", " d")
        control.bot_text_progress(1, "c d", "")
        control.tts_text("code()", kind="code", spoken=True)
        control.bot_text("x", segment_id=2)
        assert texts(await call.heard(), "bot-output", "bot-tts-text") == ["x"]


async def test_a_response_of_sentences_is_not_shown_where_sentences_are_skipped() -> None:
    class Answering(rtvi.Bot):
        async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
            async with self.response() as out:
                await out.text("One.")

    async with calling(Answering(), observer=rtvi.ObserverParams(skip_text_types=frozenset({"sentence"}))) as call:
        await call.say("hi")
        heard = await call.heard()
        assert of_type(heard, "bot-output") == []
        assert texts(heard, "bot-llm-text", "bot-transcription") == ["One.", "One."]


@pytest.mark.parametrize(("version", "count"), [("1.3.0", 0), ("2.1.9", 0), ("2.2.0", 4)])
@pytest.mark.parametrize("held", [True, False])
async def test_a_backchannel_is_for_clients_that_know_it(version: str, count: int, held: bool) -> None:
    async with calling(rtvi.Bot(), ready=False) as call:
        if not held:
            await call.ready(version=version)
        control = call.session.control
        control.bot_text("Mm hm.", kind="backchannel", segment_id=1, with_speech=False)
        control.bot_text_progress(1, "Mm", " hm.")
        control.tts_text("Mm", kind="word", segment_id=1, spoken=False)
        control.tts_text("Mm hm.", kind="backchannel")
        heard = await call.heard()
        if held:
            assert heard == []
            heard = (await call.ready(version=version))[:-1] + await call.heard()
        assert len(of_type(heard, "bot-output", "bot-tts-text")) == count


# -- transforms --


def mask(text: str, kind: str) -> str:
    """Digits, one for one."""
    return "".join("*" if character.isdigit() else character for character in text)


def without_secrets(text: str, kind: str) -> str:
    return "" if "secret" in text else text


def transforming(*transforms: tuple[str, Callable[[str, str], str]], **params: Any) -> rtvi.ObserverParams:
    return rtvi.ObserverParams(bot_output_transforms=transforms, **params)


async def test_a_transform_shows_another_text_wherever_a_segment_shows() -> None:
    params = transforming(("*", mask), ("sentence", lambda text, kind: f"{text}"), tts_raw_text_enabled=True)
    async with calling(rtvi.Bot(), observer=params) as call:
        control = call.session.control
        control.bot_started_speaking()
        control.bot_text("Pay 4111 now.", segment_id=1)
        for word, progress in (("Pay", "Pay"), ("4111", "Pay 4111"), ("now.", "Pay 4111 now.")):
            control.tts_text(word, kind="word", segment_id=1)
            control.bot_text_progress(1, progress, "Pay 4111 now."[len(progress) :])
        control.bot_text("5", segment_id=2)
        control.bot_spoken(2)
        control.tts_text("6")
        heard = await call.heard()
        for wire in of_type(heard, "bot-output"):
            wire["data"].pop("segment_id")
        assert not set("0123456789") & set(str(heard))
        assert texts(heard, "bot-tts-text") == texts(heard, "tts-raw-text") == ["Pay", "****", "now.", "*"]
        accumulated = [w["data"]["spoken_progress"]["accumulated_text"] for w in of_type(heard, "bot-output")]
        assert accumulated == ["", "Pay", "Pay ****", "Pay **** now.", "", "*"]


async def test_each_transform_is_for_its_type_and_they_apply_one_after_the_other() -> None:
    seen: list[tuple[str, str]] = []

    def note(text: str, kind: str) -> str:
        seen.append((text, kind))
        return text + "!"

    async with calling(rtvi.Bot(), observer=transforming(("code", note), ("*", note), ("code", note))) as call:
        control = call.session.control
        control.bot_text("a", kind="code", will_be_spoken=False)
        control.bot_text("b", will_be_spoken=False)
        assert texts(await call.heard(), "bot-output") == ["a!!!", "b!"]
        assert seen == [("a", "code"), ("a!", "code"), ("a!!", "code"), ("b", "sentence")]


async def test_generated_text_is_told_by_sentences_where_it_is_transformed() -> None:
    params = transforming(("sentence", mask), llm_raw_text_enabled=True)
    async with calling(rtvi.Bot(), observer=params) as call:
        control = call.session.control
        control.llm_started()
        for piece in ("Pay 41", "11 ", "now.", " Or", " 5"):
            control.llm_text(piece)
        assert texts(await call.heard(), "llm-raw-text", "bot-llm-text", "bot-transcription") == 3 * ["Pay **** now."]
        control.llm_stopped()
        heard = await call.heard()
        assert types(heard) == ["llm-raw-text", "bot-llm-text", "bot-transcription", "bot-llm-stopped"]
        assert texts(heard, "bot-llm-text") == [" Or *"]


class Reciting(rtvi.Bot):
    """Says its text in pieces, then a sentence by itself."""

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            for piece in ("No ", "sec", "ret. ", "Public.", " secret rest"):
                await out.text(piece)
            await out.say("The secret", b"", 16_000)
            await out.say("The end.", b"", 16_000)


async def test_a_transform_that_blanks_text_blanks_it_everywhere() -> None:
    async with calling(Reciting(), observer=transforming(("*", without_secrets))) as call:
        await call.say("hi")
        heard = await call.heard()
        assert "secret" not in str(heard)
        assert texts(heard, "bot-llm-text") == texts(heard, "bot-transcription") == ["Public.", "The end."]
        assert texts(heard, "bot-output") == ["", "Public.", "", "", "The end."]


async def test_nothing_quotes_generated_text_past_its_transform() -> None:
    params = transforming(("sentence", without_secrets), bot_llm_marker_enabled=True)
    async with calling(rtvi.Bot(), observer=params) as call:
        origin = server.SearchOrigin("https://site", "Site", (server.SearchResult("a secret"),))
        found = server.BotLlmSearchResponseData("a secret", "<b>secret</b>", (origin,))
        for host in (call.session.control, call.session.control.source("a")):
            host.llm_marker("Done. A secret.", "Done", "turn", ["Done"])
            host.search_response(found)
        heard = [wire["data"] for wire in await call.heard()]
        assert heard[0] == {"text": "Done", "raw": "", "kind": "turn", "markers": ["Done"]}
        assert heard[1] == {"origins": [{"site_uri": "https://site", "site_title": "Site", "results": []}]}
        assert heard[2:] == heard[:2]


async def test_words_have_transforms_of_their_own_where_their_segment_is_shown_as_it_is() -> None:
    async with calling(rtvi.Bot(), observer=transforming(("word", mask)), ready=False) as call:
        await call.ready(version="1.3.0")
        control = call.session.control
        control.bot_started_speaking()
        control.bot_text("One 2.", segment_id=1)
        control.tts_text("2.", kind="word", segment_id=1)
        assert texts(await call.heard(), "bot-output", "bot-tts-text") == ["One 2.", "*.", "*."]


async def test_generated_text_that_waits_for_its_sentence_is_dropped_by_an_interruption() -> None:
    async with calling(rtvi.Bot(), observer=transforming(("*", mask))) as call:
        control = call.session.control
        control.llm_text("half a sent")
        control.interrupt_bot()
        await call.session.idle()
        control.llm_text("New one.")
        assert texts(await call.heard(), "bot-llm-text", "bot-transcription") == ["New one.", "New one."]


async def test_a_transform_for_another_type_leaves_generated_text_alone() -> None:
    async with calling(rtvi.Bot(), observer=transforming(("code", mask))) as call:
        call.session.control.llm_text("5")
        assert texts(await call.heard(), "bot-llm-text") == ["5"]


async def test_what_was_generated_before_transforms_change_is_told_by_those_before() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
        control.llm_text("told 1 ")
        control.configure_observer(bot_output_transforms=[("*", mask)])
        control.llm_text("held 2 ")
        control.configure_observer(bot_llm_marker_enabled=True)
        control.llm_text("and 3 ")
        control.configure_observer(bot_output_transforms=[])
        control.llm_text("told 4.")
        heard = await call.heard()
        assert texts(heard, "bot-llm-text") == ["told 1 ", "held * and * ", "told 4."]
        assert texts(heard, "bot-transcription") == ["told 1 ", "held * and * ", "told 4."]


async def test_what_waits_for_its_sentence_survives_a_crash() -> None:
    async with calling(rtvi.Bot(), observer=transforming(("*", mask))) as call:
        control = call.session.control
        control.llm_text("Pay 41")
        await call.session.idle()
        call.session.system.crash(call.session.actor("observer"))
        control.llm_text("11.")
        assert texts(await call.heard(), "bot-llm-text") == ["Pay ****."]


def raises(text: str, kind: str) -> str:
    raise RuntimeError(text)


@pytest.mark.parametrize("function", [raises, lambda text, kind: None, lambda text, kind: "\ud800"])
async def test_a_text_whose_transform_fails_is_not_shown_at_all(
    function: Callable[[str, str], str], caplog: pytest.LogCaptureFixture
) -> None:
    async with calling(rtvi.Bot(), observer=transforming(("sentence", function))) as call:
        control = call.session.control
        control.bot_started_speaking()
        await call.heard()
        control.bot_text("one two", segment_id=1)
        control.tts_text("one", kind="word", segment_id=1)
        control.bot_text_progress(1, "one", " two")
        control.bot_text_progress(1, "one two", "")
        control.tts_text("two", kind="word", segment_id=1)
        await call.session.idle()
        failures = [record for record in caplog.records if "its transform failed" in record.message]
        assert len(failures) == 1
        assert failures[0].levelno == logging.WARNING
        assert f"error {call.session.id}." in failures[0].message
        control.llm_text("Three.")
        control.tts_text("four")
        control.bot_text("code", kind="code", segment_id=2)
        assert texts(await call.heard(), "bot-output", "bot-tts-text", "bot-llm-text") == ["code"]
        assert call.restarts("observer") == 0


# -- sources --


async def test_reports_of_several_sources_keep_their_order() -> None:
    async with calling(rtvi.Bot()) as call:
        sources = [call.session.control.source(name) for name in ("a", "b")]
        call.session.control.configure_observer(ignored_sources={"b"})
        for number in range(20):
            sources[number % 2].llm_text(str(number))
            call.session.control.llm_text("-")
        expected = [text for number in range(0, 20, 2) for text in (str(number), "-", "-")]
        assert texts(await call.heard(), "bot-llm-text") == expected


# -- nothing brings it down --


@pytest.mark.parametrize(
    "frame",
    [
        frames.AggregatedText("x", segment_id=0),
        frames.AggregatedText("x", segment_id=2**40),
        frames.TTSText("x", segment_id=-1, spoken=True),
        frames.SpokenText(5, -3),
        frames.SpokenText(10**20 % 2**60, 10**9),
        frames.AggregatedTextProgress(7, "", ""),
        frames.SpeechLost(8),
        frames.FunctionCallInProgress(frames.FunctionCall("", "", Json(b"{}"))),
        frames.FunctionCallsStarted(()),
        frames.ConfigureObserver(12345),
        frames.JobReport(ui.GroupCompleted("", -1)),
        frames.Metrics(server.MetricsData()),
    ],
)
async def test_an_odd_report_is_told_or_not_and_crashes_nothing(frame: Any) -> None:
    async with calling(rtvi.Bot(), observer=EVERYTHING) as call:
        report(call, frame)
        call.session.control.llm_started()
        assert types(await call.heard())[-1] == "bot-llm-started"
        assert call.restarts("observer") == 0


def test_every_switch_is_a_parameter_that_is_one() -> None:
    params = rtvi.ObserverParams()
    assert all(isinstance(getattr(params, name), bool) for name in _SWITCHES.values())
    elsewhere = {"bot_output_enabled", "system_logs_enabled", "user_audio_level_enabled", "bot_audio_level_enabled"}
    switches = {name for name in params.__struct_fields__ if isinstance(getattr(params, name), bool)}
    assert switches == set(_SWITCHES.values()) | elsewhere
