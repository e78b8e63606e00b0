"""What a bot class declares: requests, messages and event handlers, by decorators that only mark.

The marks are read once, when the class is made; what cannot be routed fails there.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from rtvi_actors.errors import DeclarationError

__all__ = ["EVENTS", "Mark", "Route", "check_asynchronous", "message", "on", "read_handlers", "read_routes", "request"]

F = TypeVar("F", bound=Callable[..., Any])

# -- decorators ------------------------------------------------------------------------


class Mark(msgspec.Struct, frozen=True):
    kind: Literal["request", "message", "event"]
    name: str


def _marker(kind: Literal["request", "message", "event"], name: str) -> Callable[[F], F]:
    def mark(function: F) -> F:
        function.__rtvi__ = Mark(kind, name)  # type: ignore[attr-defined]
        return function

    return mark


def request(name: str) -> Callable[[F], F]:
    """Answer client-messages of this type. The parameter's annotation is what the payload is decoded to, and what is
    returned is the answer; an exception is an error-response, `RequestError` with words of your own."""
    return _marker("request", name)


def message(name: str) -> Callable[[F], F]:
    """Take client-messages of this type that expect no answer."""
    return _marker("message", name)


def on(event: str) -> Callable[[F], F]:
    """One more handler for an event: ``bot-started``, ``client-ready``, ``client-message``, ``start-audio``,
    ``interruption``, ``function-call-result``, ``dtmf``, ``ui-event``, ``ui-snapshot``, ``ui-cancel-job-group``,
    ``end``, ``actor-given-up`` or ``disconnect``. They run in the order of their names."""
    if event not in EVENTS:
        raise DeclarationError(f"no event is named {event!r}: there are {', '.join(sorted(EVENTS))}")
    return _marker("event", event)


class Route(msgspec.Struct, frozen=True):
    """A declared client-message type."""

    method: str
    payload: Any
    """What to decode to; `inspect.Parameter.empty` for a handler without parameter."""
    asynchronous: bool
    answers: bool


EVENTS: Final[Mapping[str, str]] = {
    "bot-started": "on_bot_started",
    "client-ready": "on_client_ready",
    "client-message": "on_client_message",
    "start-audio": "on_start_audio",
    "interruption": "on_interrupted",
    "function-call-result": "on_function_call_result",
    "dtmf": "on_dtmf",
    "ui-event": "on_ui_event",
    "ui-snapshot": "on_ui_snapshot",
    "ui-cancel-job-group": "on_ui_cancel_job_group",
    "end": "on_end",
    "actor-given-up": "on_actor_given_up",
    "disconnect": "on_disconnect",
}
"""Event → the hook of that name."""


# -- what a class declares -----------------------------------------------------------------


def read_routes(cls: type, own: list[str], local_names: Mapping[str, Any]) -> Mapping[str, Route]:
    """Client-message type → its handler, of the marked methods `own`. `local_names` resolves annotations."""
    routes: dict[str, Route] = {}
    for name in own:
        function = getattr(cls, name)
        mark: Mark = function.__rtvi__
        if mark.kind == "event":
            continue
        if mark.name in routes:
            raise DeclarationError(f"{cls.__qualname__}: {name} and {routes[mark.name].method} both take {mark.name!r}")
        payload = _payload_type(cls, function, local_names)
        routes[mark.name] = Route(name, payload, inspect.iscoroutinefunction(function), mark.kind == "request")
    return routes


def _payload_type(cls: type, function: Callable[..., Any], local_names: Mapping[str, Any]) -> Any:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    where = f"{cls.__qualname__}.{function.__name__}"
    if len(parameters) > 1:
        raise DeclarationError(f"{where} must take one payload, or nothing")
    if not parameters:
        return inspect.Parameter.empty
    try:
        payload = typing.get_type_hints(function, localns=dict(local_names)).get(parameters[0].name, Any)
        msgspec.json.Decoder(payload)
    except (NameError, TypeError) as error:
        raise DeclarationError(f"{where}: {error}") from error
    return payload


def check_asynchronous(cls: type, own: list[str]) -> None:
    """What runs in a group must be `async def`; only requests, messages and on_audio may be plain."""
    events = [name for name in own if getattr(cls, name).__rtvi__.kind == "event"]
    for name in ("on_turn", "on_append", *EVENTS.values(), *events):
        if not inspect.iscoroutinefunction(getattr(cls, name)):
            raise DeclarationError(f"{cls.__qualname__}.{name} must be async def")


def read_handlers(cls: type, base: type, own: list[str]) -> Mapping[str, tuple[str, ...]]:
    """Event → the methods to run: the hook where it is overridden, then those marked with `on`."""
    handlers: dict[str, tuple[str, ...]] = {}
    for event, hook in EVENTS.items():
        overridden = getattr(cls, hook) is not getattr(base, hook)
        marked = [name for name in own if getattr(cls, name).__rtvi__ == Mark("event", event)]
        handlers[event] = (*((hook,) if overridden else ()), *marked)
    return handlers
