"""Any actor may crash in a live session, inside a handler or between messages, its mailbox full: the call goes on.

Every kind of message is on its way when it happens. What is lost is exactly the message whose handler crashed, and
whoever waits for its answer is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio
import anyio.lowlevel
import msgspec
import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.concerns.audio import Audio
from rtvi_actors.concerns.door import Door
from rtvi_actors.concerns.handshake import Handshake
from rtvi_actors.concerns.ingress import Ingress
from rtvi_actors.concerns.levels import Levels
from rtvi_actors.concerns.observer import Observer
from rtvi_actors.concerns.outbound import Outbound
from rtvi_actors.concerns.playout import Playout
from rtvi_actors.concerns.requests import Requests
from rtvi_actors.concerns.text import Text
from rtvi_actors.concerns.tools import Tools
from rtvi_actors.concerns.ui import UI
from rtvi_actors.messages import Answer, Heard, Ready, ReceivedPcm, Release
from rtvi_actors.session import CHILDREN
from rtvi_actors.streams import ClientText
from tests.session_kit import Call, Wire, calling, of_type

pytestmark = pytest.mark.anyio

COUNT: Final = 60
"""Messages of each kind."""
VICTIM: Final = 7
"""The one of them that a handler crashes on."""
QUEUED: Final = 50
"""So many must wait in the mailbox when the actor crashes."""
MANY_TURNS: Final = 10_000
SETTLED_TURNS: Final = 20
"""Turns of the loop without mail after which all of the traffic has come as far as it can."""


class Boom(Exception):
    """What the handlers crash with."""


class Seen:
    """What the bot has seen, over all its incarnations."""

    def __init__(self) -> None:
        self.clients = 0
        self.texts: list[str] = []
        self.results: list[str] = []
        self.events: list[str] = []
        self.audio: list[bytes] = []
        self.started = anyio.Event()
        self.go_on = anyio.Event()


class Echo(rtvi.Bot):
    """Takes every kind of message, and plays audio back."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(seen)
        self.seen = seen

    async def on_client_ready(self, client: rtvi.ClientReady) -> None:
        self.seen.clients += 1

    async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
        self.seen.texts.append(append.messages[0].content)

    async def on_function_call_result(self, result: rtvi.FunctionCallResult) -> None:
        self.seen.results.append(result.tool_call_id)

    async def on_ui_event(self, event: frames.UIEvent) -> None:
        self.seen.events.append(event.event)

    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        self.seen.audio.append(frame.audio)
        self.link("playout").tell(frames.OutputAudioRaw(frame.audio, frame.sample_rate, frame.num_channels))

    @rtvi.request("double")
    def double(self, number: int) -> int:
        return 2 * number

    @rtvi.request("slow")
    async def slow(self) -> str:
        self.seen.started.set()
        await self.seen.go_on.wait()
        return "done"


def pcm(index: int) -> bytes:
    """2 ms of audio at 16 kHz that tells which it is: all of it is within playout's lead."""
    return index.to_bytes(2, "little") * 32


def is_victim(message: Any) -> bool:
    """Whether it is number `VICTIM`, in whatever form it has reached the actor."""
    match message:
        case frames.OutputAudioRaw() | ReceivedPcm() | Heard():
            return message.audio == pcm(VICTIM)
        case rtvi.Received():  # of whatever kind its concern serves
            return message.id[1:] == str(VICTIM)
        case Release():
            return message.id == f"r{VICTIM}"
        case frames.Request():
            return message.msg_id == f"r{VICTIM}"
        case Answer():
            return message.message.id == f"r{VICTIM}"
        case Ready():  # encoded for outbound
            return b"\xa2r%d" % VICTIM in message.body
        case ClientText():
            return bool(msgspec.json.decode(message.data)["id"] == f"r{VICTIM}")
    return False


HANDLERS: Final[dict[str, tuple[type[Any], str]]] = {
    "ingress": (Ingress, "on_text"),
    "handshake": (Handshake, "on_received"),
    "audio": (Audio, "on_pcm"),
    "text": (Text, "on_received"),
    "requests": (Requests, "on_received"),
    "tools": (Tools, "on_received"),
    "ui": (UI, "on_received"),
    "door": (Door, "on_release"),
    "bot": (Echo, "on_frame"),
    "playout": (Playout, "on_audio"),
    "levels": (Levels, "on_heard"),
    "observer": (Observer, "on_ready"),
    "outbound": (Outbound, "on_answer"),
}
"""Child → the handler that crashes."""

LOSES: Final[dict[str, str]] = {
    "ingress": "r",
    "handshake": "c",
    "audio": "a",
    "text": "t",
    "requests": "r",
    "tools": "f",
    "ui": "u",
    "door": "r",
    "bot": "r",
    "playout": "played",
    "levels": "",
    "observer": "",
    "outbound": "r",
}
"""Child → the kind of which one message is lost when its handler crashes.
Observer loses none: it was ready. Of levels there are enough."""

