"""Several engines as one: requests go where their prefix is cached, unless that one is too busy.

    agentrl train env=retool_math engine=replicas engine.of=vllm_server engine.n=2

Every replica runs the same weights. An update reaches all of them before any request is admitted again;
a replica that fails is taken out, its requests fail as EngineError (which the episode loop retries),
and the others go on. Requests in flight across an update are what the replicas' own engine makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from agentrl.config import Plugin
from agentrl.engine.base import Bucket, Engine, EngineStatistics, Generation, Sampling
from agentrl.engine.routing import PrefixRouter
from agentrl.engine.stops import Decodes
from agentrl.errors import AgentRLError, DeadlineExceeded, EngineError, UserError
from agentrl.plugins import accepts, build
from agentrl.transcript import Float32Array, Int32Array, ids_array

T = TypeVar("T")

UPDATE_TIMEOUT_S = 600.0
"""Longest wait of a request for an update that was begun."""
FAILURES_IN_A_ROW = 3
"""After so many a replica counts as dead even when it does not say so."""


def make_replicas(
    model: str | Path,
    *,
    tokenizer: Decodes | None = None,
    dtype: str = "float32",
    of: str = "vllm_server",
    n: int = 2,
    each: Mapping[str, object] | None = None,
    imbalance: int = 8,
) -> Replicas:
    """`engine=replicas`: `n` engines of one kind over one model.

    of: the kind's name. each: its own options, such as `engine.each.max_batch=64`; on GPUs replica i
    gets `devices` i * tensor_parallel and following, where the kind takes that option. imbalance: how
    many requests a replica may have in flight beyond the least busy one and still get those whose
    prefix it holds.

    Raises UserError for n < 1, replicas of replicas, or more GPUs than there are.
    """
    if n < 1 or of == "replicas":
        raise UserError("engine.n is at least 1 and engine.of is another engine than replicas")
    options = dict(each or {})
    engines: list[Engine] = []
    for i in range(n):
        own = options | _devices(of, options, i, n)
        node = Plugin.model_validate({"name": of, **own})
        engines.append(build("engine", node, model=model, tokenizer=tokenizer, dtype=dtype))
    return Replicas(engines, imbalance=imbalance)


def _devices(of: str, options: Mapping[str, object], i: int, n: int) -> dict[str, object]:
    """The GPUs of replica `i`, where there are GPUs and nobody has chosen."""
    n_gpus = torch.cuda.device_count()
    if not n_gpus or not accepts("engine", of, "devices") or "devices" in options:
        return {}
    width = int(str(options.get("tensor_parallel", 1)))
    if n * width > n_gpus:
        raise UserError(
            f"{n} replicas of {width} GPUs each need {n * width} and there are {n_gpus}: lower engine.n"
        )
    return {"devices": tuple(range(i * width, (i + 1) * width))}


@dataclass(slots=True, eq=False)
class _Replica:
    """One engine and how it does."""

    index: int
    engine: Engine
    in_flight: int = 0
    failures: int = 0
    """Failed requests since the last good one."""
    dead: str | None = None
    """Why it was taken out."""
    last: EngineStatistics = field(default_factory=lambda: EngineStatistics(0, 0, 0, 0, 0.0))
    """Its counts when it was taken out; what it generated stays counted."""


class Replicas:
    """Implements `agentrl.engine.base.Engine` over others."""

    def __init__(self, engines: Sequence[Engine], *, imbalance: int = 8) -> None:
        """engines: not yet open; this one opens and closes them. imbalance: see `make_replicas`."""
        if not engines or imbalance < 0:
            raise UserError("replicas need at least one engine, and an imbalance of 0 or more")
        self._all = [_Replica(i, engine) for i, engine in enumerate(engines)]
        self._router = PrefixRouter(imbalance)
        self._version = 0
        self._next_version: int | None = None
        self._gate: asyncio.Event | None = None

    @property
    def version(self) -> int:
        """See `Engine.version`: that of every living replica."""
        return self._version

    @property
    def max_context(self) -> int:
        """See `Engine.max_context`: the least of all."""
        return min(replica.engine.max_context for replica in self._living())

    @property
    def dead(self) -> str | None:
        """Why nothing more is served; None while one replica lives."""
        if any(replica.dead is None for replica in self._all):
            return None
        reasons = "; ".join(f"replica {r.index}: {r.dead}" for r in self._all)
        return f"all {len(self._all)} replicas are dead: {reasons}"

    async def open(self) -> None:
        """Open all at once; when one cannot, all are closed and its error is raised."""
        try:
            await _together([replica.engine.open for replica in self._all])
        except BaseException:
            await asyncio.shield(self.close())
            raise

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        """Continue a row on the replica that holds most of it, or the least busy one."""
        row = ids_array(token_ids)
        replica, generation = await self._ask(row, lambda engine: engine.generate(row, sampling))
        self._router.served(replica.index, [*row.tolist(), *generation.token_ids.tolist()])
        return generation

    async def score(self, token_ids: Int32Array, sampling: Sampling) -> Float32Array:
        """Score a row on the least busy replica: scoring reads no cached prefix."""
        row = ids_array(token_ids)
        _, scores = await self._ask(None, lambda engine: engine.score(row, sampling))
        return scores

    async def begin_update(self, version: int) -> None:
        """Hold new requests back and begin on every living replica."""
        if self._next_version is not None:
            raise RuntimeError("begin_update was called twice without finish_update")
        self._next_version = version
        self._gate = asyncio.Event()
        await self._on_all(lambda engine: engine.begin_update(version))

    async def put(self, bucket: Bucket) -> None:
        """Hand the bucket to every living replica; each copies."""
        await self._on_all(lambda engine: engine.put(bucket))

    async def finish_update(self) -> None:
        """Finish on every living replica; one that fails is taken out.

        Raises EngineError when none is left.
        """
        if self._next_version is None:
            raise RuntimeError("finish_update was called without begin_update")
        try:
            await self._on_all(lambda engine: engine.finish_update())
            self._version = self._next_version
        finally:
            self._router.forget()
            self._next_version = None
            self._open_gate()

    async def close(self) -> None:
        """Close all, whatever becomes of one of them. Idempotent."""
        self._open_gate()
        errors: list[AgentRLError] = []

        async def one(replica: _Replica) -> None:
            """Close one."""
            try:
                await replica.engine.close()
            except AgentRLError as error:
                errors.append(error)

        await _together([lambda r=replica: one(r) for replica in self._all])
        if errors:
            raise errors[0]

    def statistics(self) -> EngineStatistics:
        """Sums over the replicas; `kv_used` is the fullest living one's, which admits last."""
        parts = [self._statistics_of(replica) for replica in self._all]
        used = [part.kv_used for part in parts if part.kv_used is not None]
        return EngineStatistics(
            sum(p.running for p in parts),
            sum(p.waiting for p in parts),
            sum(p.generated_tokens for p in parts),
            sum(p.prefill_tokens for p in parts),
            sum(p.busy_s for p in parts),
            kv_used=max(used) if used else None,
            preemptions=sum(p.preemptions for p in parts),
            cached_tokens=sum(p.cached_tokens for p in parts),
        )

    def living(self) -> tuple[int, ...]:
        """Indices of the replicas that serve."""
        return tuple(replica.index for replica in self._all if replica.dead is None)

    def _living(self) -> list[_Replica]:
        found = [replica for replica in self._all if replica.dead is None]
        if not found:
            raise EngineError(str(self.dead))
        return found

    async def _ask(
        self, row: Int32Array | None, request: Callable[[Engine], Awaitable[T]]
    ) -> tuple[_Replica, T]:
        """Send one request to the replica chosen for `row`; None is sent to the least busy."""
        await self._wait_for_gate()
        loads = {replica.index: replica.in_flight for replica in self._living()}
        ids: list[int] = [] if row is None else row.tolist()
        replica = self._all[self._router.choose(ids, loads)]
        if row is not None:
            self._router.served(replica.index, ids)
        replica.in_flight += 1
        try:
            result = await request(replica.engine)
        except EngineError as error:
            self._failed(replica, error)
            raise
        finally:
            replica.in_flight -= 1
        replica.failures = 0
        return replica, result

    def _failed(self, replica: _Replica, error: AgentRLError) -> None:
        """Take a replica out that says it is dead, or that fails again and again."""
        replica.failures += 1
        said = getattr(replica.engine, "dead", None)
        if said is not None or replica.failures >= FAILURES_IN_A_ROW:
            self._take_out(replica, str(said or error))

    def _take_out(self, replica: _Replica, reason: str) -> None:
        if replica.dead is None:
            replica.last = self._statistics_of(replica)
            replica.dead = reason
            self._router.drop(replica.index)

    def _statistics_of(self, replica: _Replica) -> EngineStatistics:
        if replica.dead is None:
            return replica.engine.statistics()
        last = replica.last
        return EngineStatistics(
            0, 0, last.generated_tokens, last.prefill_tokens, last.busy_s,
            preemptions=last.preemptions, cached_tokens=last.cached_tokens,
        )  # fmt: skip

    async def _on_all(self, call: Callable[[Engine], Awaitable[None]]) -> None:
        """Call every living replica at once. One that fails the update runs other weights than the
        rest, so it is taken out; raises EngineError when none is left."""

        async def one(replica: _Replica) -> None:
            """One replica's part."""
            try:
                await call(replica.engine)
            except (EngineError, DeadlineExceeded) as error:
                self._take_out(replica, str(error))

        await _together([lambda r=replica: one(r) for replica in self._living()])
        self._living()

    async def _wait_for_gate(self) -> None:
        gate = self._gate
        if gate is None:
            return
        try:
            async with asyncio.timeout(UPDATE_TIMEOUT_S):
                await gate.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"a weight update was not finished within {UPDATE_TIMEOUT_S:g} s"
            ) from error

    def _open_gate(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()


async def _together(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Await all; the first that fails cancels the others, and its error is raised unwrapped."""

    async def run(call: Callable[[], Awaitable[None]]) -> None:
        """A coroutine, as a task group wants it."""
        await call()

    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(run(call))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
