"""`vllm serve` behind the engine contract: a server of our own, or one that runs already.

Token ids go in and come out by vLLM's token route, so no text is ever encoded or decoded by the server.
Around a weight update generation is paused: requests in flight freeze, keep their tokens, and go on
under the new weights after their keys and values have been recomputed; the server records which weights
drew which tokens, and new requests wait. Weights travel as files, in memory where the system offers it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from agentrl.engine.architecture import model_folder
from agentrl.engine.base import Bucket, EngineStatistics, Generation, Sampling
from agentrl.engine.rows import Request
from agentrl.engine.stops import Decodes, StopMatcher
from agentrl.engine.vllm_command import ServerSettings, check, command, variables
from agentrl.engine.vllm_files import Parameters, parameters_of, shared_memory, write_tensors
from agentrl.engine.vllm_http import Json, ServerClient, ServerGone
from agentrl.engine.vllm_metrics import MetricsReader
from agentrl.engine.vllm_process import ServerProcess
from agentrl.engine.vllm_start import MAX_TEMPERATURE, check_temperature
from agentrl.engine.vllm_wire import (
    FIRST_VERSION,
    GENERATE,
    ID_PREFIX,
    Received,
    generation_body,
    scores,
    scoring_body,
)
from agentrl.errors import DeadlineExceeded, EngineError, UserError
from agentrl.transcript import Float32Array, Int32Array, ids_array

CONTROL_S = 300.0
"""Deadline of a control call: the longest is reading a large model's weights."""
UPDATE_TIMEOUT_S = 600.0
"""Longest wait of a request for an update that was begun."""
DEATH_S = 2.0
"""How long after a broken connection the server's own end is looked for."""
KEY_NAME = "VLLM_API_KEY"
OWN_URL = "http://localhost"


class _Stop(NamedTuple):
    """Where a stop string was completed."""

    n: int
    text: str


