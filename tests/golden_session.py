"""One story, told to a client of each version: what it gets, message for message (`golden_sessions/`).

To write the golden files anew, and read their difference before keeping it::

    python -m tests.golden_session
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import anyio

import rtvi_actors as rtvi
from rtvi_actors.protocol import server
from tests.session_kit import READY, Call, Wire, calling, virtual_time

__all__ = ["GOLDEN", "VERSIONS", "tell"]

GOLDEN: Final = Path(__file__).parent / "golden_sessions"
VERSIONS: Final = ("0.3.0", "1.0.0", "1.2.0", "2.0.0", "2.1.0", "2.2.0")
RATE_HZ: Final = 16_000
PARAMS: Final = rtvi.ObserverParams(
    vad_user_speaking_enabled=True,
    bot_llm_marker_enabled=True,
    stt_raw_text_enabled=True,
    llm_raw_text_enabled=True,
    tts_raw_text_enabled=True,
    function_call_report_level={"*": rtvi.FunctionCallReportLevel.FULL},
)
WHEN: Final = "2026-01-01T00:00:00Z"


class Teller(rtvi.Bot):
    """Does in its turns what a bot may do."""

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        await getattr(self, f"tell_{turn.messages[-1].content}")()

    async def tell_text(self) -> None:
        async with self.response() as out:
            await out.text("Just ")
            await out.text("text.")

    async def tell_speech(self) -> None:
        async with self.response() as out:
            await out.say("One two.", bytes(RATE_HZ), RATE_HZ)
            await out.say("Never heard to its end.", bytes(10 * RATE_HZ), RATE_HZ)
            await anyio.sleep_forever()

    async def tell_stack(self) -> None:
        """A speech stack of the host's own, with word timestamps."""
        self.tts_started()
        self.bot_text("Three four.", segment_id=100)
        self.bot_started_speaking()
        self.tts_text("Three", kind="word", segment_id=100)
        self.bot_text_progress(100, "Three", " four.")
        self.tts_text("four.", kind="word", segment_id=100)
        self.bot_text_progress(100, "Three four.", "")
        self.bot_text("mhm", kind="backchannel", segment_id=101)
        self.tts_text("mhm", kind="backchannel", segment_id=101)
        self.bot_text("f(x)", kind="code", will_be_spoken=False)
        self.bot_stopped_speaking()
        self.tts_stopped()

    async def tell_tool(self) -> None:
        place = await self.call_client("get_location", {"accuracy": "high"})
        self.send_server_message(place)

    async def tell_page(self) -> None:
        self.ui_command("wave")
        with self.job_group(workers=["search"], label="Search", job_id="j1") as group:
            group.update("search", {"found": 1})

    @rtvi.request("ask")
    async def ask(self) -> dict[str, bool]:
        return {"answered": True}

    def report(self) -> None:
        """What a host reports besides."""
        self.user_mute_started()
        self.user_mute_stopped()
        self.vad_user_started_speaking()
        self.user_started_speaking()
        self.transcription("hel", "u", WHEN, final=False)
        self.transcription("hello", "u", WHEN)
        self.vad_user_stopped_speaking()
        self.user_stopped_speaking()
        self.user_backchannel("mhm", "u", WHEN)
        self.llm_context([{"role": "user", "content": "hello"}])
        self.llm_marker("● hi", "●", "complete", ["●", "○"])
        self.function_calls_started([("f", "c1", {"a": 1})])
        self.function_call_in_progress("f", "c1", {"a": 1})
        self.function_call_result("f", "c1", 0)
        self.metrics(server.MetricsData(ttfb=(server.ProcessorValue("llm", 0.5, "m"),)))
        self.error("the microphone is off")


async def play(version: str) -> list[Wire]:
    """The story."""
    bot = Teller()
    async with calling(bot, ready=False, observer=PARAMS, playing_rate_hz=RATE_HZ) as call:
        heard: list[Wire] = []
        data = None if version.startswith("0.") else {**READY, "version": version}
        await call.send("client-ready", "r1", data)
        heard += await call.heard()
        bot.report()
        heard += await call.heard()
        await call.say("text", "s1")
        heard += await call.heard()
        await call.say("speech", "s2")
        await anyio.sleep(1.5)  # until it is interrupted, in the midst of its second sentence
        await call.say("stack", "s3")
        heard += await call.heard()
        await call.say("tool", "s4")
        heard += await call.until(is_client_call)
        await answer(call, heard[-1])
        heard += await call.heard()
        await call.say("page", "s5")
        heard += await call.heard()
        await call.ask("ask", msg_id="q1")
        heard += await call.heard()
        await call.send("no-such-type", "q2")
        heard += await call.heard()
        await call.send("send-text", "q3", {"content": 5})
        return heard + await call.heard()


def is_client_call(wire: Wire) -> bool:
    """Whether it makes this client's SDK run the function."""
    asks = wire["type"] in ("llm-function-call", "llm-function-call-in-progress")
    return asks and wire["data"].get("function_name") == "get_location"


async def answer(call: Call, asked: Wire) -> None:
    """As the SDK does it."""
    named = {name: asked["data"][name] for name in ("function_name", "tool_call_id")}
    await call.send("llm-function-call-result", "t1", {**named, "arguments": {}, "result": {"city": "Rome"}})


ERROR_ID: Final = re.compile(r"session-[0-9a-f]+\.\d+")
VOLATILE: Final[dict[str, Any]] = {
    "library_version": "<version>",
    "timestamp": "<now>",
    "tool_call_id": "<id>",
    "at": 0,
}


def steady(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {
            name: VOLATILE[name] if name in VOLATILE and item not in (WHEN, "c1") else steady(item)
            for name, item in value.items()
        }
    return ERROR_ID.sub("<error id>", value) if isinstance(value, str) else value


def tell(version: str) -> list[str]:
    """What a client of this version gets, a line each."""
    backend, options = virtual_time()
    wires = anyio.run(play, version, backend=backend, backend_options=options)
    return [json.dumps(steady(wire), ensure_ascii=False, sort_keys=True) for wire in wires]


def main() -> None:
    """Write the golden files."""
    for version in VERSIONS:
        (GOLDEN / f"{version}.jsonl").write_text("".join(f"{line}\n" for line in tell(version)), encoding="utf-8")


if __name__ == "__main__":
    main()
