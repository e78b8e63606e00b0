"""Server messages: the wire form of each, and what versions get."""

from __future__ import annotations

import msgspec
import pytest

from rtvi_actors.protocol import server
from rtvi_actors.protocol.codec import decode_server, encode_server, to_json
from rtvi_actors.protocol.envelope import NULL, Json
from rtvi_actors.protocol.versions import Version

TEXT = server.TextData("hi")
OBJECT = Json(b'{"a":null}')


def output(
    text: str, kind: str, *, status: server.SpokenStatus, spoken: bool | msgspec.UnsetType = msgspec.UNSET
) -> server.BotOutput:
    progress = server.SpokenProgress(text, "")
    data = server.BotOutputData(text, kind, kind, kind, 7, True, status, spoken, progress)
    return server.BotOutput(data=data)


GOLDEN: list[tuple[server.ServerMessage, str]] = [
    (
        server.BotReady(id="r1", data=server.BotReadyData("2.2.0", Json(b'{"library":"x"}'))),
        '{"type":"bot-ready","label":"rtvi-ai","id":"r1","data":{"version":"2.2.0","about":{"library":"x"}}}',
    ),
    (
        server.BotReady(id="", data=server.BotReadyData("1.2.0", OBJECT, Json(b'{"metrics":false}'))),
        (
            '{"type":"bot-ready","label":"rtvi-ai","id":"",'
            '"data":{"version":"1.2.0","about":{"a":null},"capabilities":{"metrics":false}}}'
        ),
    ),
    (
        server.ErrorResponse(id="m1", data=server.ErrorResponseData("no")),
        '{"type":"error-response","label":"rtvi-ai","id":"m1","data":{"error":"no"}}',
    ),
    (
        server.ServerResponse(id="m1", data=server.ServerResponseData("x")),
        '{"type":"server-response","label":"rtvi-ai","id":"m1","data":{"t":"x"}}',
    ),
    (
        server.ServerResponse(id="m1", data=server.ServerResponseData("x", OBJECT)),
        '{"type":"server-response","label":"rtvi-ai","id":"m1","data":{"t":"x","d":{"a":null}}}',
    ),
    (
        server.Error.of("no", fatal=True),
        '{"type":"error","label":"rtvi-ai","data":{"error":"no","fatal":true,"message":"no"}}',
    ),
    (
        server.Error(data=server.ErrorData("no")),
        '{"type":"error","label":"rtvi-ai","data":{"error":"no","fatal":false}}',
    ),
    (server.ApplicationMessage(data=NULL), '{"type":"server-message","label":"rtvi-ai","data":null}'),
    (server.ApplicationMessage(data=OBJECT), '{"type":"server-message","label":"rtvi-ai","data":{"a":null}}'),
    (server.UserStartedSpeaking(), '{"type":"user-started-speaking","label":"rtvi-ai"}'),
    (server.UserStoppedSpeaking(), '{"type":"user-stopped-speaking","label":"rtvi-ai"}'),
    (
        server.UserTranscription(data=server.UserTranscriptionData("hi", "u", "2026-01-01T00:00:00Z", True)),
        (
            '{"type":"user-transcription","label":"rtvi-ai",'
            '"data":{"text":"hi","user_id":"u","timestamp":"2026-01-01T00:00:00Z","final":true}}'
        ),
    ),
    (
        server.UserInput(data=server.UserInputData("hi", "chat", "2026-01-01T00:00:00Z", True, msg_id="m1")),
        (
            '{"type":"user-input","label":"rtvi-ai",'
            '"data":{"text":"hi","input_type":"chat","timestamp":"2026-01-01T00:00:00Z","final":true,"msg_id":"m1"}}'
        ),
    ),
    (server.BotStartedSpeaking(), '{"type":"bot-started-speaking","label":"rtvi-ai"}'),
    (server.BotStoppedSpeaking(), '{"type":"bot-stopped-speaking","label":"rtvi-ai"}'),
    (server.BotInterrupted(), '{"type":"bot-interrupted","label":"rtvi-ai"}'),
    (server.BotLlmStarted(), '{"type":"bot-llm-started","label":"rtvi-ai"}'),
    (server.BotLlmText(data=TEXT), '{"type":"bot-llm-text","label":"rtvi-ai","data":{"text":"hi"}}'),
    (server.BotLlmStopped(), '{"type":"bot-llm-stopped","label":"rtvi-ai"}'),
    (server.BotTtsStarted(), '{"type":"bot-tts-started","label":"rtvi-ai"}'),
    (server.BotTtsText(data=TEXT), '{"type":"bot-tts-text","label":"rtvi-ai","data":{"text":"hi"}}'),
    (server.BotTtsStopped(), '{"type":"bot-tts-stopped","label":"rtvi-ai"}'),
    (server.BotTranscription(data=TEXT), '{"type":"bot-transcription","label":"rtvi-ai","data":{"text":"hi"}}'),
    (
        output("One.", "sentence", status="completed", spoken=True),
        (
            '{"type":"bot-output","label":"rtvi-ai","data":{"text":"One.","output_type":"sentence","text_type":"sentence",'
            '"aggregated_by":"sentence","segment_id":7,"will_be_spoken":true,"spoken_status":"completed","spoken":true,'
            '"spoken_progress":{"accumulated_text":"One.","remaining_text":""}}}'
        ),
    ),
    (
        server.FunctionCall(data=server.FunctionCallData("f", "c1", OBJECT)),
        (
            '{"type":"llm-function-call","label":"rtvi-ai",'
            '"data":{"function_name":"f","tool_call_id":"c1","args":{"a":null}}}'
        ),
    ),
    (
        server.FunctionCallStarted(data=server.FunctionCallStartedData("f")),
        '{"type":"llm-function-call-started","label":"rtvi-ai","data":{"function_name":"f"}}',
    ),
    (
        server.FunctionCallInProgress(data=server.FunctionCallInProgressData("c1", "f", OBJECT)),
        (
            '{"type":"llm-function-call-in-progress","label":"rtvi-ai",'
            '"data":{"tool_call_id":"c1","function_name":"f","arguments":{"a":null}}}'
        ),
    ),
    (
        server.FunctionCallStopped(data=server.FunctionCallStoppedData("c1", False, result=to_json(0))),
        (
            '{"type":"llm-function-call-stopped","label":"rtvi-ai",'
            '"data":{"tool_call_id":"c1","cancelled":false,"result":0}}'
        ),
    ),
]


