"""What the loss of a message means: its number ends, and whoever waits for an answer hears of it.

An actor that crashes loses the message that crashed it; a full or dead one loses what was sent to it. The runtime
hands each such
message here, decoded, between two handlers. One row a message type; what has no row is counted as a dead letter and
means nothing to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from rtvi_actors import frames
from rtvi_actors.concern import reply_to
from rtvi_actors.errors import ClientError, Dead, InvalidEnvelope, NotRtvi, Rejected
from rtvi_actors.ledger import Ledger
from rtvi_actors.messages import (
    AUDIO,
    INTERRUPTION,
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
    ReleaseTexts,
    SetClientReady,
)
from rtvi_actors.outbox import Outbox
from rtvi_actors.protocol.codec import decode_envelope, encode_server
from rtvi_actors.protocol.server import SERVER, ErrorResponse, ErrorResponseData, ServerMessage, ServerResponse
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, Malformed, ServerText, size_bytes

__all__ = ["Losses"]


class Losses:
    """One session's. `refs` are its actors by name; `now` is the system's clock, in seconds. Loop thread only."""

    def __init__(
        self, ledger: Ledger, outbox: Outbox, refs: Mapping[str, ActorRef[Any]], now: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._refs = refs
        self._now = now

    def lost(self, receiver: str, message: Any, reason: str) -> None:
        """`receiver` did not handle `message`. Called between handlers; must not raise."""
        handler = _LOST.get(type(message))
        if handler is not None:
            handler(self, receiver, message, reason)

    def _wire(self, receiver: str, message: Any, reason: str) -> None:
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

    def _injected(self, receiver: str, message: Injected, reason: str) -> None:
        """Ingress crashed on what the host had it handle: as if the client had sent it."""
        self._ledger.arrived(len(message.data))
        self._wire(receiver, ClientText(message.data), reason)

    def _received(self, receiver: str, message: Received | ReceivedPcm, reason: str) -> None:
        """A concern crashed on it: the door is told, the client gets an error."""
        reply_id = message.id if isinstance(message, Received) and message.type != INTERRUPTION else None
        outcome = Outcome.DROPPED if reason == "overflow" else Outcome.DEAD
        if receiver == AUDIO:
            self._ledger.audio.complete(message.seq, outcome, "audio overflow")
            if reason == "overflow":
                return
        elif self._ledger.holds(message.seq):
            self._ledger.end_control(message.seq)
            self._end_number(message.seq, outcome, reply_id or "")
        else:  # it had released or refused it, or the deadline of a deferred one had passed
            return
        self._answer_lost(_Lost(reply_id=reply_id, detail=f"{receiver}: {reason}"))

    def _release(self, receiver: str, message: Release, reason: str) -> None:
        """The door crashed on it: its number still ends, and a client that waits for something hears of it."""
        detail = f"{receiver}: {reason}"
        if message.outcome is None and not message.frames:
            return  # those behind it wait `door_gap_s` for it, and more of it comes
        if message.seq in self._ledger.requests:
            self._fail_request(message.seq, message.id, detail)
        elif message.frames:
            self._answer_lost(_Lost(reply_id=message.id or None, detail=detail))
        if message.frames or message.outcome is not Outcome.DEAD:
            self._end_number(message.seq, Outcome.DEAD, message.id)
        else:
            self._ledger.complete_control((message.seq, Outcome.DEAD))

    def _request(self, receiver: str, message: frames.Request, reason: str) -> None:
        """The bot crashed on a request, or on a message that expects no answer."""
        if message.token:
            self._fail_request(message.token, message.msg_id, f"{receiver}: {reason}")

    def _answer(self, receiver: str, message: Answer, reason: str) -> None:
        """An actor on the way out crashed on an answer: the request is answered all the same."""
        told = receiver != "outbound" and self._tell("outbound", message)
        if not told and self._ledger.settle(message.token):
            self._answer_past_outbound(message.message.id, f"{receiver}: {reason}")

    def _message(self, receiver: str, message: ServerMessage, reason: str) -> None:
        """One that is ready as it is needs no observer; where outbound crashed on an answer, the client waits for
        it."""
        told = receiver != "outbound" and self._tell("outbound", message)
        if not told and isinstance(message, ServerResponse | ErrorResponse):
            self._answer_past_outbound(message.id, f"{receiver}: {reason}")

    def _end(self, receiver: str, message: EndSession, reason: str) -> None:
        """Whoever crashed on it, the session is to end."""
        if receiver == "outbound" or not self._tell("outbound", message):
            self._outbox.close(message.reason)

    def _end_task(self, receiver: str, message: frames.EndTask, reason: str) -> None:
        """The bot crashed when it was asked to end."""
        end = EndSession("ended by the client")
        if not self._tell("observer", end):
            self._end("observer", end, reason)

    def _expire(self, receiver: str, message: Expire, reason: str) -> None:
        """Requests crashed on a deadline: it holds all the same."""
        now_s = self._now()
        for token, request in self._ledger.requests.items():
            if request.due_s <= now_s:
                self._fail_request(token, request.msg_id, f"{receiver}: {reason}")

    def _deferred(self, receiver: str, message: DeferExpired, reason: str) -> None:
        """A custom actor crashed on the deadline of a message that it had deferred."""
        if self._ledger.holds(message.seq):
            self._ledger.end_control(message.seq)
            self._end_number(message.seq, Outcome.DEAD, message.id)
            self._answer_lost(_Lost(reply_id=message.id or None, detail=f"{receiver}: {reason}"))

    def _state(self, receiver: str, message: Any, reason: str) -> None:
        """State that the receiver's next incarnation must have, or an answer that the client's connect() waits for:
        again. What crashes every incarnation ends at the restart limit."""
        self._tell(receiver, message)

    def _interruption(self, receiver: str, message: frames.Interruption, reason: str) -> None:
        """The bot crashed on it, which has cancelled its turn: silence is what the user wants all the more."""
        if receiver == "bot":
            self._tell("playout", message)
        if receiver != "observer":
            self._tell("observer", message)

    def _configure(self, receiver: str, message: frames.LLMConfigureOutput, reason: str) -> None:
        """The bot crashed on it; its next incarnation finds it in the ledger."""
        self._ledger.configure(message.skip_tts)

    def _configure_observer(self, receiver: str, message: frames.ConfigureObserver, reason: str) -> None:
        """The observer crashed on it; it finds the change in the ledger."""
        self._ledger.configure_observer((message.token, self._ledger.observer_with(message.token)))

    def _speech(self, receiver: str, message: frames.OutputAudioRaw, reason: str) -> None:
        """Playout crashed on it: what it was to speak is not heard, and its segment ends."""
        if message.segment_id:
            self._tell("observer", frames.SpeechLost(message.segment_id))

    def _ready(self, receiver: str, message: Ready, reason: str) -> None:
        """The observer crashed on what it only forwards: it leaves all the same."""
        with suppress(Dead, Rejected):
            self._refs["outbound"].forward(message.body)

    def _audio(self, receiver: str, message: frames.InputAudioRaw, reason: str) -> None:
        """More audio waits at the bot than its bulk lane takes. A batch is one message: it counts with its last
        chunk."""
        if reason == "overflow" and not message.more:
            self._ledger.audio_lost("bot overflow")

    def _frame(self, receiver: str, message: Any, reason: str) -> None:
        """The bot crashed on a frame: it was delivered, but the client should hear that nothing will come of it."""
        reply_id = getattr(message, "msg_id", None) or None
        self._answer_lost(_Lost(reply_id=reply_id, detail=f"{receiver}: {reason}"))

    # -- what they have in common ------------------------------------------------------------

    def _tell(self, name: str, message: Any) -> bool:
        """Returns whether it could be told: one that is given up, or full, cannot."""
        try:
            self._refs[name].tell(message)
        except (Dead, Rejected):
            return False
        return True

    def _end_number(self, seq: int, outcome: Outcome, msg_id: str) -> None:
        """By the door, which those behind it wait at, or without it."""
        if not self._tell("door", Release(seq, outcome, (), msg_id)):
            self._ledger.complete_control((seq, outcome))

    def _fail_request(self, token: int, msg_id: str, detail: str) -> None:
        reply = self._failure(msg_id, detail)
        if not self._tell("outbound", Answer(token, reply)) and self._ledger.settle(token):
            self._put(reply)

    def _answer_lost(self, error: ClientError) -> None:
        reply = reply_to(error, self._ledger)
        if reply is not None and not self._tell("outbound", reply):
            self._put(reply)

    def _answer_past_outbound(self, msg_id: str, detail: str) -> None:
        self._put(self._failure(msg_id, detail))

    def _failure(self, msg_id: str, detail: str) -> ErrorResponse:
        return ErrorResponse(id=msg_id, data=ErrorResponseData(self._ledger.failure_text(detail)))

    def _put(self, reply: ServerMessage) -> None:
        """The last resort: an error that needs no actor any more."""
        self._outbox.put(ServerText(encode_server(reply)))


class _Lost(ClientError):
    """The client's message was lost to a crash."""

    def reply_text(self, error_id: str) -> str | None:
        return f"Exception processing message: {error_id}"


