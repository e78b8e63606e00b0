"""What an actor may do, objects and proxies included. What outlives its crashes is in test_cell.py."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pykka
import pytest

from rtvi_actors.errors import Dead, HandlerFailed
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import (
    Book,
    Note,
    Plain,
    Recorder,
    Through,
)

pytestmark = pytest.mark.anyio


# -- objects and proxies -----------------------------------------------------------------


async def test_an_actor_that_declares_nothing_takes_objects(system: ActorSystem) -> None:
    ref = system.spawn(Plain)
    message = object()
    assert await ref.call(message) is message
    with pytest.raises(ZeroDivisionError):
        await ref.call(ZeroDivisionError())
    assert ref.is_alive()
    with pytest.raises(HandlerFailed):
        await ref.call(SystemExit())
    assert not ref.is_alive()


async def test_a_proxy_works_and_outlives_a_crash(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("plain", Plain)], name="sup")
    proxy = system.get("sup/plain").proxy()
    assert await proxy.double(4) == 8
    assert await proxy.double_later(5) == 10
    assert await proxy.count == 0
    for call in (proxy.fail, proxy.fail_later):
        with pytest.raises(ValueError, match="the asker's"):
            await call()
    assert system.get("sup/plain").cell.restarts == 0
    proxy.fail.defer()
    assert await proxy.double(6) == 12
    assert system.get("sup/plain").cell.restarts == 1


async def test_a_proxied_call_that_never_ran_is_closed(system: ActorSystem) -> None:
    ref = system.spawn(Plain)
    called = ref.proxy().double_later(1)
    await system.kill(ref)
    with pytest.raises(Dead):
        await called


async def test_an_actor_that_declares_messages_has_a_proxy_as_well(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    proxy = ref.proxy()
    await ref.call(Note(1))
    assert await proxy.seen == [1]
    assert await proxy.on_note(Note(2)) == 2


async def test_an_actor_can_stop_itself(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    book.acts["stop"] = lambda actor: actor.stop()
    ref.tell(Through("stop"))
    ref.tell(Note(1))
    await anyio.wait_all_tasks_blocked()
    assert not ref.is_alive()
    assert book.notes == [1, "stopped it"]


async def test_a_handler_may_start_and_stop_actors(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)

    def act(actor: Recorder) -> str:
        child = Recorder.start(book)
        child.tell(Note(1))
        child.stop(block=False)
        return child.actor_urn

    book.acts["act"] = act
    urn = await ref.call(Through("act"))
    await anyio.wait_all_tasks_blocked()
    assert book.notes == [1, "stopped Recorder"]
    assert pykka.ActorRegistry.get_by_urn(urn) is None


async def test_an_actor_starts_others_in_its_own_system_and_not_in_the_newest(book: Book) -> None:
    hosts: list[Any] = []
    book.acts["start"] = lambda _: hosts.append(Recorder.start(book).cell.host)
    async with ActorSystem() as first, ActorSystem() as second:
        for system in (first, second):
            await system.spawn(Recorder, book).call(Through("start"))
        assert hosts == [first, second]
