from __future__ import annotations

import array
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtvi_actors.loudness import (
    GATE_LUFS,
    LOUD_LUFS,
    MAX_SAMPLES_PER_S,
    MIN_RATE_HZ,
    QUIET_LUFS,
    WINDOW_S,
    Meter,
    _k_weighting,
)
from rtvi_actors.protocol.pcm import MAX_CHANNELS, MAX_RATE_HZ


def pcm(samples: list[float]) -> bytes:
    """PCM16 of samples within -1 and 1."""
    values = array.array("h", [max(-32768, min(32767, int(sample * 32768))) for sample in samples])
    return values.tobytes()


def window(rate_hz: int) -> int:
    """Frames of a window."""
    return math.ceil(WINDOW_S * rate_hz)


def tone(rate_hz: int) -> list[float]:
    return [0.1 * math.sin(2 * math.pi * 440 * i / rate_hz) for i in range(window(rate_hz))]


def hum(rate_hz: int) -> list[float]:
    return [0.3 * math.sin(2 * math.pi * 50 * i / rate_hz) for i in range(window(rate_hz))]


def hiss(rate_hz: int) -> list[float]:
    return [0.01 * math.sin(2 * math.pi * 0.4 * i) for i in range(window(rate_hz))]


def noise(rate_hz: int) -> list[float]:
    rng = random.Random(rate_hz)
    return [rng.uniform(-0.05, 0.05) for _ in range(window(rate_hz))]


def bursts(rate_hz: int) -> list[float]:
    """Syllables: 180 Hz and overtones, 100 ms on and 100 ms off."""
    voiced = [sum(math.sin(2 * math.pi * 180 * n * i / rate_hz) / n for n in (1, 2, 3)) for i in range(window(rate_hz))]
    return [0.2 * sample if int(10 * i / rate_hz) % 2 == 0 else 0.0 for i, sample in enumerate(voiced)]


def murmur(rate_hz: int) -> list[float]:
    rng = random.Random(rate_hz)
    return [rng.uniform(-0.0007, 0.0007) for _ in range(window(rate_hz))]


def level_of(signal: Callable[[int], list[float]], rate_hz: int) -> float:
    meter = Meter(rate_hz)
    meter.feed(pcm(signal(rate_hz)))
    return meter.level()


REFERENCE_HZ = (8000, 16000, 22050, 24000, 44100, 48000, 96000)
REFERENCE = [
    (tone, (0.8655, 0.8635, 0.8635, 0.8635, 0.8635, 0.8635, 0.8625)),
    (hum, (0.9205, 0.9195, 0.9185, 0.9185, 0.9185, 0.9185, 0.9185)),
    (hiss, (0.7055, 0.7045, 0.7035, 0.7035, 0.7035, 0.7035, 0.7025)),
    (noise, (0.8145, 0.8185, 0.8205, 0.8225, 0.8235, 0.8235, 0.8245)),
    (bursts, (0.9055, 0.9045, 0.9045, 0.9045, 0.9035, 0.9035, 0.9035)),
    (murmur, (0.4415, 0.4455, 0.4475, 0.4485, 0.4495, 0.4505, 0.4515)),
]
"""What `AudioVolumeTracker` of pipecat-ai 1.14.0 (with loudness 0.2.0, which rounds to 0.001) said of these signals."""


@pytest.mark.parametrize(
    ("signal", "rate_hz", "level"),
    [(signal, rate, level) for signal, levels in REFERENCE for rate, level in zip(REFERENCE_HZ, levels, strict=True)],
)
def test_a_level_is_the_peers(signal: Callable[[int], list[float]], rate_hz: int, level: float) -> None:
    # Above MAX_SAMPLES_PER_S not every sample is heard.
    tolerance = 0.001 if rate_hz <= MAX_SAMPLES_PER_S else 0.003
    assert level_of(signal, rate_hz) == pytest.approx(level, abs=tolerance)


@pytest.mark.parametrize(("other", "level"), [(bursts, 0.9185), (tone, 0.8935)])
def test_the_energies_of_two_channels_add_up(other: Callable[[int], list[float]], level: float) -> None:
    """The levels are loudness 0.2.0's, of two columns at 16 kHz."""
    meter = Meter(16_000, 2)
    meter.feed(pcm([sample for pair in zip(tone(16_000), other(16_000), strict=True) for sample in pair]))
    assert meter.level() == pytest.approx(level, abs=0.001)


