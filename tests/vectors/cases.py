"""What a case asks of a server: its steps, and whether this server can be asked that.

A step becomes one of the dataclasses of `Step`, or the case is `Unsupported` with a reason. Nothing here touches a
session. What the frames mean that a case pushes is in pushed.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from rtvi_actors.reporting import FunctionCallReportLevel, ObserverParams
from tests.vectors import pushed, values

__all__ = [
    "Act",
    "Burst",
    "Call",
    "Case",
    "FunctionCall",
    "Request",
    "Say",
    "Send",
    "SendAudio",
    "Sleep",
    "Step",
    "Unsupported",
    "read",
]

FIRST_SEGMENT = 1_000_000
"""The segments that a case's frames name begin here: far from those that the session numbers itself."""


class Unsupported(Exception):
    """A case that cannot be played; the text says why."""


@dataclass(frozen=True)
class Send:
    """The client sends this."""

    wire: bytes


@dataclass(frozen=True)
class Call:
    """The application calls the peer's processor, outside any handler."""

    method: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class SendAudio:
    """The client sends audio, in a binary frame."""

    audio: bytes
    sample_rate: int
    num_channels: int


@dataclass(frozen=True)
class Say:
    """The application reports something, or commands it."""

    push: pushed.Push


@dataclass(frozen=True)
class Sleep:
    """Nothing happens for a while."""

    seconds: float


@dataclass(frozen=True)
class Burst:
    """Steps without a pause between them."""

    steps: tuple[Step, ...]


Step: TypeAlias = Send | SendAudio | Call | Say | Sleep | Burst


@dataclass(frozen=True)
class Request:
    """A client-message as an application hands it back with its answer."""

    msg_id: Any
    type: Any
    data: Any = None


@dataclass(frozen=True)
class FunctionCall:
    """What the peer's deprecated `handle_function_call` takes."""

    function_name: Any
    tool_call_id: Any
    arguments: Any


@dataclass(frozen=True)
class Act:
    """What the application does in a handler: ``set_bot_ready``, ``send_server_response``, ``sleep``, ``raise`` …"""

    do: str
    data: Any = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Case:
    """One case, ready to be played."""

    name: str
    steps: tuple[Step, ...]
    handlers: Mapping[str, tuple[Act, ...]] = field(default_factory=dict)
    observer: ObserverParams | None = None
    """Whether the peer ran with its observer, which also answers client-ready by itself, and what that reports."""
    segments: Mapping[int, str] = field(default_factory=dict)
    """What the case calls them, by their ids."""
    capabilities: Mapping[str, bool] = field(default_factory=dict)
    """What the peer's transports could do, as bot-ready says it."""


# -- steps ---------------------------------------------------------------------


def refuse(why: str) -> NoReturn:
    """This case cannot be played."""
    raise Unsupported(why)


def unsendable(value: object) -> NoReturn:
    """For `json.dumps`: the peer's pipeline takes Python objects, a wire takes JSON."""
    refuse(f"a client cannot send {type(value).__name__}: the wire is JSON")


def wire(message: Any) -> bytes:
    """The message as the client's bytes, NaN and lone surrogates included: as the peer saw them."""
    if '"$pairs"' in values.dumps(message):
        refuse("a client cannot send keys that are not text: the wire is JSON")
    decoded = values.decode(message)
    try:
        return json.dumps(decoded, ensure_ascii=True, allow_nan=True, default=unsendable).encode("ascii")
    except RecursionError:
        refuse("this is deeper than Python writes it: the wire is JSON")


