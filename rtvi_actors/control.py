"""`Control`: what a host says to a running session, from any thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rtvi_actors.commands import Commands
from rtvi_actors.declared import EVENTS
from rtvi_actors.errors import Dead, DeclarationError, SessionClosed
from rtvi_actors.ledger import Ledger
from rtvi_actors.runtime.groups import Job
from rtvi_actors.runtime.refs import ActorRef

__all__ = ["Control"]


class Control(Commands):
    """Reports and commands for a session, from any thread."""

    def __init__(self, refs: Mapping[str, ActorRef[Any]], ledger: Ledger) -> None:
        self._refs = refs
        self._ledger = ledger

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def on(self, event: str, handler: Callable[..., Any]) -> None:
        """One more handler for an event (`rtvi.on` names them), plain or async, run on the session's loop after the
        bot's own.

        ``bot-started`` has happened by now: its handler runs at once, and again after a restart. Raises
        `DeclarationError` for an event that there is not.
        """
        if event not in EVENTS:
            raise DeclarationError(f"no event is named {event!r}: there are {', '.join(sorted(EVENTS))}")
        cell = self._refs["bot"].cell

        def add() -> None:
            listeners = self._ledger.listeners
            listeners[event] = (*listeners.get(event, ()), handler)
            if event == "bot-started" and cell.state == "running":
                cell.groups["hooks"].submit(Job("_call_listener", (handler,)))

        cell.host.run_on_loop(add)

    def _to(self, name: str, message: Any) -> None:
        try:
            self._refs[name].tell(message)
        except Dead as error:
            raise SessionClosed("the session is over") from error
