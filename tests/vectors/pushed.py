"""The frames of the peer that a case pushes, as calls of what a host of ours says: `session.control`.

`REPORTS` and `COMMANDS` have a row for each frame type that the peer's observer or processor tells the client of;
`SILENT` names those of which a client hears nothing. Where a push counts (which direction, which place, the first or
each) is in `heard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from rtvi_actors import frames
from rtvi_actors.commands import Commands
from rtvi_actors.protocol import server
from rtvi_actors.reports import Reports

__all__ = ["AUDIO", "COMMANDS", "REPORTS", "SEGMENTS", "SILENT", "Place", "Push", "heard", "say"]


@dataclass(frozen=True)
class Push:
    """A frame is pushed somewhere in the peer's pipeline, and somebody hears of it."""

    type: str
    fields: Mapping[str, Any]
    attrs: Mapping[str, Any]
    source: str
    """Whose push the observer saw."""
    segment_id: int | None = None
    """Of a text: its own."""
    ref: str | None = None
    """What the case calls the frame."""


@dataclass(frozen=True)
class Place:
    """Where a frame is pushed: its order in the peer's pipeline is source, processor, stage, output, sink."""

    at: str
    dir: str
    """``down``, ``up``, or ``both`` for a broadcast."""

    @property
    def passes_processor(self) -> bool:
        """Whether the peer's processor gets it."""
        return self.at != "source" if self.dir == "up" else self.at == "source" or self.dir == "both"

    @property
    def passes_output(self) -> bool:
        """Whether an output transport pushes it (on), which then counts as its source."""
        return self.at == "output" or (self.at == "sink" if self.dir == "up" else self.at != "sink")


PROCESSED: Final = frozenset({"ErrorFrame", "LLMConfigureOutputFrame"})
"""Frames that concern the processor, not the observer."""
SEGMENTS: Final = frozenset({"AggregatedTextFrame", "TTSTextFrame", "AggregatedTextProgressFrame"})
"""Frames that the observer takes whenever an output transport pushes them, and only then."""
AUDIO: Final = frozenset({"InputAudioRawFrame"})
"""Frames that a client of ours sends."""
SILENT: Final = frozenset(
    {
        "BotSpeakingFrame",
        "EagerTranscriptionFrame",
        "InputDTMFFrame",
        "InputTransportMessageFrame",
        "LLMMessagesAppendFrame",
        "OutputTransportMessageFrame",
        "OutputTransportMessageUrgentFrame",
        "RTVIClientMessageFrame",
        "TTSSpeakFrame",
        "TextFrame",
        "TranslationFrame",
        "UserSpeakingFrame",
    }
)
"""Frames of which the peer's observer says nothing."""


def heard(type: str, place: Place, *, first: bool, observer: bool, output: bool) -> bool:  # noqa: A002  a frame's type
    """Whether the peer reports a push (PROTOCOL.md 2.2; pipecat-ai 1.14.0, observed)."""
    if type in PROCESSED:
        return place.passes_processor
    if not observer or type in SILENT:
        return False
    if type in SEGMENTS:
        return output and place.passes_output
    return first


# -- translating -----------------------------------------------------------------


def plain(method: Callable[[Reports], None]) -> Callable[[Reports, Push], None]:
    """A report without arguments."""
    return lambda host, _: method(host)


def transcription(host: Reports, push: Push) -> None:
    """What the user said."""
    final = push.type == "TranscriptionFrame"
    host.transcription(push.fields["text"], push.fields["user_id"], push.fields["timestamp"], final)


def backchannel(host: Reports, push: Push) -> None:
    """What the user said while listening."""
    host.user_backchannel(push.fields["text"], push.fields["user_id"], push.fields["timestamp"])


def marker(host: Reports, push: Push) -> None:
    """No marker is none found."""
    fields = push.fields
    host.llm_marker(fields["raw"], fields.get("marker") or "", fields.get("kind"), fields.get("markers", ()))


