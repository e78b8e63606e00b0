"""The test kit: run any tree of actors under seeds, with faults, in virtual time; and probes that say what they expect.

pytest loads this file by its entry point and knows the fixture `simulate` from then on::

    def test_nobody_is_charged_twice(simulate):
        async def story(world):
            shop = world.spawn(Shop, name="shop")
            bank = world.probe(Charge)
            shop.tell(Order(bank.ref, 7))
            await bank.expect(Charge, where=lambda charge: charge.amount == 7)
            await bank.expect_nothing()

        simulate(story, faults=Faults(crash=0.05, delay=0.2))

The story runs once for every seed, 0 to 99 by default (``--rtvi-seeds``). One that fails is *shrunk*: decisions that
the failure does not need are taken back, one after the other. What is left is in the notes of the error, as a command
that replays just that, together with the end of the trace.

While it searches, the runtime's own log is silent; only the run that is reported writes there.

`faults` are for the messages between the actors under test. `edges` are for some of them, (sender, receiver) each, as
patterns of names; and they alone reach what the story sends (`STORY`), what the system's own tasks send (`HOST`; a
session's reader is one), and what a probe gets. A `Faults()` there spares an edge.

A story is a plain async function of anyio's: it sleeps, asks, starts tasks. A session runs in it, over a transport in
memory: ``open_session(bot, transport, system=world.system)``. What is real is not there and raises `RealIo`: threads
(`ThreadingActor` too: put a probe in its place), sockets, processes. Of what decides a run beside its seed only the
time of day, ``uuid4``, and the order of the user's own sets remain. A story that waits for what cannot happen any more
raises `Stalled`, which says who waits, and where.

Without the fixture: `run_simulation` for one seed, `try_simulation` to look at a run whatever came of it.
"""

from __future__ import annotations

import logging
import os
import shlex
import typing
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import msgspec
import pytest

from rtvi_actors.errors import RealIo, Stalled
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.choices import CALM, Edges, Faults, Schedule, Trace
from rtvi_actors.runtime.post import HOST, STORY
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.simulation import Plan, Run, SimulatedSystem, run_plan
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.runtime.virtual import MAX_TURNS

__all__ = [
    "CALM",
    "HOST",
    "STORY",
    "Edges",
    "Faults",
    "Probe",
    "RealIo",
    "Run",
    "Schedule",
    "Simulate",
    "Stalled",
    "Story",
    "World",
    "pytest_addoption",
    "run_simulation",
    "shrink",
    "simulate",
    "try_simulation",
]

M = TypeVar("M")

SEEDS: Final = 100
"""Seeds that a test is run under, where nobody says how many."""
SHRINK_RUNS: Final = 300
"""Runs that shrinking may take."""
TURNS_OF_A_RUN: Final = 2000
"""A run of more turns counts as several."""
SHOWN_LINES: Final = 40
"""Lines of the trace in the report."""
POLL_S: Final = 0.01
"""Between two looks at an actor's incarnation; virtual time costs nothing."""


# -- probes ------------------------------------------------------------------------------


class _ProbeActor(AnyioActor):
    """Hands what it gets to its probe."""

    def __init__(self, sink: Callable[[Any], None]) -> None:
        super().__init__(sink)
        self._sink = sink


class Probe:
    """A real actor that stands for one that the actors under test send to, and remembers what it got.

    In a simulation `World.probe` makes one; ``Probe(system, Paid, Refused)`` makes one in any system, on its loop's
    thread.
    """

    def __init__(self, system: ActorSystem, *types: type[msgspec.Struct], name: str = "") -> None:
        self.unread: list[Any] = []
        """What came and was not yet expected."""
        self._came = anyio.Event()
        self.ref: ActorRef[Any] = system.spawn(_probe_class(types), self._take_in, name=name)

    def _take_in(self, message: Any) -> None:
        self.unread.append(message)
        came, self._came = self._came, anyio.Event()
        came.set()

    async def expect(self, kind: type[M], *, where: Callable[[M], bool] | None = None, within_s: float = 5.0) -> M:
        """The first unread message of this type for which `where` holds, or else the next that comes.

        Other messages stay unread. Raises `AssertionError` where none comes in time.
        """
        with anyio.move_on_after(within_s):
            while True:
                for index, message in enumerate(self.unread):
                    if isinstance(message, kind) and (where is None or where(message)):
                        del self.unread[index]
                        return message
                await self._came.wait()
        raise AssertionError(
            f"{self.ref.name} got no such {kind.__name__} within {within_s:g} s; unread: {self.unread}"
        )

    async def expect_nothing(self, *, within_s: float = 1.0) -> None:
        """Nothing is unread, and nothing comes. Raises `AssertionError` otherwise."""
        if not self.unread:
            with anyio.move_on_after(within_s):
                await self._came.wait()
        if self.unread:
            raise AssertionError(f"{self.ref.name} expected nothing and got {self.unread}")


