"""The bot-output machine: recorded examples, and its rules under any sequence of calls."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import UNSET

from rtvi_actors.protocol import server
from rtvi_actors.protocol.segments import LIMIT, MAX_ID, Segments, SegmentsState, Sentences
from rtvi_actors.protocol.versions import Version

V1 = (1, 2, 0)
V2 = (2, 2, 0)


def outputs(messages: Iterable[server.ServerMessage], version: Version) -> list[server.BotOutputData]:
    shaped = (server.shape(m, version) for m in messages)
    return [m.data for m in shaped if isinstance(m, server.BotOutput)]


def told(messages: Iterable[server.ServerMessage], version: Version) -> list[tuple[str, str, str, str]]:
    """Type, text, status, accumulated text of each bot-output that a version gets."""
    return [
        (
            d.aggregated_by,
            d.text,
            d.spoken_status,
            d.spoken_progress.accumulated_text if d.spoken_progress is not UNSET else "-",
        )
        for d in outputs(messages, version)
    ]


def speaking() -> Segments:
    segments = Segments()
    segments.bot_started_speaking()
    return segments


def test_a_segment_spoken_at_once_is_the_same_for_every_version() -> None:
    segments = speaking()
    messages = segments.text("One.", will_be_spoken=True) + segments.spoken(1)
    for version in (V1, V2):
        new, done = outputs(messages, version)
        assert (new.spoken_status, new.spoken, new.will_be_spoken) == ("new", False, True)
        assert new.spoken_progress == server.SpokenProgress("", "One.")
        assert (done.spoken_status, done.spoken, done.text) == ("completed", True, "One.")
        assert done.spoken_progress == server.SpokenProgress("One.", "")
    assert segments.state.segments == ()


def test_old_clients_hear_of_words_and_new_ones_of_progress() -> None:
    segments = speaking()
    messages = segments.text("One two.", will_be_spoken=True)
    messages += segments.spoken(1, accumulated_text="One")
    messages += segments.spoken(1, accumulated_text="One two.")
    assert told(messages, V1) == [
        ("sentence", "One two.", "new", ""),
        ("word", "One", "completed", "One"),
        ("word", "two.", "completed", "two."),
    ]
    assert told(messages, V2) == [
        ("sentence", "One two.", "new", ""),
        ("sentence", "One two.", "in-progress", "One"),
        ("sentence", "One two.", "completed", "One two."),
    ]
    assert {d.segment_id for d in outputs(messages, V1)} == {1}


def test_a_word_is_told_when_all_of_it_has_been_spoken() -> None:
    segments = speaking()
    segments.text("Hello there you.", will_be_spoken=True)
    assert told(segments.spoken(1, accumulated_chars=3), V1) == []
    assert [t[1] for t in told(segments.spoken(1, accumulated_chars=11), V1)] == ["Hello", "there"]
    assert [t[1] for t in told(segments.spoken(1), V1)] == ["you."]


def test_progress_has_no_spoken_field() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    (progress,) = outputs(segments.spoken(1, accumulated_chars=3), V2)
    assert progress.spoken is UNSET


def test_text_to_be_spoken_waits_for_the_bot_to_speak() -> None:
    segments = Segments()
    assert segments.text("One.", will_be_spoken=True) == []
    assert segments.text("Two.", will_be_spoken=True) == []
    released = segments.bot_started_speaking()
    assert isinstance(released[0], server.BotStartedSpeaking)
    assert [t[1] for t in told(released, V2)] == ["One.", "Two."]
    assert [t[1] for t in told(segments.text("Three.", will_be_spoken=True), V2)] == ["Three."]


def test_text_that_is_not_spoken_is_shown_at_once() -> None:
    (data,) = outputs(Segments().text("code()", type="code", will_be_spoken=False), V2)
    assert (data.spoken, data.will_be_spoken, data.spoken_status) == (False, False, "new")
    assert data.spoken_progress is UNSET
    assert data.output_type == data.text_type == data.aggregated_by == "code"


def test_text_that_is_not_spoken_does_not_overtake_text_that_waits() -> None:
    segments = Segments()
    segments.text("spoken", will_be_spoken=True)
    assert segments.text("silent", will_be_spoken=False) == []
    assert [t[1] for t in told(segments.bot_started_speaking(), V2)] == ["spoken", "silent"]


def test_progress_waits_for_its_segment() -> None:
    segments = Segments()
    segments.text("One two.", will_be_spoken=True)
    assert segments.spoken(1, accumulated_chars=3) == []
    assert told(segments.bot_started_speaking(), V2) == [
        ("sentence", "One two.", "new", ""),
        ("sentence", "One two.", "in-progress", "One"),
    ]


def test_an_interruption_closes_with_what_was_spoken_and_drops_what_waited() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, accumulated_chars=3)
    segments.text("Next.", will_be_spoken=True)
    segments.bot_stopped_speaking()
    segments.text("Never shown.", will_be_spoken=True)
    messages = segments.interrupted()
    assert isinstance(messages[0], server.BotInterrupted)
    assert told(messages, V2) == [
        ("sentence", "One two.", "completed", "One"),
        ("sentence", "Next.", "completed", ""),
    ]
    assert all(d.spoken_progress.remaining_text == "" for d in outputs(messages, V2) if d.spoken_progress is not UNSET)
    assert told(messages, V1) == []
    assert segments.state.segments == ()


def test_what_may_not_be_interrupted_goes_on() -> None:
    segments = speaking()
    segments.text("Legal notice.", will_be_spoken=True, interruptible=False)
    assert told(segments.interrupted(), V2) == []
    assert told(segments.spoken(1), V2) == [("sentence", "Legal notice.", "completed", "Legal notice.")]


def test_finish_shows_what_waited_and_closes_what_is_open() -> None:
    segments = Segments()
    segments.text("Never spoken.", will_be_spoken=True)
    assert told(segments.finish(), V2) == [
        ("sentence", "Never spoken.", "new", ""),
        ("sentence", "Never spoken.", "completed", ""),
    ]
    assert segments.finish() == []


def test_a_pause_between_words_closes_nothing() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, accumulated_chars=3)
    assert [type(m) for m in segments.bot_stopped_speaking()] == [server.BotStoppedSpeaking]
    segments.bot_started_speaking()
    assert told(segments.spoken(1), V2) == [("sentence", "One two.", "completed", "One two.")]


def test_late_and_repeated_reports_change_nothing() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, accumulated_chars=5)
    assert segments.spoken(1, accumulated_chars=5) == []
    assert segments.spoken(1, accumulated_chars=2) == []
    segments.spoken(1)
    assert segments.spoken(1) == []
    assert segments.spoken(99) == []


def test_the_state_is_all_there_is_to_keep() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, accumulated_chars=3)
    again = Segments(segments.state)
    assert again.spoken(1) == segments.spoken(1)
    assert again.state == segments.state


def test_ids_are_int32_and_start_again() -> None:
    segments = Segments(SegmentsState(speaking=True, next_id=MAX_ID))
    assert segments.allocate() == MAX_ID
    assert segments.allocate() == 1


def test_an_id_in_use_is_passed_over() -> None:
    segments = speaking()
    segments.text("One.", will_be_spoken=True, segment_id=1)
    assert segments.allocate() == 2


@pytest.mark.parametrize("segment_id", [0, -1, MAX_ID + 1, 5])
def test_an_id_that_cannot_be_is_refused(segment_id: int) -> None:
    segments = speaking()
    segments.text("One.", will_be_spoken=True, segment_id=5)
    with pytest.raises(ValueError, match="segment id"):
        segments.text("Two.", will_be_spoken=True, segment_id=segment_id)


def test_speech_that_is_lost_closes_what_was_shown_and_shows_what_waited() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, accumulated_chars=3)
    assert told(segments.lost(1), V2) == [("sentence", "One two.", "completed", "One")]
    assert segments.lost(1) == []
    segments.bot_stopped_speaking()
    for text, will_be_spoken in (("2", True), ("3", False), ("4", True), ("5", False)):
        segments.text(text, will_be_spoken=will_be_spoken)
    assert told(segments.lost(4), V2) == []  # "2" is waited for still
    assert [t[1] for t in told(segments.lost(2), V2)] == ["2", "3", "4", "5"]
    assert segments.state.segments == ()


def test_a_bot_whose_speech_never_comes_keeps_memory_bounded() -> None:
    segments = Segments()
    messages = [m for n in range(2 * LIMIT) for m in segments.text(f"{n}.", will_be_spoken=True)]
    assert len(segments.state.segments) == LIMIT
    assert [t[1] for t in told(messages, V2)[::2]] == [f"{n}." for n in range(LIMIT)]


class AnySequence(RuleBasedStateMachine):
    """Whatever is called in whatever order, a client can follow what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = Segments()
        self.texts: dict[int, str] = {}
        self.accumulated: dict[int, str] = {}
        self.ended: dict[int, bool] = {}
        """Shown ids: whether they have ended."""
        self.words: dict[int, list[str]] = {}

    def follow(self, messages: list[server.ServerMessage]) -> None:
        for data in outputs(messages, V2):
            if data.spoken_status == "new":
                assert data.segment_id not in self.ended, "shown twice"
                self.texts[data.segment_id] = data.text
                self.accumulated[data.segment_id] = ""
                self.ended[data.segment_id] = not data.will_be_spoken or not data.text
                continue
            assert self.ended.get(data.segment_id) is False, "progress of a segment that is not open"
            assert data.text == self.texts[data.segment_id]
            assert data.spoken_progress is not UNSET
            accumulated, remaining = data.spoken_progress.accumulated_text, data.spoken_progress.remaining_text
            assert accumulated.startswith(self.accumulated[data.segment_id]), "progress shrank"
            assert data.text.startswith(accumulated)
            self.accumulated[data.segment_id] = accumulated
            self.ended[data.segment_id] = data.spoken_status == "completed"
            assert accumulated + remaining == data.text or (self.ended[data.segment_id] and remaining == "")
            assert (remaining == "") == self.ended[data.segment_id]
        for data in outputs(messages, V1):
            if data.aggregated_by == "word":
                self.words.setdefault(data.segment_id, []).append(data.text)

    @rule(
        text=st.text(alphabet="ab .", max_size=12),
        will_be_spoken=st.booleans(),
        interruptible=st.booleans(),
    )
    def say(self, text: str, will_be_spoken: bool, interruptible: bool) -> None:
        self.follow(self.segments.text(text, will_be_spoken=will_be_spoken, interruptible=interruptible))

    @rule(back=st.integers(0, 4), chars=st.one_of(st.none(), st.integers(-1, 14)))
    def speak(self, back: int, chars: int | None) -> None:
        self.follow(self.segments.spoken(self.segments.state.next_id - 1 - back, accumulated_chars=chars))

    @rule(back=st.integers(0, 4))
    def lose(self, back: int) -> None:
        self.follow(self.segments.lost(self.segments.state.next_id - 1 - back))

    @rule()
    def start(self) -> None:
        self.follow(self.segments.bot_started_speaking())

    @rule()
    def stop(self) -> None:
        self.follow(self.segments.bot_stopped_speaking())

    @rule()
    def interrupt(self) -> None:
        self.follow(self.segments.interrupted())

    @rule()
    def restart(self) -> None:
        self.segments = Segments(self.segments.state)

    @rule()
    def finish(self) -> None:
        self.follow(self.segments.finish())
        assert all(self.ended.values()), "finished, and something is open"

    @invariant()
    def what_the_client_sees_open_is_open(self) -> None:
        here = {s.id for s in self.segments.state.segments if not s.held}
        assert here == {ident for ident, ended in self.ended.items() if not ended}

    @invariant()
    def old_clients_hear_words_in_order(self) -> None:
        for ident, words in self.words.items():
            assert words == self.texts[ident].split()[: len(words)]

    def teardown(self) -> None:
        self.finish()


