"""The runtime's supervision equals its model, story by story, in simulations.

`make simulate SEEDS=10000` tells so many, ``--rtvi-seed=4711`` the one of that seed alone. A failure gives the seed,
the first difference and the story.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from types import TracebackType
from typing import Any, Final

import msgspec
import pytest

from rtvi_actors.errors import ActorError, Dead, HandlerTimeout, StartFailed, Unknown
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.context import LOCAL
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.signals import Terminated
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Escalation, Supervisor
from rtvi_actors.testing import World, run_simulation
from tests.simulated.supervision_model import NAP_S, BackoffPlan, ChildPlan, Event, Handled, Mail
from tests.simulated.supervision_stories import TIMEOUTS_S, Story, chance_at, tell_story

DEFAULT: Final = 300
"""Stories that `make test` has time for."""


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> Iterable[int]:
    """Those that the options of the test kit name."""
    option: Any = request.config.getoption
    one = option("--rtvi-seed")
    return (one,) if one is not None else range(max(option("--rtvi-seeds"), DEFAULT))


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """Thousands of crashes are asked for."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# -- the actors of a story -----------------------------------------------------------


class Note(msgspec.Struct, frozen=True, tag=True):
    number: int


class Fail(msgspec.Struct, frozen=True, tag=True):
    pass


class Quit(msgspec.Struct, frozen=True, tag=True):
    pass


class Hang(msgspec.Struct, frozen=True, tag=True):
    pass


class Nap(msgspec.Struct, frozen=True, tag=True):
    pass


MAIL: Final[dict[Mail, msgspec.Struct]] = {"fail": Fail(), "quit": Quit(), "hang": Hang(), "nap": Nap()}


class Told(RuntimeError):
    """An actor was told to fail."""


class Log:
    """What the actors of one story write down: the same as the model."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.events: list[Event] = []
        self.handled: dict[str, list[Handled]] = {}
        self.ends: dict[tuple[str, int], list[str]] = {}
        """All that the watcher was told."""
        self.failing_starts: dict[str, int] = {}
        self.refs: dict[str, ActorRef[Any]] = {}
        """By URN, as first seen: of all that were ever about to start."""
        self.fresh: list[ActorRef[Any]] = []
        """Those that the watcher does not watch yet."""
        self._serials: dict[str, dict[str, int]] = {}
        """Name → URN → which cell of this name."""
        self._incarnations: dict[str, int] = {}
        """By URN."""

    def begin(self, actor: AnyioActor) -> int:
        """A new incarnation: which of its cell's it is."""
        urns = self._serials.setdefault(actor.name, {})
        if actor.actor_urn not in urns:
            urns[actor.actor_urn] = len(urns) + 1
            self.refs[actor.actor_urn] = actor.ref
            self.fresh.append(actor.ref)
        incarnation = self._incarnations[actor.actor_urn] = self._incarnations.get(actor.actor_urn, 0) + 1
        return incarnation

    def serial(self, name: str, urn: str) -> int:
        return self._serials[name][urn]

    def begun(self) -> list[tuple[str, int]]:
        """(name, serial) of all that were ever about to start."""
        return [(name, serial) for name, urns in self._serials.items() for serial in urns.values()]

    def event(self, what: str, actor: AnyioActor) -> None:
        self.events.append(Event(self.now(), what, actor.name, self.serial(actor.name, actor.actor_urn)))


class Leaf(AnyioActor):
    """Writes down its hooks and the notes that it handles, and does what it is told."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.log = log
        self.incarnation = 0

    def on_start(self) -> None:
        self.incarnation = self.log.begin(self)
        failing = self.log.failing_starts.get(self.name, 0)
        if failing:
            self.log.failing_starts[self.name] = failing - 1
            self.log.event("start failed", self)
            raise Told
        self.log.event("start", self)

    def on_stop(self) -> None:
        self.log.event("on_stop", self)

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.log.event("timeout" if exception_type is HandlerTimeout else "crash", self)

    def on_note(self, message: Note) -> None:
        serial = self.log.serial(self.name, self.actor_urn)
        note = Handled(self.log.now(), serial, self.incarnation, message.number)
        self.log.handled.setdefault(self.name, []).append(note)

    def on_fail(self, message: Fail) -> None:
        raise Told

    def on_quit(self, message: Quit) -> None:
        self.stop()

    async def on_hang(self, message: Hang) -> None:
        await asyncio.Event().wait()

    async def on_nap(self, message: Nap) -> None:
        await asyncio.sleep(NAP_S)


LEAVES: Final = {
    timeout_s: type(f"Leaf{n}", (Leaf,), {"handler_timeout_s": timeout_s}) for n, timeout_s in enumerate(TIMEOUTS_S)
}
"""`handler_timeout_s` is the class's."""


