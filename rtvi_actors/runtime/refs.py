"""`ActorRef`: pykka's reference, to a cell instead of to an instance, so that it outlives every crash.

It encodes as its URN wherever a message holds one.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import pykka
from pykka import messages as pykka_messages

from rtvi_actors.errors import AskTimeout, Dead, Undeclared, WouldBlock
from rtvi_actors.runtime.backend import on_event_loop
from rtvi_actors.runtime.context import check_fence
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.mailbox import Letter, register_type

if TYPE_CHECKING:
    from rtvi_actors.runtime.cell import Cell

__all__ = ["ASK_TIMEOUT_S", "ActorDead", "ActorRef", "ActorTimeout", "ref_of"]

A = TypeVar("A", bound=pykka.Actor)

ASK_TIMEOUT_S = 10.0
"""The deadline of an ask that names none: asks are never without one (DESIGN.md 6.7)."""

_REFS: weakref.WeakValueDictionary[str, ActorRef[Any]] = weakref.WeakValueDictionary()


class ActorDead(Dead, pykka.ActorDeadError):
    """`Dead`, also for those who catch pykka's own error."""


class ActorTimeout(AskTimeout, pykka.Timeout):
    """`AskTimeout`, also for those who catch pykka's own error."""


def ref_of(urn: str) -> ActorRef[Any]:
    """The reference that a message carries as its URN. O(1). Raises `Dead` where nobody holds it any more."""
    ref = _REFS.get(urn)
    if ref is None:
        raise ActorDead(f"{urn} not found")
    return ref


class ActorRef(pykka.ActorRef[A], Generic[A]):
    """A reference to an actor: its URN, its mailbox, its name. Hash and equality are identity; one per cell."""

    def __init__(self, cell: Cell, actor_class: type[A]) -> None:
        # pykka's own __init__ binds one instance; a cell has one after the other.
        self.cell = cell
        self.actor_class = actor_class
        self.actor_urn = cell.urn
        self.actor_inbox = cell.mailbox
        self.actor_stopped = cell.stopped
        self._actor_weakref = cell.current_actor  # type: ignore[assignment]
        _REFS[cell.urn] = self

    @property
    def name(self) -> str:
        """The name in the system's registry, or the class name of an actor that has none."""
        return self.cell.name

    def __repr__(self) -> str:
        return f"<ActorRef for {self}>"

    def __str__(self) -> str:
        return f"{self.cell.name} ({self.actor_urn})"

    def tell(self, message: Any) -> None:
        """Send a message and wait for nothing. From any thread.

        Raises `Dead`, `Undeclared`, `Rejected` (mailbox full) or `Fenced`.
        """
        mailbox = self.cell.mailbox
        if mailbox.closed:
            raise ActorDead(f"{self} not found")
        mailbox.post(message)

    def encode(self, message: Any) -> bytes:
        """A message as it would lie in this actor's user lane, for a router to `forward`. Raises `Undeclared`."""
        letter = self.cell.mailbox.seal(message)
        if letter.bulk:
            raise Undeclared(f"{self.name} takes {type(message).__name__} in its bulk lane: tell it")
        body: bytes = letter.body
        return body

    def forward(self, body: bytes) -> None:
        """Send what `encode` made, without decoding it on the way; nothing is coalesced. Otherwise as `tell`."""
        mailbox = self.cell.mailbox
        if mailbox.closed:
            raise ActorDead(f"{self} not found")
        mailbox.send(Letter(body))

    async def send(self, message: Any) -> None:
        """As `tell`, but waits while the user lane is full, unless its policy or its lane is to drop the oldest.

        Not in synchronous handlers: they never wait. Raises `Rejected` where an actor would wait for itself.
        """
        mailbox = self.cell.mailbox
        letter = mailbox.seal(message)
        if not letter.bulk and mailbox.overflow != "drop_oldest":
            await self.cell.wait_room()
        if self.actor_stopped.is_set():
            raise ActorDead(f"{self} not found")
        self.cell.mailbox.send(letter)

    @overload
    def ask(self, message: Any, *, block: Literal[False], timeout: float | None = None) -> ActorFuture[Any]: ...
    @overload
    def ask(self, message: Any, *, block: Literal[True], timeout: float | None = None) -> Any: ...
    @overload
    def ask(self, message: Any, *, block: bool = True, timeout: float | None = None) -> Any: ...
    def ask(  # pyright: ignore[reportIncompatibleMethodOverride] - Any covers the last overload's union
        self, message: Any, *, block: bool = True, timeout: float | None = None
    ) -> Any:
        """Send a message and get the reply: a blocking call in a thread, a future with ``block=False``.

        `timeout` in seconds, 10 by default; then the future fails with `AskTimeout`, and the message, if it still
        waits, is not handled. On an event loop's thread a blocking ask raises `WouldBlock`. Asking the dead fails at
        once.
        """
        timeout_s = ASK_TIMEOUT_S if timeout is None else timeout
        check_fence()
        future: ActorFuture[Any] = ActorFuture()
        if self.actor_stopped.is_set():
            future.try_fail(ActorDead(f"{self} not found"))
        else:
            _check_blocking(block)
            self.cell.ask(message, future, timeout_s, blocking=block)
        if not block:
            return future
        try:
            return future.get(timeout=timeout_s)
        except pykka.Timeout:
            # The deadline on the loop may be a little later, and the loop may have ended.
            future.try_fail(ActorTimeout(f"{self} did not reply within {timeout_s} s"))
            return future.result()

    async def call(self, message: Any, *, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        """`ask`, awaited."""
        return await self.ask(message, block=False, timeout=timeout_s)

    @overload
    def stop(self, *, block: Literal[True], timeout: float | None = None) -> bool: ...
    @overload
    def stop(self, *, block: Literal[False], timeout: float | None = None) -> ActorFuture[bool]: ...
    @overload
    def stop(self, *, block: bool = True, timeout: float | None = None) -> Any: ...
    def stop(  # pyright: ignore[reportIncompatibleMethodOverride] - Any covers the last overload's union
        self, *, block: bool = True, timeout: float | None = None
    ) -> Any:
        """Stop after what was sent before, as pykka documents. `system.stop` and `system.kill` are more urgent."""
        if not self.actor_stopped.is_set():
            _check_blocking(block)
        asked = self.ask(pykka_messages._ActorStop(), block=False, timeout=timeout)

        def was_alive(timeout_s: float | None) -> bool:
            try:
                asked.get(timeout=timeout_s)
            except pykka.ActorDeadError:
                return False
            return True

        future = asked.derive(was_alive, asked)
        return future.get(timeout=timeout) if block else future


def _check_blocking(block: bool) -> None:
    """Raise before anything is sent, rather than after."""
    if block and on_event_loop():
        raise WouldBlock("this thread runs an event loop: pass block=False, and await the future")


register_type(ActorRef, lambda ref: ref.actor_urn, ref_of)
