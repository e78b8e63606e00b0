from __future__ import annotations

from rtvi_actors.concerns.ingress import Ingress
from rtvi_actors.streams import ClientAudio, ClientInterruption, ClientText, Malformed, size_bytes


def test_every_wire_message_is_a_message_of_ingress() -> None:
    assert Ingress.declaration is not None
    assert {ClientText, ClientAudio, ClientInterruption, Malformed} <= set(Ingress.declaration.handlers)


def test_a_wire_message_weighs_what_the_client_sent() -> None:
    assert size_bytes(ClientText(b"12345")) == 5
    assert size_bytes(ClientAudio(bytes(7), 16_000, 1)) == 7
    assert size_bytes(ClientInterruption()) == size_bytes(Malformed("why")) == 0
