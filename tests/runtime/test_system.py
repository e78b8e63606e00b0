from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pykka
import pytest

from rtvi_actors.errors import Dead, NoSystem, StartFailed, WouldBlock
from rtvi_actors.runtime.actor import current_host
from rtvi_actors.runtime.context import later
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.signals import DeadLetter
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem, start_blocking_system
from tests.runtime.messages import Book, Fail, Forward, Hold, Note, Plain, Read, Recorder, Through, settle

anyio_test = pytest.mark.anyio

PATIENCE_S = 30.0
"""When a test gives up on a thread that hangs."""


# -- opening and closing -----------------------------------------------------------------


@anyio_test
async def test_it_stops_what_is_left_the_newest_first(book: Book) -> None:
    async with ActorSystem() as system:
        system.spawn(Recorder, book, name="first")
        specs = [ChildSpec("a", Recorder, (book,)), ChildSpec("b", Recorder, (book,))]
        system.spawn(Supervisor, specs, name="s")
        last = system.spawn(Recorder, book, name="last")
        last.tell(Note(1))
    assert book.notes == [1, "stopped last", "stopped s/b", "stopped s/a", "stopped first"]
    assert pykka.ActorRegistry.get_all() == []


@anyio_test
async def test_closing_drains_and_a_deadline_bounds_it(book: Book) -> None:
    async with ActorSystem(drain_s=0.001) as system:
        ref = system.spawn(Recorder, book)
        for n in range(10):
            ref.tell(Note(n))
        held = ref.ask(Hold(1), block=False)
        await book.begun.wait()
    assert book.notes == [*range(10), ("begun", 1), "stopped Recorder"]
    with pytest.raises(Dead):
        await held


@anyio_test
async def test_an_error_in_the_body_comes_out_as_it_is(book: Book) -> None:
    async def main() -> None:
        async with ActorSystem() as system:
            system.spawn(Recorder, book, name="it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await main()
    assert book.notes == ["stopped it"]


@anyio_test
async def test_a_cancelled_body_still_closes_in_order(book: Book) -> None:
    with anyio.CancelScope() as scope:
        async with ActorSystem() as system:
            ref = system.spawn(Recorder, book, name="it")
            ref.tell(Note(1))
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert book.notes == [1, "stopped it"]


@anyio_test
async def test_a_closed_system_starts_nobody_and_the_dead_answer(book: Book) -> None:
    async with ActorSystem() as system:
        ref = system.spawn(Recorder, book)
    for spawn in (lambda: system.spawn(Recorder, book), lambda: Recorder.start(book)):
        with pytest.raises(NoSystem):
            spawn()
    with pytest.raises(Dead):
        await ref.call(Read())

    def from_a_thread() -> None:
        with pytest.raises(Dead):
            ref.ask(Read(), timeout=60)
        with pytest.raises(NoSystem):
            system.spawn(Recorder, book)
        assert system.kill(ref).get() is False

    await anyio.to_thread.run_sync(from_a_thread)


@anyio_test
async def test_a_system_that_closes_starts_nobody(book: Book) -> None:
    """An actor that starts another as it stops would keep it from ever being done."""
    outcomes: list[str] = []

    class Reborn(Recorder):
        def on_stop(self) -> None:
            for start in (lambda: system.spawn(Reborn, book), lambda: Reborn.start(book)):
                try:
                    start()
                    outcomes.append("started")
                except NoSystem:
                    outcomes.append("refused")

    async with ActorSystem() as system:
        first = system.spawn(Reborn, book)
        await system.stop(first)
        assert outcomes == ["started", "started"]
        assert len(system.registry) == 2
    assert outcomes == ["started", "started", *["refused"] * 4]
    assert len(system.registry) == 0


@anyio_test
async def test_a_supervisor_may_start_a_child_that_a_closing_system_will_stop(book: Book) -> None:
    def start_another(actor: Any) -> None:
        supervisor = system.get("s").cell.actor
        assert isinstance(supervisor, Supervisor)
        supervisor.start_child(ChildSpec("more", Recorder, (book,)))

    async with ActorSystem() as system:
        system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="s")
        system.spawn(Recorder, book, name="last")
        book.acts["start"] = start_another
        system.get("last").tell(Through("start"))  # handled as it drains
    assert book.notes == ["stopped last", "stopped s/more", "stopped s/it"]


