"""What must outlive any actor: the count of every wire message, open requests and calls, the door's book. The session
owns it.

Actors change it through `later`, so that a handler that raises has changed nothing. Loop thread only; the counters
may be read from anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

from msgspec import Struct, structs

from rtvi_actors.errors import ClientCallCancelled, ClientCallFailed, ClientError
from rtvi_actors.files import StoredFile
from rtvi_actors.frames import LLMMessagesAppend
from rtvi_actors.messages import Outcome
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.reporting import ObserverParams
from rtvi_actors.runtime.context import wall_time_s
from rtvi_actors.runtime.futures import ActorFuture

__all__ = [
    "ENDED_CALLS",
    "LOGGED_AT_ONCE",
    "LOGGED_PER_S",
    "Account",
    "Conservation",
    "DoorBook",
    "Ledger",
    "OpenCall",
    "OpenRequest",
    "TextBook",
    "WaitingText",
]

logger = logging.getLogger("rtvi_actors")

LOGGED_AT_ONCE: Final = 20
"""Client errors that the log takes of one session at once."""
LOGGED_PER_S: Final = 2.0
"""And those that it takes in the long run, a second."""
ENDED_CALLS: Final = 256
"""Calls of the client's functions that are remembered when they have ended: a late answer to one of them is known as
such, and is not taken for that of a call which the bot has made in another way."""


class Conservation(Struct, frozen=True):
    """received = delivered + answered + dropped + dead + open, each message once."""

    received: int
    delivered: int
    answered: int
    dropped: int
    dead: int
    open: int

    @property
    def holds(self) -> bool:
        return self.received == self.delivered + self.answered + self.dropped + self.dead + self.open


class Account:
    """Wire messages of one numbering, by number, once."""

    def __init__(self) -> None:
        self.last = 0
        """The last number given."""
        self.open: dict[int, int] = {}
        """Numbers that have not ended, each with its size in bytes."""
        self.open_bytes = 0
        self.counts = dict.fromkeys(Outcome, 0)
        self.dropped: dict[str, int] = {}
        """By policy."""
        self.duplicates = 0
        """Completions of a number that was complete already: ignored."""

    def begin(self, seq: int, size_bytes: int = 0) -> None:
        """Give out the number: `seq` is `last + 1`."""
        self.last = seq
        self.open[seq] = size_bytes
        self.open_bytes += size_bytes

    def complete(self, seq: int, outcome: Outcome, policy: str = "") -> bool:
        """End a number; returns whether it was open."""
        if seq not in self.open:
            self.duplicates += 1
            return False
        self.open_bytes -= self.open.pop(seq)
        self.counts[outcome] += 1
        if outcome is Outcome.DROPPED:
            self.dropped[policy] = self.dropped.get(policy, 0) + 1
        return True

    def recall(self, policy: str) -> bool:
        """One that was delivered has been dropped after all; False where none was (it came from no client)."""
        if not self.counts[Outcome.DELIVERED]:
            return False
        self.counts[Outcome.DELIVERED] -= 1
        self.counts[Outcome.DROPPED] += 1
        self.dropped[policy] = self.dropped.get(policy, 0) + 1
        return True


class DoorBook:
    """Where the door is in the order of control numbers."""

    def __init__(self) -> None:
        self.next = 1
        """The number that may go through."""
        self.parked: dict[int, tuple[Outcome | None, tuple[bytes, ...], str]] = {}
        """Done, but with a number before them open."""
        self.more: set[int] = set()
        """Through, and more of them is to come."""
        self.passed: set[int] = set()
        """Passed over, not done yet."""
        self.late = 0
        self.duplicates = 0


class WaitingText(Struct, frozen=True):
    """What a client has written while the bot was in a turn."""

    append: LLMMessagesAppend
    skip_tts: bool | None = None
    """What the TTS switch is to be for its turn; `None`: whatever it is."""
    upload: StoredFile | None = None
    """The content of its file, read when it goes to the bot."""


class TextBook:
    """Texts that wait until the turn that they interrupt is committed. Their numbers are open, so the reader's credit
    bounds them."""

    def __init__(self) -> None:
        self.waiting: dict[int, WaitingText] = {}
        """By number, in order."""
        self.token = 0
        """The number of the one whose interruption has been sent, once there was one: it waits for that to be
        committed, the others for it."""
        self.overdue = 0
        """Interruptions that the bot has not committed in time."""
        self.over = False
        """Whether the session ends: nothing waits any more."""

    def hold(self, entry: tuple[int, WaitingText]) -> None:
        self.waiting[entry[0]] = entry[1]

    def drop(self, seq: int) -> None:
        self.waiting.pop(seq, None)

    def wait_for(self, token: int) -> None:
        self.token = token

    def count_overdue(self, _: None) -> None:
        self.overdue += 1


class OpenRequest(Struct):
    """A request that the client waits for."""

    msg_id: str
    type: str
    due_s: float
    """The system's clock."""


