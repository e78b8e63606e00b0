"""What the bot says, segment by segment: the state machine behind bot-output (PROTOCOL.md 1.4 and 2.4).

A segment lives like this; every arrow is a message, except into ``held``:

    text ─▶ held ─▶ new ─▶ in progress ─▶ … ─▶ completed      spoken to its end
                     └──────────┴────────────▶ closed         cut short: completed, with less accumulated
    text ─▶ (held) ─▶ new                                     nothing to speak: ends as it begins

The rules: `new` comes before any progress, progress only grows, whatever was shown as to be spoken ends once, as
completed or closed, and nothing of it comes behind its end but bot-tts-text. What comes with speech is held until the
bot speaks, and everything behind it, so that the order stays. Where pipecat-ai 1.14.0 does otherwise it is argued
against: progress waits for its segment (deviation D20), completion is judged on the segment's own text (D21), a segment
begins once (D23), an interrupted one is closed (PROTOCOL.md 5).

There are two ways to tell of progress. `spoken` counts characters, as our playout does: 1.x clients get words made of
it. `progress` and `speech` are a speech stack's own words: texts with what is left of them for 2.x, and single words
for 1.x.

What is shown may be another text than what is spoken (a transform). Then everything of the segment is made of what is
shown: by the same characters where the two are equally long, in proportion and by whole words where not. Hidden
segments are followed like all others, so that their words are hidden, too.

Messages are made for every version at once; `server.shape` picks what a client's version gets. `Gated` is around what
does not show that older versions get none of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType, structs

from rtvi_actors.protocol.server import (
    BotInterrupted,
    BotOutput,
    BotOutputData,
    BotStartedSpeaking,
    BotStoppedSpeaking,
    BotTtsText,
    ServerMessage,
    SpokenProgress,
    SpokenStatus,
    TextData,
    TtsRawText,
)
from rtvi_actors.protocol.versions import Version

__all__ = [
    "LIMIT",
    "MAX_ID",
    "REMEMBERED",
    "Gated",
    "Progress",
    "Segment",
    "Segments",
    "SegmentsState",
    "Shown",
    "Speech",
    "Spoken",
    "Text",
]

MAX_ID: Final = 2**31 - 1
"""Android parses segment ids as Int32 (PROTOCOL.md 1.4)."""

LIMIT: Final = 256
"""How many segments are open, and how many reports are held at once. Beyond, the oldest is closed, or shown: a bot
whose speech never comes keeps memory bounded."""
REMEMBERED: Final = 256
"""How many segments are remembered that have ended: reports may come late."""

_BACKCHANNEL: Final = "backchannel"
_BACKCHANNEL_SINCE: Final[Version] = (2, 2, 0)
_PROGRESS_SINCE: Final[Version] = (2, 0, 0)
_PARTS: Final = frozenset({"word", "token"})
"""Types of speech that is a part of its segment; any other is the whole of it."""
_SKIPPED_WORDS: Final = 2
"""How many words of a segment may be missing before the next that is reported as spoken."""

_WORD: Final = re.compile(r"\S+")
_LETTER: Final = re.compile(r"\w")


# -- what is reported ----------------------------------------------------------


class Text(Struct, frozen=True):
    """A segment."""

    segment_id: int
    text: str
    shown: str
    type: str
    will_be_spoken: bool
    interruptible: bool
    with_speech: bool
    hidden: bool
    named: bool
    """Whether others know its id, so that reports may come late."""

    @property
    def is_transformed(self) -> bool:
        """Whether nothing of `text` itself may be shown."""
        return self.shown != self.text


class Spoken(Struct, frozen=True):
    """So many characters of a segment have been spoken; `None`: all."""

    segment_id: int
    chars: int | None


class Progress(Struct, frozen=True):
    """What has been spoken of a segment and what has not, in a speech stack's own words."""

    segment_id: int
    accumulated: str
    remaining: str


class Speech(Struct, frozen=True):
    """Text as synthesised (`spoken`: as it is spoken)."""

    segment_id: int | None
    text: str
    shown: str
    """In place of `text`, where no transformed segment says what is shown."""
    type: str
    spoken: bool
    hidden: bool


Report: TypeAlias = Text | Spoken | Progress | Speech


