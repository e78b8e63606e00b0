"""Ingress: the first pass over every wire message. It numbers it and hands it to the concern that the route table names.

It reads label, type and id, and no payload.
"""

from __future__ import annotations

from collections.abc import Mapping

from rtvi_actors.concern import Concern, reply_to
from rtvi_actors.errors import ClientError, InvalidEnvelope, NotRtvi, UnsupportedType
from rtvi_actors.ledger import Ledger
from rtvi_actors.messages import Injected, Outcome, Received, ReceivedPcm
from rtvi_actors.protocol.codec import decode_envelope
from rtvi_actors.protocol.envelope import Envelope
from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, Malformed

__all__ = ["AUDIO", "INTERRUPTION", "Ingress"]

AUDIO = "audio"
"""The route whose messages have a numbering of their own: audio never waits for control, nor control for audio."""
INTERRUPTION = "interruption"
"""The type under which a binary interruption frame is routed; no RTVI message has it."""


class Ingress(Concern):
    """`routes` maps a message type to the name of the concern that serves it."""

    max_mail = 1024

    def __init__(self, routes: Mapping[str, str]) -> None:
        super().__init__(routes)
        self._routes = routes

    def on_text(self, message: ClientText) -> None:
        try:
            envelope = decode_envelope(message.data)
        except NotRtvi:
            self.later(self._ignored, "not-rtvi")
            return
        except InvalidEnvelope as error:
            self._refuse(error)
            return
        route = self._routes.get(envelope.type)
        if route is None or envelope.type == INTERRUPTION:
            self._refuse(UnsupportedType(envelope.type, reply_id=envelope.id))
        else:
            self._hand_over(route, envelope)

    def on_injected(self, message: Injected) -> None:
        """The host's own message: it arrives here, not at the reader."""
        self.later(_arrived, self.ledger)
        self.on_text(ClientText(message.data))

    def on_audio(self, message: ClientAudio) -> None:
        seq = self.ledger.audio.last + 1
        self.later(self.ledger.begin_audio, seq)
        self.link(AUDIO).tell(ReceivedPcm(seq, message.audio, message.sample_rate, message.num_channels))

    def on_interruption(self, message: ClientInterruption) -> None:
        self._hand_over(self._routes[INTERRUPTION], Envelope(INTERRUPTION, "", None))

    def on_malformed(self, message: Malformed) -> None:
        self._refuse(InvalidEnvelope("frame", detail=message.reason))

    def _hand_over(self, route: str, envelope: Envelope) -> None:
        if route == AUDIO:
            seq = self.ledger.audio.last + 1
            self.later(self.ledger.begin_audio, seq)
        else:
            seq = self.ledger.control.last + 1
            self.later(self.ledger.begin_control, seq)
        self.link(route).tell(Received(seq, envelope.type, envelope.id, envelope.data))

    def _refuse(self, error: ClientError) -> None:
        reply = reply_to(error, self.ledger)
        if reply is not None:
            self.link("outbound").tell(reply)
        self.later(self.ledger.end_unnumbered, Outcome.ANSWERED)

    def _ignored(self, policy: str) -> None:
        self.ledger.end_unnumbered(Outcome.DROPPED, policy)


def _arrived(ledger: Ledger) -> None:
    ledger.arrived()
