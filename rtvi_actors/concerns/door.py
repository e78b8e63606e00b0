"""Door: lets control frames through to the bot in the order of their numbers.

A number that is not done is waited for `door_gap_s`, then passed over, so that a concern that is down or slow holds
up nobody for
long; when it is done after all it goes through at once and counts as late. A number that is done twice counts as a
duplicate and is ignored, unless it said that more of it would come: that goes through at once, or with what is parked
of it. The book is the ledger's: a restarted door goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from rtvi_actors.concern import BuiltIn, reply_to
from rtvi_actors.errors import ClientError, Dead, Overloaded, Rejected, SessionOver
from rtvi_actors.messages import Answer, Outcome, PassOver, Release
from rtvi_actors.protocol.server import ErrorResponse
from rtvi_actors.runtime.context import savepoint

__all__ = ["Door"]

Done: TypeAlias = tuple[int, Outcome | None, tuple[bytes, ...], str]
"""Number, outcome, frames, and the client message's id."""


class Door(BuiltIn):
    """`door_gap_s` is the promise's bound on waiting for one number."""

    def __init__(self, door_gap_s: float = 0.25) -> None:
        super().__init__(door_gap_s)
        self._gap_s = door_gap_s

    def on_start(self) -> None:
        if self.ledger.door.parked:
            self.after(self._gap_s, PassOver(self.ledger.door.next))

    def on_release(self, message: Release) -> None:
        book = self.ledger.door
        seq = message.seq
        done = (seq, message.outcome, message.frames, message.id)
        if seq == book.next:
            self._through(done)
            self.later(self._advance, None)
        elif seq > book.next:
            self._wait(done)
        elif seq in book.more:
            self._through(done)
        elif seq in book.passed:
            self._through(done)
            self.later(self._late, seq)
        else:
            self.later(self._duplicate, None)

    def _wait(self, done: Done) -> None:
        """Not its turn yet."""
        seq, outcome, more, msg_id = done
        parked = self.ledger.door.parked.get(seq)
        if parked is None:
            self.later(self._park, done)
        elif parked[0] is None:
            self.later(self._park, (seq, outcome, parked[1] + more, msg_id))
        else:
            self.later(self._duplicate, None)

    def on_pass_over(self, message: PassOver) -> None:
        """Waited long enough, if it is still the one that is waited for."""
        book = self.ledger.door
        if message.seq == book.next and book.parked:
            self.later(self._pass_over, None)

    def _through(self, done: Done) -> None:
        seq, outcome, frames, msg_id = done
        bot = self.link("bot")
        rollback = savepoint()
        try:
            for frame in frames:
                bot.forward(frame)
        except (Dead, Rejected) as error:
            rollback()  # none of them, or the TTS switch would stay where the first has turned it
            outcome = Outcome.ANSWERED
            self._refused(seq, msg_id, SessionOver if isinstance(error, Dead) else partial(Overloaded, "messages"))
        if outcome is None:
            self.later(self.ledger.door.more.add, seq)
        else:
            self.later(self.ledger.complete_control, (seq, outcome))

    def _refused(self, seq: int, msg_id: str, error: Callable[..., ClientError]) -> None:
        """The bot's mailbox is full, or it is no more: the client hears of it, a request as its one answer."""
        reply = reply_to(error(reply_id=msg_id or None), self.ledger)
        if seq in self.ledger.requests and isinstance(reply, ErrorResponse):
            self.link("outbound").tell(Answer(seq, reply))
        elif reply is not None:
            self.link("outbound").tell(reply)

    # -- the book: each runs when the handler has returned -----------------------------------

    def _advance(self, _: None) -> None:
        """The next number, and all that is parked right behind it."""
        book = self.ledger.door
        book.next += 1
        while book.next in book.parked:
            self._through((book.next, *book.parked.pop(book.next)))
            book.next += 1
        if book.parked:
            self.after(self._gap_s, PassOver(book.next))

    def _park(self, done: Done) -> None:
        book = self.ledger.door
        if not book.parked:
            self.after(self._gap_s, PassOver(book.next))
        book.parked[done[0]] = done[1:]

    def _pass_over(self, _: None) -> None:
        """Up to the first number that is done."""
        book = self.ledger.door
        first = min(book.parked)
        book.passed.update(range(book.next, first))
        book.next = first - 1
        self._advance(None)

    def _late(self, seq: int) -> None:
        self.ledger.door.passed.discard(seq)
        self.ledger.door.late += 1

    def _duplicate(self, _: None) -> None:
        self.ledger.door.duplicates += 1
