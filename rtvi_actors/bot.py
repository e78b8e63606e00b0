"""`Bot`: the user's base class. It is an actor like any other, and talks through messages only.

Synchronous within: every frame is taken at once, and handed to a group (DESIGN.md 6.1)::

    turn      on_turn, on_append     one at a time; an interruption cancels a turn at its next await, and no append
    audio     on_audio               one at a time, in order; a bot that is too slow loses the oldest audio
    requests  @request               many at once; each cancelled at its deadline
    messages  @message, on_client_message   one at a time, in order; each cancelled after 8 s, and answered as failed
    hooks     on_client_ready, … and the bot's own asynchronous handlers
    end, disconnect  on_end; on_actor_given_up, on_disconnect: no other handler can hold them up

A turn, audio or request handler that fails ends only itself: the client gets an error with an id, the log the rest.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, Self, cast

import anyio
import anyio.lowlevel
import msgspec

from rtvi_actors import frames
from rtvi_actors.calls import ClientCalls
from rtvi_actors.commands import Commands
from rtvi_actors.concern import reply_to
from rtvi_actors.declared import EVENTS, Route, check_asynchronous, read_handlers, read_routes
from rtvi_actors.errors import (
    ActorError,
    ClientError,
    Crash,
    NotJson,
    Overloaded,
    Rejected,
    RequestError,
    quoted,
)
from rtvi_actors.messages import Answer, Ready, TurnCommitted
from rtvi_actors.protocol import server
from rtvi_actors.protocol.codec import decode_request, to_json
from rtvi_actors.resampling import check_rate
from rtvi_actors.runtime.context import savepoint
from rtvi_actors.runtime.declare import locals_of_class_statement
from rtvi_actors.runtime.groups import GroupSpec, Job

__all__ = ["Bot", "Response"]

logger = logging.getLogger("rtvi_actors")

AUDIO_ERRORS: Final = 50
"""Failures of on_audio for which the client gets one error."""
MAX_AHEAD_S: Final = 10.0
"""How much audio may wait in playout before `say_audio` waits for it to play."""
MAX_SEGMENT_S: Final = 100.0
"""The longest audio of one segment, which is handed to playout as a whole: it fits behind what may wait there."""
MIN_RATE_HZ: Final = 4_000
MAX_RATE_HZ: Final = 192_000
"""What the bot may say audio at: half a telephone's rate to studio quality. At 1 Hz a kilobyte would last minutes."""
MAX_WAITING_FILES_BYTES: Final = 64 * 1024 * 1024
"""What the files of turns that wait may weigh: as much as an actor's mail. Any one file has room."""
BOT_AUDIO_OVERFLOW: Final = "bot audio overflow"
"""The policy by which a bot whose `on_audio` is too slow loses the oldest audio."""


# -- the bot -----------------------------------------------------------------------------