@anyio_test
async def test_systems_can_be_nested_and_each_has_its_own(book: Book) -> None:
    async with ActorSystem() as outer:
        first = outer.spawn(Recorder, book, name="it")
        async with ActorSystem() as inner:
            other = Book()
            second = inner.spawn(Recorder, other, name="it")
            assert current_host() is inner
            first.tell(Note(1))
            second.tell(Note(2))
        assert current_host() is outer
        assert other.notes == [2, "stopped it"]
        assert await first.call(Read()) == [1]
    with pytest.raises(NoSystem):
        current_host()


# -- from threads ------------------------------------------------------------------------


@anyio_test
async def test_a_foreign_thread_spawns_stops_and_is_told_of_failures(system: ActorSystem, book: Book) -> None:
    def work() -> None:
        ref = system.spawn(Recorder, book, name="it")
        for n in range(100):
            ref.tell(Note(n))
        assert ref.ask(Read()) == list(range(100))
        assert system.stop(ref).get()
        assert not ref.is_alive()
        book.raising["on_start"] = "SystemExit"
        with pytest.raises(StartFailed):
            system.spawn(Recorder, book)
        book.raising["init"] = "KeyboardInterrupt"
        with pytest.raises(StartFailed):
            Recorder.start(book)

    await anyio.to_thread.run_sync(work)


@anyio_test
async def test_run_async_gives_a_future_of_the_result_or_the_error(system: ActorSystem) -> None:
    async def give() -> int:
        await anyio.lowlevel.checkpoint()
        return 4

    async def fail() -> None:
        raise SystemExit

    assert await system.run_async(give) == 4
    assert await anyio.to_thread.run_sync(lambda: system.run_async(give).get()) == 4
    with pytest.raises(SystemExit):
        await system.run_async(fail)
    assert await system.run_async(give) == 4