class Gated(Struct, frozen=True):
    """A message for clients of at least `floor`."""

    floor: Version
    message: ServerMessage


Shown: TypeAlias = ServerMessage | Gated


# -- the state -----------------------------------------------------------------


class Segment(Struct, frozen=True):
    """A segment that is open: shown (or hidden), to be spoken, and not spoken to its end."""

    said: Text
    seen: bool
    """Whether the client has its `new`: bot-output can be off."""
    chars: int = 0
    """How much of the text has been spoken, by its progress."""
    accumulated: str = ""
    """What the client was told of it."""
    worded: int = 0
    """How much of the text the words have covered that were reported as spoken."""
    words_by: Literal["", "count", "report"] = ""
    """Where 1.x clients have its words from; from one source only, lest they have them twice."""
    cut: bool = False
    """Hidden and interrupted: words of it may still come, until the bot next starts or stops speaking."""

    @property
    def all_shown(self) -> str:
        """What has accumulated in the end, which is no less than before: a speech stack's own words may be longer."""
        return max(self.said.shown, self.accumulated, key=len)


class SegmentsState(Struct, frozen=True):
    """Immutable, so that an actor hands it out as its snapshot."""

    speaking: bool = False
    muted: bool = False
    """Whether bot-output is off."""
    next_id: int = 1
    segments: tuple[Segment, ...] = ()
    """Open ones, oldest first."""
    held: tuple[Report, ...] = ()
    """What waits for the bot to speak, in order."""
    ended: Mapping[int, str | None] = MappingProxyType({})
    """The latest that have ended, the oldest first: id → type, `None` where late words of it are hidden."""


