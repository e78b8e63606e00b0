from __future__ import annotations

import base64
from typing import Any

import anyio.lowlevel
import pytest

import rtvi_actors as rtvi
from rtvi_actors.protocol.pcm import MAX_CHUNKS
from tests.session_kit import calling, types

pytestmark = pytest.mark.anyio


class Ear(rtvi.Bot):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[rtvi.InputAudioRaw] = []

    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        self.heard.append(frame)


def text(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


async def test_raw_audio_batches_and_binary_frames_arrive_checked_and_in_order() -> None:
    bot = Ear()
    async with calling(bot) as call:
        shape = {"sampleRate": 16_000, "numChannels": 2}
        await call.send("raw-audio", "1", {"base64Audio": text(b"aaaa"), **shape})
        await call.send("raw-audio-batch", "2", {"base64AudioBatch": [text(b"bbbb"), "", text(b"cccc")], **shape})
        await call.client.send_audio(b"dddd", 16_000, 2)
        assert await call.heard() == []
        expected = [(b"aaaa", False), (b"bbbb", True), (b"cccc", False), (b"dddd", False)]
        assert bot.heard == [rtvi.InputAudioRaw(audio, 16_000, 2, more) for audio, more in expected]
        assert call.books.audio["delivered"] == 3


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"base64Audio": "AAA", "sampleRate": 16_000, "numChannels": 1}, "data.base64Audio"),
        ({"base64Audio": "AA==", "sampleRate": 16_000, "numChannels": 1}, "data.base64Audio"),
        ({"base64Audio": "AAA=", "sampleRate": 0, "numChannels": 1}, "data.sampleRate"),
        ({"base64Audio": "AAA=", "sampleRate": 16_000, "numChannels": 9}, "data.numChannels"),
        ({"base64AudioBatch": ["AAA=", "!"], "sampleRate": 1, "numChannels": 1}, "data.base64AudioBatch[1]"),
        ({"sampleRate": 16_000, "numChannels": 1}, "data.base64Audio"),
    ],
)
async def test_bad_audio_is_refused_whole_by_the_name_of_its_field(data: dict[str, Any], field: str) -> None:
    bot = Ear()
    async with calling(bot) as call:
        await call.send("raw-audio", "a", data)
        (reply,) = await call.heard()
        assert (reply["type"], reply["id"]) == ("error-response", "a")
        assert reply["data"]["error"].endswith(f"({field})")
        assert (bot.heard, call.books.audio["answered"]) == ([], 1)


async def test_a_bad_binary_frame_is_told_without_id() -> None:
    async with calling(Ear()) as call:
        await call.client.send_audio(bytes(3))
        (reply,) = await call.heard()
        assert reply["type"] == "error"
        assert "id" not in reply


async def test_a_batch_of_too_many_chunks_is_refused_whole() -> None:
    bot = Ear()
    async with calling(bot) as call:
        shape = {"sampleRate": 16_000, "numChannels": 1}
        await call.send("raw-audio-batch", "most", {"base64AudioBatch": [text(b"aa")] * MAX_CHUNKS, **shape})
        await call.send("raw-audio-batch", "more", {"base64AudioBatch": [text(b"aa")] * (MAX_CHUNKS + 1), **shape})
        (reply,) = await call.heard()
        assert reply["id"] == "more"
        assert reply["data"]["error"].endswith("(data.base64AudioBatch)")
        assert len(bot.heard) == MAX_CHUNKS


async def test_a_bot_that_is_flooded_with_audio_loses_the_oldest_and_no_control_message_is_refused() -> None:
    class Narrow(Ear):
        max_mail = 8
        max_bulk = 10

    bot = Narrow()
    async with calling(bot) as call:
        await call.heard()
        bot.cell.suspended = True
        shape = {"sampleRate": 16_000, "numChannels": 1}
        await call.client.send_audio(b"aa")
        await call.send("raw-audio-batch", "b", {"base64AudioBatch": [text(b"bb")] * 8, **shape})
        for _ in range(4):  # the first, and three chunks of the batch, give way
            await call.client.send_audio(b"cc")
        for index in range(8):
            await call.say(str(index), f"s{index}", run_immediately=False)
        while call.books.conservation.delivered + call.books.conservation.dropped < 1 + 1 + 1 + 4 + 8:
            await anyio.lowlevel.checkpoint()
        bot.cell.suspended = False
        bot.cell.notify()
        assert types(await call.heard()) == ["user-input"] * 8
        assert [frame.audio for frame in bot.heard] == [b"bb"] * 6 + [b"cc"] * 4
        assert call.books.dropped == {"bot overflow": 1}
        assert call.books.audio == {"delivered": 5, "answered": 0, "dropped": 1, "dead": 0}


async def test_audio_for_a_bot_that_takes_it_as_other_mail_is_refused_whole_when_that_is_full() -> None:
    class Single(Ear):
        bulk = frozenset()
        max_mail = 20

    bot = Single()
    async with calling(bot) as call:
        await call.heard()
        bot.cell.suspended = True
        shape = {"sampleRate": 16_000, "numChannels": 1}
        for index in range(3):
            await call.send("raw-audio-batch", str(index), {"base64AudioBatch": [text(b"aa")] * 10, **shape})
        while call.books.conservation.open:
            await anyio.lowlevel.checkpoint()
        bot.cell.suspended = False
        bot.cell.notify()
        await call.heard()
        assert len(bot.heard) == 20
        assert call.books.dropped == {"bot overflow": 1}
