from __future__ import annotations

from typing import Any, ClassVar

import anyio
import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.concern import reply_to
from rtvi_actors.errors import InvalidData, NotRtvi, Overloaded
from rtvi_actors.ledger import Ledger
from rtvi_actors.protocol.server import Error, ErrorResponse
from rtvi_actors.runtime.groups import GroupSpec
from tests.session_kit import Call, calling, types, virtual_time

pytestmark = pytest.mark.anyio


class Deferring(rtvi.Concern):
    """Defers its messages; ``finish`` releases the oldest, ``refuse`` refuses it, ``crash`` crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[rtvi.Received] = []

    def on_received(self, message: rtvi.Received) -> None:
        match message.type:
            case "finish":
                waiting = self.waiting.pop()
                self.release(waiting, frames.ClientMessage(waiting.id, "done"))
            case "refuse":
                waiting = self.waiting.pop()
                self.refuse(waiting, Overloaded("waiting messages", reply_id=waiting.id))
            case "finish twice":
                waiting = self.waiting.pop()
                self.release(waiting)
                self.release(waiting)
            case "crash":
                raise rtvi.Crash("asked for")
            case _:
                message.defer()
                self.waiting.append(message)


class Telling(rtvi.Bot):
    async def on_client_message(self, message: rtvi.ClientMessage) -> None:
        self.send_server_response(message)


ACTORS = (rtvi.CustomActor("deferring", Deferring, routes=("wait", "finish", "finish twice", "refuse", "crash")),)


async def open_numbers(call: Call) -> int:
    await call.heard()
    return call.books.conservation.open


class TestDeferredMessages:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_a_deferred_message_is_completed_later(self) -> None:
        async with calling(Telling(), actors=ACTORS) as call:
            await call.send("wait", "w")
            assert await open_numbers(call) == 1
            await call.send("finish", "f")
            assert (await call.answer("w"))["data"]["t"] == "done"
            await anyio.sleep(60)
            assert await call.heard() == []
            assert call.books.control == {"delivered": 3, "answered": 0, "dropped": 0, "dead": 0}
            assert call.books.duplicates == 0

    async def test_a_deferred_message_is_refused_later(self) -> None:
        async with calling(Telling(), actors=ACTORS) as call:
            await call.send("wait", "w")
            await call.send("refuse", "f")
            answer = await call.answer("w")
            assert answer["data"]["error"] == "Too many waiting messages at once; try again later"
            await anyio.sleep(60)
            assert call.books.control == {"delivered": 2, "answered": 1, "dropped": 0, "dead": 0}

    async def test_at_its_deadline_a_deferred_message_is_answered_with_an_error(self) -> None:
        async with calling(Telling(), actors=ACTORS) as call:
            started = anyio.current_time()
            await call.send("wait", "w")
            answer = await call.answer("w")
            assert anyio.current_time() - started == pytest.approx(8.0)
            assert answer["type"] == "error-response"
            assert answer["data"]["error"] == "Request timed out after 8 s"
            assert await open_numbers(call) == 0

    async def test_what_comes_after_the_deadline_is_ignored_and_counted(self) -> None:
        async with calling(Telling(), actors=ACTORS) as call:
            await call.send("wait", "w")
            assert (await call.answer("w"))["type"] == "error-response"
            await call.send("refuse", "f")
            assert await call.heard() == []
            assert call.books.control == {"delivered": 2, "answered": 1, "dropped": 0, "dead": 0}
            assert call.books.duplicates == 1

    async def test_a_message_ends_once_also_where_its_actor_ends_it_twice(self) -> None:
        async with calling(Telling(), actors=ACTORS) as call:
            for index in range(200):
                await call.send("wait", f"w{index}")
                await call.send("finish twice", f"f{index}")
            assert await call.heard() == []
            assert call.books.control["delivered"] == 401
            assert call.books.duplicates == 200

    async def test_the_deadline_survives_a_crash(self) -> None:
        async with calling(Telling(), actors=ACTORS) as call:
            await call.send("wait", "w")
            await call.send("crash", "c")
            await call.until(lambda wire: wire.get("id") == "c")
            assert (await call.answer("w"))["type"] == "error-response"
            assert call.books.control == {"delivered": 1, "answered": 1, "dropped": 0, "dead": 1}

    async def test_the_deadline_holds_when_its_own_handler_crashes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def crash(*_: object) -> None:
            raise ValueError("a secret")

        monkeypatch.setattr(Deferring, "on_defer_expired", crash)
        async with calling(Telling(), actors=ACTORS) as call:
            await call.send("wait", "w")
            assert (await call.answer("w"))["data"]["error"].startswith("Exception processing message: ")
            assert await open_numbers(call) == 0


class TestAnAsynchronousHandlerThatHangs:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_is_ended_at_its_deadline_and_so_are_its_message_and_the_wait_for_credit(self) -> None:
        class Hanging(rtvi.Concern):
            async def on_received(self, message: rtvi.Received) -> None:
                if message.type == "hang":
                    await anyio.sleep_forever()

        actors = (rtvi.CustomActor("hanging", Hanging, routes=("hang", "pass")),)
        async with calling(Telling(), actors=actors, credit=4) as call:
            started = anyio.current_time()
            await call.send("hang", "h")
            for index in range(20):
                await call.send("pass", f"p{index}")
            answer = await call.answer("h")
            assert anyio.current_time() - started == pytest.approx(8.0)
            assert answer["data"]["error"].startswith("Exception processing message: ")
            assert await call.heard() == []
            assert call.books.control == {"delivered": 21, "answered": 0, "dropped": 0, "dead": 1}
            assert call.restarts("hanging") == 1

    async def test_has_its_message_end_once_though_it_had_deferred_it(self) -> None:
        class Hanging(rtvi.Concern):
            async def on_received(self, message: rtvi.Received) -> None:
                message.defer()
                await anyio.sleep_forever()

        async with calling(Telling(), actors=(rtvi.CustomActor("hanging", Hanging, routes=("hang",)),)) as call:
            await call.send("hang", "h")
            assert (await call.answer("h"))["type"] == "error-response"
            await anyio.sleep(60)
            assert await call.heard() == []
            assert call.books.conservation.open == 0
            assert (call.books.control["delivered"], call.books.duplicates) == (1, 0)

    @pytest.mark.parametrize(("how", "outcome"), [("release", "delivered"), ("refuse", "answered")])
    async def test_gets_its_client_no_second_answer_where_it_had_ended_its_message(
        self, how: str, outcome: str
    ) -> None:
        class Hanging(rtvi.Concern):
            async def on_received(self, message: rtvi.Received) -> None:
                if how == "release":
                    self.release(message, frames.ClientMessage(message.id, "done"))
                else:
                    self.refuse(message, Overloaded("waiting messages", reply_id=message.id))
                await anyio.sleep_forever()

        async with calling(Telling(), actors=(rtvi.CustomActor("hanging", Hanging, routes=("hang",)),)) as call:
            await call.send("hang", "h")
            assert len(await call.heard()) == 1
            await anyio.sleep(60)
            assert await call.heard() == []
            assert call.restarts("hanging") == 1
            expected = {"delivered": 1, "answered": 0, "dropped": 0, "dead": 0}
            expected[outcome] += 1
            assert (call.books.control, call.books.duplicates) == (expected, 0)


class Ending(rtvi.Concern):
    """Ends its message, and fails afterwards."""

    async def on_received(self, message: rtvi.Received) -> None:
        self.release(message, frames.ClientMessage(message.id, "done"))
        self.release(message)
        if message.type == "wait":
            await anyio.lowlevel.checkpoint()
        raise ValueError("after all")


class Containing(Ending):
    async_group = "work"
    groups: ClassVar = {"work": GroupSpec()}


@pytest.mark.parametrize("kind", ["go", "wait"])
@pytest.mark.parametrize("actor", [Ending, Containing])
async def test_a_message_that_has_ended_stays_so_whatever_becomes_of_its_handler(
    actor: type[Ending], kind: str
) -> None:
    async with calling(Telling(), actors=(rtvi.CustomActor("ending", actor, routes=("go", "wait")),)) as call:
        await call.send(kind, "g")
        assert types(await call.heard()) == ["server-response"]
        assert call.books.control == {"delivered": 2, "answered": 0, "dropped": 0, "dead": 0}
        assert call.books.duplicates == 1
        assert call.session._ledger.ended == set()


async def test_a_refusal_is_the_one_answer_also_where_the_door_has_been_given_up() -> None:
    class Late(rtvi.Concern):
        async def on_received(self, message: rtvi.Received) -> None:
            await gate.wait()
            self.refuse(message, Overloaded("waiting messages", reply_id=message.id))

    gate = anyio.Event()
    actors = (rtvi.CustomActor("late", Late, routes=("go",)),)
    async with calling(Telling(), actors=actors, restart_intensity=3) as call:
        await call.send("go", "g")
        while not call.session.actor("late").cell.mailbox.received:
            await anyio.lowlevel.checkpoint()
        for _ in range(4):
            call.session.system.crash(call.session.actor("door"))
        assert await call.session.wait_closed() == "door crashed too often"
        gate.set()
        (answer,) = await call.heard()
        assert answer["data"]["error"] == "Too many waiting messages at once; try again later"
        assert (call.restarts("late"), call.books.control["answered"]) == (0, 1)


@pytest.mark.parametrize("anyio_backend", [virtual_time()])
async def test_a_concern_that_lives_on_remembers_nothing_of_a_deferred_message_whose_handler_failed() -> None:
    class Failing(Containing):
        async def on_received(self, message: rtvi.Received) -> None:
            message.defer()
            raise ValueError("contained")

    async with calling(Telling(), actors=(rtvi.CustomActor("failing", Failing, routes=("go",)),)) as call:
        await call.send("go", "g")
        assert types(await call.heard()) == ["error-response"]
        await anyio.sleep(60)
        assert await call.heard() == []
        actor = call.session.actor("failing").cell.actor
        assert isinstance(actor, Failing)
        assert (actor._deferred, actor._ended, call.session._ledger.ended) == ({}, set(), set())
        assert call.books.control["dead"] == 1


async def test_what_a_crashing_handler_sent_does_not_leave() -> None:
    class Hasty(rtvi.Concern):
        def on_received(self, message: rtvi.Received) -> None:
            self.link("observer").tell(frames.LLMText("never"))
            self.release(message, frames.ClientMessage(message.id, "never"))
            raise rtvi.Crash("after all")

    async with calling(Telling(), actors=(rtvi.CustomActor("hasty", Hasty, routes=("go",)),)) as call:
        await call.send("go", "g")
        assert types(await call.heard()) == ["error-response"]
        assert call.books.control == {"delivered": 1, "answered": 0, "dropped": 0, "dead": 1}


async def test_an_asynchronous_handler_ends_its_message_too() -> None:
    class Slow(rtvi.Concern):
        async def on_received(self, message: rtvi.Received) -> None:
            await anyio.lowlevel.checkpoint()

    async with calling(Telling(), actors=(rtvi.CustomActor("slow", Slow, routes=("go",)),)) as call:
        for index in range(5):
            await call.send("go", f"g{index}")
        assert await open_numbers(call) == 0
        assert call.books.control["delivered"] == 6


async def test_a_crash_before_client_ready_is_told_once() -> None:
    class Broken(rtvi.Concern):
        def on_received(self, message: rtvi.Received) -> None:
            raise ValueError("a secret")

    async with calling(Telling(), ready=False, actors=(rtvi.CustomActor("broken", Broken, routes=("go",)),)) as call:
        await call.send("go", "g")
        assert types(await call.heard()) == ["error-response"]


def test_a_refusal_has_the_form_that_its_id_asks_for() -> None:
    ledger = Ledger("session-x", lambda: 0.0)
    assert isinstance(reply_to(InvalidData("data", reply_id="7"), ledger), ErrorResponse)
    assert isinstance(reply_to(InvalidData("data"), ledger), Error)
    assert reply_to(NotRtvi(), ledger) is None
