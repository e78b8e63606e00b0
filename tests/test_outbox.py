from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis.strategies import builds, integers, lists, one_of, sampled_from

from rtvi_actors.outbox import BEHIND_BYTES, HOLD_BYTES, HOLD_LIMIT, SLICE_BYTES, Outbox
from rtvi_actors.streams import ServerAudio, ServerText, WireOut

TEXT = ServerText(b"12345")
AUDIO = ServerAudio(bytes(10), 24_000, 1)


def test_what_was_put_is_taken_in_order_at_once() -> None:
    outbox = Outbox()
    for message in (TEXT, AUDIO, TEXT):
        outbox.put(message)
    assert outbox.size_bytes == 20
    assert outbox.take() == [TEXT, AUDIO, TEXT]
    assert (len(outbox), outbox.size_bytes, outbox.sent) == (0, 20, 3)  # on its way is not yet gone
    assert outbox.take() == []
    assert outbox.size_bytes == 0


def test_the_writer_takes_a_slice_so_that_the_rest_can_still_be_voided() -> None:
    outbox = Outbox()
    half = ServerAudio(bytes(SLICE_BYTES // 2), 24_000, 1)
    for message in (half, half, half, TEXT):
        outbox.put(message)
    assert outbox.take() == [half, half]
    assert outbox.drop_audio() == 1
    assert outbox.size_bytes == SLICE_BYTES + 5
    assert outbox.take() == [TEXT]
    large = ServerText(bytes(2 * SLICE_BYTES))
    outbox.put(large)
    assert outbox.take() == [large]


def test_what_comes_when_the_writer_has_ended_goes_nowhere() -> None:
    outbox = Outbox(12)
    outbox.put(TEXT)
    outbox.abandon()
    for _ in range(5):
        outbox.put(TEXT)
    assert (len(outbox), outbox.size_bytes, outbox.closing) == (0, 0, None)


def test_what_comes_behind_the_last_message_does_not_leave() -> None:
    outbox = Outbox()
    outbox.put(TEXT)
    outbox.finish()
    outbox.put(AUDIO)
    assert (outbox.take(), outbox.size_bytes) == ([TEXT], 5)


def test_the_writer_is_woken_once_for_what_it_waits_for() -> None:
    outbox, woken = Outbox(), []
    outbox.wake = lambda: woken.append(1)
    outbox.put(TEXT)
    outbox.put(TEXT)
    assert woken == [1]


def test_audio_that_has_not_left_can_be_voided_and_text_stays() -> None:
    outbox = Outbox()
    for message in (AUDIO, TEXT, AUDIO):
        outbox.put(message)
    assert outbox.drop_audio() == 2
    assert (outbox.size_bytes, outbox.take()) == (5, [TEXT])


def test_beyond_its_budget_it_closes_and_takes_nothing_more() -> None:
    outbox, closed = Outbox(12), []
    outbox.on_close = lambda: closed.append(outbox.closing)
    for _ in range(5):
        outbox.put(TEXT)
    assert (len(outbox), outbox.size_bytes, outbox.overrun) == (2, 10, True)
    assert closed == ["client too slow"]


def test_what_would_still_have_room_does_not_follow_what_had_none() -> None:
    outbox = Outbox(12)
    outbox.close("closed by the host")  # the queue still leaves
    outbox.put(TEXT)
    outbox.put(ServerText(bytes(10)))
    outbox.put(TEXT)
    assert (outbox.take(), outbox.is_shut, outbox.closing) == ([TEXT], True, "closed by the host")


def test_the_first_reason_to_close_counts() -> None:
    outbox = Outbox()
    outbox.close("one")
    outbox.close("two")
    assert outbox.closing == "one"


# -- a client that is behind -----------------------------------------------------------

MANY = ServerText(bytes(BEHIND_BYTES + 1))


def taken(outbox: Outbox) -> list[WireOut]:
    """All that waits."""
    messages: list[WireOut] = []
    while batch := outbox.take():
        messages += batch
    return messages


def test_a_newer_message_stands_where_it_was_put_and_makes_the_older_void() -> None:
    outbox = Outbox()
    old, new = ServerText(b"old"), ServerText(b"newer")
    for message, key in ((MANY, None), (old, ("t", "")), (TEXT, None), (new, ("t", ""))):
        outbox.put(message, key)
    assert (len(outbox), outbox.size_bytes) == (3, BEHIND_BYTES + 1 + 5 + 5)
    assert taken(outbox) == [MANY, TEXT, new]
    assert (outbox.coalesced, outbox.sent) == ({"t": 1}, 3)


def test_a_client_that_is_not_behind_gets_every_message() -> None:
    outbox = Outbox()
    for _ in range(10):
        outbox.put_newer((("t", ""), TEXT))
    assert taken(outbox) == [TEXT] * 10
    assert outbox.coalesced == {}


def test_what_is_on_its_way_is_not_void_any_more() -> None:
    outbox = Outbox()
    outbox.put(TEXT, ("t", ""))
    assert outbox.take() == [TEXT]
    outbox.put(MANY)
    outbox.put(AUDIO, ("t", ""))
    assert taken(outbox) == [MANY, AUDIO]
    assert outbox.coalesced == {}


def test_a_message_that_makes_room_for_itself_by_voiding_does_not_close_the_session() -> None:
    outbox = Outbox(100)
    outbox.put(ServerText(bytes(50)))
    outbox.put(ServerText(bytes(50)), ("t", ""))
    for _ in range(3):
        outbox.put(ServerText(bytes(50)), ("t", ""))
    assert (outbox.closing, outbox.size_bytes) == (None, 100)
    for _ in range(2):
        outbox.put(ServerText(bytes(51)), ("t", ""))
    assert outbox.closing == "client too slow"


class Put(NamedTuple):
    size: int
    key: tuple[str, str] | None


PUTS = builds(Put, integers(1, 3_000), sampled_from([None, ("a", ""), ("a", "other"), ("b", "")]))


@given(lists(one_of(PUTS, sampled_from(["take", "drop audio"])), max_size=200))
def test_what_the_client_gets_is_in_order_and_lacks_only_what_a_newer_one_replaced(steps: list[Put | str]) -> None:
    outbox = Outbox(16_000)
    put: list[tuple[ServerText, tuple[str, str] | None]] = []
    got: list[WireOut] = []
    for number, step in enumerate(steps):
        if isinstance(step, Put):
            message = ServerText(number.to_bytes(2, "big") + bytes(step.size))
            outbox.put(message, step.key)
            if outbox.overrun:
                return
            put.append((message, step.key))
        elif step == "take":
            got += outbox.take()
        else:
            assert outbox.drop_audio() == 0
        waiting = sum(len(message.data) for message, _ in outbox._queue.values() if isinstance(message, ServerText))
        assert outbox.size_bytes == waiting + outbox._taken_bytes
        assert set(outbox._newest.values()) <= set(outbox._queue)  # no key is kept for what has left
    got += taken(outbox)
    assert [message for message, _ in put if message in got] == got
    newest = {key: message for message, key in put if key is not None}
    assert {message for message, key in put if key is None} | set(newest.values()) <= set(got)
    assert len(got) + sum(outbox.coalesced.values()) == len(put)


# -- marks -------------------------------------------------------------------------------


def test_it_is_high_from_half_its_budget_until_a_quarter_is_left_and_says_so_once() -> None:
    low: list[int] = []
    outbox = Outbox(100)
    states: list[bool] = []

    def look() -> None:
        states.append(outbox.is_high)

    outbox.put(ServerText(bytes(26)))
    look()
    outbox.put(ServerText(bytes(24)))
    look()
    outbox.on_low = lambda: low.append(outbox.size_bytes)
    assert len(outbox.take()) == 2
    look()  # on its way is not yet gone
    outbox.take()
    look()
    outbox.put(ServerText(bytes(80)))
    look()
    outbox.abandon()
    look()
    assert states == [False, True, True, False, True, False]
    assert low == [0]


# -- what waits for the client's version ---------------------------------------------------


def test_what_is_held_is_bounded_in_number_and_in_weight_and_the_oldest_give_way() -> None:
    outbox = Outbox()
    for index in range(HOLD_LIMIT + 3):
        outbox.hold(index.to_bytes(2, "big"))
    assert (len(outbox.held), outbox.held[0], outbox.hold_dropped) == (HOLD_LIMIT, b"\0\3", 3)
    outbox.hold(bytes(HOLD_BYTES - 4))
    assert [len(body) for body in outbox.held] == [2, 2, HOLD_BYTES - 4]
    assert outbox.held_bytes == HOLD_BYTES
    outbox.hold(bytes(HOLD_BYTES + 1))  # costs itself alone
    assert len(outbox.held) == 3
    assert outbox.hold_dropped == 3 + HOLD_LIMIT - 2 + 1
    outbox.clear_held()
    assert (len(outbox.held), outbox.held_bytes) == (0, 0)
