from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest

from rtvi_actors.errors import RealIo, Rejected
from rtvi_actors.runtime import dispatcher
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.backend import Backend
from rtvi_actors.runtime.dispatcher import BATCH, BUDGET, Dispatcher
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.mailbox import encode
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.runtime.threads import ThreadingActor
from tests.runtime.messages import Book, Fail, Note, Read, Recorder, Through, settle

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


def in_a_thread(work: Callable[[], None]) -> None:
    """Run it while the loop stands still."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def test_what_is_no_mail_crosses_to_a_loop_that_is_too_far_behind(
    system: ActorSystem, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline of an ask that has crossed, and pykka's stop."""
    monkeypatch.setattr(dispatcher, "BRIDGE_MAX", 1)
    ref = system.spawn(Recorder, book, name="it")
    answers: list[ActorFuture[Any]] = []

    def work() -> None:
        answers.append(ref.ask(Note(1), block=False, timeout=60))
        with pytest.raises(Rejected):
            ref.tell(Note(2))
        answers.append(ref.stop(block=False))

    in_a_thread(work)
    assert [await answer for answer in answers] == [1, True]
    assert book.notes == [1, "stopped it"]


async def test_the_bridge_is_bounded_in_bytes_as_well(
    system: ActorSystem, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "BRIDGE_MAX_BYTES", len(encode(Note(0))) + 1)
    ref = system.spawn(Recorder, book)
    refused: list[Any] = []

    def flood() -> None:
        for n in range(4):
            try:
                ref.tell(Note(n))
            except Rejected as error:
                refused.append(error.message)

    for _ in range(2):  # what has crossed takes no room any more
        in_a_thread(flood)
        await settle(system)
    assert book.notes == [0, 1, 0, 1]
    assert refused == [Note(2), Note(3)] * 2


class Deaf:
    """The backend of a loop that takes calls from threads, and has made its last turn."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def soon_from_thread(self, callback: Callable[[], None]) -> None:
        self.calls.append(callback)


async def test_what_a_loop_has_taken_and_not_carried_out_crosses_at_the_end_and_what_comes_later_at_once() -> None:
    deaf, seen = Deaf(), list[Any]()
    bridge = Dispatcher(cast("Backend", deaf))
    in_a_thread(lambda: bridge.bridge(seen.append, 1))
    bridge.call(lambda: seen.append(2))
    assert len(deaf.calls) == 1
    assert not bridge.idle
    bridge.end()
    assert (seen, bridge.idle, bridge.ended) == ([1, 2], True, True)
    in_a_thread(lambda: bridge.bridge(seen.append, 3))
    assert seen == [1, 2, 3]
    deaf.calls[0]()
    assert len(deaf.calls) == 1


async def test_a_loop_that_says_that_it_has_ended_is_believed() -> None:
    seen: list[int] = []

    def closed(callback: Callable[[], None]) -> None:
        raise RuntimeError("the loop is closed")

    deaf = Deaf()
    deaf.soon_from_thread = closed  # type: ignore[method-assign]
    bridge = Dispatcher(cast("Backend", deaf))
    bridge.bridge(seen.append, 1)
    assert (seen, bridge.ended) == ([1], True)


async def test_a_wake_up_that_fails_is_tried_again() -> None:
    def fail(callback: Callable[[], None]) -> None:
        raise RealIo("a simulation")

    deaf = Deaf()
    deaf.soon_from_thread = fail  # type: ignore[method-assign]
    bridge = Dispatcher(cast("Backend", deaf))
    for _ in range(2):
        with pytest.raises(RealIo):
            bridge.call(lambda: None)
    assert not bridge.ended


async def test_what_crosses_after_the_end_is_delivered_one_by_one() -> None:
    """What a delivery itself sends comes behind it, and so does what another thread sends meanwhile."""
    seen: list[str] = []
    bridge = Dispatcher(cast("Backend", Deaf()))
    bridge.end()

    def first(item: str) -> None:
        bridge.bridge(seen.append, "sent by it")
        in_a_thread(lambda: bridge.bridge(seen.append, "sent by a thread"))
        seen.append(item)

    bridge.bridge(first, "first")
    assert seen == ["first", "sent by it", "sent by a thread"]


async def test_the_system_is_idle_when_nobody_has_mail(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="sup")
    await anyio.wait_all_tasks_blocked()
    assert system.idle
    system.get("sup/it").tell(Note(1))
    assert [system.idle] == [False]
    await anyio.wait_all_tasks_blocked()
    assert system.idle


async def test_the_system_is_not_idle_while_a_threading_actor_runs_a_handler(system: ActorSystem) -> None:
    begun, goes_on, handled = threading.Event(), threading.Event(), list[int]()

    class Slow(ThreadingActor):
        def on_note(self, message: Note) -> None:
            begun.set()
            goes_on.wait()
            handled.append(message.n)

    ref = system.spawn(Slow)
    ref.tell(Note(1))
    ref.tell(Note(2))
    await anyio.to_thread.run_sync(begun.wait)
    idle = system.idle
    goes_on.set()
    assert not idle
    await settle(system)
    assert handled == [1, 2]


async def test_the_system_is_idle_when_an_actor_waits_for_its_restart(system: ActorSystem, book: Book) -> None:
    """It has mail, and could not handle it now."""
    backoff = Backoff(immediate=0, first_s=3600.0, max_s=3600.0)
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,), backoff=backoff)], name="sup")
    ref = system.get("sup/it")
    ref.tell(Fail())
    ref.tell(Note(1))
    await anyio.wait_all_tasks_blocked()
    assert system.idle
    assert len(ref.cell.mailbox) == 1


async def test_the_system_is_not_idle_within_a_handler(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    book.acts["look"] = lambda actor: system.idle
    assert await ref.call(Through("look")) is False
