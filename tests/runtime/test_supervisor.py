from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.errors import Dead, DeclarationError, HandlerFailed, NameTaken, StartFailed, Unknown
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.signals import Books
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Escalation, Poison, Restart, Strategy, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import FIREWALL, Book, Fail, Hold, Note, Read, Recorder, Through

pytestmark = pytest.mark.anyio


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
    await of(system, "s").stop_child("a")
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

    def on_escalate(escalation: Escalation) -> None:
        escalated.append((escalation.child, type(escalation.error).__name__))
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


# -- who is restarted, and with whom -----------------------------------------------------------

EXITS: dict[str, Any] = {
    "normal": lambda system, ref: ref.stop(block=False),
    "shutdown": lambda system, ref: system.stop(ref),
    "killed": lambda system, ref: system.kill(ref),
    "error": lambda system, ref: ref.tell(Fail()),
    "timeout": lambda system, ref: ref.tell(Hold()),
}
RESTARTED = {"permanent": set(EXITS), "transient": {"killed", "error", "timeout"}, "temporary": set[str]()}


class Timed(Ordered):
    """Its asynchronous handlers have next to no time."""

    handler_timeout_s: ClassVar[float | None] = 0.001

    async def on_hold(self, message: Hold) -> None:
        await anyio.sleep_forever()


async def settle(system: ActorSystem) -> None:
    while not system.idle:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("restart", RESTARTED)
@pytest.mark.parametrize("how", EXITS)
async def test_the_restart_type_says_what_follows_an_exit(
    system: ActorSystem, book: Book, restart: Restart, how: str
) -> None:
    system.spawn(Supervisor, [ChildSpec("a", Timed, (book,), restart=restart)], name="s")
    ref = system.get("s/a")
    ended = EXITS[how](system, ref)
    if ended is not None:
        assert await ended  # who asked for the stop has it, also where another incarnation follows
    await settle(system)
    assert ref.is_alive() is (how in RESTARTED[restart])
    if ref.is_alive():
        assert await ref.call(Note(7)) == 7
        assert ref.cell.generation == 2
    else:
        assert of(system, "s").children() == []
        with pytest.raises(Unknown):
            system.get("s/a")
    assert book.notes.count("-s/a") == (how in ("normal", "shutdown", "killed"))


@pytest.mark.parametrize(
    ("strategy", "log"),
    [
        ("one_for_one", ["+s/b"]),
        ("one_for_all", ["-s/d", "-s/c", "-s/a", "+s/a", "+s/b", "+s/c", "+s/d"]),
        ("rest_for_one", ["-s/d", "-s/c", "+s/b", "+s/c", "+s/d"]),
    ],
)
async def test_the_strategy_says_who_restarts_with_a_child(
    system: ActorSystem, book: Book, strategy: Strategy, log: list[str]
) -> None:
    system.spawn(Supervisor, specs(book, "a", "b", "c", "d"), strategy=strategy, name="s")
    refs = of(system, "s").children()
    refs[3].tell(Note(1))
    book.notes.clear()
    refs[1].tell(Fail())
    await settle(system)
    assert book.notes == log
    assert of(system, "s").children() == refs
    assert [await ref.call(Note(2)) for ref in refs] == [2] * 4
    assert refs[3].cell.books().dead == {}


async def test_a_temporary_child_goes_with_its_group_and_does_not_come_back(system: ActorSystem, book: Book) -> None:
    children = [*specs(book, "a"), *specs(book, "b", restart="temporary"), *specs(book, "c")]
    system.spawn(Supervisor, children, strategy="one_for_all", name="s")
    system.get("s/a").tell(Fail())
    await settle(system)
    assert [ref.name for ref in of(system, "s").children()] == ["s/a", "s/c"]


