"""Client payloads: what each type takes and refuses, and which field a refusal names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rtvi_actors.errors import InvalidData
from rtvi_actors.protocol import client
from rtvi_actors.protocol.client import CLIENT
from rtvi_actors.protocol.codec import decode_about, decode_payload, to_json
from rtvi_actors.protocol.envelope import Envelope, Json

CALL: dict[str, Any] = {"function_name": "f", "tool_call_id": "c1", "arguments": {"a": 1}, "result": {"ok": True}}
AUDIO: dict[str, Any] = {"sampleRate": 16000, "numChannels": 1, "base64Audio": "AAAA"}


def decode(message_type: str, data: object) -> msgspec.Struct:
    raw = None if data is None else msgspec.json.encode(data)
    return decode_payload(Envelope(message_type, "m1", raw), CLIENT[message_type])


@pytest.mark.parametrize(
    ("message_type", "data", "expected"),
    [
        ("client-ready", None, client.ClientReady()),
        ("client-ready", {}, client.ClientReady()),
        ("client-ready", {"version": 7, "about": []}, client.ClientReady(Json(b"7"), Json(b"[]"))),
        ("disconnect-bot", None, client.DisconnectBot()),
        ("disconnect-bot", {"x": 1}, client.DisconnectBot()),
        ("client-message", {"t": "x"}, client.ClientMessage("x")),
        ("client-message", {"t": "x", "d": None}, client.ClientMessage("x", Json(b"null"))),
        ("client-message", {"t": "x", "d": {"a": [1, None]}}, client.ClientMessage("x", Json(b'{"a":[1,null]}'))),
        ("client-message", {"t": "", "extra": 1}, client.ClientMessage("")),
        ("send-text", {"content": "hi"}, client.SendText("hi")),
        ("send-text", {"content": "hi", "options": None}, client.SendText("hi")),
        (
            "send-text",
            {"content": "", "options": {"run_immediately": False}},
            client.SendText("", client.SendTextOptions(run_immediately=False)),
        ),
        ("raw-audio", AUDIO, client.RawAudio(16000, 1, "AAAA")),
        ("raw-audio-batch", AUDIO, client.RawAudio(16000, 1, "AAAA")),
        (
            "raw-audio",
            {"sampleRate": 8000, "numChannels": 2, "base64AudioBatch": [None, "AAAA"]},
            client.RawAudio(8000, 2, None, (None, "AAAA")),
        ),
        (
            "llm-function-call-result",
            CALL,
            client.FunctionCallResult("f", "c1", Json(b'{"a":1}'), Json(b'{"ok":true}')),
        ),
        (
            "llm-function-call-result",
            {**CALL, "result": "done"},
            client.FunctionCallResult("f", "c1", Json(b'{"a":1}'), Json(b'"done"')),
        ),
    ],
)
def test_a_good_payload_becomes_its_struct(message_type: str, data: object, expected: client.ClientPayload) -> None:
    assert decode(message_type, data) == expected


@pytest.mark.parametrize(
    ("message_type", "data", "field"),
    [
        ("client-message", None, "data"),
        ("client-message", {}, "data.t"),
        ("client-message", {"t": True}, "data.t"),
        ("client-message", {"t": None}, "data.t"),
        ("send-text", None, "data"),
        ("send-text", {"content": ["hi"]}, "data.content"),
        ("send-text", {"content": "hi", "options": 0}, "data.options"),
        ("send-text", {"content": "hi", "options": {"run_immediately": 1}}, "data.options.run_immediately"),
        ("send-text", {"content": "hi", "options": {"audio_response": "yes"}}, "data.options.audio_response"),
        ("send-text", {"content": "hi", "options": {"audio_response": None}}, "data.options.audio_response"),
        ("raw-audio", None, "data"),
        ("raw-audio", {}, "data.sampleRate"),
        ("raw-audio", {**AUDIO, "sampleRate": "16000"}, "data.sampleRate"),
        ("raw-audio", {**AUDIO, "numChannels": True}, "data.numChannels"),
        ("raw-audio", {**AUDIO, "numChannels": 1.5}, "data.numChannels"),
        ("raw-audio", {**AUDIO, "base64Audio": ["AAAA"]}, "data.base64Audio"),
        ("raw-audio", {**AUDIO, "base64AudioBatch": ["AAAA", 5]}, "data.base64AudioBatch[1]"),
        ("raw-audio", {**AUDIO, "base64AudioBatch": {"AAAA": 1}}, "data.base64AudioBatch"),
        ("llm-function-call-result", None, "data"),
        ("llm-function-call-result", {**CALL, "arguments": []}, "data.arguments"),
        ("llm-function-call-result", {**CALL, "tool_call_id": 7}, "data.tool_call_id"),
        ("llm-function-call-result", {"function_name": "f", "tool_call_id": "c", "arguments": {}}, "data.result"),
    ],
)
def test_a_bad_payload_is_refused_by_field(message_type: str, data: object, field: str) -> None:
    with pytest.raises(InvalidData) as caught:
        decode(message_type, data)
    assert caught.value.field == field
    assert caught.value.reply_id == "m1"
    assert caught.value.reply_text("e1") == f"Invalid message: e1 ({field})"


def test_a_refusal_says_nothing_of_the_payload() -> None:
    secret = "sk-abcdefgh"
    with pytest.raises(InvalidData) as caught:
        decode("send-text", {"content": {secret: secret}, secret: secret})
    assert secret not in f"{caught.value.reply_text('e1')} {caught.value.detail}"


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"{", b"\xff", b'{"content":"\xff"}', b""])
def test_bytes_that_no_envelope_lets_through_are_refused_all_the_same(raw: bytes) -> None:
    with pytest.raises(InvalidData):
        decode_payload(Envelope("send-text", "m1", raw), CLIENT["send-text"])


def test_payload_text_is_kept_as_the_client_wrote_it() -> None:
    payload = decode_payload(
        Envelope("client-message", "m1", b'{"t":"x", "d": {"a" :1.0, "a":1e400}  }'), CLIENT["client-message"]
    )
    assert payload == client.ClientMessage("x", Json(b'{"a" :1.0, "a":1e400}'))


@pytest.mark.parametrize(
    "about",
    [
        {"library": ""},
        {"library": "x", "library_version": None, "extra": {"deep": [1]}},
        {"library": "x", "platform_details": {"os": "mac", "nested": {"a": [1, None]}}},
        {"library": "x", "platform_details": None},
    ],
)
def test_a_good_about_is_read(about: dict[str, object]) -> None:
    read = decode_about(to_json(about))
    assert read is not None
    assert read.library == about["library"]


@pytest.mark.parametrize(
    "about",
    [
        None,
        1,
        "x",
        [],
        ["x"],
        {},
        {"platform": "x"},
        {"library": 1},
        {"library": None},
        {"library": "x", "platform": []},
        {"library": "x", "platform_details": "s"},
        {"library": "x", "platform_details": [1]},
    ],
)
def test_a_bad_about_is_dropped_whole(about: object) -> None:
    assert decode_about(to_json(about)) is None


def test_an_absent_about_is_none() -> None:
    assert decode_about(msgspec.UNSET) is None


def test_every_row_is_of_a_version_that_existed() -> None:
    for message_type, row in CLIENT.items():
        assert (0, 1, 0) <= row.since <= (2, 2, 0), message_type
        assert set(row.kinds) <= set(row.struct.__struct_fields__), message_type