def argument(value: Any) -> Any:
    """One argument of a call, the peer's own objects included."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, fields),) = value.items()
        if name == "$client_message":
            return Request(**values.decode(fields))
        if name == "$message":
            return values.decode(fields)
        if name == "$function_call":
            return FunctionCall(**values.decode(fields))
    return values.decode(value)


class Reader:
    """Reads the steps of one case: it knows the frames that the steps before have named."""

    def __init__(self, params: ObserverParams | None, *, output: bool) -> None:
        self.params = params
        self.output = output
        self.named: dict[str, Mapping[str, Any]] = {}
        """The steps that pushed a frame with a name."""
        self.ids: dict[str, int] = {}
        """The segments of the named texts."""
        self.next_id = FIRST_SEGMENT

    def steps(self, lines: Iterable[Mapping[str, Any]]) -> Iterator[Step]:
        """The steps, a step that means nothing here as an empty burst. Raises `Unsupported`."""
        for line in lines:
            reader = READERS.get(line["op"])
            yield reader(self, line) if reader else refuse(f"{line['op']} is about the peer's pipeline")

    def frame(self, line: Mapping[str, Any]) -> Step:
        """A frame is pushed for the first time."""
        name = line["type"]
        if not any(name in table for table in (pushed.REPORTS, pushed.COMMANDS, pushed.SILENT, pushed.AUDIO)):
            refuse(f"{name} means nothing outside the peer's pipeline")
        if name == "InputTransportMessageFrame" and pushed.Place(line["at"], line["dir"]).passes_processor:
            return Send(wire(line["fields"]["message"]))
        segment_id = None
        if name == "AggregatedTextFrame":
            segment_id, self.next_id = self.next_id, self.next_id + 1
        if "ref" in line:
            self.named[line["ref"]] = line = {**line, "segment_id": segment_id}
            if segment_id is not None:
                self.ids[line["ref"]] = segment_id
        return self.push(line, segment_id, first=True)

    def again(self, line: Mapping[str, Any]) -> Step:
        """A frame is pushed once more, elsewhere perhaps."""
        before = self.named.get(line["ref"])
        if before is None:
            refuse("a frame is pushed again that was never named")
        again = {**before, "at": line.get("at", before["at"]), "dir": line.get("dir", before["dir"])}
        return self.push(again, before["segment_id"], first=False)

    def push(self, line: Mapping[str, Any], segment_id: int | None, *, first: bool) -> Step:
        """What a push means to an application of ours."""
        name, place = line["type"], pushed.Place(line.get("at", "stage"), line.get("dir", "both"))
        if not pushed.heard(name, place, first=first, observer=self.params is not None, output=self.output):
            return Burst(())
        fields = self.decode(line.get("fields", {}))
        if name in pushed.AUDIO:
            return audio(fields)
        attrs = self.decode(line.get("attrs", {}))
        check(name, fields, attrs)
        source = "output" if name in pushed.SEGMENTS else place.at
        if name in pushed.COMMANDS and self.params is not None and source in self.params.ignored_sources:
            refuse("reports have sources, commands have none")
        return Say(pushed.Push(name, fields, attrs, source, segment_id, line.get("ref")))

    def decode(self, given: Any) -> Any:
        """Values of a frame; a text that nobody named has no segment of ours."""
        try:
            return values.decode(given, self.ids)
        except KeyError:
            refuse("a segment is named that is none")


def audio(fields: Mapping[str, Any]) -> Step:
    """Audio that the peer's input transport pushes is what a client of ours sends."""
    sound, rate, channels = fields["audio"], fields["sample_rate"], fields["num_channels"]
    if not _is_int(rate) or not _is_int(channels):
        refuse("a binary frame's rate and channels are integers")
    return SendAudio(sound.encode("latin-1") if isinstance(sound, str) else sound, rate, channels)


