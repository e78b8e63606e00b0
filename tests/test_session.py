from __future__ import annotations

import base64
import random
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.session import BACK, CHILDREN, LINKS, ROUTES
from rtvi_actors.transports import memory
from tests.session_kit import Call, Frame, Stuck, calling, message, of_type, stuck, texts, types, virtual_time

pytestmark = pytest.mark.anyio


class Recorder(rtvi.Bot):
    """Writes down every control frame in the order in which it gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.audio: list[bytes] = []
        self.reasons: list[str] = []

    def on_frame(self, frame: Frame) -> None:
        for name in ("msg_id", "tool_call_id", "library"):
            if getattr(frame, name, ""):
                self.log.append(getattr(frame, name))
        super().on_frame(frame)

    async def on_client_message(self, message: rtvi.ClientMessage) -> None: ...

    async def on_function_call_result(self, result: rtvi.FunctionCallResult) -> None: ...

    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        self.audio.append(frame.audio)

    @rtvi.request("double")
    def double(self, number: int) -> int:
        return 2 * number

    async def on_disconnect(self, reason: str) -> None:
        self.reasons.append(reason)


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


# -- the tables ------------------------------------------------------------------------


async def test_references_point_forward_and_what_flows_back_is_in_its_own_table() -> None:
    for name, links in LINKS.items():
        assert all(CHILDREN.index(link) > CHILDREN.index(name) for link in links), name
    for name, links in BACK.items():
        assert all(CHILDREN.index(link) < CHILDREN.index(name) for link in links), name
    assert set(ROUTES.values()) <= set(CHILDREN)


# -- order -----------------------------------------------------------------------------


async def test_control_messages_of_all_concerns_reach_the_bot_in_the_order_they_were_sent() -> None:
    rng = random.Random(1)
    bot = Recorder()
    async with calling(bot, ready=False) as call:
        ids = [f"{rng.choice('crtf')}{index}" for index in range(400)]
        for msg_id in ids:
            kinds: dict[str, tuple[str, Any]] = {
                "c": ("client-ready", {"version": "2.0.0", "about": {"library": msg_id}}),
                "r": ("client-message", {"t": "double", "d": 1}),
                "t": ("send-text", {"content": "x", "options": {"run_immediately": False}}),
                "f": (
                    "llm-function-call-result",
                    {"function_name": "f", "tool_call_id": msg_id, "arguments": {}, "result": ""},
                ),
            }
            await call.send(kinds[msg_id[0]][0], msg_id, kinds[msg_id[0]][1])
        await call.heard()
        assert bot.log == ids


async def test_what_the_bot_emits_reaches_the_client_in_the_order_emitted() -> None:
    class Talker(rtvi.Bot):
        @rtvi.request("n")
        def n(self, number: int) -> int:
            self.send_server_message({"before": number})
            self.tts_text(f"t{number}")
            return number

    async with calling(Talker()) as call:
        for index in range(100):
            await call.ask("n", index, f"r{index}")
        heard = await call.heard()
        expected = ["server-message", "bot-tts-text", "server-response"] * 100
        assert types(heard) == expected
        assert [wire["id"] for wire in of_type(heard, "server-response")] == [f"r{i}" for i in range(100)]
        assert [wire["data"]["before"] for wire in of_type(heard, "server-message")] == list(range(100))


async def test_audio_keeps_its_own_order_and_waits_for_no_stuck_concern() -> None:
    gate, bot = anyio.Event(), Recorder()
    async with calling(bot, actors=stuck(gate)) as call:
        await call.send("stick", "x")
        for index in range(50):
            await call.client.send_audio(bytes([index, 0]))
        while len(bot.audio) < 50:
            await anyio.lowlevel.checkpoint()
        assert bot.audio == [bytes([index, 0]) for index in range(50)]
        assert call.books.control["delivered"] == 1  # client-ready; the stuck one is open
        gate.set()
        await call.heard()


async def test_control_waits_for_no_stuck_audio() -> None:
    bot = Recorder()
    async with calling(bot) as call:
        call.session.actor("audio").cell.suspended = True
        await call.client.send_audio(bytes(2))
        await call.ask("double", 4, "q")
        assert (await call.answer("q"))["data"]["d"] == 8
        assert call.books.conservation.open == 1
        call.session.actor("audio").cell.suspended = False
        call.session.actor("audio").cell.notify()
        await call.heard()
        assert bot.audio == [bytes(2)]


class TestTheDoorGap:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_a_late_message_is_waited_for_door_gap_s_then_passed_over_and_counted(self) -> None:
        gate, bot = anyio.Event(), Recorder()
        async with calling(bot, actors=stuck(gate), door_gap_s=0.25) as call:
            started = anyio.current_time()
            await call.send("stick", "late")
            await call.ask("double", 4, "q")
            assert (await call.answer("q"))["data"]["d"] == 8
            assert anyio.current_time() - started == pytest.approx(0.25)
            gate.set()
            await call.heard()
            assert bot.log[-2:] == ["q", "late"]
            assert (call.books.late, call.books.duplicates) == (1, 0)

    async def test_several_late_messages_cost_one_gap_each_at_the_most(self) -> None:
        gate, bot = anyio.Event(), Recorder()
        async with calling(bot, actors=stuck(gate), door_gap_s=0.25) as call:
            started = anyio.current_time()
            for index in range(4):
                await call.send("stick", f"late{index}")
            await call.ask("double", 4, "q")
            await call.answer("q")
            assert anyio.current_time() - started == pytest.approx(0.25)  # passed over together
            gate.set()
            await call.heard()
            assert call.books.late == 4
            assert call.books.conservation.open == 0


# -- conservation ----------------------------------------------------------------------


async def test_every_wire_message_ends_once_in_the_term_that_is_its_own() -> None:
    async with calling(Recorder(), ready=False) as call:
        await call.ask("double", 1)  # delivered
        await call.ask("double", "no number")  # delivered: the bot refuses it
        await call.send("client-message", "m", {"d": 1})  # answered: no t
        await call.send("no-such-type", "m", {})  # answered, unnumbered
        await call.client.send_text(b"{")  # answered, unnumbered
        await call.client.send_malformed()  # answered, unnumbered
        await call.client.send_text({**message("send-text", "m", {"content": "x"}), "label": "other"})  # dropped
        await call.client.send_audio(bytes(4))  # delivered, audio
        await call.client.send_audio(bytes(3))  # answered, audio
        await call.client.send_interruption()  # delivered
        await call.heard()
        books = call.books
        assert books.control == {"delivered": 3, "answered": 1, "dropped": 0, "dead": 0}
        assert books.audio == {"delivered": 1, "answered": 1, "dropped": 0, "dead": 0}
        assert books.unnumbered == {"delivered": 0, "answered": 3, "dropped": 1, "dead": 0}
        assert books.dropped == {"not-rtvi": 1}
        assert (books.conservation.received, books.conservation.open) == (10, 0)


async def test_audio_beyond_its_mailbox_is_dropped_oldest_first_and_counted() -> None:
    bot = Recorder()
    async with calling(bot) as call:
        cell = call.session.actor("audio").cell
        cell.suspended = True
        for index in range(600):
            await call.client.send_audio(index.to_bytes(2, "little"))
        while cell.mailbox.received < 600:
            await anyio.lowlevel.checkpoint()
            assert call.books.conservation.open <= 600  # the equation, at any time
        cell.suspended = False
        cell.notify()
        await call.heard()
        assert call.books.dropped == {"audio overflow": 88}
        assert bot.audio == [index.to_bytes(2, "little") for index in range(88, 600)]


async def test_audio_beyond_the_bots_mailbox_costs_that_audio_and_crashes_nothing() -> None:
    bot = Recorder()
    async with calling(bot) as call:
        bot.cell.suspended = True
        for index in range(28):
            chunks = [base64.b64encode(bytes([index, chunk])).decode() for chunk in range(100)]
            batch = {"base64AudioBatch": chunks, "sampleRate": 8000, "numChannels": 1}
            await call.send("raw-audio-batch", f"a{index}", batch)
        while call.session.actor("audio").cell.handled < 28:
            await anyio.lowlevel.checkpoint()
            assert call.books.conservation.holds
        bot.cell.suspended = False
        bot.cell.notify()
        await call.heard()
        # A message counts with its last chunk: of the oldest that is left, the last 24 chunks are.
        assert call.books.dropped == {"bot overflow": 17}
        assert bot.audio == [bytes([index, chunk]) for index in range(28) for chunk in range(100)][-bot.max_bulk :]
        assert call.restarts("audio") == 0


async def test_neither_control_nor_audio_starves_at_a_bot_that_is_flooded_with_the_other() -> None:
    class Ear(Recorder):
        def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
            controls_before.append(len(self.log))
            super().on_audio(frame)

    controls_before: list[int] = []
    bot = Ear()
    async with calling(bot, credit=2_000) as call:
        await call.heard()
        bot.log.clear()
        bot.cell.suspended = True
        for index in range(800):
            await call.client.send_audio(index.to_bytes(2, "little"))
            await call.say("x", f"s{index}", run_immediately=False)
        while call.books.conservation.delivered < 1601:
            await anyio.lowlevel.checkpoint()
        bot.cell.suspended = False
        bot.cell.notify()
        await call.heard()
        assert bot.log == [f"s{index}" for index in range(800)]
        assert bot.audio == [index.to_bytes(2, "little") for index in range(800)]
        assert 0 < controls_before[0] < 100  # control goes first, and audio is not behind all of it


# -- isolation -------------------------------------------------------------------------


async def test_a_crash_in_one_session_is_no_matter_to_another_in_the_same_system() -> None:
    async with (
        rtvi.ActorSystem() as system,
        calling(Recorder(), system=system) as one,
        calling(Recorder(), system=system) as two,
    ):
        for name in CHILDREN:
            system.crash(one.session.actor(name))
        await two.ask("double", 1, "q")
        assert (await two.answer("q"))["data"]["d"] == 2
        await one.heard()
        assert {one.restarts(name) for name in CHILDREN} == {1}
        assert {two.restarts(name) for name in CHILDREN} == {0}


class Mourner(Recorder):
    """Writes down who was given up."""

    async def on_actor_given_up(self, event: rtvi.ActorGivenUp) -> None:
        self.reasons.append(f"hook {event.name}")

    @rtvi.on("actor-given-up")
    async def also(self, event: rtvi.ActorGivenUp) -> None:
        await anyio.lowlevel.checkpoint()
        self.reasons.append(f"also {event.name}")


def crash_too_often(call: Call, name: str) -> None:
    for _ in range(4):
        call.session.system.crash(call.session.actor(name))


@pytest.mark.parametrize("name", [name for name in CHILDREN if name != "bot"])
async def test_the_bot_hears_of_an_actor_that_crashes_too_often_before_the_session_ends(name: str) -> None:
    bot = Mourner()
    async with calling(bot, restart_intensity=3, drain_s=0.1) as call:
        call.session.control.on("actor-given-up", lambda event: bot.reasons.append(f"host {event.name}"))
        crash_too_often(call, name)
        reason = await call.session.wait_closed()
        assert reason == f"{name} crashed too often"
        await call.client.send_text(message("send-text"))  # nobody reads it, and nothing breaks
    assert bot.reasons == [f"hook {name}", f"also {name}", f"host {name}", reason]


async def test_the_host_hears_of_it_also_where_the_bot_itself_is_given_up() -> None:
    heard: list[str] = []

    async def later(event: rtvi.ActorGivenUp) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(f"later {event.name}")

    def fail(event: rtvi.ActorGivenUp) -> None:
        raise ValueError("the host's own")

    bot = Mourner()
    async with calling(bot, restart_intensity=3, drain_s=0.1) as call:
        on = call.session.control.on
        on("actor-given-up", fail)
        on("actor-given-up", lambda event: heard.append(event.name))
        on("actor-given-up", later)
        crash_too_often(call, "bot")
        assert await call.session.wait_closed() == "bot crashed too often"
    assert sorted(heard) == ["bot", "later bot"]
    assert bot.reasons == []


async def test_a_stuck_hook_does_not_keep_the_bot_from_hearing_of_it() -> None:
    class Stubborn(Mourner):
        async def on_client_ready(self, client: rtvi.ClientReady) -> None:
            await anyio.sleep_forever()

    bot = Stubborn()
    async with calling(bot, restart_intensity=3, drain_s=0.1) as call:
        crash_too_often(call, "tools")
        assert await call.session.wait_closed() == "tools crashed too often"
    assert bot.reasons == ["hook tools", "also tools", "tools crashed too often"]


async def test_a_hook_that_hears_of_it_and_hangs_does_not_hold_up_the_end() -> None:
    class Speechless(Recorder):
        async def on_actor_given_up(self, event: rtvi.ActorGivenUp) -> None:
            await anyio.sleep_forever()

    async with calling(Speechless(), restart_intensity=3, drain_s=0.01) as call:
        crash_too_often(call, "tools")
        assert await call.session.wait_closed() == "tools crashed too often"


# -- bounds ----------------------------------------------------------------------------


async def test_a_client_that_is_behind_gets_the_newest_interim_transcription_and_everything_else() -> None:
    async with calling(Recorder(), capacity=4) as call:
        control = call.session.control
        for _ in range(40):  # 400 kB: the client is behind
            control.send_server_message("x" * 10_000)
        for index in range(100):
            control.transcription(f"word {index}", final=False)
            if not index % 10:
                control.transcription(f"sentence {index}")
                control.send_server_message(index)
        while call.session.actor("outbound").cell.handled < 40 + 2 * 110 + 10:
            await anyio.lowlevel.checkpoint()
        assert call.books.coalesced == {"user-transcription": 99, "user-input": 99}
        heard = await call.until(lambda wire: wire["type"] == "user-transcription" and "99" in wire["data"]["text"])
        assert [wire["data"] for wire in of_type(heard, "server-message")[40:]] == list(range(0, 100, 10))
        for kind in ("user-transcription", "user-input"):
            said = [wire["data"]["text"] for wire in of_type(heard, kind)]
            assert said == [*(f"sentence {index}" for index in range(0, 100, 10)), "word 99"]


async def test_a_client_that_keeps_up_gets_every_interim_transcription() -> None:
    async with calling(Recorder()) as call:
        for index in range(100):
            call.session.control.transcription(f"word {index}", final=False)
        heard = of_type(await call.heard(), "user-transcription")
        assert [wire["data"]["text"] for wire in heard] == [f"word {index}" for index in range(100)]
        assert call.books.coalesced == {}


async def test_a_stuck_bot_refuses_what_it_has_no_room_for_and_stays_bounded() -> None:
    class Sleeper(rtvi.Bot):
        groups: ClassVar = {**rtvi.Bot.groups, "turn": GroupSpec(max_queued=3), "messages": GroupSpec(max_queued=3)}

        def __init__(self, gate: anyio.Event) -> None:
            super().__init__(gate)
            self.gate = gate

        async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
            await self.gate.wait()

        async def on_client_message(self, message: rtvi.ClientMessage) -> None:
            await self.gate.wait()

    gate = anyio.Event()
    async with calling(Sleeper(gate)) as call:
        for index in range(10):
            await call.say("x", f"s{index}", run_immediately=False)
            await call.ask("any", msg_id=f"m{index}")
        refused = [(await call.until(lambda wire: wire["type"] == "error-response"))[-1] for _ in range(12)]
        texts = {wire["data"]["error"] for wire in refused}
        assert texts == {f"Too many {what} at once; try again later" for what in ("turns", "messages")}
        assert call.restarts("bot") == 0
        gate.set()
        await call.heard()


async def test_an_actor_without_room_costs_the_message_and_not_ingress() -> None:
    class Narrow(Stuck):
        max_mail = 2

    gate = anyio.Event()
    actors = (rtvi.CustomActor("narrow", Narrow, (gate,), routes=("stick",)),)
    async with calling(Recorder(), actors=actors) as call:
        for index in range(80):
            await call.send("stick", f"s{index}")
        refused = (await call.until(lambda wire: wire.get("id") == "s79"))[-1]
        assert refused["data"]["error"] == "Too many messages for narrow at once; try again later"
        assert call.restarts("ingress") == 0
        gate.set()
        await call.heard()


class TestHoldingBeforeClientReady:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_what_the_bot_says_is_held_until_the_version_is_known_at_most_256_messages(self) -> None:
        async with calling(Recorder(), ready=False) as call:
            for index in range(300):
                call.session.control.send_server_message(index)
            assert await call.heard() == []
            assert call.books.held == 256
            await call.send("client-ready", "r", {"version": "2.2.0"})
            heard = await call.heard()
            assert types(heard) == ["bot-ready", *["server-message"] * 256]
            assert [wire["data"] for wire in heard[1:]] == list(range(44, 300))

    async def test_nothing_is_held_for_longer_than_5_seconds(self) -> None:
        async with calling(Recorder(), ready=False) as call:
            call.session.control.send_server_message("early")
            started = anyio.current_time()
            assert (await call.until(lambda wire: True))[-1]["data"] == "early"
            assert anyio.current_time() - started == pytest.approx(5.0)

    async def test_a_crash_of_outbound_loses_neither_what_is_held_nor_the_deadline(self) -> None:
        async with calling(Recorder(), ready=False) as call:
            call.session.control.send_server_message("early")
            await call.heard()
            call.session.system.crash(call.session.actor("outbound"))
            assert (await call.until(lambda wire: True))[-1]["data"] == "early"

    async def test_answers_and_errors_are_not_held(self) -> None:
        async with calling(Recorder(), ready=False) as call:
            await call.ask("double", 2, "q")
            call.session.control.send_error("broken")
            assert sorted(types(await call.heard())) == ["error", "server-response"]

    async def test_an_option_turns_holding_off(self) -> None:
        async with calling(Recorder(), ready=False, hold_before_ready=False) as call:
            call.session.control.send_server_message("early")
            assert types(await call.heard()) == ["server-message"]


# -- the end ---------------------------------------------------------------------------


async def test_disconnect_bot_ends_the_session_when_what_was_emitted_has_left() -> None:
    class Farewell(Recorder):
        async def on_end(self) -> None:
            async with self.response() as out:
                await out.text("Good bye.")
            self.send_server_message("last")

    bot = Farewell()
    async with calling(bot) as call:
        await call.send("disconnect-bot", "d")
        heard = await call.until(lambda wire: wire["type"] == "server-message")
        assert types(heard)[:2] == ["bot-llm-started", "bot-llm-text"]
        assert await call.session.wait_closed() == "ended by the client"
    assert bot.reasons == ["ended by the client"]
    assert call.client.close_reason == "ended by the client"


async def test_on_disconnect_runs_once_with_the_reason_when_the_client_hangs_up() -> None:
    bot = Recorder()
    async with calling(bot) as call:
        assert await call.leave() == "client disconnected"
    assert bot.reasons == ["client disconnected"]


async def test_on_disconnect_runs_once_when_the_host_closes() -> None:
    bot = Recorder()
    async with calling(bot) as call:
        call.session.close("enough")
        assert await call.session.wait_closed() == "enough"
    assert bot.reasons == ["enough"]
    with pytest.raises(rtvi.SessionClosed):
        call.session.control.interrupt_bot()


async def test_a_stuck_hook_holds_up_neither_the_end_nor_on_disconnect() -> None:
    class Stubborn(Recorder):
        async def on_client_ready(self, client: rtvi.ClientReady) -> None:
            await anyio.sleep_forever()

    bot = Stubborn()
    async with calling(bot, drain_s=0.01) as call:
        await call.send("disconnect-bot", "d")
        assert await call.session.wait_closed() == "ended by the client"
    assert bot.reasons == ["ended by the client"]


async def test_requests_that_are_open_at_the_end_are_counted() -> None:
    class Slow(rtvi.Bot):
        @rtvi.request("slow")
        async def slow(self) -> None:
            await anyio.sleep_forever()

    async with calling(Slow(), drain_s=0.01) as call:
        await call.ask("slow")
        while not call.books.open_requests:
            await anyio.lowlevel.checkpoint()
        await call.leave()
    assert (call.books.client_gone, call.books.open_requests) == (1, 0)


class Deliberate(rtvi.Bot):
    """Answers when it is let; says goodbye."""

    def __init__(self, gate: anyio.Event) -> None:
        super().__init__(gate)
        self._gate = gate

    @rtvi.request("slow")
    async def slow(self) -> str:
        await self._gate.wait()
        return "done"

    async def on_disconnect(self, reason: str) -> None:
        self.send_server_message(["goodbye", reason])
        self._gate.set()


async def test_a_request_in_flight_at_the_end_is_answered_and_what_on_disconnect_says_leaves() -> None:
    server, client = memory.pair()
    bot = Deliberate(anyio.Event())
    async with rtvi.open_session(bot, server) as session:
        await client.send_text(message("client-ready", "r", {"version": "2.2.0"}))
        await client.send_text(message("client-message", "q", {"t": "slow"}))
        while not session.statistics().open_requests:
            await anyio.lowlevel.checkpoint()
    sent = texts(client.drain())
    assert of_type(sent, "server-message")[0]["data"] == ["goodbye", "closed by the host"]
    assert of_type(sent, "server-response")[0]["data"] == {"t": "slow", "d": "done"}
    assert session.statistics().client_gone == 0


class Never(rtvi.Bot):
    @rtvi.request("never")
    async def never(self) -> None:
        await anyio.sleep_forever()


async def test_requests_of_a_client_that_takes_no_more_are_counted_and_not_answered_into_the_void() -> None:
    async with calling(Never(), drain_s=0.01, outbox_bytes=10_000, capacity=4) as call:
        await call.ask("never")
        while not call.books.open_requests:
            await anyio.lowlevel.checkpoint()
        for _ in range(40):
            call.session.control.send_server_message("x" * 1_000)
        assert await call.session.wait_closed() == "client too slow"
    assert (call.books.client_gone, call.books.open_requests) == (1, 0)


async def test_an_open_request_is_answered_at_the_end_also_where_outbound_was_given_up() -> None:
    server, client = memory.pair()
    options = rtvi.SessionOptions(drain_s=0.02, restart_intensity=3)
    async with rtvi.open_session(Never(), server, options=options) as session:
        await client.send_text(message("client-message", "q", {"t": "never"}))
        while not session.statistics().open_requests:
            await anyio.lowlevel.checkpoint()
        for _ in range(4):
            session.system.crash(session.actor("outbound"))
        assert await session.wait_closed() == "outbound crashed too often"
    (refusal,) = of_type(texts(client.drain()), "error-response")
    assert (refusal["id"], refusal["data"]["error"]) == ("q", "The session has ended")
    assert session.statistics().client_gone == 0


async def test_a_request_that_is_refused_at_the_end_is_not_refused_once_more_by_the_door() -> None:
    class Full(Never):
        max_mail = 1

    async def go_on() -> None:
        """While the writer still has something to send."""
        while session.statistics().open_requests:
            await anyio.lowlevel.checkpoint()
        door.suspended = False
        door.notify()
        while session.statistics().conservation.open:
            await anyio.lowlevel.checkpoint()
        while session.statistics().outbox_bytes:
            read.extend(client.drain())
            await anyio.lowlevel.checkpoint()

    read: list[Any] = []
    server, client = memory.pair(capacity=1)
    bot = Full()
    async with rtvi.open_session(bot, server, options=rtvi.SessionOptions(drain_s=0.05)) as session:
        for _ in range(3):
            session.control.send_error("x" * 20_000)
        door = session.actor("door").cell
        bot.cell.suspended = door.suspended = True
        await client.send_text(message("client-message", "q", {"t": "never"}))
        while not session.statistics().open_requests:
            await anyio.lowlevel.checkpoint()
        session.actor("bot").tell(frames.StartAudio())
        went_on = session.system.run_async(go_on)
    await went_on
    sent = of_type(texts([*read, *client.drain()]), "error-response")
    assert [wire["data"]["error"] for wire in sent] == ["The session has ended"]


async def test_on_disconnect_runs_also_where_the_bot_was_buried_in_mail_when_the_session_closed() -> None:
    class Narrow(Recorder):
        max_mail = 4

    bot = Narrow()
    async with calling(bot) as call:
        bot.cell.suspended = True
        for _ in range(4):
            call.session.actor("bot").tell(frames.StartAudio())
        call.session.close("enough")

        async def resume() -> None:
            while not bot.cell._room:
                await anyio.lowlevel.checkpoint()
            bot.cell.suspended = False
            bot.cell.notify()

        call.session.system.run_async(resume)
    assert bot.reasons == ["enough"]


@pytest.mark.parametrize("how", ["by the host", "by the bot"])
async def test_what_is_held_for_a_client_that_never_said_ready_leaves_when_the_session_ends(how: str) -> None:
    server, client = memory.pair()
    bot = Recorder()
    async with rtvi.open_session(bot, server) as session:
        session.control.send_server_message("we are closed today")
        if how == "by the bot":
            session.control.end()
            await session.wait_closed()
        else:
            await session.idle()
            assert client.drain() == []
    assert [sent["data"] for sent in texts(client.drain())] == ["we are closed today"]
    assert session.statistics().held == 0


async def test_a_request_that_outlasts_the_drain_is_refused_before_the_connection_closes() -> None:
    server, client = memory.pair()
    async with rtvi.open_session(Never(), server, options=rtvi.SessionOptions(drain_s=0.02)) as session:
        await client.send_text(message("client-message", "q", {"t": "never"}))
        while not session.statistics().open_requests:
            await anyio.lowlevel.checkpoint()
    (refusal,) = of_type(texts(client.drain()), "error-response")
    assert (refusal["id"], refusal["data"]["error"]) == ("q", "The session has ended")
    assert session.statistics().client_gone == 0


async def test_a_host_that_fails_gets_its_own_error_and_what_was_emitted_leaves() -> None:
    server, client = memory.pair()
    bot = Recorder()

    async def host() -> None:
        options = rtvi.SessionOptions(hold_before_ready=False)
        async with rtvi.open_session(bot, server, options=options) as session:
            session.control.send_server_message("last words")
            raise ValueError("the host's own")

    with pytest.raises(ValueError, match="the host's own"):
        await host()
    assert [sent["data"] for sent in texts(client.drain())] == ["last words"]
    assert bot.reasons == ["closed by the host"]


async def test_a_host_that_is_cancelled_drains_as_well() -> None:
    server, client = memory.pair()
    bot = Recorder()
    started = anyio.Event()

    async def host() -> None:
        options = rtvi.SessionOptions(hold_before_ready=False)
        async with rtvi.open_session(bot, server, options=options) as session:
            session.control.send_server_message("last words")
            started.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host)
        await started.wait()
        tasks.cancel_scope.cancel()
    assert [sent["data"] for sent in texts(client.drain())] == ["last words"]
    assert bot.reasons == ["closed by the host"]


async def test_a_session_that_cannot_start_says_why_and_leaves_nothing_behind() -> None:
    class Broken(rtvi.Bot):
        async def on_bot_started(self) -> None: ...

        def on_start(self) -> None:
            raise RuntimeError("no such model")

    server, _ = memory.pair()
    async with rtvi.ActorSystem() as system:
        with pytest.raises(rtvi.StartFailed) as failure:
            async with rtvi.open_session(Broken(), server, system=system):
                pytest.fail("it must not start")
        assert str(failure.value.__cause__) == "no such model"
        assert system.registry.cells() == []


async def test_a_bot_instance_serves_one_session() -> None:
    bot = Recorder()
    async with calling(bot):
        with pytest.raises(rtvi.SessionClosed):
            async with calling(bot):
                pytest.fail("it is taken")


# -- custom actors ---------------------------------------------------------------------


class Counter(rtvi.Concern):
    """Counts its messages; its state outlives a crash."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def restore(self, state: Any) -> None:
        self.count = state

    def on_received(self, message: rtvi.Received) -> None:
        if message.data == b'{"crash":true}':
            raise rtvi.Crash("asked for")
        self.count += 1
        self.snapshot(self.count)
        self.release(message, frames.ClientMessage(message.id, "counted", rtvi.Json(b"%d" % self.count)))


