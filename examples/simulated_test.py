"""A test of your own actors under simulation: run under many seeds, in virtual time, with crashes and delays.

    pytest examples/simulated_test.py                     # 100 seeds
    pytest examples/simulated_test.py --rtvi-seeds 1000

A failure prints the command that replays it, shrunk to the few decisions that it needs.
"""

from __future__ import annotations

import anyio
import msgspec

import rtvi_actors as rtvi
from rtvi_actors.testing import Faults, Simulate, World, run_simulation


class Order(msgspec.Struct, frozen=True, tag=True):
    number: int
    dish: str


class Served(msgspec.Struct, frozen=True, tag=True):
    number: int
    dish: str


class Waiter(rtvi.AnyioActor):
    """Takes orders to the kitchen. Keeps nothing, so that a crash loses nothing but the order in its hands."""

    def on_order(self, order: Order) -> None:
        self.link("kitchen").tell(order)


class Kitchen(rtvi.AnyioActor):
    """Cooks one dish after the other. A crash at the stove burns the dish, and the guest hears of every other."""

    def __init__(self, guest: rtvi.ActorRef[rtvi.AnyioActor]) -> None:
        super().__init__(guest)
        self.guest = guest

    async def on_order(self, order: Order) -> None:
        await anyio.sleep(60 * len(order.dish))
        self.guest.tell(Served(order.number, order.dish))


def open_restaurant(world: World, guest: rtvi.ActorRef[rtvi.AnyioActor]) -> None:
    children = [
        rtvi.ChildSpec(name="waiter", actor=Waiter, links=("kitchen",)),
        rtvi.ChildSpec(name="kitchen", actor=Kitchen, args=(guest,)),
    ]
    world.spawn(rtvi.Supervisor, children, intensity=100, name="restaurant")


async def five_soups(world: World) -> None:
    """Dishes come in the order of the orders, and none twice, whoever crashes in between."""
    guest = world.probe(Served)
    open_restaurant(world, guest.ref)
    for number in range(5):
        world.system.get("restaurant/waiter").tell(Order(number, "soup"))
    await world.advance(3600)
    numbers = [served.number for served in guest.unread]
    assert numbers == sorted(set(numbers))


async def a_fire(world: World) -> None:
    """A kitchen that burns down is back for the next order."""
    guest = world.probe(Served)
    open_restaurant(world, guest.ref)
    kitchen = world.system.get("restaurant/kitchen")
    world.system.crash(kitchen)
    await world.expect_restart(kitchen)
    world.system.get("restaurant/waiter").tell(Order(1, "stew"))
    await guest.expect_nothing(within_s=239)
    assert await guest.expect(Served) == Served(1, "stew")


FAULTS = Faults(crash=0.1, delay=0.3, max_delay_s=30)


def test_dishes_come_in_the_order_of_the_orders(simulate: Simulate) -> None:
    simulate(five_soups, faults=FAULTS)


def test_a_kitchen_comes_back(simulate: Simulate) -> None:
    simulate(a_fire)


if __name__ == "__main__":  # as a script: one seed, and what happened
    run = run_simulation(five_soups, seed=6, faults=FAULTS)
    print(*run.trace, sep="\n")