TestAnySequence = AnySequence.TestCase


# -- sentences --


@pytest.mark.parametrize(
    ("tokens", "sentences", "rest"),
    [
        (["Hel", "lo ", "world. ", "How are", " you?", " bye"], ["Hello world. ", "How are you?"], " bye"),
        (["One. Two. "], ["One. Two. "], None),
        (["Pi is 3.", "14 ok."], ["Pi is 3.", "14 ok."], None),
        (["\u4f60\u597d\u3002", "\u518d\u89c1"], ["\u4f60\u597d\u3002"], "\u518d\u89c1"),
        (["a\n", "b."], ["a\nb."], None),
        (["a@b.com ", "x."], ["a@b.com x."], None),
        (['He said "no."', " "], ['He said "no."'], None),
        (["", " "], [], None),
    ],
)
def test_sentences_end_where_they_were_recorded_to(tokens: list[str], sentences: list[str], rest: str | None) -> None:
    collected = Sentences()
    assert [s for token in tokens if (s := collected.add(token)) is not None] == sentences
    assert collected.finish() == rest
    assert collected.pending == ""


def test_an_interrupted_sentence_is_not_glued_to_the_next() -> None:
    sentences = Sentences()
    sentences.add("half a sent")
    sentences.drop()
    assert sentences.add("New one.") == "New one."


def test_pending_text_is_all_there_is_to_keep() -> None:
    assert Sentences("half a ").add("sentence.") == "half a sentence."
