"""Look into a running session: every actor has a name, is in pykka's registry, and says what it did."""

from __future__ import annotations

import anyio
import pykka

import rtvi_actors as rtvi
from rtvi_actors.inspection import render, tree
from rtvi_actors.transports import memory


class QuietBot(rtvi.Bot):
    """Takes audio and says nothing."""


async def main() -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(QuietBot(), transport) as session:
        for _ in range(3):
            await client.send_audio(bytes(640))
        await client.send_text(b"not RTVI at all")
        await session.idle()

        print(render(tree(rtvi.statistics())))  # every actor of the process, each under its supervisor

        [audio] = pykka.ActorRegistry.get_by_class_name("Audio")
        print(audio == session.actor("audio"), audio.is_alive())  # pykka's registry knows the very same references

        found = session.system.get(f"{session.id}/bot")  # by name, in O(1)
        print(found == session.actor("bot"))

        counts = session.statistics().conservation  # where every wire message went
        print(counts, counts.holds)


if __name__ == "__main__":
    anyio.run(main)
