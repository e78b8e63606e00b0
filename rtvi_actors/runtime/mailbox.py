"""What lies in a mailbox is bytes: the msgpack encoding of a declared, tagged, frozen Struct (DESIGN.md 5).

`post` encodes in the sender, where an undeclared type raises. `Letter` is what surrounds the bytes: deadline and reply.
A mailbox has two lanes, control before user, and bounds the user lane in count and in bytes. Every letter that is
not handled leaves through `on_lost`, with a reason.

Threads: the owner's thread takes letters out; `post` may be called from any thread. A letter from a foreign thread
crosses by the `bridge`, which keeps the order per sender.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any, Final, Literal, TypeAlias

import msgspec
from pykka import messages as pykka_messages

from rtvi_actors.errors import Rejected, Undeclared
from rtvi_actors.runtime.context import LOCAL, check_fence
from rtvi_actors.runtime.futures import ActorFuture

__all__ = ["CONTROL_TYPES", "Letter", "Mailbox", "Overflow", "encode", "register_type", "type_decoder"]

Overflow: TypeAlias = Literal["refuse", "drop_oldest"]
"""What a full user lane does: raise `Rejected` in the sender, or lose its oldest letter (counted, dead-lettered)."""

CONTROL_TYPES: Final = frozenset(
    {
        pykka_messages._ActorStop,
        pykka_messages.ProxyCall,
        pykka_messages.ProxyGetAttr,
        pykka_messages.ProxySetAttr,
    }
)
"""pykka's own messages: every actor takes them, as objects, in the user lane (pykka documents their order)."""


class Letter(msgspec.Struct):
    """One message in a mailbox."""

    body: Any
    """The encoded message (bytes), or the object itself where `coded` is false."""
    reply: ActorFuture[Any] | None = None
    due_s: float = 0.0
    """The system's clock at which nobody waits for the reply any more; 0 is never."""
    coded: bool = True


# -- the codec -----------------------------------------------------------------------

_TO_BYTES: dict[type, Callable[[Any], Any]] = {}
_FROM_BYTES: dict[type, Callable[[Any], Any]] = {}


def register_type(kind: type, to_plain: Callable[[Any], Any], from_plain: Callable[[Any], Any]) -> None:
    """Let a type that msgspec does not know be a field of messages, as what `to_plain` makes of it."""
    _TO_BYTES[kind] = to_plain
    _FROM_BYTES[kind] = from_plain


