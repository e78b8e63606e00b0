from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from rtvi_actors.runtime.backend import Attempt, Backend, loops_own, on_event_loop, open_backend, waiter

pytestmark = pytest.mark.anyio


async def in_a_task(backend: Backend, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run it in a task of the backend's, as handlers run."""
    done, outcome = anyio.Event(), []

    async def task() -> None:
        try:
            outcome.append(await main())
        finally:
            done.set()

    backend.spawn(task, "test")
    await done.wait()
    return outcome[0]


async def test_a_thread_is_on_an_event_loop_only_while_it_runs_one() -> None:
    assert on_event_loop()
    assert not await anyio.to_thread.run_sync(on_event_loop)


async def test_an_unpark_before_the_park_is_remembered_once() -> None:
    async with open_backend() as backend:
        parker = backend.parker()
        parker.unpark()
        parker.unpark()
        await parker.park()
        with anyio.move_on_after(0) as scope:
            await parker.park()
        assert scope.cancelled_caught


async def test_a_cancelled_attempt_says_so_and_leaves_its_task_whole() -> None:
    async with open_backend() as backend:
        attempt = backend.attempt()
        begun = anyio.Event()

        async def hold() -> None:
            begun.set()
            await anyio.sleep_forever()

        async def main() -> list[Any]:
            first = await attempt.run(hold())
            await anyio.lowlevel.checkpoint()  # nothing of the cancellation is left
            return [first, await backend.attempt().run(value(2))]

        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await begun.wait()
                attempt.cancel()

            tasks.start_soon(cancel)
            assert await in_a_task(backend, main) == [(True, None), (False, 2)]


async def value(n: int) -> int:
    return n


async def test_a_cancellation_too_late_for_the_last_await_does_not_hit_what_follows() -> None:
    async with open_backend() as backend:
        attempt = backend.attempt()

        async def cancel_itself_and_return() -> int:
            attempt.cancel()
            return 1

        async def main() -> tuple[bool, Any]:
            # Whether this one counts as cancelled is the loop's: asyncio remembers it, trio asks at checkpoints.
            assert await attempt.run(cancel_itself_and_return()) in [(True, None), (False, 1)]
            await anyio.lowlevel.checkpoint()
            return await backend.attempt().run(value(2))

        assert await in_a_task(backend, main) == (False, 2)


async def test_the_backends_own_cancellation_goes_up_through_an_attempt() -> None:
    seen: list[bool] = []
    async with open_backend() as backend:
        begun = anyio.Event()

        async def hold() -> None:
            begun.set()
            await anyio.sleep_forever()

        async def main() -> None:
            try:
                await backend.attempt().run(hold())
            except BaseException as error:
                seen.append(loops_own(error))
                raise

        backend.spawn(main, "test")
        await begun.wait()
    assert seen == [True]


@pytest.mark.parametrize("raised", [asyncio.CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt, ValueError])
async def test_what_a_handler_raises_by_hand_is_not_the_loops(raised: type[BaseException]) -> None:
    async with open_backend() as backend:
        attempt: Attempt = backend.attempt()

        async def fail() -> None:
            raise raised

        async def main() -> bool:
            try:
                await attempt.run(fail())
            except BaseException as error:  # noqa: BLE001 - this is what is asked
                return loops_own(error)
            return True

        assert await in_a_task(backend, main) is False


async def test_callbacks_from_threads_arrive_in_order() -> None:
    async with open_backend() as backend:
        seen: list[int] = []
        done = anyio.Event()

        def send() -> None:
            for n in range(100):
                backend.soon_from_thread(lambda n=n: seen.append(n))  # type: ignore[misc]
            backend.soon_from_thread(done.set)

        thread = threading.Thread(target=send)
        thread.start()
        await done.wait()
        thread.join()
        assert seen == list(range(100))


async def test_a_callback_that_raises_stops_no_other() -> None:
    async with open_backend() as backend:
        if backend.name == "asyncio":
            return  # asyncio's own loop does that
        done = anyio.Event()

        def fail() -> None:
            raise ValueError

        backend.soon(fail)
        backend.soon(done.set)
        await done.wait()


async def test_callbacks_and_tasks_do_not_inherit_the_context_of_the_caller() -> None:
    from contextvars import ContextVar

    mine: ContextVar[str] = ContextVar("mine", default="nobody's")
    async with open_backend() as backend:
        mine.set("the caller's")
        seen: list[str] = []
        done = anyio.Event()

        def callback() -> None:
            seen.append(mine.get())
            done.set()

        async def main() -> None:
            seen.append(mine.get())
            backend.soon(callback)

        backend.spawn(main, "test")
        await done.wait()
        assert seen == ["nobody's", "nobody's"]


async def test_the_latest_armed_timer_wins() -> None:
    async with open_backend() as backend:
        fired: list[str] = []
        done = anyio.Event()
        backend.arm(backend.now() + 3600, lambda: fired.append("late"))
        backend.arm(backend.now(), done.set)
        await done.wait()
        assert fired == []


async def test_a_waiter_is_woken_from_another_thread() -> None:
    parker, wake = waiter()
    thread = threading.Thread(target=wake)
    thread.start()
    await parker.park()
    thread.join()


async def test_waking_a_loop_that_has_ended_is_quiet() -> None:
    wakes: list[Callable[[], None]] = []

    def run() -> None:
        async def main() -> None:
            wakes.append(waiter()[1])

        anyio.run(main)
        anyio.run(main, backend="trio")

    await anyio.to_thread.run_sync(run)
    for wake in wakes:
        wake()


async def test_closing_ends_a_task_whose_handler_refused_once_and_was_given_up() -> None:
    ended: list[str] = []
    async with open_backend() as backend:
        attempt = backend.attempt()
        begun, refused = anyio.Event(), anyio.Event()

        async def refuse_once() -> None:
            begun.set()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                attempt.abandon()
                refused.set()
                await anyio.sleep_forever()

        async def main() -> None:
            try:
                await attempt.run(refuse_once())
            finally:
                ended.append("ended")

        backend.spawn(main, "test")
        await begun.wait()
        attempt.cancel()
        await refused.wait()
        assert ended == []
    assert ended == ["ended"]
