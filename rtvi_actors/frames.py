"""What goes between the router and the bot, named as the field names it (Pipecat's frames, without Pipecat).

Two directions. *To the bot*: what a client asked for. *From the bot*: what it did, for the observer and for playout.
All are frozen Structs; they travel encoded, and mean the same in every process.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

from rtvi_actors.protocol.codec import from_json, read_snapshot
from rtvi_actors.protocol.envelope import NULL, Json
from rtvi_actors.protocol.server import MetricsData
from rtvi_actors.protocol.ui import JobEvent, Snapshot

__all__ = [
    "ActorGivenUp",
    "AggregatedText",
    "AggregatedTextProgress",
    "BotFrame",
    "BotStartedSpeaking",
    "BotStoppedSpeaking",
    "ClientCallEnded",
    "ClientDisconnected",
    "ClientMessage",
    "ClientReady",
    "ConfigureObserver",
    "EndTask",
    "FromSource",
    "FunctionCall",
    "FunctionCallInProgress",
    "FunctionCallResult",
    "FunctionCallStopped",
    "FunctionCallsStarted",
    "InputAudioRaw",
    "InputDTMF",
    "Interruption",
    "JobReport",
    "JobsLost",
    "LLMConfigureOutput",
    "LLMFullResponseEnd",
    "LLMFullResponseStart",
    "LLMMarkerResponse",
    "LLMMessage",
    "LLMMessagesAppend",
    "LLMText",
    "Metrics",
    "OutputAudioRaw",
    "Request",
    "RequestExpired",
    "SpeechLost",
    "SpokenText",
    "StartAudio",
    "TTSStarted",
    "TTSStopped",
    "TTSText",
    "Transcription",
    "UICancelJobGroup",
    "UIEvent",
    "UISnapshot",
    "UserBackchannel",
    "UserFile",
    "UserLLMText",
    "UserMuteStarted",
    "UserMuteStopped",
    "UserStartedSpeaking",
    "UserStoppedSpeaking",
    "UserText",
    "VADUserStartedSpeaking",
    "VADUserStoppedSpeaking",
]


# -- to the bot ------------------------------------------------------------------


class InputAudioRaw(Struct, frozen=True, tag=True, omit_defaults=True):
    """Audio from the client: PCM16 little-endian, interleaved, whole frames, checked."""

    audio: bytes
    sample_rate: int
    """Hz."""
    num_channels: int
    more: bool = False
    """Whether the same client message (a batch) has more chunks behind this one."""


class LLMMessage(Struct, frozen=True, omit_defaults=True):
    """One message of an LLM context."""

    role: str
    content: str
    """Text. Of a content that has parts, the texts of them, joined by a space."""
    parts: Json | None = None
    """The content as the client sent it, where it was no text (append-to-context)."""


class UserFile(Struct, frozen=True, omit_defaults=True):
    """A file from the client: its bytes, or where they are."""

    format: str
    """MIME type, as the client says it."""
    name: str | None = None
    data: bytes | None = None
    """The content, where it came with the message or was uploaded before."""
    url: str | None = None
    """Where it is otherwise. The policy has checked its scheme and nothing else: fetch it with care."""
    media_type: str | None = None
    """The MIME type of the data URL that it came as."""
    width: int | None = None
    """Pixels, as the client says it; so `height`."""
    height: int | None = None
    options: Json | None = None
    """A JSON object: the client's `custom_options`."""

    @property
    def is_image(self) -> bool:
        return self.format.startswith("image/")


class LLMMessagesAppend(Struct, frozen=True, tag=True, omit_defaults=True):
    """Append to the context, and run the LLM or not."""

    messages: tuple[LLMMessage, ...]
    run_llm: bool = True
    msg_id: str = ""
    """The id of the send-text, send-file or append-to-context that it came from."""
    files: tuple[UserFile, ...] = ()
    """What belongs to the last message (send-file)."""
    typed: bool = True
    """Whether the user wrote it: then the client gets a user-input for it."""


class LLMConfigureOutput(Struct, frozen=True, tag=True):
    """Whether what follows is spoken; `None` gives the choice back to the bot's own default."""

    skip_tts: bool | None


class Interruption(Struct, frozen=True, tag=True, omit_defaults=True):
    """Stop what the bot is saying or computing (barge-in)."""

    token: int = 0
    """Names it where somebody waits for the interrupted turn to be committed (`TurnCommitted`)."""


class InputDTMF(Struct, frozen=True, tag=True):
    """Keys of the client's telephone keypad, in order: each one of ``0123456789*#``."""

    buttons: tuple[str, ...]