class Bot(ClientCalls, Commands):
    """Subclass it and override what you need. Handlers run on the session's event loop."""

    groups: ClassVar[Mapping[str, GroupSpec]] = {
        "turn": GroupSpec(max_queued=64),
        "audio": GroupSpec(max_queued=256),
        "requests": GroupSpec(concurrency=32, max_queued=256),
        "messages": GroupSpec(max_queued=256, timeout_s=8.0),
        "hooks": GroupSpec(max_queued=256),
        "end": GroupSpec(timeout_s=8.0),
        "disconnect": GroupSpec(),
    }
    async_group: ClassVar[str] = "hooks"
    bulk: ClassVar[frozenset[type]] = frozenset({frames.InputAudioRaw})
    not_handlers: ClassVar[frozenset[str]] = frozenset({*EVENTS.values(), "on_turn", "on_append", "on_audio"})

    auto_bot_ready: ClassVar[bool] = True
    """Whether every client-ready is answered with bot-ready at once; otherwise call `set_bot_ready`."""
    auto_turn_committed: ClassVar[bool] = True
    """Whether an interrupted turn counts as committed to the context once its handler has ended. Otherwise say so by
    `turn_committed` after every interruption, also one that found no turn: what the user typed over it waits for that,
    at most `SessionOptions.commit_timeout_s`."""
    accepts_files: ClassVar[bool] = False
    """Whether turns may have `files` (send-file). To a bot that takes none, a client cannot send any."""
    new_turn: ClassVar[Literal["queue", "cancel"]] = "queue"
    """What a turn that comes without interruption does to the running one: wait for it, or cancel it."""
    audio_out_sample_rate: ClassVar[int | None] = None
    """Hz: the rate that `say_audio` will be given, where it is known. Then a session that could not play it does not
    start."""

    routes: ClassVar[Mapping[str, Route]] = {}
    handlers: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    audio_is_plain: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        own = [name for name in dir(cls) if hasattr(inspect.getattr_static(cls, name), "__rtvi__")]
        cls.not_handlers = cls.not_handlers | frozenset(own)
        super().__init_subclass__(**kwargs)
        cls.routes = read_routes(cls, own, locals_of_class_statement())
        cls.handlers = read_handlers(cls, Bot, own)
        cls.audio_is_plain = not inspect.iscoroutinefunction(cls.on_audio)
        check_asynchronous(cls, own)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._segments = 0
        self._turn_switch: list[bool | None] | None = None
        """`skip_tts` as the turn that runs has it."""
        self._audio_failures = 0
        self._flushed = anyio.Event()
        """Set by the next interruption: whoever waits for audio to play need not any more."""

    @property
    def skip_tts(self) -> bool | None:
        """Whether what the bot says is not to be spoken: what LLMConfigureOutput said last; in a turn, before that
        turn."""
        return self.ledger.skip_tts if self._turn_switch is None else self._turn_switch[0]

    def configure_output(self, skip_tts: bool | None) -> None:
        super().configure_output(skip_tts)
        if self._turn_switch is not None:
            self._turn_switch[0] = skip_tts

    # -- hooks, to be overridden -----------------------------------------------------------

    async def on_turn(self, turn: frames.LLMMessagesAppend) -> None:
        """The user's turn: append the messages to your context and answer. Cancelled by an interruption.

        On asyncio a cancellation is delivered natively, once, and also inside ``CancelScope(shield=True)``: what must
        not be cut short belongs in a task of its own. On trio it is a cancelled scope, which a shield holds off.
        """

    async def on_append(self, append: frames.LLMMessagesAppend) -> None:
        """Append to your context without running the LLM. Also for a turn that was interrupted before it began."""

    def on_audio(self, frame: frames.InputAudioRaw) -> Awaitable[None] | None:
        """Audio from the client. An async function runs in the group ``audio``; a plain one at once, which is
        faster."""

    async def on_client_message(self, message: frames.ClientMessage) -> None:
        """A client-message that no @request or @message declares. Without this hook it gets an error-response."""

    async def on_bot_started(self) -> None:
        """The bot runs, before any client message; again after a restart."""

    async def on_client_ready(self, client: frames.ClientReady) -> None:
        """The client has said ready."""

    async def on_start_audio(self) -> None:
        """Input audio should flow from now on."""

    async def on_interrupted(self) -> None:
        """The bot was interrupted; the running turn has been cancelled already."""

    async def on_function_call_result(self, result: frames.FunctionCallResult) -> None:
        """A function that ran in the client has returned."""

    async def on_dtmf(self, keys: frames.InputDTMF) -> None:
        """The client pressed keys of its telephone keypad."""

    async def on_ui_event(self, event: frames.UIEvent) -> None:
        """Something happened in the client's page."""

    async def on_ui_snapshot(self, snapshot: frames.UISnapshot) -> None:
        """The client's page, as an accessibility tree. While this runs, newer ones replace those that wait."""

    async def on_ui_cancel_job_group(self, cancel: frames.UICancelJobGroup) -> None:
        """The user wants no more of a job group."""

    async def on_end(self) -> None:
        """The client has asked the bot to end; the session closes when this has returned."""

    async def on_actor_given_up(self, event: frames.ActorGivenUp) -> None:
        """An actor of the session has crashed too often, and the session ends: before on_disconnect. Where it is this
        very bot, only handlers of the host's hear it (`session.control.on`)."""

    async def on_disconnect(self, reason: str) -> None:
        """The session ends. Once; not at all where this very bot has crashed too often to go on."""

    # -- what a handler may do -------------------------------------------------------------

    def response(self) -> Response:
        """A response: ``async with self.response() as out: await out.text(...)``."""
        return Response(self)

    async def say_audio(self, audio: bytes, sample_rate: int, num_channels: int = 1) -> None:
        """Play PCM16 to the client. Waits while more than 10 s wait to be played; an interruption ends the wait, and
        what had not been handed over is not played.

        Raises `NoResampler` where it cannot be brought to the client's rate, `ValueError` for half a frame or a rate
        outside 4 to 192 kHz.
        """
        self._check_audio(audio, sample_rate, num_channels)
        flushed = self._flushed
        step = int(MAX_AHEAD_S * sample_rate) * 2 * num_channels
        for start in range(0, len(audio), step):
            if flushed.is_set():
                return
            part = audio[start : start + step]
            await self._play(frames.OutputAudioRaw(part, sample_rate, num_channels), flushed)

    def _check_audio(self, audio: bytes, sample_rate: int, num_channels: int) -> None:
        if not MIN_RATE_HZ <= sample_rate <= MAX_RATE_HZ:
            raise ValueError(f"audio at {sample_rate} Hz is not within {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz")
        if num_channels < 1 or len(audio) % (2 * num_channels):
            raise ValueError("audio must be whole frames of PCM16")
        check_rate(sample_rate, self.ledger.playing_rate_hz)

    async def _play(self, frame: frames.OutputAudioRaw, flushed: anyio.Event) -> None:
        waiting_s = await self.link("playout").call(frame)
        if waiting_s > MAX_AHEAD_S:
            with anyio.move_on_after(waiting_s - MAX_AHEAD_S):
                await flushed.wait()

    def next_segment_id(self) -> int:
        """A new segment id: of this incarnation, so that none is used twice. Positive Int32."""
        self._segments = self._segments % 999_999 + 1
        return (self.cell.generation % 2000) * 1_000_000 + self._segments

    def interrupt_bot(self) -> None:
        """At once, not behind the bot's own mail: what a handler says after it is not to be voided by it."""
        self._interrupt(frames.Interruption())

    def _to(self, name: str, message: Any) -> None:
        (self.ref if name == "bot" else self.link(name)).tell(message)

    # -- frames ----------------------------------------------------------------------------

    def on_start(self) -> None:
        check_rate(self.audio_out_sample_rate or 0, self.ledger.playing_rate_hz if self.audio_out_sample_rate else None)
        if self.cell.generation > 1:  # a response of the incarnation before, which nobody ends any more
            self.link("observer").tell(frames.LLMFullResponseEnd(shown=True, if_open=True))
            self.link("observer").tell(frames.JobsLost())
            self._cancel_calls("restarted")
            self.later(self._commit, self.ledger.texts.token)
        self._event("bot-started")

    def on_frame(self, frame: frames.BotFrame) -> None:
        """Everything that comes from the router."""
        _FRAMES[type(frame)](self, frame)

    def _append(self, frame: frames.LLMMessagesAppend) -> None:
        if frame.run_llm and self.new_turn == "cancel":
            self._cancel_turn()
        if not self._has_room_for(frame):
            self._refuse(Overloaded("files", reply_id=frame.msg_id or None))
            return
        try:
            if frame.run_llm:
                self.submit("turn", "_run_turn", frame, self.ledger.skip_tts)
            else:
                self.submit("turn", "on_append", frame)
        except Rejected:
            self._refuse(Overloaded("turns", reply_id=frame.msg_id or None))
        else:
            if frame.typed and frame.msg_id:
                self._acknowledge(frame)

    def _has_room_for(self, frame: frames.LLMMessagesAppend) -> bool:
        """Whether its files may wait beside those that do: they are in memory, whatever upload they come from."""
        if not frame.files:
            return True
        queue = self.cell.groups["turn"].queue
        waiting = [job.arguments[0] for job in queue if job.method in ("_run_turn", "on_append")]
        return sum(map(_files_bytes, (frame, *waiting))) <= MAX_WAITING_FILES_BYTES

    def _acknowledge(self, frame: frames.LLMMessagesAppend) -> None:
        """What the user wrote has arrived, behind the interruption that it made."""
        text = " ".join(message.content for message in frame.messages)
        self.link("observer").tell(frames.UserText(text, frame.msg_id, self.ledger.timestamp()))

    async def _run_turn(self, turn: frames.LLMMessagesAppend, skip_tts: bool | None) -> None:
        """A turn waits for others, while the switch is turned back behind it: it runs with what held when it came."""
        self._turn_switch = own = [skip_tts]
        try:
            await self.on_turn(turn)
        finally:
            if self._turn_switch is own:  # not of one that was given up
                self._turn_switch = None

    def _configure(self, frame: frames.LLMConfigureOutput) -> None:
        self.later(self.ledger.configure, frame.skip_tts)

    def _interrupt(self, frame: frames.Interruption) -> None:
        """Cancel the turn that runs; those that wait are only appended, so that no text is lost."""
        self.later(self._void_turns, frame.token)
        self.link("playout").tell(frame)
        self.link("observer").tell(frame)
        self.later(self._release_players, None)
        self.later(self._interrupt_calls, None)
        self._event("interruption")

    def _release_players(self, _: None) -> None:
        flushed, self._flushed = self._flushed, anyio.Event()
        flushed.set()

    def _void_turns(self, token: int) -> None:
        group = self.cell.groups["turn"]
        waiting = group.drop_queued()
        for job in waiting:
            group.submit(job if job.method == "_committed" else Job("on_append", job.arguments[:1]))
        self._cancel_turn()
        if token and self.auto_turn_committed:
            self._commit(token)

    def _cancel_turn(self) -> None:
        """A turn may be cut short; what is only appended may not, or the text would be lost."""
        if self._turn_switch is not None:
            self.cancel_group("turn")

    def _commit(self, token: int) -> None:
        """Say that the interrupted turn is committed, once it and what was only to be appended have ended: behind
        them in their group."""
        self.cell.groups["turn"].submit(Job("_committed", (token,)))

    async def _committed(self, token: int) -> None:
        self.link("text").tell(TurnCommitted(token))

    def _audio(self, frame: frames.InputAudioRaw) -> None:
        if self.audio_is_plain:
            self._hear(frame)
            return
        group = self.cell.groups["audio"]
        if len(group.queue) >= group.spec.max_queued:
            oldest = group.queue.popleft().arguments[0]
            self.cell.dropped += 1
            if not oldest.more:  # a batch is one message: it counts with its last chunk
                self.later(self.ledger.audio_lost, BOT_AUDIO_OVERFLOW)
        self.submit("audio", "on_audio", frame)

    def _hear(self, frame: frames.InputAudioRaw) -> None:
        """A plain on_audio: a failure ends only itself, and what it sent is taken back."""
        rollback = savepoint()
        try:
            cast("Callable[[Any], None]", self.on_audio)(frame)
        except Crash:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code: whatever it raises ends only itself
            rollback()
            self.cell.failed += 1
            self._audio_failed(error)

    def _audio_failed(self, error: BaseException) -> None:
        """Audio comes 50 times a second: the log has every failure, the client hears of one in `AUDIO_ERRORS`."""
        text = self.ledger.failure_text("on_audio", error)
        if not self._audio_failures % AUDIO_ERRORS:
            self.send_error(text)
        self._audio_failures += 1

    def _request(self, frame: frames.Request) -> None:
        route = self.routes[frame.type]
        try:
            if route.asynchronous:
                self.submit("requests" if route.answers else "messages", "_run_request", frame)
            elif route.answers:
                self._answer(frame, self._call_plain(route, frame))
            else:
                self._call_plain(route, frame)
        except Rejected:
            self._fail(frame, Overloaded("requests", reply_id=frame.msg_id))

    def _call_plain(self, route: Route, frame: frames.Request) -> Any:
        """A synchronous request handler: what it sent is taken back when it fails, and only it has failed."""
        rollback = savepoint()
        try:
            return getattr(self, route.method)(*self._arguments(route, frame))
        except Crash:
            raise
        except Exception as error:  # noqa: BLE001 - the user's own code: whatever it raises ends only itself
            rollback()
            self.cell.failed += not isinstance(error, ClientError | RequestError)
            self._fail(frame, error)
            return _FAILED

    async def _run_request(self, frame: frames.Request) -> None:
        route = self.routes[frame.type]
        try:
            result = await getattr(self, route.method)(*self._arguments(route, frame))
        except Exception as raised:
            error = _only(raised)
            if not isinstance(error, ClientError | RequestError):
                raise
            self._fail(frame, error)  # the client's fault, or meant for it: no failure of ours
            return
        if route.answers:
            self._answer(frame, result)

    @staticmethod
    def _arguments(route: Route, frame: frames.Request) -> tuple[Any, ...]:
        if route.payload is inspect.Parameter.empty:
            return ()
        return (decode_request(frame.payload, route.payload, frame.msg_id),)

    def _answer(self, frame: frames.Request, result: Any) -> None:
        if result is _FAILED:
            return
        try:
            payload = msgspec.UNSET if result is None else to_json(result)
        except NotJson as error:
            self._fail(frame, error)
            return
        data = server.ServerResponseData(frame.type, payload)
        self._emit(Answer(frame.token, server.ServerResponse(id=frame.msg_id, data=data)))

    def _fail(self, frame: frames.Request, error: BaseException | None) -> None:
        """The answer to a request whose handler failed. Nothing of the exception but a RequestError's text gets out."""
        if isinstance(error, ClientError):
            text = self.ledger.reply_text(error) or ""
        elif isinstance(error, RequestError):
            text = error.text
        else:
            text = self.ledger.failure_text(f"request {frame.type}", error)
        reply = server.ErrorResponse(id=frame.msg_id, data=server.ErrorResponseData(text))
        self._emit(Answer(frame.token, reply) if frame.token else reply)

    def _emit(self, message: Any) -> None:
        """To outbound, in the order of all that the bot emits: by way of the observer, which need not read it."""
        self.link("observer").tell(Ready(self.link("outbound").encode(message)))

    def _expired(self, frame: frames.RequestExpired) -> None:
        self.cell.groups["requests"].cancel_where(lambda job: job.arguments[0].token == frame.token)

    def _client_message(self, frame: frames.ClientMessage) -> None:
        try:
            self._event("client-message", frame, group="messages")
        except Rejected:
            self._refuse(Overloaded("messages", reply_id=frame.msg_id))

    def _function_result(self, frame: frames.FunctionCallResult) -> None:
        """Of a call that was not made by `call_client`. The client's own word is reported back to it."""
        self._event("function-call-result", frame)
        self.link("observer").tell(frames.FunctionCallStopped(frame.function_name, frame.tool_call_id, frame.result))

    def _snapshot(self, frame: frames.UISnapshot) -> None:
        """Each is the whole page: of those that wait, only the newest is worth a look."""
        queue = self.cell.groups["hooks"].queue
        for job in [job for job in queue if job.arguments and isinstance(job.arguments[0], frames.UISnapshot)]:
            queue.remove(job)
            self.cell.dropped += 1
        self._event("ui-snapshot", frame)

    def _disconnected(self, frame: frames.ClientDisconnected) -> None:
        self._cancel_calls("gone")
        self._event("disconnect", frame.reason, group="disconnect")

    def _end(self, frame: frames.EndTask) -> None:
        self._event("end", group="end")
        self.submit("end", "_ended")

    async def _ended(self) -> None:
        self.end("ended by the client")

    def _event(self, event: str, *arguments: Any, group: str = "hooks") -> None:
        calls = [(method, arguments) for method in self.handlers.get(event, ())]
        calls += [("_call_listener", (*arguments, listener)) for listener in self.ledger.listeners.get(event, ())]
        for method, given in calls:
            try:
                self.submit(group, method, *given)
            except Rejected:
                if group == "messages":
                    raise
                self._refuse(Overloaded(f"{event} events"))

    async def _call_listener(self, *given: Any) -> None:
        """A handler of the host's (`session.control.on`), plain or async; it stands behind the event's argument."""
        *arguments, listener = given
        result = listener(*arguments)
        if inspect.isawaitable(result):
            await result

    # -- failures --------------------------------------------------------------------------

    def on_error(self, method: str, arguments: tuple[Any, ...], error: BaseException | None) -> None:
        """A job failed (`error`) or was cancelled or lost (`None`): tell the client what concerns it."""
        frame = arguments[0] if arguments else None
        if method == "_run_turn" and self._turn_switch is not None:  # cut off or given up, so it has ended nothing
            self._turn_switch = None
            self.link("observer").tell(frames.LLMFullResponseEnd(shown=True, if_open=True))
        if isinstance(frame, frames.Request):
            self._fail(frame, error)
        elif error is None and self.cell.state != "restarting":
            return  # an interruption, or the end; otherwise the bot has crashed beside it
        elif isinstance(frame, frames.ClientMessage):
            self.send_error_response(frame, self.ledger.failure_text(f"client-message {quoted(frame.type)}", error))
        elif isinstance(frame, frames.LLMMessagesAppend):
            self.send_error(self.ledger.failure_text(method, error))
        elif isinstance(frame, frames.InputAudioRaw) and error is not None:
            self._audio_failed(error)
        elif method == "on_end":
            self.end("on_end failed")

    def _refuse(self, error: ClientError) -> None:
        reply = reply_to(error, self.ledger)
        if reply is not None:
            self.link("observer").tell(reply)


