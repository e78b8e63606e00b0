"""What goes between the router and the bot, named as the field names it (Pipecat's frames, without Pipecat).

Two directions. *To the bot*: what a client asked for. *From the bot*: what it did, for the observer and for playout.
All are frozen Structs; they travel encoded, and mean the same in every process.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

from rtvi_actors.protocol.codec import from_json
from rtvi_actors.protocol.envelope import NULL, Json

__all__ = [
    "ActorGivenUp",
    "AggregatedText",
    "BotFrame",
    "BotStartedSpeaking",
    "BotStoppedSpeaking",
    "ClientDisconnected",
    "ClientMessage",
    "ClientReady",
    "EndTask",
    "FunctionCallResult",
    "InputAudioRaw",
    "Interruption",
    "LLMConfigureOutput",
    "LLMFullResponseEnd",
    "LLMFullResponseStart",
    "LLMMessage",
    "LLMMessagesAppend",
    "LLMText",
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
    "UserStartedSpeaking",
    "UserStoppedSpeaking",
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


class LLMMessage(Struct, frozen=True):
    """One message of an LLM context."""

    role: str
    content: str


class LLMMessagesAppend(Struct, frozen=True, tag=True):
    """Append to the context, and run the LLM or not."""

    messages: tuple[LLMMessage, ...]
    run_llm: bool = True
    msg_id: str = ""
    """The id of the send-text that it came from."""


class LLMConfigureOutput(Struct, frozen=True, tag=True):
    """Whether what follows is spoken; `None` gives the choice back to the bot's own default."""

    skip_tts: bool | None


class Interruption(Struct, frozen=True, tag=True):
    """Stop what the bot is saying or computing (barge-in)."""


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
)
"""What the bot gets from the router (`Bot.on_frame`)."""


# -- from the bot ------------------------------------------------------------------


class UserStartedSpeaking(Struct, frozen=True, tag=True):
    """The user's turn began."""


class UserStoppedSpeaking(Struct, frozen=True, tag=True):
    """The user's turn ended."""


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


class AggregatedText(Struct, frozen=True, tag=True, rename={"type": "kind"}):
    """A segment of what the bot says or shows."""

    text: str
    type: str = "sentence"
    will_be_spoken: bool = True
    segment_id: int | None = None
    """Positive Int32; the observer takes the next free one where there is none."""
    interruptible: bool = True


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


class TTSText(Struct, frozen=True, tag=True):
    """A piece of text as synthesised."""

    text: str


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
