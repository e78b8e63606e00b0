from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import anyio.to_thread
import pykka
import pytest

from rtvi_actors.bot import Bot
from rtvi_actors.errors import NameTaken, Unknown
from rtvi_actors.runtime.registry import References, hasten_pykka, statistics
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.session import CHILDREN, open_session
from rtvi_actors.transports import memory
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


# -- in constant time --------------------------------------------------------------------

CROWD = 10_000


class Counted:
    """Stands for a reference, and counts how often it is compared: what a scan of a list costs."""

    compared = 0

    def __init__(self, number: int) -> None:
        self.actor_urn = f"urn:{number}"
        self.actor_class = Recorder

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return self is other

    __hash__ = object.__hash__


def crowd(count: int) -> Any:
    """So many references; what pykka annotates as `ActorRef`."""
    return [Counted(number) for number in range(count)]


REGISTRY: Any = pykka.ActorRegistry
"""pykka's registry, into whose private parts these tests look."""


def in_registry(references: Any) -> None:
    """Have pykka's registry keep its references in this."""
    REGISTRY._actor_refs = references


@pytest.fixture
def whole() -> Iterator[None]:
    """Puts pykka's registry back as it was."""
    before = REGISTRY._actor_refs
    yield
    in_registry(before)


async def compared_in_a_life(system: ActorSystem, book: Book) -> int:
    """How many comparisons starting and stopping one supervised actor takes."""
    before = Counted.compared
    supervisor = system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="s")
    await system.stop(supervisor)
    return Counted.compared - before


@pytest.mark.usefixtures("whole")
async def test_starting_and_stopping_an_actor_compares_no_other(system: ActorSystem, book: Book) -> None:
    in_registry(References(crowd(CROWD)))
    assert await compared_in_a_life(system, book) == 0
    assert len(pykka.ActorRegistry.get_all()) == CROWD


@pytest.mark.usefixtures("whole")
async def test_opening_and_closing_a_session_compares_none_of_ten_thousand_others(system: ActorSystem) -> None:
    transport, client = memory.pair()
    in_registry(References(crowd(CROWD * len(CHILDREN))))
    before = Counted.compared
    async with open_session(Bot(), transport, system=system):
        await client.send_text({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": {"version": "2.2.0"}})
        await client.receive()
    assert Counted.compared == before


@pytest.mark.usefixtures("whole")
async def test_pykkas_own_list_compares_all_others_twice(system: ActorSystem, book: Book) -> None:
    """What the test above would find without `References`: two actors, each looked for and then removed."""
    in_registry(crowd(CROWD))
    assert await compared_in_a_life(system, book) == 2 * 2 * CROWD


@pytest.mark.usefixtures("whole")
def test_pykkas_list_is_replaced_once_and_keeps_what_is_in_it() -> None:
    first, second = crowd(2)
    in_registry([first, second])
    hasten_pykka()
    replaced = REGISTRY._actor_refs
    assert type(replaced) is References
    assert pykka.ActorRegistry.get_all() == [first, second]
    hasten_pykka()
    assert REGISTRY._actor_refs is replaced


@pytest.mark.usefixtures("whole")
def test_many_threads_replace_it_once() -> None:
    for _ in range(20):
        in_registry(crowd(10))
        barrier = threading.Barrier(4)
        seen: list[object] = []

        def replace(barrier: threading.Barrier = barrier, seen: list[object] = seen) -> None:
            barrier.wait()
            hasten_pykka()
            seen.append(REGISTRY._actor_refs)

        threads = [threading.Thread(target=replace) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(one) for one in seen}) == 1


@pytest.mark.usefixtures("whole")
def test_a_pykka_that_keeps_its_references_otherwise_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Their(list[Any]):
        """A list of somebody else's, who may rely on it."""

    theirs = Their()
    in_registry(theirs)
    with caplog.at_level(logging.DEBUG, "rtvi_actors.runtime"):
        hasten_pykka()
    assert REGISTRY._actor_refs is theirs
    assert caplog.messages == ["pykka.ActorRegistry keeps its references in a Their: left as it is"]


@pytest.mark.usefixtures("whole")
def test_a_pykka_without_a_lock_is_left_as_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = crowd(1)
    in_registry(kept)
    with caplog.at_level(logging.DEBUG, "rtvi_actors.runtime"), monkeypatch.context() as without:
        without.delattr(pykka.ActorRegistry, "_actor_refs_lock")
        hasten_pykka()
    assert REGISTRY._actor_refs is kept
    assert caplog.messages == ["pykka.ActorRegistry has no lock that is known: left as it is"]


def test_references_answer_as_a_list_does() -> None:
    first, second, third = references = crowd(3)
    kept = References(references)
    kept.remove(second)
    kept.append(second)
    assert list(kept) == [first, third, second]
    assert list(reversed(kept)) == [second, third, first]
    assert (kept[0], kept[-1], len(kept)) == (first, second, 3)
    assert second in kept
    copy = kept[:]
    kept.remove(first)
    assert copy == [first, third, second]
    assert first not in kept
    with pytest.raises(ValueError, match="not registered"):
        kept.remove(first)
    with pytest.raises(IndexError):
        kept[2]
    kept.clear()
    assert not kept
    assert kept[:] == []


class Quiet(pykka.ThreadingActor):
    """An actor of plain pykka."""

    def on_receive(self, message: Any) -> Any:
        return message


@pytest.mark.usefixtures("system")
async def test_plain_pykka_finds_and_stops_its_actors_as_ever() -> None:
    assert type(REGISTRY._actor_refs) is References

    def theirs() -> None:
        first, second = Quiet.start(), Quiet.start()
        registry = pykka.ActorRegistry
        assert registry.get_all() == [first, second]
        assert registry.get_by_urn(second.actor_urn) is second
        assert registry.get_by_urn("urn:nobody") is None
        assert registry.get_by_class(Quiet) == registry.get_by_class_name("Quiet") == [first, second]
        registry.broadcast("hello", Quiet)
        assert second.ask(7) == 7
        first.stop()
        registry.unregister(first)  # once more: pykka notes it, and nothing happens
        assert registry.get_all() == [second]
        assert registry.stop_all() == [True]
        assert registry.get_all() == []

    await anyio.to_thread.run_sync(theirs)
