from __future__ import annotations

import pytest

import rtvi_actors as rtvi
from tests.session_kit import calling

pytestmark = pytest.mark.anyio


async def test_bot_ready_has_about_and_capabilities() -> None:
    async with calling(rtvi.Bot(), ready=False, capabilities={"metrics": True}) as call:
        (ready,) = await call.ready()
        assert ready["data"]["about"]["library"] == "rtvi-actors"
        assert ready["data"]["capabilities"] == {"metrics": True}


async def test_a_message_that_is_too_large_becomes_an_error_and_the_next_one_leaves() -> None:
    async with calling(rtvi.Bot(), max_message_bytes=1_000) as call:
        call.session.control.send_server_message("x" * 2_000)
        call.session.control.send_server_message("y")
        error, message = await call.heard()
        assert error["type"] == "error"
        assert error["data"]["error"].startswith("Exception processing message: ")
        assert message["data"] == "y"


async def test_the_version_is_kept_over_a_crash() -> None:
    async with calling(rtvi.Bot(), ready=False) as call:
        await call.ready(version="1.3.0")
        call.session.system.crash(call.session.actor("outbound"))
        control = call.session.control
        control.bot_started_speaking()
        control.bot_text("one", segment_id=1)
        control.bot_spoken(1)
        outputs = [wire["data"] for wire in await call.heard() if wire["type"] == "bot-output"]
        assert [data.get("spoken") for data in outputs] == [False, True]  # 2.x gets progress, without `spoken`