def _enc_hook(value: Any) -> Any:
    exact = _TO_BYTES.get(type(value))
    if exact is not None:
        return exact(value)
    for kind in type(value).__mro__:
        to_plain = _TO_BYTES.get(kind)
        if to_plain is not None:
            return to_plain(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent to an actor")


def _dec_hook(kind: Any, value: Any) -> Any:
    exact = _FROM_BYTES.get(kind)
    if exact is not None:
        return exact(value)
    origin = getattr(kind, "__origin__", kind)
    for base in origin.__mro__:
        from_plain = _FROM_BYTES.get(base)
        if from_plain is not None:
            return from_plain(value)
    raise NotImplementedError(f"{origin.__name__} cannot be sent to an actor")


encode: Final = msgspec.msgpack.Encoder(enc_hook=_enc_hook).encode


def type_decoder(kind: Any) -> Callable[[bytes], Any]:
    """The decoder of a message union."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_dec_hook).decode


# -- the mailbox ---------------------------------------------------------------------


def _nobody() -> None:
    """The notify of a mailbox whose actor has not started."""


def _drop(letter: Letter, reason: str) -> None:
    """The on_lost of a mailbox that has no owner yet."""


class Mailbox:
    """pykka's inbox (`put`, `get`, `empty`), two lanes, bounded."""

    __slots__ = (
        "accepts",
        "bridge",
        "closed",
        "control",
        "max_bytes",
        "max_count",
        "notify",
        "on_lost",
        "overflow",
        "owner",
        "received",
        "refused",
        "thread_id",
        "user",
        "user_bytes",
    )

    def __init__(self) -> None:
        self.user: deque[Letter] = deque()
        self.control: deque[Any] = deque()
        self.user_bytes = 0
        self.max_count = 100_000
        self.max_bytes = 256 * 1024 * 1024
        self.overflow: Overflow = "refuse"
        self.accepts: Mapping[type, Any] | None = None
        self.owner = "?"
        self.received = 0
        self.refused = 0
        self.closed = False
        self.thread_id: int | None = None
        self.bridge: Callable[[Callable[[Any], None], Any], None] | None = None
        self.notify: Callable[[], None] = _nobody
        self.on_lost: Callable[[Letter, str], None] = _drop

    # -- pykka's inbox protocol --------------------------------------------------------

    def put(self, envelope: Any, /) -> None:
        """Take a pykka Envelope, as stock pykka code gives it."""
        self.post(envelope.message, envelope.reply_to)

    def get(self) -> Any:
        """The next letter of the user lane; the runtime itself does not use it."""
        return self.user.popleft()

    def empty(self) -> bool:
        return not self.user

    # -- sending -----------------------------------------------------------------------

    def seal(self, message: Any, reply: ActorFuture[Any] | None = None, due_s: float = 0.0) -> Letter:
        """Encode a message for this mailbox. Raises `Undeclared`, or what msgspec raises of an unsendable field."""
        accepts = self.accepts
        if accepts is not None and type(message) in accepts:
            return Letter(encode(message), reply, due_s)
        if accepts is None or type(message) in CONTROL_TYPES:
            return Letter(message, reply, due_s, False)
        raise Undeclared(f"{self.owner} declares no handler for {type(message).__name__}")

    def post(self, message: Any, reply: ActorFuture[Any] | None = None, due_s: float = 0.0) -> None:
        """Send a message. Inside a synchronous handler it leaves when the handler returns.

        Raises `Undeclared`, `Rejected` (full, policy refuse) or `Fenced`, each in the sender.
        """
        # The common case, without a call: declared, room, inside a synchronous handler.
        accepts = self.accepts
        if (
            accepts is not None
            and type(message) in accepts
            and len(self.user) < self.max_count
            and self.user_bytes < self.max_bytes
        ):
            stage = LOCAL.stage
            if stage is not None:
                stage.append((self.deliver, Letter(encode(message), reply, due_s)))
                return
        try:
            self.send(self.seal(message, reply, due_s))
        except Rejected:
            raise Rejected(self.owner, message) from None

    def send(self, letter: Letter) -> None:
        """Send what is sealed already: a router forwards without decoding."""
        if self.overflow == "refuse" and (len(self.user) >= self.max_count or self.user_bytes >= self.max_bytes):
            self.refused += 1
            raise Rejected(self.owner, letter.body)
        stage = LOCAL.stage
        if stage is not None:
            stage.append((self.deliver, letter))
        else:
            check_fence()
            self.deliver(letter)

    def deliver(self, letter: Letter) -> None:
        """Put a letter in, from any thread, and let its owner know."""
        if self.thread_id == get_ident() and letter.coded and not self.closed and self.overflow == "refuse":
            # The common case, without a call. The bound was checked when it was sent.
            self.received += 1
            self.user_bytes += len(letter.body)
            self.user.append(letter)
            self.notify()
            return
        if self.thread_id is None or self.thread_id == get_ident():
            self._append(letter)
        elif self.bridge is not None:
            self.bridge(self._append, letter)

    def deliver_control(self, message: Any) -> None:
        """Put a runtime's own message (stop, kill, inspect) before all user mail. From any thread."""
        if self.thread_id is None or self.thread_id == get_ident():
            self._append_control(message)
        elif self.bridge is not None:
            self.bridge(self._append_control, message)

    def _append_control(self, message: Any) -> None:
        self.control.append(message)
        self.notify()

    def _append(self, letter: Letter) -> None:
        self.received += 1
        if self.closed:
            self.on_lost(letter, "dead")
            return
        user = self.user
        size = len(letter.body) if letter.coded else 0
        if len(user) >= self.max_count or self.user_bytes + size > self.max_bytes:
            self._make_room(size)
        user.append(letter)
        self.user_bytes += size
        self.notify()

    def _make_room(self, size: int) -> None:
        """Drop the oldest.

        Under the policy refuse the sender was told already, but for the last few (staged, bridged).
        """
        if self.overflow == "refuse":
            return
        kept: list[Letter] = []
        while self.user and (len(self.user) + len(kept) >= self.max_count or self.user_bytes + size > self.max_bytes):
            letter = self.take()
            if not letter.coded and type(letter.body) in CONTROL_TYPES:
                kept.append(letter)  # a stop, or a proxy's call: nobody overflows those
            else:
                self.on_lost(letter, "overflow")
        self.user.extendleft(reversed(kept))

    def take(self) -> Letter:
        """The next user letter out. Owner's thread."""
        letter = self.user.popleft()
        if letter.coded:
            self.user_bytes -= len(letter.body)
        return letter
