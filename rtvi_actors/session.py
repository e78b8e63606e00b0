"""The composition root: one client's actors, and the two tasks that do all its I/O.

This is the only file that sees concerns and transports. Who may send to whom is in two tables, `LINKS` (forward, in
the order of the children) and `BACK` (what flows back, by name); which concern serves which message is in `ROUTES`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
import msgspec

from rtvi_actors import frames
from rtvi_actors.bot import Bot
from rtvi_actors.commands import Commands
from rtvi_actors.concern import Concern, reply_to
from rtvi_actors.concerns.audio import Audio
from rtvi_actors.concerns.door import Door
from rtvi_actors.concerns.handshake import Handshake
from rtvi_actors.concerns.ingress import AUDIO, INTERRUPTION, Ingress
from rtvi_actors.concerns.observer import Observer
from rtvi_actors.concerns.outbound import Outbound
from rtvi_actors.concerns.playout import Playout
from rtvi_actors.concerns.requests import Requests
from rtvi_actors.concerns.text import Text
from rtvi_actors.concerns.tools import Tools
from rtvi_actors.errors import (
    ClientError,
    Dead,
    DeclarationError,
    InvalidEnvelope,
    NotRtvi,
    Rejected,
    SessionClosed,
    Unknown,
)
from rtvi_actors.ledger import Conservation, Ledger
from rtvi_actors.messages import (
    Answer,
    AnswerReady,
    BotReady,
    DeferExpired,
    EndSession,
    Expire,
    Injected,
    Negotiated,
    Outcome,
    OutputConfigured,
    Ready,
    Received,
    ReceivedPcm,
    Release,
    SetClientReady,
)
from rtvi_actors.outbox import Outbox
from rtvi_actors.protocol.codec import decode_envelope, encode_server, to_json
from rtvi_actors.protocol.server import SERVER, ErrorResponse, ErrorResponseData, ServerMessage, ServerResponse
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.backend import waiter
from rtvi_actors.runtime.clock import Timer
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.registry import ActorStatistics, of_cell
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.streams import (
    ClientAudio,
    ClientInterruption,
    ClientText,
    Malformed,
    ServerText,
    Transport,
    size_bytes,
)

__all__ = [
    "BACK",
    "CHILDREN",
    "LINKS",
    "ROUTES",
    "Control",
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
        INTERRUPTION: "text",
        "raw-audio": AUDIO,
        "raw-audio-batch": AUDIO,
        "llm-function-call-result": "tools",
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
    "door",
    "bot",
    "playout",
    "observer",
    "outbound",
)
"""In start order. References point forward in it."""

LINKS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ingress": ("handshake", "audio", "text", "requests", "tools", "outbound"),
        "handshake": ("door", "bot", "outbound"),
        "audio": ("bot", "outbound"),
        "text": ("door", "bot", "outbound"),
        "requests": ("door", "bot", "outbound"),
        "tools": ("door", "bot", "outbound"),
        "door": ("bot", "outbound"),
        "bot": ("playout", "observer", "outbound"),
        "playout": ("observer", "outbound"),
        "observer": ("outbound",),
        "outbound": (),
    }
)
"""Child → whom it may send to. Every name stands behind it in `CHILDREN`."""

BACK: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"bot": ("ingress", "handshake", "text")})
"""What flows back: child → names before it. Only typed messages, and nobody waits for an answer."""

CUSTOM_LINKS: Final = ("door", "bot", "playout", "observer", "outbound")
"""Whom a custom actor may send to, besides what its spec adds. It stands between the concerns and the door."""


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
    """What a slow client may leave unread before the session closes."""
    capabilities: Mapping[str, bool] = MappingProxyType({"metrics": False})
    """bot-ready's capabilities (2.2); what is absent is unknown."""
    actors: tuple[CustomActor, ...] = ()
    restart_intensity: int = 20
    """Restarts in `restart_period_s` after which the session gives up."""
    restart_period_s: float = 10.0


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
    sent: int
    """Wire messages out."""
    outbox_bytes: int