class UIEvent(Struct, frozen=True, tag=True):
    """Something happened in the client's page."""

    msg_id: str
    event: str
    payload: Json = NULL

    @property
    def data(self) -> Any:
        """The payload as Python."""
        return from_json(self.payload)


class UISnapshot(Struct, frozen=True, tag=True):
    """The client's page as an accessibility tree."""

    msg_id: str
    raw: Json
    """A JSON object, checked: `protocol.ui.Snapshot` as the client wrote it."""

    @property
    def tree(self) -> Snapshot:
        """Typed; what the protocol does not name is in each node's `extra`. Made anew each time: keep it."""
        return read_snapshot(self.raw)


class UICancelJobGroup(Struct, frozen=True, tag=True):
    """The user wants no more of a job group."""

    msg_id: str
    job_id: str
    reason: str | None = None


class ClientCallEnded(Struct, frozen=True, tag=True):
    """tools → bot: the client has answered a `call_client`, or has not in time."""

    tool_call_id: str
    result: Json | None = None
    """A JSON object or text; `None`: its deadline has passed."""


class FunctionCallResult(Struct, frozen=True, tag=True):
    """What a function that ran in the client returned."""

    function_name: str
    tool_call_id: str
    arguments: Json
    """A JSON object."""
    result: Json
    """A JSON object or text."""


class ClientMessage(Struct, frozen=True, tag=True, rename={"type": "kind"}):
    """A client-message of a type that no handler declares. Keep it to answer later."""

    msg_id: str
    type: str
    payload: Json = NULL

    @property
    def data(self) -> Any:
        """The payload as Python."""
        return from_json(self.payload)


class Request(Struct, frozen=True, tag=True, rename={"type": "kind"}):
    """A client-message of a declared type. `token` pairs it with its answer; 0 where none is expected."""

    token: int
    msg_id: str
    type: str
    payload: bytes
    """JSON, as the client wrote it."""


class RequestExpired(Struct, frozen=True, tag=True):
    """The deadline of a request has passed and the client has its error: its handler need not go on."""

    token: int


class ClientReady(Struct, frozen=True, tag=True):
    """The client has said ready; it may do so again."""

    version: tuple[int, int, int]
    """(0, 0, 0) where it named none that we serve."""
    library: str = ""
    library_version: str = ""
    platform: str = ""


class StartAudio(Struct, frozen=True, tag=True):
    """Input audio should flow from now on (Pipecat's InputTransportStartAudioStreamingFrame)."""


class EndTask(Struct, frozen=True, tag=True):
    """The client asks the bot to end, in good order (disconnect-bot)."""


class ActorGivenUp(Struct, frozen=True, tag=True):
    """An actor of the session has crashed too often and is not restarted any more: the session ends."""

    name: str
    """Its name within the session, such as ``audio``."""


class ClientDisconnected(Struct, frozen=True, tag=True):
    """The session ends. Once, last."""

    reason: str


BotFrame: TypeAlias = (
    InputAudioRaw
    | LLMMessagesAppend
    | LLMConfigureOutput
    | Interruption
    | FunctionCallResult
    | ClientMessage
    | Request
    | RequestExpired
    | ClientReady
    | StartAudio
    | EndTask
    | ActorGivenUp
    | ClientDisconnected
    | InputDTMF
    | UIEvent
    | UISnapshot
    | UICancelJobGroup
    | ClientCallEnded
)
"""What the bot gets from the router (`Bot.on_frame`)."""


# -- from the bot ------------------------------------------------------------------


class UserStartedSpeaking(Struct, frozen=True, tag=True):
    """The user's turn began."""


class UserStoppedSpeaking(Struct, frozen=True, tag=True):
    """The user's turn ended."""


class VADUserStartedSpeaking(Struct, frozen=True, tag=True):
    """Voice activity began."""


class VADUserStoppedSpeaking(Struct, frozen=True, tag=True):
    """Voice activity ended."""


class UserMuteStarted(Struct, frozen=True, tag=True):
    """The bot no longer listens."""


class UserMuteStopped(Struct, frozen=True, tag=True):
    """The bot listens again."""


class UserBackchannel(Struct, frozen=True, tag=True):
    """The user said something while listening, such as "mhm": no turn."""

    text: str
    user_id: str
    timestamp: str
    """ISO 8601."""


class UserText(Struct, frozen=True, tag=True):
    """The user typed something, and it has arrived."""

    text: str
    msg_id: str
    timestamp: str
    """ISO 8601."""


class UserLLMText(Struct, frozen=True, tag=True):
    """What the model gets of the user."""

    text: str


