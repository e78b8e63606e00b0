"""The deterministic simulation: the same actors, on an event loop whose order, time and faults come from a seed.

Every decision (which task goes on, whose mail is next, what is lost, late, twice there, or crashes its reader) is one
call of a `Chooser`. Seeded, it decides by chance and writes down what it decided; replaying, it reads that. As nothing
else can influence a run, the same seed or schedule gives the same trace, byte for byte, in any process.

What could influence it otherwise, and what is done about it:

- time: the loop's clock is a number that jumps to the next deadline when nobody has anything to do;
- chance: the runtime's own (`LOCAL.sources`) and that of the module `random` are seeded;
- sets of tasks, which are ordered by address: what one callback makes ready is put into the order of creation;
- the garbage collector, on which weak references depend: it is off during a run;
- other threads, sockets, processes: they raise `RealIo`, wherever they are started.

What remains the user's: the time of day (`time.time`), ``uuid4``, and the order of sets of one's own.
"""

from __future__ import annotations

import gc
import operator
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import anyio
import msgspec

from rtvi_actors.errors import Crash, WouldBlock
from rtvi_actors.runtime.actor import set_host
from rtvi_actors.runtime.backend import on_event_loop
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.choices import CALM, Chooser, Edges, Faults, Schedule, Trace
from rtvi_actors.runtime.context import LOCAL, Sources
from rtvi_actors.runtime.dispatcher import BATCH, BUDGET, Dispatcher
from rtvi_actors.runtime.groups import Job
from rtvi_actors.runtime.mailbox import Letter, Mailbox, encode
from rtvi_actors.runtime.post import STORY, TELLING, Post, shown
from rtvi_actors.runtime.signals import DeadLetter
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.runtime.threads import ThreadCell
from rtvi_actors.runtime.virtual import MAX_TURNS, SimulationLoop, real_io, sealed

__all__ = ["EPOCH_S", "Plan", "Run", "SimulatedSystem", "run_plan"]

BATCHES: Final = (BATCH, 1, 2, 5)
"""How many letters an actor may handle in one turn."""
EPOCH_S: Final = 1_700_000_000.0
"""The time of day when a run begins."""


class _SimulatedDispatcher(Dispatcher):
    """Whose mail is next, how much of it, and when: choices."""

    def __init__(self, system: SimulatedSystem, chooser: Chooser, post: Post) -> None:
        super().__init__(system.backend)
        self._system = system
        self._chooser = chooser
        self._post = post

    def bridge(self, deliver: Callable[[Any], None], item: Any) -> None:
        self._post.carry(deliver, item)

    def cross(self) -> None:
        """The system closes: what is on its way finds the dead, and says so."""
        self._post.land_all_of()

    def _run(self) -> None:
        choose, queue, budget = self._chooser.choose, self._queue, BUDGET
        late = choose(3) == 1
        while queue and not late and budget > 0:
            place = choose(len(queue))
            cell = self._post.turn = queue[place]
            if place:
                self._system.note_order(cell.name, f"before {queue[0].name}")
            del queue[place]
            batch = BATCHES[choose(len(BATCHES))]
            if batch != BATCH:
                self._system.note_order(cell.name, f"takes {batch} at a time")
            try:
                budget -= cell.run(batch) or 1
            except BaseException as error:
                budget -= self._leaked(cell, error)
            self._post.turn = None
            self._system.note_states()
            late = choose(3) == 1
        if queue and late:
            self._system.note_order(queue[0].name, "waits a turn")
        self._plan_next()