class Counting(Recorder):
    async def on_client_message(self, message: rtvi.ClientMessage) -> None:
        self.send_server_response(message, message.data)


async def test_a_custom_actor_serves_a_route_of_its_own_and_keeps_its_state_over_a_crash() -> None:
    actors = (rtvi.CustomActor("counter", Counter, routes=("count",)),)
    async with calling(Counting(), actors=actors) as call:
        ref = call.session.actor("counter")
        await call.send("count", "1", {})
        await call.send("count", "x", {"crash": True})
        await call.send("count", "2", {})
        heard = await call.heard()
        answers = {wire["id"]: wire["data"] for wire in of_type(heard, "server-response", "error-response")}
        assert answers["1"] == {"t": "counted", "d": 1}
        assert answers["2"] == {"t": "counted", "d": 2}
        assert answers["x"]["error"].startswith("Exception processing message: ")
        assert (call.restarts("counter"), call.session.actor("counter")) == (1, ref)
        assert call.books.control["dead"] == 1


async def test_a_custom_actor_may_replace_a_built_in_one_for_a_type() -> None:
    actors = (rtvi.CustomActor("counter", Counter, routes=("send-text",)),)
    async with calling(Counting(), actors=actors) as call:
        await call.say("hello", "s")
        assert (await call.answer("s"))["data"] == {"t": "counted", "d": 1}
        assert call.session.actor("text").cell.mailbox.received == 0


