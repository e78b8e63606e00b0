from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

import rtvi_actors as rtvi
from rtvi_actors.declared import EVENTS


def _two_requests() -> None:
    class Twice(rtvi.Bot):
        @rtvi.request("x")
        def one(self) -> None: ...

        @rtvi.message("x")
        def two(self) -> None: ...


def _too_many_parameters() -> None:
    class Greedy(rtvi.Bot):
        @rtvi.request("x")
        def one(self, a: int, b: int) -> None: ...


def _plain_hook() -> None:
    class Plain(rtvi.Bot):
        def on_client_ready(self, client: rtvi.ClientReady) -> None: ...  # type: ignore[override]


def _plain_event() -> None:
    class Plain(rtvi.Bot):
        @rtvi.on("end")
        def ended(self) -> None: ...


def _undecodable() -> None:
    class Odd(rtvi.Bot):
        @rtvi.request("x")
        def one(self, a: dict[int, str] | dict[str, str]) -> None: ...


def _no_event() -> None:
    class Odd(rtvi.Bot):
        @rtvi.on("no-such-event")
        async def one(self) -> None: ...


@pytest.mark.parametrize(
    "declare", [_two_requests, _too_many_parameters, _plain_hook, _plain_event, _undecodable, _no_event]
)
def test_what_cannot_be_routed_fails_when_the_class_is_made(declare: Callable[[], None]) -> None:
    with pytest.raises(rtvi.DeclarationError):
        declare()


def test_a_class_knows_its_routes_and_the_handlers_of_every_event_in_the_order_in_which_they_run() -> None:
    class Base(rtvi.Bot):
        async def on_end(self) -> None: ...

        @rtvi.on("end")
        async def tidy_up(self) -> None: ...

    class Derived(Base):
        @rtvi.on("end")
        async def also(self) -> None: ...

        @rtvi.request("sum")
        def sum(self, numbers: list[int]) -> int:
            return sum(numbers)

        @rtvi.message("note")
        async def note(self) -> None: ...

    assert set(Derived.handlers) == set(EVENTS)
    assert Derived.handlers["end"] == ("on_end", "also", "tidy_up")
    assert Derived.handlers["client-ready"] == ()
    routes = {name: (route.method, route.asynchronous, route.answers) for name, route in Derived.routes.items()}
    assert routes == {"sum": ("sum", False, True), "note": ("note", True, False)}


def test_a_payload_may_be_of_a_type_that_is_local_to_a_function() -> None:
    class Place(msgspec.Struct):
        city: str

    class Weather(rtvi.Bot):
        @rtvi.request("weather")
        def weather(self, place: Place) -> str:
            return place.city

    assert Weather.routes["weather"].payload is Place
