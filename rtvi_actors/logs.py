"""System logs: what is logged for a session goes to its client as system-log, where `system_logs_enabled` asks for it.

A line belongs to the session whose actor was running, be it in a handler, in a task that the handler started, or in a
worker thread that it waits for (anyio's take the context along). Lines of the runtime's own name the actor that they
are about. All others are ignored, and so is what the actors on the way out log: each line would make another.

The client gets what any log handler gets (`LINE_FORMAT` is the shape that pipecat-ai 1.14.0 sends), an exception's
text and traceback included: that the operator has asked for. Secrets are masked as far as they are recognised
(redaction.py). One handler on the root logger serves all sessions, and is there only while one wants it: what does not
propagate to the root logger is not seen, and a program sets its logging up before its first session.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from rtvi_actors.ledger import Ledger
from rtvi_actors.protocol.server import SystemLog, TextData
from rtvi_actors.redaction import redact
from rtvi_actors.runtime.clock import Timer
from rtvi_actors.runtime.context import CURRENT, LOCAL
from rtvi_actors.runtime.system import ActorSystem

__all__ = ["LINE_FORMAT", "LOG_LINES_PER_S", "MAX_LINE_CHARS", "MAX_READ_CHARS", "SILENT", "SessionLogs"]

LINE_FORMAT: Final = "%(asctime)s.%(msecs)03d | %(levelname)-8s | %(name)s:%(funcName)s:%(lineno)d - %(message)s"
LOG_LINES_PER_S: Final = 50
"""Lines that a session's client gets in a second; also those that wait for its client-ready."""
MAX_LINE_CHARS: Final = 2000
"""A longer line loses its middle: what failed stands at its start, why at the end of a traceback."""
MAX_READ_CHARS: Final = 16_384
"""What of a line is searched for secrets; the middle of a longer one is left out before."""
SILENT: Final = frozenset(("observer", "outbound"))
"""Children whose lines are not sent: they send them."""

_FORMATTER: Final = logging.Formatter(LINE_FORMAT, "%Y-%m-%d %H:%M:%S")
_PERIOD_S: Final = 1.0


class SessionLogs:
    """One session's lines. `send` hands one over, on the loop's thread, and says whether it was taken.

    As a context manager it follows the observer's parameters. `take` may be called from any thread, all else belongs
    to the loop's.
    """

    def __init__(self, ledger: Ledger, system: ActorSystem, send: Callable[[SystemLog], bool]) -> None:
        self._ledger = ledger
        self._system = system
        self._send = send
        self._is_served = False
        self._lock = threading.RLock()  # a finaliser may log in the middle of anything
        self._lines: deque[str] = deque()
        self._taken = 0
        """Lines of this period."""
        self._left_out = 0
        self.on_its_way = False
        """Whether a line is, from where it was logged to the loop."""
        self._period: Timer | None = None
        self._waits = False
        """Whether client-ready will flush."""

    def __enter__(self) -> Self:
        self._ledger.on_observer = self._follow
        self._follow()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.on_observer = None
        self._serve(False)
        if self._period is not None:
            self._period.cancel()

    def _follow(self) -> None:
        """The parameters are new. Lines that were taken before still leave."""
        self._serve(self._ledger.observer.system_logs_enabled)

    def _serve(self, wanted: bool) -> None:
        if wanted is not self._is_served:
            self._is_served = wanted
            _ROUTER.serve(self._ledger.session_id, self if wanted else None)

    def take(self, record: logging.LogRecord) -> None:
        """Keep its text for the client, or count it."""
        with self._lock:
            if self._taken >= LOG_LINES_PER_S:
                self._left_out += 1
                return
            self._taken += 1
            self._lines.append(_text(record))
            if len(self._lines) > LOG_LINES_PER_S:
                self._lines.popleft()
                self._left_out += 1
            if self.on_its_way:
                return
            self.on_its_way = True
        # Not from here: what a handler sends is void if it fails, what it logs is not.
        if threading.get_ident() == self._system.backend.thread_id:
            self._system.backend.soon(self._flush)
        else:
            self._system.bridge(self._flush, None)

    def _flush(self, _: None = None) -> None:
        """Hand over what there is; from client-ready on, so that lines do not use up the place of what the bot says."""
        self.on_its_way = False
        if self._period is None:
            self._period = self._system.timers.after(_PERIOD_S, self._end_period)
        if not self._is_ready():
            return
        while self._lines:
            if not self._send(SystemLog(data=TextData(self._lines.popleft()))):
                self._leave_out()

    def _is_ready(self) -> bool:
        ready = self._ledger.client_ready
        if ready.done():
            return ready.result()
        if not self._waits:
            self._waits = True
            ready.when_done(self._flush)
        return False

    def _leave_out(self) -> None:
        with self._lock:
            self._left_out += 1

    def _end_period(self) -> None:
        self._period = None
        with self._lock:
            self._taken = 0
            if not self._left_out:
                return
            if self._is_ready():
                self._lines.append(f"{self._left_out} log lines are left out")
                self._left_out = 0
        self._flush()