def text(host: Reports, push: Push) -> None:
    """A segment; what synthesis leaves out waits for no speech."""
    host.bot_text(
        push.fields["text"],
        kind=push.fields["text_type"],
        will_be_spoken=push.attrs.get("will_be_spoken", False),
        segment_id=push.segment_id,
        interruptible=push.attrs.get("interruptible", True),
        with_speech=not push.attrs.get("skip_tts", False),
    )


def synthesised(host: Reports, push: Push) -> None:
    """Text as spoken: of its segment, or a segment of its own."""
    fields = push.fields
    host.tts_text(fields["text"], kind=fields["text_type"], segment_id=fields.get("segment_id"), spoken=True)


def progress(host: Reports, push: Push) -> None:
    """What has been spoken of a segment."""
    fields = push.fields
    host.bot_text_progress(fields["segment_id"], fields["accumulated_text"], fields["remaining_text"])


def played(host: Reports, push: Push) -> None:
    """Bot audio that somebody else plays, when the peer measures it."""
    host.bot_audio(push.fields["audio"], push.fields["sample_rate"], push.fields["num_channels"])


def calls_started(host: Reports, push: Push) -> None:
    """The model wants functions; external calls have no arguments here."""
    calls = push.fields["function_calls"]
    host.function_calls_started(
        (call["function_name"], call["tool_call_id"], call.get("arguments") or {}) for call in calls
    )


def call_runs(host: Reports, push: Push) -> None:
    """A function runs. No arguments are empty ones: ours are a mapping."""
    fields = push.fields
    arguments = {} if fields.get("arguments") is None else fields["arguments"]
    host.function_call_in_progress(fields["function_name"], fields["tool_call_id"], arguments)


def call_returned(host: Reports, push: Push) -> None:
    """A function returned. An intermediate result leaves the call running, so nobody hears of it."""
    fields = push.fields
    properties = fields.get("properties") or {}
    if fields.get("is_final", properties.get("is_final", True)):
        host.function_call_result(fields["function_name"], fields["tool_call_id"], fields.get("result"))


def call_cancelled(host: Reports, push: Push) -> None:
    """A function was cancelled."""
    host.function_call_cancelled(push.fields["function_name"], push.fields["tool_call_id"])


METRICS: Final[Mapping[str, str]] = {
    "TTFBMetricsData": "ttfb",
    "ProcessingMetricsData": "processing",
    "TTFAMetricsData": "ttfa",
    "TTFATMetricsData": "ttfat",
    "LLMUsageMetricsData": "tokens",
    "TTSUsageMetricsData": "characters",
    "STTUsageMetricsData": "stt_usage",
}
"""The peer's classes → our kinds. The protocol has no place for the others."""


def metrics(given: list[Mapping[str, Any]]) -> server.MetricsData:
    """The peer's metrics as ours. Raises `ValueError` for a value of another type."""
    kinds: dict[str, list[Any]] = {}
    for one in given:
        kind = METRICS.get(one["class"])
        if kind is not None:
            fields = one["fields"]["value"] if kind == "tokens" else one["fields"]
            kinds.setdefault(kind, []).append({name: value for name, value in fields.items() if value is not None})
    return msgspec.convert(kinds, server.MetricsData)


def measured(host: Reports, push: Push) -> None:
    """What was measured."""
    host.metrics(metrics(push.fields["data"]["$metrics"]))


def answer(host: Commands, push: Push) -> None:
    """The application's answer to a client-message, or its refusal."""
    fields = push.fields
    to = frames.ClientMessage(fields["client_msg"]["msg_id"], fields["client_msg"]["type"])
    if fields.get("error") is not None:
        host.send_error_response(to, fields["error"])
    else:
        host.send_server_response(to, fields.get("data"))


JOB_KINDS: Final[Mapping[str, str]] = {
    "UIJobGroupStartedData": "group_started",
    "UIJobUpdateData": "job_update",
    "UIJobCompletedData": "job_completed",
    "UIJobGroupCompletedData": "group_completed",
}


