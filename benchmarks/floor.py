"""The floor: what msgspec alone takes for the messages of a row, decoded and encoded as our session must.

No actor, no mailbox, no transport, no event loop. The Structs are the wire's shapes and nothing more, so that no server
that decodes what it is sent, and encodes what it answers, can be faster with this codec.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.load import Figures, traffic

__all__ = ["floor"]


class Envelope(msgspec.Struct):
    """The first pass: `data` stays as it is."""

    label: str
    type: str
    id: str
    data: msgspec.Raw


class Call(msgspec.Struct):
    """A client-message's data."""

    t: str
    d: msgspec.Raw


class Query(msgspec.Struct):
    """What the handler asks for."""

    city: str
    days: int
    detailed: bool


class Audio(msgspec.Struct):
    """A raw-audio's data; msgspec decodes the base64."""

    base64Audio: bytes  # noqa: N815 the wire's name
    sampleRate: int  # noqa: N815
    numChannels: int  # noqa: N815


class Answer(msgspec.Struct):
    """A server-response's data."""

    t: str
    d: dict[str, int]


class Response(msgspec.Struct, tag_field="type", tag="server-response"):
    """The answer on the wire."""

    id: str
    data: Answer
    label: str = "rtvi-ai"


ENVELOPE = msgspec.json.Decoder(Envelope)
CALL = msgspec.json.Decoder(Call)
QUERY = msgspec.json.Decoder(Query)
AUDIO = msgspec.json.Decoder(Audio)
ENCODER = msgspec.json.Encoder()


def answer(message: bytes) -> bytes:
    """Decode a client-message down to its query, encode a server-response."""
    envelope = ENVELOPE.decode(message)
    call = CALL.decode(envelope.data)
    QUERY.decode(call.d)
    return ENCODER.encode(Response(envelope.id, Answer(call.t, {"celsius": 21})))


def hear(message: bytes) -> bytes:
    """Decode a raw-audio down to its PCM."""
    return AUDIO.decode(ENVELOPE.decode(message).data).base64Audio


STEPS: dict[str, Callable[[bytes], bytes]] = {"sync": answer, "async": answer, "raw_audio": hear}


def run(step: Callable[[bytes], bytes], messages: Sequence[bytes]) -> float:
    """Seconds for all messages."""
    started = time.perf_counter()
    for message in messages:
        step(message)
    return time.perf_counter() - started


async def floor(row: str, count: int) -> Figures:
    """Microseconds a message of the row."""
    run(STEPS[row], traffic(row, 200))
    return {"us": run(STEPS[row], traffic(row, count)) / count * 1e6}
