"""What each lost message means. That live sessions survive the losses is in test_restart.py."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.bot import Bot
from rtvi_actors.concern import Concern
from rtvi_actors.errors import Dead
from rtvi_actors.ledger import Ledger, OpenRequest
from rtvi_actors.losses import _LOST, Losses
from rtvi_actors.messages import (
    Answer,
    DeferExpired,
    EndSession,
    Negotiated,
    Outcome,
    Ready,
    Received,
    ReceivedPcm,
    Release,
    ReleaseTexts,
)
from rtvi_actors.outbox import Outbox
from rtvi_actors.protocol.server import ErrorResponse, ErrorResponseData, ServerResponse, ServerResponseData
from rtvi_actors.protocol.versions import UNKNOWN
from rtvi_actors.session import BUILT_IN, CHILDREN
from rtvi_actors.streams import ClientText, ServerText


class Ref:
    """Stands in for an actor: it writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.is_dead = False

    def tell(self, message: Any) -> None:
        if self.is_dead:
            raise Dead("given up")
        self.told.append(message)

    forward = tell


class Books:
    """One session's, with nobody behind the names."""

    def __init__(self) -> None:
        self.ledger = Ledger("s", lambda: 0.0)
        self.outbox = Outbox()
        self.refs: dict[str, Any] = {name: Ref() for name in CHILDREN}
        self.losses = Losses(self.ledger, self.outbox, self.refs, lambda: 100.0)

    def arrive(self, count: int) -> None:
        """So many control messages get numbers."""
        for seq in range(1, count + 1):
            self.ledger.arrived()
            self.ledger.begin_control((seq, 0))

    def told(self, name: str) -> list[Any]:
        told: list[Any] = self.refs[name].told
        return told


@pytest.fixture
def books() -> Books:
    return Books()


def answer(token: int) -> Answer:
    return Answer(token, ServerResponse(id="q1", data=ServerResponseData("t")))


def test_every_row_is_of_a_message_that_some_actor_of_the_session_takes() -> None:
    actors: list[type[rtvi.AnyioActor]] = [*BUILT_IN.values(), Bot, Concern]
    declarations = [actor.declaration for actor in actors]
    taken = {kind for declaration in declarations if declaration is not None for kind in declaration.handlers}
    assert set(_LOST) <= taken


def test_a_message_lost_in_a_concern_ends_at_the_door_and_its_client_hears_of_it(books: Books) -> None:
    books.arrive(7)
    books.losses.lost("text", Received(7, "send-text", "m1", b"{}"), "crashed")
    assert books.told("door") == [Release(7, Outcome.DEAD, (), "m1")]
    (reply,) = books.told("outbound")
    assert isinstance(reply, ErrorResponse)
    assert reply.id == "m1"
    assert reply.data.error.startswith("Exception processing message: s.")


def test_a_deferred_message_that_is_lost_is_answered_once(books: Books) -> None:
    books.arrive(1)
    books.losses.lost("text", Received(1, "send-text", "m1", b"{}"), "timeout")
    books.losses.lost("text", DeferExpired(1, "m1"), "crashed")
    assert books.told("door") == [Release(1, Outcome.DEAD, (), "m1")]
    assert len(books.told("outbound")) == 1


def test_a_message_that_its_concern_had_ended_is_ended_and_answered_by_nobody_else(books: Books) -> None:
    books.arrive(2)
    books.ledger.end_control(1)  # on its way to the door
    books.ledger.complete_control((2, Outcome.DELIVERED))  # through it
    for seq in (1, 2):
        books.losses.lost("custom", Received(seq, "go", "m1", None), "timeout")
    assert all(books.told(name) == [] for name in CHILDREN)


def test_audio_lost_to_overflow_is_dropped_by_that_policy_without_an_error(books: Books) -> None:
    books.ledger.arrived(4)
    books.ledger.begin_audio((1, 4))
    books.losses.lost("audio", ReceivedPcm(1, b"\0\0", 16_000, 1), "overflow")
    assert books.ledger.audio.dropped == {"audio overflow": 1}
    assert books.ledger.conservation().holds
    assert books.told("outbound") == []


def test_audio_that_the_bots_bulk_lane_drops_counts_with_the_last_chunk_of_its_message(books: Books) -> None:
    for seq in (1, 2):
        books.ledger.arrived(4)
        books.ledger.begin_audio((seq, 4))
        books.ledger.complete_audio((seq, Outcome.DELIVERED))
    for more in (True, True, False):
        books.losses.lost("bot", frames.InputAudioRaw(b"\0\0", 16_000, 1, more), "overflow")
    books.losses.lost("bot", frames.InputAudioRaw(b"\0\0", 16_000, 1), "crashed")  # it was delivered
    assert books.ledger.audio.dropped == {"bot overflow": 1}
    assert books.ledger.audio.counts[Outcome.DELIVERED] == 1
    assert books.ledger.conservation().holds


def test_a_wire_message_lost_in_ingress_is_dead_and_answered_under_its_id_where_it_has_one(books: Books) -> None:
    wire = {"label": "rtvi-ai", "type": "client-message", "id": "m2", "data": {"t": "x"}}
    for data in (msgspec.json.encode(wire), b"not JSON", b'{"label":"another"}'):
        books.ledger.arrived(len(data))
        books.losses.lost("ingress", ClientText(data), "crashed")
    assert books.ledger.unnumbered[Outcome.DEAD] == 3
    assert books.ledger.conservation().open == 0
    first, second = books.told("outbound")  # what is not RTVI is not answered
    assert first.id == "m2"
    assert not hasattr(second, "id")


