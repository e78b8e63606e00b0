from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import rtvi_actors as rtvi
from rtvi_actors.concerns.levels import Levels
from rtvi_actors.messages import Heard
from rtvi_actors.reporting import ObserverParams
from tests.session_kit import Call, Wire, calling, of_type, types, virtual_time
from tests.test_loudness import pcm, tone, window

RATE_HZ = 16_000
TONE = pcm(tone(RATE_HZ))
LEVEL = 0.8635
"""Of `TONE` (test_loudness.py)."""
CHUNK = TONE[: RATE_HZ // 50 * 2]
BOTH = ObserverParams(user_audio_level_enabled=True, bot_audio_level_enabled=True)


class Ear(rtvi.Bot):
    """Takes audio, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0

    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        self.frames += 1


def raw_audio(audio: bytes, rate_hz: int = RATE_HZ) -> Wire:
    return {"base64Audio": base64.b64encode(audio).decode(), "sampleRate": rate_hz, "numChannels": 1}


def values(messages: list[Wire], side: str) -> list[float]:
    return [wire["data"]["value"] for wire in of_type(messages, f"{side}-audio-level")]


def losses(call: Call) -> dict[str, int]:
    return call.session.actor("levels").cell.losses


class TestInVirtualTime:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    pytestmark = pytest.mark.anyio

    async def test_the_first_level_comes_at_once_and_the_next_when_the_period_is_over(self) -> None:
        async with calling(Ear(), observer=BOTH) as call:
            heard: list[tuple[float, float]] = []
            start_s = anyio.current_time()
            for index in range(50):  # a second, in frames of 20 ms
                await anyio.sleep_until(start_s + index * 0.02)
                await call.client.send_audio(CHUNK, RATE_HZ, 1)
                now_s = round(anyio.current_time() - start_s, 2)
                heard += [(now_s, value) for value in values(await call.heard(), "user")]
        # More than 0.15 s apart: every eighth frame. The window is full with the 20th.
        assert [when_s for when_s, _ in heard] == [0.0, 0.16, 0.32, 0.48, 0.64, 0.8, 0.96]
        assert [value for _, value in heard[:3]] == [0.0] * 3
        assert all(value == pytest.approx(LEVEL, abs=0.01) for _, value in heard[3:])

    async def test_the_period_is_a_parameter(self) -> None:
        async with calling(Ear(), observer=BOTH) as call:
            call.session.control.configure_observer(audio_level_period_secs=1.0)
            for _ in range(100):
                await anyio.sleep(0.02)
                await call.client.send_audio(CHUNK, RATE_HZ, 1)
            assert len(values(await call.heard(), "user")) == 2

    async def test_the_bots_audio_is_measured_as_it_is_played(self) -> None:
        async with calling(Ear(), observer=BOTH) as call:
            start_s = anyio.current_time()
            audio = TONE * 3 + bytes(len(TONE)) * 2  # 1.2 s, then 0.8 s of silence; generated all at once
            call.session.actor("playout").tell(rtvi.OutputAudioRaw(audio, RATE_HZ, 1))
            heard: list[tuple[float, float]] = []
            while not heard or heard[-1][1] > 0.0 or len(heard) < 4:
                message = (await call.until(lambda wire: wire["type"] == "bot-audio-level"))[-1]
                heard.append((anyio.current_time() - start_s, message["data"]["value"]))
        loud_s = [when_s for when_s, value in heard if value == pytest.approx(LEVEL, abs=0.01)]
        assert loud_s[0] >= 0.4 - 0.2  # the lead
        assert loud_s[-1] == pytest.approx(1.2 - 0.2, abs=0.2)
        assert heard[-1][0] == pytest.approx(1.6 - 0.2, abs=0.2)


pytestmark = pytest.mark.anyio


async def test_nothing_is_measured_unless_somebody_asks() -> None:
    async with calling(Ear()) as call:
        await call.client.send_audio(TONE, RATE_HZ, 1)
        call.session.actor("playout").tell(rtvi.OutputAudioRaw(TONE, RATE_HZ, 1))
        assert types(await call.heard()) == ["bot-started-speaking"]
        assert call.session.actor("levels").cell.handled == 0


@pytest.mark.parametrize("side", ["user", "bot"])
async def test_one_side_may_be_on_without_the_other(side: str) -> None:
    params = ObserverParams(user_audio_level_enabled=side == "user", bot_audio_level_enabled=side == "bot")
    async with calling(Ear(), observer=params) as call:
        await call.client.send_audio(TONE, RATE_HZ, 1)
        call.session.actor("playout").tell(rtvi.OutputAudioRaw(CHUNK, RATE_HZ, 1))
        levels = [kind for kind in types(await call.heard()) if kind.endswith("level")]
        assert levels == [f"{side}-audio-level"]


async def test_levels_may_be_turned_on_and_off_while_the_session_runs() -> None:
    async with calling(Ear()) as call:
        control = call.session.control
        for wanted in (True, False, True):
            control.configure_observer(user_audio_level_enabled=wanted, audio_level_period_secs=0.0)
            await call.heard()
            await call.client.send_audio(TONE, RATE_HZ, 1)
            assert values(await call.heard(), "user") == ([pytest.approx(LEVEL, abs=0.001)] if wanted else [])


async def test_base64_and_binary_audio_are_measured_alike_and_still_delivered() -> None:
    bot = Ear()
    params = ObserverParams(user_audio_level_enabled=True, audio_level_period_secs=0.0)
    half = len(TONE) // 4 * 2
    async with calling(bot, observer=params) as call:
        await call.send("raw-audio", "1", raw_audio(TONE[:half]))
        assert values(await call.heard(), "user") == [0.0]
        await call.client.send_audio(TONE[half:], RATE_HZ, 1)
        assert values(await call.heard(), "user") == [pytest.approx(LEVEL, abs=0.001)]
        assert bot.frames == 2


@pytest.mark.parametrize("of", [lambda call: call.session.control, lambda call: call.session.actor("bot").cell.actor])
async def test_a_host_with_audio_of_its_own_reports_it(of: Callable[[Call], rtvi.Bot]) -> None:
    async with calling(Ear(), observer=BOTH) as call:
        of(call).user_audio(TONE, RATE_HZ)
        of(call).bot_audio(TONE + TONE, RATE_HZ, 2)
        heard = await call.heard()
        assert types(heard) == ["user-audio-level", "bot-audio-level"]
        assert all(value > 0.8 for side in ("user", "bot") for value in values(heard, side))


@pytest.mark.parametrize(("audio", "rate_hz", "channels"), [(b"abc", 16_000, 1), (b"ab", 0, 1), (b"ab", 16_000, 99)])
async def test_what_is_no_audio_is_refused_where_it_was_made(audio: bytes, rate_hz: int, channels: int) -> None:
    async with calling(Ear()) as call:
        for report in (call.session.control.user_audio, call.session.control.bot_audio):
            with pytest.raises(ValueError, match="not PCM16"):
                report(audio, rate_hz, channels)


async def test_audio_of_another_format_begins_a_new_window() -> None:
    params = ObserverParams(user_audio_level_enabled=True, audio_level_period_secs=0.0)
    async with calling(Ear(), observer=params) as call:
        for audio, rate_hz in ((TONE, RATE_HZ), (TONE, 2 * RATE_HZ), (pcm(tone(48_000)), 48_000)):
            await call.client.send_audio(audio, rate_hz, 1)
        assert values(await call.heard(), "user") == pytest.approx([LEVEL, 0.0, LEVEL], abs=0.001)


async def test_a_rate_that_is_no_sound_gives_no_level_and_harms_nothing() -> None:
    """The peer's observer ends over it (D01)."""
    async with calling(Ear(), observer=BOTH) as call:
        for rate_hz in (1, 3999):
            await call.send("raw-audio", "1", raw_audio(bytes(16_000), rate_hz))
        assert await call.heard() == []
        await call.client.send_audio(TONE, RATE_HZ, 1)
        assert len(values(await call.heard(), "user")) == 1


async def test_a_level_keeps_its_place_among_what_the_bot_says() -> None:
    async with calling(Ear(), observer=BOTH) as call:
        call.session.control.user_started_speaking()
        call.session.control.user_audio(TONE, RATE_HZ)
        await call.session.idle()
        call.session.control.user_stopped_speaking()
        assert types(await call.heard()) == ["user-started-speaking", "user-audio-level", "user-stopped-speaking"]


async def test_a_flood_loses_its_oldest_audio_counted_and_nothing_else() -> None:
    bot, flood = Ear(), 3 * Levels.max_bulk
    async with calling(bot, observer=BOTH) as call:
        call.session.actor("levels").cell.suspended = True  # as if it could not keep up
        for _ in range(flood):
            await call.client.send_audio(CHUNK, RATE_HZ, 1)
        await call.session._until(lambda: bot.frames == flood)
        assert losses(call) == {"overflow": flood - Levels.max_bulk}
        assert call.books.audio["delivered"] == flood
        cell = call.session.actor("levels").cell
        cell.suspended = False
        cell.notify()
        assert len(values(await call.heard(), "user")) == 1


async def test_a_crash_of_it_costs_nothing_else() -> None:
    async with calling(Ear(), observer=BOTH) as call:
        await call.client.send_audio(TONE, RATE_HZ, 1)
        await call.heard()
        call.session.actor("levels").tell(Heard("user", TONE, -1, 0))  # refused by every way in
        await call.client.send_audio(TONE, RATE_HZ, 1)
        await call.heard()
        call.session.system.crash(call.session.actor("levels"))
        await call.client.send_audio(TONE, RATE_HZ, 1)
        assert values(await call.heard(), "user") == [pytest.approx(LEVEL, abs=0.001)]
        assert call.restarts("levels") == 1
        assert [call.restarts(name) for name in ("audio", "observer", "outbound")] == [0, 0, 0]
        assert call.books.audio["delivered"] == 3


async def test_without_it_audio_goes_on() -> None:
    async with calling(Ear(), observer=BOTH) as call:
        await call.session._supervisor_actor().stop_child("levels")
        await call.client.send_audio(TONE, RATE_HZ, 1)
        call.session.actor("playout").tell(rtvi.OutputAudioRaw(CHUNK, RATE_HZ, 1))
        assert types(await call.heard()) == ["bot-started-speaking"]
        assert len(call.audio) == 1
        assert call.books.audio["delivered"] == 1


def test_the_window_is_as_long_as_the_tone() -> None:
    assert window(RATE_HZ) * 2 == len(TONE)
