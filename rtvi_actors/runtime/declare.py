"""An actor declares its messages by its handlers' annotations; this file reads them, once, when the class is made.

A handler is a method named ``on_…`` with one parameter (beside self) that is annotated with a tagged frozen Struct, or
a union of them. pykka's hooks (`on_start`, `on_stop`, `on_failure`, `on_receive`) and the names in the class's own
`not_handlers` are none. What cannot be routed fails here: two handlers for one type, a Struct that is not frozen or not
tagged, two types with one tag, an ``on_…`` method whose parameter is something else.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from rtvi_actors.errors import DeclarationError
from rtvi_actors.runtime.mailbox import type_decoder

__all__ = ["PYKKA_HOOKS", "Declaration", "declare", "locals_of_class_statement"]

PYKKA_HOOKS: Final = frozenset(
    {"on_start", "on_stop", "on_failure", "on_receive", "on_handled", "on_error", "on_inspect"}
)
"""Methods named on_… that are hooks of pykka's or of this runtime's."""


class Declaration:
    """What an actor class takes: a handler's name for every message type, and the decoder of their union."""

    __slots__ = ("asynchronous", "decode", "handlers")

    def __init__(self, handlers: Mapping[type, str], asynchronous: frozenset[type]) -> None:
        self.handlers = handlers
        self.asynchronous = asynchronous
        self.decode: Callable[[bytes], Any] = _decoder(tuple(handlers))


def declare(cls: type, not_handlers: frozenset[str], local_names: Mapping[str, Any]) -> Declaration | None:
    """The declaration of an actor class, or `None` where it declares nothing (it then takes objects, as in pykka).

    `local_names` resolves annotations of classes that are local to a function. Raises `DeclarationError`.
    """
    handlers: dict[type, str] = {}
    asynchronous: set[type] = set()
    for name in dir(cls):
        if not name.startswith("on_") or name in PYKKA_HOOKS or name in not_handlers:
            continue
        function = inspect.getattr_static(cls, name)
        if not inspect.isfunction(function):
            continue
        for kind in _message_types(cls, function, local_names):
            if kind in handlers:
                raise DeclarationError(
                    f"{cls.__qualname__}: {name} and {handlers[kind]} both handle {kind.__qualname__}"
                )
            handlers[kind] = name
            if inspect.iscoroutinefunction(function):
                asynchronous.add(kind)
    if not handlers:
        return None
    _check_tags(cls, tuple(handlers))
    return Declaration(handlers, frozenset(asynchronous))


def locals_of_class_statement() -> Mapping[str, Any]:
    """The names where the class is being made, for a caller in `__init_subclass__`: annotations may name what is local
    to a function."""
    frame = sys._getframe(2)
    while frame.f_code.co_name in ("__init_subclass__", "__new__") and frame.f_back is not None:
        frame = frame.f_back  # ours, a subclass's, and ABCMeta's, which is written in Python
    return frame.f_locals


def _message_types(cls: type, function: types.FunctionType, local_names: Mapping[str, Any]) -> tuple[type, ...]:
    where = f"{cls.__qualname__}.{function.__name__}"
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if len(parameters) != 1:
        raise DeclarationError(f"{where} must take exactly one message")
    try:
        hints = typing.get_type_hints(function, localns=dict(local_names))
    except NameError as error:
        raise DeclarationError(f"{where}: {error}") from error
    annotation = hints.get(parameters[0].name)
    kinds = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    for kind in kinds:
        config = getattr(kind, "__struct_config__", None)
        if not isinstance(kind, type) or config is None:
            raise DeclarationError(f"{where} is annotated with {annotation!r}, which is no Struct")
        if not config.frozen or config.tag is None:
            raise DeclarationError(f"{where}: {kind.__qualname__} must be frozen and tagged (frozen=True, tag=True)")
    return typing.cast("tuple[type, ...]", kinds)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _check_tags(cls: type, kinds: tuple[type, ...]) -> None:
    tags: dict[tuple[str, object], type] = {}
    for kind in kinds:
        config = kind.__struct_config__  # type: ignore[attr-defined]
        twin = tags.setdefault((config.tag_field, config.tag), kind)
        if twin is not kind:
            raise DeclarationError(f"{cls.__qualname__}: {twin.__qualname__} and {kind.__qualname__} have one tag")
    if len({field for field, _ in tags}) > 1:
        raise DeclarationError(f"{cls.__qualname__}: its messages must share one tag field")


def _decoder(kinds: tuple[type, ...]) -> Callable[[bytes], Any]:
    """Of a union always: msgspec lets a lone tagged type accept untagged input (msgspec #915)."""
    if len(kinds) > 1:
        return type_decoder(typing.Union[kinds])  # noqa: UP007 - built from a tuple
    config = kinds[0].__struct_config__  # type: ignore[attr-defined]
    tag = "_NoMessage" if isinstance(config.tag, str) else config.tag + 1  # the tags of a union are of one type
    filler = msgspec.defstruct("_NoMessage", [], tag_field=config.tag_field, tag=tag, frozen=True)
    return type_decoder(typing.Union[(*kinds, filler)])
