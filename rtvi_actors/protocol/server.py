"""Server → client messages (PROTOCOL.md 1.4). Each Struct *is* the wire message: one encoder call writes it whole.

A message type is one Struct, with the protocol version that brought it in `since`. Optional fields are left out when
`UNSET`; a field is never null, except inside `Json`. Clients ignore types that they do not know, so a type goes to
every version, as pipecat-ai 1.14.0 does it, but for those with `gated`. What else a version changes is in `SHAPES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.ui import JobEvent
from rtvi_actors.protocol.versions import Version, at_least, is_v1

__all__ = [
    "SERVER",
    "SHAPES",
    "AnyServerMessage",
    "ApplicationMessage",
    "BotAudioLevel",
    "BotInterrupted",
    "BotLlmMarker",
    "BotLlmMarkerData",
    "BotLlmSearchResponse",
    "BotLlmSearchResponseData",
    "BotLlmStarted",
    "BotLlmStopped",
    "BotLlmText",
    "BotOutput",
    "BotOutputData",
    "BotReady",
    "BotReadyData",
    "BotStartedSpeaking",
    "BotStoppedSpeaking",
    "BotTranscription",
    "BotTtsAudio",
    "BotTtsAudioData",
    "BotTtsStarted",
    "BotTtsStopped",
    "BotTtsText",
    "Error",
    "ErrorData",
    "ErrorResponse",
    "ErrorResponseData",
    "FunctionCall",
    "FunctionCallData",
    "FunctionCallInProgress",
    "FunctionCallInProgressData",
    "FunctionCallStarted",
    "FunctionCallStartedData",
    "FunctionCallStopped",
    "FunctionCallStoppedData",
    "InputType",
    "LevelData",
    "LlmRawText",
    "Metrics",
    "MetricsData",
    "ProcessorValue",
    "SearchOrigin",
    "SearchResult",
    "ServerMessage",
    "ServerResponse",
    "ServerResponseData",
    "SpokenProgress",
    "SpokenStatus",
    "SttRawText",
    "SttSeconds",
    "SttUsage",
    "SystemLog",
    "TextData",
    "TimeToFirstAnswerToken",
    "TimeToFirstAudio",
    "TokenUsage",
    "TtsRawText",
    "UICommand",
    "UICommandData",
    "UIJobGroup",
    "UserAudioLevel",
    "UserInput",
    "UserInputData",
    "UserLlmText",
    "UserMuteStarted",
    "UserMuteStopped",
    "UserStartedSpeaking",
    "UserStoppedSpeaking",
    "UserTranscription",
    "UserTranscriptionData",
    "VadUserStartedSpeaking",
    "VadUserStoppedSpeaking",
    "shape",
]


class ServerMessage(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A message to the client. Subclasses add `id` where the message answers one, and `data` where it has some."""

    since: ClassVar[Version] = (0, 1, 0)
    """The protocol version that brought the message (PROTOCOL.md 1.2)."""
    gated: ClassVar[bool] = False
    """Whether clients below `since` get none, nor one whose version is not known."""

    label: Literal["rtvi-ai"] = "rtvi-ai"


# -- answers: they carry the id of what they answer ----------------------------


class BotReadyData(Struct, frozen=True):
    version: str
    """What `versions.negotiate` says to echo; not simply ours."""
    about: Json
    """A JSON object: `library`, `library_version`."""
    capabilities: Json | UnsetType = UNSET
    """A JSON object of booleans (2.2); what is absent is unknown. Sent to every version, as pipecat-ai 1.14.0 does."""


class BotReady(ServerMessage, frozen=True, kw_only=True, tag="bot-ready"):
    """The answer to client-ready; `id` is empty when there was none yet (pipecat-ai 1.14.0, observed)."""

    id: str
    data: BotReadyData


class ErrorResponseData(Struct, frozen=True):
    error: str


class ErrorResponse(ServerMessage, frozen=True, kw_only=True, tag="error-response"):
    """The refusal of one message. It settles the client's request."""

    id: str
    data: ErrorResponseData


class ServerResponseData(Struct, frozen=True):
    t: str
    """The request's own `t`."""
    d: Json | UnsetType = UNSET


class ServerResponse(ServerMessage, frozen=True, kw_only=True, tag="server-response"):
    """The answer to a client-message."""

    since: ClassVar[Version] = (1, 0, 0)

    id: str
    data: ServerResponseData


