"""What a host may choose for a session, and what it can read of one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from rtvi_actors.ledger import Conservation
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.supervisor import Backoff

__all__ = ["CustomActor", "SessionOptions", "SessionStatistics"]


class CustomActor(msgspec.Struct, frozen=True):
    """An actor of the application's own in a session: an equal citizen."""

    name: str
    actor: type[AnyioActor]
    args: tuple[Any, ...] = ()
    routes: tuple[str, ...] = ()
    """Client message types that it serves, own ones or those of a built-in concern, which it then replaces for them.
    Such an actor is a `Concern`."""
    links: tuple[str, ...] = ()
    """Custom actors after it in the list that it may send to."""
    on_bot: bool = False
    """Whether the bot may send to it by its name."""


class SessionOptions(msgspec.Struct, frozen=True):
    """The bounds and choices of a session."""

    hold_before_ready: bool = True
    """Hold what the bot says until the client's version is known (at most 256 messages, 5 s)."""
    request_timeout_s: float = 8.0
    """The deadline of declared requests: under the 10 s of client-js."""
    door_gap_s: float = 0.25
    """How long the order waits for one message whose concern is down or late."""
    drain_s: float = 1.0
    """How long work may go on when the session ends."""
    credit: int = 256
    """Control messages that may be open before the reader stops reading."""
    credit_bytes: int = 16 * 1024 * 1024
    """As much as they may weigh."""
    outbox_bytes: int = 8 * 1024 * 1024
    """What a slow client may leave unread before the session closes. At half of it the reader stops until a quarter is
    left."""
    stall_s: float = 30.0
    """How long the client may take over one slice of what waits for it (`outbox.SLICE_BYTES`) before the session
    closes: one that only sends, while the reader waits for it to read, would wait for ever."""
    capabilities: Mapping[str, bool] = MappingProxyType({"metrics": False})
    """bot-ready's capabilities (2.2); what is absent is unknown."""
    actors: tuple[CustomActor, ...] = ()
    restart_intensity: int = 20
    """Restarts in `restart_period_s` after which the session gives up."""
    restart_period_s: float = 10.0
    restart_backoff: Backoff = Backoff()
    """How long an actor that keeps failing waits before its next incarnation. With longer delays `restart_period_s`
    must grow too, or the limit is never reached."""


class SessionStatistics(msgspec.Struct, frozen=True):
    """What a session has done, at one moment."""

    id: str
    conservation: Conservation
    """All wire messages."""
    control: Mapping[str, int]
    audio: Mapping[str, int]
    unnumbered: Mapping[str, int]
    """Ended in ingress: refused, ignored, lost."""
    dropped: Mapping[str, int]
    """By policy."""
    late: int
    """Control messages that the order did not wait for."""
    duplicates: int
    open_requests: int
    late_answers: int
    client_gone: int
    """Requests that were open when the session ended."""
    held: int
    """Messages that wait for the client's version."""
    hold_dropped: int
    """Those that were too many to hold."""
    playout_dropped_s: float
    """Bot audio that was more than playout may hold, in seconds."""
    sent: int
    """Wire messages out."""
    coalesced: Mapping[str, int]
    """Messages that a newer one made worthless before a client that was behind could get them, by type."""
    outbox_bytes: int
