"""Audio: base64 or binary PCM in, checked frames out, straight to the bot. It has its own numbers and its own order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import Dead, InvalidData, Rejected
from rtvi_actors.frames import InputAudioRaw
from rtvi_actors.messages import Heard, Outcome, Received, ReceivedPcm
from rtvi_actors.protocol import pcm
from rtvi_actors.protocol.client import RawAudio
from rtvi_actors.runtime.context import savepoint
from rtvi_actors.runtime.mailbox import Overflow

__all__ = ["Audio"]


class Audio(BuiltIn):
    """raw-audio, raw-audio-batch and binary audio frames. A full mailbox loses its oldest audio, counted."""

    max_mail = 512
    max_mail_bytes = 8 * 1024 * 1024
    overflow: ClassVar[Overflow] = "drop_oldest"

    def on_received(self, message: Received) -> None:
        try:
            chunks = pcm.decode(self.payload(message, RawAudio), reply_id=message.id)
        except InvalidData as error:
            self.refuse(message, error)
            return
        self._deliver(message.seq, chunks)

    def on_pcm(self, message: ReceivedPcm) -> None:
        try:
            chunk = pcm.check(message.audio, message.sample_rate, message.num_channels, field="frame.audio")
        except InvalidData as error:
            self.refuse(Received(message.seq, "audio", "", None), error)
            return
        self._deliver(message.seq, (chunk,))

    def _deliver(self, seq: int, chunks: Sequence[pcm.Pcm]) -> None:
        """To the bot's bulk lane, where it waits behind no control message and holds none up. It always has room there:
        the oldest gives way, which losses.py accounts for."""
        if self.ledger.observer.user_audio_level_enabled:
            self._measure(chunks)
        bot = self.link("bot")
        rollback = savepoint()
        last = len(chunks) - 1
        try:
            for index, chunk in enumerate(chunks):
                bot.tell(InputAudioRaw(chunk.audio, chunk.sample_rate, chunk.num_channels, index < last))
        except (Rejected, Dead):  # refused by a bot that takes its audio as other mail
            rollback()
            self.later(self.ledger.complete_audio, (seq, Outcome.DROPPED))
        else:
            self.later(self.ledger.complete_audio, (seq, Outcome.DELIVERED))

    def _measure(self, chunks: Sequence[pcm.Pcm]) -> None:
        """What arrives is measured, whatever becomes of it. Levels that are no more cost nothing else."""
        with suppress(Dead, Rejected):
            for chunk in chunks:
                self.link("levels").tell(Heard("user", chunk.audio, chunk.sample_rate, chunk.num_channels))

    def _end(self, message: Received, outcome: Outcome, frames: tuple[bytes, ...]) -> None:
        self.later(self.ledger.complete_audio, (message.seq, outcome))
