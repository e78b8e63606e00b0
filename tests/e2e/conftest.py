"""What the browser tests stand on: a served bot, and Chromium behind `drive.mjs`, both once for all tests.

Where node, npm's packages or Chromium are missing the tests are skipped and the terminal says so at its end; with
CI set that is a failure, because a skip that nobody sees is a test that does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Drive, Driver, Server, missing

LACKS = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config) -> None:
    """Skip, or under CI fail, where the browser tests cannot run."""
    lacks = missing()
    if not lacks:
        return
    reason = f"browser tests need {', '.join(lacks)}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytestconfig.stash[LACKS] = reason
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say aloud that the browser tests did not run."""
    reason = config.stash.get(LACKS, None)
    if reason is not None:
        terminalreporter.section("NO BROWSER TEST RAN", red=True, bold=True)
        terminalreporter.line(reason, red=True)


@pytest.fixture(scope="session")
def server(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The e2e bot, served."""
    served = Server("tests/e2e/bot.py:E2EBot", tmp_path_factory.mktemp("e2e") / "server.log")
    try:
        served.wait_ready()
        yield served
    finally:
        status = served.stop()
    assert status == 0, served.log.read_text()[-4000:]


@pytest.fixture(scope="session")
def drive(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    """Run a scenario in the browser: its name to its report."""
    driver = Driver(server.origin, tmp_path_factory.mktemp("e2e") / "driver.log")
    try:
        yield driver.run
    finally:
        driver.stop()
