"""How the vectors spell values that JSON cannot hold, or that are too big to keep.

Two small notations, the ones of the recordings' own tools:

* *directives* (`decode`): one-key objects such as ``{"$repeat": ["ab", 3]}`` that stand for a value in a case's inputs;
* *encodings* (`encode`): how a result spells what a server produced: long text and bytes by length and digest, so that
  two results can be compared without keeping megabytes.

Standard library only. Nothing here knows RTVI.
"""

from __future__ import annotations

import array
import base64
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Marker", "Opaque", "decode", "dumps", "encode", "loads"]

MAX_TEXT = 1500
"""Code points; longer text is spelt by length, digest and both ends."""
MAX_HEX_BYTES = 96
"""Bytes; longer ones are spelt without their hexadecimal digits."""
MAX_DEPTH = 130
"""Levels; a container below is spelt by its type alone."""
MAX_CONTAINER = 20_000
"""Characters of JSON; a bigger container is spelt by its size and digest."""
RAMP = bytes(range(251))
"""The deterministic audio of the recordings; 251 is prime, so that no sample repeats in step with a frame."""


class Opaque:
    """A value that no wire can carry: what ``{"$object": …}`` stands for."""


class Marker(dict[str, Any]):
    """A value that is spelt already."""


# -- inputs --------------------------------------------------------------------


def ramp(size_bytes: int) -> bytes:
    """The first bytes of the endlessly repeated ramp."""
    return (RAMP * (size_bytes // len(RAMP) + 1))[:size_bytes]


def tone(duration_ms: int, rate_hz: int, amplitude: float) -> bytes:
    """A 440 Hz sine, PCM16 mono, little-endian."""
    turn = 2 * math.pi * 440 / rate_hz
    count = rate_hz * duration_ms // 1000
    samples = array.array("h", (int(32767 * amplitude * math.sin(turn * i)) for i in range(count)))
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()


def nested(levels: int, wrap: Callable[[Any], Any], inner: Any) -> Any:
    """`inner`, wrapped that many times."""
    for _ in range(levels):
        inner = wrap(inner)
    return inner


def node(children: list[Any] | None = None) -> dict[str, Any]:
    """One node of an accessibility tree."""
    bare: dict[str, Any] = {"ref": "e", "role": "r"}
    return bare if children is None else {**bare, "children": children}


DIRECTIVES: Mapping[str, Callable[[Any], Any]] = {
    "$repeat": lambda arg: arg[0] * arg[1],
    "$pcm_b64": lambda arg: base64.b64encode(ramp(arg)).decode("ascii"),
    "$pcm": ramp,
    "$tone": lambda arg: tone(*arg),
    "$hex": bytes.fromhex,
    "$float": float,
    "$deep": lambda arg: nested(arg, lambda inner: {"k": inner}, "end"),
    "$deeplist": lambda arg: nested(arg, lambda inner: [inner], "end"),
    "$tree": lambda arg: nested(arg, lambda inner: node([inner]), node()),
    "$wide": lambda arg: {f"k{i}": i for i in range(arg)},
    "$object": lambda arg: Opaque(),
}
"""Directives whose argument is plain."""


def decode(value: Any, refs: Mapping[str, Any] | None = None) -> Any:
    """`value` with its directives expanded.

    `refs` names the frames that earlier steps of the case remembered, for ``{"$frame_id": name}``.
    """
    if isinstance(value, list):
        return [decode(item, refs) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, arg),) = value.items()
        if name in DIRECTIVES:
            return DIRECTIVES[name](arg)
        if name == "$pairs":  # an object whose keys need not be text
            return {decode(k, refs): decode(v, refs) for k, v in arg}
        if name == "$tuple":
            return tuple(decode(arg, refs))
        if name == "$frame_id":
            return (refs or {})[arg]
    return {k: decode(v, refs) for k, v in value.items()}


# -- results -------------------------------------------------------------------


def encode_text(value: str) -> Any:
    """Text as it is, or its length (code points), digest (UTF-8, surrogates passed) and both ends."""
    if len(value) <= MAX_TEXT:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return {"$str": {"len": len(value), "sha256": digest, "head": value[:32], "tail": value[-32:]}}


def encode_bytes(value: bytes) -> Any:
    """Bytes by length and digest, with the digits when they are few."""
    spelt = {"len": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return {"$bytes": spelt if len(value) > MAX_HEX_BYTES else {**spelt, "hex": value.hex()}}


def encode_object(value: Mapping[Any, Any], depth: int) -> Any:
    """An object; as pairs where a key is not text, or where it would look like an encoding."""
    marked = len(value) == 1 and str(next(iter(value))).startswith("$")
    if marked or not all(isinstance(key, str) for key in value):
        return {"$pairs": [[encode(k, depth), encode(v, depth)] for k, v in value.items()]}
    return bounded({k: encode(v, depth) for k, v in value.items()})


def bounded(value: list[Any] | dict[str, Any]) -> Any:
    """A container as it is, or by its kind, size and digest."""
    text = json.dumps(value, sort_keys=True)
    if len(text) <= MAX_CONTAINER:
        return value
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return {"$big": {"type": type(value).__name__, "items": len(value), "sha256": digest}}


def encode(value: Any, depth: int = 0) -> Any:
    """`value` as a result spells it. Raises `TypeError` for what no server can have sent or handed over."""
    if depth > MAX_DEPTH and isinstance(value, (list, tuple, dict)):
        return {"$deeper": type(value).__name__}
    if isinstance(value, Marker):
        return dict(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return encode_bytes(bytes(value))
    if isinstance(value, (list, tuple)):
        return bounded([encode(item, depth + 1) for item in value])
    if isinstance(value, Mapping):
        return encode_object(value, depth + 1)
    raise TypeError(f"no encoding for {type(value).__name__}")


def loads(line: str) -> dict[str, Any]:
    """One line of a file of cases or results."""
    value: dict[str, Any] = json.loads(line)
    return value


def dumps(value: Any) -> str:
    """The one JSON spelling of results: ASCII, so that lone surrogates survive."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
