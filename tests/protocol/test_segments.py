"""The bot-output machine: recorded examples, and its rules under any sequence of calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from unittest import mock

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import UNSET

from rtvi_actors.protocol import segments as machine
from rtvi_actors.protocol import server
from rtvi_actors.protocol.segments import LIMIT, MAX_ID, REMEMBERED, Gated, Segments, SegmentsState, Shown
from rtvi_actors.protocol.versions import Version, at_least

V1 = (1, 2, 0)
V20 = (2, 0, 0)
V2 = (2, 2, 0)


def seen(messages: Iterable[Shown], version: Version) -> list[server.ServerMessage]:
    """What a client of this version gets."""
    open_to = (m.message if isinstance(m, Gated) else m for m in messages if _is_open(m, version))
    return [shaped for m in open_to if (shaped := server.shape(m, version)) is not None]


def _is_open(message: Shown, version: Version) -> bool:
    return not isinstance(message, Gated) or at_least(version, message.floor)


def outputs(messages: Iterable[Shown], version: Version) -> list[server.BotOutputData]:
    return [m.data for m in seen(messages, version) if isinstance(m, server.BotOutput)]


def tts(messages: Iterable[Shown], version: Version) -> list[str]:
    """The bot-tts-texts that a version gets."""
    return [m.data.text for m in seen(messages, version) if isinstance(m, server.BotTtsText)]


def told(messages: Iterable[Shown], version: Version) -> list[tuple[str, ...]]:
    """Of each bot-output that a version gets, type and text; for 2.x status and accumulated text, too."""
    return [
        (d.aggregated_by, d.text) if version == V1 else (d.aggregated_by, d.text, str(d.spoken_status), accumulated(d))
        for d in outputs(messages, version)
    ]


def accumulated(data: server.BotOutputData) -> str:
    return "-" if data.spoken_progress is UNSET else data.spoken_progress.accumulated_text


def speaking() -> Segments:
    segments = Segments()
    segments.bot_started_speaking()
    return segments


def test_a_segment_spoken_at_once_is_the_same_for_every_version() -> None:
    segments = speaking()
    messages = segments.text("One.", will_be_spoken=True) + segments.spoken(1)
    for version in (V1, V20, V2):
        assert [(d.text, d.spoken) for d in outputs(messages, version)] == [("One.", False), ("One.", True)]
    new, done = outputs(messages, V2)
    assert (new.spoken_status, new.will_be_spoken) == ("new", True)
    assert new.spoken_progress == server.SpokenProgress("", "One.")
    assert done.spoken_status == "completed"
    assert done.spoken_progress == server.SpokenProgress("One.", "")
    assert segments.state.segments == ()


def test_old_clients_hear_of_words_and_new_ones_of_progress() -> None:
    segments = speaking()
    messages = segments.text("One two.", will_be_spoken=True)
    messages += segments.spoken(1, 3)
    messages += segments.spoken(1, 8)
    assert told(messages, V1) == [("sentence", "One two."), ("word", "One"), ("word", "two.")]
    assert told(messages, V2) == [
        ("sentence", "One two.", "new", ""),
        ("sentence", "One two.", "in-progress", "One"),
        ("sentence", "One two.", "completed", "One two."),
    ]


def test_a_word_is_told_when_all_of_it_has_been_spoken() -> None:
    segments = speaking()
    segments.text("Hello there you.", will_be_spoken=True)
    assert told(segments.spoken(1, 3), V1) == []
    assert [t[1] for t in told(segments.spoken(1, 11), V1)] == ["Hello", "there"]
    assert [t[1] for t in told(segments.spoken(1), V1)] == ["you."]


def test_progress_has_no_spoken_field() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    (progress,) = outputs(segments.spoken(1, 3), V2)
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
    assert segments.spoken(1, 3) == []
    assert told(segments.bot_started_speaking(), V2) == [
        ("sentence", "One two.", "new", ""),
        ("sentence", "One two.", "in-progress", "One"),
    ]


def test_an_interruption_closes_with_what_was_spoken_and_drops_what_waited() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, 3)
    segments.text("Next.", will_be_spoken=True)
    segments.bot_stopped_speaking()
    segments.text("Never shown.", will_be_spoken=True)
    messages = segments.interrupted()
    assert isinstance(messages[0], server.BotInterrupted)
    assert told(messages, V2) == [
        ("sentence", "Next.", "completed", ""),
        ("sentence", "One two.", "completed", "One"),
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
    segments.spoken(1, 3)
    assert [type(m) for m in segments.bot_stopped_speaking()] == [server.BotStoppedSpeaking]
    segments.bot_started_speaking()
    assert told(segments.spoken(1), V2) == [("sentence", "One two.", "completed", "One two.")]


def test_late_and_repeated_reports_change_nothing() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, 5)
    assert segments.spoken(1, 5) == []
    assert segments.spoken(1, 2) == []
    segments.spoken(1)
    assert segments.spoken(1) == []
    assert segments.spoken(99) == []


def test_the_state_is_all_there_is_to_keep() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, 3)
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


@pytest.mark.parametrize("segment_id", [0, -1, MAX_ID + 1])
def test_an_id_that_cannot_be_is_refused(segment_id: int) -> None:
    segments = speaking()
    with pytest.raises(ValueError, match="segment id"):
        segments.text("Two.", will_be_spoken=True, segment_id=segment_id)
    with pytest.raises(ValueError, match="segment id"):
        segments.speech("Two.", segment_id=segment_id)


def test_speech_that_is_lost_closes_what_was_shown_and_shows_what_waited() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    segments.spoken(1, 3)
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
    assert len(segments.state.held) == LIMIT
    assert [t[1] for t in told(messages, V2)[::2]] == [f"{n}." for n in range(LIMIT)]


# -- a speech stack's own words --


def with_words(version: Version) -> list[tuple[str, ...]]:
    segments = speaking()
    messages = segments.text("One two.", will_be_spoken=True, segment_id=5)
    messages += segments.speech("One", type="word", segment_id=5)
    messages += segments.progress(5, "One", " two.")
    messages += segments.speech("two.", type="word", segment_id=5)
    messages += segments.progress(5, "One two.", "")
    assert tts(messages, version) == ["One", "two."]
    assert segments.state.segments == ()
    return told(messages, version)


def test_words_of_a_speech_stack_go_to_old_clients_and_its_progress_to_new_ones() -> None:
    assert with_words(V1) == [("sentence", "One two."), ("word", "One"), ("word", "two.")]
    assert with_words(V2) == [
        ("sentence", "One two.", "new", ""),
        ("sentence", "One two.", "in-progress", "One"),
        ("sentence", "One two.", "completed", "One two."),
    ]


def test_raw_text_stands_before_the_text_that_is_made_of_it() -> None:
    messages = speaking().speech("hi", spoken=False)
    assert [type(m) for m in messages] == [server.TtsRawText, server.BotTtsText]


def test_progress_is_told_in_the_words_that_it_was_given_in() -> None:
    segments = speaking()
    segments.text("It is $5.", will_be_spoken=True)
    messages = segments.progress(1, "It is five", " dollars.") + segments.progress(1, "It is five dollars.", "")
    assert [t[2:] for t in told(messages, V2)] == [("in-progress", "It is five"), ("completed", "It is five dollars.")]


def test_progress_that_takes_something_back_is_not_told() -> None:
    segments = speaking()
    segments.text("One two three.", will_be_spoken=True)
    segments.progress(1, "One two", " three.")
    assert segments.progress(1, "One", " two three.") == []
    assert segments.progress(1, "One two", " three.") == []
    assert told(segments.progress(1, "", ""), V2) == [("sentence", "One two three.", "completed", "One two three.")]


def test_words_are_told_once_though_they_are_reported_and_counted() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True)
    assert told(segments.speech("One", type="word", segment_id=1), V1) == [("word", "One")]
    assert told(segments.spoken(1, 3), V1) == []
    assert told(segments.spoken(1), V1) == []
    segments.text("Three four.", will_be_spoken=True)
    assert told(segments.spoken(2, 5), V1) == [("word", "Three")]
    late = segments.speech("Three", type="word", segment_id=2)
    assert told(late, V1) == []
    assert tts(late, V1) == ["Three"]


def test_speech_of_a_whole_segment_ends_it() -> None:
    segments = speaking()
    segments.text("x", type="my-type", will_be_spoken=True)
    messages = segments.speech("x", type="my-type", segment_id=1)
    assert told(messages, V1) == [("my-type", "x")]
    assert told(messages, V2) == [("my-type", "x", "completed", "x")]
    assert tts(segments.speech("x", type="my-type", segment_id=1), V2) == ["x"]
    assert segments.state.segments == ()


def test_speech_of_no_segment_begins_one_of_its_own() -> None:
    messages = speaking().speech("Alone.")
    assert told(messages, V1) == [("sentence", "Alone.")]
    assert told(messages, V2) == [("sentence", "Alone.", "new", ""), ("sentence", "Alone.", "completed", "Alone.")]
    assert tts(messages, V2) == ["Alone."]


def test_a_word_of_a_segment_that_nobody_has_begun_is_for_old_clients_alone() -> None:
    segments = speaking()
    for word in ("One", "two."):
        messages = segments.speech(word, type="word", segment_id=9)
        assert told(messages, V1) == [("word", word)]
        assert told(messages, V2) == []
        assert tts(messages, V2) == [word]


def test_late_words_are_synthesised_text_and_nothing_more() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True, segment_id=9)
    segments.interrupted()
    for kind in ("word", "sentence"):
        late = segments.speech("two.", type=kind, segment_id=9)
        assert told(late, V1) == told(late, V2) == []
        assert tts(late, V2) == ["two."]


def test_ended_segments_are_remembered_up_to_a_limit() -> None:
    segments = speaking()
    for ident in range(1, REMEMBERED + 2):
        segments.text("x", will_be_spoken=True, segment_id=ident)
        segments.spoken(ident)
    assert len(segments.state.ended) == REMEMBERED
    assert told(segments.speech("x", segment_id=2), V2) == []
    assert len(told(segments.speech("x", segment_id=1), V2)) == 2  # as of a segment that nobody has begun


def test_speech_waits_for_the_bot_to_speak_with_its_segment() -> None:
    segments = Segments()
    segments.text("One two.", will_be_spoken=True)
    assert segments.speech("One", type="word", segment_id=1) == []
    assert segments.progress(1, "One", " two.") == []
    released = segments.bot_started_speaking()
    assert [t[2:] for t in told(released, V2)] == [("new", ""), ("in-progress", "One")]
    assert told(released, V1) == [("sentence", "One two."), ("word", "One")]
    assert tts(released, V2) == ["One"]


def test_text_as_synthesised_waits_for_its_segment_alone() -> None:
    segments = Segments()
    assert tts(segments.speech("hm", spoken=False), V2) == ["hm"]
    segments.text("One.", will_be_spoken=True)
    assert segments.speech("One.", segment_id=1, spoken=False) == []
    assert tts(segments.bot_started_speaking(), V2) == ["One."]


def test_words_count_for_what_was_spoken_of_an_interrupted_segment() -> None:
    segments = speaking()
    segments.text("One two three.", will_be_spoken=True)
    for word in ("One ", "two"):
        segments.speech(word, type="word", segment_id=1)
    assert told(segments.interrupted(), V2) == [("sentence", "One two three.", "completed", "One two")]


@pytest.mark.parametrize(
    ("text", "words", "spoken"),
    [
        ("One two.", ["One", "two"], "One two."),
        ("a b c d e", ["a", "d"], "a b c d"),
        ("a b c d e", ["a", "e"], "a"),
        ("a b", ["x", "a"], "a"),
        ("\u4f60\u597d\u518d\u89c1", ["\u4f60\u597d"], "\u4f60\u597d"),
        ("one two", ["", " "], ""),
    ],
)
def test_a_word_is_looked_for_near_where_the_last_one_was(text: str, words: list[str], spoken: str) -> None:
    segments = speaking()
    segments.text(text, will_be_spoken=True)
    for word in words:
        segments.speech(word, type="word", segment_id=1)
    assert [accumulated(d) for d in outputs(segments.interrupted(), V2)] == [spoken]


# -- what begins, and when --


def test_a_segment_that_is_held_or_open_is_not_begun_again() -> None:
    segments = Segments()
    segments.text("x", will_be_spoken=True, segment_id=5)
    assert segments.text("y", will_be_spoken=False, segment_id=5) == []
    assert [t[1] for t in told(segments.bot_started_speaking(), V2)] == ["x"]
    assert segments.text("y", will_be_spoken=True, segment_id=5) == []
    segments.spoken(5)
    assert [t[1] for t in told(segments.text("y", will_be_spoken=True, segment_id=5), V2)] == ["y"]


def test_text_waits_for_speech_or_not_as_it_is_told() -> None:
    segments = Segments()
    assert told(segments.text("a", will_be_spoken=True, with_speech=False), V2) == [("sentence", "a", "new", "")]
    assert segments.text("b", will_be_spoken=False, with_speech=True) == []
    assert segments.text("c", will_be_spoken=False) == []  # behind what waits
    assert [t[1] for t in told(segments.bot_started_speaking(), V2)] == ["b", "c"]


def test_what_may_not_be_interrupted_stays_held_with_its_words() -> None:
    segments = Segments()
    for ident, interruptible in ((1, True), (2, False)):
        segments.text("One.", will_be_spoken=True, interruptible=interruptible, segment_id=ident)
        segments.speech("One.", type="word", segment_id=ident)
    segments.speech("Alone.")
    segments.interrupted()
    released = segments.bot_started_speaking()
    assert [d.segment_id for d in outputs(released, V2)] == [2]
    assert tts(released, V2) == ["One."]


def test_a_segment_that_is_a_word_is_for_old_clients_alone() -> None:
    segments = speaking()
    messages = segments.text("To", type="token", will_be_spoken=True) + segments.spoken(1)
    assert told(messages, V1) == [("token", "To"), ("token", "To")]
    assert told(messages, V2) == []


def test_a_backchannel_is_for_clients_that_know_it_with_its_words_and_its_synthesised_text() -> None:
    segments = speaking()
    messages = segments.text("Mm hm.", type="backchannel", will_be_spoken=True, segment_id=1)
    messages += segments.speech("Mm", type="word", segment_id=1)
    messages += segments.progress(1, "Mm", " hm.")
    messages += segments.speech("Mm hm.", type="backchannel", segment_id=1)
    messages += segments.speech("Yes.", type="backchannel")
    messages += segments.text("Mm hm.", type="backchannel", will_be_spoken=True, segment_id=2)
    messages += segments.spoken(2, 3)
    assert seen(messages, V1) == seen(messages, V20) == []
    assert len(outputs(messages, V2)) == 7
    assert tts(messages, V2) == ["Mm", "Mm hm.", "Yes."]


# -- what is hidden, and what is transformed --


def test_a_hidden_segment_is_hidden_with_its_words() -> None:
    segments = speaking()
    messages = segments.text("c d", type="code", will_be_spoken=True, segment_id=1, hidden=True)
    messages += segments.speech("c", type="word", segment_id=1)
    messages += segments.progress(1, "c", " d")
    messages += segments.speech("d", type="word", segment_id=1, spoken=False)
    messages += segments.progress(1, "c d", "")
    assert messages == []
    assert tts(segments.speech("e", type="word", segment_id=1), V2) == ["e"]  # as pipecat-ai 1.14.0 does it


def test_the_late_words_of_a_hidden_segment_that_was_cut_are_hidden_until_the_voice_has_gone() -> None:
    segments = speaking()
    segments.text("c d", type="code", will_be_spoken=True, segment_id=1, hidden=True)
    assert [type(m) for m in segments.interrupted()] == [server.BotInterrupted]
    assert segments.speech("c", type="word", segment_id=1) == []
    segments.bot_stopped_speaking()
    assert segments.state.segments == ()


def test_speech_of_a_hidden_type_is_hidden() -> None:
    segments = speaking()
    segments.text("One.", will_be_spoken=True)
    assert segments.speech("One.", type="word", segment_id=1, hidden=True) == []
    assert segments.speech("Alone.", hidden=True) == []


def transformed(text: str, shown: str) -> list[Shown]:
    """All that can be told of a segment."""
    messages: list[Shown] = []
    for by_words in (True, False):
        segments = speaking()
        messages += segments.text(text, shown=shown, will_be_spoken=True, segment_id=1)
        for word in text.split():
            if by_words:
                messages += segments.speech(word, type="word", segment_id=1)
                at = text.index(word) + len(word)
                messages += segments.progress(1, text[:at], text[at:])
            else:
                messages += segments.spoken(1, text.index(word) + len(word))
        messages += segments.speech(text, segment_id=1, spoken=False)
    return messages


def test_progress_of_a_text_of_equal_length_is_told_by_the_same_characters() -> None:
    messages = transformed("one two", "ONE TWO")
    steps = [("sentence", "ONE TWO", "new", ""), ("sentence", "ONE TWO", "in-progress", "ONE")]
    assert told(messages, V2) == 2 * [*steps, ("sentence", "ONE TWO", "completed", "ONE TWO")]
    assert told(messages, V1) == 2 * [("sentence", "ONE TWO"), ("word", "ONE"), ("word", "TWO")]
    assert tts(messages, V2) == ["ONE", "TWO"]


def test_progress_of_a_text_of_other_length_is_told_by_whole_words() -> None:
    messages = transformed("pay 4111 now", "pay a card")
    steps = [(status, accumulated(d)) for d in outputs(messages, V2) if (status := d.spoken_status) != "new"]
    assert steps == 2 * [("in-progress", "pay a"), ("completed", "pay a card")]
    assert [t for t in told(messages, V1) if t[0] == "word"] == [("word", "pay a"), ("word", "card")] + [
        ("word", word) for word in ("pay", "a", "card")
    ]


def test_completion_is_judged_on_what_is_spoken_and_not_on_what_is_shown() -> None:
    segments = speaking()
    segments.text("one two", shown="", will_be_spoken=True)
    assert segments.progress(1, "one", " two") == []
    assert told(segments.progress(1, "one two", ""), V2) == [("sentence", "", "completed", "")]


def test_a_text_that_is_blanked_is_blank_everywhere() -> None:
    messages = transformed("one two", "")
    assert {t[1] for t in told(messages, V2)} == {""}
    assert [t for t in told(messages, V1) if t[0] == "word"] == []
    assert tts(messages, V2) == []


def test_no_word_of_a_transformed_segment_is_shown_that_is_not_found_in_it() -> None:
    segments = speaking()
    segments.text("one two", shown="*** ***", will_be_spoken=True, segment_id=1)
    assert segments.speech("uno", type="word", segment_id=1) == []
    assert tts(segments.speech(" two ", type="word", segment_id=1), V2) == [" *** "]
    segments.interrupted()
    assert segments.speech("two", type="word", segment_id=1) == []


def test_speech_of_a_segment_that_is_not_transformed_is_shown_as_its_own_transform_says() -> None:
    for held in (True, False):
        segments = Segments() if held else speaking()
        messages = segments.text("code four two", will_be_spoken=True, segment_id=1)
        messages += segments.speech("42", shown="##", type="word", segment_id=1)
        messages += segments.speech("code 42", shown="", type="word", segment_id=1, spoken=False)
        messages += segments.speech("code 42", shown="code ##", segment_id=1)
        messages += segments.bot_started_speaking()
        assert told(messages, V1) == [("sentence", "code four two"), ("word", "##")]
        assert tts(messages, V2) == ["##", "code ##"]
        assert not [text for text in _texts(seen(messages, V2)) if "42" in text]


# -- turning bot-output off --


def test_turning_it_off_closes_what_is_open_and_what_begins_meanwhile_is_never_shown() -> None:
    segments = speaking()
    segments.text("One two.", will_be_spoken=True, segment_id=1)
    segments.spoken(1, 3)
    assert told(segments.mute(True), V2) == [("sentence", "One two.", "completed", "One")]
    assert segments.mute(True) == []
    messages = segments.spoken(1, 5) + segments.text("Three.", will_be_spoken=True, segment_id=2)
    messages += segments.speech("Alone.") + segments.speech("Three.", type="word", segment_id=2)
    messages += segments.speech("Other.", type="word", segment_id=3)
    assert segments.mute(False) == []
    messages += segments.spoken(1) + segments.interrupted()
    assert outputs(messages, V1) == outputs(messages, V2) == []
    assert tts(messages, V2) == ["Alone.", "Three.", "Other."]


# -- any sequence of calls --

KINDS = {"plain": "ab", "transformed": "xy", "hidden": "hk", "backchannel": "mn"}
"""A segment's kind → the letters of its text, by which a leak shows."""
SHOWN: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "mask": lambda text: "# " * len(text),
    "short": lambda text: text.upper()[:2],
    "none": lambda _: "",
}


