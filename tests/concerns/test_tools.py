from __future__ import annotations

from typing import Any

import pytest

import rtvi_actors as rtvi
from rtvi_actors.protocol.codec import from_json
from tests.session_kit import calling

pytestmark = pytest.mark.anyio


class Tool(rtvi.Bot):
    def __init__(self) -> None:
        super().__init__()
        self.results: list[rtvi.FunctionCallResult] = []

    async def on_function_call_result(self, result: rtvi.FunctionCallResult) -> None:
        self.results.append(result)


@pytest.mark.parametrize("result", ["", "text", {}, {"a": [0]}])
async def test_a_result_reaches_the_bot_falsy_or_not(result: Any) -> None:
    bot = Tool()
    async with calling(bot) as call:
        data = {"function_name": "f", "tool_call_id": "t", "arguments": {"x": 1}, "result": result}
        await call.send("llm-function-call-result", "r", data)
        assert await call.heard() == []
        assert [r.tool_call_id for r in bot.results] == ["t"]
        assert from_json(bot.results[0].result) == result


@pytest.mark.parametrize(("field", "value"), [("result", 5), ("arguments", []), ("tool_call_id", None)])
async def test_a_result_of_the_wrong_kind_is_refused_by_its_field(field: str, value: Any) -> None:
    async with calling(Tool()) as call:
        data = {"function_name": "f", "tool_call_id": "t", "arguments": {}, "result": "x", field: value}
        await call.send("llm-function-call-result", "r", data)
        (reply,) = await call.heard()
        assert (reply["id"], reply["data"]["error"].endswith(f"(data.{field})")) == ("r", True)
