"""Environments written with OpenEnv's own classes. `python openenv_toys.py KIND:PORT:SESSIONS...`."""

from __future__ import annotations

import asyncio
import os
import sys
from random import Random
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from pydantic import Field


class Guess(Action):
    """Guess the number."""

    number: int = Field(description="Your guess.", ge=0, le=9)


class Hint(Observation):
    text: str = ""
    tries: int | None = None


class Guessing(Environment[Guess, Hint, State]):
    """Guess a number from 0 to 9; seeded."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._secret, self._tries = 0, 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kw: Any) -> Hint:
        if kw.get("broken"):
            raise RuntimeError("the dice are lost")
        self._secret, self._tries = Random(seed).randrange(10), 0
        return Hint(text=kw.get("greeting", "Guess from 0 to 9."))

    def step(self, action: Guess, timeout_s: float | None = None, **kw: Any) -> Hint:
        self._tries += 1
        if action.number == 7 and os.environ.get("DIE_ON_SEVEN"):
            os._exit(3)
        if action.number == self._secret:
            return Hint(text="yes", reward=1.0, done=True)
        side = "higher" if action.number < self._secret else "lower"
        return Hint(text=side, reward=-0.1, tries=self._tries)

    @property
    def state(self) -> State:
        return State(step_count=self._tries)


class Single(Guessing):
    """The same, one session at a time."""

    SUPPORTS_CONCURRENT_SESSIONS = False


class Word(Action):
    word: str


class Words(Environment[Word, Hint, State]):
    """Say the word in capitals three times."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._said = 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kw: Any) -> Hint:
        self._said = 0
        return Hint(text="Shout.")

    def step(self, action: Word, timeout_s: float | None = None, **kw: Any) -> Hint:
        self._said += action.word.isupper()
        if action.word == "oops":
            raise ValueError("no such word")
        return Hint(text=f"{self._said} of 3", reward=float(self._said == 3), done=self._said == 3)

    @property
    def state(self) -> State:
        return State(step_count=self._said)


class Shop(MCPEnvironment):
    """Tools over MCP inside the environment."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        from fastmcp import FastMCP

        server = FastMCP("shop")
        self._bought = 0

        @server.tool
        def price(item: str) -> str:
            """Tells a price."""
            if item == "moon":
                raise ValueError("not for sale")
            return f"{item}: {len(item)} coins"

        @server.tool
        def buy(item: str, count: int = 1) -> dict[str, Any]:
            """Buys something."""
            self._bought += count
            return {"item": item, "bought": self._bought}

        super().__init__(server)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kw: Any) -> Hint:
        self._bought = 0
        return Hint(text="Welcome.")

    def _step_impl(self, action: Action, timeout_s: float | None = None, **kw: Any) -> Hint:
        return Hint(text="unknown action")

    @property
    def state(self) -> State:
        return State(step_count=self._bought)


KINDS: dict[str, tuple[Any, Any, Any]] = {
    "guessing": (Guessing, Guess, Hint),
    "single": (Single, Guess, Hint),
    "words": (Words, Word, Hint),
    "shop": (Shop, CallToolAction, CallToolObservation),
}


async def serve_all(words: list[str]) -> None:
    """Serve every KIND:PORT:SESSIONS from this one process: importing openenv takes seconds."""
    servers: list[uvicorn.Server] = []
    for word in words:
        kind, port, sessions = word.split(":")
        app = create_app(*KINDS[kind], env_name=kind, max_concurrent_envs=int(sessions))
        config = uvicorn.Config(app, host="127.0.0.1", port=int(port), log_level="warning")
        servers.append(uvicorn.Server(config))
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve_all(sys.argv[1:]))
