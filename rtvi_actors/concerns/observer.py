"""Observer: what the bot did becomes RTVI messages.

Everything that the bot emits passes here, answers and ready-made messages included, so that the client gets it in the
order in which it was emitted. The bot-output rules are in protocol/segments.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct

from rtvi_actors import frames
from rtvi_actors.concern import BuiltIn
from rtvi_actors.messages import Answer, EndSession, Ready
from rtvi_actors.protocol import server
from rtvi_actors.protocol.segments import Segments, SegmentsState, Sentences
from rtvi_actors.protocol.server import AnyServerMessage, ServerMessage, TextData

__all__ = ["Observer"]


class _State(Struct, frozen=True):
    """The snapshot."""

    segments: SegmentsState
    pending: str
    """Generated text up to the next sentence end."""
    responding: bool
    """Whether a response is open."""


class Observer(BuiltIn):
    """Reports in, messages out."""

    max_mail = 100_000

    def __init__(self) -> None:
        super().__init__()
        self._segments = Segments()
        self._sentences = Sentences()
        self._responding = False

    def restore(self, state: Any) -> None:
        self._segments = Segments(state.segments)
        self._sentences = Sentences(state.pending)
        self._responding = state.responding

    def on_ready(self, message: Ready) -> None:
        """Encoded already: it only keeps its place."""
        self.link("outbound").forward(message.body)

    def on_message(self, message: AnyServerMessage | Answer | EndSession) -> None:
        """Said by the host from outside: ready as it is."""
        self.link("outbound").tell(message)

    def on_report(
        self,
        report: frames.UserStartedSpeaking
        | frames.UserStoppedSpeaking
        | frames.Transcription
        | frames.LLMFullResponseStart
        | frames.LLMText
        | frames.LLMFullResponseEnd
        | frames.AggregatedText
        | frames.SpokenText
        | frames.SpeechLost
        | frames.TTSStarted
        | frames.TTSText
        | frames.TTSStopped
        | frames.BotStartedSpeaking
        | frames.BotStoppedSpeaking
        | frames.Interruption,
    ) -> None:
        """What the bot or playout reports."""
        outbound = self.link("outbound")
        try:
            messages = list(_REPORTS[type(report)](self, report))
        except ValueError as error:  # a segment id that is in use, or none: the host's fault, and no reason to crash
            self.ledger.error_id(f"{type(report).__name__} is not reported", error)
            return
        for message in messages:
            outbound.tell(message)
        self.snapshot(_State(self._segments.state, self._sentences.pending, self._responding))

    # -- reports → messages ------------------------------------------------------------------

    def _transcription(self, report: frames.Transcription) -> Iterable[ServerMessage]:
        yield server.UserInput(
            data=server.UserInputData(
                report.text, "transcription", report.timestamp, report.final, user_id=report.user_id
            )
        )
        yield server.UserTranscription(
            data=server.UserTranscriptionData(report.text, report.user_id, report.timestamp, report.final)
        )

    def _llm_start(self, report: frames.LLMFullResponseStart) -> Iterable[ServerMessage]:
        """One that is open still was given up: its half sentence belongs to nothing."""
        if self._responding:
            self._sentences.drop()
            yield server.BotLlmStopped()
        self._responding = True
        yield server.BotLlmStarted()

    def _llm_text(self, report: frames.LLMText) -> Iterable[ServerMessage]:
        if report.whole:
            yield from self._sentence(self._sentences.finish(), shown=True)
        yield server.BotLlmText(data=TextData(report.text))
        if report.whole:
            yield from self._sentence(report.text, shown=False)
        else:
            yield from self._sentence(self._sentences.add(report.text), report.shown)

    def _sentence(self, sentence: str | None, shown: bool) -> Iterable[ServerMessage]:
        if sentence is not None:
            yield server.BotTranscription(data=TextData(sentence))
            if shown:
                yield from self._segments.text(sentence, will_be_spoken=False)

    def _llm_end(self, report: frames.LLMFullResponseEnd) -> Iterable[ServerMessage]:
        if report.if_open and not self._responding:
            return
        self._responding = False
        yield from self._sentence(self._sentences.finish(), report.shown)
        yield server.BotLlmStopped()

    def _aggregated(self, report: frames.AggregatedText) -> Iterable[ServerMessage]:
        return self._segments.text(
            report.text,
            type=report.type,
            will_be_spoken=report.will_be_spoken,
            interruptible=report.interruptible,
            segment_id=report.segment_id,
        )

    def _spoken(self, report: frames.SpokenText) -> Iterable[ServerMessage]:
        return self._segments.spoken(report.segment_id, accumulated_chars=report.chars)

    def _interruption(self, report: frames.Interruption) -> Iterable[ServerMessage]:
        self._sentences.drop()
        return self._segments.interrupted()


_REPORTS: Mapping[type[Any], Callable[[Observer, Any], Iterable[ServerMessage]]] = {
    frames.UserStartedSpeaking: lambda *_: (server.UserStartedSpeaking(),),
    frames.UserStoppedSpeaking: lambda *_: (server.UserStoppedSpeaking(),),
    frames.Transcription: Observer._transcription,
    frames.LLMFullResponseStart: Observer._llm_start,
    frames.LLMText: Observer._llm_text,
    frames.LLMFullResponseEnd: Observer._llm_end,
    frames.AggregatedText: Observer._aggregated,
    frames.SpokenText: Observer._spoken,
    frames.SpeechLost: lambda observer, report: observer._segments.lost(report.segment_id),
    frames.TTSStarted: lambda *_: (server.BotTtsStarted(),),
    frames.TTSText: lambda _, report: (server.BotTtsText(data=TextData(report.text)),),
    frames.TTSStopped: lambda *_: (server.BotTtsStopped(),),
    frames.BotStartedSpeaking: lambda observer, _: observer._segments.bot_started_speaking(),
    frames.BotStoppedSpeaking: lambda observer, _: observer._segments.bot_stopped_speaking(),
    frames.Interruption: Observer._interruption,
}
