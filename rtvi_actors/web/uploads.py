"""``POST /files`` and ``POST /sessions/ID/files``: multipart/form-data with one part named ``file`` (PROTOCOL.md 3.2).

The answer is a File as `send-file` takes it (RTVI 2.2): ``{"name", "source": {"type": "url", "url"}, "format"}``.

An upload is read piece by piece into the store. Everything is bounded as it comes, whatever its headers promise: the
file, what stands beside it, the time of the whole, the number of uploads at once. Writing happens in a worker thread.
"""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import anyio
import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from rtvi_actors.errors import FilesFull, FileTooLarge
from rtvi_actors.files import FileStore, Incoming, StoredFile
from rtvi_actors.protocol.files import FilePolicy, shown_name
from rtvi_actors.web.http import error_response

__all__ = ["DISABLED", "Form", "Refused", "Uploads"]

log = logging.getLogger("rtvi_actors.server")

FIELD: Final = b"file"
BESIDE_BYTES: Final = 64 * 1024
"""What a request may have beside the file: boundaries, part headers, fields that we do not know."""
WRITE_BYTES: Final = 256 * 1024
"""How much is gathered for one trip to a worker thread."""
BOUNDARY_BYTES: Final = 70
"""RFC 2046, 5.1.1."""
ANY_FORMAT: Final = "application/octet-stream"
_GUESSES: Final = mimetypes.MimeTypes()
"""Python's own table: what a file on this machine says decides nothing."""
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 4 * 1024 * 1024
"""How long, and how far, a refused upload is read on: see `_LastWord`."""
RETRY: Final = {"retry-after": "5"}

DISABLED: Final = "This server takes no uploads"
BUSY: Final = "This server takes as many uploads at once as it may; try again later"
NO_FORM: Final = "An upload is multipart/form-data with one part named file"
NO_FILE: Final = "There is no part named file that has a file name"
TWO_FILES: Final = "One file an upload"
TOO_MUCH_BESIDE: Final = f"There are more than {BESIDE_BYTES} bytes beside the file"
FORMAT_REFUSED: Final = "This server does not take files of this content type"
TOO_SLOW: Final = "The upload took too long"
STORE_FULL: Final = "This server keeps as many files as it may; try again later"


class Refused(Exception):
    """An upload that is not taken: the HTTP status and our own words, which quote nothing of it."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class _Gone(Exception):
    """The client left in the middle of its upload."""


class Uploads:
    """Takes uploads into a store, as far as the policy of send-file would take them; `None` takes none. For one event
    loop."""

    def __init__(self, store: FileStore | None, policy: FilePolicy, *, timeout_s: float, max_at_once: int) -> None:
        self._store = store
        self._policy = policy
        self._max_file_bytes = policy.max_bytes if store is None else min(policy.max_bytes, store.max_file_bytes)
        self._timeout_s = timeout_s
        self._max_at_once = max_at_once
        self._at_once = 0

    async def answer(self, request: Request, admit: Callable[[], str | None]) -> Response:
        """One upload. `admit` says for which session it is (`None`: any), or raises `Refused`."""
        body = _Body(request.receive)
        try:
            return _described(await self._take(request, body, admit))
        except Refused as refused:
            return _LastWord(refused, body)
        except _Gone:
            log.debug("a client left in the middle of an upload")
            return Response(status_code=400)  # to nobody

    async def _take(self, request: Request, body: _Body, admit: Callable[[], str | None]) -> StoredFile:
        if self._store is None:
            raise Refused(503, DISABLED)
        admit()
        if self._at_once >= self._max_at_once:
            raise Refused(503, BUSY, RETRY)
        self._at_once += 1
        try:
            with anyio.fail_after(self._timeout_s), _refusing_what_the_store_refuses():
                return await self._read(request, body, self._store, admit)
        except TimeoutError:
            raise Refused(408, TOO_SLOW) from None
        finally:
            self._at_once -= 1

    async def _read(
        self, request: Request, body: _Body, store: FileStore, admit: Callable[[], str | None]
    ) -> StoredFile:
        form = Form(request.headers.get("content-type", ""))
        _check_promise(request.headers.get("content-length", ""), self._max_file_bytes)
        with ExitStack() as stack:
            incoming: Incoming | None = None
            while (chunk := await body.read()) is not None:
                form.feed(chunk)
                if form.size_bytes > self._max_file_bytes:
                    raise FileTooLarge(self._max_file_bytes)
                if incoming is None and form.found:
                    incoming = stack.enter_context(self._begin(form, store, admit()))
                if incoming is not None and form.pending_bytes >= WRITE_BYTES:
                    await anyio.to_thread.run_sync(incoming.write, form.take())
            form.finish()
            if incoming is None:
                raise Refused(400, NO_FILE)
            await anyio.to_thread.run_sync(incoming.write, form.take())
            admit()  # the session may have ended meanwhile, and nobody would drop its file
            return incoming.keep()

    def _begin(self, form: Form, store: FileStore, session_id: str | None) -> Incoming:
        if not self._policy.takes_format(form.format):
            raise Refused(415, FORMAT_REFUSED)
        return store.incoming(format=form.format, name=form.name, session_id=session_id)


@contextmanager
def _refusing_what_the_store_refuses() -> Iterator[None]:
    try:
        yield
    except FileTooLarge as error:
        raise Refused(413, f"A file may have {error.limit_bytes} bytes") from error
    except FilesFull as error:
        log.warning("an upload was refused: %s", error)
        raise Refused(507, STORE_FULL, RETRY) from error
    except OSError as error:  # the temporary directory
        log.exception("an upload could not be written")
        raise Refused(507, STORE_FULL, RETRY) from error


def _check_promise(content_length: str, max_file_bytes: int) -> None:
    """A request that says itself that it is too large need not be read. One that lies is found out in reading."""
    if content_length.isdecimal() and int(content_length[:20]) > max_file_bytes + BESIDE_BYTES:
        raise FileTooLarge(max_file_bytes)


def _described(file: StoredFile) -> Response:
    """The File of a send-file."""
    answer = {"name": file.name, "source": {"type": "url", "url": file.url}, "format": file.format}
    return JSONResponse(answer, headers={"cache-control": "no-store"})


# -- the request's body --------------------------------------------------------


class _Body:
    """A request's body, chunk by chunk."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.over = False
        """Nothing more comes: it is read, or the client is gone."""

    async def read(self) -> bytes | None:
        """The next chunk; `None` at the end. Raises `_Gone`."""
        if self.over:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.over = True
            raise _Gone
        self.over = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


