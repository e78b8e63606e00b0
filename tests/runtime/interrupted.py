"""A program that gets a real Ctrl-C: `python -m tests.runtime.interrupted WHERE BACKEND`. Run by test_system.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import anyio
import anyio.lowlevel

from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from tests.runtime.messages import Book, Hold, Note, Recorder


class Busy(Recorder):
    """Interrupts its own process, in the middle of a handler."""

    def on_note(self, message: Note) -> int:
        signal.raise_signal(signal.SIGINT)
        for n in range(1000):  # the signal is noticed somewhere here
            self.seen.append(n)
        print("the handler went on")
        if message.n == 2:
            signal.raise_signal(signal.SIGINT)
            print("never reached")
        return 0

    async def on_hold(self, message: Hold) -> int:
        signal.raise_signal(signal.SIGINT)
        await anyio.lowlevel.checkpoint()
        print("the asynchronous handler went on")
        return 0

    def on_stop(self) -> None:
        print("stopped", self.name)


async def main(where: str) -> None:
    async with ActorSystem() as system:
        specs = [ChildSpec("a", Busy, (Book(),)), ChildSpec("b", Busy, (Book(),))]
        system.spawn(Supervisor, specs, name="s")
        busy = system.get("s/a")
        match where:
            case "handler":
                busy.tell(Note(1))
            case "twice":
                busy.tell(Note(2))
            case "async":
                busy.tell(Hold(1))
            case _:
                threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await anyio.sleep_forever()
        finally:
            print("the body ends")


def run(where: str, backend: str) -> None:
    if backend == "bare":  # a loop without asyncio's runner, and so with Python's own handler of SIGINT
        asyncio.new_event_loop().run_until_complete(main(where))
    else:
        name, _, uvloop = backend.partition("+")
        anyio.run(main, where, backend=name, backend_options={"use_uvloop": True} if uvloop else {})


if __name__ == "__main__":
    try:
        run(*sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
