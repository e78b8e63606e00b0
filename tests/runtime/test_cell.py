"""Identity over a crash, all or nothing, generations, the firewall, mail and stops (DESIGN.md 6)."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pykka
import pytest

from rtvi_actors.errors import Crash, Dead, DeclarationError, HandlerFailed, StartFailed
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.signals import DeadLetter
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import (
    FIREWALL,
    Book,
    Fail,
    FailAsync,
    Hold,
    Note,
    Read,
    Recorder,
    Run,
    Through,
    supervised,
)

pytestmark = pytest.mark.anyio


# -- identity outlives a crash -----------------------------------------------------------


def injure_by_handler(ref: ActorRef[Any]) -> None:
    ref.tell(Fail("ValueError"))


def injure_by_async_handler(ref: ActorRef[Any]) -> None:
    ref.tell(FailAsync("ValueError"))


def injure_by_crash_in_a_job(ref: ActorRef[Any]) -> None:
    ref.tell(Run("jobs", "crash"))


INJURIES = [injure_by_handler, injure_by_async_handler, injure_by_crash_in_a_job]


@pytest.mark.parametrize("injure", INJURIES)
async def test_identity_outlives_a_crash(system: ActorSystem, book: Book, injure: Any) -> None:
    ref, _ = supervised(system, book)
    first = ref.cell.actor
    identity = (ref.actor_urn, ref.name, ref.actor_inbox, ref.cell)
    await ref.call(Note(1))
    injure(ref)
    await anyio.wait_all_tasks_blocked()
    assert await ref.call(Note(2)) == 2
    assert (ref.actor_urn, ref.name, ref.actor_inbox, ref.cell) == identity
    assert system.get("sup/it") is ref
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is ref
    second = ref.cell.actor
    assert second is not None
    assert second is not first
    assert second.actor_ref is ref
    assert (second.actor_urn, second.actor_inbox) == (ref.actor_urn, ref.actor_inbox)
    assert isinstance(second, Recorder)
    assert second.seen == [2]  # its state is fresh
    assert ref.cell.generation == 2


@pytest.mark.parametrize("injure", INJURIES)
async def test_only_the_message_that_crashed_it_leaves(system: ActorSystem, book: Book, injure: Any) -> None:
    ref, _ = supervised(system, book)
    for n in range(60):
        ref.tell(Note(n))
    injure(ref)
    for n in range(60, 120):
        ref.tell(Note(n))
    await anyio.wait_all_tasks_blocked()
    assert [note for note in await ref.call(Read()) if isinstance(note, int)] == list(range(120))
    assert ref.cell.restarts == 1


async def test_a_crash_is_a_dead_letter_with_its_bytes(system: ActorSystem, book: Book) -> None:
    letters: list[DeadLetter] = []
    unsubscribe = system.subscribe_dead_letters(letters.append)
    ref, _ = supervised(system, book)
    ref.tell(Fail("ValueError"))
    await ref.call(Read())
    assert letters == [DeadLetter("sup/it", "crashed", ref.encode(Fail("ValueError")))]
    unsubscribe()
    ref.tell(Fail("ValueError"))
    await ref.call(Read())
    assert len(letters) == 1
    assert system.dead_letters == 2


async def test_a_start_that_fails_on_restart_is_tried_again(system: ActorSystem, book: Book) -> None:
    ref, _ = supervised(system, book)
    failures = 3

    class Countdown(dict[str, str]):
        def __contains__(self, place: object) -> bool:
            nonlocal failures
            if place != "on_start" or failures == 0:
                return False
            failures -= 1
            return True

    book.raising = Countdown(on_start="RecursionError")
    ref.tell(Fail())
    for n in range(3):
        ref.tell(Note(n))
    assert await ref.call(Read()) == [0, 1, 2]
    assert ref.cell.restarts == 4
    assert ref.cell.state == "running"


async def test_mail_waits_while_a_restart_is_due_and_the_supervisor_may_end_the_wait(
    system: ActorSystem, book: Book
) -> None:
    ref, _ = supervised(system, book)
    sup = system.get("sup").cell.actor
    assert isinstance(sup, Supervisor)
    book.raising["on_start"] = "ValueError"
    asked = ref.ask(Note(1), block=False)
    await asked
    ref.tell(Fail())
    waits = ref.ask(Note(2), block=False)
    await anyio.wait_all_tasks_blocked()
    assert await system.kill(ref)  # it is down already, and would be restarted
    assert ref.is_alive()
    assert await sup.stop_child("it")
    with pytest.raises(Dead):
        await waits
    assert ref.cell.state == "dead"
    assert [child.name for child in sup.children()] == ["sup/sibling"]


async def test_state_is_restored_from_the_last_snapshot(system: ActorSystem, book: Book) -> None:
    class Remembering(Recorder):
        def on_note(self, message: Note) -> int:
            self.snapshot((*self.seen, message.n))
            if message.n < 0:
                raise ValueError("crashed after the snapshot: it does not count")
            return super().on_note(message)

        def restore(self, state: Any) -> None:
            self.seen = list(state)

    system.spawn(Supervisor, [ChildSpec("it", Remembering, (book,))], name="sup")
    ref = system.get("sup/it")
    for n in (1, 2, -1, 3):
        ref.tell(Note(n))
    await ref.call(Read())
    assert isinstance(ref.cell.actor, Remembering)
    assert ref.cell.actor.seen == [1, 2, 3]


async def test_an_actor_without_a_supervisor_stops_at_its_crash(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="alone")
    ref.tell(Fail())
    waits = ref.ask(Note(1), block=False)
    with pytest.raises(Dead):
        await waits
    assert not ref.is_alive()
    assert "stopped alone" not in book.notes  # as in pykka: on_failure, not on_stop
    assert pykka.ActorRegistry.get_by_urn(ref.actor_urn) is None


# -- generations -------------------------------------------------------------------------


async def test_a_task_of_an_old_incarnation_is_fenced(system: ActorSystem, book: Book) -> None:
    ref, _ = supervised(system, book)
    old = ref.cell.actor
    ref.tell(Run("jobs", "refuse"))
    await book.begun.wait()
    ref.tell(Fail())
    await ref.call(Read())
    assert ref.cell.actor is not old
    book.gate.set()
    while "refuser ended" not in book.notes:
        await anyio.lowlevel.checkpoint()
    assert book.notes.count("fenced") == 2
    assert -1 not in await ref.call(Read())


async def test_a_handler_that_refuses_while_its_actor_restarts_is_counted(system: ActorSystem, book: Book) -> None:
    ref, _ = supervised(system, book)
    ref.tell(Run("jobs", "refuse"))
    await book.begun.wait()
    ref.tell(Fail())
    while ref.cell.abandoned == 0:
        await anyio.lowlevel.checkpoint()
    assert await ref.call(Note(1)) == 1
    book.gate.set()


async def test_a_job_that_waits_over_a_restart_runs_on_the_new_instance(system: ActorSystem, book: Book) -> None:
    class Actor(Recorder):
        async def who(self, n: int) -> None:
            self.book.notes.append(("who", self is self.cell.actor, self.cell.generation))

    system.spawn(Supervisor, [ChildSpec("it", Actor, (book,))], name="sup")
    ref = system.get("sup/it")
    ref.tell(Run("jobs", "hold"))
    ref.tell(Run("jobs", "who"))
    await book.begun.wait()
    ref.tell(Fail())
    await anyio.wait_all_tasks_blocked()
    assert ("hold", None) in book.notes
    assert ("who", True, 2) in book.notes


async def test_an_asynchronous_handler_that_is_lost_in_a_crash_answers(system: ActorSystem, book: Book) -> None:
    ref, _ = supervised(system, book)
    held = ref.ask(Hold(1), block=False)
    await book.begun.wait()
    system.crash(ref)
    with pytest.raises(HandlerFailed):
        await held
    assert await ref.call(Note(1)) == 1


# -- the firewall ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FIREWALL)
@pytest.mark.parametrize("message", [Fail, FailAsync])
async def test_no_sibling_notices_what_a_handler_raises(
    system: ActorSystem, book: Book, kind: str, message: type
) -> None:
    ref, sibling = supervised(system, book)
    sibling.tell(Note(1))
    ref.tell(message(kind))
    sibling.tell(Note(2))
    with pytest.raises(HandlerFailed) as failure:
        await ref.call(message(kind))
    assert type(failure.value.__cause__).__name__ == kind
    assert await sibling.call(Read()) == [1, 2]
    assert await ref.call(Note(3)) == 3
    assert (sibling.cell.generation, sibling.cell.failed) == (1, 0)
    assert ref.cell.restarts == ref.cell.failed == ref.cell.dropped == 2


@pytest.mark.parametrize("kind", FIREWALL)
@pytest.mark.parametrize("place", ["init", "on_start", "on_stop", "on_failure"])
async def test_no_sibling_notices_what_a_hook_raises(system: ActorSystem, book: Book, kind: str, place: str) -> None:
    ref, sibling = supervised(system, book)
    book.raising[place] = kind
    ref.tell(Fail())
    sibling.tell(Note(1))
    await anyio.wait_all_tasks_blocked()
    book.raising = {} if place != "on_stop" else book.raising
    assert await ref.call(Note(2)) == 2
    assert await system.stop(ref)
    assert await sibling.call(Read()) == [1]
    assert (sibling.cell.generation, sibling.cell.failed) == (1, 0)


@pytest.mark.parametrize("kind", FIREWALL)
@pytest.mark.parametrize("place", ["init", "on_start"])
async def test_a_start_that_fails_is_reported_and_leaves_nothing(
    system: ActorSystem, book: Book, kind: str, place: str
) -> None:
    book.raising[place] = kind
    for start in (lambda: system.spawn(Recorder, book, name="it"), lambda: Recorder.start(book)):
        with pytest.raises(StartFailed) as failure:
            start()
        assert type(failure.value.__cause__).__name__ == kind
    assert pykka.ActorRegistry.get_all() == []
    book.raising.clear()
    assert system.spawn(Recorder, book, name="it").name == "it"


async def test_failures_are_logged_with_name_and_place(
    system: ActorSystem, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    ref, _ = supervised(system, book)
    book.raising.update(on_failure="ValueError", on_stop="ValueError", on_error="ValueError")
    ref.tell(Fail())
    ref.tell(Run("jobs", "fail"))
    await ref.call(Read())
    await anyio.wait_all_tasks_blocked()
    await system.stop(ref)
    for text in (
        "sup/it crashed",
        "sup/it failed in on_failure",
        "sup/it failed in fail",
        "sup/it failed in on_error",
        "sup/it failed in on_stop",
    ):
        assert text in caplog.text
    assert ref.cell.failed == 5


async def test_an_on_handled_that_raises_crashes_the_actor_and_nobody_else(system: ActorSystem, book: Book) -> None:
    class Actor(Recorder):
        def on_handled(self, message: Any) -> None:
            self.ref.tell(Note(0))
            self.book.check("on_handled")

    system.spawn(Supervisor, [ChildSpec("it", Actor, (book,))], name="sup")
    ref = system.get("sup/it")
    book.raising["on_handled"] = "SystemExit"
    book.gate.set()
    for message in (Note(1), Hold(2)):
        with pytest.raises(HandlerFailed):
            await ref.call(message)
    assert ref.cell.restarts == 2
    assert book.notes == [1, ("begun", 2), ("done", 2), ("on_hold", "SystemExit")]


async def test_the_systems_own_cancellation_ends_asynchronous_handlers_quietly(
    book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    async with ActorSystem(drain_s=0.001) as system:
        ref = system.spawn(Recorder, book, name="it")
        held = ref.ask(Hold(1), block=False)
        await book.begun.wait()
    with pytest.raises(Dead):
        await held
    assert book.notes == [("begun", 1), "stopped it"]
    assert not caplog.records


# -- stops -------------------------------------------------------------------------------


async def test_a_stop_of_the_systems_drains_the_mail_that_is_there(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    for n in range(200):
        ref.tell(Note(n))
    assert await system.stop(ref, 60)
    assert book.notes == [*range(200), "stopped it"]


async def test_a_drain_has_a_deadline(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    ref.tell(Hold(1))
    waits = ref.ask(Note(2), block=False)
    await book.begun.wait()
    assert await system.stop(ref, 0.001)
    assert book.notes == [("begun", 1), "stopped it"]
    with pytest.raises(Dead):
        await waits


async def test_a_kill_does_not_wait_for_mail(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    for n in range(10):
        ref.tell(Note(n))
    assert await system.kill(ref)
    assert book.notes == ["stopped it"]
    assert ref.cell.dropped == 10


async def test_several_stops_at_once_all_end(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    ref.tell(Hold(1))
    await book.begun.wait()
    stops = [system.stop(ref, 60), system.stop(ref, 60), ref.stop(block=False), system.kill(ref), system.kill(ref)]
    assert [await stop for stop in stops] == [True, True, False, True, True]
    assert await system.stop(ref) is False


async def test_a_stop_while_jobs_drain_only_adds_a_deadline(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    ref.tell(Run("jobs", "hold"))
    first = ref.stop(block=False)
    await book.begun.wait()
    second = system.stop(ref, 60)
    await anyio.wait_all_tasks_blocked()
    assert ref.is_alive()
    book.gate.set()
    assert await first
    assert await second
    assert book.notes[-1] == "stopped it"


async def test_an_actor_that_crashes_while_it_stops_is_not_restarted(system: ActorSystem, book: Book) -> None:
    ref, _ = supervised(system, book)

    class Gated(Recorder):
        async def crash_at_the_gate(self, n: int) -> None:
            self.book.begun.set()
            await self.book.gate.wait()
            raise Crash

    sup = system.get("sup").cell.actor
    assert isinstance(sup, Supervisor)
    gated = sup.start_child(ChildSpec("gated", Gated, (book,), restart="transient"))
    gated.tell(Run("jobs", "crash_at_the_gate"))
    stopped = gated.stop(block=False)
    await book.begun.wait()
    book.gate.set()
    assert await stopped
    assert not gated.is_alive()
    assert ref.is_alive()


async def test_a_dead_actors_timers_are_gone_with_it(system: ActorSystem, book: Book) -> None:
    book.acts["set"] = lambda actor: actor.after(3600, Note(1)) and None
    book.acts["set and cancel"] = lambda actor: actor.after(3600, Note(2)).cancel()
    before = len(system.timers)
    ref = system.spawn(Recorder, book)
    for act in ("set", "set", "set and cancel"):
        await ref.call(Through(act))
    assert len(ref.cell._own_timers) == 2
    await system.kill(ref)
    assert not ref.cell._own_timers
    assert len(system.timers) == before
    assert system.dead_letters == 0


async def test_an_instance_is_started_once(system: ActorSystem, book: Book) -> None:
    instance = Recorder(book)
    ref = system.spawn(instance)
    with pytest.raises(StartFailed):
        system.spawn(instance)
    assert ref.cell.generation == 1
    await system.kill(ref)
    with pytest.raises(StartFailed):
        system.spawn(instance)
    assert not ref.is_alive()


async def test_an_asynchronous_handler_may_stop_its_own_actor(system: ActorSystem, book: Book) -> None:
    class Last(Recorder):
        async def on_hold(self, message: Hold) -> int:
            self.ref.stop(block=False)
            return message.n

    ref = system.spawn(Last, book, name="it")
    assert await ref.call(Hold(1)) == 1
    while ref.is_alive():
        await anyio.lowlevel.checkpoint()
    assert book.notes == ["stopped it"]


def test_a_group_for_asynchronous_handlers_must_be_there() -> None:
    with pytest.raises(DeclarationError, match="nowhere"):

        class Lost(Recorder):
            async_group: ClassVar[str] = "nowhere"