class Segments:
    """The machine. Every method returns the messages to send, in order; `state` is all there is to keep."""

    def __init__(self, state: SegmentsState | None = None) -> None:
        self.state = state or SegmentsState()

    # -- reports -----------------------------------------------------------------

    def text(
        self,
        text: str,
        *,
        type: str = "sentence",  # noqa: A002  the wire's word
        will_be_spoken: bool,
        shown: str | None = None,
        interruptible: bool = True,
        with_speech: bool | None = None,
        segment_id: int | None = None,
        hidden: bool = False,
    ) -> list[Shown]:
        """The bot has a segment to say or show; `shown` in place of `text`.

        It waits for the bot to speak if `with_speech`, by default where it will be spoken. The id is the next free one
        unless `segment_id` says otherwise. One that is held or open is not begun again (D23). Raises `ValueError` for
        an id that is no positive Int32.
        """
        _check(segment_id)
        if segment_id is not None and self.knows(segment_id):
            return []
        if segment_id in self.state.ended:
            self._forget_held(segment_id)
        ident = self.allocate() if segment_id is None else segment_id
        waits = will_be_spoken if with_speech is None else with_speech
        shown = text if shown is None else shown
        named = segment_id is not None
        said = Text(ident, text, shown, type, will_be_spoken, interruptible, waits, hidden, named)
        return self._take(said, held=not self.state.speaking and (waits or bool(self.state.held)))

    def spoken(self, segment_id: int, chars: int | None = None) -> list[Shown]:
        """So many characters of a segment have been spoken; without a number, all.

        Less than before changes nothing, more than there is counts as all. A segment that is unknown or has ended is
        ignored: reports may come late.
        """
        return self._take(Spoken(segment_id, chars), held=self._is_held(segment_id))

    def progress(self, segment_id: int, accumulated: str, remaining: str) -> list[Shown]:
        """The same in a speech stack's own words. Nothing remaining: all."""
        return self._take(Progress(segment_id, accumulated, remaining), held=self._is_held(segment_id))

    def speech(
        self,
        text: str,
        *,
        type: str = "sentence",  # noqa: A002  the wire's word
        segment_id: int | None = None,
        shown: str | None = None,
        spoken: bool = True,
        hidden: bool = False,
    ) -> list[Shown]:
        """A piece of text as synthesised, and, where `spoken`, as bot-output: ``word`` and ``token`` as a part of their
        segment, any other type as all of it, or as a segment of its own.

        What is spoken waits for the bot to speak. `shown` counts unless a transformed segment says what is shown,
        `hidden` in any segment. Raises as `text` does.
        """
        _check(segment_id)
        speech = Speech(segment_id, text, text if shown is None else shown, type, spoken, hidden)
        held = (spoken and not self.state.speaking) or (segment_id is not None and self._is_held(segment_id))
        return self._take(speech, held=held)

    def lost(self, segment_id: int) -> list[Shown]:
        """The rest of a segment's speech will never come: it is closed, or shown as not to be spoken.

        What was held behind it alone is shown, too. A segment that is unknown or ended is ignored.
        """
        segment = self._open(segment_id)
        if segment is not None:
            return self._cut(segment)
        if not self._is_held(segment_id):
            return []
        held: list[Report] = []
        for report in self.state.held:
            if report.segment_id != segment_id:
                held.append(report)
            elif isinstance(report, Text):
                held.append(structs.replace(report, will_be_spoken=False, with_speech=False))
        self._set(held=tuple(held))
        return self._release_silent()

    # -- the bot's voice -----------------------------------------------------------

    def bot_started_speaking(self) -> list[Shown]:
        """bot-started-speaking, then what was held for it."""
        self._set(speaking=True)
        self._forget_cut()
        return [BotStartedSpeaking(), *self._release()]

    def bot_stopped_speaking(self) -> list[Shown]:
        """bot-stopped-speaking. What is open stays open: the bot may only have paused."""
        self._set(speaking=False)
        self._forget_cut()
        return [BotStoppedSpeaking()]

    def interrupted(self) -> list[Shown]:
        """bot-interrupted, and every open segment closed with what was really spoken, the newest first: client-react
        shows as spoken whatever stands before the segment that it heard of last.

        What was held and never shown is dropped. What may not be interrupted goes on, held or open.
        """
        out: list[Shown] = [BotInterrupted()]
        for segment in reversed(self.state.segments):
            if segment.said.interruptible and not segment.said.hidden:
                out += self._cut(segment)
            elif segment.said.interruptible:
                self._put(structs.replace(segment, cut=True))
        self._drop_held()
        return out

    def mute(self, muted: bool) -> list[Shown]:
        """Turn bot-output off or on. What the client sees open is closed, and what begins in between it never sees."""
        out: list[Shown] = []
        if muted and not self.state.muted:
            for segment in reversed(self.state.segments):
                out += _closed(segment)
            self._set(segments=tuple(structs.replace(segment, seen=False) for segment in self.state.segments))
        self._set(muted=muted)
        return out

    def finish(self) -> list[Shown]:
        """The session is over: show what was held, close what is open."""
        out = self._release()
        for segment in reversed(self.state.segments):
            out += self._cut(segment)
        return out

    # -- ids -----------------------------------------------------------------------

    def allocate(self) -> int:
        """The next free segment id; after 2**31-1 they start again."""
        used = {segment.said.segment_id for segment in self.state.segments}
        used |= {report.segment_id for report in self.state.held if report.segment_id is not None}
        ident = self.state.next_id
        while ident in used or ident in self.state.ended:
            ident = ident % MAX_ID + 1
        self._set(next_id=ident % MAX_ID + 1)
        return ident

    def knows(self, segment_id: int) -> bool:
        """Whether a segment is held or open."""
        return self.said(segment_id) is not None

    def said(self, segment_id: int) -> Text | None:
        """A segment that is held or open."""
        segment = self._open(segment_id)
        return segment.said if segment is not None and not segment.cut else self._held_text(segment_id)

    # -- what is held --------------------------------------------------------------

    def _take(self, report: Report, *, held: bool) -> list[Shown]:
        if not held:
            return self._play(report)
        out = self._spill() if len(self.state.held) >= LIMIT else []
        self._set(held=(*self.state.held, report))
        return out

    def _spill(self) -> list[Shown]:
        """Too much is held: the oldest is shown, and waits for no speech any more."""
        oldest, *rest = self.state.held
        self._set(held=tuple(rest))
        out = self._play(oldest)
        segment = self._open(oldest.segment_id) if isinstance(oldest, Text) else None
        return out if segment is None else out + self._cut(segment)

    def _is_held(self, segment_id: int) -> bool:
        return self._held_text(segment_id) is not None

    def _held_text(self, segment_id: int) -> Text | None:
        texts = (report for report in self.state.held if isinstance(report, Text))
        return next((said for said in texts if said.segment_id == segment_id), None)

    def _release(self) -> list[Shown]:
        """Show what is held, in order."""
        held = self.state.held
        self._set(held=())
        return [message for report in held for message in self._play(report)]

    def _release_silent(self) -> list[Shown]:
        """Show what is held, up to the first that really waits for speech."""
        out: list[Shown] = []
        while self.state.held:
            first = self.state.held[0]
            if not isinstance(first, Text) or first.with_speech:
                break
            self._set(held=self.state.held[1:])
            out += self._play(first)
        return out

    def _drop_held(self) -> None:
        """Nothing that is held outlives an interruption, but what may not be interrupted."""
        stays = {segment.said.segment_id for segment in self.state.segments if not segment.said.interruptible}
        kept: list[Report] = []
        for report in self.state.held:
            if isinstance(report, Text) and not report.interruptible:
                stays.add(report.segment_id)
            if report.segment_id in stays:
                kept.append(report)
            elif isinstance(report, Text):
                self._remember(report, late_hidden=report.hidden or report.is_transformed)
        self._set(held=tuple(kept))

    def _forget_held(self, segment_id: int | None) -> None:
        """What is held of a segment that has ended."""
        held = tuple(report for report in self.state.held if report.segment_id != segment_id)
        if len(held) < len(self.state.held):
            self._set(held=held)

    # -- showing -------------------------------------------------------------------

    def _play(self, report: Report) -> list[Shown]:
        match report:
            case Text():
                return self._begin(report)
            case Spoken():
                return self._count(report)
            case Progress():
                return self._advance(report)
            case Speech():
                return self._speak(report)

    def _begin(self, said: Text) -> list[Shown]:
        out: list[Shown] = []
        seen = not (said.hidden or self.state.muted)
        if said.will_be_spoken and said.text:
            out += self._make_room()
            self._put(Segment(said, seen))
        else:
            self._remember(said, late_hidden=said.is_transformed or said.hidden)
        return [*out, _new(said)] if seen else out

    def _count(self, report: Spoken) -> list[Shown]:
        segment = self._open(report.segment_id)
        if segment is None:
            return []
        said = segment.said
        chars = len(said.text) if report.chars is None else min(report.chars, len(said.text))
        if chars <= segment.chars:
            return []
        place = _place(said, chars)
        after = structs.replace(segment, chars=chars, words_by=segment.words_by or "count")
        out: list[Shown] = []
        at_once = chars == len(said.text) and not segment.chars and not segment.words_by
        if after.words_by == "count" and not at_once and segment.seen:
            out += _words(said, _place(said, segment.chars), place)
        out += self._told(after, said.shown[:place], said.shown[place:], spoken=at_once or UNSET)
        return out

    def _advance(self, report: Progress) -> list[Shown]:
        segment = self._open(report.segment_id)
        if segment is None:
            return []
        said, accumulated, remaining = segment.said, report.accumulated, report.remaining
        chars = len(said.text)
        if remaining:
            chars = chars * len(accumulated) // (len(accumulated) + len(remaining))
        if said.is_transformed:
            place = _place(said, chars)
            accumulated, remaining = said.shown[:place], said.shown[place:]
        after = structs.replace(segment, chars=max(chars, segment.chars))
        return self._told(after, accumulated, remaining)

    def _told(
        self, segment: Segment, accumulated: str, remaining: str, spoken: bool | UnsetType = UNSET
    ) -> list[Shown]:
        """Keep a segment's progress, and tell it where it has grown. All of it is its end."""
        said = segment.said
        if segment.chars >= len(said.text):
            if len(accumulated) < len(segment.accumulated):
                accumulated = segment.all_shown
            self._end(segment)
            return [_output(said, "completed", SpokenProgress(accumulated, ""), spoken)] if segment.seen else []
        grown = len(accumulated) > len(segment.accumulated)
        self._put(structs.replace(segment, accumulated=accumulated) if grown else segment)
        return [_output(said, "in-progress", SpokenProgress(accumulated, remaining))] if grown and segment.seen else []

    def _speak(self, speech: Speech) -> list[Shown]:
        segment = None if speech.segment_id is None else self._open(speech.segment_id)
        if segment is None:
            return self._speak_alone(speech)
        is_part = speech.type in _PARTS
        if segment.said.hidden:
            if speech.spoken and not is_part:
                self._end(segment)
            return []
        if speech.hidden:
            return []
        if not speech.spoken:
            whole = "" if is_part else segment.said.shown
            return _tts(segment.said.type, whole if segment.said.is_transformed else speech.shown, speech)
        return self._speak_part(segment, speech) if is_part else self._speak_whole(segment, speech)

    def _speak_whole(self, segment: Segment, speech: Speech) -> list[Shown]:
        """All of a segment. Clients of 1.x that have had its words need no more."""
        self._end(segment)
        said = segment.said
        out: list[Shown] = []
        if segment.seen:
            spoken = UNSET if segment.words_by else True
            out.append(_output(said, "completed", SpokenProgress(segment.all_shown, ""), spoken))
        return out + _tts(said.type, said.shown if said.is_transformed else speech.shown, speech)

    def _speak_part(self, segment: Segment, speech: Speech) -> list[Shown]:
        """A word of a segment, for clients of 1.x; those of 2.x get progress, which comes apart."""
        said, word = segment.said, speech.text.strip()
        found = _locate(said.text, word, segment.worded)
        after = structs.replace(segment, words_by=segment.words_by or "report")
        self._put(after if found is None else structs.replace(after, worded=found.until))
        text = speech.shown
        if said.is_transformed:
            shown = _shown_part(segment, found)
            text = speech.text.replace(word, shown, 1) if shown or not word else ""
        out: list[Shown] = []
        if text and after.words_by == "report" and segment.seen:
            out += _gated(said.type, _word(said, text, speech.type))
        return out + _tts(said.type, text, speech)

    def _speak_alone(self, speech: Speech) -> list[Shown]:
        """Speech of no segment that is open: a late word of one that has ended, or a segment of its own."""
        if speech.segment_id is not None and speech.segment_id in self.state.ended:
            kind = self.state.ended[speech.segment_id]
            return [] if speech.hidden or kind is None else _tts(kind, speech.shown, speech)
        if speech.hidden:
            return []
        return (self._show_alone(speech) if speech.spoken else []) + _tts(speech.type, speech.shown, speech)

    def _show_alone(self, speech: Speech) -> list[Shown]:
        """A segment of its own, begun and ended; of a segment that nobody has begun, clients of 1.x get the words."""
        ident = self.allocate() if speech.segment_id is None else speech.segment_id
        named = speech.segment_id is not None
        said = Text(ident, speech.text, speech.shown, speech.type, True, True, True, False, named)
        if speech.type in _PARTS:
            return [] if self.state.muted else _gated(said.type, _word(said, said.shown, said.type))
        self._remember(said, late_hidden=said.is_transformed)
        if self.state.muted:
            return []
        return [Gated(_PROGRESS_SINCE, _new(said)), _output(said, "completed", SpokenProgress(said.shown, ""), True)]

    # -- what is open --------------------------------------------------------------

    def _open(self, segment_id: int) -> Segment | None:
        return next((segment for segment in self.state.segments if segment.said.segment_id == segment_id), None)

    def _put(self, segment: Segment) -> None:
        """Keep a segment: in the place that it has, or as the newest."""
        ident = segment.said.segment_id
        segments = tuple(segment if each.said.segment_id == ident else each for each in self.state.segments)
        if self._open(ident) is None:
            segments = (*segments, segment)
        self._set(segments=segments)

    def _cut(self, segment: Segment) -> list[Shown]:
        """Close a segment. Words of it may still come."""
        self._end(segment)
        if segment.said.hidden:
            self._remember(segment.said, late_hidden=True)
        return _closed(segment)

    def _end(self, segment: Segment) -> None:
        said = segment.said
        self._set(segments=tuple(each for each in self.state.segments if each.said.segment_id != said.segment_id))
        self._remember(said, late_hidden=said.is_transformed)
        if said.hidden:
            self._forget_held(said.segment_id)

    def _remember(self, said: Text, *, late_hidden: bool) -> None:
        """A segment has ended: what comes of it now is late."""
        if not said.named:
            return
        ended = dict(self.state.ended)
        ended.pop(said.segment_id, None)
        ended[said.segment_id] = None if late_hidden else said.type
        if len(ended) > REMEMBERED:
            del ended[next(iter(ended))]
        self._set(ended=ended)

    def _forget_cut(self) -> None:
        """The words of what was cut are past, now that the bot's voice has come or gone."""
        for segment in self.state.segments:
            if segment.cut:
                self._end(segment)

    def _make_room(self) -> list[Shown]:
        """Close the oldest segment when there are too many."""
        if len(self.state.segments) < LIMIT:
            return []
        return self._cut(self.state.segments[0])

    def _set(self, **changes: object) -> None:
        self.state = structs.replace(self.state, **changes)


