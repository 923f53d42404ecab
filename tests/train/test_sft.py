"""Supervised training: the rate by hand, every row once an epoch, and a loss that falls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.train import checkpoint
from agentrl.train.run import sft
from agentrl.train.sft import fit, learning_rate
from agentrl.train.torch_learner import TorchLearner
from agentrl.transcript import Origin, Segment, Transcript

Dice = Callable[..., RunConfig]
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip


def test_the_rate_by_hand():
    """105 steps: 5 of warm-up, then a cosine over 100 from the peak to a tenth of it.

    Half way (step 55): 0.1 + 0.9 / 2; at a quarter (step 30) the cosine is 1 / sqrt 2.
    """
    rates = [learning_rate(step, 105, peak=2.0) for step in range(105)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[5] == 2.0
    assert rates[55] == pytest.approx(2.0 * 0.55)
    assert rates[30] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + 2**-0.5)))
    assert rates[104] == pytest.approx(2.0 * (0.1 + 0.45 * (1 - 0.9995065603657316)))
    assert sorted(rates[5:], reverse=True) == rates[5:]


def test_short_runs_have_a_rate():
    assert learning_rate(0, 1, 1.0) == 1.0
    assert learning_rate(1, 2, 1.0) == 1.0
    assert all(0 < learning_rate(s, n, 1.0) <= 1 for n in range(1, 40) for s in range(n))


class Recorder:
    """A learner that writes down what it is given."""

    def __init__(self) -> None:
        self.firsts: list[list[int]] = []
        self.rates: list[float] = []

    def set_lr(self, lr: float) -> None:
        self.rates.append(lr)

    def sft_update(self, batch: Any) -> dict[str, float]:
        self.firsts.append(batch.token_ids[:, 0].tolist())
        return {"loss": 1.0}


def rows(n: int) -> list[Transcript]:
    return [
        Transcript().append(Segment(Origin.PROMPT, [i]), Segment(Origin.DEMO, [1, 2]))
        for i in range(n)
    ]


def test_every_row_once_an_epoch_in_a_seeded_order(dice: Dice, notes: Any):
    """5 rows, 4 batches of 5 over a batch size of 4: steps run across epochs."""

    def order(seed: int) -> list[list[int]]:
        learner = Recorder()
        fit(dice(seed=seed, sft={"steps": 5, "batch": 4}), learner, rows(5), [notes])  # type: ignore[arg-type]
        return learner.firsts

    seen = order(0)
    assert [len(batch) for batch in seen] == [4] * 5
    flat = [i for batch in seen for i in batch]
    epochs = [flat[i : i + 5] for i in range(0, 20, 5)]
    assert all(Counter(epoch) == Counter(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert order(0) == seen
    assert order(1) != seen


def test_lines_come_every_twenty_steps_and_at_the_end(dice: Dice, notes: Any):
    learner = Recorder()
    config = dice(sft={"steps": 45, "batch": 1, "lr": 0.5})
    fit(config, learner, rows(3), [notes])  # type: ignore[arg-type]
    assert [step for step, _ in notes.steps] == [0, 20, 40, 44]
    assert [m["lr"] for _, m in notes.steps] == [learner.rates[i] for i in (0, 20, 40, 44)]
    assert learner.rates == [learning_rate(i, 45, 0.5) for i in range(45)]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_fresh_model_learns_its_expert(dice: Dice, tmp_path: Path, notes: Any):
    """The expert always writes A, then C: 60 steps bring the loss from that of chance, ln 288 = 5.66
    (weights are drawn small), below a twentieth of it."""
    config = dice(
        dir=str(tmp_path / "run"),
        sft={"steps": 60, "batch": 4, "pool": 8, "lr": 0.02, "architecture": SHAPE},
    )
    folder = sft(config, sinks=[notes], command="agentrl sft")
    losses = [m["loss"] for m in metrics(folder)]
    assert losses[0] == pytest.approx(5.66, abs=0.15)
    assert losses[-1] < 0.28
    assert notes.started[0][0] == 60
    assert notes.closed == 1
    assert any("8/8 demonstrations" in note for note in notes.notes)

    found = checkpoint.latest(folder / "checkpoints")
    assert found is not None
    learner = TorchLearner(found / "model")
    prompt = [257, *b"t7?", 260, 259]
    played = learner.score([*prompt, 65, 266, *b"65", 267, 67])  # type: ignore[arg-type]
    assert played[[6, 11]] == pytest.approx([0, 0], abs=0.5)
    assert json.loads((folder / "run.json").read_text())["command"] == "agentrl sft"
    assert "sft:" in (folder / "config.yaml").read_text()


def test_the_same_seed_makes_the_same_model(dice: Dice, tmp_path: Path):
    def made(name: str, seed: int) -> bytes:
        config = dice(
            dir=str(tmp_path / name), seed=seed,
            sft={"steps": 3, "batch": 2, "pool": 4, "architecture": SHAPE},
        )  # fmt: skip
        found = checkpoint.latest(sft(config, sinks=[], command="x") / "checkpoints")
        assert found is not None
        return (found / "model" / "model.safetensors").read_bytes()

    assert made("a", 1) == made("b", 1)
    assert made("c", 2) != made("a2", 1)


def test_stored_conversations_warm_up_a_model(dice: Dice, tmp_path: Path):
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    (tmp_path / "c.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    config = dice(
        dir=str(tmp_path / "run"),
        env={"protocol": "retool_bare"},
        sft={"steps": 41, "batch": 2, "lr": 0.02, "path": str(tmp_path / "c.jsonl")},
    )
    found = metrics(sft(config, sinks=[], command="x"))
    assert found[0]["n_tokens"] == 2 * 3
    assert found[-1]["loss"] < 0.1 * found[0]["loss"]


def test_two_kinds_of_demonstrations(dice: Dice, tmp_path: Path, notes: Any):
    """A quarter of 8 under other options; an unknown option is refused before anything is made."""
    also = {"also": {"pause_s": 0.001}, "also_share": 0.25}
    config = dice(dir=str(tmp_path / "run"), sft={"steps": 1, "batch": 1, "pool": 8, **also})
    sft(config, sinks=[notes], command="x")
    assert notes.notes[-1].startswith("8/8 demonstrations")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sft": {"path": "none.jsonl"}}, "cannot read none.jsonl"),
        ({"sft": {"architecture": {"model_type": "gwen2"}}}, "sft.architecture"),
        ({"model": {"path": "/no/such/model"}}, "there is no model folder /no/such/model"),
    ],
)
def test_bad_input_leaves_no_run_folder(dice: Dice, tmp_path: Path, changes: Any, told: str):
    with pytest.raises(UserError, match=told) as raised:
        sft(dice(dir=str(tmp_path / "run"), **changes), sinks=[], command="x")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
