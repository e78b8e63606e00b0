"""Tools: results of functions that ran in the client.

The bot opens a call in the ledger and says so here (`Bot.call_client`); this actor has the deadlines, and gives the bot
the client's answer in its place among the client's messages. Whatever crashes on the way, the deadline ends the call.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import Dead, InvalidData, Rejected, UnknownCall
from rtvi_actors.frames import ClientCallEnded
from rtvi_actors.frames import FunctionCallResult as FunctionCallResultFrame
from rtvi_actors.messages import CallClient, CallsExpire, Received
from rtvi_actors.protocol.client import FunctionCallResult
from rtvi_actors.runtime.clock import Timer

__all__ = ["AGAIN_S", "FOREIGN", "Tools"]

AGAIN_S: Final = 1.0
"""When the bot is told once more of a deadline that it has not heard of: it was down, or had no room."""
FOREIGN: Final = ("object", "string")
"""What a call that the bot has not made by `call_client` may return (pipecat-ai 1.14.0, observed)."""


class Tools(BuiltIn):
    """llm-function-call-result. `forwards`: the bot takes results of calls that it has not made itself, whatever call
    they name (pipecat-ai 1.14.0, observed); otherwise only handlers of the host's may."""

    def __init__(self, forwards: bool) -> None:
        super().__init__(forwards)
        self._forwards = forwards
        self._timer: Timer | None = None
        """The one timer for all calls."""

    def on_start(self) -> None:
        if self.ledger.calls:
            self._watch(min(call.due_s for call in self.ledger.calls.values()))

    # -- results ---------------------------------------------------------------------------

    def on_received(self, message: Received) -> None:
        try:
            payload = self.payload(message, FunctionCallResult)
        except InvalidData as error:
            self.refuse(message, error)
            return
        if not self._answers(payload) and payload.result.kind not in FOREIGN:
            self.refuse(message, InvalidData("data.result", reply_id=message.id, detail=payload.result.kind))
        elif self._answers(payload):
            self.later(self.ledger.answer_call, payload.tool_call_id)
            self.release(message, ClientCallEnded(payload.tool_call_id, payload.result))
        elif self._is_the_bots(payload.tool_call_id):
            frame = FunctionCallResultFrame(
                payload.function_name, payload.tool_call_id, payload.arguments, payload.result
            )
            self.release(message, frame)
        else:
            self.later(self.ledger.stray_result, None)
            self.refuse(message, UnknownCall(reply_id=message.id))

    def _answers(self, result: FunctionCallResult) -> bool:
        call = self.ledger.calls.get(result.tool_call_id)
        if call is None or call.answered or call.due_s <= self.cell.timers.now():
            return False
        return call.function_name == result.function_name

    def _is_the_bots(self, tool_call_id: str) -> bool:
        """Whether the call is none of ours, and somebody takes its result."""
        taken = self._forwards or bool(self.ledger.listeners.get("function-call-result"))
        return taken and not self.ledger.knows_call(tool_call_id)

    # -- deadlines -------------------------------------------------------------------------

    def on_call_client(self, message: CallClient) -> None:
        if self._timer is None or message.due_s < self._timer.due_s:
            self._watch(message.due_s)

    def on_calls_expire(self, message: CallsExpire) -> None:
        """Tell the bot of what is due, then wait for the next. What the bot has heard of is open no more."""
        now_s = self.cell.timers.now()
        next_s = []
        for tool_call_id, call in self.ledger.calls.items():
            if call.due_s > now_s:
                next_s.append(call.due_s)
                continue
            next_s.append(now_s + AGAIN_S)
            with suppress(Dead, Rejected):
                self.link("bot").tell(ClientCallEnded(tool_call_id))
        if next_s:
            self._watch(min(next_s))
        else:
            self._timer = None

    def _watch(self, due_s: float) -> None:
        if self._timer is not None:
            self.later(Timer.cancel, self._timer)
        self._timer = self.after(max(0.0, due_s - self.cell.timers.now()), CallsExpire())
