"""Server messages: the wire form of each, and what versions get."""

from __future__ import annotations

import json

import pytest
from msgspec import UNSET

from rtvi_actors.protocol import server
from rtvi_actors.protocol.codec import decode_server, encode_server
from rtvi_actors.protocol.versions import UNKNOWN, Version, text_of
from tests.protocol.server_messages import GOLDEN, MESSAGES, VERSIONS, golden, output


@pytest.mark.parametrize("version", VERSIONS, ids=text_of)
def test_a_version_gets_what_its_golden_file_has(version: Version) -> None:
    kept = (GOLDEN / f"{text_of(version)}.jsonl").read_text(encoding="utf-8").splitlines()
    assert golden(version) == kept


def test_there_is_a_golden_file_for_each_version_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {text_of(version) for version in VERSIONS}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_from_the_wire_as_it_was(message: server.ServerMessage) -> None:
    assert decode_server(encode_server(message)) == message


def test_every_message_is_among_those_with_a_golden_form() -> None:
    assert {type(message) for message in MESSAGES} == set(server.SERVER.values())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_no_field_of_a_message_is_null_but_those_of_the_applications_own_json(message: server.ServerMessage) -> None:
    wire = json.loads(encode_server(message))
    data = wire.pop("data", {})
    assert None not in wire.values()
    if not isinstance(message, server.ApplicationMessage):
        assert None not in data.values()


def test_the_table_and_the_union_hold_the_same_messages() -> None:
    assert set(server.SERVER.values()) == set(server.AnyServerMessage.__args__)


def test_every_message_is_of_a_version_that_existed() -> None:
    for wire_type, struct in server.SERVER.items():
        assert (0, 1, 0) <= struct.since <= (2, 2, 0), wire_type


def test_an_error_has_its_text_where_old_clients_and_where_new_ones_read_it() -> None:
    wire = json.loads(encode_server(server.Error.of("no")))
    assert wire == {"label": "rtvi-ai", "type": "error", "data": {"error": "no", "message": "no", "fatal": False}}


NEW = output("One.", "sentence", "new", spoken=False)
WORD = output("One", "word", "completed", spoken=True)
TOKEN = output("One", "token", "completed", spoken=True)
PROGRESS = output("One.", "sentence", "in-progress")
CLOSED = output("One.", "sentence", "completed")
SPOKEN = output("One.", "sentence", "completed", spoken=True)
BACKCHANNEL = output("mhm", "backchannel", "completed", spoken=True)


@pytest.mark.parametrize(
    ("version", "gets"),
    [
        ((1, 2, 0), [NEW, WORD, TOKEN, SPOKEN]),
        (UNKNOWN, [NEW, PROGRESS, CLOSED, SPOKEN]),
        ((2, 0, 0), [NEW, PROGRESS, CLOSED, SPOKEN]),
        ((2, 2, 0), [NEW, PROGRESS, CLOSED, SPOKEN, BACKCHANNEL]),
    ],
)
def test_a_version_gets_its_own_events_of_bot_output(version: Version, gets: list[server.BotOutput]) -> None:
    everything = [NEW, WORD, TOKEN, PROGRESS, CLOSED, SPOKEN, BACKCHANNEL]
    assert [m for m in everything if server.shape(m, version) is not None] == gets


def test_a_client_of_1_x_gets_the_fields_that_1_x_has() -> None:
    shaped = server.shape(WORD, (1, 2, 0))
    assert shaped is not None
    assert json.loads(encode_server(shaped))["data"] == {"text": "One", "spoken": True, "aggregated_by": "word"}


RAW = {"stt-raw-text", "llm-raw-text", "tts-raw-text"}
"""Only clients that know them get them (pipecat-ai 1.14.0, observed)."""


def test_only_the_raw_texts_are_kept_from_a_client_that_is_too_old_for_them() -> None:
    assert {wire_type for wire_type, struct in server.SERVER.items() if struct.gated} == RAW


@pytest.mark.parametrize("version", VERSIONS, ids=text_of)
def test_other_messages_go_to_every_version_as_they_are(version: Version) -> None:
    for message in MESSAGES:
        if not (isinstance(message, server.BotOutput) or message.gated):
            assert server.shape(message, version) is message


@pytest.mark.parametrize(("version", "gets_raw"), [(UNKNOWN, False), ((2, 1, 9), False), ((2, 2, 0), True)])
def test_raw_texts_go_to_clients_that_know_them(version: Version, gets_raw: bool) -> None:
    raw = [message for message in MESSAGES if message.gated]
    assert raw
    assert [server.shape(message, version) for message in raw] == (raw if gets_raw else [None] * len(raw))


def test_an_output_without_progress_has_no_field_for_it() -> None:
    assert NEW.data.spoken_progress is UNSET
    assert "spoken_progress" not in json.loads(encode_server(NEW))["data"]
