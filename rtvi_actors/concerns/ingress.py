"""Ingress: the first pass over every wire message. It numbers it and hands it to the concern that the route table
names.

It reads label, type and id, and no payload.
"""

from __future__ import annotations

from collections.abc import Mapping

from rtvi_actors.concern import BuiltIn, reply_to
from rtvi_actors.errors import ClientError, Dead, InvalidEnvelope, NotRtvi, Overloaded, Rejected, UnsupportedType
from rtvi_actors.messages import AUDIO, INTERRUPTION, Injected, Outcome, Received, ReceivedPcm
from rtvi_actors.protocol.codec import decode_envelope
from rtvi_actors.protocol.envelope import Envelope
from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, Malformed

__all__ = ["Ingress"]


class Ingress(BuiltIn):
    """`routes` maps a message type to the name of the concern that serves it."""

    max_mail = 1024

    def __init__(self, routes: Mapping[str, str]) -> None:
        super().__init__(routes)
        self._routes = routes

    def on_text(self, message: ClientText) -> None:
        size = len(message.data)
        try:
            envelope = decode_envelope(message.data)
        except NotRtvi:
            self.later(self._ignored, size)
            return
        except InvalidEnvelope as error:
            self._refuse(error, size)
            return
        route = self._routes.get(envelope.type)
        if route is None or envelope.type == INTERRUPTION:
            self._refuse(UnsupportedType(envelope.type, reply_id=envelope.id), size)
        else:
            self._hand_over(route, envelope, size)

    def on_injected(self, message: Injected) -> None:
        """The host's own message: it arrives here, not at the reader."""
        self.later(self.ledger.arrived, len(message.data))
        self.on_text(ClientText(message.data))

    def on_audio(self, message: ClientAudio) -> None:
        seq = self.ledger.audio.last + 1
        self.later(self.ledger.begin_audio, (seq, len(message.audio)))
        self.link(AUDIO).tell(ReceivedPcm(seq, message.audio, message.sample_rate, message.num_channels))

    def on_interruption(self, message: ClientInterruption) -> None:
        self._hand_over(self._routes[INTERRUPTION], Envelope(INTERRUPTION, "", None), 0)

    def on_malformed(self, message: Malformed) -> None:
        self._refuse(InvalidEnvelope("frame", detail=message.reason), 0)

    def _hand_over(self, route: str, envelope: Envelope, size: int) -> None:
        """Number it. A concern that has no room, or is gone, costs the client this message and nothing else."""
        ledger = self.ledger
        account, begin = (
            (ledger.audio, ledger.begin_audio) if route == AUDIO else (ledger.control, ledger.begin_control)
        )
        seq = account.last + 1
        try:
            self.link(route).tell(Received(seq, envelope.type, envelope.id, envelope.data))
        except (Rejected, Dead):
            self._refuse(Overloaded(f"messages for {route}", reply_id=envelope.id or None), size)
            return
        self.later(begin, (seq, size))

    def _refuse(self, error: ClientError, size: int) -> None:
        reply = reply_to(error, self.ledger)
        if reply is not None:
            self.link("outbound").tell(reply)
        self.later(self._refused, size)

    def _refused(self, size: int) -> None:
        self.ledger.end_unnumbered(Outcome.ANSWERED, size)

    def _ignored(self, size: int) -> None:
        self.ledger.end_unnumbered(Outcome.DROPPED, size, "not-rtvi")
