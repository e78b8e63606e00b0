#!/usr/bin/env python3
"""Compare two recordings of the same cases, by what a server did and not by how.

    python compare.py data/1.14.0.jsonl.gz RESULTS.jsonl --waive deviations.json --waive chosen.json

A recording of the peer has `outputs` (its frames, messages, events). They are reduced to *effects*, which any server
can be asked for: what went on the wire, what the bot was told to do (`do`), which handlers ran (`event`), and which
calls raised. A result has `effects` at once. Compared are the effects of each step, channel by channel, in order; cases
marked ``"order": "loose"`` as bags over the whole case, because their order is the peer's scheduling.

Standard library only. Nothing here knows this package.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["CHANNELS", "Verdict", "Waiver", "differences", "effects", "judge", "load_waivers", "read"]

CHANNELS = ("wire", "do", "event", "raised")
Line: TypeAlias = Mapping[str, Any]
"""One recording or result."""
Place: TypeAlias = tuple[int, str]
"""Step and channel; step -1 is starting up, and stands for the whole case in a loose comparison."""
Groups: TypeAlias = Mapping[Place, list[str]]

FREE_TEXT = (
    "Invalid message: ",
    "Invalid RTVI transport message: ",
    "Exception processing message: ",
    "Error processing frame: ",
)
"""What follows these is worded by a validation library or by Python: not compared."""

HANDSHAKE_TEXT = ("RTVI version ", "Client version ", "Invalid client version ")
"""How error-responses to client-ready begin."""

DO = {
    "LLMMessagesAppendFrame": ("append", ("messages", "run_llm")),
    "LLMConfigureOutputFrame": ("skip_tts", ("skip_tts",)),
    "InputAudioRawFrame": ("audio", ("audio", "sample_rate", "num_channels")),
    "InputTransportStartAudioStreamingFrame": ("start_audio", ()),
    "FunctionCallResultFrame": ("function_result", ("function_name", "tool_call_id", "arguments", "result")),
    "InputDTMFFrame": ("dtmf", ("button",)),
    "UserFileRawFrame": ("file", ("file", "type", "filename", "format", "text", "custom_options", "run_llm")),
    "UserImageRawFrame": ("image", ("image", "size", "format", "text", "run_llm")),
}
"""The peer's frames towards the bot, with the fields that count."""

BARE = {
    ("InterruptionFrame", "down"): "interrupt",
    ("EndWorkerFrame", "down"): "end",
    ("EndTaskFrame", "up"): "end",
    ("CancelFrame", "down"): "cancel",
    ("CancelFrame", "up"): "cancel",
    ("ErrorFrame", "up"): "report_error",
}
"""Frames of which only the fact counts, with their direction."""


# -- from outputs to effects ---------------------------------------------------


def read(path: str) -> dict[str, dict[str, Any]]:
    """The recordings or results of a file, gzipped or not, by case."""
    opener = gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="ascii") as lines:
        return {line["case"]: line for line in map(json.loads, lines)}


