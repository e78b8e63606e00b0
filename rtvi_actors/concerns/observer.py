"""Observer: what the bot did becomes RTVI messages.

Everything that the bot emits passes here, answers and ready-made messages included, so that the client gets it in the
order in which it was emitted. Which report becomes which messages is in `_REPORTS`, one row a report; which parameter
turns a message off, in `_SWITCHES` (PROTOCOL.md 2.1 and 2.3). The bot-output rules are in protocol/segments.py.

The parameters are in the ledger, for they hold functions. They change in the order of the reports
(`ConfigureObserver`). A transform applies to a segment once, and to generated text, too: that is then told sentence by
sentence, and nothing that quotes it otherwise is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

from msgspec import UNSET, Struct, UnsetType, structs

from rtvi_actors import frames
from rtvi_actors.concern import BuiltIn
from rtvi_actors.errors import JobGroupError
from rtvi_actors.messages import Answer, ByVersion, EndSession, Ready
from rtvi_actors.protocol import server
from rtvi_actors.protocol.segments import Gated, Segments, SegmentsState, Shown
from rtvi_actors.protocol.sentences import Sentences
from rtvi_actors.protocol.server import AnyServerMessage, ServerMessage, TextData
from rtvi_actors.protocol.ui import JobGroups, JobGroupsState
from rtvi_actors.reporting import FunctionCallReportLevel, ObserverParams
from rtvi_actors.runtime.context import wall_time_s

__all__ = ["OWN_IDS", "Observer"]

OWN_IDS: Final = 2_000_000_000
"""Where the ids begin that the observer gives: beyond the bot's (`Bot.next_segment_id`), and far from a host's own. Of
two segments with the same id only the first would be shown."""

M = TypeVar("M")

Report: TypeAlias = (
    frames.UserStartedSpeaking
    | frames.UserStoppedSpeaking
    | frames.VADUserStartedSpeaking
    | frames.VADUserStoppedSpeaking
    | frames.UserMuteStarted
    | frames.UserMuteStopped
    | frames.Transcription
    | frames.UserBackchannel
    | frames.UserText
    | frames.UserLLMText
    | frames.LLMFullResponseStart
    | frames.LLMText
    | frames.LLMFullResponseEnd
    | frames.LLMMarkerResponse
    | frames.AggregatedText
    | frames.AggregatedTextProgress
    | frames.SpokenText
    | frames.SpeechLost
    | frames.TTSStarted
    | frames.TTSText
    | frames.TTSStopped
    | frames.BotStartedSpeaking
    | frames.BotStoppedSpeaking
    | frames.Interruption
    | frames.FunctionCallsStarted
    | frames.FunctionCallInProgress
    | frames.FunctionCallStopped
    | frames.Metrics
    | frames.JobReport
    | frames.JobsLost
    | frames.ConfigureObserver
    | frames.FromSource
)


class _State(Struct, frozen=True):
    """The snapshot."""

    segments: SegmentsState
    jobs: JobGroupsState
    pending: str
    """Generated text up to the next sentence end."""
    shown: bool
    """Whether that is to be bot-output."""
    by_sentence: bool
    """Whether the client has not had it yet."""
    responding: bool
    """Whether a response is open."""


class Observer(BuiltIn):
    """Reports in, messages out."""

    max_mail = 100_000

    def __init__(self) -> None:
        super().__init__()
        self._segments = Segments(SegmentsState(next_id=OWN_IDS))
        self._jobs = JobGroups()
        self._sentences = Sentences()
        self._shown = self._by_sentence = self._responding = False
        self._params = ObserverParams()
        self._off: frozenset[type[ServerMessage]] = frozenset()
        """Messages that the parameters turn off."""

    def restore(self, state: Any) -> None:
        self._segments = Segments(state.segments)
        self._jobs = JobGroups(state.jobs)
        self._sentences = Sentences(state.pending)
        self._shown, self._by_sentence, self._responding = state.shown, state.by_sentence, state.responding

    def on_start(self) -> None:
        self._params = params = self.ledger.observer
        if _is_by_sentence(params) != self._by_sentence:  # it crashed on that very change: nothing of before may leak
            self._sentences.drop()
        self._emit(self._use(params))
        self._keep()

    # -- mail ------------------------------------------------------------------------------

    def on_ready(self, message: Ready) -> None:
        """Encoded already: it only keeps its place."""
        self.link("outbound").forward(message.body)

    def on_message(self, message: AnyServerMessage | Answer) -> None:
        """Said by the host from outside: ready as it is."""
        self.link("outbound").tell(self._ready_made(message))

    def on_end_session(self, message: EndSession) -> None:
        """What is open is closed before the session is."""
        self._emit(self._segments.finish())
        self._keep()
        self.link("outbound").tell(message)

    def on_report(self, report: Report) -> None:
        """What the bot or playout reports."""
        params = self.ledger.observer
        if params is not self._params:  # a change was lost on its way, and is in the ledger
            self._emit(self._use(params))
        try:
            messages = list(_REPORTS[type(report)](self, report))
        except (ValueError, JobGroupError) as error:  # the host's fault, and no reason to crash
            self.ledger.error_id(f"{type(report).__name__} is not reported", error)
            return
        self._emit(messages)
        self._keep()

    def _emit(self, messages: Iterable[Shown]) -> None:
        off = self._off
        tell = self.link("outbound").tell
        for message in messages:
            if isinstance(message, Gated):
                if type(message.message) not in off:
                    tell(ByVersion(message.floor, message.message))  # type: ignore[arg-type]
            elif type(message) not in off:
                tell(message)

    def _keep(self) -> None:
        self.snapshot(
            _State(
                self._segments.state,
                self._jobs.state,
                self._sentences.pending,
                self._shown,
                self._by_sentence,
                self._responding,
            )
        )

    # -- parameters --------------------------------------------------------------------------

    def _configure(self, report: frames.ConfigureObserver) -> Iterable[Shown]:
        params = self.ledger.observer_with(report.token)
        self.later(self.ledger.configure_observer, (report.token, params))
        return self._use(params)

    def _use(self, params: ObserverParams) -> list[Shown]:
        """Go by other parameters. What was reported before is shown by those before."""
        out: list[Shown] = []
        by_sentence = _is_by_sentence(params)
        if (by_sentence or self._by_sentence) and params.bot_output_transforms != self._params.bot_output_transforms:
            out += self._sentence(self._sentences.finish(), self._shown)
        self._params = params
        self._by_sentence = by_sentence
        self._off = frozenset(kind for kind, name in _SWITCHES.items() if not getattr(params, name))
        return out + self._segments.mute(not params.bot_output_enabled)

    def _from_source(self, report: frames.FromSource) -> Iterable[Shown]:
        if report.source in self._params.ignored_sources:
            return ()
        message = self.cell.declaration.decode(report.report)  # type: ignore[union-attr]
        if isinstance(message, ServerMessage):
            return (self._ready_made(message),)
        return _REPORTS[type(message)](self, message)

    def _ready_made(self, message: M) -> M | server.BotLlmSearchResponse:
        """Of what a search found, the answer is generated text in pieces that no transform fits: its sources alone."""
        if not (self._by_sentence and isinstance(message, server.BotLlmSearchResponse)):
            return message
        origins = tuple(structs.replace(origin, results=()) for origin in message.data.origins)
        return server.BotLlmSearchResponse(data=server.BotLlmSearchResponseData(origins=origins))

    def _transform(self, text: str, kind: str) -> str | None:
        """What is shown in place of a text; `None` where that cannot be told, so that it is not shown."""
        for wanted, function in self._params.bot_output_transforms:
            if wanted in ("*", kind):
                try:
                    text = _checked(function(text, kind))
                except Exception as error:  # noqa: BLE001 - the host's own code: whatever it raises ends only itself
                    self.ledger.error_id(f"a text of type {kind} is not shown: its transform failed", error)
                    return None
        return text

    # -- the user ------------------------------------------------------------------------------

    def _transcription(self, report: frames.Transcription) -> Iterable[Shown]:
        data = server.UserTranscriptionData(report.text, report.user_id, report.timestamp, report.final)
        yield _user_input(report, "transcription", report.final, user_id=report.user_id)
        yield server.SttRawText(data=data)
        yield server.UserTranscription(data=data)

    # -- what the model says -------------------------------------------------------------------

    def _llm_start(self, report: frames.LLMFullResponseStart) -> Iterable[Shown]:
        """One that is open still was given up: its half sentence belongs to nothing."""
        if self._responding:
            self._sentences.drop()
            yield server.BotLlmStopped()
        self._responding = True
        yield server.BotLlmStarted()

    def _llm_text(self, report: frames.LLMText) -> Iterable[Shown]:
        if report.whole:
            return self._llm_whole(report.text)
        self._shown = report.shown
        out = [] if self._by_sentence else self._llm(report.text)
        sentence = self._sentences.add(report.text)
        return out if sentence is None else out + self._sentence(sentence, report.shown)

    def _llm_whole(self, text: str) -> list[Shown]:
        """A sentence of its own: what was before it is another, and its bot-output is reported apart."""
        before = self._sentence(self._sentences.finish(), self._shown)
        return before + ([] if self._by_sentence else self._llm(text)) + self._sentence(text, shown=False)

    def _llm(self, text: str) -> list[Shown]:
        data = TextData(text)
        if server.LlmRawText in self._off:
            return [server.BotLlmText(data=data)]
        return [server.LlmRawText(data=data), server.BotLlmText(data=data)]

    def _sentence(self, sentence: str | None, shown: bool) -> list[Shown]:
        """A sentence has ended. Where it is transformed, the client has had nothing of it before."""
        text = self._transform(sentence, "sentence") if sentence is not None and self._by_sentence else sentence
        if text is None or sentence is None:
            return []
        out = self._llm(text) if text and self._by_sentence else []
        if text or not sentence:
            out.append(server.BotTranscription(data=TextData(text)))
        if shown:
            hidden = "sentence" in self._params.skip_text_types
            out += self._segments.text(sentence, shown=text, will_be_spoken=False, hidden=hidden)
        return out

    def _marker(self, report: frames.LLMMarkerResponse) -> Iterable[Shown]:
        """`raw` is the whole response: no text that a transform is made for."""
        raw = "" if self._by_sentence else report.raw
        kind = UNSET if report.kind is None else report.kind
        yield server.BotLlmMarker(data=server.BotLlmMarkerData(report.marker, raw, kind, report.markers))

    def _llm_end(self, report: frames.LLMFullResponseEnd) -> Iterable[Shown]:
        if report.if_open and not self._responding:
            return
        self._responding = False
        yield from self._sentence(self._sentences.finish(), report.shown and self._shown)
        yield server.BotLlmStopped()

    # -- what the bot says ---------------------------------------------------------------------

    def _aggregated(self, report: frames.AggregatedText) -> Iterable[Shown]:
        shown = self._transform(report.text, report.type)
        return self._segments.text(
            report.text,
            type=report.type,
            will_be_spoken=report.will_be_spoken,
            shown=shown or "",
            interruptible=report.interruptible,
            with_speech=report.with_speech,
            segment_id=report.segment_id,
            hidden=shown is None or report.type in self._params.skip_text_types,
        )

    def _tts_text(self, report: frames.TTSText) -> Iterable[Shown]:
        """What of a transformed segment is shown, its own transform has told already."""
        said = None if report.segment_id is None else self._segments.said(report.segment_id)
        is_told = said is not None and (said.is_transformed or said.hidden)
        shown = report.text if is_told else self._transform(report.text, report.type)
        return self._segments.speech(
            report.text,
            type=report.type,
            segment_id=report.segment_id,
            shown=shown or "",
            spoken=report.spoken,
            hidden=shown is None or report.type in self._params.skip_text_types,
        )

    def _interruption(self, report: frames.Interruption) -> Iterable[Shown]:
        self._sentences.drop()
        return self._segments.interrupted()

    # -- function calls, jobs ------------------------------------------------------------------

    def _calls_started(self, report: frames.FunctionCallsStarted) -> Iterable[Shown]:
        for call in report.calls:
            rank = self._rank(call.function_name)
            if rank >= _NONE:
                yield server.FunctionCallStarted(data=server.FunctionCallStartedData(_named(call.function_name, rank)))

    def _call_runs(self, report: frames.FunctionCallInProgress) -> Iterable[Shown]:
        call = report.call
        rank = self._rank(call.function_name)
        if rank >= _NONE:
            arguments = call.arguments if rank >= _ARGUMENTS else UNSET
            data = server.FunctionCallInProgressData(call.tool_call_id, _named(call.function_name, rank), arguments)
            yield server.FunctionCallInProgress(data=data)

    def _call_stopped(self, report: frames.FunctionCallStopped) -> Iterable[Shown]:
        """0, "", [] and false are results (deviation D16)."""
        rank = self._rank(report.function_name)
        if rank >= _NONE:
            has_result = rank >= _FULL and report.result is not None and not report.cancelled
            result = report.result if has_result and report.result is not None else UNSET
            name = _named(report.function_name, rank)
            data = server.FunctionCallStoppedData(report.tool_call_id, report.cancelled, name, result)
            yield server.FunctionCallStopped(data=data)

    def _rank(self, function_name: str) -> int:
        return _RANKS[self._params.level_of(function_name)]

    def _job(self, report: frames.JobReport) -> Iterable[Shown]:
        self._jobs.apply(report.event)
        yield server.UIJobGroup(data=report.event)

    def _jobs_lost(self, report: frames.JobsLost) -> Iterable[Shown]:
        for event in self._jobs.cancel_all(int(wall_time_s() * 1000)):
            yield server.UIJobGroup(data=event)


def _is_by_sentence(params: ObserverParams) -> bool:
    """Whether generated text must wait for its sentence: a secret may be in several pieces."""
    return any(kind in ("*", "sentence") for kind, _ in params.bot_output_transforms)


def _checked(text: object) -> str:
    """What a transform has returned. Raises `TypeError` for what is no text, `UnicodeEncodeError` for a lone
    surrogate."""
    if not isinstance(text, str):
        raise TypeError(f"a transform must return text, not {type(text).__name__}")
    text.encode()
    return text


def _user_input(
    report: frames.Transcription | frames.UserBackchannel | frames.UserText,
    kind: server.InputType,
    final: bool = True,
    *,
    user_id: str | UnsetType = UNSET,
    msg_id: str | UnsetType = UNSET,
) -> ServerMessage:
    data = server.UserInputData(report.text, kind, report.timestamp, final, user_id=user_id, msg_id=msg_id)
    return server.UserInput(data=data)


_RANKS: Final = {level: rank for rank, level in enumerate(FunctionCallReportLevel)}
"""Each level has what those before it have."""
_NONE: Final = _RANKS[FunctionCallReportLevel.NONE]
_NAME: Final = _RANKS[FunctionCallReportLevel.NAME]
_ARGUMENTS: Final = _RANKS[FunctionCallReportLevel.ARGUMENTS]
_FULL: Final = _RANKS[FunctionCallReportLevel.FULL]


def _named(function_name: str, rank: int) -> str | UnsetType:
    return function_name if rank >= _NAME else UNSET


def _metrics(report: frames.Metrics) -> Iterable[Shown]:
    """Of what the protocol has no place for, the client hears nothing (deviation D22)."""
    if report.data != _NOTHING:
        yield server.Metrics(data=report.data)


_NOTHING: Final = server.MetricsData()

_REPORTS: Final[Mapping[type[Any], Callable[[Observer, Any], Iterable[Shown]]]] = MappingProxyType(
    {
        frames.UserStartedSpeaking: lambda *_: (server.UserStartedSpeaking(),),
        frames.UserStoppedSpeaking: lambda *_: (server.UserStoppedSpeaking(),),
        frames.VADUserStartedSpeaking: lambda *_: (server.VadUserStartedSpeaking(),),
        frames.VADUserStoppedSpeaking: lambda *_: (server.VadUserStoppedSpeaking(),),
        frames.UserMuteStarted: lambda *_: (server.UserMuteStarted(),),
        frames.UserMuteStopped: lambda *_: (server.UserMuteStopped(),),
        frames.Transcription: Observer._transcription,
        frames.UserBackchannel: lambda _, report: (_user_input(report, "backchannel", user_id=report.user_id),),
        frames.UserText: lambda _, report: (_user_input(report, "chat", msg_id=report.msg_id),),
        frames.UserLLMText: lambda _, report: (server.UserLlmText(data=TextData(report.text)),),
        frames.LLMFullResponseStart: Observer._llm_start,
        frames.LLMText: Observer._llm_text,
        frames.LLMFullResponseEnd: Observer._llm_end,
        frames.LLMMarkerResponse: Observer._marker,
        frames.AggregatedText: Observer._aggregated,
        frames.AggregatedTextProgress: lambda observer, report: observer._segments.progress(
            report.segment_id, report.accumulated_text, report.remaining_text
        ),
        frames.SpokenText: lambda observer, report: observer._segments.spoken(report.segment_id, report.chars),
        frames.SpeechLost: lambda observer, report: observer._segments.lost(report.segment_id),
        frames.TTSStarted: lambda *_: (server.BotTtsStarted(),),
        frames.TTSText: Observer._tts_text,
        frames.TTSStopped: lambda *_: (server.BotTtsStopped(),),
        frames.BotStartedSpeaking: lambda observer, _: observer._segments.bot_started_speaking(),
        frames.BotStoppedSpeaking: lambda observer, _: observer._segments.bot_stopped_speaking(),
        frames.Interruption: Observer._interruption,
        frames.FunctionCallsStarted: Observer._calls_started,
        frames.FunctionCallInProgress: Observer._call_runs,
        frames.FunctionCallStopped: Observer._call_stopped,
        frames.Metrics: lambda _, report: _metrics(report),
        frames.JobReport: Observer._job,
        frames.JobsLost: Observer._jobs_lost,
        frames.ConfigureObserver: Observer._configure,
        frames.FromSource: Observer._from_source,
    }
)
"""What is reported → the messages of it, in order (PROTOCOL.md 2.3)."""

_SWITCHES: Final[Mapping[type[ServerMessage], str]] = MappingProxyType(
    {
        server.UserStartedSpeaking: "user_speaking_enabled",
        server.UserStoppedSpeaking: "user_speaking_enabled",
        server.VadUserStartedSpeaking: "vad_user_speaking_enabled",
        server.VadUserStoppedSpeaking: "vad_user_speaking_enabled",
        server.UserMuteStarted: "user_mute_enabled",
        server.UserMuteStopped: "user_mute_enabled",
        server.UserInput: "user_input_enabled",
        server.SttRawText: "stt_raw_text_enabled",
        server.UserTranscription: "user_transcription_enabled",
        server.UserLlmText: "user_llm_enabled",
        server.BotLlmStarted: "bot_llm_enabled",
        server.LlmRawText: "llm_raw_text_enabled",
        server.BotLlmText: "bot_llm_enabled",
        server.BotTranscription: "bot_llm_enabled",
        server.BotLlmStopped: "bot_llm_enabled",
        server.BotLlmMarker: "bot_llm_marker_enabled",
        server.BotTtsStarted: "bot_tts_enabled",
        server.TtsRawText: "tts_raw_text_enabled",
        server.BotTtsText: "bot_tts_enabled",
        server.BotTtsStopped: "bot_tts_enabled",
        server.BotStartedSpeaking: "bot_speaking_enabled",
        server.BotStoppedSpeaking: "bot_speaking_enabled",
        server.BotInterrupted: "bot_speaking_enabled",
        server.Metrics: "metrics_enabled",
    }
)
"""Message → the parameter that turns it off. Bot-output is turned off in `segments`, so that no segment is told in
part; function calls have levels."""