# -- events of the session -----------------------------------------------------


class ErrorData(Struct, frozen=True):
    error: str
    fatal: bool = False
    """True makes client-js disconnect itself."""
    message: str | UnsetType = UNSET
    """The same text: the field that client-js up to 1.13.0 reads (PROTOCOL.md 1.4)."""


class Error(ServerMessage, frozen=True, kw_only=True, tag="error"):
    """An error that answers no message."""

    data: ErrorData

    @classmethod
    def of(cls, text: str, *, fatal: bool = False) -> Error:
        """The message with its text in both fields, so that old and new clients show it."""
        return cls(data=ErrorData(text, fatal, text))


class ApplicationMessage(ServerMessage, frozen=True, kw_only=True, tag="server-message"):
    """The application's own message. `data` is any JSON; null is written as null (deviation D17)."""

    since: ClassVar[Version] = (0, 3, 0)

    data: Json


# -- the user ------------------------------------------------------------------


class UserStartedSpeaking(ServerMessage, frozen=True, kw_only=True, tag="user-started-speaking"):
    """The user's turn began."""


class UserStoppedSpeaking(ServerMessage, frozen=True, kw_only=True, tag="user-stopped-speaking"):
    """The user's turn ended."""


class VadUserStartedSpeaking(ServerMessage, frozen=True, kw_only=True, tag="vad-user-started-speaking"):
    """Voice activity began: raw, before it is known to be a turn."""

    since: ClassVar[Version] = (2, 0, 0)


class VadUserStoppedSpeaking(ServerMessage, frozen=True, kw_only=True, tag="vad-user-stopped-speaking"):
    """Voice activity ended."""

    since: ClassVar[Version] = (2, 0, 0)


class UserMuteStarted(ServerMessage, frozen=True, kw_only=True, tag="user-mute-started"):
    """The bot no longer listens to the user."""

    since: ClassVar[Version] = (1, 2, 0)


class UserMuteStopped(ServerMessage, frozen=True, kw_only=True, tag="user-mute-stopped"):
    """The bot listens again."""

    since: ClassVar[Version] = (1, 2, 0)


class UserTranscriptionData(Struct, frozen=True):
    text: str
    user_id: str
    timestamp: str
    """ISO 8601."""
    final: bool


class SttRawText(ServerMessage, frozen=True, kw_only=True, tag="stt-raw-text"):
    """What speech recognition returned, as it returned it."""

    since: ClassVar[Version] = (2, 2, 0)
    gated: ClassVar[bool] = True

    data: UserTranscriptionData


class UserTranscription(ServerMessage, frozen=True, kw_only=True, tag="user-transcription"):
    """What the user said. Deprecated by 2.2, and still what the SDKs read."""

    data: UserTranscriptionData


InputType: TypeAlias = Literal["transcription", "chat", "backchannel"]


class UserInputData(Struct, frozen=True):
    text: str
    input_type: InputType
    timestamp: str
    """ISO 8601."""
    final: bool
    user_id: str | UnsetType = UNSET
    msg_id: str | UnsetType = UNSET
    """The id of the send-text that this acknowledges."""


class UserInput(ServerMessage, frozen=True, kw_only=True, tag="user-input"):
    """What the user said or typed. Sent to every version (pipecat-ai 1.14.0, observed): older clients ignore it."""

    since: ClassVar[Version] = (2, 2, 0)

    data: UserInputData


class TextData(Struct, frozen=True):
    text: str


class UserLlmText(ServerMessage, frozen=True, kw_only=True, tag="user-llm-text"):
    """What the user said, as the model gets it: the last message of its context."""

    data: TextData


class LevelData(Struct, frozen=True):
    value: float
    """0 (silence) to 1."""


class UserAudioLevel(ServerMessage, frozen=True, kw_only=True, tag="user-audio-level"):
    """How loud the user is."""

    since: ClassVar[Version] = (1, 1, 0)

    data: LevelData


# -- the bot -------------------------------------------------------------------


class BotStartedSpeaking(ServerMessage, frozen=True, kw_only=True, tag="bot-started-speaking"):
    """Bot audio began to play."""


class BotStoppedSpeaking(ServerMessage, frozen=True, kw_only=True, tag="bot-stopped-speaking"):
    """Bot audio ceased."""