def test_the_weighting_at_48_khz_is_the_standards_table() -> None:
    """ITU-R BS.1770-5, annex 1, tables 1 and 2."""
    shelf = (1.53512485958697, -2.69169618940638, 1.19839281085285, -1.69065929318241, 0.73248077421585)
    high_pass = (-1.99004745483398, 0.99007225036621)
    assert _k_weighting(48_000) == pytest.approx((*shelf, *high_pass), abs=1e-9)


def test_a_full_scale_sine_of_997_hz_reads_as_the_standard_says() -> None:
    """-3.01 LUFS; a tenth of it is 20 LU less, and within the scale."""
    meter = Meter(48_000)
    meter.feed(pcm([0.1 * math.sin(2 * math.pi * 997 * i / 48_000) for i in range(window(48_000))]))
    lufs = QUIET_LUFS + meter.level() * (LOUD_LUFS - QUIET_LUFS)
    assert lufs == pytest.approx(-23.01, abs=0.02)


def test_silence_is_zero_and_a_window_that_is_not_full_is_silence() -> None:
    meter = Meter(16_000)
    loud = pcm(tone(16_000))
    meter.feed(loud[:-2])
    assert meter.level() == 0.0
    meter.feed(loud[-2:])
    assert meter.level() > 0.8


def test_what_is_not_above_the_gate_is_silence_and_what_is_above_it_far_from_it() -> None:
    below = Meter(16_000)
    below.feed(pcm([sample * 0.5 for sample in murmur(16_000)]))
    assert below.level() == 0.0
    assert level_of(murmur, 16_000) > (GATE_LUFS - QUIET_LUFS) / (LOUD_LUFS - QUIET_LUFS)


def test_the_window_rolls() -> None:
    meter = Meter(16_000)
    meter.feed(pcm(tone(16_000)))
    levels = [meter.level()]
    for _ in range(5):
        meter.feed(bytes(3200))
        levels.append(meter.level())
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0.0


def test_a_whole_new_window_is_measured_alone() -> None:
    """As the peer does: not what rings on from what was before, which may have been lost between them."""
    meter = Meter(16_000)
    meter.feed(pcm(tone(16_000)))
    assert meter.level() > 0.8
    meter.feed(bytes(window(16_000) * 2))
    assert meter.level() == 0.0


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 16_000, 44_100])
def test_the_size_of_the_chunks_does_not_matter(rate_hz: int) -> None:
    whole, pieces = Meter(rate_hz), Meter(rate_hz)
    audio = pcm(noise(rate_hz) + tone(rate_hz) + bursts(rate_hz))
    whole.feed(audio)
    for start in range(0, len(audio), 246):
        pieces.feed(audio[start : start + 246])
        pieces.level()
    # The one has not heard what was before the window; the other has, and its window ends within 10 ms.
    assert pieces.level() == pytest.approx(whole.level(), abs=0.005)


def test_of_more_audio_than_a_window_only_the_end_is_kept() -> None:
    meter = Meter(192_000, MAX_CHANNELS)
    for _ in range(4):
        meter.feed(bytes(1 << 20))
    assert len(meter._pending) == window(192_000) * 2 * MAX_CHANNELS
    meter.level()
    assert sum(frames for frames, _ in meter._blocks) * 2 <= MAX_SAMPLES_PER_S * WINDOW_S + 2


def test_a_rate_that_is_no_sound_is_refused() -> None:
    with pytest.raises(ValueError, match="3999 Hz"):
        Meter(MIN_RATE_HZ - 1)


@given(
    rate_hz=st.integers(MIN_RATE_HZ, MAX_RATE_HZ),
    channels=st.integers(1, MAX_CHANNELS),
    pattern=st.binary(min_size=16, max_size=256),
    chunks=st.lists(st.integers(0, 400), max_size=8),
)
@example(MIN_RATE_HZ, 1, b"\x00\x80" * 8 + b"\xff\x7f" * 8, [400])
@example(MAX_RATE_HZ, MAX_CHANNELS, b"\x00\x80" * 8, [400, 1, 400])
def test_a_level_is_always_within_zero_and_one(rate_hz: int, channels: int, pattern: bytes, chunks: list[int]) -> None:
    meter = Meter(rate_hz, channels)
    for length_ms in chunks:
        size = rate_hz * length_ms // 1000 * 2 * channels
        meter.feed((pattern * (size // len(pattern) + 1))[:size])
        assert 0.0 <= meter.level() <= 1.0


@given(rate_hz=st.integers(MIN_RATE_HZ, MAX_RATE_HZ), channels=st.integers(1, MAX_CHANNELS))
def test_silence_is_zero_at_any_rate(rate_hz: int, channels: int) -> None:
    meter = Meter(rate_hz, channels)
    meter.feed(bytes(window(rate_hz) * 2 * channels))
    assert meter.level() == 0.0
