"""What a host says and reports, written once: `Bot` has these methods, and so has `session.control`, for any thread.

A report says what the host's own speech stack did; a command asks for something. Both are messages to actors by
name, so they are as safe from a foreign thread as `tell` is. What the application hands over as data is encoded here,
where the error reaches who made it: `NotJson`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from rtvi_actors import frames
from rtvi_actors.errors import quoted
from rtvi_actors.ledger import Ledger
from rtvi_actors.messages import BotReady, EndSession, Injected, OutputConfigured, SetClientReady
from rtvi_actors.protocol import server
from rtvi_actors.protocol.codec import decode_server, to_json
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.segments import MAX_ID
from rtvi_actors.protocol.server import ServerMessage

__all__ = ["Commands"]


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {type(value).__name__}")
    to_json(value)  # a lone surrogate raises NotJson
    return value


def _object(value: object, what: str) -> Json:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a mapping, not {type(value).__name__}")
    return to_json(value)


def _server_message(message: Mapping[str, Any]) -> ServerMessage:
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in server.SERVER:
        raise ValueError(f"no server message has the type {quoted(str(kind))!r}")
    try:
        return decode_server(to_json(message).raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a {kind} message: {error}") from error


class Commands:
    """Reports and commands. Each raises `Dead` (the bot's) or `SessionClosed` (the control's) when the session is
    over."""

    @abstractmethod
    def _to(self, name: str, message: Any) -> None:
        """Send to an actor of the session."""

    # -- commands ----------------------------------------------------------------------------

    def interrupt_bot(self) -> None:
        """As if the user had barged in: the running turn is cancelled, queued audio is void, open segments are
        closed."""
        self._to("bot", frames.Interruption())

    def set_bot_ready(self, about: Mapping[str, Any] | None = None) -> None:
        """Send bot-ready, in answer to the latest client-ready. `about` replaces library and version."""
        self._to("handshake", BotReady(_object(about, "about") if about else None))

    def set_client_ready(self) -> None:
        """Take the client as ready without a client-ready of its own."""
        self._to("handshake", SetClientReady())

    def send_server_message(self, data: Any) -> None:
        """A message of the application's own. Any JSON value."""
        self._to("observer", server.ApplicationMessage(data=to_json(data)))

    def send_server_response(self, message: frames.ClientMessage, data: Any = None) -> None:
        """Answer a client-message that `on_client_message` got. `None` sends no `d`, as pipecat-ai 1.14.0 does."""
        payload = msgspec.UNSET if data is None else to_json(data)
        response = server.ServerResponseData(_text(message.type, "type"), payload)
        self._to("observer", server.ServerResponse(id=_text(message.msg_id, "msg_id"), data=response))

    def send_error_response(self, message: frames.ClientMessage, error: str) -> None:
        """Refuse a client-message that `on_client_message` got, in the application's own words."""
        data = server.ErrorResponseData(_text(error, "error"))
        self._to("observer", server.ErrorResponse(id=_text(message.msg_id, "msg_id"), data=data))

    def send_error(self, error: str, fatal: bool = False) -> None:
        """An error that answers no message. `fatal` makes client-js disconnect itself."""
        self._to("observer", server.Error.of(_text(error, "error"), fatal=fatal))

    def push(self, message: ServerMessage | Mapping[str, Any]) -> None:
        """Any server message, made by hand: as its Struct, or whole as a mapping, ``{"type": …, "data": …}``.

        Raises `ValueError` for a mapping of a type that is not in `protocol.server`, or that is no such message.
        """
        self._to("observer", _server_message(message) if isinstance(message, Mapping) else message)

    def handle_message(self, message: bytes | str | Mapping[str, Any]) -> None:
        """Handle an RTVI message as if the client had sent it (JSON, or what JSON is made of)."""
        data = message.encode() if isinstance(message, str) else message
        self._to("ingress", Injected(data if isinstance(data, bytes) else to_json(data).raw))

    def handle_function_call(self, function_name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> None:
        """Have the client run a function (llm-function-call). Deprecated since protocol 1.2."""
        data = server.FunctionCallData(
            _text(function_name, "function_name"), _text(tool_call_id, "tool_call_id"), _object(arguments, "arguments")
        )
        self._to("observer", server.FunctionCall(data=data))

    def configure_output(self, skip_tts: bool | None) -> None:
        """Say that what follows is spoken or not; send-text's own switch is relative to this."""
        if skip_tts is not None and not isinstance(skip_tts, bool):
            raise TypeError(f"skip_tts must be a bool or None, not {type(skip_tts).__name__}")
        self._to("bot", frames.LLMConfigureOutput(skip_tts))
        self._to("text", OutputConfigured(skip_tts))

    def end(self, reason: str = "ended by the bot") -> None:
        """End the session when what was emitted before has left."""
        self._to("observer", EndSession(reason))

    # -- reports -----------------------------------------------------------------------------

    def user_started_speaking(self) -> None:
        """The user's turn began."""
        self._to("observer", frames.UserStartedSpeaking())

    def user_stopped_speaking(self) -> None:
        """The user's turn ended."""
        self._to("observer", frames.UserStoppedSpeaking())

    def transcription(self, text: str, user_id: str = "", timestamp: str | None = None, final: bool = True) -> None:
        """What the user said; interim where not `final`. `timestamp` is ISO 8601, now by default."""
        when = timestamp or Ledger.timestamp()
        self._to("observer", frames.Transcription(_text(text, "text"), _text(user_id, "user_id"), when, final))

    def llm_started(self) -> None:
        """A response begins (`Bot.response` reports it itself; so with the next two)."""
        self._to("observer", frames.LLMFullResponseStart())

    def llm_text(self, text: str) -> None:
        """A piece of the response."""
        self._to("observer", frames.LLMText(_text(text, "text")))

    def llm_stopped(self) -> None:
        """The response ended."""
        self._to("observer", frames.LLMFullResponseEnd())

    def tts_started(self) -> None:
        """Synthesis begins."""
        self._to("observer", frames.TTSStarted())

    def tts_text(self, text: str) -> None:
        """A piece of text as synthesised."""
        self._to("observer", frames.TTSText(_text(text, "text")))

    def tts_stopped(self) -> None:
        """Synthesis ended."""
        self._to("observer", frames.TTSStopped())

    def bot_started_speaking(self) -> None:
        """Bot audio plays. Only for audio that does not go through the session: playout reports its own."""
        self._to("observer", frames.BotStartedSpeaking())

    def bot_stopped_speaking(self) -> None:
        """Bot audio ceased."""
        self._to("observer", frames.BotStoppedSpeaking())

    def bot_text(
        self, text: str, *, kind: str = "sentence", will_be_spoken: bool = True, segment_id: int | None = None
    ) -> None:
        """A segment of what the bot says or shows (bot-output). Name it by `segment_id` to report its progress."""
        if segment_id is not None and not 1 <= segment_id <= MAX_ID:
            raise ValueError(f"segment_id must be within 1 and {MAX_ID}")
        self._to("observer", frames.AggregatedText(_text(text, "text"), kind, will_be_spoken, segment_id))

    def bot_spoken(self, segment_id: int, chars: int | None = None) -> None:
        """So many characters of a segment have been spoken; without a number, all."""
        self._to("observer", frames.SpokenText(segment_id, chars))

    def error(self, text: str, fatal: bool = False) -> None:
        """Something failed in the host's stack: as `send_error`."""
        self.send_error(text, fatal)
