"""Sizes, shardings, seconds and remedies against published numbers, hand arithmetic and laws."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.cli.main import run as cli
from agentrl.config import RunConfig, validated
from agentrl.errors import UserError
from agentrl.train.dry_run import memory
from agentrl.train.estimate import Plan, Work, estimate, mend, plan_of, simulator_words
from agentrl.train.estimate.devices import DEVICES
from agentrl.train.estimate.memory import engine_memory, learner_memory
from agentrl.train.estimate.shapes import KNOWN, kv_bytes_per_token, parameters, shape_of
from agentrl.train.estimate.steptime import decode_s, load_of, step_time

WORK = Work(64, 8, 100, 300, 100, 2.0, 0.5)


def plan(model: str = "Qwen2.5-7B", **changes: Any) -> Plan:
    given: dict[str, Any] = {"device": DEVICES["H100"], "gpus": 8, "work": WORK} | changes
    return Plan(model, KNOWN[model], **given)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("Qwen2.5-0.5B", 494_032_768), ("Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen2.5-3B", 3_085_938_688), ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen2.5-14B", 14_770_033_664), ("Qwen2.5-32B", 32_763_876_352),
        ("Qwen2.5-72B", 72_706_203_648), ("Qwen3-0.6B", 596_049_920),
        ("Qwen3-1.7B", 1_720_574_976), ("Qwen3-4B", 4_022_468_096), ("Qwen3-8B", 8_190_735_360),
        ("Qwen3-14B", 14_768_307_200), ("Qwen3-32B", 32_762_123_264),
        ("Llama-3.2-1B", 1_235_814_400), ("Llama-3.2-3B", 3_212_749_824),
        ("Llama-3.1-8B", 8_030_261_248), ("Llama-3.1-70B", 70_553_706_496),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_published_models(model: str, published: int) -> None:
    """Counts that the model pages and their safetensors headers state."""
    assert parameters(KNOWN[model]) == published


def test_every_known_shape_was_checked() -> None:
    marks = test_parameters_are_those_of_the_published_models.pytestmark  # type: ignore[attr-defined]
    assert {model for model, _ in marks[0].args[1]} == set(KNOWN)


def test_names_folders_and_shipped_models_are_found(tmp_path: Path) -> None:
    assert shape_of("Qwen/Qwen2.5-7B-Instruct") == shape_of("qwen2.5-7b") == KNOWN["Qwen2.5-7B"]
    with pytest.raises(UserError, match=r"did you mean 'Qwen2.5-7B'"):
        shape_of("Qwen2.5-77B")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="covers dense qwen2, qwen3 and llama"):
        shape_of(str(tmp_path))


def test_keys_and_values_by_hand() -> None:
    """Qwen2.5-7B: 2 x 28 layers x 4 heads x 128 numbers of 2 bytes."""
    assert kv_bytes_per_token(KNOWN["Qwen2.5-7B"], 2) == 57_344
    held = engine_memory(plan(dtype="bfloat16", max_tokens=1000, in_flight=16))
    assert held.kv_cache == 2 * 1000 * 57_344  # 16 rows over 8 engines
    halved = engine_memory(plan(dtype="bfloat16", max_tokens=1000, in_flight=16, tensor_parallel=2))
    assert halved.kv_cache == 4 * 1000 * 57_344 / 2
    assert halved.weights == 7_615_616_512


@pytest.mark.parametrize(
    ("sharding", "paper_gb"), [("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)]
)
def test_model_states_are_those_of_the_paper(sharding: Any, paper_gb: float) -> None:
    """ZeRO (1910.02054) figure 1: 7.5 billion parameters, 64 ranks, mixed-precision Adam."""
    shape = replace(KNOWN["Qwen2.5-7B"], vocab=144_000, tied=False)
    scale = 7.5e9 / parameters(shape)
    held = learner_memory(
        Plan("x", shape, DEVICES["H100"], 64, WORK, sharding=sharding, dtype="bfloat16")
    )
    states = scale * (held.parameters + held.gradients + held.optimizer)
    assert states / 1e9 == pytest.approx(paper_gb, abs=0.06)


def test_fsdp_shards_every_state_and_gathers_two_layers() -> None:
    held = learner_memory(plan(sharding="fsdp2", dtype="bfloat16"))
    n = parameters(KNOWN["Qwen2.5-7B"])
    assert held.parameters + held.gradients + held.optimizer == pytest.approx(16 * n / 8)
    tables, layer = 2 * 152_064 * 3584, (n - 2 * 152_064 * 3584 - 3584) // 28
    assert held.copies == 2 * (2 * layer + tables)


def test_decoding_one_row_reads_the_weights() -> None:
    """15.2 GB at 0.7 of 3.35 TB/s: 6.5 ms; on two GPUs half of it; many rows wait for products."""
    one = decode_s(plan(dtype="bfloat16"), 1, 0)
    assert one == pytest.approx(2 * 7_615_616_512 / (0.7 * 3.35e12))
    assert decode_s(plan(dtype="bfloat16", tensor_parallel=2), 1, 0) == pytest.approx(one / 2)
    products = 28 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18_944) + 152_064 * 3584
    many = decode_s(plan(dtype="bfloat16"), 4096, 0)
    assert many == pytest.approx(4096 * 2 * products / (0.5 * 989e12))


def test_learning_is_six_operations_a_parameter_and_token() -> None:
    """8 prompts of 100 and 64 x 400 tokens; 64 x 300 of them reach the output layer."""
    found = load_of(plan(micro_tokens=110))
    computed, scored = 8 * 100 + 64 * 400, 64 * 300
    matrices = 28 * 3584 * (2 * 3584 + 2 * 512 + 3 * 18_944)
    attention = 28 * 2 * 28 * 128 * 500
    expected = 3 * (computed * (2 * matrices + attention) + scored * 2 * 152_064 * 3584)
    assert found.computed_tokens == computed
    assert found.learner_flops == found.model_flops == expected
    whole = load_of(plan(shared_prefixes=False)).computed_tokens
    assert whole == 64 * 500
    again = load_of(plan(micro_tokens=110, checkpointing=True, minibatches=2)).learner_flops
    forward = computed * (2 * matrices + attention)
    head = scored * 2 * 152_064 * 3584
    assert again == expected + forward + (forward + head)


def test_a_step_by_hand() -> None:
    """One rank each way; two ranks add gradients of 4 bytes, sent twice, at 450 GB/s."""
    alone = step_time(plan(gpus=1, dtype="bfloat16"))
    load = load_of(plan(gpus=1, dtype="bfloat16"))
    assert alone.learning == pytest.approx(load.learner_flops / (0.5 * 989e12))
    two = step_time(plan(gpus=2, dtype="bfloat16"))
    sent = 2 * 4 * 7_615_616_512 / 2
    assert two.learning == pytest.approx(alone.learning / 2 + sent / 450e9)
    assert alone.tools == pytest.approx(2 * 0.5)
    playing, updating = alone.generation + alone.tools, alone.learning + alone.optimizer
    assert alone.total == pytest.approx(playing + updating + alone.sync)
    both = step_time(plan(gpus=1, dtype="bfloat16", overlap=True))
    assert both.total == pytest.approx(max(playing, updating) + alone.sync)
    waves = step_time(plan(gpus=1, dtype="bfloat16", in_flight=16))
    assert waves.tools == pytest.approx(4 * 2 * 0.5)


@settings(max_examples=60)
@given(
    model=st.sampled_from(sorted(KNOWN)),
    gpus=st.sampled_from([1, 2, 8, 64]),
    sharding=st.sampled_from(["none", "zero1", "zero2", "zero3", "fsdp2"]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    tokens=st.integers(1024, 32_768),
)
def test_laws_of_memory(model: str, gpus: int, sharding: Any, dtype: Any, tokens: int) -> None:
    """Checkpointing and more ranks never cost memory; tokens do; asleep is the larger of two."""
    base = plan(
        model, gpus=gpus, sharding=sharding, dtype=dtype, micro_tokens=tokens, max_tokens=1024
    )
    held = learner_memory(base)
    assert all(value >= 0 for value in held.parts().values())
    assert learner_memory(replace(base, checkpointing=True)).total <= held.total * (1 + 1e-9)
    assert learner_memory(replace(base, gpus=gpus * 2)).total <= held.total
    assert learner_memory(replace(base, micro_tokens=2 * tokens)).total > held.total
    together, turns = estimate(base), estimate(replace(base, placement="asleep"))
    assert max(turns.learner_gpu, turns.engine_gpu) < together.learner_gpu
    assert 0 < together.mfu <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "words",
    [
        ["model=Qwen2.5-7B", "gpus=8"],
        ["model=Qwen2.5-7B", "gpus=1", "device=L40S"],
        ["model=Qwen2.5-32B", "gpus=8", "model.dtype=bfloat16"],
        ["model=Qwen2.5-72B", "gpus=1", "device=A100"],
        ["model=Qwen2.5-1.5B", "device=L40S", "model.dtype=bfloat16", "env.max_tokens=16384"],
        ["model=Qwen3-8B", "gpus=2", "placement=apart", "rollout_gpus=1", "rollout.in_flight=1024"],
    ],
)
def test_what_is_said_to_fit_fits_and_nothing_of_it_is_idle(words: list[str]) -> None:
    asked = plan_of(words)
    found = estimate(asked)
    assert found.misfits
    remedy = list(mend(asked))
    assert remedy
    assert not estimate(_scaled(words, remedy)).misfits
    for left_out in remedy:
        fewer = [word for word in remedy if word != left_out]
        try:
            again = estimate(_scaled(words, fewer))
        except UserError:
            continue
        assert again.misfits, left_out


def _scaled(words: list[str], remedy: list[str]) -> Plan:
    """The words changed; GPUs for rollouts grow with the others."""
    made = plan_of([*words, *remedy])
    asked = plan_of(words)
    return replace(made, rollout_gpus=asked.rollout_gpus * made.gpus // asked.gpus)


def test_nothing_helps_where_one_row_is_too_long() -> None:
    small = replace(DEVICES["L40S"], memory=3e9)
    assert mend(plan("Qwen2.5-72B", device=small, gpus=8)) == ()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("gpus=0", "gpus=0 must be at least 1"),
        ("gpus=two", "gpus=two is not a whole number"),
        ("gpsu=2", "did you mean 'gpus'"),
        ("device=H2000", "did you mean 'H200'"),
        ("sharding=zero4", "sharding=zero4 is not known; did you mean"),
        ("gpus=8 tensor_parallel=3", "does not divide the 8 GPUs"),
        ("gpus=16 tensor_parallel=16", "does not divide the 28 heads"),
        ("placement=apart", "needs at least gpus=2"),
        ("gpus=4 placement=apart rollout_gpus=4", "rollout_gpus between 1 and 3"),
        ("gpus=4 rollout_gpus=2", "belongs to placement=apart"),
        ("tool_s=-1", "tool_s=-1 is not a number that is at least 0"),
        ("calls=nan", "calls=nan is not a number"),
        ("memory_gb=0", "memory_gb must be above 0"),
        ("env.max_tokens=65536", "beyond the 32768 positions"),
        ("sampled_tokens=5000", "beyond env.max_tokens=4096"),
        ("model.dtype=int8", "model.dtype"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["estimate", "model=Qwen2.5-7B", *words.split()]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_the_command_says_what_does_not_fit_and_what_would(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli(["estimate", "model=Qwen2.5-7B", "gpus=8"]) == 4
    text = capsys.readouterr().out
    assert "does not fit: learner and engine together: " in text
    assert "would fit with: learner.micro_tokens=4096 sharding=zero2" in text
    words = ["model=Qwen2.5-7B", "gpus=8", "model.dtype=bfloat16", "sharding=fsdp2"]
    assert cli(["estimate", *words, "learner.micro_tokens=4096", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["would_fit_with"] == []
    total = sum(found["learner_bytes"].values()) + sum(found["engine_bytes"].values())
    assert found["learner_gpu_bytes"] == pytest.approx(total + DEVICES["H200"].overhead)
    assert found["step_s"] == pytest.approx(sum(found["step_parts_s"].values()))


def test_the_simulator_is_told_the_same_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """Its step at one row and at all of them is the roofline's; where rows are alike it agrees."""
    asked = plan(dtype="bfloat16", sharding="fsdp2", micro_tokens=4096, checkpointing=True)
    words = shlex.split(" ".join(simulator_words(estimate(asked))))
    given = dict(zip(words[3::2], words[4::2], strict=True))
    one, all_rows = decode_s(asked, 1, 300), decode_s(asked, 8, 300)
    step, row = float(given["--step-ms"]), float(given["--row-ms"])
    assert step + row == pytest.approx(1e3 * one, rel=0.01)
    assert step + 8 * row == pytest.approx(1e3 * all_rows, rel=0.01)
    assert (given["-c"], given["--episodes"], given["--calls"]) == ("8", "8", "2")
    assert (given["--turn-tokens"], given["--tool-s"]) == ("100", "0.5")
    assert int(given["--kv-tokens"]) * 57_344 < asked.device.memory
    assert cli([*words[1:], "--turn-sigma", "0", "--tool-sigma", "0", "--json"]) == 0
    simulated = json.loads(capsys.readouterr().out.splitlines()[0])
    expected = step_time(asked)
    playing = expected.generation + expected.tools
    assert simulated["levels"][0]["wall_s"] == pytest.approx(playing, rel=0.05)