async def test_a_handler_that_neither_ends_nor_defers_its_message_has_delivered_it() -> None:
    class Silent(rtvi.Concern):
        def on_received(self, message: rtvi.Received) -> None: ...

    async with calling(Recorder(), actors=(rtvi.CustomActor("silent", Silent, routes=("hush",)),)) as call:
        await call.send("hush")
        assert await call.heard() == []
        assert call.books.control["delivered"] == 2


async def test_the_bot_and_custom_actors_reach_each_other_by_name() -> None:
    class Said(rtvi.Concern):
        def on_said(self, message: frames.LLMText) -> None:
            self.link("second").tell(message)

    class Second(rtvi.Concern):
        def on_said(self, message: frames.LLMText) -> None:
            self.link("observer").tell(message)

    class Teller(rtvi.Bot):
        async def on_client_ready(self, client: rtvi.ClientReady) -> None:
            self.link("first").tell(frames.LLMText("over two"))

    actors = (
        rtvi.CustomActor("first", Said, links=("second",), on_bot=True),
        rtvi.CustomActor("second", Second),
    )
    async with calling(Teller(), actors=actors) as call:
        heard = await call.heard()
        assert [wire["data"]["text"] for wire in of_type(heard, "bot-llm-text")] == ["over two"]


async def test_an_actor_with_routes_must_be_a_concern() -> None:
    class Plain(rtvi.AnyioActor):
        def on_received(self, message: rtvi.Received) -> None: ...

    with pytest.raises(rtvi.DeclarationError):
        async with calling(Recorder(), actors=(rtvi.CustomActor("plain", Plain, routes=("x",)),)):
            pytest.fail("it must not start")


