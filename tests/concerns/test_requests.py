from __future__ import annotations

import pytest

import rtvi_actors as rtvi
from tests.session_kit import calling

pytestmark = pytest.mark.anyio


class Desk(rtvi.Bot):
    @rtvi.request("add")
    def add(self, numbers: list[int]) -> int:
        return sum(numbers)

    @rtvi.request("optional")
    def optional(self, number: int | None) -> str:
        return repr(number)


async def test_answers_carry_their_own_requests_id_also_when_ids_repeat() -> None:
    async with calling(Desk()) as call:
        for numbers in ([1, 2], [3, 4]):
            await call.ask("add", numbers, "same")
        assert [(wire["id"], wire["data"]["d"]) for wire in await call.heard()] == [("same", 3), ("same", 7)]
        assert call.books.open_requests == 0


async def test_a_payload_that_is_absent_is_null() -> None:
    async with calling(Desk()) as call:
        await call.ask("optional")
        assert (await call.heard())[0]["data"]["d"] == "None"


@pytest.mark.parametrize("data", [None, {}, {"t": 5}, {"d": 1}])
async def test_a_client_message_without_type_is_refused(data: object) -> None:
    async with calling(Desk()) as call:
        await call.send("client-message", "q", data)
        (reply,) = await call.heard()
        assert (reply["type"], reply["id"]) == ("error-response", "q")
        assert call.books.control["answered"] == 1


async def test_a_thousand_requests_at_once_are_all_answered_in_order() -> None:
    async with calling(Desk()) as call:
        for index in range(1_000):
            await call.ask("add", [index, 1], f"q{index}")
        heard = await call.heard()
        assert [(wire["id"], wire["data"]["d"]) for wire in heard] == [(f"q{i}", i + 1) for i in range(1_000)]
