from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import msgspec
import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.bot import MAX_AHEAD_S, MAX_SEGMENT_S
from rtvi_actors.concerns.playout import MAX_BUFFERED_S, Playout
from rtvi_actors.runtime.groups import GroupSpec
from tests.session_kit import calling, of_type, types, virtual_time

pytestmark = pytest.mark.anyio

PCM = bytes(1_920)
"""40 ms at 24 kHz: one chunk."""


class Turns(rtvi.Bot):
    """Answers a turn slowly, so that it can be interrupted; remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.gate = anyio.Event()
        self.running = anyio.Event()

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        self.log.append(f"turn {turn.messages[0].content}")
        try:
            async with self.response() as out:
                await out.text("One moment")
                self.running.set()
                await self.gate.wait()
                await out.text(" please.")
        except BaseException as error:
            self.log.append(f"cut by {type(error).__name__}")
            raise

    async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
        self.log.append(f"append {append.messages[0].content}")


# -- turns -----------------------------------------------------------------------------


async def test_a_response_emits_its_start_text_sentences_and_stop() -> None:
    class Talker(rtvi.Bot):
        async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
            async with self.response() as out:
                for piece in ("Hello ", "there. ", "Bye"):
                    await out.text(piece)

    async with calling(Talker()) as call:
        await call.say("Hi", "s1")
        heard = await call.heard()
        assert types(heard) == [
            "bot-interrupted",
            "user-input",
            "bot-llm-started",
            "bot-llm-text",
            "bot-llm-text",
            "bot-transcription",
            "bot-output",
            "bot-llm-text",
            "bot-transcription",
            "bot-output",
            "bot-llm-stopped",
        ]
        assert [wire["data"]["text"] for wire in of_type(heard, "bot-output")] == ["Hello there. ", "Bye"]


async def test_turns_run_one_at_a_time_in_order() -> None:
    bot = Turns()
    bot.gate.set()
    async with calling(bot) as call:
        for text in "abc":
            bot.ref.tell(frames.LLMMessagesAppend((frames.LLMMessage("user", text),)))
        heard = await call.heard()
        assert bot.log == ["turn a", "turn b", "turn c"]
        assert types(of_type(heard, "bot-llm-started", "bot-llm-stopped")) == ["bot-llm-started", "bot-llm-stopped"] * 3


async def test_a_new_turn_cancels_the_running_one_where_the_bot_says_so() -> None:
    class Hasty(Turns):
        new_turn = "cancel"

    bot = Hasty()
    async with calling(bot) as call:
        bot.ref.tell(frames.LLMMessagesAppend((frames.LLMMessage("user", "a"),)))
        await bot.running.wait()
        bot.gate.set()
        bot.ref.tell(frames.LLMMessagesAppend((frames.LLMMessage("user", "b"),)))
        await call.heard()
        assert [entry for entry in bot.log if entry.startswith("turn")] == ["turn a", "turn b"]
        assert any(entry.startswith("cut by") for entry in bot.log)


async def test_text_that_must_not_run_the_llm_is_only_appended() -> None:
    bot = Turns()
    async with calling(bot) as call:
        await call.say("by the way", run_immediately=False)
        assert types(await call.heard()) == ["user-input"]
        assert bot.log == ["append by the way"]


async def test_a_turn_that_fails_ends_only_itself_and_tells_no_more_than_an_error_id() -> None:
    class Failing(rtvi.Bot):
        async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
            async with self.response() as out:
                await out.text("So far ")
                raise ValueError("a secret")

    async with calling(Failing()) as call:
        await call.say("x")
        heard = await call.heard()
        assert types(heard)[-4:] == ["bot-transcription", "bot-output", "bot-llm-stopped", "error"]
        assert heard[-1]["data"]["error"].startswith(f"Exception processing message: {call.session.id}.")
        assert call.restarts("bot") == 0


async def test_a_turn_that_a_crash_of_the_bot_has_ended_is_told() -> None:
    bot = Turns()
    async with calling(bot) as call:
        await call.say("x")
        await bot.running.wait()
        call.session.system.crash(bot.ref)
        heard = await call.until(lambda wire: wire["type"] == "error")
        assert heard[-1]["data"]["error"].startswith("Exception processing message: ")
        heard += await call.heard()
        assert types(of_type(heard, "bot-llm-started", "bot-llm-stopped")) == ["bot-llm-started", "bot-llm-stopped"]


async def test_a_crash_of_the_bot_ends_the_response_of_any_handler_once() -> None:
    class Greeter(rtvi.Bot):
        async def on_client_ready(self, client: rtvi.ClientReady) -> None:
            async with self.response() as out:
                await out.text("Half a ")
                await anyio.sleep_forever()

    bot = Greeter()
    async with calling(bot) as call:
        await call.until(lambda wire: wire["type"] == "bot-llm-text")
        call.session.system.crash(bot.ref)
        heard = await call.until(lambda wire: wire["type"] == "bot-llm-stopped")
        call.session.system.crash(bot.ref)
        heard += await call.heard()
        assert types(heard) == ["bot-transcription", "bot-output", "bot-llm-stopped"]


@pytest.mark.parametrize("crash", [True, False])
async def test_a_segment_without_speech_holds_nothing_back(crash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    unspeakable = [(b"", 24_000), (b"odd", 24_000), (PCM, 1), (PCM * 2501, 24_000)]

    class Speaker(rtvi.Bot):
        problems: ClassVar[list[BaseException]] = []

        async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
            async with self.response() as out:
                for audio, rate_hz in [(PCM, 24_000)] if crash else unspeakable:
                    try:
                        await out.say("One.", audio, rate_hz)
                    except (ValueError, rtvi.HandlerFailed) as error:
                        self.problems.append(error)
                await out.text("Two.")

    def boom(*_: object) -> None:
        raise ArithmeticError

    if crash:
        monkeypatch.setattr(Playout, "on_audio", boom)
    async with calling(Speaker(), playing_rate_hz=24_000) as call:
        await call.say("x")
        said = [wire["data"] for wire in of_type(await call.heard(), "bot-output")]
        assert [(data["text"], data["will_be_spoken"]) for data in said] == [("One.", False), ("Two.", False)]
        assert [type(problem).__name__ for problem in Speaker.problems] == (
            ["HandlerFailed"] if crash else ["ValueError"] * 3
        )


# -- interruption ----------------------------------------------------------------------


async def test_an_interruption_cancels_the_running_turn_and_appends_those_that_wait() -> None:
    bot = Turns()
    async with calling(bot) as call:
        for text in "abc":
            bot.ref.tell(frames.LLMMessagesAppend((frames.LLMMessage("user", text),)))
        await bot.running.wait()
        await call.client.send_interruption()
        heard = await call.heard()
        cut = "cut by Cancelled"
        assert [entry[: len(cut)] for entry in bot.log] == ["turn a", cut, "append b", "append c"]
        assert types(heard) == ["bot-llm-started", "bot-llm-text", "bot-interrupted", "bot-llm-stopped"]


class TestSpokenSegments:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_an_interruption_voids_audio_and_closes_the_segment_with_what_was_spoken(self) -> None:
        class Speaker(rtvi.Bot):
            async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
                async with self.response() as out:
                    await out.say("one two three four five", PCM * 25, 24_000)  # a second

        async with calling(Speaker(), playing_rate_hz=24_000) as call:
            await call.say("x")
            await anyio.sleep(0.5)
            before = len(call.audio)
            call.session.control.interrupt_bot()
            await anyio.sleep(3)
            heard = await call.heard()
            assert before == 0
            assert 12 < len(call.audio) <= 18  # half a second and the lead, of 25 chunks
            closed = of_type(heard, "bot-output")[-1]["data"]
            assert closed["spoken_status"] == "completed"
            assert closed["spoken_progress"] == {"accumulated_text": "one two", "remaining_text": ""}
            cut = types(heard)[types(heard).index("bot-interrupted", 1) :]
            assert cut == ["bot-interrupted", "bot-output", "bot-stopped-speaking"]

    async def test_a_turn_that_refuses_cancellation_is_given_up_and_what_it_sends_is_refused(self) -> None:
        class Stubborn(rtvi.Bot):
            refused = False

            async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
                if turn.messages[0].content == "next":
                    self.send_server_message("next runs")
                    return
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(60)
                try:
                    self.send_server_message("too late")
                except rtvi.Fenced:
                    type(self).refused = True

        bot = Stubborn()
        async with calling(bot) as call:
            await call.say("first")
            await anyio.sleep(0.1)
            await call.say("next", "n")
            await anyio.sleep(100)
            heard = await call.heard()
            assert [wire["data"] for wire in of_type(heard, "server-message")] == ["next runs"]
            assert bot.refused
            assert bot.cell.abandoned == 1

    async def test_say_audio_waits_while_more_than_ten_seconds_are_to_be_played(self) -> None:
        class Speaker(rtvi.Bot):
            def __init__(self) -> None:
                super().__init__()
                self.said_s: list[float] = []

            async def on_client_ready(self, client: rtvi.ClientReady) -> None:
                start_s = anyio.current_time()
                for _ in range(15):
                    await self.say_audio(PCM * 25, 24_000)
                    self.said_s.append(anyio.current_time() - start_s)

        bot = Speaker()
        async with calling(bot, playing_rate_hz=24_000) as call:
            await anyio.sleep(20)
            await call.heard()
        assert bot.said_s[9] == pytest.approx(0, abs=0.01)
        assert bot.said_s[14] == pytest.approx(5, abs=0.3)

    async def test_a_spoken_segment_is_no_part_of_the_sentences_around_it(self) -> None:
        class Speaker(rtvi.Bot):
            async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
                async with self.response() as out:
                    await out.text("Before")
                    await out.say("spoken", PCM, 24_000)
                    await out.text("after")

        async with calling(Speaker(), playing_rate_hz=24_000) as call:
            await call.say("x")
            await anyio.sleep(2)
            heard = await call.heard()
            assert [wire["data"]["text"] for wire in of_type(heard, "bot-transcription")] == [
                "Before",
                "spoken",
                "after",
            ]
            shown = [wire["data"] for wire in of_type(heard, "bot-output") if wire["data"]["spoken_status"] == "new"]
            assert [(data["text"], data["will_be_spoken"]) for data in shown] == [
                ("Before", False),
                ("spoken", True),
                ("after", False),
            ]

    async def test_an_interruption_ends_the_wait_of_say_audio_and_what_it_still_has_is_not_played(self) -> None:
        class Speaker(rtvi.Bot):
            said_s = -1.0

            async def on_client_ready(self, client: rtvi.ClientReady) -> None:
                await self.say_audio(PCM * 25 * 60, 24_000)  # a minute, from a handler that nothing cancels
                type(self).said_s = anyio.current_time()

        async with calling(Speaker(), playing_rate_hz=24_000) as call:
            await anyio.sleep(15)
            call.session.control.interrupt_bot()
            await call.heard()
            interrupted_s = anyio.current_time()
            assert Speaker.said_s == pytest.approx(interrupted_s)
            await anyio.sleep(60)
            await call.heard()
            assert len(call.audio) == pytest.approx(15.2 * 25, abs=2)

    async def test_audio_longer_than_what_playout_holds_is_played_to_its_end(self) -> None:
        class Speaker(rtvi.Bot):
            async def on_client_ready(self, client: rtvi.ClientReady) -> None:
                await self.say_audio(PCM * 25 * 180, 24_000)

        async with calling(Speaker(), playing_rate_hz=24_000) as call:
            await anyio.sleep(190)
            heard = await call.heard()
            assert types(heard) == ["bot-started-speaking", "bot-stopped-speaking"]
            assert len(call.audio) == 180 * 25

    async def test_a_turn_that_was_given_up_leaves_no_response_open(self) -> None:
        class Stubborn(rtvi.Bot):
            async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
                async with self.response() as out:
                    await out.text(turn.messages[0].content)
                    if turn.messages[0].content == "Half a ":
                        with anyio.CancelScope(shield=True):
                            await anyio.sleep(60)

        async with calling(Stubborn()) as call:
            await call.say("Half a ")
            await anyio.sleep(0.1)
            await call.say("Whole.", "n")
            await anyio.sleep(100)
            heard = of_type(await call.heard(), "bot-llm-started", "bot-llm-stopped", "bot-transcription")
            assert types(heard) == [
                "bot-llm-started",
                "bot-llm-stopped",
                "bot-llm-started",
                "bot-transcription",
                "bot-llm-stopped",
            ]
            assert heard[3]["data"]["text"] == "Whole."


def test_the_longest_segment_fits_behind_what_waits() -> None:
    assert 2 * MAX_AHEAD_S + MAX_SEGMENT_S <= MAX_BUFFERED_S  # one piece more than MAX_AHEAD_S may wait


# -- requests: exactly one answer --------------------------------------------------------


class City(msgspec.Struct):
    name: str


class Oracle(rtvi.Bot):
    """Requests that end in every possible way."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[Any] = []
        self.kept: list[rtvi.ClientMessage] = []

    @rtvi.request("sync")
    def sync(self, city: City) -> dict[str, str]:
        return {"city": city.name}

    @rtvi.request("async")
    async def asynchronous(self, city: City) -> City:
        await anyio.lowlevel.checkpoint()
        return city

    @rtvi.request("nothing")
    def nothing(self) -> None: ...

    @rtvi.request("hang")
    async def hang(self) -> None:
        await anyio.sleep_forever()

    @rtvi.request("stubborn")
    async def stubborn(self) -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)
        return "too late"

    @rtvi.request("fail")
    def fail(self) -> None:
        self.send_server_message("taken back")
        raise ValueError("a secret")

    @rtvi.request("fail-async")
    async def fail_async(self) -> None:
        raise ValueError("a secret")

    @rtvi.request("refuse")
    def refuse(self) -> None:
        raise rtvi.RequestError("We are closed.")

    @rtvi.request("refuse-async")
    async def refuse_async(self) -> None:
        raise rtvi.RequestError("We are closed.")

    @rtvi.request("not-json")
    def not_json(self) -> float:
        return float("nan")

    @rtvi.request("too-large")
    def too_large(self) -> str:
        return "x" * 100_000

    @rtvi.request("crash")
    def crash(self) -> None:
        raise rtvi.Crash("asked for")

    @rtvi.request("crash-async")
    async def crash_async(self) -> None:
        raise rtvi.Crash("asked for")

    @rtvi.request("exit")
    def exit(self) -> None:
        raise SystemExit(3)

    @rtvi.request("exit-async")
    async def exit_async(self) -> None:
        raise SystemExit(3)

    @rtvi.request("cancelled")
    def cancelled(self) -> None:
        raise asyncio.CancelledError

    @rtvi.request("cancelled-async")
    async def cancelled_async(self) -> None:
        raise asyncio.CancelledError

    @rtvi.request("recursion")
    def recursion(self) -> Any:
        return self.recursion()

    @rtvi.message("note")
    def note(self, value: int) -> None:
        self.notes.append(value)

    @rtvi.message("note-async")
    async def note_async(self, value: int) -> None:
        self.notes.append(value)


