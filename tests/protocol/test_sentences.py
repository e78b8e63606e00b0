"""Where sentences end, against the recordings."""

from __future__ import annotations

import pytest

from rtvi_actors.protocol.sentences import Sentences


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
        (["One;", " two"], ["One;"], " two"),
        (["\u1230\u120b\u121d\u1362", "x"], ["\u1230\u120b\u121d\u1362"], "x"),
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


def test_a_sentence_whose_end_never_comes_keeps_memory_bounded() -> None:
    sentences = Sentences()
    told = [sentence for _ in range(10_000) if (sentence := sentences.add("no end ")) is not None]
    assert len(told) == 4
    assert "".join((*told, sentences.pending)) == "no end " * 10_000


def test_pending_text_is_all_there_is_to_keep() -> None:
    assert Sentences("half a ").add("sentence.") == "half a sentence."
