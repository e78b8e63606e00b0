"""What a person sees on a page made with the SDK's React kit (page/react.jsx), of today and of protocol 1.2.

The kit draws each answer of the bot as what has been spoken, and what is still to come or was cut.
"""

from __future__ import annotations

import pytest

from tests.e2e.bot import STORY
from tests.e2e.harness import Drive, Json
from tests.e2e.test_browser import spotless

pytestmark = pytest.mark.e2e

BOTH = pytest.mark.parametrize("kit", ["react", "react-1.2"])
CHATTER = ("[DEPRECATED] atomFamily", "isCamEnabled not implemented", "isSharingScreen not implemented")
"""What the kits themselves print."""
WORDS = " ".join(sentence for sentence, _ in STORY).split()


def bubbles(state: list[Json]) -> list[Json]:
    """The bot's."""
    return [each for each in state if each["role"] == "assistant"]


def words(text: str) -> list[str]:
    """The kit sets spaces as it likes."""
    return text.replace(".", ". ").split()


def spoken(report: Json) -> list[list[str]]:
    """The spoken words of the bot's first answer, in each state of the page, without repeats."""
    states = [words(bubbles(state)[0]["spoken"]) for state in report["detail"]["seen"] if bubbles(state)]
    return [state for i, state in enumerate(states) if i == 0 or state != states[i - 1]]


@BOTH
def test_the_page_shows_each_word_as_it_is_spoken(drive: Drive, kit: str) -> None:
    report = drive(f"{kit}:told")
    assert spoken(report) == [WORDS[:count] for count in range(len(WORDS) + 1)]
    (last,) = bubbles(report["detail"]["seen"][-1])
    assert last["unspoken"] == ""
    spotless(report, *CHATTER)


@BOTH
def test_the_page_shows_an_interrupted_answer_as_far_as_it_was_spoken_and_goes_on(drive: Drive, kit: str) -> None:
    report = drive(f"{kit}:interrupted")
    *_, last = report["detail"]["seen"]
    cut, answer = bubbles(last)
    assert cut["final"], "no longer in progress"
    heard = words(cut["spoken"])
    assert 0 < len(heard) < len(words(STORY[0][0]))
    assert heard + words(cut["unspoken"]) == WORDS
    assert words(answer["text"]) == ["I", "am", "listening"]
    assert [each["role"] for each in last] == ["assistant", "user", "assistant"]
    spotless(report, *CHATTER)


@BOTH
def test_the_page_shows_the_function_call_and_the_answer_that_came_of_it(drive: Drive, kit: str) -> None:
    report = drive(f"{kit}:tool")
    *_, last = report["detail"]["seen"]
    assert [each["text"].strip() for each in last] == ["get_location completed", "you are in Oslo"]
    spotless(report, *CHATTER)


def test_a_toast_pops_up(drive: Drive) -> None:
    report = drive("react:toast")
    *_, last = report["detail"]["seen"]
    assert [each["text"] for each in last] == ["Ready: Your order is on its way"]
    spotless(report, *CHATTER)


def test_a_job_group_is_shown_until_the_user_cancels_it(drive: Drive) -> None:
    report = drive("react:jobs")
    (last,) = report["detail"]["seen"][-1]
    assert last["text"].startswith("reading cancelled: search cancelled 1, rank cancelled 0")
    spotless(report, *CHATTER)


@BOTH
def test_no_message_of_any_kind_breaks_the_page(drive: Drive, kit: str) -> None:
    assert drive(f"{kit}:everything")["page_errors"] == []