@pytest.mark.parametrize(("message", "wire"), GOLDEN, ids=lambda value: type(value).__name__)
def test_a_message_has_its_golden_form(message: server.ServerMessage, wire: str) -> None:
    assert encode_server(message).decode() == wire
    assert decode_server(wire) == message


def test_every_message_has_a_golden_form() -> None:
    assert {type(message) for message, _ in GOLDEN} == set(server.SERVER.values())


def test_the_table_and_the_union_hold_the_same_messages() -> None:
    assert set(server.SERVER.values()) == set(server.AnyServerMessage.__args__)


def test_every_message_is_of_a_version_that_existed() -> None:
    for wire_type, struct in server.SERVER.items():
        assert (0, 1, 0) <= struct.since <= (2, 2, 0), wire_type


NEW = output("One.", "sentence", status="new", spoken=False)
WORD = output("One", "word", status="completed", spoken=True)
TOKEN = output("One", "token", status="completed", spoken=True)
PROGRESS = output("One.", "sentence", status="in-progress")
CLOSED = output("One.", "sentence", status="completed")
SPOKEN = output("One.", "sentence", status="completed", spoken=True)
BACKCHANNEL = output("mhm", "backchannel", status="completed", spoken=True)


@pytest.mark.parametrize(
    ("version", "gets"),
    [
        ((1, 2, 0), [NEW, WORD, TOKEN, SPOKEN]),
        ((0, 0, 0), [NEW, PROGRESS, CLOSED, SPOKEN]),
        ((2, 0, 0), [NEW, PROGRESS, CLOSED, SPOKEN]),
        ((2, 2, 0), [NEW, PROGRESS, CLOSED, SPOKEN, BACKCHANNEL]),
    ],
)
def test_a_version_gets_its_own_events_of_bot_output(version: Version, gets: list[server.BotOutput]) -> None:
    everything = [NEW, WORD, TOKEN, PROGRESS, CLOSED, SPOKEN, BACKCHANNEL]
    assert [m for m in everything if server.shape(m, version) is not None] == gets


@pytest.mark.parametrize("version", [(0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 2, 0)])
def test_other_messages_go_to_every_version_as_they_are(version: Version) -> None:
    for message, _ in GOLDEN:
        if not isinstance(message, server.BotOutput):
            assert server.shape(message, version) is message
