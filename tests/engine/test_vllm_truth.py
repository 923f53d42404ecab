"""What vLLM in process says of its tokens is true, and each way in which it could silently not be."""

from __future__ import annotations

import asyncio
import importlib.util
import os

import numpy as np
import pytest
import torch

from agentrl.engine.base import Sampling
from agentrl.engine.transformers import TransformersEngine
from agentrl.engine.vllm.engine import VllmEngine
from agentrl.errors import EngineError, UserError

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's imports warn on their own account
]

MAX_BATCH, CACHE_MB = 32, 7
"""One token's keys and values take 1 kB, so the cache holds 7,168 tokens: 28 full rows."""


@pytest.fixture(scope="module")
def engine(folders, pieces):
    """One for the module; each test leaves it with the weights on disk, the last one dead."""
    os.environ["OMP_NUM_THREADS"] = "1"
    made = VllmEngine(folders["qwen2"], tokenizer=pieces, max_batch=MAX_BATCH, kv_cache_mb=CACHE_MB)
    asyncio.run(made.open())
    yield made
    asyncio.run(made.close())


async def load(engine, state: dict[str, torch.Tensor]) -> None:
    """One version of a tied model, as `named_parameters` gives it: without a head."""
    await engine.begin_update(engine.version + 1)
    await engine.put({k: v for k, v in state.items() if k != "lm_head.weight"})
    await engine.finish_update()


async def steps(engine, n: int) -> None:
    """Until it has computed `n` more steps."""
    for _ in range(n):
        before = engine.statistics().busy_s
        while engine.statistics().busy_s == before:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.0005)


