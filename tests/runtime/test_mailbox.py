from __future__ import annotations

import threading
from collections import deque
from typing import Any, get_args

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pykka import messages as pykka_messages
from pykka._envelope import Envelope

from rtvi_actors.errors import Rejected, Undeclared
from rtvi_actors.runtime.context import LOCAL, commit
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.mailbox import VOID, Letter, Mailbox, Overflow, encode, register_type, type_decoder
from rtvi_actors.runtime.signals import Inject, Stop
from tests.runtime.messages import Note, Stranger


class Celsius:
    def __init__(self, degrees: int) -> None:
        self.degrees = degrees


class Report(msgspec.Struct, frozen=True, tag=True):
    temperature: Celsius


class Blob(msgspec.Struct, frozen=True, tag=True):
    data: bytes


class Sound(msgspec.Struct, frozen=True, tag=True):
    n: int


def mailbox(overflow: Overflow = "refuse", max_count: int = 5, max_bytes: int = 10_000) -> Mailbox:
    box = Mailbox()
    box.accepts, box.accepts_bulk = {Note: "on_note", Blob: "on_blob"}, frozenset({Sound})
    box.owner = "box"
    box.max_count, box.max_bytes, box.max_bulk, box.max_bulk_bytes = max_count, max_bytes, 3, 50
    box.set_policy(overflow, lambda message: message.data[0] or None if isinstance(message, Blob) else None)
    return box


def numbers(box: Mailbox) -> list[int]:
    decode = type_decoder(Note | Stranger)
    return [decode(letter.body).n for letter in box.user]


class MailboxAgainstAModel(RuleBasedStateMachine):
    """The model is two lists of bodies: order is kept, bounds hold, and what is not handled leaves by `on_lost`."""

    @initialize(
        overflow=st.sampled_from(["refuse", "drop_oldest", "coalesce"]),
        count=st.integers(1, 6),
        size=st.integers(20, 200),
    )
    def open(self, overflow: Overflow, count: int, size: int) -> None:
        self.box = mailbox(overflow, count, size)
        self.lost: list[bytes] = []
        self.box.on_lost = lambda letter, reason: self.lost.append(letter.body)
        self.model: list[tuple[int, bytes]] = []
        """Keys (0: none) and bodies."""
        self.model_bulk: deque[bytes] = deque()
        self.model_lost: list[bytes] = []

    def size(self) -> int:
        return sum(len(body) for _, body in self.model)

    def full(self, more: int = 0) -> bool:
        return len(self.model) >= self.box.max_count or self.size() + more > self.box.max_bytes

    @rule(size=st.integers(0, 60), key=st.integers(0, 2))
    def post(self, size: int, key: int) -> None:
        message = Blob(bytes([key]) + bytes(size))
        body = encode(message)
        overflow = self.box.overflow
        is_full = self.full(len(body))
        older = [at for at, (other, _) in enumerate(self.model) if key and other == key]
        never = len(body) > self.box.max_bytes
        replaces = older and self.size() - len(self.model[older[-1]][1]) + len(body) <= self.box.max_bytes
        if is_full and (never or overflow == "refuse" or (overflow == "coalesce" and not replaces)):
            with pytest.raises(Rejected) as refusal:
                self.box.post(message)
            assert refusal.value.message is message
            return
        if is_full and overflow == "coalesce":
            self.model_lost.append(self.model.pop(older[-1])[1])
        while overflow == "drop_oldest" and self.model and self.full(len(body)):
            self.model_lost.append(self.model.pop(0)[1])
        self.box.post(message)
        self.model.append((key, body))

    @rule(n=st.integers(0, 9))
    def post_bulk(self, n: int) -> None:
        """The oldest gives way, whatever the policy of the user lane."""
        self.box.post(Sound(n))
        body = encode(Sound(n))
        while self.model_bulk and (len(self.model_bulk) >= 3 or sum(map(len, self.model_bulk)) + len(body) > 50):
            self.model_lost.append(self.model_bulk.popleft())
        self.model_bulk.append(body)

    @precondition(lambda self: self.model or self.model_bulk)
    @rule()
    def take(self) -> None:
        """User mail before bulk."""
        letter = self.box.take()
        while letter.body is VOID:
            letter = self.box.take()
        assert letter.body == (self.model.pop(0)[1] if self.model else self.model_bulk.popleft())

    @precondition(lambda self: self.model)
    @rule()
    def put_back(self) -> None:
        """What is put back is the next again."""
        letter = self.box.take()
        while letter.body is VOID:
            letter = self.box.take()
        self.box.put_back(letter)

    @rule()
    def close(self) -> None:
        """A closed mailbox takes nothing, whatever its policy, and says so."""
        self.box.closed = True
        self.box.deliver(Letter(b"late"))
        self.model_lost.append(b"late")
        self.box.closed = False

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "box"):
            return
        bodies = [letter.body for letter in self.box.user if letter.body is not VOID]
        assert bodies == [body for _, body in self.model]
        assert [letter.body for letter in self.box.bulk] == list(self.model_bulk)
        assert self.lost == self.model_lost
        assert self.box.size_bytes == self.size() + sum(map(len, self.model_bulk))
        assert len(self.box) == len(self.model) + len(self.model_bulk)
        assert self.box.voids <= self.box.max_count + 1


