"""Client → server payloads: the `data` of each message type (PROTOCOL.md 1.3).

The Structs are strict: text is text, a boolean is true or false (deviation D28). Unknown fields are ignored everywhere
(pipecat-ai 1.14.0, observed). Adding a message type is one Struct and one row in `CLIENT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import UNSET, Struct, UnsetType, field

from rtvi_actors.protocol.envelope import Json, JsonKind
from rtvi_actors.protocol.versions import Version

__all__ = [
    "CLIENT",
    "AboutClient",
    "ClientMessage",
    "ClientPayload",
    "ClientReady",
    "ClientRow",
    "DisconnectBot",
    "FunctionCallResult",
    "RawAudio",
    "SendText",
    "SendTextOptions",
]


class ClientPayload(Struct, frozen=True):
    """The `data` of a client message. Instances are values: they travel between actors as they are."""


class ClientReady(ClientPayload, frozen=True):
    """client-ready. Both fields may be of any type: a bad one is judged by the handshake and stops nothing."""

    version: Json | UnsetType = UNSET
    about: Json | UnsetType = UNSET


class AboutClient(ClientPayload, frozen=True):
    """client-ready's `about`. One bad field drops it whole and silently (pipecat-ai 1.14.0, observed)."""

    library: str
    library_version: str | None = None
    platform: str | None = None
    platform_version: str | None = None
    platform_details: Json | None = None
    """A JSON object."""


class DisconnectBot(ClientPayload, frozen=True):
    """disconnect-bot: end the bot in good order. No answer."""


class ClientMessage(ClientPayload, frozen=True):
    """client-message: the application's own message or request of type `t`."""

    t: str
    d: Json | UnsetType = UNSET
    """Any JSON; absent and null mean the same to an application."""


class SendTextOptions(ClientPayload, frozen=True):
    """How to take a send-text. Null for one is an error, null for all of them is not (pipecat-ai 1.14.0, observed)."""

    run_immediately: bool = True
    """Interrupt the bot and run the turn now; otherwise only append."""
    audio_response: bool = True
    """Whether the answer is spoken."""


class SendText(ClientPayload, frozen=True):
    """send-text: the user's turn, typed."""

    content: str
    options: SendTextOptions | None = None


class RawAudio(ClientPayload, frozen=True):
    """raw-audio and raw-audio-batch: one shape, for their names mean nothing (pipecat-ai 1.14.0, observed).

    A batch that is null or empty falls back to the single chunk; with both, the batch counts. The contents are
    checked by `pcm`.
    """

    sample_rate: int = field(name="sampleRate")
    """Hz, unchecked."""
    num_channels: int = field(name="numChannels")
    """Unchecked."""
    audio: str | None = field(default=None, name="base64Audio")
    batch: tuple[str | None, ...] | None = field(default=None, name="base64AudioBatch")
    """Null and empty entries are skipped (pipecat-ai 1.14.0, observed)."""


class FunctionCallResult(ClientPayload, frozen=True):
    """llm-function-call-result: what the client's function returned."""

    function_name: str
    tool_call_id: str
    arguments: Json
    """A JSON object."""
    result: Json
    """A JSON object or text, nothing else (pipecat-ai 1.14.0, observed)."""


class ClientRow(Struct, frozen=True):
    """One message type."""

    struct: type[Struct]
    since: Version
    """The protocol version that brought it."""
    data_optional: bool = False
    """Whether `data` may be absent or null."""
    kinds: Mapping[str, tuple[JsonKind, ...]] = MappingProxyType({})
    """For `Json` fields that are not entirely schemaless: the JSON types they may have."""


CLIENT: Final[Mapping[str, ClientRow]] = MappingProxyType(
    {
        "client-ready": ClientRow(ClientReady, (0, 1, 0), data_optional=True),
        "disconnect-bot": ClientRow(DisconnectBot, (0, 3, 0), data_optional=True),
        "client-message": ClientRow(ClientMessage, (1, 0, 0)),
        "send-text": ClientRow(SendText, (1, 1, 0)),
        "raw-audio": ClientRow(RawAudio, (0, 3, 0)),
        "raw-audio-batch": ClientRow(RawAudio, (0, 3, 0)),
        "llm-function-call-result": ClientRow(
            FunctionCallResult, (0, 1, 0), kinds={"arguments": ("object",), "result": ("object", "string")}
        ),
    }
)
"""Wire type → row. A type that is not here is answered with `UnsupportedType`."""
