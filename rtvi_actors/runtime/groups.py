"""Asynchronous handlers: an actor's jobs, in groups, each group with its own tasks.

A group is serial (concurrency 1) or a bounded pool. Its tasks are made when first needed and kept, parked, between
jobs: making one per message costs 9.6 µs, waking a parked one 0.3 µs (measured). Cancelling is a request to the one
handler that runs. A handler that refuses is given up after a grace: its worker is fenced (what it sends is refused), no
longer interrupted (so that it does not spin), and replaced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from rtvi_actors.errors import Dead, HandlerTimeout, Rejected
from rtvi_actors.runtime.backend import Attempt, Backend, loops_own
from rtvi_actors.runtime.clock import Timer, Timers
from rtvi_actors.runtime.context import CURRENT
from rtvi_actors.runtime.mailbox import Letter

__all__ = ["Group", "GroupSpec", "Job", "JobOwner"]


class GroupSpec(msgspec.Struct, frozen=True):
    """The bounds of a group."""

    concurrency: int = 1
    max_queued: int = 256
    """Jobs that wait. One more raises `Rejected` in the submitter."""
    grace_s: float = 1.0
    """How long a cancelled handler may take before it is given up."""
    timeout_s: float | None = None
    """How long a job may run before it is cancelled and counts as failed, with `HandlerTimeout`; `None`: as it
    likes."""
    contain: bool = True
    """Whether a failing job ends only itself; otherwise it crashes the actor."""


class Job(msgspec.Struct, frozen=True):
    """One run of an asynchronous method."""

    method: str
    """Its name: a job that waits over a restart runs on the new instance."""
    arguments: tuple[Any, ...]
    letter: Letter | None = None
    """The letter that this job handles, for its reply."""
    awaitable: Awaitable[Any] | None = None
    """What to await in place of the method (the result of a proxied call)."""


class JobOwner(Protocol):
    """The cell that a group works for."""

    name: str
    backend: Backend
    timers: Timers
    abandoned: int

    @property
    def actor(self) -> Any: ...

    def job_done(self, group: Group, job: Job, result: Any) -> None: ...

    def job_failed(self, group: Group, job: Job, error: BaseException) -> None: ...

    def job_cancelled(self, group: Group, job: Job) -> None: ...

    def job_overflowed(self, job: Job) -> None: ...

    def job_lost(self, job: Job, reason: str) -> None: ...


class Group:
    """The jobs of one kind of one actor. Loop thread only."""

    def __init__(self, owner: JobOwner, name: str, spec: GroupSpec) -> None:
        self.owner = owner
        self.name = name
        self.spec = spec
        self.queue: deque[Job] = deque()
        self.workers: list[_Worker] = []
        self.on_idle: Callable[[], None] | None = None
        """Called whenever nothing runs or waits any more. The owner's, for good."""
        self.closed = False
        self.suspended = False
        """Between two incarnations: what is submitted waits."""

    @property
    def idle(self) -> bool:
        return not self.queue and all(worker.job is None for worker in self.workers)

    @property
    def letters(self) -> int:
        """Messages that are not done: their jobs run or wait."""
        queued = sum(job.letter is not None for job in self.queue)
        return queued + sum(worker.job is not None and worker.job.letter is not None for worker in self.workers)

    @property
    def running(self) -> int:
        """Jobs that run right now."""
        return sum(worker.job is not None for worker in self.workers)

    def check_room(self, job: Job) -> None:
        """Raise `Rejected` where `submit` would go beyond the bound, `Dead` where the actor has stopped."""
        if self.closed:
            raise Dead(f"{self.owner.name} has stopped")
        woken = sum(worker.woken for worker in self.workers)
        waiting, free = len(self.queue) - woken, self.spec.concurrency - self.running - woken
        if self.suspended:
            free = 0
        if waiting >= self.spec.max_queued and free <= 0:
            raise Rejected(f"{self.owner.name}:{self.name}", job.method)

    def submit(self, job: Job) -> None:
        """Queue a job and see that a task runs it.

        One worker is woken per job: two jobs never wait for the same one.
        """
        if self.closed:
            self.owner.job_lost(job, "dead")
            return
        try:
            self.check_room(job)  # several that one handler has submitted arrive together
        except Rejected:
            self.owner.job_overflowed(job)
            return
        self.queue.append(job)
        if self.suspended:
            return
        for worker in self.workers:
            if worker.job is None and not worker.woken:
                worker.woken = True
                worker.parker.unpark()
                return
        if len(self.workers) < self.spec.concurrency:
            self.workers.append(_Worker(self))

    def cancel_running(self) -> int:
        """Cancel the jobs that run, not those that wait; returns how many."""
        count = 0
        for worker in self.workers:
            count += worker.cancel()
        return count

    def cancel_where(self, test: Callable[[Job], bool]) -> int:
        """Cancel the running jobs, and take out the waiting ones, for which `test` holds; returns how many."""
        waiting = [job for job in self.queue if test(job)]
        self.queue = deque(job for job in self.queue if not test(job))
        for job in waiting:
            self.owner.job_lost(job, "cancelled")
        return len(waiting) + sum(worker.cancel() for worker in self.workers if worker.job and test(worker.job))

    def drop_queued(self) -> list[Job]:
        """Take out the jobs that wait."""
        jobs, self.queue = list(self.queue), deque()
        return jobs

    def fence(self) -> list[Job]:
        """Give up all that runs, at once: the actor restarts or dies. Returns the jobs that were running, and those
        that wait with a coroutine of the old instance's."""
        self.suspended = True
        lost = [worker.job for worker in self.workers if worker.job is not None]
        for worker in self.workers:
            worker.retire()
        self.workers = []
        lost += [job for job in self.queue if job.awaitable is not None]
        self.queue = deque(job for job in self.queue if job.awaitable is None)
        return lost

    def close(self) -> list[Job]:
        """The actor is dead: take nothing any more. Returns the jobs that ran or waited."""
        self.closed = True
        return [*self.fence(), *self.drop_queued()]

    def resume(self) -> None:
        """After a restart, or after a worker was given up: see that what waits is run."""
        self.suspended = False
        for _ in range(min(len(self.queue), self.spec.concurrency - len(self.workers))):
            self.workers.append(_Worker(self))


