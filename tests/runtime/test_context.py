from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rtvi_actors.errors import Fenced
from rtvi_actors.runtime.context import CURRENT, LOCAL, check_fence, commit, later, savepoint


class Task:
    def __init__(self, *, fenced: bool) -> None:
        self.fenced = fenced
        self.actor: Any = None
        self.group: Any = None
        self.job: Any = None


@pytest.fixture
def stage() -> Iterator[list[Any]]:
    LOCAL.stage = []
    yield LOCAL.stage
    LOCAL.stage = None


def test_an_effect_outside_a_handler_happens_at_once() -> None:
    done: list[int] = []
    later(done.append, 1)
    assert done == [1]


def test_an_effect_inside_a_handler_waits_in_the_stage(stage: list[Any]) -> None:
    done: list[int] = []
    later(done.append, 1)
    assert done == []
    assert stage == [(done.append, 1)]


def test_a_commit_lets_everything_leave_in_order_and_once(stage: list[Any]) -> None:
    done: list[int] = []
    later(done.append, 1)
    later(done.append, 2)
    commit()
    commit()
    assert done == [1, 2]
    assert stage == []


def test_a_rollback_takes_back_what_was_staged_since_its_savepoint(stage: list[Any]) -> None:
    done: list[int] = []
    later(done.append, 1)
    rollback = savepoint()
    later(done.append, 2)
    rollback()
    later(done.append, 3)
    commit()
    assert done == [1, 3]


def test_a_rollback_outside_a_handler_does_nothing() -> None:
    savepoint()()


def test_a_fenced_task_can_do_nothing_any_more() -> None:
    token = CURRENT.set(Task(fenced=True))
    try:
        with pytest.raises(Fenced):
            check_fence()
        with pytest.raises(Fenced):
            later(print, 1)
    finally:
        CURRENT.reset(token)
    token = CURRENT.set(Task(fenced=False))
    check_fence()
    CURRENT.reset(token)
