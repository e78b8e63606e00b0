"""The test kit: probes, stories under many seeds, failures that are found, shrunk, and replayed by what is printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

import rtvi_actors as rtvi
from rtvi_actors.errors import Stalled
from rtvi_actors.runtime.actor import AnyioActor
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.supervisor import ChildSpec, Supervisor
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.testing import Faults, Probe, Simulate, World, run_simulation, try_simulation
from tests.session_kit import calling, of_type, texts

ROOT = Path(__file__).resolve().parent.parent


class Ping(msgspec.Struct, frozen=True, tag=True):
    n: int = 0


class Pong(msgspec.Struct, frozen=True, tag=True):
    n: int = 0


class Echo(AnyioActor):
    def __init__(self, to: ActorRef[Any]) -> None:
        super().__init__(to)
        self.to = to

    def on_ping(self, ping: Ping) -> None:
        self.to.tell(Pong(ping.n))


# -- probes ----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_probe_expects_messages_in_any_real_system() -> None:
    async with ActorSystem() as system:
        probe = Probe(system, Ping, Pong, name="probe")
        echo = system.spawn(Echo, probe.ref)
        for n in range(3):
            echo.tell(Ping(n))
        probe.ref.tell(Ping(9))
        assert await probe.expect(Pong, where=lambda pong: pong.n == 1) == Pong(1)
        assert await probe.expect(Ping) == Ping(9)
        assert (await probe.expect(Pong), await probe.expect(Pong)) == (Pong(0), Pong(2))
        await probe.expect_nothing(within_s=0)
        echo.tell(Ping(4))
        with pytest.raises(AssertionError, match="probe expected nothing and got"):
            await probe.expect_nothing()
        assert probe.unread == [Pong(4)]


@pytest.mark.anyio
async def test_a_probe_of_one_type_takes_only_that() -> None:
    async with ActorSystem() as system:
        probe = Probe(system, Ping)
        with pytest.raises(rtvi.errors.Undeclared):
            probe.ref.tell(Pong())


def test_a_probe_that_is_told_nothing_says_so_when_its_time_is_over() -> None:
    async def story(world: World) -> None:
        probe = world.probe(Ping, Pong)
        probe.ref.tell(Ping(1))
        with pytest.raises(AssertionError, match=r"probe-1 got no such Pong within 30 s; unread: \[Ping\(n=1\)\]"):
            await probe.expect(Pong, within_s=30)
        assert world.now_s == 30
        with pytest.raises(AssertionError):
            await probe.expect_nothing(within_s=60)
        assert world.now_s == 30
        await probe.expect(Ping)
        await probe.expect_nothing(within_s=60)
        assert world.now_s == 90

    run_simulation(story)


def test_a_restart_is_expected_once_whether_it_has_been_or_will_be() -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        world.spawn(Supervisor, [ChildSpec(name="echo", actor=Echo, args=(probe.ref,))], name="top")
        echo = world.system.get("top/echo")
        with pytest.raises(AssertionError, match=r"top/echo did not restart within 2 s: it is running"):
            await world.expect_restart(echo, within_s=2)
        world.system.crash(echo)
        await world.expect_restart(echo)
        world.system.crash(echo)
        await world.advance(1)
        await world.expect_restart(echo, within_s=0)
        with pytest.raises(AssertionError):
            await world.expect_restart(echo)

    run_simulation(story)


# -- stories -----------------------------------------------------------------------------------


def test_a_story_settles_and_lets_time_pass(simulate: Simulate) -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        echo = world.spawn(Echo, probe.ref, name="echo")
        echo.tell(Ping(1))
        await world.settle()
        assert probe.unread == [Pong(1)]
        before = world.now_s
        await world.advance(86_400)
        assert world.now_s == before + 86_400
        world.note("the end")
        assert world.trace[-1].endswith("note      the end")

    simulate(story, edges={("story", "echo"): Faults(delay=0.5)}, seeds=range(10))


def test_letters_that_are_due_later_are_still_on_their_way_when_time_has_been_let_pass() -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        world.spawn(Echo, probe.ref, name="echo").tell(Ping(1))
        await world.advance(5)
        assert world.now_s == 5
        await world.settle()
        assert probe.unread == [Pong(1)]
        assert world.now_s > 5

    late = {("story", "echo"): Faults(delay=1.0, max_delay_s=80)}
    run_simulation(story, edges=late)


def test_a_story_that_is_not_asynchronous_is_told_so() -> None:
    def story(world: World) -> None:
        world.note("never awaited")

    with pytest.raises(TypeError, match=r"a story is an async function, which <function .*story.* is not"):
        run_simulation(story)  # type: ignore[arg-type]


def test_an_edge_that_no_message_takes_is_warned_of() -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        world.spawn(Echo, probe.ref, name="echo").tell(Ping(1))
        await probe.expect(Pong)

    edges = {("story", "echo"): Faults(delay=0.5), ("echo", "prob"): Faults(drop=0.5)}
    with pytest.warns(UserWarning, match="no message took the edge echo -> prob: nothing was tested there"):
        Simulate("here")(story, edges=edges, seeds=range(3))
    Simulate("here", seed=1)(story, edges=edges)


def test_faults_spare_what_the_story_sends_and_hears_and_end_when_it_calls_for_calm() -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        last = world.spawn(Echo, probe.ref, name="last")
        first = world.spawn(Pass, last, name="first")
        first.tell(Ping(1))
        last.tell(Ping(2))
        await probe.expect(Pong, where=lambda pong: pong.n == 2)
        await probe.expect_nothing()
        world.calm()
        first.tell(Ping(3))
        assert await probe.expect(Pong) == Pong(3)

    run_simulation(story, faults=Faults(drop=1.0))


class Pass(AnyioActor):
    def __init__(self, to: ActorRef[Any]) -> None:
        super().__init__(to)
        self.to = to

    def on_ping(self, ping: Ping) -> None:
        self.to.tell(ping)


def test_what_a_story_raises_comes_out_with_the_end_of_the_trace() -> None:
    async def story(world: World) -> None:
        world.note("so far")
        raise LookupError("lost")

    assert isinstance(try_simulation(story).error, LookupError)
    with pytest.raises(LookupError, match="lost") as caught:
        run_simulation(story, seed=3)
    assert caught.value.__notes__[0].startswith("simulation: seed 3, ")
    assert caught.value.__notes__[-1].endswith("note      so far")


def test_a_skip_is_no_failure() -> None:
    async def story(world: World) -> None:
        pytest.skip("not today")

    with pytest.raises(pytest.skip.Exception):
        Simulate("here")(story)


# -- failures --------------------------------------------------------------------------------------


RACE = """
from __future__ import annotations
import msgspec
from rtvi_actors.runtime.actor import AnyioActor

