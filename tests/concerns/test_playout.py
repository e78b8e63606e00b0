from __future__ import annotations

from typing import Any

import anyio
import pytest

import rtvi_actors as rtvi
from rtvi_actors.concerns.playout import CHUNK_S, LEAD_S, MAX_BUFFERED_S, STOP_S
from rtvi_actors.frames import OutputAudioRaw
from rtvi_actors.ledger import Ledger
from rtvi_actors.streams import ServerAudio
from tests.session_kit import Call, calling, of_type, types, virtual_time
from tests.test_resampling import frequency_of, tone

pytestmark = pytest.mark.anyio

RATE_HZ = 24_000
CHUNK = bytes(round(RATE_HZ * CHUNK_S) * 2)


def play(call: Call, audio: bytes, *, rate_hz: int = RATE_HZ, segment_id: int = 0, text: str = "") -> None:
    call.session.actor("playout").tell(OutputAudioRaw(audio, rate_hz, 1, segment_id, text))


def books_of(call: Call) -> Ledger:
    ledger: Ledger = call.session.actor("playout").cell.context
    return ledger


class TestInVirtualTime:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_audio_leaves_a_lead_ahead_and_then_as_it_is_played(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            start_s = anyio.current_time()
            play(call, CHUNK * 50)
            arrived_s: list[float] = []
            while len(arrived_s) < 50:
                if isinstance(await call.client.receive(), ServerAudio):
                    arrived_s.append(anyio.current_time() - start_s)
        for index, when_s in enumerate(arrived_s):
            due_s = index * CHUNK_S  # when the client has played what is before it
            assert due_s - LEAD_S - 0.001 <= when_s <= max(0.001, due_s - LEAD_S + CHUNK_S + 0.001)

    async def test_it_says_when_the_bot_starts_and_stops_speaking(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            start_s = anyio.current_time()
            play(call, CHUNK * 10)
            await anyio.sleep(10 * CHUNK_S)
            play(call, CHUNK)  # a pause shorter than STOP_S is none
            heard = await self.stopped(call)
            assert types(heard) == ["bot-started-speaking", "bot-stopped-speaking"]
            assert anyio.current_time() - start_s == pytest.approx(11 * CHUNK_S + STOP_S, abs=2 * CHUNK_S)

    @staticmethod
    async def stopped(call: Call) -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        while not of_type(heard, "bot-stopped-speaking"):
            heard += call._texts([await call.client.receive()])
        return heard

    async def test_the_progress_of_a_segment_follows_what_has_been_played(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            call.session.control.bot_text("one two three four", segment_id=5)
            play(call, CHUNK * 20, segment_id=5, text="one two three four")
            outputs = [wire["data"] for wire in of_type(await self.stopped(call), "bot-output")]
            assert [data["spoken_status"] for data in outputs] == ["new", *["in-progress"] * 3, "completed"]
            spoken = [data["spoken_progress"]["accumulated_text"] for data in outputs[1:]]
            assert spoken == ["one", "one two", "one two three", "one two three four"]

    async def test_an_interruption_voids_what_has_not_left_and_stops_at_once(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            play(call, CHUNK * 50)
            await anyio.sleep(0.4)
            call.session.control.interrupt_bot()
            heard = await self.stopped(call)
            sent = len(call.audio)
            assert types(heard) == ["bot-started-speaking", "bot-interrupted", "bot-stopped-speaking"]
            assert 10 <= sent <= 16
            await anyio.sleep(5)
            assert (await call.heard(), len(call.audio)) == ([], sent)
            play(call, CHUNK)
            assert types(await self.stopped(call)) == ["bot-started-speaking", "bot-stopped-speaking"]

    async def test_a_crash_while_the_bot_speaks_ends_its_speech(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            play(call, CHUNK * 50)
            await call.session.idle()
            call.session.system.crash(call.session.actor("playout"))
            assert types(await self.stopped(call)) == ["bot-started-speaking", "bot-stopped-speaking"]

    async def test_a_crash_ends_the_segments_whose_audio_is_lost_with_it(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            control = call.session.control
            control.bot_text("one two three four", segment_id=5)
            play(call, CHUNK * 20, segment_id=5, text="one two three four")
            await anyio.sleep(0.5)
            control.bot_text("five", segment_id=6)
            play(call, CHUNK * 20, segment_id=6, text="five")
            await call.session.idle()
            call.session.system.crash(call.session.actor("playout"))
            await anyio.sleep(5)
            heard = await call.heard()
            assert types(heard)[-1] == "bot-stopped-speaking"
            last = {wire["data"]["segment_id"]: wire["data"] for wire in of_type(heard, "bot-output")}
            assert last[5]["spoken_progress"] == {"accumulated_text": "one two", "remaining_text": ""}
            assert last[6]["spoken_progress"] == {"accumulated_text": "", "remaining_text": ""}

    async def test_what_waits_is_bounded(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            waiting_s = 0.0
            for _ in range(40):
                waiting_s = await call.session.actor("playout").call(OutputAudioRaw(CHUNK * 100, RATE_HZ))
            assert MAX_BUFFERED_S - 5 <= waiting_s <= MAX_BUFFERED_S
            assert books_of(call).playout_dropped_s == pytest.approx(160 - 120)

    async def test_a_little_audio_that_would_last_for_hours_is_dropped_before_it_is_resampled(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            for _ in range(3):
                waiting_s = await call.session.actor("playout").call(OutputAudioRaw(bytes(10_000), 1))
                assert waiting_s == 0
            assert books_of(call).playout_dropped_s == 15_000
            assert caplog.text.count("bot audio is dropped") == 1
            assert await call.heard() == []

    async def test_a_segment_whose_audio_is_too_short_to_be_played_holds_nothing_back(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            call.session.control.bot_text("click", segment_id=5)
            play(call, bytes(2), rate_hz=192_000, segment_id=5, text="click")
            (shown,) = of_type(await call.heard(), "bot-output")
            assert (shown["data"]["text"], shown["data"]["will_be_spoken"]) == ("click", False)

    async def test_a_segment_whose_audio_is_dropped_holds_nothing_back(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            control = call.session.control
            control.bot_text("never spoken", segment_id=5)
            control.bot_text("behind it", segment_id=6, will_be_spoken=False)
            assert await call.heard() == []
            play(call, bytes(10_000), rate_hz=1, segment_id=5, text="never spoken")
            said = [wire["data"] for wire in of_type(await call.heard(), "bot-output")]
            assert [(data["text"], data["will_be_spoken"]) for data in said] == [
                ("never spoken", False),
                ("behind it", False),
            ]

    async def test_only_the_latest_formats_keep_a_resampler(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            for rate_hz in (8_000, 16_000, 22_050, 16_000, 44_100):
                await call.session.actor("playout").call(OutputAudioRaw(bytes(640), rate_hz))
            playout: Any = call.session.actor("playout").cell.actor
            assert list(playout._resamplers) == [(16_000, 1), (44_100, 1)]

    async def test_another_rate_is_resampled_in_a_stream_that_keeps_the_tone(self) -> None:
        async with calling(rtvi.Bot(), playing_rate_hz=RATE_HZ) as call:
            pcm = tone(16_000, 440, 1.0)
            for start in range(0, len(pcm), 640):
                play(call, pcm[start : start + 640], rate_hz=16_000)
            await self.stopped(call)
            assert {chunk.sample_rate for chunk in call.audio} == {RATE_HZ}
            whole = b"".join(chunk.audio for chunk in call.audio)
            assert len(whole) == pytest.approx(RATE_HZ * 2, rel=0.05)
            assert frequency_of(whole, RATE_HZ) == pytest.approx(440, abs=1)


async def test_a_client_that_follows_each_frames_rate_gets_it_as_it_is() -> None:
    async with calling(rtvi.Bot(), playing_rate_hz=None) as call:
        play(call, bytes(320), rate_hz=8_000)
        await call.session.idle()
        await call.heard()
        assert call.audio == [ServerAudio(bytes(320), 8_000, 1)]