TestMailboxAgainstAModel = MailboxAgainstAModel.TestCase


@given(st.lists(st.integers(), max_size=30))
def test_mail_is_taken_in_the_order_it_was_sent(sent: list[int]) -> None:
    box = mailbox(max_count=100)
    sent = [n % 2**63 for n in sent]
    for n in sent:
        box.post(Note(n))
    assert numbers(box) == sent


def test_what_lies_in_it_is_bytes() -> None:
    box = mailbox()
    box.post(Note(1))
    assert box.take().body == msgspec.msgpack.encode(Note(1))


def test_an_undeclared_type_raises_in_the_sender() -> None:
    box = mailbox()
    with pytest.raises(Undeclared, match="Stranger"):
        box.post(Stranger())
    with pytest.raises(Undeclared, match="dict"):
        box.post({"n": 1})
    assert box.empty()


def test_a_field_that_cannot_be_sent_raises_in_the_sender() -> None:
    class Odd(msgspec.Struct, frozen=True, tag=True):
        field: Any

    box = mailbox()
    box.accepts = {Odd: "on_odd"}
    with pytest.raises(NotImplementedError, match="object"):
        box.post(Odd(object()))


def test_pykkas_own_envelopes_and_messages_are_taken() -> None:
    box = mailbox()
    reply: ActorFuture[Any] = ActorFuture()
    box.put(Envelope(Note(1), reply_to=reply))
    box.put(Envelope(pykka_messages.ProxyGetAttr(("x",))))
    assert box.get().reply is reply
    assert not box.empty()
    assert not box.get().coded


def test_dropping_the_oldest_never_drops_a_stop_or_a_proxys_call() -> None:
    box = mailbox("drop_oldest", max_count=3)
    lost: list[str] = []
    box.on_lost = lambda letter, reason: lost.append(reason)
    box.post(Note(0))
    box.post(pykka_messages._ActorStop())
    for n in range(1, 10):
        box.post(Note(n))
    kinds = [letter.coded for letter in box.user]
    assert kinds == [False, True, True]
    assert lost == ["overflow"] * 8


def test_inside_a_handler_mail_waits_until_it_is_committed() -> None:
    box = mailbox()
    LOCAL.stage = []
    try:
        box.post(Note(1))
        box.post(Note(2))
        assert box.empty()
        commit()
    finally:
        LOCAL.stage = None
    assert numbers(box) == [1, 2]


def test_a_full_mailbox_refuses_also_inside_a_handler() -> None:
    box = mailbox(max_count=1)
    box.post(Note(1))
    LOCAL.stage = []
    try:
        with pytest.raises(Rejected):
            box.post(Note(2))
        assert LOCAL.stage == []
    finally:
        LOCAL.stage = None
    assert box.refused == 1


def test_mail_from_another_thread_goes_over_the_bridge() -> None:
    box = mailbox()
    crossed: list[Letter] = []
    box.thread_id = threading.get_ident()
    box.bridge = lambda deliver, letter: crossed.append(letter)
    for post in (lambda: box.post(Note(1)), lambda: box.deliver_control(stop())):
        thread = threading.Thread(target=post)
        thread.start()
        thread.join()
    assert box.empty()
    assert len(crossed) == 2