def test_a_release_lost_in_the_door_is_released_again_without_its_frames(books: Books) -> None:
    books.losses.lost("door", Release(3, Outcome.DELIVERED, (b"frame",), "m3"), "crashed")
    assert books.told("door") == [Release(3, Outcome.DEAD, (), "m3")]
    assert books.told("outbound")[0].id == "m3"


def test_a_release_of_which_more_follows_costs_no_more_than_what_was_in_it(books: Books) -> None:
    books.losses.lost("door", Release(3, None, (), "m3"), "crashed")
    assert books.told("door") == books.told("outbound") == []
    books.losses.lost("door", Release(4, None, (b"interruption",), "m4"), "crashed")
    assert books.told("door") == [Release(4, Outcome.DEAD, (), "m4")]
    assert books.told("outbound")[0].id == "m4"


def test_text_hears_of_the_end_of_the_session_whatever_it_crashes_on(books: Books) -> None:
    books.losses.lost("text", ReleaseTexts(), "crashed")
    assert books.told("text") == [ReleaseTexts()]


def test_the_client_hears_that_its_keys_are_lost(books: Books) -> None:
    books.losses.lost("bot", frames.InputDTMF(("1",)), "crashed")
    (told,) = books.told("outbound")
    assert told.data.error.startswith("Exception processing message: s.")


def test_the_release_of_a_request_lost_in_the_door_answers_the_request_once(books: Books) -> None:
    books.ledger.open_request((3, OpenRequest("q1", "t", 108.0)))
    books.losses.lost("door", Release(3, Outcome.DELIVERED, (b"frame",), "q1"), "crashed")
    (told,) = books.told("outbound")
    assert isinstance(told, Answer)
    assert told.token == 3


def test_a_request_lost_in_the_bot_is_answered_and_a_message_that_expects_no_answer_is_not(books: Books) -> None:
    for token in (5, 0):
        books.losses.lost("bot", frames.Request(token, "q1", "t", b"null"), "crashed")
    (told,) = books.told("outbound")
    assert told.token == 5


def test_an_answer_lost_in_the_observer_leaves_by_outbound(books: Books) -> None:
    books.losses.lost("observer", answer(5), "crashed")
    books.losses.lost("observer", Ready(b"encoded"), "crashed")
    assert books.told("outbound") == [answer(5), b"encoded"]


def test_an_answer_lost_in_outbound_is_an_error_past_it_once(books: Books) -> None:
    books.ledger.open_request((5, OpenRequest("q1", "t", 108.0)))
    for _ in range(2):
        books.losses.lost("outbound", answer(5), "crashed")
    (sent,) = books.outbox.take()
    assert isinstance(sent, ServerText)
    assert b'"error-response"' in sent.data
    assert books.ledger.requests == {}


def test_an_error_response_of_the_hosts_own_that_outbound_loses_is_answered_too(books: Books) -> None:
    lost = ErrorResponse(id="m9", data=ErrorResponseData("no"))
    books.losses.lost("outbound", lost, "crashed")
    (sent,) = books.outbox.take()
    assert isinstance(sent, ServerText)
    assert b"m9" in sent.data


def test_the_end_of_the_session_is_never_lost(books: Books) -> None:
    books.losses.lost("observer", EndSession("done"), "crashed")
    assert books.told("outbound") == [EndSession("done")]
    books.losses.lost("outbound", EndSession("done"), "crashed")
    assert books.outbox.closing == "done"


def test_numbers_end_and_clients_hear_though_whom_it_goes_by_was_given_up(books: Books) -> None:
    for ref in books.refs.values():
        ref.is_dead = True
    books.arrive(3)
    for token in (5, 6):
        books.ledger.open_request((token, OpenRequest(f"q{token}", "t", 108.0)))
    books.losses.lost("text", Received(1, "send-text", "m1", b"{}"), "crashed")
    books.losses.lost("custom", DeferExpired(2, "m2"), "crashed")
    books.losses.lost("door", Release(3, Outcome.DELIVERED, (b"frame",), "m3"), "dead")
    books.losses.lost("bot", frames.Request(5, "q5", "t", b"null"), "dead")
    books.losses.lost("observer", answer(6), "dead")
    books.losses.lost("observer", Ready(b"encoded"), "dead")
    books.losses.lost("bot", frames.Interruption(), "dead")
    books.losses.lost("handshake", Negotiated(UNKNOWN), "dead")
    books.losses.lost("bot", frames.EndTask(), "dead")
    sent = [msgspec.json.decode(wire.data) for wire in books.outbox.take() if isinstance(wire, ServerText)]
    assert {wire["type"] for wire in sent} == {"error-response"}
    assert [wire["id"] for wire in sent] == ["m1", "m2", "m3", "q5", "q1"]
    assert books.ledger.control.counts[Outcome.DEAD] == 3
    assert (books.ledger.requests, books.outbox.closing) == ({}, "ended by the client")


def test_a_message_without_a_row_means_nothing_to_the_client(books: Books) -> None:
    books.losses.lost("observer", frames.TTSStarted(), "crashed")
    assert all(books.told(name) == [] for name in CHILDREN)
    assert len(books.outbox) == 0


@pytest.mark.parametrize(("segment_id", "told"), [(0, []), (7, [frames.SpeechLost(7)])])
def test_speech_that_is_lost_ends_its_segment(segment_id: int, told: list[Any]) -> None:
    books = Books()
    books.losses.lost("playout", frames.OutputAudioRaw(b"", 16_000, 1, segment_id, "x"), "restarted")
    assert books.refs["observer"].told == told
