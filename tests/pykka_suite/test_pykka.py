"""pykka's own tests pass on our runtimes, but for what differs on purpose (`deviations.json`)."""

from __future__ import annotations

import pytest

from tests.pykka_suite.harness import Run
from tests.pykka_suite.pykka_runtimes import RUNTIMES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_pykkas_own_tests_pass_but_for_the_deviations_on_purpose(runs: dict[str, Run], runtime: str) -> None:
    run = runs[runtime]
    status = run.wait()
    assert status == 0, run.log.read_text(errors="replace")[-12_000:]