class Control(Commands):
    """Reports and commands for a session, from any thread."""

    def __init__(self, refs: Mapping[str, ActorRef[Any]]) -> None:
        self._refs = refs

    def _to(self, name: str, message: Any) -> None:
        try:
            self._refs[name].tell(message)
        except Dead as error:
            raise SessionClosed("the session is over") from error


class Session:
    """One client's actors. Made by `open_session`."""

    def __init__(self, bot: Bot, transport: Transport, options: SessionOptions, system: ActorSystem) -> None:
        self.id = f"session-{uuid.uuid4().hex[:8]}"
        self.system = system
        self.options = options
        self._transport = transport
        self._ledger = Ledger(
            self.id,
            credit=options.credit,
            credit_bytes=options.credit_bytes,
            playing_rate_hz=transport.playing_rate_hz,
        )
        self._outbox = Outbox(options.outbox_bytes)
        self._outbox.on_close = self._closing
        self._sending = anyio.CancelScope()
        self._sending_ends: Timer | None = None
        self._bot = bot
        self._closed: ActorFuture[str] = ActorFuture()
        self._reader_waits = False
        self._supervisor: ActorRef[Any]
        self._refs: dict[str, ActorRef[Any]] = {}
        self.control = Control(self._refs)

    # -- for people ------------------------------------------------------------------------

    def actor(self, name: str) -> ActorRef[Any]:
        """A child by its name in the session: ``bot``, ``audio``, … Raises `Unknown`."""
        if name not in self._refs:
            raise Unknown(f"{self.id} has no actor named {name}")
        return self._refs[name]

    @property
    def closed(self) -> bool:
        return self._closed.done()

    async def wait_closed(self) -> str:
        """Wait until the session is over; returns the reason."""
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
        """End the session when what was emitted has left. Loop thread."""
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
            held=len(outbox.held),
            sent=outbox.sent,
            outbox_bytes=outbox.size_bytes,
        )

    def actors(self) -> tuple[ActorStatistics, ...]:
        """The statistics of the session's actors, the supervisor first."""
        return tuple(of_cell(ref.cell) for ref in (self._supervisor, *self._refs.values()))

    async def idle(self) -> None:
        """Wait until nothing moves: no mail, no handler, nothing to send, and the reader waits for the client.

        Timers that are set do not count. For tests and tools.
        """
        quiet = turns = 0
        while quiet < 3:
            turns += 1
            # Nearly always a few turns of the loop; what takes longer is waited for without a busy loop.
            await (anyio.lowlevel.checkpoint() if turns < 256 else anyio.sleep(0.002))
            quiet = quiet + 1 if self._is_quiet() else 0

    def _is_quiet(self) -> bool:
        if not self.closed and (self._ledger.unread or len(self._outbox) or not self._reader_waits):
            return False
        return all(_cell_is_quiet(ref) for ref in self._refs.values())

    # -- life --------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Session]:
        """Start the actors and the two tasks; on exit, drain and stop them."""
        self._supervisor = self.system.spawn(
            Supervisor,
            self._specs(),
            intensity=self.options.restart_intensity,
            period_s=self.options.restart_period_s,
            on_escalate=self._escalated,
            name=self.id,
        )
        self._refs.update({ref.name.partition("/")[2]: ref for ref in self._supervisor_actor().children()})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read)
            tasks.start_soon(self._write)
            try:
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self._shut_down()
                tasks.cancel_scope.cancel()

    def _supervisor_actor(self) -> Supervisor:
        return cast("Supervisor", self._supervisor.cell.actor)

    async def _shut_down(self) -> None:
        """The reader has stopped or is void; work drains; open requests are counted; on_disconnect; children stop."""
        self._outbox.close("closed by the host")
        with anyio.move_on_after(self.options.drain_s):
            await self._closed
        self._end("client too slow")  # unless the writer has said why
        reason = self._closed.result()
        bot = self._refs["bot"]
        with anyio.move_on_after(self.options.drain_s):
            if bot.is_alive():
                bot.tell(frames.ClientDisconnected(reason))
            await self.idle()
        for token in list(self._ledger.requests):
            self._ledger.settle(token)
            self._ledger.client_gone += 1
        if self._supervisor.is_alive():
            await self._supervisor_actor().stop_children()
            await self.system.stop(self._supervisor, 0.0)
        await self._transport.aclose(reason)

    def _end(self, reason: str) -> None:
        self._closed.try_set(reason)

    def _closing(self) -> None:
        """The session is to close: a client that does not read gets `drain_s` to take what is left, one that is beyond
        its budget nothing."""
        if self._outbox.overrun:
            self._sending.cancel()
        else:
            self._sending_ends = self.system.timers.after(self.options.drain_s, self._sending.cancel)

    def _escalated(self, child: str, error: BaseException) -> None:
        """The supervisor has given up on a child: the session cannot keep its promises any more."""
        self._outbox.close(f"{child} crashed too often")

    # -- the two tasks -------------------------------------------------------------------------

    async def _read(self) -> None:
        """Transport → ingress, as long as there is credit."""
        ledger, receive = self._ledger, self._transport.receive
        ingress = self._refs["ingress"]
        count = 0
        try:
            while not self._outbox.closing:
                if ledger.exhausted:
                    parker, ledger.on_credit = waiter()
                    await parker.park()
                    continue
                self._reader_waits = True
                wire = await receive()
                self._reader_waits = False
                if self._outbox.closing is not None:
                    return
                ledger.arrived(size_bytes(wire))
                try:
                    ingress.tell(wire)
                except Rejected:  # what the host injects is not under the credit
                    await ingress.send(wire)
                count += 1
                if not count % 64:  # a transport with a full queue never waits: let the actors run
                    await anyio.lowlevel.checkpoint()
        except anyio.EndOfStream:
            self._end("client disconnected")
            self._outbox.close("client disconnected")
        finally:
            self._reader_waits = True

    async def _write(self) -> None:
        """Outbox → transport. Ends when the outbox is closed and empty."""
        outbox = self._outbox
        try:
            with self._sending:
                await self._send_all()
            self._end("client too slow")  # unless all has been sent
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            outbox.close("client disconnected")
            self._end("client disconnected")
        finally:
            if self._sending_ends is not None:
                self._sending_ends.cancel()

    async def _send_all(self) -> None:
        outbox, send = self._outbox, self._transport.send
        while True:
            batch = outbox.take()
            if batch and not outbox.overrun:
                await send(batch)
            elif outbox.closing is not None:
                self._end(outbox.closing)
                return
            else:
                parker, outbox.wake = waiter()
                await parker.park()

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
        arguments: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "ingress": (Ingress, (routes,)),
            "handshake": (Handshake, (bot.auto_bot_ready,)),
            "audio": (Audio, ()),
            "text": (Text, ()),
            "requests": (Requests, (requests, messages, other, options.request_timeout_s)),
            "tools": (Tools, ()),
            "door": (Door, (options.door_gap_s,)),
            "bot": (self._bot, ()),
            "playout": (Playout, (self._transport.playing_rate_hz,)),
            "observer": (Observer, ()),
            "outbound": (
                Outbound,
                (
                    self._outbox,
                    self._transport.max_message_bytes,
                    about,
                    to_json(dict(options.capabilities)),
                    options.hold_before_ready,
                ),
            ),
        }
        built_in = [self._spec(name, *arguments[name], self._links(name)) for name in CHILDREN]
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
            on_lost=lambda message, reason: self._lost(name, message, reason),
        )

    # -- what is lost ------------------------------------------------------------------------------

    def _lost(self, receiver: str, message: Any, reason: str) -> None:
        """A message that its actor did not handle: end its number, answer the client. Runs between handlers."""
        handler = _LOST.get(type(message))
        if handler is not None and self._refs and not self.closed:
            handler(self, receiver, message, reason)

    def _lost_wire(self, receiver: str, message: Any, reason: str) -> None:
        """Ingress crashed on it, before it had a number."""
        self._ledger.end_unnumbered(Outcome.DEAD, size_bytes(message))
        reply_id = None
        if isinstance(message, ClientText):
            try:
                reply_id = decode_envelope(message.data).id
            except NotRtvi:
                return
            except InvalidEnvelope as error:
                reply_id = error.reply_id
        self._answer_lost(_Lost(reply_id=reply_id, detail=f"{receiver}: {reason}"))

    def _lost_injected(self, receiver: str, message: Injected, reason: str) -> None:
        """Ingress crashed on what the host had it handle: as if the client had sent it."""
        self._ledger.arrived(len(message.data))
        self._lost_wire(receiver, ClientText(message.data), reason)

    def _lost_received(self, receiver: str, message: Received | ReceivedPcm, reason: str) -> None:
        """A concern crashed on it: the door is told, the client gets an error."""
        reply_id = message.id if isinstance(message, Received) and message.type != INTERRUPTION else None
        outcome = Outcome.DROPPED if reason == "overflow" else Outcome.DEAD
        if receiver == AUDIO:
            self._ledger.audio.complete(message.seq, outcome, "audio overflow")
        else:
            self._refs["door"].tell(Release(message.seq, outcome, (), reply_id or ""))
        if receiver != AUDIO or reason != "overflow":
            self._answer_lost(_Lost(reply_id=reply_id, detail=f"{receiver}: {reason}"))

    def _lost_release(self, receiver: str, message: Release, reason: str) -> None:
        """The door crashed on it: its number still ends, and a client that waits for something hears of it."""
        detail = f"{receiver}: {reason}"
        if message.seq in self._ledger.requests:
            self._fail_request(message.seq, message.id, detail)
        elif message.frames:
            self._answer_lost(_Lost(reply_id=message.id or None, detail=detail))
        if message.frames or message.outcome is not Outcome.DEAD:
            self._refs["door"].tell(Release(message.seq, Outcome.DEAD, (), message.id))
        else:
            self._ledger.complete_control((message.seq, Outcome.DEAD))

    def _lost_request(self, receiver: str, message: frames.Request, reason: str) -> None:
        """The bot crashed on a request, or on a message that expects no answer."""
        if message.token:
            self._fail_request(message.token, message.msg_id, f"{receiver}: {reason}")

    def _lost_answer(self, receiver: str, message: Answer, reason: str) -> None:
        """An actor on the way out crashed on an answer: the request is answered all the same."""
        if receiver != "outbound":
            self._refs["outbound"].tell(message)
        elif self._ledger.settle(message.token):
            self._answer_past_outbound(message.message.id, f"{receiver}: {reason}")

    def _lost_message(self, receiver: str, message: ServerMessage, reason: str) -> None:
        """One that is ready as it is needs no observer; where outbound crashed on an answer, the client waits for
        it."""
        if receiver != "outbound":
            self._refs["outbound"].tell(message)
        elif isinstance(message, ServerResponse | ErrorResponse):
            self._answer_past_outbound(message.id, f"{receiver}: {reason}")

    def _lost_end(self, receiver: str, message: EndSession, reason: str) -> None:
        """Whoever crashed on it, the session is to end."""
        if receiver != "outbound":
            self._refs["outbound"].tell(message)
        else:
            self._outbox.close(message.reason)

    def _lost_end_task(self, receiver: str, message: frames.EndTask, reason: str) -> None:
        """The bot crashed when it was asked to end."""
        self._refs["observer"].tell(EndSession("ended by the client"))

    def _lost_expire(self, receiver: str, message: Expire, reason: str) -> None:
        """Requests crashed on a deadline: it holds all the same."""
        now_s = self.system.timers.now()
        for token, request in self._ledger.requests.items():
            if request.due_s <= now_s:
                self._fail_request(token, request.msg_id, f"{receiver}: {reason}")

    def _lost_deferred(self, receiver: str, message: DeferExpired, reason: str) -> None:
        """A custom actor crashed on the deadline of a message that it had deferred."""
        if message.seq in self._ledger.control.open:
            self._answer_lost(_Lost(reply_id=message.id or None, detail=f"{receiver}: {reason}"))
            self._refs["door"].tell(Release(message.seq, Outcome.DEAD, (), message.id))

    def _lost_state(self, receiver: str, message: Any, reason: str) -> None:
        """State that the receiver's next incarnation must have, or an answer that the client's connect() waits for:
        again. What crashes every incarnation ends at the restart limit."""
        self._refs[receiver].tell(message)

    def _lost_interruption(self, receiver: str, message: frames.Interruption, reason: str) -> None:
        """The bot crashed on it, which has cancelled its turn: silence is what the user wants all the more."""
        if receiver == "bot":
            self._refs["playout"].tell(message)
        if receiver != "observer":
            self._refs["observer"].tell(message)

    def _lost_configure(self, receiver: str, message: frames.LLMConfigureOutput, reason: str) -> None:
        """The bot crashed on it; its next incarnation finds it in the ledger."""
        self._ledger.configure(message.skip_tts)

    def _answer_past_outbound(self, msg_id: str, detail: str) -> None:
        """The last resort: an error-response that needs no actor any more."""
        text = f"Exception processing message: {self._ledger.error_id(detail)}"
        reply = ErrorResponse(id=msg_id, data=ErrorResponseData(text))
        self._outbox.put(ServerText(encode_server(reply)))

    def _lost_ready(self, receiver: str, message: Ready, reason: str) -> None:
        """The observer crashed on what it only forwards: it leaves all the same."""
        self._refs["outbound"].forward(message.body)

    def _lost_frame(self, receiver: str, message: Any, reason: str) -> None:
        """The bot crashed on a frame: it was delivered, but the client should hear that nothing will come of it."""
        reply_id = getattr(message, "msg_id", None) or None
        self._answer_lost(_Lost(reply_id=reply_id, detail=f"{receiver}: {reason}"))

    def _fail_request(self, token: int, msg_id: str, detail: str) -> None:
        text = f"Exception processing message: {self._ledger.error_id(detail)}"
        reply = ErrorResponse(id=msg_id, data=ErrorResponseData(text))
        self._refs["outbound"].tell(Answer(token, reply))

    def _answer_lost(self, error: ClientError) -> None:
        reply = reply_to(error, self._ledger)
        if reply is not None:
            self._refs["outbound"].tell(reply)


