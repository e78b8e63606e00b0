"""The composition root: one client's actors and the two tasks of its I/O (wire.py), from their start to their end.

This is the only file that sees all the concerns. Who may send to whom is in two tables, `LINKS` (forward, in
the order of the children) and `BACK` (what flows back, by name); which concern serves which message is in `ROUTES`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, Final, cast

import anyio
import anyio.lowlevel

from rtvi_actors import frames
from rtvi_actors.bot import Bot
from rtvi_actors.concern import Concern
from rtvi_actors.concerns.audio import Audio
from rtvi_actors.concerns.door import Door
from rtvi_actors.concerns.handshake import Handshake
from rtvi_actors.concerns.ingress import Ingress
from rtvi_actors.concerns.levels import Levels
from rtvi_actors.concerns.observer import Observer
from rtvi_actors.concerns.outbound import Outbound
from rtvi_actors.concerns.playout import Playout
from rtvi_actors.concerns.requests import Requests
from rtvi_actors.concerns.text import Text
from rtvi_actors.concerns.tools import Tools
from rtvi_actors.concerns.ui import UI
from rtvi_actors.control import Control
from rtvi_actors.errors import Dead, DeclarationError, Rejected, SessionClosed, StartFailed, Unknown
from rtvi_actors.ledger import Ledger
from rtvi_actors.logs import SessionLogs
from rtvi_actors.losses import Losses
from rtvi_actors.messages import AUDIO, INTERRUPTION, EndSession, Outcome, ReleaseTexts
from rtvi_actors.options import CustomActor, SessionOptions, SessionStatistics
from rtvi_actors.outbox import Outbox
from rtvi_actors.protocol.codec import encode_server, to_json
from rtvi_actors.protocol.server import ErrorResponse, ErrorResponseData, SystemLog
from rtvi_actors.runtime.context import new_uuid
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.registry import ActorStatistics, of_cell
from rtvi_actors.runtime.supervisor import ChildSpec, Escalation, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.streams import ServerText, Transport
from rtvi_actors.wire import Reader, Writer

__all__ = [
    "BACK",
    "BUILT_IN",
    "CHILDREN",
    "LINKS",
    "ROUTES",
    "CustomActor",
    "Session",
    "SessionOptions",
    "SessionStatistics",
    "open_blocking_session",
    "open_session",
]

logger = logging.getLogger("rtvi_actors")

# -- the tables ------------------------------------------------------------------------

ROUTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "client-ready": "handshake",
        "disconnect-bot": "handshake",
        "client-message": "requests",
        "send-text": "text",
        "send-file": "text",
        "append-to-context": "text",
        "dtmf": "text",
        INTERRUPTION: "text",
        "raw-audio": AUDIO,
        "raw-audio-batch": AUDIO,
        "llm-function-call-result": "tools",
        "ui-event": "ui",
        "ui-snapshot": "ui",
        "ui-cancel-job-group": "ui",
        "ui-cancel-task": "ui",
    }
)
"""Message type → concern."""

CHILDREN: Final = (
    "ingress",
    "handshake",
    "audio",
    "text",
    "requests",
    "tools",
    "ui",
    "door",
    "bot",
    "playout",
    "levels",
    "observer",
    "outbound",
)
"""In start order. References point forward in it."""

BUILT_IN: Final[Mapping[str, type[Concern]]] = MappingProxyType(
    {
        "ingress": Ingress,
        "handshake": Handshake,
        "audio": Audio,
        "text": Text,
        "requests": Requests,
        "tools": Tools,
        "ui": UI,
        "door": Door,
        "playout": Playout,
        "levels": Levels,
        "observer": Observer,
        "outbound": Outbound,
    }
)
"""Child → actor class; the bot is the user's."""

LINKS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ingress": ("handshake", "audio", "text", "requests", "tools", "ui", "outbound"),
        "handshake": ("door", "bot", "outbound"),
        "audio": ("bot", "levels", "outbound"),
        "text": ("door", "bot", "outbound"),
        "requests": ("door", "bot", "outbound"),
        "tools": ("door", "bot", "outbound"),
        "ui": ("door", "bot", "outbound"),
        "door": ("bot", "outbound"),
        "bot": ("playout", "levels", "observer", "outbound"),
        "playout": ("levels", "observer", "outbound"),
        "levels": ("observer", "outbound"),
        "observer": ("outbound",),
        "outbound": (),
    }
)
"""Child → whom it may send to. Every name stands behind it in `CHILDREN`."""

