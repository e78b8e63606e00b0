"""What a simulation decides, what it may do to a message, and what it writes down.

Every decision is one call of a `Chooser`. Seeded, it decides by chance and notes what it decided; replaying, it reads
that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

__all__ = ["CALM", "Chooser", "Edges", "Faults", "Schedule", "Trace"]

Schedule: TypeAlias = Mapping[int, int]
"""The decisions that were not the calm one, by their number."""

STRAYS: Final = ("order ", "drop ", "delay ", "duplicate ", "crash ")
"""Events that are decisions off the calm path."""
PROBABILITIES: Final = ("crash", "crash_after", "delay", "drop", "duplicate")
ORDER: Final = 0
FATE: Final = 1
"""What a decision is about, and the number of the first one about it."""
PLACE_OF_EVENT: Final = 14
"""In a line of the trace, behind the time."""


class Chooser:
    """Makes the decisions of one run, or repeats them. 0 is always the calm choice: first come first served, no fault.

    Those of order have even numbers, those of fate odd ones: a fault that is taken back leaves the numbers of the
    others as they were, so that a schedule can be shrunk.

    A seeded one draws how bold it is to be, too: some runs stray from the calm order all the time, some hardly ever,
    and either kind finds what the other does not.
    """

    def __init__(self, seed: int = 0, schedule: Schedule | None = None) -> None:
        self._schedule = schedule
        self._random = random.Random(f"{seed}/choices")  # noqa: S311 - repeatable is what it is to be
        self._boldness = self._random.choice((0.1, 0.3, 1.0))
        self._next = [0, 1]
        """The numbers of the next decision of order and of fate."""
        self.strayed: dict[int, int] = {}
        """The decisions that were not 0, by their number: a schedule that repeats this run."""

    @property
    def made(self) -> int:
        """How many decisions there were."""
        return sum(self._next) // 2

    def choose(self, count: int) -> int:
        """One of ``0 … count - 1``."""
        if count < 2:
            return 0
        if self._schedule is not None:
            return self._planned(ORDER, count)
        bold = self._random.random() < self._boldness
        return self._note(ORDER, self._random.randrange(count) if bold else 0)

    def chance(self, probability: float, kinds: int = 1) -> int:
        """Whether a fault of this probability happens: 0 if not, else which of its kinds, ``1 … kinds``."""
        if probability <= 0:
            return 0
        if self._schedule is not None:
            return self._planned(FATE, kinds + 1)
        happens = self._random.random() < probability
        return self._note(FATE, 1 + self._random.randrange(kinds) if happens else 0)

    def _planned(self, what: int, count: int) -> int:
        assert self._schedule is not None
        return self._note(what, min(self._schedule.get(self._next[what], 0), count - 1))

    def _note(self, what: int, choice: int) -> int:
        if choice:
            self.strayed[self._next[what]] = choice
        self._next[what] += 2
        return choice


class Faults(msgspec.Struct, frozen=True):
    """What may happen to a message on its way: probabilities, each decided for itself.

    Those of one sender to one receiver arrive in the order sent, whatever happens to them. The reply to an ask is no
    message and meets none.

    Raises `ValueError` for what is no probability, and for a negative delay.
    """

    crash: float = 0.0
    """Its receiver crashes as it arrives, before the next message, or in the asynchronous handler that runs."""
    crash_after: float = 0.0
    """Its receiver's synchronous handler raises when it has done all its work: nothing that it sent may leave."""
    delay: float = 0.0
    """It arrives later, by an eighth of `max_delay_s` or several."""
    max_delay_s: float = 0.1
    drop: float = 0.0
    """It is lost: a dead letter, `dropped`. Who asked hears nothing, up to its deadline."""
    duplicate: float = 0.0
    """It arrives twice; the second one asks for no reply."""

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Faults.{name} is a probability, from 0 to 1, not {getattr(self, name)!r}")
        if not 0 <= self.max_delay_s < math.inf:
            raise ValueError(f"Faults.max_delay_s is in seconds, 0 or more, not {self.max_delay_s!r}")


CALM: Final = Faults()

Edges: TypeAlias = Mapping[tuple[str, str], Faults]
"""(sender, receiver) → faults. Names are patterns (`fnmatch`) of actors, and of `post.STORY` and `post.HOST`; the first
match counts."""


class Trace:
    """What happened, a line each: the virtual time, what, who, which message. The same for the same seed."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.lines: list[str] = []

    @staticmethod
    def strays(lines: Iterable[str]) -> list[str]:
        """The lines of what a calm run has not."""
        return [line for line in lines if line[PLACE_OF_EVENT:].startswith(STRAYS)]

    def add(self, event: str, *parts: object) -> None:
        text = " ".join(str(part) for part in parts).replace("\n", " ")
        self.lines.append(f"{self._now():13.6f} {event:<9} {text}")