@anyio_test
async def test_what_still_runs_at_the_end_is_told_so() -> None:
    async with ActorSystem() as system:
        future = system.run_async(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
    with pytest.raises(NoSystem):
        await future


@anyio_test
async def test_a_task_that_had_not_begun_at_the_end_is_told_so() -> None:
    async with ActorSystem() as system:
        future = system.run_async(anyio.sleep_forever)
    assert future.done()
    with pytest.raises(NoSystem):
        await future


@anyio_test
async def test_a_closed_system_runs_nothing_more_though_its_loop_goes_on() -> None:
    async with ActorSystem() as system:
        pass
    ran: list[int] = []

    def refused() -> None:
        with pytest.raises(NoSystem):
            system.run_async(anyio.sleep_forever)
        with pytest.raises(NoSystem):
            system.run_on_loop(lambda: ran.append(1))

    refused()
    await anyio.to_thread.run_sync(refused)
    assert not ran


class Took:
    """Takes the place of a backend's `soon_from_thread`: a loop that makes no more turns takes calls all the same."""

    def __init__(self, system: ActorSystem) -> None:
        self.call = threading.Event()
        system.backend.soon_from_thread = self  # type: ignore[method-assign]

    def __call__(self, callback: Any) -> None:
        self.call.set()


@anyio_test
async def test_who_waits_in_a_thread_for_a_loop_that_ends_is_told_so(book: Book) -> None:
    """The loop takes the calls, and never makes them."""
    outcomes: list[str] = []
    futures: list[Any] = []

    def attempt(work: Any) -> None:
        try:
            work()
        except NoSystem:
            outcomes.append("told")

    async with ActorSystem(watchdog_s=None) as system:
        took = Took(system)
        works = [
            lambda: system.run_on_loop(lambda: outcomes.append("ran")),
            lambda: system.spawn(Recorder, book),
            lambda: futures.append(system.run_async(anyio.sleep_forever)),
        ]
        threads = [threading.Thread(target=attempt, args=(work,), daemon=True) for work in works]
        for thread in threads:
            thread.start()
        took.call.wait()
        threads[-1].join()
    for thread in threads[:-1]:
        await anyio.to_thread.run_sync(partial(thread.join, PATIENCE_S))
        assert not thread.is_alive()
    assert outcomes == ["told", "told"]
    with pytest.raises(NoSystem):
        await futures[0]


@anyio_test
async def test_a_stop_and_an_inspection_that_come_too_late_are_answered(book: Book) -> None:
    """They left their thread when the actor lived, and arrive when its loop takes calls that it never makes."""
    async with ActorSystem(watchdog_s=None) as system:
        ref = system.spawn(Recorder, book)
        Took(system)
        on_their_way: list[Any] = []

        def send() -> None:
            on_their_way.extend([system.kill(ref), system.stop(ref), system.inspect(ref)])
            system.crash(ref)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
    killed, stopped, inspected = on_their_way
    assert [future.done() for future in on_their_way] == [True] * 3
    assert (await killed, await stopped) == (False, False)
    with pytest.raises(Dead):
        await inspected


@anyio_test
async def test_another_event_loop_may_not_block_for_this_one(system: ActorSystem, book: Book) -> None:
    def elsewhere() -> None:
        async def main() -> None:
            with pytest.raises(WouldBlock):
                system.spawn(Recorder, book)
            assert current_host() is system  # the newest of the process

        anyio.run(main)

    await anyio.to_thread.run_sync(elsewhere)
    assert len(system.registry) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_blocking_system_serves_plain_threads(backend: Any, book: Book) -> None:
    with start_blocking_system(backend=backend) as system:
        first = system.spawn(Recorder, book, name="first")
        second = Plain.start()
        assert first.ask(Note(1)) == 1
        assert second.ask("object") == "object"
        assert second.proxy().double(2).get() == 4
        assert second.stop()
        system.spawn(Recorder, book, name="last")
    assert book.notes == [1, "stopped last", "stopped first"]
    with pytest.raises(NoSystem):
        system.spawn(Recorder, book)
    with pytest.raises(NoSystem):
        system.run_async(anyio.sleep_forever)


def test_an_error_in_the_body_of_a_blocking_system_closes_it(book: Book) -> None:
    def main() -> None:
        with start_blocking_system() as system:
            system.spawn(Recorder, book, name="it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()
    assert book.notes == ["stopped it"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_letters_on_their_way_when_the_system_closes_are_answered(backend: Any, book: Book) -> None:
    """Four threads ask until they are told that the actor is dead: every single ask gets an answer at once."""
    outcomes: list[str] = []
    started = threading.Barrier(5)

    def ask() -> None:
        started.wait()
        while True:
            try:
                ref.ask(Note(1), timeout=60)
            except Dead:
                outcomes.append("dead")
                return

    with start_blocking_system(backend=backend) as system:
        ref = system.spawn(Recorder, book)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait()
    for thread in threads:
        thread.join()
    assert outcomes == ["dead"] * 4


# -- people ------------------------------------------------------------------------------


@anyio_test
async def test_a_subscriber_of_dead_letters_that_raises_harms_nobody(system: ActorSystem, book: Book) -> None:
    def fail(letter: Any) -> None:
        raise SystemExit

    seen: list[Any] = []
    system.subscribe_dead_letters(fail)
    system.subscribe_dead_letters(seen.append)
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="s")
    ref = system.get("s/it")
    ref.tell(Fail())
    assert await ref.call(Note(1)) == 1
    assert [letter.reason for letter in seen] == ["crashed"]


class Full(Recorder):
    """Has room for one message; the next one takes its place."""

    overflow = "drop_oldest"
    max_mail = 1


async def make_full(system: ActorSystem, name: str = "full") -> ActorRef[Full]:
    """An actor that waits for its restart, which does not come, and has a message."""
    backoff = Backoff(immediate=0, first_s=3600.0, max_s=3600.0)
    system.spawn(Supervisor, [ChildSpec("it", Full, (Book(),), backoff=backoff)], name=name)
    ref = system.get(f"{name}/it")
    ref.tell(Fail())
    await settle(system)
    ref.tell(Note(0))
    return ref


@anyio_test
async def test_a_subscriber_that_leaves_as_it_is_told_costs_the_next_one_no_dead_letter(system: ActorSystem) -> None:
    full, heard = await make_full(system), list[str]()

    def once(letter: DeadLetter) -> None:
        heard.append("once")
        leave()

    leave = system.subscribe_dead_letters(once)
    system.subscribe_dead_letters(lambda letter: heard.append("always"))
    for n in range(2):
        full.tell(Note(n))
    assert heard == ["once", "always", "always"]


@pytest.mark.parametrize("staged", [True, False])
@anyio_test
async def test_a_subscriber_that_sends_to_a_full_mailbox_hears_nothing_of_what_that_drops(
    system: ActorSystem, book: Book, staged: bool
) -> None:
    full, heard = await make_full(system), list[str]()

    def audit(letter: DeadLetter) -> None:
        assert len(heard) < 100, "without end"
        heard.append(letter.reason)
        full.tell(Note(-1))
        full.tell(Note(-2))

    system.subscribe_dead_letters(audit)
    if staged:
        await system.spawn(Recorder, book).call(Forward(full, 1))
    else:
        full.tell(Note(1))
    assert heard == ["overflow"]
    await settle(system)
    assert heard == ["overflow"]
    assert system.dead_letters == 1 + 3  # the one that it crashed on
    assert full.cell.books().holds
    assert [msgspec.msgpack.decode(letter.body)["n"] for letter in full.cell.mailbox.user] == [-2]


@anyio_test
async def test_what_else_is_lost_while_they_are_told_they_are_told_afterwards(system: ActorSystem, book: Book) -> None:
    full, other = await make_full(system), await make_full(system, "other")
    heard: list[str] = []

    class Starts(Recorder):
        def on_start(self) -> None:
            other.tell(Note(1))

    def start(letter: DeadLetter) -> None:
        heard.append(f"in {letter.receiver}")
        if letter.receiver == "full/it":
            system.spawn(Starts, book)
        heard.append("out")

    unsubscribe = system.subscribe_dead_letters(start)
    full.tell(Note(1))
    assert heard == ["in full/it", "out"]
    assert not system.idle
    await settle(system)
    assert heard == ["in full/it", "out", "in other/it", "out"]
    unsubscribe()


@anyio_test
async def test_a_subscriber_that_asks_at_the_end_of_all_is_answered() -> None:
    answers: list[ActorFuture[Any]] = []
    async with ActorSystem(drain_s=0) as system:
        full = await make_full(system)
        system.subscribe_dead_letters(lambda letter: answers.append(other.ask(Read(), block=False)))
        other = system.spawn(Recorder, Book())
        full.tell(Note(1))
    assert len(answers) == 2  # the one that waits is lost at the end
    assert all(answer.done() for answer in answers)


@anyio_test
async def test_what_a_subscriber_sends_in_vain_is_logged_and_the_rest_leaves(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    full, ref = await make_full(system), system.spawn(Recorder, book)

    def fail(_: Any) -> None:
        raise SystemExit

    def send(letter: DeadLetter) -> None:
        later(fail, None)
        ref.tell(Note(1))

    system.subscribe_dead_letters(send)
    full.tell(Note(1))
    await settle(system)
    assert book.notes == [1]
    assert "what a subscriber of the dead letters sent did not leave" in caplog.text


# -- Ctrl-C ------------------------------------------------------------------------------


def interrupted(where: str, backend: str) -> list[str]:
    command = [sys.executable, "-m", "tests.runtime.interrupted", where, backend]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    return run.stdout.splitlines()


ROOT = Path(__file__).parents[2]
BACKENDS = ["asyncio", "asyncio+uvloop", "trio", "bare"]
IN_ORDER = ["the body ends", "stopped s/b", "stopped s/a", "interrupted True"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["handler", "async", "body"])
def test_a_real_ctrl_c_ends_the_program_in_order_wherever_it_lands(where: str, backend: str) -> None:
    lines = interrupted(where, backend)
    landed = {"handler": "the handler went on", "async": "the asynchronous handler went on"}.get(where)
    if landed is not None:
        lines.remove(landed)
    assert lines == IN_ORDER


@pytest.mark.parametrize("backend", ["trio", "bare"])
def test_a_second_ctrl_c_ends_the_handler_that_holds_up_the_end(backend: str) -> None:
    assert interrupted("twice", backend) == ["the handler went on", *IN_ORDER]


def test_somebody_elses_handler_of_sigint_stays() -> None:
    def theirs(signum: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGINT, theirs)
    loop = asyncio.new_event_loop()
    try:

        async def main() -> None:
            async with ActorSystem():
                assert signal.getsignal(signal.SIGINT) is theirs

        loop.run_until_complete(main())
        assert signal.getsignal(signal.SIGINT) is theirs
    finally:
        loop.close()
        signal.signal(signal.SIGINT, before)
