from __future__ import annotations

import pytest

from tests.golden_session import GOLDEN, VERSIONS, tell


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_of_a_version_is_told_the_story_of_its_golden_file(version: str) -> None:
    assert tell(version) == (GOLDEN / f"{version}.jsonl").read_text(encoding="utf-8").splitlines()


def test_there_is_a_golden_file_for_each_version_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(VERSIONS)