ANSWERS: dict[str, tuple[str, str]] = {
    "nothing": ("server-response", ""),
    "fail": ("error-response", "Exception processing message: "),
    "fail-async": ("error-response", "Exception processing message: "),
    "refuse": ("error-response", "We are closed."),
    "refuse-async": ("error-response", "We are closed."),
    "not-json": ("error-response", "Exception processing message: "),
    "too-large": ("error-response", "Exception processing message: "),
    "crash": ("error-response", "Exception processing message: "),
    "crash-async": ("error-response", "Exception processing message: "),
    "exit": ("error-response", "Exception processing message: "),
    "exit-async": ("error-response", "Exception processing message: "),
    "cancelled": ("error-response", "Exception processing message: "),
    "cancelled-async": ("error-response", "Exception processing message: "),
    "recursion": ("error-response", "Exception processing message: "),
    "undeclared": ("error-response", "Unsupported type undeclared"),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_request_gets_exactly_one_answer_however_its_handler_ends(kind: str) -> None:
    async with calling(Oracle(), max_message_bytes=50_000) as call:
        await call.ask(kind, msg_id="it")
        await call.ask("sync", {"name": "Rome"}, "after")
        heard = await call.heard()
        answers = [wire for wire in heard if wire.get("id") == "it"]
        assert [wire["type"] for wire in answers] == [ANSWERS[kind][0]]
        assert answers[0]["data"].get("error", "").startswith(ANSWERS[kind][1])
        assert "secret" not in str(heard)
        assert of_type(heard, "server-message") == []
        assert [wire["data"]["d"] for wire in heard if wire.get("id") == "after"] == [{"city": "Rome"}]
        assert (call.books.open_requests, call.books.conservation.open) == (0, 0)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_payload_is_decoded_to_the_annotation_and_refused_by_the_name_of_its_field(kind: str) -> None:
    async with calling(Oracle()) as call:
        await call.ask(kind, {"name": "Rome", "more": 1}, "right")
        await call.ask(kind, {"name": 5}, "wrong")
        await call.ask(kind, {}, "missing")
        heard = {wire["id"]: wire["data"] for wire in await call.heard()}
        assert "Rome" in str(heard["right"]["d"])
        assert heard["wrong"]["error"].endswith(" (data.d.name)")
        assert heard["missing"]["error"].endswith(" (data.d.name)")


class TestDeadlines:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    @pytest.mark.parametrize("kind", ["hang", "stubborn"])
    async def test_a_handler_that_hangs_is_answered_for_at_the_deadline_once(self, kind: str) -> None:
        async with calling(Oracle()) as call:
            started = anyio.current_time()
            await call.ask(kind, msg_id="it")
            answer = await call.answer("it")
            assert anyio.current_time() - started == pytest.approx(8.0)
            assert answer["data"]["error"] == "Request timed out after 8 s"
            await anyio.sleep(60)
            assert await call.heard() == []
            assert call.books.late_answers == 1

    @pytest.mark.parametrize("crashes", ["requests", "door", "bot", "observer", "outbound"])
    async def test_the_deadline_holds_when_an_actor_crashes_meanwhile(self, crashes: str) -> None:
        async with calling(Oracle()) as call:
            await call.ask("hang", msg_id="it")
            await anyio.sleep(1)
            call.session.system.crash(call.session.actor(crashes))
            await anyio.sleep(60)
            answers = [wire for wire in await call.heard() if wire.get("id") == "it"]
            assert types(answers) == ["error-response"]

    @pytest.mark.parametrize("name", ["ingress", "requests", "door", "bot", "observer", "outbound"])
    @pytest.mark.parametrize("kind", ["sync", "hang"])
    async def test_a_crash_on_the_request_or_on_its_answer_makes_no_second_one(self, kind: str, name: str) -> None:
        async with calling(Oracle()) as call:
            await call.heard()
            cell = call.session.actor(name).cell
            handlers, crashed = dict(cell._bound), list[Any]()

            def crash(message: Any) -> None:
                crashed.append(message)
                raise ValueError("a secret")

            cell._bound = dict.fromkeys(handlers, crash)  # of this incarnation; the next one binds its own
            await call.ask(kind, {"name": "Rome"}, "it")
            await anyio.sleep(60)
            answers = [wire["type"] for wire in await call.heard() if wire.get("id") == "it"]
            assert len(crashed) == 1
            assert answers in (["error-response"], ["server-response"])
            assert (call.books.open_requests, call.books.conservation.open) == (0, 0)

    async def test_the_deadline_holds_when_the_actor_that_keeps_it_crashes_on_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from rtvi_actors.concerns.requests import Requests

        def crash(*_: object) -> None:
            raise ValueError("a secret")

        monkeypatch.setattr(Requests, "on_expire", crash)
        async with calling(Oracle()) as call:
            await call.ask("hang", msg_id="it")
            assert (await call.answer("it"))["data"]["error"].startswith("Exception processing message: ")

    async def test_an_answer_survives_every_actor_on_its_way_that_crashes_on_it_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from rtvi_actors.concerns.outbound import Outbound

        def crash(*_: object) -> None:
            raise ValueError("a secret")

        monkeypatch.setattr(Outbound, "on_answer", crash)
        async with calling(Oracle()) as call:
            for kind in ("sync", "fail", "hang"):
                await call.ask(kind, {"name": "Rome"}, kind)
            await anyio.sleep(60)
            answers = [(wire["id"], wire["type"]) for wire in await call.heard()]
            assert sorted(answers) == [(kind, "error-response") for kind in ("fail", "hang", "sync")]


# -- messages ----------------------------------------------------------------------------


async def test_declared_messages_are_taken_in_silence() -> None:
    bot = Oracle()
    async with calling(bot) as call:
        for index, kind in enumerate(("note", "note-async", "note")):
            await call.ask(kind, index)
        assert await call.heard() == []
        assert sorted(bot.notes) == [0, 1, 2]


async def test_a_message_with_a_wrong_payload_is_refused_all_the_same() -> None:
    async with calling(Oracle()) as call:
        await call.ask("note", "no number", "1")
        await call.ask("note-async", "no number", "2")
        heard = await call.heard()
        assert [(wire["id"], wire["type"]) for wire in heard] == [("1", "error-response"), ("2", "error-response")]


async def test_an_undeclared_message_may_be_answered_at_once_later_or_not_at_all() -> None:
    class Switchboard(rtvi.Bot):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[rtvi.ClientMessage] = []

        async def on_client_message(self, message: rtvi.ClientMessage) -> None:
            if message.type == "now":
                self.send_server_response(message, {"got": message.data})
            elif message.type == "refuse":
                self.send_error_response(message, "No.")
            elif message.type == "later":
                self.kept.append(message)
            elif message.type == "fail":
                raise ValueError("a secret")

    bot = Switchboard()
    async with calling(bot) as call:
        for kind in ("now", "later", "never", "refuse", "fail"):
            await call.ask(kind, [1], kind)
        heard = {wire["id"]: wire["data"] for wire in await call.heard()}
        assert set(heard) == {"now", "refuse", "fail"}
        assert heard["now"] == {"t": "now", "d": {"got": [1]}}
        assert heard["refuse"] == {"error": "No."}
        assert heard["fail"]["error"].startswith("Exception processing message: ")
        call.session.control.send_server_response(bot.kept[0], "at last")
        assert (await call.answer("later"))["data"] == {"t": "later", "d": "at last"}


# -- audio -------------------------------------------------------------------------------


async def test_a_slow_audio_handler_loses_the_oldest_audio() -> None:
    class Slow(rtvi.Bot):
        groups: ClassVar = {**rtvi.Bot.groups, "audio": GroupSpec(max_queued=4)}

        def __init__(self) -> None:
            super().__init__()
            self.gate, self.heard = anyio.Event(), list[int]()

        async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
            await self.gate.wait()
            self.heard.append(frame.audio[0])

    bot = Slow()
    async with calling(bot) as call:
        await call.client.send_audio(bytes([0, 0]))
        while not bot.cell.groups["audio"].running:
            await anyio.lowlevel.checkpoint()
        for index in range(1, 11):
            await call.client.send_audio(bytes([index, 0]))
        batch = {"base64AudioBatch": ["CwA=", "DAA="], "sampleRate": 16_000, "numChannels": 1}
        await call.send("raw-audio-batch", "b", batch)
        while call.books.conservation.received < 13 or call.books.conservation.open or not bot.cell.mailbox.empty():
            await anyio.lowlevel.checkpoint()
        bot.gate.set()
        await call.heard()
        assert bot.heard == [0, 9, 10, 11, 12]
        assert bot.cell.dropped == 8
        assert call.books.audio == {"delivered": 4, "answered": 0, "dropped": 8, "dead": 0}
        assert call.books.dropped == {"bot audio overflow": 8}


async def test_a_batch_is_one_message_however_many_of_its_chunks_are_lost() -> None:
    class Stuck(rtvi.Bot):
        groups: ClassVar = {**rtvi.Bot.groups, "audio": GroupSpec(max_queued=2)}

        def __init__(self) -> None:
            super().__init__()
            self.gate = anyio.Event()

        async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
            await self.gate.wait()

    bot = Stuck()
    async with calling(bot) as call:
        await call.client.send_audio(bytes(2))
        while not bot.cell.groups["audio"].running:
            await anyio.lowlevel.checkpoint()
        for _ in range(2):
            batch = {"base64AudioBatch": ["AAA="] * 5, "sampleRate": 16_000, "numChannels": 1}
            await call.send("raw-audio-batch", "b", batch)
        while bot.cell.dropped < 8:
            await anyio.lowlevel.checkpoint()
        bot.gate.set()
        await call.heard()
        assert call.books.audio == {"delivered": 2, "answered": 0, "dropped": 1, "dead": 0}


@pytest.mark.parametrize("plain", [True, False])
async def test_a_failing_audio_handler_crashes_nothing_and_does_not_flood_the_client(plain: bool) -> None:
    class Plain(rtvi.Bot):
        def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
            self.send_server_message("taken back")
            raise ValueError("a secret")

    class Async(rtvi.Bot):
        async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
            raise ValueError("a secret")

    bot: rtvi.Bot = Plain() if plain else Async()
    async with calling(bot) as call:
        for _ in range(60):
            await call.client.send_audio(bytes(2))
        assert types(await call.heard()) == ["error", "error"]
        assert (call.restarts("bot"), bot.cell.failed) == (0, 60)


async def test_audio_that_is_no_whole_frames_is_refused_where_it_is_said() -> None:
    class Speaker(rtvi.Bot):
        @rtvi.request("speak")
        async def speak(self, length: int) -> str:
            try:
                await self.say_audio(bytes(length), 24_000, 2)
            except ValueError as error:
                return str(error)
            return "played"

    async with calling(Speaker(), playing_rate_hz=24_000) as call:
        await call.ask("speak", 8, "even")
        await call.ask("speak", 6, "odd")
        answers = {wire["id"]: wire["data"]["d"] for wire in of_type(await call.heard(), "server-response")}
        assert answers["even"] == "played"
        assert "whole frames" in answers["odd"]


async def test_without_soxr_a_bot_whose_rate_the_client_cannot_play_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fixed(rtvi.Bot):
        audio_out_sample_rate = 16_000

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(rtvi.StartFailed) as failure:
        async with calling(Fixed(), playing_rate_hz=24_000):
            pytest.fail("it must not start")
    error: BaseException | None = failure.value
    while error is not None and not isinstance(error, rtvi.NoResampler):
        error = error.__cause__
    assert isinstance(error, rtvi.NoResampler)
    assert (error.rate_hz, error.playing_rate_hz) == (16_000, 24_000)
    async with calling(Fixed(), playing_rate_hz=16_000):
        pass


# -- hooks -------------------------------------------------------------------------------


class Hooks(rtvi.Bot):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    async def on_bot_started(self) -> None:
        self.log.append("bot-started")

    async def on_client_ready(self, client: rtvi.ClientReady) -> None:
        self.log.append(f"client-ready {client.version} {client.library} {client.platform}")

    @rtvi.on("client-ready")
    async def a_second_one(self, client: rtvi.ClientReady) -> None:
        self.log.append("client-ready, second")

    @rtvi.on("client-message")
    async def one(self, message: rtvi.ClientMessage) -> None:
        self.log.append(f"one {message.type}")

    @rtvi.on("client-message")
    async def two(self, message: rtvi.ClientMessage) -> None:
        self.log.append(f"two {message.type}")

    async def on_start_audio(self) -> None:
        self.log.append("start-audio")

    async def on_interrupted(self) -> None:
        self.log.append("interrupted")

    async def on_function_call_result(self, result: rtvi.FunctionCallResult) -> None:
        self.log.append(f"result {result.tool_call_id}")

    async def on_end(self) -> None:
        self.log.append("end")

    async def on_disconnect(self, reason: str) -> None:
        self.log.append(f"disconnect {reason}")


async def test_hooks_run_in_the_order_of_what_happens_each_handler_of_an_event_once() -> None:
    bot = Hooks()
    async with calling(bot) as call:
        await call.heard()
        await call.ask("anything")
        await call.heard()
        await call.client.send_interruption()
        result = {"function_name": "f", "tool_call_id": "t1", "arguments": {}, "result": "x"}
        await call.send("llm-function-call-result", "f", result)
        await call.heard()
        await call.send("disconnect-bot")
        await call.session.wait_closed()
    assert bot.log == [
        "bot-started",
        "start-audio",
        "client-ready (2, 2, 0) tests python",
        "client-ready, second",
        "one anything",
        "two anything",
        "interrupted",
        "result t1",
        "end",
        "disconnect ended by the client",
    ]


async def test_a_bot_that_is_not_ready_by_itself_says_when() -> None:
    class Later(rtvi.Bot):
        auto_bot_ready = False

    async with calling(Later(), ready=False) as call:
        await call.send("client-ready", "r1", {"version": "1.4.0"})
        assert await call.heard() == []
        call.session.control.set_bot_ready({"library": "mine", "library_version": "7"})
        ready = (await call.heard())[0]
        assert (ready["id"], ready["data"]["version"]) == ("r1", "1.4.0")
        assert ready["data"]["about"] == {"library": "mine", "library_version": "7"}


async def test_a_flood_of_events_with_a_stuck_hook_is_refused_and_crashes_nothing() -> None:
    class Stuck(rtvi.Bot):
        async def on_client_ready(self, client: rtvi.ClientReady) -> None:
            await anyio.sleep_forever()

    async with calling(Stuck(), drain_s=0.01) as call:
        for index in range(300):
            await call.send("client-ready", f"c{index}", {"version": "2.0.0"})
        await call.until(lambda wire: wire["type"] == "error")
        assert call.restarts("bot") == 0


# -- the output switch --------------------------------------------------------------------


class Switch(rtvi.Bot):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, bool | None]] = []
        self.gate = anyio.Event()

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        self.log.append((turn.messages[0].content, self.skip_tts))
        await anyio.lowlevel.checkpoint()
        self.log.append((turn.messages[0].content, self.skip_tts))


