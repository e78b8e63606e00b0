from __future__ import annotations

import operator
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pykka
import pytest

from rtvi_actors.errors import WouldBlock
from rtvi_actors.runtime.futures import ActorFuture

pytestmark = pytest.mark.anyio


def done(value: Any) -> ActorFuture[Any]:
    future: ActorFuture[Any] = ActorFuture()
    future.set(value)
    return future


def failed(error: BaseException) -> ActorFuture[Any]:
    future: ActorFuture[Any] = ActorFuture()
    future.try_fail(error)
    return future


async def set_when_waited_for(future: ActorFuture[Any], value: Any) -> Any:
    """Await it, and set it from another task once everybody waits."""
    outcome: list[Any] = []

    async def wait() -> None:
        outcome.append(await future)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        future.set(value)
    return outcome[0]


async def test_it_is_awaited_without_blocking_the_loop() -> None:
    assert await set_when_waited_for(ActorFuture(), 1) == 1


async def test_its_value_can_be_had_any_number_of_times() -> None:
    future = done(1)
    assert [await future, await future, future.get(), future.result()] == [1, 1, 1, 1]


async def test_its_error_is_raised_in_whoever_awaits() -> None:
    with pytest.raises(ValueError, match="bad"):
        await failed(ValueError("bad"))


async def test_a_second_set_raises_and_a_late_one_is_ignored() -> None:
    future = done(1)
    with pytest.raises(RuntimeError):
        future.set(2)
    with pytest.raises(RuntimeError):
        future.set_exception((ValueError, ValueError(), None))
    assert not future.try_set(2)
    assert not future.try_fail(ValueError())
    assert await future == 1


async def test_set_exception_takes_the_exception_that_is_being_handled() -> None:
    future: ActorFuture[Any] = ActorFuture()
    try:
        raise ValueError("handled")
    except ValueError:
        future.set_exception()
    with pytest.raises(ValueError, match="handled"):
        await future


async def test_a_blocking_get_on_the_loops_thread_raises_at_once() -> None:
    future: ActorFuture[Any] = ActorFuture()
    for pending in (future, future.map(str), future.join(done(1))):
        with pytest.raises(WouldBlock):
            pending.get(timeout=60)


async def test_a_blocking_get_in_a_thread_waits_for_the_value() -> None:
    future: ActorFuture[Any] = ActorFuture()
    waiting = threading.Event()
    future.when_done(lambda: None)

    def get() -> Any:
        waiting.set()
        return future.get(timeout=60)

    outcome: list[Any] = []
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            outcome.append(await anyio.to_thread.run_sync(get))

        tasks.start_soon(run)
        await anyio.to_thread.run_sync(waiting.wait)
        future.set(5)
    assert outcome == [5]


async def test_a_blocking_get_gives_up_as_pykka_does() -> None:
    def get() -> None:
        with pytest.raises(pykka.Timeout):
            ActorFuture[Any]().get(timeout=0)

    await anyio.to_thread.run_sync(get)


async def test_cancelling_who_waits_leaves_the_future_as_it_is() -> None:
    future: ActorFuture[Any] = ActorFuture()
    with anyio.move_on_after(0) as scope:
        await future
    assert scope.cancelled_caught
    assert await set_when_waited_for(future, 1) == 1


async def test_a_cancellation_is_not_lost_when_the_source_is_done_at_that_moment() -> None:
    source: ActorFuture[Any] = ActorFuture()
    with anyio.CancelScope() as scope:
        scope.cancel()
        source.when_done(scope.cancel)
        await source.map(str)
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("derive", "value", "expected"),
    [
        (lambda future: future.map(str), 1, "1"),
        (lambda future: future.join(done(2), done(3)), 1, [1, 2, 3]),
        (lambda future: future.filter(lambda n: n > 1), [1, 2, 3], [2, 3]),
        (lambda future: future.reduce(operator.add, 10), [1, 2, 3], 16),
        (lambda future: future.map(str).map(len).join(done(0)), 100, [3, 0]),
    ],
    ids=["map", "join", "filter", "reduce", "nested"],
)
async def test_what_is_derived_can_be_awaited_and_got(
    derive: Callable[[Any], ActorFuture[Any]], value: Any, expected: Any
) -> None:
    source: ActorFuture[Any] = ActorFuture()
    derived = derive(source)
    outcome: list[Any] = []

    async def wait() -> None:
        outcome.append(await derived)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        source.set(value)
    assert outcome == [expected]
    assert derived.get() == expected
    assert await anyio.to_thread.run_sync(derive(done(value)).get) == expected


async def test_an_error_of_a_source_or_of_the_function_reaches_who_awaits() -> None:
    with pytest.raises(ValueError, match="source"):
        await failed(ValueError("source")).map(str)
    with pytest.raises(ZeroDivisionError):
        await done(0).map(lambda n: 1 // n)
    with pytest.raises(ValueError, match="second"):
        await done(1).join(failed(ValueError("second")))


async def test_the_function_of_a_map_runs_once() -> None:
    calls: list[int] = []
    mapped = done(1).map(calls.append)
    await mapped
    await mapped
    assert calls == [1]


async def test_a_future_of_plain_pykka_joins_in_without_blocking_the_loop() -> None:
    theirs: pykka.ThreadingFuture[int] = pykka.ThreadingFuture()
    joined = done(1).join(theirs)
    assert not joined.done()
    with pytest.raises(WouldBlock):
        joined.get(timeout=60)
    outcome: list[Any] = []
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            outcome.append(await joined)

        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        theirs.set(2)
    assert outcome == [[1, 2]]


async def test_a_get_hook_of_somebodys_own_runs_in_a_thread() -> None:
    future: ActorFuture[int] = ActorFuture()
    threads: list[int] = []

    def hook(timeout: float | None) -> int:
        threads.append(threading.get_ident())
        return 7

    future.set_get_hook(hook)
    assert await future == 7
    assert threads != [threading.get_ident()]
    with pytest.raises(RuntimeError):
        future.set(1)
    with pytest.raises(RuntimeError):
        done(1).set_get_hook(hook)


async def test_it_can_be_awaited_on_another_event_loop() -> None:
    future: ActorFuture[str] = ActorFuture()
    outcome: list[str] = []
    waiting = threading.Barrier(3)

    def run(backend: str) -> None:
        async def main() -> None:
            async def wait() -> None:
                outcome.append(await future)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(waiting.wait)

        anyio.run(main, backend=backend)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("asyncio", "trio")]
    for thread in threads:
        thread.start()
    await anyio.to_thread.run_sync(waiting.wait)
    future.set("heard")
    assert await future == "heard"
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert outcome == ["heard", "heard"]


async def test_many_threads_set_it_and_one_wins() -> None:
    for _ in range(20):
        future: ActorFuture[int] = ActorFuture()
        won: list[int] = []
        start = threading.Barrier(4)

        def race(
            n: int, future: ActorFuture[int] = future, won: list[int] = won, start: threading.Barrier = start
        ) -> None:
            start.wait()
            if future.try_set(n):
                won.append(n)

        threads = [threading.Thread(target=race, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        value = await future
        for thread in threads:
            thread.join()
        assert won == [value]


def test_it_is_an_awaitable() -> None:
    assert isinstance(ActorFuture(), Awaitable)
