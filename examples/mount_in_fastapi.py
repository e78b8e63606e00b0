"""A bot beside the routes of a FastAPI application. Needs ``pip install 'rtvi-actors[server]' fastapi``."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

import rtvi_actors as rtvi


class Greeter(rtvi.Bot):
    async def on_turn(self, turn: rtvi.LLMMessagesAppend) -> None:
        async with self.response() as out:
            await out.text(f"Hello, {turn.messages[-1].content}.")


app = FastAPI()


@app.get("/")
async def home() -> dict[str, str]:
    return {"bot": "/voice/"}


app.mount("/voice", rtvi.asgi(Greeter))  # the page, /voice/start, the WebSocket at /voice/ws, /voice/inspect


def main() -> None:
    uvicorn.run(app, port=7860)


if __name__ == "__main__":
    main()