def stop() -> Stop:
    return Stop(1.0, "shutdown", ActorFuture())


def kill() -> Stop:
    return Stop(0.0, "killed", ActorFuture())


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=20))
def test_the_urgent_lanes_are_kill_then_stop_then_supervision_each_in_its_order(ranks: list[int]) -> None:
    box = mailbox(max_count=1)
    box.post(Note(1))
    sent = [(kill, stop, lambda: Inject(ValueError()))[rank]() for rank in ranks]
    for message in sent:
        box.deliver_control(message)
    assert [id(message) for message in box.control] == [id(message) for message in sorted(sent, key=lambda m: m.rank)]
    assert len(box.user) == 1


def test_a_flood_that_is_coalesced_does_not_grow() -> None:
    box = mailbox("coalesce", max_count=5)
    lost: list[str] = []
    box.on_lost = lambda letter, reason: lost.append(reason)
    for n in range(4):
        box.post(Note(n))
    for n in range(10_000):
        box.post(Blob(bytes([1, n % 256])))
    assert len(box) == 5
    assert len(box.user) <= 2 * box.max_count + 1
    assert lost == ["coalesced"] * 9_999
    assert [letter.body for letter in box.user][-1] == encode(Blob(bytes([1, 9_999 % 256])))


def test_what_coalesces_stands_where_the_newest_was_sent() -> None:
    box = mailbox("coalesce", max_count=2)
    box.post(Blob(b"\x01old"))
    box.post(Blob(b"\x02"))
    box.post(Blob(b"\x01new"))
    decode = type_decoder(Blob | Note)
    assert [decode(letter.body).data for letter in box.user if letter.body is not VOID] == [b"\x02", b"\x01new"]


def test_an_asker_whose_message_is_coalesced_is_told() -> None:
    box = mailbox("coalesce", max_count=1)
    lost: list[Letter] = []
    box.on_lost = lambda letter, reason: lost.append(letter)
    reply: ActorFuture[Any] = ActorFuture()
    box.post(Blob(b"\x01"), reply)
    box.post(Blob(b"\x01"))
    assert [letter.reply for letter in lost] == [reply]


def test_the_runtimes_own_letters_find_room_always_and_are_never_dropped() -> None:
    for overflow in get_args(Overflow):
        box = mailbox(overflow, max_count=1)
        box.post(Note(1))
        box.deliver(Letter(encode(Note(2)), own=True))
        assert numbers(box) == [1, 2]
        if overflow == "drop_oldest":
            box.post(Note(3))
            assert numbers(box) == [2]  # the new one found no room: the runtime's own keeps its place


def test_who_feeds_a_mailbox_may_stop_at_high_water_and_is_woken_once_at_low() -> None:
    box = mailbox(max_count=8)
    woken: list[int] = []
    for n in range(8):
        assert box.is_high is (n > 6)
        box.post(Note(n))
    box.when_low(lambda: woken.append(len(box)))
    while len(box):
        box.take()
    assert woken == [2]
    box.when_low(lambda: woken.append(-1))
    assert woken == [2, -1]


def test_a_foreign_thread_waits_for_room_where_the_policy_says_so() -> None:
    box = mailbox("wait", max_count=1)
    waited: list[int] = []

    def await_room() -> None:
        waited.append(len(box.user))
        box.user.clear()

    box.await_room = await_room
    box.post(Note(1))
    box.post(Note(2))
    assert numbers(box) == [2]
    assert waited == [1]


async def _post_on_a_loop() -> None:
    box = mailbox("wait", max_count=1)
    box.post(Note(1))
    with pytest.raises(Rejected):
        box.post(Note(2))


def test_on_an_event_loop_the_policy_to_wait_refuses() -> None:
    anyio.run(_post_on_a_loop)


def test_a_registered_type_travels_as_what_it_becomes() -> None:
    register_type(Celsius, lambda celsius: celsius.degrees, Celsius)
    raw = encode(Report(Celsius(21)))
    assert msgspec.msgpack.decode(raw) == {"type": "Report", "temperature": 21}
    assert type_decoder(Report)(raw).temperature.degrees == 21
