"""An exported folder is the run's own model, whole or absent, and its card keeps what is private."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from agentrl.cli.main import run as cli
from agentrl.engine.base import Sampling
from agentrl.errors import RunFailed, UserError
from agentrl.train import export as module
from agentrl.train.export import export
from agentrl.train.run import train
from agentrl.train.torch_learner import TorchLearner

ROW = np.array([257, 51, 42, 52, 61, 63, 260, 259, 49, 50, 260], np.int32)
SECRET = "sk-do-not-print"


@pytest.fixture(scope="module")
def trained(dice: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, a checkpoint every second one, evaluated before and after each pair."""
    config = dice(
        dir=str(tmp_path_factory.mktemp("runs") / "dice"),
        train={"steps": 4, "checkpoint_every": 2, "keep": 4},
        eval={"every": 2, "tasks": 4},
    )
    return train(config, sinks=[], command=f"agentrl train env=dice recipe=grpo key={SECRET}")


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The run, free to be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


def last_model(run: Path) -> Path:
    return run / "checkpoints" / (run / "checkpoints/latest").read_text().strip() / "model"


def logprobs(model: torch.nn.Module, row: np.ndarray) -> np.ndarray:
    """Of each token after the first, in float32 from the model's own logits."""
    ids = torch.from_numpy(row.astype(np.int64))[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits.float()
    found = torch.log_softmax(logits[0, :-1], -1).gather(-1, ids[0, 1:, None])
    return found[:, 0].numpy()


def test_transformers_loads_the_runs_own_model(trained: Path, tmp_path: Path) -> None:
    made = export(trained, tmp_path / "out", latest=True)
    assert (made.step, made.is_best, made.dtype) == (4, False, "float32")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    own = AutoModelForCausalLM.from_pretrained(last_model(trained), dtype=torch.float32)
    assert loaded.dtype == torch.float32
    np.testing.assert_array_equal(logprobs(loaded, ROW), logprobs(own, ROW))
    learner = TorchLearner(last_model(trained))
    np.testing.assert_allclose(logprobs(loaded, ROW), learner.score(ROW)[1:], atol=1e-6)
    assert made.n_parameters == learner.n_parameters
    assert made.n_bytes == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("3*4=?")) == "3*4=?"
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 260
    same = {"tokenizer.json", "tokenizer_config.json"}
    for name in same:
        assert (tmp_path / "out" / name).read_bytes() == (last_model(trained) / name).read_bytes()


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_types_are_rounded_once_and_told(
    trained: Path, tmp_path: Path, dtype: str, bits: int
) -> None:
    """Rounding to nearest errs by at most half a unit in the last of `bits` places."""
    export(trained, tmp_path / "out", latest=True, dtype=dtype)  # type: ignore[arg-type]
    made = load_file(tmp_path / "out/model.safetensors")
    for name, exact in load_file(last_model(trained) / "model.safetensors").items():
        assert made[name].dtype == module.DTYPES[dtype]
        subnormal = 6e-8 if dtype == "float16" else 0.0
        assert ((made[name].float() - exact).abs() <= exact.abs() * 2.0**-bits + subnormal).all()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert loaded.dtype == module.DTYPES[dtype]


def test_the_best_checkpoint_is_taken_unless_told(copied: Path, tmp_path: Path) -> None:
    folders = sorted(path.name for path in (copied / "checkpoints").glob("step-*"))
    assert folders == ["step-000002", "step-000004"]
    (copied / "checkpoints/best").write_text("step-000002\n")
    best = export(copied, tmp_path / "best")
    assert (best.step, best.is_best) == (2, True)
    assert export(copied, tmp_path / "last", latest=True).step == 4
    (copied / "checkpoints/best").unlink()
    assert export(copied, tmp_path / "only").step == 4


def test_the_card_says_what_the_run_was_and_nothing_private(trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "out", latest=True)
    card = (tmp_path / "out/README.md").read_text()
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert f"| accuracy | {lines[3]['eval/accuracy']:.3f} |" in card
    for row in (
        "| recipe | grpo |", "| environment | dice.py:Dice |", "| steps | 4 of 4, sync |",
        "| tasks x samples a step | 3 x 4 |", "| seed | 3 |", "| learning rate | 0.01 |",
        "| made | after step 4, 4 tasks x 1 at temperature 1 |",
    ):  # fmt: skip
        assert row in card
    assert f"| torch | {torch.__version__} |" in card
    for file in (tmp_path / "out").iterdir():
        content = file.read_bytes()
        for private in (SECRET, str(trained.parent), str(Path(__file__).parent), str(Path.home())):
            assert private.encode() not in content, (file.name, private)


