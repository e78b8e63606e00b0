from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pykka
import pytest

from rtvi_actors.errors import Dead, NoSystem, StartFailed, WouldBlock
from rtvi_actors.runtime.actor import current_host
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem, start_blocking_system
from tests.runtime.messages import Book, Fail, Hold, Note, Plain, Read, Recorder

anyio_test = pytest.mark.anyio


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
