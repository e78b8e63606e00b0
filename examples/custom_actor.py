"""An actor of your own in a session, supervised like the others: `Notes` serves client messages of type ``note``.

It crashes in between and goes on where it was: its count is in the snapshot that it handed out.
"""

from __future__ import annotations

import anyio
import msgspec

import rtvi_actors as rtvi
from rtvi_actors.transports import memory


class NoteText(msgspec.Struct):
    text: str


class Note(msgspec.Struct, frozen=True, tag=True):
    """What the bot gets. A message between actors is a frozen, tagged Struct."""

    number: int
    text: str


class Notes(rtvi.Concern):
    count = 0

    def restore(self, state: int) -> None:
        self.count = state

    def on_received(self, message: rtvi.Received) -> None:
        try:
            note = msgspec.json.decode(message.data or b"null", type=NoteText)
        except msgspec.DecodeError as error:
            self.refuse(message, rtvi.InvalidData("data.text", reply_id=message.id, detail=str(error)))
            return
        self.count += 1
        self.snapshot(self.count)
        self.release(message, Note(self.count, note.text))


class NotingBot(rtvi.Bot):
    async def on_note(self, note: Note) -> None:
        self.send_server_message(f"note {note.number}: {note.text}")


async def main() -> None:
    transport, client = memory.pair()
    options = rtvi.SessionOptions(actors=(rtvi.CustomActor("notes", Notes, routes=("note",)),))
    async with rtvi.open_session(NotingBot(), transport, options=options) as session:
        await client.send_text({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": {"version": "2.2.0"}})
        for text in ("milk", "eggs", None):
            await client.send_text({"label": "rtvi-ai", "type": "note", "id": "2", "data": {"text": text}})
            await session.idle()
            session.system.crash(session.actor("notes"))
        print(*client.drain(), sep="\n")


if __name__ == "__main__":
    anyio.run(main)
