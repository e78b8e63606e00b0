"""A first bot: answers text word by word, plays speech back, has one typed request, stops when interrupted.

``make run`` serves it with a page. As a script it answers a client in memory and prints what that client gets.
"""

from __future__ import annotations

from array import array

import anyio
import msgspec

import rtvi_actors as rtvi
from rtvi_actors.transports import memory

LOUD, PAUSE_S, LONGEST_S = 1500, 0.5, 10.0  # what counts as speech (of 32,767), what ends it, and at the latest when
CELSIUS = {"Oslo": 7, "Rome": 24}


class Place(msgspec.Struct):
    city: str


class EchoBot(rtvi.Bot):
    heard = b""
    shape = (0, 0)
    quiet_s = 0.0

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            for word in f"you said: {turn.messages[-1].content}".split():
                await out.text(f"{word} ")
                await anyio.sleep(0.05)  # a language model's pace; an interruption cancels the turn here

    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        if not 8_000 <= frame.sample_rate <= 48_000:
            return  # no microphone's rate, and perhaps one that say_audio refuses
        if (shape := (frame.sample_rate, frame.num_channels)) != self.shape:
            self.shape, self.heard = shape, b""  # what is collected is of one format
        per_s = 2 * frame.num_channels * frame.sample_rate
        loud = max(map(abs, array("h", frame.audio)), default=0) >= LOUD
        if loud and not self.heard:
            self.user_started_speaking()
            self.interrupt_bot()
        if loud or self.heard:
            self.heard += frame.audio
            self.quiet_s = 0.0 if loud else self.quiet_s + len(frame.audio) / per_s
        if self.heard and (self.quiet_s >= PAUSE_S or len(self.heard) >= LONGEST_S * per_s):
            self.user_stopped_speaking()
            speech, self.heard = self.heard, b""
            await self.say_audio(speech, frame.sample_rate, frame.num_channels)

    @rtvi.request("weather")
    async def weather(self, place: Place) -> dict[str, int]:
        if place.city not in CELSIUS:
            raise rtvi.RequestError(f"no weather for {place.city}")
        return {"celsius": CELSIUS[place.city]}


async def main() -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(EchoBot(), transport) as session:
        for kind, data in (
            ("client-ready", {"version": "2.2.0"}),
            ("client-message", {"t": "weather", "d": {"city": "Rome"}}),
            ("send-text", {"content": "hello"}),
        ):
            await client.send_text({"label": "rtvi-ai", "type": kind, "id": kind, "data": data})
        await session.idle()
        print(*client.drain(), sep="\n")


if __name__ == "__main__":
    anyio.run(main)