def _probe_class(types: tuple[type[msgspec.Struct], ...]) -> type[_ProbeActor]:
    """An actor class that declares just these messages. Raises `DeclarationError` where they cannot be told apart."""

    def on_message(self: _ProbeActor, message: Any) -> None:
        self._sink(message)

    on_message.__annotations__ = {"message": typing.Union[types]}  # noqa: UP007 - built from a tuple
    return type("Probe", (_ProbeActor,), {"on_message": on_message})


# -- the world of a story --------------------------------------------------------------------


class World:
    """What a story has: a system under simulation, its clock, probes."""

    def __init__(self, system: SimulatedSystem) -> None:
        self.system = system
        """An `ActorSystem` as any other: ``open_session(bot, transport, system=world.system)`` works."""
        self._probes = 0
        self._generations: dict[ActorRef[Any], int] = {}

    @property
    def now_s(self) -> float:
        """Virtual seconds since the story began."""
        return self.system.backend.now()

    @property
    def trace(self) -> tuple[str, ...]:
        """What has happened until now."""
        return tuple(self.system.trace.lines)

    def note(self, text: str) -> None:
        """Write a line of one's own into the trace."""
        self.system.trace.add("note", text)

    def spawn(self, actor: type[AnyioActor] | AnyioActor, *args: Any, name: str = "", **kwargs: Any) -> ActorRef[Any]:
        """As `ActorSystem.spawn`."""
        return self.system.spawn(actor, *args, name=name, **kwargs)

    def probe(self, *types: type[msgspec.Struct], name: str = "") -> Probe:
        """A probe for these messages. Faults spare what is sent to it, unless `edges` names it."""
        self._probes += 1
        name = name or f"probe-{self._probes}"
        self.system.post.trusted.add(name)
        return Probe(self.system, *types, name=name)

    async def settle(self) -> None:
        """Wait until nothing moves any more and no letter is on its way. Timers that are set do not count."""
        await self.system.settle()

    async def advance(self, seconds: float) -> None:
        """Let virtual time pass, with all that falls due in it. Letters that are due later stay on their way."""
        await anyio.sleep(seconds)
        await self.system.quiet()

    def calm(self) -> None:
        """No faults from now on: what is left must find its way back to order."""
        self.system.post.calm = True

    async def expect_restart(self, ref: ActorRef[Any], *, within_s: float = 5.0) -> None:
        """A new incarnation runs, or one has since this was last expected. Raises `AssertionError` otherwise."""
        seen = self._generations.get(ref, 1)
        with anyio.move_on_after(within_s):
            while ref.cell.generation <= seen or ref.cell.state != "running":  # noqa: ASYNC110 - no event tells of it
                await anyio.sleep(POLL_S)
        self._generations[ref] = ref.cell.generation
        if ref.cell.generation <= seen or ref.cell.state != "running":
            raise AssertionError(f"{ref.name} did not restart within {within_s:g} s: it is {ref.cell.state}")


Story: TypeAlias = Callable[[World], Awaitable[None]]


# -- running and shrinking ----------------------------------------------------------------------


def try_simulation(
    story: Story,
    *,
    seed: int = 0,
    faults: Faults = CALM,
    edges: Edges | None = None,
    schedule: Schedule | None = None,
    max_turns: int = MAX_TURNS,
) -> Run:
    """Run a story once and return what came of it; what it raised is in `Run.error`.

    `faults` are for the messages between the actors under test; `edges` comes first, and reaches every message.
    """
    with _silent():
        return run_plan(_plan(story, seed, faults, edges or {}, max_turns), schedule)


