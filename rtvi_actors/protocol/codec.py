"""Bytes ⇄ Structs. The only file of this room with Encoder and Decoder objects; each is built once.

What a client sends ends in a `ClientError` or in a value, whatever the bytes are. What an application hands over ends
in `NotJson` or in JSON that every client can read.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar, cast, get_args

import msgspec
from msgspec import Raw, Struct, UnsetType

from rtvi_actors.errors import InvalidData, InvalidEnvelope, NotJson, NotRtvi
from rtvi_actors.protocol.client import CLIENT, AboutClient, ClientRow
from rtvi_actors.protocol.envelope import LABEL, Envelope, Json
from rtvi_actors.protocol.server import AnyServerMessage, ServerMessage
from rtvi_actors.protocol.ui import Snapshot, WireSnapshot, check_tree, whole_snapshot
from rtvi_actors.protocol.versions import UNKNOWN

__all__ = [
    "MAX_DEPTH",
    "check_snapshot",
    "decode_about",
    "decode_data",
    "decode_envelope",
    "decode_payload",
    "decode_request",
    "decode_server",
    "encode_server",
    "from_json",
    "read_snapshot",
    "to_json",
]

T = TypeVar("T")
P = TypeVar("P", bound=Struct)

MAX_DEPTH: Final = 920
"""Levels of nesting in one client message. The peer takes 900 in `data`; the interpreter's stack ends near 1,000."""


def _splice(value: object) -> Raw:
    """`Json` in JSON: as it stands."""
    if isinstance(value, Json):
        return Raw(value.raw)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


# -- server → client -----------------------------------------------------------

_SERVER = msgspec.json.Encoder(enc_hook=_splice)


def encode_server(message: ServerMessage) -> bytes:
    """A message as the wire has it.

    Raises `NotJson` when a text holds a lone surrogate, which UTF-8 has no bytes for.
    """
    try:
        return _SERVER.encode(message)
    except UnicodeEncodeError as error:
        raise NotJson("text with a lone surrogate") from error


def _reencode(kind: type[Any], value: Any) -> Any:
    if kind is Json:
        return Json(_SERVER.encode(value))
    raise NotImplementedError(f"cannot decode {kind.__name__}")


_SERVER_DECODER: Final[msgspec.json.Decoder[AnyServerMessage]] = msgspec.json.Decoder(
    AnyServerMessage, dec_hook=_reencode
)


def decode_server(raw: bytes | str) -> AnyServerMessage:
    """A message as a client reads it (the Python client, tests). `Json` fields come out equal as values, not as text.

    Raises `msgspec.DecodeError`: an unknown type, or no such message.
    """
    return _SERVER_DECODER.decode(raw)


# -- client → server: the envelope ---------------------------------------------


class _Wire(Struct):
    """A message whose envelope is right; anything else fails and is looked at again as `_Loose`."""

    label: Literal["rtvi-ai"]
    type: str
    id: str
    data: Raw = Raw(b"null")


class _Loose(Struct):
    """Any object. An empty `Raw` is an absent field."""

    label: Raw = Raw(b"")
    type: Raw = Raw(b"")
    id: Raw = Raw(b"")
    data: Raw = Raw(b"null")


_WIRE = msgspec.json.Decoder(_Wire)
_LOOSE = msgspec.json.Decoder(_Loose)
_ANY = msgspec.json.Decoder()


