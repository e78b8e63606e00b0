from __future__ import annotations

import base64
from typing import Any

import pytest

import rtvi_actors as rtvi
from rtvi_actors.concerns.text import MAX_KEYS, MAX_READ_BYTES
from rtvi_actors.files import FileStore, StoredFile
from rtvi_actors.frames import InputDTMF, UserFile
from rtvi_actors.messages import CommitExpired, OutputConfigured, ReleaseTexts, TurnCommitted
from rtvi_actors.protocol.envelope import Json
from rtvi_actors.protocol.files import FilePolicy
from tests.session_kit import Call, Frame, calling, types

pytestmark = pytest.mark.anyio

PNG = {"format": "image/png", "source": {"type": "bytes", "bytes": base64.b64encode(b"pixels").decode()}}


class Frames(rtvi.Bot):
    """Writes down what it gets."""

    accepts_files = True

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Any] = []

    def on_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        super().on_frame(frame)


class Manual(Frames):
    """Says itself when a turn is committed."""

    auto_turn_committed = False


def append(text: str, run: bool = True, **fields: Any) -> rtvi.LLMMessagesAppend:
    return rtvi.LLMMessagesAppend((rtvi.LLMMessage("user", text),), run, "s", **fields)


async def frames_of(call: Call, bot: Frames) -> list[Any]:
    """What the bot got since."""
    await call.session.idle()
    taken, bot.frames = bot.frames, []
    return taken


async def error_of(call: Call, kind: str, data: object) -> str:
    """What a message is refused with; the bot hears nothing of it."""
    await call.send(kind, "s", data)
    (reply,) = await call.heard()
    assert (reply["type"], reply["id"]) == ("error-response", "s")
    return str(reply["data"]["error"])


async def field_of(call: Call, kind: str, data: object) -> str:
    """The field that is wrong."""
    return (await error_of(call, kind, data)).rpartition(" (")[2].rstrip(")")


# -- send-text -----------------------------------------------------------------------------


async def test_send_text_interrupts_then_appends() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.say("hi")
        interruption, text = await frames_of(call, bot)
        assert isinstance(interruption, rtvi.Interruption)
        assert interruption.token > 0
        assert text == append("hi")


async def test_text_that_is_not_to_run_neither_interrupts_nor_runs() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.say("hi", run_immediately=False)
        assert await frames_of(call, bot) == [append("hi", run=False)]


async def test_the_switch_is_turned_for_a_text_that_wants_another_answer_and_turned_back() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.say("quiet", audio_response=False)
        _, on, text, off = await frames_of(call, bot)
        assert (on, text, bool(off.skip_tts)) == (rtvi.LLMConfigureOutput(True), append("quiet"), False)
        call.session.control.configure_output(True)
        await frames_of(call, bot)
        await call.say("quiet", audio_response=False, run_immediately=False)
        assert await frames_of(call, bot) == [append("quiet", run=False)]


async def test_a_switch_that_is_nobodys_choice_is_turned_for_any_text_and_given_back() -> None:
    bot = Frames()
    async with calling(bot) as call:
        call.session.control.configure_output(None)
        await frames_of(call, bot)
        await call.say("aloud", run_immediately=False)
        on, text, off = await frames_of(call, bot)
        assert (on, text, off) == (
            rtvi.LLMConfigureOutput(False),
            append("aloud", run=False),
            rtvi.LLMConfigureOutput(None),
        )


async def test_a_text_that_waits_is_spoken_as_the_switch_is_when_it_goes() -> None:
    bot = Manual()
    async with calling(bot) as call:
        await call.say("quiet", audio_response=False)
        call.session.control.configure_output(True)
        await frames_of(call, bot)
        bot.turn_committed()
        assert await frames_of(call, bot) == [append("quiet")]


async def test_the_switch_outlives_a_crash() -> None:
    bot = Frames()
    async with calling(bot) as call:
        call.session.actor("text").tell(OutputConfigured(True))
        await frames_of(call, bot)
        call.session.system.crash(call.session.actor("text"))
        await call.say("aloud", run_immediately=False)
        on, _, off = await frames_of(call, bot)
        assert (on.skip_tts, off.skip_tts) == (False, True)


