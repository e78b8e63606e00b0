from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rtvi_actors as rtvi
from rtvi_actors.files import FileStore, Incoming, StoredFile
from rtvi_actors.protocol.client import File
from rtvi_actors.server import ServerOptions, asgi
from rtvi_actors.web import uploads
from rtvi_actors.web.uploads import BESIDE_BYTES, Form, Refused
from tests.serving import serving
from tests.session_kit import virtual_time

MIB = 1 << 20
BOUNDARY = "----b"
PLAIN = {"file": ("notes.txt", b"hello", "text/plain")}


class Bot(rtvi.Bot):
    accepts_files = True


def part(
    data: bytes, *, field: str = "file", filename: str | None = "notes.txt", content_type: str | None = "text/plain"
) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"'
    head += "" if filename is None else f'; filename="{filename}"'
    head += "" if content_type is None else f"\r\nContent-Type: {content_type}"
    return head.encode() + b"\r\n\r\n" + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
FORM = part(b"hello") + END


# -- a server ------------------------------------------------------------------


class Server:
    def __init__(self, address: str, store: FileStore) -> None:
        self.address = address
        self.store = store

    def post(self, path: str = "/files", **arguments: Any) -> httpx.Response:
        return httpx.post(f"http://{self.address}{path}", **arguments)

    def post_form(self, content: bytes | Iterator[bytes], content_type: str = TYPE) -> httpx.Response:
        return self.post(content=content, headers={"content-type": content_type})

    def stored(self, answer: httpx.Response) -> StoredFile:
        assert answer.status_code == 200, answer.text
        file = self.store.get(answer.json()["source"]["url"])
        assert file is not None
        return file

    @contextmanager
    def sending(self, *pieces: bytes) -> Iterator[socket.socket]:
        """A connection on which some bytes have been sent, and no more are to come for now."""
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            for piece in pieces:
                connection.sendall(piece)
            yield connection


@contextmanager
def taking(store: FileStore | None = None, **options: Any) -> Iterator[Server]:
    store = store or FileStore()
    session = rtvi.SessionOptions(file_store=store)
    with serving(asgi(Bot, options=ServerOptions(session=session, **options))) as address:
        yield Server(address, store)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """For tests that need no options; it keeps what they upload."""
    with taking() as server:
        yield server


def head(length: int | None = None, *, path: str = "/files", more: str = "") -> bytes:
    """A request's head; without a length the body comes in chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\n{framing}\r\n{more}\r\n"
    return lines.encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """The status and the JSON of what comes, once all of the body is there."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    raw, _, body = received.partition(b"\r\n\r\n")
    lines = raw.decode().lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    while len(body) < length:
        body += _more(connection)
    return int(lines[0].split()[1]), json.loads(body)


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server closed without an answer"
    return data


