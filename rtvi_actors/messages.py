"""What the built-in actors say to each other. One frozen tagged Struct per message; frames.py has what the bot hears.

`Json` may be a field of any message from here on.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

from msgspec import Struct

from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.server import AnyServerMessage, ErrorResponse, ServerResponse
from rtvi_actors.protocol.versions import Version
from rtvi_actors.runtime.actor import current_actor
from rtvi_actors.runtime.mailbox import register_type

__all__ = [
    "AUDIO",
    "INTERRUPTION",
    "Answer",
    "AnswerReady",
    "BotReady",
    "ByVersion",
    "CallClient",
    "CallsExpire",
    "CommitExpired",
    "DeferExpired",
    "EndSession",
    "Expire",
    "FlushAudio",
    "Heard",
    "HoldExpired",
    "Injected",
    "Negotiated",
    "Outcome",
    "OutputConfigured",
    "PassOver",
    "PlayAudio",
    "Ready",
    "Received",
    "ReceivedPcm",
    "Release",
    "ReleaseTexts",
    "SetClientReady",
    "Tick",
    "TurnCommitted",
]

AUDIO: Final = "audio"
"""The route whose messages have a numbering of their own: audio never waits for control, nor control for audio."""
INTERRUPTION: Final = "interruption"
"""The type under which a binary interruption frame is routed; no RTVI message has it."""

register_type(Json, lambda value: value.raw, Json)


class Outcome(StrEnum):
    """How a wire message ended, once (DESIGN.md 7, Conservation)."""

    DELIVERED = "delivered"
    """To the bot or to a custom actor; also one whose handler had nothing to deliver."""
    ANSWERED = "answered"
    """With an error to the client."""
    DROPPED = "dropped"
    """By a named policy."""
    DEAD = "dead"
    """Dead-lettered: its handler crashed, or its actor was gone."""


# -- ingress → concerns ------------------------------------------------------------


class Injected(Struct, frozen=True, tag=True):
    """Flows back from the bot: an RTVI message to handle as if the client had sent it (`handle_message`)."""

    data: bytes


class Received(Struct, frozen=True, tag=True, rename={"type": "kind"}):
    """A numbered client message whose envelope is right. `data` is its payload as the client wrote it."""

    seq: int
    """Control and audio are numbered apart, each from 1."""
    type: str
    id: str
    data: bytes | None

    def defer(self) -> None:
        """Call it in a custom actor's handler to complete the message later, with `Concern.release` or
        `Concern.refuse`.

        Without it, returning from the handler completes the message. A deferred one is passed over by those behind it
        after `door_gap_s`, as any late one.
        """
        actor = current_actor()
        defer = getattr(actor, "defer", None)
        if defer is not None:
            defer(self.seq, self.id)


class ReceivedPcm(Struct, frozen=True, tag=True):
    """Microphone audio from a binary frame."""

    seq: int
    audio: bytes
    sample_rate: int
    num_channels: int


class DeferExpired(Struct, frozen=True, tag=True):
    """To a concern itself: the deadline of the deferred message `seq`."""

    seq: int
    id: str = ""
    """The client message's id, for the error."""


# -- concerns → door ---------------------------------------------------------------


class Release(Struct, frozen=True, tag=True):
    """Number `seq` is done. `frames` are encoded for the bot already: the door forwards what it need not read."""

    seq: int
    outcome: Outcome | None
    """`None`: it holds up nobody behind it any more, but has not ended. More of it follows, whenever, the last with an
    outcome."""
    frames: tuple[bytes, ...] = ()
    id: str = ""
    """The client message's id, for the error should this be lost."""


class PassOver(Struct, frozen=True, tag=True):
    """To the door itself: `seq` has been waited for long enough."""

    seq: int


# -- handshake ---------------------------------------------------------------------


class BotReady(Struct, frozen=True, tag=True):
    """Flows back from the bot: send bot-ready."""

    about: Json | None = None


class SetClientReady(Struct, frozen=True, tag=True):
    """Flows back from the bot: take the client as ready without a client-ready."""


class Negotiated(Struct, frozen=True, tag=True):
    """handshake → outbound: shape by this version from now on."""

    version: Version


class AnswerReady(Struct, frozen=True, tag=True):
    """handshake → outbound: compose bot-ready."""

    id: str
    version: str
    """The version to name, as text."""
    about: Json | None = None


# -- text ----------------------------------------------------------------------------


class OutputConfigured(Struct, frozen=True, tag=True):
    """Flows back from the bot: what its TTS switch is now."""

    skip_tts: bool | None


class TurnCommitted(Struct, frozen=True, tag=True):
    """Flows back from the bot: the turn that the interruption `token` ended is in the context, as far as it was said.

    What the user typed over it may be appended now."""

    token: int = 0
    """0: whichever is waited for."""


class CommitExpired(Struct, frozen=True, tag=True):
    """To text itself: the interruption `token` has been waited for long enough."""

    token: int


class ReleaseTexts(Struct, frozen=True, tag=True):
    """session → text: the session ends, so no text waits any more."""


# -- tools ---------------------------------------------------------------------------


class CallClient(Struct, frozen=True, tag=True):
    """Flows back from the bot: the client is asked to run a function, and the ledger has the call."""

    due_s: float
    """The system's clock."""


class CallsExpire(Struct, frozen=True, tag=True):
    """To tools itself: an open call may be due."""


# -- requests ------------------------------------------------------------------------


class Answer(Struct, frozen=True, tag=True):
    """The answer to the open request `token`. Outbound settles it in the ledger, so that one answer leaves."""

    token: int
    message: ServerResponse | ErrorResponse


class Expire(Struct, frozen=True, tag=True):
    """To requests itself: the oldest open request may be due."""


# -- playout, outbound -----------------------------------------------------------------


class Tick(Struct, frozen=True, tag=True):
    """To playout itself: it is time for the next chunk."""

    generation: int
    """Ticks planned before the last flush are void."""


class PlayAudio(Struct, frozen=True, tag=True):
    """playout → outbound: audio for the client, at the client's rate, when it is due."""

    audio: bytes
    sample_rate: int
    num_channels: int


class FlushAudio(Struct, frozen=True, tag=True):
    """playout → outbound: audio that has not left yet is void."""


class ByVersion(Struct, frozen=True, tag=True):
    """→ outbound: a message for clients of at least `floor`, and what the others get, if anything."""

    floor: Version
    message: AnyServerMessage
    otherwise: AnyServerMessage | None = None


class Heard(Struct, frozen=True, tag=True):
    """audio, playout → levels: sound to measure. Only sent while somebody wants to know."""

    side: Literal["user", "bot"]
    audio: bytes
    """PCM16, whole frames."""
    sample_rate: int
    num_channels: int


class HoldExpired(Struct, frozen=True, tag=True):
    """To outbound itself: nobody said client-ready; stop holding."""


class Ready(Struct, frozen=True, tag=True):
    """bot or playout → observer: encoded for outbound already. The observer forwards it in its turn, unread."""

    body: bytes


class EndSession(Struct, frozen=True, tag=True):
    """bot → observer → outbound: what was emitted before still leaves, then the session closes."""

    reason: str
