"""Versions against an independent model, and the recorded texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.errors import QUOTE_LIMIT
from rtvi_actors.protocol import versions

NUMBERS = st.integers(min_value=0, max_value=10**31)
NEAR_VERSIONS = st.text(alphabet="0123456789.-+_ vV\n\u0662\uff11", max_size=16)


def model(text: str) -> tuple[int, int, int] | None:
    """The rule said another way: three parts, each spelt as Python spells a non-negative int, at most 32 digits."""
    parts = text.split(".")
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) <= 32 for p in parts):
        return None
    numbers = [int(p) for p in parts]
    if [str(n) for n in numbers] != parts:
        return None
    return numbers[0], numbers[1], numbers[2]


@given(st.one_of(st.text(), NEAR_VERSIONS, st.builds("{}.{}.{}".format, NUMBERS, NUMBERS, NUMBERS)))
def test_parsing_agrees_with_the_model(text: str) -> None:
    assert versions.parse(text) == model(text)


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_a_version_survives_its_own_text(version: versions.Version) -> None:
    assert versions.parse(versions.text_of(version)) == version


@pytest.mark.parametrize("text", ["1.0.0", "1.1.0", "1.99.99", "2.0.0", "2.2.0", "2.2.1"])
def test_served_majors_are_adopted_without_a_word(text: str) -> None:
    agreed = versions.negotiate(text, "r1")
    assert agreed.error is None
    assert agreed.version == versions.parse(text)


@pytest.mark.parametrize(("text", "echo"), [("1.0.0", "1.0.0"), ("1.99.99", "1.99.99"), ("2.0.0", "2.2.0")])
def test_a_client_of_major_1_gets_its_own_version_back_and_others_ours(text: str, echo: str) -> None:
    assert versions.negotiate(text, "r1").echo == echo


@pytest.mark.parametrize("text", ["0.3.0", "0.0.0", "3.0.0", "12.2.0", "999999999999999999999999.0.0"])
def test_another_major_is_incompatible(text: str) -> None:
    agreed = versions.negotiate(text, "r1")
    assert agreed.error is not None
    assert agreed.error.reply_id == "r1"
    assert agreed.error.reply_text("e1") == (
        f"RTVI version {text} is not compatible with server protocol 2.2.0. Compatibility issues may occur."
    )


@pytest.mark.parametrize(
    "text",
    ["2.1", "abc", "1.4.0-rc1", "1..0", " 1.2.0", "+1.2.0", "01.2.0", "1.-2.0", "2.2.0.0", "\u0662.\u0662.\u0660"],
)
def test_anything_but_three_ascii_numbers_is_a_format_error(text: str) -> None:
    agreed = versions.negotiate(text, "r1")
    assert agreed.error is not None
    assert agreed.error.reply_text("e1") == (f"Invalid client version format ({text}). Compatibility issues may occur.")


@pytest.mark.parametrize("value", [None, "", False, 120, 1.2, [], ["1.2.0"], {}, {"major": 1}])
def test_a_version_that_is_no_text_counts_as_absent(value: object) -> None:
    agreed = versions.negotiate(value, "r1")
    assert agreed.error is not None
    assert agreed.error.reply_text("e1") == "Client version unknown. Compatibility issues may occur."


@given(st.text(min_size=200))
def test_a_reply_quotes_at_most_64_printable_characters_of_a_version(text: str) -> None:
    error = versions.negotiate(text, "r1").error
    assert error is not None
    reply = error.reply_text("e1")
    assert reply is not None
    assert reply.isprintable()
    assert len(reply) <= QUOTE_LIMIT + 100


@given(st.one_of(st.none(), st.text(), NEAR_VERSIONS))
def test_a_refused_version_is_not_adopted(value: object) -> None:
    agreed = versions.negotiate(value, "r1")
    if agreed.error is not None:
        assert (agreed.version, agreed.echo) == (versions.UNKNOWN, "2.2.0")


def test_huge_numbers_are_echoed_whole_and_kept_small() -> None:
    agreed = versions.negotiate("1.999999999999999999999.0", "r1")
    assert agreed.echo == "1.999999999999999999999.0"
    assert agreed.version == (1, 2**31 - 1, 0)


def test_the_unknown_version_is_neither_legacy_nor_new() -> None:
    assert not versions.is_v1(versions.UNKNOWN)
    assert not versions.at_least(versions.UNKNOWN, (2, 2, 0))
    assert versions.echo(versions.UNKNOWN) == "2.2.0"