def until(condition: Callable[[], bool]) -> None:
    """The server's thread comes to it: wait for that, not for a time."""
    pause = threading.Event()
    for _ in range(20_000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("the condition did not become true")


# -- what is taken -------------------------------------------------------------


def test_the_answer_is_the_file_that_send_file_takes() -> None:
    with taking() as server:
        answer = server.post(files=PLAIN)
        file = server.stored(answer)
        assert answer.json() == {
            "name": "notes.txt",
            "source": {"type": "url", "url": file.url},
            "format": "text/plain",
        }
        assert file.data == b"hello"
        assert msgspec.json.decode(answer.content, type=File).source.url == file.url
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("size_bytes", [0, 1, 65_535, 65_536, 300_000, 3 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_of_any_size_arrives_whole(shared: Server, size_bytes: int, chunked: bool) -> None:
    data = bytes(range(251)) * (size_bytes // 251 + 1)
    body = part(data[:size_bytes]) + END
    pieces = iter([body[at : at + 10_007] for at in range(0, len(body), 10_007)])
    file = shared.stored(shared.post_form(pieces if chunked else body))
    assert (file.size_bytes, file.data) == (size_bytes, data[:size_bytes])


def test_other_fields_and_what_stands_around_the_form_are_left_out() -> None:
    other = part(b"x", field="comment", filename=None) + part(b"y", field="avatar", filename="a.png")
    with taking() as server:
        assert server.stored(server.post_form(other + part(b"hello") + other + END + b"epilogue")).data == b"hello"
        assert (server.store.count, server.store.held_bytes) == (1, 5)


def test_a_part_has_its_own_headers_and_not_those_of_the_part_before(shared: Server) -> None:
    other = part(b"x", field="comment", filename=None, content_type="text/html")
    assert shared.stored(shared.post_form(other + part(b"x", content_type=None) + END)).format == "text/plain"
    bare = f"--{BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nhello\r\n".encode()
    assert shared.stored(shared.post_form(FORM[: -len(END)] + bare + END)).data == b"hello"


@pytest.mark.parametrize(
    ("name", "declared", "expected"),
    [
        ("a.txt", "text/plain", "text/plain"),
        ("a.txt", "Text/Plain; charset=utf-8", "text/plain"),
        ("a.pdf", "text/plain", "text/plain"),
        ("a.pdf", "application/octet-stream", "application/pdf"),
        ("a.pdf", None, "application/pdf"),
    ],
)
def test_the_format_is_the_declared_one_or_goes_by_the_name(
    shared: Server, name: str, declared: str | None, expected: str
) -> None:
    body = part(b"x", filename=name, content_type=declared) + END
    assert shared.stored(shared.post_form(body)).format == expected


@pytest.mark.parametrize(
    ("filename", "shown"), [("notes.txt", "notes.txt"), ("../../etc/passwd", "passwd"), ("..", "file")]
)
def test_a_name_is_shown_without_path_and_never_empty(shared: Server, filename: str, shown: str) -> None:
    assert shared.stored(shared.post_form(part(b"x", filename=filename) + END)).name == shown


def test_a_file_is_written_in_a_worker_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()
    write = Incoming.write

    def spy(incoming: Incoming, data: bytes) -> None:
        threads.add(threading.current_thread().name)
        write(incoming, data)

    monkeypatch.setattr(Incoming, "write", spy)
    with taking() as server:
        assert server.stored(server.post_form(part(b"x" * 2 * MIB) + END)).size_bytes == 2 * MIB
    assert threads
    assert "uvicorn" not in threads


# -- what is refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", TYPE, 400),
        (END, TYPE, 400),
        (FORM, "multipart/form-data", 400),
        (FORM, "multipart/form-data; boundary=", 400),
        (FORM, f"multipart/form-data; boundary={'b' * 71}", 400),
        (FORM, "multipart/form-data; boundary=other", 400),
        (FORM, f"multipart/mixed; boundary={BOUNDARY}", 400),
        (b'{"file":"x"}', "application/json", 400),
        (b"file=x", "application/x-www-form-urlencoded", 400),
        (b"\xff" * 1000, TYPE, 400),
        (FORM[:-10], TYPE, 400),
        (part(b"hello"), TYPE, 400),
        (part(b"hello", field="upload") + END, TYPE, 400),
        (part(b"hello", filename=None) + END, TYPE, 400),
        (part(b"", filename="") + END, TYPE, 400),
        (part(b"a") + part(b"b", filename="b.txt") + END, TYPE, 400),
        (f"--{BOUNDARY}\r\n: x\r\n\r\n".encode() + END, TYPE, 400),
        (part(b"x" * (BESIDE_BYTES + 1), field="other") + FORM, TYPE, 413),
        (FORM + b"x" * BESIDE_BYTES, TYPE, 413),
        (part(b"x", content_type="application/x-msdownload") + END, TYPE, 415),
        (part(b"x", content_type="text/html") + END, TYPE, 415),
        (part(b"x", content_type="nonsense") + END, TYPE, 415),
        (part(b"x", filename="a.bin", content_type=None) + END, TYPE, 415),
    ],
)
def test_what_is_no_upload_is_refused_in_json_and_leaves_nothing(
    shared: Server, body: bytes, content_type: str, status: int
) -> None:
    before = (shared.store.count, shared.store.held_bytes)
    answer = shared.post_form(body, content_type)
    assert (answer.status_code, set(answer.json())) == (status, {"detail", "info"})
    assert (shared.store.count, shared.store.held_bytes) == before
    assert shared.stored(shared.post_form(FORM)).data == b"hello", "the next one is taken"


@pytest.mark.parametrize("headers", [b"A: " + b"x" * 10 * BESIDE_BYTES, b"A: x\r\n" * BESIDE_BYTES])
def test_part_headers_without_end_are_cut_off(shared: Server, headers: bytes) -> None:
    answer = shared.post_form(f"--{BOUNDARY}\r\n".encode() + headers)
    assert answer.status_code in (400, 413), "the parser's bounds, in its newer versions, or ours"


def test_a_file_of_just_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    with taking(FileStore(max_file_bytes=100_000)) as server:
        assert server.stored(server.post_form(part(b"x" * 100_000) + END)).size_bytes == 100_000
        answer = server.post_form(part(b"x" * 100_001) + END)
        assert (answer.status_code, "100000" in answer.json()["detail"]) == (413, True)
        assert server.store.count == 1


def test_one_that_says_itself_that_it_is_too_large_is_refused_before_it_is_sent() -> None:
    with taking(FileStore(max_file_bytes=100_000)) as server, server.sending(head(10**15)) as connection:
        assert answer_on(connection)[0] == 413


def test_one_that_grows_too_large_is_refused_while_it_is_still_being_sent() -> None:
    with taking(FileStore(max_file_bytes=100_000)) as server:
        begin = part(b"x" * 200_000)[:-2]
        with server.sending(head(), chunk(begin)) as connection:
            assert answer_on(connection)[0] == 413
        with server.sending(head(150_000), begin[:120_000]) as connection:
            assert answer_on(connection)[0] == 413
        assert server.store.held_bytes == 0


def test_a_client_that_sends_on_gets_its_refusal_all_the_same() -> None:
    with taking(FileStore(max_file_bytes=1000)) as server:
        assert server.post_form(part(b"x" * 3 * MIB) + END).status_code == 413


def test_a_refused_client_that_never_stops_is_cut_off() -> None:
    with taking(FileStore(max_file_bytes=1000)) as server, server.sending(head(), chunk(part(b"x" * 2000))) as endless:
        assert answer_on(endless)[0] == 413
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            endless.sendall(chunk(b"x" * 65_536) * 1024)


def test_a_refused_client_that_has_said_all_may_use_its_connection_again(shared: Server) -> None:
    bad = part(b"x", content_type="text/html") + END
    with shared.sending() as connection:
        for body, status in ((bad, 415), (bad, 415), (FORM, 200)):
            connection.sendall(head(len(body)) + body)
            assert answer_on(connection)[0] == status


def test_a_length_that_lies_costs_only_the_upload_itself() -> None:
    with taking() as server:
        for length in (len(FORM) - 20, len(FORM) + 20):
            with server.sending(head(length), FORM) as connection:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # what the HTTP server makes of it is its own matter
                    pass
        assert server.store.count == 0
        assert server.stored(server.post_form(FORM)).data == b"hello"


def test_a_client_that_leaves_midway_leaves_nothing() -> None:
    with taking() as server:
        with server.sending(head(5 * MIB), part(b"x" * MIB)[:-2]):
            until(lambda: server.store.held_bytes > 0)
        until(lambda: server.store.held_bytes == 0)
        assert server.store.count == 0


def test_an_upload_that_takes_too_long_is_ended() -> None:
    with taking(upload_timeout_s=0.05) as server, server.sending(head(1000), FORM[:50]) as connection:
        assert answer_on(connection)[0] == 408
        until(lambda: server.store.held_bytes == 0)


def test_uploads_at_once_are_bounded_and_the_place_is_given_back() -> None:
    with taking(max_uploads=1) as server, server.sending(head(len(FORM)), FORM[:-10]) as first:
        until(lambda: server.post(files=PLAIN).status_code == 503)
        answer = server.post(files=PLAIN)
        assert (answer.headers["retry-after"], set(answer.json())) == ("5", {"detail", "info"})
        first.sendall(FORM[-10:])
        assert answer_on(first)[0] == 200
        until(lambda: server.post(files=PLAIN).status_code == 200)


def test_a_full_store_refuses_until_something_has_gone() -> None:
    with taking(FileStore(max_bytes=8)) as server:
        first = server.stored(server.post(files=PLAIN))
        answer = server.post(files=PLAIN)
        assert (answer.status_code, set(answer.json())) == (507, {"detail", "info"})
        server.store.remove(first.url)
        assert server.stored(server.post(files=PLAIN)).data == b"hello"


def test_a_temporary_directory_that_is_full_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_incoming: Incoming, _data: bytes) -> None:
        raise OSError(28, "No space left on device: /secret")

    monkeypatch.setattr(Incoming, "write", full)
    with taking() as server:
        answer = server.post(files=PLAIN)
        assert (answer.status_code, "secret" in answer.text) == (507, False)
        assert server.store.held_bytes == 0


def test_a_server_without_uploads_says_so() -> None:
    with taking(uploads=False) as server:
        for path in ("/files", "/sessions/x/files"):
            answer = server.post(path, files=PLAIN)
            assert (answer.status_code, answer.json()["detail"]) == (503, uploads.DISABLED)


def test_only_post_is_known_and_nothing_can_be_fetched() -> None:
    with taking() as server:
        file = server.stored(server.post(files=PLAIN))
        assert httpx.get(f"http://{server.address}/files").status_code == 405
        assert httpx.get(f"http://{server.address}/files/{file.id}").status_code == 404


# -- the server's three callables ----------------------------------------------


class Peer:
    """An ASGI server's side of one upload: what the application did, in order."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = [*chunks]
        self.done: list[str] = []

    async def receive(self) -> dict[str, Any]:
        self.done.append("receive")
        if not self.chunks:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.chunks.pop(0), "more_body": True}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.done.append(f"answer {message['status']}")
        else:
            self.done.append("body" if message.get("more_body") else "end")

    async def call(self, http_version: str = "1.1") -> None:
        scope = {"type": "http", "http_version": http_version, "method": "POST", "path": "/files", "query_string": b""}
        headers = [(b"content-type", TYPE.encode())]
        await asgi(Bot)({**scope, "headers": headers, "root_path": ""}, self.receive, self.send)


@pytest.mark.anyio
async def test_a_refusal_is_sent_at_once_and_the_client_read_on_a_while() -> None:
    peer = Peer(b"no form", *[b"x" * MIB] * 10)
    await peer.call()
    read_on = ["receive"] * (uploads.LINGER_BYTES // MIB)
    assert peer.done == ["receive", "answer 400", "body", *read_on, "end"]


@pytest.mark.anyio
async def test_a_client_that_leaves_while_it_is_read_on_is_let_go() -> None:
    peer = Peer(b"no form", b"x")
    await peer.call("2")
    assert peer.done == ["receive", "answer 400", "body", "receive", "receive", "end"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(virtual_time(), id="trio")])
async def test_a_refused_client_that_says_nothing_more_is_waited_for_two_seconds(anyio_backend: object) -> None:
    peer = Peer(b"no form")
    receive = peer.receive

    async def silent() -> dict[str, Any]:
        if not peer.chunks:
            await anyio.sleep_forever()
        return await receive()

    peer.receive = silent  # type: ignore[method-assign]
    began_s = anyio.current_time()
    await peer.call()
    assert (anyio.current_time() - began_s, peer.done[-1]) == (uploads.LINGER_S, "end")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [pytest.param(virtual_time(), id="trio")])
async def test_an_upload_that_trickles_is_ended_at_its_deadline(anyio_backend: object) -> None:
    peer = Peer(part(b"x" * 100)[:-50])
    receive = peer.receive

    async def trickle() -> dict[str, Any]:
        await anyio.sleep(1)
        peer.chunks.append(b"x")
        return await receive()

    peer.receive = trickle  # type: ignore[method-assign]
    began_s = anyio.current_time()
    await peer.call()
    assert "answer 408" in peer.done
    assert anyio.current_time() - began_s == ServerOptions().upload_timeout_s + uploads.LINGER_S


# -- the form alone ------------------------------------------------------------


@given(
    data=st.binary(max_size=200) | st.lists(st.sampled_from([b"\r", b"\n", b"--", b"----b", b"x", END])).map(b"".join),
    cuts=st.lists(st.integers(0, 400)),
)
def test_a_form_reads_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    if f"\r\n--{BOUNDARY}".encode() in b"\r\n" + data + b"\r\n":
        return  # RFC 2046: a boundary is a line that the content has not
    body = part(data) + END
    form = Form(TYPE)
    taken = b""
    edges = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    for start, end in itertools.pairwise(edges):
        form.feed(body[start:end])
        taken += form.take()
    form.finish()
    assert (taken, form.size_bytes, form.name, form.format) == (data, len(data), "notes.txt", "text/plain")


@given(st.binary(max_size=300), st.binary(max_size=40))
def test_any_bytes_are_a_form_or_refused(body: bytes, boundary: bytes) -> None:
    _check("multipart/form-data; boundary=" + boundary.decode("latin-1"), [body])
    _check(TYPE, [b"------b\r\n", body])
    _check(TYPE, [b"--" + BOUNDARY.encode() + b'\r\nContent-Disposition: form-data; name="file"; filename="', body])


def _check(content_type: str, pieces: list[bytes]) -> None:
    assert _status(content_type, pieces) in (200, 400, 413)


def _status(content_type: str, pieces: list[bytes]) -> int:
    try:
        form = Form(content_type)
        for piece in pieces:
            form.feed(piece)
        form.finish()
    except Refused as refused:
        return refused.status
    return 200
