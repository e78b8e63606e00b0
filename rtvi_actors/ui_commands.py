"""What a bot does to the client's page, and its background jobs: `Bot` and `session.control` have these methods.

Each is one message to the observer, from any thread. What is no such command, and a step of a job group that its rules
forbid (protocol/ui.py), raises here, where it was made; the observer keeps the rules once more, for all groups.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Any, Self

from msgspec import UNSET

from rtvi_actors import frames
from rtvi_actors.errors import ActorError, SessionClosed
from rtvi_actors.protocol import server, ui
from rtvi_actors.protocol.codec import to_json
from rtvi_actors.reports import checked_text
from rtvi_actors.runtime.context import new_uuid, wall_time_s

__all__ = ["JobGroup", "UICommands"]


class UICommands:
    """Commands for the client's page. Where an element is meant, `ref` names it as a snapshot does, or `target_id` as
    the page does; without either they raise `ValueError`."""

    @abstractmethod
    def _to(self, name: str, message: Any) -> None:
        """Send to an actor of the session."""

    def ui_command(self, command: str, payload: Any = None) -> None:
        """A command of the application's own. `None` sends no payload."""
        data = server.UICommandData(checked_text(command, "command"), UNSET if payload is None else to_json(payload))
        self._to("observer", server.UICommand(data=data))

    def toast(
        self,
        title: str,
        subtitle: str | None = None,
        description: str | None = None,
        image_url: str | None = None,
        duration_ms: int | None = None,
    ) -> None:
        """Show a short notice."""
        self._command(ui.Toast(title, subtitle, description, image_url, duration_ms))

    def navigate(self, view: str, params: Mapping[str, Any] | None = None) -> None:
        """Go to a view, as the application names it."""
        self._command(ui.Navigate(view, params))

    def scroll_to(self, ref: str | None = None, *, target_id: str | None = None, behavior: str | None = None) -> None:
        """Scroll an element into view. `behavior` is the browser's, such as ``smooth``."""
        self._command(ui.ScrollTo(ref, target_id, behavior))

    def highlight(
        self, ref: str | None = None, *, target_id: str | None = None, duration_ms: int | None = None
    ) -> None:
        """Point an element out for a while."""
        self._command(ui.Highlight(ref, target_id, duration_ms))

    def focus(self, ref: str | None = None, *, target_id: str | None = None) -> None:
        """Move the input focus to an element."""
        self._command(ui.Focus(ref, target_id))

    def click(self, ref: str | None = None, *, target_id: str | None = None) -> None:
        """Click an element."""
        self._command(ui.Click(ref, target_id))

    def set_input_value(
        self, value: str, ref: str | None = None, *, target_id: str | None = None, replace: bool = True
    ) -> None:
        """Write into a field, over what stands there or, without `replace`, behind it."""
        self._command(ui.SetInputValue(value, ref, target_id, replace))

    def select_text(
        self,
        ref: str | None = None,
        *,
        target_id: str | None = None,
        start_offset: int | None = None,
        end_offset: int | None = None,
    ) -> None:
        """Select an element's text: all of it, or the characters from one offset up to before the other."""
        self._command(ui.SelectText(ref, target_id, start_offset, end_offset))

    def _command(self, command: ui.Command) -> None:
        self.ui_command(command.command, command.payload)

    def job_group(
        self,
        workers: Iterable[str] = (),
        *,
        label: str | None = None,
        cancellable: bool = True,
        job_id: str | None = None,
    ) -> JobGroup:
        """Tell the client that work begins in the background, and tell the rest by the group that this returns::

            with self.job_group(["search", "rank"], label="Looking it up") as jobs:
                jobs.update("search", {"found": 3})
                jobs.complete("search", response=found)

        Without `workers` the group has those that appear. `cancellable` is whether the client may offer the user to
        cancel it: then the bot hears `on_ui_cancel_job_group`, and nothing else happens by itself.

        What only the observer knows is not raised here but logged: 64 groups are open at once, or one of this id; a
        crash of the bot has ended all of them as cancelled, the host's too.
        """
        if isinstance(workers, str):
            raise TypeError("workers must be names, not one name")
        if not isinstance(cancellable, bool):
            raise TypeError(f"cancellable must be a bool, not {type(cancellable).__name__}")
        started = ui.GroupStarted(
            str(new_uuid()) if job_id is None else checked_text(job_id, "job_id"),
            _now_ms(),
            tuple(checked_text(worker, "workers") for worker in workers),
            UNSET if label is None else checked_text(label, "label"),
            cancellable,
        )
        return JobGroup(started, lambda step: self._to("observer", frames.JobReport(step)))


class JobGroup:
    """A group of background jobs, open since it was made (`UICommands.job_group`). Any thread.

    Its methods raise `JobGroupError` for a step that the rules forbid: of a worker that it has not, or that has
    completed; and any once it has ended, which a group with named workers does when the last of them completes. Work
    that may be cancelled from elsewhere (`cancel`) ends by that error at its next step.

    Leaving it as a context manager ends what is open: as ``completed``, after an exception as ``failed``, after a
    cancellation as ``cancelled``.
    """

    def __init__(self, started: ui.GroupStarted, report: Callable[[ui.JobEvent], None]) -> None:
        self.job_id = started.job_id
        self._report = report
        self._jobs = ui.JobGroups()
        self._lock = Lock()
        """What one thread tells is told before the next thread's step is judged. Held for no longer than a `tell`."""
        self._take(started)

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to tell."""
        return not self._jobs.state.groups

    def update(self, worker: str, data: Any = None) -> None:
        """A worker has something to say. Any JSON value; `None` sends none."""
        payload = UNSET if data is None else to_json(data)
        with self._lock:
            self._take(ui.JobUpdate(self.job_id, checked_text(worker, "worker"), _now_ms(), payload))

    def complete(self, worker: str, status: ui.JobStatus = "completed", response: Any = None) -> None:
        """A worker is done: ``completed``, ``cancelled``, ``failed`` or ``error``. Any JSON value; `None` sends
        none."""
        payload = UNSET if response is None else to_json(response)
        with self._lock:
            self._take(ui.JobCompleted(self.job_id, checked_text(worker, "worker"), status, _now_ms(), payload))
            group = self._jobs.state.groups[self.job_id]
            if group.named and not group.open_workers:
                self._take(ui.GroupCompleted(self.job_id, _now_ms()))

    def finish(self, status: ui.JobStatus = "completed") -> None:
        """End the workers that are open, all with one status, and the group. Nothing where it has ended."""
        with self._lock:
            if not self.ended:
                for step in ui.JobGroups(self._jobs.state).finish(self.job_id, status, _now_ms()):
                    self._take(step)

    def cancel(self) -> None:
        """End what is open as cancelled. Nothing where it has ended: it may just have been completed."""
        self.finish("cancelled")

    def _take(self, step: ui.JobEvent) -> None:
        """Judge it, tell it. What could not be told has not happened."""
        before = self._jobs.state
        self._jobs.apply(step)
        try:
            self._report(step)
        except BaseException:
            self._jobs.state = before
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        with suppress(ActorError, SessionClosed):  # nobody is left to hear it; what ended the work is what counts
            self.finish("failed" if isinstance(error, Exception) else "cancelled")


def _now_ms() -> int:
    return int(wall_time_s() * 1000)