class BotInterrupted(ServerMessage, frozen=True, kw_only=True, tag="bot-interrupted"):
    """The user barged in. Sent to every version (pipecat-ai 1.14.0, observed)."""

    since: ClassVar[Version] = (2, 0, 0)


class BotLlmStarted(ServerMessage, frozen=True, kw_only=True, tag="bot-llm-started"):
    """A response began."""


class BotLlmText(ServerMessage, frozen=True, kw_only=True, tag="bot-llm-text"):
    """A piece of the response, as generated."""

    data: TextData


class LlmRawText(ServerMessage, frozen=True, kw_only=True, tag="llm-raw-text"):
    """A piece of the response, before anything made of it is shown."""

    since: ClassVar[Version] = (2, 2, 0)
    gated: ClassVar[bool] = True

    data: TextData


class BotLlmMarkerData(Struct, frozen=True):
    text: str
    """The marker; empty where there was none."""
    raw: str = ""
    """The response that it was found in."""
    kind: str | UnsetType = UNSET
    markers: tuple[str, ...] = ()
    """Those that were looked for."""


class BotLlmMarker(ServerMessage, frozen=True, kw_only=True, tag="bot-llm-marker"):
    """The model marked its response, such as a turn as complete. For evaluation."""

    since: ClassVar[Version] = (2, 2, 0)

    data: BotLlmMarkerData


class SearchResult(Struct, frozen=True):
    text: str
    confidence: tuple[float, ...] = ()


class SearchOrigin(Struct, frozen=True):
    site_uri: str | UnsetType = UNSET
    site_title: str | UnsetType = UNSET
    results: tuple[SearchResult, ...] = ()


class BotLlmSearchResponseData(Struct, frozen=True):
    search_result: str | UnsetType = UNSET
    rendered_content: str | UnsetType = UNSET
    origins: tuple[SearchOrigin, ...] = ()


class BotLlmSearchResponse(ServerMessage, frozen=True, kw_only=True, tag="bot-llm-search-response"):
    """What a grounded model found on the web, and where."""

    since: ClassVar[Version] = (0, 3, 0)

    data: BotLlmSearchResponseData


class BotLlmStopped(ServerMessage, frozen=True, kw_only=True, tag="bot-llm-stopped"):
    """The response ended, or was cut."""


class BotTtsStarted(ServerMessage, frozen=True, kw_only=True, tag="bot-tts-started"):
    """Synthesis began."""


class BotTtsText(ServerMessage, frozen=True, kw_only=True, tag="bot-tts-text"):
    """A piece of text as synthesised."""

    data: TextData


class TtsRawText(ServerMessage, frozen=True, kw_only=True, tag="tts-raw-text"):
    """A piece of text as synthesis was given it."""

    since: ClassVar[Version] = (2, 2, 0)
    gated: ClassVar[bool] = True

    data: TextData


class BotTtsAudioData(Struct, frozen=True):
    audio: str
    """Base64 of PCM16."""
    sample_rate: int
    """Hz."""
    num_channels: int


class BotTtsAudio(ServerMessage, frozen=True, kw_only=True, tag="bot-tts-audio"):
    """Bot audio as a message; the WebSocket's JSON dialect has no other way for it."""

    since: ClassVar[Version] = (0, 3, 0)

    data: BotTtsAudioData


class BotAudioLevel(ServerMessage, frozen=True, kw_only=True, tag="bot-audio-level"):
    """How loud the bot is."""

    since: ClassVar[Version] = (1, 1, 0)

    data: LevelData


class BotTtsStopped(ServerMessage, frozen=True, kw_only=True, tag="bot-tts-stopped"):
    """Synthesis ended."""


class BotTranscription(ServerMessage, frozen=True, kw_only=True, tag="bot-transcription"):
    """The response, sentence by sentence. Deprecated by 1.1, still sent."""

    data: TextData


SpokenStatus: TypeAlias = Literal["new", "in-progress", "completed"]


class SpokenProgress(Struct, frozen=True):
    accumulated_text: str
    remaining_text: str