BACK: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"bot": ("ingress", "handshake", "text", "tools")})
"""What flows back: child → names before it. Only typed messages, and nobody waits for an answer."""

CUSTOM_LINKS: Final = ("door", "bot", "playout", "observer", "outbound")
"""Whom a custom actor may send to, besides what its spec adds. It stands between the concerns and the door."""


class Session:
    """One client's actors. Made by `open_session`."""

    def __init__(
        self, bot: Bot, transport: Transport, options: SessionOptions, system: ActorSystem, session_id: str | None
    ) -> None:
        self.id = session_id or f"session-{new_uuid().hex[:8]}"
        self.system = system
        self.options = options
        self._transport = transport
        self._ledger = Ledger(
            self.id,
            system.timers.now,
            credit=options.credit,
            credit_bytes=options.credit_bytes,
            playing_rate_hz=transport.playing_rate_hz,
        )
        self._ledger.observer = options.observer
        self._outbox = Outbox(options.outbox_bytes)
        self._outbox.on_close = self._closing
        self._reader: Reader
        self._writer: Writer
        self._over = False
        """Nothing that happens from now on concerns the client."""
        self._bot = bot
        self._closed: ActorFuture[str] = ActorFuture()
        self._told: list[ActorFuture[None]] = []
        """Handlers of the host's that run past a bot that is no more."""
        self._supervisor: ActorRef[Any]
        self._refs: dict[str, ActorRef[Any]] = {}
        self._losses = Losses(self._ledger, self._outbox, self._refs, system.timers.now)
        self._logs = SessionLogs(self._ledger, system, self._send_log)
        self.control = Control(self._refs, self._ledger)

    # -- for people ------------------------------------------------------------------------

    def actor(self, name: str) -> ActorRef[Any]:
        """A child by its name in the session: ``bot``, ``audio``, … Raises `Unknown`."""
        if name not in self._refs:
            raise Unknown(f"{self.id} has no actor named {name}")
        return self._refs[name]

    @property
    def closed(self) -> bool:
        """Whether the session is to end: nothing more is read, and leaving the block ends it."""
        return self._closed.done()

    async def wait_closed(self) -> str:
        """Wait until the session is to end; returns the reason. Then leave the block: that lets work drain."""
        return await self._closed

    @property
    def client_is_ready(self) -> bool:
        """Whether the client has said client-ready (or the host for it)."""
        return self._ledger.client_ready.done() and self._ledger.client_ready.result()

    async def wait_client_ready(self) -> None:
        """Wait until the client has said client-ready, or the session is over."""
        self._closed.when_done(self._nobody_came)
        await self._ledger.client_ready

    def _nobody_came(self) -> None:
        self._ledger.client_ready.try_set(False)

    def close(self, reason: str = "closed by the host") -> None:
        """End the session: `wait_closed` returns, and what was emitted leaves as the block is left. Loop thread."""
        self._outbox.close(reason)

    def statistics(self) -> SessionStatistics:
        """From any thread; counters are read as they are."""
        ledger, outbox = self._ledger, self._outbox
        return SessionStatistics(
            id=self.id,
            conservation=ledger.conservation(),
            control=_named(ledger.control.counts),
            audio=_named(ledger.audio.counts),
            unnumbered=_named(ledger.unnumbered),
            dropped={**ledger.control.dropped, **ledger.audio.dropped, **ledger.unnumbered_dropped},
            late=ledger.door.late,
            duplicates=ledger.door.duplicates,
            open_requests=len(ledger.requests),
            late_answers=ledger.late_answers,
            client_gone=ledger.client_gone,
            waiting_texts=len(ledger.texts.waiting),
            overdue_commits=ledger.texts.overdue,
            open_calls=len(ledger.calls),
            stray_results=ledger.stray_results,
            held=len(outbox.held),
            hold_dropped=outbox.hold_dropped,
            playout_dropped_s=ledger.playout_dropped_s,
            sent=outbox.sent,
            coalesced=dict(outbox.coalesced),
            outbox_bytes=outbox.size_bytes,
        )

    def actors(self) -> tuple[ActorStatistics, ...]:
        """The statistics of the session's actors, the supervisor first."""
        return tuple(of_cell(ref.cell) for ref in (self._supervisor, *self._refs.values()))

    async def idle(self) -> None:
        """Wait until nothing moves: no mail, no handler, nothing to send, and the reader waits for the client.

        Timers that are set do not count. For tests and tools.
        """
        await self._until(self._is_quiet)

    async def _until(self, test: Callable[[], bool]) -> None:
        """Wait until `test` holds at three turns of the loop in a row."""
        held = turns = 0
        while held < 3:
            turns += 1
            # Nearly always a few turns of the loop; what takes longer is waited for without a busy loop.
            await (anyio.lowlevel.checkpoint() if turns < 256 else anyio.sleep(0.002))
            held = held + 1 if test() else 0

    def _is_quiet(self) -> bool:
        sent = self._outbox.finished or not len(self._outbox)
        return self._reader.waits and sent and self._work_is_done()

    def _work_is_done(self) -> bool:
        return not (self._reader.held or self._ledger.unread or self._logs.on_its_way) and all(
            _cell_is_quiet(ref) for ref in self._refs.values()
        )

    # -- life --------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Session]:
        """Start the actors and the two tasks; on exit, drain and stop them.

        The two tasks are the system's, not the host's: a host that is cancelled or fails still has what was emitted
        sent.
        """
        with self._logs:
            self._start()
            try:
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self._shut_down()

    def _start(self) -> None:
        self._supervisor = self._start_actors()
        self._refs.update({ref.name.partition("/")[2]: ref for ref in self._supervisor_actor().children()})
        self._reader = self._start_reader()
        self._writer = Writer(
            self._transport, self.system, self._outbox, self._reader, name=self.id, stall_s=self.options.stall_s
        )

    def _start_reader(self) -> Reader:
        refs = self._refs
        return Reader(
            self._transport, self.system, self._ledger, self._outbox, refs["ingress"], refs["bot"].cell.mailbox
        )

    def _start_actors(self) -> ActorRef[Any]:
        options = self.options
        try:
            return self.system.spawn(
                Supervisor,
                self._specs(),
                intensity=options.restart_intensity,
                period_s=options.restart_period_s,
                on_escalate=self._escalated,
                name=self.id,
            )
        except StartFailed as error:
            # The supervisor did not start because a child did not: that is what the host should read.
            child = error.__cause__
            if isinstance(child, StartFailed):
                raise child from child.__cause__
            raise

    def _supervisor_actor(self) -> Supervisor:
        return cast("Supervisor", self._supervisor.cell.actor)

    async def _shut_down(self) -> None:
        """Reading stops, work drains, open requests are answered, what was emitted leaves, the actors stop (DESIGN.md
        4)."""
        self._outbox.close("closed by the host")
        reason = self._closed.result()
        await self._reader.end(self.options.drain_s)
        with anyio.move_on_after(self.options.drain_s):
            await self._release_texts()
        with anyio.move_on_after(self.options.drain_s):
            await self._say_goodbye(reason)
            for told in self._told:
                await told
            await self._until(self._work_is_done)
        await self._answer_what_is_open(reason)
        self._over = True
        await self._writer.end(self.options.drain_s)
        self._ledger.log_left_out()
        await self.system.stop(self._supervisor)
        self._ledger.close()
        await self._transport.aclose(reason)

    async def _say_goodbye(self, reason: str) -> None:
        """Outbound holds nothing back any more; the bot hears why, also where it is buried in mail."""
        self._ledger.leave()
        with suppress(Dead, Rejected):
            self._refs["outbound"].tell(EndSession(reason))
        with suppress(Dead):
            await self._refs["bot"].send(frames.ClientDisconnected(reason))

    async def _release_texts(self) -> None:
        """What waits for a turn to be committed goes to the bot, before it hears of the end."""
        texts = self._ledger.texts
        texts.over = True
        if not texts.waiting:
            return
        with suppress(Dead, Rejected):
            self._refs["text"].tell(ReleaseTexts())
        await self._until(lambda: _cell_is_quiet(self._refs["text"]) and _cell_is_quiet(self._refs["door"]))

    async def _answer_what_is_open(self, reason: str) -> None:
        """A client that is still there hears that nothing will come, behind what outbound has for it, and also where
        outbound was given up. What is left open, the ledger counts."""
        observer, outbound = self._refs["observer"], self._refs["outbound"]
        if outbound.is_alive():
            with suppress(Dead, Rejected):
                observer.tell(EndSession(reason))  # what is open is closed, also where the host ends the session
        with anyio.move_on_after(self.options.drain_s):
            await self._until(lambda: _cell_is_quiet(observer) and _cell_is_quiet(outbound))
        if self._reader.client_left or self._outbox.is_shut:
            return
        for token, request in list(self._ledger.requests.items()):
            self._ledger.settle(token)
            self._answer_ended(request.msg_id)
        for seq, text in list(self._ledger.texts.waiting.items()):
            self._ledger.complete_control((seq, Outcome.ANSWERED))
            self._answer_ended(text.append.msg_id)

    def _answer_ended(self, msg_id: str) -> None:
        data = ErrorResponseData("The session has ended")
        self._outbox.put(ServerText(encode_server(ErrorResponse(id=msg_id, data=data))))

    def _closing(self) -> None:
        """The session is to end. One whose client is beyond its budget sends nothing more."""
        self._closed.try_set(self._outbox.closing)
        if self._outbox.overrun:
            self._writer.give_up()

    def _escalated(self, escalation: Escalation) -> None:
        """The supervisor has given up on a child: the session cannot keep its promises any more. The bot hears of it
        first; where it is given up itself, or buried in mail, only the host does."""
        event = frames.ActorGivenUp(escalation.child.removeprefix(f"{self.id}/"))
        try:
            self._refs["bot"].tell(event)
        except (Dead, Rejected):
            self._tell_host("actor-given-up", event)
        self._outbox.close(f"{event.name} crashed too often")

    def _tell_host(self, event: str, argument: Any) -> None:
        """Run the host's own handlers for an event, past the bot; each as a task of the system."""
        for listener in self._ledger.listeners.get(event, ()):
            self._told.append(self.system.run_async(partial(self._call, event, listener, argument)))

    async def _call(self, event: str, listener: Callable[..., Any], argument: Any) -> None:
        try:
            result = listener(argument)
            if inspect.isawaitable(result):
                await result
        except Exception:  # the host's own code: whatever it raises ends only itself
            logger.exception("%s: a handler of the host's failed in %s", self.id, event)

    def _send_log(self, line: SystemLog) -> bool:
        """By way of the observer. A client that is behind is not to be closed for its logs."""
        if self._outbox.is_high:
            return False
        try:
            self._refs["observer"].tell(line)
        except (Dead, Rejected):
            return False
        return True

    def _lost(self, receiver: str, message: Any, reason: str) -> None:
        if self._refs and not self._over:
            self._losses.lost(receiver, message, reason)

    # -- the tree --------------------------------------------------------------------------------

    def _specs(self) -> Sequence[ChildSpec]:
        options, bot = self.options, type(self._bot)
        custom = options.actors
        for actor in custom:
            if actor.routes and not issubclass(actor.actor, Concern):
                raise DeclarationError(f"{actor.name} has routes, so {actor.actor.__qualname__} must be a Concern")
        routes = {**ROUTES, **{kind: actor.name for actor in custom for kind in actor.routes}}
        requests = [name for name, route in bot.routes.items() if route.answers]
        messages = [name for name, route in bot.routes.items() if not route.answers]
        other = bool(bot.handlers.get("client-message"))
        about = to_json({"library": "rtvi-actors", "library_version": _version()})
        arguments: dict[str, tuple[Any, ...]] = {
            "ingress": (routes,),
            "handshake": (bot.auto_bot_ready,),
            "text": (
                options.commit_timeout_s,
                options.context_roles,
                options.files if bot.accepts_files else None,
                options.file_store,
            ),
            "requests": (requests, messages, other, options.request_timeout_s),
            "tools": (bool(bot.handlers.get("function-call-result")),),
            "door": (options.door_gap_s,),
            "playout": (self._transport.playing_rate_hz,),
            "outbound": (
                self._outbox,
                self._transport.max_message_bytes,
                about,
                to_json(_capabilities(bot, options)),
                options.hold_before_ready,
            ),
        }
        built_in = [
            self._spec(name, BUILT_IN.get(name, self._bot), arguments.get(name, ()), self._links(name))
            for name in CHILDREN
        ]
        own = [self._spec(actor.name, actor.actor, actor.args, (*CUSTOM_LINKS, *actor.links)) for actor in custom]
        at = CHILDREN.index("door")
        return [*built_in[:at], *own, *built_in[at:]]

    def _links(self, name: str) -> tuple[str, ...]:
        links = (*LINKS[name], *BACK.get(name, ()))
        if name == "ingress":
            links += tuple(actor.name for actor in self.options.actors if actor.routes)
        if name == "bot":
            links += tuple(actor.name for actor in self.options.actors if actor.on_bot)
        return links

    def _spec(self, name: str, actor: Any, args: tuple[Any, ...], links: tuple[str, ...]) -> ChildSpec:
        return ChildSpec(
            name=name,
            actor=actor,
            args=args,
            links=links,
            context=self._ledger,
            shutdown_s=self.options.drain_s,
            backoff=self.options.restart_backoff,
            on_lost=lambda message, reason: self._lost(name, message, reason),
        )


