"""A side of the benchmark as a process of its own, seen from the program that asks it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

__all__ = ["ROOT", "Figures", "Worker"]

ROOT = Path(__file__).resolve().parent.parent
Figures: TypeAlias = dict[str, float]
"""What a side answers: a figure by name, the unit in the name."""


class Worker:
    """A side's process. Commands and answers are JSON lines (`load.serve`)."""

    def __init__(self, module: str, python: str, *args: str) -> None:
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.process = subprocess.Popen(
            [python, "-m", module, *args],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **command: Any) -> Figures:
        """One command. Raises `RuntimeError` when the side has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the side died of {command}")
        figures: Figures = json.loads(answer)
        return figures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def kill(self) -> None:
        """End it at once: for one that holds thousands of sessions open, which nobody waits for."""
        self.process.kill()
        self.process.wait()
