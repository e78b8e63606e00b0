"""UI: what the client's page tells the bot (RTVI 1.3 and 1.4). Only what is refused has an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from rtvi_actors import frames
from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import InvalidData
from rtvi_actors.messages import Received
from rtvi_actors.protocol import client
from rtvi_actors.protocol.codec import check_snapshot
from rtvi_actors.protocol.envelope import NULL

__all__ = ["UI"]

Frame: TypeAlias = frames.UIEvent | frames.UISnapshot | frames.UICancelJobGroup


class UI(BuiltIn):
    """ui-event, ui-snapshot, ui-cancel-job-group, and ui-cancel-task, which is what 1.3 called that."""

    def on_received(self, message: Received) -> None:
        try:
            frame = _FRAMES[message.type](self, message)
        except InvalidData as error:
            self.refuse(message, error)
            return
        self.release(message, frame)

    def _event(self, message: Received) -> frames.UIEvent:
        event = self.payload(message, client.UIEvent)
        return frames.UIEvent(message.id, event.event, event.payload or NULL)

    def _snapshot(self, message: Received) -> frames.UISnapshot:
        """The bot gets the client's own JSON: what is checked here is that it can be read as a `Snapshot`."""
        tree = self.payload(message, client.UISnapshot).tree
        check_snapshot(tree, message.id)
        return frames.UISnapshot(message.id, tree)

    def _cancel_job_group(self, message: Received) -> frames.UICancelJobGroup:
        cancel = self.payload(message, client.UICancelJobGroup)
        return frames.UICancelJobGroup(message.id, cancel.job_id, cancel.reason)

    def _cancel_task(self, message: Received) -> frames.UICancelJobGroup:
        cancel = self.payload(message, client.UICancelTask)
        return frames.UICancelJobGroup(message.id, cancel.task_id, cancel.reason)


_FRAMES: Final[Mapping[str, Callable[[UI, Received], Frame]]] = {
    "ui-event": UI._event,
    "ui-snapshot": UI._snapshot,
    "ui-cancel-job-group": UI._cancel_job_group,
    "ui-cancel-task": UI._cancel_task,
}
