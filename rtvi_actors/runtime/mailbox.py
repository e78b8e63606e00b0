"""What lies in a mailbox is bytes: the msgpack encoding of a declared, tagged, frozen Struct (DESIGN.md 5).

`post` encodes in the sender, where an undeclared type raises. `Letter` is what surrounds the bytes: deadline and reply.
A mailbox has three lanes here, control, user and bulk, and bounds the last two in count and in bytes. What a full user
lane does is its policy. Every letter that is not handled leaves through `on_lost`, with a reason.

Threads: the owner's thread takes letters out; `post` may be called from any thread. A letter from a foreign thread
crosses by the `bridge`, which keeps the order per sender.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from threading import Lock, get_ident
from typing import Any, Final, Literal, TypeAlias

import msgspec
from pykka import messages as pykka_messages

from rtvi_actors.errors import Rejected, Undeclared
from rtvi_actors.runtime.backend import on_event_loop
from rtvi_actors.runtime.context import LOCAL, check_fence
from rtvi_actors.runtime.futures import ActorFuture

__all__ = [
    "CONTROL_TYPES",
    "DRAINED",
    "DROPPED",
    "VOID",
    "Lane",
    "Letter",
    "Mailbox",
    "Overflow",
    "encode",
    "register_type",
    "type_decoder",
]

Overflow: TypeAlias = Literal["refuse", "drop_oldest", "coalesce", "wait"]
"""What a full user lane does with one more message: refuse it in the sender, lose its oldest, lose the waiting one with
the same key, or let a foreign thread wait for room."""

DROPPED: Final = frozenset({"overflow", "coalesced", "expired", "dropped"})
"""The reasons of a loss that are a policy's; the others are accidents. (`dropped`: a simulation's.)"""

HIGH_WATER: Final = 0.75
LOW_WATER: Final = 0.25
"""Shares of a bound: a mailbox tells who feeds it to stop above the one, and to go on at the other."""

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
    bulk: bool = False
    """In the bulk lane."""
    own: bool = False
    """The runtime's own: never dropped for want of room."""
    retried: bool = False
    """It has crashed an incarnation before."""
    key: Hashable = None
    """What it may be coalesced by."""
    path: tuple[Any, ...] = ()
    """The cells that wait for the answer, the first asker first."""


VOID: Final = object()
"""The body of a letter that is not to be handled any more; it was accounted for when it was voided."""
DRAINED: Final = object()
"""The body of the letter behind which an actor that drains stops. It is nobody's message, either."""


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


