from __future__ import annotations

from typing import Any

import anyio
import pykka
import pytest

from rtvi_actors.errors import Dead, NameTaken, StartFailed, Unknown
from rtvi_actors.runtime import supervisor
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import FIREWALL, Book, Fail, Hold, Note, Read, Recorder

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RETRY_S", 0.001)


def of(system: ActorSystem, name: str) -> Supervisor:
    actor = system.get(name).cell.actor
    assert isinstance(actor, Supervisor)
    return actor


class Ordered(AnyioActor):
    """Writes down when it starts and stops."""

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self.book = book

    def on_start(self) -> None:
        self.book.notes.append(f"+{self.name}")
        self.book.check(self.name)

    def on_stop(self) -> None:
        self.book.notes.append(f"-{self.name}")

    def on_fail(self, message: Fail) -> None:
        raise ValueError

    def on_note(self, message: Note) -> int:
        return message.n


def specs(book: Book, *names: str, **options: Any) -> list[ChildSpec]:
    return [ChildSpec(name, Ordered, (book,), **options) for name in names]


async def test_children_start_in_order_and_stop_in_reverse(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Supervisor, specs(book, "a", "b", "c"), name="s")
    assert [child.name for child in of(system, "s").children()] == ["s/a", "s/b", "s/c"]
    assert await system.stop(ref)
    assert book.notes == ["+s/a", "+s/b", "+s/c", "-s/c", "-s/b", "-s/a"]


async def test_a_kill_of_the_supervisor_stops_its_children_in_reverse_as_well(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Supervisor, specs(book, "a", "b"), name="s")
    assert await system.kill(ref)
    assert book.notes == ["+s/a", "+s/b", "-s/b", "-s/a"]
    assert len(system.registry) == 0


async def test_children_drain_their_mail_before_they_stop(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="s")
    child = system.get("s/it")
    for n in range(100):
        child.tell(Note(n))
    await system.stop(ref)
    assert book.notes == [*range(100), "stopped s/it"]


async def test_a_childs_own_shutdown_time_bounds_its_drain(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,), shutdown_s=0.001)], name="s")
    held = system.get("s/it").ask(Hold(1), block=False)
    await system.stop(ref, 60)
    with pytest.raises(Dead):
        await held


async def test_the_children_of_nested_supervisors_drain_too(system: ActorSystem, book: Book) -> None:
    inner = ChildSpec("inner", Supervisor, ([ChildSpec("it", Recorder, (book,))],))
    ref = system.spawn(Supervisor, [inner, *specs(book, "last")], name="s")
    child = system.get("s/inner/it")
    child.tell(Hold(1))
    child.tell(Note(2))
    await book.begun.wait()
    stopped = system.stop(ref)
    await anyio.wait_all_tasks_blocked()
    book.gate.set()
    assert await stopped
    assert book.notes == ["+s/last", ("begun", 1), "-s/last", ("done", 1), 2, "stopped s/inner/it"]


async def test_links_may_point_forward_and_to_nobody_else(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [*specs(book, "a", links=("b",)), *specs(book, "b")], name="s")
    first = system.get("s/a").cell.actor
    assert first is not None
    assert first.link("b") is system.get("s/b")
    with pytest.raises(Unknown):
        first.link("c")
    system.get("s/a").tell(Fail())
    await system.get("s/a").call(Note(1))
    second = system.get("s/a").cell.actor
    assert second is not None
    assert second is not first
    assert second.link("b") is system.get("s/b")


async def test_a_link_to_no_child_fails_the_start(system: ActorSystem, book: Book) -> None:
    with pytest.raises(StartFailed):
        system.spawn(Supervisor, specs(book, "a", links=("nobody",)), name="s")
    assert len(system.registry) == 0


@pytest.mark.parametrize("kind", FIREWALL)
async def test_a_child_that_does_not_start_takes_back_those_that_did(
    system: ActorSystem, book: Book, kind: str
) -> None:
    book.raising["s/c"] = kind
    with pytest.raises(StartFailed):
        system.spawn(Supervisor, specs(book, "a", "b", "c", "d"), name="s")
    assert book.notes == ["+s/a", "+s/b", "+s/c", "-s/b", "-s/a"]
    assert len(system.registry) == 0
    assert pykka.ActorRegistry.get_all() == []


async def test_a_child_may_be_added_while_it_runs(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, name="s")
    child = of(system, "s").start_child(*specs(book, "a"))
    child.tell(Fail())
    assert await child.call(Note(1)) == 1
    assert child.cell.restarts == 1


async def test_a_child_whose_name_is_taken_leaves_the_first_one_alone(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, specs(book, "a"), name="s")
    first = system.get("s/a")
    with pytest.raises(NameTaken):
        of(system, "s").start_child(*specs(book, "a"))
    assert of(system, "s").child("a") is first
    first.tell(Fail())
    assert await first.call(Note(1)) == 1


async def test_a_child_that_fails_to_start_is_forgotten(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, name="s")
    book.raising["s/a"] = "SystemExit"
    with pytest.raises(StartFailed):
        of(system, "s").start_child(*specs(book, "a"))
    assert of(system, "s").children() == []
    book.raising.clear()
    assert of(system, "s").start_child(*specs(book, "a")).is_alive()


