"""What clients have uploaded and may refer to: send-file names an upload by its ``rtvi:`` URL (RTVI 2.2).

* Bounded in bytes and in number, the uploads that are still coming in included. One too many is refused: what is there
  is good until its time is over.
* A client's name for a file is only ever shown. Content lies in memory or, beyond `spool_bytes`, in a nameless file of
  the system's temporary directory: no path, so nothing to traverse, and gone with the process, however that ends.
* A file that was uploaded for a session is for that session alone, and goes with it. One uploaded for none is for
  whoever knows its URL, which cannot be guessed.
"""

from __future__ import annotations

import secrets
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from threading import Lock
from types import TracebackType
from typing import Final, Self

from rtvi_actors.errors import FilesFull, FileTooLarge

__all__ = ["MAX_BYTES", "MAX_FILE_BYTES", "SCHEME", "FileStore", "Incoming", "StoredFile"]

SCHEME: Final = "rtvi:"
MAX_FILE_BYTES: Final = 50 * 1024 * 1024
"""What pipecat-ai 1.14.0's runner takes (PROTOCOL.md 3.2)."""
MAX_BYTES: Final = 256 * 1024 * 1024
MAX_FILES: Final = 1024
TTL_S: Final = 3600.0
SPOOL_BYTES: Final = 1024 * 1024


class _Content:
    """Bytes that are written once and then only read, as often as wanted. Freed when nothing refers to them."""

    def __init__(self, spool_bytes: int) -> None:
        self._file = SpooledTemporaryFile(max_size=spool_bytes)  # noqa: SIM115  closed below, with the last reference
        self._lock = Lock()
        self.close = weakref.finalize(self, self._file.close)

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def read(self) -> bytes:
        with self._lock:
            self._file.seek(0)
            return self._file.read()


@dataclass(frozen=True)
class StoredFile:
    """An upload."""

    id: str = field(repr=False)
    """192 random bits, URL-safe. Who knows it may use the file, so it stays out of logs."""
    format: str
    """MIME type, as it was declared."""
    name: str
    """As the client calls it: to be shown, never to be opened."""
    size_bytes: int
    session_id: str | None
    """The session that it is for; `None`: any."""
    _content: _Content = field(repr=False, compare=False)

    @property
    def url(self) -> str:
        """What a client's `send-file` names it by."""
        return f"{SCHEME}{self.id}"

    @property
    def data(self) -> bytes:
        """The content, read anew at each access: a millisecond or two for 10 MB. It stays readable for whoever has
        this object, also when the store has let the file go."""
        return self._content.read()


@dataclass(frozen=True)
class _Entry:
    file: StoredFile
    expires_s: float


