"""A session and its client in one process, for tests: sends what an SDK would, and reads what it would get."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio
import trio.testing

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.streams import ServerAudio, ServerText, WireOut
from rtvi_actors.transports import memory

__all__ = ["READY", "Call", "Frame", "Stuck", "Wire", "calling", "message", "of_type", "stuck", "types", "virtual_time"]

Wire: TypeAlias = dict[str, Any]
Frame: TypeAlias = frames.BotFrame
"""What `Bot.on_frame` takes."""
READY: Final[dict[str, Any]] = {"version": "2.2.0", "about": {"library": "tests", "platform": "python"}}


def message(kind: str, msg_id: str = "m", data: object = None) -> Wire:
    """An RTVI message; ``data=None`` leaves it out."""
    wire: Wire = {"label": "rtvi-ai", "type": kind, "id": msg_id}
    return wire if data is None else {**wire, "data": data}


def types(messages: Iterable[Wire]) -> list[str]:
    """What they are, in order."""
    return [str(wire["type"]) for wire in messages]


def texts(wires: Iterable[WireOut]) -> list[Wire]:
    """The messages among what has been sent; audio is left out."""
    return [json.loads(wire.data) for wire in wires if isinstance(wire, ServerText)]


def of_type(messages: Iterable[Wire], *kinds: str) -> list[Wire]:
    """Those of these types."""
    return [wire for wire in messages if wire["type"] in kinds]


def virtual_time() -> tuple[str, dict[str, Any]]:
    """A backend whose clock jumps to the next deadline when everybody waits: deadlines cost nothing and are exact."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Call:
    """One client's side of a session."""

    def __init__(self, session: rtvi.Session, client: memory.ClientEnd) -> None:
        self.session = session
        self.client = client
        self.audio: list[ServerAudio] = []
        """Bot audio that has arrived."""

    # -- what the client says ------------------------------------------------------------

    async def send(self, kind: str, msg_id: str = "m", data: object = None) -> None:
        await self.client.send_text(message(kind, msg_id, data))

    async def ready(self, **changes: Any) -> list[Wire]:
        """Say client-ready; returns everything up to bot-ready."""
        await self.send("client-ready", "ready", {**READY, **changes})
        return await self.until(lambda wire: wire["type"] == "bot-ready")

    async def ask(self, kind: str, payload: object = None, msg_id: str = "q") -> None:
        """A client-message."""
        data = {"t": kind} if payload is None else {"t": kind, "d": payload}
        await self.send("client-message", msg_id, data)

    async def say(self, text: str, msg_id: str = "s", **options: bool) -> None:
        """A send-text."""
        await self.send("send-text", msg_id, {"content": text, **({"options": options} if options else {})})

    async def leave(self) -> str:
        """Hang up, and wait for the session's reason."""
        await self.client.aclose()
        return await self.session.wait_closed()

    # -- what it hears -------------------------------------------------------------------

    async def heard(self) -> list[Wire]:
        """What has come since it last looked, once nothing moves any more."""
        await self.session.idle()
        return self._texts(self.client.drain())

    async def until(self, test: Callable[[Wire], bool]) -> list[Wire]:
        """What comes up to the first message that `test` holds for, that one included."""
        messages: list[Wire] = []
        while True:
            messages += self._texts([await self.client.receive()])
            if messages and test(messages[-1]):
                return messages

    async def answer(self, msg_id: str) -> Wire:
        """Wait for the answer to a message; what else comes is let go."""
        return (await self.until(lambda wire: wire.get("id") == msg_id))[-1]

    def _texts(self, wires: Iterable[WireOut]) -> list[Wire]:
        wires = list(wires)
        self.audio += [wire for wire in wires if isinstance(wire, ServerAudio)]
        return texts(wires)

    # -- what the books say --------------------------------------------------------------

    @property
    def books(self) -> rtvi.SessionStatistics:
        """The statistics; the equation must hold whenever they are read."""
        statistics = self.session.statistics()
        assert statistics.conservation.holds, statistics.conservation
        return statistics

    def restarts(self, name: str) -> int:
        return self.session.actor(name).cell.restarts


@asynccontextmanager
async def calling(
    bot: rtvi.Bot,
    *,
    ready: bool = True,
    system: ActorSystem | None = None,
    playing_rate_hz: int | None = None,
    capacity: int = 10_000,
    max_message_bytes: int = 1 << 20,
    **options: Any,
) -> AsyncIterator[Call]:
    """Call a bot. `options` are the session's; with `ready` the handshake is done already."""
    server, client = memory.pair(
        playing_rate_hz=playing_rate_hz, capacity=capacity, max_message_bytes=max_message_bytes
    )
    session_options = rtvi.SessionOptions(**options)
    async with rtvi.open_session(bot, server, options=session_options, system=system) as session:
        call = Call(session, client)
        if ready:
            await call.ready()
        yield call
        assert session.statistics().conservation.holds


class Stuck(rtvi.Concern):
    """A custom actor whose handler waits as long as it is told to."""

    def __init__(self, gate: anyio.Event) -> None:
        super().__init__(gate)
        self._gate = gate

    async def on_received(self, message: rtvi.Received) -> None:
        await self._gate.wait()
        self.release(message, frames.ClientMessage(message.id, message.type))


def stuck(gate: anyio.Event) -> tuple[rtvi.CustomActor, ...]:
    """It serves the type ``stick``."""
    return (rtvi.CustomActor("stuck", Stuck, (gate,), routes=("stick",)),)
