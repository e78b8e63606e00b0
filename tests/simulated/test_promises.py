"""The runtime's promises under random crashes, stops, restarts, overflow, delays and losses.

A seed makes a tree of workers, all kinds of supervision and mailboxes, and senders that tell and ask them. Whatever
happens: every message is in its receiver's books once, what one sender sent to one worker is handled in that order, and
every ask comes to an end by its deadline.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, ClassVar, cast

import anyio
import msgspec

from rtvi_actors.errors import ActorError, Dead, Rejected
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.cell import Cell
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.mailbox import Overflow
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.supervisor import Backoff, ChildSpec, Supervisor
from rtvi_actors.testing import Faults, Simulate, World

FAULTS = Faults(crash=0.03, crash_after=0.03, delay=0.1, drop=0.02)
ASK_S = 2.0


class Item(msgspec.Struct, frozen=True, tag=True):
    """One of a row from one sender to one worker."""

    sender: str
    n: int


class SlowItem(Item, frozen=True, tag=True):
    """Handled asynchronously: it holds up the mailbox."""


class Noise(Item, frozen=True, tag=True):
    """Of the bulk lane: an order of its own."""


class Send(msgspec.Struct, frozen=True, tag=True):
    """Send so many items of a kind to each worker."""

    kind: str
    count: int


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Ask each worker something."""


KINDS: dict[str, type[Item]] = {"Item": Item, "SlowItem": SlowItem, "Noise": Noise}


class Log:
    """What the test knows of its own, beside what the runtime counts."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.workers: list[ActorRef[Any]] = []
        self.numbers: defaultdict[tuple[str, str], Any] = defaultdict(itertools.count)
        self.seen: defaultdict[tuple[str, str, bool], list[int]] = defaultdict(list)
        self.sent: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.asked = 0
        self.ended = 0
        self.stops: Counter[str] = Counter()
        """pykka's own stops are messages, too."""
        self.late: list[float] = []


class Worker(AnyioActor):
    """Handles items, and writes down in which order; all that it does is staged."""

    bulk: ClassVar[frozenset[type]] = frozenset({Noise})

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.log = log

    def on_start(self) -> None:
        if random.random() < 0.1:
            raise ValueError("did not start")

    def on_item(self, message: Item) -> int:
        self.later(self._note, message)
        self.watchful_books()
        return message.n

    async def on_slow(self, message: SlowItem) -> int:
        await anyio.sleep(random.choice((0, 0.01, 0.3)))
        self._note(message)
        return message.n

    def on_noise(self, message: Noise) -> None:
        self.later(self._note, message)

    def _note(self, message: Item) -> None:
        self.log.seen[self.name, message.sender, isinstance(message, Noise)].append(message.n)

    def watchful_books(self) -> None:
        """Readable at any time, in a handler too."""
        books = self.cell.books()
        assert books.holds, books

    @staticmethod
    def mail_key(message: Any) -> Hashable:
        return message.n % 3 if isinstance(message, Item) else None


def worker_class(overflow: Overflow, max_mail: int, timeout_s: float | None) -> type[Worker]:
    """A worker with bounds of its own."""
    return cast(
        "type[Worker]",
        type(
            "Worker",
            (Worker,),
            {"overflow": overflow, "max_mail": max_mail, "max_bulk": 3, "handler_timeout_s": timeout_s},
        ),
    )


class Sender(AnyioActor):
    """Sends in handlers, synchronous and asynchronous ones; its asks run beside each other."""

    groups = {"asks": GroupSpec(concurrency=8)}  # noqa: RUF012
    max_mail: ClassVar[int] = 1_000

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.log = log

    def on_send(self, message: Send) -> None:
        for ref, _ in itertools.product(self.log.workers, range(message.count)):
            number = next(self.log.numbers[self.name, ref.name])
            try:
                ref.tell(KINDS[message.kind](self.name, number))
            except Rejected:
                self.log.refused[ref.name] += 1
            except Dead:
                continue
            else:
                self.later(self._sent, ref.name)

    def _sent(self, name: str) -> None:
        self.log.sent[name] += 1

    def on_ask(self, message: Ask) -> None:
        for ref in self.log.workers:
            self.submit("asks", "ask", ref)

    async def ask(self, ref: ActorRef[Any]) -> None:
        log, clock = self.log, self.cell.timers
        kind = random.choice((Item, SlowItem))
        started_s = clock.now()
        lives = ref.is_alive()
        try:
            asked = ref.ask(kind(self.name, next(log.numbers[self.name, ref.name])), block=False, timeout=ASK_S)
        except Rejected:
            log.refused[ref.name] += 1
            return
        if lives:
            log.sent[ref.name] += 1
        log.asked += 1
        with suppress(ActorError):
            await asked
        log.ended += 1
        if clock.now() - started_s > ASK_S:
            log.late.append(clock.now() - started_s)