async def test_a_text_that_wants_no_speech_turns_the_switch_for_its_own_turn_alone() -> None:
    bot = Switch()
    async with calling(bot) as call:
        for text, spoken in (("a", True), ("b", False), ("c", True)):
            await call.say(text, audio_response=spoken)
            await call.heard()
        assert [bool(skipped) for _, skipped in bot.log] == [False, False, True, True, False, False]
        assert not bot.skip_tts


async def test_the_hosts_own_switch_stays_and_survives_a_crash_of_the_bot() -> None:
    bot = Switch()
    async with calling(bot) as call:
        call.session.control.configure_output(True)
        await call.heard()
        call.session.system.crash(bot.ref)
        call.session.system.crash(call.session.actor("text"))
        await call.heard()
        current: Any = bot.cell.actor
        assert current is not bot
        assert current.skip_tts is True
        await call.say("silent", audio_response=False)
        await call.heard()
        await call.say("spoken")
        await call.heard()
        assert [skipped for _, skipped in current.log] == [True, True, False, False]
        assert current.skip_tts is True


def test_segment_ids_are_positive_int32_and_unlike_those_of_another_incarnation() -> None:
    bot = rtvi.Bot()
    bot.cell.generation = 1
    first = {bot.next_segment_id() for _ in range(1_000)}
    bot.cell.generation = 2
    second = {bot.next_segment_id() for _ in range(1_000)}
    bot.cell.generation = 1_999_999
    assert len(first | second) == 2_000
    assert all(0 < ident < 2**31 for ident in (*first, *second, bot.next_segment_id()))


