"""bot-ready's capabilities (RTVI 2.2): what the bot's class and the options say, unless the host says it itself."""

from __future__ import annotations

from typing import Any

import pytest

import rtvi_actors as rtvi
from rtvi_actors.reporting import ObserverParams
from tests.session_kit import calling, of_type

pytestmark = pytest.mark.anyio

NO_VIDEO = {"video_in": False, "screen_in": False, "video_out": False}


class Mute(rtvi.Bot):
    """Overrides nothing."""


class Listening(rtvi.Bot):
    async def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        """Hears."""


class ListeningPlainly(rtvi.Bot):
    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        """Hears, faster."""


class Inheriting(Listening):
    """Listens as its base does."""


class Speaking(rtvi.Bot):
    audio_out_sample_rate = 24_000


class Ear(rtvi.Concern):
    def on_received(self, message: rtvi.Received) -> None:
        self.release(message)


async def capabilities(bot: rtvi.Bot, version: str = "2.2.0", **options: Any) -> Any:
    """What bot-ready says."""
    async with calling(bot, ready=False, **options) as call:
        (ready,) = of_type(await call.ready(version=version), "bot-ready")
        return ready["data"].get("capabilities")


@pytest.mark.parametrize(
    ("bot", "audio"),
    [
        (Mute, {"audio_in": False}),
        (Listening, {"audio_in": True}),
        (ListeningPlainly, {"audio_in": True}),
        (Inheriting, {"audio_in": True}),
        (Speaking, {"audio_in": False, "audio_out": True}),
    ],
)
async def test_a_bot_hears_if_it_overrides_on_audio_and_speaks_if_it_names_a_rate(
    bot: type[rtvi.Bot], audio: dict[str, bool]
) -> None:
    assert await capabilities(bot()) == {**audio, **NO_VIDEO, "metrics": True}


@pytest.mark.parametrize("kind", ["raw-audio", "raw-audio-batch"])
async def test_an_actor_that_takes_the_audio_hears_for_the_bot(kind: str) -> None:
    own = rtvi.CustomActor("ear", Ear, routes=(kind,))
    assert (await capabilities(Mute(), actors=(own,)))["audio_in"] is True


async def test_an_actor_that_takes_something_else_does_not() -> None:
    own = rtvi.CustomActor("ear", Ear, routes=("own-type",))
    assert (await capabilities(Mute(), actors=(own,)))["audio_in"] is False


async def test_there_are_metrics_if_they_are_reported() -> None:
    silent = ObserverParams(metrics_enabled=False)
    assert (await capabilities(Mute(), observer=silent))["metrics"] is False


@pytest.mark.parametrize("own", [{}, {"metrics": True}, {"audio_in": False, "video_in": True, "hologram": True}])
async def test_what_the_host_says_is_sent_as_it_is(own: dict[str, bool]) -> None:
    assert await capabilities(Listening(), capabilities=own) == own


@pytest.mark.parametrize("version", ["0.3.0", "1.2.0", "2.0.0", "2.2.0", "nonsense"])
async def test_clients_of_every_version_get_them(version: str) -> None:
    """As pipecat-ai 1.14.0 does (PROTOCOL.md 1.4)."""
    assert await capabilities(Speaking(), version) == await capabilities(Speaking())
