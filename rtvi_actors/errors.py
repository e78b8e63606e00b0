"""Every error this package raises, in one tree.

::

    RtviError
    ├── ClientError                 bad input from a client; carries the reply to send
    │   ├── NotRtvi                 wrong or missing label: ignored and counted, no reply
    │   ├── InvalidEnvelope         label right, but type, id or data unusable
    │   ├── UnsupportedType         no server of protocol 2.2.0 knows this type
    │   ├── InvalidData             the type is known, its payload is not what it must be
    │   ├── VersionRefused          client-ready with a version we do not serve (the handshake goes on)
    │   ├── Overloaded              a bound of the session is reached
    │   ├── UnknownCall             the result of a function call that is not open (any more)
    │   ├── NoFiles                 the bot takes no files
    │   └── SessionOver             nobody is there any more to do what the client asks for
    ├── ActorError                  the runtime's errors
    │   ├── DeclarationError        an actor's handlers are ambiguous or unroutable (class creation)
    │   ├── Undeclared              a message that the receiver does not declare (raised in the sender)
    │   ├── Rejected                the mailbox is full and its policy is to refuse
    │   ├── Dead                    the receiver has stopped
    │   ├── Unknown                 no actor has this name
    │   ├── NameTaken               a living actor has this name
    │   ├── AskTimeout              no reply within the deadline
    │   ├── CyclicAsk               an ask that would come back to an actor that waits for its answer
    │   ├── HandlerFailed           the handler of an asked message raised; the cause is chained
    │   ├── HandlerTimeout          a handler ran longer than its deadline
    │   ├── Fenced                  a send by a task whose actor has been restarted or given up on it
    │   ├── WouldBlock              a blocking call on the event loop's own thread
    │   ├── NoSystem                no actor system runs here
    │   ├── StartFailed             an actor's constructor or on_start raised; the cause is chained
    │   ├── RestartLimit            a supervisor gave up: too many restarts; the cause is chained
    │   ├── RealIo                  a socket, a process or a thread within a simulation
    │   ├── Stalled                 a simulation that waits for what cannot come any more
    │   └── Crash                   raised *by* a handler: restart me
    └── SessionError                what a host did wrong, or what ended its session
        ├── RequestError            raised by a request handler: its text goes to the client
        ├── NotJson                 the application handed over a value that JSON cannot hold
        ├── TooLarge                the application handed over more than the client may receive
        ├── NoResampler             bot audio at another rate than the client's, and no soxr
        ├── JobGroupError           a step that the rules of a job group forbid
        ├── FileTooLarge            an upload is larger than a file may be
        ├── FilesFull               the file store holds as much as it may
        ├── ClientCallFailed        a `call_client` came to nothing
        │   ├── ClientCallTimeout   the client did not answer in time
        │   ├── ClientCallCancelled nobody waits for the answer any more, or none can come
        │   ├── ClientResultInvalid the client answered something else than the bot had asked for
        │   └── TooManyClientCalls  the client is to answer as many as it may
        └── SessionClosed           the session is over

A `ClientError` never quotes the client's payload: it names the message type and the field, and `reply_text` puts an
error id where the details would be. The details are in `detail`, for the log alone (DESIGN.md 7, Errors).
"""

from __future__ import annotations

__all__ = [
    "ActorError",
    "AskTimeout",
    "ClientCallCancelled",
    "ClientCallFailed",
    "ClientCallTimeout",
    "ClientError",
    "ClientResultInvalid",
    "Crash",
    "CyclicAsk",
    "Dead",
    "DeclarationError",
    "Fenced",
    "FileTooLarge",
    "FilesFull",
    "HandlerFailed",
    "HandlerTimeout",
    "InvalidData",
    "InvalidEnvelope",
    "JobGroupError",
    "NameTaken",
    "NoFiles",
    "NoResampler",
    "NoSystem",
    "NotJson",
    "NotRtvi",
    "Overloaded",
    "RealIo",
    "Rejected",
    "RequestError",
    "RestartLimit",
    "RtviError",
    "SessionClosed",
    "SessionError",
    "SessionOver",
    "Stalled",
    "StartFailed",
    "TooLarge",
    "TooManyClientCalls",
    "Undeclared",
    "Unknown",
    "UnknownCall",
    "UnsupportedType",
    "VersionRefused",
    "WouldBlock",
    "quoted",
]

QUOTE_LIMIT = 64
"""Characters of a client's own text (message type, version) that a reply may quote (DESIGN.md 7)."""


def quoted(text: str) -> str:
    """Client text as a reply may quote it: printable, at most 64 characters."""
    cut = text[:QUOTE_LIMIT]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)


