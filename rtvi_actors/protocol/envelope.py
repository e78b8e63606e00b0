"""The first pass over a client message, and the carrier for JSON that this package does not read.

Ingress reads the envelope and leaves `data` as it came; the concern that owns the type decodes it, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NoReturn, TypeAlias, cast

from msgspec import Struct

__all__ = ["LABEL", "NULL", "Envelope", "Json", "JsonKind"]

LABEL: Final = "rtvi-ai"
"""The label of every RTVI message; anything else is somebody else's (PROTOCOL.md 1.1)."""

JsonKind: TypeAlias = Literal["object", "array", "string", "number", "boolean", "null"]

_KINDS: Final[dict[int, JsonKind]] = {
    ord("{"): "object",
    ord("["): "array",
    ord('"'): "string",
    ord("t"): "boolean",
    ord("f"): "boolean",
    ord("n"): "null",
}


class Envelope(Struct, frozen=True):
    """A client message with a valid envelope."""

    type: str
    """Any text, known to us or not."""
    id: str
    """Any text, the empty one included (pipecat-ai 1.14.0, observed). Echoed in the answer."""
    data: bytes | None
    """The JSON object as the client wrote it, an own copy; `None` when it is absent or null."""


class Json:
    """A JSON value as its text. Immutable, compared byte for byte.

    Schemaless payload travels as this: it is valid JSON in UTF-8, which whoever made the value has checked
    (`codec.to_json` for the application's values, `codec.decode_envelope` for a client's). In JSON it is written as it
    stands (codec.py), in msgpack as bytes (runtime/mailbox.py).
    """

    __slots__ = ("raw",)

    raw: bytes

    def __init__(self, raw: bytes) -> None:
        _set_raw(self, raw)

    @property
    def kind(self) -> JsonKind:
        """The JSON type, told by the first character."""
        return _KINDS.get(self.raw.lstrip()[0], "number")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Json is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Json is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, Json) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)

    def __reduce__(self) -> tuple[Any, ...]:
        return Json, (self.raw,)

    def __repr__(self) -> str:
        """Names the size only: payload does not belong in a log line."""
        return f"<Json, {len(self.raw)} bytes>"


_set_raw = cast("Callable[[Json, bytes], None]", Json.__dict__["raw"].__set__)
"""The slot's own setter: what `__setattr__` refuses, without its cost."""

NULL: Final = Json(b"null")
