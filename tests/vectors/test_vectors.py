"""The recorded behaviour of the peer (pipecat-ai 1.14.0), played through real sessions.

`deviations.json` is what its recorders argue against; `chosen.json` is what we chose beyond that, a row a reason.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.vectors import cases, compare, pushed, replay, values

HERE = Path(__file__).parent
RECORDING = HERE / "data" / "1.14.0.jsonl.gz"
CHOSEN = HERE / "chosen.json"
SUITES = (
    "client-message",
    "client-ready",
    "deep",
    "dtmf",
    "envelope",
    "errors",
    "function-call-result",
    "observer",
    "observer-functions",
    "observer-misc",
    "passthrough",
    "raw-audio",
    "send-file",
    "send-text",
    "server-calls",
    "ui",
    "unknown",
    "wire",
)
"""The suites that need nothing of the peer's own."""
QUEUES = ("lifecycle", "sequences", "stall")
"""Suites about the peer's queues as much as about RTVI: what of them can be played is compared, too."""
UNPLAYABLE = (
    "the wire is JSON",
    "skip_tts is true, false or null",
    "fatal is true or false",
    "as the client's are",
    "rate and channels are integers",
)
"""How the reasons end for which a case of the first is not played: our types and our wire cannot carry it."""

pytestmark = pytest.mark.vectors


@functools.cache
def recorded() -> dict[str, dict[str, Any]]:
    """What the peer did."""
    return compare.read(str(RECORDING))


@functools.cache
def tables() -> tuple[list[compare.Waiver], list[compare.Waiver]]:
    """What is argued for: by the recorders, then by us."""
    return compare.load_waivers(str(HERE / "deviations.json")), compare.load_waivers(str(CHOSEN))


@functools.cache
def replayed() -> dict[str, Mapping[str, Any]]:
    """What we do."""
    wanted = [line for case, line in recorded().items() if case.split("/")[0] in (*SUITES, *QUEUES)]

    async def play() -> dict[str, Mapping[str, Any]]:
        return {line["case"]: line async for line in replay.results(wanted)}

    return anyio.run(play)


def verdict(case: str) -> compare.Verdict:
    """How our run of a case compares with the peer's."""
    return compare.judge(recorded()[case], replayed().get(case), tables())


@pytest.mark.parametrize("suite", [*SUITES, *QUEUES])
def test_the_session_does_what_the_peer_did_or_what_is_argued_for(suite: str) -> None:
    found = {case: verdict(case) for case in recorded() if case.startswith(f"{suite}/")}
    wrong = {case: one.lines for case, one in found.items() if one.outcome in ("differ", "missing")}
    shown = "\n".join("\n    ".join((case, *lines)) for case, lines in [*wrong.items()][:10])
    assert not wrong, f"{len(wrong)} of {len(found)} cases differ\n{shown}"