class Transcription(Struct, frozen=True, tag=True):
    """What the user said."""

    text: str
    user_id: str
    timestamp: str
    """ISO 8601."""
    final: bool


class LLMFullResponseStart(Struct, frozen=True, tag=True):
    """A response begins."""


class LLMText(Struct, frozen=True, tag=True):
    """A piece of the response. `shown` makes it bot-output as well, sentence by sentence, not to be spoken."""

    text: str
    shown: bool = False
    whole: bool = False
    """Whether it is a sentence of its own, whose bot-output is a segment that is reported apart."""


class LLMFullResponseEnd(Struct, frozen=True, tag=True):
    """The response ended, or was cut."""

    shown: bool = False
    """Whether the unfinished sentence is bot-output too."""
    if_open: bool = False
    """Whether it may find no response open: what ends one that a crash may have cut."""


class LLMMarkerResponse(Struct, frozen=True, tag=True):
    """The model marked its response."""

    raw: str
    marker: str = ""
    kind: str | None = None
    markers: tuple[str, ...] = ()


class AggregatedText(Struct, frozen=True, tag=True, rename={"type": "kind"}):
    """A segment of what the bot says or shows."""

    text: str
    type: str = "sentence"
    will_be_spoken: bool = True
    segment_id: int | None = None
    """Positive Int32; the observer takes the next free one where there is none."""
    interruptible: bool = True
    with_speech: bool | None = None
    """Whether it waits for the bot to speak: by default, if it will be spoken."""


class AggregatedTextProgress(Struct, frozen=True, tag=True):
    """So much of a segment has been spoken, as a speech stack with word timestamps says it."""

    segment_id: int
    accumulated_text: str
    remaining_text: str


class SpokenText(Struct, frozen=True, tag=True):
    """So much of a segment has been spoken."""

    segment_id: int
    chars: int | None = None
    """`None`: all of it."""


class SpeechLost(Struct, frozen=True, tag=True):
    """What of a segment has not been spoken yet never will be: its audio was refused or dropped."""

    segment_id: int


class TTSStarted(Struct, frozen=True, tag=True):
    """Synthesis begins."""


class TTSText(Struct, frozen=True, tag=True, rename={"type": "kind"}):
    """A piece of text as synthesised. One that belongs to a segment says how far that has been spoken, too."""

    text: str
    type: str = "sentence"
    """``word`` and ``token`` are parts of their segment; anything else is the whole of it."""
    segment_id: int | None = None
    spoken: bool = False
    """Whether it is bot-output: a segment of its own, where it names none."""


class TTSStopped(Struct, frozen=True, tag=True):
    """Synthesis ended."""


class BotStartedSpeaking(Struct, frozen=True, tag=True):
    """Bot audio plays."""


class BotStoppedSpeaking(Struct, frozen=True, tag=True):
    """Bot audio has ceased."""


class OutputAudioRaw(Struct, frozen=True, tag=True):
    """Audio for the client: PCM16 little-endian, interleaved, whole frames."""

    audio: bytes
    sample_rate: int
    """Hz."""
    num_channels: int = 1
    segment_id: int = 0
    """The segment that it speaks; 0 for none."""
    text: str = ""
    """That segment's text: progress is reported by its words."""


# -- function calls, measurements, jobs ----------------------------------------------


class FunctionCall(Struct, frozen=True):
    """A function that the model wants."""

    function_name: str
    tool_call_id: str
    arguments: Json
    """A JSON object."""


class FunctionCallsStarted(Struct, frozen=True, tag=True):
    """The model wants functions."""

    calls: tuple[FunctionCall, ...]


class FunctionCallInProgress(Struct, frozen=True, tag=True):
    """One of them runs."""

    call: FunctionCall


class FunctionCallStopped(Struct, frozen=True, tag=True):
    """One of them has returned (`result`), or was cancelled."""

    function_name: str
    tool_call_id: str
    result: Json | None = None
    """`None`: there is none."""
    cancelled: bool = False


class Metrics(Struct, frozen=True, tag=True):
    """What was measured."""

    data: MetricsData


class JobReport(Struct, frozen=True, tag=True):
    """A step of a job group."""

    event: JobEvent


class JobsLost(Struct, frozen=True, tag=True):
    """The bot has crashed: what it was working on in the background ends as cancelled."""


class ConfigureObserver(Struct, frozen=True, tag=True):
    """What is reported changes from here on. `token` names the new parameters in the ledger."""

    token: int


class FromSource(Struct, frozen=True, tag=True):
    """A report of one of several sources (`ObserverParams.ignored_sources`)."""

    source: str
    report: bytes
    """Encoded for the observer already."""
