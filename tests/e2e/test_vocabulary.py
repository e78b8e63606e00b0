"""The rest of RTVI, as three generations of the ecosystem's client get it: those of protocol 2.1, 1.2 and 1.0.

A scenario (page/vocabulary.js) gathers facts, `drive.mjs` what crossed the WebSocket; the tests here judge them.
Rules: PROTOCOL.md 1.3, 1.4, 2.5 and 7.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.e2e.bot import STORY
from tests.e2e.harness import Drive, Json
from tests.e2e.test_browser import LIMIT_MS, named, spotless

pytestmark = pytest.mark.e2e

NEWEST: Final = "sdk"
OLDER: Final = ("sdk-1.2", "sdk-1.0")
VERSIONS: Final = {"sdk": "2.1.0", "sdk-1.2": "1.2.0", "sdk-1.0": "1.0.0"}
"""What each names in client-ready."""
SENTENCES: Final = [text for text, _ in STORY]
ALL = pytest.mark.parametrize("sdk", VERSIONS)


def received(report: Json, kind: str) -> list[Json]:
    """The data of the messages of one type, in order, as the WebSocket had them."""
    return [message["data"] for message in report["wire"]["received"] if message["type"] == kind]


def kinds(report: Json) -> list[str]:
    """The types of the messages from the server, in order."""
    return [message["type"] for message in report["wire"]["received"]]


def without(data: Json, *keys: str) -> Json:
    """But for what cannot be known."""
    return {key: value for key, value in data.items() if key not in keys}


def progress(output: list[Json]) -> list[tuple[str, str]]:
    """Status and accumulated text of each bot-output of the 2.x form."""
    return [(data["spoken_status"], data["spoken_progress"]["accumulated_text"]) for data in output]


@ALL
def test_the_bot_answers_a_client_of_any_generation_in_its_own_version(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:connect_by_url")
    sent = report["wire"]["sent"][0]
    answer = report["wire"]["received"][0]
    assert (sent["type"], sent["data"]["version"]) == ("client-ready", VERSIONS[sdk])
    assert (answer["type"], answer["id"]) == ("bot-ready", sent["id"])
    assert report["detail"]["ready"]["version"] == ("2.2.0" if sdk == NEWEST else VERSIONS[sdk])
    assert report["detail"]["state"] == "ready"
    spotless(report)


# -- what the bot says -------------------------------------------------------------------


def test_what_the_bot_says_comes_first_whole_and_then_word_by_word_as_it_is_spoken(drive: Drive) -> None:
    report = drive(f"{NEWEST}:told")
    output = report["detail"]["output"]
    assert named(report, "botStartedSpeaking", "botOutput", "botStoppedSpeaking")[0] == "botStartedSpeaking"
    for sentence in SENTENCES:
        of_it = [data for data in output if data["text"] == sentence]
        assert len({data["segment_id"] for data in of_it}) == 1
        words = sentence.split()
        spoken = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
        assert progress(of_it) == [
            ("new", ""),
            *(("in-progress", text) for text in spoken[:-1]),
            ("completed", sentence),
        ]
        assert all(data["spoken_progress"]["remaining_text"] in sentence for data in of_it)
    spotless(report)


@pytest.mark.parametrize("sdk", OLDER)
def test_an_older_client_hears_each_word_as_it_is_spoken(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:told")
    output = report["detail"]["output"]
    whole = [data for data in output if data["aggregated_by"] == "sentence"]
    words = [data for data in output if data["aggregated_by"] == "word"]
    assert [(data["text"], data["spoken"]) for data in whole] == [(sentence, False) for sentence in SENTENCES]
    assert [(data["text"], data["spoken"]) for data in words] == [(word, True) for word in " ".join(SENTENCES).split()]
    assert named(report, "botStartedSpeaking", "botStoppedSpeaking") == ["botStartedSpeaking", "botStoppedSpeaking"]
    spotless(report)


@pytest.mark.parametrize("how", ["interrupted", "typed_over"])
def test_an_interruption_closes_every_segment_with_what_was_spoken_of_it(drive: Drive, how: str) -> None:
    report = drive(f"{NEWEST}:{how}")
    output = [data for data in report["detail"]["output"] if data["will_be_spoken"]]
    first, second = ([data for data in output if data["text"] == sentence] for sentence in SENTENCES)
    *before, (status, prefix) = progress(first)
    assert (status, first[-1]["spoken_progress"]["remaining_text"]) == ("completed", "")
    assert prefix == before[-1][1], "what had been spoken when it was cut"
    assert 0 < len(prefix) < len(SENTENCES[0])
    assert SENTENCES[0].startswith(prefix)
    assert progress(second) == [("new", ""), ("completed", "")]
    told = [message for message in report["wire"]["received"] if message["type"] in ("bot-output", "bot-interrupted")]
    cut_at = [message["type"] for message in told].index("bot-interrupted", 1)
    assert {message["data"]["spoken_status"] for message in told[1:cut_at]} == {"new", "in-progress"}
    assert [message["data"]["spoken_status"] for message in told[cut_at + 1 :][:2]] == ["completed", "completed"]
    assert named(report, "botStoppedSpeaking") == ["botStoppedSpeaking"]
    spotless(report)


@pytest.mark.parametrize("sdk", OLDER)
def test_an_older_client_hears_no_word_after_the_interruption(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:interrupted")
    words = [data["text"] for data in report["detail"]["output"] if data["aggregated_by"] == "word"]
    assert 0 < len(words) < len(SENTENCES[0].split())
    assert words == SENTENCES[0].split()[: len(words)]
    spotless(report)


# -- tools ---------------------------------------------------------------------------------


@ALL
def test_a_function_of_the_pages_runs_once_and_the_bot_says_what_it_returned(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:tool_answers")
    detail = report["detail"]
    assert detail["asked"] == [{"name": "get_location", "arguments": {"precise": True}}]
    assert detail["said"] == "you are in Oslo "
    assert detail["errors"] == []
    spotless(report)


@pytest.mark.parametrize(
    ("how", "error"), [("tool_is_silent", "ClientCallTimeout"), ("tool_answers_zero", "ClientResultInvalid")]
)
def test_a_function_that_returns_nothing_of_use_does_not_hold_up_the_bot(drive: Drive, how: str, error: str) -> None:
    report = drive(f"{NEWEST}:{how}")
    assert report["detail"]["said"] == f"you are in limbo, {error} "
    assert len(report["detail"]["asked"]) == 1
    spotless(report)


def test_each_report_level_tells_more_of_a_function_call(drive: Drive) -> None:
    report = drive(f"{NEWEST}:functions")
    name, arguments, result = {"function_name": "clock"}, {"arguments": {"zone": "UTC"}}, {"result": 0}
    known: dict[str, tuple[Json, Json, Json]] = {
        "none": ({}, {}, {}),
        "name": (name, name, name),
        "arguments": (name, name | arguments, name),
        "full": (name, name | arguments, name | result),
    }
    expected: list[Json] = []
    for level, (started, running, stopped) in known.items():
        call = {"tool_call_id": level}
        expected += [
            {"event": "llmFunctionCallStarted", "data": started},
            {"event": "llmFunctionCallInProgress", "data": call | running},
            {"event": "llmFunctionCallStopped", "data": call | {"cancelled": False} | stopped},
        ]
    assert report["detail"]["calls"] == expected
    spotless(report)


# -- the page ------------------------------------------------------------------------------


def test_commands_for_the_page_reach_it(drive: Drive) -> None:
    report = drive(f"{NEWEST}:ui_commands")
    toast = {"title": "Ready", "description": "Your order is on its way", "duration_ms": 2000}
    assert report["detail"]["commands"] == [
        {"command": "toast", "payload": toast},
        {"command": "confetti", "payload": {"pieces": 3}},
        {"command": "bare"},
    ]
    spotless(report)


def test_what_happens_on_the_page_reaches_the_bot(drive: Drive) -> None:
    report = drive(f"{NEWEST}:ui_event")
    assert report["detail"]["heard"] == [
        {"event": "clicked", "payload": {"button": "buy", "times": 2}},
        {"event": "bare", "payload": None},
    ]
    spotless(report)


def test_the_bot_sees_the_page_and_each_change_of_it(drive: Drive) -> None:
    report = drive(f"{NEWEST}:ui_snapshot")
    first, *_, last = report["detail"]["snapshots"]
    assert first[-3:] == [["heading", "Shop", None], ["button", "Buy", None], ["textbox", "Name", "Ada"]]
    assert last[-3:] == [["heading", "Shop", None], ["button", "Bought", None], ["textbox", "Name", "Ada"]]
    spotless(report)


def test_a_job_group_tells_its_life_in_order(drive: Drive) -> None:
    report = drive(f"{NEWEST}:jobs")
    jobs = report["detail"]["jobs"]
    assert [without(job, "job_id", "at") for job in jobs] == [
        {"kind": "group_started", "workers": ["search", "rank"], "label": "reading", "cancellable": True},
        {"kind": "job_update", "worker_name": "search", "data": {"found": 3}},
        {"kind": "job_completed", "worker_name": "search", "status": "completed", "response": []},
        {"kind": "job_completed", "worker_name": "rank", "status": "failed"},
        {"kind": "group_completed"},
    ]
    assert len({job["job_id"] for job in jobs}) == 1
    assert sorted(jobs, key=lambda job: int(job["at"])) == jobs
    spotless(report)


def test_the_user_cancels_a_job_group(drive: Drive) -> None:
    report = drive(f"{NEWEST}:jobs_cancelled")
    jobs = report["detail"]["jobs"]
    assert report["detail"]["heard"] == [{"cancelled": jobs[0]["job_id"], "reason": "enough"}]
    assert [(job["kind"], job.get("status")) for job in jobs[2:]] == [
        ("job_completed", "cancelled"),
        ("job_completed", "cancelled"),
        ("group_completed", None),
    ]
    spotless(report)


# -- text, files, keys ------------------------------------------------------------------------


@ALL
def test_a_typed_text_is_acknowledged_once_by_its_id_before_it_is_answered(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:send_text")
    sent = [message["id"] for message in report["wire"]["sent"] if message["type"] == "send-text"]
    (acknowledged,) = received(report, "user-input")
    assert without(acknowledged, "timestamp") == {
        "text": "alpha beta gamma",
        "input_type": "chat",
        "final": True,
        "msg_id": sent[0],
    }
    assert kinds(report).index("user-input") < kinds(report).index("bot-llm-started")
    spotless(report)


def test_a_file_reaches_the_bot_and_is_acknowledged(drive: Drive) -> None:
    report = drive(f"{NEWEST}:file")
    assert report["detail"]["heard"] == {"file": {"name": "a.pdf", "format": "application/pdf", "bytes": 5}}
    assert report["detail"]["errors"] == []
    assert [data["text"] for data in received(report, "user-input")] == ["what is this?"]
    spotless(report)


def test_keys_of_the_keypad_reach_the_bot_in_one_message(drive: Drive) -> None:
    report = drive(f"{NEWEST}:dtmf")
    assert "rejected" not in report["detail"]["sent"]
    assert report["detail"]["heard"] == [{"dtmf": ["1", "*", "#"]}]
    spotless(report)


@ALL
def test_metrics_arrive(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:metrics")
    expected = {"ttfb": [{"processor": "llm", "value": 0.25}], "characters": [{"processor": "tts", "value": 12}]}
    assert report["detail"]["metrics"] == [expected]
    spotless(report)


@ALL
def test_what_is_appended_to_the_context_is_answered(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:appended")
    assert report["detail"]["said"] == "you said: remember this "
    assert report["detail"]["errors"] == []
    assert report["page_errors"] == []


@ALL
def test_no_message_of_any_kind_disturbs_a_client_that_does_not_know_it(drive: Drive, sdk: str) -> None:
    report = drive(f"{sdk}:everything")
    detail: Any = report["detail"]
    assert detail["count"] > len(kinds(report)) / 2
    assert detail["after"]["resolved"] == {"sum": 4}
    assert detail["after"]["after_ms"] < LIMIT_MS
    assert detail["message_errors"] == []
    assert report["page_errors"] == []
