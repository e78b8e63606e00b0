"""Random cases through real sessions: what must hold without a recording.

Nothing crashes, the books balance, and what a client is shown of each segment is a story with a beginning and one end.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import pytest

import rtvi_actors as rtvi
from tests.vectors import cases, generate, replay, values

pytestmark = pytest.mark.vectors

SEED = 20_261_122
COUNT = 200


class Look:
    """What is left of each session at its end."""

    def __init__(self) -> None:
        self.crashed: list[str] = []
        self.unbalanced: list[str] = []

    def __call__(self, session: rtvi.Session) -> None:
        self.crashed += [actor.name for actor in session.actors() if actor.restarts or actor.failed]
        books = session.statistics().conservation
        if books.open or not books.holds:
            self.unbalanced.append(session.id)


@functools.cache
def played() -> tuple[Mapping[str, Sequence[Mapping[str, Any]]], Look]:
    """The effects of all cases, and what was left."""
    look = Look()

    async def play() -> Mapping[str, Sequence[Mapping[str, Any]]]:
        async with rtvi.ActorSystem() as system:
            lines = generate.cases(SEED, COUNT)
            return {line["case"]: await replay.run(cases.read(line), system, look) for line in lines}

    return anyio.run(play), look


def outputs(effects: Sequence[Mapping[str, Any]]) -> Mapping[str, list[Mapping[str, Any]]]:
    """The bot-outputs of a case, by segment; 1.x clients get no segments."""
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for effect in effects:
        message = effect.get("wire", {})
        if message.get("type") == "bot-output" and "segment_id" in message["data"]:
            found[message["data"]["segment_id"]["$frame_id"]].append(message["data"])
    return found


def spoken_chars(output: Mapping[str, Any]) -> int:
    """How much of a segment has been spoken."""
    return len(output.get("spoken_progress", {}).get("accumulated_text", ""))


def test_the_same_seed_makes_the_same_cases_and_another_seed_others() -> None:
    first, again, other = ([*map(values.dumps, generate.cases(seed, 5))] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_cases_say_everything_that_can_be_said() -> None:
    made = "".join(map(values.dumps, generate.cases(SEED, COUNT)))
    kinds = ("send-text", "send-file", "dtmf", "ui-event", "TTSTextFrame", "InterruptionFrame", "MetricsFrame", "1.0.0")
    assert [kind for kind in kinds if kind not in made] == []


def test_nothing_crashes() -> None:
    assert played()[1].crashed == []


def test_every_client_message_ends_once() -> None:
    assert played()[1].unbalanced == []


def test_a_segment_is_shown_before_its_progress_and_grows_to_one_end() -> None:
    stories = {(case, name): story for case, effects in played()[0].items() for name, story in outputs(effects).items()}
    assert len(stories) > COUNT
    for place, story in stories.items():
        statuses = [output["spoken_status"] for output in story]
        assert statuses[0] == "new", place
        assert set(statuses[1:-1]) <= {"in-progress"}, place
        chars = [spoken_chars(output) for output in story]
        assert chars == sorted(chars), place


def test_an_interruption_closes_what_is_open_before_anything_else_is_said() -> None:
    closed = 0
    for case, effects in played()[0].items():
        open_segments: set[str] = set()
        to_close: set[str] = set()
        for message in (effect["wire"] for effect in effects if "wire" in effect):
            data = message.get("data", {})
            name = data["segment_id"]["$frame_id"] if message["type"] == "bot-output" and "segment_id" in data else None
            assert not to_close or name in to_close, case
            if name is None:
                to_close = set(open_segments) if message["type"] == "bot-interrupted" else set()
                closed += len(to_close)
            elif data["spoken_status"] == "completed" or not (data["will_be_spoken"] and data["text"]):
                open_segments.discard(name)
                to_close.discard(name)
            else:
                open_segments.add(name)
        assert not to_close, case
    assert closed > 0
