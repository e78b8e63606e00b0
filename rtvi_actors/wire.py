"""The two tasks that do all of a session's I/O: the reader (transport → ingress) and the writer (outbox → transport).

Neither knows RTVI. The reader stops at the session's credit and at the water marks of the outbox and the bot's mailbox;
what the client has sent beyond them is held, a little of it, so that its leaving is noticed at once. The writer watches
whether the client takes anything. Loop thread only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import anyio
import anyio.lowlevel

from rtvi_actors.errors import Dead, Rejected
from rtvi_actors.ledger import Ledger
from rtvi_actors.messages import Outcome
from rtvi_actors.outbox import Outbox
from rtvi_actors.runtime.backend import waiter
from rtvi_actors.runtime.clock import Timer
from rtvi_actors.runtime.mailbox import Mailbox
from rtvi_actors.runtime.refs import ActorRef
from rtvi_actors.runtime.system import ActorSystem
from rtvi_actors.streams import ReceiveStream, SendStream, WireIn, size_bytes

__all__ = ["READ_AHEAD", "READ_AHEAD_BYTES", "Reader", "Writer"]

logger = logging.getLogger("rtvi_actors")

READ_AHEAD: Final = 256
"""Wire messages that the reader holds at the most while there is no room for them: it reads on so that it hears of the
client's leaving, which stands behind all that the client has sent."""
READ_AHEAD_BYTES: Final = 1024 * 1024
"""As much as they may weigh, the last one apart."""
LEFT: Final = "client disconnected"
FAILED: Final = "transport failed"


class Reader:
    """Transport → ingress, until the session is to end. `bot_mail` is the mailbox that a full bot is known by."""

    def __init__(
        self,
        transport: ReceiveStream,
        system: ActorSystem,
        ledger: Ledger,
        outbox: Outbox,
        ingress: ActorRef[Any],
        bot_mail: Mailbox,
    ) -> None:
        self.received = 0
        """Wire messages."""
        self.waits = False
        """For the client, and has nothing in hand; also once it has ended."""
        self.client_left = False
        self.held: deque[WireIn] = deque()
        """Read, and not yet handed over: there is no room. While there are some, a task of their own feeds ingress."""
        self._held_bytes = 0
        self._transport = transport
        self._system = system
        self._ledger = ledger
        self._outbox = outbox
        self._ingress = ingress
        self._bot_mail = bot_mail
        self._scope = anyio.CancelScope()
        self._on_less_held: Callable[[], None] | None = None
        """Set by whoever waits for something held to be handed over."""
        self._wake_feeder: Callable[[], None] | None = None
        self._done = system.run_async(self._run)

    async def end(self, within_s: float) -> None:
        """Read no more, and let what is held be handed over; what there is no room for within `within_s` seconds never
        is."""
        self._scope.cancel()
        await self._done
        with anyio.move_on_after(within_s):
            while self.held:
                await self._less_held()
        while self.held:
            self._discard(self.held.popleft())
        if self._wake_feeder is not None:
            self._wake_feeder()

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._read()
        except anyio.EndOfStream:
            self.client_left = True
            self._outbox.close(LEFT)
        except Exception:  # a transport's own fault; the contract knows EndOfStream alone
            logger.exception("%s: the transport failed to receive", self._ledger.session_id)
            self._outbox.close(FAILED)
        finally:
            self.waits = True

    async def _read(self) -> None:
        receive, held = self._transport.receive, self.held
        while not self._is_over():
            self.waits = True
            wire = await receive()
            self.waits = False
            self.received += 1
            if self._is_over():
                self._discard(wire)
            elif held or not self._hand_over(wire):
                await self._hold(wire)
            if not self.received % 64:  # a transport with a full queue never waits: let the actors run
                await anyio.lowlevel.checkpoint()

    def _is_over(self) -> bool:
        return self._outbox.closing is not None

    def _is_stopped(self) -> bool:
        """No credit, a client that does not read what it asks for, or a bot that is full."""
        return self._ledger.exhausted or self._outbox.is_high or self._bot_mail.is_high

    def _hand_over(self, wire: WireIn) -> bool:
        """Give it to ingress; returns whether there was room."""
        if self._is_stopped():
            return False
        try:
            self._ingress.tell(wire)
        except Rejected:  # what the host injects is not under the credit
            return False
        except Dead:  # given up: the session is to end
            self._discard(wire)
        else:
            self._ledger.arrived(size_bytes(wire))
        return True

    def _discard(self, wire: WireIn) -> None:
        """It came too late for anybody to handle it."""
        size = size_bytes(wire)
        self._ledger.arrived(size)
        self._ledger.end_unnumbered(Outcome.DROPPED, size, "session over")

    # -- holding -----------------------------------------------------------------------------

    async def _hold(self, wire: WireIn) -> None:
        """There is no room: keep it behind what is held already, and wait where that is much."""
        if not self.held:
            self._system.run_async(self._feed)
        self.held.append(wire)
        self._held_bytes += size_bytes(wire)
        while len(self.held) >= READ_AHEAD or self._held_bytes >= READ_AHEAD_BYTES:
            await self._less_held()

    async def _feed(self) -> None:
        """Hand over what is held, in order, whenever there is room."""
        held, ledger, outbox, bot_mail = self.held, self._ledger, self._outbox, self._bot_mail
        while held:
            if self._hand_over(held[0]):
                self._held_bytes -= size_bytes(held.popleft())
                self._tell_less_held()
            elif self._is_stopped():
                parker, wake = waiter()
                self._wake_feeder = ledger.on_credit = outbox.on_low = wake
                if bot_mail.is_high:
                    bot_mail.when_low(wake)
                await parker.park()
            else:
                await self._ingress.cell.wait_room()

    async def _less_held(self) -> None:
        parker, self._on_less_held = waiter()
        await parker.park()

    def _tell_less_held(self) -> None:
        wake, self._on_less_held = self._on_less_held, None
        if wake is not None:
            wake()


