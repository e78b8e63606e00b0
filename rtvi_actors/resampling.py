"""Bot audio at the client's rate. `soxr` (extra `server`) does the work, and is imported only where rates differ."""

from __future__ import annotations

import array
import importlib.util
import sys
from typing import Any

from rtvi_actors.errors import NoResampler

__all__ = ["Resampler", "check_rate"]


def check_rate(rate_hz: int, playing_rate_hz: int | None) -> None:
    """Raise `NoResampler` where audio at `rate_hz` could not be brought to the client's rate."""
    if playing_rate_hz is None or playing_rate_hz == rate_hz:
        return
    if importlib.util.find_spec("soxr") is None:
        raise NoResampler(rate_hz, playing_rate_hz)


class Resampler:
    """A stream of PCM16 at one rate, to mono PCM16 at another. Holds the filter's tail between chunks."""

    def __init__(self, rate_hz: int, playing_rate_hz: int, num_channels: int) -> None:
        check_rate(rate_hz, playing_rate_hz)
        self._num_channels = num_channels
        self._stream: Any = None
        if rate_hz != playing_rate_hz:
            import soxr

            self._stream = soxr.ResampleStream(rate_hz, playing_rate_hz, 1, dtype="int16", quality="MQ")

    def feed(self, pcm: bytes, *, last: bool = False) -> bytes:
        """The audio that is ready; `last` brings out the filter's tail."""
        mono = pcm if self._num_channels == 1 else _mix(pcm, self._num_channels)
        if self._stream is None:
            return mono
        import numpy

        ready: bytes = self._stream.resample_chunk(numpy.frombuffer(mono, dtype="<i2"), last=last).tobytes()
        return ready


def _mix(pcm: bytes, num_channels: int) -> bytes:
    """The mean of the channels."""
    samples = array.array("h", pcm)
    if sys.byteorder == "big":
        samples.byteswap()
    frames = zip(*(samples[channel::num_channels] for channel in range(num_channels)), strict=True)
    mono = array.array("h", (sum(frame) // num_channels for frame in frames))
    if sys.byteorder == "big":
        mono.byteswap()
    return mono.tobytes()