def test_the_learner_says_its_sharding() -> None:
    def sharding(*words: str) -> str:
        return plan_of(["model=Qwen2.5-7B", "gpus=8", *words]).sharding

    assert sharding() == "none"
    assert sharding("learner.name=fsdp") == "fsdp2"
    assert sharding("learner.name=deepspeed", "learner.stage=3") == "zero3"
    assert sharding("learner.name=fsdp", "sharding=zero1") == "zero1"


def test_the_estimate_loads_no_torch() -> None:
    code = (
        "import sys; from agentrl.train.estimate import *; estimate(plan_of(['model=Qwen2.5-7B'])); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_dry_run_tells_the_same(nano_config: RunConfig) -> None:
    """One truth: nano's states are 16 bytes a parameter, its cache what the estimate says."""
    told = memory(nano_config, "nano")
    n = parameters(shape_of("nano"))
    assert told["learner: weights, gradients, AdamW moments"] == pytest.approx(16 * n / 2**20)
    per_row = 2 * 3 * 3 * 32 * 4 * nano_config.env.max_tokens
    assert told["engine: KV cache of 128 rows"] == pytest.approx(128 * per_row / 2**20)


@pytest.fixture
def nano_config() -> RunConfig:
    return validated(
        {"env": {"name": "retool_math", "max_tokens": 1152}, "model": {"path": "nano"}}
    )
