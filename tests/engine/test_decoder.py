"""The forward pass against transformers' own, for every family and mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen2Config

from agentrl.engine.base import Sampling
from agentrl.engine.transformers import TransformersEngine
from agentrl.errors import EngineError, UserError

FAMILIES = ["qwen2", "qwen3", "llama", "llama_yarn_biased"]


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
async def test_generation_and_entropies_equal_transformers(
    folders, models, helpers, family, deterministic
):
    engine = TransformersEngine(folders[family], max_batch=4, deterministic=deterministic)
    await engine.open()
    rows = [helpers.prompt(n, n) for n in (1, 2, 63, 64, 200)]
    sampling = Sampling(max_tokens=12, temperature=0.8, seed=3, entropies=True)
    generations = await helpers.gather(*[engine.generate(row, sampling) for row in rows])
    for row, g in zip(rows, generations, strict=True):
        expected = helpers.logprobs(models[family], row, g.token_ids, 0.8)
        np.testing.assert_allclose(g.logprobs, helpers.picked(expected, g.token_ids), atol=1e-5)
        entropies = -(expected.exp() * expected).sum(-1)
        np.testing.assert_allclose(g.entropies, entropies.numpy(), atol=1e-5)
    scored = await engine.score(rows[-1], Sampling(max_tokens=1))
    expected = helpers.logprobs(models[family], rows[-1][:1], rows[-1][1:])
    np.testing.assert_allclose(scored[1:], helpers.picked(expected, rows[-1][1:]), atol=1e-5)
    await engine.close()


async def test_bfloat16_stays_within_the_probe_tolerance_of_transformers(folders, helpers):
    model = AutoModelForCausalLM.from_pretrained(folders["qwen2"], dtype=torch.bfloat16).eval()
    engine = TransformersEngine(folders["qwen2"], dtype="bfloat16", deterministic=False)
    await engine.open()
    row = helpers.prompt(80)
    scored = await engine.score(row, Sampling(max_tokens=1))
    expected = helpers.picked(helpers.logprobs(model, row[:1], row[1:]), row[1:])
    difference = np.abs(scored[1:] - expected)
    assert 0 < difference.mean() < 2e-2
    assert difference.max() < 0.15
    await engine.close()


async def test_an_untied_head_must_be_part_of_a_sync(folders, models):
    engine = TransformersEngine(folders["llama"])
    await engine.open()
    state = {k: v for k, v in models["llama"].state_dict().items() if k != "lm_head.weight"}
    await engine.begin_update(1)
    await engine.put(state)
    with pytest.raises(EngineError, match=r"lm_head\.weight"):
        await engine.finish_update()
    await engine.close()


@pytest.mark.parametrize("wrong", ["name", "shape"])
async def test_a_parameter_of_another_model_is_refused(folders, wrong):
    engine = TransformersEngine(folders["llama"])
    await engine.open()
    await engine.begin_update(1)
    name = "model.norm.bias" if wrong == "name" else "model.norm.weight"
    with pytest.raises(EngineError, match=r"model\.norm"):
        await engine.put({name: torch.zeros(3)})
    await engine.close()


async def test_the_engine_keeps_a_copy_not_the_learners_tensors(folders, models, helpers):
    engine = TransformersEngine(folders["qwen3"])
    await engine.open()
    learner = helpers.fresh(folders["qwen3"], 5)
    await engine.begin_update(1)
    await engine.put(learner.state_dict())
    await engine.finish_update()
    row = helpers.prompt(30)
    before = await engine.score(row, Sampling(max_tokens=1))
    with torch.no_grad():
        for p in learner.parameters():
            p.zero_()
    after = await engine.score(row, Sampling(max_tokens=1))
    assert before.tobytes() == after.tobytes()
    await engine.close()


def gpt2(folder):
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9)).save_pretrained(folder)


def sliding(folder):
    config = Qwen2Config(
        use_sliding_window=True, sliding_window=8, max_window_layers=0, num_hidden_layers=1
    )
    config.save_pretrained(folder)


def dynamic_rope(folder):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    Qwen2Config(num_hidden_layers=1, rope_parameters=rope).save_pretrained(folder)


@pytest.mark.parametrize("make", [gpt2, sliding, dynamic_rope])
async def test_models_it_cannot_compute_are_refused_with_the_way_out(tmp_path, make):
    make(tmp_path)
    with pytest.raises(UserError, match="engine=vllm"):
        await TransformersEngine(tmp_path).open()


async def test_bad_settings_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match="float32"):
        TransformersEngine(folders["qwen2"], dtype="int4")
    with pytest.raises(UserError, match="max_context"):
        await TransformersEngine(folders["qwen2"], max_context=10_000).open()
    Qwen2Config(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="save_pretrained"):
        await TransformersEngine(tmp_path).open()
    engine = TransformersEngine(folders["qwen2"])
    with pytest.raises(EngineError, match="not open"):
        await engine.generate(np.array([1], np.int32), Sampling(max_tokens=1))
    await engine.open()
    with pytest.raises(UserError, match="tokenizer"):
        await engine.generate(np.array([1], np.int32), Sampling(max_tokens=1, stop=("a",)))
    await engine.close()
