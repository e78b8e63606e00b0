"""One WebSocket message to one wire message and back: pure functions, two dialects (PROTOCOL.md 4.1).

* **JSON text**: a text message is one RTVI message. Audio comes in as `raw-audio` messages, which are RTVI and not
  ours; bot audio goes out as `bot-tts-audio`, a type that the protocol has and no other server sends.
* **protobuf binary**: a binary message is one `Frame` (`frames.proto`) that holds an RTVI message, audio or an
  interruption. Needs the package `protobuf` (extra `server`); without it every binary message is a `Malformed`.

Whatever the bytes are, decoding returns: what is no wire message is a `Malformed` whose reason is our own text
(pipecat-ai 1.14.0, observed: one such frame ends the call).
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, Malformed, ServerText, WireIn, WireOut

if TYPE_CHECKING:
    from rtvi_actors.transports.frames_pb2 import Frame

__all__ = [
    "MAX_IN_BYTES",
    "NO_PROTOBUF",
    "Dialect",
    "decode_binary",
    "decode_text",
    "encode_binary",
    "encode_text",
    "has_protobuf",
    "pack_audio",
    "pack_interruption",
    "pack_message",
]

Dialect: TypeAlias = Literal["json", "protobuf"]
"""How one connection frames its messages."""

MAX_IN_BYTES: Final = 1 << 20
"""The largest message taken from a client. Precedent: client-js 1.13.1 refuses to send more than 1 MiB by WebSocket."""

NO_PROTOBUF: Final = "binary frames need the package protobuf (pip install rtvi-actors[server]); use JSON text frames"

_TOO_LARGE: Final = Malformed(reason="frame exceeds the size limit")
_NOT_UTF8: Final = Malformed(reason="text frame is not UTF-8")
_NOT_A_FRAME: Final = Malformed(reason="binary frame is not a protobuf Frame")
_EMPTY: Final = Malformed(reason="binary frame is empty or of an unknown kind")
_INTERRUPTION: Final = ClientInterruption()

_BOT_AUDIO: Final = (
    b'{"label":"rtvi-ai","type":"bot-tts-audio","data":{"audio":"%b","sample_rate":%d,"num_channels":%d}}'
)


# -- in ------------------------------------------------------------------------


def decode_text(frame: str, max_in_bytes: int = MAX_IN_BYTES) -> WireIn:
    """A text message. It is not parsed here: ingress reads the envelope."""
    if len(frame) > max_in_bytes:
        return _TOO_LARGE
    try:
        data = frame.encode()
    except UnicodeEncodeError:  # a lone surrogate: an ASGI server in between decoded leniently
        return _NOT_UTF8
    return ClientText(data) if len(data) <= max_in_bytes else _TOO_LARGE


def decode_binary(frame: bytes, max_in_bytes: int = MAX_IN_BYTES) -> WireIn:
    """A binary message. The limit is for the whole frame, audio included, and is checked before anything is read."""
    if len(frame) > max_in_bytes:
        return _TOO_LARGE
    if not has_protobuf():
        return Malformed(reason=NO_PROTOBUF)
    frame_type, decode_error = _protobuf()
    try:
        parsed = frame_type.FromString(frame)
    except decode_error:
        return _NOT_A_FRAME
    kind = parsed.WhichOneof("frame")
    return _KINDS[kind](parsed) if kind in _KINDS else _EMPTY


def _unserved(name: str) -> Callable[[Frame], WireIn]:
    """No known client sends these kinds, and no server acts on them (PROTOCOL.md 4.1)."""
    refusal = Malformed(reason=f"binary frames of kind {name} are not served")
    return lambda _frame: refusal


def _audio(frame: Frame) -> WireIn:
    audio = frame.audio
    return ClientAudio(audio.audio, audio.sample_rate, audio.num_channels)


_KINDS: Final[dict[str | None, Callable[[Frame], WireIn]]] = {
    "message": lambda frame: ClientText(frame.message.data.encode()),
    "audio": _audio,
    "interruption": lambda _frame: _INTERRUPTION,
    "text": _unserved("text"),
    "transcription": _unserved("transcription"),
}


# -- out -----------------------------------------------------------------------


def encode_text(message: WireOut) -> str:
    """A server message for a JSON client."""
    if isinstance(message, ServerText):
        return message.data.decode()
    audio = b2a_base64(message.audio, newline=False)
    return (_BOT_AUDIO % (audio, message.sample_rate, message.num_channels)).decode()


def encode_binary(message: WireOut) -> bytes:
    """A server message for a protobuf client. Raises `RuntimeError` where protobuf is not installed."""
    if isinstance(message, ServerText):
        return pack_message(message.data)
    return pack_audio(message.audio, message.sample_rate, message.num_channels)


def pack_message(data: bytes) -> bytes:
    """One RTVI message, either direction."""
    frame = _protobuf()[0]()
    frame.message.data = data.decode()
    return frame.SerializeToString()


def pack_audio(audio: bytes, sample_rate: int, num_channels: int) -> bytes:
    """PCM16, either direction; `sample_rate` in Hz."""
    frame = _protobuf()[0]()
    body = frame.audio
    body.name = "audio"
    body.audio = audio
    body.sample_rate = sample_rate
    body.num_channels = num_channels
    return frame.SerializeToString()


def pack_interruption() -> bytes:
    """An interruption, client to server."""
    frame = _protobuf()[0]()
    frame.interruption.SetInParent()
    return frame.SerializeToString()


# -- the extra -----------------------------------------------------------------


def has_protobuf() -> bool:
    """Whether the binary dialect can be spoken here."""
    return _load() is not None


def _protobuf() -> tuple[type[Frame], type[Exception]]:
    loaded = _load()
    if loaded is None:
        raise RuntimeError(NO_PROTOBUF)
    return loaded


@cache
def _load() -> tuple[type[Frame], type[Exception]] | None:
    """The generated type and the error it raises; imported at the first binary frame, so that the extra stays one."""
    try:
        from google.protobuf.message import DecodeError

        from rtvi_actors.transports.frames_pb2 import Frame
    except ImportError:
        return None
    return Frame, DecodeError
