"""Playout: the bot's audio, at the client's rate, near real time.

The client buffers whatever it gets and nothing can take it back (PROTOCOL.md 4.1: on barge-in, buffered audio keeps
playing), so
audio leaves only `LEAD_S` before it is due. This actor alone says when the bot starts and stops speaking, and by its
play cursor how much of a segment has been spoken. An interruption voids what has not left.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import suppress
from typing import Any, Final, NamedTuple

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import Dead, Rejected
from rtvi_actors.frames import (
    BotStartedSpeaking,
    BotStoppedSpeaking,
    Interruption,
    OutputAudioRaw,
    SpeechLost,
    SpokenText,
)
from rtvi_actors.messages import FlushAudio, Heard, PlayAudio, Ready, Tick
from rtvi_actors.resampling import Resampler

__all__ = ["CHUNK_S", "LEAD_S", "MAX_BUFFERED_S", "MAX_RESAMPLERS", "STOP_S", "Playout"]

CHUNK_S: Final = 0.04
"""The length of what is sent at once: also how exact the cut of an interruption is."""
LEAD_S: Final = 0.2
"""How far ahead of its playing audio is sent: network jitter against the tail that plays on after barge-in."""
STOP_S: Final = 0.35
"""Silence after which the bot has stopped speaking (Pipecat's BOT_VAD_STOP_SECS)."""
MAX_BUFFERED_S: Final = 120.0
"""Audio that waits here at the most; a frame that would go beyond is dropped whole, and counted in the ledger."""
MAX_RESAMPLERS: Final = 2
"""Formats whose stream is kept open: a bot has one voice, and perhaps one sound beside it."""

_WORD_END: Final = re.compile(r"\S(?=\s|\Z)")


class _Chunk(NamedTuple):
    pcm: bytes
    sample_rate: int
    num_channels: int
    segment_id: int
    spoken_chars: int
    """How much of the segment's text has been spoken when this has played."""


class _Sent(NamedTuple):
    end_s: float
    """When the client will have played it."""
    segment_id: int
    spoken_chars: int


class Playout(BuiltIn):
    """`playing_rate_hz` is the client's, or `None` where each frame goes as it is."""

    max_mail = 4096

    def __init__(self, playing_rate_hz: int | None) -> None:
        super().__init__(playing_rate_hz)
        self._rate_hz = playing_rate_hz
        self._waiting: deque[_Chunk] = deque()
        self._waiting_s = 0.0
        self._sent: deque[_Sent] = deque()
        self._speaking = False
        self._segments: tuple[int, ...] = ()
        """Those whose audio is here; some may have been spoken to their end since."""
        self._played_until_s = 0.0
        self._ticking = False
        self._generation = 0
        self._resamplers: dict[tuple[int, int], Resampler] = {}

    def restore(self, state: Any) -> None:
        """The audio that was here when this crashed is gone: the bot has stopped, and its segments end here."""
        self._speaking, self._segments = state

    def on_start(self) -> None:
        for segment_id in self._segments:
            self.link("observer").tell(SpeechLost(segment_id))
        self._segments = ()
        if self._speaking:
            self._stop_speaking()

    @property
    def _now_s(self) -> float:
        return self.cell.timers.now()

    def on_audio(self, frame: OutputAudioRaw) -> float:
        """Take audio. The reply is how many seconds now wait: whoever produces faster than real time should wait,
        too."""
        length_s = len(frame.audio) / (2 * frame.sample_rate * frame.num_channels)
        if self._waiting_s + length_s > MAX_BUFFERED_S:  # before resampling: a low rate makes much of little
            self.later(self.ledger.playout_lost, length_s)
            if frame.segment_id:
                self.link("observer").tell(SpeechLost(frame.segment_id))
            return self._waiting_s
        self._queue(frame)
        self._send_due()
        return self._waiting_s

    def on_interruption(self, message: Interruption) -> None:
        """Void what has not left.

        The bot tells the observer of the interruption itself, so that bot-interrupted stands before whatever the new
        turn says. So the observer closes the segments by what was reported up to the last tick (`CHUNK_S` ago at the
        most); what `_report` says here counts for those that may not be interrupted, and is ignored for the others.
        """
        self._report()
        self._waiting.clear()
        self._waiting_s = 0.0
        self._sent.clear()
        self._resamplers.clear()
        self._segments = ()
        self._keep()
        self._played_until_s = 0.0
        self._generation += 1
        self._ticking = False
        self._emit(FlushAudio())
        if self._speaking:
            self._stop_speaking()

    def on_tick(self, tick: Tick) -> None:
        if tick.generation != self._generation:
            return
        self._ticking = False
        self._report()
        self._send_due()

    def _emit(self, message: PlayAudio | FlushAudio) -> None:
        """By way of the observer, so that bot-started-speaking stands before its audio."""
        self.link("observer").tell(Ready(self.link("outbound").encode(message)))

    # -- within ------------------------------------------------------------------------------

    def _queue(self, frame: OutputAudioRaw) -> None:
        """Resample, and cut into chunks that know how far the text is spoken when they have played."""
        pcm, rate_hz, channels = self._converted(frame)
        if frame.segment_id and not pcm:  # too short to be anything at the client's rate
            self.link("observer").tell(SpeechLost(frame.segment_id))
        step = max(1, int(rate_hz * CHUNK_S)) * 2 * channels
        ends = [match.end() for match in _WORD_END.finditer(frame.text)]
        for start in range(0, len(pcm), step):
            part = pcm[start : start + step]
            share = (start + len(part)) / len(pcm)
            words = round(share * len(ends))
            chars = len(frame.text) if share >= 1 else (ends[words - 1] if words else 0)
            self._waiting.append(_Chunk(part, rate_hz, channels, frame.segment_id, chars))
            self._waiting_s += len(part) / (2 * rate_hz * channels)
        if frame.segment_id:
            here = [sent.segment_id for sent in self._sent] + [chunk.segment_id for chunk in self._waiting]
            self._segments = tuple(dict.fromkeys(ident for ident in here if ident))
            self._keep()

    def _converted(self, frame: OutputAudioRaw) -> tuple[bytes, int, int]:
        if self._rate_hz is None or (frame.sample_rate == self._rate_hz and frame.num_channels == 1):
            return frame.audio, frame.sample_rate, frame.num_channels
        key = (frame.sample_rate, frame.num_channels)
        resampler = self._resamplers.pop(key, None)
        if resampler is None:
            resampler = Resampler(frame.sample_rate, self._rate_hz, frame.num_channels)
        whole = frame.segment_id != 0  # a segment's audio comes at once: its tail belongs to it
        pcm = resampler.feed(frame.audio, last=whole)
        if not whole:
            self._resamplers[key] = resampler  # last, as the latest
            if len(self._resamplers) > MAX_RESAMPLERS:
                del self._resamplers[next(iter(self._resamplers))]
        return pcm, self._rate_hz, 1

    def _send_due(self) -> None:
        """Send what is due within the lead, and plan the next tick."""
        now_s = self._now_s
        while self._waiting and self._played_until_s - now_s < LEAD_S:
            if not self._speaking:
                self._speaking = True
                self._keep()
                self.link("observer").tell(BotStartedSpeaking())
            chunk = self._waiting.popleft()
            length_s = len(chunk.pcm) / (2 * chunk.sample_rate * chunk.num_channels)
            self._waiting_s -= length_s
            self._played_until_s = max(self._played_until_s, now_s) + length_s
            self._sent.append(_Sent(self._played_until_s, chunk.segment_id, chunk.spoken_chars))
            self._emit(PlayAudio(chunk.pcm, chunk.sample_rate, chunk.num_channels))
            if self.ledger.observer.bot_audio_level_enabled:
                self._measure(chunk)
        if not self._waiting and not self._sent and self._speaking and now_s >= self._played_until_s + STOP_S:
            self._stop_speaking()
        self._plan(now_s)

    def _measure(self, chunk: _Chunk) -> None:
        """As it leaves, so that the level goes with what is played. Levels that are no more cost nothing else."""
        with suppress(Dead, Rejected):
            self.link("levels").tell(Heard("bot", chunk.pcm, chunk.sample_rate, chunk.num_channels))

    def _plan(self, now_s: float) -> None:
        if self._ticking or not self._speaking:
            return
        busy = self._waiting or self._sent
        due_s = now_s + CHUNK_S if busy else self._played_until_s + STOP_S
        self._ticking = True
        self.after(max(0.0, due_s - now_s), Tick(self._generation))

    def _report(self) -> None:
        """Say how much has been spoken, by the clock."""
        now_s = self._now_s
        spoken: dict[int, int] = {}
        while self._sent and self._sent[0].end_s <= now_s:
            sent = self._sent.popleft()
            if sent.segment_id and sent.spoken_chars:
                spoken[sent.segment_id] = sent.spoken_chars
        for segment_id, chars in spoken.items():
            self.link("observer").tell(SpokenText(segment_id, chars))

    def _keep(self) -> None:
        self.snapshot((self._speaking, self._segments))

    def _stop_speaking(self) -> None:
        self._speaking = False
        self._keep()
        self.link("observer").tell(BotStoppedSpeaking())