class FileStore:
    """Uploads of one process. Any thread may call it.

    What has expired leaves with the next call. `clock_s` must never go back.
    """

    def __init__(
        self,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        max_bytes: int = MAX_BYTES,
        max_files: int = MAX_FILES,
        ttl_s: float = TTL_S,
        spool_bytes: int = SPOOL_BYTES,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if min(max_file_bytes, max_bytes, max_files, spool_bytes) < 1 or not ttl_s > 0:
            raise ValueError("the bounds of a file store must be positive")
        self.max_file_bytes = max_file_bytes
        self.max_bytes = max_bytes
        self.max_files = max_files
        self.ttl_s = ttl_s
        self._spool_bytes = spool_bytes
        self._clock_s = clock_s
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """By id, the first to expire first: all have the same time to live."""
        self._held_bytes = 0
        self._incoming = 0

    # -- in --------------------------------------------------------------------------------

    def put(
        self,
        data: bytes | Iterable[bytes],
        *,
        format: str,  # noqa: A002  the wire's word
        name: str,
        session_id: str | None = None,
    ) -> StoredFile:
        """Keep a file. Raises `FileTooLarge`, `FilesFull`; `OSError` where the temporary directory is full."""
        with self.incoming(format=format, name=name, session_id=session_id) as incoming:
            for chunk in (data,) if isinstance(data, bytes) else data:
                incoming.write(chunk)
            return incoming.keep()

    def incoming(
        self,
        *,
        format: str,  # noqa: A002  the wire's word
        name: str,
        session_id: str | None = None,
    ) -> Incoming:
        """A file that comes in pieces. Raises `FilesFull`."""
        with self._lock:
            self._forget_expired()
            if len(self._entries) + self._incoming >= self.max_files:
                raise FilesFull("files", self.max_files)
            self._incoming += 1
        return Incoming(self, format, name, session_id, _Content(self._spool_bytes))

    def _reserve(self, size_bytes: int) -> None:
        with self._lock:
            self._forget_expired()
            if self._held_bytes + size_bytes > self.max_bytes:
                raise FilesFull("bytes", self.max_bytes)
            self._held_bytes += size_bytes

    def _keep(self, file: StoredFile) -> None:
        with self._lock:
            self._incoming -= 1
            self._entries[file.id] = _Entry(file, self._clock_s() + self.ttl_s)

    def _give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._incoming -= 1
            self._held_bytes -= size_bytes

    # -- out -------------------------------------------------------------------------------

    def get(self, url: str, session_id: str | None = None) -> StoredFile | None:
        """The file of that URL; `None` where there is none, or none for this session."""
        if not url.startswith(SCHEME):
            return None
        with self._lock:
            self._forget_expired()
            entry = self._entries.get(url.removeprefix(SCHEME))
        if entry is None or entry.file.session_id not in (None, session_id):
            return None
        return entry.file

    def remove(self, url: str) -> bool:
        """Let a file go; whether it was there."""
        with self._lock:
            return self._pop(url.removeprefix(SCHEME))

    def drop_session(self, session_id: str) -> int:
        """A session has ended: its files go. How many they were."""
        with self._lock:
            self._forget_expired()
            own = [key for key, entry in self._entries.items() if entry.file.session_id == session_id]
            return sum(map(self._pop, own))

    def _pop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._held_bytes -= entry.file.size_bytes
        return entry is not None

    def _forget_expired(self) -> None:
        now_s = self._clock_s()
        while self._entries and next(iter(self._entries.values())).expires_s <= now_s:
            self._pop(next(iter(self._entries)))

    # -- what there is ---------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Files kept."""
        with self._lock:
            self._forget_expired()
            return len(self._entries)

    @property
    def held_bytes(self) -> int:
        """Bytes of the files kept, and of those coming in."""
        with self._lock:
            self._forget_expired()
            return self._held_bytes


class Incoming:
    """A file that comes in pieces: `write` them, then `keep` it. Leaving the block without that throws it away.

    Its bytes count as the store's from the moment they come. For one thread at a time.
    """

    def __init__(self, store: FileStore, media_type: str, name: str, session_id: str | None, content: _Content) -> None:
        self._store = store
        self._format = media_type
        self._name = name
        self._session_id = session_id
        self._content = content
        self._open = True
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        """The next piece. Raises `FileTooLarge`, `FilesFull`, and `OSError` where the temporary directory is full.

        May write to the disk, so not on an event loop's thread.
        """
        self._check_open()
        if self.size_bytes + len(chunk) > self._store.max_file_bytes:
            raise FileTooLarge(self._store.max_file_bytes)
        self._store._reserve(len(chunk))
        self.size_bytes += len(chunk)
        self._content.write(chunk)

    def keep(self) -> StoredFile:
        """All pieces are there. Once."""
        self._check_open()
        self._open = False
        file = StoredFile(
            secrets.token_urlsafe(24), self._format, self._name, self.size_bytes, self._session_id, self._content
        )
        self._store._keep(file)
        return file

    def discard(self) -> None:
        """Throw it away, unless it is kept. Idempotent."""
        if self._open:
            self._open = False
            self._store._give_back(self.size_bytes)
            self._content.close()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("this file is kept, or thrown away, already")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()
