"""What a host may choose for a session, and what it can read of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rtvi_actors.files import FileStore
from rtvi_actors.ledger import Conservation
from rtvi_actors.protocol.files import FilePolicy
from rtvi_actors.reporting import ObserverParams
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
    commit_timeout_s: float = 2.0
    """How long what the user typed over the bot's turn waits for the bot to have committed that turn to its context
    (`Bot.auto_turn_committed`). The limit of pipecat-ai 1.14.0 is 5 s without progress."""
    context_roles: tuple[str, ...] = ("user", "assistant")
    """The roles that a client may append messages of to the bot's context (append-to-context)."""
    files: FilePolicy = FilePolicy()
    """Which files a client may send to a bot that takes files (`Bot.accepts_files`)."""
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
    capabilities: Mapping[str, bool] | None = None
    """bot-ready's capabilities (2.2): ``audio_in``, ``audio_out``, ``video_in``, ``screen_in``, ``video_out``,
    ``metrics``; what is absent is unknown. `None`: what the bot's class and these options say: audio in, where the bot
    overrides `on_audio`; audio out, where it has an `audio_out_sample_rate` (else unknown); metrics, where they are
    reported; nothing of video."""
    observer: ObserverParams = ObserverParams()
    """What is reported to the client."""
    file_store: FileStore | None = None
    """Where the files are that clients have uploaded; `None`: there are none."""
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
    waiting_texts: int
    """Texts that wait for an interrupted turn to be committed."""
    overdue_commits: int
    """Interrupted turns that the bot has not committed in time."""
    open_calls: int
    """Functions that the client has been asked to run (`call_client`)."""
    stray_results: int
    """Results of calls that were not open, or of another function than was called."""
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
