"""Checkpoints: exact, atomic, found again, refused when they do not fit."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from agentrl.algo.batch import demo_batch
from agentrl.errors import RunFailed, UserError
from agentrl.train import checkpoint, learner_state
from agentrl.train.torch_learner import TorchLearner
from agentrl.transcript import Origin, Segment, Transcript

STATE = {"history": {"otc": {"t": [1.0, 2]}}, "best": 0.5}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"kept": "byte for byte"}')
    return folder


def learner_of(model: Path) -> TorchLearner:
    return TorchLearner(model, lr=1e-2, warmup_steps=3)


def train(learner: TorchLearner, *seeds: int) -> list[dict[str, float]]:
    metrics = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows = [
            Transcript().append(
                Segment(Origin.PROMPT, rng.integers(0, 31, 3).astype(np.int32)),
                Segment(Origin.DEMO, rng.integers(0, 31, 5).astype(np.int32)),
            )
            for _ in range(4)
        ]
        metrics.append(dict(learner.sft_update(demo_batch(rows, pad_id=0))))
    return metrics


def weights(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for bucket in learner.export() for k, v in bucket.items()}


def test_resume_continues_bit_for_bit(model: Path, tmp_path: Path) -> None:
    straight = learner_of(model)
    train(straight, 1, 2)
    straight.snapshot_reference()
    saved = checkpoint.save(tmp_path, 2, straight, STATE, config_hash="h")
    expected = train(straight, 3, 4)

    resumed = learner_of(model)
    restored = checkpoint.load(saved, resumed, config_hash="h")
    assert restored == (2, STATE)
    assert train(resumed, 3, 4) == expected
    assert resumed.version == straight.version == 4
    for name, tensor in weights(straight).items():
        assert torch.equal(weights(resumed)[name], tensor), name


def test_the_model_folder_is_a_hugging_face_model(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model)
    train(learner, 1)
    saved = checkpoint.save(tmp_path, 1, learner, {}, config_hash="h")
    loaded = AutoModelForCausalLM.from_pretrained(saved / "model", dtype=torch.float32)
    for name, tensor in weights(learner).items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert (saved / "model/tokenizer.json").read_text() == '{"kept": "byte for byte"}'
    assert set(weights(TorchLearner(saved / "model"))) == set(weights(learner))
    assert all(path.suffix != ".bin" for path in saved.rglob("*"))


def test_pointers_and_pruning(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model)
    assert checkpoint.latest(tmp_path) is checkpoint.best(tmp_path) is None
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, learner, {}, config_hash="h", keep=2, best=step == 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best", "latest", "step-000002", "step-000004", "step-000005"]
    assert (tmp_path / "latest").read_text() == "step-000005\n"
    assert checkpoint.best(tmp_path) == tmp_path / "step-000002"
    again = checkpoint.save(tmp_path, 5, learner, {"x": 1}, config_hash="h", keep=2, best=True)
    assert checkpoint.latest(tmp_path) == checkpoint.best(tmp_path) == again
    assert checkpoint.load(again, learner, config_hash="h").trainer_state == {"x": 1}
    assert len(list(tmp_path.glob("step-*"))) == 2


def test_a_lost_pointer_falls_back_to_the_newest_whole(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model)
    for step in (9, 10):
        checkpoint.save(tmp_path, step, learner, {}, config_hash="h")
    (tmp_path / "latest").write_text("step-000077\n")
    (tmp_path / "step-000099").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000010"


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from agentrl.train import checkpoint
from agentrl.train.torch_learner import TorchLearner

learner = TorchLearner(sys.argv[1])

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def half_written(folder):
    TorchLearner.save(learner, folder)
    (folder / "learner.safetensors").write_bytes(b"half")
    die()

MOMENTS = {
    "writing": (learner, "save", half_written),
    "renaming": (Path, "rename", die),
    "pointing": (Path, "replace", die),
    "pruning": (shutil, "rmtree", die),
}
for moment, (owner, name, replacement) in MOMENTS.items():
    pid = os.fork()
    if not pid:
        setattr(owner, name, replacement)
        checkpoint.save(Path(sys.argv[2], moment), 2, learner, {}, config_hash="h", keep=1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, moment
"""


def test_kill_while_saving_leaves_a_whole_checkpoint(model: Path, tmp_path: Path) -> None:
    """kill -9 at four moments of writing step 2 over step 1."""
    learner = learner_of(model)
    train(learner, 1)
    survivors = {"writing": 1, "renaming": 1, "pointing": 1, "pruning": 2}
    for moment in survivors:
        checkpoint.save(tmp_path / moment, 1, learner, STATE, config_hash="h")
    command = [sys.executable, "-c", KILLED, str(model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    for moment, step in survivors.items():
        folder = tmp_path / moment
        found = checkpoint.latest(folder)
        assert found is not None
        assert checkpoint.load(found, learner_of(model), config_hash="h").step == step, moment
        checkpoint.save(folder, 3, learner, {}, config_hash="h", keep=1)
        assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-000003"]


def test_full_disk_is_told_and_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(model)
    old = checkpoint.save(tmp_path, 1, learner, STATE, config_hash="h")

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(RunFailed, match=rf"the disk is full; free .*{old.name}"):
            checkpoint.save(tmp_path, 2, learner, {}, config_hash="h")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-000001"]
    assert checkpoint.load(old, learner, config_hash="h").step == 1


def test_full_disk_in_the_tensor_writer_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has no errno: this is its message on a full file system."""

    def refuse(*_: object) -> None:
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(learner_state, "save_file", refuse)
    with pytest.raises(RunFailed, match=r"the disk is full; .*no older checkpoint"):
        checkpoint.save(tmp_path, 1, learner_of(model), {}, config_hash="h")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_told(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailed, match="no checkpoint could be written"):
        checkpoint.save(tmp_path / "file", 1, learner_of(model), {}, config_hash="h")


def test_what_does_not_fit_is_refused(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model)
    train(learner, 1)
    saved = checkpoint.save(tmp_path, 1, learner, {}, config_hash="h")
    with pytest.raises(UserError, match="another configuration"):
        checkpoint.load(saved, learner, config_hash="other")
    trainer = json.loads((saved / "trainer.json").read_text())
    (saved / "trainer.json").write_text(json.dumps(trainer | {"schema_version": 99}))
    with pytest.raises(UserError, match="schema 99"):
        checkpoint.load(saved, learner, config_hash="h")
    (saved / "trainer.json").write_text("{")
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint.load(saved, learner, config_hash="h")
    (saved / "trainer.json").write_text(json.dumps(trainer))
    (saved / "learner.safetensors").write_bytes(b"\x08")
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint.load(saved, learner, config_hash="h")


def test_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path / "c", 1, learner_of(model), {}, config_hash="h")
    config = Qwen2Config(
        vocab_size=31,
        hidden_size=8,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="do not fit this model"):
        checkpoint.load(saved, TorchLearner(tmp_path / "other"), config_hash="h")


def test_moments_are_stored_by_name(model: Path, tmp_path: Path) -> None:
    learner = learner_of(model)
    train(learner, 1)
    stored = load_file(
        checkpoint.save(tmp_path, 1, learner, {}, config_hash="h") / "learner.safetensors"
    )
    assert "optimizer.exp_avg.model.embed_tokens.weight" in stored
    assert float(stored["optimizer.step.model.norm.weight"]) == 1.0