def run_simulation(
    story: Story,
    *,
    seed: int = 0,
    faults: Faults = CALM,
    edges: Edges | None = None,
    schedule: Schedule | None = None,
    max_turns: int = MAX_TURNS,
) -> Run:
    """As `try_simulation`, but raises what the story raised, with the end of the trace in its notes; and the runtime's
    log is not silent."""
    __tracebackhide__ = True
    run = run_plan(_plan(story, seed, faults, edges or {}, max_turns), schedule)
    _raise(run)
    return run


def _plan(story: Story, seed: int, faults: Faults, edges: Edges, max_turns: int) -> Plan:
    async def tell(system: SimulatedSystem) -> None:
        __tracebackhide__ = True
        told: object = story(World(system))
        if not isinstance(told, Awaitable):
            raise TypeError(f"a story is an async function, which {story!r} is not")
        await told

    return Plan(tell, seed, faults, edges, max_turns, _file_of(story))


def _file_of(story: Story) -> str:
    code = getattr(getattr(story, "func", story), "__code__", None)
    return code.co_filename if code is not None else ""


def shrink(plan: Plan, failed: Run, runs: int = SHRINK_RUNS) -> Run:
    """A run that fails in the same way with as few decisions off the calm path as can be found in so many runs.

    Delta debugging: take back all decisions, then ever smaller chunks of them, the last ones first, as long as the
    failure stays.
    """
    return _Shrinker(plan, failed, runs).shrink()


class _Shrinker:
    def __init__(self, plan: Plan, failed: Run, runs: int) -> None:
        self._plan = plan
        self._left = runs
        self._failure = _failure_of(plan, failed)
        self.best = failed

    def shrink(self) -> Run:
        size = len(self.best.schedule)
        while size and self._left > 0:
            progress = self._drop_chunks(size)
            if size > 1:
                size //= 2
            elif not progress:
                break
        for number in list(self.best.schedule):
            if self.best.schedule.get(number, 0) > 1:
                self._try({**self.best.schedule, number: 1})
        return self.best

    def _drop_chunks(self, size: int) -> bool:
        """Whether any could be taken back."""
        progress = False
        end = len(self.best.schedule)
        while end > 0:
            numbers = sorted(self.best.schedule)
            dropped = set(numbers[max(0, end - size) : end])
            if self._try({number: self.best.schedule[number] for number in numbers if number not in dropped}):
                progress = True
            end = min(end - size, len(self.best.schedule))
        return progress

    def _try(self, schedule: Schedule) -> bool:
        if self._left <= 0:
            return False
        run = run_plan(self._plan, schedule)
        self._left -= 1 + run.turns // TURNS_OF_A_RUN
        if _failure_of(self._plan, run) != self._failure:
            return False
        self.best = run
        return True


def _failure_of(plan: Plan, run: Run) -> object:
    """What makes two failures the same: the kind of error, and the line of the story's file that it came through."""
    error = run.error
    if error is None:
        return None
    kinds = _kinds_of(error)
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == plan.file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return kinds, line


def _kinds_of(error: BaseException) -> object:
    if isinstance(error, BaseExceptionGroup):
        return type(error), tuple(_kinds_of(inner) for inner in error.exceptions)
    return type(error)


def _raise(run: Run, *lines: str) -> None:
    """Raise what a run ended with, and tell whoever reads it how to come back to it."""
    __tracebackhide__ = True
    if run.error is None:
        return
    shown = run.trace[-SHOWN_LINES:]
    for note in (
        f"simulation: seed {run.seed}, {len(run.schedule)} of {run.decisions} decisions off the calm path",
        *lines,
        _strays(run),
        "\n".join((f"trace, the last {len(shown)} of {len(run.trace)} lines:", *shown)),
    ):
        run.error.add_note(note)
    raise run.error


def _strays(run: Run) -> str:
    if not run.schedule:
        return "nothing strays from the calm run: it fails first come first served, and without a fault"
    return "\n".join(("what strays from the calm run:", *Trace.strays(run.trace)[:SHOWN_LINES]))


@contextmanager
def _silent() -> Iterator[None]:
    """The runtime's log says nothing: a search meets many crashes that are injected."""
    logger = logging.getLogger("rtvi_actors")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


