"""Tools: results of functions that ran in the client."""

from __future__ import annotations

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import InvalidData
from rtvi_actors.frames import FunctionCallResult as FunctionCallResultFrame
from rtvi_actors.messages import Received
from rtvi_actors.protocol.client import FunctionCallResult

__all__ = ["Tools"]


class Tools(BuiltIn):
    """llm-function-call-result. Whatever call it names, the bot gets it (pipecat-ai 1.14.0, observed)."""

    def on_received(self, message: Received) -> None:
        try:
            payload = self.payload(message, FunctionCallResult)
        except InvalidData as error:
            self.refuse(message, error)
            return
        self.release(
            message,
            FunctionCallResultFrame(payload.function_name, payload.tool_call_id, payload.arguments, payload.result),
        )
