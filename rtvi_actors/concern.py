"""What every concern does the same way, and what a custom actor on a route is: the end of a numbered message.

A `Concern` gets `Received` messages and ends each exactly once: `release` (with frames for the bot or none) or `refuse`
(with an error for the client). A handler that does neither and returns has released it; one that raises before has not,
and the session's dead-letter hook ends it. A second end is ignored and counted. Custom actors derive from it and are
equal citizens.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from msgspec import Struct

from rtvi_actors.errors import ClientError, Dead, Rejected
from rtvi_actors.ledger import DoorBook, Ledger
from rtvi_actors.messages import DeferExpired, Outcome, Received, Release
from rtvi_actors.protocol.codec import decode_data
from rtvi_actors.protocol.envelope import Envelope
from rtvi_actors.protocol.server import Error, ErrorResponse, ErrorResponseData, ServerMessage
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.clock import Timer

__all__ = ["BuiltIn", "Concern", "reply_to"]

P = TypeVar("P", bound=Struct)


def reply_to(error: ClientError, ledger: Ledger) -> ServerMessage | None:
    """The message that answers a client error: with its id an error-response, without an error, or nothing."""
    text = ledger.reply_text(error)
    if text is None:
        return None
    if error.reply_id is None:
        return Error.of(text)
    return ErrorResponse(id=error.reply_id, data=ErrorResponseData(text))


def _count_duplicate(book: DoorBook) -> None:
    book.duplicates += 1


class _Expired(ClientError):
    """A deferred message whose deadline has passed."""

    def __init__(self, limit_s: float, *, reply_id: str | None) -> None:
        super().__init__(reply_id=reply_id, detail=f"deferred for more than {limit_s:g} s")
        self.limit_s = limit_s

    def reply_text(self, error_id: str) -> str | None:
        return f"Request timed out after {self.limit_s:g} s"


class Concern(AnyioActor):
    """An actor on a route. Its child spec links ``door``, ``bot`` and ``outbound``."""

    defer_s: ClassVar[float] = 8.0
    """The deadline of a deferred message: under the 10 s after which client-js gives up."""
    handler_timeout_s: ClassVar[float | None] = defer_s
    """An asynchronous handler has as long: beyond it the actor crashes, and the message ends as one that it crashed on,
    so that no stuck actor keeps its number, nor the reader's credit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ledger: Ledger = self.cell.context
        """The session's books: the child's context."""
        self._ended: set[int] = set()
        """Numbers that the running handler has ended; the ledger does not know of them before it returns."""
        self._deferred: dict[int, Timer] = {}

    def payload(self, message: Received, struct: type[P]) -> P:
        """The message's data as its Struct, which may be the actor's own. Raises `InvalidData`."""
        return decode_data(Envelope(message.type, message.id, message.data), struct)

    def release(self, message: Received, *frames: Any) -> None:
        """End the message, with frames for the bot: they are released in the order of the client's messages."""
        if self._is_over(message.seq):
            return
        encode = self.link("bot").encode
        self._end(message, Outcome.DELIVERED, tuple([encode(frame) for frame in frames]))

    def refuse(self, message: Received, error: ClientError) -> None:
        """End the message with an error to the client. Of a message that has ended (its deadline has passed) the client
        hears no more."""
        if self._is_over(message.seq):
            return
        reply = reply_to(error, self.ledger)
        if reply is not None:
            self.link("outbound").tell(reply)
        self._end(message, Outcome.ANSWERED, ())

    def defer(self, seq: int, id: str = "") -> None:  # noqa: A002  the wire's word
        """Do not end `seq` when its handler returns (`Received.defer`); at the deadline it is refused, under `id`."""
        self._deferred[seq] = self.after(self.defer_s, DeferExpired(seq, id))

    def on_defer_expired(self, message: DeferExpired) -> None:
        """The deadline of a deferred message. It belongs to the cell, so a crash in between does not lose it."""
        self._deferred.pop(message.seq, None)
        if self.ledger.holds(message.seq):
            expired = _Expired(self.defer_s, reply_id=message.id or None)
            self.refuse(Received(message.seq, "", message.id, None), expired)

    def on_handled(self, message: Any) -> None:
        """End what the handler neither ended nor deferred."""
        if isinstance(message, Received) and message.seq not in self._deferred and self._holds(message.seq):
            self._end(message, Outcome.DELIVERED, ())
        self._ended.clear()

    def _holds(self, seq: int) -> bool:
        """Whether a number is still to be ended."""
        return seq not in self._ended and self.ledger.holds(seq)

    def _is_over(self, seq: int) -> bool:
        if self._holds(seq):
            return False
        self.later(_count_duplicate, self.ledger.door)
        return True

    def _end(self, message: Received, outcome: Outcome, frames: tuple[bytes, ...]) -> None:
        try:
            self.link("door").tell(Release(message.seq, outcome, frames, message.id))
        except (Dead, Rejected):  # given up: what has nothing to bring to the bot ends without it
            if frames:
                raise
            self.later(self.ledger.complete_control, (message.seq, outcome))
        timer = self._deferred.pop(message.seq, None)
        if timer is not None:
            self.later(Timer.cancel, timer)
        self._ended.add(message.seq)
        self.later(self.ledger.end_control, message.seq)


class BuiltIn(Concern):
    """A concern whose every path ends its message, so that it needs no net under it: the hook costs a call a
    message."""

    on_handled = AnyioActor.on_handled

    def _is_over(self, seq: int) -> bool:
        return False

    def _end(self, message: Received, outcome: Outcome, frames: tuple[bytes, ...]) -> None:
        self.link("door").tell(Release(message.seq, outcome, frames, message.id))
