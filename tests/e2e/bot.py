"""The bot that the browser tests talk to: `rtvi-actors serve tests/e2e/bot.py:E2EBot --demo`."""

from __future__ import annotations

import array

import msgspec

import rtvi_actors as rtvi

ECHO_BYTES = 32_000
"""How much of the microphone is played back: one second at the client's 16 kHz, mono."""


class Add(msgspec.Struct):
    """The payload of the request "add"."""

    a: int
    b: int


class E2EBot(rtvi.Bot):
    """Says what it was told, plays back the first second it heard, adds, and fails on request."""

    def __init__(self) -> None:
        super().__init__()
        self._heard = bytearray()
        self._echoed = False

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        """Answer word by word, as a language model would."""
        said = turn.messages[-1].content
        async with self.response() as out:
            for word in f"you said: {said}".split():
                await out.text(f"{word} ")

    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        """Collect a second, report what it was, and play it back once."""
        if self._echoed:
            return
        self._heard += frame.audio
        if len(self._heard) < ECHO_BYTES:
            return
        self._echoed = True
        heard = bytes(self._heard)
        self.send_server_message(
            {
                "heard_bytes": len(heard),
                "sample_rate": frame.sample_rate,
                "num_channels": frame.num_channels,
                "peak": max(abs(sample) for sample in array.array("h", heard)),
            }
        )
        await self.say_audio(heard, frame.sample_rate, frame.num_channels)

    @rtvi.request("add")
    async def add(self, numbers: Add) -> dict[str, int]:
        """A typed request."""
        return {"sum": numbers.a + numbers.b}

    @rtvi.request("fail")
    async def fail(self) -> None:
        """A handler with a bug. Its text must not reach the client."""
        raise RuntimeError("the secret of the failing handler")
