"""The handshake: who has said ready, and to what each bot-ready answers (PROTOCOL.md 1.5).

Everything that affects the handshake's state is here. Each event does the same in every state, again each time:

    event           → client   bot         effects
    client-ready    ready      unchanged   refuse?, start audio, announce
    bot-ready       unchanged  ready       answer

Nothing stops a handshake: a refused version is answered, and then the client is ready all the same. With `auto` each
client-ready is followed by the bot-ready that answers it, with its own id and version (deviation D06).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeAlias

from msgspec import Struct, UnsetType, structs

from rtvi_actors.errors import VersionRefused
from rtvi_actors.protocol import versions
from rtvi_actors.protocol.client import AboutClient, ClientReady
from rtvi_actors.protocol.codec import decode_about, decode_data, from_json
from rtvi_actors.protocol.envelope import Envelope, Json

__all__ = [
    "TABLE",
    "Announce",
    "AnswerReady",
    "BotSide",
    "ClientSide",
    "Effect",
    "Event",
    "HandshakeState",
    "Refuse",
    "Request",
    "Row",
    "StartAudio",
    "bot_ready",
    "client_ready",
]


class ClientSide(Enum):
    WAITING = "waiting"
    READY = "ready"


class BotSide(Enum):
    NOT_READY = "not-ready"
    READY = "ready"


class Event(Enum):
    CLIENT_READY = "client-ready"
    BOT_READY = "bot-ready"


class Request(Struct, frozen=True):
    """What a bot-ready answers: one client-ready, or none yet."""

    id: str = ""
    """Empty before any client-ready (pipecat-ai 1.14.0, observed)."""
    version: versions.Version = versions.UNKNOWN
    echo: str = versions.echo(versions.UNKNOWN)
    """The version to name in the answer."""
    about: AboutClient | None = None


class HandshakeState(Struct, frozen=True):
    """Immutable, so that an actor hands it out as its snapshot."""

    auto: bool = True
    """Whether the bot is ready whenever the client is. Otherwise the application says when."""
    client: ClientSide = ClientSide.WAITING
    bot: BotSide = BotSide.NOT_READY
    request: Request = Request()
    """The latest client-ready."""

    @property
    def version(self) -> versions.Version:
        """To shape messages by; `UNKNOWN` until a client-ready brought a version that we serve."""
        return self.request.version


class Refuse(Struct, frozen=True):
    """Answer the client-ready with this error-response; go on."""

    error: VersionRefused


class StartAudio(Struct, frozen=True):
    """Let the client's audio in."""


class Announce(Struct, frozen=True):
    """Tell the bot (`on_client_ready`), every time."""

    request: Request


class AnswerReady(Struct, frozen=True):
    """Send bot-ready with the request's id and echo."""

    request: Request


Effect: TypeAlias = Refuse | StartAudio | Announce | AnswerReady


class Row(Struct, frozen=True):
    """The next states, `None` for unchanged, and what to do, in order."""

    client: ClientSide | None
    bot: BotSide | None
    effects: tuple[type[Effect], ...]


TABLE: Final[Mapping[Event, Row]] = MappingProxyType(
    {
        Event.CLIENT_READY: Row(ClientSide.READY, None, (Refuse, StartAudio, Announce)),
        Event.BOT_READY: Row(None, BotSide.READY, (AnswerReady,)),
    }
)


def client_ready(state: HandshakeState, envelope: Envelope) -> tuple[HandshakeState, tuple[Effect, ...]]:
    """A client-ready arrived. Its version is judged afresh, whatever an earlier one said (deviation D08)."""
    payload = decode_data(envelope, ClientReady)
    agreed = versions.negotiate(_version_text(payload.version), envelope.id)
    request = Request(envelope.id, agreed.version, agreed.echo, decode_about(payload.about))
    state, effects = _step(structs.replace(state, request=request), Event.CLIENT_READY, request, agreed.error)
    if not state.auto:
        return state, effects
    state, answer = bot_ready(state)
    return state, effects + answer


def bot_ready(state: HandshakeState) -> tuple[HandshakeState, tuple[Effect, ...]]:
    """The bot is ready. Answers the latest client-ready, also when that has been answered (1.14.0, observed)."""
    return _step(state, Event.BOT_READY, state.request, None)


def _step(
    state: HandshakeState, event: Event, request: Request, error: VersionRefused | None
) -> tuple[HandshakeState, tuple[Effect, ...]]:
    row = TABLE[event]
    made = (_MAKE[kind](request, error) for kind in row.effects)
    after = structs.replace(state, client=row.client or state.client, bot=row.bot or state.bot)
    return after, tuple(effect for effect in made if effect is not None)


_MAKE: Final[Mapping[type[Effect], Callable[[Request, VersionRefused | None], Effect | None]]] = MappingProxyType(
    {
        Refuse: lambda _, error: Refuse(error) if error else None,
        StartAudio: lambda *_: StartAudio(),
        Announce: lambda request, _: Announce(request),
        AnswerReady: lambda request, _: AnswerReady(request),
    }
)


def _version_text(version: Json | UnsetType) -> object:
    """The version if it is text; what else it may be does not matter, and is not decoded."""
    return from_json(version) if isinstance(version, Json) and version.kind == "string" else None