class SimulatedSystem(ActorSystem):
    """An actor system on a `SimulationLoop`. Everything that a program does with a system, it can do with this one."""

    instrument: Callable[[Cell, Callable[[Any], Any]], Callable[[Any], Any]] | None

    def __init__(self, loop: SimulationLoop, chooser: Chooser, faults: Faults, edges: Edges) -> None:
        super().__init__(watchdog_s=None)
        self.trace = Trace(loop.time)
        self._loop = loop
        self._chooser = chooser
        self._cells: dict[Mailbox, Cell] = {}
        """Of all actors that have started, the dead included."""
        self.post = Post(self, self._cells, self.trace, chooser, faults, edges)
        self._states: dict[Cell, _State] = {}
        loop.on_turn = self.note_states
        loop.on_stray = lambda name, other: self.note_order(name, f"before {other}")
        loop.describe = self._describe_waiting

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.mail_thread_id = -1  # no thread's: every letter goes by the bridge
        self.instrument = self._wrapped
        return self

    def _make_dispatcher(self) -> Dispatcher:
        return _SimulatedDispatcher(self, self._chooser, self.post)

    # -- Host: what cells ask ----------------------------------------------------------------

    def adopt(self, cell: Cell) -> None:
        if isinstance(cell, ThreadCell):
            raise real_io(f"thread for {cell.name}, a ThreadingActor")
        super().adopt(cell)
        self._cells[cell.mailbox] = cell
        self._states[cell] = _state_of(cell)
        self.trace.add("actor", cell.name, cell.actor_class.__name__)

    def forget(self, cell: Cell) -> None:
        super().forget(cell)
        if self._states.pop(cell, None) is not None:
            self.trace.add("state", cell.name, "dead")
            self.post.land_all_of(cell.name)

    def dead_letter(self, letter: DeadLetter) -> None:
        cell = next((cell for cell in self._cells.values() if cell.name == letter.receiver), None)
        lost = Letter(letter.body, coded=isinstance(letter.body, bytes))
        self.trace.add("dead", letter.receiver, letter.reason, shown(cell, lost))
        super().dead_letter(letter)

    def _wrapped(self, cell: Cell, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def handle(message: Any) -> Any:
            self._note_state(cell)
            self.trace.add("handle", cell.name, type(message).__name__)
            try:
                result = handler(message)
            except BaseException as error:
                self.trace.add("raise", cell.name, type(error).__name__)
                raise
            doom = (cell, encode(message))
            if doom in self.post.doomed:
                self.post.doomed.remove(doom)
                self.trace.add("crash", cell.name, "after", type(message).__name__)
                raise Crash("injected by the simulation, after the handler")
            return result

        return handle

    # -- for the test kit ----------------------------------------------------------------------

    def note_order(self, name: str, how: str) -> None:
        """Write down that a turn was not the one that would have been."""
        self.trace.add("order", name, how)

    def note_states(self) -> None:
        """Write down which actors have changed state."""
        for cell in list(self._states):
            self._note_state(cell)

    def _note_state(self, cell: Cell) -> None:
        now = _state_of(cell)
        before = self._states.get(cell)
        if before is not None and not now.is_same(before):
            self._states[cell] = now
            self.trace.add("state", cell.name, now.text())

    def _describe_waiting(self) -> list[str]:
        return [
            f"{cell.name} ({cell.state}) has {len(cell.mailbox)} messages waiting"
            for cell in self._states
            if len(cell.mailbox)
        ]

    def abandon(self) -> None:
        """Of a run that refused to end nothing may be left: no host, no actor, no handler of signals."""
        if not hasattr(self, "backend"):
            return
        if not self._closed:
            set_host(self, self.backend.thread_id, False)
        for cell in self.registry.cells():
            self.registry.remove(cell)
        if self._restore_sigint is not None:
            self._restore_sigint()

    async def quiet(self) -> None:
        """Wait until nothing is ready any more. No time passes: letters may be on their way, and timers set."""
        await self._loop.quiet()

    async def settle(self) -> None:
        """Wait until nothing is ready any more and no letter is on its way. Timers may remain."""
        await self._loop.quiet()
        while self.post.in_flight:
            await anyio.sleep(max(0.0, self.post.next_due_s - self._loop.time()))
            await self._loop.quiet()


class _State(msgspec.Struct, frozen=True, eq=False):
    """What the trace follows of an actor."""

    state: str
    incarnation: int
    jobs: tuple[Job, ...]
    """The asynchronous handlers that run."""

    def is_same(self, other: _State) -> bool:
        """Jobs are told apart by identity: two in a row may be equal."""
        mine, others = (self.state, self.incarnation, len(self.jobs)), (other.state, other.incarnation, len(other.jobs))
        return mine == others and all(map(operator.is_, self.jobs, other.jobs))

    def text(self) -> str:
        return ", ".join((self.state, f"incarnation {self.incarnation}", *map(_job_text, self.jobs)))


def _job_text(job: Job) -> str:
    return f"in {job.method}({', '.join(type(argument).__name__ for argument in job.arguments)})"


def _state_of(cell: Cell) -> _State:
    jobs = (worker.job for group in cell.groups.values() for worker in group.workers)
    return _State(cell.state, cell.generation, tuple(job for job in jobs if job is not None))


# -- one run ---------------------------------------------------------------------------------


class Plan(msgspec.Struct, frozen=True):
    """What is to be run, but for its decisions."""

    story: Callable[[SimulatedSystem], Awaitable[None]]
    seed: int
    faults: Faults = CALM
    edges: Edges = {}
    max_turns: int = MAX_TURNS
    file: str = ""
    """Where the story is written: two failures that came through one line of it are the same."""


class Run(msgspec.Struct, frozen=True):
    """What came of it."""

    seed: int
    trace: tuple[str, ...]
    schedule: dict[int, int]
    """The decisions that strayed from the calm ones: with them the run can be repeated."""
    decisions: int
    turns: int
    error: BaseException | None
    """What the story raised, or `Stalled`."""
    edges: frozenset[tuple[str, str]] = frozenset()
    """Which of the plan's edges a message took."""


class _SeededSources(Sources):
    """Chance and time of day of one run."""

    def __init__(self, seed: int, now: Callable[[], float]) -> None:
        self.random = random.Random(f"{seed}/sources")  # noqa: S311 - repeatable is what it is to be
        self._now = now

    def uuid(self) -> uuid.UUID:  # type: ignore[override]
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def wall_time_s(self) -> float:  # type: ignore[override]
        return EPOCH_S + self._now()


@contextmanager
def _determined(seed: int, now: Callable[[], float]) -> Iterator[None]:
    """Seed what is drawn from; keep the garbage collector, on which weak references depend, from running in between."""
    sources, state, collects = LOCAL.sources, random.getstate(), gc.isenabled()
    LOCAL.sources = _SeededSources(seed, now)
    random.seed(f"{seed}/random")
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        random.setstate(state)
        LOCAL.sources = sources


def run_plan(plan: Plan, schedule: Schedule | None = None) -> Run:
    """Run a story in a system and an event loop of its own: with the decisions of `schedule`, or of the plan's seed.

    Returns what came of it, an `Exception` of the story's included; Ctrl-C and its like are raised. Raises `WouldBlock`
    on a thread that runs an event loop.
    """
    if on_event_loop():
        raise WouldBlock("this thread runs an event loop: run a simulation from a plain function")
    __tracebackhide__ = True
    chooser = Chooser(plan.seed, schedule)
    loop = SimulationLoop(chooser, max_turns=plan.max_turns)
    system = SimulatedSystem(loop, chooser, plan.faults, plan.edges)

    async def main() -> None:
        __tracebackhide__ = True
        async with system:
            TELLING.set(True)
            await plan.story(system)

    error: BaseException | None = None
    with _determined(plan.seed, loop.time), sealed(lambda what: system.trace.add("real i/o", what)):
        try:
            loop.main = loop.create_task(main(), name=STORY)
            loop.run_until_complete(loop.main)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as raised:
            error = raised
        finally:
            error = loop.stalled or error
            loop.clear()
            system.abandon()
    trace, edges = tuple(system.trace.lines), frozenset(system.post.taken)
    return Run(plan.seed, trace, chooser.strayed, chooser.made, loop.turns, error, edges)