class _Lost(ClientError):
    """The client's message was lost to a crash."""

    def reply_text(self, error_id: str) -> str | None:
        return f"Exception processing message: {error_id}"


_LOST: Final[Mapping[type[Any], Callable[[Session, str, Any, str], None]]] = MappingProxyType(
    {
        ClientText: Session._lost_wire,
        ClientAudio: Session._lost_wire,
        ClientInterruption: Session._lost_wire,
        Malformed: Session._lost_wire,
        Received: Session._lost_received,
        Injected: Session._lost_injected,
        ReceivedPcm: Session._lost_received,
        Release: Session._lost_release,
        Expire: Session._lost_expire,
        DeferExpired: Session._lost_deferred,
        Negotiated: Session._lost_state,
        AnswerReady: Session._lost_state,
        BotReady: Session._lost_state,
        SetClientReady: Session._lost_state,
        OutputConfigured: Session._lost_state,
        EndSession: Session._lost_end,
        Answer: Session._lost_answer,
        Ready: Session._lost_ready,
        **dict.fromkeys(SERVER.values(), Session._lost_message),
        frames.Request: Session._lost_request,
        frames.LLMMessagesAppend: Session._lost_frame,
        frames.ClientMessage: Session._lost_frame,
        frames.FunctionCallResult: Session._lost_frame,
        frames.Interruption: Session._lost_interruption,
        frames.LLMConfigureOutput: Session._lost_configure,
        frames.EndTask: Session._lost_end_task,
    }
)
"""What the loss of a message means. What is not here is counted as a dead letter and means nothing to the client."""


def _named(counts: Mapping[Outcome, int]) -> Mapping[str, int]:
    return {outcome.value: count for outcome, count in counts.items()}


def _cell_is_quiet(ref: ActorRef[Any]) -> bool:
    cell = ref.cell
    return cell.state == "dead" or (
        not cell.mailbox.user and not cell.mailbox.control and all(group.idle for group in cell.groups.values())
    )


def _version() -> str:
    try:
        return version("rtvi-actors")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


# -- opening a session -------------------------------------------------------------------


@asynccontextmanager
async def open_session(
    bot: Bot, transport: Transport, *, options: SessionOptions | None = None, system: ActorSystem | None = None
) -> AsyncIterator[Session]:
    """Run a bot for the client at the other end of `transport`, in `system` or in a system of its own.

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
        session = Session(bot, transport, options or SessionOptions(), system)
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