def decode_envelope(raw: bytes | str) -> Envelope:
    """Read a client message's envelope and leave `data` as it came.

    Raises `NotRtvi` (wrong or missing label) or `InvalidEnvelope` (with the message's id where that is usable), and for
    no input anything else.
    """
    try:
        text = _utf8(raw)
        if _too_deep(text):
            raise InvalidEnvelope("nesting", detail=f"more than {MAX_DEPTH} levels")
        wire = _read(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InvalidEnvelope("JSON", detail=str(error)) from None
    except RecursionError as error:
        raise InvalidEnvelope("nesting", detail=str(error)) from None
    data = bytes(wire.data)
    if data[0] == _OBJECT:
        return Envelope(wire.type, wire.id, data)
    if data == b"null":
        return Envelope(wire.type, wire.id, None)
    raise InvalidEnvelope("data", reply_id=wire.id, detail="neither object nor null")


_OBJECT: Final = ord("{")


def _utf8(raw: bytes | str) -> bytes:
    """Check UTF-8 here, once: msgspec does not look into what it leaves as `Raw`."""
    if isinstance(raw, str):
        return raw.encode()
    if not raw.isascii():
        raw.decode()
    return raw


def _read(text: bytes) -> _Wire:
    """Decode the envelope; when that fails, find out what is wrong with it, and whether it is ours at all."""
    try:
        return _WIRE.decode(text)
    except msgspec.ValidationError as error:
        detail = str(error)
    try:
        loose = _LOOSE.decode(text)
    except msgspec.ValidationError:
        raise InvalidEnvelope("message", detail=detail) from None
    if _text(loose.label) != LABEL:
        raise NotRtvi(detail="label is not rtvi-ai")
    message_type, message_id = _text(loose.type), _text(loose.id)
    if message_id is None or message_type is None:
        raise InvalidEnvelope("id" if message_id is None else "type", reply_id=message_id, detail=detail)
    return _Wire(LABEL, message_type, message_id, loose.data)


def _text(raw: Raw) -> str | None:
    """The value if it is text."""
    value = bytes(raw)
    return cast("str", _ANY.decode(value)) if value.startswith(b'"') else None


_STRINGS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""Possessive, so that no text makes it look twice at a byte."""
_RUNS: Final = re.compile(rb"(\[*)(\]*)")
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ROUNDS: Final = 8


def _too_deep(raw: bytes) -> bool:
    """Whether the nesting is beyond `MAX_DEPTH`; most messages have too few brackets to ask.

    A sibling, ``][``, does not change the greatest depth and is taken out: each round eats the shortest runs, so that
    few, long ones are left to count (1 MiB of brackets in a few milliseconds, of one-byte strings in 50).
    """
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRINGS.sub(b"", raw).translate(_ONE_KIND, _OTHERS)
    for _ in range(_ROUNDS):
        brackets = brackets.replace(b"][", b"")
    depth = 0
    for opened, closed in _RUNS.findall(brackets):
        depth += len(opened)
        if depth > MAX_DEPTH:
            return True
        depth -= len(closed)
    return False


# -- client → server: the payloads ---------------------------------------------


class _Decoder:
    """The decoder of one payload Struct.

    `Json` fields are read as `Raw`, by a twin of the Struct that has that in their place: their text is kept as the
    client wrote it, and is not decoded to be encoded again. Those of Structs within it come out equal as values.
    """

    def __init__(self, struct: type[Struct]) -> None:
        self.struct = struct
        self.json_fields = _json_fields(struct)
        names = struct.__struct_fields__
        self.json_at = [(names.index(name), default) for name, default in self.json_fields.items()]
        self.decoder = msgspec.json.Decoder(_twin(struct) if self.json_fields else struct, dec_hook=_reencode)

    def decode(self, raw: bytes) -> Struct:
        value: Struct = self.decoder.decode(raw)
        if not self.json_fields:
            return value
        fields = [getattr(value, name) for name in self.struct.__struct_fields__]
        for at, default in self.json_at:
            text = bytes(fields[at])
            absent = not text or (default is None and text == b"null")
            fields[at] = default if absent else Json(text)
        return self.struct(*fields)


def _json_fields(struct: type[Struct]) -> dict[str, Any]:
    """The `Json` fields, each with its default."""
    return {
        info.name: info.default
        for info in msgspec.structs.fields(struct)
        if info.type is Json or Json in get_args(info.type)
    }


def _twin(struct: type[Struct]) -> type[Struct]:
    """The Struct with `Raw` for `Json`. An empty `Raw` is an absent field: in a union `Raw` loses its meaning."""
    json_fields = _json_fields(struct)
    fields: list[Any] = []
    for info in msgspec.structs.fields(struct):
        if info.required:
            fields.append((info.name, Raw if info.name in json_fields else info.type))
        elif info.name in json_fields:
            fields.append((info.name, Raw, Raw(b"")))
        else:
            fields.append((info.name, info.type, info.default))
    rename = {info.name: info.encode_name for info in msgspec.structs.fields(struct)}
    return msgspec.defstruct(f"Raw{struct.__name__}", fields, rename=rename)


_decoder = functools.cache(_Decoder)
_PATH = re.compile(r"`\$(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]*)`")


def decode_payload(envelope: Envelope, row: ClientRow) -> Struct:
    """Decode a message's `data` as its row in `CLIENT` says.

    Raises `InvalidData`, which names the field and the message's id, and nothing else.
    """
    if envelope.data is None:
        if row.data_optional:
            return row.struct()
        raise InvalidData("data", reply_id=envelope.id, detail="absent or null")
    try:
        value = _decoder(row.struct).decode(envelope.data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidData(_field(str(error)), reply_id=envelope.id, detail=str(error)) from None
    if row.kinds:
        _check_kinds(value, row.kinds, envelope.id)
    return value


def decode_data(envelope: Envelope, struct: type[P]) -> P:
    """`decode_payload` for a caller that knows the type's Struct and wants it typed; the Struct may be its own."""
    return cast("P", decode_payload(envelope, _row(struct)))


@functools.cache
def _row(struct: type[Struct]) -> ClientRow:
    """The Struct's row in `CLIENT`, or one for the message of a custom actor: its data must be there."""
    return next((row for row in CLIENT.values() if row.struct is struct), ClientRow(struct, UNKNOWN))


def _check_kinds(value: Struct, kinds: Mapping[str, tuple[str, ...]], reply_id: str) -> None:
    for name, allowed in kinds.items():
        kind = cast("Json", getattr(value, name)).kind
        if kind not in allowed:
            raise InvalidData(f"data.{name}", reply_id=reply_id, detail=f"{kind}, not {' or '.join(allowed)}")


def _field(text: str) -> str:
    """The field that a msgspec error is about, as a dotted path under `data`. Names are ours, never the client's."""
    path = _PATH.search(text)
    missing = _MISSING.search(text)
    return "data" + (path["path"] if path else "") + (f".{missing['name']}" if missing else "")


@functools.cache
def _typed_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode_request(payload: bytes, kind: Any, reply_id: str) -> Any:
    """The `d` of a client-message as the type that its handler is annotated with.

    Raises `InvalidData`, whose field is under ``data.d``.
    """
    try:
        return _typed_decoder(kind).decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        field = _field(str(error)).replace("data", "data.d", 1)
        raise InvalidData(field, reply_id=reply_id, detail=str(error)) from None


def decode_about(about: Json | UnsetType) -> AboutClient | None:
    """client-ready's `about`, or `None` when it is absent or not what it must be (it stops nothing)."""
    if not isinstance(about, Json):
        return None
    try:
        value = cast("AboutClient", _decoder(AboutClient).decode(about.raw))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    details = value.platform_details
    return value if details is None or details.kind == "object" else None


# -- the application's values --------------------------------------------------

_BINARY: Final = (bytes, bytearray, memoryview)


def to_json(value: Any) -> Json:
    """An application's value as JSON. Structs, dataclasses, enums, dates and the like are what msgspec makes of them.

    Raises `NotJson` for what JSON cannot hold: what msgspec would write as something else, which are NaN and the
    infinities (null), bytes (base64) and keys that are not text (text); and lone surrogates, objects, endless nesting.
    """
    if isinstance(value, Json):
        return value
    try:
        if _is_simple(value):
            return Json(_SERVER.encode(value))
        plain = msgspec.to_builtins(value, builtin_types=_BINARY, enc_hook=_builtin)
        _check(plain)
        return Json(_SERVER.encode(plain))
    except UnicodeEncodeError as error:
        raise NotJson("text with a lone surrogate") from error
    except RecursionError as error:
        raise NotJson("a value nested too deeply") from error
    except (TypeError, ValueError, NotImplementedError) as error:  # ValueError: an integer of thousands of digits
        raise NotJson(str(error)) from error


def from_json(value: Json, type: Any = Any) -> Any:  # noqa: A002  as in msgspec
    """A JSON value as Python, or as `type`.

    Raises `msgspec.ValidationError` when it is no such type or has a number that no float holds, `msgspec.DecodeError`
    when it is nested deeper than `MAX_DEPTH`.
    """
    if _too_deep(value.raw):
        raise msgspec.DecodeError("nested too deeply")
    try:
        return _ANY.decode(value.raw) if type is Any else msgspec.json.decode(value.raw, type=type)
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply") from error


_SNAPSHOT = msgspec.json.Decoder(WireSnapshot)


def read_snapshot(value: Json) -> Snapshot:
    """A ui-snapshot's `tree`, typed. Raises `msgspec.DecodeError`, for one beyond its bounds, too."""
    try:
        shape = _SNAPSHOT.decode(value.raw)
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deeply - at `$.root`") from error
    check_tree(shape.root)
    return whole_snapshot(shape, from_json(value))


def check_snapshot(value: Json, reply_id: str) -> None:
    """Whether `read_snapshot` will read it, at a fraction of the cost. Raises `InvalidData`, whose field is under
    ``data.tree``."""
    try:
        check_tree(_SNAPSHOT.decode(value.raw).root)
        from_json(value)  # what is not in the shape could hold a number that no float does
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidData(_tree_field(str(error)), reply_id=reply_id, detail=str(error)) from None


def _tree_field(text: str) -> str:
    """Far down in a tree the way to the node is left out: it would be as long as the tree is deep."""
    return _FAR_DOWN.sub(".children[...]", _field(text)).replace("data", "data.tree", 1)


_FAR_DOWN: Final = re.compile(r"(?:\.children\[\d+\]){9,}")


_SCALARS: Final = frozenset({str, int, bool, type(None)})


def _is_simple(value: object) -> bool:
    """A scalar, or a flat dict of them: nothing in it needs a second look. Most answers are."""
    if type(value) is not dict:
        return type(value) in _SCALARS
    for key, item in value.items():  # noqa: SIM110 - a generator costs more than the whole check
        if type(key) is not str or type(item) not in _SCALARS:
            return False
    return True


def _builtin(value: object) -> object:
    """What `to_builtins` does not know: `Json` inside a value, and subclasses of str."""
    if isinstance(value, Json):
        return from_json(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(f"an object of type {type(value).__name__}")


def _check(value: object) -> None:
    """Refuse what the encoder would silently turn into something else, and what no client could read for its depth."""
    rest = [(value, 0)]
    while rest:
        item, depth = rest.pop()
        if depth > MAX_DEPTH:
            raise NotJson("a value nested too deeply")
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                raise NotJson("a key that is not text")
            rest.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list | tuple):
            rest.extend((inner, depth + 1) for inner in item)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise NotJson("a float that is not finite")
        elif isinstance(item, _BINARY):
            raise NotJson("bytes")
