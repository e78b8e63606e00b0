from __future__ import annotations

import logging

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import data, integers, sampled_from

from rtvi_actors.errors import InvalidData
from rtvi_actors.frames import LLMMessagesAppend
from rtvi_actors.ledger import LOGGED_AT_ONCE, Ledger, OpenRequest, WaitingText
from rtvi_actors.messages import Outcome


class Books(RuleBasedStateMachine):
    """Messages arrive, get numbers, end, some of them twice: the equation holds after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger("session-x", lambda: 0.0, credit=8, credit_bytes=100)
        self.sizes: list[int] = []
        self.woken = 0
        self.arrived = 0

    @rule(size=integers(0, 60))
    def arrive(self, size: int) -> None:
        self.ledger.arrived(size)
        self.sizes.append(size)
        self.arrived += 1

    @precondition(lambda self: self.sizes)
    @rule(audio=sampled_from([True, False]))
    def number(self, audio: bool) -> None:
        size = self.sizes.pop(0)
        if audio:
            self.ledger.begin_audio((self.ledger.audio.last + 1, size))
        else:
            self.ledger.begin_control((self.ledger.control.last + 1, size))

    @precondition(lambda self: self.sizes)
    @rule(outcome=sampled_from(Outcome))
    def end_without_number(self, outcome: Outcome) -> None:
        self.ledger.end_unnumbered(outcome, self.sizes.pop(0), "why")

    @precondition(lambda self: self.ledger.control.last)
    @rule(choice=data(), outcome=sampled_from(Outcome))
    def complete_control(self, choice: object, outcome: Outcome) -> None:
        seq = choice.draw(integers(1, self.ledger.control.last))  # type: ignore[attr-defined]
        self.ledger.complete_control((seq, outcome))

    @precondition(lambda self: self.ledger.audio.last)
    @rule(choice=data(), outcome=sampled_from(Outcome))
    def complete_audio(self, choice: object, outcome: Outcome) -> None:
        seq = choice.draw(integers(1, self.ledger.audio.last))  # type: ignore[attr-defined]
        self.ledger.complete_audio((seq, outcome))

    @precondition(lambda self: self.ledger.exhausted)
    @rule()
    def wait(self) -> None:
        self.ledger.on_credit = self._wake

    def _wake(self) -> None:
        self.woken += 1
        assert not self.ledger.exhausted

    @invariant()
    def the_equation_holds(self) -> None:
        books = self.ledger.conservation()
        assert books.holds
        assert books.received == self.arrived
        assert self.ledger.control.open_bytes == sum(self.ledger.control.open.values())
        assert self.ledger.unread_bytes == sum(self.sizes)


Books.TestCase.settings = settings(max_examples=60, deadline=None)
TestBooks = Books.TestCase


def test_a_number_ends_once_and_a_second_end_is_counted() -> None:
    ledger = Ledger("session-x", lambda: 0.0)
    ledger.arrived()
    ledger.begin_control((1, 0))
    ledger.complete_control((1, Outcome.DELIVERED))
    ledger.complete_control((1, Outcome.DEAD))
    assert ledger.control.duplicates == 1
    assert ledger.conservation().dead == 0


def test_a_number_whose_end_is_on_its_way_is_nobodys_to_end_and_is_forgotten_with_its_end() -> None:
    ledger = Ledger("session-x", lambda: 0.0)
    for seq in (1, 2):
        ledger.arrived()
        ledger.begin_control((seq, 0))
    ledger.end_control(1)
    assert (ledger.holds(1), ledger.holds(2), ledger.holds(3)) == (False, True, False)
    assert ledger.conservation().open == 2
    ledger.complete_control((1, Outcome.DEAD))
    ledger.end_control(1)
    ledger.end_control(2)
    assert ledger.ended == {2}


def test_a_number_that_has_ended_waits_for_nothing_more() -> None:
    ledger = Ledger("s", lambda: 0.0)
    for seq in (1, 2):
        ledger.arrived()
        ledger.begin_control((seq, 0))
        ledger.texts.hold((seq, WaitingText(LLMMessagesAppend(()))))
        ledger.door.more.add(seq)
    ledger.complete_control((1, Outcome.ANSWERED))
    assert (list(ledger.texts.waiting), ledger.door.more) == ([2], {2})


def test_texts_that_wait_until_everything_is_over_are_logged_and_dead(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger("s", lambda: 0.0)
    ledger.arrived()
    ledger.begin_control((1, 0))
    ledger.texts.hold((1, WaitingText(LLMMessagesAppend(()))))
    ledger.close()
    assert ledger.conservation().dead == 1
    assert ledger.texts.waiting == {}
    assert "1 texts could not be delivered" in caplog.text


def test_audio_that_the_bot_drops_is_no_longer_delivered() -> None:
    ledger = Ledger("session-x", lambda: 0.0)
    ledger.audio_lost("host's own")  # it came from no client
    ledger.arrived()
    ledger.begin_audio((1, 0))
    ledger.complete_audio((1, Outcome.DELIVERED))
    ledger.audio_lost("bot audio overflow")
    books = ledger.conservation()
    assert (books.delivered, books.dropped, books.holds) == (0, 1, True)
    assert ledger.audio.dropped == {"bot audio overflow": 1}


def test_a_request_is_settled_once_and_a_late_answer_is_counted() -> None:
    ledger = Ledger("session-x", lambda: 0.0)
    ledger.open_request((1, OpenRequest("q", "t", 0.0)))
    assert ledger.settle(1)
    assert not ledger.settle(1)
    assert ledger.late_answers == 1


def test_the_details_of_an_error_are_in_the_log_under_the_id_that_the_client_gets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = Ledger("session-x", lambda: 0.0)
    with caplog.at_level(logging.INFO, "rtvi_actors"):
        text = ledger.reply_text(InvalidData("data.t", detail="a secret\nforged"))
    assert text == "Invalid message: session-x.1 (data.t)"
    assert "session-x.1" in caplog.text
    assert "\nforged" not in caplog.text
    assert "a secret" in caplog.text


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_log_takes_so_many_client_errors_a_second_and_says_how_many_it_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    ledger = Ledger("session-x", clock)

    def fail(count: int) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, "rtvi_actors"):
            texts = {ledger.reply_text(InvalidData("data.t", detail="d")) for _ in range(count)}
        assert len(texts) == count  # an id of its own each, logged or not
        return [record.getMessage() for record in caplog.records]

    assert len(fail(50)) == LOGGED_AT_ONCE
    clock.now_s += 0.4
    assert fail(1) == []
    clock.now_s += 0.1 + 0.5
    assert fail(3) == [
        "31 client errors up to session-x.51 are left out: more than 2 a second",
        "error session-x.52: InvalidData: d",
        "error session-x.53: InvalidData: d",
    ]
    clock.now_s += 1000.0
    assert len(fail(50)) == 1 + LOGGED_AT_ONCE
    caplog.clear()
    with caplog.at_level(logging.INFO, "rtvi_actors"):
        ledger.log_left_out()
        ledger.log_left_out()
    assert [record.getMessage() for record in caplog.records] == [
        "30 client errors up to session-x.104 are left out: more than 2 a second"
    ]


def test_our_own_failures_are_all_logged(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger("session-x", Clock())
    for _ in range(100):
        ledger.failure_text("on_audio")
    assert len(caplog.records) == 100
