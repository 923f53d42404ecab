"""One contract, several engines: what a rollout may rely on whichever engine it got."""

from __future__ import annotations

import asyncio
import importlib.util
import os

import numpy as np
import pytest
import torch

from agentrl.engine.base import Engine, Sampling
from agentrl.engine.transformers import TransformersEngine
from agentrl.engine.vllm.engine import VllmEngine
from agentrl.errors import EngineError, UserError

HAS_VLLM = importlib.util.find_spec("vllm") is not None
VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed"),
    # vLLM and what it imports warn on their own account, on other threads too.
    pytest.mark.filterwarnings("ignore"),
]
ENGINES = [
    "transformers",
    pytest.param("vllm", marks=VLLM),
    pytest.param("vllm_server", marks=VLLM),
]


def make(name: str, folder, tokenizer) -> Engine:
    if name == "vllm":
        return VllmEngine(folder, tokenizer=tokenizer, max_batch=16, kv_cache_mb=32)
    return TransformersEngine(folder, tokenizer=tokenizer, max_batch=16)


@pytest.fixture(scope="module", params=ENGINES)
def shared(request, folders, pieces):
    """One engine per kind; every test leaves it with the weights on disk."""
    if request.param == "vllm_server":
        yield request.getfixturevalue("connected")
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    engine = make(request.param, folders["qwen2"], pieces)
    asyncio.run(engine.open())
    yield engine
    asyncio.run(engine.close())


async def load(engine: Engine, model, version: int) -> None:
    await engine.begin_update(version)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    names = sorted(state)
    half = len(names) // 2
    await engine.put({name: state[name] for name in names[:half]})
    await engine.put({name: state[name] for name in names[half:]})
    await engine.finish_update()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_logprobs_are_those_of_the_sampled_distribution(shared, models, helpers, temperature):
    rows = [helpers.prompt(n, n) for n in (3, 40, 70)]
    sampling = Sampling(max_tokens=20, temperature=temperature, seed=11)
    for row, g in zip(
        rows, await helpers.gather(*[shared.generate(r, sampling) for r in rows]), strict=True
    ):
        expected = helpers.logprobs(models["qwen2"], row, g.token_ids, temperature)
        np.testing.assert_allclose(g.logprobs, helpers.picked(expected, g.token_ids), atol=1e-5)
        assert (len(g.token_ids), g.stop) == (20, "length")
        assert g.versions == ((20, shared.version),)


async def test_top_k_and_top_p_logprobs_are_renormalised(shared, models, helpers):
    row = helpers.prompt(12)
    for sampling in (
        Sampling(max_tokens=15, top_k=3, seed=5),
        Sampling(max_tokens=15, top_p=0.6, seed=5),
    ):
        g = await shared.generate(row, sampling)
        ordered, order = helpers.logprobs(models["qwen2"], row, g.token_ids).sort(
            -1, descending=True
        )
        p = ordered.exp()
        before = p.cumsum(-1) - p
        keep = (torch.arange(99) < (sampling.top_k or 99)) & (before < sampling.top_p)
        kept = torch.where(keep, p, 0.0)
        renormalised = torch.zeros_like(p).scatter(1, order, kept / kept.sum(-1, keepdim=True))
        expected = helpers.picked(renormalised, g.token_ids)
        assert (expected > 0).all()
        np.testing.assert_allclose(np.exp(g.logprobs), expected, atol=1e-5)


async def test_greedy_takes_the_likeliest_token_with_logprobs_of_temperature_one(
    shared, models, helpers
):
    row = helpers.prompt(25)
    g = await shared.generate(row, Sampling(max_tokens=12, temperature=0.0))
    ids = torch.as_tensor(row.astype(np.int64))[None]
    whole = models["qwen2"].generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
    )
    assert g.token_ids.tolist() == whole[0, 25:].tolist()
    expected = helpers.logprobs(models["qwen2"], row, g.token_ids)
    np.testing.assert_allclose(g.logprobs, helpers.picked(expected, g.token_ids), atol=1e-5)


async def test_a_seed_decides_alone_and_seeds_differ(shared, helpers):
    row = helpers.prompt(10)
    alone = [await shared.generate(row, Sampling(max_tokens=16, seed=s)) for s in range(4)]
    crowd = await helpers.gather(
        *[shared.generate(row, Sampling(max_tokens=16, seed=s)) for s in range(4)],
        *[shared.generate(helpers.prompt(30, s), Sampling(max_tokens=9)) for s in range(4)],
    )
    assert [g.token_ids.tolist() for g in alone] == [g.token_ids.tolist() for g in crowd[:4]]
    assert len({tuple(g.token_ids.tolist()) for g in alone}) == 4


async def test_stop_ids_end_a_generation_and_are_kept(shared, helpers):
    row = helpers.prompt(10)
    free = (await shared.generate(row, Sampling(max_tokens=16, seed=3))).token_ids.tolist()
    stop = free[6]
    n = free.index(stop) + 1
    g = await shared.generate(row, Sampling(max_tokens=16, seed=3, stop_ids=(stop,)))
    assert (g.token_ids.tolist(), g.stop, g.stop_text) == (free[:n], "stop_id", None)
    assert len(g.logprobs) == n


async def test_a_stop_string_across_tokens_ends_a_generation_and_is_kept(shared, helpers, pieces):
    row = helpers.prompt(10)
    free = (await shared.generate(row, Sampling(max_tokens=16, seed=3))).token_ids.tolist()
    stop = pieces.decode(free[5:8])
    n = next(i for i in range(17) if stop in pieces.decode(free[:i]))
    g = await shared.generate(row, Sampling(max_tokens=16, seed=3, stop=("never", stop)))
    assert (g.token_ids.tolist(), g.stop, g.stop_text) == (free[:n], "stop_text", stop)
    assert sum(count for count, _ in g.versions) == n


