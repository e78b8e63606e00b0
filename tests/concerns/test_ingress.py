from __future__ import annotations

import pytest

import rtvi_actors as rtvi
from tests.session_kit import calling, message, types

pytestmark = pytest.mark.anyio


async def test_what_is_no_rtvi_message_is_ignored_and_counted() -> None:
    async with calling(rtvi.Bot()) as call:
        for label in ("other", 5, None):
            await call.client.send_text({**message("client-message"), "label": label})
        assert await call.heard() == []
        assert call.books.dropped == {"not-rtvi": 3}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[]", "message"),
        (b"[" * 2_000, "nesting"),
        (b'{"label":"rtvi-ai","id":"1"}', "type"),
        (b'{"label":"rtvi-ai","type":"client-message"}', "id"),
        (b'{"label":"rtvi-ai","type":"client-message","id":"1","data":[]}', "data"),
    ],
)
async def test_a_broken_envelope_is_answered_by_the_name_of_what_is_wrong(sent: bytes, field: str) -> None:
    async with calling(rtvi.Bot()) as call:
        await call.client.send_text(sent)
        (reply,) = await call.heard()
        assert reply["type"] == ("error-response" if reply.get("id") else "error")
        assert reply["data"]["error"].endswith(f"({field})")


async def test_an_unknown_type_is_answered_and_the_route_of_binary_interruptions_is_no_type() -> None:
    async with calling(rtvi.Bot()) as call:
        for kind in ("no-such-type", "interruption"):
            await call.send(kind, kind)
        heard = await call.heard()
        assert [wire["data"]["error"] for wire in heard] == [
            "Unsupported type no-such-type",
            "Unsupported type interruption",
        ]


async def test_a_malformed_frame_costs_itself_alone() -> None:
    async with calling(rtvi.Bot()) as call:
        await call.client.send_malformed("binary frame is not a protobuf Frame")
        await call.client.send_text(b'{"label":"rtvi-ai","type":"x","id":"1"}')
        assert types(await call.heard()) == ["error", "error-response"]


async def test_control_and_audio_are_numbered_apart() -> None:
    async with calling(rtvi.Bot()) as call:
        for _ in range(3):
            await call.client.send_audio(bytes(2))
            await call.client.send_interruption()
        await call.heard()
        ledger = call.session._ledger
        assert (ledger.audio.last, ledger.control.last) == (3, 4)
