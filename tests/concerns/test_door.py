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


def release(call: Call, *numbers: int) -> None:
    """Complete numbers as concerns would, each with a frame that names it."""
    for seq in numbers:
        frame = call.session.actor("bot").encode(rtvi.ClientMessage(str(seq), "t"))
        call.session.actor("door").tell(Release(seq, Outcome.DELIVERED, (frame,), str(seq)))


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
