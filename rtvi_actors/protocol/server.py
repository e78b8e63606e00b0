"""Server → client messages (PROTOCOL.md 1.4). Each Struct *is* the wire message: one encoder call writes it whole.

A message type is one Struct, with the protocol version that brought it in `since`. Optional fields are left out when
`UNSET`; a field is never null, except inside `Json`. What a client's version changes is in `SHAPES`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.versions import Version, at_least, is_v1

__all__ = [
    "SERVER",
    "SHAPES",
    "AnyServerMessage",
    "ApplicationMessage",
    "BotInterrupted",
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
    "ServerMessage",
    "ServerResponse",
    "ServerResponseData",
    "SpokenProgress",
    "SpokenStatus",
    "TextData",
    "UserInput",
    "UserInputData",
    "UserStartedSpeaking",
    "UserStoppedSpeaking",
    "UserTranscription",
    "UserTranscriptionData",
    "shape",
]


class ServerMessage(Struct, frozen=True, kw_only=True, tag_field="type"):
    """A message to the client. Subclasses add `id` where the message answers one, and `data` where it has some."""

    since: ClassVar[Version] = (0, 1, 0)
    """The protocol version that brought the message (PROTOCOL.md 1.2)."""

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


class UserTranscriptionData(Struct, frozen=True):
    text: str
    user_id: str
    timestamp: str
    """ISO 8601."""
    final: bool


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


# -- the bot -------------------------------------------------------------------


class TextData(Struct, frozen=True):
    text: str


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


class BotLlmStopped(ServerMessage, frozen=True, kw_only=True, tag="bot-llm-stopped"):
    """The response ended, or was cut."""


class BotTtsStarted(ServerMessage, frozen=True, kw_only=True, tag="bot-tts-started"):
    """Synthesis began."""


class BotTtsText(ServerMessage, frozen=True, kw_only=True, tag="bot-tts-text"):
    """A piece of text as synthesised."""

    data: TextData


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
    """1.x and 2.x fields side by side, as pipecat-ai 1.14.0 sends them; versions differ in which events they get."""

    text: str
    output_type: str
    """``sentence``, ``word``, ``code``, … Deployed UIs read its alias `aggregated_by` only."""
    text_type: str
    """Alias of `output_type`."""
    aggregated_by: str
    """Alias of `output_type`."""
    segment_id: int
    """1 to 2**31-1: Android parses Int32."""
    will_be_spoken: bool
    spoken_status: SpokenStatus
    spoken: bool | UnsetType = UNSET
    """Absent from progress events."""
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
    """Which bot-output events a version gets (the table in PROTOCOL.md 1.4).

    A spoken word is for 1.x, which knows no progress; progress, told by having no `spoken`, is for everybody else.
    """
    data = message.data
    if data.output_type == "backchannel" and not at_least(version, _BACKCHANNEL_SINCE):
        return None
    if is_v1(version):
        return None if data.spoken is UNSET else message
    return None if data.spoken is True and data.output_type in _V1_ONLY_TYPES else message


SHAPES: Final[Mapping[type[ServerMessage], Callable[[Any, Version], ServerMessage | None]]] = MappingProxyType(
    {BotOutput: _shape_bot_output}
)
"""Struct → how a client's version changes it. What is not here goes to every version as it is."""


def shape(message: ServerMessage, version: Version) -> ServerMessage | None:
    """The message as a client of this version gets it; `None` when it gets none."""
    shaper = SHAPES.get(type(message))
    return message if shaper is None else shaper(message, version)
