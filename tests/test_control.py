"""The host's side of a running session. Its commands and reports are the bot's own, in test_commands.py."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rtvi_actors as rtvi
from rtvi_actors.runtime.system import ActorSystem
from tests.session_kit import calling

pytestmark = pytest.mark.anyio


async def test_the_host_adds_handlers_for_events_of_a_running_session_from_any_thread() -> None:
    heard: list[Any] = []

    async def answered(message: rtvi.ClientMessage) -> None:
        await anyio.lowlevel.checkpoint()
        heard.append(message.type)
        call.session.control.send_server_response(message, "by the host")

    async with calling(rtvi.Bot(), ready=False) as call:
        on = call.session.control.on
        await anyio.to_thread.run_sync(on, "client-ready", lambda client: heard.append(client.library))
        on("client-message", answered)
        on("bot-started", lambda: heard.append("started"))
        await call.ready()
        await call.ask("anything")
        assert (await call.answer("q"))["data"] == {"t": "anything", "d": "by the host"}
        ActorSystem.crash(call.session.actor("bot"))
        await call.session.idle()
        assert heard == ["started", "tests", "anything", "started"]
        with pytest.raises(rtvi.DeclarationError, match="no event is named"):
            on("client-gone", answered)


async def test_a_hosts_handler_that_fails_is_an_error_response_and_stops_nothing() -> None:
    def fail(message: rtvi.ClientMessage) -> None:
        raise ValueError("secret")

    async with calling(rtvi.Bot()) as call:
        call.session.control.on("client-message", fail)
        await call.ask("anything")
        error = (await call.answer("q"))["data"]["error"]
        assert error.startswith("Exception processing message: ")
        assert "secret" not in error
        assert call.restarts("bot") == 0


async def test_a_command_after_the_end_says_that_the_session_is_over() -> None:
    async with calling(rtvi.Bot()) as call:
        control = call.session.control
    with pytest.raises(rtvi.SessionClosed):
        control.send_server_message("too late")
