"""`AnyioActor`: what people write.

`pykka.Actor` documents `_create_actor_inbox`, `_create_future` and `_start_actor_loop` for implementors of new actor
types; everything hangs on these three. What outlives a crash is the actor's cell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, Self, get_args

import pykka
from pykka import messages as pykka_messages

from rtvi_actors.errors import DeclarationError, NoSystem, StartFailed, Undeclared, Unknown
from rtvi_actors.runtime.cell import Cell, Host
from rtvi_actors.runtime.clock import Timer
from rtvi_actors.runtime.context import CURRENT, LOCAL, check_fence, later
from rtvi_actors.runtime.declare import Declaration, declare, locals_of_class_statement
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.groups import GroupSpec, Job
from rtvi_actors.runtime.handling import MAIN
from rtvi_actors.runtime.mailbox import Mailbox, Overflow
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.signals import Terminated

__all__ = ["AnyioActor", "current_actor", "current_host", "make_cell", "set_host"]

_HOSTS: list[tuple[int, Host]] = []
"""The systems of the process with their threads, the newest last."""


def set_host(host: Host, thread_id: int, present: bool) -> None:
    """Say that `host` runs on this thread, or no longer does. The newest is also the default of foreign threads."""
    if present:
        _HOSTS.append((thread_id, host))
    else:
        _HOSTS.remove((thread_id, host))


def current_host() -> Host:
    """The system of the actor that runs, else of this thread, else the newest in the process. Raises `NoSystem`."""
    actor = current_actor()
    own: Host | None = getattr(actor.cell, "host", None) if actor is not None else None
    if own is not None:
        return own
    here = threading.get_ident()
    hosts = [host for thread_id, host in _HOSTS if thread_id == here] or [host for _, host in _HOSTS]
    if not hosts:
        raise NoSystem("no actor system runs: open one with `async with ActorSystem()` or `start_blocking_system()`")
    return hosts[-1]


def current_actor() -> AnyioActor | None:
    """The actor whose handler runs in this thread or task."""
    if LOCAL.actor is not None:
        actor: AnyioActor = LOCAL.actor
        return actor
    running = CURRENT.get()
    return running.actor if running is not None else None


class AnyioActor(pykka.Actor):
    """An actor on the event loop. Subclass it and write handlers (see `declare`).

    Handlers, hooks and state belong to the loop's thread. `__init__` may take arguments; they are kept, and every
    restart passes them again, so they should be immutable.
    """

    groups: ClassVar[Mapping[str, GroupSpec]] = {}
    """The groups that `submit` knows, by name."""
    not_handlers: ClassVar[frozenset[str]] = frozenset()
    """Methods named on_… that are hooks of a base class's own, not handlers."""
    max_mail: ClassVar[int] = 10_000
    """The bound of the mailbox, in messages."""
    max_mail_bytes: ClassVar[int] = 64 * 1024 * 1024
    """The bound of the mailbox, in bytes."""
    overflow: ClassVar[Overflow] = "refuse"
    """What a full mailbox does with one more message."""
    bulk: ClassVar[frozenset[type]] = frozenset()
    """Declared messages that wait in the bulk lane, behind all others, where the oldest gives way: audio, above all."""
    max_bulk: ClassVar[int] = 1024
    max_bulk_bytes: ClassVar[int] = 16 * 1024 * 1024
    handler_timeout_s: ClassVar[float | None] = None
    """How long an asynchronous handler that holds up the mailbox may run, or any handler of a `ThreadingActor`. Longer
    is a crash (exit ``timeout``)."""
    async_group: ClassVar[str] = MAIN
    """The group of asynchronous handlers. ``main`` is exclusive: the mailbox waits for them."""
    declaration: ClassVar[Declaration | None] = None
    hears_handled: ClassVar[bool] = False
    """Whether the class has an `on_handled` of its own."""

    cell_class: ClassVar[type[Cell]] = Cell
    """What runs its handlers: the event loop, or a thread of its own (`ThreadingActor`)."""
    cell: Cell
    _recipe: tuple[tuple[Any, ...], dict[str, Any]]
    _slot: Cell | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.hears_handled = cls.on_handled is not AnyioActor.on_handled
        cls.declaration = declare(cls, cls.not_handlers, locals_of_class_statement())
        if cls.async_group != MAIN and cls.async_group not in cls.groups:
            raise DeclarationError(f"{cls.__qualname__}: it has no group named {cls.async_group}")
        if cls.overflow not in get_args(Overflow):
            raise DeclarationError(f"{cls.__qualname__}: overflow is one of {', '.join(get_args(Overflow))}")
        undeclared = cls.bulk.difference(cls.declaration.handlers if cls.declaration is not None else ())
        if undeclared:
            names = ", ".join(sorted(kind.__qualname__ for kind in undeclared))
            raise DeclarationError(f"{cls.__qualname__}: no handler takes {names}, which it names as bulk")

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        actor = super().__new__(cls)
        actor._recipe = (args, kwargs)
        actor._slot = None
        return actor

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        cell, self._slot = self._slot, None
        if cell is None:
            super().__init__()
            cell = self.cell_class(type(self), *self._recipe, mailbox=self.actor_inbox)
            cell.stopped = self.actor_stopped
            cell.bind_ref()
            cell.actor = self
        self.cell = cell
        self.actor_urn = cell.urn
        self.actor_inbox = cell.mailbox
        self.actor_stopped = cell.stopped
        self._actor_ref = cell.ref

    @classmethod
    def start(  # pyright: ignore[reportIncompatibleMethodOverride] - pykka's parameter is invariant for no reason
        cls, *args: Any, **kwargs: Any
    ) -> ActorRef[Self]:
        """Start it in the current system, unsupervised: a crash stops it, as in pykka. Returns its reference.

        Raises `NoSystem`, or `StartFailed` where the constructor or `on_start` raised.
        """
        host = current_host()

        def start() -> ActorRef[Self]:
            cell = make_cell(cls, *args, **kwargs)
            cell.open(host)
            return cell.ref

        return host.run_on_loop(start)

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    @staticmethod
    def _create_future() -> ActorFuture[Any]:
        return ActorFuture()

    def _start_actor_loop(self) -> None:
        """pykka's hook; `start` opens the cell itself, so that a failed start is reported to the starter."""
        self.cell.open(current_host())

    @property
    def has_children(self) -> bool:
        """Whether other actors are to end before this one (`Supervisor`)."""
        return False

    def stop_children(self) -> None:
        """It is to stop: see that they end."""

    def stop(self) -> None:
        """Stop this actor after the mail that it has."""
        self.actor_ref.tell(pykka_messages._ActorStop())

    # -- what a handler may do ---------------------------------------------------------

    @property
    def ref(self) -> ActorRef[Self]:
        """This actor's own reference, as this runtime types it."""
        return self.cell.ref

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def system(self) -> Any:
        """The `ActorSystem` that it runs in (the files below that class cannot name it)."""
        return self.cell.host

    def link(self, name: str) -> ActorRef[Any]:
        """The actor that this one's child spec links under `name`. Raises `Unknown`."""
        try:
            return self.cell.links[name]
        except KeyError:
            raise Unknown(f"{self.cell.name} has no link named {name}") from None

    def later(self, effect: Callable[[Any], object], argument: Any) -> None:
        """Do `effect(argument)` when the running synchronous handler has returned, and not at all if it raises."""
        later(effect, argument)

    def submit(self, group: str, method: str, *arguments: Any) -> None:
        """Run ``self.method(*arguments)`` in a group. Raises `Rejected` where the group is full."""
        target = self.cell.groups[group]
        job = Job(method, arguments)
        target.check_room(job)
        later(target.submit, job)

    def cancel_group(self, group: str) -> int:
        """Cancel the jobs that run in a group (not those that wait); returns how many.

        Takes effect at their next await.
        """
        check_fence()
        return self.cell.groups[group].cancel_running()

    def after(self, delay_s: float, message: Any) -> Timer:
        """Send itself a message in `delay_s` seconds. A later crash does not lose it: timers belong to the cell, and
        end with it.

        A handler that raises has set none, as it has sent nothing.
        """
        cell = self.cell
        letter = cell.mailbox.seal(message)
        letter.own, letter.bulk, letter.key = True, False, None
        timer = cell.timers.prepare(delay_s, lambda: cell.mailbox.deliver(letter))
        later(cell.set_timer, timer)
        return timer

    def watch(self, ref: ActorRef[Any]) -> None:
        """Have a `Terminated` sent to this actor when that one is dead: at once where it is. A restart is no death.

        Raises `Undeclared` where this actor declares messages, and not that one; `NoSystem` where the other is of
        another system.
        """
        if getattr(ref.cell, "host", self.cell.host) is not self.cell.host:
            raise NoSystem(f"{ref} is of another system, on another event loop")
        declaration = self.cell.declaration
        if declaration is not None and Terminated not in declaration.handlers:
            raise Undeclared(f"{self.cell.name} declares no handler for Terminated")
        later(self.cell.watch, ref.cell)

    def unwatch(self, ref: ActorRef[Any]) -> None:
        """Take a `watch` back: no `Terminated` of that actor arrives any more."""
        later(self.cell.unwatch, ref.cell)

    def snapshot(self, state: Any) -> None:
        """Hand out the immutable state that a restarted instance is given (`restore`)."""
        later(self.cell.keep_snapshot, state)

    # -- hooks -------------------------------------------------------------------------

    @staticmethod
    def mail_key(message: Any) -> Hashable:
        """By what a message may be coalesced where `overflow` says so; `None`: not at all. In the sender's thread."""
        return None

    def on_inspect(self) -> Mapping[str, Any]:
        """What an inspection should show of its state (`ActorSystem.inspect`), as values that JSON can hold."""
        return {}

    def restore(self, state: Any) -> None:
        """Called on a restarted instance before `on_start`, with the last snapshot, if one was handed out."""

    def on_handled(self, message: Any) -> None:
        """Called when a declared message has been handled, still within the handler's stage and firewall."""

    def on_error(self, method: str, arguments: tuple[Any, ...], error: BaseException | None) -> None:
        """Called when a job failed, or was cancelled or lost (`error` is `None` then), unless the actor ends."""


def make_cell(actor_class: type[AnyioActor], /, *args: Any, **kwargs: Any) -> Cell:
    """Make an actor that is to be started, and its cell. Raises `StartFailed` where the constructor raised."""
    try:
        return actor_class(*args, **kwargs).cell
    except BaseException as error:
        raise StartFailed(f"{actor_class.__name__} was not made: {type(error).__name__}") from error
