"""Time is a number, ready tasks go on in a chosen order, and nothing real can be reached."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rtvi_actors.errors import ActorError, AskTimeout, RealIo, Stalled
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.simulation import SimulatedSystem
from tests.runtime.worlds import Question, Sum, Work, passed, run


def test_tasks_that_are_ready_together_go_on_in_any_order_and_callbacks_in_theirs() -> None:
    tasks, callbacks = set(), set()

    async def story(system: SimulatedSystem) -> None:
        seen: list[int] = []
        called: list[int] = []

        async def task(n: int) -> None:
            seen.append(n)

        async with anyio.create_task_group() as group:
            for n in range(3):
                asyncio.get_running_loop().call_soon(called.append, n)
            for n in range(3):
                group.start_soon(task, n)
        tasks.add(tuple(seen))
        callbacks.add(tuple(called))

    for seed in range(60):
        passed(story, seed=seed)
    assert len(tasks) == 6
    assert callbacks == {(0, 1, 2)}


def test_tasks_that_are_cancelled_together_end_in_an_order_that_no_address_decides() -> None:
    """anyio keeps the tasks of a scope in a set."""
    orders = []

    async def story(system: SimulatedSystem) -> None:
        ended: list[int] = []

        async def task(n: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(n)

        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(task, n)
            await anyio.sleep(1)
            group.cancel_scope.cancel()
        orders.append(ended)

    for _ in range(3):
        ballast = [object() for _ in range(random.randrange(1000))]
        passed(story, schedule={})
        del ballast
    assert orders == [list(range(50))] * 3


def test_an_hour_of_sleep_takes_a_few_turns() -> None:
    async def story(system: SimulatedSystem) -> None:
        await anyio.sleep(3600)
        assert anyio.current_time() == 3600
        assert system.backend.now() == 3600

    assert passed(story).turns < 20


def test_an_ask_that_nobody_answers_ends_at_its_deadline() -> None:
    class Silent(AnyioActor):
        async def on_question(self, question: Question) -> None:
            await anyio.sleep_forever()

    async def story(system: SimulatedSystem) -> None:
        with pytest.raises(AskTimeout):
            await system.spawn(Silent).call(Question(), timeout_s=7)
        assert system.backend.now() == 7

    passed(story)


def test_what_waits_for_nothing_is_named_and_its_finally_clauses_run() -> None:
    ended = []

    async def story(system: SimulatedSystem) -> None:
        try:
            await anyio.Event().wait()
        finally:
            ended.append(len(system.registry))

    error = run(story).error
    assert isinstance(error, Stalled)
    assert error.waiting[0].startswith("story waits in test_virtual.py:")
    assert error.waiting[0].endswith(" story")
    assert ended == [0]


def test_a_handler_that_waits_for_ever_is_named_with_the_mail_behind_it() -> None:
    class Stuck(AnyioActor):
        async def on_work(self, work: Work) -> None:
            await anyio.Event().wait()

    async def story(system: SimulatedSystem) -> None:
        ref = system.spawn(Stuck, name="stuck")
        ref.tell(Work(1))
        ref.tell(Work(2))
        await anyio.Event().wait()

    error = run(story).error
    assert isinstance(error, Stalled)
    assert "stuck:main waits in test_virtual.py" in str(error)
    assert "stuck (running) has 1 messages waiting" in str(error)


def test_a_run_that_never_ends_is_ended() -> None:
    ended = []

    async def story(system: SimulatedSystem) -> None:
        try:
            for _ in itertools.count():
                await anyio.sleep(0.1)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
                ended.append(system.spawn(Sum, []).is_alive())

    done = run(story, max_turns=500)
    assert ended == [True]
    assert isinstance(done.error, Stalled)
    assert "no end after" in str(done.error)


# -- nothing real --------------------------------------------------------------------------------


async def in_a_worker_thread() -> None:
    await anyio.to_thread.run_sync(int)


async def in_an_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, int)


async def in_a_thread() -> None:
    threading.Thread(target=int).start()


async def with_a_stream() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def with_a_server() -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def with_a_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.bind(("127.0.0.1", 0))


async def with_a_process() -> None:
    await anyio.run_process([sys.executable, "-V"])


async def with_a_blocking_process() -> None:
    subprocess.run([sys.executable, "-V"], check=False)  # noqa: ASYNC221 - that is the point


async def with_a_name() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


REAL = (
    in_a_worker_thread,
    in_an_executor,
    in_a_thread,
    with_a_stream,
    with_a_server,
    with_a_socket,
    with_a_process,
    with_a_blocking_process,
    with_a_name,
)


@pytest.mark.parametrize("real", REAL)
def test_what_is_real_raises_where_it_is_called_and_is_in_the_trace(real: Callable[[], Awaitable[None]]) -> None:
    async def story(system: SimulatedSystem) -> None:
        await real()

    done = run(story)
    assert isinstance(done.error, RealIo)
    assert any(" real i/o " in line for line in done.trace)


def test_outside_of_a_simulation_all_of_it_works_again() -> None:
    asyncio.run(in_a_worker_thread())
    asyncio.run(with_a_socket())


def test_another_thread_cannot_call_in() -> None:
    asked, said = threading.Event(), []
    loops: list[asyncio.AbstractEventLoop] = []

    def call() -> None:
        asked.wait()
        try:
            loops[0].call_soon_threadsafe(int)
        except RealIo as error:
            said.append(error)

    async def story(system: SimulatedSystem) -> None:
        loops.append(asyncio.get_running_loop())
        asked.set()
        thread.join()

    thread = threading.Thread(target=call)
    thread.start()
    passed(story)
    assert len(said) == 1


def test_its_errors_are_of_the_runtimes_tree() -> None:
    assert issubclass(RealIo, ActorError)
    assert str(Stalled("no more", ("a waits", "b waits"))) == "no more\na waits\nb waits"
