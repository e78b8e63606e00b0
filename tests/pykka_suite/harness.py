"""pykka's own tests, fetched in the version that is installed, and a process that runs them on a runtime of ours."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO

__all__ = ["CACHE", "FETCH_S", "RUN_S", "VERSION", "NotFetched", "Run", "fetched"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = ROOT / "build" / "pykka-suite"
"""Git ignores it; a folder for each version."""
VERSION = importlib.metadata.version("pykka")
FETCH_S = 120.0
RUN_S = 180.0
"""For a run that hangs: it takes 15 s, most of it pykka's waiting for what does not come (deviations.json)."""


class NotFetched(Exception):
    """The package index was not reached, or has no source package of this version."""


def fetched() -> Path:
    """The folder that has pykka's `tests` in it. Raises `NotFetched`."""
    folder = CACHE / VERSION
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        unpacked = Path(scratch) / "unpacked"
        _unpack_tests(_download(Path(scratch)), unpacked)
        unpacked.rename(folder)  # all of it, or nothing
    return folder


def _download(into: Path) -> Path:
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pykka"),
        *("--retries", "1", "--timeout", "20", "--dest", str(into), f"pykka=={VERSION}"),
    ]
    try:
        pip = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_S
        )
    except subprocess.TimeoutExpired:
        raise NotFetched(f"pip did not fetch it within {FETCH_S:.0f} s") from None
    packages = list(into.glob("*.tar.gz"))
    if not packages:
        raise NotFetched((pip.stderr.strip() or "pip fetched nothing").splitlines()[-1])
    return packages[0]


def _unpack_tests(package: Path, into: Path) -> None:
    """The files in `pykka-VERSION/tests`, and nothing that would lie elsewhere."""
    with tarfile.open(package) as archive:
        for member in archive:
            _, *inner = PurePosixPath(member.name).parts
            content = archive.extractfile(member) if inner[:1] == ["tests"] and ".." not in inner else None
            if content is not None:
                target = into.joinpath(*inner)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())


class Run:
    """pykka's tests on one runtime, in a process of their own, as their package is called as ours is."""

    def __init__(self, runtime: str, folder: Path, log: Path) -> None:
        self.runtime = runtime
        self.log = log
        with log.open("wb") as sink:
            self._process = _start(runtime, folder, sink)

    def wait(self) -> int:
        """Its exit status, when it has ended; -1 where it took too long."""
        try:
            return self._process.wait(RUN_S)
        except subprocess.TimeoutExpired:
            self.end()
            return -1

    def end(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.wait()

    @property
    def summary(self) -> str:
        """pytest's last line: how many passed, and how many deviate."""
        return (self.log.read_text(errors="replace").strip() or "no output").splitlines()[-1]


def _start(runtime: str, folder: Path, sink: IO[bytes]) -> subprocess.Popen[bytes]:
    options = ("-c", str(HERE / "suite.ini"), "--rootdir", str(folder), "--confcutdir", str(folder))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "pykka_runtimes", *options, "--runtime", runtime, "tests"],
        cwd=folder,
        env={
            **environment,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join((str(HERE), str(ROOT))),
        },
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
    )