async def test_mail_to_the_whole_group_waits_while_one_of_it_is_in_back_off(system: ActorSystem, book: Book) -> None:
    backoff = Backoff(immediate=0, first_s=0.02, jitter=0)
    system.spawn(Supervisor, specs(book, "a", "b", backoff=backoff), strategy="one_for_all", name="s")
    refs = of(system, "s").children()
    refs[0].tell(Fail())
    while refs[0].cell.state == "running":
        await anyio.lowlevel.checkpoint()
    assert [ref.cell.state for ref in refs] == ["restarting"] * 2
    answers = [ref.ask(Note(n), block=False) for n, ref in enumerate(refs)]
    assert [await answer for answer in answers] == [0, 1]


async def test_a_supervisor_that_ends_while_a_child_is_in_back_off_leaves_nothing(
    system: ActorSystem, book: Book
) -> None:
    ref = system.spawn(Supervisor, specs(book, "a", backoff=Backoff(immediate=0, first_s=60, max_s=60)), name="s")
    child = system.get("s/a")
    child.tell(Fail())
    while child.cell.state == "running":
        await anyio.lowlevel.checkpoint()
    waits = child.ask(Note(1), block=False)
    assert await system.stop(ref)
    with pytest.raises(Dead):
        await waits
    assert len(system.timers) == 0
    assert child.cell.books() == Books(2, 0, 0, {}, {"crashed": 1, "dead": 1}, 0)


@pytest.mark.parametrize("on_poison", ["drop", "retry_once"])
async def test_a_message_that_crashes_its_receiver_is_dropped_at_once_or_after_a_second_try(
    system: ActorSystem, book: Book, on_poison: Poison
) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,), on_poison=on_poison)], name="s")
    ref = system.get("s/it")
    asked, tries = ref.ask(Fail(), block=False), 1 + (on_poison == "retry_once")
    ref.tell(Note(1))
    with pytest.raises(HandlerFailed):
        await asked
    assert await ref.call(Read()) == [1]
    assert ref.cell.restarts == tries
    assert ref.cell.books() == Books(3, 2, 0, {}, {"crashed": 1}, 0)


async def test_a_message_that_is_tried_again_keeps_its_place(system: ActorSystem, book: Book) -> None:
    class Sickly(Recorder):
        def on_note(self, message: Note) -> int:
            if message.n == 2 and self.cell.generation == 1:
                raise ValueError("only the first time")
            return super().on_note(message)

    system.spawn(Supervisor, [ChildSpec("it", Sickly, (book,), on_poison="retry_once")], name="s")
    for n in range(5):
        system.get("s/it").tell(Note(n))
    assert await system.get("s/it").call(Read()) == [0, 1, 2, 3, 4]
    assert system.dead_letters == 0


async def test_stop_child_ends_any_child_for_good_and_lets_it_drain(system: ActorSystem, book: Book) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,))], name="s")
    ref = system.get("s/it")
    ref.tell(Note(1))
    assert await of(system, "s").stop_child("it")
    assert book.notes == [1, "stopped s/it"]
    assert not ref.is_alive()
    with pytest.raises(Unknown):
        of(system, "s").stop_child("it")


async def test_children_come_and_go_by_a_proxy_too(system: ActorSystem, book: Book) -> None:
    proxy: Any = system.spawn(Supervisor, name="s").proxy()
    child = await proxy.start_child(ChildSpec("a", Ordered, (book,)))
    assert await child.call(Note(1)) == 1
    assert await (await proxy.stop_child("a"))
    assert await proxy.children() == []


# -- back-off ------------------------------------------------------------------------------------


@given(
    st.integers(0, 4), st.floats(0.001, 10), st.floats(1, 4), st.floats(0.001, 100), st.floats(0, 0.9), st.floats(0, 1)
)
def test_delays_grow_to_their_limit_within_the_jitter(
    immediate: int, first_s: float, factor: float, max_s: float, jitter: float, drawn: float
) -> None:
    backoff = Backoff(immediate=immediate, first_s=first_s, factor=factor, max_s=max_s, jitter=jitter)
    delays = [backoff.delay_s(n, "error", lambda: drawn) for n in range(1, 2000)]
    spread = 1 + jitter * (2 * drawn - 1)
    assert delays[:immediate] == [0.0] * immediate
    assert delays[immediate] == pytest.approx(min(first_s, max_s) * spread)
    assert all(later >= earlier for earlier, later in itertools.pairwise(delays))
    assert delays[-1] <= max_s * spread * 1.0001
    assert backoff.delay_s(1, "start failed", lambda: drawn) == pytest.approx(min(first_s, max_s) * spread)