# -- looking in ------------------------------------------------------------------------


async def test_the_session_tells_what_each_of_its_actors_does() -> None:
    async with calling(Recorder()) as call:
        await call.ask("double", 1, "q")
        await call.answer("q")
        statistics = {actor.name.partition("/")[2]: actor for actor in call.session.actors()}
        assert set(statistics) == {"", *CHILDREN}
        assert statistics["requests"].handled == 1
        assert statistics["requests"].parent == call.session.id
        assert {actor.state for actor in statistics.values()} == {"running"}


async def test_waiting_for_the_client_to_be_ready_ends_with_the_handshake() -> None:
    async with calling(Recorder(), ready=False) as call:
        assert not call.session.client_is_ready
        await call.ready()
        await call.session.wait_client_ready()
        assert call.session.client_is_ready


def test_plain_threads_open_a_session_and_command_it() -> None:
    server, client = memory.pair()
    with rtvi.start_blocking_system() as system, rtvi.open_blocking_session(system, Recorder, server) as session:

        async def exchange() -> bytes:
            await client.send_text(message("client-ready", "r", {"version": "2.2.0"}))
            await client.receive()
            session.control.send_server_message("from a thread")
            wire = await client.receive()
            return getattr(wire, "data", b"")

        assert b"from a thread" in system.run_async(exchange).get(timeout=10)


