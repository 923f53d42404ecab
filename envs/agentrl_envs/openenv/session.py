"""One session of an OpenEnv server: its WebSocket protocol, and every way in which it can fail.

    -> {"type": "reset" | "step" | "state" | "close", "data": {...}}
    <- {"type": "observation", "data": {"observation": {...}, "reward": r, "done": b}}
    <- {"type": "error", "data": {"message": ..., "code": ...}}

A server tells that it is full only after it has let the client in, so a session is probed by
asking for the state. As of openenv 0.3 to 0.10.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from agentrl.errors import SetupError, ToolError, UserError, WorldFault
from agentrl.types import JsonValue

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

Fields = Mapping[str, JsonValue]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_MAX_BYTES = 100 << 20


class OpenEnvLost(WorldFault, RuntimeError):
    """The server cannot be reached, is full, or failed."""


class OpenEnvFull(OpenEnvLost):
    """The server serves as many sessions as it can."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a server answered to `reset` or `step`."""

    observation: Fields
    reward: float
    done: bool


class Session:
    """A connected session; not shared among episodes."""

    def __init__(self, socket: ClientConnection, url: str, message_s: float) -> None:
        self._socket, self._url, self._message_s = socket, url, message_s

    async def reset(self, fields: Fields) -> Served:
        """Begin an episode. Raises OpenEnvLost."""
        try:
            return self._served(await self._ask("reset", fields))
        except ToolError as error:
            raise OpenEnvLost(f"the OpenEnv server {self._url} cannot reset: {error}") from error

    async def step(self, action: Fields) -> Served:
        """One action. Raises ToolError when the server refuses it, OpenEnvLost otherwise."""
        return self._served(await self._ask("step", action))

    async def probe(self) -> None:
        """Raises OpenEnvFull when the server has no room, OpenEnvLost when it is gone."""
        with suppress(ToolError):  # an environment without a state before its first reset
            await self._ask("state", None)

    async def close(self) -> None:
        """Leave. Idempotent; a server that is gone has nothing to be told."""
        from websockets.exceptions import ConnectionClosed

        try:
            async with asyncio.timeout(self._message_s):
                await self._socket.send(json.dumps({"type": "close"}))
                await self._socket.close()
        except (ConnectionClosed, TimeoutError):
            pass

    async def _ask(self, kind: str, data: Fields | None) -> Fields:
        """The data of the answer. Raises ToolError on what the environment refused."""
        from websockets.exceptions import ConnectionClosed

        asked = {"type": kind} if data is None else {"type": kind, "data": data}
        try:
            async with asyncio.timeout(self._message_s):
                with suppress(
                    ConnectionClosed
                ):  # what it said before it hung up is still to be read
                    await self._socket.send(json.dumps(asked))
                answer: object = json.loads(await self._socket.recv())
        except TimeoutError as error:
            raise OpenEnvLost(
                f"the OpenEnv server {self._url} did not answer {kind} within {self._message_s:g} s"
            ) from error
        except ConnectionClosed as error:
            raise OpenEnvLost(f"the OpenEnv server {self._url} went away during {kind}") from error
        except ValueError as error:
            raise self._strange(kind) from error
        if not isinstance(answer, dict):
            raise self._strange(kind)
        told = cast(Fields, answer)
        found = told.get("data")
        if not isinstance(found, Mapping):
            raise self._strange(kind)
        if told.get("type") == "error":
            self._refused(kind, cast(Fields, found))
        return cast(Fields, found)

    def _refused(self, kind: str, data: Fields) -> None:
        message, code = str(data.get("message")), data.get("code")
        if code == "CAPACITY_REACHED":
            most = data.get("max_sessions")
            raise OpenEnvFull(
                f"the OpenEnv server {self._url} serves {most} sessions at once: say "
                f"env.sessions={most} so that episodes wait for each other, or start it with more "
                "(max_concurrent_envs)"
            )
        if code == "VALIDATION_ERROR":
            raise ToolError(f"The action does not fit: {_places(data.get('errors'))}")
        if code == "EXECUTION_ERROR":
            raise ToolError(message)
        raise OpenEnvLost(f"the OpenEnv server {self._url} failed at {kind} ({code}): {message}")

    def _served(self, data: Fields) -> Served:
        observation, reward = data.get("observation"), data.get("reward")
        if not isinstance(observation, Mapping):
            raise self._strange("step")
        value = float(reward) if isinstance(reward, int | float) else 0.0
        return Served(cast(Fields, observation), value, bool(data.get("done")))

    def _strange(self, kind: str) -> UserError:
        return UserError(
            f"{self._url} answers {kind} in a form this client does not know; it speaks with "
            "servers of openenv 0.3 to 0.10"
        )


