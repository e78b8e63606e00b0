from __future__ import annotations

import pytest

import rtvi_actors as rtvi
from rtvi_actors import outbox
from rtvi_actors.concerns.outbound import COALESCED
from rtvi_actors.messages import ByVersion
from rtvi_actors.protocol.server import (
    SERVER,
    InputType,
    TextData,
    UserInput,
    UserInputData,
    UserLlmText,
    UserTranscription,
    UserTranscriptionData,
)
from tests.session_kit import calling, types

pytestmark = pytest.mark.anyio


async def test_bot_ready_has_about_and_capabilities() -> None:
    async with calling(rtvi.Bot(), ready=False, capabilities={"metrics": True}) as call:
        (ready,) = await call.ready()
        assert ready["data"]["about"]["library"] == "rtvi-actors"
        assert ready["data"]["capabilities"] == {"metrics": True}


async def test_a_message_that_is_too_large_becomes_an_error_and_the_next_one_leaves() -> None:
    async with calling(rtvi.Bot(), max_message_bytes=1_000) as call:
        call.session.control.send_server_message("x" * 2_000)
        call.session.control.send_server_message("y")
        error, message = await call.heard()
        assert error["type"] == "error"
        assert error["data"]["error"].startswith("Exception processing message: ")
        assert message["data"] == "y"


async def test_the_version_is_kept_over_a_crash() -> None:
    async with calling(rtvi.Bot(), ready=False) as call:
        await call.ready(version="1.3.0")
        call.session.system.crash(call.session.actor("outbound"))
        control = call.session.control
        control.bot_started_speaking()
        control.bot_text("one", segment_id=1)
        control.bot_spoken(1)
        outputs = [wire["data"] for wire in await call.heard() if wire["type"] == "bot-output"]
        assert [data.get("spoken") for data in outputs] == [False, True]  # 2.x gets progress, without `spoken`


@pytest.mark.parametrize(("version", "gets"), [("1.1.9", "old"), ("1.2.0", "new"), ("2.2.0", "new"), ("0.3.0", "old")])
@pytest.mark.parametrize("held", [True, False])
async def test_a_message_by_version_is_what_the_client_knows(version: str, gets: str, held: bool) -> None:
    async with calling(rtvi.Bot(), ready=False) as call:
        if not held:
            await call.ready(version=version)
        texts = [UserLlmText(data=TextData(text)) for text in ("new", "old")]
        call.session.actor("outbound").tell(ByVersion((1, 2, 0), *texts))
        call.session.actor("outbound").tell(ByVersion((9, 0, 0), texts[0]))
        heard = await call.ready(version=version) if held else []
        heard += await call.heard()
        assert [wire["data"]["text"] for wire in heard if wire["type"] == "user-llm-text"] == [gets]


def said(final: bool, user_id: str, input_type: InputType = "transcription") -> tuple[UserTranscription, UserInput]:
    return (
        UserTranscription(data=UserTranscriptionData("x", user_id, "now", final)),
        UserInput(data=UserInputData("x", input_type, "now", final, user_id=user_id)),
    )


def test_only_interim_words_of_the_same_user_and_kind_make_each_other_worthless() -> None:
    assert set(COALESCED) <= set(SERVER.values())
    for message in said(final=True, user_id="u"):
        assert COALESCED[type(message)](message) is None
    for one, other in zip(said(final=False, user_id="u"), said(final=False, user_id="v"), strict=True):
        key = COALESCED[type(one)]
        assert key(one) is not None
        assert key(one) != key(other)
    (_, spoken), (_, aside) = said(final=False, user_id="u"), said(final=False, user_id="u", input_type="backchannel")
    assert COALESCED[UserInput](spoken) != COALESCED[UserInput](aside)
    nobody = UserInput(data=UserInputData("x", "transcription", "now", final=False))
    assert COALESCED[UserInput](nobody) is not None


async def test_an_interim_transcription_that_cannot_be_sent_is_an_error_which_none_replaces() -> None:
    async with calling(rtvi.Bot(), max_message_bytes=400, capacity=4) as call:
        for _ in range(8):
            call.session.control.send_server_message("x" * 300)
        for _ in range(600):
            call.session.control.transcription("y" * 400, final=False)
        call.session.control.transcription("done")
        heard = await call.until(lambda wire: wire["type"] == "user-transcription")
        assert types(heard).count("error") == 2 * 600


async def test_what_is_held_before_client_ready_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "HOLD_BYTES", 10_000)
    async with calling(rtvi.Bot(), ready=False) as call:
        for index in range(12):
            call.session.control.send_server_message([index, "x" * 1_000])
        assert await call.heard() == []
        assert call.session._outbox.held_bytes <= 10_000
        await call.send("client-ready", "r", {"version": "2.2.0"})
        _, *heard = await call.heard()
        assert [wire["data"][0] for wire in heard] == list(range(12 - len(heard), 12))
        assert len(heard) == 9
        assert call.books.hold_dropped == 3
