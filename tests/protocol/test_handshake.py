"""The handshake against what pipecat-ai 1.14.0 was recorded to do, and the table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rtvi_actors.protocol import handshake, versions
from rtvi_actors.protocol.client import AboutClient
from rtvi_actors.protocol.envelope import Envelope
from rtvi_actors.protocol.handshake import (
    Announce,
    AnswerReady,
    BotSide,
    ClientSide,
    Effect,
    Event,
    HandshakeState,
    Refuse,
    StartAudio,
)

MANUAL = HandshakeState(auto=False)


def ready(version: Any, request_id: str = "r1", about: Any = None) -> Envelope:
    return Envelope("client-ready", request_id, msgspec.json.encode({"version": version, "about": about}))


def kinds(effects: tuple[Effect, ...]) -> list[type[Effect]]:
    return [type(effect) for effect in effects]


def answers(effects: tuple[Effect, ...]) -> list[tuple[str, str]]:
    return [(e.request.id, e.request.echo) for e in effects if isinstance(e, AnswerReady)]


def test_a_good_client_ready_starts_audio_and_is_announced() -> None:
    state, effects = handshake.client_ready(MANUAL, ready("2.0.0", about={"library": "js"}))
    assert kinds(effects) == [StartAudio, Announce]
    assert state.client is ClientSide.READY
    assert state.bot is BotSide.NOT_READY
    assert state.version == (2, 0, 0)
    assert state.request.about == AboutClient("js")


@pytest.mark.parametrize("version", ["0.3.0", "3.0.0", "2.1", "abc", None, 7, [], {"deep": [1]}])
def test_a_refused_version_is_answered_and_stops_nothing(version: object) -> None:
    state, effects = handshake.client_ready(MANUAL, ready(version))
    assert kinds(effects) == [Refuse, StartAudio, Announce]
    assert isinstance(effects[0], Refuse)
    assert effects[0].error.reply_id == "r1"
    assert state.version == versions.UNKNOWN
    assert state.client is ClientSide.READY


@pytest.mark.parametrize("data", [None, b"{}"])
def test_a_client_ready_without_data_is_of_an_unknown_version(data: bytes | None) -> None:
    _, effects = handshake.client_ready(MANUAL, Envelope("client-ready", "r1", data))
    assert kinds(effects) == [Refuse, StartAudio, Announce]


def test_each_client_ready_starts_audio_and_is_announced_again() -> None:
    state, _ = handshake.client_ready(MANUAL, ready("2.2.0"))
    state, effects = handshake.client_ready(state, ready("1.2.0", "r2"))
    assert kinds(effects) == [StartAudio, Announce]
    assert (state.request.id, state.version) == ("r2", (1, 2, 0))


def test_a_bad_version_does_not_leave_the_previous_one_in_force() -> None:
    state, _ = handshake.client_ready(MANUAL, ready("1.2.0"))
    state, _ = handshake.client_ready(state, ready("bad", "r2"))
    assert answers(handshake.bot_ready(state)[1]) == [("r2", "2.2.0")]


def test_bot_ready_before_any_client_ready_answers_nobody() -> None:
    state, effects = handshake.bot_ready(MANUAL)
    assert answers(effects) == [("", "2.2.0")]
    assert state.client is ClientSide.WAITING
    assert state.bot is BotSide.READY
    _, effects = handshake.client_ready(state, ready("1.2.0"))
    assert answers(effects) == []


def test_bot_ready_said_twice_answers_the_latest_request_twice() -> None:
    state, _ = handshake.client_ready(MANUAL, ready("1.2.0"))
    state, first = handshake.bot_ready(state)
    _, second = handshake.bot_ready(state)
    assert answers(first + second) == [("r1", "1.2.0")] * 2


def test_automatic_answers_carry_the_id_and_version_of_their_own_request() -> None:
    state, first = handshake.client_ready(HandshakeState(), ready("1.2.0", "r1"))
    state, second = handshake.client_ready(state, ready("2.0.0", "r2"))
    assert answers(first) == [("r1", "1.2.0")]
    assert answers(second) == [("r2", "2.2.0")]


def test_the_table_has_every_event() -> None:
    assert set(handshake.TABLE) == set(Event)


@given(st.lists(st.one_of(st.none(), st.text(max_size=8), st.sampled_from(["1.2.0", "2.2.0", "3.0.0"]))))
def test_the_state_depends_on_the_latest_request_alone(texts: list[str | None]) -> None:
    state = HandshakeState()
    for number, text in enumerate(texts):
        state, effects = handshake.client_ready(state, ready(text, str(number)))
        alone, same = handshake.client_ready(HandshakeState(), ready(text, str(number)))
        assert state == alone
        assert kinds(effects) == kinds(same)
        assert answers(effects) == answers(same)


class AnyHandshake(RuleBasedStateMachine):
    """client-ready and bot-ready in any order, against a model that knows the latest request and no more."""

    @initialize(auto=st.booleans())
    def begin(self, auto: bool) -> None:
        self.state = HandshakeState(auto=auto)
        self.latest = ("", "2.2.0", versions.UNKNOWN)
        self.count = 0
        self.is_ready = self.has_answered = False

    @rule(
        version=st.one_of(st.none(), st.text(max_size=8), st.sampled_from(["1.0.0", "1.2.0", "2.1.0", "3.0.0", "2.2"]))
    )
    def client_ready(self, version: str | None) -> None:
        self.count += 1
        agreed = versions.negotiate(version, f"r{self.count}")
        self.latest = (f"r{self.count}", agreed.echo, agreed.version)
        self.state, effects = handshake.client_ready(self.state, ready(version, f"r{self.count}"))
        welcome = [StartAudio, Announce] if agreed.error is None else [Refuse, StartAudio, Announce]
        assert kinds(effects) == [*welcome, *([AnswerReady] if self.state.auto else [])]
        assert answers(effects) == ([self.latest[:2]] if self.state.auto else [])
        self.is_ready = True
        self.has_answered |= self.state.auto

    @rule()
    def bot_ready(self) -> None:
        self.state, effects = handshake.bot_ready(self.state)
        assert kinds(effects) == [AnswerReady]
        assert answers(effects) == [self.latest[:2]]
        self.has_answered = True

    @invariant()
    def the_state_is_that_of_the_latest_request(self) -> None:
        assert (self.state.client is ClientSide.READY) == self.is_ready
        assert (self.state.bot is BotSide.READY) == self.has_answered
        assert (self.state.request.id, self.state.version) == (self.latest[0], self.latest[2])


TestAnyHandshake = AnyHandshake.TestCase
