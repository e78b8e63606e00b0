"""Each report of a host's speech stack arrives as its messages, whoever says it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from msgspec import structs

import rtvi_actors as rtvi
from rtvi_actors.protocol import server
from rtvi_actors.reports import Reports
from tests.session_kit import Wire, calling, types

pytestmark = pytest.mark.anyio

EVERYTHING = rtvi.ObserverParams(
    bot_llm_marker_enabled=True,
    vad_user_speaking_enabled=True,
    user_audio_level_enabled=True,
    bot_audio_level_enabled=True,
    stt_raw_text_enabled=True,
    llm_raw_text_enabled=True,
    tts_raw_text_enabled=True,
    function_call_report_level={"*": rtvi.FunctionCallReportLevel.FULL},
)
CALL = ("f", "c1", {"a": None})
FOUND = server.BotLlmSearchResponseData("found")
MEASURED = server.MetricsData(ttfb=(server.ProcessorValue("llm", 0.5),))

Row: TypeAlias = tuple[Callable[[Reports], None], list[tuple[str, Any]]]


def text(value: str) -> dict[str, str]:
    return {"text": value}


def output(value: str, status: str, progress: tuple[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """A bot-output of a sentence, as clients of 2.x get it."""
    kind = dict.fromkeys(("aggregated_by", "output_type", "text_type"), "sentence")
    told = {} if progress is None else {"spoken_progress": dict(zip(PROGRESS, progress, strict=True))}
    return {"text": value, **kind, "segment_id": 7, "spoken_status": status, "will_be_spoken": True, **told, **more}


PROGRESS = ("accumulated_text", "remaining_text")
SPEECH = {"text": "hi", "user_id": "u", "timestamp": "T"}
NEW = ("bot-output", output("One two.", "new", ("", "One two."), spoken=False))


def begun(reports: Reports) -> None:
    reports.bot_text("One two.", segment_id=7, with_speech=False)


def spoken(reports: Reports) -> None:
    begun(reports)
    reports.bot_spoken(7)


def advanced(reports: Reports) -> None:
    begun(reports)
    reports.bot_text_progress(7, "One", " two.")


REPORTS: dict[str, Row] = {
    "user_started_speaking": (lambda r: r.user_started_speaking(), [("user-started-speaking", None)]),
    "user_stopped_speaking": (lambda r: r.user_stopped_speaking(), [("user-stopped-speaking", None)]),
    "vad_user_started_speaking": (lambda r: r.vad_user_started_speaking(), [("vad-user-started-speaking", None)]),
    "vad_user_stopped_speaking": (lambda r: r.vad_user_stopped_speaking(), [("vad-user-stopped-speaking", None)]),
    "user_mute_started": (lambda r: r.user_mute_started(), [("user-mute-started", None)]),
    "user_mute_stopped": (lambda r: r.user_mute_stopped(), [("user-mute-stopped", None)]),
    "transcription": (
        lambda r: r.transcription("hi", "u", "T", final=False),
        [
            ("user-input", {**SPEECH, "input_type": "transcription", "final": False}),
            ("stt-raw-text", {**SPEECH, "final": False}),
            ("user-transcription", {**SPEECH, "final": False}),
        ],
    ),
    "user_backchannel": (
        lambda r: r.user_backchannel("hi", "u", "T"),
        [("user-input", {**SPEECH, "input_type": "backchannel", "final": True})],
    ),
    "user_audio": (lambda r: r.user_audio(bytes(640), 16_000), [("user-audio-level", {"value": 0.0})]),
    "llm_context": (lambda r: r.llm_context([{"role": "user", "content": "hi"}]), [("user-llm-text", text("hi"))]),
    "llm_started": (lambda r: r.llm_started(), [("bot-llm-started", None)]),
    "llm_text": (
        lambda r: r.llm_text("Hi."),
        [("llm-raw-text", text("Hi.")), ("bot-llm-text", text("Hi.")), ("bot-transcription", text("Hi."))],
    ),
    "llm_stopped": (lambda r: r.llm_stopped(), [("bot-llm-stopped", None)]),
    "llm_marker": (
        lambda r: r.llm_marker("● hi", "●", "complete", ["●", "○"]),
        [("bot-llm-marker", {"text": "●", "raw": "● hi", "kind": "complete", "markers": ["●", "○"]})],
    ),
    "search_response": (
        lambda r: r.search_response(FOUND),
        [("bot-llm-search-response", {"search_result": "found", "origins": []})],
    ),
    "tts_started": (lambda r: r.tts_started(), [("bot-tts-started", None)]),
    "tts_text": (lambda r: r.tts_text("Hi."), [("tts-raw-text", text("Hi.")), ("bot-tts-text", text("Hi."))]),
    "tts_stopped": (lambda r: r.tts_stopped(), [("bot-tts-stopped", None)]),
    "bot_started_speaking": (lambda r: r.bot_started_speaking(), [("bot-started-speaking", None)]),
    "bot_stopped_speaking": (lambda r: r.bot_stopped_speaking(), [("bot-stopped-speaking", None)]),
    "bot_text": (begun, [NEW]),
    "bot_spoken": (spoken, [NEW, ("bot-output", output("One two.", "completed", ("One two.", ""), spoken=True))]),
    "bot_text_progress": (
        advanced,
        [NEW, ("bot-output", output("One two.", "in-progress", ("One", " two.")))],
    ),
    "bot_audio": (lambda r: r.bot_audio(bytes(640), 24_000), [("bot-audio-level", {"value": 0.0})]),
    "function_calls_started": (
        lambda r: r.function_calls_started([CALL, ("g", "c2", {})]),
        [("llm-function-call-started", {"function_name": name}) for name in ("f", "g")],
    ),
    "function_call_in_progress": (
        lambda r: r.function_call_in_progress(*CALL),
        [
            (
                "llm-function-call-in-progress",
                {"function_name": "f", "tool_call_id": "c1", "arguments": {"a": None}},
            )
        ],
    ),
    "function_call_result": (
        lambda r: r.function_call_result("f", "c1", []),
        [
            (
                "llm-function-call-stopped",
                {"function_name": "f", "tool_call_id": "c1", "cancelled": False, "result": []},
            )
        ],
    ),
    "function_call_cancelled": (
        lambda r: r.function_call_cancelled("f", "c1"),
        [("llm-function-call-stopped", {"function_name": "f", "tool_call_id": "c1", "cancelled": True})],
    ),
    "metrics": (lambda r: r.metrics(MEASURED), [("metrics", {"ttfb": [{"processor": "llm", "value": 0.5}]})]),
}


class Speaking(rtvi.Bot):
    """Says each report itself, when it is asked to."""

    @rtvi.message("say")
    def say(self, name: str) -> None:
        REPORTS[name][0](self)


def wires(row: Row) -> list[tuple[str, Any]]:
    return row[1]


def plain(heard: list[Wire]) -> list[tuple[str, Any]]:
    return [(wire["type"], wire.get("data")) for wire in heard]


def test_every_report_is_in_the_table() -> None:
    public = {name for name, _ in inspect.getmembers(Reports, inspect.isfunction) if not name.startswith("_")}
    assert public == REPORTS.keys()


@pytest.mark.parametrize("name", REPORTS)
async def test_a_report_arrives_as_its_messages(name: str) -> None:
    async with calling(Speaking(), observer=EVERYTHING) as call:
        REPORTS[name][0](call.session.control)
        assert plain(await call.heard()) == wires(REPORTS[name])
    async with calling(Speaking(), observer=EVERYTHING) as call:
        await call.ask("say", name)
        assert plain(await call.heard()) == wires(REPORTS[name])
    async with calling(Speaking(), observer=EVERYTHING) as call:
        REPORTS[name][0](call.session.control.source("tts"))
        assert plain(await call.heard()) == wires(REPORTS[name])


@pytest.mark.parametrize("name", REPORTS)
async def test_a_report_of_an_ignored_source_is_not_heard(name: str) -> None:
    params = structs.replace(EVERYTHING, ignored_sources={"eval"})
    async with calling(Speaking(), observer=params) as call:
        REPORTS[name][0](call.session.control.source("eval"))
        call.session.control.llm_started()
        assert types(await call.heard()) == ["bot-llm-started"]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("hi", "hi"),
        ("", ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a b"),
        ([{"type": "text", "text": None}], None),
        ([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}], "b"),
        ([{"type": "image_url", "image_url": {}}], ""),
        ([{"type": "input_text", "text": "x"}], "x"),
        (["abc"], ""),
        ({}, ""),
        ({"a": 1}, ""),
        ([5], None),
        (["text"], None),
        ({"text": "x"}, None),
        (None, None),
        (5, None),
    ],
)
async def test_what_the_model_gets_of_the_user_is_the_text_of_the_last_message(content: Any, shown: str | None) -> None:
    async with calling(rtvi.Bot()) as call:
        call.session.control.llm_context([{"role": "user", "content": content}])
        expected = [] if shown is None else [("user-llm-text", text(shown))]
        assert plain(await call.heard()) == expected


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "x"}], [{"content": "x"}]])
async def test_a_context_that_does_not_end_with_the_user_is_not_reported(messages: list[dict[str, Any]]) -> None:
    async with calling(rtvi.Bot()) as call:
        call.session.control.llm_context(messages)
        assert await call.heard() == []


@pytest.mark.parametrize(
    ("report", "error"),
    [
        (lambda r: r.transcription(None), TypeError),
        (lambda r: r.transcription("x", user_id=5), TypeError),
        (lambda r: r.llm_text(5), TypeError),
        (lambda r: r.llm_marker(None), TypeError),
        (lambda r: r.tts_text("x", kind=5), TypeError),
        (lambda r: r.tts_text("x", segment_id=0), ValueError),
        (lambda r: r.bot_text("x", kind=None), TypeError),
        (lambda r: r.bot_text("x", segment_id=2**31), ValueError),
        (lambda r: r.bot_text_progress(1, None, ""), TypeError),
        (lambda r: r.function_call_in_progress("f", "c", [1]), TypeError),
        (lambda r: r.function_call_result("f", "c", object()), rtvi.NotJson),
        (lambda r: r.metrics(server.MetricsData(ttfb=(server.ProcessorValue("x", float("nan")),))), rtvi.NotJson),
        (lambda r: r.llm_text("\ud800"), rtvi.NotJson),
        (lambda r: r.source(5), TypeError),
        (lambda r: r.transcription("x", timestamp=5), TypeError),
        (lambda r: r.transcription("x", final="no"), TypeError),
        (lambda r: r.tts_text("x", spoken=1), TypeError),
        (lambda r: r.bot_text("x", will_be_spoken="x"), TypeError),
        (lambda r: r.bot_text("x", interruptible=None), TypeError),
        (lambda r: r.bot_text("x", with_speech=0), TypeError),
        (lambda r: r.bot_text("x", segment_id=True), TypeError),
        (lambda r: r.bot_spoken("a"), TypeError),
        (lambda r: r.bot_spoken(1, 0.5), TypeError),
        (lambda r: r.bot_text_progress(None, "", ""), TypeError),
        (lambda r: r.metrics({}), TypeError),
        (lambda r: r.metrics(server.MetricsData(ttfb=("x",))), TypeError),  # type: ignore[arg-type]
        (lambda r: r.search_response(None), TypeError),
        (lambda r: r.llm_context([5]), TypeError),
        (lambda r: r.error("x", fatal=1), TypeError),
    ],
)
async def test_what_cannot_be_reported_raises_where_it_was_said(
    report: Callable[[Any], None], error: type[Exception]
) -> None:
    async with calling(rtvi.Bot()) as call:
        with pytest.raises(error):
            report(call.session.control)
        assert await call.heard() == []
