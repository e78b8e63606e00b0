from __future__ import annotations

import msgspec
import pytest

import rtvi_actors as rtvi
from rtvi_actors import messages
from rtvi_actors.messages import Outcome, Received, Release
from rtvi_actors.runtime.mailbox import encode, type_decoder
from rtvi_actors.session import CHILDREN
from tests.session_kit import calling

STRUCTS = [
    value
    for name in messages.__all__
    if isinstance(value := getattr(messages, name), type) and issubclass(value, msgspec.Struct)
]


def test_every_message_is_frozen_and_tagged() -> None:
    for struct in STRUCTS:
        config = struct.__struct_config__
        assert config.frozen, struct
        assert config.tag == struct.__name__


def test_messages_come_out_of_a_mailbox_as_they_went_in() -> None:
    decode = type_decoder(Received | Release)
    for message in (
        Received(1, "client-message", "id", b'{"t":"x"}'),
        Received(2, "", "", None),
        Release(3, Outcome.ANSWERED, (b"\x81", b""), "id"),
    ):
        assert decode(encode(message)) == message


def test_deferring_outside_a_handler_does_nothing() -> None:
    Received(1, "x", "y", None).defer()


@pytest.mark.anyio
async def test_every_message_is_declared_by_an_actor_of_the_session() -> None:
    async with calling(rtvi.Bot()) as call:
        boxes = [call.session.actor(name).cell.mailbox for name in CHILDREN]
        declared = {kind for box in boxes for kind in {*(box.accepts or ()), *box.accepts_bulk}}
        assert set(STRUCTS) <= declared
