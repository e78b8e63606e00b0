"""Handshake: the client's version, id, about and readiness, and the bot's. The rules are in protocol/handshake.py.

Its state is handed out as a snapshot after every step, so a restarted incarnation knows its client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs

from rtvi_actors.concern import BuiltIn, reply_to
from rtvi_actors.errors import InvalidData
from rtvi_actors.frames import ClientReady, EndTask, StartAudio
from rtvi_actors.messages import AnswerReady, BotReady, Negotiated, Received, SetClientReady
from rtvi_actors.protocol import handshake
from rtvi_actors.protocol.client import AboutClient, DisconnectBot
from rtvi_actors.protocol.envelope import Envelope, Json

__all__ = ["Handshake"]


class Handshake(BuiltIn):
    """client-ready, disconnect-bot, and the bot's side of readiness."""

    def __init__(self, auto_bot_ready: bool = True) -> None:
        super().__init__(auto_bot_ready)
        self._state = handshake.HandshakeState(auto=auto_bot_ready)

    def restore(self, state: Any) -> None:
        self._state = state

    @property
    def state(self) -> handshake.HandshakeState:
        """Immutable."""
        return self._state

    def on_received(self, message: Received) -> None:
        if message.type == "client-ready":
            self._client_ready(message)
        else:
            self.payload(message, DisconnectBot)
            self.release(message, EndTask())

    def _client_ready(self, message: Received) -> None:
        envelope = Envelope(message.type, message.id, message.data)
        try:
            state, effects = handshake.client_ready(self._state, envelope)
        except InvalidData as error:
            self.refuse(message, error)
            return
        self._adopt(state)
        frames: list[Any] = []
        for effect in effects:
            _EFFECTS[type(effect)](self, effect, frames)
        self.link("outbound").tell(Negotiated(state.version))
        self.release(message, *frames)

    def on_bot_ready(self, message: BotReady) -> None:
        """The application says when (`set_bot_ready`), with an about of its own or without."""
        state, effects = handshake.bot_ready(self._state)
        self._adopt(state)
        for effect in effects:
            self._answer(effect, [], message.about)

    def on_set_client_ready(self, message: SetClientReady) -> None:
        """Take the client as ready as it is. Only a real client-ready starts audio (pipecat-ai 1.14.0, observed)."""
        state = structs.replace(self._state, client=handshake.ClientSide.READY)
        self._adopt(state)
        self.link("outbound").tell(Negotiated(state.version))
        self.link("bot").tell(_client_frame(state.request))
        if state.auto:
            self.on_bot_ready(BotReady())

    def _adopt(self, state: handshake.HandshakeState) -> None:
        self._state = state
        self.snapshot(state)
        if state.client is handshake.ClientSide.READY:
            self.later(self.ledger.client_ready.try_set, True)

    # -- effects -----------------------------------------------------------------------------

    def _refused(self, effect: Any, frames: list[Any]) -> None:
        reply = reply_to(effect.error, self.ledger)
        if reply is not None:
            self.link("outbound").tell(reply)

    def _start_audio(self, effect: Any, frames: list[Any]) -> None:
        frames.append(StartAudio())

    def _announce(self, effect: Any, frames: list[Any]) -> None:
        frames.append(_client_frame(effect.request))

    def _answer(self, effect: Any, frames: list[Any], about: Json | None = None) -> None:
        self.link("outbound").tell(AnswerReady(effect.request.id, effect.request.echo, about))


def _client_frame(request: handshake.Request) -> ClientReady:
    about = request.about or AboutClient("")
    return ClientReady(request.version, about.library, about.library_version or "", about.platform or "")


_EFFECTS: Mapping[type[Any], Callable[[Handshake, Any, list[Any]], None]] = {
    handshake.Refuse: Handshake._refused,
    handshake.StartAudio: Handshake._start_audio,
    handshake.Announce: Handshake._announce,
    handshake.AnswerReady: Handshake._answer,
}
