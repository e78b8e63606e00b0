"""What is reported to the client: the observer's parameters, with Pipecat's names and defaults (PROTOCOL.md 2.1)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from msgspec import Struct, structs

__all__ = ["FunctionCallReportLevel", "ObserverParams", "TextTransform", "checked_changes"]


class FunctionCallReportLevel(StrEnum):
    """How much of a function call the client hears of; each level has what those before it have."""

    DISABLED = "disabled"
    """Nothing."""
    NONE = "none"
    """That there is one: its `tool_call_id`."""
    NAME = "name"
    ARGUMENTS = "arguments"
    FULL = "full"
    """The result, too."""


TextTransform: TypeAlias = Callable[[str, str], str]
"""Text and its type → the text to show. Plain, quick, and called in the observer; one that raises shows nothing."""


class ObserverParams(Struct, frozen=True):
    """What is reported. Every field may change while the session runs (`configure_observer`).

    Any iterable will do for the sets and the tuple, text for a level. Raises `TypeError` or `ValueError`, which name
    the field.
    """

    bot_output_enabled: bool = True
    bot_llm_enabled: bool = True
    bot_llm_marker_enabled: bool = False
    bot_tts_enabled: bool = True
    bot_speaking_enabled: bool = True
    bot_audio_level_enabled: bool = False
    user_llm_enabled: bool = True
    user_speaking_enabled: bool = True
    vad_user_speaking_enabled: bool = False
    user_mute_enabled: bool = True
    user_transcription_enabled: bool = True
    user_input_enabled: bool = True
    user_audio_level_enabled: bool = False
    metrics_enabled: bool = True
    system_logs_enabled: bool = False
    """Whatever this session's actors log goes to the client, texts and tracebacks of exceptions included; secrets are
    masked as far as they are known as such. Log lines of this session, at most `LOG_LINES_PER_S`."""
    stt_raw_text_enabled: bool = False
    llm_raw_text_enabled: bool = False
    tts_raw_text_enabled: bool = False
    ignored_sources: frozenset[str] = frozenset()
    """Sources of reports (`Commands.source`) that the client does not hear of."""
    skip_text_types: frozenset[str] = frozenset()
    """Types of text that are not shown, nor their words. Generated text has no type: see `bot_llm_enabled`."""
    bot_output_transforms: tuple[tuple[str, TextTransform], ...] = ()
    """For a type of text, or ``*`` for all: what to show instead, one after the other. Generated text is ``sentence``:
    transforms for other types alone leave it as it is."""
    audio_level_period_secs: float = 0.15
    """The least time between two levels of one side, in seconds."""
    function_call_report_level: Mapping[str, FunctionCallReportLevel] = MappingProxyType(
        {"*": FunctionCallReportLevel.NONE}
    )
    """By a function's name, else ``*``, else `NONE`."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            check = _CHECKS.get(name, _switch)
            structs.force_setattr(self, name, check(name, getattr(self, name)))  # type: ignore[no-untyped-call]

    def level_of(self, function_name: str) -> FunctionCallReportLevel:
        """How much of this function's calls is reported."""
        levels = self.function_call_report_level
        return levels.get(function_name, levels.get("*", FunctionCallReportLevel.NONE))


def checked_changes(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Some of the parameters, as `ObserverParams` has them. Raises as it does; `TypeError` for what is none of them."""
    params = structs.replace(ObserverParams(), **changes)
    return {name: getattr(params, name) for name in changes}


# -- one check a kind of field: the value as it is kept --------------------------------


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return value


def _names(name: str, value: Any) -> frozenset[str]:
    if value is None:  # the peer's default: none
        return frozenset()
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be texts, not {type(value).__name__}")
    names = frozenset(value)
    if not all(isinstance(each, str) for each in names):
        raise TypeError(f"{name} must be texts")
    return names


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a number of seconds, 0 or more")
    return float(value)


def _levels(name: str, value: Any) -> Mapping[str, FunctionCallReportLevel]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")
    if not all(isinstance(function, str) for function in value):
        raise TypeError(f"{name} must have the names of functions as keys, or *")
    return MappingProxyType({function: _level(name, level) for function, level in value.items()})


def _level(name: str, value: Any) -> FunctionCallReportLevel:
    try:
        return FunctionCallReportLevel(value)
    except ValueError:
        raise ValueError(f"{name}: a level is one of {', '.join(FunctionCallReportLevel)}") from None


def _transforms(name: str, value: Any) -> tuple[tuple[str, TextTransform], ...]:
    if value is None:
        return ()
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be pairs of a type of text and a function, not {type(value).__name__}")
    return tuple(_transform(name, pair) for pair in value)


def _transform(name: str, pair: Any) -> tuple[str, TextTransform]:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise TypeError(f"{name} must be pairs of a type of text and a function")
    kind, function = pair
    _check_transform(name, function)
    return kind, function


def _check_transform(name: str, function: Any) -> None:
    if not callable(function):
        raise TypeError(f"{name}: {type(function).__name__} is no function")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise TypeError(f"{name}: a transform must be a plain function, not an async one")
    try:
        inspect.signature(function).bind("text", "sentence")
    except TypeError:
        raise TypeError(f"{name}: a transform takes two arguments, the text and its type") from None
    except ValueError:  # a function in C that does not tell
        return


_CHECKS: Final[Mapping[str, Callable[[str, Any], Any]]] = MappingProxyType(
    {
        "ignored_sources": _names,
        "skip_text_types": _names,
        "bot_output_transforms": _transforms,
        "audio_level_period_secs": _seconds,
        "function_call_report_level": _levels,
    }
)
"""Field → its check; all others are switches."""