class BotOutputData(Struct, frozen=True):
    """To 2.x clients and unknown ones everything, 1.x fields included, as pipecat-ai 1.14.0 does it: deployed UIs read
    `aggregated_by` only. To 1.x clients the three fields that 1.x has (deviation D15; pipecat-ai 1.1.0, observed)."""

    text: str
    aggregated_by: str
    """``sentence``, ``word``, ``code``, …"""
    spoken: bool | UnsetType = UNSET
    """Absent from progress events."""
    output_type: str | UnsetType = UNSET
    """Alias of `aggregated_by`, as `text_type` is."""
    text_type: str | UnsetType = UNSET
    segment_id: int | UnsetType = UNSET
    """1 to 2**31-1: Android parses Int32."""
    will_be_spoken: bool | UnsetType = UNSET
    spoken_status: SpokenStatus | UnsetType = UNSET
    spoken_progress: SpokenProgress | UnsetType = UNSET
    """Absent when nothing will be spoken."""


class BotOutput(ServerMessage, frozen=True, kw_only=True, tag="bot-output"):
    """A segment of what the bot says, or how much of it has been spoken (`segments` makes them)."""

    since: ClassVar[Version] = (1, 1, 0)

    data: BotOutputData


# -- function calls ------------------------------------------------------------


class FunctionCallData(Struct, frozen=True):
    function_name: str
    tool_call_id: str
    args: Json
    """A JSON object."""


class FunctionCall(ServerMessage, frozen=True, kw_only=True, tag="llm-function-call"):
    """Run a function in the client. Deprecated by 1.2; the client's handler answers it all the same."""

    data: FunctionCallData


class FunctionCallStartedData(Struct, frozen=True):
    function_name: str | UnsetType = UNSET


class FunctionCallStarted(ServerMessage, frozen=True, kw_only=True, tag="llm-function-call-started"):
    """The model wants a function; it is not told which call (PROTOCOL.md 1.4: no tool_call_id)."""

    since: ClassVar[Version] = (1, 2, 0)

    data: FunctionCallStartedData


class FunctionCallInProgressData(Struct, frozen=True):
    tool_call_id: str
    function_name: str | UnsetType = UNSET
    """Its presence makes the client run its own handler of that name."""
    arguments: Json | UnsetType = UNSET


class FunctionCallInProgress(ServerMessage, frozen=True, kw_only=True, tag="llm-function-call-in-progress"):
    """The function runs."""

    since: ClassVar[Version] = (1, 2, 0)

    data: FunctionCallInProgressData


class FunctionCallStoppedData(Struct, frozen=True):
    tool_call_id: str
    cancelled: bool
    function_name: str | UnsetType = UNSET
    result: Json | UnsetType = UNSET
    """Left out only when there is none: 0, "", [] and false are results (deviation D16)."""


class FunctionCallStopped(ServerMessage, frozen=True, kw_only=True, tag="llm-function-call-stopped"):
    """The function returned, or was cancelled."""

    since: ClassVar[Version] = (1, 2, 0)

    data: FunctionCallStoppedData


# -- measurements --------------------------------------------------------------


class ProcessorValue(Struct, frozen=True):
    """A measurement of one processor: seconds, or characters."""

    processor: str
    value: float | int
    model: str | UnsetType = UNSET


class TimeToFirstAudio(Struct, frozen=True):
    """Seconds."""

    processor: str
    ttfa: float
    ttfb: float
    leading_silence: float


class TimeToFirstAnswerToken(Struct, frozen=True):
    """Seconds."""

    processor: str
    ttfat: float
    ttfb: float
    thinking_time: float


class TokenUsage(Struct, frozen=True):
    """Of one call of a model; the wire names no processor here."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cache_read_input_tokens: int | UnsetType = UNSET
    cache_creation_input_tokens: int | UnsetType = UNSET
    reasoning_tokens: int | UnsetType = UNSET
    input_audio_tokens: int | UnsetType = UNSET
    output_audio_tokens: int | UnsetType = UNSET
    cache_read_input_audio_tokens: int | UnsetType = UNSET


class SttSeconds(Struct, frozen=True):
    audio_seconds: float


class SttUsage(Struct, frozen=True):
    processor: str
    value: SttSeconds


class MetricsData(Struct, frozen=True, omit_defaults=True):
    """What was measured, by kind (PROTOCOL.md 2.6); a kind without any is left out."""

    ttfb: tuple[ProcessorValue, ...] = ()
    """Seconds to the first byte."""
    processing: tuple[ProcessorValue, ...] = ()
    """Seconds."""
    ttfa: tuple[TimeToFirstAudio, ...] = ()
    ttfat: tuple[TimeToFirstAnswerToken, ...] = ()
    tokens: tuple[TokenUsage, ...] = ()
    characters: tuple[ProcessorValue, ...] = ()
    """Characters given to synthesis."""
    stt_usage: tuple[SttUsage, ...] = ()


class Metrics(ServerMessage, frozen=True, kw_only=True, tag="metrics"):
    """Measurements of the bot's services."""

    data: MetricsData


