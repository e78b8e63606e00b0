from __future__ import annotations

import threading
from collections import deque
from typing import Any

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
from rtvi_actors.runtime.mailbox import Letter, Mailbox, Overflow, encode, register_type, type_decoder
from tests.runtime.messages import Note, Stranger


class Celsius:
    def __init__(self, degrees: int) -> None:
        self.degrees = degrees


class Report(msgspec.Struct, frozen=True, tag=True):
    temperature: Celsius


class Blob(msgspec.Struct, frozen=True, tag=True):
    data: bytes


def mailbox(overflow: Overflow = "refuse", max_count: int = 5, max_bytes: int = 10_000) -> Mailbox:
    box = Mailbox()
    box.accepts = {Note: "on_note", Blob: "on_blob"}
    box.owner = "box"
    box.overflow, box.max_count, box.max_bytes = overflow, max_count, max_bytes
    return box


def numbers(box: Mailbox) -> list[int]:
    decode = type_decoder(Note | Stranger)
    return [decode(letter.body).n for letter in box.user]


class MailboxAgainstAModel(RuleBasedStateMachine):
    """The model is a list of sizes: order is kept, bounds hold, and whatever is not handled leaves by `on_lost`."""

    @initialize(overflow=st.sampled_from(["refuse", "drop_oldest"]), count=st.integers(1, 6), size=st.integers(20, 200))
    def open(self, overflow: Overflow, count: int, size: int) -> None:
        self.box = mailbox(overflow, count, size)
        self.lost: list[bytes] = []
        self.box.on_lost = lambda letter, reason: self.lost.append(letter.body)
        self.model: deque[bytes] = deque()
        self.model_lost: list[bytes] = []

    def full(self, more: int = 0) -> bool:
        return len(self.model) >= self.box.max_count or sum(map(len, self.model)) + more > self.box.max_bytes

    @rule(size=st.integers(0, 60))
    def post(self, size: int) -> None:
        message = Blob(bytes(size))
        body = encode(message)
        if self.box.overflow == "refuse":
            if len(self.model) >= self.box.max_count or sum(map(len, self.model)) >= self.box.max_bytes:
                with pytest.raises(Rejected) as refusal:
                    self.box.post(message)
                assert refusal.value.message is message
                return
        else:
            while self.model and self.full(len(body)):
                self.model_lost.append(self.model.popleft())
        self.box.post(message)
        self.model.append(body)

    @precondition(lambda self: self.model)
    @rule()
    def take(self) -> None:
        assert self.box.take().body == self.model.popleft()

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
        assert [letter.body for letter in self.box.user] == list(self.model)
        assert self.lost == self.model_lost
        assert self.box.user_bytes == sum(map(len, self.model))
        assert len(self.box.user) <= self.box.max_count


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
    for post in (lambda: box.post(Note(1)), lambda: box.deliver_control("stop")):
        thread = threading.Thread(target=post)
        thread.start()
        thread.join()
    assert box.empty()
    assert len(crossed) == 2


def test_control_is_a_lane_of_its_own() -> None:
    box = mailbox(max_count=1)
    box.post(Note(1))
    box.deliver_control("stop")
    assert list(box.control) == ["stop"]
    assert len(box.user) == 1


def test_a_registered_type_travels_as_what_it_becomes() -> None:
    register_type(Celsius, lambda celsius: celsius.degrees, Celsius)
    raw = encode(Report(Celsius(21)))
    assert msgspec.msgpack.decode(raw) == {"type": "Report", "temperature": 21}
    assert type_decoder(Report)(raw).temperature.degrees == 21
