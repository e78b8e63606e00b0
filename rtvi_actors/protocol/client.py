"""Client → server payloads: the `data` of each message type (PROTOCOL.md 1.3).

The Structs are strict: text is text, a boolean is true or false (deviation D28). Unknown fields are ignored everywhere
(pipecat-ai 1.14.0, observed). Adding a message type is one Struct and one row in `CLIENT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType, field

from rtvi_actors.protocol.envelope import Json, JsonKind
from rtvi_actors.protocol.versions import Version

__all__ = [
    "CLIENT",
    "AboutClient",
    "AppendToContext",
    "ClientMessage",
    "ClientPayload",
    "ClientReady",
    "ClientRow",
    "DisconnectBot",
    "Dtmf",
    "DtmfButton",
    "File",
    "FileSource",
    "FunctionCallResult",
    "RawAudio",
    "SendFile",
    "SendFileOptions",
    "SendText",
    "SendTextOptions",
    "UICancelJobGroup",
    "UICancelTask",
    "UIEvent",
    "UISnapshot",
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


class FileSource(ClientPayload, frozen=True):
    """Where a file is: in the message, or behind a URL. Bytes count where both are there, whatever `type` says
    (pipecat-ai 1.14.0, observed). The contents are checked by `files`."""

    type: Literal["bytes", "url"] | UnsetType = UNSET
    bytes: str | UnsetType = UNSET
    """Base64, or a data URL."""
    url: str | UnsetType = UNSET
    width: int | None = None
    """Pixels, of an image; unchecked, as `height` is."""
    height: int | None = None


class File(ClientPayload, frozen=True):
    """A file as the client names it: what an upload has given back, too."""

    format: str
    """MIME type."""
    source: FileSource
    name: str | None = None


class SendFileOptions(ClientPayload, frozen=True):
    """How to take a send-file."""

    run_immediately: bool = True
    audio_response: bool = True
    custom_options: Json | None = None
    """A JSON object, for the application."""


class SendFile(ClientPayload, frozen=True):
    """send-file: the user's turn, with a file."""

    content: str
    file: File
    options: SendFileOptions | None = None


class AppendToContext(ClientPayload, frozen=True):
    """append-to-context: deprecated by 1.1, and still what client-js sends for `appendToContext`."""

    role: str
    content: Json
    """Text, or parts as an LLM's API has them."""
    run_immediately: bool = False


DtmfButton: TypeAlias = Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "*", "#"]


class Dtmf(ClientPayload, frozen=True):
    """dtmf: keys of a telephone, in order. Protocol 2.0 has one of them, as `button`."""

    buttons: tuple[DtmfButton, ...] | UnsetType = UNSET
    button: DtmfButton | UnsetType = UNSET


class UIEvent(ClientPayload, frozen=True):
    """ui-event: something happened in the client's page."""

    event: str
    payload: Json | None = None


class UISnapshot(ClientPayload, frozen=True):
    """ui-snapshot: the page as an accessibility tree, whole each time. `ui` reads it."""

    tree: Json


class UICancelJobGroup(ClientPayload, frozen=True):
    """ui-cancel-job-group: the user wants no more of it."""

    job_id: str
    reason: str | None = None


class UICancelTask(ClientPayload, frozen=True):
    """ui-cancel-task: the same, as protocol 1.3 named it."""

    task_id: str
    reason: str | None = None


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
    """Whatever the function returned: client-js 1.13.1 sends it as it is, null aside."""


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
        "llm-function-call-result": ClientRow(FunctionCallResult, (0, 1, 0), kinds={"arguments": ("object",)}),
        "send-file": ClientRow(SendFile, (2, 2, 0)),
        "append-to-context": ClientRow(AppendToContext, (1, 0, 0)),
        "dtmf": ClientRow(Dtmf, (2, 0, 0)),
        "ui-event": ClientRow(UIEvent, (1, 3, 0)),
        "ui-snapshot": ClientRow(UISnapshot, (1, 3, 0), kinds={"tree": ("object",)}),
        "ui-cancel-job-group": ClientRow(UICancelJobGroup, (1, 4, 0)),
        "ui-cancel-task": ClientRow(UICancelTask, (1, 3, 0)),
    }
)
"""Wire type → row. A type that is not here is answered with `UnsupportedType`."""