def job_event(host: Commands, push: Push) -> None:
    """One step of a job group, alone: a host that keeps its own books pushes the message."""
    model = push.fields["data"]
    if model is not None:
        given = {name: value for name, value in model["fields"].items() if value is not None}
        host.push({"type": "ui-job-group", "label": "rtvi-ai", "data": {"kind": JOB_KINDS[model["$ui"]], **given}})


def configure(host: Commands, push: Push) -> None:
    """What is reported changes; null leaves a parameter as it is."""
    changes = {name: value for name, value in push.fields.items() if value is not None}
    host.configure_observer(**changes)


REPORTS: Final[Mapping[str, Callable[[Reports, Push], None]]] = {
    "UserStartedSpeakingFrame": plain(Reports.user_started_speaking),
    "UserStoppedSpeakingFrame": plain(Reports.user_stopped_speaking),
    "VADUserStartedSpeakingFrame": plain(Reports.vad_user_started_speaking),
    "VADUserStoppedSpeakingFrame": plain(Reports.vad_user_stopped_speaking),
    "UserMuteStartedFrame": plain(Reports.user_mute_started),
    "UserMuteStoppedFrame": plain(Reports.user_mute_stopped),
    "BotStartedSpeakingFrame": plain(Reports.bot_started_speaking),
    "BotStoppedSpeakingFrame": plain(Reports.bot_stopped_speaking),
    "TranscriptionFrame": transcription,
    "InterimTranscriptionFrame": transcription,
    "UserBackchannelFrame": backchannel,
    "LLMContextFrame": lambda host, push: host.llm_context(push.fields["context"]),
    "LLMFullResponseStartFrame": plain(Reports.llm_started),
    "LLMFullResponseEndFrame": plain(Reports.llm_stopped),
    "LLMTextFrame": lambda host, push: host.llm_text(push.fields["text"]),
    "VisionTextFrame": lambda host, push: host.llm_text(push.fields["text"]),
    "LLMMarkerResponseFrame": marker,
    "TTSStartedFrame": plain(Reports.tts_started),
    "TTSStoppedFrame": plain(Reports.tts_stopped),
    "AggregatedTextFrame": text,
    "TTSTextFrame": synthesised,
    "AggregatedTextProgressFrame": progress,
    "TTSAudioRawFrame": played,
    "FunctionCallsStartedFrame": calls_started,
    "FunctionCallInProgressFrame": call_runs,
    "FunctionCallResultFrame": call_returned,
    "FunctionCallCancelFrame": call_cancelled,
    "ExternalFunctionCallsStartedFrame": calls_started,
    "ExternalFunctionCallInProgressFrame": call_runs,
    "ExternalFunctionCallResultFrame": call_returned,
    "ExternalFunctionCallCancelFrame": call_cancelled,
    "MetricsFrame": measured,
}
"""Frame type → what a host of ours reports instead. What it raises (`TypeError`, `ValueError`) is the host's."""

COMMANDS: Final[Mapping[str, Callable[[Commands, Push], None]]] = {
    "InterruptionFrame": lambda host, _: host.interrupt_bot(),
    "RTVIServerMessageFrame": lambda host, push: host.send_server_message(push.fields["data"]),
    "RTVIServerResponseFrame": answer,
    "RTVIUICommandFrame": lambda host, push: host.ui_command(push.fields["command"], push.fields.get("payload")),
    "RTVIUIJobGroupFrame": job_event,
    "RTVIConfigureObserverFrame": configure,
    "ErrorFrame": lambda host, push: host.error(push.fields["error"], push.attrs.get("fatal", False)),
    "LLMConfigureOutputFrame": lambda host, push: host.configure_output(push.fields.get("skip_tts")),
}
"""Frame type → what a host of ours commands instead."""


def say(control: Commands, push: Push) -> None:
    """Say it. A report has a source, a command has none."""
    if push.type in COMMANDS:
        COMMANDS[push.type](control, push)
    else:
        REPORTS[push.type](control.source(push.source), push)
