# mypy: ignore-errors
"""The peer's side of the benchmark: Pipecat's RTVIProcessor and RTVIObserver in a pipeline of their own.

Runs in its own environment (pipecat-ai 1.14.0). What a transport of Pipecat does around the processor is done here too
and counted: JSON bytes are parsed on the way in, the message is dumped to JSON on the way out.

Two shapes. ``default`` is what everybody runs: a PipelineWorker as its constructor makes it (the RTVI processor and
observer are put in by the worker, turn tracking and idle monitoring are on), and a source that broadcasts client
messages as the input transports do. ``lean`` is the peer at its fastest: the processor right behind the source,
tracking and monitoring off.
"""

from __future__ import annotations

import asyncio
import json

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIProcessor
from pipecat.workers.runner import WorkerRunner

from benchmarks.load import Counter, hello, obey, serve


class Source(FrameProcessor):
    """Where a transport's input half stands."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


class Sink(FrameProcessor):
    """Where the bot and a transport's output half stand: audio arrives here, messages become bytes here."""

    def __init__(self, answered):
        super().__init__()
        self.answered = answered

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            json.dumps(frame.message).encode()
            self.answered()
        elif isinstance(frame, InputAudioRawFrame):
            self.answered()
        else:
            await self.push_frame(frame, direction)


class Session:
    """One pipeline with its runner."""

    def __init__(self, source, worker, run, lean):
        self.source, self.worker, self.run, self.lean = source, worker, run, lean

    async def send(self, data):
        message = json.loads(data)
        if self.lean:
            await self.source.push_frame(InputTransportMessageFrame(message=message), FrameDirection.DOWNSTREAM)
        else:
            await self.source.broadcast_frame(InputTransportMessageFrame, message=message)

    async def close(self):
        await self.worker.queue_frame(EndFrame())
        await self.run


def pipeline(source, sink, lean):
    """The worker and its RTVI processor."""
    if not lean:
        worker = PipelineWorker(Pipeline([source, sink]))
        return worker, worker.rtvi
    rtvi = RTVIProcessor()
    observers = [rtvi.create_rtvi_observer()]
    whole = Pipeline([source, rtvi, sink])
    return PipelineWorker(whole, observers=observers, enable_turn_tracking=False, idle_timeout_secs=None), rtvi


class Pipecat:
    """The side, as `load.serve` wants it."""

    def __init__(self, lean=False):
        self.lean = lean

    async def open(self, answered):
        ready = Counter()
        source, sink = Source(), Sink(ready)
        worker, rtvi = pipeline(source, sink, self.lean)
        started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")
        async def on_pipeline_started(worker, frame):
            started.set()

        @rtvi.event_handler("on_client_message")
        async def on_client_message(rtvi, message):
            if message.type == "async":
                await asyncio.sleep(0)
            await rtvi.send_server_response(message, {"celsius": 21})

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        session = Session(source, worker, asyncio.create_task(runner.run()), self.lean)
        await started.wait()
        await session.send(hello())
        await ready.reach(1)
        sink.answered = answered
        return session


def lean(command):
    """The commands for the other shape."""
    return obey(Pipecat(lean=True), command) if command.get("shape") == "lean" else None


if __name__ == "__main__":
    logger.remove()
    asyncio.run(serve(Pipecat(), lean))