@pytest.mark.parametrize("suite", SUITES)
def test_a_case_is_left_out_only_for_what_our_types_cannot_carry(suite: str) -> None:
    lines = {case: line for case, line in replayed().items() if case.startswith(f"{suite}/")}
    reasons = {case: line["unsupported"] for case, line in lines.items() if "unsupported" in line}
    odd = {case: why for case, why in reasons.items() if not why.endswith(UNPLAYABLE)}
    assert not odd
    assert len(reasons) <= max(1, len(lines) // 6)


def test_every_suite_of_the_recording_is_played() -> None:
    assert {case.split("/")[0] for case in recorded()} == {*SUITES, *QUEUES}


def test_every_row_of_our_own_table_has_a_reason_and_still_covers_a_difference() -> None:
    rows = json.loads(CHOSEN.read_text(encoding="utf-8"))["deviations"]
    used = {verdict(case).waiver for case in replayed()}
    assert [row["id"] for row in rows if not (row["why"] and row["peer"] and row["ours"])] == []
    assert [row["id"] for row in rows if row["id"] not in used] == []


def test_a_recording_agrees_with_itself_and_not_with_another() -> None:
    lines = recorded()
    assert {compare.judge(line, line).outcome for line in lines.values()} == {"same"}
    shifted = dict(zip(lines, [*[*lines.values()][1:], next(iter(lines.values()))], strict=True))
    outcomes = [compare.judge(line, shifted[case]).outcome for case, line in lines.items()]
    assert outcomes.count("differ") > len(lines) / 2


@pytest.mark.parametrize(
    ("kind", "at", "way", "is_heard"),
    [
        ("UserStartedSpeakingFrame", "stage", "up", True),
        ("UserSpeakingFrame", "stage", "down", False),
        ("ErrorFrame", "sink", "up", True),
        ("ErrorFrame", "stage", "down", False),
        ("LLMConfigureOutputFrame", "source", "down", True),
        ("LLMConfigureOutputFrame", "source", "up", False),
        ("AggregatedTextFrame", "source", "down", True),
        ("AggregatedTextFrame", "stage", "up", False),
        ("AggregatedTextFrame", "output", "up", True),
        ("AggregatedTextFrame", "sink", "up", True),
        ("AggregatedTextFrame", "sink", "down", False),
    ],
)
def test_a_push_counts_where_the_peer_s_observer_or_processor_sees_it(
    kind: str, at: str, way: str, is_heard: bool
) -> None:
    place = pushed.Place(at, way)
    assert pushed.heard(kind, place, first=True, observer=True, output=True) is is_heard


def test_a_frame_that_is_pushed_again_counts_only_as_text() -> None:
    place = pushed.Place("stage", "down")
    again = {kind for kind in pushed.REPORTS if pushed.heard(kind, place, first=False, observer=True, output=True)}
    assert again == pushed.SEGMENTS


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ({"$repeat": ["ab", 3]}, "ababab"),
        ({"$pcm": 3}, b"\x00\x01\x02"),
        ({"$pcm_b64": 3}, "AAEC"),
        ({"$hex": "6869"}, b"hi"),
        ({"$deep": 2}, {"k": {"k": "end"}}),
        ({"$deeplist": 1}, ["end"]),
        ({"$tree": 1}, {"ref": "e", "role": "r", "children": [{"ref": "e", "role": "r"}]}),
        ({"$wide": 2}, {"k0": 0, "k1": 1}),
        ({"$pairs": [[1, "one"]]}, {1: "one"}),
        ({"$tuple": [1]}, (1,)),
        ([{"a": {"$repeat": ["x", 2]}}], [{"a": "xx"}]),
    ],
)
def test_a_directive_stands_for_its_value(directive: object, value: object) -> None:
    assert values.decode(directive) == value


@pytest.mark.parametrize(
    ("value", "spelt"),
    [
        (float("inf"), {"$float": "inf"}),
        ({1: 2}, {"$pairs": [[1, 2]]}),
        ({"$x": 1}, {"$pairs": [["$x", 1]]}),
        ((1, "a"), [1, "a"]),
        (None, None),
    ],
)
def test_a_value_is_spelt_as_in_the_recordings(value: object, spelt: object) -> None:
    assert values.encode(value) == spelt


def test_long_values_are_spelt_by_their_digest() -> None:
    assert values.encode("x" * 1501)["$str"]["len"] == 1501
    assert "hex" not in values.encode(bytes(97))["$bytes"]
    assert values.encode(["x" * 1000] * 30)["$big"]["items"] == 30
    assert values.encode(values.decode({"$deeplist": 140})) == values.encode(values.decode({"$deeplist": 200}))


def test_a_client_sends_what_the_peer_saw() -> None:
    assert cases.wire({"t": {"$float": "nan"}, "s": "\ud800"}) == rb'{"t": NaN, "s": "\ud800"}'
    with pytest.raises(cases.Unsupported, match="bytes"):
        cases.wire({"content": {"$hex": "6869"}})
    with pytest.raises(cases.Unsupported, match="deeper"):
        cases.wire({"data": {"$tree": 100_000}})