class VllmServerEngine:
    """Implements `agentrl.engine.base.Engine`."""

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: Decodes | None = None,
        dtype: str = "float32",
        max_batch: int = 128,
        max_context: int | None = None,
        kv_cache_mb: int | None = None,
        gpu_share: float = 0.9,
        tensor_parallel: int = 1,
        devices: tuple[int, ...] | None = None,
        sleep: bool = False,
        url: str | None = None,
        weights_dir: str | None = None,
        start_timeout_s: float = 900.0,
        request_timeout_s: float = 1800.0,
    ) -> None:
        """
        model: folder or hub id. tokenizer: needed for stop strings. max_batch, max_context,
        kv_cache_mb, tensor_parallel, sleep: see `VllmEngine`. gpu_share: how much of its GPUs' memory
        the server may take. devices: the GPUs it may see; None is all. url: use the server there
        (http://host:port or unix:/path) instead of starting one; it needs VLLM_SERVER_DEV_MODE=1 and
        the options that `vllm_command.command` lists, and its key is read from VLLM_API_KEY.
        weights_dir: folder that we and the server at `url` both see, for weights. request_timeout_s:
        deadline of one request.
        """
        self._settings = ServerSettings(
            model, tokenizer, dtype, max_batch, max_context, kv_cache_mb, gpu_share, tensor_parallel,
            devices, sleep, url, None if weights_dir is None else Path(weights_dir),
            start_timeout_s, request_timeout_s,
        )  # fmt: skip
        self._process: ServerProcess | None = None
        self._client: ServerClient | None = None
        self._metrics: MetricsReader | None = None
        self._parameters: Parameters | None = None
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._ids = itertools.count()
        self._version = self._vocab = self._max_context = 0
        self._exact = False
        """Whether the server has our worker extension."""
        self._next_version: int | None = None
        self._staging: TemporaryDirectory[str] | None = None
        self._received: set[str] = set()
        self._n_files = self._n_updates = 0
        self._gate: asyncio.Event | None = None
        """What new requests wait for while an update is under way or the engine sleeps."""
        self.dead: str | None = None
        """Why nothing more is served."""
        self._running = self._waiting = self._generated = self._prompted = 0
        self._busy_s = self._busy_since = 0.0

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return self._version

    @property
    def max_context(self) -> int:
        """See `Engine.max_context`."""
        return self._max_context

    async def open(self) -> None:
        """Start or reach the server. Raises UserError for what it cannot honour, EngineError with
        the server's last words when it does not come up, DeadlineExceeded when it takes too long."""
        if self._client is not None:
            return
        folder = await asyncio.to_thread(model_folder, self._settings.model)
        self._parameters = parameters_of(folder)
        self._vocab = _vocabulary(folder)
        check(self._settings, folder)
        try:
            client = await self._start(folder)
            self._max_context = await _context_of(client)
            await client.post("/update_weight_version", {"new_version": FIRST_VERSION}, CONTROL_S)
            self._exact = await _installed(client)
            await self._check_logprobs(client)
        except BaseException:
            await self._stop()
            raise
        self._client = client
        self._metrics = MetricsReader(*client.address)
        self._metrics.start()

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        """Continue a row.

        Raises UserError for an empty row, one that fills `max_context`, stop strings without a
        tokenizer or entropies that the server cannot give exactly; EngineError when the request or the
        server failed; DeadlineExceeded when it took longer than `request_timeout_s`.
        """
        row = ids_array(token_ids)
        self._check(row, sampling)
        await self._wait_for_gate()
        async with self._asking() as client:
            version = self._version
            if sampling.stop:
                received, stop = await self._watched(client, row, sampling)
            else:
                received, stop = await self._awaited(client, row, sampling), None
            n = len(received.token_ids) if stop is None else stop.n
            generation = received.generation(n, version, None if stop is None else stop.text)
        self._generated += n
        self._prompted += len(row)
        return generation

    async def score(self, token_ids: Int32Array, sampling: Sampling) -> Float32Array:
        """See `Engine.score`. Raises as `generate` does."""
        row = ids_array(token_ids)
        self._fits(row, sampling)
        if not self._exact and sampling.temperature not in (0.0, 1.0):
            raise UserError(_no_extension("scores rows under temperature 1 only"))
        await self._wait_for_gate()
        async with self._asking() as client:
            body = scoring_body(row, sampling.temperature)
            answer = await client.post(GENERATE, body, self._settings.request_timeout_s)
            found = scores(row, answer)
        self._prompted += len(row)
        return found

    async def begin_update(self, version: int) -> None:
        """Freeze what is in flight and hold back what is new."""
        if self._next_version is not None:
            raise RuntimeError("begin_update was called twice without finish_update")
        directory = self._settings.weights_dir or shared_memory()
        if self._settings.url is not None and self._settings.weights_dir is None:
            raise UserError(
                "the server at engine.url reads weights as files: name a folder that both sides see "
                "with engine.weights_dir=..."
            )
        self._next_version = version
        self._n_updates += 1
        self._gate = asyncio.Event()
        self._received, self._n_files = set(), 0
        self._staging = TemporaryDirectory(prefix="agentrl-weights-", dir=directory)
        await self._control("/pause?mode=keep")

    async def put(self, bucket: Bucket) -> None:
        """Write some parameters, named as `state_dict()` of the model names them, to a file."""
        if self._staging is None or self._parameters is None:
            raise RuntimeError("put was called without begin_update")
        for name in bucket:
            if not self._parameters.known(name):
                await self._die(f"the model has no parameter {name!r}")
        folder, index = Path(self._staging.name), self._n_files
        self._n_files += 1
        await asyncio.to_thread(write_tensors, self._parameters.with_head(bucket), folder, index)
        self._received |= set(bucket)

    async def finish_update(self) -> None:
        """Load the files, drop every cached key and value of the old weights, go on.

        Raises EngineError, and ends the engine, when a parameter is missing or the server failed.
        """
        if self._next_version is None or self._staging is None or self._parameters is None:
            raise RuntimeError("finish_update was called without begin_update")
        missing = self._parameters.missing(self._received)
        if missing:
            await self._die(
                f"{len(missing)} parameters never arrived, first {missing[0]!r}: "
                "a sync must hand over the whole model"
            )
        await self._reload(self._staging.name)
        await self._control("/update_weight_version", {"new_version": str(self._next_version)})
        await self._control("/resume")
        self._version, self._next_version = self._next_version, None
        self._close_staging()
        self._open_gate()

    async def sleep(self, *, keep_weights: bool = True) -> None:
        """See `VllmEngine.sleep`."""
        if not self._settings.sleep:
            raise UserError("this engine cannot sleep: start it with engine.sleep=true, on a GPU")
        if self._gate is None:
            self._gate = asyncio.Event()
            await self._control(f"/sleep?level={1 if keep_weights else 2}&mode=keep")

    async def wake_up(self) -> None:
        """See `VllmEngine.wake_up`."""
        if self._gate is not None and self._next_version is None:
            await self._control("/wake_up")
            await self._control("/reset_prefix_cache?reset_running_requests=true")
            self._open_gate()

    async def close(self) -> None:
        """End a server of our own with all its processes; leave one at `url` running. Idempotent."""
        self.dead = self.dead or "engine vllm_server was closed"
        self._open_gate()
        self._close_staging()
        await asyncio.shield(self._stop())

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`; what only the server knows is up to a second old."""
        busy_s = self._busy_s
        if self._running:
            busy_s += time.monotonic() - self._busy_since
        if self._metrics is None:
            return EngineStatistics(0, 0, 0, 0, 0.0)
        known = self._metrics.counters
        return EngineStatistics(
            self._running,
            self._waiting,
            self._generated,
            max(0, self._prompted - known.cached_tokens),
            busy_s,
            kv_used=known.kv_used,
            preemptions=known.preemptions,
            cached_tokens=known.cached_tokens,
        )

    def _check(self, row: Int32Array, sampling: Sampling) -> None:
        self._fits(row, sampling)
        if sampling.stop and self._settings.tokenizer is None:
            raise UserError("stop strings need a tokenizer: give the engine one")
        if sampling.entropies and not self._exact:
            raise UserError(_no_extension("gives no exact entropies"))

    def _fits(self, row: Int32Array, sampling: Sampling) -> None:
        request = Request(0, row, sampling)
        request.check(vocab=self._vocab, max_context=self._max_context, room=1)
        check_temperature(sampling)

    async def _awaited(self, client: ServerClient, row: Int32Array, sampling: Sampling) -> Received:
        """A generation that nothing but the server ends."""
        received = Received(sampling)
        body = self._body(row, sampling, stream=False)
        received.take(await client.post(GENERATE, body, self._settings.request_timeout_s))
        return received

    async def _watched(
        self, client: ServerClient, row: Int32Array, sampling: Sampling
    ) -> tuple[Received, _Stop | None]:
        """A generation that is looked through for stop strings as it comes."""
        received, stop, update = Received(sampling), None, self._n_updates
        matcher = self._matcher(sampling.stop)
        body = self._body(row, sampling, stream=True)
        timeout_s = self._settings.request_timeout_s
        async with aclosing(client.stream(GENERATE, body, timeout_s)) as events:
            async for event in events:
                start = len(received.token_ids)
                received.take(event)
                if stop is not None:
                    continue
                stop = _first_stop(matcher, received.token_ids, start, sampling)
                if stop is not None and update == self._n_updates:
                    break  # closing the connection aborts the request
                if stop is not None:
                    # Only the server knows which weights drew which tokens; its last event says it.
                    ids = {"request_ids": [f"{ID_PREFIX}{body['request_id']}"]}
                    await client.post("/abort_requests", ids, CONTROL_S)
        return received, stop

    def _body(self, row: Int32Array, sampling: Sampling, *, stream: bool) -> dict[str, object]:
        room = self._max_context - len(row)
        body = generation_body(
            row,
            sampling,
            max_tokens=min(sampling.max_tokens, room),
            request_id=f"agentrl-{os.getpid()}-{next(self._ids)}",
            version=self._version,
            stream=stream,
        )
        return body

    def _matcher(self, stop: tuple[str, ...]) -> StopMatcher:
        assert self._settings.tokenizer is not None
        if stop not in self._matchers:
            self._matchers[stop] = StopMatcher(self._settings.tokenizer, stop)
        return self._matchers[stop]

    @asynccontextmanager
    async def _asking(self) -> AsyncGenerator[ServerClient]:
        """Count a request, and name the reason when the server is gone."""
        if self._client is None or self.dead is not None:
            raise EngineError(self.dead or "engine vllm_server is not open")
        if not self._running:
            self._busy_since = time.monotonic()
        self._running += 1
        try:
            yield self._client
        except ServerGone as error:
            await self._die(str(error))
        finally:
            self._running -= 1
            if not self._running:
                self._busy_s += time.monotonic() - self._busy_since

    async def _control(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """A call that must succeed: the engine is dead when it does not."""
        if self._client is None or self.dead is not None:
            raise EngineError(self.dead or "engine vllm_server is not open")
        try:
            return await self._client.post(path, body or {}, CONTROL_S)
        except (EngineError, DeadlineExceeded) as error:
            return await self._die(str(error))

    async def _reload(self, folder: str) -> None:
        arguments = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        await self._control("/collective_rpc", arguments)
        done = await self._control("/reset_prefix_cache?reset_running_requests=true")
        if not done.get("success"):
            await self._die("the vLLM server kept keys and values of the old weights")

    async def _wait_for_gate(self) -> None:
        gate = self._gate
        if gate is None:
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(UPDATE_TIMEOUT_S):
                await gate.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"a weight update was not finished within {UPDATE_TIMEOUT_S:g} s"
            ) from error
        finally:
            self._waiting -= 1

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()

    def _close_staging(self) -> None:
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.cleanup()

    async def _die(self, reason: str) -> Json:
        """Mark the engine dead, end the server, and raise EngineError with the truest reason."""
        truest = await self._death() or reason
        if self.dead is None:  # several requests may learn of one death
            self.dead = truest
            self._open_gate()
            self._close_staging()
            await self._stop()
        raise EngineError(self.dead)

    async def _death(self) -> str | None:
        """How our server ended; a broken connection is seen a moment before the process's end."""
        deadline = time.monotonic() + DEATH_S
        while self._process is not None and time.monotonic() < deadline:
            death = self._process.death()
            if death is not None:
                return death
            await asyncio.sleep(0.05)
        return None

    async def _start(self, folder: Path) -> ServerClient:
        if self._settings.url is not None:
            return await self._reach(self._settings.url)
        self._process = process = ServerProcess()
        client = ServerClient(OWN_URL, process.socket)
        arguments = command(self._settings, folder, process.socket)
        await process.start(arguments, variables(self._settings))
        await process.ready(client.healthy, self._settings.start_timeout_s)
        return client

    async def _reach(self, url: str) -> ServerClient:
        """A server that runs already; one that a failed update left paused goes on."""
        client = ServerClient(*_address(url), key_name=KEY_NAME)
        if not await client.healthy():
            raise EngineError(
                f"no vLLM server answers at engine.url={url}: start it, or leave it out"
            )
        await client.post("/resume", {}, CONTROL_S)
        return client

    async def _stop(self) -> None:
        if self._metrics is not None:
            self._metrics.stop()
        process, self._process = self._process, None
        if process is not None:
            await process.stop()

    async def _check_logprobs(self, client: ServerClient) -> None:
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


def _first_stop(
    matcher: StopMatcher, token_ids: list[int], start: int, sampling: Sampling
) -> _Stop | None:
    """The first stop string completed by a token from place `start` on."""
    for end in range(start + 1, len(token_ids) + 1):
        if token_ids[end - 1] in sampling.stop_ids:
            return None  # the server ends here, by id
        found = matcher.found(token_ids if end == len(token_ids) else token_ids[:end])
        if found is not None:
            return _Stop(end, found)
    return None


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


def _no_extension(what: str) -> str:
    return (
        f"the server at engine.url {what}: start it with --worker-extension-cls "
        "agentrl.engine.vllm_worker.WorkerExtension and VLLM_USE_V2_MODEL_RUNNER=0"
    )


def _vocabulary(folder: Path) -> int:
    from typing import Any, cast

    from transformers import AutoConfig

    return int(cast(Any, AutoConfig).from_pretrained(folder).vocab_size)


__all__ = ["VllmServerEngine"]
