"""base64 and raw bytes → PCM16, checked. A message is taken whole or refused whole (deviations D09, D10)."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from rtvi_actors.errors import InvalidData
from rtvi_actors.protocol.client import RawAudio

__all__ = ["MAX_CHANNELS", "MAX_CHUNKS", "MAX_RATE_HZ", "SAMPLE_BYTES", "Pcm", "check", "decode"]

SAMPLE_BYTES: Final = 2
"""PCM16, little-endian, channels interleaved (PROTOCOL.md 1.3)."""

MAX_RATE_HZ: Final = 384_000
"""The highest rate that audio hardware has. There is no lowest: pipecat-ai 1.14.0 takes 1 Hz, and so do we."""

MAX_CHANNELS: Final = 8
"""7.1 surround; a microphone has 1 or 2."""

MAX_CHUNKS: Final = 256
"""Entries of one raw-audio-batch. client-js sends a handful; each becomes a frame of its own in the bot's mailbox."""


class Pcm(Struct, frozen=True):
    """One chunk of audio whose format has been checked."""

    audio: bytes
    sample_rate: int
    """Hz."""
    num_channels: int


def check(
    audio: bytes,
    sample_rate: int,
    num_channels: int,
    *,
    field: str = "data",
    reply_id: str | None = None,
    whole: bool = True,
) -> Pcm:
    """Check the format of audio that came as bytes. `whole=False` lets half samples and half frames pass.

    Raises `InvalidData`; its field is `field` or one under ``data``.
    """
    _check_format(sample_rate, num_channels, reply_id)
    if whole and len(audio) % (SAMPLE_BYTES * num_channels):
        raise InvalidData(
            field, reply_id=reply_id, detail=f"{len(audio)} bytes are not whole frames of {num_channels} channels"
        )
    return Pcm(audio, sample_rate, num_channels)


def decode(payload: RawAudio, *, reply_id: str | None = None, whole: bool = True) -> tuple[Pcm, ...]:
    """The chunks of a raw-audio or raw-audio-batch, in order; empty ones are left out.

    Raises `InvalidData` when anything in the message is wrong, and then nothing of it is used. `whole` as in `check`.
    """
    _check_format(payload.sample_rate, payload.num_channels, reply_id)
    return tuple(
        check(audio, payload.sample_rate, payload.num_channels, field=field, reply_id=reply_id, whole=whole)
        for field, text in _chunks(payload, reply_id)
        if (audio := _base64(text, field, reply_id))
    )


def _chunks(payload: RawAudio, reply_id: str | None) -> Sequence[tuple[str, str]]:
    """The chunks with the path of each. The batch goes first; null and empty entries are skipped (1.14.0, observed)."""
    if payload.batch:
        if len(payload.batch) > MAX_CHUNKS:
            raise InvalidData("data.base64AudioBatch", reply_id=reply_id, detail=f"more than {MAX_CHUNKS} chunks")
        return [(f"data.base64AudioBatch[{i}]", text) for i, text in enumerate(payload.batch) if text]
    if payload.audio is None:
        raise InvalidData("data.base64Audio", reply_id=reply_id, detail="no audio")
    return [("data.base64Audio", payload.audio)]


def _check_format(sample_rate: int, num_channels: int, reply_id: str | None) -> None:
    if not 1 <= sample_rate <= MAX_RATE_HZ:
        raise InvalidData("data.sampleRate", reply_id=reply_id, detail=f"not within 1 to {MAX_RATE_HZ}")
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise InvalidData("data.numChannels", reply_id=reply_id, detail=f"not within 1 to {MAX_CHANNELS}")


def _base64(text: str, field: str, reply_id: str | None) -> bytes:
    """Decode strictly: the standard alphabet, complete padding, nothing else."""
    try:
        if len(text) % 4:
            raise InvalidData(field, reply_id=reply_id, detail="base64 without complete padding")
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidData(field, reply_id=reply_id, detail=str(error)) from None
