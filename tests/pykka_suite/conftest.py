"""What the tests here stand on: pykka's tests at hand, and a run of them for each runtime, all at once.

Where the package index is not reached they are skipped and the terminal says so at its end; with CI set that is a
failure, because a skip that nobody sees is a test that does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pykka_suite.harness import VERSION, NotFetched, Run, fetched
from tests.pykka_suite.pykka_runtimes import RUNTIMES

LACKS = pytest.StashKey[str]()
RAN = pytest.StashKey[list[Run]]()


@pytest.fixture(scope="session")
def suite(pytestconfig: pytest.Config) -> Path:
    """Skip, or under CI fail, where pykka's tests cannot be had."""
    try:
        return fetched()
    except NotFetched as error:
        reason = f"pykka {VERSION}'s source package was not fetched: {error}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytestconfig.stash[LACKS] = reason
    pytest.skip(reason)


@pytest.fixture(scope="session")
def runs(
    suite: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Run]]:
    """A run for each runtime. They wait more than they work: together they take as long as one."""
    logs = tmp_path_factory.mktemp("pykka")
    started = {runtime: Run(runtime, suite, logs / f"{runtime}.log") for runtime in RUNTIMES}
    pytestconfig.stash[RAN] = list(started.values())
    yield started
    for run in started.values():
        run.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say aloud that pykka's tests did not run, or how many did."""
    reason = config.stash.get(LACKS, None)
    if reason is not None:
        terminalreporter.section("NO TEST OF PYKKA'S RAN", red=True, bold=True)
        terminalreporter.line(reason, red=True)
    for run in config.stash.get(RAN, []):
        terminalreporter.line(f"pykka {VERSION}'s tests on {run.runtime}: {run.summary}")
