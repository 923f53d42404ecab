"""Our connection to one vLLM server: started or reached, asked, and declared dead with the reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from agentrl.engine.base import Sampling
from agentrl.engine.vllm.command import ServerSettings, command, variables
from agentrl.engine.vllm.http import Json, ServerClient, ServerGone
from agentrl.engine.vllm.process import ServerProcess
from agentrl.engine.vllm.start import MAX_TEMPERATURE
from agentrl.engine.vllm.wire import (
    FIRST_VERSION,
    GENERATE,
    Received,
    generation_body,
    scores,
    scoring_body,
)
from agentrl.errors import DeadlineExceeded, EngineError, UserError
from agentrl.transcript import ids_array

CONTROL_S = 300.0
"""Deadline of a control call: the longest is reading a large model's weights."""
DEATH_S = 2.0
"""How long after a broken connection the server's own end is looked for."""
KEY_NAME = "VLLM_API_KEY"
OWN_URL = "http://localhost"


class ServerLink:
    """One server, until it is closed or dead."""

    def __init__(self, settings: ServerSettings, on_death: Callable[[], None]) -> None:
        """on_death: called once, when the link is closed or found dead."""
        self._settings, self._on_death = settings, on_death
        self.process: ServerProcess | None = None
        """None when the server is not ours."""
        self._client: ServerClient | None = None
        self.dead: str | None = None
        """Why nothing more is served."""
        self.max_context = 0
        """Longest row the server takes."""
        self.exact = False
        """Whether the server has our worker extension."""

    @property
    def client(self) -> ServerClient:
        """The open connection. Raises EngineError with the reason when there is none."""
        if self._client is None or self.dead is not None:
            raise EngineError(self.dead or "engine vllm_server is not open")
        return self._client

    @property
    def is_open(self) -> bool:
        """Whether `open` has succeeded once."""
        return self._client is not None

    async def open(self, folder: Path) -> None:
        """Start or reach the server and see what it can do. Raises as `VllmServerEngine.open` does."""
        try:
            url = self._settings.url
            client = await self._start(folder) if url is None else await _reach(url)
            self.max_context = await _context_of(client)
            await client.post("/update_weight_version", {"new_version": FIRST_VERSION}, CONTROL_S)
            self.exact = await _installed(client)
            await _check_logprobs(client)
        except BaseException:
            await self._stop()
            raise
        self._client = client

    async def control(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """A call that must succeed: the server is dead for us when it does not."""
        try:
            return await self.client.post(path, body or {}, CONTROL_S)
        except (EngineError, DeadlineExceeded) as error:
            await self.die(str(error))

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[ServerClient]:
        """The client for one request; a broken connection becomes the reason why."""
        try:
            yield self.client
        except ServerGone as error:
            await self.die(str(error))

    async def die(self, reason: str) -> NoReturn:
        """Mark the link dead, end a server of our own, raise EngineError with the truest reason."""
        truest = await self._death() or reason
        if self.dead is None:  # several requests may learn of one death
            self.dead = truest
            self._on_death()
            await self._stop()
        raise EngineError(self.dead)

    async def close(self) -> None:
        """End a server of our own with all its processes; leave another one running. Idempotent."""
        self.dead = self.dead or "engine vllm_server was closed"
        self._on_death()
        await asyncio.shield(self._stop())

    async def _start(self, folder: Path) -> ServerClient:
        self.process = process = ServerProcess()
        client = ServerClient(OWN_URL, process.socket)
        await process.start(
            command(self._settings, folder, process.socket), variables(self._settings)
        )
        await process.ready(client.healthy, self._settings.start_timeout_s)
        return client

    async def _stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            await process.stop()

    async def _death(self) -> str | None:
        """How our server ended; a broken connection is seen a moment before the process's end."""
        deadline = time.monotonic() + DEATH_S
        while self.process is not None and time.monotonic() < deadline:
            death = self.process.death()
            if death is not None:
                return death
            await asyncio.sleep(0.05)
        return None


async def _reach(url: str) -> ServerClient:
    """A server that runs already; one that a failed update left paused goes on."""
    client = ServerClient(*_address(url), key_name=KEY_NAME)
    if not await client.healthy():
        raise EngineError(f"no vLLM server answers at engine.url={url}: start it, or leave it out")
    await client.post("/resume", {}, CONTROL_S)
    return client


def _address(url: str) -> tuple[str, Path | None]:
    """Root and socket file of `http://host:port` or `unix:/path/to/socket`."""
    if url.startswith("unix:"):
        return OWN_URL, Path(url.removeprefix("unix:"))
    if not url.startswith(("http://", "https://")):
        raise UserError(f"engine.url={url!r} is no address: use http://host:port or unix:/path")
    return url, None


async def _context_of(client: ServerClient) -> int:
    """Longest row the server takes."""
    models: Sequence[Json] = (await client.get("/v1/models", CONTROL_S)).get("data") or []
    if not models or not isinstance(models[0].get("max_model_len"), int):
        raise EngineError("the vLLM server does not tell its longest row")
    return int(models[0]["max_model_len"])


async def _installed(client: ServerClient) -> bool:
    """Install the sampler's hooks; False when the server was started without our extension."""
    try:
        await client.post("/collective_rpc", {"method": "agentrl_install"}, CONTROL_S)
    except ServerGone:
        raise
    except EngineError:
        return False
    return True


async def _check_logprobs(client: ServerClient) -> None:
    """Raises UserError when the server's logprobs are those before temperature."""
    row, hot = ids_array([1, 2, 3]), Sampling(1, temperature=MAX_TEMPERATURE)
    received = Received(hot)
    body = generation_body(row, hot, max_tokens=1, request_id="", version=0, stream=False)
    received.take(await client.post(GENERATE, body, CONTROL_S))
    whole = ids_array([*row.tolist(), received.token_ids[0]])
    plain = scores(whole, await client.post(GENERATE, scoring_body(whole, 1.0), CONTROL_S))
    if abs(float(plain[-1]) - received.logprobs[0]) < 1e-6:
        raise UserError(
            "the server at engine.url gives logprobs from before the temperature: start it with "
            "--logprobs-mode processed_logprobs"
        )


__all__ = ["CONTROL_S", "ServerLink"]