class _Router(logging.Handler):
    """Record → session. Never logs; what fails in it is reported as logging reports it, on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[str, SessionLogs] = {}
        self._installing = threading.Lock()

    def serve(self, session_id: str, logs: SessionLogs | None) -> None:
        """Have a session's records handed to `logs`, or to nobody."""
        with self._installing:
            if logs is not None:
                self._sessions[session_id] = logs
            else:
                self._sessions.pop(session_id, None)
            root = logging.getLogger()
            (root.addHandler if self._sessions else root.removeHandler)(self)

    def handle(self, record: logging.LogRecord) -> bool:
        """A program without handlers of its own has its warnings on stderr, and keeps them there."""
        last_resort = logging.lastResort
        if last_resort is not None and record.levelno >= last_resort.level and self._is_alone(record):
            last_resort.handle(record)
        return super().handle(record)

    def _is_alone(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True

    def emit(self, record: logging.LogRecord) -> None:
        logs = self._sessions.get(_session_of(record))
        if logs is None:
            return
        try:
            logs.take(record)
        except Exception:  # noqa: BLE001  as every handler of logging's own: a record's arguments may be anything
            self.handleError(record)


_ROUTER: Final = _Router()


def _session_of(record: logging.LogRecord) -> str:
    """The id of the session that a record is of; empty for none."""
    cell = _running_cell()
    if cell is not None and isinstance(cell.context, Ledger):
        return "" if _child_of(cell.name) in SILENT else cell.context.session_id
    if record.name.partition(".")[0] != "rtvi_actors" or not isinstance(record.args, tuple) or not record.args:
        return ""
    # Our own loggers name first what a line is about: an actor, a session, or an error by its id.
    about = record.args[0]
    if not isinstance(about, str) or _child_of(about) in SILENT:
        return ""
    head, _, number = about.rpartition(".")
    return head if number.isdecimal() else about.rpartition("/")[0] or about


def _running_cell() -> Any:
    """The cell whose handler runs here, or whose handler started this task, or this worker thread."""
    if LOCAL.actor is not None:
        return LOCAL.actor.cell
    running = CURRENT.get()
    return running.group.owner if running is not None and running.group is not None else None


def _child_of(name: str) -> str:
    return name.rpartition("/")[2]


def _text(record: logging.LogRecord) -> str:
    text = _FORMATTER.format(record)
    if len(text) > MAX_READ_CHARS:
        text = _without_middle(text, MAX_READ_CHARS, whole_words=True)
    text = redact(text.encode("utf-8", "backslashreplace").decode())  # JSON has no lone surrogates
    return _without_middle(text, MAX_LINE_CHARS) if len(text) > MAX_LINE_CHARS else text


def _without_middle(text: str, limit: int, *, whole_words: bool = False) -> str:
    """Start and end. With `whole_words` nothing is left of a word that is cut: half a secret has no format."""
    half = limit // 2 - 2
    start, end = text[:half], text[-half:]
    if whole_words:
        start, end = "".join(start.rsplit(maxsplit=1)[:-1]), "".join(end.split(maxsplit=1)[1:])
    return f"{start} … {end}"
