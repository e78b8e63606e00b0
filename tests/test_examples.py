"""Every example runs: as the script it is, and, where it has a bot to talk to, in a session that asks more of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

import rtvi_actors as rtvi
from examples import (
    client_tools,
    crash_and_restart,
    custom_actor,
    echo_bot,
    from_threads,
    inspect_registry,
    mount_in_fastapi,
    supervision,
    ui_worker,
)
from rtvi_actors.client import RtviClient
from rtvi_actors.streams import ServerAudio, ServerText
from rtvi_actors.transports import memory
from tests.serving import serving

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"

SPEECH = b"\x00\x20" * 3200
"""0.2 s at 16 kHz, loud."""
SILENCE = bytes(16_000)
"""0.5 s at 16 kHz."""

PRINTED = {
    "echo_bot.py": (
        '"type":"bot-ready"',
        '"type":"server-response","label":"rtvi-ai","id":"client-message","data":{"t":"weather","d":{"celsius":24}}',
        '"type":"bot-llm-text","label":"rtvi-ai","data":{"text":"hello "}',
        '"type":"bot-llm-stopped"',
    ),
    "client_tools.py": (
        "← llm-function-call-in-progress {",
        "→ llm-function-call-result {",
        "← bot-llm-text {'text': 'You are in Oslo.'}",
    ),
    "custom_actor.py": ('"data":"note 1: milk"', '"data":"note 2: eggs"', '"error":"Invalid message: ID (data.text)"'),
    "simulated_test.py": (
        "0.000000 tell      story -> restaurant/waiter Order",
        "delay     restaurant/waiter -> restaurant/kitchen",
        "crash     restaurant/kitchen",
        "restaurant/kitchen -> probe-1 Served",
    ),
    "supervision.py": (
        "engine starts\nvoice starts\n♪ hello\n",
        "engine starts\nvoice starts\n♪ hello again\n",
        "engine starts\nvoice starts\n" * 6,
        "house gave up on house/speech\ndiary: no speech today\n",
    ),
    "inspect_registry.py": (
        "SESSION  Supervisor  running",
        "├─ audio ",
        "True True",
        "True",
        "Conservation(received=4, delivered=3, answered=1, dropped=0, dead=0, open=0) True",
    ),
    "crash_and_restart.py": (
        "the bot heard 320 bytes",
        "the bot was told: are you there?",
        "Audio was restarted 1 time; incarnation 2",
        "the reference that we had still works: True",
    ),
    "ui_worker.py": (
        "- main [e1]\n",
        '  - button "Green tea, 50 g" [e3] (focused)\n',
        "{'command': 'toast', 'payload': {'title': 'You have opened the teas', 'duration_ms': 2000}}",
        "{'command': 'highlight', 'payload': {'ref': 'e3', 'duration_ms': 1500}}",
        "{'kind': 'group_started'",
        "'worker_name': 'stock', 'status': 'completed'",
        "'worker_name': 'reviews', 'status': 'completed'",
        "{'kind': 'group_completed'",
    ),
    "from_threads.py": (
        "words spoken: 2",
        "closed: the program is done",
        '"type":"server-message","label":"rtvi-ai","data":{"from":"a thread"}',
        '"type":"bot-llm-stopped"',
    ),
}
"""What each script prints, in this order, among other lines."""


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run it as a reader would."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_every_example_is_run_by_these_tests() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTED, "mount_in_fastapi.py"}


def test_the_simulated_example_passes_under_pytest() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rtvi-seeds=10",
            "examples/simulated_test.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout


@pytest.mark.parametrize("script", PRINTED)
def test_the_script_runs_to_its_end_and_prints_what_happened(script: str) -> None:
    done = run(script)
    assert done.returncode == 0, done.stderr
    printed = re.sub(r"session-[0-9a-f]{8}\.\d+", "ID", done.stdout)
    printed = re.sub(r"session-[0-9a-f]{8}", "SESSION", printed)
    at = 0
    for expected in PRINTED[script]:
        found = printed.find(expected, at)
        assert found >= 0, f"{expected!r} is not, or not in its place, in\n{printed}"
        at = found + len(expected)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "example",
    [echo_bot, client_tools, custom_actor, inspect_registry, crash_and_restart, supervision, ui_worker],
    ids=lambda module: module.__name__,
)
async def test_the_example_runs_on_both_event_loops(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    await example.main()
    assert capsys.readouterr().out


def test_the_example_for_threads_runs_in_this_process_too(capsys: pytest.CaptureFixture[str]) -> None:
    from_threads.main()
    assert "words spoken: 2" in capsys.readouterr().out


# -- the echo bot, asked for the rest of what it can do -------------------------------------


def message(kind: str, data: object) -> dict[str, object]:
    return {"label": "rtvi-ai", "type": kind, "id": kind, "data": data}


async def until(client: memory.ClientEnd, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """What the client gets up to the message that is `wanted`; bot audio as a message of type "audio"."""
    got: list[dict[str, Any]] = []
    while not got or not wanted(got[-1]):
        wire = await client.receive()
        if isinstance(wire, ServerText):
            got.append(msgspec.json.decode(wire.data))
        else:
            got.append({"type": "audio", "wire": wire})
    return got


def of_type(kind: str) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message["type"] == kind


@pytest.mark.anyio
async def test_the_echo_bot_stops_in_the_middle_of_its_answer_when_interrupted() -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(echo_bot.EchoBot(), transport):
        await client.send_text(message("client-ready", {"version": "2.2.0"}))
        await client.send_text(message("send-text", {"content": "word " * 1000}))
        await until(client, lambda message: message["type"] == "bot-llm-text" and message["data"]["text"] == "word ")
        await client.send_interruption()
        rest = await until(client, of_type("bot-llm-stopped"))
    kinds = [message["type"] for message in rest]
    assert "bot-interrupted" in kinds
    assert kinds.count("bot-llm-text") < 900


@pytest.mark.anyio
async def test_the_echo_bot_plays_back_what_was_said_between_two_silences() -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(echo_bot.EchoBot(), transport) as session:
        await client.send_text(message("client-ready", {"version": "2.2.0"}))
        for chunk in (SILENCE, SPEECH, SILENCE, SILENCE):
            await client.send_audio(chunk)
            await session.idle()  # as a microphone would: not faster than the bot
        got = await until(client, of_type("bot-stopped-speaking"))
    kinds = list(dict.fromkeys(message["type"] for message in got))
    assert [kind for kind in kinds if kind.endswith("speaking")] == [
        "user-started-speaking",
        "user-stopped-speaking",
        "bot-started-speaking",
        "bot-stopped-speaking",
    ]
    played = [message["wire"] for message in got if message["type"] == "audio"]
    assert all(isinstance(wire, ServerAudio) and wire.sample_rate == 16_000 for wire in played)
    assert b"".join(wire.audio for wire in played) == SPEECH + SILENCE


@pytest.mark.anyio
async def test_the_echo_bot_ignores_audio_that_no_microphone_makes() -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(echo_bot.EchoBot(), transport) as session:
        await client.send_text(message("client-ready", {"version": "2.2.0"}))
        for rate_hz in (1, 3_999, 384_000):
            await client.send_audio(SPEECH, rate_hz, 1)
        await client.send_audio(SPEECH, 48_000, 2)
        await client.send_audio(SILENCE, 8_000, 1)  # another format: what was collected does not go on
        await session.idle()
        kinds = [msgspec.json.decode(wire.data)["type"] for wire in client.drain() if isinstance(wire, ServerText)]
    assert [kind for kind in kinds if kind.endswith("speaking")] == ["user-started-speaking"]
    assert "error" not in kinds


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("payload", "kind", "said"),
    [
        ({"city": "Oslo"}, "server-response", {"t": "weather", "d": {"celsius": 7}}),
        ({"city": "Atlantis"}, "error-response", {"error": "no weather for Atlantis"}),
    ],
)
async def test_the_echo_bot_answers_or_refuses_the_request(payload: object, kind: str, said: object) -> None:
    transport, client = memory.pair()
    async with rtvi.open_session(echo_bot.EchoBot(), transport):
        await client.send_text(message("client-ready", {"version": "2.2.0"}))
        await client.send_text(message("client-message", {"t": "weather", "d": payload}))
        got = await until(client, of_type(kind))
    assert got[-1]["data"] == said


# -- mounted, over a real socket ---------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_mounted_bot_answers_beside_the_routes_of_its_host() -> None:
    with serving(mount_in_fastapi.app) as address:
        async with RtviClient.connect(f"ws://{address}/voice/ws") as client:
            await client.send_text("Ada")
            assert (await client.wait_for("bot-llm-text")).data == {"text": "Hello, Ada."}
            assert await home_page(address) == {"bot": "/voice/"}


async def home_page(address: str) -> Any:
    """What FastAPI's own route says."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"http://{address}/")).json()