class RtviError(Exception):
    """The root. Catch it to catch everything this package raises on purpose."""


# -- what a client did ---------------------------------------------------------


class ClientError(RtviError):
    """Bad input from a client.

    `reply_id` is the request's id where it is usable: the reply is then an `error-response`, otherwise an `error`
    without id. `None` from `reply_text` means that nothing is sent.
    """

    def __init__(self, *, reply_id: str | None = None, detail: str = "") -> None:
        super().__init__(reply_id, detail)
        self.reply_id = reply_id
        self.detail = detail

    def reply_text(self, error_id: str) -> str | None:
        """The text of the reply; `error_id` stands for the details, which only the log has."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.detail}"


class NotRtvi(ClientError):
    """Wrong or missing label: the message is somebody else's (pipecat-ai 1.14.0, observed: ignored)."""

    def reply_text(self, error_id: str) -> str | None:
        return None


class InvalidEnvelope(ClientError):
    """Not JSON, not an object, or an object whose type, id or data is unusable; `field` names which."""

    def __init__(self, field: str, *, reply_id: str | None = None, detail: str = "") -> None:
        super().__init__(reply_id=reply_id, detail=detail)
        self.field = field

    def reply_text(self, error_id: str) -> str | None:
        return f"Invalid RTVI transport message: {error_id} ({self.field})"


class UnsupportedType(ClientError):
    """A message type that this server does not serve."""

    def __init__(self, message_type: str, *, reply_id: str | None = None) -> None:
        super().__init__(reply_id=reply_id, detail=quoted(message_type))
        self.message_type = message_type

    def reply_text(self, error_id: str) -> str | None:
        return f"Unsupported type {quoted(self.message_type)}"


class InvalidData(ClientError):
    """A known type whose payload is not what it must be; `field` is a dotted path such as ``data.sampleRate``."""

    def __init__(self, field: str, *, reply_id: str | None = None, detail: str = "") -> None:
        super().__init__(reply_id=reply_id, detail=detail)
        self.field = field

    def reply_text(self, error_id: str) -> str | None:
        return f"Invalid message: {error_id} ({self.field})"


class VersionRefused(ClientError):
    """A client-ready whose version is unknown, malformed or incompatible. Readiness proceeds (PROTOCOL.md 1.5)."""

    def __init__(self, text: str, *, reply_id: str | None = None) -> None:
        super().__init__(reply_id=reply_id, detail=text)
        self.text = text

    def reply_text(self, error_id: str) -> str | None:
        return self.text


class Overloaded(ClientError):
    """A bound of the session is reached; `what` names it."""

    def __init__(self, what: str, *, reply_id: str | None = None) -> None:
        super().__init__(reply_id=reply_id, detail=what)
        self.what = what

    def reply_text(self, error_id: str) -> str | None:
        return f"Too many {self.what} at once; try again later"


class UnknownCall(ClientError):
    """The result of a function call that was never made, has ended, or was another function's."""

    def reply_text(self, error_id: str) -> str | None:
        return "Unknown tool call"


class NoFiles(ClientError):
    """A send-file to a bot that takes none (`Bot.accepts_files`)."""

    def reply_text(self, error_id: str) -> str | None:
        return "Files are not accepted"


class SessionOver(ClientError):
    """The session ends, or its bot has been given up."""

    def reply_text(self, error_id: str) -> str | None:
        return "The session has ended"


# -- the runtime ---------------------------------------------------------------


class ActorError(RtviError):
    """An error of the actor runtime."""


class DeclarationError(ActorError):
    """An actor class whose handlers cannot be routed; raised when the class is created."""


class Undeclared(ActorError):
    """The receiver declares no handler for this message type; raised in the sender."""


class Rejected(ActorError):
    """The receiver's mailbox is full; `message` is handed back."""

    def __init__(self, receiver: str, message: object) -> None:
        super().__init__(receiver, message)
        self.receiver = receiver
        self.message = message

    def __str__(self) -> str:
        return f"mailbox of {self.receiver} is full"


class Dead(ActorError):
    """The receiver has stopped."""


class Unknown(ActorError):
    """No actor has this name, or this actor has no link of this name."""


class NameTaken(ActorError):
    """A living actor already has this name."""


class AskTimeout(ActorError):
    """No reply within the deadline."""


class CyclicAsk(ActorError):
    """An ask that would come back to an actor that waits for the answer: it would wait until its deadline.

    `path` names the actors, from the first asker to the one that was to be asked again.
    """

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return " -> ".join(self.path)


class HandlerFailed(ActorError):
    """The handler of an asked message raised. `__cause__` is the error."""


class HandlerTimeout(ActorError, TimeoutError):
    """A handler ran longer than its class's `handler_timeout_s` or its group's `timeout_s`."""