_LOST: Final[Mapping[type[Any], Callable[[Losses, str, Any, str], None]]] = MappingProxyType(
    {
        ClientText: Losses._wire,
        ClientAudio: Losses._wire,
        ClientInterruption: Losses._wire,
        Malformed: Losses._wire,
        Received: Losses._received,
        Injected: Losses._injected,
        ReceivedPcm: Losses._received,
        Release: Losses._release,
        Expire: Losses._expire,
        DeferExpired: Losses._deferred,
        Negotiated: Losses._state,
        AnswerReady: Losses._state,
        BotReady: Losses._state,
        SetClientReady: Losses._state,
        OutputConfigured: Losses._state,
        ReleaseTexts: Losses._state,
        EndSession: Losses._end,
        Answer: Losses._answer,
        Ready: Losses._ready,
        **dict.fromkeys(SERVER.values(), Losses._message),
        frames.Request: Losses._request,
        frames.InputAudioRaw: Losses._audio,
        frames.LLMMessagesAppend: Losses._frame,
        frames.ClientMessage: Losses._frame,
        frames.FunctionCallResult: Losses._frame,
        frames.InputDTMF: Losses._frame,
        frames.OutputAudioRaw: Losses._speech,
        frames.Interruption: Losses._interruption,
        frames.LLMConfigureOutput: Losses._configure,
        frames.ConfigureObserver: Losses._configure_observer,
        frames.EndTask: Losses._end_task,
    }
)
"""What the loss of a message means. What is not here is counted as a dead letter and means nothing to the client."""
