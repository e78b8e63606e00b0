"""Every error this package raises, in one tree.

::

    RtviError
    ├── ClientError                 bad input from a client; carries the reply to send
    │   ├── NotRtvi                 wrong or missing label: ignored and counted, no reply
    │   ├── InvalidEnvelope         label right, but type, id or data unusable
    │   ├── UnsupportedType         no server of protocol 2.2.0 knows this type
    │   ├── InvalidData             the type is known, its payload is not what it must be
    │   ├── VersionRefused          client-ready with a version we do not serve (the handshake goes on)
    │   └── Overloaded              a bound of the session is reached
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
        └── SessionClosed           the session is over

A `ClientError` never quotes the client's payload: it names the message type and the field, and `reply_text` puts an
error id where the details would be. The details are in `detail`, for the log alone (DESIGN.md 7, Errors).
"""

from __future__ import annotations

__all__ = [
    "ActorError",
    "AskTimeout",
    "ClientError",
    "Crash",
    "CyclicAsk",
    "Dead",
    "DeclarationError",
    "Fenced",
    "HandlerFailed",
    "HandlerTimeout",
    "InvalidData",
    "InvalidEnvelope",
    "NameTaken",
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
    "Stalled",
    "StartFailed",
    "TooLarge",
    "Undeclared",
    "Unknown",
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


class SessionClosed(SessionError):
    """The session is over."""
