"""Every Struct that travels comes out as it went in: through a mailbox, over the wire, as a client's payload."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from rtvi_actors import frames, messages
from rtvi_actors.protocol import client, codec, server
from rtvi_actors.protocol.envelope import Envelope, Json
from rtvi_actors.runtime.mailbox import encode, type_decoder
from tests.structs import any_of

ACTORS = sorted(
    {
        value
        for module in (frames, messages)
        for name in module.__all__
        if isinstance(value := getattr(module, name), type) and issubclass(value, Struct)
    },
    key=lambda struct: struct.__name__,
)
"""What actors say to each other."""

OF_KIND = {"object": Json(b'{"a":[null]}'), "string": Json(b'"x"')}

FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@pytest.mark.parametrize("struct", ACTORS, ids=lambda struct: struct.__name__)
@given(data=st.data())
def test_what_an_actor_is_told_is_what_was_said(struct: type[Struct], data: st.DataObject) -> None:
    value = data.draw(any_of(struct))
    assert type_decoder(struct)(encode(value)) == value


@FEW
@pytest.mark.parametrize("struct", server.SERVER.values(), ids=lambda struct: struct.__name__)
@given(data=st.data())
def test_what_a_client_reads_is_what_the_server_wrote(struct: type[server.ServerMessage], data: st.DataObject) -> None:
    value = data.draw(any_of(struct))
    assert codec.decode_server(codec.encode_server(value)) == value


@FEW
@pytest.mark.parametrize("wire_type", client.CLIENT)
@given(data=st.data())
def test_what_the_server_reads_is_what_a_client_wrote(wire_type: str, data: st.DataObject) -> None:
    row = client.CLIENT[wire_type]
    value = data.draw(any_of(row.struct))
    allowed = {name: data.draw(st.sampled_from([OF_KIND[kind] for kind in kinds])) for name, kinds in row.kinds.items()}
    value = msgspec.structs.replace(value, **allowed)
    wire = msgspec.json.encode(value, enc_hook=lambda json: msgspec.Raw(json.raw))
    assert codec.decode_payload(Envelope(wire_type, "m1", wire), row) == value
