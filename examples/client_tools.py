"""A tool that runs in the client: the bot asks where its user is, and the user's page knows.

In a browser the other half is one line of the JavaScript SDK::

    client.registerFunctionCallHandler("get_location", async () => ({ city: "Oslo" }));

As a script it talks to a client in memory that answers as such a page does, and prints what crosses the wire.
"""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

import rtvi_actors as rtvi
from rtvi_actors.streams import ServerText
from rtvi_actors.transports import memory


class Location(msgspec.Struct):
    city: str


class Guide(rtvi.Bot):
    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        try:
            here = await self.call_client("get_location", {"precise": False}, result_type=Location, timeout_s=5.0)
        except rtvi.ClientCallFailed as error:  # no answer in time, or none that is a Location
            await self.answer(f"I cannot tell: {error}.")
        else:
            await self.answer(f"You are in {here.city}.")

    async def answer(self, text: str) -> None:
        async with self.response() as out:
            await out.text(text)


async def page(client: memory.ClientEnd) -> None:
    """Does what the SDK does in a browser: runs the function that the bot asks for. Ends when the bot has answered."""
    while True:
        wire = await client.receive()
        if not isinstance(wire, ServerText):
            continue
        message = msgspec.json.decode(wire.data)
        print("←", message["type"], message.get("data", ""))
        if message["type"] == "llm-function-call-in-progress":
            await say(client, "llm-function-call-result", {**message["data"], "result": {"city": "Oslo"}})
        if message["type"] == "bot-llm-stopped":
            return


async def say(client: memory.ClientEnd, kind: str, data: dict[str, Any]) -> None:
    print("→", kind, data)
    await client.send_text({"label": "rtvi-ai", "type": kind, "id": kind, "data": data})


async def main() -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(Guide(), transport):
        await say(client, "client-ready", {"version": "2.2.0"})
        await say(client, "send-text", {"content": "where am I?"})
        await page(client)


if __name__ == "__main__":
    anyio.run(main)
