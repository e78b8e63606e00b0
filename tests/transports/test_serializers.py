from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, Malformed, ServerAudio, ServerText
from rtvi_actors.transports import serializers
from rtvi_actors.transports.frames_pb2 import Frame, MessageFrame, TextFrame, TranscriptionFrame

SERVED = (ClientText, ClientAudio, ClientInterruption)


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_a_wire_message(frame: bytes) -> None:
    assert isinstance(serializers.decode_binary(frame), (*SERVED, Malformed))


@given(st.binary(min_size=1, max_size=60), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_frame_never_raises(body: bytes, place: int, byte: int) -> None:
    frame = bytearray(serializers.pack_audio(body, 16_000, 1))
    frame[place % len(frame)] = byte
    assert isinstance(serializers.decode_binary(bytes(frame)), (*SERVED, Malformed))


@given(st.text())
def test_any_text_decodes_to_itself(text: str) -> None:
    message = serializers.decode_text(text)
    assert message == ClientText(text.encode())


def test_text_that_utf8_cannot_hold_is_malformed() -> None:
    assert isinstance(serializers.decode_text("\ud800"), Malformed)


@given(st.text())
def test_a_message_survives_the_binary_dialect(text: str) -> None:
    assert serializers.decode_binary(serializers.encode_binary(ServerText(text.encode()))) == ClientText(text.encode())


@given(st.binary(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_audio_survives_the_binary_dialect_with_whatever_rate_it_declares(pcm: bytes, rate: int, channels: int) -> None:
    frame = serializers.encode_binary(ServerAudio(pcm, rate, channels))
    assert serializers.decode_binary(frame) == ClientAudio(pcm, rate, channels)


@given(st.binary())
def test_audio_in_the_json_dialect_is_a_bot_tts_audio_message(pcm: bytes) -> None:
    message = json.loads(serializers.encode_text(ServerAudio(pcm, 16_000, 2)))
    assert message == {
        "label": "rtvi-ai",
        "type": "bot-tts-audio",
        "data": {"audio": base64.b64encode(pcm).decode(), "sample_rate": 16_000, "num_channels": 2},
    }


def test_an_interruption_frame_is_an_interruption() -> None:
    assert serializers.decode_binary(serializers.pack_interruption()) == ClientInterruption()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        Frame(text=TextFrame(text="hello")).SerializeToString(),
        Frame(transcription=TranscriptionFrame(text="hello")).SerializeToString(),
        b"\x4a\x03abc",  # field 9: a kind that a later peer may add
    ],
)
def test_a_kind_that_nobody_serves_is_malformed(frame: bytes) -> None:
    assert isinstance(serializers.decode_binary(frame), Malformed)


def test_a_message_that_is_not_utf8_is_malformed() -> None:
    valid = Frame(message=MessageFrame(data="abcd")).SerializeToString()
    assert isinstance(serializers.decode_binary(valid.replace(b"abcd", b"ab\xff\xfe")), Malformed)


@pytest.mark.parametrize("size_bytes", [9, 10, 11])
def test_the_limit_counts_bytes_and_includes_itself(size_bytes: int) -> None:
    text = "é" * (size_bytes // 2) + "a" * (size_bytes % 2)
    assert isinstance(serializers.decode_text(text, 10), ClientText if size_bytes <= 10 else Malformed)


def test_a_binary_frame_above_the_limit_is_malformed() -> None:
    frame = serializers.pack_audio(bytes(100), 16_000, 1)
    assert isinstance(serializers.decode_binary(frame, len(frame)), ClientAudio)
    assert isinstance(serializers.decode_binary(frame, len(frame) - 1), Malformed)


def test_no_reason_quotes_what_the_client_sent() -> None:
    frame = b"\xff\xff secret"
    refused = serializers.decode_binary(frame)
    assert isinstance(refused, Malformed)
    assert "secret" not in refused.reason


def test_without_protobuf_binary_frames_are_refused_with_the_name_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = serializers.pack_message(b"{}")
    monkeypatch.setattr(serializers, "_load", lambda: None)
    assert serializers.decode_binary(frame) == Malformed(serializers.NO_PROTOBUF)
    assert "rtvi-actors[server]" in serializers.NO_PROTOBUF
    with pytest.raises(RuntimeError, match="protobuf"):
        serializers.encode_binary(ServerText(b"{}"))


def test_without_protobuf_the_json_dialect_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "_load", lambda: None)
    assert serializers.decode_text("{}") == ClientText(b"{}")
    assert serializers.encode_text(ServerText(b"{}")) == "{}"


def test_the_first_bytes_on_the_wire_are_the_peers() -> None:
    """Field numbers of pipecat-ai 1.14.0: message is 4, its data 1; audio is 2, its bytes 3, rate 4, channels 5."""
    assert serializers.pack_message(b"{}") == b"\x22\x04\x0a\x02{}"
    assert (
        serializers.pack_audio(b"\x01\x02", 16_000, 1) == b"\x12\x10\x12\x05audio\x1a\x02\x01\x02\x20\x80\x7d\x28\x01"
    )
    assert serializers.pack_interruption() == b"\x2a\x00"
