"""What a case asks of a server: its steps, and whether this server can be asked that.

A step becomes one of five dataclasses, or the case is `Unsupported` with a reason. Nothing here touches a session.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from rtvi_actors.protocol.client import CLIENT
from tests.vectors import values

__all__ = [
    "Act",
    "Call",
    "Case",
    "Configure",
    "FunctionCall",
    "Request",
    "Send",
    "Sleep",
    "Step",
    "Unsupported",
    "read",
]

LATER = frozenset({"dtmf", "send-file", "ui-cancel-job-group", "ui-event", "ui-snapshot"}) - CLIENT.keys()
"""Types that the peer serves and this version does not, yet."""


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
class Configure:
    """The application's pipeline says whether the LLM's output is spoken."""

    skip_tts: Any


@dataclass(frozen=True)
class Sleep:
    """Nothing happens for a while."""

    seconds: float


@dataclass(frozen=True)
class Burst:
    """Steps without a pause between them."""

    steps: tuple[Step, ...]


Step: TypeAlias = Send | Call | Configure | Sleep | Burst


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
    observer: bool = False
    """Whether the peer ran with its observer, which also answers client-ready by itself."""
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
    if isinstance(decoded, dict) and isinstance(decoded.get("type"), str) and decoded["type"] in LATER:
        refuse(f"{decoded['type']} is not served yet")
    return json.dumps(decoded, ensure_ascii=True, allow_nan=True, default=unsendable).encode("ascii")


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


def configure(step: Mapping[str, Any]) -> Step:
    """A frame that the application's pipeline pushes; of the frames only one means anything without a pipeline."""
    if step["type"] != "LLMConfigureOutputFrame" or "ref" in step:
        refuse(f"{step['type']} in a pipeline is not played yet")
    if (step["at"], step["dir"]) not in (("source", "down"), ("sink", "up")):
        refuse("a frame that does not pass the peer's processor is about its pipeline")
    skip_tts = step.get("fields", {}).get("skip_tts")
    if skip_tts not in (True, False, None) or isinstance(skip_tts, (int, float)) is not isinstance(skip_tts, bool):
        refuse("our LLMConfigureOutput is typed: skip_tts is true, false or null")
    return Configure(skip_tts)


READERS: Mapping[str, Callable[[Mapping[str, Any]], Step]] = {
    "msg": lambda step: Send(wire(step["message"])),
    "call": lambda step: Call(step["method"], tuple(argument(arg) for arg in step.get("args", ()))),
    "sleep": lambda step: Sleep(step["secs"]),
    "frame": configure,
    "burst": lambda step: Burst(tuple(steps(step["steps"]))),
}
"""Steps that can be played. The others drive the peer's pipeline."""


def steps(lines: Iterable[Mapping[str, Any]]) -> Iterator[Step]:
    """The steps of a case. Raises `Unsupported`."""
    for line in lines:
        reader = READERS.get(line["op"])
        yield reader(line) if reader else refuse(f"{line['op']} is about the peer's pipeline")


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


PLAYED = {"handlers", "observer", "transport", "output", "output_params", "input_params", "pipeline_params"}
"""Configuration that is understood. `transport` is for older peers and means nothing to 1.14.0."""


def read(line: Mapping[str, Any]) -> Case:
    """A recorded case. Raises `Unsupported`."""
    config = line.get("config", {})
    for name in config.keys() - PLAYED:
        refuse(f"{name} is about the peer's pipeline")
    if config.get("observer") not in (None, True, False):
        refuse("the observer's parameters are not played yet")
    if "on_ui_message" in config.get("handlers", {}):
        refuse("UI messages are not served yet")
    return Case(
        line["case"],
        tuple(steps(line["inputs"])),
        handlers(config),
        observer=config.get("observer") is True,
        capabilities=capabilities(config),
    )
