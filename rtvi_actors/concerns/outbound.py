"""Outbound: the one way out. It composes bot-ready, settles answers, shapes by the client's version, encodes once,
keeps order.

Before the client's version is known, what the bot says is held: at most 256 messages and 4 MiB, for 5 s. Answers are
not. What a newer message makes worthless (`COALESCED`) may be left out for a client that is behind (`Outbox`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import NotJson, TooLarge
from rtvi_actors.messages import (
    Answer,
    AnswerReady,
    ByVersion,
    EndSession,
    FlushAudio,
    HoldExpired,
    Negotiated,
    PlayAudio,
)
from rtvi_actors.outbox import Outbox
from rtvi_actors.protocol.codec import encode_server
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.server import (
    AnyServerMessage,
    BotAudioLevel,
    BotReady,
    BotReadyData,
    Error,
    ErrorResponse,
    ErrorResponseData,
    ServerMessage,
    ServerResponse,
    UserAudioLevel,
    UserInput,
    UserTranscription,
    shape,
)
from rtvi_actors.protocol.versions import UNKNOWN, Version, at_least
from rtvi_actors.streams import ServerAudio, ServerText

__all__ = ["COALESCED", "HOLD_S", "Outbound"]

logger = logging.getLogger("rtvi_actors")

HOLD_S: Final = 5.0

NEVER_HELD: Final = (BotReady, ErrorResponse, ServerResponse, Error)
"""Answers, and errors: a client that has a version problem must hear of it."""


def _interim_transcription(message: UserTranscription) -> str | None:
    """Whose words they are."""
    return None if message.data.final else message.data.user_id


def _interim_input(message: UserInput) -> str | None:
    """Whose words they are, and of what kind."""
    return None if message.data.final else f"{message.data.input_type} {message.data.user_id or ''}"


COALESCED: Final[Mapping[type[ServerMessage], Callable[[Any], str | None]]] = MappingProxyType(
    {
        UserTranscription: _interim_transcription,
        UserInput: _interim_input,
        UserAudioLevel: lambda _: "",
        BotAudioLevel: lambda _: "",
    }
)
"""What may be left out for a client that is behind → which of its messages a newer one makes worthless: those of the
same text, or of the same side's level. `None`: it is final, and leaves like all other messages, or the session
closes."""


class Outbound(BuiltIn):
    """`about` and `capabilities` are bot-ready's; `hold` is whether to wait for client-ready."""

    max_mail = 100_000

    def __init__(self, outbox: Outbox, max_message_bytes: int, about: Json, capabilities: Json, hold: bool) -> None:
        super().__init__(outbox, max_message_bytes, about, capabilities, hold)
        self._outbox = outbox
        self._max_bytes = max_message_bytes
        self._about = about
        self._capabilities = capabilities
        self._holding = hold
        self._version: Version = UNKNOWN

    def restore(self, state: Any) -> None:
        self._version, self._holding = state

    def on_start(self) -> None:
        if self._holding and self._outbox.held:  # a crash may have lost the deadline
            self.after(HOLD_S, HoldExpired())

    # -- mail ------------------------------------------------------------------------------

    def on_message(self, message: AnyServerMessage) -> None:
        if self._holding and not isinstance(message, NEVER_HELD):
            self._hold(message)
        else:
            self._emit(message)

    def on_by_version(self, message: ByVersion) -> None:
        if self._holding:
            self._hold(message)
        else:
            self._choose(message)

    def on_answer(self, message: Answer) -> None:
        """The first answer to a request leaves; later ones are counted."""
        if message.token in self.ledger.requests:
            self._emit(message.message)
        self.later(self.ledger.settle, message.token)

    def on_answer_ready(self, message: AnswerReady) -> None:
        data = BotReadyData(message.version, message.about or self._about, self._capabilities)
        self._emit(BotReady(id=message.id, data=data))

    def on_negotiated(self, message: Negotiated) -> None:
        self._version = message.version
        self._release_held()

    def on_hold_expired(self, message: HoldExpired) -> None:
        if self._holding:
            logger.warning("%s: no client-ready within %s s: no longer holding", self.name, HOLD_S)
            self._release_held()

    def on_play_audio(self, message: PlayAudio) -> None:
        self.later(self._outbox.put, ServerAudio(message.audio, message.sample_rate, message.num_channels))

    def on_flush_audio(self, message: FlushAudio) -> None:
        self.later(_drop_audio, self._outbox)

    def on_end_session(self, message: EndSession) -> None:
        """A client that has never said ready gets what was held for it all the same."""
        if self._holding:
            self._release_held()
        self.later(self._outbox.close, message.reason)

    # -- out -------------------------------------------------------------------------------

    def _choose(self, message: ByVersion) -> None:
        chosen = message.message if at_least(self._version, message.floor) else message.otherwise
        if chosen is not None:
            self._emit(chosen)

    def _emit(self, message: ServerMessage) -> None:
        shaped = shape(message, self._version)
        if shaped is None:
            return
        try:
            data = encode_server(shaped)
            if len(data) > self._max_bytes:
                raise TooLarge(len(data), self._max_bytes)
        except (NotJson, TooLarge) as error:
            data = self._unsendable(shaped, error)
        else:
            key_of = COALESCED.get(type(shaped))
            which = None if key_of is None else key_of(shaped)
            if which is not None:
                self.later(self._outbox.put_newer, ((_wire_type(shaped), which), ServerText(data)))
                return
        self.later(self._outbox.put, ServerText(data))

    def _unsendable(self, message: ServerMessage, error: NotJson | TooLarge) -> bytes:
        """What the client gets in place of a message that it cannot be sent: its request must be answered all the
        same."""
        text = self.ledger.failure_text(f"{type(message).__name__} cannot be sent", error)
        if isinstance(message, ServerResponse | ErrorResponse):
            return encode_server(ErrorResponse(id=message.id, data=ErrorResponseData(text)))
        return encode_server(Error.of(text))

    # -- holding ---------------------------------------------------------------------------

    def _hold(self, message: ServerMessage | ByVersion) -> None:
        if not self._outbox.held:
            self.after(HOLD_S, HoldExpired())
        self.later(self._outbox.hold, self.ref.encode(message))

    def _release_held(self) -> None:
        self._holding = False
        self.snapshot((self._version, False))
        decode = self.cell.declaration.decode  # type: ignore[union-attr]
        for body in self._outbox.held:
            message = decode(body)
            if isinstance(message, ByVersion):
                self._choose(message)
            else:
                self._emit(message)
        self.later(_clear, self._outbox)


def _drop_audio(outbox: Outbox) -> None:
    outbox.drop_audio()


def _clear(outbox: Outbox) -> None:
    outbox.clear_held()


def _wire_type(message: ServerMessage) -> str:
    return str(message.__struct_config__.tag)
