from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rtvi_actors.errors import (
    AskTimeout,
    CyclicAsk,
    Dead,
    DeclarationError,
    Fenced,
    HandlerFailed,
    HandlerTimeout,
    Rejected,
    StartFailed,
)
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.handling import OVERTAKES
from rtvi_actors.runtime.mailbox import Overflow
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.signals import DeadLetter, ExitReason, Terminated
from rtvi_actors.runtime.supervisor import RESTARTED_AFTER, Backoff, ChildSpec, Restart, Strategy, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.runtime.threads import ThreadCell, ThreadingActor
from rtvi_actors.runtime.watchdog import StuckHandler
from tests.runtime.messages import FIREWALL, RAISES, Book, Fail, Note, Read, Recorder, Through

pytestmark = pytest.mark.anyio


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


async def ended(ref: ActorRef[Any]) -> None:
    """Wait for the end of its thread."""
    assert isinstance(ref.cell, ThreadCell)
    assert ref.cell._thread is not None
    await anyio.to_thread.run_sync(ref.cell._thread.thread.join)


def supervised(system: ActorSystem, book: Book, actor: type[Worker] = Worker, **options: Any) -> ActorRef[Worker]:
    system.spawn(Supervisor, [ChildSpec("it", actor, (book,), **options)], intensity=1000, name="sup")
    return system.get("sup/it")


def stop_child(system: ActorSystem) -> ActorFuture[bool]:
    supervisor = system.get("sup").cell.actor
    assert isinstance(supervisor, Supervisor)
    return supervisor.stop_child("it")


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

    threads: list[int] = []

    def act(actor: Worker) -> Any:
        other.tell(Note(1))
        actor.later(lambda _: threads.append(threading.get_ident()), None)
        proxied = list(other.proxy().seen.get())
        return [other.ask(Note(2)), other.ask(Note(3), block=False).get(), other.ask(Read()), proxied]

    book.acts["act"] = act
    assert await ref.call(Through("act")) == [2, 3, [1, 2, 3], [1]]
    assert threads == [threading.get_ident()]


async def test_what_hooks_send_leaves_as_well(system: ActorSystem, book: Book) -> None:
    class Sending(Worker):
        def on_start(self) -> None:
            other.tell(Note(1))

        def on_handled(self, message: Any) -> None:
            other.tell(Note(2))

        def on_stop(self) -> None:
            other.tell(Note(3))

    other = system.spawn(Recorder, Book())
    ref = supervised(system, book, actor=Sending)
    for stop in (exit_by_shutdown, exit_by_kill):
        await ref.call(Note(0))
        await stop(system, ref, book)
    await running(ref)
    await ref.call(Note(0))
    assert await other.call(Read()) == [1, 2, 3, 1, 2, 3, 1, 2]


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
        assert ref.cell.mailbox.size_bytes == 0


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
    assert ref.cell.mailbox.size_bytes == 0
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
    letters: list[DeadLetter] = []
    system.subscribe_dead_letters(letters.append)
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
        block.gate.set()
        await ended(ref)
        assert own.notes == ["stopped it on it"]
    assert [letter.reason for letter in letters] == ["killed", "dead", "dead", "dead"]
    assert await other.call(Read()) == []  # what it sent before it was killed has not left: it never returned


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


# -- deadlines of handlers -----------------------------------------------------------------------


class Timed(Worker):
    """Its deadline does not come by itself: `time_is_up` says when."""

    handler_timeout_s: ClassVar[float | None] = 3600.0


def cell_of(ref: ActorRef[Any]) -> ThreadCell:
    assert isinstance(ref.cell, ThreadCell)
    return ref.cell


def time_is_up(ref: ActorRef[Any]) -> None:
    """Let the deadline of the handler that runs pass."""
    deadline = cell_of(ref)._deadline
    assert deadline is not None
    assert deadline.callback is not None
    deadline.callback()


async def running(ref: ActorRef[Any]) -> None:
    while ref.cell.state != "running":
        await anyio.lowlevel.checkpoint()