class OpenCall(Struct):
    """A function that the client has been asked to run, and that the bot waits for."""

    function_name: str
    timeout_s: float
    due_s: float
    """The system's clock."""
    result: ActorFuture[Json]
    cancel_on_interruption: bool = True
    answered: bool = False
    """Whether the result is on its way to the bot. Its deadline holds all the same, should it be lost there."""


class _Allowance:
    """A token bucket: `LOGGED_AT_ONCE`, and `LOGGED_PER_S` more. `left_out` counts what found it empty."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._tokens = float(LOGGED_AT_ONCE)
        self._filled_s = now()
        self.left_out = 0

    def take(self) -> bool:
        now_s = self._now()
        self._tokens = min(float(LOGGED_AT_ONCE), self._tokens + (now_s - self._filled_s) * LOGGED_PER_S)
        self._filled_s = now_s
        if self._tokens < 1.0:
            self.left_out += 1
            return False
        self._tokens -= 1.0
        return True


class Ledger:
    """One session's books. `now` is the system's clock, in seconds."""

    def __init__(
        self,
        session_id: str,
        now: Callable[[], float],
        *,
        credit: int = 256,
        credit_bytes: int = 16 * 1024 * 1024,
        playing_rate_hz: int | None = None,
    ) -> None:
        self.session_id = session_id
        self.playing_rate_hz = playing_rate_hz
        """The one rate at which the client plays, or `None` (streams.Transport)."""
        self.control = Account()
        self.audio = Account()
        self.ended: set[int] = set()
        """Open control numbers whose end is on its way to the door: nobody else ends them, or answers their message."""
        self.unread = 0
        """Wire messages on their way to ingress."""
        self.unread_bytes = 0
        self.unnumbered = dict.fromkeys(Outcome, 0)
        """Ends of messages that never got a number: not RTVI, malformed, lost in ingress."""
        self.unnumbered_dropped: dict[str, int] = {}
        self.door = DoorBook()
        self.texts = TextBook()
        self.requests: dict[int, OpenRequest] = {}
        self.client_ready: ActorFuture[bool] = ActorFuture()
        """Set when the client has said client-ready; false when the session ended without."""
        self.listeners: dict[str, tuple[Callable[..., Any], ...]] = {}
        """The host's own event handlers, by event (`session.control.on`). Replaced whole, so any thread may read
        them."""
        self.playout_dropped_s = 0.0
        """Bot audio that playout had no room for."""
        self.late_answers = 0
        self.client_gone = 0
        """Requests that were open when the session ended."""
        self.calls: dict[str, OpenCall] = {}
        """By tool call id. The bot opens and ends them, tools sees to their deadlines."""
        self.ended_calls: dict[str, None] = {}
        """The last `ENDED_CALLS` of them that have ended, the oldest first."""
        self.stray_results = 0
        """Results of calls that were not open."""
        self.left = False
        """Whether the client can answer no more calls: it is gone, or the session ends."""
        self.skip_tts: bool | None = None
        """The bot's TTS switch, as LLMConfigureOutput last said. A crash of the bot does not turn it."""
        self.on_observer: Callable[[], None] | None = None
        """Called when the observer's parameters have changed."""
        self._observer = ObserverParams()
        self._observer_changes: dict[int, Mapping[str, Any]] = {}
        """Parameters that are to change when the observer comes to it, by token."""
        self._observer_tokens = count(1)
        self.credit = credit
        self.credit_bytes = credit_bytes
        self.on_credit: Callable[[], None] | None = None
        """Called when the reader, which waits, may go on."""
        self._errors = 0
        self._log = _Allowance(now)

    @property
    def observer(self) -> ObserverParams:
        """What is reported to the client. Replaced whole, so any thread may read it."""
        return self._observer

    @observer.setter
    def observer(self, params: ObserverParams) -> None:
        self._observer = params
        if self.on_observer is not None:
            self.on_observer()

    def observer_token(self) -> int:
        """A new name for a change of the observer's parameters. From any thread."""
        return next(self._observer_tokens)

    def plan_observer(self, entry: tuple[int, Mapping[str, Any]]) -> None:
        """Keep a change until its turn comes: what it holds cannot travel in a message. From any thread."""
        self._observer_changes[entry[0]] = entry[1]

    def observer_with(self, token: int) -> ObserverParams:
        """The parameters as the change `token` makes them."""
        return structs.replace(self._observer, **self._observer_changes.get(token, {}))

    def configure_observer(self, entry: tuple[int, ObserverParams]) -> None:
        """The turn of a change has come."""
        if self._observer_changes.pop(entry[0], None) is not None:
            self.observer = entry[1]

    # -- arrival and credit ----------------------------------------------------------------

    def arrived(self, size_bytes: int = 0) -> None:
        """The reader hands a wire message to ingress."""
        self.unread += 1
        self.unread_bytes += size_bytes

    def _read(self, size_bytes: int) -> None:
        self.unread -= 1
        self.unread_bytes -= size_bytes

    @property
    def exhausted(self) -> bool:
        """Whether the reader must wait: as many messages or bytes as the credit allows are unread, or numbered and
        open."""
        return (
            self.unread + len(self.control.open) >= self.credit
            or self.unread_bytes + self.control.open_bytes >= self.credit_bytes
        )

    @property
    def is_crowded(self) -> bool:
        """Whether more than half of the credit is used: a reader that waits does not go on before it is not."""
        return (self.unread + len(self.control.open)) * 2 > self.credit or (
            self.unread_bytes + self.control.open_bytes
        ) * 2 > self.credit_bytes

    def begin_control(self, numbered: tuple[int, int]) -> None:
        """Ingress has given a number to a message of so many bytes."""
        self._read(numbered[1])
        self.control.begin(*numbered)

    def begin_audio(self, numbered: tuple[int, int]) -> None:
        self._read(numbered[1])
        self.audio.begin(*numbered)
        self._credit_back()

    def end_unnumbered(self, outcome: Outcome, size_bytes: int = 0, policy: str = "") -> None:
        """A message that never got a number has ended."""
        self._read(size_bytes)
        self.unnumbered[outcome] += 1
        if outcome is Outcome.DROPPED:
            self.unnumbered_dropped[policy] = self.unnumbered_dropped.get(policy, 0) + 1
        self._credit_back()

    def complete_control(self, end: tuple[int, Outcome]) -> None:
        self.control.complete(*end, "overflow")
        self.ended.discard(end[0])
        self.door.more.discard(end[0])
        self.texts.drop(end[0])
        self._credit_back()

    def complete_audio(self, end: tuple[int, Outcome]) -> None:
        self.audio.complete(*end, "bot overflow")

    def end_control(self, seq: int) -> None:
        """The end of this number is on its way to the door: its concern's, or a crash's where that had none."""
        if seq in self.control.open:
            self.ended.add(seq)

    def holds(self, seq: int) -> bool:
        """Whether a control number is still to be ended."""
        return seq in self.control.open and seq not in self.ended

    def audio_lost(self, policy: str) -> None:
        """Audio that was delivered has been dropped before the bot's handler saw it."""
        self.audio.recall(policy)

    def playout_lost(self, length_s: float) -> None:
        """Playout had no room for so much of the bot's audio. The log has the first."""
        if not self.playout_dropped_s:
            logger.warning("%s: bot audio is dropped: more waits than playout takes", self.session_id)
        self.playout_dropped_s += length_s

    def configure(self, skip_tts: bool | None) -> None:
        self.skip_tts = skip_tts

    def _credit_back(self) -> None:
        # Wake at half, not at every message: the reader then works in batches.
        if self.on_credit is not None and not self.is_crowded:
            wake, self.on_credit = self.on_credit, None
            wake()

    def close(self) -> None:
        """The session is over, and its actors are dead: what is open now was lost with them, and requests with the
        client that could not be told."""
        if self.texts.waiting:
            logger.warning("%s: %d texts could not be delivered any more", self.session_id, len(self.texts.waiting))
            self.texts.waiting.clear()
        for account in (self.control, self.audio):
            for seq in list(account.open):
                account.complete(seq, Outcome.DEAD)
        self.unnumbered[Outcome.DEAD] += self.unread
        self.unread = self.unread_bytes = 0
        self.client_gone += len(self.requests)
        self.requests.clear()
        for tool_call_id, call in list(self.calls.items()):
            self.end_call((tool_call_id, ClientCallCancelled(call.function_name, "gone")))

    def conservation(self) -> Conservation:
        """The equation, at this moment."""
        accounts = (self.control.counts, self.audio.counts, self.unnumbered)
        ended = {outcome: sum(counts[outcome] for counts in accounts) for outcome in Outcome}
        received = self.control.last + self.audio.last + sum(self.unnumbered.values()) + self.unread
        return Conservation(
            received=received,
            delivered=ended[Outcome.DELIVERED],
            answered=ended[Outcome.ANSWERED],
            dropped=ended[Outcome.DROPPED],
            dead=ended[Outcome.DEAD],
            open=self.unread + len(self.control.open) + len(self.audio.open),
        )

    # -- requests --------------------------------------------------------------------------

    def open_request(self, entry: tuple[int, OpenRequest]) -> None:
        self.requests[entry[0]] = entry[1]

    def settle(self, token: int) -> bool:
        """Take the one right to answer a request; False where it is answered already."""
        if self.requests.pop(token, None) is None:
            self.late_answers += 1
            return False
        return True

    # -- calls of the client's functions -----------------------------------------------------

    def open_call(self, entry: tuple[str, OpenCall]) -> None:
        self.calls[entry[0]] = entry[1]

    def answer_call(self, tool_call_id: str) -> None:
        """The client's result is on its way to the bot: a second one is none."""
        self.calls[tool_call_id].answered = True

    def end_call(self, end: tuple[str, Json | ClientCallFailed]) -> None:
        """Whoever waits for the call has its result, or its error. Of a call that has ended: nothing."""
        tool_call_id, outcome = end
        call = self.calls.pop(tool_call_id, None)
        if call is None:
            return
        self.ended_calls[tool_call_id] = None
        if len(self.ended_calls) > ENDED_CALLS:
            del self.ended_calls[next(iter(self.ended_calls))]
        if isinstance(outcome, Json):
            call.result.try_set(outcome)
        else:
            call.result.try_fail(outcome)

    def knows_call(self, tool_call_id: str) -> bool:
        """Whether the bot has made such a call, as far as is remembered."""
        return tool_call_id in self.calls or tool_call_id in self.ended_calls

    def stray_result(self, _: None) -> None:
        self.stray_results += 1

    def leave(self) -> None:
        """The session ends: the client's word is heard no more."""
        self.left = True

    # -- errors ----------------------------------------------------------------------------

    def error_id(self, detail: object, error: BaseException | None = None, level: int = logging.WARNING) -> str:
        """A new error id; the log has the details under it."""
        ident = self._new_id()
        text = str(detail)
        logger.log(level, "error %s: %s", ident, text if text.isprintable() else repr(text), exc_info=error)
        return ident

    def _new_id(self) -> str:
        self._errors += 1
        return f"{self.session_id}.{self._errors}"

    def failure_text(self, detail: object, error: BaseException | None = None) -> str:
        """What a client hears of a failure that is ours, the details logged (the wording is pipecat-ai 1.14.0's)."""
        return f"Exception processing message: {self.error_id(detail, error)}"

    def reply_text(self, error: ClientError) -> str | None:
        """What to answer a client error with, its details logged: as information, and so many a second at the most,
        for a client can make many."""
        if not self._log.take():
            return error.reply_text(self._new_id())
        self.log_left_out()
        return error.reply_text(self.error_id(error, level=logging.INFO))

    def log_left_out(self) -> None:
        """Say how many client errors the log has not had, if there are any. Also the session's last word on them."""
        left_out, self._log.left_out = self._log.left_out, 0
        if left_out:
            until = f"{self.session_id}.{self._errors}"
            logger.info("%d client errors up to %s are left out: more than %g a second", left_out, until, LOGGED_PER_S)

    @staticmethod
    def timestamp() -> str:
        """Now, ISO 8601, UTC."""
        return datetime.fromtimestamp(wall_time_s(), UTC).isoformat(timespec="milliseconds")
