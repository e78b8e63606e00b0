from __future__ import annotations

import pytest

from rtvi_actors import frames
from rtvi_actors.bot import _FRAMES
from rtvi_actors.concerns.observer import _REPORTS
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.runtime.mailbox import encode, type_decoder

STRUCTS = [getattr(frames, name) for name in frames.__all__]
PARTS = {frames.LLMMessage, frames.UserFile, frames.FunctionCall, frames.BotFrame}
"""Not frames of their own: parts of one, and the name of a union."""


def test_every_frame_is_frozen_and_tagged() -> None:
    for struct in set(STRUCTS) - PARTS:
        config = struct.__struct_config__
        assert config.frozen, struct
        assert config.tag == struct.__name__


def test_every_frame_is_taken_by_the_bot_by_the_observer_or_by_playout() -> None:
    assert set(STRUCTS) - PARTS == {*_FRAMES, *_REPORTS, frames.OutputAudioRaw}


def test_a_frame_whose_field_is_named_as_its_tag_travels_all_the_same() -> None:
    decode = type_decoder(frames.ClientMessage | frames.AggregatedText | frames.Request)
    for frame in (
        frames.ClientMessage("id", "topic", Json(b"[1]")),
        frames.AggregatedText("text", "code"),
        frames.Request(1, "id", "topic", b"null"),
    ):
        assert decode(encode(frame)) == frame


def test_a_client_message_shows_its_payload_as_python() -> None:
    assert frames.ClientMessage("id", "t", Json(b'{"a":[1,null]}')).data == {"a": [1, None]}
    assert frames.ClientMessage("id", "t").data is None


def test_a_frame_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        frames.EndTask().x = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        frames.RequestExpired(1).token = 2  # type: ignore[misc]