async def test_a_handler_that_runs_too_long_is_given_up_and_the_next_incarnation_has_a_new_thread(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    class Hasty(Worker):
        handler_timeout_s: ClassVar[float | None] = 0.05

    told: list[tuple[StuckHandler, int]] = []
    letters: list[DeadLetter] = []
    system.subscribe_stuck(lambda report: told.append((report, threading.get_ident())))
    system.subscribe_dead_letters(letters.append)
    system.spawn(Supervisor, [ChildSpec("it", Hasty, (book,))], name="sup")
    ref = system.get("sup/it")
    book.acts["thread"] = lambda actor: threading.get_ident()
    first = cell_of(ref)._thread
    assert first is not None
    block = book.acts["block"] = Blocker()
    with pytest.raises(HandlerFailed) as failure:
        await ref.call(Through("block"))
    assert isinstance(failure.value.__cause__, HandlerTimeout)
    # Only this handler is to be too slow, whatever the machine does.
    Hasty.handler_timeout_s = None
    assert await ref.call(Through("thread")) not in (first.thread.ident, threading.get_ident())
    ((report, told_on),) = told
    assert (report.actor, report.message, report.age_s) == ("sup/it", "Through", 0.05)
    assert "self.gate.wait()" in report.stack
    assert told_on == threading.get_ident()
    assert report.stack in caplog.text
    assert [letter.reason for letter in letters] == ["timeout"]
    assert (ref.cell.abandoned, ref.cell.restarts, system.stuck_reports >= 1) == (1, 1, True)
    block.gate.set()
    await anyio.to_thread.run_sync(first.thread.join)


async def test_nothing_that_a_given_up_handler_still_does_has_an_effect(system: ActorSystem, book: Book) -> None:
    other = system.spawn(Recorder, Book())
    ref = supervised(system, book, actor=Timed)
    block = Blocker()
    after: list[str] = []

    def attempts(actor: Worker) -> list[Callable[[], object]]:
        return [
            lambda: other.tell(Note(2)),
            lambda: other.ask(Note(3)),
            lambda: other.ask(Note(4), block=False),
            lambda: actor.snapshot("state"),
            lambda: actor.after(0.0, Note(5)),
            earlier.get,
            actor.stop,
        ]

    earlier: ActorFuture[Any]

    def act(actor: Worker) -> None:
        nonlocal earlier
        other.tell(Note(1))
        earlier = other.ask(Note(1), block=False)
        block(actor)
        for attempt in attempts(actor):
            try:
                attempt()
            except Fenced:
                after.append("fenced")

    book.acts["act"] = act
    ref.tell(Through("act"))
    await anyio.to_thread.run_sync(block.begun.wait)
    thread = cell_of(ref)._thread
    assert thread is not None
    time_is_up(ref)
    assert await ref.call(Note(7)) == 7
    block.gate.set()
    await anyio.to_thread.run_sync(thread.thread.join)
    assert after == ["fenced"] * 7
    assert await other.call(Read()) == []
    assert ref.cell._saved is None
    assert ref.cell.books().holds


async def test_the_hooks_of_a_given_up_instance_run_on_its_own_thread_when_its_handler_returns(
    system: ActorSystem, book: Book
) -> None:
    class Failing(Timed):
        def on_start(self) -> None:
            book.notes.append(("on_start", threading.get_ident()))

        def on_failure(
            self,
            exception_type: type[BaseException] | None,
            exception_value: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            book.notes.append((type(exception_value).__name__, threading.get_ident()))
            self.ref.tell(Note(-1))

    ref = supervised(system, book, actor=Failing)
    block = book.acts["block"] = Blocker()
    ref.tell(Through("block"))
    await anyio.to_thread.run_sync(block.begun.wait)
    first = cell_of(ref)._thread
    time_is_up(ref)
    await running(ref)
    second = cell_of(ref)._thread
    assert first is not None
    assert second is not None
    block.gate.set()
    await anyio.to_thread.run_sync(first.thread.join)
    own, other = first.thread.ident, second.thread.ident
    assert book.notes == [("on_start", own), ("on_start", other), ("HandlerTimeout", own)]
    while ref.cell.failed < 2:  # its send was refused
        await anyio.lowlevel.checkpoint()


async def test_a_deadline_without_a_supervisor_is_the_end(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Timed, book)
    reason = watch(system, ref)
    block = book.acts["block"] = Blocker()
    held, waits = ref.ask(Through("block"), block=False), ref.ask(Note(1), block=False)
    await anyio.to_thread.run_sync(block.begun.wait)
    time_is_up(ref)
    with pytest.raises(HandlerFailed):
        await held
    with pytest.raises(Dead):
        await waits
    assert await reason == "timeout"
    block.gate.set()
    await ended(ref)


async def test_a_handler_that_ended_while_the_loop_was_held_up_was_not_too_slow(
    system: ActorSystem, book: Book
) -> None:
    ref = supervised(system, book, actor=Timed)
    for fails in (False, True):
        block = Blocker()

        def act(actor: Worker, block: Blocker = block, fails: bool = fails) -> str:
            block(actor)
            if fails:
                raise ValueError
            return "let go"

        book.acts["act"] = act
        held = ref.ask(Through("act"), block=False)
        await anyio.to_thread.run_sync(block.begun.wait)
        hold_until_returned(ref, block)
        time_is_up(ref)
        if fails:
            with pytest.raises(HandlerFailed) as failure:
                await held
            assert isinstance(failure.value.__cause__, ValueError)
        else:
            assert await held == "let go"
    assert ref.cell.abandoned == 0


def hold_until_returned(ref: ActorRef[Any], block: Blocker) -> None:
    """Hold the loop until the handler has returned, so that it does not know of it."""
    call = cell_of(ref)._call
    assert call is not None
    block.gate.set()
    while not call.ended:
        pass


async def test_an_outcome_that_comes_too_late_is_not_taken_for_the_next_incarnations(
    system: ActorSystem, book: Book
) -> None:
    ref = supervised(system, book, actor=Timed)
    late, block = Blocker(), Blocker()
    blockers = [late, block]
    book.acts["block"] = lambda actor: (blocker := blockers.pop(0))(actor) and blocker
    asked = [ref.ask(Through("block"), block=False) for _ in range(2)]
    await anyio.to_thread.run_sync(late.begun.wait)
    first = cell_of(ref)._thread
    assert first is not None
    time_is_up(ref)
    await anyio.to_thread.run_sync(block.begun.wait)
    late.gate.set()
    await anyio.to_thread.run_sync(first.thread.join)
    await anyio.wait_all_tasks_blocked()
    assert not asked[1].done()
    assert (ref.cell.books().open, ref.cell.handled) == (1, 0)
    block.gate.set()
    assert await asked[1] is block
    with pytest.raises(HandlerFailed):
        await asked[0]


async def test_a_handler_that_has_returned_when_it_is_killed_has_handled_its_message(
    system: ActorSystem, book: Book
) -> None:
    other = system.spawn(Recorder, Book())
    ref = system.spawn(Worker, book)
    block = Blocker()

    def act(actor: Worker) -> str:
        other.tell(Note(1))
        return block(actor)

    book.acts["act"] = act
    held = ref.ask(Through("act"), block=False)
    await anyio.to_thread.run_sync(block.begun.wait)
    hold_until_returned(ref, block)
    ref.cell.end("killed")
    assert await held == "let go"
    assert await other.call(Read()) == [1]
    assert ref.cell.abandoned == 0


async def test_a_restart_that_takes_long_does_not_hold_the_loop(system: ActorSystem, book: Book) -> None:
    block = Blocker()
    other = system.spawn(Recorder, Book())

    class Slow(Worker):
        def on_start(self) -> None:
            if self.cell.restarts:
                block(self)

    ref = supervised(system, book, actor=Slow)
    ref.tell(Fail())
    waits = ref.ask(Note(1), block=False)
    await anyio.to_thread.run_sync(block.begun.wait)
    assert await other.call(Note(2)) == 2
    assert ref.cell.state == "restarting"
    block.gate.set()
    assert await waits == 1


# -- supervision ---------------------------------------------------------------------------------


class Watcher(AnyioActor):
    """Hears why the one that it watches has ended."""

    def __init__(self, ref: ActorRef[Any]) -> None:
        super().__init__(ref)
        self.watched = ref
        self.heard = ActorFuture[str]()

    def on_start(self) -> None:
        self.watch(self.watched)

    def on_terminated(self, message: Terminated) -> None:
        self.heard.try_set(message.reason)


def watch(system: ActorSystem, ref: ActorRef[Any]) -> ActorFuture[str]:
    """The reason of its end, when it has come."""
    watcher = system.spawn(Watcher, ref).cell.actor
    assert isinstance(watcher, Watcher)
    return watcher.heard


async def exit_normally(system: ActorSystem, ref: ActorRef[Any], book: Book) -> None:
    book.acts["stop"] = lambda actor: actor.stop()
    await ref.call(Through("stop"))


async def exit_by_shutdown(system: ActorSystem, ref: ActorRef[Any], book: Book) -> None:
    assert await system.stop(ref, 60)


async def exit_by_kill(system: ActorSystem, ref: ActorRef[Any], book: Book) -> None:
    assert await system.kill(ref)


async def exit_by_error(system: ActorSystem, ref: ActorRef[Any], book: Book) -> None:
    with pytest.raises(HandlerFailed):
        await ref.call(Fail())


async def exit_by_timeout(system: ActorSystem, ref: ActorRef[Any], book: Book) -> None:
    block = book.acts["block"] = Blocker()
    held = ref.ask(Through("block"), block=False)
    await anyio.to_thread.run_sync(block.begun.wait)
    time_is_up(ref)
    block.gate.set()
    with pytest.raises(HandlerFailed):
        await held


EXITS: dict[str, Callable[[ActorSystem, ActorRef[Any], Book], Awaitable[None]]] = {
    "normal": exit_normally,
    "shutdown": exit_by_shutdown,
    "killed": exit_by_kill,
    "error": exit_by_error,
    "timeout": exit_by_timeout,
}


@pytest.mark.parametrize("how", EXITS)
@pytest.mark.parametrize("restart", ["permanent", "transient", "temporary"])
async def test_the_table_of_restarts_holds_on_a_thread(
    system: ActorSystem, book: Book, how: ExitReason, restart: Restart
) -> None:
    ref = supervised(system, book, actor=Timed, restart=restart)
    reason = watch(system, ref)
    await EXITS[how](system, ref, book)
    if how in RESTARTED_AFTER[restart]:
        assert await ref.call(Note(1)) == 1
        assert ref.cell.generation == 2
    else:
        assert await reason == how
        assert not ref.is_alive()
        await ended(ref)
    stopped = [note for note in book.notes if str(note).startswith("stopped")]
    assert len(stopped) == (how in ("normal", "shutdown", "killed"))
    assert ref.cell.books().holds


@pytest.mark.parametrize("restart", ["permanent", "transient"])
async def test_a_stop_of_one_that_is_down_follows_the_table(system: ActorSystem, book: Book, restart: Restart) -> None:
    ref = supervised(system, book, restart=restart, backoff=Backoff(first_s=3600.0))
    book.raising["on_start"] = "ValueError"
    ref.tell(Fail())
    while ref.cell.generation < 2 or cell_of(ref)._call is not None:
        await anyio.lowlevel.checkpoint()
    assert await system.stop(ref)
    assert ref.is_alive() == (restart == "permanent")


async def test_one_that_is_ended_while_it_starts_stops_when_it_has_started(system: ActorSystem, book: Book) -> None:
    block = Blocker()

    class Slow(Worker):
        def on_start(self) -> None:
            if self.cell.restarts:
                block(self)

    ref = supervised(system, book, actor=Slow, shutdown_s=0.0)
    ref.tell(Fail())
    await anyio.to_thread.run_sync(block.begun.wait)
    assert await stop_child(system)
    block.gate.set()
    await ended(ref)
    assert book.notes == ["stopped sup/it on sup/it"]
    assert ref.cell.generation == 2


async def test_an_on_stop_that_never_ends_has_until_the_drains_deadline(system: ActorSystem, book: Book) -> None:
    block = Blocker()

    class Staying(Worker):
        def on_stop(self) -> None:
            block(self)

    ref = system.spawn(Staying, book)
    assert await system.stop(ref, 0.01)
    assert ref.cell.abandoned == 1
    block.gate.set()
    await ended(ref)


def group(system: ActorSystem, strategy: Strategy, specs: list[ChildSpec]) -> list[ActorRef[Any]]:
    system.spawn(Supervisor, specs, strategy=strategy, name="sup")
    return [system.get(f"sup/{spec.name}") for spec in specs]


async def test_a_group_takes_a_thread_down_with_it(system: ActorSystem, book: Book) -> None:
    head, ref = group(system, "one_for_all", [ChildSpec("head", Recorder, (Book(),)), ChildSpec("it", Worker, (book,))])
    first = ref.cell.actor
    head.tell(Fail())
    ref.tell(Note(1))
    assert await ref.call(Note(2)) == 2
    assert ref.cell.actor is not first
    notes = [note for note in book.notes if note != 1]
    assert notes == ["stopped sup/it on sup/it", 2]
    assert ref.cell.books().holds


async def test_a_group_does_not_wait_for_a_handler_on_a_thread(system: ActorSystem, book: Book) -> None:
    letters: list[DeadLetter] = []
    system.subscribe_dead_letters(letters.append)
    head, ref = group(system, "one_for_all", [ChildSpec("head", Recorder, (Book(),)), ChildSpec("it", Worker, (book,))])
    block = book.acts["block"] = Blocker()
    held, waits = ref.ask(Through("block"), block=False), ref.ask(Note(2), block=False)
    await anyio.to_thread.run_sync(block.begun.wait)
    with pytest.raises(HandlerFailed):
        await head.call(Fail())
    with pytest.raises(HandlerFailed):
        await held
    assert await waits == 2
    assert [letter.reason for letter in letters] == ["crashed", "restarted"]
    assert ref.cell.abandoned == 1
    block.gate.set()
    while len(book.notes) < 2:
        await anyio.lowlevel.checkpoint()
    assert book.notes == [2, "stopped sup/it on sup/it"]


async def test_those_behind_a_thread_wait_until_it_has_started_again(system: ActorSystem, book: Book) -> None:
    block = Blocker()

    class Slow(Worker):
        def on_start(self) -> None:
            if self.cell.restarts:
                block(self)

    ref, behind = group(
        system, "rest_for_one", [ChildSpec("it", Slow, (book,)), ChildSpec("behind", Recorder, (Book(),))]
    )
    ref.tell(Fail())
    await anyio.to_thread.run_sync(block.begun.wait)
    assert (behind.cell.state, behind.cell.generation) == ("restarting", 1)
    block.gate.set()
    assert await behind.call(Note(1)) == 1
    assert (ref.cell.state, behind.cell.generation) == ("running", 2)


async def test_a_message_that_crashes_it_is_tried_once_more(system: ActorSystem, book: Book) -> None:
    letters: list[DeadLetter] = []
    system.subscribe_dead_letters(letters.append)
    ref = supervised(system, book, actor=Timed, on_poison="retry_once")
    ref.tell(Fail())
    assert await ref.call(Note(1)) == 1
    assert ([letter.reason for letter in letters], ref.cell.restarts) == (["crashed"], 2)
    block = book.acts["block"] = Blocker()
    held = ref.ask(Through("block"), block=False)
    await anyio.to_thread.run_sync(block.begun.wait)
    book.acts["block"] = lambda actor: "the second time"
    time_is_up(ref)
    assert await held == "the second time"
    block.gate.set()
    assert ref.cell.books().holds


# -- mail ----------------------------------------------------------------------------------------


async def test_every_message_is_counted_once_at_any_moment(system: ActorSystem, book: Book) -> None:
    class Small(Timed):
        max_mail: ClassVar[int] = 40
        overflow: ClassVar[Overflow] = "drop_oldest"

    ref = supervised(system, book, actor=Small, backoff=Backoff(immediate=10_000))
    chance = random.Random(5)
    sent = 0
    for _ in range(300):
        for _ in range(chance.randrange(8)):
            ref.tell(chance.choice([Note(1), Note(2), Note(3), Fail("SystemExit")]))
            sent += 1
        if chance.random() < 0.05:
            system.kill(ref)
        books = ref.cell.books()
        assert books.holds, books
        assert books.received == sent
        await anyio.lowlevel.checkpoint()
    while ref.cell.books().open:
        assert ref.cell.books().holds
        await anyio.lowlevel.checkpoint()
    assert await stop_child(system)
    books = ref.cell.books()
    assert books.holds, books
    assert books.received == sent
    handled = sum(isinstance(note, int) for note in book.notes)
    assert books.handled <= handled <= books.handled + books.dead.get("restarted", 0)
    assert books.dead["crashed"]


async def test_the_bulk_lane_waits_for_the_others_on_a_thread_too(system: ActorSystem, book: Book) -> None:
    class Bulky(Worker):
        bulk: ClassVar[frozenset[type]] = frozenset({Note})
        max_bulk: ClassVar[int] = 2

    block = book.acts["block"] = Blocker()
    ref = system.spawn(Bulky, book)
    ref.tell(Through("block"))
    await anyio.to_thread.run_sync(block.begun.wait)
    for n in range(3):
        ref.tell(Note(n))
    asked = ref.ask(Read(), block=False)
    block.gate.set()
    assert await asked == []
    while ref.cell.books().open:
        await anyio.lowlevel.checkpoint()
    assert book.notes == [1, 2]
    assert ref.cell.books().dropped == {"overflow": 1}


async def test_a_flood_of_user_mail_does_not_starve_the_bulk_lane_of_a_thread(system: ActorSystem, book: Book) -> None:
    class Bulky(Worker):
        bulk: ClassVar[frozenset[type]] = frozenset({Note})

    block = book.acts["block"] = Blocker()
    book.acts["flood"] = lambda actor: book.notes.append("flood")
    ref = system.spawn(Bulky, book)
    ref.tell(Through("block"))
    await anyio.to_thread.run_sync(block.begun.wait)
    for n in range(2):
        ref.tell(Note(n))
    for _ in range(30):
        ref.tell(Through("flood"))
    block.gate.set()
    while ref.cell.books().open:
        await anyio.lowlevel.checkpoint()
    flood = ["flood"] * OVERTAKES
    assert book.notes[: 2 * OVERTAKES + 2] == [*flood, 0, *flood, 1]


async def test_an_ask_that_would_come_back_is_refused(system: ActorSystem, book: Book) -> None:
    first, second = system.spawn(Worker, book, name="first"), system.spawn(Worker, book, name="second")
    paths: list[tuple[str, ...]] = []

    def ask(ref: ActorRef[Any]) -> Any:
        try:
            return ref.ask(Through("back"))
        except CyclicAsk as error:
            paths.append(error.path)
            return "refused"

    book.acts["there"] = lambda actor: ask(second)
    book.acts["back"] = lambda actor: ask(first)
    assert await first.call(Through("there")) == "refused"
    assert await first.call(Through("back")) == "refused"
    assert paths == [("first", "second", "first"), ("first", "first")]


async def test_the_time_that_is_left_for_an_answer_travels_on(system: ActorSystem, book: Book) -> None:
    def due_s(actor: Any) -> float:
        letter = actor.cell.current
        assert letter is not None
        return float(letter.due_s)

    other = system.spawn(Recorder, book)
    ref = system.spawn(Worker, book)
    book.acts["due"] = due_s
    book.acts["ask"] = lambda actor: (due_s(actor), other.ask(Through("due"), timeout=3600.0))
    own, others = await ref.call(Through("ask"), timeout_s=60.0)
    assert own == others


async def test_a_crash_and_an_inspection_come_between_two_messages(system: ActorSystem, book: Book) -> None:
    ref = supervised(system, book)
    lasts: list[Callable[[Blocker], object]] = [lambda block: block.gate.set(), lambda block: system.kill(ref)]
    for last in lasts:
        block = book.acts["block"] = Blocker()
        ref.tell(Through("block"))
        await anyio.to_thread.run_sync(block.begun.wait)
        system.crash(ref)
        seen = system.inspect(ref)
        await anyio.wait_all_tasks_blocked()
        assert not seen.done()
        assert ref.cell.state == "running"
        last(block)
        assert (await seen).statistics.name == "sup/it"
        await running(ref)
        block.gate.set()
    assert ref.cell.generation == 3


async def test_one_that_dies_is_not_inspected_any_more(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Worker, book)
    block = book.acts["block"] = Blocker()
    ref.tell(Through("block"))
    await anyio.to_thread.run_sync(block.begun.wait)
    seen = system.inspect(ref)
    await anyio.wait_all_tasks_blocked()
    assert await system.kill(ref)
    with pytest.raises(Dead):
        await seen
    block.gate.set()
    await ended(ref)


async def test_what_it_cannot_decode_is_a_dead_letter_and_no_crash(system: ActorSystem, book: Book) -> None:
    letters: list[DeadLetter] = []
    system.subscribe_dead_letters(letters.append)
    ref = supervised(system, book)
    ref.forward(b"nonsense")
    assert await ref.call(Note(1)) == 1
    assert ([letter.reason for letter in letters], ref.cell.restarts) == (["undecodable"], 0)


def test_asynchronous_handlers_and_groups_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(DeclarationError):

        class Asynchronous(ThreadingActor):
            async def on_note(self, message: Note) -> None: ...

    with pytest.raises(DeclarationError):

        class Grouped(ThreadingActor):
            groups: ClassVar[Mapping[str, GroupSpec]] = {"jobs": GroupSpec()}


# -- a start that hangs --------------------------------------------------------------------------


class Hanging(Worker):
    """Its second incarnation hangs as it starts, until the test lets go."""

    def on_start(self) -> None:
        self.book.notes.append("start")
        if self.book.notes.count("start") == 2:
            self.book.running.release()
            assert RELEASED.wait(60)


RELEASED = threading.Event()


async def hang(system: ActorSystem, book: Book, child: type[Worker], *others: ChildSpec, **options: Any) -> Any:
    RELEASED.clear()
    backoff = Backoff(immediate=100, first_s=0.001, max_s=0.001)
    system.spawn(Supervisor, [*others, ChildSpec("it", child, (book,), backoff=backoff)], name="s", **options)
    ref = system.get("s/it")
    ref.tell(Fail())
    while not book.running.acquire(blocking=False):
        await anyio.lowlevel.checkpoint()
    return ref


@pytest.mark.parametrize("end", ["kill", "deadline"])
async def test_a_restart_that_hangs_as_it_starts_has_failed_when_it_is_killed_or_overdue(
    system: ActorSystem, book: Book, end: str
) -> None:
    class Timed(Hanging):
        handler_timeout_s: ClassVar[float | None] = 0.01

    ref = await hang(system, book, Hanging if end == "kill" else Timed)
    if end == "kill":
        assert await system.kill(ref)
    assert await ref.call(Note(7)) == 7
    assert ref.cell.generation == 3
    assert ref.cell.abandoned == 1
    RELEASED.set()


async def test_a_child_that_is_being_started_goes_down_with_its_group(system: ActorSystem, book: Book) -> None:
    class Before(Recorder):
        """The one before it in start order."""

    waits = Backoff(immediate=0, first_s=0.02, max_s=0.02, jitter=0)
    before = ChildSpec("before", Before, (Book(),), backoff=waits)
    ref = await hang(system, book, Hanging, before, strategy="rest_for_one")
    other = system.get("s/before")
    other.tell(Fail())
    while other.cell.state == "running":
        await anyio.lowlevel.checkpoint()
    RELEASED.set()
    assert ref.cell.state == "restarting"
    assert ref.cell.abandoned == 1
    assert await ref.call(Note(7)) == 7
    assert other.cell.state == "running"
    assert ref.cell.generation == 3
