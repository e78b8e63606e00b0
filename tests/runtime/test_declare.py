from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rtvi_actors.errors import DeclarationError
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.mailbox import encode
from tests.runtime.messages import Note, Plain, Read


class Mutable(msgspec.Struct, tag=True):
    pass


class Untagged(msgspec.Struct, frozen=True):
    pass


class Twin(msgspec.Struct, frozen=True, tag="Note"):
    pass


class Kinded(msgspec.Struct, frozen=True, tag=True, tag_field="kind"):
    pass


class Numbered(msgspec.Struct, frozen=True, tag=7):
    n: int


def test_a_union_declares_each_of_its_members() -> None:
    class Actor(AnyioActor):
        def on_either(self, message: Note | Read) -> None: ...

        async def on_numbered_one(self, message: Kinded) -> None: ...

        not_handlers = frozenset({"on_numbered_one"})

    assert Actor.declaration is not None
    assert Actor.declaration.handlers == {Note: "on_either", Read: "on_either"}
    assert not Actor.declaration.asynchronous


def test_an_asynchronous_handler_is_known_as_such() -> None:
    class Actor(AnyioActor):
        def on_note(self, message: Note) -> None: ...

        async def on_read(self, message: Read) -> None: ...

    assert Actor.declaration is not None
    assert Actor.declaration.asynchronous == {Read}


def test_annotations_may_name_what_is_local_to_a_function() -> None:
    class Local(msgspec.Struct, frozen=True, tag=True):
        pass

    class Base(AnyioActor):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)

    class Actor(Base):
        def on_local(self, message: Local) -> None: ...

    assert Actor.declaration is not None
    assert list(Actor.declaration.handlers) == [Local]


def test_a_subclass_may_override_a_handler() -> None:
    class First(AnyioActor):
        def on_note(self, message: Note) -> None: ...

    class Second(First):
        async def on_note(self, message: Note) -> None:  # type: ignore[override]
            ...

    assert Second.declaration is not None
    assert Second.declaration.asynchronous == {Note}


def test_an_actor_without_handlers_declares_nothing() -> None:
    assert Plain.declaration is None


@pytest.mark.parametrize("kind", [Note, Kinded, Numbered])
def test_a_lone_message_type_does_not_accept_untagged_input(kind: type) -> None:
    annotations = {"message": kind, "return": None}

    def on_it(self: Any, message: Any) -> None: ...

    on_it.__annotations__ = annotations
    actor: Any = type("Actor", (AnyioActor,), {"on_it": on_it})
    assert actor.declaration is not None
    with pytest.raises(msgspec.ValidationError):
        actor.declaration.decode(msgspec.msgpack.encode({"n": 1}))
    whole = kind(1) if kind is not Kinded else kind()
    assert actor.declaration.decode(encode(whole)) == whole


def declare_twice() -> None:
    class Actor(AnyioActor):
        def on_one(self, message: Note) -> None: ...

        def on_two(self, message: Note | Read) -> None: ...


def declare_mutable() -> None:
    class Actor(AnyioActor):
        def on_it(self, message: Mutable) -> None: ...


def declare_untagged() -> None:
    class Actor(AnyioActor):
        def on_it(self, message: Untagged) -> None: ...


def declare_twins() -> None:
    class Actor(AnyioActor):
        def on_note(self, message: Note) -> None: ...

        def on_twin(self, message: Twin) -> None: ...


def declare_two_tag_fields() -> None:
    class Actor(AnyioActor):
        def on_note(self, message: Note) -> None: ...

        def on_kinded(self, message: Kinded) -> None: ...


def declare_no_struct() -> None:
    class Actor(AnyioActor):
        def on_text(self, message: str) -> None: ...


def declare_unannotated() -> None:
    class Actor(AnyioActor):
        def on_it(self, message): ...  # type: ignore[no-untyped-def]


def declare_two_parameters() -> None:
    class Actor(AnyioActor):
        def on_it(self, message: Note, more: int) -> None: ...


def declare_unknown() -> None:
    class Actor(AnyioActor):
        def on_it(self, message: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


@pytest.mark.parametrize(
    "declare",
    [
        declare_twice,
        declare_mutable,
        declare_untagged,
        declare_twins,
        declare_two_tag_fields,
        declare_no_struct,
        declare_unannotated,
        declare_two_parameters,
        declare_unknown,
    ],
)
def test_what_cannot_be_routed_fails_when_the_class_is_made(declare: Any) -> None:
    with pytest.raises(DeclarationError, match="Actor"):
        declare()
