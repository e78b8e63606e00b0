"""The reader and the writer alone, with an actor of the test's at the other end; then in whole sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import rtvi_actors as rtvi
from rtvi_actors import frames
from rtvi_actors.ledger import Ledger
from rtvi_actors.messages import Outcome
from rtvi_actors.outbox import SLICE_BYTES, Outbox
from rtvi_actors.runtime.futures import ActorFuture
from rtvi_actors.runtime.mailbox import Mailbox
from rtvi_actors.streams import ClientText, ServerText, WireIn, WireOut
from rtvi_actors.transports import memory
from rtvi_actors.wire import READ_AHEAD, READ_AHEAD_BYTES, Reader, Writer
from tests.session_kit import Call, Frame, calling, message, stuck, virtual_time

pytestmark = pytest.mark.anyio


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


# -- the reader alone --------------------------------------------------------------------


class Ingress(rtvi.AnyioActor):
    """Writes down what it gets, which ends there. `mute` keeps it from handling its mail."""

    max_mail = 300

    def __init__(self, ledger: Ledger, got: list[bytes]) -> None:
        super().__init__(ledger, got)
        self._ledger = ledger
        self._got = got

    def on_text(self, message: ClientText) -> None:
        self._got.append(message.data)
        self.later(self._end, len(message.data))

    def _end(self, size: int) -> None:
        self._ledger.end_unnumbered(Outcome.DELIVERED, size)


class Reading:
    """A reader between a client and an ingress."""

    def __init__(self, system: rtvi.ActorSystem, credit: int) -> None:
        self.system = system
        self.ledger = Ledger("s", system.timers.now, credit=credit)
        self.outbox = Outbox(1_000)
        self.mail = Mailbox()
        self.got: list[bytes] = []
        self.ingress = system.spawn(Ingress, self.ledger, self.got)
        self.transport, self.client = memory.pair()
        self.tasks: list[ActorFuture[Any]] = []
        """The reader's, and its feeders'."""
        self._run_async = system.run_async
        system.run_async = self._run  # type: ignore[method-assign]
        self.reader = self.make_reader()

    def _run(self, function: Callable[[], Any]) -> ActorFuture[Any]:
        self.tasks.append(self._run_async(function))
        return self.tasks[-1]

    def make_reader(self) -> Counted:
        return Counted(self.transport, self.system, self.ledger, self.outbox, self.ingress, self.mail)

    def mute(self, on: bool = True) -> None:
        """Keep ingress from handling its mail, or let it."""
        self.ingress.cell.suspended = on
        self.ingress.cell.notify()

    async def send(self, *texts: bytes) -> None:
        for text in texts:
            await self.client.send_text(text)
        await turns(20 + 2 * len(texts))

    @property
    def unread(self) -> int:
        """What the reader has left with the transport."""
        return len(self.client._inward._items)


class Counted(Reader):
    """Counts how often it or its feeder tries to hand something over."""

    tries = 0

    def _hand_over(self, wire: WireIn) -> bool:
        self.tries += 1
        return super()._hand_over(wire)


@asynccontextmanager
async def reading(credit: int = 4) -> AsyncIterator[Reading]:
    async with rtvi.ActorSystem() as system:
        yield Reading(system, credit)


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % index for index in range(first, first + count)]


async def test_what_has_no_room_is_held_and_handed_over_in_order_when_there_is_some() -> None:
    async with reading() as r:
        r.mute()
        await r.send(*numbered(20))
        assert (r.ledger.unread, len(r.reader.held), r.reader.received) == (4, 16, 20)
        r.mute(False)
        await r.send(*numbered(20, first=20))
        await turns(200)
        assert r.got == numbered(40)
        assert not r.reader.held
        r.mute()
        await r.send(*numbered(10))  # and once more, by another feeder
        assert len(r.reader.held) == 6
        r.mute(False)
        await turns(200)
        assert r.got == numbered(40) + numbered(10)


async def test_a_client_that_leaves_is_noticed_while_there_is_no_room() -> None:
    async with reading() as r:
        r.mute()
        await r.send(*numbered(20))
        assert not r.reader.client_left
        await r.client.aclose()
        await turns()
        assert (r.reader.client_left, r.outbox.closing) == (True, "client disconnected")
        assert len(r.reader.held) == 16


async def test_it_holds_so_many_messages_and_so_many_bytes_and_leaves_the_rest_to_the_transport() -> None:
    async with reading() as r:
        r.mute()
        await r.send(*numbered(READ_AHEAD + 50))
        assert (len(r.reader.held), r.unread) == (READ_AHEAD, 46)
        assert not r.reader.waits
        r.mute(False)
        await turns(500)
        assert r.got == numbered(READ_AHEAD + 50)
        r.mute()
        await r.send(*numbered(4))
        await r.send(*[bytes(READ_AHEAD_BYTES // 4)] * 10)
        assert (len(r.reader.held), r.unread) == (4, 6)


@pytest.mark.parametrize("why", ["credit", "outbox", "bot", "ingress"])
async def test_it_waits_for_room_without_trying_again_and_again(why: str) -> None:
    async with reading(credit=2 if why == "credit" else 1_000) as r:
        r.mute()
        if why == "outbox":
            r.outbox.put(ServerText(bytes(600)))
        elif why == "bot":
            r.mail.max_count = 4
            for _ in range(4):
                r.mail.post(b"")
        elif why == "ingress":
            for _ in range(Ingress.max_mail):  # as the host may, beside the credit
                r.ledger.arrived()
                r.ingress.tell(ClientText(b""))
        await r.send(*numbered(10))
        held, tries = len(r.reader.held), r.reader.tries
        assert held == (8 if why == "credit" else 10)
        await turns(300)
        assert r.reader.tries == tries
        for _ in range(2):
            r.outbox.take()
        while not r.mail.empty():
            r.mail.take()
        r.mute(False)
        await turns(300)
        assert r.got[-10:] == numbered(10)
        assert r.reader.tries <= tries + 2 * held


async def test_what_has_no_room_when_it_ends_is_dropped_and_counted_and_no_task_is_left() -> None:
    async with reading() as r:
        r.mute()
        await r.send(*numbered(20))
        r.outbox.close("enough")
        await r.reader.end(0.01)
        assert (r.ledger.unnumbered_dropped, len(r.reader.held)) == ({"session over": 16}, 0)
        books = r.ledger.conservation()
        assert (books.holds, books.received, books.open) == (True, 20, 4)
        await turns()
        assert len(r.tasks) == 2
        assert all(task.done() for task in r.tasks)


async def test_what_finds_room_in_time_when_it_ends_is_handed_over() -> None:
    async with reading() as r:
        r.mute()
        await r.send(*numbered(20))
        r.outbox.close("enough")
        r.mute(False)
        await r.reader.end(5.0)
        await turns()
        assert r.got == numbered(20)
        assert r.ledger.unnumbered_dropped == {}
        assert all(task.done() for task in r.tasks)


async def test_it_ends_at_once_also_while_it_holds_all_that_it_may() -> None:
    async with reading() as r:
        r.mute()
        await r.send(*numbered(READ_AHEAD + 50))
        r.outbox.close("enough")
        await r.reader.end(0.0)
        assert r.ledger.unnumbered_dropped == {"session over": READ_AHEAD}
        assert r.unread == 46
        assert r.ledger.conservation().holds


async def test_what_arrives_when_the_session_is_to_end_is_dropped_and_counted_and_nothing_more_is_read() -> None:
    async with reading() as r:
        await turns()
        r.outbox.close("enough")
        await r.send(*numbered(3))
        assert (r.ledger.unnumbered_dropped, r.unread) == ({"session over": 1}, 2)
        assert r.reader.waits
        assert r.got == []


async def test_what_comes_for_an_ingress_that_was_given_up_is_dropped_and_counted() -> None:
    async with reading() as r:
        await r.system.stop(r.ingress)
        await r.send(*numbered(10))
        assert r.ledger.unnumbered_dropped == {"session over": 10}
        assert r.ledger.conservation().holds


async def test_a_transport_that_fails_to_receive_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> WireIn:
        raise ValueError("the transport's own")

    async with reading() as r:
        r.transport.receive = receive  # type: ignore[method-assign]
        await r.client.send_text(b"x")
        again = r.make_reader()
        await turns()
        assert (r.outbox.closing, again.client_left) == ("transport failed", False)
    assert "failed to receive" in caplog.text


# -- the writer alone --------------------------------------------------------------------


class Line:
    """A transport's send half: takes a batch when it is let."""

    def __init__(self) -> None:
        self.sent: list[WireOut] = []
        self.batches = 0
        self.turnstile = anyio.Semaphore(0)
        self.error: Exception | None = None

    async def send(self, batch: Sequence[WireOut]) -> None:
        self.batches += 1
        await self.turnstile.acquire()
        if self.error is not None:
            raise self.error
        self.sent += batch

    def let(self, count: int) -> None:
        for _ in range(count):
            self.turnstile.release()

    async def aclose(self, reason: str) -> None: ...