def check(name: str, fields: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
    """What the peer takes and no argument of ours can be."""
    if name == "LLMConfigureOutputFrame" and not isinstance(fields.get("skip_tts"), bool | None):
        refuse("our LLMConfigureOutput is typed: skip_tts is true, false or null")
    if name == "ErrorFrame" and not isinstance(attrs.get("fatal", False), bool):
        refuse("our errors are typed: fatal is true or false")
    if name == "RTVIServerResponseFrame" and not isinstance(fields["client_msg"]["msg_id"], str):
        refuse("our ids are text, as the client's are")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


READERS: Mapping[str, Callable[[Reader, Mapping[str, Any]], Step]] = {
    "msg": lambda _, step: Send(wire(step["message"])),
    "call": lambda _, step: Call(step["method"], tuple(argument(arg) for arg in step.get("args", ()))),
    "sleep": lambda _, step: Sleep(step["secs"]),
    "frame": Reader.frame,
    "broadcast": Reader.frame,
    "again": Reader.again,
    "burst": lambda reader, step: Burst(tuple(reader.steps(step["steps"]))),
}
"""Steps that can be played. The others drive the peer's pipeline."""


# -- the configuration ---------------------------------------------------------


def handlers(config: Mapping[str, Any]) -> dict[str, tuple[Act, ...]]:
    """What the application does, by the name of the peer's event."""
    return {
        name: tuple(Act(act["do"], values.decode(act.get("data")), act.get("secs", 0.0)) for act in acts)
        for name, acts in config.get("handlers", {}).items()
    }


def capabilities(config: Mapping[str, Any]) -> dict[str, bool]:
    """What the peer's bot-ready says for transports and pipeline of this configuration (1.14.0, observed)."""
    inward, outward = config.get("input_params"), config.get("output_params", {})
    found: dict[str, bool] = {}
    if inward is not None:
        found["audio_in"] = bool(inward.get("audio_in_enabled", False))
        found["video_in"] = bool(inward.get("video_in_enabled", False))
        found["screen_in"] = False
    if config.get("output"):
        found["audio_out"] = bool(outward.get("audio_out_enabled", False))
        found["video_out"] = bool(outward.get("video_out_enabled", False))
    if found.get("video_in"):
        del found["screen_in"]
    found["metrics"] = bool(config.get("pipeline_params", {}).get("enable_metrics", False))
    return found


def upper(text: str, _: str) -> str:
    """One of the recordings' transforms; so are the next two."""
    return text.upper()


def bracket(text: str, _: str) -> str:
    """The whole text in brackets."""
    return f"[{text}]"


def failing(text: str, _: str) -> str:
    """Raises."""
    raise ValueError("a transform fails")


TRANSFORMS = {"bracket": bracket, "failing": failing, "upper": upper}

PARAMS: Mapping[str, Callable[[Any], tuple[str, Any]]] = {
    "ignore_stage": lambda on: ("ignored_sources", frozenset({"stage"} if on else ())),
    "skip_aggregator_types": lambda types: ("skip_text_types", frozenset(types or ())),
    "skip_text_types": lambda types: ("skip_text_types", frozenset(types or ())),
    "bot_output_transforms": lambda rows: (
        "bot_output_transforms",
        tuple((kind, TRANSFORMS[name]) for kind, name in rows or ()),
    ),
    "function_call_report_level": lambda levels: (
        "function_call_report_level",
        {name: FunctionCallReportLevel(level) for name, level in levels.items()},
    ),
}
"""The observer's parameters that are spelt otherwise; the rest are numbers and booleans."""


def observer(config: Mapping[str, Any]) -> ObserverParams | None:
    """What the peer's observer reports, if there is one. Raises `Unsupported`."""
    given = config.get("observer")
    if not isinstance(given, dict):
        return ObserverParams() if given else None
    try:
        fields = dict(PARAMS[name](value) if name in PARAMS else (name, value) for name, value in given.items())
        return ObserverParams(**fields)
    except (KeyError, TypeError, ValueError) as error:
        refuse(f"{error}: no parameter of our observer")


PLAYED = {"handlers", "observer", "transport", "output", "output_params", "input_params", "pipeline_params", "swallow"}
"""Configuration that is understood. `transport` is for older peers and means nothing to 1.14.0; what the probes of a
pipeline `swallow` has no counterpart here."""


def read(line: Mapping[str, Any]) -> Case:
    """A recorded case. Raises `Unsupported`."""
    config = line.get("config", {})
    for name in config.keys() - PLAYED:
        refuse(f"{name} is about the peer's pipeline")
    if "EndWorkerFrame" in config.get("swallow", ()):
        refuse("a session that outlives its end is about the peer's pipeline")
    params = observer(config)
    reader = Reader(params, output=bool(config.get("output")))
    steps = tuple(reader.steps(line["inputs"]))
    return Case(
        line["case"],
        steps,
        handlers(config),
        observer=params,
        segments={ident: name for name, ident in reader.ids.items()},
        capabilities=capabilities(config),
    )