class Writer:
    """Outbox → transport. Ends when the outbox is finished and empty, or when the client takes no more.

    `reader` is the same client's, who may take `stall_s` seconds over one slice.
    """

    def __init__(
        self, transport: SendStream, system: ActorSystem, outbox: Outbox, reader: Reader, *, name: str, stall_s: float
    ) -> None:
        self._transport = transport
        self._timers = system.timers
        self._outbox = outbox
        self._reader = reader
        self._name = name
        self._stall_s = stall_s
        self._scope = anyio.CancelScope()
        self._since_s: float | None = None
        """When it began to send what it is sending; `None` while it waits for something to send."""
        self._watch: Timer | None = None
        self._done = system.run_async(self._run)

    def give_up(self) -> None:
        """Send nothing more."""
        self._scope.cancel()

    async def end(self, within_s: float) -> None:
        """Nothing more will be put: send what is left, as far as the client takes it within `within_s` seconds."""
        self._outbox.finish()
        with anyio.move_on_after(within_s):
            await self._done
        self.give_up()
        await self._done

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._write()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._outbox.close(LEFT)
        except Exception:  # a transport's own fault; the contract knows the two above alone
            logger.exception("%s: the transport failed to send", self._name)
            self._outbox.close(FAILED)
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._outbox.abandon()

    async def _write(self) -> None:
        outbox, send, now = self._outbox, self._transport.send, self._timers.now
        while True:
            batch = outbox.take()
            if batch:
                self._since_s = now()
                if self._watch is None:
                    self._look_again(self._stall_s)
                await send(batch)
            elif outbox.finished:
                return
            else:
                self._since_s = None
                parker, outbox.wake = waiter()
                await parker.park()

    def _look_again(self, delay_s: float) -> None:
        """One timer for all that is sent: it looks when what is being sent now will be overdue."""
        self._watch = self._timers.after(delay_s, self._look)

    def _look(self) -> None:
        """Close the session of a client that has not taken a slice in `stall_s`: if it waits for us to read, while we
        wait for it, nobody else would end that. One that has never said a word may be one whose dialect the
        transport waits for."""
        self._watch = None
        if self._since_s is None:
            return
        left_s = self._since_s + self._stall_s - self._timers.now()
        if left_s > 0:
            self._look_again(left_s)
        elif not self._reader.received:
            self._look_again(self._stall_s)
        else:
            self._outbox.too_slow()