class Fenced(ActorError):
    """A send by a task that its actor has given up: an old incarnation, or a turn that refused cancellation."""


class WouldBlock(ActorError):
    """A blocking wait on the event loop's own thread. Await the future instead."""


class NoSystem(ActorError):
    """No actor system runs in this context."""


class StartFailed(ActorError):
    """A constructor or `on_start` raised. `__cause__` is the error; no name or registry entry is left behind."""


class RestartLimit(ActorError):
    """A supervisor gave up: one of its children was to be restarted once too often. `__cause__` is the child's
    error."""

    def __init__(self, supervisor: str, child: str) -> None:
        super().__init__(supervisor, child)
        self.supervisor = supervisor
        self.child = child

    def __str__(self) -> str:
        return f"{self.supervisor} gave up: {self.child} had to be restarted too often"


class RealIo(ActorError):
    """A socket, a process, a worker thread or another thread's call within a simulation: no seed could replay it."""


class Stalled(ActorError):
    """A simulation in which nothing can happen any more, though its story has not ended; `waiting` says who waits."""

    def __init__(self, reason: str, waiting: tuple[str, ...]) -> None:
        super().__init__(reason, waiting)
        self.reason = reason
        self.waiting = waiting

    def __str__(self) -> str:
        return "\n".join((self.reason, *self.waiting))


class Crash(ActorError):
    """Raise it in any handler, also an asynchronous one, to be restarted by the supervisor."""


# -- the session and its host --------------------------------------------------


class SessionError(RtviError):
    """What a host did wrong, or what ended its session."""


class RequestError(SessionError):
    """Raise it in a request handler to answer with an error-response of your own words.

    Any other exception is answered with an error id alone: its text never reaches the client.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class NotJson(SessionError):
    """A value that JSON cannot hold (NaN, an infinity, bytes, a lone surrogate, non-text keys, objects)."""


class TooLarge(SessionError):
    """A message beyond the size that the client may receive."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes, more than the {self.limit_bytes} that the client may receive"


class NoResampler(SessionError):
    """Bot audio at another rate than the client plays, and the `soxr` extra is not installed."""

    def __init__(self, rate_hz: int, playing_rate_hz: int) -> None:
        super().__init__(rate_hz, playing_rate_hz)
        self.rate_hz = rate_hz
        self.playing_rate_hz = playing_rate_hz

    def __str__(self) -> str:
        return (
            f"bot audio at {self.rate_hz} Hz, but the client plays {self.playing_rate_hz} Hz: "
            "install rtvi-actors[server] for resampling, or produce the client's rate"
        )


class JobGroupError(SessionError):
    """A step that the rules of a job group forbid (protocol/ui.py). Nothing of it has reached the client."""

    def __init__(self, job_id: str, rule: str) -> None:
        super().__init__(job_id, rule)
        self.job_id = job_id
        self.rule = rule

    def __str__(self) -> str:
        return f"job group {quoted(self.job_id)}: {self.rule}"


class FileTooLarge(SessionError):
    """An upload is larger than a file may be."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"a file may have {self.limit_bytes} bytes"


class FilesFull(SessionError):
    """The file store holds as much as it may; `what` says of what."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(what, limit)
        self.what = what
        self.limit = limit

    def __str__(self) -> str:
        return f"the file store holds {self.limit} {self.what}, and may not hold more"


class ClientCallFailed(SessionError):
    """A `call_client` came to nothing; `function_name` is what was called."""

    def __init__(self, function_name: str, detail: str) -> None:
        super().__init__(function_name, detail)
        self.function_name = function_name
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.function_name}: {self.detail}"


class ClientCallTimeout(ClientCallFailed, TimeoutError):
    """The client did not answer within `timeout_s`."""

    def __init__(self, function_name: str, timeout_s: float) -> None:
        super().__init__(function_name, f"no result from the client within {timeout_s:g} s")
        self.timeout_s = timeout_s


class ClientCallCancelled(ClientCallFailed):
    """The call was given up. `reason` is ``interrupted``; ``gone``, the session ends; or ``restarted``, the bot that
    waited for it has crashed."""

    def __init__(self, function_name: str, reason: str) -> None:
        super().__init__(function_name, f"cancelled ({reason})")
        self.reason = reason


class ClientResultInvalid(ClientCallFailed):
    """The client's result is not of the type that the bot asked for. `__cause__` says where."""


class TooManyClientCalls(ClientCallFailed):
    """So many calls of the session are open already."""

    def __init__(self, function_name: str, limit: int) -> None:
        super().__init__(function_name, f"{limit} calls are open already")
        self.limit = limit


class SessionClosed(SessionError):
    """The session is over."""
