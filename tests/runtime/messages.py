"""What the actors of these tests say to each other, and the actors that most tests need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Final

import anyio
import anyio.lowlevel
import msgspec

from rtvi_actors.errors import Crash, Fenced
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.groups import GroupSpec
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem

RAISES: Final[dict[str, Callable[[], BaseException]]] = {
    "ValueError": lambda: ValueError("injected"),
    "Crash": lambda: Crash("injected"),
    "CancelledError": asyncio.CancelledError,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "RecursionError": lambda: RecursionError("injected"),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("injected", [SystemExit()]),
}
"""What a handler may raise, and must stop nobody else."""

FIREWALL: Final = list(RAISES)


class Note(msgspec.Struct, frozen=True, tag=True):
    """Write `n` into the book."""

    n: int


class Read(msgspec.Struct, frozen=True, tag=True):
    """Answer with what is in the book; also the way to wait for all that was sent before."""


class Fail(msgspec.Struct, frozen=True, tag=True):
    """Raise in a synchronous handler."""

    kind: str = "ValueError"


class FailAsync(msgspec.Struct, frozen=True, tag=True):
    """Raise in an asynchronous handler."""

    kind: str = "ValueError"


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run a job of the actor's in a group."""

    group: str
    method: str
    n: int = 0


class Hold(msgspec.Struct, frozen=True, tag=True):
    """Asynchronous: say that it runs, wait for the book's gate, answer."""

    n: int = 0


class Through(msgspec.Struct, frozen=True, tag=True):
    """Do `Recorder.acts[act]`, an arbitrary synchronous function of the actor."""

    act: str


class Forward(msgspec.Struct, frozen=True, tag=True):
    """Send a note to the reference in the message."""

    to: ActorRef[Any]
    n: int


class Stranger(msgspec.Struct, frozen=True, tag=True):
    """No actor declares this."""


class Book:
    """What actors leave behind for the test, over all incarnations. `opened` lets the jobs that hold go on."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.raising: dict[str, str] = {}
        """A hook's name: what it is to raise, from `RAISES`."""
        self.acts: dict[str, Callable[[Any], Any]] = {}
        self.running = threading.Semaphore(0)
        self._gate: anyio.Event | None = None
        self._begun: anyio.Event | None = None

    @property
    def gate(self) -> anyio.Event:
        if self._gate is None:
            self._gate = anyio.Event()
        return self._gate

    @property
    def begun(self) -> anyio.Event:
        """Set when a job that holds has begun."""
        if self._begun is None:
            self._begun = anyio.Event()
        return self._begun

    def check(self, place: str) -> None:
        if place in self.raising:
            raise RAISES[self.raising[place]]()


class Recorder(AnyioActor):
    """Writes down what happens to it."""

    groups: ClassVar[Mapping[str, GroupSpec]] = {
        "jobs": GroupSpec(grace_s=0.01),
        "pool": GroupSpec(concurrency=3, max_queued=4, grace_s=0.01),
    }

    def __init__(self, book: Book) -> None:
        super().__init__(book)
        self.book = book
        self.seen: list[int] = []
        book.check("init")

    # -- hooks

    def on_start(self) -> None:
        self.book.check("on_start")

    def on_stop(self) -> None:
        self.book.notes.append(f"stopped {self.name}")
        self.book.check("on_stop")

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.book.check("on_failure")

    def on_error(self, method: str, arguments: tuple[Any, ...], error: BaseException | None) -> None:
        self.book.notes.append((method, type(error).__name__ if error is not None else None))
        self.book.check("on_error")

    # -- handlers

    def on_note(self, message: Note) -> int:
        self.book.notes.append(message.n)
        self.seen.append(message.n)
        return message.n

    def on_read(self, message: Read) -> list[Any]:
        return list(self.book.notes)

    def on_fail(self, message: Fail) -> None:
        raise RAISES[message.kind]()

    async def on_fail_async(self, message: FailAsync) -> None:
        await anyio.lowlevel.checkpoint()
        raise RAISES[message.kind]()

    def on_run(self, message: Run) -> None:
        self.submit(message.group, message.method, message.n)

    async def on_hold(self, message: Hold) -> int:
        await self.hold(message.n)
        return message.n

    def on_through(self, message: Through) -> Any:
        return self.book.acts[message.act](self)

    def on_forward(self, message: Forward) -> None:
        message.to.tell(Note(message.n))

    # -- jobs

    async def hold(self, n: int) -> None:
        self.book.notes.append(("begun", n))
        self.book.begun.set()
        await self.book.gate.wait()
        self.book.notes.append(("done", n))

    async def crash(self, n: int) -> None:
        raise Crash("in a job")

    async def fail(self, n: int) -> None:
        raise ValueError("in a job")

    async def refuse(self, n: int) -> None:
        """Swallow every cancellation until the gate opens; then try to send."""
        self.book.begun.set()
        while not self.book.gate.is_set():
            try:
                await self.book.gate.wait()
            except anyio.get_cancelled_exc_class():
                continue
        for attempt in (lambda: self.ref.tell(Note(-1)), lambda: self.ref.ask(Read(), block=False)):
            try:
                attempt()
            except Fenced:
                self.book.notes.append("fenced")
        self.book.notes.append("refuser ended")

    async def refuse_until_given_up(self, n: int) -> None:
        """Swallow every cancellation until it is given up, then wait for ever."""
        self.book.begun.set()
        while self.cell.abandoned == 0:
            try:
                await anyio.sleep(0.001)
            except anyio.get_cancelled_exc_class():
                continue
        await anyio.sleep_forever()


class Plain(AnyioActor):
    """Declares nothing: takes objects, as pykka's own actors do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, BaseException):
            raise message
        self.count += 1
        return message

    def double(self, n: int) -> int:
        return 2 * n

    async def double_later(self, n: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * n

    def fail(self) -> None:
        raise ValueError("the asker's")

    async def fail_later(self) -> None:
        raise ValueError("the asker's")


# -- what tests do with them -------------------------------------------------------------


def supervised(
    system: ActorSystem, book: Book, other: Book | None = None, **options: Any
) -> tuple[ActorRef[Recorder], ActorRef[Recorder]]:
    """A recorder and its sibling, under a supervisor that is patient."""
    specs = [ChildSpec("it", Recorder, (book,), **options), ChildSpec("sibling", Recorder, (other or Book(),))]
    system.spawn(Supervisor, specs, intensity=1000, name="sup")
    return system.get("sup/it"), system.get("sup/sibling")


def act(ref: ActorRef[Any], book: Book, function: Any) -> None:
    """Have a recorder do something in a handler."""
    name = f"act {len(book.acts)}"
    book.acts[name] = function
    ref.tell(Through(name))


async def settle(system: ActorSystem) -> None:
    """Wait until no actor has anything to do."""
    while not system.idle:
        await anyio.lowlevel.checkpoint()
