"""Levels: how loud the user and the bot are, for whoever draws it.

Nobody waits for a level, so this actor may lag: what it cannot take is the oldest audio of its bulk lane, counted there
as ``overflow``. Audio concern and playout send only while the observer's parameters want levels, and a side that is off
is not measured here either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from rtvi_actors.concern import BuiltIn
from rtvi_actors.loudness import MIN_RATE_HZ, Meter
from rtvi_actors.messages import Heard, Ready
from rtvi_actors.protocol.server import BotAudioLevel, LevelData, ServerMessage, UserAudioLevel
from rtvi_actors.reporting import ObserverParams

__all__ = ["Levels"]


class _Side:
    """The user, or the bot."""

    def __init__(self) -> None:
        self.format = (0, 0)
        self.meter: Meter
        self.sent_s = float("-inf")
        """When the last level was sent."""

    def feed(self, message: Heard) -> None:
        """A stream of another format is another stream."""
        heard = (message.sample_rate, message.num_channels)
        if heard != self.format:
            self.meter = Meter(*heard)
            self.format = heard
        self.meter.feed(message.audio)


class Levels(BuiltIn):
    """Heard audio in, user-audio-level and bot-audio-level out, each at most every `audio_level_period_secs`."""

    bulk: ClassVar[frozenset[type]] = frozenset({Heard})
    max_bulk = 256
    max_bulk_bytes = 1024 * 1024

    def __init__(self) -> None:
        super().__init__()
        self._sides = {"user": _Side(), "bot": _Side()}

    def on_heard(self, message: Heard) -> None:
        params = self.ledger.observer
        make, is_wanted = _SIDES[message.side]
        if not is_wanted(params) or message.sample_rate < MIN_RATE_HZ:
            return
        side = self._sides[message.side]
        side.feed(message)
        now_s = self.cell.timers.now()
        if now_s - side.sent_s > params.audio_level_period_secs:
            side.sent_s = now_s
            level = make(side.meter.level())
            self.link("observer").tell(Ready(self.link("outbound").encode(level)))


_SIDES: Final[Mapping[str, tuple[Callable[[float], ServerMessage], Callable[[ObserverParams], bool]]]] = (
    MappingProxyType(
        {
            "user": (
                lambda level: UserAudioLevel(data=LevelData(level)),
                lambda params: params.user_audio_level_enabled,
            ),
            "bot": (
                lambda level: BotAudioLevel(data=LevelData(level)),
                lambda params: params.bot_audio_level_enabled,
            ),
        }
    )
)
"""Side → its message, and whether it is wanted."""
