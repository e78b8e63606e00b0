"""`ThreadingActor`: for handlers that block. Same declarations, mailbox, supervision and reference; a thread of its own.

Handlers run on the actor's thread, staged as on the loop. The decision to restart is the supervisor's, on the loop; the new instance
is made on the thread again. A handler that never returns holds up only its own actor.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from rtvi_actors.errors import DeclarationError
from rtvi_actors.runtime.actor import AnyioActor, Cell, Host
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.mailbox import Letter

__all__ = ["ThreadingActor"]


class ThreadCell(Cell):
    """A cell whose letters are handled on a thread. What the loop decides reaches the thread over `_wake`."""

    def attach(self, host: Host) -> None:
        super().attach(host)
        self._wake = threading.Condition()
        self._started: ActorFuture[None] = ActorFuture()
        self.mailbox.thread_id = None  # deque appends are atomic: no bridge into a thread
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def incarnate(self) -> None:
        """Make the instance here, in the thread that runs it; on the loop, have the thread do it."""
        if threading.current_thread() is self._thread:
            super().incarnate()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name=self.name, daemon=True)
            self._thread.start()
        # The first start waits for on_start, as the caller is to be told of its failure; a restart does not wait.
        if self.generation == 0:
            _wait(self._started)
        else:
            self.state = "incarnating"
            self.notify()

    def _main(self) -> None:
        try:
            super().incarnate()
        except BaseException as error:
            self._started.try_fail(error)
            return
        self._started.try_set(None)
        while self.state != "dead":
            with self._wake:
                if not self._busy():
                    self._wake.wait(timeout=1.0)
            if self.state == "incarnating":
                self._incarnate_again()
            else:
                self.run(1)

    def _busy(self) -> bool:
        mailbox = self.mailbox
        return self.state in ("incarnating", "dead") or bool(mailbox.control or (mailbox.user and self.state == "running"))

    def _incarnate_again(self) -> None:
        try:
            super().incarnate()
        except BaseException as error:
            self.state = "restarting"
            self._tell_parent(error)

    def _failed(self, letter: Letter | None, error: BaseException, job: Any = None) -> None:
        parent, self.parent = self.parent, None
        try:
            if parent is None:
                super()._failed(letter, error, job)
                return
            self.parent = _Deferred(self, parent)
            super()._failed(letter, error, job)
        finally:
            self.parent = parent

    def _tell_parent(self, error: BaseException) -> None:
        parent = self.parent
        if parent is None:
            self.finish("crashed")
        else:
            self.host.backend.soon_from_thread(lambda: parent.child_failed(self, error))

    def finish(self, reason: str) -> None:
        super().finish(reason)
        self.notify()


class _Deferred:
    """Stands in for the supervisor while a handler's crash is dealt with on the actor's thread: the decision is the loop's."""

    def __init__(self, cell: ThreadCell, parent: Any) -> None:
        self.name = parent.name
        self._cell = cell
        self._parent = parent

    def child_failed(self, cell: Cell, error: BaseException) -> None:
        parent = self._parent
        cell.host.backend.soon_from_thread(lambda: parent.child_failed(cell, error))

    def child_stopped(self, cell: Cell) -> None:
        parent = self._parent
        cell.host.backend.soon_from_thread(lambda: parent.child_stopped(cell))


def _wait(future: ActorFuture[None]) -> None:
    """Block until the thread has started the actor: its own `on_start` decides how long."""
    event = threading.Event()
    future.when_done(event.set)
    event.wait()
    future.result()


class ThreadingActor(AnyioActor):
    """An actor on its own thread, for blocking code. Handlers are synchronous; what they send is staged all the same."""

    cell_class: ClassVar[type[Cell]] = ThreadCell

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.declaration is not None and cls.declaration.asynchronous:
            raise DeclarationError(f"{cls.__qualname__}: a ThreadingActor's handlers are synchronous")