class Talkative:
    """As much of a reader as the writer looks at."""

    received = 1


class Takes(Outbox):
    """Counts how often the writer looks for something to send."""

    looks = 0

    def take(self) -> list[WireOut]:
        self.looks += 1
        return super().take()


class Writing:
    def __init__(self, system: rtvi.ActorSystem, stall_s: float) -> None:
        self.system = system
        self.line = Line()
        self.outbox = Takes()
        self.client = Talkative()
        self.writer = Writer(
            self.line,
            system,
            self.outbox,
            self.client,  # type: ignore[arg-type]
            name="s",
            stall_s=stall_s,
        )

    def put(self, *sizes: int) -> None:
        for size in sizes:
            self.outbox.put(ServerText(bytes(size)))

    def sizes(self) -> list[int]:
        """Of what has been sent."""
        return [len(message.data) for message in self.line.sent if isinstance(message, ServerText)]


@asynccontextmanager
async def writing(stall_s: float = 30.0) -> AsyncIterator[Writing]:
    async with rtvi.ActorSystem() as system:
        w = Writing(system, stall_s)
        yield w
        await w.writer.end(0.0)


async def test_it_sends_in_order_slice_by_slice_and_waits_for_more_without_looking_again_and_again() -> None:
    async with writing() as w:
        w.line.let(100)
        w.put(SLICE_BYTES, 1, 2, 3)
        await turns()
        assert (w.sizes(), w.line.batches) == ([SLICE_BYTES, 1, 2, 3], 2)
        looks = w.outbox.looks
        await turns(300)
        assert w.outbox.looks == looks
        w.put(4)
        await turns()
        assert w.sizes()[-1] == 4


