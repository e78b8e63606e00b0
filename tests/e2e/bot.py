"""The bot that the browser tests talk to: `rtvi-actors serve tests/e2e/bot.py:E2EBot --demo`."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any, Final

import msgspec

import rtvi_actors as rtvi
from rtvi_actors.errors import ClientCallFailed
from rtvi_actors.protocol import server
from rtvi_actors.protocol.ui import A11yNode, GroupStarted
from rtvi_actors.reporting import FunctionCallReportLevel
from rtvi_actors.ui_commands import JobGroup
from tests.protocol.server_messages import MESSAGES

ECHO_BYTES = 32_000
"""How much of the microphone is played back: one second at the client's 16 kHz, mono."""
RATE_HZ = 24_000
STORY: Final = (("One two three four five six seven.", 1.0), ("Eight nine ten.", 0.4))
"""Sentences, and how long each takes to say, in seconds."""
PATIENCE_S: Final = 1.0
"""How long the page has to answer a function call, in seconds."""
UNSENT = server.BotReady | server.ServerResponse | server.ErrorResponse
"""What answers a client's message, which nobody has sent."""


class Add(msgspec.Struct):
    """The payload of the request "add"."""

    a: int
    b: int


class Work(msgspec.Struct):
    """The payload of the request "work"."""

    endless: bool = False
    """Whether it goes on until the user cancels it."""


class Place(msgspec.Struct):
    """What the page's "get_location" returns."""

    city: str


class E2EBot(rtvi.Bot):
    """Says what it was told, plays back the first second it heard, and does on request what else a bot can do."""

    accepts_files = True

    def __init__(self) -> None:
        super().__init__()
        self._heard = bytearray()
        self._echoed = False
        self._jobs: dict[str, JobGroup] = {}

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        """Answer word by word, as a language model would."""
        said = turn.messages[-1].content
        for file in turn.files:
            self.send_server_message(
                {"file": {"name": file.name, "format": file.format, "bytes": len(file.data or b"")}}
            )
        if said == "tell":
            await self.tell()
        elif said == "where am I":
            await self.answer(f"you are in {await self.locate()}")
        elif said == "break":
            raise RuntimeError("the secret of the failing turn")
        else:
            await self.answer(f"you said: {said}")

    async def answer(self, text: str) -> None:
        """Show a text."""
        async with self.response() as out:
            for word in text.split():
                await out.text(f"{word} ")

    async def tell(self) -> None:
        """Speak the story."""
        async with self.response() as out:
            for sentence, seconds in STORY:
                await out.say(sentence, bytes(int(seconds * RATE_HZ) * 2), RATE_HZ)

    async def locate(self) -> str:
        """Ask the page."""
        try:
            place = await self.call_client("get_location", {"precise": True}, result_type=Place, timeout_s=PATIENCE_S)
        except ClientCallFailed as error:
            return f"limbo, {type(error).__name__}"
        return place.city

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

    @rtvi.request("barge_in")
    async def barge_in(self) -> None:
        """As if speech recognition heard the user over the bot's voice."""
        self.user_started_speaking()
        self.interrupt_bot()
        self.transcription("hold on", user_id="u")
        self.user_stopped_speaking()

    @rtvi.request("answer")
    async def answer_barge_in(self) -> None:
        """The next turn."""
        await self.answer("I am listening")

    # -- the page ----------------------------------------------------------------------------

    @rtvi.request("decorate")
    async def decorate(self) -> None:
        """A standard command, and one of the application's own."""
        self.toast("Ready", description="Your order is on its way", duration_ms=2000)
        self.ui_command("confetti", {"pieces": 3})
        self.ui_command("bare")

    async def on_ui_event(self, event: rtvi.UIEvent) -> None:
        """Say what came."""
        self.send_server_message({"event": event.event, "payload": event.data})

    async def on_ui_snapshot(self, snapshot: rtvi.UISnapshot) -> None:
        """Say what is on the page."""
        self.send_server_message({"snapshot": list(_described(snapshot.tree.root))})

    @rtvi.request("work")
    async def work(self, how: Work) -> None:
        """Two workers, of which one fails."""
        group = self.job_group(["search", "rank"], label="reading")
        group.update("search", {"found": 3})
        if how.endless:
            self._jobs[group.job_id] = group
            return
        group.complete("search", response=[])
        group.complete("rank", "failed")

    async def on_ui_cancel_job_group(self, cancel: rtvi.UICancelJobGroup) -> None:
        """Stop working."""
        self.send_server_message({"cancelled": cancel.job_id, "reason": cancel.reason})
        self._jobs.pop(cancel.job_id).cancel()

    # -- keypad, functions, measurements -------------------------------------------------------

    async def on_dtmf(self, keys: rtvi.InputDTMF) -> None:
        """Say which."""
        self.send_server_message({"dtmf": keys.buttons})

    @rtvi.request("look_up")
    async def look_up(self) -> None:
        """A function of the bot's own at each report level."""
        for level in FunctionCallReportLevel:
            self.configure_observer(function_call_report_level={"*": level})
            self.function_calls_started([("clock", level, {"zone": "UTC"})])
            self.function_call_in_progress("clock", level, {"zone": "UTC"})
            self.function_call_result("clock", level, 0)

    @rtvi.request("measure")
    async def measure(self) -> None:
        """What a speech stack measures."""
        self.metrics(
            server.MetricsData(
                ttfb=(server.ProcessorValue("llm", 0.25),), characters=(server.ProcessorValue("tts", 12),)
            )
        )

    @rtvi.request("everything")
    async def everything(self) -> int:
        """One of each message, but for those that answer a request, end the call, or break the SDK."""
        sent = [message for message in MESSAGES if not isinstance(message, UNSENT) and not _is_harmful(message)]
        for message in sent:
            self.push(message)
        return len(sent)


def _is_harmful(message: server.ServerMessage) -> bool:
    """A fatal error ends the call. client-react 1.8.2 throws at a group of jobs without workers, whoever sends it."""
    if isinstance(message, server.UIJobGroup):
        return isinstance(message.data, GroupStarted) and not message.data.workers
    return isinstance(message, server.Error) and message.data.fatal


def _described(node: A11yNode) -> Iterator[Any]:
    """Role, name and value of a node and all below it."""
    yield [node.role, node.name, node.value]
    for child in node.children or ():
        yield from _described(child)
