#!/usr/bin/env python3
"""Play recorded cases through a real session on the memory transport, and write what it did.

    python tests/vectors/replay.py CASES.jsonl[.gz] > RESULTS.jsonl
    python tests/vectors/compare.py CASES.jsonl[.gz] RESULTS.jsonl --waive tests/vectors/chosen.json \
        --waive tests/vectors/deviations.json

Each case gets a session of its own, with everything that a session has; only the holding of messages before
client-ready is off, because the peer has none, the size limits are as large as the cases, and files of any kind are
taken. Frames that a case pushes become calls of `session.control` (pushed.py). After each step the driver waits until
the session is idle. A case that cannot be played is written as ``{"case": …, "unsupported": why}``.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere, from a bare clone

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.protocol import ui
from rtvi_actors.protocol.codec import from_json, to_json
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.streams import ServerText
from rtvi_actors.transports import memory
from tests.vectors import cases, compare, pushed, values

LIMIT_BYTES: Final = 64 << 20
"""The largest case has 5 MB in one message; the peer has no limit of its own."""
MAX_FILE_BYTES: Final = 32 << 20
SCHEMES: Final = ("ftp", "gs", "http", "https", "pipecat", "s3")
"""Of the URLs that the cases name, those that a policy of ours may allow."""
PROCESSOR: Final = frozenset(
    {"bot-ready", "error", "error-response", "llm-function-call", "server-message", "server-response"}
)
"""What the peer sends without its observer. A case without observer says nothing about the rest."""


# -- recording -----------------------------------------------------------------


class Recorder:
    """The effects of one case."""

    def __init__(self, segments: Mapping[int, str]) -> None:
        self.step = -1
        self.effects: list[dict[str, Any]] = []
        self.injected: Counter[str] = Counter()
        """What the case itself has told the bot, spelt as effects: its own frames are none."""
        self.segments = dict(segments)
        """What the case calls them, by their ids."""
        self.alone: list[tuple[str, str]] = []
        """Name and type of synthesised texts that have been pushed without a segment: the session numbers them."""

    def add(self, channel: str, value: Any) -> None:
        """One more effect of the current step."""
        self.effects.append({"step": self.step, channel: value})

    @staticmethod
    def verb(do: str, **fields: Any) -> dict[str, Any]:
        """An effect on the bot."""
        return {"do": do, **{name: values.encode(field) for name, field in fields.items()}}

    def inject(self, do: str, **fields: Any) -> None:
        """The case pushes a frame that will reach the bot."""
        self.injected[values.dumps(self.verb(do, **fields))] += 1

    def do(self, do: str, **fields: Any) -> None:
        """The bot was told to do something, unless it is the case's own frame that arrives."""
        effect = self.verb(do, **fields)
        spelt = values.dumps(effect)
        if self.injected[spelt]:
            self.injected[spelt] -= 1
        else:
            self.add("do", effect)

    def append(self, frame: frames.LLMMessagesAppend) -> None:
        """A turn, with a file or without."""
        for file in frame.files:
            self.file(file, frame.messages[-1].content, run_llm=frame.run_llm)
        if not frame.files:
            messages = [{"role": message.role, "content": content_of(message)} for message in frame.messages]
            self.do("append", messages=messages, run_llm=frame.run_llm)

    def file(self, file: frames.UserFile, text: str, *, run_llm: bool) -> None:
        """A file: the peer hands an image on as bytes, and anything else as a URL."""
        if file.is_image and file.data is not None:
            size = [file.width or 0, file.height or 0]
            self.do("image", image=file.data, size=size, format=file.format, text=text, run_llm=run_llm)
            return
        self.do(
            "file",
            file=file.url or data_url(file),
            type="url" if file.data is None else "bytes",
            filename=file.name,
            format=file.format,
            text=text,
            custom_options=plain(file.options),
            run_llm=run_llm,
        )

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

    def keys(self, frame: frames.InputDTMF) -> None:
        """Keys of a telephone: the peer has a frame for each."""
        for button in frame.buttons:
            self.do("dtmf", button=button)

    def wire(self, data: bytes, *, observer: bool) -> None:
        """A message that reached the client."""
        message = json.loads(data)
        if not observer and message["type"] not in PROCESSOR:
            return
        if message["type"] == "user-input" and message["data"]["input_type"] == "chat":
            message["data"]["timestamp"] = values.Marker({"$volatile": "timestamp"})
        if message["type"] == "bot-output" and "segment_id" in message["data"]:  # 1.x has none
            message["data"]["segment_id"] = values.Marker({"$frame_id": self.name(message["data"])})
        self.add("wire", values.encode(message))

    def name(self, output: Mapping[str, Any]) -> str:
        """What the case calls a segment; one that the session has numbered is the oldest text of its type."""
        ident = output["segment_id"]
        if ident not in self.segments:
            at = next((at for at, (_, kind) in enumerate(self.alone) if kind == output["output_type"]), None)
            self.segments[ident] = f"unnamed {ident}" if at is None else self.alone.pop(at)[0]
        return self.segments[ident]


def plain(json: Json | None) -> Any:
    """What it holds, if there is one."""
    return None if json is None else from_json(json)


def content_of(message: frames.LLMMessage) -> Any:
    """As the client sent it."""
    return message.content if message.parts is None else from_json(message.parts)


def data_url(file: frames.UserFile) -> str:
    """As the peer spells a file that came with the message."""
    assert file.data is not None
    return f"data:{file.media_type or file.format};base64,{base64.b64encode(file.data).decode('ascii')}"


def no_effect(recorder: Recorder, frame: object) -> None:
    """What the peer's pipeline does not show, or shows as an event."""