def specs(log: Log, names: str) -> list[ChildSpec]:
    """Workers of all kinds."""
    choose = random.choice
    return [
        ChildSpec(
            name,
            worker_class(
                choose(("refuse", "drop_oldest", "coalesce", "wait")), choose((1, 3, 20)), choose((None, 0.1))
            ),
            (log,),
            restart=choose(("permanent", "permanent", "transient")),
            on_poison=choose(("drop", "retry_once")),
            backoff=Backoff(immediate=choose((0, 1, 100)), first_s=0.05),
            shutdown_s=choose((0.0, 0.1)),
        )
        for name in names
    ]


def strategy() -> Any:
    return random.choice(("one_for_one", "one_for_all", "rest_for_one"))


def start(world: World, log: Log) -> None:
    """Try until all of it has started: a worker may fail to."""
    nested = ChildSpec("nested", Supervisor, (specs(log, "cd"),), {"strategy": strategy(), "intensity": 20})
    for _ in range(100):
        try:
            world.system.spawn(Supervisor, [*specs(log, "ab"), nested], strategy=strategy(), intensity=1000, name="s")
            break
        except ActorError:
            continue
    log.workers = [world.system.get(f"s/{name}") for name in ("a", "b", "nested/c", "nested/d")]
    log.cells = [ref.cell for ref in log.workers]


async def disturb(world: World, log: Log) -> None:
    """Something of what happens to actors in production, or in a test of it."""
    ref = random.choice(log.workers)
    deed = random.choice(("crash", "kill", "stop", "pykka stop", "stop now", "nothing", "nothing", "new"))
    system = world.system
    deeds: dict[str, Callable[[], object]] = {
        "crash": lambda: system.crash(ref),
        "kill": lambda: system.kill(ref),
        "stop": lambda: system.stop(ref, 0.2),
        "stop now": lambda: system.stop(ref, 0.0),
        "pykka stop": lambda: stop_as_pykka_does(log, ref),
        "new": lambda: renew(world, log),
        "nothing": lambda: None,
    }
    deeds[deed]()
    await world.advance(random.choice((0.0, 0.0, 0.01, 0.2)))


def stop_as_pykka_does(log: Log, ref: ActorRef[Any]) -> None:
    if ref.is_alive():
        ref.stop(block=False)
        log.stops[ref.name] += 1


def renew(world: World, log: Log) -> None:
    """The references of a nested supervisor's children are new after its restart; dead names are free."""
    for at, ref in enumerate(log.workers):
        if ref.actor_stopped.is_set() and ref.name in world.system.registry._by_name:
            log.workers[at] = world.system.get(ref.name)
            log.cells.append(log.workers[at].cell)


def test_conservation_order_and_answers_hold_whatever_happens(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        log = Log()
        start(world, log)
        for name in "xy":
            world.system.spawn(Supervisor, [ChildSpec("sender", Sender, (log,))], intensity=10**6, name=name)
        senders = [world.system.get(f"{name}/sender") for name in "xy"]
        for _ in range(random.randrange(3, 12)):
            sender = random.choice(senders)
            for message in (Send(random.choice(list(KINDS)), random.randrange(4)), Ask()):
                if random.random() < 0.7:
                    sender.tell(message)
            await disturb(world, log)
        world.calm()
        await world.advance(30.0)
        check(log)

    simulate(story, faults=FAULTS, edges={("*", "x/sender"): Faults(), ("*", "y/sender"): Faults()})


def check(log: Log) -> None:
    """At the end, when nothing is under way."""
    received: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for cell in log.cells:
        books = cell.books()
        assert books.holds, (cell, books)
        assert books.open == 0, (cell, books)
        received[cell.name] += books.received
        refused[cell.name] += books.refused
    assert refused == log.refused
    assert received == log.sent + log.refused + log.stops
    for (worker, sender, _), numbers in log.seen.items():
        assert numbers == sorted(set(numbers)), f"{sender} -> {worker}: {numbers}"
    assert log.late == []
    assert log.ended == log.asked
