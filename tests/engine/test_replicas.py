"""Two real engines behind one contract, and what happens when one of them dies."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from agentrl.config import Plugin
from agentrl.engine.base import EngineStatistics, Generation, Sampling
from agentrl.engine.replicas import Replicas, make_replicas
from agentrl.errors import EngineError, UserError
from agentrl.plugins import build
from agentrl.testing import check_engine


@pytest.fixture
async def pair(folders, pieces):
    made = make_replicas(
        folders["qwen2"], tokenizer=pieces, of="transformers", n=2, each={"max_batch": 8}
    )
    await made.open()
    yield made
    await made.close()


async def load(engine, model, version: int) -> None:
    await engine.begin_update(version)
    await engine.put(dict(model.state_dict()))
    await engine.finish_update()


async def test_replicas_keep_the_whole_engine_contract(folders, pieces, helpers):
    """The conformance kit that strangers run, on the engine as a configuration makes it."""
    node = Plugin.model_validate(
        {"name": "replicas", "of": "transformers", "n": 2, "each": {"max_batch": 8}}
    )

    def make():
        return build("engine", node, model=folders["qwen2"], tokenizer=pieces, dtype="float32")

    results = await check_engine(make, helpers.prompt(20))
    assert [result for result in results if not result.ok] == []


async def test_an_update_reaches_every_replica_and_a_turn_returns_to_its_own(
    pair, models, folders, helpers
):
    """Rows spread over both; each next turn finds the prefix where it was computed."""
    other = helpers.fresh(folders["qwen2"], 3)
    await load(pair, other, 7)
    assert pair.version == 7
    rows = [helpers.prompt(64, seed) for seed in range(4)]
    first = await helpers.gather(*[pair.generate(r, Sampling(40, seed=1)) for r in rows])
    assert [r.engine.statistics().generated_tokens for r in pair._all] == [80, 80]
    for row, g in zip(rows, first, strict=True):
        expected = helpers.picked(helpers.logprobs(other, row, g.token_ids), g.token_ids)
        np.testing.assert_allclose(g.logprobs, expected, atol=1e-5)
        assert g.versions == ((40, 7),)
    before = pair.statistics()
    turns = [np.concatenate([r, g.token_ids]) for r, g in zip(rows, first, strict=True)]
    for turn in turns:
        await pair.generate(turn, Sampling(1, seed=2))
    after = pair.statistics()
    assert after.cached_tokens - before.cached_tokens == 4 * (64 + 40 - 1)
    assert after.generated_tokens == 164


async def test_a_replica_that_dies_fails_its_own_requests_and_the_other_serves_on(
    pair, models, folders, helpers, monkeypatch
):
    rows = [helpers.prompt(40, seed) for seed in range(4)]
    backend = pair._all[0].engine._thread.backend

    def broken():
        raise MemoryError("out of memory in step")

    monkeypatch.setattr(backend, "step", broken)
    async with asyncio.timeout(60):
        results = await asyncio.gather(
            *[pair.generate(row, Sampling(20, seed=1)) for row in rows], return_exceptions=True
        )
    kinds = [type(result) for result in results]
    assert kinds == [EngineError, Generation, EngineError, Generation]
    assert all("out of memory in step" in str(r) for r in results if isinstance(r, EngineError))
    assert (pair.living(), pair.dead) == ((1,), None)
    for row in rows:  # as the episode loop retries
        assert len((await pair.generate(row, Sampling(20, seed=1))).token_ids) == 20
    await load(pair, helpers.fresh(folders["qwen2"], 3), 1)
    assert (await pair.generate(rows[0], Sampling(2))).versions == ((2, 1),)
    assert pair.statistics().generated_tokens == 40 + 80 + 2


async def test_an_update_that_every_replica_refuses_ends_them_all(pair, models, helpers):
    state = dict(models["qwen2"].state_dict())
    state = {k: v for k, v in state.items() if "layers.1.mlp.down_proj" not in k}
    await pair.begin_update(1)
    waiting = asyncio.ensure_future(pair.generate(helpers.prompt(9), Sampling(2)))
    await asyncio.sleep(0)
    await pair.put(state)
    with pytest.raises(EngineError, match=r"all 2 replicas are dead.*down_proj"):
        await pair.finish_update()
    with pytest.raises(EngineError, match="all 2 replicas are dead"):
        await waiting
    assert pair.living() == ()


class Flaky:
    """Fails requests without ever saying that it is dead."""

    version, max_context = 0, 64

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def generate(self, token_ids, sampling) -> Generation:
        raise EngineError("no answer")

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(0, 0, 5, 0, 0.0, kv_used=0.9, preemptions=2)


async def test_an_engine_that_cannot_say_it_is_dead_is_out_after_three_failures():
    engine = Replicas([Flaky(), Flaky()])
    row = np.arange(4, dtype=np.int32)
    assert engine.statistics().kv_used == 0.9
    for alive in ((0, 1), (0, 1), (1,), (1,), (1,)):
        with pytest.raises(EngineError, match="no answer"):
            await engine.generate(row, Sampling(1))
        assert engine.living() == alive
    with pytest.raises(EngineError, match="no answer"):
        await engine.generate(row, Sampling(1))
    with pytest.raises(EngineError, match="replica 0: no answer; replica 1: no answer"):
        await engine.generate(row, Sampling(1))
    dead = engine.statistics()
    assert (dead.generated_tokens, dead.preemptions, dead.kv_used) == (10, 4, None)


def test_what_makes_no_sense_is_refused(folders):
    with pytest.raises(UserError, match=r"engine\.n"):
        make_replicas(folders["qwen2"], n=0)
    with pytest.raises(UserError, match="another engine than replicas"):
        make_replicas(folders["qwen2"], of="replicas")
    with pytest.raises(UserError, match="max_bach"):
        make_replicas(folders["qwen2"], of="transformers", each={"max_bach": 3})
