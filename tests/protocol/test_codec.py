"""Bytes in, bytes out: nothing but a ClientError for any bytes, nothing but JSON for any value."""

from __future__ import annotations

import dataclasses
import enum
import json
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.errors import ClientError, InvalidData, InvalidEnvelope, NotJson, NotRtvi
from rtvi_actors.protocol import codec, server
from rtvi_actors.protocol.client import CLIENT, ClientMessage
from rtvi_actors.protocol.envelope import Envelope, Json

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
SCALAR = st.one_of(st.none(), st.booleans(), NUMBER, TEXT)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)
NEAR_ENVELOPE = st.fixed_dictionaries(
    {},
    optional={
        "label": st.one_of(st.just("rtvi-ai"), SCALAR),
        "type": st.one_of(st.sampled_from(sorted(CLIENT)), VALUE),
        "id": st.one_of(TEXT, VALUE),
        "data": VALUE,
    },
)


def message(**fields: object) -> bytes:
    return msgspec.json.encode({"label": "rtvi-ai", "type": "x", "id": "m1", **fields})


def nested(levels: int) -> bytes:
    return message(data="?").replace(b'"?"', b'{"k":' * levels + b"1" + b"}" * levels)


# -- the envelope --


@pytest.mark.parametrize("as_text", [False, True])
def test_a_good_envelope_keeps_its_data_unread(as_text: bool) -> None:
    raw = b' {"data" : {"t":"x", "d":1 } , "id":"", "type":"\xc3\xa9", "label":"rtvi-ai", "more":[1]} '
    assert codec.decode_envelope(raw.decode() if as_text else raw) == Envelope("\xe9", "", b'{"t":"x", "d":1 }')


@pytest.mark.parametrize("raw", [message(), message(data=None)])
def test_absent_and_null_data_are_the_same(raw: bytes) -> None:
    assert codec.decode_envelope(raw) == Envelope("x", "m1", None)


def test_data_is_an_own_copy() -> None:
    raw = bytearray(message(data={"t": "x"}))
    envelope = codec.decode_envelope(bytes(raw))
    assert type(envelope.data) is bytes


@pytest.mark.parametrize("label", [None, "", "rtvi", "RTVI-AI", " rtvi-ai", 1, [], ["rtvi-ai"], {"a": 1}])
def test_another_label_is_somebody_elses_message(label: object) -> None:
    others: list[dict[str, object]] = [{}, {"id": 5}, {"type": []}, {"data": "x"}]
    for rest in others:
        with pytest.raises(NotRtvi) as caught:
            codec.decode_envelope(message(label=label, **rest))
        assert caught.value.reply_text("e1") is None


@pytest.mark.parametrize("raw", [b"{}", b'{"whatever":[1,2,3]}', b'{"type":"x","id":"m1"}'])
def test_no_label_is_somebody_elses_message(raw: bytes) -> None:
    with pytest.raises(NotRtvi):
        codec.decode_envelope(raw)


@pytest.mark.parametrize(
    ("raw", "field", "reply_id"),
    [
        (message(type=1), "type", "m1"),
        (message(type=None), "type", "m1"),
        (message(type={"k": 1}), "type", "m1"),
        (message(id=5), "id", None),
        (message(id=None), "id", None),
        (message(id=["m1"]), "id", None),
        (message(type=1, id=2, data=3), "id", None),
        (b'{"label":"rtvi-ai"}', "id", None),
        (b'{"label":"rtvi-ai","id":"m1"}', "type", "m1"),
        (message(data=[]), "data", "m1"),
        (message(data="text"), "data", "m1"),
        (message(data=0), "data", "m1"),
        (message(data=False), "data", "m1"),
        (b"[1]", "message", None),
        (b"null", "message", None),
        (b'"text"', "message", None),
        (b"1.5", "message", None),
        (b"", "JSON", None),
        (b"ping: 12", "JSON", None),
        (b"{", "JSON", None),
        (message() + b"x", "JSON", None),
        (b"\xef\xbb\xbf" + message(), "JSON", None),
        (message(data={"k": "?"}).replace(b"?", b"\xff"), "JSON", None),
        (message(data={"k": "?"}).replace(b"?", b"\xed\xa0\x80"), "JSON", None),
        (message(data={"k": "?"}).replace(b"?", rb"\ud800"), "JSON", None),
        (message(data={"k": "?"}).replace(b'"?"', b"NaN"), "JSON", None),
    ],
)
def test_a_bad_envelope_is_refused_by_field_with_the_id_if_usable(raw: bytes, field: str, reply_id: str | None) -> None:
    with pytest.raises(InvalidEnvelope) as caught:
        codec.decode_envelope(raw)
    assert caught.value.field == field
    assert caught.value.reply_id == reply_id
    assert caught.value.reply_text("e1") == f"Invalid RTVI transport message: e1 ({field})"


def test_text_with_a_lone_surrogate_is_no_json() -> None:
    with pytest.raises(InvalidEnvelope):
        codec.decode_envelope('{"label":"\ud800"}')


def test_of_two_fields_with_one_name_the_last_counts() -> None:
    raw = b'{"label":"x","label":"rtvi-ai","type":1,"type":"x","id":"a","id":"b"}'
    assert codec.decode_envelope(raw) == Envelope("x", "b", None)


def test_nesting_to_900_levels_is_fine() -> None:
    envelope = codec.decode_envelope(nested(900))
    assert envelope.data is not None
    assert envelope.data.count(b"{") == 900


@pytest.mark.parametrize("levels", [codec.MAX_DEPTH + 1, 5_000, 200_000])
def test_nesting_without_end_is_refused(levels: int) -> None:
    for raw in (nested(levels), b"[" * levels, b'{"a":' * levels):
        with pytest.raises(InvalidEnvelope) as caught:
            codec.decode_envelope(raw)
        assert caught.value.field == "nesting"


