"""The ecosystem's own client, our page and the prebuilt client, in headless Chromium, against `rtvi-actors serve`.

A scenario (page/scenarios.js, pages/*.mjs) gathers facts; the tests here judge them. Rules: PROTOCOL.md 1, 3, 4.1, 7.
"""

from __future__ import annotations

import pytest

from tests.e2e.bot import STORY
from tests.e2e.harness import Drive, Json, Server

pytestmark = pytest.mark.e2e

LIMIT_MS = 5_000
"""The client gives a request 10 s; a refusal that took as long as this was no answer but a timeout."""

ROOMS = {
    *("ingress", "handshake", "audio", "text", "requests", "tools", "ui", "door"),
    *("bot", "observer", "playout", "levels", "outbound"),
}
"""The actors of a session that anyone who looks must find (DESIGN.md 4)."""

CLOSING = ("signaling socket closed unexpectedly", "Fatal error reported. Disconnecting")
"""What the SDK prints when a server closes, in good order too (PROTOCOL.md 7)."""


DEPRECATED = "[Pipecat Client] Bot transcription is deprecated"
"""What the SDK prints at each bot-transcription, which servers send all the same (PROTOCOL.md 1.4)."""


def named(report: Json, *names: str) -> list[str]:
    """The events of these names, in the order in which the SDK raised them."""
    return [event for event in report["detail"]["events"] if event in names]


def spotless(report: Json, *but: str) -> None:
    """Nothing thrown in the page, and nothing that the SDK did not understand."""
    assert report["page_errors"] == []
    assert [line for line in report["console"] if not line.startswith((*but, DEPRECATED))] == []


@pytest.mark.parametrize("way", ["connect_by_start", "connect_by_url"])
def test_connect_resolves_on_bot_ready(drive: Drive, way: str) -> None:
    report = drive(f"sdk:{way}")
    detail = report["detail"]
    assert detail["state"] == "ready"
    assert detail["ready"]["version"] == "2.2.0"
    assert detail["ready"]["about"]["library"]
    assert "botReady" in detail["events"]
    assert detail["events"][-1] == "disconnected"
    assert "error" not in detail["events"]
    spotless(report)


def test_send_text_brings_the_bots_messages_in_order(drive: Drive) -> None:
    report = drive("sdk:send_text")
    detail = report["detail"]
    assert detail["said"].split() == ["you", "said:", "alpha", "beta", "gamma"]
    llm = named(report, "botLlmStarted", "botLlmText", "botLlmStopped")
    assert llm[0] == "botLlmStarted"
    assert llm[-1] == "botLlmStopped"
    assert set(llm[1:-1]) == {"botLlmText"}
    assert "".join(_segments(detail["output"])).split() == ["you", "said:", "alpha", "beta", "gamma"]
    spotless(report)


def _segments(output: list[Json]) -> list[str]:
    """The text of each bot-output segment, in order, from its first event."""
    first: dict[int, str] = {}
    for each in output:
        first.setdefault(each["segment_id"], each["text"])
    return list(first.values())


def test_three_texts_get_three_answers_in_order(drive: Drive) -> None:
    report = drive("sdk:texts_in_order")
    assert report["detail"]["said"].split() == ["you", "said:", "one", "you", "said:", "two", "you", "said:", "three"]
    assert named(report, "botLlmStarted", "botLlmStopped") == ["botLlmStarted", "botLlmStopped"] * 3
    spotless(report)


def test_a_request_resolves_with_its_typed_answer(drive: Drive) -> None:
    report = drive("sdk:request_answered")
    assert report["detail"]["sum"]["resolved"] == {"sum": 42}
    assert report["detail"]["twenty"] == [{"sum": 100 + i} for i in range(20)]
    spotless(report)


@pytest.mark.parametrize(
    ("scenario", "error"),
    [
        ("request_failing", "Exception processing message: "),
        ("request_unknown", "Unsupported type nobody-knows-this"),
        ("request_malformed", "Invalid message: "),
    ],
)
def test_a_request_that_cannot_be_answered_rejects_at_once(drive: Drive, scenario: str, error: str) -> None:
    detail = drive(f"sdk:{scenario}")["detail"]
    said = detail["answer"]["rejected"]["error"]
    assert said.startswith(error)
    assert detail["answer"]["after_ms"] < LIMIT_MS
    assert "secret" not in said
    assert "many" not in said
    assert [message["data"]["error"] for message in detail["message_errors"]] == [said]
    assert detail["after"]["resolved"] == {"sum": 2}, "the call goes on"