def test_shards_keep_their_index(copied: Path, tmp_path: Path) -> None:
    model = last_model(copied)
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    halves = [dict(list(tensors.items())[:5]), dict(list(tensors.items())[5:])]
    for i, half in enumerate(halves):
        save_file(half, model / f"model-0000{i + 1}-of-00002.safetensors")
    (model / module.INDEX).write_text("stale")
    export(copied, tmp_path / "out", latest=True, dtype="bfloat16")
    index = json.loads((tmp_path / "out" / module.INDEX).read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert index["metadata"]["total_size"] == 2 * sum(t.numel() for t in tensors.values())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.bfloat16())


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def lose_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop("model.norm.weight")
    save_file(tensors, file)


def spoil(value: float) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        tensors = load_file(file)
        tensors["model.norm.weight"][3] = value
        save_file(tensors, file)

    return change


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("model.safetensors", cut, r"is damaged \(model.safetensors: .*--latest"),
        ("model.safetensors", Path.unlink, r"is damaged \(it holds no model/"),
        ("model.safetensors", lose_a_tensor, r"the weights lack model.norm.weight"),
        (
            "model.safetensors",
            spoil(float("nan")),
            r"model.norm.weight holds numbers .* not finite",
        ),
        ("model.safetensors", spoil(1e6), r"beyond the range of float16; use --dtype bfloat16"),
        ("config.json", cut, r"is damaged \(its config.json makes no model"),
        ("tokenizer.json", None, r"is damaged \(it holds no tokenizer"),
        ("../trainer.json", cut, r"is damaged \(trainer.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused_whole(
    copied: Path, tmp_path: Path, name: str, damage: Any, told: str
) -> None:
    if damage is None:
        for file in last_model(copied).glob("tokenizer*"):
            file.unlink()
    else:
        damage(last_model(copied) / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=told):
        export(copied, tmp_path / "out", latest=True, dtype="float16")
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_run_or_has_no_checkpoint_is_told(
    trained: Path, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").touch()
    building = tmp_path / "fresh"
    building.mkdir()
    for name in ("run.json", "config.yaml"):
        shutil.copy(trained / name, building)
    (building / "checkpoints/.building-step-000002/model").mkdir(parents=True)
    for words, told in {
        (str(tmp_path), str(tmp_path / "x")): "is not a run folder",
        (str(tmp_path / "none"), str(tmp_path / "x")): "is not a run folder",
        (str(building), str(tmp_path / "x")): "holds no whole checkpoint yet",
        (str(trained), str(taken)): "is not empty",
        (str(trained), str(taken / "mine")): "is a file",
        (str(trained), str(taken / "mine/deeper")): "Not a directory",
        (str(trained), str(tmp_path / "x"), "--dtype", "int8"): "Invalid value",
    }.items():
        assert cli(["export", *words]) == 2, words
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert [file.name for file in taken.iterdir()] == ["mine"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})"),
    ],
)
def test_a_full_disk_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(RunFailed, match=r"the disk is full: .*out was not written and nothing"):
        export(trained, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert cli(["export", str(trained), str(tmp_path / "out")]) == 4


def test_the_command_fills_an_empty_folder_and_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert cli(["export", str(trained), str(tmp_path / "out"), "--latest", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["checkpoint"] == "step-000004"
    assert (told["step"], told["best"], told["dtype"]) == (4, False, "float32")
    assert cli(["export", str(trained), str(tmp_path / "out")]) == 2  # now it is not empty


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
@pytest.mark.filterwarnings("ignore")
async def test_vllm_loads_it_and_says_what_the_learner_says(trained: Path, tmp_path: Path) -> None:
    """fp32: the served logprobs are the learner's, and greedy tokens are its most likely ones."""
    from agentrl.engine.vllm.engine import VllmEngine

    export(trained, tmp_path / "out", latest=True)
    learner = TorchLearner(last_model(trained))
    engine = VllmEngine(tmp_path / "out", max_context=64, kv_cache_mb=8)
    await engine.open()
    try:
        scored = await engine.score(ROW, Sampling(max_tokens=1))
        np.testing.assert_allclose(scored[1:], learner.score(ROW)[1:], atol=2e-6)
        drawn = await engine.generate(ROW[:8], Sampling(max_tokens=8, temperature=0.0))
    finally:
        await engine.close()
    row = np.concatenate([ROW[:8], drawn.token_ids]).astype(np.int32)
    model = AutoModelForCausalLM.from_pretrained(last_model(trained), dtype=torch.float32)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(row.astype(np.int64))[None]).logits[0]
    assert logits[7:-1].argmax(-1).tolist() == drawn.token_ids.tolist()
