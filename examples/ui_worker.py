"""A bot that sees the client's page: it points at what the user asks for, and says how its background work goes.

The page sends itself as an accessibility tree (`on_ui_snapshot`), here by hand; `to_text` is what a prompt would get.
"""

from __future__ import annotations

import anyio
import msgspec

import rtvi_actors as rtvi
from rtvi_actors.frames import UICancelJobGroup, UIEvent, UISnapshot
from rtvi_actors.protocol.ui import Snapshot
from rtvi_actors.streams import ServerText
from rtvi_actors.transports import memory
from rtvi_actors.ui_commands import JobGroup


class ShopBot(rtvi.Bot):
    page: Snapshot | None = None

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, JobGroup] = {}

    async def on_ui_snapshot(self, snapshot: UISnapshot) -> None:
        self.page = snapshot.tree
        print(self.page.to_text())

    async def on_ui_event(self, event: UIEvent) -> None:
        self.toast(f"You have opened {event.data['item']}", duration_ms=2000)

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        """Point at what the user names, and look for more of it in the background."""
        wanted = turn.messages[-1].content.casefold()
        for node in self.page.walk() if self.page else ():
            if node.name and wanted in node.name.casefold():
                self.scroll_to(node.ref, behavior="smooth")
                self.highlight(node.ref, duration_ms=1500)
        with self.job_group(["stock", "reviews"], label=f"Looking for {wanted}") as jobs:
            self.jobs[jobs.job_id] = jobs
            async with anyio.create_task_group() as work:
                for worker in ("stock", "reviews"):
                    work.start_soon(self.look, jobs, worker)
        del self.jobs[jobs.job_id]

    async def look(self, jobs: JobGroup, worker: str) -> None:
        jobs.update(worker, {"progress": 0.5})
        await anyio.sleep(0.01)
        if not jobs.ended:  # the user may have cancelled it
            jobs.complete(worker, response={"found": 3})

    async def on_ui_cancel_job_group(self, cancel: UICancelJobGroup) -> None:
        """Nothing ends by itself: it is the bot that decides."""
        if cancel.job_id in self.jobs:
            self.jobs[cancel.job_id].cancel()


PAGE = {
    "root": {
        "ref": "e1",
        "role": "main",
        "children": [
            {"ref": "e2", "role": "heading", "name": "Teas", "level": 1},
            {"ref": "e3", "role": "button", "name": "Green tea, 50 g", "state": ["focused"]},
        ],
    },
    "captured_at": 1_700_000_000_000,
}


async def main() -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(ShopBot(), transport):
        for kind, data in (
            ("client-ready", {"version": "2.2.0"}),
            ("ui-snapshot", {"tree": PAGE}),
            ("ui-event", {"event": "opened", "payload": {"item": "the teas"}}),
            ("send-text", {"content": "Green tea"}),
        ):
            await client.send_text({"label": "rtvi-ai", "type": kind, "id": kind, "data": data})
        while True:
            wire = await client.receive()
            message = msgspec.json.decode(wire.data) if isinstance(wire, ServerText) else {}
            if message.get("type") in ("ui-command", "ui-job-group"):
                print(message["data"])
            if message.get("data", {}).get("kind") == "group_completed":
                return


if __name__ == "__main__":
    anyio.run(main)