async def test_the_client_gets_its_text_back_behind_the_interruption() -> None:
    async with calling(Frames()) as call:
        await call.say("hi", "s9")
        heard = await call.heard()
        assert types(heard) == ["bot-interrupted", "user-input"]
        assert (heard[1]["data"]["text"], heard[1]["data"]["msg_id"]) == ("hi", "s9")


async def test_a_binary_interruption_reaches_the_bot_in_its_place_and_at_once() -> None:
    bot = Manual()
    async with calling(bot) as call:
        await call.say("waits")
        await frames_of(call, bot)
        await call.client.send_interruption()
        assert await frames_of(call, bot) == [rtvi.Interruption()]


async def test_a_text_that_is_none_is_refused() -> None:
    async with calling(Frames()) as call:
        assert await field_of(call, "send-text", {"content": 5}) == "data.content"


# -- what waits, and for what ----------------------------------------------------------------


async def test_each_text_of_a_burst_has_its_interruption_and_waits_for_its_own_commit() -> None:
    bot = Manual()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.say("one")
        await call.say("two")
        (first,) = await frames_of(call, bot)
        bot.turn_committed()
        one, second = await frames_of(call, bot)
        assert (one, first.token < second.token) == (append("one"), True)
        bot.turn_committed()
        assert await frames_of(call, bot) == [append("two")]
        assert call.books.waiting_texts == 0


async def test_a_text_that_does_not_interrupt_stays_behind_those_that_wait() -> None:
    bot = Manual()
    async with calling(bot) as call:
        await call.say("one")
        await call.say("two", run_immediately=False)
        await call.send("append-to-context", "s", {"role": "user", "content": "three"})
        await call.send("send-file", "s", {"content": "four", "file": PNG})
        await call.say("five", run_immediately=False)
        await frames_of(call, bot)
        bot.turn_committed()
        got = await frames_of(call, bot)
        assert [type(frame).__name__ for frame in got] == ["LLMMessagesAppend"] * 3 + ["Interruption"]
        assert [frame.messages[0].content for frame in got[:3]] == ["one", "two", "three"]
        bot.turn_committed()
        assert [frame.messages[0].content for frame in await frames_of(call, bot)] == ["four", "five"]


async def test_only_the_interruption_that_is_waited_for_counts() -> None:
    bot = Manual()
    async with calling(bot) as call:
        await call.say("one")
        *_, interruption = await frames_of(call, bot)
        for token in (interruption.token - 1, interruption.token + 1):
            call.session.actor("text").tell(TurnCommitted(token))
        assert await frames_of(call, bot) == []
        call.session.actor("text").tell(TurnCommitted(interruption.token))
        assert await frames_of(call, bot) == [append("one")]
        call.session.actor("text").tell(TurnCommitted(interruption.token))
        assert await frames_of(call, bot) == []


async def test_a_commit_that_nobody_waits_for_means_nothing() -> None:
    bot = Manual()
    async with calling(bot) as call:
        await frames_of(call, bot)
        bot.turn_committed()
        await call.say("one")
        assert [type(frame) for frame in await frames_of(call, bot)] == [rtvi.Interruption]


async def test_the_number_of_a_text_that_waits_is_open_and_is_delivered_once() -> None:
    bot = Manual()
    async with calling(bot) as call:
        await call.session.idle()
        before = call.books.conservation
        await call.say("one")
        await call.say("two")
        await call.session.idle()
        assert (call.books.conservation.open, call.books.waiting_texts) == (before.open + 2, 2)
        bot.turn_committed()
        await call.session.idle()
        bot.turn_committed()
        await call.session.idle()
        assert call.books.conservation.open == before.open
        assert call.books.conservation.delivered == before.delivered + 2
        assert call.books.duplicates == 0
        assert call.session._ledger.door.more == set()


# -- append-to-context -------------------------------------------------------------------------