async def test_the_name_of_a_dead_child_is_free_again(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, specs(book, "a", "b"), name="s")
    await system.kill(system.get("s/a"))
    of(system, "s").start_child(*specs(book, "a"))
    assert [child.name for child in of(system, "s").children()] == ["s/b", "s/a"]


async def test_an_instance_serves_for_the_first_start_and_its_arguments_for_the_next(
    system: ActorSystem, book: Book
) -> None:
    instance = Ordered(book)
    system.spawn(Supervisor, [ChildSpec("it", instance)], name="s")
    ref = system.get("s/it")
    assert ref.cell.actor is instance
    assert instance.name == "s/it"
    ref.tell(Fail())
    await ref.call(Note(1))
    assert ref.cell.actor is not instance
    assert isinstance(ref.cell.actor, Ordered)
    assert ref.cell.actor.book is book


async def test_a_temporary_child_is_not_restarted(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, specs(book, "a", restart="temporary"), name="s")
    ref = system.get("s/a")
    ref.tell(Fail())
    with pytest.raises(Dead):
        await ref.call(Note(1))


async def test_a_restart_is_reported_and_a_reporter_that_raises_harms_nobody(system: ActorSystem, book: Book) -> None:
    def on_restarted() -> None:
        book.notes.append("restarted")
        raise SystemExit

    system.spawn(Supervisor, specs(book, "a", on_restarted=on_restarted), name="s")
    ref = system.get("s/a")
    for n in range(2):
        ref.tell(Fail())
        assert await ref.call(Note(n)) == n
    assert book.notes.count("restarted") == 2


async def test_too_many_restarts_in_the_period_stop_the_top_supervisor_and_its_children(
    system: ActorSystem, book: Book
) -> None:
    system.spawn(Supervisor, specs(book, "a", "b"), intensity=2, period_s=3600, name="s")
    ref, sibling = system.get("s/a"), system.get("s/b")
    for _ in range(3):
        ref.tell(Fail())
    with pytest.raises(Dead):
        await ref.call(Note(1))
    assert not sibling.is_alive()
    assert len(system.registry) == 0


async def test_restarts_outside_the_period_do_not_count(
    system: ActorSystem, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    system.spawn(Supervisor, specs(book, "a"), intensity=1, period_s=10, name="s")
    monkeypatch.setattr(system.timers, "now", lambda: now_s)
    ref = system.get("s/a")
    for _ in range(5):
        now_s += 11
        ref.tell(Fail())
        await anyio.wait_all_tasks_blocked()
    assert ref.cell.restarts == 5


async def test_starts_that_keep_failing_reach_the_limit_as_well(system: ActorSystem, book: Book) -> None:
    escalated: list[tuple[str, str]] = []
    done = anyio.Event()

    def on_escalate(name: str, error: BaseException) -> None:
        escalated.append((name, type(error).__name__))
        done.set()
        raise SystemExit

    system.spawn(Supervisor, specs(book, "a", "b"), intensity=3, name="s", on_escalate=on_escalate)
    ref = system.get("s/a")
    book.raising["s/a"] = "RecursionError"
    ref.tell(Fail())
    waits = ref.ask(Note(1), block=False)
    await done.wait()
    assert escalated == [("s/a", "RecursionError")]
    assert ref.cell.restarts == 3
    with pytest.raises(Dead):
        await waits
    assert await system.get("s/b").call(Note(2)) == 2


async def test_the_limit_escalates_to_the_parent_which_makes_all_anew(system: ActorSystem, book: Book) -> None:
    inner = ChildSpec("inner", Supervisor, (specs(book, "a", "b"),), {"intensity": 1})
    system.spawn(Supervisor, [inner, *specs(book, "c")], name="s")
    old, inner_ref = system.get("s/inner/a"), system.get("s/inner")
    for _ in range(2):
        old.tell(Fail())
    await anyio.wait_all_tasks_blocked()
    assert not old.is_alive()
    assert system.get("s/inner") is inner_ref
    assert inner_ref.cell.restarts == 1
    assert await system.get("s/inner/a").call(Note(1)) == 1
    assert await system.get("s/inner/b").call(Note(2)) == 2
    assert system.get("s/c").cell.generation == 1
    assert book.notes == [
        "+s/inner/a",
        "+s/inner/b",
        "+s/c",
        "+s/inner/a",  # the one restart
        "-s/inner/b",
        "+s/inner/a",
        "+s/inner/b",
    ]


async def test_a_supervisor_whose_own_handler_crashes_takes_its_children_down_and_up(
    system: ActorSystem, book: Book
) -> None:
    class Own(Supervisor):
        def on_fail(self, message: Fail) -> None:
            raise ValueError

    system.spawn(Supervisor, [ChildSpec("own", Own, (specs(book, "a"),))], name="s")
    system.get("s/own").tell(Fail())
    await anyio.wait_all_tasks_blocked()
    assert book.notes == ["+s/own/a", "-s/own/a", "+s/own/a"]
    assert await system.get("s/own/a").call(Note(1)) == 1


async def test_a_crash_can_be_injected_between_two_messages(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="s")
    ref = system.get("s/it")
    ref.tell(Note(1))
    system.crash(ref)
    ref.tell(Note(2))
    assert await ref.call(Read()) == [1, 2]
    assert ref.cell.restarts == 1
    assert ref.cell.dropped == 0
