"""Text: send-text becomes interruption, output configuration and append; this actor owns the TTS switch.

A text that wants another kind of answer than the switch says sets it for its own turn and puts it back
(RTVI 1.1, `options.audio_response`; pipecat-ai 1.14.0, observed).
"""

from __future__ import annotations

from typing import Any

from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import InvalidData
from rtvi_actors.frames import Interruption, LLMConfigureOutput, LLMMessage, LLMMessagesAppend
from rtvi_actors.messages import OutputConfigured, Received
from rtvi_actors.protocol.client import SendText, SendTextOptions

__all__ = ["Text"]


class Text(BuiltIn):
    """send-text, and binary interruption frames."""

    def __init__(self) -> None:
        super().__init__()
        self._skip_tts: bool | None = False

    def restore(self, state: Any) -> None:
        self._skip_tts = state

    def on_output_configured(self, message: OutputConfigured) -> None:
        """The bot's switch has changed."""
        self._skip_tts = message.skip_tts
        self.snapshot(message.skip_tts)

    def on_received(self, message: Received) -> None:
        if message.type != "send-text":
            self.release(message, Interruption())
            return
        try:
            payload = self.payload(message, SendText)
        except InvalidData as error:
            self.refuse(message, error)
            return
        options = payload.options or SendTextOptions()
        append = LLMMessagesAppend((LLMMessage("user", payload.content),), options.run_immediately, message.id)
        frames = self._switched(append, not options.audio_response)
        if options.run_immediately:
            frames.insert(0, Interruption())
        self.release(message, *frames)

    def _switched(self, append: LLMMessagesAppend, skip_tts: bool) -> list[Any]:
        """The append, between the switch for it and the switch back, where it wants another than there is."""
        before = self._skip_tts
        if bool(before) == skip_tts:
            return [append]
        return [LLMConfigureOutput(skip_tts), append, LLMConfigureOutput(before)]