def plain(value: Any) -> Any:
    """`value` without the names of the peer's own classes."""
    if isinstance(value, dict):
        if set(value) == {"$model", "fields"}:
            return plain(value["fields"])
        return {k: plain(v) for k, v in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def beginning(text: Any) -> str:
    """How a recorded text begins, be it recorded whole or by its ends."""
    if isinstance(text, dict):
        text = text.get("$str", {}).get("head")
    return text if isinstance(text, str) else ""


def free(text: Any) -> Any:
    """An error text, cut after its fixed beginning."""
    start = beginning(text)
    return next((f"{prefix}*" for prefix in FREE_TEXT if start.startswith(prefix[:32])), text)


def wire(message: Any) -> Any:
    """A message to the client, less what may differ between right servers."""
    data = message.get("data") if isinstance(message, dict) else None
    if not isinstance(data, dict):
        return message
    if message.get("type") in ("error", "error-response"):
        return {**message, "data": {**data, "error": free(data.get("error"))}}
    about = data.get("about")
    own = isinstance(about, dict) and set(about) == {"library", "library_version"}
    if message.get("type") == "bot-ready" and own:  # a server's own name and version
        return {**message, "data": {**data, "about": "*"}}
    return message


def frame_effect(item: Line) -> tuple[str, Any] | None:
    """A frame as an effect, or `None` where it is the peer's own business."""
    if "injected" in item:
        return None
    name, way, fields = item["type"], item["dir"], item.get("fields", {})
    if name in DO and way == "down":
        verb, keys = DO[name]
        return "do", {"do": verb, **{key: plain(fields[key]) for key in keys}}
    bare = BARE.get((name, way))
    return None if bare is None else ("do", {"do": bare})


def effect(item: Line) -> tuple[str, Any] | None:
    """One recorded output as channel and value, or `None` where it is the peer's own business."""
    kind = item["kind"]
    if kind == "message":  # copies upstream, and messages that the case injected, are not the processor's
        return ("wire", wire(item["message"])) if item["dir"] == "down" else None
    if kind == "event":
        named = {"name": item["name"], "args": plain(item["args"])}
        return None if item["name"] == "on_bot_started" else ("event", named)
    if kind == "raised":
        return "raised", {"call": item["call"]}
    if kind == "transport":  # older peers ask their input transport
        if item["call"] == "start_audio_in_streaming":
            return "do", {"do": "start_audio"}
        return frame_effect({"dir": "down", **item["frame"]})
    return frame_effect(item) if kind == "frame" else None


def effects(line: Line) -> Iterator[tuple[int, str, Any]]:
    """Step, channel and value of everything that a server did in a case."""
    for item in line.get("effects", ()):
        (channel,) = (name for name in CHANNELS if name in item)
        value = item[channel]
        yield item["step"], channel, wire(value) if channel == "wire" else value
    for item in line.get("outputs", ()):
        found = effect(item)
        if found is not None:
            yield item["step"], *found


# -- comparing -----------------------------------------------------------------


def is_handshake(channel: str, value: Any) -> bool:
    """Whether this only answers client-ready, with which most cases begin."""
    if channel != "wire" or not isinstance(value, dict):
        return False
    data = value.get("data")
    error = data.get("error") if isinstance(data, dict) else None
    return value.get("type") == "bot-ready" or beginning(error).startswith(HANDSHAKE_TEXT)


def is_loose(*lines: Line) -> bool:
    """Whether one of the lines says that its order means nothing."""
    return any(line.get("order") == "loose" for line in lines)


@dataclass(frozen=True)
class Scope:
    """What of two lines is compared."""

    channels: Sequence[str] = CHANNELS
    handshake: bool = True
    """Whether answers to client-ready count."""


EVERYTHING = Scope()


def grouped(line: Line, scope: Scope, *, loose: bool) -> dict[Place, list[str]]:
    """The effects of a line, per step and channel in order, or per channel as a sorted bag."""
    groups: defaultdict[Place, list[str]] = defaultdict(list)
    for step, channel, value in effects(line):
        if channel in scope.channels and (scope.handshake or not is_handshake(channel, value)):
            groups[-1 if loose else step, channel].append(json.dumps(value, sort_keys=True))
    return {place: sorted(values) if loose else values for place, values in groups.items()}


def differences(expected: Line, actual: Line, scope: Scope = EVERYTHING) -> list[str]:
    """What differs between two lines of a case, for a reader: ``-`` is only expected, ``+`` only actual."""
    loose = is_loose(expected, actual)
    left, right = grouped(expected, scope, loose=loose), grouped(actual, scope, loose=loose)
    found: list[str] = []
    for place in sorted({*left, *right}):
        less, more = left.get(place, []), right.get(place, [])
        if less == more:
            continue
        if loose:
            less, more = [*(Counter(less) - Counter(more)).elements()], [*(Counter(more) - Counter(less)).elements()]
        found.append(f"{place[1]}:" if loose else f"step {place[0]} {place[1]}:")
        found += [f"  - {value[:300]}" for value in less] + [f"  + {value[:300]}" for value in more]
    return found


# -- what may differ -----------------------------------------------------------


@dataclass(frozen=True)
class Waiver:
    """A behaviour in which a server may differ, and how far.

    `instead`: ``error`` (each step that differs has at most one error or error-response and no other effect), ``more``
    (what was expected and then some), ``fewer`` (part of it), ``reorder``, ``anything``.
    """

    id: str
    cases: tuple[str, ...]
    """Globs over case ids."""
    instead: str
    excepted: tuple[str, ...] = ()

    def covers(self, case: str) -> bool:
        """Whether the case is one of those argued about, `excepted` aside."""
        return any(fnmatch.fnmatchcase(case, glob) for glob in self.cases)

    def waives(self, case: str) -> bool:
        """Whether the case may differ."""
        return self.covers(case) and not any(fnmatch.fnmatchcase(case, glob) for glob in self.excepted)


def load_waivers(path: str) -> list[Waiver]:
    """The rows of a table of deviations."""
    with open(path, encoding="utf-8") as table:
        rows = json.load(table)["deviations"]
    return [Waiver(row["id"], tuple(row["cases"]), row["instead"], tuple(row.get("except", ()))) for row in rows]


def part(few: Any, many: Any) -> bool:
    """Whether `many` holds all that `few` holds."""
    if isinstance(few, dict) and isinstance(many, dict):
        return all(key in many and part(value, many[key]) for key, value in few.items())
    return bool(few == many)


def within(few: Iterable[str], many: Iterable[str], *, loose: bool) -> bool:
    """Whether each of `few` is part of one of `many`, in order unless loose."""
    rest = [json.loads(value) for value in many]
    for value in map(json.loads, few):
        at = next((i for i, other in enumerate(rest) if part(value, other)), None)
        if at is None:
            return False
        del rest[at if loose else 0 : at + 1]
    return True


def only_errors(expected: Groups, actual: Groups) -> bool:
    """Whether every step that differs is answered by at most one error, and has no other effect."""
    for step in {step for step, _ in (*expected, *actual)}:
        if all(expected.get((step, channel), []) == actual.get((step, channel), []) for channel in CHANNELS):
            continue
        answers = [json.loads(value).get("type") for value in actual.get((step, "wire"), [])]
        if len(answers) > 1 or not set(answers) <= {"error", "error-response"}:
            return False
        if any(actual.get((step, channel)) for channel in ("do", "event", "raised")):
            return False
    return True


def allowed(instead: str, expected: Line, actual: Line, scope: Scope) -> bool:
    """Whether what `actual` does differently keeps to what is argued for. Raises `ValueError` for an unknown kind."""
    loose = is_loose(expected, actual)
    if instead == "anything" or (instead == "error" and loose):
        return True
    if instead == "reorder":
        return grouped(expected, scope, loose=True) == grouped(actual, scope, loose=True)
    left, right = grouped(expected, scope, loose=loose), grouped(actual, scope, loose=loose)
    if instead == "error":
        return only_errors(left, right)
    if instead not in ("more", "fewer"):
        raise ValueError(f"unknown kind of deviation: {instead}")
    few, many = (left, right) if instead == "more" else (right, left)
    return all(within(few.get(place, []), many.get(place, []), loose=loose) for place in {*left, *right})


@dataclass(frozen=True)
class Verdict:
    """How a result compares."""

    outcome: str
    """``same``, ``differ``, ``waived``, ``n/a`` (one side cannot run the case) or ``missing``."""
    waiver: str = ""
    """The id of the deviation that covers the difference, whether the difference keeps to it or not."""
    lines: tuple[str, ...] = ()
    """The difference, for a reader."""


def judge(
    expected: Line, actual: Line | None, tables: Sequence[Sequence[Waiver]] = (), scope: Scope = EVERYTHING
) -> Verdict:
    """One case. In each table the first row whose cases match decides; one table that allows it is enough."""
    if actual is None:
        return Verdict("missing")
    if "unsupported" in expected or "unsupported" in actual:
        return Verdict("n/a")
    found = differences(expected, actual, scope)
    if not found:
        return Verdict("same")
    case = expected["case"]
    deciding = [row for table in tables if (row := next((row for row in table if row.covers(case)), None))]
    arguing = [row for row in deciding if row.waives(case)]
    for row in arguing:
        if allowed(row.instead, expected, actual, scope):
            return Verdict("waived", row.id, tuple(found))
    beyond = [f"(goes beyond {row.id}: {row.instead})" for row in arguing]
    return Verdict("differ", arguing[0].id if arguing else "", (*found, *beyond))


# -- the program ---------------------------------------------------------------


def counts(outcomes: Mapping[str, Counter[str]]) -> Iterator[str]:
    """The counts per suite, as lines."""
    columns = ("same", "differ", "waived", "n/a", "missing")
    yield f"{'suite':22}" + "".join(f"{column:>9}" for column in columns)
    total: Counter[str] = Counter()
    for row in outcomes.values():
        total.update(row)
    for suite, row in (*outcomes.items(), ("total", total)):
        yield f"{suite:22}" + "".join(f"{row[column]:9}" for column in columns)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare two recordings of the same cases.")
    parser.add_argument("expected")
    parser.add_argument("actual")
    parser.add_argument("--only", action="append", default=[], help="only cases whose id matches this glob")
    parser.add_argument("--channel", action="append", choices=CHANNELS, help="default: all")
    parser.add_argument("--ignore-handshake", action="store_true", help="leave out answers to client-ready")
    parser.add_argument("--waive", action="append", default=[], help="a table of argued deviations, counted apart")
    parser.add_argument("--show", type=int, default=3, help="differences to print per suite")
    return parser.parse_args()


def main() -> int:
    """Print the differences and the counts; 1 when a case differs or is missing."""
    args = arguments()
    actual = read(args.actual)
    tables = [load_waivers(path) for path in args.waive]
    scope = Scope(args.channel or CHANNELS, handshake=not args.ignore_handshake)
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    waived: Counter[str] = Counter()
    for case, line in read(args.expected).items():
        if args.only and not any(fnmatch.fnmatchcase(case, glob) for glob in args.only):
            continue
        suite = outcomes[case.split("/")[0]]
        verdict = judge(line, actual.get(case), tables, scope)
        suite[verdict.outcome] += 1
        if verdict.outcome == "waived":
            waived[verdict.waiver] += 1
        elif verdict.outcome == "differ" and suite["differ"] <= args.show:
            print(case, *verdict.lines, sep="\n    ")
    print("", *counts(outcomes), *(f"waived {name}: {n}" for name, n in sorted(waived.items())), sep="\n")
    return int(any(row["differ"] or row["missing"] for row in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
