"""What the runtime itself says: stop, crash, inspect; an actor's end; a message that was not handled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from rtvi_actors.errors import Dead
from rtvi_actors.runtime.futures import ActorFuture

__all__ = ["Books", "DeadLetter", "ExitReason", "Inject", "Inspect", "Stop", "Terminated"]

ExitReason: TypeAlias = Literal["normal", "shutdown", "killed", "error", "timeout", "start failed"]
"""How an incarnation ended."""


class Stop(msgspec.Struct):
    """Kill and stop lanes: end now (`drain_s` 0), or when the mail that is there is handled."""

    drain_s: float
    exit: ExitReason
    done: ActorFuture[bool]
    final: bool = False
    """Asked for by the supervisor: the end for good, whatever the child's restart type."""

    @property
    def rank(self) -> int:
        return 0 if self.exit == "killed" else 1

    def finds_dead(self, owner: str) -> None:
        """It has arrived at an actor that had ended before."""
        self.done.try_set(False)


class Inject(msgspec.Struct):
    """Supervision lane: crash as if a handler had raised `error`, between two messages (tests, demonstrations)."""

    error: BaseException
    rank: ClassVar[int] = 2

    def finds_dead(self, owner: str) -> None:
        """Nobody waits for it."""


class Inspect(msgspec.Struct):
    """Supervision lane: have `read` called, with the cell, between two messages."""

    read: Callable[[Any], Any]
    done: ActorFuture[Any]
    rank: ClassVar[int] = 2

    def finds_dead(self, owner: str) -> None:
        """Who asked is told."""
        self.done.try_fail(Dead(f"{owner} has stopped"))


class Terminated(msgspec.Struct, frozen=True, tag=True):
    """To who watches an actor: it has ended for good."""

    name: str
    urn: str
    reason: str
    """An `ExitReason`, ``restart limit``, or ``dead`` where it was dead when the watch began."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was not handled, with the reason.

    crashed, failed (a contained asynchronous handler), timeout, cancelled, restarted, undecodable, killed, dead; or
    by a policy: overflow, coalesced, expired.
    """

    receiver: str
    reason: str
    body: Any
    """The encoded message (bytes), or the object where the receiver takes objects."""


class Books(msgspec.Struct, frozen=True):
    """Every message that was sent to one actor, once: received = handled + refused + dropped + dead + open."""

    received: int
    handled: int
    refused: int
    """Their senders were told."""
    dropped: Mapping[str, int]
    """By policy."""
    dead: Mapping[str, int]
    """Dead letters that no policy made, by reason."""
    open: int
    """In the mailbox, or in a handler."""

    @property
    def holds(self) -> bool:
        ended = self.handled + self.refused + sum(self.dropped.values()) + sum(self.dead.values())
        return self.received == ended + self.open
