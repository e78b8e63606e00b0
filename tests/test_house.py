"""The rules of the house (DESIGN.md 3 and 4), read out of the source: a breach names the file and the line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rtvi_actors import messages, session
from rtvi_actors.protocol.client import CLIENT

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rtvi_actors"
TESTS = ROOT / "tests"

RANKS: dict[str, int] = {
    "errors": 0,
    **dict.fromkeys(("protocol", "runtime"), 1),
    **dict.fromkeys(("streams", "frames", "messages", "resampling", "ledger", "outbox", "concern", "options"), 2),
    **dict.fromkeys(("reporting", "loudness", "redaction", "files"), 2),
    **dict.fromkeys(("concerns", "transports"), 3),
    **dict.fromkeys(("losses", "commands", "declared", "control", "bot", "wire"), 4),
    **dict.fromkeys(("reports", "ui_commands", "calls", "logs"), 4),
    "session": 5,
    **dict.fromkeys(("adapters", "inspection"), 6),
    **dict.fromkeys(("client", "testing", "web", "server", "cli", ""), 7),
}
"""Room → rank; "" is `rtvi_actors/__init__.py`."""

NOT_BELOW: dict[str, tuple[int, ...]] = {
    "bot": (3,),
    "commands": (3,),
    "reports": (3,),
    "ui_commands": (3,),
    "calls": (3,),
    "logs": (3,),
    "losses": (3,),
    "declared": (3,),
    "control": (3,),
    "wire": (3,),
    "inspection": (3,),
    "adapters": (3,),
}
"""Rooms that may not import all that is below them: they talk to actors by name and through messages."""

ORDERS: dict[str, tuple[str, ...]] = {
    "protocol": (
        "versions",
        "envelope",
        "client",
        "ui",
        "server",
        "codec",
        "handshake",
        "pcm",
        "files",
        "sentences",
        "segments",
    ),
    "runtime": (
        "clock",
        "backend",
        "context",
        "futures",
        "mailbox",
        "declare",
        "groups",
        "signals",
        "refs",
        "handling",
        "cell",
        "actor",
        "dispatcher",
        "watchdog",
        "supervisor",
        "registry",
        "threads",
        "system",
        "choices",
        "virtual",
        "post",
        "simulation",
    ),
    "inspection": ("tree", "text"),
    "web": ("http", "tickets", "uploads", "pages"),
    "concerns": (),
    "transports": ("frames_pb2", "serializers"),
    "": (
        *(
            "streams",
            "frames",
            "messages",
            "reporting",
            "resampling",
            "loudness",
            "redaction",
            "files",
            "ledger",
            "outbox",
            "concern",
            "options",
        ),
        *("losses", "reports", "ui_commands", "commands", "declared", "logs", "control", "calls", "bot", "wire"),
        *("client", "testing", "web", "server", "cli", ""),
    ),
}
"""Within a room, a file imports only those that stand before it here. Files that are not here import no sibling but
those that are: `serializers` has the two dialects that all transports share, and it is no transport."""

EXCEPTIONS = {
    ("runtime.refs", "runtime.cell"): "a reference and its cell name each other's types; nothing at run time",
    ("runtime.cell", "runtime.actor"): "so do a cell and its actor",
    ("runtime.handling", "runtime.actor"): "and what a cell is built on",
}

CORE = {"anyio", "msgspec", "pykka"}
"""The dependencies without extras (DESIGN.md 9)."""
NOT_IN_PROTOCOL = {"asyncio", "threading", "logging", "time", "datetime", "socket", "selectors", "queue", "random"}
SIMULATED = {"runtime.virtual", "runtime.post", "runtime.simulation"}
"""The simulation *is* an event loop."""
LOOPS = {"asyncio", "trio", "uvloop", "sniffio"}
EXTRAS = (
    *("starlette", "uvicorn", "websockets", "uvloop", "google.protobuf", "soxr", "numpy", "typer", "rich"),
    *("fastapi", "httpx", "pipecat", "aiortc", "trio", "python_multipart"),
)

GENERATED = {"transports.frames_pb2"}
DECLARATIONS = {"frames", "messages", "options", "streams"}
"""Modules of Structs and Protocols: what they declare is tested where it is used."""
NO_MODULE = {
    *("test_capabilities.py", "test_examples.py", "test_fuzz.py", "test_house.py", "test_readme.py", "test_restart.py"),
    *("test_golden_sessions.py", "test_round_trips.py", "test_soak.py", "test_text_injection.py"),
}
"""Tests of the whole, at the top of tests/."""
NO_MIRROR = {"e2e", "pykka_suite", "simulated", "vectors"}
"""Folders of tests that drive the whole from outside."""


# -- reading -------------------------------------------------------------------------


class Import(NamedTuple):
    source: str
    """The importing module, relative to the package: "runtime.refs"."""
    target: str
    """The imported one, absolute: "rtvi_actors.errors", "msgspec"."""
    line: int
    for_types: bool
    """Under `if TYPE_CHECKING`."""
    deferred: bool
    """In a function."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"

    @property
    def own(self) -> str | None:
        """The target relative to the package, where it is ours."""
        head, _, rest = self.target.partition(".")
        return rest if head == "rtvi_actors" else None


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8"), str(path)) for module, path in FILES.items()}
WRITTEN = {module: tree for module, tree in TREES.items() if module not in GENERATED}


