from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from rtvi_actors.errors import FilesFull, FileTooLarge
from rtvi_actors.files import FileStore, Incoming, StoredFile

MIB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def put(store: FileStore, data: bytes = b"content", session_id: str | None = None) -> StoredFile:
    return store.put(data, format="text/plain", name="a.txt", session_id=session_id)


# -- what comes back -----------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 1, 100, 101, 5000])
def test_a_file_comes_back_as_it_was_put_in_memory_and_spooled(size_bytes: int) -> None:
    store = FileStore(spool_bytes=100)
    data = bytes(index % 251 for index in range(size_bytes))
    file = put(store, data)
    found = store.get(file.url)
    assert found is not None
    assert (found.data, found.data) == (data, data), "it can be read again"
    assert (found.format, found.name, found.size_bytes) == ("text/plain", "a.txt", size_bytes)


def test_a_file_may_be_put_in_pieces() -> None:
    store = FileStore(spool_bytes=3)
    file = store.put((b"ab", b"", b"cde"), format="text/plain", name="x")
    assert (file.data, file.size_bytes, store.held_bytes) == (b"abcde", 5, 5)


def test_a_url_is_new_each_time_and_stays_out_of_logs() -> None:
    store = FileStore()
    files = [put(store) for _ in range(100)]
    assert len({file.url for file in files}) == 100
    assert all(file.url.startswith("rtvi:") and len(file.id) >= 32 for file in files)
    assert files[0].id not in repr(files[0])


@pytest.mark.parametrize(
    "url", ["", "rtvi:", "rtvi:forged", "https://x", "file:///etc/passwd", "rtvi:../../etc/passwd"]
)
def test_what_is_no_url_of_ours_is_nothing(url: str) -> None:
    store = FileStore()
    put(store)
    assert store.get(url) is None
    assert not store.remove(url)


def test_a_url_needs_its_scheme() -> None:
    store = FileStore()
    assert store.get(put(store).id) is None


# -- whose it is ---------------------------------------------------------------


def test_a_file_for_a_session_is_for_it_alone_and_one_for_none_is_for_any() -> None:
    store = FileStore()
    own, common = put(store, session_id="a"), put(store)
    assert store.get(own.url, "a") == own
    assert store.get(own.url, "b") is None
    assert store.get(own.url) is None
    assert store.get(common.url, "b") == store.get(common.url) == common


def test_a_sessions_files_go_with_it() -> None:
    store = FileStore()
    own, others, common = put(store, session_id="a"), put(store, session_id="b"), put(store)
    assert store.drop_session("a") == 1
    assert store.drop_session("a") == 0
    assert store.get(own.url, "a") is None
    assert (store.count, store.held_bytes) == (2, others.size_bytes + common.size_bytes)


def test_who_has_a_file_may_read_it_after_the_store_let_it_go() -> None:
    store = FileStore(spool_bytes=1)
    file = put(store)
    assert store.remove(file.url)
    assert (file.data, store.held_bytes) == (b"content", 0)


def test_nothing_of_a_file_stays_open_when_nobody_has_it() -> None:
    store = FileStore(spool_bytes=1)
    content = put(store)._content
    closed = content.close
    store.drop_session("other")
    assert closed.alive
    del content, store
    gc.collect()
    assert not closed.alive


# -- bounds --------------------------------------------------------------------


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing() -> None:
    store = FileStore(max_file_bytes=10)
    with pytest.raises(FileTooLarge) as refused:
        store.put((b"12345", b"678901"), format="text/plain", name="x")
    assert refused.value.limit_bytes == 10
    assert (store.count, store.held_bytes) == (0, 0)
    assert put(store, b"1234567890").size_bytes == 10


def test_a_full_store_refuses_and_keeps_what_it_has() -> None:
    store = FileStore(max_bytes=10, max_files=2)
    first = put(store, b"12345")
    with pytest.raises(FilesFull, match="10 bytes"):
        put(store, b"123456")
    put(store, b"12345")
    with pytest.raises(FilesFull, match="2 files"):
        put(store, b"")
    assert store.get(first.url) == first
    store.remove(first.url)
    assert put(store, b"12345").data == b"12345"


def test_a_file_that_is_still_coming_counts() -> None:
    store = FileStore(max_bytes=10, max_files=2)
    with store.incoming(format="text/plain", name="x") as incoming:
        incoming.write(b"1234567")
        assert (store.count, store.held_bytes) == (0, 7)
        with pytest.raises(FilesFull):
            put(store, b"1234")
        put(store, b"123")
        with pytest.raises(FilesFull):
            put(store, b"")
    assert (store.count, store.held_bytes) == (1, 3)


def test_a_source_that_fails_leaves_nothing() -> None:
    def source() -> Iterator[bytes]:
        yield b"123"
        raise ConnectionResetError

    store = FileStore()
    with pytest.raises(ConnectionResetError):
        store.put(source(), format="text/plain", name="x")
    assert store.held_bytes == 0


def test_what_is_thrown_away_takes_no_room_on_the_disk_from_then_on() -> None:
    incoming = FileStore(spool_bytes=1).incoming(format="text/plain", name="x")
    incoming.write(b"123")
    incoming.discard()
    assert not incoming._content.close.alive


def test_a_file_is_kept_once() -> None:
    store = FileStore()
    with store.incoming(format="text/plain", name="x") as incoming:
        incoming.keep()
        with pytest.raises(ValueError, match="already"):
            incoming.keep()
        with pytest.raises(ValueError, match="already"):
            incoming.write(b"more")
    incoming.discard()
    assert (store.count, store.held_bytes) == (1, 0)


def test_what_is_thrown_away_takes_nothing_more() -> None:
    store = FileStore()
    incoming = store.incoming(format="text/plain", name="x")
    incoming.discard()
    with pytest.raises(ValueError, match="already"):
        incoming.write(b"more")
    assert store.held_bytes == 0


