from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest

from rtvi_actors.errors import Rejected
from rtvi_actors.runtime import dispatcher
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.dispatcher import BATCH, BUDGET
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import Book, Note, Read, Recorder

pytestmark = pytest.mark.anyio


class Numbered(msgspec.Struct, frozen=True, tag=True):
    sender: int
    n: int


class Counter(AnyioActor):
    """Checks that every sender's numbers arrive in order."""

    def __init__(self, expected: int, done: anyio.Event) -> None:
        super().__init__(expected, done)
        self._expected = expected
        self._done = done
        self.next: dict[int, int] = {}

    def on_numbered(self, message: Numbered) -> None:
        assert self.next.setdefault(message.sender, 0) == message.n
        self.next[message.sender] += 1
        if sum(self.next.values()) == self._expected:
            self._done.set()


async def test_foreign_threads_keep_their_order_and_no_wake_up_is_lost(system: ActorSystem) -> None:
    """Four threads send in bursts, and the loop goes idle between them: a lost wake-up would hang this test."""
    senders, bursts, burst = 4, 50, 20
    done = anyio.Event()
    ref = system.spawn(Counter, senders * bursts * burst, done)
    barrier = threading.Barrier(senders)

    def send(sender: int) -> None:
        for start in range(0, bursts * burst, burst):
            barrier.wait()
            for n in range(start, start + burst):
                ref.tell(Numbered(sender, n))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    await done.wait()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert isinstance(ref.cell.actor, Counter)
    assert ref.cell.actor.next == dict.fromkeys(range(senders), bursts * burst)
    assert ref.cell.failed == 0


async def test_an_actor_that_is_flooded_keeps_no_other_from_its_turn(system: ActorSystem) -> None:
    order: list[str] = []

    class Flooded(Recorder):
        def on_note(self, message: Note) -> int:
            order.append("flooded")
            return 0

    class Other(Recorder):
        def on_note(self, message: Note) -> int:
            order.append("other")
            return 0

    flooded, other = system.spawn(Flooded, Book()), system.spawn(Other, Book())
    for n in range(10 * BATCH):
        flooded.tell(Note(n))
    await other.call(Note(0))
    assert order.index("other") <= BATCH


async def test_the_loop_has_its_turn_while_mail_never_ends(system: ActorSystem) -> None:
    class Endless(Recorder):
        def on_note(self, message: Note) -> int:
            self.ref.tell(Note(message.n + 1))
            self.book.notes = [message.n]
            return 0

    book = Book()
    ref = system.spawn(Endless, book)
    ref.tell(Note(0))
    turns = 0
    while not book.notes or book.notes[0] < 4 * BUDGET:
        await anyio.lowlevel.checkpoint()
        turns += 1
    assert turns >= 3
    await system.kill(ref)


async def test_control_goes_before_the_mail_that_waits(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    for n in range(5 * BATCH):
        ref.tell(Note(n))
    await system.kill(ref)
    assert book.notes == ["stopped it"]


async def test_a_batch_that_fails_stops_no_other(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    ref, other = system.spawn(Recorder, book), system.spawn(Recorder, Book())
    handle = ref.cell.run
    failures = 2

    def run(batch: int) -> int:
        nonlocal failures
        if failures:
            failures -= 1
            raise SystemExit
        return handle(batch)

    ref.cell.run = run  # type: ignore[method-assign]
    ref.tell(Note(1))
    assert await other.call(Note(2)) == 2
    assert await ref.call(Read()) == [1]
    assert "the batch of Recorder failed" in caplog.text


async def test_a_loop_that_is_too_far_behind_refuses_letters_from_threads_but_takes_a_stop(
    system: ActorSystem, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "BRIDGE_MAX", 3)
    ref = system.spawn(Recorder, book, name="it")
    refused: list[Any] = []

    def flood() -> None:
        for n in range(5):
            try:
                ref.tell(Note(n))
            except Rejected as error:
                refused.append(error.message)
        stopped.append(system.stop(ref, 60))

    stopped: list[ActorFuture[bool]] = []
    thread = threading.Thread(target=flood)
    thread.start()
    thread.join()  # the loop stands still meanwhile
    assert await stopped[0]
    assert refused == [Note(3), Note(4)]
    assert book.notes == [0, 1, 2, "stopped it"]


async def test_the_system_is_idle_when_nobody_has_mail(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="sup")
    await anyio.wait_all_tasks_blocked()
    assert system.idle
    system.get("sup/it").tell(Note(1))
    assert [system.idle] == [False]
    await anyio.wait_all_tasks_blocked()
    assert system.idle
