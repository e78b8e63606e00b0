"""What a host's own speech stack did, for the client to hear of: `Bot` and `session.control` have these methods.

Each is one message to the observer. What is not a text, a number or JSON raises here, where it was made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from rtvi_actors import frames
from rtvi_actors.errors import InvalidData
from rtvi_actors.ledger import Ledger
from rtvi_actors.messages import Heard
from rtvi_actors.protocol import pcm, server
from rtvi_actors.protocol.codec import to_json
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.segments import MAX_ID

__all__ = ["Reports", "checked_flag", "checked_object", "checked_text"]

T = TypeVar("T")


def checked_text(value: object, what: str) -> str:
    """Raises `TypeError` for what is no text, `NotJson` for a lone surrogate."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {type(value).__name__}")
    to_json(value)
    return value


def checked_flag(value: object, what: str) -> bool:
    """Raises `TypeError` for what is neither true nor false."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be true or false, not {type(value).__name__}")
    return value


def checked_object(value: object, what: str) -> Json:
    """Raises `TypeError` for what is no mapping, `NotJson` for what JSON cannot hold."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a mapping, not {type(value).__name__}")
    return to_json(value)


class Reports:
    """Reports. Each raises `Dead` (the bot's) or `SessionClosed` (the control's) when the session is over."""

    @abstractmethod
    def _to(self, name: str, message: Any) -> None:
        """Send to an actor of the session."""

    # -- the user ----------------------------------------------------------------------------

    def user_started_speaking(self) -> None:
        """The user's turn began."""
        self._to("observer", frames.UserStartedSpeaking())

    def user_stopped_speaking(self) -> None:
        """The user's turn ended."""
        self._to("observer", frames.UserStoppedSpeaking())

    def vad_user_started_speaking(self) -> None:
        """Voice activity began."""
        self._to("observer", frames.VADUserStartedSpeaking())

    def vad_user_stopped_speaking(self) -> None:
        """Voice activity ended."""
        self._to("observer", frames.VADUserStoppedSpeaking())

    def user_mute_started(self) -> None:
        """The bot no longer listens."""
        self._to("observer", frames.UserMuteStarted())

    def user_mute_stopped(self) -> None:
        """The bot listens again."""
        self._to("observer", frames.UserMuteStopped())

    def transcription(self, text: str, user_id: str = "", timestamp: str | None = None, final: bool = True) -> None:
        """What the user said; interim where not `final`. `timestamp` is ISO 8601, now by default."""
        user, when = checked_text(user_id, "user_id"), _when(timestamp)
        report = frames.Transcription(checked_text(text, "text"), user, when, checked_flag(final, "final"))
        self._to("observer", report)

    def user_backchannel(self, text: str, user_id: str = "", timestamp: str | None = None) -> None:
        """The user said something while listening, such as "mhm"."""
        user, when = checked_text(user_id, "user_id"), _when(timestamp)
        self._to("observer", frames.UserBackchannel(checked_text(text, "text"), user, when))

    def user_audio(self, audio: bytes, sample_rate: int, num_channels: int = 1) -> None:
        """The user's audio, for its level (user-audio-level). Only where it does not come through the session.

        Raises `ValueError` for what is not whole frames of PCM16.
        """
        self._to("levels", _heard("user", audio, sample_rate, num_channels))

    def llm_context(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """The model is given this context: where its last message is the user's, the client hears its text
        (user-llm-text). A content of parts is the texts of them, joined by a space."""
        text = _user_text(messages)
        if text is not None:
            self._to("observer", frames.UserLLMText(checked_text(text, "text")))

    # -- the bot -----------------------------------------------------------------------------

    def llm_started(self) -> None:
        """A response begins (`Bot.response` reports it itself; so with the next two)."""
        self._to("observer", frames.LLMFullResponseStart())

    def llm_text(self, text: str) -> None:
        """A piece of the response."""
        self._to("observer", frames.LLMText(checked_text(text, "text")))

    def llm_stopped(self) -> None:
        """The response ended."""
        self._to("observer", frames.LLMFullResponseEnd())

    def llm_marker(self, raw: str, marker: str = "", kind: str | None = None, markers: Iterable[str] = ()) -> None:
        """The model marked its response `raw` with one of `markers`."""
        texts = tuple(checked_text(each, "markers") for each in markers)
        marked = checked_text(marker, "marker")
        label = None if kind is None else checked_text(kind, "kind")
        self._to("observer", frames.LLMMarkerResponse(checked_text(raw, "raw"), marked, label, texts))

    def search_response(self, data: server.BotLlmSearchResponseData) -> None:
        """What a grounded model found."""
        found = _checked_struct(data, server.BotLlmSearchResponseData)
        self._to("observer", server.BotLlmSearchResponse(data=found))

    def tts_started(self) -> None:
        """Synthesis begins."""
        self._to("observer", frames.TTSStarted())

    def tts_text(
        self, text: str, *, kind: str = "sentence", segment_id: int | None = None, spoken: bool | None = None
    ) -> None:
        """A piece of text as synthesised. With `spoken`, by default where it names a segment, it is bot-output, too:
        ``word`` and ``token`` as a part of the segment, any other kind as all of it."""
        is_output = segment_id is not None if spoken is None else checked_flag(spoken, "spoken")
        said, type_ = checked_text(text, "text"), checked_text(kind, "kind")
        segment = None if segment_id is None else _segment(segment_id)
        self._to("observer", frames.TTSText(said, type_, segment, is_output))

    def tts_stopped(self) -> None:
        """Synthesis ended."""
        self._to("observer", frames.TTSStopped())

    def bot_started_speaking(self) -> None:
        """Bot audio plays. Only for audio that does not go through the session: playout reports its own."""
        self._to("observer", frames.BotStartedSpeaking())

    def bot_stopped_speaking(self) -> None:
        """Bot audio ceased."""
        self._to("observer", frames.BotStoppedSpeaking())

    def bot_audio(self, audio: bytes, sample_rate: int, num_channels: int = 1) -> None:
        """Audio that plays now, for its level (bot-audio-level). Only for what does not go through the session.

        Raises `ValueError` for what is not whole frames of PCM16.
        """
        self._to("levels", _heard("bot", audio, sample_rate, num_channels))

    def bot_text(
        self,
        text: str,
        *,
        kind: str = "sentence",
        will_be_spoken: bool = True,
        segment_id: int | None = None,
        interruptible: bool = True,
        with_speech: bool | None = None,
    ) -> None:
        """A segment of what the bot says or shows (bot-output). Name it by `segment_id` to report its progress.

        `with_speech` is whether it waits for the bot to speak, by default where it will be spoken. What is not
        `interruptible` outlives an interruption.
        """
        report = frames.AggregatedText(
            checked_text(text, "text"),
            checked_text(kind, "kind"),
            checked_flag(will_be_spoken, "will_be_spoken"),
            None if segment_id is None else _segment(segment_id),
            checked_flag(interruptible, "interruptible"),
            None if with_speech is None else checked_flag(with_speech, "with_speech"),
        )
        self._to("observer", report)

    def bot_spoken(self, segment_id: int, chars: int | None = None) -> None:
        """So many characters of a segment have been spoken; without a number, all."""
        count = None if chars is None else _integer(chars, "chars")
        self._to("observer", frames.SpokenText(_segment(segment_id), count))

    def bot_text_progress(self, segment_id: int, accumulated_text: str, remaining_text: str) -> None:
        """What has been spoken of a segment, and what has not, where a speech stack says it in its own words. Clients
        of 1.x hear of words only by `tts_text`."""
        accumulated = checked_text(accumulated_text, "accumulated_text")
        remaining = checked_text(remaining_text, "remaining_text")
        self._to("observer", frames.AggregatedTextProgress(_segment(segment_id), accumulated, remaining))

    # -- functions, measurements -------------------------------------------------------------

    def function_calls_started(self, calls: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """The model wants functions: name, call id and arguments of each."""
        self._to("observer", frames.FunctionCallsStarted(tuple(_call(*call) for call in calls)))

    def function_call_in_progress(self, function_name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> None:
        """A function runs, in the bot; `Bot.call_client` runs one in the client."""
        self._to("observer", frames.FunctionCallInProgress(_call(function_name, tool_call_id, arguments)))

    def function_call_result(self, function_name: str, tool_call_id: str, result: Any = None) -> None:
        """A function returned. `None` is no result; 0, "", [] and false are."""
        value = None if result is None else to_json(result)
        name, call = checked_text(function_name, "function_name"), checked_text(tool_call_id, "tool_call_id")
        self._to("observer", frames.FunctionCallStopped(name, call, value))

    def function_call_cancelled(self, function_name: str, tool_call_id: str) -> None:
        """A function was cancelled."""
        name, call = checked_text(function_name, "function_name"), checked_text(tool_call_id, "tool_call_id")
        self._to("observer", frames.FunctionCallStopped(name, call, cancelled=True))

    def metrics(self, data: server.MetricsData) -> None:
        """What was measured. Where there is nothing, the client hears nothing."""
        self._to("observer", frames.Metrics(_checked_struct(data, server.MetricsData)))


def _heard(side: Literal["user", "bot"], audio: bytes, sample_rate: int, num_channels: int) -> Heard:
    try:
        pcm.check(audio, sample_rate, num_channels)
    except InvalidData as error:
        raise ValueError(f"not PCM16: {error.detail}") from None
    return Heard(side, audio, sample_rate, num_channels)


def _when(timestamp: str | None) -> str:
    return Ledger.timestamp() if timestamp is None else checked_text(timestamp, "timestamp")


def _integer(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be a whole number, not {type(value).__name__}")
    return value


def _segment(segment_id: int) -> int:
    if not 1 <= _integer(segment_id, "segment_id") <= MAX_ID:
        raise ValueError(f"segment_id must be within 1 and {MAX_ID}")
    return segment_id


def _checked_struct(data: T, struct: type[T]) -> T:
    """Raises `TypeError` where a field is not what the Struct says, `NotJson` for NaN and lone surrogates."""
    if not isinstance(data, struct):
        raise TypeError(f"data must be a {struct.__name__}, not {type(data).__name__}")
    to_json(data)
    try:
        msgspec.convert(msgspec.to_builtins(data), struct)
    except msgspec.ValidationError as error:
        raise TypeError(f"no {struct.__name__}: {error}") from error
    return data


def _call(function_name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> frames.FunctionCall:
    return frames.FunctionCall(
        checked_text(function_name, "function_name"),
        checked_text(tool_call_id, "tool_call_id"),
        checked_object(arguments, "arguments"),
    )


def _user_text(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of the last message where it is the user's (pipecat-ai 1.14.0, observed, for each odd content)."""
    last = messages[-1] if messages else {}
    if not isinstance(last, Mapping):
        raise TypeError(f"a message must be a mapping, not {type(last).__name__}")
    if last.get("role") != "user":
        return None
    content = last.get("content")
    if not isinstance(content, list | tuple | Mapping):
        return content if isinstance(content, str) else None
    texts = [_part_text(part) for part in content]
    return None if None in texts else " ".join(text for text in texts if isinstance(text, str))


def _part_text(part: object) -> str | UnsetType | None:
    """The text of a part of a message; `UNSET` where it has none, such as an image; `None` where it is no part."""
    if isinstance(part, Mapping):
        text = part.get("text", UNSET)
        return text if isinstance(text, str | UnsetType) else None
    return UNSET if isinstance(part, str) and "text" not in part else None
