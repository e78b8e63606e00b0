from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest

from rtvi_actors.errors import Dead, Fenced, HandlerFailed, Rejected
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import FIREWALL, Book, Hold, Note, Plain, Read, Recorder, Run, Through

pytestmark = pytest.mark.anyio


def begun(book: Book) -> list[int]:
    return [note[1] for note in book.notes if isinstance(note, tuple) and note[0] == "begun"]


async def test_a_serial_group_runs_one_job_after_the_other(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    for n in range(3):
        ref.tell(Run("jobs", "hold", n))
    await anyio.wait_all_tasks_blocked()
    assert begun(book) == [0]
    book.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert begun(book) == [0, 1, 2]


async def test_a_pool_runs_as_many_as_it_may_at_once(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    for n in range(5):
        ref.tell(Run("pool", "hold", n))
    await anyio.wait_all_tasks_blocked()
    assert sorted(begun(book)) == [0, 1, 2]
    book.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert sorted(begun(book)) == [0, 1, 2, 3, 4]
    assert ref.cell.groups["pool"].idle


async def test_a_pool_that_has_idled_runs_several_at_once_again(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    book.gate.set()
    for n in range(3):
        ref.tell(Run("pool", "hold", n))
    await anyio.wait_all_tasks_blocked()
    book._gate = None
    for n in range(3, 6):
        ref.tell(Run("pool", "hold", n))
    await anyio.wait_all_tasks_blocked()
    assert ref.cell.groups["pool"].running == 3
    book.gate.set()


async def test_messages_are_handled_while_a_job_runs(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    ref.tell(Run("jobs", "hold"))
    await book.begun.wait()
    assert await ref.call(Note(5)) == 5
    book.gate.set()


async def test_one_job_too_many_is_rejected_in_the_submitter(system: ActorSystem, book: Book) -> None:
    refused: list[Any] = []

    def submit(actor: Recorder) -> None:
        try:
            actor.submit("pool", "hold", 9)
        except Rejected as error:
            refused.append(error.message)

    book.acts["submit"] = submit
    ref = system.spawn(Recorder, book)
    for n in range(7):  # three run, four wait
        ref.tell(Run("pool", "hold", n))
        await anyio.wait_all_tasks_blocked()
    await ref.call(Through("submit"))
    assert refused == ["hold"]
    book.gate.set()


async def test_a_cancelled_job_ends_at_its_await_and_the_next_one_runs(system: ActorSystem, book: Book) -> None:
    book.acts["cancel"] = lambda actor: actor.cancel_group("jobs")
    ref = system.spawn(Recorder, book)
    ref.tell(Run("jobs", "hold", 1))
    ref.tell(Run("jobs", "hold", 2))
    await book.begun.wait()
    assert await ref.call(Through("cancel")) == 1
    await anyio.wait_all_tasks_blocked()
    assert begun(book) == [1, 2]
    assert ("hold", None) in book.notes
    assert await ref.call(Through("cancel")) == 1
    book.gate.set()


async def test_a_job_that_cancels_itself_too_late_does_not_harm_the_next(system: ActorSystem, book: Book) -> None:
    class Actor(Recorder):
        async def cancel_myself(self, n: int) -> None:
            self.cancel_group("jobs")

    ref = system.spawn(Actor, book)
    for n in range(3):
        ref.tell(Run("jobs", "cancel_myself"))
        ref.tell(Run("jobs", "hold", n))
    book.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert begun(book) == [0, 1, 2]


@pytest.mark.parametrize("kind", [kind for kind in FIREWALL if kind != "Crash"])
async def test_a_failing_job_ends_only_itself_and_the_actor_is_told(system: ActorSystem, book: Book, kind: str) -> None:
    class Actor(Recorder):
        async def fail_as_told(self, n: int) -> None:
            await anyio.lowlevel.checkpoint()
            self.book.check("job")

    book.raising["job"] = kind
    ref = system.spawn(Actor, book)
    ref.tell(Note(1))
    ref.tell(Run("jobs", "fail_as_told"))
    ref.tell(Run("jobs", "hold", 7))
    book.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert ("fail_as_told", kind) in book.notes
    assert begun(book) == [7]
    assert ref.cell.generation == 1
    assert ref.cell.failed == 1


@pytest.mark.parametrize("kind", FIREWALL)
async def test_an_on_error_that_raises_harms_nobody(system: ActorSystem, book: Book, kind: str) -> None:
    book.raising["on_error"] = kind
    ref = system.spawn(Recorder, book)
    ref.tell(Run("jobs", "fail"))
    ref.tell(Run("jobs", "hold", 7))
    book.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert begun(book) == [7]
    assert await ref.call(Note(1)) == 1
    assert ref.cell.failed == 2


async def test_a_job_that_refuses_cancellation_is_given_up_fenced_counted_and_replaced(
    system: ActorSystem, book: Book
) -> None:
    book.acts["cancel"] = lambda actor: actor.cancel_group("jobs")
    followed = anyio.Event()

    class Actor(Recorder):
        async def follow(self, n: int) -> None:
            followed.set()

    ref = system.spawn(Actor, book)
    ref.tell(Run("jobs", "refuse"))
    ref.tell(Run("jobs", "follow"))
    await book.begun.wait()
    assert await ref.call(Through("cancel")) == 1
    await followed.wait()
    assert ref.cell.abandoned == 1
    assert book.notes.count(("refuse", None)) == 1
    book.gate.set()
    while "refuser ended" not in book.notes:
        await anyio.lowlevel.checkpoint()
    assert book.notes.count("fenced") == 2
    assert -1 not in await ref.call(Read())


async def test_a_job_that_was_given_up_spins_no_more(system: ActorSystem, book: Book) -> None:
    book.acts["cancel"] = lambda actor: actor.cancel_group("jobs")
    ref = system.spawn(Recorder, book)
    ref.tell(Run("jobs", "refuse"))
    await book.begun.wait()
    await ref.call(Through("cancel"))
    while ref.cell.abandoned == 0:
        await anyio.lowlevel.checkpoint()
    assert await share_of_a_core() < 0.5
    book.gate.set()


async def test_a_system_closes_though_a_handler_refused_to_be_cancelled(book: Book) -> None:
    book.acts["cancel"] = lambda actor: actor.cancel_group("jobs")
    async with ActorSystem() as system:
        ref = system.spawn(Recorder, book)
        ref.tell(Run("jobs", "refuse_until_given_up"))
        await book.begun.wait()
        await ref.call(Through("cancel"))
        while ref.cell.abandoned == 0:
            await anyio.lowlevel.checkpoint()


async def test_jobs_that_wait_are_done_before_a_stop(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book, name="it")
    for n in range(3):
        ref.tell(Run("jobs", "hold", n))
    stopped = ref.stop(block=False)
    await book.begun.wait()
    assert ref.is_alive()
    book.gate.set()
    assert await stopped
    assert [note for note in book.notes if note == "stopped it" or note[0] == "done"] == [
        ("done", 0),
        ("done", 1),
        ("done", 2),
        "stopped it",
    ]


async def test_a_stop_waits_for_what_a_last_job_hands_to_another_group(system: ActorSystem, book: Book) -> None:
    class Actor(Recorder):
        async def pass_on(self, n: int) -> None:
            await self.book.gate.wait()
            self.submit("pool", "hold", n)

    ref = system.spawn(Actor, book, name="it")
    ref.tell(Run("jobs", "pass_on", 3))
    stopped = ref.stop(block=False)
    await anyio.wait_all_tasks_blocked()
    book.gate.set()
    assert await stopped
    assert book.notes == [("begun", 3), ("done", 3), "stopped it"]


async def test_a_dead_actor_takes_no_job(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    actor = ref.cell.actor
    await system.kill(ref)
    assert actor is not None
    with pytest.raises(Dead):
        actor.submit("jobs", "hold", 1)


async def test_a_kill_cancels_what_runs_and_drops_what_waits(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    ref.tell(Run("jobs", "hold", 1))
    ref.tell(Run("jobs", "hold", 2))
    await book.begun.wait()
    assert await system.kill(ref)
    book.gate.set()
    await anyio.wait_all_tasks_blocked()
    assert begun(book) == [1]
    assert not any(note[0] == "done" for note in book.notes)


async def test_an_asynchronous_handler_holds_up_the_mail_behind_it(system: ActorSystem, book: Book) -> None:
    ref = system.spawn(Recorder, book)
    held = ref.ask(Hold(1), block=False)
    ref.tell(Note(2))
    await anyio.wait_all_tasks_blocked()
    assert book.notes == [("begun", 1)]
    book.gate.set()
    assert await held == 1
    assert (await ref.call(Read()))[-1] == 2


async def test_after_a_thousand_cancelled_handlers_the_loop_is_idle(system: ActorSystem, book: Book) -> None:
    """Half of them refuse, and are given up."""

    class Many(Recorder):
        groups: ClassVar[Mapping[str, GroupSpec]] = {"many": GroupSpec(concurrency=1000, grace_s=0.01)}

    book.acts["cancel"] = lambda actor: actor.cancel_group("many")
    ref = system.spawn(Many, book)
    for n in range(1000):
        ref.tell(Run("many", "refuse" if n % 2 else "hold"))
    while ref.cell.groups["many"].running < 1000:
        await anyio.lowlevel.checkpoint()
    assert await ref.call(Through("cancel")) == 1000
    while ref.cell.abandoned < 500:
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()
    assert await share_of_a_core() < 0.5
    assert ref.cell.groups["many"].idle
    book.gate.set()
    while book.notes.count("refuser ended") < 500:
        await anyio.lowlevel.checkpoint()


async def share_of_a_core(window_s: float = 0.1) -> float:
    """What this process burns while nothing is asked of it: a spin burns 1, what is idle next to nothing."""
    before_s = time.process_time()
    await anyio.sleep(window_s)
    return (time.process_time() - before_s) / window_s


# -- between two incarnations ----------------------------------------------------------------------


class Careful(Recorder):
    """Submits another job whenever one was lost; writes down which instance ran it."""

    def on_error(self, method: str, arguments: tuple[Any, ...], error: BaseException | None) -> None:
        if method == "hold":
            self.submit("jobs", "tell")

    async def tell(self) -> None:
        self.book.notes.append((self.cell.generation, self is self.cell.actor))


async def test_what_is_submitted_while_the_actor_is_down_runs_on_the_next_instance(
    system: ActorSystem, book: Book
) -> None:
    system.spawn(Supervisor, [ChildSpec("it", Careful, (book,))], name="s")
    ref = system.get("s/it")
    ref.tell(Run("jobs", "hold"))
    await book.begun.wait()
    system.crash(ref)
    while len(book.notes) < 2:
        await anyio.lowlevel.checkpoint()
    assert book.notes == [("begun", 0), (2, True)]


async def test_a_call_that_waits_with_the_old_instances_coroutine_is_lost_with_it(
    system: ActorSystem, book: Book
) -> None:
    class Queued(Plain):
        async_group: ClassVar[str] = "own"
        groups: ClassVar[Mapping[str, GroupSpec]] = {"own": GroupSpec()}

        async def hang(self) -> None:
            book.begun.set()
            await anyio.sleep_forever()

    system.spawn(Supervisor, [ChildSpec("it", Queued)], name="s")
    ref = system.get("s/it")
    proxy: Any = ref.proxy()
    calls = [proxy.hang(), proxy.double_later(2)]
    await book.begun.wait()
    await anyio.wait_all_tasks_blocked()
    assert ref.cell.groups["own"].queue
    system.crash(ref)
    for call in calls:
        with pytest.raises(HandlerFailed, match="restarted"):
            await call
    assert await proxy.double_later(3) == 6
    assert ref.cell.books().holds


async def test_what_one_handler_submits_beyond_the_bound_is_lost_and_told(system: ActorSystem, book: Book) -> None:
    def submit_many(actor: Any) -> None:
        for n in range(20):
            actor.submit("pool", "hold", n)

    book.acts["many"] = submit_many
    ref = system.spawn(Recorder, book)
    await ref.call(Through("many"))
    await anyio.wait_all_tasks_blocked()
    assert len(ref.cell.groups["pool"].queue) <= 4
    lost = [note for note in book.notes if note == ("hold", None)]
    assert len(lost) >= 20 - 4 - 3 - 3
    book.gate.set()


async def test_a_fenced_task_cannot_cancel_the_next_incarnations_jobs(system: ActorSystem, book: Book) -> None:
    class Old(Recorder):
        async def outlive(self, n: int) -> None:
            self.book.begun.set()
            while not self.book.gate.is_set():
                try:
                    await self.book.gate.wait()
                except anyio.get_cancelled_exc_class():
                    continue
            with pytest.raises(Fenced):
                self.cancel_group("pool")
            self.book.notes.append("fenced")

    system.spawn(Supervisor, [ChildSpec("it", Old, (book,))], name="s")
    ref = system.get("s/it")
    ref.tell(Run("jobs", "outlive"))
    await book.begun.wait()
    system.crash(ref)
    await ref.call(Read())
    book.gate.set()
    while "fenced" not in book.notes:
        await anyio.lowlevel.checkpoint()