class _Worker:
    """One task of a group."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.fenced = False
        self.actor: Any = None
        self.job: Job | None = None
        self.woken = True
        """It is on its way to the queue: one job there is its own."""
        self.parker = group.owner.backend.parker()
        self._attempt: Attempt | None = None
        self._cancelled = False
        self._overdue = False
        self._deadline: Timer | None = None
        self._grace: Timer | None = None
        group.owner.backend.spawn(self._main, f"{group.owner.name}:{group.name}")

    async def _main(self) -> None:
        while not self.fenced:
            self.woken = False
            if not self.group.queue:
                await self.parker.park()
                continue
            self.job = self.group.queue.popleft()
            await self._run(self.job)

    async def _run(self, job: Job) -> None:
        owner, group = self.group.owner, self.group
        self.actor = owner.actor
        self._cancelled = self._overdue = False
        self._attempt = owner.backend.attempt()
        if group.spec.timeout_s is not None:
            self._deadline = owner.timers.after(group.spec.timeout_s, self._expire)
        CURRENT.set(self)
        try:
            awaitable = job.awaitable or getattr(self.actor, job.method)(*job.arguments)
            was_cancelled, result = await self._attempt.run(awaitable)
        except BaseException as error:
            if loops_own(error):
                raise
            self._finish()
            if not self.fenced:
                owner.job_failed(group, job, error)
        else:
            self._finish()
            if self.fenced:
                return
            if was_cancelled:
                self._end_cancelled(job)
            else:
                owner.job_done(group, job, result)
        if not self.fenced and group.on_idle is not None and group.idle:
            group.on_idle()

    def _finish(self) -> None:
        self.job = None
        self._attempt = None
        self.actor = None
        CURRENT.set(None)  # what follows is the cell's doing, a restart even; the fence is the handler's
        self._cancel_timers()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._grace):
            if timer is not None:
                timer.cancel()
        self._deadline = self._grace = None

    def _expire(self) -> None:
        """The job has had its time."""
        self._deadline = None
        self._overdue = self.cancel()

    def _end_cancelled(self, job: Job) -> None:
        """A job that was cancelled has ended, or was given up."""
        owner = self.group.owner
        if self._overdue:
            owner.job_failed(self.group, job, HandlerTimeout(f"not done within {self.group.spec.timeout_s:g} s"))
        else:
            owner.job_cancelled(self.group, job)

    def cancel(self) -> bool:
        """Ask the running handler to end, once."""
        if self.job is None or self._attempt is None or self._cancelled:
            return False
        self._cancelled = True
        self._attempt.cancel()
        owner = self.group.owner
        self._grace = owner.timers.after(self.group.spec.grace_s, self._give_up)
        return True

    def _give_up(self) -> None:
        """The handler refused: fence it, stop interrupting it, and let another task go on with the group."""
        job, group = self.job, self.group
        self._grace = None
        if job is None or self.fenced:
            return
        group.owner.abandoned += 1
        group.workers.remove(self)
        self.fenced = True
        if self._attempt is not None:
            self._attempt.abandon()
        self._end_cancelled(job)
        group.resume()
        if group.on_idle is not None and group.idle:
            group.on_idle()

    def retire(self) -> None:
        """End this worker: cancel what runs, once, and let the task end by itself."""
        self.fenced = True
        self._cancel_timers()
        attempt = self._attempt
        if self.job is None or attempt is None:
            self.parker.unpark()
            return
        if not self._cancelled:
            self._cancelled = True
            attempt.cancel()
        self._grace = self.group.owner.timers.after(self.group.spec.grace_s, self._abandon)

    def _abandon(self) -> None:
        """The retired handler refused as well: stop interrupting it, so that it does not spin."""
        self._grace = None
        if self._attempt is not None:
            self.group.owner.abandoned += 1
            self._attempt.abandon()
