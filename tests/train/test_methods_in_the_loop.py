"""What methods change in a run: rollouts, queues, the reference, scales of the loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.points import Ctx, Divert, Keep, Patch
from agentrl.registry import register
from agentrl.train.run import train
from agentrl.train.scorer import LearnerScorer
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group

Dice = Callable[..., RunConfig]


@pytest.fixture
def lines(dice: Dice, tmp_path: Path) -> Callable[..., tuple[list[Any], list[Any]]]:
    """Train; metrics lines and trajectory lines."""

    def run(**changes: Any) -> tuple[list[Any], list[Any]]:
        folder = tmp_path / "run"
        train(dice(dir=str(folder), **changes), sinks=[], command="test")
        read = [(folder / f"{name}.jsonl").read_text() for name in ("metrics", "trajectories")]
        metrics, played = ([json.loads(x) for x in text.splitlines()] for text in read)
        return metrics, played

    return run


def scheduled(name: str, at: Callable[[Ctx], Patch]) -> dict[str, Any]:
    """A schedule of the test's own, by name."""
    register("schedule", name, lambda: type("Own", (), {"at": lambda self, ctx: at(ctx)})())
    return {"schedules": [{"name": name}]}


def test_temperature_and_row_length_hold_from_their_step_on(lines: Any) -> None:
    def at(ctx: Ctx) -> Patch:
        return Patch(temperature=0.5, max_tokens=20) if ctx.step == 1 else Patch()

    _, played = lines(algo=scheduled("cooler", at), train={"steps": 3})
    for line in played:
        step = int(line["uid"].split("/")[0])
        segments = line["rows"][0]["segments"]
        told = {s["temperature"] for s in segments if s["origin"] == "MODEL"}
        assert told == {1.0 if step == 0 else 0.5}
        if step:
            assert sum(len(s["token_ids"]) for s in segments) <= 20


def test_a_scaled_policy_term_scales_the_loss(lines: Any) -> None:
    def at(ctx: Ctx) -> Patch:
        return Patch(scales={"policy": 0.0, "entropy": 3.0})

    algo = scheduled("scaled", at) | {"aux": [{"name": "entropy", "coef": 0.1}]}
    metrics, _ = lines(algo=algo, train={"steps": 1})
    (line,) = metrics
    assert line["loss/policy"] != 0
    assert line["loss"] == pytest.approx(3 * line["loss/entropy"], rel=1e-6)
    assert line["loss/entropy"] == pytest.approx(-0.1 * line["entropy"], rel=1e-5)


def test_diverted_tasks_are_demonstrated_once_enough_wait(lines: Any) -> None:
    """Three of three tasks are diverted at step 0 and taught at once; step 1 keeps its groups."""

    def gate(group: Group, history: object, ctx: Ctx) -> Any:
        return Keep() if ctx.step == 1 or group.task.id.endswith("0") else Divert("sft", "failed")

    register("gate", "divert_most", lambda: gate)
    algo = {"gate": {"name": "divert_most"}, "demos": {"queue": 2, "lr": 0.003}, "gate_rounds": 1}
    metrics, _ = lines(algo=algo, train={"steps": 2}, env={"distinct": 3})
    assert metrics[0]["diverted/sft"] == 2
    assert metrics[0]["demos/rows"] == 2
    assert metrics[0]["demos/lr"] == 0.003
    assert metrics[0]["demos/loss"] > 0
    assert "demos/rows" not in metrics[1]
    assert metrics[1]["lr"] == 0.01  # its own rate does not stay


def test_remembered_groups_fill_a_later_batch(lines: Any) -> None:
    def gate(group: Group, history: object, ctx: Ctx) -> Any:
        return Keep(remember=True) if ctx.step == 0 else Divert("hard", "late")

    register("gate", "only_first", lambda: gate)
    algo = {"gate": {"name": "only_first"}, "replay": {"capacity": 9}, "gate_rounds": 2}
    algo |= {"offpolicy": {"level": "token"}}
    metrics, _ = lines(
        algo=algo, train={"steps": 2, "tasks_per_step": 6}, rollout={"group_size": 8}
    )
    worthy = round(6 * (1 - metrics[0]["zero_variance_groups"]))
    assert metrics[1]["replayed"] == metrics[1]["groups"] == worthy > 0
    assert metrics[1]["stale_share"] == 1.0
    assert metrics[1]["diverted/hard"] > 0


def test_the_reference_follows_the_policy(tiny: Path) -> None:
    """ref <- (1 - rate) policy + rate ref, weight by weight; a snapshot is rate 0."""
    learner = TorchLearner(tiny, reference=True)
    start = {n: t.clone() for n, t in learner._lm.tensors().items()}
    with torch.no_grad():
        for _, parameter in learner._lm.named_parameters():
            parameter += 1.0
    learner.move_reference(0.75)
    moved = learner._frozen.of("ref").tensors()
    for name, tensor in start.items():
        torch.testing.assert_close(moved[name], tensor + 0.25)
    learner.snapshot_reference()
    for name, tensor in learner._frozen.of("ref").tensors().items():
        assert torch.equal(tensor, learner._lm.tensors()[name])


async def test_the_scorer_serves_every_model_that_is_held(tiny: Path) -> None:
    learner = TorchLearner(tiny, teacher="nano", reference=True)
    rows = [[5, 6, 7, 8], [9, 10]]
    scorer = LearnerScorer(learner)
    for model in ("policy", "ref", "teacher"):
        found = await scorer.logprobs(model, rows)
        assert [len(row) for row in found] == [4, 2]
        assert found[0][0] == found[1][0] == 0
        logits = learner._frozen.of(model).model(input_ids=torch.tensor([rows[0]])).logits[0]
        expected = torch.log_softmax(logits, -1)[torch.arange(3), torch.tensor(rows[0][1:])]
        torch.testing.assert_close(torch.tensor(found[0][1:]), expected.detach(), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"no teacher model.*learner\.teacher"):
        await LearnerScorer(TorchLearner(tiny)).logprobs("teacher", rows)


def test_a_teacher_of_another_vocabulary_is_refused(tiny: Path, tmp_path: Path) -> None:
    shape = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    Qwen2ForCausalLM(Qwen2Config(**shape, **heads)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="61 tokens and the policy"):
        TorchLearner(tiny, teacher=str(tmp_path))