class TestAMessageHandlerThatHangs:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_is_cut_at_its_deadline_and_the_next_message_is_taken(self) -> None:
        class Hanging(rtvi.Bot):
            @rtvi.message("hang")
            async def hang(self) -> None:
                await anyio.sleep_forever()

            async def on_client_message(self, message: rtvi.ClientMessage) -> None:
                if message.type == "hang\nforged":
                    await anyio.sleep_forever()
                self.send_server_response(message)

        async with calling(Hanging()) as call:
            started = anyio.current_time()
            for index, kind in enumerate(("hang", "hang\nforged", "greet")):
                await call.send("client-message", f"m{index}", {"t": kind})
            for ident in ("m0", "m1"):
                assert (await call.answer(ident))["data"]["error"].startswith("Exception processing message: ")
            assert (await call.answer("m2"))["type"] == "server-response"
            assert anyio.current_time() - started == pytest.approx(16.0)


async def test_a_forged_log_line_is_quoted(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(rtvi.Bot):
        async def on_client_message(self, message: rtvi.ClientMessage) -> None:
            raise ZeroDivisionError

    async with calling(Failing()) as call:
        await call.send("client-message", "m", {"t": "x\nERROR forged"})
        assert (await call.answer("m"))["type"] == "error-response"
    assert not any("\n" in record.getMessage() for record in caplog.records)


async def test_a_request_error_from_a_task_group_is_the_applications_own_words() -> None:
    class Grouping(rtvi.Bot):
        @rtvi.request("go")
        async def go(self) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.refuse)

        async def refuse(self) -> None:
            raise rtvi.RequestError("not today")

    async with calling(Grouping()) as call:
        await call.send("client-message", "m", {"t": "go"})
        assert (await call.answer("m"))["data"]["error"] == "not today"