def test_brackets_within_text_are_no_nesting() -> None:
    text = '["\\' * 5_000
    envelope = codec.decode_envelope(message(data={"k": text}))
    assert envelope.data == msgspec.json.encode({"k": text})


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    assert codec.decode_envelope(message(data={"k": [[]] * 5_000})).data is not None


def test_a_hostile_unfinished_text_costs_one_look_a_byte() -> None:
    with pytest.raises(InvalidEnvelope):
        codec.decode_envelope(b"[" * 2_000 + b'"' + rb"\"" * 500_000)


def read(raw: bytes) -> None:
    """All that a client's bytes go through in this room."""
    try:
        envelope = codec.decode_envelope(raw)
        row = CLIENT.get(envelope.type)
        if row is not None:
            codec.decode_payload(envelope, row)
    except ClientError as error:
        error.reply_text("e1")


@given(st.binary())
def test_arbitrary_bytes_raise_nothing_but_a_client_error(raw: bytes) -> None:
    read(raw)


@given(NEAR_ENVELOPE, st.binary(max_size=3), st.integers(0, 200))
def test_damaged_messages_raise_nothing_but_a_client_error(value: object, damage: bytes, at: int) -> None:
    raw = msgspec.json.encode(value)
    read(raw)
    read(raw[:at] + damage + raw[at + len(damage) :])


@given(st.sampled_from(sorted(CLIENT)), TEXT, st.dictionaries(TEXT, VALUE, max_size=4))
def test_any_object_is_read_as_json_reads_it(message_type: str, message_id: str, data: dict[str, Any]) -> None:
    raw = json.dumps({"data": data, "id": message_id, "label": "rtvi-ai", "type": message_type}).encode()
    envelope = codec.decode_envelope(raw)
    assert (envelope.type, envelope.id) == (message_type, message_id)
    assert envelope.data is not None
    assert json.loads(envelope.data) == data


def test_decode_data_is_decode_payload_typed() -> None:
    payload = codec.decode_data(codec.decode_envelope(message(data={"t": "x", "d": 1})), ClientMessage)
    assert payload.d == Json(b"1")


def test_payload_too_deep_for_the_stack_is_invalid_data() -> None:
    data = b'{"content":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    with pytest.raises(InvalidData):
        codec.decode_payload(Envelope("send-text", "m1", data), CLIENT["send-text"])


# -- the application's values --


class Colour(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: int | msgspec.UnsetType = msgspec.UNSET


@dataclasses.dataclass
class Place:
    name: str
    at: Point


class Tag(str):
    __slots__ = ()


@given(VALUE)
def test_a_json_value_comes_back_equal(value: object) -> None:
    made = codec.to_json(value)
    assert codec.from_json(made) == value
    assert json.loads(made.raw) == value


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (None, b"null"),
        (Point(1), b'{"x":1}'),
        (Place("a", Point(1, 2)), b'{"name":"a","at":{"x":1,"y":2}}'),
        ((1, [Colour.RED]), b'[1,["red"]]'),
        ({Colour.RED: 1}, b'{"red":1}'),
        (Tag("a"), b'"a"'),
        ({"a": Json(b'{ "b":1}')}, b'{"a":{"b":1}}'),
        (Json(b" 1"), b" 1"),
        (2**70, str(2**70).encode()),
        (uuid.UUID(int=0), b'"00000000-0000-0000-0000-000000000000"'),
    ],
)
def test_what_msgspec_knows_is_json(value: object, raw: bytes) -> None:
    assert codec.to_json(value).raw == raw


class Opaque:
    pass


LOOP: list[object] = []
LOOP.append(LOOP)
BAD = [
    float("nan"),
    float("inf"),
    -float("inf"),
    b"x",
    bytearray(b"x"),
    memoryview(b"x"),
    "a\ud800b",
    Opaque(),
    Opaque,
    1j,
    LOOP,
    10**5000,
    {1: 2},
    {None: 1},
    {1.5: 1},
    {b"x": 1},
    {(1, 2): 1},
    {"a\ud800b": 1},
]


@pytest.mark.parametrize("value", BAD, ids=lambda value: type(value).__name__)
def test_what_json_cannot_hold_is_refused_at_any_depth(value: object) -> None:
    for holder in (value, [value], {"k": (1, {"k": value})}):
        with pytest.raises(NotJson):
            codec.to_json(holder)


def test_nested_too_deeply_is_not_json() -> None:
    value: object = 1
    for _ in range(5_000):
        value = [value]
    with pytest.raises(NotJson):
        codec.to_json(value)
    with pytest.raises(msgspec.DecodeError):
        codec.from_json(Json(b"[" * 5_000 + b"]" * 5_000))


def test_json_is_read_as_the_type_asked_for() -> None:
    assert codec.from_json(Json(b'{"x":1}'), Point) == Point(1)
    with pytest.raises(msgspec.ValidationError):
        codec.from_json(Json(b'{"x":"1"}'), Point)


def test_a_server_message_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(NotJson):
        codec.encode_server(server.Error.of("a\ud800b"))


@pytest.mark.parametrize("raw", [b"{}", b'{"type":"nope"}', b"x", b'{"type":"bot-ready"}'])
def test_what_is_no_server_message_is_not_read_as_one(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        codec.decode_server(raw)


def test_only_json_stands_for_itself_in_a_message() -> None:
    with pytest.raises(NotImplementedError):
        codec.encode_server(server.ApplicationMessage(data=Opaque()))  # type: ignore[arg-type]