class SystemLog(ServerMessage, frozen=True, kw_only=True, tag="system-log"):
    """A line of the server's log: of this session's alone."""

    since: ClassVar[Version] = (1, 1, 0)

    data: TextData


# -- UI workers ----------------------------------------------------------------


class UICommandData(Struct, frozen=True):
    command: str
    payload: Json | UnsetType = UNSET


class UICommand(ServerMessage, frozen=True, kw_only=True, tag="ui-command"):
    """Have the client's page do something (`ui` has the standard commands)."""

    since: ClassVar[Version] = (1, 3, 0)

    data: UICommandData


class UIJobGroup(ServerMessage, frozen=True, kw_only=True, tag="ui-job-group"):
    """Work in the background: a group of jobs and how far they are (`ui` has its rules)."""

    since: ClassVar[Version] = (1, 4, 0)

    data: JobEvent


# -- the tables ----------------------------------------------------------------

AnyServerMessage: TypeAlias = (
    BotReady
    | ErrorResponse
    | ServerResponse
    | Error
    | ApplicationMessage
    | UserStartedSpeaking
    | UserStoppedSpeaking
    | UserTranscription
    | UserInput
    | BotStartedSpeaking
    | BotStoppedSpeaking
    | BotInterrupted
    | BotLlmStarted
    | BotLlmText
    | BotLlmStopped
    | BotTtsStarted
    | BotTtsText
    | BotTtsStopped
    | BotTranscription
    | BotOutput
    | FunctionCall
    | FunctionCallStarted
    | FunctionCallInProgress
    | FunctionCallStopped
    | VadUserStartedSpeaking
    | VadUserStoppedSpeaking
    | UserMuteStarted
    | UserMuteStopped
    | UserLlmText
    | SttRawText
    | LlmRawText
    | TtsRawText
    | BotLlmMarker
    | BotLlmSearchResponse
    | BotTtsAudio
    | UserAudioLevel
    | BotAudioLevel
    | Metrics
    | SystemLog
    | UICommand
    | UIJobGroup
)
"""Every message, as a union that msgspec decodes by `type`."""


def _tag(struct: type[ServerMessage]) -> str:
    tag = struct.__struct_config__.tag
    if not isinstance(tag, str):
        raise TypeError(f"{struct.__name__} has no wire type")
    return tag


SERVER: Final[Mapping[str, type[ServerMessage]]] = MappingProxyType(
    {_tag(struct): struct for struct in ServerMessage.__subclasses__()}
)
"""Wire type → Struct."""

_V1_ONLY_TYPES: Final = frozenset({"word", "token"})
_BACKCHANNEL_SINCE: Final[Version] = (2, 2, 0)


def _shape_bot_output(message: BotOutput, version: Version) -> BotOutput | None:
    """Which bot-output events a version gets (the table in PROTOCOL.md 1.4), and with which fields.

    Words are for 1.x, which knows no progress; progress, told by having no `spoken`, is for everybody else, and of a
    segment that is a word or token nothing (pipecat-ai 1.14.0 leaves out its `new`).
    """
    data = message.data
    if data.aggregated_by == "backchannel" and not at_least(version, _BACKCHANNEL_SINCE):
        return None
    if is_v1(version):
        legacy = BotOutputData(data.text, data.aggregated_by, data.spoken)
        return None if data.spoken is UNSET else BotOutput(data=legacy)
    return None if data.aggregated_by in _V1_ONLY_TYPES else message


SHAPES: Final[Mapping[type[ServerMessage], Callable[[Any, Version], ServerMessage | None]]] = MappingProxyType(
    {BotOutput: _shape_bot_output}
)
"""Struct → how a client's version changes it. What is not here goes to every version as it is."""


def shape(message: ServerMessage, version: Version) -> ServerMessage | None:
    """The message as a client of this version gets it; `None` when it gets none."""
    if message.gated and not at_least(version, message.since):
        return None
    shaper = SHAPES.get(type(message))
    return message if shaper is None else shaper(message, version)
