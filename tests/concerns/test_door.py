from __future__ import annotations

from typing import Any

import anyio
import pytest

import rtvi_actors as rtvi
from rtvi_actors.messages import Outcome, Release
from tests.session_kit import Call, Frame, calling, virtual_time

pytestmark = pytest.mark.anyio


class Log(rtvi.Bot):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def on_frame(self, frame: Frame) -> None:
        if isinstance(frame, rtvi.ClientMessage):
            self.log.append(frame.msg_id)

    async def on_client_message(self, message: rtvi.ClientMessage) -> None: ...


def release(call: Call, *numbers: int, outcome: Outcome | None = Outcome.DELIVERED) -> None:
    """Complete numbers as concerns would, each with a frame that names it."""
    for seq in numbers:
        frame = call.session.actor("bot").encode(rtvi.ClientMessage(str(seq), "t"))
        call.session.actor("door").tell(Release(seq, outcome, (frame,), str(seq)))


def begin(call: Call, count: int) -> None:
    ledger = call.session._ledger
    for _ in range(count):
        ledger.arrived()
        ledger.begin_control((ledger.control.last + 1, 0))


class TestDoor:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_numbers_that_are_done_out_of_order_go_through_in_order(self) -> None:
        bot = Log()
        async with calling(bot, ready=False) as call:
            begin(call, 5)
            release(call, 3, 5, 2, 1, 4)
            await call.heard()
            assert bot.log == ["1", "2", "3", "4", "5"]
            assert (call.books.late, call.books.duplicates) == (0, 0)

    async def test_a_number_that_is_done_twice_goes_through_once(self) -> None:
        bot = Log()
        async with calling(bot, ready=False) as call:
            begin(call, 3)
            release(call, 2, 2, 1, 1, 3, 3)
            await call.heard()
            assert bot.log == ["1", "2", "3"]
            assert call.books.duplicates == 3

    async def test_a_restarted_door_goes_on_where_it_was_and_its_gap_with_it(self) -> None:
        bot = Log()
        async with calling(bot, ready=False, door_gap_s=0.25) as call:
            begin(call, 4)
            release(call, 3)
            await call.heard()
            call.session.system.crash(call.session.actor("door"))
            release(call, 1)

            await anyio.sleep(1)
            assert bot.log == ["1", "3"]
            release(call, 2, 4)
            await call.heard()
            assert bot.log == ["1", "3", "2", "4"]
            assert call.books.late == 1

    async def test_a_number_that_says_so_lets_those_behind_it_through_and_brings_more_until_it_ends(self) -> None:
        bot = Log()
        async with calling(bot, ready=False) as call:
            begin(call, 2)
            release(call, 1, outcome=None)
            release(call, 2)
            release(call, 1, outcome=None)
            await call.heard()
            assert (bot.log, call.books.conservation.open) == (["1", "2", "1"], 1)
            call.session.system.crash(call.session.actor("door"))
            release(call, 1)
            release(call, 1)
            await call.heard()
            assert bot.log == ["1", "2", "1", "1"]
            assert (call.books.conservation.open, call.books.duplicates, call.books.late) == (0, 1, 0)

    async def test_more_of_a_number_that_is_parked_stands_behind_it(self) -> None:
        bot = Log()
        async with calling(bot, ready=False) as call:
            begin(call, 3)
            release(call, 2, 3, outcome=None)
            release(call, 2, 2, 1, 3)
            await call.heard()
            assert bot.log == ["1", "2", "2", "3", "3"]
            assert (call.books.conservation.open, call.books.duplicates) == (0, 1)

    async def test_more_of_a_number_that_was_passed_over_goes_through_at_once_and_is_late_once(self) -> None:
        bot = Log()
        async with calling(bot, ready=False, door_gap_s=0.25) as call:
            begin(call, 2)
            release(call, 2)
            await anyio.sleep(1)
            release(call, 1, outcome=None)
            release(call, 1)
            await call.heard()
            assert bot.log == ["2", "1", "1"]
            assert (call.books.conservation.open, call.books.late, call.books.duplicates) == (0, 1, 0)

    async def test_a_number_of_which_one_frame_finds_no_room_brings_none(self) -> None:
        class Narrow(Log):
            max_mail_bytes = 200

            def on_frame(self, frame: Frame) -> None:
                self.log.append(type(frame).__name__)

        bot = Narrow()
        async with calling(bot, ready=False) as call:
            begin(call, 1)
            encode = call.session.actor("bot").encode
            frames = (encode(rtvi.LLMConfigureOutput(True)), encode(rtvi.ClientMessage("x" * 200, "t")))
            call.session.actor("door").tell(Release(1, None, frames, "m1"))
            assert (await call.answer("m1"))["data"]["error"].startswith("Too many messages")
            await call.heard()
            assert (bot.log, call.books.conservation.open, call.session._ledger.door.more) == ([], 0, set())

    async def test_a_bot_that_is_no_more_costs_the_message_and_the_client_hears_of_it(self) -> None:
        async with calling(Log(), ready=False) as call:
            begin(call, 1)
            frame = call.session.actor("bot").encode(rtvi.ClientMessage("1", "t"))
            await call.session._supervisor_actor().stop_child("bot")
            call.session.actor("door").tell(Release(1, Outcome.DELIVERED, (frame,), "m1"))
            assert (await call.answer("m1"))["data"]["error"] == "The session has ended"

    async def test_a_bot_without_room_costs_the_message_and_the_client_hears_of_it(self) -> None:
        class Narrow(Log):
            max_mail = 3

        bot = Narrow()
        async with calling(bot, ready=False) as call:
            begin(call, 10)
            bot.cell.suspended = True
            release(call, *range(1, 11))
            refused = [(await call.until(lambda wire: True))[-1] for _ in range(7)]
            assert [wire["id"] for wire in refused] == [str(seq) for seq in range(4, 11)]
            bot.cell.suspended = False
            bot.cell.notify()
            await call.heard()
            assert bot.log == ["1", "2", "3"]
            assert call.books.control["answered"] == 7
