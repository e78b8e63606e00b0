from __future__ import annotations

from typing import Any

import pytest

import rtvi_actors as rtvi
from tests.session_kit import calling, of_type, types

pytestmark = pytest.mark.anyio


class Greeter(rtvi.Bot):
    def __init__(self) -> None:
        super().__init__()
        self.clients: list[rtvi.ClientReady] = []

    async def on_client_ready(self, client: rtvi.ClientReady) -> None:
        self.clients.append(client)


@pytest.mark.parametrize(
    ("version", "echoed", "known"),
    [("2.2.0", "2.2.0", (2, 2, 0)), ("2.9.9", "2.2.0", (2, 9, 9)), ("1.3.0", "1.3.0", (1, 3, 0))],
)
async def test_bot_ready_names_the_version_that_was_agreed_on(
    version: str, echoed: str, known: tuple[int, int, int]
) -> None:
    bot = Greeter()
    async with calling(bot, ready=False) as call:
        heard = await call.ready(version=version)
        assert (heard[0]["id"], heard[0]["data"]["version"]) == ("ready", echoed)
        await call.heard()
        assert bot.clients == [rtvi.ClientReady(known, "tests", "", "python")]


@pytest.mark.parametrize("version", ["3.0.0", "0.2.0", "two", "", None, 2])
async def test_a_version_that_is_not_served_is_told_and_the_handshake_goes_on(version: Any) -> None:
    bot = Greeter()
    async with calling(bot, ready=False) as call:
        heard = await call.ready(version=version)
        assert types(heard) == ["error-response", "bot-ready"]
        await call.heard()
        assert bot.clients[0].version == (0, 0, 0)


async def test_every_client_ready_is_judged_afresh_and_answered_under_its_own_id() -> None:
    async with calling(Greeter()) as call:
        for msg_id, version in (("a", "9.0.0"), ("b", "1.2.0")):
            await call.send("client-ready", msg_id, {"version": version})
        answers = [(wire["id"], wire["data"]["version"]) for wire in of_type(await call.heard(), "bot-ready")]
        assert answers == [("a", "2.2.0"), ("b", "1.2.0")]


async def test_a_restarted_handshake_knows_its_client() -> None:
    async with calling(Greeter(), ready=False) as call:
        await call.ready(version="1.3.0")
        actor: Any = call.session.actor("handshake").cell.actor
        before = actor.state
        call.session.system.crash(call.session.actor("handshake"))
        call.session.control.set_bot_ready()
        answer = (await call.heard())[0]
        assert (answer["id"], answer["data"]["version"]) == ("ready", "1.3.0")
        after: Any = call.session.actor("handshake").cell.actor
        assert (after is actor, after.state.request) == (False, before.request)


async def test_bot_ready_and_the_version_survive_a_crash_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from rtvi_actors.concerns.outbound import Outbound

    crashed: list[str] = []

    def once(name: str) -> None:
        handler = getattr(Outbound, name)

        def crash(self: Outbound, message: Any) -> None:
            if name not in crashed:
                crashed.append(name)
                raise ValueError(name)
            handler(self, message)

        monkeypatch.setattr(Outbound, name, crash)

    once("on_answer_ready")
    once("on_negotiated")
    async with calling(Greeter(), ready=False) as call:
        call.session.control.send_server_message("held")
        await call.send("client-ready", "r", {"version": "1.3.0"})
        assert sorted(types(await call.heard())) == ["bot-ready", "server-message"]
        assert (sorted(crashed), call.books.held) == (["on_answer_ready", "on_negotiated"], 0)