# -- pytest ------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("rtvi", "simulated actors (rtvi_actors.testing)")
    group.addoption("--rtvi-seeds", type=int, default=SEEDS, metavar="N", help=f"seeds of each story (default {SEEDS})")
    group.addoption("--rtvi-seed", type=int, default=None, metavar="S", help="run each story under this seed alone")
    group.addoption(
        "--rtvi-schedule",
        default=None,
        metavar="N:C,...",
        help="make these decisions off the calm path, and no others",
    )


class Simulate:
    """What the fixture `simulate` gives: call it with a story."""

    def __init__(self, nodeid: str, seeds: int = SEEDS, seed: int | None = None, schedule: str | None = None) -> None:
        """`nodeid` is the test's, for the command that replays it; the others are pytest's options."""
        self._nodeid = nodeid
        self._seeds: Iterable[int] = range(seeds) if seed is None and schedule is None else (seed or 0,)
        self._is_fixed = seed is not None or schedule is not None
        self._schedule = None if schedule is None else _parsed(schedule)

    def __call__(
        self,
        story: Story,
        *,
        faults: Faults = CALM,
        edges: Edges | None = None,
        seeds: Iterable[int] | None = None,
        max_turns: int = MAX_TURNS,
    ) -> None:
        """Run the story under every seed. Raises what the first failing one raised, with notes.

        `seeds` are the story's own choice of seeds; ``--rtvi-seed`` overrules it. Warns of an edge that no message took
        under any of them: its pattern matches nothing, or stands behind one that matches more.
        """
        __tracebackhide__ = True
        unused = set(edges or {})
        for seed in self._seeds if seeds is None or self._is_fixed else seeds:
            plan = _plan(story, seed, faults, edges or {}, max_turns)
            with _silent():
                run = run_plan(plan, self._schedule)
            if run.error is not None:
                self._fail(plan, run)
            unused -= run.edges
        if unused and not self._is_fixed:
            warnings.warn(f"no message took {_edges_text(unused)}: nothing was tested there", stacklevel=2)

    def _fail(self, plan: Plan, failed: Run) -> None:
        __tracebackhide__ = True
        if isinstance(failed.error, pytest.skip.Exception | pytest.xfail.Exception):
            raise failed.error
        with _silent():
            best = shrink(plan, failed)
        run = run_plan(plan, best.schedule)
        if _failure_of(plan, run) != _failure_of(plan, best) or run.trace != best.trace:
            _raise(
                best,
                self._command(best),
                f"it does not replay: something beside the seed decides. {_difference(best, run)}",
            )
        _raise(run, self._command(run))

    def _command(self, run: Run) -> str:
        arguments = (self._nodeid, f"--rtvi-seed={run.seed}", f"--rtvi-schedule={_written(run.schedule)}")
        return " ".join(("replay: pytest", *map(shlex.quote, arguments)))


def _edges_text(edges: Iterable[tuple[str, str]]) -> str:
    texts = sorted(f"{sender} -> {receiver}" for sender, receiver in edges)
    return " or ".join(f"the edge {text}" for text in texts)


def _difference(one: Run, other: Run) -> str:
    """Where two traces part."""
    for first, second in zip(one.trace, other.trace, strict=False):
        if first != second:
            return f"First difference: {first!r} and {second!r}"
    return f"One trace has {len(one.trace)} lines, the other {len(other.trace)}"


def _written(schedule: Mapping[int, int]) -> str:
    return ",".join(f"{number}:{choice}" for number, choice in sorted(schedule.items()))


def _parsed(text: str) -> dict[int, int]:
    """Raises `pytest.UsageError`."""
    try:
        pairs = [pair.split(":") for pair in text.split(",") if pair]
        return {int(number): int(choice) for number, choice in pairs}
    except ValueError:
        raise pytest.UsageError(f"--rtvi-schedule takes pairs such as 17:2,45:1, not {text!r}") from None


def _address_of(request: pytest.FixtureRequest) -> str:
    """The test's node id, for the folder that pytest was called in: ids are of the root's."""
    _, *names = request.node.nodeid.split("::")
    return "::".join((os.path.relpath(request.node.path, request.config.invocation_params.dir), *names))


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Simulate:
    """Run stories of actors under seeds; see `rtvi_actors.testing`."""
    options: Any = request.config.option
    return Simulate(_address_of(request), options.rtvi_seeds, options.rtvi_seed, options.rtvi_schedule)
