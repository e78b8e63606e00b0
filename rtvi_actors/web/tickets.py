"""One-use tokens: ``POST /start`` sells one, the WebSocket that shows it is let in."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

__all__ = ["Tickets", "session_id_of"]

LIFE_S: Final = 300.0
"""pipecat-ai 1.14.0's runner gives its tokens as long (PROTOCOL.md 3.2)."""
MOST: Final = 10_000
"""Unused tickets kept at once; the oldest goes first."""


def session_id_of(token: str) -> str:
    """The id of the session that a ticket opens: known from the ticket before there is the session, and no way back
    from it to the ticket, for names are shown to everybody."""
    digest = sha256(token.encode(errors="surrogatepass")).hexdigest()
    return f"session-{digest[:16]}"


class Tickets:
    """Issued and not yet used. For one event loop."""

    def __init__(self, life_s: float = LIFE_S, most: int = MOST, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._life_s = life_s
        self._most = most
        self._clock_s = clock_s
        self._expiries_s: OrderedDict[str, float] = OrderedDict()

    def issue(self) -> str:
        """A new token, URL-safe."""
        self._forget_expired()
        while len(self._expiries_s) >= self._most:
            self._expiries_s.popitem(last=False)
        token = secrets.token_urlsafe(24)
        self._expiries_s[token] = self._clock_s() + self._life_s
        return token

    def holds(self, tokens: Iterable[str]) -> bool:
        """Whether one of `tokens` is good; it stays so."""
        self._forget_expired()
        return any(token in self._expiries_s for token in tokens)

    def use(self, tokens: Iterable[str]) -> bool:
        """Whether one of `tokens` is good; it is used up then.

        Several, because websocket-transport 1.7.1 adds a ``token=`` to the URL at each connect (PROTOCOL.md 3.1).
        """
        self._forget_expired()
        return any(self._expiries_s.pop(token, None) is not None for token in tokens)

    def _forget_expired(self) -> None:
        now_s = self._clock_s()
        while self._expiries_s and next(iter(self._expiries_s.values())) <= now_s:
            self._expiries_s.popitem(last=False)
