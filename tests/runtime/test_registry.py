from __future__ import annotations

from typing import Any

import anyio.to_thread
import pykka
import pytest

from rtvi_actors.errors import NameTaken, Unknown
from rtvi_actors.runtime.registry import statistics
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import Book, Fail, Hold, Note, Read, Recorder

pytestmark = pytest.mark.anyio


async def test_a_name_is_of_one_living_actor(system: ActorSystem, book: Book) -> None:
    first = system.spawn(Recorder, book, name="it")
    with pytest.raises(NameTaken):
        system.spawn(Recorder, book, name="it")
    assert system.get("it") is first
    assert pykka.ActorRegistry.get_all() == [first]
    await system.kill(first)
    with pytest.raises(Unknown):
        system.get("it")
    assert system.spawn(Recorder, book, name="it") is not first


async def test_a_name_stays_taken_while_its_actor_crashes_and_restarts(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="s")
    system.get("s/it").tell(Fail())
    with pytest.raises(NameTaken):
        system.spawn(Recorder, book, name="s/it")
    await system.get("s/it").call(Read())


async def test_actors_without_a_name_go_by_their_class(system: ActorSystem, book: Book) -> None:
    first, second = system.spawn(Recorder, book), Recorder.start(book)
    assert (first.name, second.name) == ("Recorder", "Recorder")
    assert len(system.registry) == 2
    with pytest.raises(Unknown):
        system.get("Recorder")


async def test_statistics_tell_what_an_actor_is_and_has_done(system: ActorSystem, book: Book) -> None:
    class Small(Recorder):
        max_mail = 2

    system.spawn(Supervisor, [ChildSpec("it", Small, (book,))], name="s")
    ref = system.get("s/it")
    await ref.call(Note(1))
    ref.tell(Fail())
    await ref.call(Note(2))
    ref.tell(Hold(3))
    await book.begun.wait()
    for n in (4, 5):
        ref.tell(Note(n))
    with pytest.raises(Exception, match="full"):
        ref.tell(Note(6))
    (of_supervisor, of_child) = statistics()
    assert (of_supervisor.name, of_supervisor.class_name, of_supervisor.parent) == ("s", "Supervisor", None)
    assert of_child.urn == ref.actor_urn
    assert (of_child.name, of_child.class_name, of_child.parent) == ("s/it", "Small", "s")
    assert (of_child.state, of_child.generation, of_child.restarts) == ("running", 2, 1)
    assert (of_child.received, of_child.handled, of_child.failed, of_child.dropped) == (6, 2, 1, 1)
    assert (of_child.depth, of_child.depth_bytes, of_child.refused) == (2, 2 * len(ref.encode(Note(4))), 1)
    assert (of_child.running, of_child.abandoned) == (1, 0)
    # Conservation: what was received is handled, dropped, running or waits.
    assert of_child.received == of_child.handled + of_child.dropped + of_child.running + of_child.depth
    book.gate.set()


async def test_plain_actors_of_pykkas_live_beside_ours(system: ActorSystem, book: Book) -> None:
    class Theirs(pykka.ThreadingActor):
        def on_receive(self, message: Any) -> Any:
            return ours.ask(Note(message))

    ours = system.spawn(Recorder, book)
    theirs = Theirs.start()
    assert await anyio.to_thread.run_sync(lambda: theirs.ask(7)) == 7
    (of_ours, of_theirs) = statistics()
    assert of_ours.class_name == "Recorder"
    assert (of_theirs.class_name, of_theirs.state, of_theirs.depth) == ("Theirs", "running", 0)
    assert await anyio.to_thread.run_sync(pykka.ActorRegistry.stop_all) == [True, True]
    assert statistics() == ()