async def test_a_message_is_appended_in_its_role_and_not_given_back_to_the_client() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.send("append-to-context", "s", {"role": "assistant", "content": "I said"})
        message = rtvi.LLMMessage("assistant", "I said")
        assert await frames_of(call, bot) == [rtvi.LLMMessagesAppend((message,), False, "s", typed=False)]
        assert types(await call.heard()) == []


async def test_a_content_of_parts_is_its_texts_and_the_parts() -> None:
    bot = Frames()
    parts = '[{"type":"text","text":"look"},{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"at"}]'
    async with calling(bot) as call:
        await frames_of(call, bot)
        text = '{"label":"rtvi-ai","type":"append-to-context","id":"s","data":{"role":"user","content":%s}}'
        await call.client.send_text((text % parts).encode())
        ((message,),) = [frame.messages for frame in await frames_of(call, bot)]
        assert message == rtvi.LLMMessage("user", "look at", Json(parts.encode()))


async def test_a_message_that_is_to_run_interrupts_as_a_text_does() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.send("append-to-context", "s", {"role": "user", "content": "go", "run_immediately": True})
        interruption, text = await frames_of(call, bot)
        assert (type(interruption), text) == (rtvi.Interruption, append("go", typed=False))
        assert types(await call.heard()) == ["bot-interrupted"]


@pytest.mark.parametrize("content", [None, 5, True, {"text": "x"}, ["x"], [{"text": "x"}, 5], [None]])
async def test_a_content_of_another_kind_is_refused(content: object) -> None:
    async with calling(Frames()) as call:
        assert await field_of(call, "append-to-context", {"role": "user", "content": content}) == "data.content"


@pytest.mark.parametrize("parts", [[], [{}], [{"type": "text", "text": 5}], [{"type": "image", "text": "no"}]])
async def test_parts_without_text_are_appended_all_the_same(parts: object) -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        await call.send("append-to-context", "s", {"role": "user", "content": parts})
        ((message,),) = [frame.messages for frame in await frames_of(call, bot)]
        assert (message.content, message.parts is None) == ("", False)


@pytest.mark.parametrize("role", ["system", "developer", "tool", "", "USER"])
async def test_a_role_that_the_host_does_not_allow_is_refused(role: str) -> None:
    async with calling(Frames()) as call:
        assert await field_of(call, "append-to-context", {"role": role, "content": "x"}) == "data.role"


async def test_the_host_may_allow_other_roles() -> None:
    bot = Frames()
    async with calling(bot, context_roles=("system",)) as call:
        await frames_of(call, bot)
        await call.send("append-to-context", "s", {"role": "system", "content": "x"})
        ((message,),) = [frame.messages for frame in await frames_of(call, bot)]
        assert message.role == "system"
        assert await field_of(call, "append-to-context", {"role": "user", "content": "x"}) == "data.role"


# -- send-file -----------------------------------------------------------------------------------


async def test_a_file_comes_with_the_turn_that_it_belongs_to() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        source = {**PNG["source"], "width": 640, "height": -1}  # type: ignore[dict-item]
        file = {**PNG, "name": "../a.png", "source": source}
        await call.send(
            "send-file", "s", {"content": "look", "file": file, "options": {"custom_options": {"detail": "high"}}}
        )
        interruption, turn = await frames_of(call, bot)
        options = Json(b'{"detail":"high"}')
        expected = UserFile("image/png", "a.png", b"pixels", width=640, options=options)
        assert (type(interruption), turn) == (rtvi.Interruption, append("look", files=(expected,)))
        assert turn.files[0].is_image
        heard = await call.heard()
        assert types(heard) == ["bot-interrupted", "user-input"]
        assert heard[1]["data"]["text"] == "look"


async def test_a_file_may_be_appended_only_and_answered_without_speech() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        options = {"run_immediately": False, "audio_response": False}
        await call.send("send-file", "s", {"content": "look", "file": PNG, "options": options})
        on, turn, off = await frames_of(call, bot)
        assert (on.skip_tts, off.skip_tts) == (True, False)
        assert (turn.run_llm, turn.files[0].data) == (False, b"pixels")