def _files_bytes(append: frames.LLMMessagesAppend) -> int:
    return sum(len(file.data) for file in append.files if file.data is not None)


def _only(error: BaseException) -> BaseException:
    """What a task group has wrapped, where it is one error."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


_FAILED: Final = object()
"""What a synchronous request handler returned that has been answered with an error already."""

_FRAMES: Final[Mapping[type[Any], Callable[[Bot, Any], None]]] = {
    frames.InputAudioRaw: Bot._audio,
    frames.LLMMessagesAppend: Bot._append,
    frames.LLMConfigureOutput: Bot._configure,
    frames.Interruption: Bot._interrupt,
    frames.FunctionCallResult: Bot._function_result,
    frames.ClientCallEnded: Bot._call_ended,
    frames.InputDTMF: lambda bot, frame: bot._event("dtmf", frame),
    frames.UIEvent: lambda bot, frame: bot._event("ui-event", frame),
    frames.UISnapshot: Bot._snapshot,
    frames.UICancelJobGroup: lambda bot, frame: bot._event("ui-cancel-job-group", frame),
    frames.ClientMessage: Bot._client_message,
    frames.Request: Bot._request,
    frames.RequestExpired: Bot._expired,
    frames.ClientReady: lambda bot, frame: bot._event("client-ready", frame),
    frames.StartAudio: lambda bot, _: bot._event("start-audio"),
    frames.EndTask: Bot._end,
    frames.ActorGivenUp: lambda bot, frame: bot._event("actor-given-up", frame, group="disconnect"),
    frames.ClientDisconnected: Bot._disconnected,
}


class Response:
    """An open response. Leaving it, also by an exception or a cancellation, reports its end."""

    def __init__(self, bot: Bot) -> None:
        self._bot = bot

    async def __aenter__(self) -> Self:
        self._bot.link("observer").tell(frames.LLMFullResponseStart())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bot.link("observer").tell(frames.LLMFullResponseEnd(shown=True, if_open=True))

    async def text(self, text: str) -> None:
        """A piece of the answer: bot-llm-text now, bot-output and bot-transcription at the end of its sentence.

        Always lets other tasks run, so that an interruption can cancel here.
        """
        await self._bot.link("observer").send(frames.LLMText(text, shown=True))
        await anyio.lowlevel.checkpoint()

    async def say(self, text: str, audio: bytes, sample_rate: int, num_channels: int = 1) -> None:
        """A segment with its speech: bot-output as `new`, then its progress as the client plays the audio.

        Its text is not collected as `text` is. Without audio it is shown as not to be spoken. Waits as
        `Bot.say_audio`, raises as it does, and `ValueError` for more than `MAX_SEGMENT_S`.
        """
        bot = self._bot
        bot._check_audio(audio, sample_rate, num_channels)
        if len(audio) > MAX_SEGMENT_S * sample_rate * 2 * num_channels:
            raise ValueError(f"a segment cannot be longer than {MAX_SEGMENT_S:g} s")
        segment_id = bot.next_segment_id()
        observer = bot.link("observer")
        await observer.send(frames.LLMText(text, whole=True))
        await observer.send(frames.AggregatedText(text, will_be_spoken=bool(audio), segment_id=segment_id))
        if not audio:
            return
        try:  # nothing awaits between the two: no interruption comes between them
            await bot._play(frames.OutputAudioRaw(audio, sample_rate, num_channels, segment_id, text), bot._flushed)
        except ActorError:
            observer.tell(frames.SpeechLost(segment_id))
            raise