RECORD: Mapping[type[Any], Callable[[Recorder, Any], None]] = {
    frames.InputAudioRaw: Recorder.audio,
    frames.LLMMessagesAppend: Recorder.append,
    frames.LLMConfigureOutput: lambda recorder, frame: recorder.do("skip_tts", skip_tts=frame.skip_tts),
    frames.Interruption: lambda recorder, _: recorder.do("interrupt"),
    frames.FunctionCallResult: Recorder.result,
    frames.StartAudio: lambda recorder, _: recorder.do("start_audio"),
    frames.EndTask: lambda recorder, _: recorder.do("end"),
    frames.InputDTMF: Recorder.keys,
}
"""Frames that are effects, as they reach the bot, in order."""


class HandlerRaised(Exception):
    """What a case's handler raises on purpose."""


class Recording(rtvi.Bot):
    """Records what it is told and which handlers run; does in them what the case says."""

    auto_bot_ready = False
    accepts_files = True

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

    async def on_function_call_result(self, result: frames.FunctionCallResult) -> None:
        """A bot that takes results of calls it has not made, as the peer's pipeline does."""

    async def on_ui_event(self, event: frames.UIEvent) -> None:
        """One of the three that the peer calls on_ui_message."""
        await self.ui_message("ui-event", event.msg_id, {"event": event.event, "payload": event.data})

    async def on_ui_snapshot(self, snapshot: frames.UISnapshot) -> None:
        """The second."""
        await self.ui_message("ui-snapshot", snapshot.msg_id, {"tree": spelt(snapshot.tree)})

    async def on_ui_cancel_job_group(self, cancel: frames.UICancelJobGroup) -> None:
        """The third."""
        data = {"job_id": cancel.job_id, "reason": cancel.reason}
        await self.ui_message("ui-cancel-job-group", cancel.msg_id, data)

    async def ui_message(self, kind: str, msg_id: str, data: Mapping[str, Any]) -> None:
        """The event with the whole message."""
        message = {"label": "rtvi-ai", "type": kind, "id": msg_id, "data": data}
        self.recorder.add("event", {"name": "on_ui_message", "args": [values.encode(message, depth=1)]})
        await self.act("on_ui_message", None)

    async def act(self, event: str, message: frames.ClientMessage | None) -> None:
        """What the application does; a call that raises ends its handler, as in the peer."""
        for act in self.acts.get(event, ()):
            await ACTS[act.do](self, act, message)


def spelt(node: Any) -> Any:
    """A snapshot as the peer's models spell it: every field, null or not, then what the protocol does not name."""
    if isinstance(node, ui.Snapshot | ui.A11yNode | ui.A11ySelection):
        known = {name: spelt(value) for name, value in msgspec.structs.asdict(node).items() if name != "extra"}
        return {**known, **node.extra}
    return [spelt(one) for one in node] if isinstance(node, tuple) else node


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
                self.recorder.wire(message.data, observer=self.case.observer is not None)

    async def do(self, step: cases.Step) -> None:
        """One step."""
        match step:
            case cases.Send(wire):
                await self.send(self.client.send_text(wire))
            case cases.SendAudio(audio, sample_rate, num_channels):
                self.recorder.inject("audio", audio=audio, sample_rate=sample_rate, num_channels=num_channels)
                await self.send(self.client.send_audio(audio, sample_rate, num_channels))
            case cases.Call(method, args):
                self.call(method, args)
            case cases.Say(push):
                self.say(push)
            case cases.Sleep(seconds):
                await anyio.sleep(seconds)
            case cases.Burst(steps):
                for one in steps:
                    await self.do(one)

    @staticmethod
    async def send(sending: Awaitable[None]) -> None:
        """The client sends; after the session's end nobody hears it."""
        try:
            await sending
        except anyio.BrokenResourceError:
            return

    def say(self, push: pushed.Push) -> None:
        """The application reports. What it cannot report raises, here and now, and the case goes on."""
        try:
            pushed.say(self.session.control, push)
        except (msgspec.ValidationError, rtvi.NotJson, TypeError, ValueError):
            return
        if push.type == "LLMConfigureOutputFrame":
            self.recorder.inject("skip_tts", skip_tts=push.fields.get("skip_tts"))
        elif push.type == "InterruptionFrame":
            self.recorder.inject("interrupt")
        elif push.type == "TTSTextFrame" and push.fields.get("segment_id") is None:
            self.recorder.alone.append((push.ref or "", push.fields["text_type"]))

    def call(self, method: str, args: tuple[Any, ...]) -> None:
        """The application calls; what it raises is an effect, whatever it is."""
        try:
            CALLS[method](self.session, *args)
        except (rtvi.RtviError, TypeError, ValueError):
            self.recorder.add("raised", {"call": method})


async def run(
    case: cases.Case, system: rtvi.ActorSystem, look: Callable[[rtvi.Session], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The effects of a case. `look` sees the session when they are complete."""
    recorder = Recorder(case.segments)
    bot = (Greeting if case.observer else Recording)(recorder, case.handlers)
    transport, client = memory.pair(max_message_bytes=LIMIT_BYTES, max_in_bytes=LIMIT_BYTES, capacity=1 << 20)
    options = rtvi.SessionOptions(
        hold_before_ready=False,
        capabilities=case.capabilities,
        outbox_bytes=LIMIT_BYTES,
        observer=case.observer or rtvi.ObserverParams(),
        files=rtvi.FilePolicy(max_bytes=MAX_FILE_BYTES, formats=("*/*",), url_schemes=SCHEMES, max_url_chars=1 << 20),
    )
    async with rtvi.open_session(bot, transport, options=options, system=system) as session:
        await Player(case, recorder, session, client).play()
        look(session)
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