async def test_a_file_behind_a_url_is_left_there() -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        file = {"format": "application/pdf", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
        await call.send("send-file", "s", {"content": "", "file": file, "options": {"run_immediately": False}})
        (turn,) = await frames_of(call, bot)
        assert turn.files == (UserFile("application/pdf", url="https://example.com/a.pdf"),)


async def test_a_bot_that_takes_no_files_refuses_them() -> None:
    async with calling(rtvi.Bot()) as call:
        assert await error_of(call, "send-file", {"content": "look", "file": PNG}) == "Files are not accepted"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"file": PNG}, "data.content"),
        ({"content": "x"}, "data.file"),
        ({"content": "x", "file": {**PNG, "format": "text/html"}}, "data.file.format"),
        ({"content": "x", "file": {**PNG, "source": {"bytes": "!"}}}, "data.file.source.bytes"),
        ({"content": "x", "file": {**PNG, "source": {}}}, "data.file.source"),
        ({"content": "x", "file": {**PNG, "source": {"url": "file:///x"}}}, "data.file.source.url"),
        ({"content": "x", "file": {**PNG, "source": {"url": "rtvi:none"}}}, "data.file.source.url"),
        ({"content": "x", "file": PNG, "options": {"custom_options": []}}, "data.options.custom_options"),
        ({"content": "x", "file": PNG, "options": {"run_immediately": 1}}, "data.options.run_immediately"),
    ],
)
async def test_a_file_that_is_not_right_is_refused_and_interrupts_nothing(data: object, field: str) -> None:
    bot = Frames()
    async with calling(bot) as call:
        await frames_of(call, bot)
        assert await field_of(call, "send-file", data) == field
        assert bot.frames == []


