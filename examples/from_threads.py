"""A program of plain threads: the actors have a thread of their own, and everything here blocks."""

from __future__ import annotations

import msgspec

import rtvi_actors as rtvi
from rtvi_actors.transports import memory


class Spoken(msgspec.Struct, frozen=True, tag=True):
    """How many words has the bot said?"""


class Parrot(rtvi.Bot):
    words = 0

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            for word in turn.messages[-1].content.split():
                self.words += 1
                await out.text(f"{word} ")

    async def on_spoken(self, _: Spoken) -> int:
        return self.words


def main() -> None:
    transport, client = memory.pair()
    with rtvi.start_blocking_system() as system, rtvi.open_blocking_session(system, Parrot, transport) as session:
        session.control.set_client_ready()  # control is safe on any thread
        session.control.send_server_message({"from": "a thread"})
        text = {"label": "rtvi-ai", "type": "send-text", "id": "1", "data": {"content": "pretty polly"}}
        system.run_async(lambda: client.send_text(text)).get()  # a client in memory lives on the system's loop
        system.run_async(session.idle).get()
        print("words spoken:", session.actor("bot").ask(Spoken()))
        session.control.end("the program is done")
        print("closed:", system.run_async(session.wait_closed).get())
    print(*client.drain(), sep="\n")


if __name__ == "__main__":
    main()