@pytest.mark.parametrize("anyio_backend", [virtual_time()])
async def test_a_bot_that_never_ends_is_ended_at_its_deadline() -> None:
    class Endless(rtvi.Bot):
        async def on_end(self) -> None:
            await anyio.sleep_forever()

    async with calling(Endless()) as call:
        await call.send("disconnect-bot")
        assert await call.session.wait_closed() == "on_end failed"


async def test_what_the_bot_was_saying_is_closed_when_the_host_ends_the_session() -> None:
    async with calling(rtvi.Bot()) as call:
        call.session.control.bot_text("open", segment_id=5, with_speech=False)
        call.session.control.bot_text("held", segment_id=6)
        await call.session.idle()
    assert segments(call) == [(5, "new"), (6, "new"), (6, "completed"), (5, "completed")]


async def test_what_the_bot_says_behind_its_own_end_is_closed_too() -> None:
    class Late(rtvi.Bot):
        async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
            self.end()
            self.bot_text("late", segment_id=5, with_speech=False)

    async with calling(Late()) as call:
        await call.say("hi")
        await call.session.wait_closed()
    assert segments(call) == [(5, "new"), (5, "completed")]


def segments(call: Call) -> list[tuple[int, str]]:
    """What has come of segments since."""
    outputs = of_type(texts(call.client.drain()), "bot-output")
    return [(wire["data"]["segment_id"], wire["data"]["spoken_status"]) for wire in outputs]
