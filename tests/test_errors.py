from __future__ import annotations

import inspect
import json
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rtvi_actors as rtvi
from rtvi_actors import errors
from rtvi_actors.errors import QUOTE_LIMIT, ClientError, quoted
from rtvi_actors.protocol.client import CLIENT
from tests.session_kit import calling

SECRET = "S3CR3T"


def test_every_error_is_in_the_tree_of_the_docstring_under_its_parent() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
    names = {line.split("── ")[1].split()[0]: line.index("── ") for line in drawn}
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(names) == set(classes) - {"RtviError"}
    for name, depth in names.items():
        parent = classes[name].__mro__[1]
        assert names.get(parent.__name__, -3) < depth
    assert set(classes) | {"quoted"} == set(errors.__all__)


def test_a_quote_is_printable_and_short() -> None:
    assert quoted("a\nb\x00c") == "a\ufffdb\ufffdc"
    assert quoted("x" * 1_000) == "x" * QUOTE_LIMIT


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.NotRtvi(detail=SECRET), None),
        (errors.InvalidEnvelope("JSON", detail=SECRET), "Invalid RTVI transport message: E1 (JSON)"),
        (errors.UnsupportedType("x"), "Unsupported type x"),
        (errors.InvalidData("data.t", detail=SECRET), "Invalid message: E1 (data.t)"),
        (errors.Overloaded("turns"), "Too many turns at once; try again later"),
    ],
)
def test_a_reply_names_the_field_and_the_error_id_and_no_details(error: ClientError, text: str | None) -> None:
    assert error.reply_text("E1") == text


# -- nothing of the payload, nothing of an exception, ever reaches the client ------------------


class Leaky(rtvi.Bot):
    """Fails everywhere, each time with a secret in its exception."""

    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        raise ValueError(SECRET)

    async def on_append(self, append: rtvi.LLMMessagesAppend) -> None:
        raise KeyError(SECRET)

    def on_audio(self, frame: rtvi.InputAudioRaw) -> None:
        raise OSError(SECRET)

    async def on_client_message(self, message: rtvi.ClientMessage) -> None:
        raise RuntimeError(SECRET)

    async def on_client_ready(self, client: rtvi.ClientReady) -> None:
        raise RuntimeError(SECRET)

    async def on_function_call_result(self, result: rtvi.FunctionCallResult) -> None:
        raise RuntimeError(SECRET)

    @rtvi.request("typed")
    async def typed(self, value: dict[str, int]) -> None:
        raise ValueError(SECRET)

    @rtvi.request("sync")
    def sync(self, value: Any) -> None:
        raise rtvi.Crash(SECRET)

    @rtvi.message("note")
    async def note(self, value: list[int]) -> None:
        raise SystemExit(SECRET)


VALUES = st.sampled_from(
    [SECRET, [SECRET], {SECRET: SECRET}, {"a": [SECRET]}, f"{SECRET}=", f"{SECRET}\ud800", 7, None]
)
FIELDS = st.sampled_from(
    ["about", "d", "options", "base64Audio", "base64AudioBatch", "sampleRate", "numChannels", "function_name",
     "tool_call_id", "arguments", "result", SECRET]
)  # fmt: skip
KINDS = st.sampled_from(["typed", "sync", "note", "other"])
LEAKS = st.tuples(
    st.sampled_from(sorted(set(CLIENT) - {"disconnect-bot"})), KINDS, st.dictionaries(FIELDS, VALUES, max_size=4)
)
BROKEN = st.sampled_from([f'{{"label":"rtvi-ai","{SECRET}', SECRET, f'{{"label":"{SECRET}"}}', f'["{SECRET}"]'])


def test_no_payload_and_no_text_of_an_exception_reaches_the_client() -> None:
    async def talk(messages: list[tuple[str, str, dict[str, Any]]], broken: list[str]) -> None:
        async with calling(Leaky(), restart_intensity=1_000) as call:
            for kind, topic, fields in messages:
                # send-text is echoed in user-input, so its text is the client's own to see: keep it out.
                data = {"content": "x", "t": topic, "version": "2.2.0", **fields}
                wire = {"label": "rtvi-ai", "type": kind, "id": "m", "data": data}
                await call.client.send_text(json.dumps(wire).encode())
            for text in broken:
                await call.client.send_text(text.encode())
            await call.client.send_audio(SECRET.encode())
            heard = await call.heard()
            assert heard
            assert SECRET not in json.dumps(heard)
            assert not call.session.closed

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(LEAKS, min_size=1, max_size=12), st.lists(BROKEN, max_size=3))
    def leak(messages: list[tuple[str, str, dict[str, Any]]], broken: list[str]) -> None:
        anyio.run(talk, messages, broken)

    leak()


@pytest.mark.anyio
async def test_only_the_type_and_the_version_of_a_client_are_quoted_and_no_more_than_64_characters() -> None:
    async with calling(rtvi.Bot(), ready=False) as call:
        await call.send("t" * 100, "1", {})
        await call.send("client-ready", "2", {"version": "v" * 100})
        texts = [wire["data"]["error"] for wire in await call.heard() if wire["type"] == "error-response"]
        assert texts == [
            f"Unsupported type {'t' * 64}",
            f"Invalid client version format ({'v' * 64}). Compatibility issues may occur.",
        ]
