"""Functions that run in the client: `await self.call_client(…)` in any asynchronous handler of the bot.

The ledger has the open calls, so that one that is open when anything crashes still ends, once. Whoever comes first ends
it, for the handler and for the client: the client's result, its deadline (both come from tools, as `ClientCallEnded`),
an interruption, the handler's own end, the next incarnation of a bot that has crashed, the end of the session.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar, cast, overload

import msgspec

from rtvi_actors import frames
from rtvi_actors.errors import (
    ActorError,
    ClientCallCancelled,
    ClientCallFailed,
    ClientCallTimeout,
    ClientResultInvalid,
    TooManyClientCalls,
)
from rtvi_actors.ledger import Ledger, OpenCall
from rtvi_actors.messages import ByVersion, CallClient, Ready
from rtvi_actors.protocol import server
from rtvi_actors.protocol.codec import from_json
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.versions import Version
from rtvi_actors.reporting import FunctionCallReportLevel
from rtvi_actors.reports import checked_object, checked_text
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.context import new_uuid
from rtvi_actors.runtime.futures import ActorFuture

__all__ = ["CALL_TIMEOUT_S", "MAX_CALLS", "ClientCalls"]

T = TypeVar("T")

CALL_TIMEOUT_S: Final = 8.0
"""How long the client has, where the bot does not say: as long as a request of the client's."""
MAX_CALLS: Final = 64
"""Calls of one session that may be open."""
LIFECYCLE_SINCE: Final[Version] = (1, 2, 0)
"""Who is older, or unknown, gets llm-function-call, which 1.2 deprecates."""


class ClientCalls(AnyioActor):
    """The part of `Bot` that calls functions of the client's."""

    @property
    def ledger(self) -> Ledger:
        return cast("Ledger", self.cell.context)

    @overload
    async def call_client(
        self,
        function_name: str,
        arguments: Mapping[str, Any] | None = ...,
        *,
        timeout_s: float = ...,
        cancel_on_interruption: bool = ...,
    ) -> Any: ...
    @overload
    async def call_client(
        self,
        function_name: str,
        arguments: Mapping[str, Any] | None = ...,
        *,
        timeout_s: float = ...,
        result_type: type[T],
        cancel_on_interruption: bool = ...,
    ) -> T: ...
    @overload
    async def call_client(
        self,
        function_name: str,
        arguments: Mapping[str, Any] | None = ...,
        *,
        timeout_s: float = ...,
        result_type: Any,
        cancel_on_interruption: bool = ...,
    ) -> Any: ...
    async def call_client(
        self,
        function_name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        result_type: Any = Any,
        cancel_on_interruption: bool = True,
    ) -> Any:
        """Run a function in the client and return what it returned, or `result_type` made of it.

        A text that is not itself a `result_type` is read as JSON: some SDKs return objects and texts alone. One that
        returns null sends nothing, so the deadline ends it. An interruption ends the wait unless told otherwise; the
        end of the handler always does.

        Raises `ClientCallTimeout`, `ClientCallCancelled`, `ClientResultInvalid`, `TooManyClientCalls` (all
        `ClientCallFailed`); before anything is sent `NotJson`, `TypeError` or `ValueError` for what cannot be asked;
        `Dead` or `Rejected` where an actor of the session cannot be told.
        """
        arguments_json = checked_object({} if arguments is None else arguments, "arguments")
        _check(timeout_s, result_type)
        due_s = self.cell.timers.now() + timeout_s
        call = OpenCall(checked_text(function_name, "function_name"), timeout_s, due_s, ActorFuture())
        call.cancel_on_interruption = cancel_on_interruption
        tool_call_id = self._open_call(call)
        try:
            self._ask_client(tool_call_id, function_name, arguments_json)
            result = await call.result
        finally:
            with suppress(ActorError):  # who may not speak any more has left it to the next incarnation
                self._end_call(tool_call_id, ClientCallCancelled(function_name, "cancelled"))
        return _typed(function_name, result, result_type)

    def _open_call(self, call: OpenCall) -> str:
        """Returns the new call's id, which nobody can guess."""
        if self.ledger.left:
            raise ClientCallCancelled(call.function_name, "gone")
        if len(self.ledger.calls) >= MAX_CALLS:
            raise TooManyClientCalls(call.function_name, MAX_CALLS)
        tool_call_id = new_uuid().hex
        self.link("tools").tell(CallClient(call.due_s))
        self.later(self.ledger.open_call, (tool_call_id, call))
        return tool_call_id

    def _ask_client(self, tool_call_id: str, function_name: str, arguments: Json) -> None:
        """Whatever of function calls is reported (`ObserverParams`): without the arguments no client could answer."""
        started = server.FunctionCallStarted(data=server.FunctionCallStartedData(function_name))
        running = server.FunctionCallInProgress(
            data=server.FunctionCallInProgressData(tool_call_id, function_name, arguments)
        )
        old = server.FunctionCall(data=server.FunctionCallData(function_name, tool_call_id, arguments))
        observer, outbound = self.link("observer"), self.link("outbound")
        observer.tell(started)
        observer.tell(Ready(outbound.encode(ByVersion(LIFECYCLE_SINCE, running, old))))

    # -- ends --------------------------------------------------------------------------------

    def _end_call(self, tool_call_id: str, outcome: Json | ClientCallFailed) -> None:
        """End it for whoever waits and for the client, unless it has ended."""
        call = self.ledger.calls.get(tool_call_id)
        if call is None:
            return
        self.later(self.ledger.end_call, (tool_call_id, outcome))
        result = outcome if isinstance(outcome, Json) else None
        self._tell_end(tool_call_id, call.function_name, result)

    def _tell_end(self, tool_call_id: str, function_name: str, result: Json | None) -> None:
        """The client hears of every end, as it has heard of the call: else it would show it as running for ever. The
        name is there at every report level, for client-react shows what the end says of it."""
        is_full = self.ledger.observer.level_of(function_name) is FunctionCallReportLevel.FULL
        shown = result if is_full and result is not None else msgspec.UNSET
        data = server.FunctionCallStoppedData(tool_call_id, result is None, function_name, shown)
        self.link("observer").tell(server.FunctionCallStopped(data=data))

    def _cancel_calls(self, reason: str, test: Callable[[OpenCall], bool] = lambda _: True) -> None:
        for tool_call_id, call in list(self.ledger.calls.items()):
            if test(call):
                self._end_call(tool_call_id, ClientCallCancelled(call.function_name, reason))

    def _call_ended(self, frame: frames.ClientCallEnded) -> None:
        call = self.ledger.calls.get(frame.tool_call_id)
        if call is not None:
            late = ClientCallTimeout(call.function_name, call.timeout_s)
            self._end_call(frame.tool_call_id, late if frame.result is None else frame.result)

    def _interrupt_calls(self, _: None) -> None:
        self._cancel_calls("interrupted", lambda call: call.cancel_on_interruption)


def _check(timeout_s: float, result_type: Any) -> None:
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise ValueError(f"timeout_s must be a number of seconds above 0, not {timeout_s}")
    if result_type is not Any:
        msgspec.json.Decoder(result_type)  # TypeError for what nothing can be decoded to


def _typed(function_name: str, result: Json, result_type: Any) -> Any:
    try:
        return _decode(result, result_type)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ClientResultInvalid(function_name, "the result is not of the type that was asked for") from error


def _decode(result: Json, result_type: Any) -> Any:
    try:
        return from_json(result, result_type)
    except msgspec.ValidationError:
        if result.kind != "string":
            raise
    return from_json(Json(from_json(result).encode()), result_type)
