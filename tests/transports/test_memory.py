from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from rtvi_actors.streams import (
    ClientAudio,
    ClientInterruption,
    ClientText,
    Malformed,
    ServerAudio,
    ServerText,
    Transport,
)
from rtvi_actors.transports import memory

pytestmark = pytest.mark.anyio


async def test_what_the_client_sends_arrives_in_order() -> None:
    server, client = memory.pair()
    await client.send_text(b"{}")
    await client.send_text({"label": "rtvi-ai"})
    await client.send_audio(b"\0\0", 8_000, 2)
    await client.send_interruption()
    await client.send_malformed("broken")
    assert [await server.receive() for _ in range(5)] == [
        ClientText(b"{}"),
        ClientText(b'{"label":"rtvi-ai"}'),
        ClientAudio(b"\0\0", 8_000, 2),
        ClientInterruption(),
        Malformed("broken"),
    ]


async def test_what_the_server_sends_can_be_awaited_or_drained() -> None:
    server, client = memory.pair()
    await server.send([ServerText(b"1"), ServerAudio(b"", 24_000, 1), ServerText(b"3")])
    assert await client.receive() == ServerText(b"1")
    assert client.drain() == [ServerAudio(b"", 24_000, 1), ServerText(b"3")]
    assert client.drain() == []


async def test_a_receive_waits_for_a_later_send() -> None:
    server, client = memory.pair()
    received = []

    async def read() -> None:
        received.append(await server.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.lowlevel.checkpoint()
        assert received == []
        await client.send_text(b"late")
    assert received == [ClientText(b"late")]


async def test_a_queue_with_items_costs_no_turn_of_the_event_loop() -> None:
    server, client = memory.pair()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await anyio.lowlevel.checkpoint()
        before = turns
        for _ in range(100):
            await client.send_text(b"")
            await server.receive()
        assert turns == before
        tasks.cancel_scope.cancel()


async def test_a_full_queue_makes_its_sender_wait_until_there_is_room() -> None:
    server, client = memory.pair(capacity=2)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for _ in range(5):
            await client.send_text(b"")
            sent += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flood)
        await anyio.wait_all_tasks_blocked()
        assert sent == 2
        await server.receive()
        await anyio.wait_all_tasks_blocked()
        assert sent == 3
        for _ in range(4):
            await server.receive()
    assert sent == 5


async def test_a_slow_client_makes_the_server_wait_and_its_leaving_ends_the_wait() -> None:
    server, client = memory.pair(capacity=1)

    async def leave() -> None:
        await anyio.wait_all_tasks_blocked()
        await client.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        with pytest.raises(anyio.BrokenResourceError):
            await server.send([ServerText(b"1"), ServerText(b"2")])


async def test_a_client_that_leaves_is_heard_to_the_end() -> None:
    server, client = memory.pair()
    await client.send_text(b"last words")
    await client.aclose()
    assert await server.receive() == ClientText(b"last words")
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await server.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await server.send([ServerText(b"")])


async def test_a_close_by_the_server_gives_its_reason_and_lets_the_client_read_on() -> None:
    server, client = memory.pair()
    await server.send([ServerText(b"bye")])
    await server.aclose("bot ended")
    await server.aclose("again")
    assert client.close_reason == "bot ended"
    assert await client.receive() == ServerText(b"bye")
    with pytest.raises(anyio.EndOfStream):
        await client.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await client.send_text(b"")


async def test_what_is_above_the_limit_arrives_as_malformed() -> None:
    server, client = memory.pair(max_in_bytes=4)
    await client.send_text(b"12345")
    await client.send_audio(bytes(6))
    await client.send_text(b"1234")
    assert isinstance(await server.receive(), Malformed)
    assert isinstance(await server.receive(), Malformed)
    assert await server.receive() == ClientText(b"1234")


async def test_the_session_reads_the_clients_side_from_the_transport() -> None:
    server, _ = memory.pair(playing_rate_hz=16_000, max_message_bytes=77)
    transport: Transport = server
    assert (transport.playing_rate_hz, transport.max_message_bytes) == (16_000, 77)


async def test_a_cancelled_receive_loses_nothing() -> None:
    server, client = memory.pair()
    with anyio.move_on_after(0):
        await server.receive()
    await client.send_text(b"kept")
    assert await server.receive() == ClientText(b"kept")
