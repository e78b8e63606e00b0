"""The audio actor crashes on purpose. Text and handshake do not notice, and it comes back by itself."""

from __future__ import annotations

import anyio

import rtvi_actors as rtvi
from rtvi_actors.transports import memory


class Listener(rtvi.Bot):
    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        print("the bot was told:", turn.messages[-1].content)

    async def on_client_ready(self, client: rtvi.ClientReady) -> None:
        print("a client is ready, version", client.version)

    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        print("the bot heard", len(frame.audio), "bytes")


async def main() -> None:
    transport, client = memory.pair()

    async def send(kind: str, data: object) -> None:
        await client.send_text({"label": "rtvi-ai", "type": kind, "id": "1", "data": data})

    async with rtvi.open_session(Listener(), transport) as session:
        audio = session.actor("audio")
        await client.send_audio(bytes(320))
        await session.idle()

        session.system.crash(audio, ZeroDivisionError("on purpose"))  # as if a handler had raised it; the log says so
        await send("client-ready", {"version": "2.2.0"})
        await send("send-text", {"content": "are you there?"})
        await client.send_audio(bytes(640))
        await session.idle()

        for actor in session.actors():
            if actor.restarts:
                print(actor.class_name, "was restarted", actor.restarts, "time; incarnation", actor.generation)
        print("the reference that we had still works:", audio.is_alive())


if __name__ == "__main__":
    anyio.run(main)
