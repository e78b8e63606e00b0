#!/usr/bin/env python3
"""Random cases in the recordings' form, the same for the same seed.

    python tests/vectors/generate.py --seed 1 --count 100 > CASES.jsonl

A case is a session as it may happen: a client of some version says things, and an application's pipeline reports what
it hears, thinks and says, in a sensible order mostly. There is no recording of them: `test_random.py` checks what must
hold without one, and any server that plays recorded cases can be compared with another on them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere, from a bare clone

from tests.vectors import values

__all__ = ["CaseMaker", "cases"]

Json: TypeAlias = dict[str, Any]

VERSIONS: Final = ("1.2.0", "1.0.0", "2.0.0", "2.1.0", "2.2.0", "2.2.0", "2.2.0")
TEXTS: Final = (
    "One two.",
    "Hello there, friend.",
    "a",
    "",
    " ",
    "h\u00e9llo \U0001f44b \u65e5\u672c\u8a9e",
    "no end",
    "def f():\n    return 1",
    "What? Yes!",
)
TYPES: Final = ("sentence", "sentence", "sentence", "word", "token", "code", "my-type", "backchannel")
CHUNKS: Final = ("Hel", "lo ", "world. ", "How are", " you?", " bye", "\u4f60\u597d\u3002", "a\n", "3.", "14 ok.", "")
DATA: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    7,
    -1.5,
    "",
    "text",
    [],
    {},
    ["a", None],
    {"a": None},
    {"a": {"b": [1, 2.5]}},
)
PARAMS: Final = (
    {"bot_output_enabled": False},
    {"bot_llm_enabled": False},
    {"bot_tts_enabled": False},
    {"bot_speaking_enabled": False},
    {"user_input_enabled": False},
    {"metrics_enabled": False},
    {"vad_user_speaking_enabled": True},
    {"stt_raw_text_enabled": True, "llm_raw_text_enabled": True, "tts_raw_text_enabled": True},
    {"bot_llm_marker_enabled": True},
    {"skip_text_types": ["code"]},
    {"bot_output_transforms": [["*", "upper"]]},
    {"function_call_report_level": {"*": "full"}},
    {"function_call_report_level": {"*": "name", "f": "arguments", "g": "disabled"}},
)
METRICS: Final = (
    {"class": "TTFBMetricsData", "fields": {"processor": "llm", "value": 0.5, "model": "m"}},
    {"class": "ProcessingMetricsData", "fields": {"processor": "tts", "value": 1.25}},
    {"class": "TTSUsageMetricsData", "fields": {"processor": "tts", "value": 12}},
    {
        "class": "LLMUsageMetricsData",
        "fields": {"processor": "llm", "value": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
    },
)
PLAIN: Final = (
    "UserStartedSpeakingFrame",
    "UserStoppedSpeakingFrame",
    "VADUserStartedSpeakingFrame",
    "VADUserStoppedSpeakingFrame",
    "UserMuteStartedFrame",
    "UserMuteStoppedFrame",
    "LLMFullResponseStartFrame",
    "LLMFullResponseEndFrame",
    "TTSStartedFrame",
    "TTSStoppedFrame",
    "BotSpeakingFrame",
    "UserSpeakingFrame",
)


class Segment:
    """A text that the pipeline says, and how far it is."""

    def __init__(self, ref: str, text: str, kind: str) -> None:
        self.ref = ref
        self.text = text
        self.kind = kind
        self.rest = text.split()
        self.said = 0


class CaseMaker:
    """Makes one case."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ids = 0
        self.segments: list[Segment] = []

    def case(self, name: str) -> Json:
        """A whole one."""
        observer = True if self.rng.random() < 0.6 else self.rng.choice(PARAMS)
        inputs = [self.message("client-ready", {"version": self.rng.choice(VERSIONS), "about": {"library": "tests"}})]
        while len(inputs) < 24 and (len(inputs) < 5 or self.rng.random() < 0.95):
            (step,) = self.rng.choices([step for _, step in STEPS], [weight for weight, _ in STEPS])
            inputs += step(self)
        return {"case": name, "config": {"observer": observer, "output": True}, "inputs": inputs}

    # -- pieces ----------------------------------------------------------------------------

    def name(self, prefix: str) -> str:
        """A new id."""
        self.ids += 1
        return f"{prefix}{self.ids}"

    def one(self, *choices: Any) -> Any:
        """One of them."""
        return self.rng.choice(choices)

    def message(self, kind: str, data: Json | None) -> Json:
        """The client says something."""
        message = {"label": "rtvi-ai", "type": kind, "id": self.name("m")}
        return {"op": "msg", "message": message if data is None else {**message, "data": data}}

    def frame(self, kind: str, fields: Json | None = None, attrs: Json | None = None, ref: str | None = None) -> Json:
        """The pipeline pushes a frame, behind the processor."""
        step: Json = {"op": "frame", "at": "stage", "dir": "down", "type": kind}
        found = {"fields": fields, "attrs": attrs, "ref": ref}
        return step | {name: value for name, value in found.items() if value is not None}

    # -- what the bot says -----------------------------------------------------------------

    def text(self) -> list[Json]:
        """A segment begins."""
        segment = Segment(self.name("S"), self.rng.choice(TEXTS), self.rng.choice(TYPES))
        spoken = self.rng.random() < 0.8
        attrs = {"will_be_spoken": True} if spoken else self.one({}, {"skip_tts": True})
        if spoken:
            self.segments.append(segment)
        return [
            self.frame("AggregatedTextFrame", {"text": segment.text, "text_type": segment.kind}, attrs, segment.ref)
        ]

    def synthesised(self, text: str, kind: str, segment: Segment | None) -> Json:
        """A text as spoken."""
        fields: Json = {"text": text, "text_type": kind}
        if segment is not None:
            fields["segment_id"] = {"$frame_id": segment.ref}
        return self.frame("TTSTextFrame", fields, {"will_be_spoken": True}, self.name("T"))

    def word(self) -> list[Json]:
        """The next word of a segment is spoken; or all of it, where speech has no words."""
        if not self.segments:
            return self.text()
        segment = self.rng.choice(self.segments)
        if not segment.said and (not segment.rest or self.rng.random() < 0.3):
            self.segments.remove(segment)
            return [self.synthesised(segment.text, segment.kind, segment)]
        word = segment.rest.pop(0)
        segment.said = segment.text.index(word, segment.said) + len(word)
        if not segment.rest:
            self.segments.remove(segment)
            segment.said = len(segment.text)
        progress = {
            "segment_id": {"$frame_id": segment.ref},
            "context_id": "c",
            "text": segment.text,
            "text_type": segment.kind,
            "accumulated_text": segment.text[: segment.said],
            "remaining_text": segment.text[segment.said :],
        }
        return [self.synthesised(word, "word", segment), self.frame("AggregatedTextProgressFrame", progress)]

    def alone(self) -> list[Json]:
        """Synthesised text of no segment."""
        return [self.synthesised(self.rng.choice(TEXTS[:3]), "sentence", None)]

    def speaking(self) -> list[Json]:
        """The bot's audio begins or ends."""
        return [self.frame(self.one("BotStartedSpeakingFrame", "BotStartedSpeakingFrame", "BotStoppedSpeakingFrame"))]

    def interruption(self) -> list[Json]:
        """The user barges in: nothing of what was being said goes on."""
        self.segments.clear()
        return [self.one({"op": "broadcast", "type": "InterruptionFrame"}, self.frame("InterruptionFrame"))]

    def generated(self) -> list[Json]:
        """Pieces of a response."""
        return [self.frame("LLMTextFrame", {"text": text}) for text in self.rng.choices(CHUNKS, k=self.one(1, 2, 3))]

    # -- what else the pipeline reports ----------------------------------------------------

    def plain(self) -> list[Json]:
        """A frame without fields, in whatever way it goes."""
        kind = self.rng.choice(PLAIN)
        where = self.one(
            {"op": "frame", "at": "stage", "dir": "down"},
            {"op": "frame", "at": "source", "dir": "down"},
            {"op": "frame", "at": "sink", "dir": "up"},
            {"op": "broadcast"},
        )
        return [{**where, "type": kind}]

    def heard(self) -> list[Json]:
        """What the user said."""
        kind = self.one("TranscriptionFrame", "InterimTranscriptionFrame", "UserBackchannelFrame", "TranslationFrame")
        return [self.frame(kind, {"text": self.rng.choice(TEXTS), "user_id": self.one("", "u"), "timestamp": "T"})]

    def context(self) -> list[Json]:
        """The model is run."""
        parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]
        content = self.one("hi", "", parts, parts[:1], [], None)
        return [
            self.frame("LLMContextFrame", {"context": [{"role": self.one("user", "assistant"), "content": content}]})
        ]

    def function(self) -> list[Json]:
        """A function of the bot's own."""
        call: Json = {"function_name": self.one("f", "g", "h"), "tool_call_id": self.name("c")}
        arguments = {**call, "arguments": self.one({}, {"a": 1, "n": None})}
        ends = self.one(
            self.frame("FunctionCallResultFrame", {**arguments, "result": self.rng.choice(DATA)}),
            self.frame("FunctionCallCancelFrame", call),
        )
        started = self.frame("FunctionCallsStartedFrame", {"function_calls": [arguments]})
        return [started, self.frame("FunctionCallInProgressFrame", arguments), ends]

    def measured(self) -> list[Json]:
        """What was measured."""
        found = self.rng.sample(METRICS, self.one(1, 2, 4))
        return [self.frame("MetricsFrame", {"data": {"$metrics": found}})]

    def said_to_client(self) -> list[Json]:
        """The application's own messages."""
        data = self.rng.choice(DATA)
        return [
            self.one(
                self.frame("RTVIServerMessageFrame", {"data": data}),
                self.frame("RTVIUICommandFrame", {"command": "toast", "payload": data}),
                self.frame("RTVIServerResponseFrame", {"client_msg": {"msg_id": "m1", "type": "t"}, "data": data}),
                {"op": "call", "method": "send_server_message", "args": [data]},
            )
        ]

    # -- the client ------------------------------------------------------------------------

    def written(self) -> list[Json]:
        """The user types."""
        options = {name: self.one(True, False) for name in self.one((), ("run_immediately", "audio_response"))}
        if options.get("run_immediately", True):
            self.segments.clear()
        return [self.message("send-text", {"content": self.rng.choice(TEXTS), "options": options})]

    def sent_file(self) -> list[Json]:
        """The user shows something."""
        source = self.one({"type": "bytes", "bytes": "AQIDBA=="}, {"type": "url", "url": "https://example.com/a"})
        file = {"format": self.one("image/png", "application/pdf"), "name": "a", "source": source}
        return [self.message("send-file", {"content": "look", "file": file, "options": {"run_immediately": False}})]

    def pressed(self) -> list[Json]:
        """Anything else that a client may say, right or wrong."""
        kind, data = self.one(
            ("dtmf", {"buttons": self.one(["1"], ["1", "#"], [], ["A"], "1")}),
            ("ui-event", {"event": self.one("click", "", 5), "payload": self.rng.choice(DATA)}),
            ("ui-cancel-job-group", {"job_id": self.one("j", 5), "reason": self.one(None, "r")}),
            ("ui-snapshot", {"tree": {"root": {"ref": "e", "role": self.one("main", None)}, "captured_at": 1}}),
            ("client-message", {"t": self.one("x", "y"), "d": self.rng.choice(DATA)}),
            ("raw-audio", {"sampleRate": 16_000, "numChannels": 1, "base64Audio": {"$pcm_b64": self.one(0, 6, 320)}}),
            ("nope", {}),
            ("send-text", {"content": None}),
            (
                "llm-function-call-result",
                {"function_name": "f", "tool_call_id": "c", "arguments": {}, "result": self.one({"a": 1}, "r", "", 5)},
            ),
        )
        return [self.message(kind, data)]

    def configured(self) -> list[Json]:
        """The pipeline turns its voice on or off."""
        fields = {"skip_tts": self.one(True, False, None)}
        return [{**self.frame("LLMConfigureOutputFrame", fields), "at": "source"}]


STEPS: Final[Sequence[tuple[int, Callable[[CaseMaker], list[Json]]]]] = (
    (6, CaseMaker.text),
    (8, CaseMaker.word),
    (1, CaseMaker.alone),
    (4, CaseMaker.speaking),
    (2, CaseMaker.interruption),
    (3, CaseMaker.generated),
    (4, CaseMaker.plain),
    (2, CaseMaker.heard),
    (1, CaseMaker.context),
    (2, CaseMaker.function),
    (1, CaseMaker.measured),
    (2, CaseMaker.said_to_client),
    (2, CaseMaker.written),
    (1, CaseMaker.sent_file),
    (3, CaseMaker.pressed),
    (1, CaseMaker.configured),
)
"""What may come next, and how often."""


def cases(seed: int, count: int) -> Iterator[Json]:
    """So many cases. Each depends on the seed and its own number alone."""
    for number in range(count):
        yield CaseMaker(random.Random(f"{seed}/{number}")).case(f"random/{seed}/{number}")


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description="Write random cases in the recordings' form.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    for case in cases(args.seed, args.count):
        print(values.dumps(case))


if __name__ == "__main__":
    main()