def _places(errors: JsonValue) -> str:
    """Where and what, of pydantic's error list."""
    found: list[str] = []
    for error in errors if isinstance(errors, list) else []:
        if isinstance(error, Mapping):
            place = error.get("loc")
            path = ".".join(str(part) for part in place) if isinstance(place, list) else ""
            found.append(f"{path}: {error.get('msg')}" if path else str(error.get("msg")))
    return "; ".join(found) or "it is not of the environment's form."


async def connect(url: str, *, connect_s: float, message_s: float, wait_s: float) -> Session:
    """A session of the server at `url`, which may have to be waited for when the server is full.

    Raises OpenEnvFull after `wait_s`, OpenEnvLost when nobody answers, UserError when what answers
    is no OpenEnv server, SetupError without the packages.
    """
    until, pause_s = monotonic() + wait_s, _FIRST_PAUSE_S
    while True:
        session = Session(await _socket(url, connect_s), url, message_s)
        try:
            await session.probe()
        except OpenEnvFull:
            await session.close()
            if monotonic() + pause_s > until:
                raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except BaseException:
            await session.close()
            raise
        else:
            return session


async def _socket(url: str, connect_s: float) -> ClientConnection:
    try:
        from websockets.asyncio.client import connect as dial
        from websockets.exceptions import InvalidHandshake, InvalidURI
    except ImportError as error:
        raise SetupError(missing(error)) from error
    parts = urlsplit(url)
    address = parts._replace(scheme={"http": "ws", "https": "wss"}[parts.scheme]).geturl()
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    try:
        return await dial(
            f"{address.rstrip('/')}/ws",
            open_timeout=connect_s,
            max_size=_MAX_BYTES,
            proxy=None if local else True,
        )
    except (InvalidHandshake, InvalidURI) as error:
        raise UserError(f"{url} is no OpenEnv server: its /ws says {_words(error)}") from error
    except (OSError, TimeoutError) as error:
        raise OpenEnvLost(f"no OpenEnv server answers at {url}: {_words(error)}") from error


async def action_schema(url: str, timeout_s: float) -> Fields:
    """JSON Schema of the server's actions. Raises OpenEnvLost, UserError and SetupError."""
    try:
        import httpx
    except ImportError as error:
        raise SetupError(missing(error)) from error
    try:
        async with httpx.AsyncClient(timeout=timeout_s) as client:
            answer = await client.get(f"{url.rstrip('/')}/schema")
    except httpx.TransportError as error:
        raise OpenEnvLost(f"no OpenEnv server answers at {url}: {_words(error)}") from error
    try:
        found: object = answer.json() if answer.status_code == 200 else None
    except ValueError:
        found = None
    schema = cast(Fields, found).get("action") if isinstance(found, dict) else None
    if not isinstance(schema, Mapping):
        raise UserError(
            f"{url} is no OpenEnv server: GET /schema answered {answer.status_code}; name its root, "
            "such as http://localhost:8000"
        )
    return cast(Fields, schema)


def missing(error: ImportError) -> str:
    """What to install."""
    return f"env=openenv needs {error.name}: pip install 'agentrl-framework[openenv]'"


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = (
    WeakKeyDictionary()
)


@asynccontextmanager
async def room(url: str, sessions: int | None) -> AsyncGenerator[None]:
    """One of a server's places among this loop's episodes; None does not count them."""
    if sessions is None:
        yield
        return
    rooms = _rooms.setdefault(asyncio.get_running_loop(), {})
    async with rooms.setdefault(f"{url} {sessions}", asyncio.Semaphore(sessions)):
        yield


__all__ = ["OpenEnvFull", "OpenEnvLost", "Served", "Session", "action_schema", "connect", "room"]
