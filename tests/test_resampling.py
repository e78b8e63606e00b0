from __future__ import annotations

import math
import struct
from itertools import pairwise

import pytest

from rtvi_actors.errors import NoResampler
from rtvi_actors.resampling import Resampler, check_rate


def tone(rate_hz: int, frequency_hz: float, duration_s: float) -> bytes:
    count = round(rate_hz * duration_s)
    samples = (round(12_000 * math.sin(2 * math.pi * frequency_hz * n / rate_hz)) for n in range(count))
    return struct.pack(f"<{count}h", *samples)


def samples_of(pcm: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(pcm) // 2}h", pcm)


def frequency_of(pcm: bytes, rate_hz: int) -> float:
    """Rising zero crossings a second, away from the filter's ends."""
    samples = samples_of(pcm)[rate_hz // 20 : -rate_hz // 20]
    crossings = [n for n, (a, b) in enumerate(pairwise(samples)) if a < 0 <= b]
    return (len(crossings) - 1) * rate_hz / (crossings[-1] - crossings[0])


@pytest.mark.parametrize(("rate_hz", "playing_rate_hz"), [(16_000, 24_000), (48_000, 24_000), (22_050, 24_000)])
@pytest.mark.parametrize("chunk_s", [0.02, 1.0])
def test_a_tone_keeps_its_frequency_and_length(rate_hz: int, playing_rate_hz: int, chunk_s: float) -> None:
    resampler = Resampler(rate_hz, playing_rate_hz, 1)
    pcm = tone(rate_hz, 440, 1.0)
    step = round(rate_hz * chunk_s) * 2
    chunks = [pcm[start : start + step] for start in range(0, len(pcm), step)]
    out = b"".join(resampler.feed(chunk, last=index == len(chunks) - 1) for index, chunk in enumerate(chunks))
    assert len(out) == pytest.approx(playing_rate_hz * 2, abs=64)
    assert frequency_of(out, playing_rate_hz) == pytest.approx(440, abs=1)
    assert max(samples_of(out)) == pytest.approx(12_000, rel=0.02)


def test_the_same_rate_passes_untouched() -> None:
    pcm = tone(24_000, 440, 0.02)
    assert Resampler(24_000, 24_000, 1).feed(pcm) is pcm


def test_channels_are_mixed_to_their_mean() -> None:
    pcm = struct.pack("<6h", 100, 300, -100, -300, 32_767, 32_767)
    assert samples_of(Resampler(24_000, 24_000, 2).feed(pcm)) == (200, -200, 32_767)


def test_without_soxr_only_the_clients_own_rate_can_be_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_rate(24_000, 24_000)
    check_rate(16_000, None)
    with pytest.raises(NoResampler, match="16000 Hz, but the client plays 24000 Hz"):
        Resampler(16_000, 24_000, 1)