def test_a_wrong_payload_is_refused_with_the_name_of_its_field(drive: Drive) -> None:
    assert "data.d.a" in drive("sdk:request_malformed")["detail"]["answer"]["rejected"]["error"]


def test_the_microphone_reaches_the_bot_and_its_voice_comes_back(drive: Drive) -> None:
    report = drive("sdk:microphone")
    detail = report["detail"]
    heard = detail["report"]
    assert (heard["sample_rate"], heard["num_channels"]) == (16_000, 1)
    assert heard["heard_bytes"] >= 16_000
    assert heard["peak"] > 5_000, "silence"
    assert detail["heard_samples"] >= 12_000
    assert detail["pitch_hz"] == pytest.approx(440, rel=0.05), "played at another rate than it was recorded"
    assert "botStartedSpeaking" in detail["events"]
    spotless(report)


def test_disconnect_bot_ends_the_call(drive: Drive) -> None:
    report = drive("sdk:disconnect_bot")
    assert report["detail"]["state"] == "disconnected"
    spotless(report, *CLOSING)


def test_one_client_calls_five_times_in_a_row(drive: Drive) -> None:
    report = drive("sdk:five_reconnects")
    assert report["detail"]["calls"] == [{"version": "2.2.0", "sum": {"sum": 10 + i}} for i in range(5)]
    assert report["detail"]["errors"] == []
    spotless(report)


def test_two_clients_at_once_do_not_hear_each_other(drive: Drive) -> None:
    report = drive("sdk:two_clients")
    left, right = report["detail"]["done"]
    assert (left["sum"], left["said"].split()) == ({"sum": 1000}, ["you", "said:", "left"])
    assert (right["sum"], right["said"].split()) == ({"sum": 1001}, ["you", "said:", "right"])
    assert report["detail"]["after"] == {"sum": 10}, "one hung up; the other's call goes on"
    spotless(report)


def test_the_page_answers_what_is_typed(drive: Drive) -> None:
    report = drive("demo:type_and_answer")
    detail = report["detail"]
    assert detail["answered"] == "you said: good morning"
    assert detail["outside"] == [], "the page loads nothing from elsewhere"
    for message in ("client-ready", "bot-ready", "send-text", "bot-llm-started", "bot-llm-text", "bot-llm-stopped"):
        assert message in detail["log"]
    assert {name.rpartition("/")[2] for name in detail["actors"]} >= ROOMS
    spotless(report)


def test_an_actor_killed_on_the_page_comes_back_and_the_talk_goes_on(drive: Drive) -> None:
    detail = drive("demo:crash_and_go_on")["detail"]
    assert detail["seen"] == {name: {"before": 0, "after": 1} for name in ("text", "audio", "requests")}
    told = ["before the crash", *(f"after {name} crashed" for name in detail["seen"])]
    assert detail["answered"] == [f"you said: {text}" for text in told]


def test_the_page_hears_the_microphone_played_back(drive: Drive) -> None:
    report = drive("demo:speak")
    assert "bot-tts-audio" in report["detail"]["log"]
    assert "heard_bytes" in report["detail"]["heard"]
    spotless(report)


def test_the_page_strikes_out_what_an_interruption_cut_off_and_tells_of_calls_and_errors(drive: Drive) -> None:
    report = drive("demo:interrupt")
    detail = report["detail"]
    story = " ".join(sentence for sentence, _ in STORY)
    assert detail["said"] == story
    assert story.endswith(detail["cut"])
    assert 0 < len(detail["cut"]) < len(story)
    call, error = detail["notes"]
    assert call == 'function get_location {"precise":true}'
    assert error.startswith("Exception processing message: ")
    assert "secret" not in error
    spotless(report)


def test_the_prebuilt_client_reaches_ready_and_talks(drive: Drive) -> None:
    report = drive("prebuilt:talk")
    assert report["detail"]["states"] == {"client": "READY", "agent": "READY", "server": "v2.2.0"}
    assert report["detail"]["outside"] == [], "all but its media vendor's one file comes from our server"
    assert report["page_errors"] == []


def test_no_session_is_left_when_every_client_has_gone(drive: Drive, server: Server) -> None:
    drive("sdk:connect_by_url")
    server.until("every session has ended", lambda: server.get("/healthz")["sessions"] == 0)
    assert server.get("/inspect")["actors"] == []
