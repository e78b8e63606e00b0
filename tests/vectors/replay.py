#!/usr/bin/env python3
"""Play recorded cases through a real session on the memory transport, and write what it did.

    python tests/vectors/replay.py CASES.jsonl[.gz] > RESULTS.jsonl
    python tests/vectors/compare.py CASES.jsonl[.gz] RESULTS.jsonl --waive tests/vectors/chosen.json \
        --waive tests/vectors/deviations.json

Each case gets a session of its own, with everything that a session has; only the holding of messages before
client-ready is off, because the peer has none, and the size limits are as large as the cases. After each step the
driver waits until the session is idle. A case that cannot be played is written as ``{"case": …, "unsupported": why}``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import anyio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere, from a bare clone

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.protocol.codec import from_json, to_json
from rtvi_actors.streams import ServerText
from rtvi_actors.transports import memory
from tests.vectors import cases, compare, values

LIMIT_BYTES: Final = 64 << 20
"""The largest case has 5 MB in one message; the peer has no limit of its own."""
PROCESSOR: Final = frozenset(
    {"bot-ready", "error", "error-response", "llm-function-call", "server-message", "server-response"}
)
"""What the peer sends without its observer. A case without observer says nothing about the rest."""


# -- recording -----------------------------------------------------------------


class Recorder:
    """The effects of one case."""

    def __init__(self) -> None:
        self.step = -1
        self.effects: list[dict[str, Any]] = []
        self.configured: list[bool | None] = []
        """What the case itself has told the bot: its own frames are no effects."""

    def add(self, channel: str, value: Any) -> None:
        """One more effect of the current step."""
        self.effects.append({"step": self.step, channel: value})

    def do(self, verb: str, **fields: Any) -> None:
        """The bot was told to do something."""
        self.add("do", {"do": verb, **{name: values.encode(field) for name, field in fields.items()}})

    def configure(self, frame: frames.LLMConfigureOutput) -> None:
        """The switch, unless it is the case's own frame that arrives."""
        if frame.skip_tts in self.configured:
            self.configured.remove(frame.skip_tts)
        else:
            self.do("skip_tts", skip_tts=frame.skip_tts)

    def append(self, frame: frames.LLMMessagesAppend) -> None:
        """A turn."""
        messages = [{"role": message.role, "content": message.content} for message in frame.messages]
        self.do("append", messages=messages, run_llm=frame.run_llm)

    def result(self, frame: frames.FunctionCallResult) -> None:
        """A client-side function returned."""
        self.do(
            "function_result",
            function_name=frame.function_name,
            tool_call_id=frame.tool_call_id,
            arguments=from_json(frame.arguments),
            result=from_json(frame.result),
        )

    def audio(self, frame: frames.InputAudioRaw) -> None:
        """Microphone audio."""
        self.do("audio", audio=frame.audio, sample_rate=frame.sample_rate, num_channels=frame.num_channels)

    def wire(self, data: bytes, *, observer: bool) -> None:
        """A message that reached the client."""
        message = json.loads(data)
        if not observer and message["type"] not in PROCESSOR:
            return
        if message["type"] == "user-input":
            message["data"]["timestamp"] = values.Marker({"$volatile": "timestamp"})
        self.add("wire", values.encode(message))


def no_effect(recorder: Recorder, frame: object) -> None:
    """What the peer's pipeline does not show, or shows as an event."""


RECORD: Mapping[type[Any], Callable[[Recorder, Any], None]] = {
    frames.InputAudioRaw: Recorder.audio,
    frames.LLMMessagesAppend: Recorder.append,
    frames.LLMConfigureOutput: Recorder.configure,
    frames.Interruption: lambda recorder, _: recorder.do("interrupt"),
    frames.FunctionCallResult: Recorder.result,
    frames.StartAudio: lambda recorder, _: recorder.do("start_audio"),
    frames.EndTask: lambda recorder, _: recorder.do("end"),
}
"""Frames that are effects, as they reach the bot, in order."""


class HandlerRaised(Exception):
    """What a case's handler raises on purpose."""


class Recording(rtvi.Bot):
    """Records what it is told and which handlers run; does in them what the case says."""

    auto_bot_ready = False

    def __init__(self, recorder: Recorder, handlers: Mapping[str, tuple[cases.Act, ...]]) -> None:
        super().__init__()
        self.recorder = recorder
        self.acts = handlers

    def on_frame(self, frame: frames.BotFrame) -> None:
        """Everything passes here, once, in the order in which the bot gets it."""
        RECORD.get(type(frame), no_effect)(self.recorder, frame)
        super().on_frame(frame)

    async def on_client_ready(self, client: frames.ClientReady) -> None:
        """The event without arguments."""
        self.recorder.add("event", {"name": "on_client_ready", "args": []})
        await self.act("on_client_ready", None)

    async def on_client_message(self, message: frames.ClientMessage) -> None:
        """The event with the message."""
        # The recordings spell the message inside its model, a level down: how deep a container is decides its spelling.
        fields = {"msg_id": message.msg_id, "type": message.type, "data": message.data}
        self.recorder.add("event", {"name": "on_client_message", "args": [values.encode(fields, depth=1)]})
        await self.act("on_client_message", message)

    async def act(self, event: str, message: frames.ClientMessage | None) -> None:
        """What the application does; a call that raises ends its handler, as in the peer."""
        for act in self.acts.get(event, ()):
            await ACTS[act.do](self, act, message)


class Greeting(Recording):
    """As an application of the peer whose worker has an observer: client-ready is answered at once."""

    auto_bot_ready = True


async def set_bot_ready(bot: Recording, act: cases.Act, message: frames.ClientMessage | None) -> None:
    """Say bot-ready."""
    bot.set_bot_ready()