class TestUploads:
    @pytest.fixture
    def store(self) -> FileStore:
        return FileStore()

    async def send(self, call: Call, url: str, **file: Any) -> None:
        source = {"type": "url", "url": url}
        await call.send("send-file", "s", {"content": "x", "file": {"format": "image/png", "source": source, **file}})

    async def test_an_upload_comes_with_its_content(self, store: FileStore) -> None:
        bot = Frames()
        async with calling(bot, file_store=store) as call:
            upload = store.put(b"uploaded", format="image/jpeg", name="b.jpg", session_id=call.session.id)
            await self.send(call, upload.url)
            await self.send(call, upload.url, name="mine.png")
            turns = [frame for frame in await frames_of(call, bot) if isinstance(frame, rtvi.LLMMessagesAppend)]
            assert [turn.files for turn in turns] == [
                (UserFile("image/png", "b.jpg", b"uploaded", media_type="image/jpeg"),),
                (UserFile("image/png", "mine.png", b"uploaded", media_type="image/jpeg"),),
            ]

    async def test_an_upload_that_waits_is_good_although_the_store_has_let_it_go(self, store: FileStore) -> None:
        bot = Manual()
        async with calling(bot, file_store=store) as call:
            upload = store.put(b"uploaded", format="image/png", name="b.png")
            await self.send(call, upload.url)
            await frames_of(call, bot)
            store.remove(upload.url)
            bot.turn_committed()
            (turn,) = await frames_of(call, bot)
            assert turn.files[0].data == b"uploaded"

    async def test_an_upload_that_cannot_be_read_any_more_costs_its_message_alone(
        self, store: FileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreadable(_: StoredFile) -> bytes:
            raise OSError("disk")

        bot = Manual()
        async with calling(bot, file_store=store) as call:
            upload = store.put(b"uploaded", format="image/png", name="b.png")
            await self.send(call, upload.url)
            await call.say("next", "n", run_immediately=False)
            await frames_of(call, bot)
            monkeypatch.setattr(StoredFile, "data", property(unreadable))
            bot.turn_committed()
            assert [frame.msg_id for frame in await frames_of(call, bot)] == ["n"]
            errors = [wire for wire in await call.heard() if wire["type"] == "error-response"]
            assert [wire["data"]["error"].partition("(")[2] for wire in errors] == ["data.file.source.url)"]
            source = {"url": upload.url}
            data = {"content": "x", "file": {**PNG, "source": source}, "options": {"run_immediately": False}}
            assert await field_of(call, "send-file", data) == "data.file.source.url"
            assert (call.restarts("text"), call.books.conservation.open) == (0, 0)

    @pytest.mark.parametrize("how", ["committed", "overdue", "over"])
    async def test_texts_that_wait_bring_so_much_of_uploads_at_once_and_no_more(
        self, store: FileStore, how: str
    ) -> None:
        bot = Manual()
        async with calling(bot, file_store=store, files=FilePolicy(max_bytes=MAX_READ_BYTES)) as call:
            upload = store.put(bytes(MAX_READ_BYTES // 2), format="image/png", name="b.png")
            await call.say("first")
            source = {"url": upload.url}
            data = {"content": "x", "file": {**PNG, "source": source}, "options": {"run_immediately": False}}
            for n in range(5):
                await call.send("send-file", f"f{n}", data)
            await frames_of(call, bot)
            if how == "committed":
                bot.turn_committed()
            elif how == "overdue":
                call.session.actor("text").tell(CommitExpired(call.session._ledger.texts.token))
            else:
                call.session.actor("text").tell(ReleaseTexts())
            appends = [frame for frame in await frames_of(call, bot) if isinstance(frame, rtvi.LLMMessagesAppend)]
            assert [frame.msg_id for frame in appends] == ["s", "f0", "f1"]
            errors = [wire for wire in await call.heard() if wire["type"] == "error-response"]
            assert [wire["id"] for wire in errors] == ["f2", "f3", "f4"]
            assert {wire["data"]["error"] for wire in errors} == {"Too many files at once; try again later"}
            assert (call.books.conservation.open, call.books.control["answered"]) == (0, 3)

    @pytest.mark.parametrize("why", ["unknown", "another session's", "too large", "of a type that is not taken"])
    async def test_any_other_upload_is_refused(self, store: FileStore, why: str) -> None:
        url = {
            "unknown": "rtvi:guess",
            "another session's": store.put(b"1", format="image/png", name="", session_id="another").url,
            "too large": store.put(bytes(9), format="image/png", name="").url,
            "of a type that is not taken": store.put(b"1", format="text/html", name="").url,
        }[why]
        async with calling(Frames(), file_store=store, files=FilePolicy(max_bytes=8)) as call:
            data = {"content": "x", "file": {"format": "image/png", "source": {"url": url}}}
            assert await field_of(call, "send-file", data) == "data.file.source.url"


# -- dtmf ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        ({"buttons": ["1"]}, ("1",)),
        ({"buttons": list("0123456789*#")}, tuple("0123456789*#")),
        ({"button": "#"}, ("#",)),
        ({"buttons": ["1", "2"], "button": "1"}, ("1", "2")),
        ({"buttons": ["5"] * MAX_KEYS}, ("5",) * MAX_KEYS),
    ],
)
async def test_keys_reach_the_bot_in_one_frame_and_do_not_wait(data: object, keys: tuple[str, ...]) -> None:
    bot = Manual()
    async with calling(bot) as call:
        await call.say("waits")
        await frames_of(call, bot)
        await call.send("dtmf", "s", data)
        assert await frames_of(call, bot) == [InputDTMF(keys)]


@pytest.mark.parametrize(
    "data",
    [
        *({}, {"buttons": []}, {"buttons": [], "button": "1"}),
        *({"buttons": ["A"]}, {"buttons": "12"}, {"button": "12"}, {"button": 1}, {"buttons": ["5"] * (MAX_KEYS + 1)}),
        *({"buttons": None}, {"button": None}, {"buttons": ["\uff11"]}),
    ],
)
async def test_what_are_no_keys_is_refused(data: object) -> None:
    async with calling(Frames()) as call:
        assert (await field_of(call, "dtmf", data)).startswith("data.button")
