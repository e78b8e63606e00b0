"""A whole session under faults: whatever crashes, and whatever is late, DESIGN.md's promises to the client hold."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final

import anyio

import rtvi_actors as rtvi
from rtvi_actors.session import CHILDREN
from rtvi_actors.testing import Edges, Faults, Simulate, World
from tests.session_kit import Call, Wire, calling, of_type, texts

FAULTS = Faults(crash=0.01, crash_after=0.01, delay=0.1, max_delay_s=0.2)
EDGES: Edges = {("*", "*/handshake"): Faults(), ("*/handshake", "*"): Faults()}
"""A client whose client-ready is lost would say it again; this one does not."""
PATIENT: Final[dict[str, Any]] = {"restart_intensity": 10_000, "restart_backoff": rtvi.Backoff(first_s=0.01, max_s=0.1)}


class Busy(rtvi.Bot):
    """Answers at once, late, with an error and not at all; counts what it says and what it hears."""

    def __init__(self, heard: list[str], said: list[int]) -> None:
        super().__init__(heard, said)
        self.heard = heard
        self.said = said

    def say_number(self) -> None:
        """Numbers rise over all incarnations; the client must see them rise."""
        self.said.append(len(self.said))
        self.send_server_message({"number": self.said[-1]})

    @rtvi.request("now")
    def now(self, payload: int) -> int:
        self.say_number()
        return payload

    @rtvi.request("soon")
    async def soon(self, payload: int) -> int:
        await anyio.sleep(random.choice((0, 0.01, 0.5)))
        self.say_number()
        return payload

    @rtvi.request("wrong")
    async def wrong(self, payload: int) -> None:
        raise ValueError(payload)

    @rtvi.request("never")
    async def never(self) -> None:
        await anyio.sleep_forever()

    async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
        self.heard.append(append.messages[0].content)

    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        await anyio.sleep(0.001)


async def talk(call: Call, world: World, messages: int) -> tuple[list[str], list[str]]:
    """A client that says all kinds of things. Returns the ids that want an answer, and the texts."""
    asked: list[str] = []
    said: list[str] = []
    for n in range(messages):
        match random.choice(("now", "soon", "wrong", "never", "text", "text", "audio", "nonsense", "crash", "rest")):
            case "now" | "soon" | "wrong" | "never" as kind:
                await call.ask(kind, n, f"q{n}")
                asked.append(f"q{n}")
            case "text":
                said.append(f"text {n}")
                await call.say(said[-1], f"t{n}", run_immediately=False)
            case "audio":
                await call.client.send_audio(bytes(640))
            case "nonsense":
                await call.send("no-such-type", f"q{n}", {"n": n})
                asked.append(f"q{n}")
            case "crash":
                name = random.choice([child for child in CHILDREN if child != "handshake"])
                world.system.crash(call.session.actor(name))
            case _:
                await world.advance(random.choice((0.0, 0.05, 1.0)))
    return asked, said


def test_a_session_keeps_its_promises_whatever_crashes(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        heard: list[str] = []
        said: list[int] = []
        async with calling(Busy(heard, said), system=world.system, **PATIENT) as call:
            asked, texts_said = await talk(call, world, random.randrange(5, 40))
            await world.advance(30)
            wires = texts(call.client.drain())
            check_answers(wires, asked)
            numbers = [wire["data"]["number"] for wire in of_type(wires, "server-message")]
            assert numbers == sorted(set(numbers))
            check_texts(heard, texts_said, late=call.books.late)
            assert call.books.conservation.open == 0
            session = call.session
        assert session.statistics().conservation.holds
        assert all(ref.cell.books().holds for ref in map(session.actor, CHILDREN))

    simulate(story, faults=FAULTS, edges=EDGES)


def check_answers(wires: list[Wire], asked: list[str]) -> None:
    """Every request gets exactly one answer; nothing else gets an answer that only a request gets."""
    answers = Counter(
        wire["id"] for wire in of_type(wires, "server-response", "error-response") if wire["id"][0] == "q"
    )
    assert answers == Counter(asked)


def check_texts(heard: list[str], said: list[str], *, late: int) -> None:
    """None twice, and in order, but for those whose concern was late."""
    assert len(heard) == len(set(heard))
    assert set(heard) <= set(said)
    if not late:
        assert heard == [text for text in said if text in set(heard)]


def test_a_calm_session_loses_nothing(simulate: Simulate) -> None:
    """Any order of scheduling, no faults: every text arrives, in order, and nothing is late or dropped."""

    async def story(world: World) -> None:
        heard: list[str] = []
        async with calling(Busy(heard, []), system=world.system) as call:
            for n in range(20):
                await call.say(f"text {n}", f"t{n}", run_immediately=False)
                await call.ask("now", n, f"q{n}")
            await world.advance(1)
            check_answers(texts(call.client.drain()), [f"q{n}" for n in range(20)])
            assert heard == [f"text {n}" for n in range(20)]
            assert call.books.late == 0
            assert call.books.dropped == {}
            assert call.books.conservation.delivered == 41

    simulate(story)
