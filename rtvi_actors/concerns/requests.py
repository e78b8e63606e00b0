"""Requests: client-messages, paired with their answers.

A declared request is opened in the ledger with a deadline, and the bot gets it with a token. Whoever answers, the bot
or
the deadline here, sends an `Answer` with that token to outbound, where the ledger lets the first one out. So there is
exactly one, also when the handler hangs, and when anything on the way crashes: what the bot
had begun, its own runtime reports; what a concern had, the session's dead-letter hook.
"""

from __future__ import annotations

from collections.abc import Collection

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import InvalidData, UnsupportedType
from rtvi_actors.frames import ClientMessage as ClientMessageFrame
from rtvi_actors.frames import Request, RequestExpired
from rtvi_actors.ledger import OpenRequest
from rtvi_actors.messages import Answer, Expire, Received
from rtvi_actors.protocol.client import ClientMessage
from rtvi_actors.protocol.envelope import NULL, Json
from rtvi_actors.protocol.server import ErrorResponse, ErrorResponseData

__all__ = ["Requests"]


class Requests(BuiltIn):
    """`requests` and `messages` are the types that the bot declares; `other` is whether it takes any."""

    def __init__(
        self, requests: Collection[str], messages: Collection[str], other: bool, timeout_s: float = 8.0
    ) -> None:
        super().__init__(requests, messages, other, timeout_s)
        self._requests = frozenset(requests)
        self._messages = frozenset(messages)
        self._other = other
        self._timeout_s = timeout_s
        self._watching = False

    def on_start(self) -> None:
        if self.ledger.requests:
            self._watching = True
            self.after(0.0, Expire())

    def on_received(self, message: Received) -> None:
        try:
            payload = self.payload(message, ClientMessage)
        except InvalidData as error:
            self.refuse(message, error)
            return
        data = payload.d if isinstance(payload.d, Json) else NULL
        if payload.t in self._requests:
            self._open(message, payload.t)
            self.release(message, Request(message.seq, message.id, payload.t, data.raw))
        elif payload.t in self._messages:
            self.release(message, Request(0, message.id, payload.t, data.raw))
        elif self._other or "client-message" in self.ledger.listeners:
            self.release(message, ClientMessageFrame(message.id, payload.t, data))
        else:
            self.refuse(message, UnsupportedType(payload.t, reply_id=message.id))

    def _open(self, message: Received, kind: str) -> None:
        due_s = self.cell.timers.now() + self._timeout_s
        self.later(self.ledger.open_request, (message.seq, OpenRequest(message.id, kind, due_s)))
        if not self._watching:
            self._watching = True
            self.after(self._timeout_s, Expire())

    def on_expire(self, message: Expire) -> None:
        """Answer what is due, and let the bot stop working on it; then wait for the next.

        One timer serves all: they have the same time, so they fall due in the order in which they came.
        """
        now_s = self.cell.timers.now()
        self._watching = False
        for token, request in self.ledger.requests.items():
            if request.due_s > now_s:
                self._watching = True
                self.after(request.due_s - now_s, Expire())
                break
            self._fail(token, f"Request timed out after {self._timeout_s:g} s")
            self.link("bot").tell(RequestExpired(token))

    def _fail(self, token: int, text: str) -> None:
        request = self.ledger.requests[token]
        self.link("outbound").tell(Answer(token, ErrorResponse(id=request.msg_id, data=ErrorResponseData(text))))
