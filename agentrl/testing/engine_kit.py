"""The promises of `agentrl.engine.base.Engine`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from agentrl.engine.base import Engine, Generation, Sampling
from agentrl.errors import UserError
from agentrl.testing.result import CheckResult, expect, promise, run_checks
from agentrl.transcript import Int32Array, ids_array

TOLERANCE = 1e-3
"""Largest |generate - score| of a logprob; fp32 engines stay far below, bfloat16 ones do not."""


async def check_engine(
    make_engine: Callable[[], Engine],
    prompt: Int32Array,
    *,
    tolerance: float = TOLERANCE,
    deterministic: bool = True,
) -> list[CheckResult]:
    """Test an engine against the contract.

    Args:
        make_engine: makes an engine that is not yet open; one is opened for all checks.
        prompt: ids [t] of some text the model can continue.
        tolerance: largest difference between sampled and scored logprobs.
        deterministic: also demand that a request does not depend on its neighbours.

    Scoring at another temperature and entropies may be refused with a UserError, never ignored.
    """
    engine = make_engine()
    await engine.open()
    kit = _Kit(engine, ids_array(prompt), tolerance)
    checks = [
        promise(kit.length),
        promise(kit.not_repeated),
        promise(kit.seeded),
        promise(kit.other_seed),
        promise(kit.greedy),
        promise(kit.scored),
        promise(kit.tempered),
        promise(kit.stop_id),
        promise(kit.entropies),
        promise(kit.versions),
        promise(kit.context),
        promise(kit.cancelled),
        promise(kit.counted),
    ]
    if deterministic:
        checks.append(promise(kit.neighbours))
    try:
        return await run_checks(checks)
    finally:
        await engine.close()
        await engine.close()


class _Kit:
    def __init__(self, engine: Engine, prompt: Int32Array, tolerance: float) -> None:
        self._engine = engine
        self._prompt = prompt
        self._tolerance = tolerance

    async def generate(self, sampling: Sampling) -> Generation:
        """Continue the prompt."""
        return await self._engine.generate(self._prompt, sampling)

    async def length(self) -> None:
        """Generates up to max_tokens."""
        generation = await self.generate(Sampling(5, seed=1))
        n = len(generation.token_ids)
        expect(1 <= n <= 5, f"{n} tokens for max_tokens=5")
        expect(n == 5 or generation.stop != "length", f"stop 'length' after {n} tokens")

    async def not_repeated(self) -> None:
        """The prompt is not repeated."""
        generation = await self.generate(Sampling(3, seed=1))
        expect(len(generation.token_ids) <= 3, "the generation holds the prompt")

    async def seeded(self) -> None:
        """A seed decides the draws."""
        one, two = [await self.generate(Sampling(12, seed=7)) for _ in range(2)]
        expect(np.array_equal(one.token_ids, two.token_ids), "the same seed gave other tokens")

    async def other_seed(self) -> str | None:
        """Another seed draws otherwise."""
        hot = Sampling(12, temperature=2.0)
        rows = [await self.generate(replace(hot, seed=seed)) for seed in range(8)]
        kinds = {tuple(row.token_ids.tolist()) for row in rows}
        expect(len(kinds) > 1, "eight seeds gave one and the same text")
        return f"{len(kinds)} texts from 8 seeds"

    async def greedy(self) -> None:
        """Temperature 0 is greedy."""
        rows = [await self.generate(Sampling(8, temperature=0, seed=seed)) for seed in (1, 2)]
        same = np.array_equal(rows[0].token_ids, rows[1].token_ids)
        expect(same, "two greedy generations differ")

    async def scored(self) -> str:
        """Logprobs are those that score gives."""
        gap = await self._gap(Sampling(12, seed=3))
        expect(gap <= self._tolerance, f"they differ by {gap:.2g}")
        return f"largest difference {gap:.1e}"

    async def tempered(self) -> str:
        """Temperature changes what score gives."""
        try:
            gap = await self._gap(Sampling(12, temperature=0.7, seed=3))
        except UserError as refusal:
            return f"refused: {refusal}"
        expect(gap <= self._tolerance, f"at temperature 0.7 they differ by {gap:.2g}")
        return f"largest difference {gap:.1e}"

    async def _gap(self, sampling: Sampling) -> float:
        generation = await self.generate(sampling)
        row = np.concatenate([self._prompt, generation.token_ids])
        scores = await self._engine.score(ids_array(row), sampling)
        expect(scores.shape == row.shape, f"scores {scores.shape} for a row {row.shape}")
        expect(float(scores[0]) == 0.0, "entry 0 of the scores is not 0.0")
        return float(np.abs(scores[len(self._prompt) :] - generation.logprobs).max())

    async def stop_id(self) -> str | None:
        """A stop id ends the generation and is part of it."""
        free = await self.generate(Sampling(12, seed=5))
        last = int(free.token_ids[-1])
        first_seen = int(np.argmax(free.token_ids == last))
        stopped = await self.generate(Sampling(12, seed=5, stop_ids=(last,)))
        expect(stopped.stop == "stop_id", f"stop is {stopped.stop!r}")
        expected = free.token_ids[: first_seen + 1]
        expect(np.array_equal(stopped.token_ids, expected), "the stop id is cut off or overrun")

    async def entropies(self) -> str | None:
        """Entropies come when asked for."""
        try:
            asked = (await self.generate(Sampling(6, seed=1, entropies=True))).entropies
        except UserError as refusal:
            return f"refused: {refusal}"
        expect(asked is not None, "none came")
        expect(asked is not None and float(asked.min()) >= -1e-4, "an entropy is negative")

    async def versions(self) -> None:
        """Every token carries the version in use."""
        generation = await self.generate(Sampling(6, seed=1))
        expected = ((len(generation.token_ids), self._engine.version),)
        expect(generation.versions == expected, f"{generation.versions}, not {expected}")

    async def context(self) -> str:
        """Fits its own context."""
        room = self._engine.max_context - len(self._prompt)
        expect(room > 0, f"the prompt alone fills max_context={self._engine.max_context}")
        generation = await self.generate(Sampling(min(room, 64), seed=1))
        expect(len(generation.token_ids) <= room, "it went on past max_context")
        return f"max_context {self._engine.max_context}"

    async def cancelled(self) -> None:
        """A cancelled request does no harm."""
        try:
            async with asyncio.timeout(0.001):
                await self.generate(Sampling(min(512, self._engine.max_context // 2), seed=1))
        except TimeoutError:
            pass
        expect(
            len((await self.generate(Sampling(3, seed=1))).token_ids) > 0, "then it gave nothing"
        )

    async def counted(self) -> None:
        """Statistics count tokens."""
        before = self._engine.statistics().generated_tokens
        n = len((await self.generate(Sampling(6, seed=1))).token_ids)
        counted = self._engine.statistics().generated_tokens - before
        expect(counted >= n, f"{counted} counted for {n} generated")

    async def neighbours(self) -> None:
        """A request does not depend on its neighbours."""
        alone = await self.generate(Sampling(12, seed=1))
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(self.generate(Sampling(12, seed=s))) for s in (3, 1, 2, 9)]
        beside = running[1].result()
        expect(np.array_equal(alone.token_ids, beside.token_ids), "neighbours changed its tokens")
        gap = float(np.abs(alone.logprobs - beside.logprobs).max())
        expect(gap == 0.0, f"neighbours changed its logprobs by {gap:.1e}")