async def test_a_bot_that_does_not_listen_takes_audio_without_complaint() -> None:
    async with calling(rtvi.Bot()) as call:
        await call.client.send_audio(bytes(640))
        assert await call.heard() == []
        assert call.books.audio["delivered"] == 1


async def test_of_the_snapshots_that_wait_for_a_slow_bot_the_newest_is_enough() -> None:
    class Slow(rtvi.Bot):
        def __init__(self) -> None:
            super().__init__()
            self.gate = anyio.Event()
            self.seen: list[int] = []
            self.events = 0

        async def on_ui_snapshot(self, snapshot: rtvi.UISnapshot) -> None:
            self.seen.append(snapshot.tree.captured_at)
            await self.gate.wait()

        async def on_ui_event(self, event: rtvi.UIEvent) -> None:
            self.events += 1

    bot = Slow()
    async with calling(bot) as call:
        for at in range(1000):
            await call.send("ui-snapshot", f"s{at}", {"tree": {"root": {"ref": "e", "role": "r"}, "captured_at": at}})
            if not at % 10:
                await call.send("ui-event", f"e{at}", {"event": "click"})
        while call.books.conservation.delivered < 1101:
            await anyio.lowlevel.checkpoint()
        bot.gate.set()
        await call.heard()
        assert (len(bot.seen), bot.seen[-1]) == (2, 999)  # the one that it was at, and the newest
        assert bot.events == 100
        assert (await call.session.system.inspect(call.session.actor("bot"))).books.holds
