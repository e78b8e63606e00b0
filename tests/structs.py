"""Hypothesis strategies for the package's Structs, from their types: any value that such a Struct may hold."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType

from rtvi_actors.protocol.codec import to_json
from rtvi_actors.protocol.envelope import Json

__all__ = ["ANY_JSON", "any_of"]

TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=8)
PLAIN: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ANY_JSON: Final = PLAIN.filter(lambda value: value is not None).map(to_json)
"""Not null: where a field may be absent, that means the same."""

SCALARS: Final[Mapping[Any, st.SearchStrategy[Any]]] = {
    str: TEXT,
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=16),
    Json: ANY_JSON,
    UnsetType: st.just(UNSET),
    type(None): st.none(),
    Any: PLAIN,
}


def _tuple(arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return st.lists(any_of(arguments[0]), max_size=3).map(tuple)
    return st.tuples(*map(any_of, arguments))


def _mapping(arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.dictionaries(any_of(arguments[0]), any_of(arguments[1]), max_size=3)


ORIGINS: Final[Mapping[Any, Callable[[tuple[Any, ...]], st.SearchStrategy[Any]]]] = {
    Union: lambda arguments: st.one_of(*map(any_of, arguments)),
    types.UnionType: lambda arguments: st.one_of(*map(any_of, arguments)),
    Literal: st.sampled_from,
    tuple: _tuple,
    Mapping: _mapping,
    dict: _mapping,
}


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type; of a recursive Struct, shallow ones."""
    if kind in SCALARS:
        return SCALARS[kind]
    origin = get_origin(kind)
    if origin in ORIGINS:
        return ORIGINS[origin](get_args(kind))
    if issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    assert issubclass(kind, Struct), f"no strategy for {kind}"
    return st.deferred(lambda: _struct(kind))


def _struct(kind: type[Struct]) -> st.SearchStrategy[Any]:
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for info in msgspec.structs.fields(kind):
        (required if info.required else optional)[info.name] = any_of(info.type)
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: kind(**given))
