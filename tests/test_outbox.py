from __future__ import annotations

from rtvi_actors.outbox import SLICE_BYTES, Outbox
from rtvi_actors.streams import ServerAudio, ServerText

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


def test_the_first_reason_to_close_counts() -> None:
    outbox = Outbox()
    outbox.close("one")
    outbox.close("two")
    assert outbox.closing == "one"
