"""Death watch, inspection, dead letters and books: what the runtime says of its actors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from rtvi_actors.errors import Dead, NoSystem, Rejected, Undeclared
from rtvi_actors.runtime.mailbox import Overflow
from rtvi_actors.runtime.registry import Inspection
from rtvi_actors.runtime.signals import Books, DeadLetter, Terminated
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import (
    Book,
    Fail,
    FailAsync,
    Forward,
    Hold,
    Note,
    Plain,
    Read,
    Recorder,
    Run,
    act,
    settle,
)

pytestmark = pytest.mark.anyio


class Widow(Recorder):
    """Writes down who has ended."""

    def on_terminated(self, message: Terminated) -> None:
        self.book.notes.append((message.name, message.reason))

    def on_inspect(self) -> Mapping[str, Any]:
        self.book.check("on_inspect")
        return {"seen": len(self.seen)}


# -- death watch -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"), [("stop", "shutdown"), ("kill", "killed"), ("self", "normal"), ("crash", "error")]
)
async def test_the_end_of_a_watched_actor_is_told_once_with_its_reason(
    system: ActorSystem, book: Book, how: str, reason: str
) -> None:
    watcher, mortal = system.spawn(Widow, book, name="widow"), system.spawn(Recorder, Book(), name="mortal")
    act(watcher, book, lambda actor: actor.watch(mortal))
    await watcher.call(Read())
    ends: dict[str, Callable[[], object]] = {
        "stop": lambda: system.stop(mortal),
        "kill": lambda: system.kill(mortal),
        "self": lambda: mortal.stop(block=False),
        "crash": lambda: mortal.tell(Fail()),
    }
    ends[how]()
    await settle(system)
    assert await watcher.call(Read()) == [("mortal", reason)]


async def test_watching_the_dead_answers_at_once(system: ActorSystem, book: Book) -> None:
    watcher, mortal = system.spawn(Widow, book), system.spawn(Recorder, Book(), name="mortal")
    await system.kill(mortal)
    act(watcher, book, lambda actor: actor.watch(mortal))
    assert await watcher.call(Read()) == []
    assert await watcher.call(Read()) == [("mortal", "dead")]


async def test_a_restart_is_no_end_and_the_watch_outlives_both_sides_crashes(system: ActorSystem, book: Book) -> None:
    specs = [ChildSpec("widow", Widow, (book,)), ChildSpec("mortal", Recorder, (Book(),))]
    system.spawn(Supervisor, specs, name="s")
    watcher, mortal = system.get("s/widow"), system.get("s/mortal")
    act(watcher, book, lambda actor: actor.watch(mortal))
    mortal.tell(Fail())
    watcher.tell(Fail())
    await settle(system)
    assert await watcher.call(Read()) == []
    supervisor = system.get("s").cell.actor
    assert isinstance(supervisor, Supervisor)
    await supervisor.stop_child("mortal")
    assert await watcher.call(Read()) == [("s/mortal", "shutdown")]


async def test_it_arrives_behind_what_the_dead_one_had_sent(system: ActorSystem, book: Book) -> None:
    watcher, mortal = system.spawn(Widow, book), system.spawn(Recorder, Book(), name="mortal")
    act(watcher, book, lambda actor: actor.watch(mortal))
    await watcher.call(Read())
    for n in range(5):
        mortal.tell(Forward(watcher, n))
    mortal.tell(Fail())
    await settle(system)
    assert await watcher.call(Read()) == [0, 1, 2, 3, 4, ("mortal", "error")]


async def test_what_is_unwatched_is_not_told_also_where_the_message_lay_there_already(
    system: ActorSystem, book: Book
) -> None:
    watcher, mortal = system.spawn(Widow, book), system.spawn(Recorder, Book())
    act(watcher, book, lambda actor: actor.watch(mortal))
    watcher.tell(Hold(1))
    await book.begun.wait()
    await system.kill(mortal)
    assert watcher.cell.mailbox.user
    watcher.cell.unwatch(mortal.cell)
    book.gate.set()
    assert await watcher.call(Read()) == [("begun", 1), ("done", 1)]
    books = watcher.cell.books()
    assert books.holds
    assert books.open == 0


async def test_a_watcher_that_does_not_declare_it_is_told_at_once(system: ActorSystem, book: Book) -> None:
    mortal = system.spawn(Recorder, Book())
    watcher = Recorder(book)
    system.spawn(watcher)
    with pytest.raises(Undeclared):
        watcher.watch(mortal)


async def test_an_actor_that_takes_objects_gets_it_as_one(system: ActorSystem, book: Book) -> None:
    got: list[Any] = []

    class Taker(Plain):
        def on_receive(self, message: Any) -> Any:
            got.append(message)

    watcher, mortal = system.spawn(Taker), system.spawn(Recorder, book, name="mortal")
    watcher.cell.watch(mortal.cell)
    await system.kill(mortal)
    await settle(system)
    assert got == [Terminated("mortal", mortal.actor_urn, "killed")]


async def test_the_dead_watch_nobody(system: ActorSystem, book: Book) -> None:
    watcher, mortal = system.spawn(Widow, book), system.spawn(Recorder, Book())
    act(watcher, book, lambda actor: actor.watch(mortal))
    await watcher.call(Read())
    await system.kill(watcher)
    assert mortal.cell._watchers == {}
    await system.kill(mortal)
    assert system.dead_letters == 0


# -- inspection --------------------------------------------------------------------------------


async def test_an_inspection_goes_before_all_mail_and_shows_what_the_actor_chooses(
    system: ActorSystem, book: Book
) -> None:
    ref = system.spawn(Widow, book, name="it")
    for n in range(10):
        ref.tell(Note(n))
    found = await system.inspect(ref)
    assert isinstance(found, Inspection)
    assert found.state == {"seen": 0}
    assert found.statistics.name == "it"
    assert found.books == Books(10, 0, 0, {}, {}, 10)
    await settle(system)
    assert (await system.inspect(ref)).state == {"seen": 10}


async def test_an_inspection_that_raises_harms_only_who_asked(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Widow, book)
    book.raising["on_inspect"] = "SystemExit"
    with pytest.raises(SystemExit):
        await system.inspect(ref)
    assert await ref.call(Note(1)) == 1
    await system.kill(ref)
    with pytest.raises(Dead):
        await system.inspect(ref)


async def test_an_inspection_on_its_way_to_an_actor_that_dies_is_answered(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Widow, book)
    asked = system.inspect(ref)
    system.kill(ref)
    with pytest.raises(Dead):
        await asked


async def test_an_actor_in_back_off_can_be_inspected(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Widow, (book,))], name="s")
    ref = system.get("s/it")
    book.raising["on_start"] = "ValueError"
    ref.tell(Fail())
    await settle(system)
    found = await system.inspect(ref)
    assert found.state == {}
    assert found.statistics.state == "restarting"


# -- dead letters ------------------------------------------------------------------------------


async def test_dead_letters_are_a_stream_with_reason_and_encoded_message(system: ActorSystem, book: Book) -> None:
    async with system.dead_letter_stream() as letters:
        ref = system.spawn(Recorder, book, name="it")
        body = ref.encode(Fail())
        ref.tell(Fail())
        ref.tell(Note(1))
        assert await anext(letters) == DeadLetter("it", "crashed", body)
        assert (await anext(letters)).reason == "dead"
    assert system.dead_letters == 2


async def test_a_slow_reader_of_dead_letters_loses_the_newest_and_holds_up_nobody(
    system: ActorSystem, book: Book
) -> None:
    async with system.dead_letter_stream(max_waiting=2) as letters:
        ref = system.spawn(Recorder, book, name="it")
        for n in range(10):
            ref.tell(Note(n))
        await system.kill(ref)
        read = [await anext(letters), await anext(letters)]
    assert [letter.body for letter in read] == [ref.cell.mailbox.seal(Note(n)).body for n in (0, 1)]
    assert system.dead_letters == 10


# -- books ---------------------------------------------------------------------------------------


class Bounded(Recorder):
    max_mail = 3
    overflow: ClassVar[Overflow] = "drop_oldest"


async def test_every_message_is_in_the_books_once_at_any_time(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], intensity=100, name="s")
    ref = system.get("s/it")
    seen: list[bool] = []
    act(ref, book, lambda actor: seen.append(actor.cell.books().holds and actor.cell.books().open == 1))
    await settle(system)
    assert seen == [True]
    ref.tell(Fail())
    ref.tell(FailAsync())
    ref.tell(Run("jobs", "fail"))
    held = ref.ask(Hold(1), block=False)
    await book.begun.wait()
    assert ref.cell.books().open == 1
    ref.tell(Note(1))
    late = ref.ask(Note(2), block=False, timeout=0.0)
    assert ref.cell.books().open == 3
    system.crash(ref)
    await settle(system)
    assert held.done()
    assert late.done()
    books = ref.cell.books()
    assert books.holds
    assert books.open == 0
    assert books.dropped == {"expired": 1}
    assert books.dead == {"crashed": 2, "restarted": 1}


async def test_what_is_refused_and_what_is_dropped_is_in_the_books(system: ActorSystem, book: Book) -> None:
    class Refusing(Bounded):
        overflow: ClassVar[Overflow] = "refuse"

    refused = Books(9, 0, 5, {}, {}, 4)
    for actor_class, expected in ((Bounded, Books(9, 0, 0, {"overflow": 5}, {}, 4)), (Refusing, refused)):
        other = Book()
        ref = system.spawn(actor_class, other)
        ref.tell(Hold(1))
        await other.begun.wait()
        for n in range(8):
            try:
                ref.tell(Note(n))
            except Rejected:
                continue
        assert ref.cell.books() == expected
        other.gate.set()
        await settle(system)
        assert ref.cell.books().open == 0
        assert ref.cell.books().holds
        await system.stop(ref)
        assert ref.cell.books().holds


async def test_the_dead_are_buried_turn_by_turn_and_nobody_waits_for_it(system: ActorSystem, book: Book) -> None:
    ref, other = system.spawn(Recorder, Book()), system.spawn(Recorder, book)
    for n in range(8_000):
        ref.tell(Note(n))
    assert await system.kill(ref)
    assert await other.call(Note(1)) == 1
    assert 0 < system.dead_letters < 8_000
    books = ref.cell.books()
    assert books.holds
    assert books.open == 8_000 - system.dead_letters
    await settle(system)
    assert system.dead_letters == 8_000
    assert ref.cell.books() == Books(8_000, 0, 0, {}, {"dead": 8_000}, 0)


async def test_a_system_that_closes_buries_all_its_dead(book: Book) -> None:
    async with ActorSystem() as system:
        ref = system.spawn(Recorder, book)
        ref.tell(Hold(1))
        for n in range(5_000):
            ref.tell(Note(n))
        await book.begun.wait()
        system.kill(ref)
    assert system.dead_letters == 5_001


async def test_the_books_hold_in_hooks_and_for_who_hears_of_a_loss(system: ActorSystem, book: Book) -> None:
    seen: list[bool] = []

    class Accountant(Bounded):
        async_group: ClassVar[str] = "jobs"

        def on_error(self, method: str, arguments: tuple[Any, ...], error: BaseException | None) -> None:
            seen.append(self.cell.books().holds)

    system.spawn(Supervisor, [ChildSpec("it", Accountant, (book,))], name="s")
    ref = system.get("s/it")
    system.subscribe_dead_letters(lambda letter: seen.append(ref.cell.books().holds))
    ref.tell(FailAsync())
    await settle(system)
    ref.tell(Hold(1))
    await book.begun.wait()
    system.crash(ref)
    await settle(system)
    ref.cell.suspended = True
    for n in range(10):
        ref.tell(Note(n))
    assert len(seen) == 11
    assert all(seen)


async def test_unwatching_needs_to_read_no_other_letter(system: ActorSystem, book: Book) -> None:
    class Odd(Widow):
        def on_forward(self, message: Forward) -> None:
            raise NotImplementedError

    watcher, mortal = system.spawn(Odd, book), system.spawn(Recorder, Book())
    gone = system.spawn(Recorder, Book())
    body = watcher.encode(Forward(gone, 1))
    await system.kill(gone)
    del gone
    watcher.cell.watch(mortal.cell)
    watcher.cell.suspended = True
    watcher.forward(body)
    await system.kill(mortal)
    watcher.cell.unwatch(mortal.cell)
    watcher.cell.suspended = False
    watcher.cell.notify()
    await settle(system)
    assert book.notes == []


async def test_only_actors_of_ones_own_system_can_be_watched(system: ActorSystem, book: Book) -> None:
    widow = Widow(book)
    system.spawn(widow)
    async with ActorSystem() as other:
        stranger = other.spawn(Recorder, Book())
        with pytest.raises(NoSystem):
            widow.watch(stranger)