async def test_the_context_limit_ends_a_row_and_a_full_one_is_refused(shared, helpers):
    assert shared.max_context == 256
    g = await shared.generate(helpers.prompt(250), Sampling(max_tokens=50))
    assert (len(g.token_ids), g.stop) == (6, "length")
    with pytest.raises(UserError, match="max_context"):
        await shared.generate(helpers.prompt(256), Sampling(max_tokens=1))
    with pytest.raises(UserError, match="empty"):
        await shared.generate(np.array([], np.int32), Sampling(max_tokens=1))
    with pytest.raises(UserError, match="vocabulary"):
        await shared.generate(np.array([5, 99], np.int32), Sampling(max_tokens=1))


async def test_scores_are_the_models_logprobs(shared, models, helpers):
    row = helpers.prompt(60)
    scored = await shared.score(row, Sampling(max_tokens=1))
    expected = helpers.logprobs(models["qwen2"], row[:1], row[1:])
    assert scored[0] == 0.0
    np.testing.assert_allclose(scored[1:], helpers.picked(expected, row[1:]), atol=1e-5)


async def test_cancelling_aborts_and_leaves_the_others_alone(shared, helpers):
    row = helpers.prompt(10)
    sampling = Sampling(max_tokens=40, seed=1)
    undisturbed = await shared.generate(row, sampling)
    async with asyncio.TaskGroup() as group:
        doomed = [
            group.create_task(shared.generate(helpers.prompt(9, s), Sampling(max_tokens=240)))
            for s in range(6)
        ]
        kept = group.create_task(shared.generate(row, sampling))
        await asyncio.sleep(0.02)
        for task in doomed:
            task.cancel()
    assert kept.result().token_ids.tolist() == undisturbed.token_ids.tolist()
    assert all(task.cancelled() for task in doomed)
    async with asyncio.timeout(5):
        while shared.statistics().running or shared.statistics().waiting:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)


async def test_an_update_replaces_every_weight_and_cache(shared, models, folders, helpers):
    """Also the tied head, which a state dict does not name, and cached prefixes."""
    row, sampling = helpers.prompt(100), Sampling(max_tokens=10, seed=2)
    before = await shared.generate(row, sampling)
    other = helpers.fresh(folders["qwen2"], 123)
    try:
        await load(shared, other, 41)
        g = await shared.generate(row, sampling)
        expected = helpers.picked(helpers.logprobs(other, row, g.token_ids), g.token_ids)
        np.testing.assert_allclose(g.logprobs, expected, atol=1e-5)
        assert g.versions == ((10, 41),)
        assert shared.version == 41
    finally:
        await load(shared, models["qwen2"], 42)
    again = await shared.generate(row, sampling)
    assert again.token_ids.tolist() == before.token_ids.tolist()


async def test_a_request_in_flight_across_an_update_records_both_versions(
    shared, models, folders, helpers
):
    """Each token carries the logprob of the version that drew it, on the whole row."""
    row, other = helpers.prompt(20), helpers.fresh(folders["qwen2"], 123)
    start = shared.version
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(shared.generate(row, Sampling(max_tokens=200, seed=4)))
            while shared.statistics().running == 0:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.03)
            await load(shared, other, start + 1)
        g = task.result()
    finally:
        await load(shared, models["qwen2"], start + 2)
    assert [version for _, version in g.versions] == [start, start + 1]
    n = g.versions[0][0]
    assert 0 < n < 200
    old = helpers.picked(helpers.logprobs(models["qwen2"], row, g.token_ids), g.token_ids)
    new = helpers.picked(helpers.logprobs(other, row, g.token_ids), g.token_ids)
    np.testing.assert_allclose(g.logprobs[:n], old[:n], atol=2e-5)
    np.testing.assert_allclose(g.logprobs[n:], new[n:], atol=2e-5)
    assert np.abs(old - new).mean() > 0.1


async def test_a_missing_parameter_ends_the_engine_and_fails_every_waiter(
    folders, models, helpers, pieces
):
    """Run on a transformers engine; vLLM's same path is tested on its shared engine last."""
    engine = make("transformers", folders["qwen2"], pieces)
    await engine.open()
    state = dict(models["qwen2"].state_dict())
    del state["model.layers.1.mlp.down_proj.weight"]
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(expect_engine_error(engine, helpers.prompt(5, s))) for s in range(20)
        ]
        await asyncio.sleep(0.01)
        await engine.begin_update(1)
        await engine.put(state)
        with pytest.raises(EngineError, match="down_proj"):
            await engine.finish_update()
    assert all("down_proj" in task.result() for task in waiting)
    with pytest.raises(EngineError, match="down_proj"):
        await engine.generate(helpers.prompt(5), Sampling(max_tokens=1))
    await engine.close()


async def expect_engine_error(engine: Engine, row) -> str:
    with pytest.raises(EngineError) as caught:
        await engine.generate(row, Sampling(max_tokens=240))
    return str(caught.value)


async def test_missing_parameters_are_refused_and_closing_is_final(shared, models, helpers):
    """Last in the file: it ends the shared engine."""
    state = dict(models["qwen2"].state_dict())
    del state["model.embed_tokens.weight"]
    await shared.begin_update(77)
    await shared.put(state)
    with pytest.raises(EngineError, match="embed_tokens"):
        await shared.finish_update()
    with pytest.raises(EngineError):
        await shared.generate(helpers.prompt(5), Sampling(max_tokens=1))
    await shared.close()
    await shared.close()
