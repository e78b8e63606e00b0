from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from typer.testing import CliRunner

from rtvi_actors.cli import app, load_bot

ROOT = Path(__file__).parents[1]
BOT = """
import rtvi_actors as rtvi

class EchoBot(rtvi.Bot):
    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            await out.text("You said ")
            await out.text(turn.messages[-1].content)
"""


@pytest.fixture
def bot_file(tmp_path: Path) -> Path:
    path = tmp_path / "echo_bot_for_cli.py"
    path.write_text(BOT)
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rtvi_actors.cli", *arguments]


@contextmanager
def served(bot_file: Path, *options: str, stderr: IO[str] | None = None) -> Iterator[str]:
    """`rtvi-actors serve` in a process of its own; yields the address that it prints."""
    arguments = command("serve", f"{bot_file}:EchoBot", "--port", "0", "--log-level", "error", *options)
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"Serving on (http://127\.0\.0\.1:\d+)\n", line)
            assert match, line
            yield match[1]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "140", "NO_COLOR": "1"}
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )


def test_serve_prints_the_port_it_took_and_answers_there(bot_file: Path) -> None:
    with served(bot_file) as address:
        assert httpx.get(f"{address}/status").json()["status"] == "ready"
        assert "rtvi_actors" in httpx.get(address).text


def test_uploads_are_taken_as_far_as_the_options_say(tmp_path: Path) -> None:
    bot_file = tmp_path / "file_bot_for_cli.py"
    bot_file.write_text(BOT.replace("(rtvi.Bot):", "(rtvi.Bot):\n    accepts_files = True"))

    def upload(address: str, size_bytes: int) -> int:
        return httpx.post(f"{address}/files", files={"file": ("a.txt", b"x" * size_bytes)}).status_code

    with served(bot_file, "--max-file-mib", "1", "--max-files-mib", "2") as address:
        sizes_bytes = [(1 << 20) + 1, 1 << 20, 1 << 20, 1]
        assert [upload(address, size_bytes) for size_bytes in sizes_bytes] == [413, 200, 200, 507]
    with served(bot_file, "--no-uploads") as address:
        assert upload(address, 1) == 503


def test_chat_reads_lines_from_a_pipe_and_prints_a_turn_a_line(bot_file: Path) -> None:
    with served(bot_file) as address:
        finished = run("chat", address, text="hello\n\nworld")
    assert (finished.stdout, finished.stderr) == ("bot: You said hello\nbot: You said world\n", "")
    assert finished.returncode == 0


def test_inspect_lists_the_actors_of_open_sessions(bot_file: Path) -> None:
    with served(bot_file) as address:
        talking = subprocess.Popen(
            command("chat", address), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with talking:
            assert talking.stdin is not None
            assert talking.stdout is not None
            print("hello", file=talking.stdin, flush=True)
            assert talking.stdout.readline() == "bot: You said hello\n"
            listed = run("inspect", address)
        assert talking.returncode == 0
    assert "1 sessions" in listed.stdout
    assert "EchoBot" in listed.stdout
    assert re.search(r"^ +handshake ", listed.stdout, re.MULTILINE)


def test_a_token_stays_out_of_the_log(bot_file: Path, tmp_path: Path) -> None:
    handshake = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    log = tmp_path / "log"
    with log.open("w") as stderr, served(bot_file, "--require-token", "--log-level", "info", stderr=stderr) as address:
        answer = httpx.get(f"{address}/ws?token=0123456789abcdef", headers=handshake)
        assert answer.status_code == 403
    assert "/ws?token=[REDACTED]" in log.read_text()


def test_open_origins_lets_any_page_connect(bot_file: Path) -> None:
    with served(bot_file, "--open-origins") as address:
        answer = httpx.post(f"{address}/start", headers={"origin": "http://elsewhere.example"})
        assert answer.headers["access-control-allow-origin"] == "*"


def test_one_origin_and_one_name_more_are_let_in_and_no_others(bot_file: Path) -> None:
    with served(bot_file, "--origin", "http://app.example", "--allow-host", "bot.example") as address:
        expected = {
            ("http://app.example", ""): 200,
            ("http://other.example", ""): 403,
            ("http://bot.example", "bot.example"): 200,
            ("http://evil.example", "evil.example"): 400,
        }
        for (origin, host), status in expected.items():
            headers = {"origin": origin} | ({"host": host} if host else {})
            assert httpx.post(f"{address}/start", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("no_colon", "MODULE:BOT"),
        ("no.such.module:Bot", "no"),
        ("nowhere.py:Bot", "not a file"),
        ("json:nothing", "nothing"),
        ("sys:path", "neither"),
    ],
)
def test_a_bot_that_cannot_be_loaded_is_one_line_and_exit_code_1(target: str, complaint: str) -> None:
    result = CliRunner().invoke(app, ["serve", target])
    assert result.exit_code == 1
    assert complaint in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [["inspect", "http://127.0.0.1:1"], ["chat", "ws://127.0.0.1:1/ws"]])
def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1


def test_inspect_takes_http_addresses_only() -> None:
    assert CliRunner().invoke(app, ["inspect", "file:///etc/passwd"]).exit_code == 2


def test_a_bot_is_loaded_from_a_file_or_a_module(bot_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(bot_file.parent), *sys.path])
    monkeypatch.delitem(sys.modules, bot_file.stem, raising=False)
    assert load_bot(f"{bot_file.stem}:EchoBot").__name__ == "EchoBot"
    assert load_bot(f"{bot_file}:EchoBot").__name__ == "EchoBot"
    monkeypatch.delitem(sys.modules, bot_file.stem)