class Rate(msgspec.Struct, frozen=True, tag=True):
    percent: int

class Sale(msgspec.Struct, frozen=True, tag=True):
    amount: int

class Paid(msgspec.Struct, frozen=True, tag=True):
    amount: int

class Till(AnyioActor):
    # The bug: nothing says that the rate comes before the first sale.
    percent = 0

    def __init__(self, to):
        super().__init__(to)
        self.to = to

    def on_rate(self, rate: Rate) -> None:
        self.percent = rate.percent

    def on_sale(self, sale: Sale) -> None:
        self.to.tell(Paid(sale.amount * (100 + self.percent) // 100))

class Clerk(AnyioActor):
    def __init__(self, till):
        super().__init__(till)
        self.till = till

    def on_any(self, message: Rate | Sale) -> None:
        self.till.tell(message)

def test_every_sale_is_taxed(simulate):
    async def story(world):
        probe = world.probe(Paid)
        till = world.spawn(Till, probe.ref, name="till")
        clerks = [world.spawn(Clerk, till, name=f"clerk{n}") for n in range(5)]
        clerks[0].tell(Rate(20))
        for clerk in clerks[1:]:
            clerk.tell(Sale(100))
        await world.settle()
        assert [paid.amount for paid in probe.unread] == [120] * 4
    simulate(story)
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "rtvi_actors.testing", "-p", "no:cacheprovider", "-q", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_planted_race_is_found_and_shrunk_and_the_printed_command_replays_it(tmp_path: Path) -> None:
    (tmp_path / "test_race.py").write_text(RACE, encoding="utf-8")
    found = run_pytest(tmp_path, "test_race.py")
    assert found.returncode == 1, found.stdout + found.stderr
    command = re.search(r"replay: pytest (.*)", found.stdout)
    assert command is not None, found.stdout
    arguments = shlex.split(command[1])
    assert arguments[0] == "test_race.py::test_every_sale_is_taxed"
    schedule = arguments[2].removeprefix("--rtvi-schedule=")
    assert len(schedule.split(",")) == 1, "one decision is all that this failure needs"

    again = run_pytest(tmp_path, *arguments)
    assert again.returncode == 1
    assert notes_of(again.stdout) == notes_of(found.stdout)

    calm = run_pytest(tmp_path, arguments[0], arguments[1], "--rtvi-schedule=")
    assert calm.returncode == 0, calm.stdout


def notes_of(output: str) -> list[str]:
    """What the report says of the simulation, the trace included."""
    lines = output.splitlines()
    start = next(number for number, line in enumerate(lines) if "simulation: seed" in line)
    return [line for line in lines[start:] if line.startswith("E ")]


def test_the_printed_command_is_for_the_folder_that_pytest_was_called_in(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    inner = tmp_path / "tests"
    inner.mkdir()
    (inner / "test_fails.py").write_text(
        "def test_fails(simulate):\n    async def story(world):\n        raise LookupError\n    simulate(story)\n",
        encoding="utf-8",
    )
    for folder, name in ((tmp_path, "tests/test_fails.py"), (inner, "test_fails.py")):
        found = run_pytest(folder, name)
        assert f"replay: pytest {name}::test_fails --rtvi-seed=0" in found.stdout
        assert f"rootdir: {tmp_path}" in run_pytest(folder, name, "-v").stdout


def test_a_session_that_is_not_given_the_worlds_system_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "test_forgets.py").write_text(
        "import rtvi_actors as rtvi\n"
        "from rtvi_actors.transports import memory\n"
        "def test_forgets(simulate):\n"
        "    async def story(world):\n"
        "        transport, client = memory.pair()\n"
        "        async with rtvi.open_session(rtvi.Bot(), transport):\n"
        "            pass\n"
        "    simulate(story)\n",
        encoding="utf-8",
    )
    said = run_pytest(tmp_path).stdout
    assert "RealIo: a simulation has no second actor system, which has real threads: use `world.system`" in said


def test_a_number_of_seeds_can_be_asked_for_and_one_seed_alone(tmp_path: Path) -> None:
    (tmp_path / "test_count.py").write_text(
        "ran = []\n"
        "def test_count(simulate):\n"
        "    async def story(world):\n"
        "        ran.append(1)\n"
        "    simulate(story)\n"
        "    print('runs:', len(ran))\n",
        encoding="utf-8",
    )
    assert "runs: 7\n" in run_pytest(tmp_path, "-s", "--rtvi-seeds", "7").stdout
    assert "runs: 1\n" in run_pytest(tmp_path, "-s", "--rtvi-seed", "7").stdout
    assert "runs: 100\n" in run_pytest(tmp_path, "-s").stdout
    assert "takes pairs such as 17:2,45:1" in run_pytest(tmp_path, "--rtvi-schedule", "x").stdout


def test_a_failure_that_needs_two_faults_keeps_just_these() -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        last = world.spawn(Echo, probe.ref, name="last")
        for n in range(20):
            world.spawn(Pass, last, name=f"pass{n}").tell(Ping(n))
        await world.settle()
        assert len(probe.unread) > 18

    with pytest.raises(AssertionError) as caught:
        Simulate("here")(story, faults=Faults(drop=0.3, delay=0.3, duplicate=0.2))
    notes = caught.value.__notes__
    assert ", 2 of " in notes[0]
    assert [line.split()[1] for line in notes[-2].splitlines()[1:]] == ["drop", "drop"]


def test_a_failure_that_needs_one_delay_among_many_keeps_just_this() -> None:
    """Each of the others, taken back, would have changed how many decisions there are, had it been a part of them."""

    async def story(world: World) -> None:
        probe = world.probe(Pong)
        last = world.spawn(Echo, probe.ref, name="last")
        passes = [world.spawn(Pass, last, name=f"pass{n}") for n in range(2)]
        for n in range(20):
            passes[n % 2].tell(Ping(n))
            await world.advance(1)
        await world.settle()
        numbers = [pong.n for pong in probe.unread]
        assert numbers == sorted(numbers)

    with pytest.raises(AssertionError) as caught:
        Simulate("here")(story, faults=Faults(delay=0.4, max_delay_s=1.5))
    notes = caught.value.__notes__
    assert ", 1 of " in notes[0]
    assert [line.split()[1] for line in notes[-2].splitlines()[1:]] == ["delay"]


def test_a_failure_of_the_calm_run_says_that_nothing_strays() -> None:
    async def story(world: World) -> None:
        world.spawn(Echo, world.probe(Pong).ref)
        raise LookupError

    with pytest.raises(LookupError) as caught:
        Simulate("here")(story)
    assert "nothing strays from the calm run" in caught.value.__notes__[-2]


def test_shrinking_does_not_slip_to_another_failure() -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        last = world.spawn(Echo, probe.ref, name="last")
        for n in range(20):
            world.spawn(Pass, last, name=f"pass{n}").tell(Ping(n))
        await world.settle()
        assert len(probe.unread) > 12, "many"
        assert len(probe.unread) == 20, "one"

    with pytest.raises(AssertionError, match="many"):
        Simulate("here")(story, faults=Faults(drop=0.9), seeds=[1])


def test_a_story_that_something_beside_the_seed_decides_says_so() -> None:
    runs: list[int] = []

    async def story(world: World) -> None:
        runs.append(1)
        world.note(f"run {len(runs)}")
        raise LookupError

    with pytest.raises(LookupError) as caught:
        Simulate("here")(story)
    assert "does not replay" in " ".join(caught.value.__notes__)
    assert "run" in " ".join(caught.value.__notes__)


def test_the_log_is_silent_while_it_searches(caplog: pytest.LogCaptureFixture) -> None:
    async def story(world: World) -> None:
        probe = world.probe(Pong)
        echo = world.spawn(Echo, probe.ref)
        world.system.crash(echo)

    Simulate("here")(story, seeds=range(3))
    try_simulation(story)
    assert not caplog.records
    run_simulation(story)
    assert [record.getMessage() for record in caplog.records] == ["Echo crashed"]


# -- a whole session ---------------------------------------------------------------------------------


class Waiter(rtvi.Bot):
    """Answers late, and speaks while it does."""

    @rtvi.request("echo")
    async def echo(self, payload: dict[str, int]) -> dict[str, int]:
        await anyio.sleep(0.5)
        return payload

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            for word in ("one ", "two ", "three"):
                await out.text(word)
                await anyio.sleep(0.05)


async def session(world: World) -> None:
    """A client asks, speaks and leaves; whatever crashes in between, the books are right and all is answered."""
    async with calling(Waiter(), system=world.system) as call:
        for n in range(5):
            await call.ask("echo", {"n": n}, f"q{n}")
        await call.say("hello")
        await world.advance(20)
        assert call.books.conservation.open == 0
        answers = of_type(texts(call.client.drain()), "server-response", "error-response")
        asked = [str(wire["id"]) for wire in answers if str(wire["id"]).startswith("q")]
        assert sorted(asked) == [f"q{n}" for n in range(5)]
    assert call.books.conservation.open == 0


SESSION_FAULTS = Faults(crash=0.02, crash_after=0.02, delay=0.1)
SPARED = {("*", "*/handshake"): Faults(), ("*/handshake", "*"): Faults()}
"""A client whose client-ready is lost waits for ever: it is told so, and would say it again."""


def test_a_whole_session_keeps_its_promises_under_crashes_and_delays(simulate: Simulate) -> None:
    simulate(session, faults=SESSION_FAULTS, edges=SPARED, seeds=range(40))


def test_a_whole_session_replays_byte_for_byte() -> None:
    runs = [try_simulation(session, seed=5, faults=SESSION_FAULTS, edges=SPARED) for _ in range(2)]
    runs.append(try_simulation(session, seed=5, faults=SESSION_FAULTS, edges=SPARED, schedule=runs[0].schedule))
    assert runs[0].trace == runs[1].trace == runs[2].trace
    assert any(" crash " in line for line in runs[0].trace)


def test_a_client_that_waits_for_what_never_comes_is_a_stalled_world() -> None:
    async def story(world: World) -> None:
        async with calling(Waiter(), system=world.system) as call:
            await call.client.receive()

    error = try_simulation(story).error
    assert isinstance(error, Stalled)
    assert "story waits in test_testing.py" in str(error)
