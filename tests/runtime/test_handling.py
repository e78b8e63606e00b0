"""All or nothing, the lanes, and what is lost (README of the runtime: Order, Lanes, Overflow)."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest

from rtvi_actors.errors import AskTimeout, DeclarationError, HandlerFailed, Rejected, StartFailed, Undeclared
from rtvi_actors.runtime.actor import AnyioActor, current_actor
from rtvi_actors.runtime.mailbox import Overflow
from rtvi_actors.runtime.signals import Books
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem, start_blocking_system
from tests.runtime.messages import (
    Book,
    Fail,
    FailAsync,
    Hold,
    Note,
    Read,
    Recorder,
    Run,
    Through,
    act,
    settle,
    supervised,
)

pytestmark = pytest.mark.anyio


# -- all or nothing ----------------------------------------------------------------------


async def test_a_handler_that_raises_has_done_nothing(system: ActorSystem, book: Book) -> None:
    ref, sibling = supervised(system, book)
    done: list[str] = []
    asked: list[Any] = []

    def half_way(actor: Recorder) -> None:
        sibling.tell(Note(1))
        asked.append(sibling.ask(Note(2), block=False))
        actor.submit("jobs", "hold", 3)
        actor.later(done.append, "later")
        actor.snapshot("state")
        actor.after(0, Note(4))
        actor.ref.tell(Note(5))
        raise ValueError

    book.acts["half_way"] = half_way
    ref.tell(Through("half_way"))
    assert await ref.call(Read()) == []
    await anyio.wait_all_tasks_blocked()
    assert await sibling.call(Read()) == []
    assert done == []
    assert not ref.cell._has_saved
    assert book.notes == []
    assert not asked[0].done()
    asked[0].try_set(None)
    assert len(system.timers) == 0


async def test_what_a_handler_sends_leaves_in_order_when_it_returns(system: ActorSystem, book: Book) -> None:
    ref, _ = supervised(system, book)
    seen: list[Any] = []

    def act(actor: Recorder) -> str:
        for n in range(3):
            actor.ref.tell(Note(n))
            actor.later(seen.append, n)
        seen.append("returned")
        return "answer"

    book.acts["act"] = act
    assert await ref.call(Through("act")) == "answer"
    assert seen == ["returned", 0, 1, 2]
    assert await ref.call(Read()) == [0, 1, 2]


async def test_an_effect_that_raises_keeps_no_other_from_leaving(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    ref, _ = supervised(system, book)

    def fail(_: Any) -> None:
        raise SystemExit

    def act(actor: Recorder) -> str:
        actor.ref.tell(Note(1))
        actor.later(fail, None)
        actor.later(fail, None)
        actor.ref.tell(Note(2))
        return "answer"

    book.acts["act"] = act
    assert await ref.call(Through("act")) == "answer"
    assert await ref.call(Read()) == [1, 2]
    assert ref.cell.failed == 2
    assert ref.cell.restarts == 0
    assert "an effect of sup/it failed" in caplog.text


async def test_what_on_start_sends_leaves_only_if_it_starts(system: ActorSystem, book: Book) -> None:
    other = system.spawn(Recorder, book)

    class Starter(Recorder):
        def on_start(self) -> None:
            other.tell(Note(1))
            self.submit("jobs", "hold", 2)
            super().on_start()

    book.raising["on_start"] = "ValueError"
    with pytest.raises(StartFailed):
        system.spawn(Starter, book)
    assert await other.call(Read()) == []
    book.raising.clear()
    system.spawn(Starter, book)
    book.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert sorted(map(str, await other.call(Read()))) == ["('begun', 2)", "('done', 2)", "1"]


async def test_a_restart_after_a_crash_in_a_job_may_send_from_on_start(system: ActorSystem, book: Book) -> None:
    other = system.spawn(Recorder, Book())

    class Starter(Recorder):
        def on_start(self) -> None:
            other.ask(Note(1), block=False)

    system.spawn(Supervisor, [ChildSpec("it", Starter, (book,))], name="sup")
    ref = system.get("sup/it")
    ref.tell(Run("jobs", "crash"))
    await anyio.wait_all_tasks_blocked()
    assert ref.cell.restarts == 1  # at once: the fence was the job's
    assert await other.call(Read()) == [1, 1]


# -- lanes, as an actor sees them ------------------------------------------------------------


class Listener(Recorder):
    """Hears notes in the bulk lane."""

    bulk: ClassVar[frozenset[type]] = frozenset({Note})
    max_bulk: ClassVar[int] = 100


async def test_bulk_mail_waits_behind_user_mail_and_keeps_its_order(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Listener, book)
    for n in range(5):
        ref.tell(Note(n))
    act(ref, book, lambda actor: actor.book.notes.append("user"))
    await settle(system)
    assert book.notes == ["user", 0, 1, 2, 3, 4]


async def test_a_flood_of_user_mail_does_not_starve_the_bulk_lane(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Listener, book)
    book.acts["again"] = lambda actor: len(book.notes) < 3 and actor.ref.tell(Through("again"))
    for _ in range(200):
        ref.tell(Through("again"))
    for n in range(3):
        ref.tell(Note(n))
    await settle(system)
    assert book.notes == [0, 1, 2]


async def test_the_oldest_bulk_mail_gives_way_and_nothing_else(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Listener, book)
    ref.tell(Hold(1))
    await book.begun.wait()
    for n in range(150):
        ref.tell(Note(n))
    book.gate.set()
    await settle(system)
    assert book.notes == [("begun", 1), ("done", 1), *range(50, 150)]
    assert ref.cell.books() == Books(151, 101, 0, {"overflow": 50}, {}, 0)


def test_only_a_declared_message_can_be_bulk() -> None:
    with pytest.raises(DeclarationError, match="Note"):

        class Odd(AnyioActor):
            bulk: ClassVar[frozenset[type]] = frozenset({Note})


# -- mail --------------------------------------------------------------------------------


async def test_a_flood_under_refuse_is_refused_and_under_drop_oldest_is_dropped_and_counted(
    system: ActorSystem, book: Book
) -> None:
    class Small(Recorder):
        max_mail: ClassVar[int] = 5

    class Dropping(Small):
        overflow: ClassVar[Overflow] = "drop_oldest"

    refusing, dropping = system.spawn(Small, book), system.spawn(Dropping, Book())
    refused = 0
    for n in range(8):
        dropping.tell(Note(n))
        try:
            refusing.tell(Note(n))
        except Rejected:
            refused += 1
    await anyio.wait_all_tasks_blocked()
    assert refused == refusing.cell.mailbox.refused == 3
    assert await refusing.call(Read()) == [0, 1, 2, 3, 4]
    assert await dropping.call(Read()) == [3, 4, 5, 6, 7]
    assert dropping.cell.dropped == system.dead_letters == 3
    assert (refusing.cell.mailbox.received, dropping.cell.mailbox.received) == (6, 9)


async def test_on_lost_hears_every_declared_message_that_was_not_handled(system: ActorSystem, book: Book) -> None:
    lost: list[Any] = []

    def on_lost(message: Any, reason: str) -> None:
        lost.append((message, reason))
        raise SystemExit

    ref, _ = supervised(system, book, on_lost=on_lost, restart="transient", shutdown_s=0.0)
    ref.tell(Fail())
    with pytest.raises(AskTimeout):
        await ref.call(Note(1), timeout_s=-1)
    await ref.call(Read())
    ref.tell(Hold(2))
    await book.begun.wait()
    ref.tell(Note(3))
    await system.stop(ref, 0.0)
    assert lost == [(Fail(), "crashed"), (Note(1), "expired"), (Hold(2), "dead"), (Note(3), "dead")]


async def test_a_timer_of_the_actors_own_outlives_a_crash(system: ActorSystem, book: Book) -> None:
    ref, _ = supervised(system, book)
    book.acts["set"] = lambda actor: actor.after(0.001, Note(1)) and None
    book.acts["set and cancel"] = lambda actor: actor.after(0.001, Note(2)).cancel()
    ref.tell(Through("set"))
    ref.tell(Through("set and cancel"))
    ref.tell(Fail())
    while not book.notes:
        await anyio.lowlevel.checkpoint()
    assert await ref.call(Read()) == [1]


async def test_a_handler_knows_its_actor(system: ActorSystem, book: Book) -> None:
    class Actor(Recorder):
        async def on_hold(self, message: Hold) -> int:
            return int(current_actor() is self)

        def on_stop(self) -> None:
            self.book.notes.append(current_actor() is self)

    ref = system.spawn(Actor, book)
    book.acts["who"] = lambda actor: current_actor() is actor
    assert await ref.call(Through("who"))
    assert await ref.call(Hold(0))
    assert current_actor() is None
    await system.stop(ref)
    assert book.notes == [True]


async def test_a_failing_asynchronous_handler_in_a_containing_group_answers_and_crashes_nothing(
    system: ActorSystem, book: Book
) -> None:
    class Actor(Recorder):
        async_group: ClassVar[str] = "pool"

    ref = system.spawn(Actor, book)
    with pytest.raises(HandlerFailed):
        await ref.call(FailAsync())
    held = [ref.ask(Hold(n), block=False) for n in range(8)]  # three run, four wait
    with pytest.raises(Rejected):
        await held[7]
    book.gate.set()
    assert [await future for future in held[:7]] == list(range(7))
    assert ref.cell.generation == 1


# -- bounds, exactly ---------------------------------------------------------------------------


class Talker(Listener):
    """Its notes are bulk, and its asynchronous handler is quick."""

    async def on_hold(self, message: Hold) -> int:
        await anyio.lowlevel.checkpoint()
        return message.n


async def test_a_flood_of_asynchronous_messages_does_not_starve_the_bulk_lane(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Talker, book)
    for n in range(50):
        ref.tell(Hold(n))
    ref.tell(Note(7))
    for n in range(50):
        ref.tell(Hold(n))
    while not book.notes:
        await anyio.lowlevel.checkpoint()
    assert len(ref.cell.mailbox.user) > 80
    await settle(system)


class Small(Recorder):
    max_mail = 10
    max_mail_bytes = 200


async def test_what_one_handler_sends_beyond_the_bound_is_dropped_as_it_arrives(
    system: ActorSystem, book: Book
) -> None:
    other = Book()
    ref, small = system.spawn(Recorder, other), system.spawn(Small, book)
    asked: list[Any] = []

    def flood(actor: Any) -> None:
        asked.extend(small.ask(Note(n), block=False) for n in range(100))

    act(ref, other, flood)
    await ref.call(Read())
    assert len(small.cell.mailbox) <= 10
    await settle(system)
    books = small.cell.books()
    assert books == Books(100, 10, 0, {"overflow": 90}, {}, 0)
    assert [await ask for ask in asked[:10]] == list(range(10))
    with pytest.raises(Rejected):
        await asked[10]


@pytest.mark.parametrize("overflow", ["refuse", "drop_oldest", "coalesce", "wait"])
async def test_a_message_that_is_larger_than_the_mailbox_never_fits(
    system: ActorSystem, book: Book, overflow: Overflow
) -> None:
    class Bytes(Recorder):
        max_mail_bytes = 100

    Bytes.overflow = overflow
    ref = system.spawn(Bytes, book)
    ref.tell(Note(1))
    with pytest.raises(Rejected):
        ref.tell(Fail("x" * 200))
    await settle(system)
    assert book.notes == [1]


def test_a_thread_that_sends_faster_than_the_loop_takes_in_waits_where_the_policy_says_so(book: Book) -> None:
    class Waiting(Recorder):
        max_mail = 5
        overflow: ClassVar[Overflow] = "wait"

    with start_blocking_system() as system:
        ref = system.spawn(Waiting, book)
        most = 0
        for n in range(500):
            ref.tell(Note(n))
            most = max(most, len(ref.cell.mailbox) + ref.cell.mailbox.crossing)
        assert ref.ask(Read()) == list(range(500))
        assert most <= 6
        assert ref.cell.books().dropped == {}


async def test_sending_waits_under_no_policy_that_drops_and_never_for_oneself(system: ActorSystem, book: Book) -> None:
    class Dropping(Listener):
        max_mail = 1
        overflow: ClassVar[Overflow] = "drop_oldest"

    ref = system.spawn(Dropping, book)
    ref.cell.suspended = True
    await ref.send(Read())
    await ref.send(Read())
    await ref.send(Note(1))
    assert ref.cell.books().dropped == {"overflow": 1}

    class Selfish(Recorder):
        max_mail = 1

        async def on_hold(self, message: Hold) -> int:
            self.ref.tell(Note(1))
            with pytest.raises(Rejected):
                await self.ref.send(Note(2))
            return 1

    assert await system.spawn(Selfish, book).call(Hold(1)) == 1


async def test_only_the_user_lane_can_be_forwarded_to(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Listener, book)
    with pytest.raises(Undeclared, match="bulk"):
        ref.encode(Note(1))
    ref.forward(ref.encode(Through("nothing")))


async def test_the_actors_own_timers_are_never_coalesced_nor_dropped(system: ActorSystem, book: Book) -> None:
    class Timed(Recorder):
        bulk: ClassVar[frozenset[type]] = frozenset({Note})
        max_bulk = 1
        max_mail = 1
        overflow: ClassVar[Overflow] = "coalesce"

        @staticmethod
        def mail_key(message: Any) -> str:
            return "one"

    ref = system.spawn(Timed, book)

    def set_timers(actor: Any) -> None:
        for n in range(3):
            actor.after(0, Note(n))

    act(ref, book, set_timers)
    while len(book.notes) < 3:
        await anyio.lowlevel.checkpoint()
    assert book.notes == [0, 1, 2]


async def test_a_message_that_waits_for_its_second_try_can_be_coalesced(system: ActorSystem, book: Book) -> None:
    class Keyed(Recorder):
        max_mail = 1
        overflow: ClassVar[Overflow] = "coalesce"

        @staticmethod
        def mail_key(message: Any) -> str:
            return type(message).__name__

    spec = ChildSpec("it", Keyed, (book,), on_poison="retry_once", backoff=Backoff(immediate=0, first_s=60, max_s=60))
    system.spawn(Supervisor, [spec], name="s")
    ref = system.get("s/it")
    ref.tell(Fail())
    await settle(system)
    assert len(ref.cell.mailbox) == 1
    ref.tell(Fail("Crash"))
    assert ref.cell.books() == Books(2, 0, 0, {"coalesced": 1}, {}, 1)
