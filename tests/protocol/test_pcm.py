"""base64 → PCM16: the recorded good cases pass, the bad ones are refused whole."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.errors import InvalidData
from rtvi_actors.protocol import pcm
from rtvi_actors.protocol.client import RawAudio
from rtvi_actors.protocol.pcm import Pcm

SIX = base64.b64encode(bytes(range(6))).decode()


def refused(payload: RawAudio) -> InvalidData:
    with pytest.raises(InvalidData) as caught:
        pcm.decode(payload, reply_id="a1")
    assert caught.value.reply_id == "a1"
    return caught.value


@given(st.binary(max_size=400), st.integers(1, pcm.MAX_RATE_HZ), st.integers(1, pcm.MAX_CHANNELS))
def test_whole_frames_come_out_as_they_went_in(audio: bytes, rate_hz: int, channels: int) -> None:
    audio = audio[: len(audio) // (2 * channels) * 2 * channels]
    payload = RawAudio(rate_hz, channels, base64.b64encode(audio).decode())
    assert pcm.decode(payload) == ((Pcm(audio, rate_hz, channels),) if audio else ())


def test_a_batch_keeps_its_order_and_skips_what_is_null_or_empty() -> None:
    payload = RawAudio(16000, 1, None, (None, "AAA=", "", SIX, None))
    assert [chunk.audio for chunk in pcm.decode(payload)] == [bytes(2), bytes(range(6))]


def test_a_batch_of_nothing_is_nothing() -> None:
    assert pcm.decode(RawAudio(16000, 1, None, (None,))) == ()


@pytest.mark.parametrize("batch", [None, ()])
def test_an_empty_batch_falls_back_to_the_single_chunk(batch: tuple[str, ...] | None) -> None:
    assert pcm.decode(RawAudio(16000, 1, SIX, batch)) == (Pcm(bytes(range(6)), 16000, 1),)


def test_of_both_the_batch_counts() -> None:
    assert pcm.decode(RawAudio(16000, 1, "AAA=", (SIX,))) == (Pcm(bytes(range(6)), 16000, 1),)


def test_one_bad_entry_refuses_the_batch() -> None:
    assert refused(RawAudio(16000, 1, None, (SIX, "A", SIX))).field == "data.base64AudioBatch[1]"


def test_no_audio_is_refused() -> None:
    assert refused(RawAudio(16000, 1)).field == "data.base64Audio"


@pytest.mark.parametrize(
    "text",
    [
        "AAA",
        "AA",
        "A",
        "A===",
        "AAAA=",
        "=",
        "====",
        "!!!!",
        "A!A!A!A!",
        "AA AA",
        "AAAA\n",
        "-___",
        "AA==\x00",
        "Ａ" * 4,
        "data:audio/pcm;base64,AQID",
        "[object Object]",
        "AAA=AAAA",
    ],
)
def test_base64_is_read_strictly(text: str) -> None:
    assert refused(RawAudio(16000, 1, text)).field == "data.base64Audio"


@pytest.mark.parametrize("rate_hz", [0, -1, pcm.MAX_RATE_HZ + 1, 10**30])
def test_a_rate_that_no_audio_has_is_refused(rate_hz: int) -> None:
    assert refused(RawAudio(rate_hz, 1, SIX)).field == "data.sampleRate"


@pytest.mark.parametrize("channels", [0, -3, 9, 10**30])
def test_a_channel_count_that_no_microphone_has_is_refused(channels: int) -> None:
    assert refused(RawAudio(16000, channels, SIX)).field == "data.numChannels"


@pytest.mark.parametrize(("text", "channels"), [("AA==", 1), ("AAAA", 1), (SIX, 2)])
def test_half_samples_and_half_frames_are_refused_unless_asked_for(text: str, channels: int) -> None:
    payload = RawAudio(16000, channels, text)
    assert refused(payload).field == "data.base64Audio"
    assert len(pcm.decode(payload, whole=False)) == 1


def test_audio_that_came_as_bytes_is_checked_the_same_way() -> None:
    assert pcm.check(bytes(4), 48000, 2) == Pcm(bytes(4), 48000, 2)
    with pytest.raises(InvalidData, match="whole frames"):
        pcm.check(bytes(3), 48000, 1)


@given(st.text(), st.integers(), st.integers())
def test_no_text_raises_anything_else(text: str, rate_hz: int, channels: int) -> None:
    with contextlib.suppress(InvalidData):
        pcm.decode(RawAudio(rate_hz, channels, text, (text,)))
