from __future__ import annotations

import functools
import math
from typing import Any

import pytest
from msgspec import structs

from rtvi_actors.reporting import FunctionCallReportLevel, ObserverParams, checked_changes

FULL = FunctionCallReportLevel.FULL

OFF = {
    "bot_audio_level_enabled",
    "bot_llm_marker_enabled",
    "llm_raw_text_enabled",
    "stt_raw_text_enabled",
    "system_logs_enabled",
    "tts_raw_text_enabled",
    "user_audio_level_enabled",
    "vad_user_speaking_enabled",
}
"""What pipecat-ai 1.14.0 has off by default; all else is on (PROTOCOL.md 2.1)."""


def upper(text: str, kind: str) -> str:
    return text.upper()


async def later(text: str, kind: str) -> str:
    return text


class Later:
    async def __call__(self, text: str, kind: str) -> str:
        return text


def test_the_defaults_are_the_peers() -> None:
    params = structs.asdict(ObserverParams())
    assert {name for name, value in params.items() if value is False} == OFF
    others = {name: value for name, value in params.items() if not isinstance(value, bool)}
    assert others == {
        "ignored_sources": frozenset(),
        "skip_text_types": frozenset(),
        "bot_output_transforms": (),
        "audio_level_period_secs": 0.15,
        "function_call_report_level": {"*": FunctionCallReportLevel.NONE},
    }


def test_a_level_is_by_name_then_by_star_then_none() -> None:
    assert ObserverParams(function_call_report_level={"f": FULL}).level_of("g") is FunctionCallReportLevel.NONE
    params = ObserverParams(function_call_report_level={"f": FULL, "*": FunctionCallReportLevel.DISABLED})
    assert (params.level_of("f"), params.level_of("g")) == (FULL, FunctionCallReportLevel.DISABLED)


def test_each_level_has_what_those_before_it_have() -> None:
    assert list(FunctionCallReportLevel) == ["disabled", "none", "name", "arguments", "full"]


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("ignored_sources", ["eval", "eval"], frozenset({"eval"})),
        ("skip_text_types", {"code": 1}, frozenset({"code"})),
        ("bot_output_transforms", [["*", upper], ("code", upper)], (("*", upper), ("code", upper))),
        ("audio_level_period_secs", 1, 1.0),
        ("function_call_report_level", {"f": "full", "*": FULL}, {"f": FULL, "*": FULL}),
        ("bot_llm_enabled", False, False),
        ("skip_text_types", None, frozenset()),
        ("bot_output_transforms", None, ()),
    ],
)
def test_a_value_is_kept_in_one_form(name: str, given: Any, kept: Any) -> None:
    changes = checked_changes({name: given})
    assert changes == {name: kept}
    assert type(changes[name]) is type(getattr(ObserverParams(), name))
    assert getattr(ObserverParams(**{name: given}), name) == kept


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        ("bot_llm_enabled", 1, TypeError),
        ("bot_llm_enabled", None, TypeError),
        ("ignored_sources", "eval", TypeError),
        ("ignored_sources", [1], TypeError),
        ("audio_level_period_secs", "1", TypeError),
        ("audio_level_period_secs", True, TypeError),
        ("audio_level_period_secs", -1, ValueError),
        ("audio_level_period_secs", math.nan, ValueError),
        ("audio_level_period_secs", math.inf, ValueError),
        ("function_call_report_level", "full", TypeError),
        ("function_call_report_level", {1: "full"}, TypeError),
        ("function_call_report_level", {"f": "everything"}, ValueError),
        ("function_call_report_level", {"f": None}, ValueError),
        ("bot_output_transforms", {"*": upper}, TypeError),
        ("bot_output_transforms", [upper], TypeError),
        ("bot_output_transforms", ["ab"], TypeError),
        ("bot_output_transforms", [("*", upper, upper)], TypeError),
        ("bot_output_transforms", [(1, upper)], TypeError),
        ("bot_output_transforms", [("*", "upper")], TypeError),
        ("bot_output_transforms", [("*", later)], TypeError),
        ("bot_output_transforms", [("*", Later())], TypeError),
        ("bot_output_transforms", [("*", functools.partial(later))], TypeError),
        ("bot_output_transforms", [("*", lambda text: text)], TypeError),
        ("bot_output_transforms", [("*", lambda text, kind, accumulated, remaining: text)], TypeError),
        ("no_such_parameter", True, TypeError),
    ],
)
def test_what_a_parameter_cannot_be_raises_and_names_it(name: str, given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        checked_changes({name: given})
    with pytest.raises(error):
        ObserverParams(**{name: given})