# -- messages ------------------------------------------------------------------


def _new(said: Text) -> BotOutput:
    return _output(said, "new", SpokenProgress("", said.shown) if said.will_be_spoken else UNSET, spoken=False)


def _closed(segment: Segment) -> list[Shown]:
    """An end short of the text: nothing remains, and what accumulated is what was spoken."""
    if not segment.seen:
        return []
    by_words = segment.said.shown[: _place(segment.said, segment.worded)]
    spoken = max(segment.accumulated, by_words, key=len)
    return [_output(segment.said, "completed", SpokenProgress(spoken, ""))]


def _words(said: Text, before: int, after: int) -> Iterator[Shown]:
    """The words that have ended in between."""
    for word in _WORD.finditer(said.shown):
        if before < word.end() <= after:
            yield from _gated(said.type, _word(said, word.group(), "word"))


def _word(said: Text, word: str, kind: str) -> BotOutput:
    """A spoken word, under the id of its segment: 1.x clients only (`server.shape`)."""
    part = structs.replace(said, shown=word, type=kind)
    return _output(part, "completed", SpokenProgress(word, ""), spoken=True)


def _tts(kind: str, text: str, speech: Speech) -> list[Shown]:
    """Text as synthesised, unless nothing of it is left to show."""
    if not text and speech.text:
        return []
    return _gated(kind, TtsRawText(data=TextData(text)), BotTtsText(data=TextData(text)))