def imports_of(module: str) -> Iterator[Import]:
    tree = TREES[module]
    for_types = _nodes_in(tree, lambda node: isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    deferred = _nodes_in(tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    for node in ast.walk(tree):
        for target in _targets(node):
            yield Import(module, target, node.lineno, node in for_types, node in deferred)  # type: ignore[attr-defined]


def _nodes_in(tree: ast.AST, holds: Any) -> set[ast.AST]:
    return {inner for node in ast.walk(tree) if holds(node) for inner in ast.walk(node)}


def _targets(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"line {node.lineno}: imports are absolute"
        base = node.module or ""
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner.removeprefix("rtvi_actors.") in FILES else base


IMPORTS = [found for module in TREES for found in imports_of(module)]


def room_of(module: str) -> str:
    return module.partition(".")[0]


def file_of(module: str) -> str:
    return module.rpartition(".")[2]


# -- ranks and orders ------------------------------------------------------------------


def test_every_file_belongs_to_a_room_that_has_a_rank() -> None:
    assert {room_of(module) for module in FILES} <= set(RANKS)


@pytest.mark.parametrize("module", WRITTEN)
def test_a_room_imports_only_rooms_of_a_lower_rank(module: str) -> None:
    assert not [str(found) for found in IMPORTS if found.source == module and _is_a_breach(found)]


def _is_a_breach(found: Import) -> bool:
    if found.own is None or (found.source, found.own) in EXCEPTIONS:
        return False
    here, there = room_of(found.source), room_of(found.own)
    if here == there and here:  # a folder's own front sees all that is in it
        return found.source != here and not _in_order(ORDERS[here], file_of(found.source), file_of(found.own))
    if RANKS[here] == RANKS[there]:
        return not _in_order(ORDERS[""], here, there)
    return RANKS[there] > RANKS[here] or RANKS[there] in NOT_BELOW.get(here, ())


def _in_order(order: tuple[str, ...], here: str, there: str) -> bool:
    return there in order and (here not in order or order.index(there) < order.index(here))


def test_every_exception_is_needed_and_only_for_types() -> None:
    used = {(found.source, found.own): found for found in IMPORTS if (found.source, found.own) in EXCEPTIONS}
    assert set(used) == set(EXCEPTIONS)
    assert all(found.for_types for found in used.values())


@pytest.mark.parametrize("room", ["protocol", "runtime"])
def test_the_order_of_a_room_names_all_its_files_as_its_docstring_does(room: str) -> None:
    files = [file_of(module) for module in FILES if room_of(module) == room and module != room]
    order = [name for name in ORDERS[room] if name in files]
    assert sorted(files) == sorted(order)
    docstring = ast.get_docstring(TREES[room]) or ""
    places = [_first_mention(docstring, name) for name in order]
    assert places == sorted(places), "the docstring names them in another order"


def _first_mention(docstring: str, name: str) -> int:
    """Where a docstring lists a file: `name`, or first on its line."""
    places = [docstring.find(f"`{name}`"), docstring.find(f"\n    {name} ")]
    found = [place for place in places if place >= 0]
    assert found, f"the docstring does not list {name}"
    return min(found)


# -- what may be imported from outside --------------------------------------------------


@pytest.mark.parametrize("module", [module for module in WRITTEN if RANKS[room_of(module)] < 7 and module])
def test_only_the_core_dependencies_are_imported_at_the_top_of_a_file(module: str) -> None:
    """An extra is imported where it is used, in a function."""
    at_once = [found for found in IMPORTS if found.source == module and not (found.for_types or found.deferred)]
    assert not [
        str(found) for found in at_once if _package(found) not in {*sys.stdlib_module_names, *CORE, "rtvi_actors"}
    ]


def _package(found: Import) -> str:
    return found.target.partition(".")[0]


def test_protocol_does_no_input_or_output_and_knows_no_clock() -> None:
    heads = {(_package(found), str(found)) for found in IMPORTS if room_of(found.source) == "protocol"}
    foreign = {line for head, line in heads if head not in {*sys.stdlib_module_names, "msgspec", "rtvi_actors"}}
    assert not foreign
    assert not {line for head, line in heads if head in NOT_IN_PROTOCOL}


def test_runtime_and_protocol_know_nothing_of_each_other() -> None:
    for room in ("protocol", "runtime"):
        own = [found for found in IMPORTS if room_of(found.source) == room and found.own is not None]
        assert not [str(found) for found in own if room_of(found.own or "") not in (room, "errors")]


def test_only_the_backend_imports_an_event_loop_below_the_programs_that_people_run() -> None:
    programs = {"client", "testing", "server", "cli"}
    named = {found.source for found in IMPORTS if _package(found) in LOOPS}
    assert named - programs <= {"runtime.backend", *SIMULATED}


def test_importing_the_package_imports_no_extra() -> None:
    program = f"import rtvi_actors, sys; print(*[name for name in {EXTRAS!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# -- the tables of the session -------------------------------------------------------------


def test_every_client_message_type_is_routed_to_a_child() -> None:
    assert set(session.ROUTES) == {*CLIENT, messages.INTERRUPTION}
    assert set(session.ROUTES.values()) <= set(session.CHILDREN)
    assert set(session.ROUTES.values()) <= set(session.LINKS["ingress"])


def test_references_point_forward_and_what_flows_back_is_in_the_second_table() -> None:
    place = {name: index for index, name in enumerate(session.CHILDREN)}
    assert set(session.LINKS) == set(place)
    backward = [(a, b) for a, names in session.LINKS.items() for b in names if place[b] <= place[a]]
    forward = [(a, b) for a, names in session.BACK.items() for b in names if place[b] >= place[a]]
    assert not backward
    assert not forward


def test_a_custom_actor_stands_before_the_door_and_sees_nothing_behind_itself() -> None:
    door = session.CHILDREN.index("door")
    assert set(session.CUSTOM_LINKS) <= set(session.CHILDREN[door:])


def test_every_child_is_a_file_of_concerns_or_the_bot() -> None:
    files = {file_of(module) for module in FILES if module.startswith("concerns.")}
    assert files == set(session.CHILDREN) - {"bot"}


USES = {"release": ("bot", "door"), "refuse": ("outbound", "door"), "_to": ()}
"""What `Concern`'s own methods link to. A class with its own `_end` needs no door."""


@pytest.mark.parametrize("child", session.CHILDREN)
def test_a_child_links_only_to_those_that_its_table_names(child: str) -> None:
    allowed = {*session.LINKS[child], *session.BACK.get(child, ())}
    assert _linked(child) <= allowed


BOT = ("bot", "calls", "commands", "reports", "ui_commands")
"""Where the bot's methods are."""


def _linked(child: str) -> set[str]:
    """The names in `self.link("name")`, with what the base class links to for it."""
    modules = BOT if child == "bot" else (f"concerns.{child}",)
    names: set[str] = set()
    for module in modules:
        constants = {**_constants(TREES["messages"]), **_constants(TREES[module])}
        own_end = any(isinstance(node, ast.FunctionDef) and node.name == "_end" for node in ast.walk(TREES[module]))
        for name, argument in _calls(TREES[module]):
            if name in ("link", "_to"):
                names |= _link_names(argument, constants, f"{module}:{getattr(argument, 'lineno', 0)}")
            elif child != "bot" and name in USES:
                names |= {used for used in USES[name] if not (used == "door" and own_end)}
    return names - {"bot"} if child == "bot" else names


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Method calls: the name and the first argument."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node.args[0] if node.args else None


def _constants(tree: ast.Module) -> dict[str, str]:
    """Module-level names of texts."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def _link_names(argument: ast.expr | None, constants: dict[str, str], where: str) -> set[str]:
    """The link's name. Two are computed: ingress's from the route table, and the one in `Bot._to`."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return {argument.value}
    if isinstance(argument, ast.Name) and argument.id in constants:
        return {constants[argument.id]}
    assert isinstance(argument, ast.Name), where
    assert argument.id in {"route", "name"}, where
    return set(session.ROUTES.values()) if argument.id == "route" else set()


# -- what a file says of itself -----------------------------------------------------------------


def public_names(module: str) -> list[str] | None:
    """The literal part of `__all__`."""
    for node in TREES[module].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            assert isinstance(node.value, ast.List)
            return [str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)]
    return None


def has_code(module: str) -> bool:
    return any(not isinstance(node, ast.Expr | ast.ImportFrom) for node in TREES[module].body)


@pytest.mark.parametrize("module", [module for module in WRITTEN if has_code(module)])
def test_all_is_there_sorted_and_complete(module: str) -> None:
    """Complete: each public class and function (but the commands of `cli`), and what another file imports from it."""
    names = public_names(module)
    assert names is not None, "no __all__"
    assert names == sorted(names, key=_as_isort), "not sorted: constants, classes, functions"
    defined = {
        node.name
        for node in TREES[module].body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not any(ast.unparse(decorator).startswith("app.") for decorator in node.decorator_list)
    }
    missing = (defined | _imported_from(module)) - set(names)
    assert not missing


def _as_isort(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def _imported_from(module: str) -> set[str]:
    """What other files of the package take from it."""
    absolute = f"rtvi_actors.{module}"
    return {
        alias.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == absolute
        for alias in node.names
        if not alias.name.startswith("_") and alias.name != "*" and f"{module}.{alias.name}" not in FILES
    }


def test_the_front_door_exports_all_that_it_imports_and_nothing_twice() -> None:
    import rtvi_actors as rtvi

    assert len(rtvi.__all__) == len(set(rtvi.__all__))
    for name in rtvi.__all__:
        assert getattr(rtvi, name) is not None
    imported = {alias.asname or alias.name for node in TREES[""].body for alias in _aliases(node)}
    assert {name for name in imported if name[0] not in "_*" and name != "annotations"} <= {*rtvi.__all__, "Any"} | {
        "TYPE_CHECKING"
    }


def _aliases(node: ast.stmt) -> list[ast.alias]:
    return node.names if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("module", WRITTEN)
def test_every_file_says_what_it_is_and_postpones_its_annotations(module: str) -> None:
    assert ast.get_docstring(TREES[module]), "no docstring"
    if has_code(module):
        assert any(found.target == "__future__" for found in IMPORTS if found.source == module)


# -- the tests --------------------------------------------------------------------------------------


def test_the_tests_mirror_the_package_by_path() -> None:
    wanted = {_test_of(path) for module, path in FILES.items() if module in WRITTEN and path.name != "__init__.py"}
    optional = {_test_of(FILES[module]) for module in DECLARATIONS}
    there = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    missing = wanted - optional - there
    stray = {path for path in there - wanted if path.partition("/")[0] not in NO_MIRROR | NO_MODULE}
    assert not missing, f"no tests: {sorted(missing)}"
    assert not stray, f"tests of no module: {sorted(stray)}"


def _test_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.with_name(f"test_{inside.name}").as_posix()
