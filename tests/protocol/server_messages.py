"""Every server message, whole and bare, and what each client version gets of them (`golden/`).

To write the golden files anew, and read their difference before keeping it::

    python -m tests.protocol.server_messages
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import UNSET, UnsetType

from rtvi_actors.protocol import server, ui
from rtvi_actors.protocol.codec import encode_server, to_json
from rtvi_actors.protocol.envelope import NULL, Json
from rtvi_actors.protocol.versions import UNKNOWN, Version, text_of

__all__ = ["GOLDEN", "MESSAGES", "VERSIONS", "golden", "output"]

GOLDEN: Final = Path(__file__).parent / "golden"
VERSIONS: Final[tuple[Version, ...]] = (UNKNOWN, (1, 0, 0), (1, 2, 0), (2, 0, 0), (2, 1, 0), (2, 2, 0))
"""`UNKNOWN` is what a 0.x client gets, too: its version is not served, so it is not adopted."""

TEXT: Final = server.TextData("hi")
OBJECT: Final = Json(b'{"a":null}')
WHEN: Final = "2026-01-01T00:00:00Z"


def output(
    text: str,
    kind: str,
    status: server.SpokenStatus,
    *,
    spoken: bool | UnsetType = UNSET,
    progress: tuple[str, str] | None = None,
    will_be_spoken: bool = True,
) -> server.BotOutput:
    """A bot-output; without `progress` it has none."""
    made = UNSET if progress is None else server.SpokenProgress(*progress)
    data = server.BotOutputData(text, kind, spoken, kind, kind, 7, will_be_spoken, status, made)
    return server.BotOutput(data=data)


MESSAGES: Final[tuple[server.ServerMessage, ...]] = (
    server.BotReady(id="r1", data=server.BotReadyData("2.2.0", Json(b'{"library":"x"}'))),
    server.BotReady(id="", data=server.BotReadyData("1.2.0", OBJECT, Json(b'{"metrics":false}'))),
    server.ErrorResponse(id="m1", data=server.ErrorResponseData("no")),
    server.ServerResponse(id="m1", data=server.ServerResponseData("x")),
    server.ServerResponse(id="m1", data=server.ServerResponseData("x", OBJECT)),
    server.Error.of("no", fatal=True),
    server.ApplicationMessage(data=NULL),
    server.ApplicationMessage(data=OBJECT),
    server.UserStartedSpeaking(),
    server.UserStoppedSpeaking(),
    server.VadUserStartedSpeaking(),
    server.VadUserStoppedSpeaking(),
    server.UserMuteStarted(),
    server.UserMuteStopped(),
    server.UserTranscription(data=server.UserTranscriptionData("hi", "u", WHEN, True)),
    server.SttRawText(data=server.UserTranscriptionData("hi", "u", WHEN, False)),
    server.UserInput(data=server.UserInputData("hi", "chat", WHEN, True, msg_id="m1")),
    server.UserInput(data=server.UserInputData("hi", "transcription", WHEN, False, user_id="u")),
    server.UserInput(data=server.UserInputData("mhm", "backchannel", WHEN, True, user_id="u")),
    server.UserLlmText(data=TEXT),
    server.UserAudioLevel(data=server.LevelData(0.5)),
    server.BotStartedSpeaking(),
    server.BotStoppedSpeaking(),
    server.BotInterrupted(),
    server.BotLlmStarted(),
    server.BotLlmText(data=TEXT),
    server.LlmRawText(data=TEXT),
    server.BotLlmMarker(data=server.BotLlmMarkerData("●", "● hi", "complete", ("●", "○"))),
    server.BotLlmMarker(data=server.BotLlmMarkerData("", "hi")),
    server.BotLlmSearchResponse(
        data=server.BotLlmSearchResponseData(
            "found",
            "<b>found</b>",
            (server.SearchOrigin("https://example.com", "Example", (server.SearchResult("found", (0.5,)),)),),
        )
    ),
    server.BotLlmSearchResponse(data=server.BotLlmSearchResponseData()),
    server.BotLlmStopped(),
    server.BotTtsStarted(),
    server.BotTtsText(data=TEXT),
    server.TtsRawText(data=TEXT),
    server.BotTtsAudio(data=server.BotTtsAudioData("AAAA", 24_000, 1)),
    server.BotTtsStopped(),
    server.BotAudioLevel(data=server.LevelData(1.0)),
    server.BotTranscription(data=TEXT),
    output("One two.", "sentence", "new", spoken=False, progress=("", "One two.")),
    output("One", "word", "completed", spoken=True, progress=("One", "")),
    output("On", "token", "completed", spoken=True, progress=("On", "")),
    output("One two.", "sentence", "in-progress", progress=("One", " two.")),
    output("One two.", "sentence", "completed", progress=("One two.", "")),
    output("One two.", "sentence", "completed", spoken=True, progress=("One two.", "")),
    output("f(x)", "code", "new", spoken=False, will_be_spoken=False),
    output("mhm", "backchannel", "completed", spoken=True, progress=("mhm", "")),
    server.FunctionCall(data=server.FunctionCallData("f", "c1", OBJECT)),
    server.FunctionCallStarted(data=server.FunctionCallStartedData()),
    server.FunctionCallStarted(data=server.FunctionCallStartedData("f")),
    server.FunctionCallInProgress(data=server.FunctionCallInProgressData("c1")),
    server.FunctionCallInProgress(data=server.FunctionCallInProgressData("c1", "f", OBJECT)),
    server.FunctionCallStopped(data=server.FunctionCallStoppedData("c1", True)),
    server.FunctionCallStopped(data=server.FunctionCallStoppedData("c1", False, "f", to_json(0))),
    server.Metrics(
        data=server.MetricsData(
            ttfb=(server.ProcessorValue("llm", 0.5, "m"), server.ProcessorValue("tts", 0.0)),
            processing=(server.ProcessorValue("tts", 1.25),),
            ttfa=(server.TimeToFirstAudio("tts", 0.5, 0.25, 0.25),),
            ttfat=(server.TimeToFirstAnswerToken("llm", 0.5, 0.25, 0.25),),
            tokens=(server.TokenUsage(1, 2, 3), server.TokenUsage(1, 2, 3, 4, 5, 0, 7, 8, 9)),
            characters=(server.ProcessorValue("tts", 12),),
            stt_usage=(server.SttUsage("stt", server.SttSeconds(1.5)),),
        )
    ),
    server.SystemLog(data=TEXT),
    server.UICommand(data=server.UICommandData("toast", Json(b'{"title":"x"}'))),
    server.UICommand(data=server.UICommandData("wave")),
    server.UIJobGroup(data=ui.GroupStarted("j", 5, ("w",), "Look it up", False)),
    server.UIJobGroup(data=ui.GroupStarted("j", 5)),
    server.UIJobGroup(data=ui.JobUpdate("j", "w", 6, OBJECT)),
    server.UIJobGroup(data=ui.JobUpdate("j", "w", 6)),
    server.UIJobGroup(data=ui.JobCompleted("j", "w", "completed", 7, OBJECT)),
    server.UIJobGroup(data=ui.JobCompleted("j", "w", "failed", 7)),
    server.UIJobGroup(data=ui.GroupCompleted("j", 8)),
)
"""In the order of protocol/server.py."""


def golden(version: Version) -> list[str]:
    """What a client of this version gets of `MESSAGES`, as the wire has it."""
    shaped = (server.shape(message, version) for message in MESSAGES)
    return [encode_server(message).decode() for message in shaped if message is not None]


def main() -> None:
    """Write the golden files."""
    for version in VERSIONS:
        lines = "".join(f"{line}\n" for line in golden(version))
        (GOLDEN / f"{text_of(version)}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