class Lane(deque[Letter]):
    """Letters in order, with the bytes that they hold."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = 0

    def put(self, letter: Letter) -> None:
        self.append(letter)
        if letter.coded:
            self.size_bytes += len(letter.body)

    def put_back(self, letter: Letter) -> None:
        """In front of all others."""
        self.appendleft(letter)
        if letter.coded:
            self.size_bytes += len(letter.body)

    def take(self) -> Letter:
        letter = self.popleft()
        if letter.coded:
            self.size_bytes -= len(letter.body)
        return letter

    def is_full(self, max_count: int, max_bytes: int, size: int) -> bool:
        """Whether one more letter, of so many bytes, has no room."""
        return len(self) >= max_count or self.size_bytes + size > max_bytes


_CROSSING: Final = Lock()
"""For the counts of all mailboxes: it is held for a few instructions, by threads alone."""


def _size(letter: Letter) -> int:
    return len(letter.body) if letter.coded else 0


def _nobody() -> None:
    """The callbacks of a mailbox whose actor has not started."""


def _drop(letter: Letter, reason: str) -> None:
    """The on_lost of a mailbox that has no owner yet."""


def _no_key(message: Any) -> Hashable:
    """The key of a mailbox that coalesces nothing."""
    return None


class Mailbox:
    """pykka's inbox (`put`, `get`, `empty`), in lanes, bounded."""

    __slots__ = (
        "accepts",
        "accepts_bulk",
        "await_room",
        "bridge",
        "bulk",
        "closed",
        "control",
        "crossing",
        "crossing_bytes",
        "key_of",
        "keyed",
        "max_bulk",
        "max_bulk_bytes",
        "max_bytes",
        "max_count",
        "notify",
        "on_lost",
        "on_low",
        "overflow",
        "owner",
        "plain",
        "received",
        "refused",
        "thread_id",
        "user",
        "voids",
    )

    def __init__(self) -> None:
        self.user = Lane()
        self.bulk = Lane()
        self.control: deque[Any] = deque()
        self.max_count = 100_000
        self.max_bytes = 256 * 1024 * 1024
        self.max_bulk = 1024
        self.max_bulk_bytes = 16 * 1024 * 1024
        self.overflow: Overflow = "refuse"
        self.key_of: Callable[[Any], Hashable] = _no_key
        self.keyed: dict[Hashable, Letter] = {}
        """The latest letter of each key that waits, where the policy is to coalesce."""
        self.voids = 0
        """Letters in the user lane that are no messages."""
        self.accepts: Mapping[type, Any] | None = None
        """The declared types but those of the bulk lane; `None` takes any object."""
        self.accepts_bulk: frozenset[type] = frozenset()
        self.owner = "?"
        self.received = 0
        """Letters that arrived."""
        self.refused = 0
        """Messages that their senders were told do not fit."""
        self.crossing = self.crossing_bytes = 0
        """What other threads have sent and the loop has not taken in yet. Under `_CROSSING`."""
        self.closed = False
        self.plain = True
        """Whether a letter that has room needs nothing but to be appended."""
        self.thread_id: int | None = None
        self.bridge: Callable[[Callable[[Any], None], Any], None] | None = None
        self.notify: Callable[[], None] = _nobody
        self.await_room: Callable[[], None] = _nobody
        """Blocks a foreign thread until there is room, or the mailbox is closed."""
        self.on_lost: Callable[[Letter, str], None] = _drop
        self.on_low: Callable[[], None] | None = None

    def __len__(self) -> int:
        """Letters that wait."""
        return len(self.user) + len(self.bulk) - self.voids

    @property
    def size_bytes(self) -> int:
        return self.user.size_bytes + self.bulk.size_bytes

    def is_full(self, size: int = 1) -> bool:
        """Whether the user lane takes no more letter of so many bytes; those from other threads that are still on
        their way count."""
        return self.user.is_full(
            self.max_count + self.voids - self.crossing, self.max_bytes - self.crossing_bytes, size
        )

    def close(self) -> None:
        """Take no more: what still comes is lost."""
        self.closed = True
        self.plain = False

    def set_policy(self, overflow: Overflow, key_of: Callable[[Any], Hashable]) -> None:
        self.overflow, self.key_of = overflow, key_of
        self.plain = overflow in ("refuse", "wait") and not self.closed

    @property
    def is_high(self) -> bool:
        """Whether the user lane is above its high-water mark: who feeds it should stop, and ask for `when_low`."""
        return self._is_above(HIGH_WATER)

    def when_low(self, wake: Callable[[], None]) -> None:
        """Have `wake` called once when the user lane is down to its low-water mark. It must not raise. Owner's
        thread; the latest call wins."""
        self.on_low = wake
        self.sink()

    def sink(self) -> None:
        """Letters have been taken: wake who waits for the low-water mark. The owner calls it after a batch."""
        if self.on_low is not None and not self._is_above(LOW_WATER):
            wake, self.on_low = self.on_low, None
            wake()

    # -- pykka's inbox protocol --------------------------------------------------------

    def put(self, envelope: Any, /) -> None:
        """Take a pykka Envelope, as stock pykka code gives it."""
        self.post(envelope.message, envelope.reply_to)

    def get(self) -> Any:
        """The next letter; the runtime itself does not use it."""
        return self.take()

    def empty(self) -> bool:
        return not self.user and not self.bulk

    # -- sending -----------------------------------------------------------------------

    def seal(self, message: Any, reply: ActorFuture[Any] | None = None, due_s: float = 0.0) -> Letter:
        """Encode a message for this mailbox. Raises `Undeclared`, or what msgspec raises of an unsendable field."""
        accepts = self.accepts
        if accepts is not None and type(message) in accepts:
            letter = Letter(encode(message), reply, due_s)
        elif type(message) in self.accepts_bulk:
            return Letter(encode(message), reply, due_s, bulk=True)
        elif accepts is None or type(message) in CONTROL_TYPES:
            letter = Letter(message, reply, due_s, False, own=type(message) in CONTROL_TYPES)
        else:
            raise Undeclared(f"{self.owner} declares no handler for {type(message).__name__}")
        if self.overflow == "coalesce":
            letter.key = self.key_of(message)
        return letter

    def post(self, message: Any, reply: ActorFuture[Any] | None = None, due_s: float = 0.0) -> None:
        """Send a message. Inside a synchronous handler it leaves when the handler returns.

        Raises `Undeclared`, `Rejected` (full, and the policy is not to drop) or `Fenced`, each in the sender.
        """
        # The common case, without a call: declared, room, inside a synchronous handler.
        accepts = self.accepts
        stage = LOCAL.stage
        if stage is not None and accepts is not None:
            if type(message) in self.accepts_bulk:  # the oldest gives way: there is always room
                stage.append((self.deliver, Letter(encode(message), reply, due_s, bulk=True)))
                return
            if self.plain and type(message) in accepts:
                body = encode(message)
                if len(self.user) < self.max_count and self.user.size_bytes + len(body) <= self.max_bytes:
                    stage.append((self.deliver, Letter(body, reply, due_s)))
                    return
        try:
            self.send(self.seal(message, reply, due_s))
        except Rejected:
            raise Rejected(self.owner, message) from None

    def send(self, letter: Letter) -> None:
        """Send what is sealed already: a router forwards without decoding."""
        size = len(letter.body) if letter.coded else 0
        user = self.user
        may_be_full = (
            len(user) + self.crossing >= self.max_count or user.size_bytes + self.crossing_bytes + size > self.max_bytes
        )
        if may_be_full and not (letter.own or letter.bulk) and self.is_full(size):
            self._find_room(letter, size)
        stage = LOCAL.stage
        if stage is not None:
            stage.append((self.deliver, letter))
        else:
            check_fence()
            self.deliver(letter)

    def _find_room(self, letter: Letter, size: int) -> None:
        """The user lane is full: wait, leave it to the owner to drop one, or raise `Rejected`."""
        if size <= self.max_bytes:  # else it never fits
            if self.overflow == "drop_oldest" or (self.overflow == "coalesce" and self._replaces(letter, size)):
                return
            if self.overflow == "wait" and not on_event_loop():
                while self.is_full(size) and not self.closed:
                    self.await_room()
                return
        self.refused += 1
        raise Rejected(self.owner, letter.body)

    def _replaces(self, letter: Letter, size: int) -> bool:
        """Whether it fits where the waiting one with its key is."""
        older = self.keyed.get(letter.key) if letter.key is not None else None
        return older is not None and self.user.size_bytes - _size(older) + size <= self.max_bytes

    def deliver(self, letter: Letter) -> None:
        """Put a letter in, from any thread, and let its owner know."""
        if self.plain and self.thread_id == get_ident() and letter.coded:
            bulk = letter.bulk
            lane = self.bulk if bulk else self.user
            size_bytes = lane.size_bytes + len(letter.body)
            # The common case, without a call.
            if len(lane) < (self.max_bulk if bulk else self.max_count) and size_bytes <= (
                self.max_bulk_bytes if bulk else self.max_bytes
            ):
                self.received += 1
                lane.size_bytes = size_bytes
                lane.append(letter)
                self.notify()
                return
        if self.thread_id is None or self.thread_id == get_ident():
            self._append(letter)
        elif self.bridge is not None:
            self.count_crossing(1, letter)
            try:
                self.bridge(self._cross, letter)
            except BaseException:
                self.count_crossing(-1, letter)
                raise

    def count_crossing(self, sign: int, letter: Letter) -> None:
        """A letter of the user lane has left another thread (1), or has arrived (-1)."""
        if not letter.own and not letter.bulk:
            with _CROSSING:
                self.crossing += sign
                self.crossing_bytes += sign * _size(letter)

    def _cross(self, letter: Letter) -> None:
        self.count_crossing(-1, letter)
        self._append(letter)

    def deliver_control(self, message: Any) -> None:
        """Put a runtime's own message (kill, stop, inspect) before all mail. From any thread."""
        if self.thread_id is None or self.thread_id == get_ident():
            self._append_control(message)
        elif self.bridge is not None:
            self.bridge(self._append_control, message)

    def _append_control(self, message: Any) -> None:
        """Behind those of its lane and of the lanes above it (`rank`, 0 is the highest)."""
        if self.closed:
            message.finds_dead(self.owner)
            return
        control = self.control
        at = len(control)
        while at and control[at - 1].rank > message.rank:
            at -= 1
        control.insert(at, message)
        self.notify()

    # -- the owner's side --------------------------------------------------------------

    def _append(self, letter: Letter) -> None:
        if self.closed:
            self.received += 1
            self.on_lost(letter, "dead")
            return
        if letter.bulk:
            self._append_bulk(letter)
        else:
            self._append_user(letter)
        self.notify()

    def _append_user(self, letter: Letter) -> None:
        user = self.user
        size = _size(letter)
        if not letter.own and user.is_full(self.max_count + self.voids, self.max_bytes, size):
            self._make_room(letter, size)
            if user.is_full(self.max_count + self.voids, self.max_bytes, size):
                self.received += 1
                self.on_lost(letter, "overflow")
                return
        self.received += 1
        user.put(letter)
        if letter.key is not None:
            self.keyed[letter.key] = letter

    def _append_bulk(self, letter: Letter) -> None:
        bulk = self.bulk
        while bulk and bulk.is_full(self.max_bulk, self.max_bulk_bytes, len(letter.body)):
            self.on_lost(bulk.take(), "overflow")
        self.received += 1
        if len(letter.body) > self.max_bulk_bytes:
            self.on_lost(letter, "overflow")
        else:
            bulk.put(letter)

    def _is_above(self, share: float) -> bool:
        return len(self.user) - self.voids > self.max_count * share or self.user.size_bytes > self.max_bytes * share

    def _make_room(self, letter: Letter, size: int) -> None:
        """Drop by the policy. Where that is to refuse, the sender was told, but for what one handler had sent beyond
        the bound: that finds no room as it arrives."""
        if self.overflow == "coalesce":
            older = self.keyed.get(letter.key) if letter.key is not None else None
            if older is not None:
                self._void(older, "coalesced")
        elif self.overflow == "drop_oldest":
            self._drop_oldest(size)

    def _drop_oldest(self, size: int) -> None:
        kept: list[Letter] = []
        user = self.user
        while user and user.is_full(self.max_count + self.voids - len(kept), self.max_bytes, size):
            letter = user.take()
            if letter.body is VOID:
                self.voids -= 1
            elif letter.own:
                kept.append(letter)  # a stop, a proxy's call, a timer: nobody overflows those
            else:
                self.on_lost(letter, "overflow")
        for letter in reversed(kept):
            user.put_back(letter)

    def _void(self, letter: Letter, reason: str) -> None:
        """Lose a letter where it stands."""
        lost = Letter(letter.body, letter.reply, letter.due_s, letter.coded)
        if letter.coded:
            self.user.size_bytes -= len(letter.body)
        del self.keyed[letter.key]
        letter.body, letter.coded, letter.reply, letter.key = VOID, False, None, None
        self.voids += 1
        if self.voids > self.max_count:
            self._compact()
        self.on_lost(lost, reason)

    def _compact(self) -> None:
        living = [letter for letter in self.user if letter.body is not VOID]
        self.voids -= len(self.user) - len(living)
        self.user.clear()
        self.user.extend(living)

    def void_where(self, test: Callable[[Letter], bool]) -> None:
        """Take letters out without a trace: they have been unsent. Owner's thread."""
        for letter in [letter for letter in self.user if test(letter)]:
            if letter.coded:
                self.user.size_bytes -= len(letter.body)
            letter.body, letter.coded = VOID, False
            self.voids += 1
            self.received -= 1

    def put_back(self, letter: Letter) -> None:
        """To the front of its lane, to be handled once more. Owner's thread."""
        (self.bulk if letter.bulk else self.user).put_back(letter)
        if letter.key is not None:
            self.keyed.setdefault(letter.key, letter)

    def take(self) -> Letter:
        """The next letter out: of the user lane, else of the bulk lane. It may be `VOID`. Owner's thread."""
        letter = (self.user or self.bulk).take()
        self.taken(letter)
        self.sink()
        return letter

    def taken(self, letter: Letter) -> None:
        """Book-keeping of a letter that has left its lane and is not plain."""
        if letter.body is VOID or letter.body is DRAINED:
            self.voids -= 1
        elif letter.key is not None and self.keyed.get(letter.key) is letter:
            del self.keyed[letter.key]
