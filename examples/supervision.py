"""A tree of supervisors: who restarts with whom, after how long, and who hears of it when that does not help.

The engine breaks. Those behind it restart with it, behind the same references; one that breaks too often takes its
supervisor down, which the one above restarts; and the one at the top says so when that happens too often as well.
The log has each crash.
"""

from __future__ import annotations

from contextlib import suppress

import anyio
import msgspec

import rtvi_actors as rtvi


class Say(msgspec.Struct, frozen=True, tag=True):
    text: str


class Break(msgspec.Struct, frozen=True, tag=True):
    """What a speech engine does now and then."""


class Engine(rtvi.AnyioActor):
    def on_start(self) -> None:
        print("engine starts")

    def on_say(self, say: Say) -> str:
        return f"♪ {say.text}"

    def on_break(self, _: Break) -> None:
        raise ConnectionError("the engine is gone")


class Voice(rtvi.AnyioActor):
    """Has to begin anew when its engine does."""

    def on_start(self) -> None:
        print("voice starts")

    async def on_say(self, say: Say) -> str:
        answer: str = await self.link("engine").call(say, timeout_s=2)
        return answer


class Diary(rtvi.AnyioActor):
    """Hears nothing of all that."""

    def on_say(self, say: Say) -> None:
        print("diary:", say.text)


SPEECH = [
    rtvi.ChildSpec(name="engine", actor=Engine, backoff=rtvi.Backoff(immediate=1, first_s=0.1, max_s=5)),
    rtvi.ChildSpec(name="voice", actor=Voice, links=("engine",), restart="transient"),
]
HOUSE = [
    rtvi.ChildSpec(name="diary", actor=Diary),
    rtvi.ChildSpec(
        name="speech", actor=rtvi.Supervisor, args=(SPEECH,), kwargs={"strategy": "rest_for_one", "intensity": 3}
    ),
]


async def main() -> None:
    given_up = anyio.Event()

    def on_escalate(escalation: rtvi.Escalation) -> None:
        print(escalation.supervisor, "gave up on", escalation.child)
        given_up.set()

    async with rtvi.ActorSystem() as system:
        system.spawn(rtvi.Supervisor, HOUSE, intensity=1, on_escalate=on_escalate, name="house")
        voice = system.get("house/speech/voice")
        print(await voice.call(Say("hello")))

        system.get("house/speech/engine").tell(Break())
        print(await voice.call(Say("hello again")))  # the same reference

        while not given_up.is_set():  # the engine's restarts, then those of its supervisor, then that is enough
            engine = system.get("house/speech/engine")
            for _ in range(4):
                engine.tell(Break())
            with suppress(rtvi.Dead):
                await engine.call(Say("still there?"))  # waits behind them, and ends with the engine
        system.get("house/diary").tell(Say("no speech today"))


if __name__ == "__main__":
    anyio.run(main)
