"""The two processes of the browser tests: the server under test, and the driver of the browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE_S = 20.0
POLL_S = 0.05
SERVER_STOPS_S = 15.0
DRIVER_ANSWERS_S = 90.0
"""A scenario ends itself after 40 s; this is for a driver that hangs or died."""

Json: TypeAlias = dict[str, Any]
Drive: TypeAlias = Callable[[str], Json]
"""Runs a scenario by its name; returns its report."""


def missing() -> list[str]:
    """What this machine lacks for the browser tests."""
    chromium = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
    needs = {
        "node": shutil.which("node") is not None,
        "chromium (or CHROMIUM=/its/path)": chromium.exists(),
        "tests/e2e/node_modules (make makes it, given npm)": all(
            (HERE / "node_modules" / name).is_dir() for name in ("playwright-core", "@pipecat-ai/client-react")
        ),
    }
    return [name for name, there in needs.items() if not there]


class Server:
    """`rtvi-actors serve` in a process of its own."""

    def __init__(self, bot: str, log: Path) -> None:
        self.origin = ""
        """Known when it is ready: it chooses a free port itself."""
        self.log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from rtvi_actors.cli import main; main()"),
                    *("serve", bot, "--demo", "--open-origins", "--port", "0"),
                ],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    def wait_ready(self) -> None:
        """Return when it has announced its address."""
        announced = re.compile(r"^Serving on (http://\S+)$", re.MULTILINE)
        self.until("the server is up", lambda: announced.search(self.log.read_text()) is not None)
        found = announced.search(self.log.read_text())
        assert found is not None
        self.origin = found[1]

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Ask again and again; fails with the log's end when the server ended or took too long."""
        deadline = time.monotonic() + PATIENCE_S
        pause = threading.Event()
        while not condition():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"waited in vain until {what}:\n{self.log.read_text()[-4000:]}")
            pause.wait(POLL_S)

    def get(self, path: str) -> Any:
        """A JSON answer."""
        with urllib.request.urlopen(self.origin + path, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def stop(self) -> int:
        """Interrupt it as Ctrl-C does; returns its exit status. One that does not end is killed, and fails the run."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(SERVER_STOPS_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


class Driver:
    """`drive.mjs`: one scenario at a time, asked for and answered in JSON lines."""

    def __init__(self, origin: str, log: Path) -> None:
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                ["node", str(HERE / "drive.mjs"), origin],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
            )
        self._log = log
        assert self._answer() == {"ready": True}

    def run(self, scenario: str) -> Json:
        """What the scenario found; an `AssertionError` where it did not get to its end."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps({"scenario": scenario}) + "\n")
        stdin.flush()
        report = self._answer()
        assert report["ok"], _brief(report)
        return report

    def _answer(self) -> Json:
        guard = threading.Timer(DRIVER_ANSWERS_S, self._process.kill)
        guard.start()
        try:
            line = _stdout(self._process).readline()
        finally:
            guard.cancel()
            guard.join()
        assert line, f"the driver ended:\n{self._log.read_text()[-4000:]}"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def stop(self) -> None:
        """End of input ends the driver, and Chromium with it."""
        self._process.communicate(timeout=SERVER_STOPS_S)


def _brief(report: Json) -> str:
    """To be read: of what crossed the wire, the types."""
    wire = {way: " ".join(message["type"] for message in messages) for way, messages in report["wire"].items()}
    return json.dumps({**report, "wire": wire}, indent=2)


def _stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout
