from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rtvi_actors.errors import AskTimeout, Dead, DeclarationError, HandlerFailed, Rejected, StartFailed
from rtvi_actors.runtime import supervisor
from rtvi_actors.runtime.cell import DeadLetter
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.mailbox import Overflow
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.runtime.threads import ThreadCell, ThreadingActor
from tests.runtime.messages import FIREWALL, RAISES, Book, Fail, Note, Read, Recorder, Through

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RETRY_S", 0.001)


class Worker(ThreadingActor):
    """A recorder on a thread. `Through("block")` holds it until the test lets go."""

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self.book = book
        self.seen: list[int] = []
        book.check("init")

    def on_start(self) -> None:
        self.book.check("on_start")

    def on_stop(self) -> None:
        self.book.notes.append(f"stopped {self.name} on {threading.current_thread().name}")
        self.book.check("on_stop")

    def on_note(self, message: Note) -> int:
        self.book.notes.append(message.n)
        self.seen.append(message.n)
        return message.n

    def on_read(self, message: Read) -> list[Any]:
        return list(self.book.notes)

    def on_fail(self, message: Fail) -> None:
        raise RAISES[message.kind]()

    def on_through(self, message: Through) -> Any:
        return self.book.acts[message.act](self)


class Blocker:
    """A handler that blocks its thread until it is let go, and says when it has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()

    def __call__(self, actor: Any) -> str:
        self.begun.set()
        self.gate.wait()
        return "let go"


def supervised(system: ActorSystem, book: Book, **options: Any) -> ActorRef[Worker]:
    system.spawn(Supervisor, [ChildSpec("it", Worker, (book,), **options)], intensity=1000, name="sup")
    return system.get("sup/it")


async def test_handlers_and_hooks_run_on_the_actors_own_thread(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Worker, book, name="it")
    book.acts["thread"] = lambda actor: threading.current_thread().name
    assert await ref.call(Through("thread")) == "it"
    assert await system.stop(ref)
    assert book.notes == ["stopped it on it"]


async def test_a_blocking_handler_holds_up_nobody_else(system: ActorSystem, book: Book) -> None:
    block = book.acts["block"] = Blocker()
    ref, other = system.spawn(Worker, book), system.spawn(Recorder, Book())
    held = ref.ask(Through("block"), block=False)
    await anyio.to_thread.run_sync(block.begun.wait)
    assert await other.call(Note(1)) == 1
    with pytest.raises(AskTimeout):
        await ref.call(Note(2), timeout_s=0.001)
    block.gate.set()
    assert await held == "let go"
    assert await ref.call(Read()) == []


@pytest.mark.parametrize("kind", FIREWALL)
async def test_a_crash_is_followed_by_a_restart_in_place(system: ActorSystem, book: Book, kind: str) -> None:
    ref = supervised(system, book)
    identity = (ref.actor_urn, ref.actor_inbox, ref.cell)
    first = ref.cell.actor
    for n in range(30):
        ref.tell(Note(n))
    with pytest.raises(HandlerFailed):
        await ref.call(Fail(kind))
    for n in range(30, 60):
        ref.tell(Note(n))
    assert await ref.call(Read()) == list(range(60))
    assert (ref.actor_urn, ref.actor_inbox, ref.cell) == identity
    assert system.get("sup/it") is ref
    assert ref.cell.actor is not first
    assert isinstance(ref.cell.actor, Worker)
    assert ref.cell.actor.seen == list(range(30, 60))
    assert (ref.cell.restarts, ref.cell.dropped) == (1, 1)


async def test_a_restart_that_fails_is_tried_again(system: ActorSystem, book: Book) -> None:
    restarted = anyio.Event()
    ref = supervised(system, book, on_restarted=restarted.set)
    book.raising["on_start"] = "ValueError"
    ref.tell(Fail())
    while ref.cell.restarts < 3:
        await anyio.lowlevel.checkpoint()
    assert not restarted.is_set()
    book.raising.clear()
    assert await ref.call(Note(1)) == 1
    await restarted.wait()


async def test_a_restart_limit_that_is_reached_ends_it(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Worker, (book,))], intensity=2, name="sup")
    ref = system.get("sup/it")
    for _ in range(3):
        ref.tell(Fail())
    with pytest.raises(Dead):
        await ref.call(Note(1))
    while len(system.registry):
        await anyio.lowlevel.checkpoint()


async def test_a_crash_without_a_supervisor_is_the_end(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Worker, book)
    ref.tell(Fail())
    with pytest.raises(Dead):
        await ref.call(Note(1))


@pytest.mark.parametrize("kind", FIREWALL)
@pytest.mark.parametrize("place", ["init", "on_start"])
async def test_a_start_that_fails_is_reported_and_leaves_nothing(
    system: ActorSystem, book: Book, kind: str, place: str
) -> None:
    book.raising[place] = kind
    with pytest.raises(StartFailed) as failure:
        system.spawn(Worker, book, name="it")
    assert type(failure.value.__cause__).__name__ == kind
    with pytest.raises(StartFailed):
        system.spawn(Supervisor, [ChildSpec("it", Worker, (book,))], name="sup")
    assert len(system.registry) == 0


async def test_what_a_handler_sends_is_staged(system: ActorSystem, book: Book) -> None:
    other = system.spawn(Recorder, Book())
    ref = supervised(system, book)

    def act(actor: Worker) -> str:
        other.tell(Note(1))
        actor.ref.tell(Note(2))
        actor.snapshot("state")
        if not book.notes:
            book.notes.append("crashed")
            raise ValueError
        return "sent"

    book.acts["act"] = act
    with pytest.raises(HandlerFailed):
        await ref.call(Through("act"))
    assert await other.call(Read()) == []
    assert await ref.call(Through("act")) == "sent"
    assert await ref.call(Read()) == ["crashed", 2]
    assert await other.call(Read()) == [1]


async def test_a_handler_may_block_for_an_answer_and_commits_by_that(system: ActorSystem, book: Book) -> None:
    other = system.spawn(Recorder, Book())
    ref = system.spawn(Worker, book)

    def act(actor: Worker) -> Any:
        other.tell(Note(1))
        proxied = list(other.proxy().seen.get())
        return [other.ask(Note(2)), other.ask(Note(3), block=False).get(), other.ask(Read()), proxied]

    book.acts["act"] = act
    assert await ref.call(Through("act")) == [2, 3, [1, 2, 3], [1]]


async def test_a_timer_set_on_the_thread_fires(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Worker, book)
    fired = threading.Event()

    class Noting(list[Any]):
        def append(self, note: Any) -> None:
            super().append(note)
            fired.set()

    book.notes = Noting()
    book.acts["set"] = lambda actor: actor.after(0.001, Note(5)) and None
    await ref.call(Through("set"))
    await anyio.to_thread.run_sync(fired.wait)
    assert await ref.call(Read()) == [5]


async def test_bounds_and_policies_hold_on_a_thread_too(system: ActorSystem, book: Book) -> None:
    class Small(Worker):
        max_mail: ClassVar[int] = 3

    class Dropping(Small):
        overflow: ClassVar[Overflow] = "drop_oldest"

    for kind in (Small, Dropping):
        own = Book()
        block = own.acts["block"] = Blocker()
        ref = system.spawn(kind, own)
        held = ref.ask(Through("block"), block=False)
        await anyio.to_thread.run_sync(block.begun.wait)
        refused = 0
        for n in range(5):
            try:
                ref.tell(Note(n))
            except Rejected:
                refused += 1
        block.gate.set()
        await held
        assert await system.stop(ref)
        notes = [note for note in own.notes if isinstance(note, int)]
        assert notes == ([0, 1, 2] if kind is Small else [2, 3, 4])
        assert refused == (2 if kind is Small else 0)
        assert ref.cell.dropped == (0 if kind is Small else 2)
        assert ref.cell.mailbox.user_bytes == 0


async def test_send_waits_for_room_on_a_thread_too(system: ActorSystem, book: Book) -> None:
    class Small(Worker):
        max_mail: ClassVar[int] = 1

    block = book.acts["block"] = Blocker()
    ref = system.spawn(Small, book)
    ref.tell(Through("block"))
    await anyio.to_thread.run_sync(block.begun.wait)
    ref.tell(Note(1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ref.send, Note(2))
        await anyio.wait_all_tasks_blocked()
        block.gate.set()
    assert await system.stop(ref)
    assert book.notes[:2] == [1, 2]


async def test_many_threads_fill_it_and_nothing_is_lost(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Worker, book)
    start = threading.Barrier(4)

    def send(sender: int) -> None:
        start.wait()
        for n in range(500):
            ref.tell(Note(sender * 1000 + n))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    notes = await ref.call(Read())
    assert len(notes) == 2000
    for sender in range(4):
        assert [n for n in notes if n // 1000 == sender] == [sender * 1000 + n for n in range(500)]
    assert ref.cell.mailbox.user_bytes == 0
    assert ref.cell.mailbox.received == 2001


async def test_a_stop_keeps_its_place_and_a_drain_handles_what_is_there(system: ActorSystem, book: Book) -> None:
    for stop in (lambda ref: ref.stop(block=False), lambda ref: system.stop(ref, 60)):
        own = Book()
        ref = system.spawn(Worker, own, name="it")
        for n in range(50):
            ref.tell(Note(n))
        assert await stop(ref)
        assert own.notes == [*range(50), "stopped it on it"]


async def test_a_handler_that_never_returns_holds_up_neither_kill_nor_drain(system: ActorSystem, book: Book) -> None:
    other = system.spawn(Recorder, Book())
    for stop in (system.kill, lambda ref: system.stop(ref, 0.001)):
        own = Book()
        block = Blocker()

        def act(actor: Worker, block: Blocker = block) -> None:
            other.tell(Note(1))
            block(actor)

        own.acts["block"] = act
        ref = system.spawn(Worker, own, name="it")
        held, waits = ref.ask(Through("block"), block=False), ref.ask(Note(2), block=False)
        await anyio.to_thread.run_sync(block.begun.wait)
        assert await stop(ref)
        for future in (held, waits):
            with pytest.raises(Dead):
                await future
        assert ref.cell.abandoned == 1
        assert ref.cell.dropped == 2
        assert isinstance(ref.cell, ThreadCell)
        thread = ref.cell._thread
        assert thread is not None
        block.gate.set()
        await anyio.to_thread.run_sync(thread.join)
        assert own.notes == ["stopped it on it"]
    assert await other.call(Read()) == []  # what it sent before it was killed has not left: it never returned


async def test_a_kill_while_it_waits_for_its_restart_ends_it(system: ActorSystem, book: Book) -> None:
    ref = supervised(system, book)
    book.raising["on_start"] = "ValueError"
    ref.tell(Fail())
    while ref.cell.restarts < 2:
        await anyio.lowlevel.checkpoint()
    assert await system.kill(ref)
    with pytest.raises(Dead):
        ref.tell(Note(1))


async def test_a_supervisors_end_is_its_threads_children_too(book: Book) -> None:
    async with ActorSystem() as system:
        ref = supervised(system, book)
        ref.tell(Note(1))
    assert not ref.is_alive()
    assert book.notes == [1, "stopped sup/it on sup/it"]


async def test_a_crash_can_be_injected(system: ActorSystem, book: Book) -> None:
    ref = supervised(system, book)
    system.crash(ref)
    while ref.cell.restarts == 0:
        await anyio.lowlevel.checkpoint()
    assert await ref.call(Note(1)) == 1


async def test_a_proxied_coroutine_cannot_run_there(system: ActorSystem, book: Book) -> None:
    class Plain(ThreadingActor):
        async def asynchronous(self) -> int:
            return 1

        def synchronous(self) -> int:
            return 2

    proxy = system.spawn(Plain).proxy()
    with pytest.raises(TypeError):
        await proxy.asynchronous()
    assert await proxy.synchronous() == 2


async def test_dead_letters_are_told_on_the_loops_thread(system: ActorSystem, book: Book) -> None:
    threads: list[int] = []
    told = anyio.Event()

    def tell(letter: DeadLetter) -> None:
        threads.append(threading.get_ident())
        told.set()

    system.subscribe_dead_letters(tell)
    ref = supervised(system, book, on_lost=lambda message, reason: threads.append(threading.get_ident()))
    ref.tell(Fail())
    await told.wait()
    assert threads == [threading.get_ident()] * 2


def test_asynchronous_handlers_and_groups_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(DeclarationError):

        class Asynchronous(ThreadingActor):
            async def on_note(self, message: Note) -> None: ...

    with pytest.raises(DeclarationError):

        class Grouped(ThreadingActor):
            groups: ClassVar[Mapping[str, GroupSpec]] = {"jobs": GroupSpec()}