class _LastWord(Response):
    """An answer to a client that is still sending.

    It is sent at once, and then the client is read on for a while: a connection that is closed with unread data is
    reset, and the reset may overtake the answer (RFC 9112, 9.6).
    """

    def __init__(self, refused: Refused, body: _Body) -> None:
        answer = error_response(refused.status, refused.detail, refused.headers)
        super().__init__(answer.body, answer.status_code, answer.headers)
        self._unread = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._unread.over and scope["http_version"].startswith("1"):
            self.headers["connection"] = "close"  # or the server would read on until the client has had enough
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with anyio.move_on_after(LINGER_S):
            await self._linger()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        read_bytes = 0
        try:
            while read_bytes < LINGER_BYTES and (chunk := await self._unread.read()) is not None:
                read_bytes += len(chunk)
        except _Gone:
            return


# -- the form ------------------------------------------------------------------


class Form:
    """multipart/form-data (RFC 7578) with one file, without I/O: `feed` it, `take` the file's bytes.

    All of it raises `Refused`.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind.lower() != b"multipart/form-data" or not 0 < len(boundary) <= BOUNDARY_BYTES:
            raise Refused(400, NO_FORM)
        self.found = False
        """Whether the file's part has begun, and `name` and `format` are known."""
        self.name = ""
        self.format = ANY_FORMAT
        self.size_bytes = 0
        """Of the file, so far."""
        self._fed_bytes = 0
        self._pending = bytearray()
        self._in_file = False
        self._ended = False
        self._headers: dict[bytes, bytes] = {}
        self._header = bytearray()
        self._value = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_end": self._ends,
            },
        )

    @property
    def pending_bytes(self) -> int:
        """What `take` would give."""
        return len(self._pending)

    def feed(self, chunk: bytes) -> None:
        """The next piece of the request's body."""
        self._fed_bytes += len(chunk)
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise Refused(400, NO_FORM) from None
        if self._fed_bytes - self.size_bytes > BESIDE_BYTES:
            raise Refused(413, TOO_MUCH_BESIDE)

    def finish(self) -> None:
        """The body is over: the form must be, too."""
        if not self._ended:
            raise Refused(400, NO_FORM)

    def take(self) -> bytes:
        """The file's bytes that nobody has taken yet."""
        taken = bytes(self._pending)
        self._pending.clear()
        return taken

    # -- what the parser says --------------------------------------------------------------

    def _part_begins(self) -> None:
        self._headers.clear()

    def _header_ends(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if options.get(b"name") != FIELD or not options.get(b"filename"):
            return
        if self.found:
            raise Refused(400, TWO_FILES)
        self.found = self._in_file = True
        self.name = shown_name(options[b"filename"].decode(errors="replace")) or "file"
        self.format = _format(self._headers.get(b"content-type", b""), self.name)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.size_bytes += end - start
            self._pending += memoryview(data)[start:end]

    def _part_ends(self) -> None:
        self._in_file = False

    def _ends(self) -> None:
        self._ended = True


def _format(content_type: bytes, name: str) -> str:
    """The MIME type as declared, without parameters; guessed by the name, where a browser knew none."""
    declared = parse_options_header(content_type)[0].decode("latin-1").lower() or ANY_FORMAT
    if declared != ANY_FORMAT:
        return declared
    guessed, compression = _GUESSES.guess_type(name)
    return guessed if guessed and not compression else ANY_FORMAT
