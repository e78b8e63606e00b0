"""The README tells the truth: its code runs, or stands in the example that it names; what it lists is what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rtvi_actors as rtvi
from examples import simulated_test
from rtvi_actors import cli, session
from rtvi_actors.client import RtviClient
from rtvi_actors.commands import Commands
from rtvi_actors.declared import EVENTS
from rtvi_actors.messages import INTERRUPTION
from rtvi_actors.reports import Reports
from rtvi_actors.testing import Simulate, World
from rtvi_actors.ui_commands import UICommands
from tests.serving import serving

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> Iterator[str]:
    """The code blocks of one language."""
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        yield match[1]


def section(title: str) -> str:
    """The text under a heading, up to the next of its level."""
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


EXCERPT = re.compile(r"# (examples/\w+\.py)\n")


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    """The README's own program: its code blocks, one after the other, but for the excerpts."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks("python"):
        if not EXCERPT.match(block):
            exec(compile(block, "README.md", "exec"), namespace)
    return namespace


def test_every_excerpt_stands_in_the_example_that_it_names() -> None:
    excerpts = [(found[1], block[found.end() :]) for block in blocks("python") if (found := EXCERPT.match(block))]
    assert excerpts
    for name, text in excerpts:
        assert text in (ROOT / name).read_text(encoding="utf-8"), f"not in {name}:\n{text}"


def test_the_first_bot_has_ten_lines() -> None:
    lines = [line for line in next(blocks("python")).splitlines() if line.strip()]
    assert len(lines) <= 10


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("app", "path"), [("bot_app", "/ws"), ("app", "/call")])
async def test_the_readmes_programs_answer_over_a_socket(program: dict[str, Any], app: str, path: str) -> None:
    with serving(program[app]) as address:
        async with RtviClient.connect(f"ws://{address}{path}") as client:
            await client.send_text("hello parrot")
            words = [(await client.wait_for("bot-llm-text")).data["text"] for _ in range(2)]
    assert words == ["hello ", "parrot "]


def test_every_name_of_the_package_that_it_uses_is_public() -> None:
    used = set(re.findall(r"\brtvi\.([A-Za-z]\w*)", README))
    assert used <= set(rtvi.__all__)


def test_it_lists_every_hook_command_and_report_and_none_that_is_not_there() -> None:
    rows = dict(re.findall(r"^\| (\w[^|]*?) \| (.*) \|$", section("Three ways to use it"), re.MULTILINE))
    listed = {row: set(re.findall(r"`(\w+)`", text)) for row, text in rows.items()}
    assert listed["hooks"] == {*EVENTS.values(), "on_turn", "on_append", "on_audio"}
    assert listed["command"] == public(Commands) - {"handle_function_call", "ledger"}
    assert listed["the client's page"] == public(UICommands)
    assert listed["report what your own speech stack does"] == public(Reports)


def public(owner: type) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def test_it_lists_the_client_message_types_that_are_routed() -> None:
    [row] = re.findall(r"^\| client → server \| (.*) \|$", section("Compatibility"), re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", row)) == set(session.ROUTES) - {INTERRUPTION}


def test_it_draws_every_child_of_a_session() -> None:
    [drawn] = blocks("mermaid")
    [shown] = blocks("text")
    for name in session.CHILDREN:
        assert re.search(rf"\b{name}\b", drawn), f"{name} is not in the picture"
        assert re.search(rf"─ {name} ", shown), f"{name} is not in the tree"


def test_its_links_and_examples_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert not [link for link in links if not (ROOT / link).exists()]
    table = set(re.findall(r"\]\((examples/\w+\.py)\)", section("Examples")))
    assert table == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}


def test_the_failing_seed_that_it_shows_fails_so() -> None:
    """Nothing but the numbers may differ, which every change of the runtime's moves."""
    name = "examples/simulated_test.py::test_dishes_come_in_the_order_of_the_orders"
    with pytest.raises(AssertionError) as caught:
        Simulate(name)(all_five_soups, faults=simulated_test.FAULTS)
    reported = {without_numbers(line) for note in caught.value.__notes__ for line in note.splitlines()}
    [shown] = blocks("console")
    assert {without_numbers(line) for line in shown.splitlines() if line != "…"} <= reported


async def all_five_soups(world: World) -> None:
    """The example's story, asking for too much."""
    guest = world.probe(simulated_test.Served)
    simulated_test.open_restaurant(world, guest.ref)
    for number in range(5):
        world.system.get("restaurant/waiter").tell(simulated_test.Order(number, "soup"))
    await world.advance(3600)
    assert len(guest.unread) == 5


def without_numbers(line: str) -> str:
    return re.sub(r"#[0-9a-f]{8}|[0-9]+", "0", line).strip()


def test_its_commands_are_there() -> None:
    shell = "\n".join(blocks("sh"))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", shell)) <= targets
    known = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    assert set(re.findall(r"^rtvi-actors (\w+)", shell, re.MULTILINE)) == known
    assert "## 0.1.0" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