@pytest.mark.parametrize("bound", ["max_file_bytes", "max_bytes", "max_files", "spool_bytes"])
def test_a_bound_that_is_none_is_refused(bound: str) -> None:
    with pytest.raises(ValueError, match="positive"):
        FileStore(**{bound: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        FileStore(ttl_s=float("nan"))


# -- time ----------------------------------------------------------------------


def test_a_file_is_good_until_its_time_is_over_and_makes_room_then() -> None:
    clock = Clock()
    store = FileStore(ttl_s=10, max_files=1, clock_s=clock)
    file = put(store)
    clock.now_s = 9.9
    assert store.get(file.url) == file
    with pytest.raises(FilesFull):
        put(store)
    clock.now_s = 10
    assert (store.get(file.url), store.held_bytes) == (None, 0)
    assert put(store).size_bytes == 7


def test_a_files_time_begins_when_it_is_whole() -> None:
    clock = Clock()
    store = FileStore(ttl_s=10, clock_s=clock)
    with store.incoming(format="text/plain", name="x") as incoming:
        clock.now_s = 9
        file = incoming.keep()
    clock.now_s = 18
    assert store.get(file.url) == file


# -- any sequence --------------------------------------------------------------


class Sequences(RuleBasedStateMachine):
    """A store against a model that knows what must be there: id → (data, session, expiry)."""

    files: Bundle[StoredFile] = Bundle("files")
    coming: Bundle[Incoming] = Bundle("coming")
    sessions = st.sampled_from([None, "a", "b"])

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = FileStore(max_file_bytes=8, max_bytes=20, max_files=4, ttl_s=10, spool_bytes=3, clock_s=self.clock)
        self.there: dict[str, tuple[bytes, str | None, float]] = {}
        self.incoming: dict[int, bytes] = {}

    def _expire(self) -> None:
        self.there = {url: kept for url, kept in self.there.items() if kept[2] > self.clock.now_s}

    def _bytes(self) -> int:
        return sum(len(data) for data, _, _ in self.there.values()) + sum(map(len, self.incoming.values()))

    def _is_full(self) -> bool:
        return len(self.there) + len(self.incoming) >= 4

    @rule(target=files, data=st.binary(max_size=10), session=sessions)
    def put(self, data: bytes, session: str | None) -> StoredFile | MultipleResults[StoredFile]:
        fits = len(data) <= 8 and self._bytes() + len(data) <= 20 and not self._is_full()
        try:
            file = self.store.put(data, format="text/plain", name="x", session_id=session)
        except (FilesFull, FileTooLarge):
            assert not fits
            return multiple()
        assert fits
        self.there[file.url] = (data, session, self.clock.now_s + 10)
        return file

    @rule(target=coming, session=sessions)
    def begin(self, session: str | None) -> Incoming | MultipleResults[Incoming]:
        try:
            incoming = self.store.incoming(format="text/plain", name="x", session_id=session)
        except FilesFull:
            assert self._is_full()
            return multiple()
        assert not self._is_full()
        self.incoming[id(incoming)] = b""
        return incoming

    @rule(incoming=coming, data=st.binary(max_size=6))
    def write(self, incoming: Incoming, data: bytes) -> None:
        written = self.incoming[id(incoming)]
        try:
            incoming.write(data)
        except FileTooLarge:
            assert len(written + data) > 8
        except FilesFull:
            assert self._bytes() + len(data) > 20
        else:
            self.incoming[id(incoming)] = written + data

    @rule(target=files, incoming=consumes(coming))
    def keep(self, incoming: Incoming) -> StoredFile:
        file = incoming.keep()
        self.there[file.url] = (self.incoming.pop(id(incoming)), file.session_id, self.clock.now_s + 10)
        return file

    @rule(incoming=consumes(coming))
    def discard(self, incoming: Incoming) -> None:
        incoming.discard()
        del self.incoming[id(incoming)]

    @rule(file=files, session=sessions)
    def get(self, file: StoredFile, session: str | None) -> None:
        found = self.store.get(file.url, session)
        data, owner, _ = self.there.get(file.url, (None, None, 0.0))
        if data is None or owner not in (None, session):
            assert found is None
        else:
            assert found is not None
            assert found.data == data

    @rule(file=files)
    def remove(self, file: StoredFile) -> None:
        assert self.store.remove(file.url) == (self.there.pop(file.url, None) is not None)

    @rule(session=st.sampled_from(["a", "b"]))
    def end_session(self, session: str) -> None:
        before = len(self.there)
        self.there = {url: kept for url, kept in self.there.items() if kept[1] != session}
        assert self.store.drop_session(session) == before - len(self.there)

    @rule(seconds=st.sampled_from([0.5, 4.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self._expire()

    @invariant()
    def the_books_are_right_and_within_bounds(self) -> None:
        assert self.store.held_bytes == self._bytes() <= 20
        assert self.store.count == len(self.there) <= 4

    def teardown(self) -> None:
        for url in self.there:
            assert self.store.remove(url)


TestSequences = Sequences.TestCase


def test_threads_that_upload_and_drop_leave_the_books_right() -> None:
    store = FileStore(max_bytes=64 * 1024, max_files=64, spool_bytes=512)
    failures: list[str] = []

    def work(name: str) -> None:
        for round_ in range(50):
            data = f"{name}/{round_}".encode() * 100
            file = put(store, data, session_id=name)
            if file.data != data or store.get(file.url, name) != file:
                failures.append(name)
            if round_ % 5 == 4:
                store.drop_session(name)

    threads = [threading.Thread(target=work, args=(f"s{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (store.count, store.held_bytes) == (0, 0)