class Branch(Supervisor):
    """A supervisor whose cells are counted, by `log`, which a story sets."""

    log: Log

    def on_start(self) -> None:
        self.log.begin(self)
        super().on_start()


class Watcher(AnyioActor):
    """Writes down who is dead."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.log = log

    def on_terminated(self, message: Terminated) -> None:
        key = message.name, self.log.serial(message.name, message.urn)
        self.log.ends.setdefault(key, []).append(message.reason)


# -- a story on the runtime ----------------------------------------------------------


class Chance(random.Random):
    """Draws what the model draws at this time."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(0)
        self._now = now

    def random(self) -> float:
        return chance_at(self._now())


def backoff_of(plan: BackoffPlan) -> Backoff:
    return Backoff(plan.immediate, plan.first_s, plan.factor, plan.max_s, plan.jitter, plan.reset_s)


class Stage:
    """A story's tree on the runtime, and the model's operations."""

    def __init__(self, world: World, story: Story) -> None:
        self.world = world
        self.system = world.system
        began_s = world.now_s
        self.log = Log(lambda: world.now_s - began_s)
        LOCAL.sources.random = Chance(self.log.now)  # the simulation's own sources, and of no use after it
        self.stops: list[ActorFuture[bool]] = []
        self.answers: list[Any] = []
        self.states: list[dict[str, bool]] = []
        """Before the first operation and after each."""
        self.broken = ""
        """Why the story could not be told to its end: it has gone another way before."""
        self._branch = type("StoryBranch", (Branch,), {"log": self.log})
        self._watcher = Watcher(self.log)
        world.spawn(self._watcher, name="watcher")
        args, kwargs = self._arguments(story.top)
        self.top = world.spawn(
            self._branch, *args, **kwargs, on_escalate=self._escalated if story.escalates else None, name="s"
        )

    def _escalated(self, escalation: Escalation) -> None:
        who = f"{escalation.supervisor}: {escalation.child}"
        self.log.events.append(Event(self.log.now(), "gave up", who, 1))

    def _spec(self, plan: ChildPlan) -> ChildSpec:
        args, kwargs = self._arguments(plan)
        return ChildSpec(
            plan.name,
            LEAVES[plan.timeout_s] if plan.supervisor is None else self._branch,
            args,
            kwargs,
            restart=plan.restart,
            shutdown_s=plan.shutdown_s,
            backoff=backoff_of(plan.backoff),
        )

    def _arguments(self, plan: ChildPlan) -> tuple[tuple[Any, ...], dict[str, Any]]:
        tree = plan.supervisor
        if tree is None:
            return (self.log,), {}
        specs = [self._spec(child) for child in tree.children]
        return (specs,), {"strategy": tree.strategy, "intensity": tree.intensity, "period_s": tree.period_s}

    def _supervisor(self, name: str) -> Supervisor:
        actor = self.system.get(name).cell.actor
        assert isinstance(actor, Supervisor)
        return actor

    # -- operations

    async def advance(self, to_s: float) -> None:
        await self.world.advance(to_s - self.log.now())

    async def tell(self, name: str, mail: Mail) -> None:
        self.system.get(name).tell(Note(mail) if isinstance(mail, int) else MAIL[mail])

    async def stop(self, name: str, drain_s: float) -> None:
        self.stops.append(self.system.stop(self.system.get(name), drain_s))

    async def kill(self, name: str) -> None:
        self.stops.append(self.system.kill(self.system.get(name)))

    async def crash(self, name: str) -> None:
        self.system.crash(self.system.get(name))

    async def fail_starts(self, name: str, count: int) -> None:
        self.log.failing_starts[name] = count

    async def start_child(self, name: str, plan: ChildPlan) -> bool:
        try:
            self._supervisor(name).start_child(self._spec(plan))
        except StartFailed:
            return False
        return True

    async def stop_child(self, name: str) -> None:
        parent, _, child = name.rpartition("/")
        self.stops.append(self._supervisor(parent).stop_child(child))

    # -- after each

    async def look(self) -> None:
        """Who is there; have all watched that are new, those included that are dead by now."""
        await self.world.settle()
        cells = [cell for cell in self.system.registry.cells() if cell.actor is not self._watcher]
        self.states.append({cell.name: cell.state in ("running", "stopping") for cell in cells})
        for cell in cells:
            assert self.system.get(cell.name) is cell.ref is self.log.refs[cell.urn]
        for ref in self.log.fresh:
            self._watcher.watch(ref)
        self.log.fresh.clear()
        await self.world.settle()

    async def check_the_dead(self) -> None:
        """At the end all are: their names are free, their references answer at once, who stopped one has it."""
        for ref in self.log.refs.values():
            with pytest.raises(Unknown):
                self.system.get(ref.cell.name)
            with pytest.raises(Dead):
                ref.tell(Fail())
        for done in self.stops:
            assert isinstance(await done, bool)