def kept(logprobs: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logprobs [t, vocab] after top-k, then top-p, renormalised."""
    ordered, order = logprobs.sort(-1, descending=True)
    keep = torch.arange(99) < (sampling.top_k or 99)
    p = torch.where(keep, ordered.exp(), 0.0)
    p = p / p.sum(-1, keepdim=True)
    p = torch.where(p.cumsum(-1) - p < sampling.top_p, p, 0.0)
    return torch.zeros_like(p).scatter(1, order, p / p.sum(-1, keepdim=True)).log()


SAMPLINGS = {
    "plain": Sampling(24, entropies=True, seed=1),
    "cool": Sampling(24, temperature=0.6, entropies=True, seed=2),
    "hot": Sampling(24, temperature=1.7, entropies=True, seed=3),
    "top_k": Sampling(24, top_k=5, entropies=True, seed=4),
    "top_p": Sampling(24, top_p=0.5, temperature=0.8, entropies=True, seed=5),
    "greedy": Sampling(24, temperature=0.0, entropies=True),
    "not asked": Sampling(24, seed=6),
}


async def test_entropies_and_logprobs_are_those_of_the_sampled_distribution(
    engine, models, folders, helpers
):
    """Seven settings in one batch, against the learner's logits and against the other engine."""
    row = helpers.prompt(40)
    generations = await helpers.gather(*[engine.generate(row, s) for s in SAMPLINGS.values()])
    other = TransformersEngine(folders["qwen2"], max_batch=8)
    await other.open()
    for (name, sampling), g in zip(SAMPLINGS.items(), generations, strict=True):
        full = helpers.logprobs(models["qwen2"], row, g.token_ids, sampling.temperature or 1.0)
        sampled = kept(full, sampling)
        np.testing.assert_allclose(g.logprobs, helpers.picked(sampled, g.token_ids), atol=1e-5)
        scored = await other.score(np.concatenate([row, g.token_ids]), sampling)
        np.testing.assert_allclose(
            scored[len(row) :], helpers.picked(full, g.token_ids), atol=1e-5, err_msg=name
        )
        if name == "not asked":
            assert g.entropies is None
            continue
        expected = torch.special.entr(sampled.exp()).sum(-1)
        np.testing.assert_allclose(g.entropies, expected, atol=1e-5, err_msg=name)
    await other.close()


async def test_rows_are_scored_under_their_own_temperature(engine, models, helpers):
    """Different temperatures in one step, beside rows that sample; 0 scores as 1 does."""
    temperatures = [1.0, 0.5, 2.0, 0.0]
    rows = [helpers.prompt(30 + i, i) for i in range(4)]
    busy = [engine.generate(helpers.prompt(9, s), Sampling(30, seed=s)) for s in range(3)]
    scored = await helpers.gather(
        *[
            engine.score(r, Sampling(1, temperature=t))
            for r, t in zip(rows, temperatures, strict=True)
        ],
        *busy,
    )
    for row, temperature, found in zip(rows, temperatures, scored, strict=False):
        full = helpers.logprobs(models["qwen2"], row[:1], row[1:], temperature or 1.0)
        assert found[0] == 0.0
        np.testing.assert_allclose(found[1:], helpers.picked(full, row[1:]), atol=1e-5)


async def test_seeded_prompts_beyond_one_steps_budget_do_not_kill_it_nor_change_a_token(
    engine, helpers
):
    """6,400 prompt tokens at once, more than vLLM prefills in a step and, with what is generated,
    more than its cache holds: rows wait or are set back, and their seeds still decide alone."""
    prompts = [helpers.prompt(200, seed) for seed in range(MAX_BATCH)]
    samplings = [Sampling(56, seed=seed) for seed in range(MAX_BATCH)]
    before = engine.statistics()
    task = asyncio.ensure_future(
        helpers.gather(*[engine.generate(p, s) for p, s in zip(prompts, samplings, strict=True)])
    )
    fullest = 0.0
    while not task.done():
        fullest = max(fullest, engine.statistics().kv_used)
        await asyncio.sleep(0.005)
    together = task.result()
    after = engine.statistics()
    assert 0.8 < fullest <= 1.0
    assert after.preemptions > before.preemptions
    assert (after.running, after.waiting, after.kv_used) == (0, 0, 0.0)
    for i in (0, 13, 31):
        alone = await engine.generate(prompts[i], samplings[i])
        assert alone.token_ids.tolist() == together[i].token_ids.tolist()


async def test_a_prefix_is_computed_once_and_counted(engine, helpers):
    row = helpers.prompt(130, 77)
    await engine.score(row[:2], Sampling(1))
    before = engine.statistics()
    for seed in range(2):
        await engine.generate(row, Sampling(4, seed=seed))
    after = engine.statistics()
    assert after.cached_tokens - before.cached_tokens == 128  # four blocks of 32
    assert after.prefill_tokens - before.prefill_tokens == 130 + 2


async def test_neither_a_kept_prefix_nor_a_reused_buffer_nor_a_stale_head_survives_an_update(
    engine, models, folders, helpers, monkeypatch
):
    """The three silent traps at once. vLLM is kept from dropping its prefix cache, so that only the
    salt guards it; the bucket's memory is overwritten as soon as `put` returns; the head is tied and
    not named."""
    row, sampling = helpers.prompt(100, 5), Sampling(12, seed=2)
    await engine.generate(row, sampling)  # its prefix is cached under the old version
    backend = engine._thread.backend
    monkeypatch.setattr(backend._engine, "reset_prefix_cache", lambda **_: True)
    other = helpers.fresh(folders["qwen2"], 99)
    buffers = {k: v.clone() for k, v in other.state_dict().items() if k != "lm_head.weight"}
    await engine.begin_update(engine.version + 1)
    await engine.put(buffers)
    for buffer in buffers.values():
        buffer.fill_(7.0)
    await engine.finish_update()
    g = await engine.generate(row, sampling)
    expected = helpers.picked(helpers.logprobs(other, row, g.token_ids), g.token_ids)
    np.testing.assert_allclose(g.logprobs, expected, atol=1e-5)
    monkeypatch.undo()
    await load(engine, models["qwen2"].state_dict())


async def test_tokens_in_flight_keep_what_their_own_weights_said(engine, models, folders, helpers):
    """A request lives through two updates: runs of versions, each token's logprob and entropy those
    of the weights that drew it, on the whole row, whose keys and values are computed anew."""
    row, other = helpers.prompt(24, 3), helpers.fresh(folders["qwen2"], 5)
    first = engine.version
    task = asyncio.ensure_future(engine.generate(row, Sampling(220, seed=4, entropies=True)))
    for model in (other, models["qwen2"]):
        await steps(engine, 5)
        await load(engine, model.state_dict())
    g = await task
    assert [version for _, version in g.versions] == [first, first + 1, first + 2]
    start = 0
    for (n, _), model in zip(g.versions, (models["qwen2"], other, models["qwen2"]), strict=True):
        full = helpers.logprobs(model, row, g.token_ids)[start : start + n]
        picked = helpers.picked(full, g.token_ids[start : start + n])
        np.testing.assert_allclose(g.logprobs[start : start + n], picked, atol=2e-5)
        entropies = torch.special.entr(full.exp()).sum(-1)
        np.testing.assert_allclose(g.entropies[start : start + n], entropies, atol=2e-5)
        start += n


async def test_what_vllm_refuses_fails_alone(engine, helpers):
    row = helpers.prompt(9)
    with pytest.raises(UserError, match="up to 2, not 3"):
        await engine.generate(row, Sampling(1, temperature=3.0))
    with pytest.raises(UserError, match=r"vLLM refuses the request .*stop_token_ids"):
        await engine.generate(row, Sampling(1, stop_ids=(-5,)))
    assert len((await engine.generate(row, Sampling(2))).token_ids) == 2


async def test_sleeping_is_refused_where_it_would_do_nothing(engine, folders):
    with pytest.raises(UserError, match=r"engine\.sleep=true"):
        await engine.sleep()
    sleeper = VllmEngine(folders["qwen2"], sleep=True)
    with pytest.raises(UserError, match="ignores it on a CPU"):
        await sleeper.open()


async def test_a_step_that_raises_fails_every_waiter_with_the_reason(engine, helpers, monkeypatch):
    """Last in the file: it ends the engine."""
    waiting = [
        asyncio.ensure_future(engine.generate(helpers.prompt(9, s), Sampling(240, seed=s)))
        for s in range(5)
    ]
    await steps(engine, 2)

    def broken():
        raise MemoryError("no room in step")

    monkeypatch.setattr(engine._thread.backend._engine, "step", broken)
    async with asyncio.timeout(30):
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(r, EngineError) and "no room in step" in str(r) for r in results)
    with pytest.raises(EngineError, match="no room in step"):
        await engine.generate(helpers.prompt(5), Sampling(1))