async def test_the_same_reference_works_after_a_thousand_crashes(system: ActorSystem, book: Book) -> None:
    backoff = Backoff(immediate=1_000_000)
    system.spawn(Supervisor, [ChildSpec("it", Recorder, (book,), backoff=backoff)], intensity=1_000_000, name="s")
    ref = system.get("s/it")
    for n in range(1000):
        ref.tell(Fail())
        assert await ref.call(Note(n)) == n
    assert system.get("s/it") is ref
    assert ref.cell.generation == 1001
    assert ref.cell.books() == Books(2000, 1000, 0, {}, {"crashed": 1000}, 0)
    assert len(system.timers) == 0


@pytest.mark.parametrize(
    "wrong", [{"restart": "sometimes"}, {"on_poison": "x"}, {"backoff": 3}, {"strategy": "all_for_one"}]
)
def test_a_word_that_is_none_is_refused_where_it_stands(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match=next(iter(wrong))):
        Supervisor([], **wrong) if "strategy" in wrong else ChildSpec("a", Ordered, **wrong)


# -- ends that meet --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_stop_that_is_on_its_way_concerns_the_incarnation_that_ends_otherwise_meanwhile(
    system: ActorSystem, book: Book, end: str
) -> None:
    class Hasty(Recorder):
        def on_through(self, message: Through) -> Any:
            refs = (system.get("s/b"), self.ref)
            stopped.extend(system.kill(ref) if end == "kill" else system.stop(ref) for ref in refs)
            raise ValueError("and crashes")

    stopped: list[Any] = []
    children = [ChildSpec("a", Hasty, (book,)), ChildSpec("b", Recorder, (Book(),))]
    system.spawn(Supervisor, children, strategy="one_for_all", name="s")
    a, b = of(system, "s").children()
    a.tell(Through("it"))
    await settle(system)
    assert (a.cell.generation, b.cell.generation) == (2, 2)
    assert [await done for done in stopped] == [True, True]


async def test_a_supervisor_that_cannot_end_its_own_handlers_ends_at_its_deadline(
    system: ActorSystem, book: Book
) -> None:
    class Slow(Supervisor):
        groups: ClassVar[Mapping[str, GroupSpec]] = {"jobs": GroupSpec()}

        async def on_hold(self, message: Hold) -> None:
            await anyio.sleep_forever()

        def on_note(self, message: Note) -> None:
            self.submit("jobs", "hang")

        async def hang(self) -> None:
            await anyio.sleep_forever()

    for message in (Hold(1), Note(1)):
        ref = system.spawn(Slow, specs(book, "a"), name="s")
        ref.tell(message)
        await anyio.wait_all_tasks_blocked()
        assert await system.stop(ref, 0.01)
    assert book.notes == ["+s/a", "-s/a"] * 2
    assert len(system.registry) == 0


async def test_a_supervisor_that_ends_takes_no_child_any_more(system: ActorSystem, book: Book) -> None:
    class Orphaning(Ordered):
        def on_stop(self) -> None:
            with pytest.raises(StartFailed):
                of(system, "s").start_child(ChildSpec("late", Ordered, (self.book,)))
            self.book.notes.append("refused")

    ref = system.spawn(Supervisor, [ChildSpec("a", Orphaning, (book,))], name="s")
    await system.kill(ref)
    assert book.notes == ["+s/a", "refused"]
    assert len(system.registry) == 0


async def test_supervisors_without_a_name_may_have_children_of_one_name(system: ActorSystem, book: Book) -> None:
    first, second = system.spawn(Supervisor, specs(book, "a")), system.spawn(Supervisor, specs(book, "a"))
    names = {actor.child("a").name for ref in (first, second) if isinstance(actor := ref.cell.actor, Supervisor)}
    assert len(names) == 2
    assert await system.get(min(names)).call(Note(1)) == 1