LOUD: Final = rtvi.ObserverParams(user_audio_level_enabled=True)

UNDELIVERED: Final = frozenset({"ingress", "handshake", "audio", "text", "requests", "tools", "ui", "door"})
"""Those before the bot: what they crash on is dead; what is lost behind them had been delivered."""


def crash_once(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Have the child's handler raise on its victim, once. The list gets how many messages were waiting then."""
    actor, method = HANDLERS[name]
    handler = getattr(actor, method)
    waiting: list[int] = []

    def crash(self: Any, message: Any) -> Any:
        if not waiting and is_victim(message):
            waiting.append(len(self.cell.mailbox))
            handler(self, message)  # what it sends must not leave
            raise Boom(name)
        return handler(self, message)

    monkeypatch.setattr(actor, method, crash)
    return waiting


@contextmanager
def held(call: Call, name: str) -> Iterator[None]:
    """Let the child's mail pile up."""
    cell = call.session.actor(name).cell
    cell.suspended = True
    yield
    cell.suspended = False
    cell.notify()


async def traffic(call: Call) -> None:
    """`COUNT` of every kind, interleaved."""
    for index in range(COUNT):
        await call.send("client-ready", f"c{index}", {"version": "1.3.0"})
        await call.ask("double", index, f"r{index}")
        await call.client.send_audio(pcm(index))
        await call.say(f"t{index}", f"t{index}", run_immediately=False)
        result = {"function_name": "f", "tool_call_id": f"f{index}", "arguments": {}, "result": "x"}
        await call.send("llm-function-call-result", f"f{index}", result)
        await call.send("ui-event", f"u{index}", {"event": f"u{index}"})


async def pile_up(call: Call, name: str) -> None:
    """The traffic, until it lies in the child's mailbox and nowhere before it."""
    await traffic(call)
    others = [call.session.actor(child).cell for child in CHILDREN if child != name]
    quiet = 0
    while quiet < SETTLED_TURNS:
        await anyio.lowlevel.checkpoint()
        quiet = 0 if any(not cell.mailbox.empty() for cell in others) else quiet + 1


async def restarted(call: Call, name: str) -> None:
    for _ in range(MANY_TURNS):
        if call.restarts(name):
            return
        await anyio.lowlevel.checkpoint()
    pytest.fail(f"{name} has not crashed")


def without(lost: bool) -> list[int]:
    return [index for index in range(COUNT) if not (lost and index == VICTIM)]


def assert_sequences(call: Call, seen: Seen, heard: list[Wire], lost: str) -> None:
    """Every kind came through in its order, all of it but the one that was lost."""
    assert [wire["id"] for wire in of_type(heard, "bot-ready")] == [f"c{i}" for i in without(lost == "c")]
    answers = [(wire["id"], wire["data"]["d"]) for wire in of_type(heard, "server-response") if wire["id"] != "slow"]
    assert answers == [(f"r{i}", 2 * i) for i in without(lost == "r")]
    inputs = [wire["data"]["text"] for wire in of_type(heard, "user-input")]
    assert inputs == seen.texts == [f"t{i}" for i in without(lost == "t")]
    assert seen.results == [f"f{i}" for i in without(lost == "f")]
    assert seen.events == [f"u{i}" for i in without(lost == "u")]
    assert seen.clients == 1 + len(without(lost == "c"))
    assert seen.audio == [pcm(i) for i in without(lost == "a")]
    assert [chunk.audio for chunk in call.audio] == [pcm(i) for i in without(lost in {"a", "played"})]


def assert_told(heard: list[Wire], lost: str, slow_failed: bool) -> None:
    """One error for what was lost, with its id where it had one; and the open request is answered once."""
    errors = [wire.get("id") for wire in of_type(heard, "error", "error-response") if wire.get("id") != "slow"]
    assert errors == ([] if lost in {"", "played"} else [None] if lost == "a" else [f"{lost}{VICTIM}"])
    slow = [wire["type"] for wire in heard if wire.get("id") == "slow"]
    assert slow == ["error-response" if slow_failed else "server-response"]


async def assert_goes_on(call: Call, name: str, ref: rtvi.ActorRef[Any]) -> None:
    """It was restarted, nobody else was, the reference serves, and the handshake has not forgotten its client."""
    assert {child: call.restarts(child) for child in CHILDREN} == {**dict.fromkeys(CHILDREN, 0), name: 1}
    assert call.session.actor(name) is ref
    assert ref.is_alive()
    assert not call.session.closed
    call.session.control.set_bot_ready()
    ready = (await call.until(lambda wire: wire["type"] == "bot-ready"))[-1]
    assert (ready["id"], ready["data"]["version"]) == (f"c{COUNT - 1}", "1.3.0")
    await call.ask("double", 21, "after")
    assert (await call.answer("after"))["data"]["d"] == 42


def assert_books(call: Call, dead: int) -> None:
    books = call.books
    assert books.conservation.received == 1 + 1 + 6 * COUNT  # client-ready, the slow request, the traffic
    assert books.conservation.dead == dead
    assert books.conservation.delivered == books.conservation.received - dead
    assert (books.conservation.open, books.open_requests, books.late, books.duplicates) == (0, 0, 0, 0)


def test_every_child_is_crashed_here() -> None:
    assert set(HANDLERS) == set(LOSES) == set(CHILDREN)


@pytest.mark.parametrize("name", CHILDREN)
async def test_a_crash_inside_a_handler_loses_that_message_and_nothing_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    async with calling(Echo(seen), door_gap_s=60.0, credit=1000, observer=LOUD) as call:
        ref = call.session.actor(name)
        await call.ask("slow", msg_id="slow")
        await seen.started.wait()
        waiting = crash_once(monkeypatch, name)
        ref.cell._bind_handlers()  # the running incarnation has bound its own already
        with held(call, name):
            await pile_up(call, name)
        await restarted(call, name)
        seen.go_on.set()
        heard = await call.heard()
        assert waiting[0] >= QUEUED
        assert_sequences(call, seen, heard, LOSES[name])
        assert_told(heard, LOSES[name], slow_failed=name == "bot")
        assert_books(call, dead=int(name in UNDELIVERED))
        await assert_goes_on(call, name, ref)


@pytest.mark.parametrize("name", CHILDREN)
async def test_a_crash_between_messages_loses_nothing(name: str) -> None:
    seen = Seen()
    async with calling(Echo(seen), door_gap_s=60.0, credit=1000, observer=LOUD) as call:
        ref = call.session.actor(name)
        await call.ask("slow", msg_id="slow")
        await seen.started.wait()
        with held(call, name):
            await pile_up(call, name)
            assert len(ref.cell.mailbox) >= QUEUED
            call.session.system.crash(ref)
            await restarted(call, name)
        seen.go_on.set()
        heard = await call.heard()
        assert_sequences(call, seen, heard, "")
        assert_told(heard, "", slow_failed=name == "bot")
        assert_books(call, dead=0)
        await assert_goes_on(call, name, ref)


def state_of(ref: rtvi.ActorRef[Any]) -> object:
    actor = ref.cell.actor
    assert isinstance(actor, Handshake)
    return actor.state


async def test_the_handshakes_state_is_the_same_before_and_after_a_thousand_crashes() -> None:
    patient = rtvi.Backoff(immediate=10**6)
    async with calling(Echo(Seen()), restart_intensity=10**6, restart_backoff=patient) as call:
        await call.ready(version="2.1.0")
        ref = call.session.actor("handshake")
        before = state_of(ref)
        for _ in range(1000):
            call.session.system.crash(ref)
        assert (await call.session.system.inspect(ref)).statistics.restarts == 1000
        assert call.session.actor("handshake") is ref
        assert state_of(ref) == before
        await call.ask("double", 21, "q")
        assert (await call.answer("q"))["data"]["d"] == 42
        assert call.session.client_is_ready


async def test_the_reader_stops_while_the_bot_is_buried_in_mail_and_goes_on_when_it_is_not() -> None:
    class Buried(Echo):
        max_mail = 4_000

    seen = Seen()
    async with calling(Buried(seen)) as call:
        bot = call.session.actor("bot")
        await call.session.idle()
        bot.cell.suspended = True
        for _ in range(3_001):  # above three quarters
            bot.tell(frames.RequestExpired(0))
        for n in range(20):
            await call.say(f"text {n}", f"t{n}", run_immediately=False)
        for _ in range(SETTLED_TURNS * 10):
            await anyio.lowlevel.checkpoint()
        assert call.books.conservation.received == 1  # client-ready
        bot.cell.suspended = False
        bot.cell.notify()
        while len(seen.texts) < 20:
            await anyio.lowlevel.checkpoint()
        assert seen.texts == [f"text {n}" for n in range(20)]
        assert call.books.conservation.delivered == 21


@pytest.mark.parametrize("name", ["text", "audio", "requests"])
async def test_what_is_open_when_a_session_ends_is_in_its_last_books(name: str) -> None:
    async with calling(Echo(Seen()), drain_s=0.01) as call:
        call.session.actor(name).cell.suspended = True
        for n in range(5):
            await call.say("x", f"s{n}")
            await call.ask("double", n, f"q{n}")
            await call.client.send_audio(pcm(n), 16_000, 1)
        for _ in range(SETTLED_TURNS * 10):
            await anyio.lowlevel.checkpoint()
        session = call.session
    books = session.statistics().conservation
    assert books.holds
    assert books.open == 0
    assert books.dead >= 5