def _capabilities(bot: type[Bot], options: SessionOptions) -> Mapping[str, bool]:
    """What bot-ready says of this session. Whether there is bot audio is unknown, where the bot does not declare its
    rate: any handler may `say_audio`."""
    if options.capabilities is not None:
        return dict(options.capabilities)
    routed = {kind for actor in options.actors for kind in actor.routes}
    hears = bot.on_audio is not Bot.on_audio or not routed.isdisjoint(("raw-audio", "raw-audio-batch"))
    known = {"audio_in": hears, "video_in": False, "screen_in": False, "video_out": False}
    speaks = {"audio_out": True} if bot.audio_out_sample_rate else {}
    return {**known, **speaks, "metrics": options.observer.metrics_enabled}


def _named(counts: Mapping[Outcome, int]) -> Mapping[str, int]:
    return {outcome.value: count for outcome, count in counts.items()}


def _cell_is_quiet(ref: ActorRef[Any]) -> bool:
    cell = ref.cell
    return cell.state == "dead" or (
        cell.mailbox.empty() and not cell.mailbox.control and all(group.idle for group in cell.groups.values())
    )


def _version() -> str:
    try:
        return version("rtvi-actors")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


# -- opening a session -------------------------------------------------------------------


@asynccontextmanager
async def open_session(
    bot: Bot,
    transport: Transport,
    *,
    options: SessionOptions | None = None,
    system: ActorSystem | None = None,
    session_id: str | None = None,
) -> AsyncIterator[Session]:
    """Run a bot for the client at the other end of `transport`, in `system` or in a system of its own.

    `session_id` is for a host that had to know it before (uploads for the session); no living one may have the same.

    Leaving the block ends the session: what was emitted leaves, work drains, `on_disconnect` runs, the actors stop
    and the
    transport is closed. Raises `StartFailed` where the bot's constructor or on_start raises (its cause tells why,
    `NoResampler` among others).
    """
    async with AsyncExitStack() as stack:
        if system is None:
            system = await stack.enter_async_context(ActorSystem())
        if bot.cell.state != "new":
            raise SessionClosed("a bot instance serves one session: make a new one")
        session = Session(bot, transport, options or SessionOptions(), system, session_id)
        if session.options.file_store is not None:
            stack.callback(session.options.file_store.drop_session, session.id)
        yield await stack.enter_async_context(session.running())


@contextmanager
def open_blocking_session(
    system: ActorSystem, bot: Callable[[], Bot], transport: Transport, *, options: SessionOptions | None = None
) -> Iterator[Session]:
    """`open_session` for plain threads, in a system of `start_blocking_system`. `bot` makes the bot, on the system's
    thread."""
    opened: ActorFuture[Session] = ActorFuture()
    leave: ActorFuture[None] = ActorFuture()

    async def main() -> None:
        try:
            async with open_session(bot(), transport, options=options, system=system) as session:
                opened.try_set(session)
                await leave
        except BaseException as error:
            if not opened.try_fail(error):
                raise

    done = system.run_async(main)
    session = opened.get()
    try:
        yield session
    finally:
        if not leave.try_set(None):
            raise SessionClosed(session.id)
        done.get()
