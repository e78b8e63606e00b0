from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pykka
import pytest

from rtvi_actors.errors import AskTimeout, CyclicAsk, Dead, HandlerFailed, Rejected, Undeclared, Unknown, WouldBlock
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.mailbox import encode, type_decoder
from rtvi_actors.runtime.refs import ActorRef, ref_of
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import Book, Fail, Forward, Hold, Note, Plain, Read, Recorder, Stranger, Through

pytestmark = pytest.mark.anyio


@contextmanager
def no_reply_comes(actor: ActorRef[Any]) -> Iterator[None]:
    """Hold the actor back, so that its mail waits."""
    actor.cell.suspended = True
    yield
    actor.cell.suspended = False
    actor.cell.notify()


async def test_an_ask_without_a_reply_fails_at_its_deadline(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    with no_reply_comes(ref):
        with pytest.raises(AskTimeout):
            await ref.call(Note(1), timeout_s=0.001)
        with pytest.raises(pykka.Timeout):
            await ref.call(Note(1), timeout_s=0.001)
    assert await ref.call(Read()) == []  # an expired request is not processed
    assert ref.cell.dropped == 2


async def test_a_late_reply_never_surfaces(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    late = ref.ask(Hold(1), block=False, timeout=1000)
    await book.begun.wait()
    deadline = system.timers._heap[0][2].callback
    assert deadline is not None
    deadline()  # by hand: the handler must have begun before it
    with pytest.raises(AskTimeout):
        await late
    book.gate.set()
    assert ("done", 1) in await ref.call(Read())
    with pytest.raises(AskTimeout):
        await late


async def test_an_ask_that_is_answered_leaves_no_deadline(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    for n in range(5):
        await ref.call(Note(n))
    assert len(system.timers) == 0


async def test_an_ask_from_a_foreign_thread_expires_as_well(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    with no_reply_comes(ref):
        future = await anyio.to_thread.run_sync(lambda: ref.ask(Note(1), block=False, timeout=0.001))
        with pytest.raises(AskTimeout):
            await future
    assert await ref.call(Read()) == []


async def test_a_blocking_ask_from_a_foreign_thread_fails_in_one_way(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)

    def ask() -> None:
        with pytest.raises(AskTimeout) as failure:
            ref.ask(Note(1), timeout=0.001)
        assert isinstance(failure.value, pykka.Timeout)

    with no_reply_comes(ref):
        await anyio.to_thread.run_sync(ask)


async def test_a_foreign_thread_asks_and_gets_the_reply(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    assert await anyio.to_thread.run_sync(lambda: ref.ask(Note(5))) == 5


async def test_another_event_loop_asks_and_awaits(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)

    def elsewhere(backend: str) -> Any:
        async def main() -> Any:
            with pytest.raises(WouldBlock):
                ref.ask(Note(1))
            await ref.send(Note(2))
            return await ref.call(Note(3))

        return anyio.run(main, backend=backend)

    assert await anyio.to_thread.run_sync(elsewhere, "asyncio") == 3
    assert await anyio.to_thread.run_sync(elsewhere, "trio") == 3
    assert await ref.call(Read()) == [2, 3, 2, 3]


async def test_blocking_on_the_loops_thread_raises_at_once_and_sends_nothing(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    for block in (
        lambda: ref.ask(Note(1)),
        ref.stop,
        pykka.ActorRegistry.stop_all,
        ref.ask(Hold(0), block=False).get,
        ref.proxy().seen.get,
    ):
        with pytest.raises(WouldBlock):
            block()
    book.gate.set()
    assert await ref.call(Read()) == [("begun", 0), ("done", 0)]
    assert ref.is_alive()


async def test_a_blocking_ask_in_a_handler_raises_in_the_handler(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    other = system.spawn(Recorder, book)
    book.acts["block"] = lambda actor: other.ask(Note(1))
    with pytest.raises(HandlerFailed) as failure:
        await ref.call(Through("block"))
    assert isinstance(failure.value.__cause__, WouldBlock)
    assert await other.call(Read()) == []


async def test_asking_the_dead_answers_at_once(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    assert await ref.stop(block=False)
    future = ref.ask(Note(1), block=False, timeout=3600)
    assert future.done()
    with pytest.raises(Dead):
        await future
    with pytest.raises(pykka.ActorDeadError):
        ref.ask(Note(1))
    with pytest.raises(Dead):
        ref.tell(Note(1))
    with pytest.raises(Dead):
        await ref.send(Note(1))
    with pytest.raises(Dead):
        ref.forward(ref.encode(Note(1)))
    assert await ref.stop(block=False) is False
    assert ref.stop() is False


async def test_the_errors_of_an_ask_are_distinct(system: ActorSystem, book: Book) -> None:
    class Small(Recorder):
        max_mail = 1

    ref = system.spawn(Small, book, name="small")
    with pytest.raises(HandlerFailed):
        await system.spawn(Recorder, book).call(Fail())
    with no_reply_comes(ref):
        waits = ref.ask(Note(1), block=False)
        with pytest.raises(Rejected) as refusal:
            await ref.call(Note(2))
        assert refusal.value.message == Note(2)
        assert refusal.value.receiver == "small"
        await system.kill(ref)
        with pytest.raises(Dead):
            await waits
    with pytest.raises(Unknown):
        system.get("small")
    with pytest.raises(Unknown):
        system.spawn(Recorder, book).cell.actor.link("nobody")  # type: ignore[union-attr]
    with pytest.raises(Undeclared):
        await system.spawn(Recorder, book).call(Stranger())


async def test_an_asked_letter_that_overflows_is_rejected_and_not_dead(system: ActorSystem, book: Book) -> None:
    class Small(Recorder):
        max_mail = 1
        overflow = "drop_oldest"

    ref = system.spawn(Small, book)
    with no_reply_comes(ref):
        first = ref.ask(Note(1), block=False)
        ref.tell(Note(2))
        with pytest.raises(Rejected):
            await first


async def test_an_undeclared_type_raises_in_the_sender_and_leaves_no_deadline(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    for send in (ref.tell, ref.encode, lambda message: ref.ask(message, block=False)):
        with pytest.raises(Undeclared):
            send(Stranger())
    with pytest.raises(Undeclared):
        await ref.send(Stranger())
    assert len(system.timers) == 0


async def test_a_reference_travels_as_its_urn(system: ActorSystem, book: Book) -> None:
    first, second = system.spawn(Recorder, book), system.spawn(Recorder, book)
    body = encode(Forward(second, 4))
    assert msgspec.msgpack.decode(body)["to"] == second.actor_urn
    assert type_decoder(Forward)(body).to is second
    first.tell(Forward(second, 4))
    await first.call(Read())
    assert await second.call(Read()) == [4]
    assert second.cell.handled == 2


async def test_a_reference_to_what_nobody_holds_any_more_is_undecodable(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    ref = system.spawn(Recorder, book)
    asked = ref.ask(Note(0), block=False)
    await asked
    ref.forward(msgspec.msgpack.encode({"type": "Forward", "to": "urn:uuid:gone", "n": 1}))
    assert await ref.call(Read()) == [0]
    assert ref.cell.dropped == 1
    assert "cannot decode" in caplog.text
    with pytest.raises(Dead):
        ref_of("urn:uuid:gone")


async def test_a_router_forwards_without_decoding(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    ref.forward(ref.encode(Note(8)))
    assert await ref.call(Read()) == [8]


async def test_a_reference_is_forgotten_with_its_actor(system: ActorSystem) -> None:
    ref = system.spawn(Plain)
    urn = ref.actor_urn
    await system.kill(ref)
    del ref
    gc.collect()
    with pytest.raises(Dead):
        ref_of(urn)


async def test_it_is_a_pykka_reference(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    assert isinstance(ref, pykka.ActorRef)
    assert ref.is_alive()
    assert ref.name == "it"
    assert ref.actor_urn in str(ref)
    assert str(ref) in repr(ref)
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is ref
    assert pykka.ActorRegistry.get_by_class(Recorder) == [ref]
    pykka.ActorRegistry.broadcast(Note(1), target_class=Recorder)
    assert await ref.call(Read()) == [1]


async def test_send_waits_for_room(system: ActorSystem, book: Book) -> None:
    class Small(Recorder):
        max_mail = 2

    ref = system.spawn(Small, book)
    sent: list[int] = []

    async def send(n: int) -> None:
        await ref.send(Note(n))
        sent.append(n)

    async with anyio.create_task_group() as tasks:
        with no_reply_comes(ref):
            for n in range(6):
                tasks.start_soon(send, n)
                await anyio.wait_all_tasks_blocked()
            assert sent == [0, 1]
            assert len(ref.cell.mailbox.user) == 2
    await anyio.wait_all_tasks_blocked()
    assert sorted(sent) == list(range(6))
    assert sorted(book.notes) == list(range(6))


async def test_send_from_another_loop_waits_for_room_and_is_woken(system: ActorSystem, book: Book) -> None:
    class Small(Recorder):
        max_mail = 1

    ref = system.spawn(Small, book)
    waiting = threading.Event()

    def elsewhere() -> None:
        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ref.send, Note(2))
                await anyio.wait_all_tasks_blocked()
                waiting.set()

        anyio.run(main)

    async with anyio.create_task_group() as tasks:
        with no_reply_comes(ref):
            ref.tell(Note(1))
            tasks.start_soon(anyio.to_thread.run_sync, elsewhere)
            await anyio.to_thread.run_sync(waiting.wait)
    await anyio.wait_all_tasks_blocked()
    assert book.notes == [1, 2]


async def test_send_to_an_actor_that_dies_meanwhile_raises(system: ActorSystem, book: Book) -> None:
    class Small(Recorder):
        max_mail = 1

    ref = system.spawn(Small, book)
    with no_reply_comes(ref):
        ref.tell(Note(1))

        async def send() -> None:
            with pytest.raises(Dead):
                await ref.send(Note(2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await system.kill(ref)


async def test_a_stop_keeps_its_place_in_the_mail(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    for n in range(3):
        ref.tell(Note(n))
    stopped = ref.stop(block=False)
    ref.tell(Note(99))
    assert await stopped is True
    assert book.notes == [0, 1, 2, "stopped it"]
    assert system.dead_letters == 1


async def test_a_second_stop_finds_the_actor_dead(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    first, second = ref.stop(block=False), ref.stop(block=False)
    assert (await first, await second) == (True, False)
    assert system.dead_letters == 0


# -- asks within asks ------------------------------------------------------------------------


class Chain(msgspec.Struct, frozen=True, tag=True):
    """Ask the first of `then`, with the rest; answer with how long that ask had, and with what it answered."""

    then: tuple[ActorRef[Any], ...]


class Link(AnyioActor):
    """Waits for the next in the chain, and holds up its mail meanwhile."""

    async def on_chain(self, message: Chain) -> list[Any]:
        if not message.then:
            return [self.name]
        answer = await message.then[0].call(Chain(message.then[1:]), timeout_s=60)
        return [self.name, *answer]

    def on_note(self, message: Note) -> int:
        return message.n


class Free(Link):
    """Waits in a group of its own: its mailbox goes on."""

    async_group: ClassVar[str] = "own"
    groups: ClassVar[Mapping[str, GroupSpec]] = {"own": GroupSpec(concurrency=4)}


def links(system: ActorSystem, *kinds: type[Link]) -> list[ActorRef[Any]]:
    return [system.spawn(kind, name="abc"[at]) for at, kind in enumerate(kinds)]


@pytest.mark.parametrize("names", ["aa", "aba", "abca", "abcb"])
async def test_an_ask_that_would_come_back_raises_with_its_path(system: ActorSystem, names: str) -> None:
    refs = dict(zip("abc", links(system, Link, Link, Link), strict=True))
    first, *then = [refs[name] for name in names]
    with pytest.raises(HandlerFailed) as failure:
        await first.call(Chain(tuple(then)))
    error: BaseException | None = failure.value
    while not isinstance(error, CyclicAsk):
        assert error is not None
        error = error.__cause__
    assert error.path == tuple(names)
    assert str(error) == " -> ".join(names)


async def test_an_ask_may_come_back_to_an_actor_whose_mail_goes_on(system: ActorSystem) -> None:
    a, b, _ = links(system, Free, Link, Link)
    assert await a.call(Chain((b, a))) == ["a", "b", "a"]
    with pytest.raises(HandlerFailed):  # b waits for a, which would wait for b
        await a.call(Chain((b, a, b)))


@pytest.mark.parametrize(("given_s", "counts_s"), [(1000, 60), (5, 5)])
async def test_what_is_left_of_a_deadline_travels_on(system: ActorSystem, given_s: float, counts_s: float) -> None:
    """Each link asks with 60 s: the earlier deadline counts."""
    a, b, c = links(system, Link, Link, Link)
    with no_reply_comes(c):
        before_s = system.backend.now()
        asked = a.ask(Chain((b, c)), block=False, timeout=given_s)
        asked_s = system.backend.now()
        while not c.cell.mailbox.user:
            await anyio.lowlevel.checkpoint()
        letter = c.cell.mailbox.user[0]
        assert before_s + counts_s <= letter.due_s <= system.backend.now() + counts_s
        assert counts_s == 60 or letter.due_s <= asked_s + counts_s
        assert [cell.name for cell in letter.path] == ["a", "b"]
    assert await asked == ["a", "b", "c"]


async def test_every_deadline_is_one_entry_of_one_heap_under_one_timer(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    armed: list[float] = []
    arm = system.timers._arm

    def note_and_arm(due_s: float, fire: Callable[[], None]) -> None:
        armed.append(due_s)
        arm(due_s, fire)

    system.timers._arm = note_and_arm
    with no_reply_comes(ref):
        asked = [ref.ask(Note(n), block=False, timeout=100 + n) for n in range(1000)]
        assert len(system.timers) == 1000
        assert len(armed) <= 1
    for ask in asked:
        await ask
    assert len(system.timers) == 0