def _gated(kind: str, *messages: ServerMessage) -> list[Shown]:
    """What does not show by itself that it belongs to a backchannel."""
    return [Gated(_BACKCHANNEL_SINCE, message) for message in messages] if kind == _BACKCHANNEL else [*messages]


def _output(
    said: Text, status: SpokenStatus, progress: SpokenProgress | UnsetType, spoken: bool | UnsetType = UNSET
) -> BotOutput:
    return BotOutput(
        data=BotOutputData(
            text=said.shown,
            aggregated_by=said.type,
            output_type=said.type,
            text_type=said.type,
            segment_id=said.segment_id,
            will_be_spoken=said.will_be_spoken,
            spoken_status=status,
            spoken=spoken,
            spoken_progress=progress,
        )
    )


# -- where in a text -----------------------------------------------------------


class _Found(Struct, frozen=True):
    """Where a word stands."""

    start: int
    end: int
    until: int
    """`end`, or the end of the text: what follows the last word belongs to it."""


def _check(segment_id: int | None) -> None:
    if segment_id is not None and not 1 <= segment_id <= MAX_ID:
        raise ValueError(f"segment id {segment_id} is no positive Int32")


def _place(said: Text, chars: int) -> int:
    """How far of what is shown the client may see when so much of the text has been spoken: all, when that was all."""
    if chars >= len(said.text):
        return len(said.shown)
    if len(said.shown) == len(said.text):
        return max(chars, 0)
    ends = [word.end() for word in _WORD.finditer(said.shown)]
    words = len(ends) * max(chars, 0) // len(said.text)
    return ends[words - 1] if words else 0


def _locate(text: str, word: str, after: int) -> _Found | None:
    """Where in a text a word stands that has been spoken, or `None`."""
    start = text.find(word, after) if word else -1
    if start < 0 or len(text[after:start].split()) > _SKIPPED_WORDS:
        return None
    end = start + len(word)
    return _Found(start, end, end if _LETTER.search(text, end) else len(text))


def _shown_part(segment: Segment, found: _Found | None) -> str:
    """What is shown in place of a word of a transformed segment; of one that is not found in it, nothing."""
    said = segment.said
    if found is None:
        return ""
    if len(said.shown) == len(said.text):
        return said.shown[found.start : found.end]
    return said.shown[_place(said, segment.worded) : _place(said, found.until)].strip()