class AnySequence(RuleBasedStateMachine):
    """Whatever is reported in whatever order, a client can follow what it is sent, and no secret is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = mock.patch.object(machine, "LIMIT", 8)
        self.limit.start()
        self.segments = Segments()
        self.said: dict[int, tuple[str, str, str]] = {}
        """The latest of each id: kind, text, type."""
        self.unnamed: set[int] = set()
        """Those that the machine has numbered: nobody speaks of them."""
        self.views = {version: View() for version in (V20, (2, 1, 0), V2)}
        self.counted: set[int] = set()
        """Those that may have been spoken to their end."""
        self.words: dict[int, list[str]] = {}
        """What clients of 1.x have not heard yet."""
        self.worded: set[int] = set()
        """Those whose words, or progress in its own words, are reported."""

    def teardown(self) -> None:
        self.follow(self.segments.finish())
        for view in self.views.values():
            assert not view.open, "finished, and something is open"
        self.limit.stop()

    def follow(self, messages: list[Shown]) -> None:
        for version, view in self.views.items():
            view.follow(seen(messages, version))
            self.check_secrets(seen(messages, version), version)
        self.check_secrets(seen(messages, V1), V1)
        for data in outputs(messages, V1):
            assert data.spoken is not UNSET
        self.follow_words(messages)

    def follow_words(self, messages: list[Shown]) -> None:
        """Of segments whose words are counted, clients of 1.x hear them in order, each once."""
        for message in messages:
            data = getattr(message.message if isinstance(message, Gated) else message, "data", None)
            if isinstance(data, server.BotOutputData) and isinstance(data.segment_id, int):
                ident = data.segment_id
                if data.spoken_status == "new":
                    self.words[ident] = data.text.split()
                elif data.aggregated_by == "word" and ident in self.words and ident not in self.worded:
                    assert self.words[ident][:1] == [data.text]
                    del self.words[ident][0]

    @staticmethod
    def check_secrets(messages: list[server.ServerMessage], version: Version) -> None:
        shown = repr(
            [getattr(m, "data", None) for m in messages if isinstance(m, server.BotOutput | server.BotTtsText)]
        )
        texts = "".join(_texts(messages))
        assert not set("xyhkHK") & set(texts), shown
        if not at_least(version, (2, 2, 0)):
            assert not set("mnMN") & set(texts), shown

    # -- reports --

    @rule(
        kind=st.sampled_from(sorted(KINDS)),
        letters=st.text(alphabet="01 .", max_size=10),
        shown=st.sampled_from(sorted(SHOWN)),
        type=st.sampled_from(["sentence", "code", "token"]),
        will_be_spoken=st.booleans(),
        with_speech=st.sampled_from([None, None, True, False]),
        interruptible=st.booleans(),
        ident=st.one_of(st.none(), st.integers(1, 6)),
    )
    def say(
        self,
        kind: str,
        letters: str,
        shown: str,
        type: str,  # noqa: A002  the wire's word
        will_be_spoken: bool,
        with_speech: bool | None,
        interruptible: bool,
        ident: int | None,
    ) -> None:
        text = letters.translate(str.maketrans("01", KINDS[kind]))
        if kind == "transformed" and not text.strip(" ."):
            text = "x"  # a transform of nothing is none
        begins = ident is None or not self.segments.knows(ident)
        before = self.segments.state.next_id
        messages = self.segments.text(
            text,
            type="backchannel" if kind == "backchannel" else type,
            shown=SHOWN[shown](text) if kind == "transformed" else None,
            will_be_spoken=will_be_spoken,
            with_speech=with_speech,
            interruptible=interruptible,
            segment_id=ident,
            hidden=kind == "hidden",
        )
        if begins:
            given = ident or self.segments.state.next_id - 1
            self.said[given] = kind, text, type
            self.counted.discard(given)
            (self.unnamed.add if ident is None else self.unnamed.discard)(given)
        else:
            assert messages == []
            assert self.segments.state.next_id == before
        self.follow(messages)

    @precondition(lambda self: self.said)
    @rule(data=st.data(), chars=st.one_of(st.none(), st.integers(-1, 12)))
    def count(self, data: st.DataObject, chars: int | None) -> None:
        ident = self.any_id(data)
        self.counted.add(ident)
        self.follow(self.segments.spoken(ident, chars))

    @precondition(lambda self: self.said)
    @rule(data=st.data(), at=st.integers(0, 10), own_words=st.booleans())
    def advance(self, data: st.DataObject, at: int, own_words: bool) -> None:
        ident = self.any_id(data)
        self.counted.add(ident)
        self.worded.add(ident)
        kind, text, _ = self.said[ident]
        if own_words and kind == "plain":
            for view in self.views.values():
                view.own_words.add(ident)
            self.follow(self.segments.progress(ident, "b" * at, "" if at % 3 == 0 else "a"))
        else:
            self.follow(self.segments.progress(ident, text[:at], text[at:]))

    @precondition(lambda self: self.said)
    @rule(data=st.data(), which=st.integers(0, 5), spoken=st.booleans())
    def speak(self, data: st.DataObject, which: int, spoken: bool) -> None:
        """The words of a segment, in any order, or all of it."""
        ident = self.any_id(data)
        self.worded.add(ident)
        kind, text, kind_of_text = self.said[ident]
        if kind == "hidden" and (ident in self.counted or not self.segments.knows(ident)):
            return  # the late words of what was hidden are shown, as in the peer
        words = text.split()
        part = bool(words) and which < 4
        if not part:
            self.counted.add(ident)
        type_ = "backchannel" if kind == "backchannel" and not part else "word" if part else kind_of_text
        spoken_text = words[which % len(words)] if part else text
        self.follow(self.segments.speech(spoken_text, type=type_, segment_id=ident, spoken=spoken))

    @rule(
        word=st.text(alphabet="ab ", max_size=3), ident=st.one_of(st.none(), st.integers(101, 103)), part=st.booleans()
    )
    def speak_alone(self, word: str, ident: int | None, part: bool) -> None:
        if ident is None or ident not in self.said:
            self.follow(self.segments.speech(word, type="word" if part else "sentence", segment_id=ident))

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        self.follow(self.segments.lost(self.any_id(data)))

    def any_id(self, data: st.DataObject) -> int:
        """One that others may know."""
        known = self.said.keys() - self.unnamed
        assume(known)
        return data.draw(st.sampled_from(sorted(known)))

    # -- the bot's voice, and the rest --

    @rule()
    def start(self) -> None:
        self.follow(self.segments.bot_started_speaking())
        assert self.segments.state.held == ()

    @rule()
    def stop(self) -> None:
        self.follow(self.segments.bot_stopped_speaking())

    @rule()
    def interrupt(self) -> None:
        self.follow(self.segments.interrupted())
        state = self.segments.state
        assert not [s for s in state.segments if s.said.interruptible and not s.cut], "open, and interrupted"
        assert not [r for r in state.held if isinstance(r, machine.Text) and r.interruptible], "held, and interrupted"

    @rule(muted=st.booleans())
    def mute(self, muted: bool) -> None:
        self.follow(self.segments.mute(muted))

    @rule()
    def restart(self) -> None:
        self.segments = Segments(self.segments.state)

    @rule()
    def finish(self) -> None:
        self.follow(self.segments.finish())
        assert self.segments.state.segments == ()

    # -- what holds at any moment --

    @invariant()
    def what_the_client_sees_open_is_open(self) -> None:
        texts = [s.said for s in self.segments.state.segments if s.seen and s.said.shown]
        here = {said.segment_id for said in texts if said.type not in ("word", "token")}
        assert here == set(self.views[V2].open)

    @invariant()
    def memory_is_bounded(self) -> None:
        state = self.segments.state
        assert len(state.segments) <= 8
        assert len(state.held) <= 8
        assert len(state.ended) <= REMEMBERED

    @invariant()
    def nothing_is_held_while_the_bot_speaks(self) -> None:
        assert not (self.segments.state.speaking and self.segments.state.held)


class View:
    """A client of 2.x: what it may take for granted."""

    def __init__(self) -> None:
        self.open: dict[int, tuple[str, str]] = {}
        """Text, and what has accumulated."""
        self.blank: dict[int, tuple[str, str]] = {}
        """Segments of no text: they may end as they begin, or later."""
        self.own_words: set[int] = set()
        """Whose progress need not be a part of the text."""

    def follow(self, messages: list[server.ServerMessage]) -> None:
        for message in messages:
            if isinstance(message, server.BotOutput):
                self.output(message.data)

    def output(self, data: server.BotOutputData) -> None:
        assert isinstance(data.segment_id, int)
        ident = data.segment_id
        if data.spoken_status == "new":
            assert ident not in self.open, "begun twice"
            self.blank.pop(ident, None)
            if data.will_be_spoken:
                assert data.spoken_progress == server.SpokenProgress("", data.text)
                (self.open if data.text else self.blank)[ident] = data.text, ""
            return
        if ident in self.blank:
            assert (data.text, data.spoken_status) == ("", "completed")
            del self.blank[ident]
            return
        assert ident in self.open, "progress of a segment that is not open"
        text, before = self.open[ident]
        assert data.text == text
        assert data.spoken_progress is not UNSET
        now, remaining = data.spoken_progress.accumulated_text, data.spoken_progress.remaining_text
        assert (data.spoken_status == "completed") == (remaining == "")
        assert len(now) > len(before) or data.spoken_status == "completed", "no progress"
        assert len(now) >= len(before), "progress shrank"
        if ident not in self.own_words:
            assert now.startswith(before), "progress took something back"
            assert text.startswith(now)
            assert remaining in ("", text[len(now) :])
        if data.spoken_status == "completed":
            del self.open[ident]
        else:
            self.open[ident] = text, now


def _texts(messages: Iterable[server.ServerMessage]) -> Iterable[str]:
    for message in messages:
        if isinstance(message, server.BotTtsText | server.TtsRawText):
            yield message.data.text
        if isinstance(message, server.BotOutput):
            yield message.data.text
            if message.data.spoken_progress is not UNSET:
                yield message.data.spoken_progress.accumulated_text + message.data.spoken_progress.remaining_text


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(stateful_step_count=60)