async def play(world: World, story: Story) -> Stage:
    """Do on the runtime what the model has been through."""
    stage = Stage(world, story)
    await stage.look()
    for method, arguments in story.operations:
        try:
            stage.answers.append(await getattr(stage, method)(*arguments))
        except ActorError as error:
            stage.broken = f"{method}{arguments} raised {error!r}"
            break
        await stage.look()
    if difference(story, stage):
        world.system.kill(stage.top)
    else:
        await stage.check_the_dead()
    return stage


def simulated(story: Story) -> Stage:
    stages: list[Stage] = []

    async def tell(world: World) -> None:
        stages.append(await play(world, story))

    run_simulation(tell, seed=story.seed)
    return stages[0]


# -- the comparison ------------------------------------------------------------------


def difference(story: Story, stage: Stage) -> str:
    """The first thing in which the runtime is not as its model; empty where they agree."""
    model, log = story.model, stage.log
    ends = {key: [model.ends.get(key, "dead")] for key in log.begun()}
    return (
        _first("event", model.events, log.events)
        or _first("who is up, after operation", story.states, stage.states)
        or _first("answer to operation", story.answers, stage.answers)
        or stage.broken
        or _first_key("handled by", model.handled, log.handled)
        or _first_key("the watcher of", ends, log.ends)
    )


def _first(what: str, modelled: Sequence[object], found: Sequence[object]) -> str:
    for n, (ours, theirs) in enumerate(zip_longest(modelled, found, fillvalue="nothing")):
        if ours != theirs:
            return f"{what} {n}\n  model: {ours}\n  runtime: {theirs}"
    return ""


def _first_key(what: str, modelled: Mapping[Any, object], found: Mapping[Any, object]) -> str:
    for key in sorted({*modelled, *found}):
        if modelled.get(key) != found.get(key):
            return f"{what} {key}\n  model: {modelled.get(key)}\n  runtime: {found.get(key)}"
    return ""


def test_the_runtime_supervises_as_its_model_does(seeds: Iterable[int]) -> None:
    for seed in seeds:
        story = tell_story(seed)
        text = difference(story, simulated(story))
        assert not text, f"--rtvi-seed={seed}: {text}\n{story}"


def test_the_stories_reach_every_rule() -> None:
    stories = [tell_story(seed) for seed in range(100)]
    events = {event.what for story in stories for event in story.model.events}
    assert events == {"start", "start failed", "on_stop", "crash", "timeout", "gave up"}
    ends = {reason for story in stories for reason in story.model.ends.values()}
    assert ends == {"normal", "shutdown", "killed", "error", "timeout", "restart limit", "dead"}
    assert {method for story in stories for method, _ in story.operations} == {
        *("advance", "tell", "stop", "kill", "crash", "start_child", "stop_child", "fail_starts"),
    }
    assert {answer for story in stories for answer in story.answers} == {None, True, False}
