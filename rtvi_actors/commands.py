"""What a host says, written once: `Bot` has these methods, and so has `session.control`, for any thread.

A command asks for something; a report says what the host's own speech stack did (reports.py). Both are messages to
actors by name, so they are as safe from a foreign thread as `tell` is. What the application hands over as data is
encoded here, where the error reaches who made it: `NotJson`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from rtvi_actors import frames
from rtvi_actors.errors import quoted
from rtvi_actors.ledger import Ledger
from rtvi_actors.messages import BotReady, EndSession, Injected, OutputConfigured, SetClientReady, TurnCommitted
from rtvi_actors.protocol import server
from rtvi_actors.protocol.codec import decode_server, to_json
from rtvi_actors.protocol.server import ServerMessage
from rtvi_actors.redaction import redact
from rtvi_actors.reporting import checked_changes
from rtvi_actors.reports import Reports, checked_flag, checked_object, checked_text
from rtvi_actors.runtime.context import later
from rtvi_actors.runtime.mailbox import encode
from rtvi_actors.ui_commands import UICommands

__all__ = ["Commands", "Source"]


def _server_message(message: Mapping[str, Any]) -> ServerMessage:
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in server.SERVER:
        raise ValueError(f"no server message has the type {quoted(str(kind))!r}")
    try:
        return decode_server(to_json(message).raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a {kind} message: {error}") from error


class Source(Reports):
    """One of several sources of reports (`Commands.source`)."""

    def __init__(self, commands: Commands, name: str) -> None:
        self._commands = commands
        self._name = name

    def _to(self, name: str, message: Any) -> None:
        if name == "observer":
            message = frames.FromSource(self._name, encode(message))
        elif self._name in self._commands.ledger.observer.ignored_sources:  # a level, which has no place in any order
            return
        self._commands._to(name, message)


class Commands(Reports, UICommands):
    """Commands, and reports. Each raises `Dead` (the bot's) or `SessionClosed` (the control's) when the session is
    over."""

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """The session's books."""

    def interrupt_bot(self) -> None:
        """As if the user had barged in: the running turn is cancelled, queued audio is void, open segments are
        closed."""
        self._to("bot", frames.Interruption())

    def set_bot_ready(self, about: Mapping[str, Any] | None = None) -> None:
        """Send bot-ready, in answer to the latest client-ready. `about` replaces library and version."""
        self._to("handshake", BotReady(checked_object(about, "about") if about else None))

    def set_client_ready(self) -> None:
        """Take the client as ready without a client-ready of its own."""
        self._to("handshake", SetClientReady())

    def send_server_message(self, data: Any) -> None:
        """A message of the application's own. Any JSON value."""
        self._to("observer", server.ApplicationMessage(data=to_json(data)))

    def send_server_response(self, message: frames.ClientMessage, data: Any = None) -> None:
        """Answer a client-message that `on_client_message` got. `None` sends no `d`, as pipecat-ai 1.14.0 does."""
        payload = msgspec.UNSET if data is None else to_json(data)
        response = server.ServerResponseData(checked_text(message.type, "type"), payload)
        self._to("observer", server.ServerResponse(id=checked_text(message.msg_id, "msg_id"), data=response))

    def send_error_response(self, message: frames.ClientMessage, error: str) -> None:
        """Refuse a client-message that `on_client_message` got, in the application's own words."""
        data = server.ErrorResponseData(checked_text(error, "error"))
        self._to("observer", server.ErrorResponse(id=checked_text(message.msg_id, "msg_id"), data=data))

    def send_error(self, error: str, fatal: bool = False) -> None:
        """An error that answers no message, its secrets masked (redaction.py). `fatal` makes client-js disconnect
        itself."""
        self._to("observer", server.Error.of(redact(checked_text(error, "error")), fatal=checked_flag(fatal, "fatal")))

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
            checked_text(function_name, "function_name"),
            checked_text(tool_call_id, "tool_call_id"),
            checked_object(arguments, "arguments"),
        )
        self._to("observer", server.FunctionCall(data=data))

    def configure_output(self, skip_tts: bool | None) -> None:
        """Say that what follows is spoken or not; send-text's own switch is relative to this."""
        if skip_tts is not None and not isinstance(skip_tts, bool):
            raise TypeError(f"skip_tts must be a bool or None, not {type(skip_tts).__name__}")
        self._to("bot", frames.LLMConfigureOutput(skip_tts))
        self._to("text", OutputConfigured(skip_tts))

    def configure_observer(self, **changes: Any) -> None:
        """Change what is reported, from here on: what was reported before is shown as it was. Fields of
        `ObserverParams`; the others stay.

        Raises `TypeError` or `ValueError` for what they cannot be.
        """
        checked = checked_changes(changes)
        token = self.ledger.observer_token()
        later(self.ledger.plan_observer, (token, checked))
        self._to("observer", frames.ConfigureObserver(token))

    def source(self, name: str) -> Source:
        """The same reports under a name, by which `ObserverParams.ignored_sources` can keep them from the client. Their
        order among all others stays."""
        return Source(self, checked_text(name, "name"))

    def end(self, reason: str = "ended by the bot") -> None:
        """End the session when what was emitted before has left."""
        self._to("observer", EndSession(reason))

    def turn_committed(self) -> None:
        """The interrupted turn is in the context: text that the user typed over it may be appended
        (`Bot.auto_turn_committed`)."""
        self._to("text", TurnCommitted())

    def error(self, text: str, fatal: bool = False) -> None:
        """Something failed in the host's stack: as `send_error`."""
        self.send_error(text, fatal)
