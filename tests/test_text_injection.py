"""What the user writes over the bot's turn, in whole sessions: when it reaches the bot, and what it holds up (nothing).

However slowly the interrupted turn is committed, whatever crashes meanwhile, and if the session ends: every text
reaches the bot once, in order, behind its own interruption, or the client hears why it does not.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtvi_actors as rtvi
from rtvi_actors.files import FileStore
from rtvi_actors.messages import Outcome, Release, ReleaseTexts, TurnCommitted
from rtvi_actors.protocol.files import MAX_BYTES, FilePolicy
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.session import CHILDREN
from rtvi_actors.testing import Faults, Simulate, World
from tests.session_kit import Call, Frame, Wire, calling, message, of_type, texts, types, virtual_time

pytestmark = pytest.mark.anyio


CURT: Final[dict[str, Any]] = {"drain_s": 0.01}
"""For sessions that end in a turn, which does not end by itself."""


class Seen:
    """What a bot has been through, over all its incarnations."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.running = anyio.Event()
        self.commit = anyio.Event()
        self.appending = anyio.Event()


class Talker(rtvi.Bot):
    """Every turn runs until it is interrupted, and then takes until `commit` to be committed."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(seen)
        self.seen = seen

    def on_frame(self, frame: Frame) -> None:
        match frame:
            case rtvi.Interruption():
                self.seen.log.append("interruption")
            case rtvi.LLMMessagesAppend():
                self.seen.log.append(f"append {frame.messages[0].content}")
        super().on_frame(frame)

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        text = turn.messages[0].content
        self.seen.log.append(f"turn {text}")
        self.seen.running.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self.seen.commit.wait()
            self.seen.log.append(f"committed {text}")

    async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
        self.seen.log.append(f"in context {append.messages[0].content}")

    @rtvi.request("ping")
    def ping(self) -> str:
        return "pong"

    async def on_end(self) -> None:
        self.seen.log.append("end")

    async def on_disconnect(self, reason: str) -> None:
        self.seen.log.append("disconnect")


class Manual(Talker):
    """Says itself when a turn is committed."""

    auto_turn_committed = False

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        self.seen.log.append(f"turn {turn.messages[0].content}")


async def rest(call: Call) -> list[Wire]:
    """Wait until no message is under way, though a turn may run; what the client has heard by then."""
    session = call.session
    cells = [session.actor(name).cell for name in CHILDREN]

    def quiet() -> bool:
        mail = any(len(cell.mailbox) or cell.mailbox.control for cell in cells)
        return session._reader.waits and not (mail or session._ledger.unread or len(session._outbox))

    await session._until(quiet)
    return texts(call.client.drain())


async def busy(call: Call, seen: Seen) -> None:
    """The bot is in a turn."""
    await call.say("first", "s0")
    await seen.running.wait()
    await rest(call)
    seen.log.clear()


def typed(heard: list[Wire]) -> list[str]:
    """What the client has got back of its texts."""
    return [wire["data"]["text"] for wire in of_type(heard, "user-input")]


# -- the turn that is interrupted --------------------------------------------------------------


async def test_a_text_waits_until_the_turn_that_it_interrupts_is_committed() -> None:
    seen = Seen()
    async with calling(Talker(seen), **CURT) as call:
        await busy(call, seen)
        await call.say("second")
        assert types(await call.until(lambda wire: wire["type"] == "bot-interrupted")) == ["bot-interrupted"]
        assert seen.log == ["interruption"]
        assert call.books.waiting_texts == 1
        seen.commit.set()
        assert types(await call.until(lambda wire: True)) == ["user-input"]
        await rest(call)
        assert seen.log == ["interruption", "committed first", "append second", "turn second"]
        assert call.books.conservation.open == 0
        assert call.books.overdue_commits == 0


async def test_turns_that_had_only_been_queued_are_in_the_context_first() -> None:
    seen = Seen()
    async with calling(Talker(seen), **CURT) as call:
        await busy(call, seen)
        for text in ("a", "b"):
            call.session.actor("bot").tell(rtvi.LLMMessagesAppend((rtvi.LLMMessage("user", text),)))
        await call.say("second")
        seen.commit.set()
        await call.until(lambda wire: wire["type"] == "user-input")
        await rest(call)
        turns = [line for line in seen.log if not line.startswith(("append", "interruption"))]
        assert turns == ["committed first", "in context a", "in context b", "turn second"]
        assert seen.log.index("in context b") < seen.log.index("append second")


async def test_each_text_of_a_burst_interrupts_the_one_before() -> None:
    seen = Seen()
    seen.commit.set()
    async with calling(Talker(seen), **CURT) as call:
        await busy(call, seen)
        for n in range(3):
            await call.say(f"text {n}", f"t{n}")
        heard = await call.until(lambda wire: wire["type"] == "user-input" and wire["data"]["text"] == "text 2")
        await rest(call)
        assert types(heard) == ["bot-interrupted", "user-input"] * 3
        assert typed(heard) == [f"text {n}" for n in range(3)]
        frames = [line for line in seen.log if line.startswith(("append", "interruption"))]
        assert frames == [
            "interruption",
            "append text 0",
            "interruption",
            "append text 1",
            "interruption",
            "append text 2",
        ]
        assert seen.log[-1] == "turn text 2"


async def test_an_interruption_of_the_hosts_own_in_between_changes_nothing() -> None:
    seen = Seen()
    async with calling(Talker(seen), **CURT) as call:
        await busy(call, seen)
        await call.say("second")
        await call.until(lambda wire: wire["type"] == "bot-interrupted")
        call.session.control.interrupt_bot()
        await call.until(lambda wire: wire["type"] == "bot-interrupted")
        assert call.books.waiting_texts == 1
        seen.commit.set()
        assert typed(await call.until(lambda wire: True)) == ["second"]
        await rest(call)
        assert seen.log[-3:] == ["committed first", "append second", "turn second"]
        assert call.books.overdue_commits == 0


class Slow(Manual):
    """What it only appends takes until `commit`."""

    async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
        await self.seen.commit.wait()
        await super().on_append(append)


@pytest.mark.parametrize("new_turn", ["queue", "cancel"])
async def test_what_is_being_appended_is_not_cut_short_by_what_comes_next(new_turn: Literal["queue", "cancel"]) -> None:
    class Bot(Slow):
        auto_turn_committed = True

    Bot.new_turn = new_turn
    seen = Seen()
    async with calling(Bot(seen)) as call:
        await call.say("first", run_immediately=False)
        await rest(call)
        await call.say("second")
        await rest(call)
        call.session.actor("bot").tell(rtvi.LLMMessagesAppend((rtvi.LLMMessage("user", "third"),)))
        await rest(call)
        seen.commit.set()
        await call.heard()
        done = [line for line in seen.log if line.startswith(("in context", "turn"))]
        assert done == ["in context first", "turn third", "turn second"]
        assert call.books.overdue_commits == 0


async def test_the_files_of_turns_that_wait_are_bounded() -> None:
    class Taker(Slow):
        accepts_files = True

    seen = Seen()
    async with calling(Taker(seen), files=FilePolicy(max_bytes=MAX_BYTES), file_store=FileStore()) as call:
        store = call.session.options.file_store
        assert store is not None
        upload = store.put(bytes(MAX_BYTES), format="image/png", name="")
        file = {"format": "image/png", "source": {"url": upload.url}}
        heard = []
        for n in range(4):
            data = {"content": str(n), "file": file, "options": {"run_immediately": False}}
            await call.send("send-file", f"f{n}", data)
            heard += await rest(call)
        await call.say("4", "t", run_immediately=False)
        await rest(call)
        seen.commit.set()
        await call.heard()
        (error,) = of_type(heard, "error-response")
        assert (error["id"], error["data"]["error"]) == ("f3", "Too many files at once; try again later")
        assert [line for line in seen.log if line.startswith("in context")] == [f"in context {n}" for n in (0, 1, 2, 4)]


# -- what is behind it ---------------------------------------------------------------------------


async def test_nothing_but_text_waits_behind_a_text() -> None:
    seen = Seen()
    async with calling(Manual(seen)) as call:
        await call.say("waits")
        await call.ask("ping", msg_id="q1")
        assert (await call.answer("q1"))["data"]["d"] == "pong"
        await call.client.send_audio(bytes(640))
        await call.send("client-ready", "again", {"version": "2.2.0", "about": {"library": "x"}})
        assert (await call.answer("again"))["type"] == "bot-ready"
        assert seen.log == ["interruption"]
        assert call.books.late == 0
        await call.send("disconnect-bot")
        assert await call.session.wait_closed() == "ended by the client"
        assert call.books.waiting_texts == 1
    assert seen.log == ["interruption", "end", "append waits", "in context waits", "disconnect"]


async def test_a_second_message_of_a_number_that_is_parked_stays_in_its_place() -> None:
    """Of a text whose interruption could not go through yet, all of it goes through where it stands."""
    bot = Manual(Seen())
    async with calling(bot, ready=False, door_gap_s=60.0) as call:
        ledger, door = call.session._ledger, call.session.actor("door")
        for _ in range(2):
            ledger.arrived()
            ledger.begin_control((ledger.control.last + 1, 0))
        encode = call.session.actor("bot").encode
        append = rtvi.LLMMessagesAppend((rtvi.LLMMessage("user", "x"),))
        door.tell(Release(2, None, (encode(rtvi.Interruption(2)),)))
        door.tell(Release(2, Outcome.DELIVERED, (encode(append),)))
        await call.heard()
        assert (bot.seen.log, call.books.conservation.open) == ([], 2)
        door.tell(Release(1, Outcome.DELIVERED))
        await call.heard()
        assert bot.seen.log == ["interruption", "append x", "turn x"]
        assert (call.books.conservation.open, call.books.duplicates) == (0, 0)


# -- deadlines --------------------------------------------------------------------------------------


class Refusing(Talker):
    """A turn that takes no notice of being cancelled, for longer than a text waits."""

    groups = {**rtvi.Bot.groups, "turn": GroupSpec(grace_s=10.0)}  # noqa: RUF012


class TestInTime:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_a_turn_that_is_not_committed_in_time_is_not_waited_for(self) -> None:
        seen = Seen()
        async with calling(Refusing(seen), **CURT) as call:
            await busy(call, seen)
            started_s = anyio.current_time()
            await call.say("second", "s1")
            await call.say("third", "s2")
            heard = await call.until(lambda wire: wire["type"] == "user-input" and wire["data"]["text"] == "third")
            assert anyio.current_time() - started_s == pytest.approx(2.0)
            assert types(heard) == ["bot-interrupted", "user-input", "bot-interrupted", "user-input"]
            assert seen.log == ["interruption", "append second", "interruption", "append third"]
            assert (call.books.overdue_commits, call.books.conservation.open) == (1, 0)
            seen.commit.set()
            await rest(call)
            assert seen.log[4:] == ["committed first", "in context second", "turn third"]

    async def test_a_turn_that_is_given_up_counts_as_committed(self) -> None:
        seen = Seen()
        async with calling(Talker(seen), **CURT) as call:
            await busy(call, seen)
            started_s = anyio.current_time()
            await call.say("second")
            await call.until(lambda wire: wire["type"] == "user-input")
            assert anyio.current_time() - started_s == pytest.approx(1.0)  # the group's grace
            assert call.books.overdue_commits == 0
            seen.commit.set()

    async def test_the_deadline_is_the_hosts_to_choose_and_begins_anew_for_each_interruption(self) -> None:
        seen = Seen()
        bot = Manual(seen)
        async with calling(bot, commit_timeout_s=5.0) as call:
            started_s = anyio.current_time()
            await call.say("one")
            await call.say("two")
            await anyio.sleep(4.0)
            bot.turn_committed()
            await call.until(lambda wire: wire["type"] == "user-input" and wire["data"]["text"] == "two")
            assert anyio.current_time() - started_s == pytest.approx(9.0)
            assert call.books.overdue_commits == 1

    async def test_so_many_texts_that_the_reader_waits_have_one_deadline_between_them(self) -> None:
        class Reluctant(Manual):
            async def on_interrupted(self) -> None:
                await anyio.sleep(1.5)
                self.turn_committed()

        async with calling(Reluctant(Seen()), credit=16) as call:
            started_s = anyio.current_time()
            for n in range(20):
                await call.say(f"text {n}", f"t{n}")
            await call.send("disconnect-bot")
            heard = await call.until(lambda wire: wire["type"] == "user-input" and wire["data"]["text"] == "text 15")
            assert typed(heard) == [f"text {n}" for n in range(16)]
            assert anyio.current_time() - started_s == pytest.approx(2.0)
            assert await call.session.wait_closed() == "ended by the client"
            assert anyio.current_time() - started_s == pytest.approx(2.0)

    async def test_a_text_whose_interruption_found_no_room_does_not_hold_up_the_next_for_ever(self) -> None:
        class Narrow(Manual):
            max_mail = 3

        bot = Narrow(Seen())
        async with calling(bot) as call:
            await call.session.idle()
            bot.cell.suspended = True
            for n in range(3):
                await call.ask("ping", msg_id=f"q{n}")
            await call.say("lost", "t1")
            refused = await call.answer("t1")
            assert refused["data"]["error"] == "Too many messages at once; try again later"
            bot.cell.suspended = False
            bot.cell.notify()
            await call.say("next", "t2")
            await call.heard()
            bot.turn_committed()
            assert typed(await call.heard()) == ["next"]
            assert call.books.conservation.open == 0


# -- crashes ----------------------------------------------------------------------------------------


async def test_a_crash_of_the_bot_ends_the_wait() -> None:
    """Nobody will commit the turn any more."""
    seen = Seen()
    async with calling(Manual(seen)) as call:
        await call.say("waits")
        await call.heard()
        call.session.system.crash(call.session.actor("bot"))
        assert typed(await call.until(lambda wire: wire["type"] == "user-input")) == ["waits"]
        await call.session.idle()
        assert seen.log == ["interruption", "append waits", "turn waits"]
        assert (call.books.conservation.open, call.books.overdue_commits) == (0, 0)


async def test_a_turn_that_crashes_the_bot_as_it_is_interrupted_ends_the_wait_once() -> None:
    class Fragile(Talker):
        async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
            if turn.messages[0].content == "second":
                self.seen.log.append("turn second")
                return
            self.seen.running.set()
            try:
                await anyio.sleep_forever()
            finally:
                raise rtvi.Crash("boom")

    seen = Seen()
    async with calling(Fragile(seen)) as call:
        await busy(call, seen)
        await call.say("second")
        heard = await call.until(lambda wire: wire["type"] == "user-input")
        heard += await call.heard()
        assert typed(heard) == ["second"]
        assert seen.log == ["interruption", "append second", "turn second"]
        assert (call.restarts("bot"), call.books.overdue_commits) == (1, 0)


async def test_a_crash_of_the_bot_commits_the_one_turn_that_a_text_waits_for_and_not_the_next_too() -> None:
    class Slow(Talker):
        async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
            await self.seen.appending.wait()
            await super().on_append(append)

    seen = Seen()
    async with calling(Slow(seen), **CURT) as call:
        await busy(call, seen)
        await call.say("second", "s1")
        await call.say("third", "s2")
        await rest(call)
        call.session.system.crash(call.session.actor("bot"))
        await rest(call)
        assert seen.log == ["interruption", "append second", "interruption"]
        seen.commit.set()
        seen.appending.set()
        await call.until(lambda wire: wire["type"] == "user-input" and wire["data"]["text"] == "third")
        await rest(call)
        order = [line for line in seen.log if "committed" not in line]
        assert order[2:] == ["interruption", "in context second", "append third", "turn third"]
        assert call.books.overdue_commits == 0


@pytest.mark.parametrize("child", ["text", "door", "ingress", "observer", "outbound"])
async def test_a_crash_on_the_way_loses_nothing_that_waits(child: str) -> None:
    seen = Seen()
    bot = Manual(seen)
    async with calling(bot) as call:
        for n in range(3):
            await call.say(f"text {n}", f"t{n}", run_immediately=n != 1)
        await call.session.idle()
        for _ in range(2):
            call.session.system.crash(call.session.actor(child))
            await call.session.idle()
            bot.turn_committed()
            await call.session.idle()
        frames = [line for line in seen.log if line.startswith(("append", "interruption"))]
        assert frames == ["interruption", "append text 0", "append text 1", "interruption", "append text 2"]
        assert typed(await call.heard()) == ["text 0", "text 1", "text 2"]
        assert (call.restarts(child), call.books.conservation.open, call.books.duplicates) == (2, 0, 0)


async def test_a_commit_that_is_said_twice_in_a_breath_brings_a_text_once() -> None:
    seen = Seen()
    bot = Manual(seen)
    async with calling(bot) as call:
        await call.say("once")
        await call.heard()
        bot.turn_committed()
        bot.turn_committed()
        assert typed(await call.heard()) == ["once"]
        assert (call.books.duplicates, seen.log.count("append once")) == (0, 1)


async def test_many_texts_have_one_deadline_between_them() -> None:
    async with calling(rtvi.Bot()) as call:
        for n in range(20):
            await call.say(f"text {n}", f"t{n}", run_immediately=not n % 2)
        assert len(typed(await call.heard())) == 20
        assert len(call.session.actor("text").cell._own_timers) == 1


class TestDeadlineOfARestartedText:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_the_deadline_outlives_a_crash(self) -> None:
        seen = Seen()
        async with calling(Manual(seen)) as call:
            started_s = anyio.current_time()
            await call.say("waits")
            await anyio.sleep(1.5)
            call.session.system.crash(call.session.actor("text"))
            await call.until(lambda wire: wire["type"] == "user-input")
            assert anyio.current_time() - started_s == pytest.approx(2.0)
            assert call.books.overdue_commits == 1

    async def test_the_deadline_of_a_text_that_has_gone_is_not_that_of_the_next(self) -> None:
        bot = Manual(Seen())
        async with calling(bot) as call:
            started_s = anyio.current_time()
            await call.say("one")
            await call.say("two")
            await anyio.sleep(1.0)
            call.session.system.crash(call.session.actor("text"))
            await anyio.sleep(0.5)
            bot.turn_committed()
            await call.until(lambda wire: wire["type"] == "user-input" and wire["data"]["text"] == "two")
            assert anyio.current_time() - started_s == pytest.approx(3.5)

    async def test_a_deadline_that_text_crashed_on_is_kept_by_its_next_incarnation(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with calling(Manual(Seen())) as call:
            await call.say("waits")
            await call.session.idle()
            text = call.session.actor("text")
            monkeypatch.setattr(text.actor_class, "on_commit_expired", fail_once(text.actor_class.on_commit_expired))
            text.cell._bind_handlers()
            await call.until(lambda wire: wire["type"] == "user-input")
            assert call.restarts("text") == 1
            assert call.books.conservation.open == 0


def fail_once(handler: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """A handler that crashes on its first message."""
    failed: list[object] = []

    def handle(self: Any, message: Any) -> None:
        handler(self, message)
        if not failed:
            failed.append(message)
            raise RuntimeError("boom")

    handle.__annotations__ = handler.__annotations__
    return handle


@pytest.mark.parametrize("when", ["at once", "in its turn"])
async def test_an_interruption_that_the_door_crashed_on_costs_its_text_and_the_client_hears_of_it(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = Manual(Seen())
    async with calling(bot, commit_timeout_s=0.05) as call:
        if when == "in its turn":
            await call.say("one", "t1")
            await call.say("two", "t2")
            await call.session.idle()
        door = call.session.actor("door")
        handler = door.actor_class.on_release

        def crash(self: Any, message: Release) -> None:
            if message.id == "t2" and message.frames:
                raise RuntimeError("boom")
            handler(self, message)

        monkeypatch.setattr(door.actor_class, "on_release", crash)
        door.cell._bind_handlers()
        if when == "in its turn":
            bot.turn_committed()
        else:
            await call.say("two", "t2")
        answer = await call.answer("t2")
        assert answer["data"]["error"].startswith("Exception processing message: ")
        await call.say("three", "t3")
        await call.until(lambda wire: wire["type"] == "user-input" and wire["data"]["text"] == "three")
        await call.session.idle()
        assert (call.books.conservation.open, call.books.conservation.dead) == (0, 1)


# -- the end of the session ---------------------------------------------------------------------------


async def test_texts_that_wait_when_the_session_ends_get_into_the_context_without_a_turn() -> None:
    seen = Seen()
    async with calling(Manual(seen)) as call:
        for n in range(3):
            await call.say(f"text {n}", f"t{n}", audio_response=False)
        await call.session.idle()
        session, client = call.session, call.client
    added = [f"{what} text {n}" for n in range(3) for what in ("append", "in context")]
    assert sorted(seen.log) == sorted(["interruption", *added, "disconnect"])
    assert seen.log.index("append text 2") < seen.log.index("disconnect")
    assert typed(texts(client.drain())) == ["text 0", "text 1", "text 2"]
    assert session.statistics().conservation.open == 0
    assert session.statistics().conservation.delivered == 4


async def test_a_text_that_comes_as_the_session_ends_does_not_wait() -> None:
    seen = Seen()
    async with calling(Manual(seen)) as call:
        await call.say("one", "t1")
        await call.session.idle()
        call.session._ledger.texts.over = True
        await call.say("two", "t2")
        await call.session.idle()
        appended = [line for line in seen.log if line.startswith("append")]
        assert appended == ["append one", "append two"]
        call.session.actor("text").tell(ReleaseTexts())
        await call.session.idle()
        assert call.books.conservation.open == 0
        assert call.books.duplicates == 0


async def test_a_text_of_the_last_moment_gets_into_the_context() -> None:
    class Late(Manual):
        async def on_disconnect(self, reason: str) -> None:
            self.handle_message(message("send-text", "t1", {"content": "late"}))

    seen = Seen()
    async with calling(Late(seen)) as call:
        await call.session.idle()
        session = call.session
    assert seen.log == ["append late", "in context late"]
    assert session.statistics().conservation.open == 0


@pytest.mark.parametrize("gone", ["bot", "text"])
async def test_a_text_that_cannot_be_delivered_any_more_is_answered(gone: str) -> None:
    async with calling(Manual(Seen())) as call:
        await call.say("waits", "t1")
        await call.heard()
        await call.session._supervisor_actor().stop_child(gone)
        session, client = call.session, call.client
    (answer,) = [wire for wire in texts(client.drain()) if wire.get("id") == "t1"]
    assert (answer["type"], answer["data"]["error"]) == ("error-response", "The session has ended")
    counts = session.statistics().conservation
    assert (counts.open, counts.answered, counts.holds) == (0, 1, True)


class TestEndWithoutText:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_a_text_actor_that_is_down_as_the_session_ends_holds_up_nobody_for_long(self) -> None:
        seen = Seen()
        never = rtvi.Backoff(immediate=0, first_s=600.0, max_s=600.0)
        async with calling(Manual(seen), restart_backoff=never) as call:
            await call.say("waits", "t1")
            await call.heard()
            call.session.system.crash(call.session.actor("text"))
            session, client = call.session, call.client
        assert seen.log == ["interruption", "disconnect"]
        assert [wire["id"] for wire in of_type(texts(client.drain()), "error-response")] == ["t1"]
        assert session.statistics().conservation.holds
        assert session.statistics().conservation.open == 0


async def test_a_client_that_leaves_has_its_text_in_the_context() -> None:
    seen = Seen()
    async with calling(Manual(seen)) as call:
        await call.say("last words")
        await call.heard()
        await call.leave()
        session = call.session
    assert seen.log[-3:] == ["append last words", "in context last words", "disconnect"]
    assert session.statistics().conservation.open == 0


# -- whatever happens -----------------------------------------------------------------------------------


class Story:
    """A client, a host and bad luck, one deed at a time."""

    def __init__(self, call: Call, bot: Manual) -> None:
        self.call = call
        self.bot = bot
        self.said: list[tuple[str, bool]] = []
        """Texts, and whether they are to run."""
        self.asked = 0
        self.skip_tts = False

    async def run(self) -> None:
        n = len(self.said)
        self.said.append((f"text {n}", True))
        await self.call.say(f"text {n}", f"t{n}", audio_response=bool(n % 2))

    async def append(self) -> None:
        n = len(self.said)
        self.said.append((f"text {n}", False))
        await self.call.say(f"text {n}", f"t{n}", audio_response=bool(n % 2), run_immediately=False)

    async def context(self) -> None:
        n = len(self.said)
        self.said.append((f"text {n}", False))
        await self.call.send("append-to-context", f"t{n}", {"role": "user", "content": f"text {n}"})

    async def commit(self) -> None:
        await self.call.session.idle()
        self.bot.turn_committed()

    async def stale_commit(self) -> None:
        await self.call.session.idle()
        self.call.session.actor("text").tell(TurnCommitted(1))

    async def crash_text(self) -> None:
        await self.call.session.idle()
        self.call.session.system.crash(self.call.session.actor("text"))

    async def crash_door(self) -> None:
        await self.call.session.idle()
        self.call.session.system.crash(self.call.session.actor("door"))

    async def wait(self) -> None:
        await anyio.sleep(1.5)

    async def switch(self) -> None:
        await self.call.session.idle()
        self.skip_tts = not self.skip_tts
        self.call.session.control.configure_output(self.skip_tts)

    async def ask(self) -> None:
        self.asked += 1
        await self.call.ask("ping", msg_id="q")
        await self.call.answer("q")

    def check(self) -> None:
        """The end, when nothing waits any more."""
        books = self.call.books
        assert (books.conservation.open, books.waiting_texts, books.duplicates, books.late) == (0, 0, 0, 0)
        assert books.conservation.delivered == len(self.said) + self.asked + 1  # client-ready
        assert self.call.session._ledger.door.more == set()
        assert bool(self.bot.skip_tts) == self.skip_tts
        frames = [line for line in self.bot.seen.log if line.startswith(("append", "interruption"))]
        expected = [
            line for text, runs in self.said for line in (*(["interruption"] if runs else []), f"append {text}")
        ]
        assert frames == expected


DEEDS: Final = [deed for name, deed in vars(Story).items() if not name.startswith("_") and name != "check"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*DEEDS, Story.run]), max_size=25))
def test_texts_reach_the_bot_once_in_order_and_behind_their_interruption(
    deeds: list[Callable[[Story], Awaitable[None]]],
) -> None:
    """Crashes of text and door between two messages included: they lose none."""

    async def main() -> None:
        bot = Manual(Seen())
        async with calling(bot) as call:
            story = Story(call, bot)
            for deed in deeds:
                await deed(story)
            await anyio.sleep(60.0)
            await call.session.idle()
            story.check()

    backend, options = virtual_time()
    anyio.run(main, backend=backend, backend_options=options)


FAULTS = Faults(crash=0.01, crash_after=0.01, delay=0.1, max_delay_s=0.2)
PATIENT: Final[dict[str, Any]] = {"restart_intensity": 10_000, "restart_backoff": rtvi.Backoff(first_s=0.01, max_s=0.1)}


def test_under_faults_no_text_comes_twice_and_none_is_left_waiting(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        seen = Seen()
        bot_class = random.choice((Talker, Manual))
        seen.commit.set()
        async with calling(bot_class(seen), system=world.system, **PATIENT) as call:
            count = random.randrange(3, 25)
            for n in range(count):
                await call.say(f"text {n}", f"t{n}", run_immediately=random.random() < 0.7)
                if random.random() < 0.3:
                    call.session.control.turn_committed()
                if random.random() < 0.2:
                    name = random.choice([child for child in CHILDREN if child != "handshake"])
                    world.system.crash(call.session.actor(name))
                await world.advance(random.choice((0.0, 0.0, 0.05, 1.0)))
            await world.advance(60)
            check(seen, call, count)

    edges = {("*", "*/handshake"): Faults(), ("*/handshake", "*"): Faults()}
    simulate(story, faults=FAULTS, edges=edges)


def check(seen: Seen, call: Call, count: int) -> None:
    """None twice; each is at the bot or its client has been told of a loss."""
    appended = [line for line in seen.log if line.startswith("append")]
    assert len(appended) == len(set(appended))
    errors = {wire["id"] for wire in of_type(texts(call.client.drain()), "error-response")}
    lost = {f"t{n}" for n in range(count) if f"append text {n}" not in appended}
    assert lost <= errors
    assert (call.books.conservation.open, call.books.waiting_texts) == (0, 0)