async def test_at_the_end_it_sends_what_is_left_as_far_as_there_is_time() -> None:
    async with writing() as w:
        w.line.let(100)
        w.put(*[SLICE_BYTES] * 5)
        await w.writer.end(5.0)
        assert (len(w.sizes()), w.outbox.finished) == (5, True)
    async with writing() as w:
        w.put(1)
        await w.writer.end(0.01)
        assert (w.sizes(), w.outbox.finished) == ([], True)


async def test_given_up_it_sends_nothing_more() -> None:
    async with writing() as w:
        w.put(SLICE_BYTES, 1)
        await turns()
        w.writer.give_up()
        w.line.let(100)
        await turns()
        assert (w.sizes(), len(w.outbox), w.outbox.finished) == ([], 0, True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (anyio.BrokenResourceError(), "client disconnected"),
        (anyio.ClosedResourceError(), "client disconnected"),
        (ValueError("the transport's own"), "transport failed"),
    ],
)
async def test_a_transport_that_takes_no_more_ends_the_session(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with writing() as w:
        w.line.error = error
        w.put(1)
        w.line.let(1)
        await turns()
        assert (w.outbox.closing, w.outbox.finished) == (reason, True)
    assert ("failed to send" in caplog.text) is (reason == "transport failed")


class TestTheStallWatch:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_closes_the_session_of_a_client_that_takes_nothing_for_stall_s_and_not_before(self) -> None:
        async with writing(30.0) as w:
            await anyio.sleep(100)  # there was nothing to take
            w.put(1)
            await anyio.sleep(29.9)
            assert not w.outbox.overrun
            await anyio.sleep(0.2)
            assert w.outbox.closing == "client too slow"

    async def test_lets_a_client_be_that_takes_a_slice_now_and_then(self) -> None:
        async with writing(30.0) as w:
            w.put(*[SLICE_BYTES] * 10)
            for _ in range(10):
                await anyio.sleep(29.9)
                w.line.let(1)
            await anyio.sleep(100)
            assert (w.outbox.closing, len(w.sizes())) == (None, 10)

    async def test_counts_from_when_the_last_slice_was_taken(self) -> None:
        async with writing(30.0) as w:
            w.put(SLICE_BYTES, SLICE_BYTES)
            await anyio.sleep(20)
            w.line.let(1)
            await anyio.sleep(29.9)
            assert w.outbox.closing is None
            await anyio.sleep(0.2)
            assert w.outbox.closing == "client too slow"

    async def test_waits_for_a_client_that_has_not_said_a_word(self) -> None:
        async with writing(30.0) as w:
            w.client.received = 0
            w.put(1)
            await anyio.sleep(1_000)
            assert w.outbox.closing is None
            w.client.received = 1
            await anyio.sleep(30.1)
            assert w.outbox.closing == "client too slow"

    async def test_has_one_timer_and_leaves_none_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        set_for: list[float] = []
        async with writing(30.0) as w:
            after = w.system.timers.after

            def count(delay_s: float, callback: Callable[[], None]) -> Any:
                set_for.append(delay_s)
                return after(delay_s, callback)

            monkeypatch.setattr(w.system.timers, "after", count)
            w.line.let(100)
            w.put(*[SLICE_BYTES] * 50)
            await anyio.sleep(1)
            assert (len(w.sizes()), set_for) == (50, [30.0])
            w.put(1)
            await w.writer.end(1.0)
            await anyio.sleep(100)
            assert (set_for, w.outbox.closing) == ([30.0], None)


# -- in sessions --------------------------------------------------------------------------


class Recorder(rtvi.Bot):
    """Writes down what it gets, by the ids of the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.reasons: list[str] = []

    def on_frame(self, frame: Frame) -> None:
        if getattr(frame, "msg_id", ""):
            self.log.append(frame.msg_id)  # type: ignore[union-attr]
        super().on_frame(frame)

    async def on_client_message(self, message: rtvi.ClientMessage) -> None: ...

    async def on_disconnect(self, reason: str) -> None:
        self.reasons.append(reason)


async def test_the_reader_stops_when_as_many_control_messages_are_open_as_the_credit_says() -> None:
    gate = anyio.Event()
    async with calling(Recorder(), actors=stuck(gate), credit=32) as call:
        for index in range(32 + READ_AHEAD + 50):
            await call.send("stick", f"s{index}")
        await turns(500)
        assert call.books.conservation.open == 32
        assert len(call.client._inward._items) == 50
        gate.set()
        await call.heard()
        assert call.books.conservation.delivered == 1 + 32 + READ_AHEAD + 50


async def test_the_reader_stops_when_the_open_messages_weigh_as_much_as_the_credit_says() -> None:
    gate = anyio.Event()
    async with calling(Recorder(), actors=stuck(gate), credit_bytes=1_000_000) as call:
        for index in range(40):
            await call.send("stick", f"s{index}", {"weight": "x" * 100_000})
        await turns()
        assert call.books.conservation.open == 10
        assert len(call.client._inward._items) == 40 - 10 - 11  # it holds `READ_AHEAD_BYTES`, and one that goes beyond
        gate.set()
        await call.heard()
        assert call.books.conservation.delivered == 41


async def test_a_client_that_does_not_read_has_its_session_closed_with_a_reason() -> None:
    bot = Recorder()
    async with calling(bot, capacity=4, outbox_bytes=10_000) as call:
        while not call.session.closed:
            bot.send_server_message("x" * 500)
            await anyio.lowlevel.checkpoint()
        assert await call.session.wait_closed() == "client too slow"
        assert call.books.outbox_bytes <= 10_000


class Wordy(Recorder):
    """Answers at length."""

    @rtvi.request("much")
    def much(self) -> str:
        return "x" * 10_000


async def unread(call: Call, count: int) -> None:
    """A client that asks and does not read, until the reader has stopped."""
    for index in range(count):
        await call.ask("much", msg_id=f"q{index}")
    while len(call.session._reader.held) < READ_AHEAD and not call.session.closed:
        await anyio.lowlevel.checkpoint()


async def test_a_client_that_sends_without_reading_is_not_read_from_until_it_reads() -> None:
    async with calling(Wordy(), capacity=2000, outbox_bytes=8_000_000) as call:
        call.client._outward._capacity = 4  # it reads nothing from now on
        await unread(call, 1500)
        books = call.books
        assert 4_000_000 <= books.outbox_bytes < 7_000_000  # what was under credit still came
        assert len(call.client._inward._items) > 500
        assert not call.session.closed
        answers = [await call.answer(f"q{index}") for index in range(1500)]
        assert {wire["type"] for wire in answers} == {"server-response"}
        assert (await call.heard(), call.books.conservation.delivered) == ([], 1501)


async def test_what_is_held_is_overtaken_by_nothing_that_comes_when_there_is_some_credit_again() -> None:
    class Metered(rtvi.Concern):
        async def on_received(self, message: rtvi.Received) -> None:
            await turnstile.acquire()
            self.release(message, frames.ClientMessage(message.id, message.type))

    turnstile, bot = anyio.Semaphore(0), Recorder()
    actors = (rtvi.CustomActor("metered", Metered, routes=("stick",)),)
    async with calling(bot, actors=actors, credit=4) as call:
        for index in range(8):
            await call.send("stick", f"s{index}")
        await turns()
        turnstile.release()
        while call.books.control["delivered"] < 2:
            await anyio.lowlevel.checkpoint()
        assert call.books.conservation.open == 3  # credit for one more, and four are held
        await call.send("stick", "s8")
        for _ in range(8):
            turnstile.release()
        await call.heard()
        assert bot.log == [f"s{index}" for index in range(9)]


async def test_a_client_that_leaves_while_the_credit_is_exhausted_is_noticed_at_once() -> None:
    gate, bot = anyio.Event(), Recorder()
    async with calling(bot, actors=stuck(gate), credit=32, drain_s=0.02) as call:
        for index in range(100):
            await call.send("stick", f"s{index}")
        await turns()
        assert await call.leave() == "client disconnected"
    assert bot.reasons == ["client disconnected"]
    books = call.books
    assert books.conservation.received == 101
    assert books.dropped == {"session over": 68}  # held, and nobody will ever handle them


async def test_what_a_client_sent_before_it_left_is_handled_though_the_credit_was_exhausted() -> None:
    gate, bot = anyio.Event(), Recorder()
    async with calling(bot, actors=stuck(gate), credit=32) as call:
        for index in range(100):
            await call.send("stick", f"s{index}")
        await turns()
        assert await call.leave() == "client disconnected"
        gate.set()
    assert bot.log == [f"s{index}" for index in range(100)]
    assert (call.books.conservation.delivered, call.books.conservation.open) == (101, 0)


async def test_a_client_that_leaves_while_it_is_not_read_from_is_noticed_by_the_writer() -> None:
    async with calling(Wordy(), capacity=2000, outbox_bytes=8_000_000, drain_s=0.02) as call:
        call.client._outward._capacity = 4
        await unread(call, 1500)
        assert await call.leave() == "client disconnected"
    assert call.books.conservation.open == 0


class TestAClientThatTakesNothing:
    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, Any]]:
        return virtual_time()

    async def test_has_its_session_closed_after_stall_s(self) -> None:
        async with calling(Recorder(), capacity=4, stall_s=30.0) as call:
            await anyio.sleep(100)
            started = anyio.current_time()
            for index in range(10):
                call.session.control.send_server_message(index)
            assert await call.session.wait_closed() == "client too slow"
            assert anyio.current_time() - started == pytest.approx(30.0)

    async def test_is_given_up_also_when_it_waits_for_us_to_read(self) -> None:
        async with calling(Wordy(), capacity=1, outbox_bytes=8_000_000, stall_s=30.0) as call:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.leave_when_closed, call)
                with pytest.raises(anyio.BrokenResourceError):
                    await self.ask_without_end(call)
            assert await call.session.wait_closed() == "client too slow"

    @staticmethod
    async def ask_without_end(call: Call) -> None:
        while True:
            await call.ask("much")

    @staticmethod
    async def leave_when_closed(call: Call) -> None:
        await call.session.wait_closed()
        call.client._inward.close()

    async def test_that_takes_a_little_now_and_then_is_slow_and_not_stalled(self) -> None:
        async with calling(Recorder(), capacity=1, stall_s=30.0) as call:
            for _ in range(10):
                call.session.control.send_server_message("x" * 20_000)
            for _ in range(10):
                await anyio.sleep(29)
                await call.client.receive()
            assert not call.session.closed

    async def test_and_has_not_said_a_word_yet_is_waited_for(self) -> None:
        async with calling(Recorder(), ready=False, hold_before_ready=False, capacity=1, stall_s=30.0) as call:
            for index in range(10):
                call.session.control.send_server_message(index)
            call.session.control.handle_message(message("send-text", "t", {"content": "the host's word"}))
            await anyio.sleep(100)
            assert not call.session.closed
            await call.send("client-ready", "r", {"version": "2.2.0"})
            assert await call.session.wait_closed() == "client too slow"


async def test_a_bot_that_ends_the_call_of_a_client_that_does_not_read_is_not_held_up() -> None:
    async with calling(Recorder(), capacity=4, drain_s=0.01) as call:
        for _ in range(20):
            call.session.control.send_server_message("x")
        call.session.control.end()
        assert await call.session.wait_closed() == "ended by the bot"