async def send_server_response(bot: Recording, act: cases.Act, message: frames.ClientMessage | None) -> None:
    """Answer the message."""
    assert message is not None
    bot.send_server_response(message, act.data)


async def send_error_response(bot: Recording, act: cases.Act, message: frames.ClientMessage | None) -> None:
    """Refuse the message."""
    assert message is not None
    bot.send_error_response(message, act.data)


async def sleep(bot: Recording, act: cases.Act, message: frames.ClientMessage | None) -> None:
    """Take a while."""
    await anyio.sleep(act.seconds)


async def fail(bot: Recording, act: cases.Act, message: frames.ClientMessage | None) -> None:
    """Raise."""
    raise HandlerRaised


ACTS: Final = {
    "set_bot_ready": set_bot_ready,
    "send_server_response": send_server_response,
    "send_error_response": send_error_response,
    "sleep": sleep,
    "raise": fail,
}


# -- calls ---------------------------------------------------------------------


def request(given: cases.Request) -> frames.ClientMessage:
    """A client-message as `on_client_message` would have got it."""
    return frames.ClientMessage(given.msg_id, given.type, to_json(given.data))


def function_call(session: rtvi.Session, call: cases.FunctionCall) -> None:
    """The peer's deprecated call takes one object."""
    session.control.handle_function_call(call.function_name, call.tool_call_id, call.arguments)


CALLS: Final[Mapping[str, Callable[..., None]]] = {
    "set_client_ready": lambda session: session.control.set_client_ready(),
    "set_bot_ready": lambda session, about=None: session.control.set_bot_ready(about),
    "interrupt_bot": lambda session: session.control.interrupt_bot(),
    "send_server_message": lambda session, data: session.control.send_server_message(data),
    "send_server_response": lambda session, to, data: session.control.send_server_response(request(to), data),
    "send_error_response": lambda session, to, error: session.control.send_error_response(request(to), error),
    "send_error": lambda session, error: session.control.send_error(error),
    "handle_message": lambda session, message, user_id=None: session.control.handle_message(message),
    "handle_function_call": function_call,
}
"""The peer's methods, by what an application of ours calls from outside the bot."""


# -- playing -------------------------------------------------------------------


class Player:
    """One case in one session."""

    def __init__(self, case: cases.Case, recorder: Recorder, session: rtvi.Session, client: memory.ClientEnd) -> None:
        self.case = case
        self.recorder = recorder
        self.session = session
        self.client = client

    async def play(self) -> None:
        """All steps; each is over when nothing moves any more."""
        await self.settle()
        for number, step in enumerate(self.case.steps):
            self.recorder.step = number
            await self.do(step)
            await self.settle()

    async def settle(self) -> None:
        """Wait until nothing moves, then look at what the client got."""
        await self.session.idle()
        for message in self.client.drain():
            if isinstance(message, ServerText):
                self.recorder.wire(message.data, observer=self.case.observer)

    async def do(self, step: cases.Step) -> None:
        """One step."""
        match step:
            case cases.Send(wire):
                await self.send(wire)
            case cases.Call(method, args):
                self.call(method, args)
            case cases.Configure(skip_tts):
                self.recorder.configured.append(skip_tts)
                self.session.control.configure_output(skip_tts)
            case cases.Sleep(seconds):
                await anyio.sleep(seconds)
            case cases.Burst(steps):
                for one in steps:
                    await self.do(one)

    async def send(self, wire: bytes) -> None:
        """The client sends; after the session's end nobody hears it."""
        try:
            await self.client.send_text(wire)
        except anyio.BrokenResourceError:
            return

    def call(self, method: str, args: tuple[Any, ...]) -> None:
        """The application calls; what it raises is an effect, whatever it is."""
        try:
            CALLS[method](self.session, *args)
        except (rtvi.RtviError, TypeError, ValueError):
            self.recorder.add("raised", {"call": method})


async def run(case: cases.Case, system: rtvi.ActorSystem) -> list[dict[str, Any]]:
    """The effects of a case."""
    recorder = Recorder()
    bot = (Greeting if case.observer else Recording)(recorder, case.handlers)
    transport, client = memory.pair(max_message_bytes=LIMIT_BYTES, max_in_bytes=LIMIT_BYTES, capacity=1 << 20)
    options = rtvi.SessionOptions(hold_before_ready=False, capabilities=case.capabilities, outbox_bytes=LIMIT_BYTES)
    async with rtvi.open_session(bot, transport, options=options, system=system) as session:
        await Player(case, recorder, session, client).play()
        return recorder.effects[:]  # what closing the session does is not the case's


async def result(line: Mapping[str, Any], system: rtvi.ActorSystem) -> dict[str, Any]:
    """A recorded case as the line of a result."""
    name = line["case"]
    try:
        case = cases.read(line)
    except cases.Unsupported as why:
        return {"case": name, "unsupported": str(why)}
    order = {"order": line["order"]} if "order" in line else {}
    return {"case": name, **order, "effects": await run(case, system)}


async def results(lines: Iterable[Mapping[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The results of all cases, in their order."""
    async with rtvi.ActorSystem() as system:
        for line in lines:
            yield await result(line, system)


async def write(path: str) -> None:
    """The program."""
    async for line in results(compare.read(path).values()):
        print(values.dumps(line))


def main() -> None:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(description="Play recorded cases through a real session.")
    parser.add_argument("cases", help="a file of cases or recordings, gzipped or not")
    parser.add_argument("--log", action="store_true", help="show what the session logs")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    args = parser.parse_args()
    if not args.log:
        logging.disable()
    anyio.run(write, args.cases, backend=args.backend)


if __name__ == "__main__":
    main()
