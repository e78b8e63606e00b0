"""rtvi_actors: the RTVI server for any Python bot process, as supervised actors.

Public names only. Importing this package imports no extra; `asgi` and `client` load theirs when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rtvi_actors.bot import Bot, Response
from rtvi_actors.concern import Concern
from rtvi_actors.declared import message, on, request
from rtvi_actors.errors import (
    ActorError,
    AskTimeout,
    ClientCallCancelled,
    ClientCallFailed,
    ClientCallTimeout,
    ClientError,
    ClientResultInvalid,
    Crash,
    CyclicAsk,
    Dead,
    DeclarationError,
    Fenced,
    HandlerFailed,
    HandlerTimeout,
    InvalidData,
    InvalidEnvelope,
    JobGroupError,
    NameTaken,
    NoFiles,
    NoResampler,
    NoSystem,
    NotJson,
    NotRtvi,
    Overloaded,
    Rejected,
    RequestError,
    RestartLimit,
    RtviError,
    SessionClosed,
    SessionError,
    StartFailed,
    TooLarge,
    TooManyClientCalls,
    Undeclared,
    Unknown,
    UnknownCall,
    UnsupportedType,
    VersionRefused,
    WouldBlock,
)
from rtvi_actors.files import FileStore
from rtvi_actors.frames import (
    ActorGivenUp,
    AggregatedText,
    BotStartedSpeaking,
    BotStoppedSpeaking,
    ClientDisconnected,
    ClientMessage,
    ClientReady,
    EndTask,
    FunctionCall,
    FunctionCallResult,
    InputAudioRaw,
    InputDTMF,
    Interruption,
    LLMConfigureOutput,
    LLMFullResponseEnd,
    LLMFullResponseStart,
    LLMMessage,
    LLMMessagesAppend,
    LLMText,
    OutputAudioRaw,
    Request,
    RequestExpired,
    SpokenText,
    StartAudio,
    Transcription,
    TTSStarted,
    TTSStopped,
    TTSText,
    UICancelJobGroup,
    UIEvent,
    UISnapshot,
    UserFile,
    UserStartedSpeaking,
    UserStoppedSpeaking,
)
from rtvi_actors.messages import Received
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.files import FilePolicy
from rtvi_actors.reporting import FunctionCallReportLevel, ObserverParams
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.registry import ActorStatistics, Inspection, statistics
from rtvi_actors.runtime.signals import Books, DeadLetter, Terminated
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Escalation, Supervisor
from rtvi_actors.runtime.system import ActorSystem, start_blocking_system
from rtvi_actors.runtime.threads import ThreadingActor
from rtvi_actors.runtime.watchdog import StuckHandler
from rtvi_actors.session import (
    CustomActor,
    Session,
    SessionOptions,
    SessionStatistics,
    open_blocking_session,
    open_session,
)

if TYPE_CHECKING:
    from rtvi_actors.server import asgi

__all__ = [
    "ActorError",
    "ActorFuture",
    "ActorGivenUp",
    "ActorRef",
    "ActorStatistics",
    "ActorSystem",
    "AggregatedText",
    "AnyioActor",
    "AskTimeout",
    "Backoff",
    "Books",
    "Bot",
    "BotStartedSpeaking",
    "BotStoppedSpeaking",
    "ChildSpec",
    "ClientCallCancelled",
    "ClientCallFailed",
    "ClientCallTimeout",
    "ClientDisconnected",
    "ClientError",
    "ClientMessage",
    "ClientReady",
    "ClientResultInvalid",
    "Concern",
    "Crash",
    "CustomActor",
    "CyclicAsk",
    "Dead",
    "DeadLetter",
    "DeclarationError",
    "EndTask",
    "Escalation",
    "Fenced",
    "FilePolicy",
    "FileStore",
    "FunctionCall",
    "FunctionCallReportLevel",
    "FunctionCallResult",
    "GroupSpec",
    "HandlerFailed",
    "HandlerTimeout",
    "InputAudioRaw",
    "InputDTMF",
    "Inspection",
    "Interruption",
    "InvalidData",
    "InvalidEnvelope",
    "JobGroupError",
    "Json",
    "LLMConfigureOutput",
    "LLMFullResponseEnd",
    "LLMFullResponseStart",
    "LLMMessage",
    "LLMMessagesAppend",
    "LLMText",
    "NameTaken",
    "NoFiles",
    "NoResampler",
    "NoSystem",
    "NotJson",
    "NotRtvi",
    "ObserverParams",
    "OutputAudioRaw",
    "Overloaded",
    "Received",
    "Rejected",
    "Request",
    "RequestError",
    "RequestExpired",
    "Response",
    "RestartLimit",
    "RtviError",
    "Session",
    "SessionClosed",
    "SessionError",
    "SessionOptions",
    "SessionStatistics",
    "SpokenText",
    "StartAudio",
    "StartFailed",
    "StuckHandler",
    "Supervisor",
    "TTSStarted",
    "TTSStopped",
    "TTSText",
    "Terminated",
    "ThreadingActor",
    "TooLarge",
    "TooManyClientCalls",
    "Transcription",
    "UICancelJobGroup",
    "UIEvent",
    "UISnapshot",
    "Undeclared",
    "Unknown",
    "UnknownCall",
    "UnsupportedType",
    "UserFile",
    "UserStartedSpeaking",
    "UserStoppedSpeaking",
    "VersionRefused",
    "WouldBlock",
    "asgi",
    "message",
    "on",
    "open_blocking_session",
    "open_session",
    "request",
    "start_blocking_system",
    "statistics",
]


def __getattr__(name: str) -> Any:
    """`asgi` needs the extra `server`, so it is imported when it is first asked for."""
    if name == "asgi":
        from rtvi_actors.server import asgi

        return asgi
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
