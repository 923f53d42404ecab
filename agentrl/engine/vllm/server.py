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
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from agentrl.engine.architecture import model_folder
from agentrl.engine.base import Bucket, EngineStatistics, Generation, Sampling
from agentrl.engine.rows import Request
from agentrl.engine.stops import Decodes, StopMatcher
from agentrl.engine.vllm.command import ServerSettings, check
from agentrl.engine.vllm.files import parameters_of, vocabulary_of
from agentrl.engine.vllm.http import ServerClient
from agentrl.engine.vllm.link import CONTROL_S, ServerLink
from agentrl.engine.vllm.metrics import MetricsReader
from agentrl.engine.vllm.start import check_temperature
from agentrl.engine.vllm.update import WeightUpdates
from agentrl.engine.vllm.wire import (
    GENERATE,
    ID_PREFIX,
    Received,
    generation_body,
    scores,
    scoring_body,
)
from agentrl.errors import EngineError, UserError
from agentrl.transcript import Float32Array, Int32Array, ids_array


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
        self._link = ServerLink(self._settings, self._let_go)
        self._updates: WeightUpdates | None = None
        self._metrics: MetricsReader | None = None
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._ids = itertools.count()
        self._vocab = 0
        self._running = self._generated = self._prompted = 0
        self._busy_s = self._busy_since = 0.0

    @property
    def dead(self) -> str | None:
        """Why nothing more is served; None while the server lives."""
        return self._link.dead

    @property
    def version(self) -> int:
        """See `Engine.version`."""
        return 0 if self._updates is None else self._updates.version

    @property
    def max_context(self) -> int:
        """See `Engine.max_context`."""
        return self._link.max_context

    async def open(self) -> None:
        """Start or reach the server. Raises UserError for what it cannot honour, EngineError with
        the server's last words when it does not come up, DeadlineExceeded when it takes too long."""
        if self._link.is_open:
            return
        folder = await asyncio.to_thread(model_folder, self._settings.model)
        parameters = parameters_of(folder)
        self._vocab = vocabulary_of(folder)
        check(self._settings, folder)
        await self._link.open(folder)
        self._updates = WeightUpdates(self._settings, self._link, parameters)
        self._metrics = MetricsReader(*self._link.client.address)
        self._metrics.start()

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        """Continue a row.

        Raises UserError for an empty row, one that fills `max_context`, stop strings without a
        tokenizer or entropies that the server cannot give exactly; EngineError when the request or the
        server failed; DeadlineExceeded when it took longer than `request_timeout_s`.
        """
        row = ids_array(token_ids)
        self._check(row, sampling)
        await self._opened().ready()
        async with self._asking() as client:
            version = self.version
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
        if not self._link.exact and sampling.temperature not in (0.0, 1.0):
            raise UserError(_no_extension("scores rows under temperature 1 only"))
        await self._opened().ready()
        async with self._asking() as client:
            body = scoring_body(row, sampling.temperature)
            answer = await client.post(GENERATE, body, self._settings.request_timeout_s)
            found = scores(row, answer)
        self._prompted += len(row)
        return found

    async def begin_update(self, version: int) -> None:
        """Freeze what is in flight and hold back what is new. Raises UserError for a server at `url`
        without a `weights_dir`."""
        await self._opened().begin(version)

    async def put(self, bucket: Bucket) -> None:
        """Write some parameters, named as `state_dict()` of the model names them, to a file."""
        await self._opened().put(bucket)

    async def finish_update(self) -> None:
        """Load the files, drop every cached key and value of the old weights, go on.

        Raises EngineError, and ends the engine, when a parameter is missing or the server failed.
        """
        await self._opened().finish()

    async def sleep(self, *, keep_weights: bool = True) -> None:
        """See `VllmEngine.sleep`."""
        await self._opened().sleep(keep_weights=keep_weights)

    async def wake_up(self) -> None:
        """See `VllmEngine.wake_up`."""
        await self._opened().wake_up()

    async def close(self) -> None:
        """End a server of our own with all its processes; leave one at `url` running. Idempotent."""
        await self._link.close()

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`; what only the server knows is up to a second old."""
        busy_s = self._busy_s
        if self._running:
            busy_s += time.monotonic() - self._busy_since
        if self._metrics is None or self._updates is None:
            return EngineStatistics(0, 0, 0, 0, 0.0)
        known = self._metrics.counters
        return EngineStatistics(
            self._running,
            self._updates.waiting,
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
        if sampling.entropies and not self._link.exact:
            raise UserError(_no_extension("gives no exact entropies"))

    def _fits(self, row: Int32Array, sampling: Sampling) -> None:
        request = Request(0, row, sampling)
        request.check(vocab=self._vocab, max_context=self.max_context, room=1)
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
        received, stop, update = Received(sampling), None, self._opened().begun
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
                if stop is not None and update == self._opened().begun:
                    break  # closing the connection aborts the request
                if stop is not None:
                    # Only the server knows which weights drew which tokens; its last event says it.
                    ids = {"request_ids": [f"{ID_PREFIX}{body['request_id']}"]}
                    await client.post("/abort_requests", ids, CONTROL_S)
        return received, stop

    def _body(self, row: Int32Array, sampling: Sampling, *, stream: bool) -> dict[str, object]:
        room = self.max_context - len(row)
        body = generation_body(
            row,
            sampling,
            max_tokens=min(sampling.max_tokens, room),
            request_id=f"agentrl-{os.getpid()}-{next(self._ids)}",
            version=self.version,
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
        """The client for one request, which is counted."""
        if not self._running:
            self._busy_since = time.monotonic()
        self._running += 1
        try:
            async with self._link.asking() as client:
                yield client
        finally:
            self._running -= 1
            if not self._running:
                self._busy_s += time.monotonic() - self._busy_since

    def _opened(self) -> WeightUpdates:
        if self._updates is None:
            raise EngineError(self.dead or "engine vllm_server is not open")
        return self._updates

    def _let_go(self) -> None:
        """The link is closed or dead: nobody waits for an update any more."""
        if self._updates is not None:
            self._updates.let_go()
        if self._metrics is not None:
            self._metrics.stop()


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


def _no_extension(what: str) -> str:
    return (
        f"the server at engine.url {what}: start it with --worker-extension-cls "
        "agentrl.engine.vllm.worker.WorkerExtension and VLLM_USE_V2_MODEL_RUNNER=0"
    )


__all__ = ["VllmServerEngine"]
