"""Learners that compute shared prefixes once, beside those that do not: scores, gradients, updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from agentrl.algo.advantage import Outcome, estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.types import Batch
from agentrl.config import Plugin
from agentrl.plugins import build
from agentrl.points import Ctx
from agentrl.registry import names
from agentrl.train import causal_lm
from agentrl.train.causal_lm import CausalLM
from agentrl.train.critic import CriticOptions
from agentrl.train.packing import pack
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=10, seed=0)
VOCAB = 61
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": True, "max_position_embeddings": 256,
}  # fmt: skip
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
SPREAD = 0.3
"""Initial deviation of the weights: at the usual 0.02 attention hardly looks anywhere."""
REQUIRED: dict[str, dict[str, Any]] = {
    "adaptive_entropy": {"target": 3.0}, "echo": {"coef": 0.1}, "entropy": {"coef": 0.1},
    "kl": {"coef": 0.1},
}  # fmt: skip
"""Options without a default."""
Runs = list[tuple[Origin, list[int]]]


def saved(model: nn.Module, folder: Path) -> Path:
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=SPREAD)
    model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, grouped heads, tied embeddings."""
    return saved(Qwen2ForCausalLM(Qwen2Config(**SHAPE)), tmp_path_factory.mktemp("qwen2"))


def run_of(rng: np.random.Generator, origin: Origin, low: int = 3, high: int = 12) -> Runs:
    return [(origin, rng.integers(1, VOCAB, rng.integers(low, high)).tolist())]


def turns(rng: np.random.Generator) -> Runs:
    """A policy's turn, an observation, a turn."""
    return [
        *run_of(rng, Origin.MODEL),
        *run_of(rng, Origin.OBSERVATION),
        *run_of(rng, Origin.MODEL),
    ]


def cut(runs: Runs, n: int) -> Runs:
    """The first `n` tokens."""
    kept: Runs = []
    for origin, ids in runs:
        if n > 0:
            kept.append((origin, ids[:n]))
        n -= len(ids)
    return kept


def size(runs: Runs) -> int:
    return sum(len(ids) for _, ids in runs)


class Family(NamedTuple):
    """How one task's rows come about."""

    prompt: int
    """Tokens all begin with."""
    roots: int
    branches: list[tuple[int, float]]
    """For each further row: which earlier one it leaves, and where, as a share of that one."""


def grown(rng: np.random.Generator, family: Family) -> tuple[list[Runs], list[tuple[int, int]]]:
    """Rows, and (parent, fork) of each; (-1, 0) without one."""
    prompt: Runs = [(Origin.PROMPT, rng.integers(1, VOCAB, family.prompt).tolist())]
    rows = [prompt + turns(rng) for _ in range(family.roots)]
    links = [(-1, 0)] * family.roots
    for choice, share in family.branches:
        parent = choice % len(rows)
        at = max(family.prompt, int(share * size(rows[parent])))
        rows.append(cut(rows[parent], at) + run_of(rng, Origin.MODEL))
        links.append((parent, at))
    return rows, links


def transcript(runs: Runs, temperature: float = 1.0) -> Transcript:
    def segment(origin: Origin, ids: list[int]) -> Segment:
        if origin is not Origin.MODEL:
            return Segment(origin, ids)
        # What a token was sampled with depends on it alone, so that copies agree.
        logprobs = [-2.0 - 0.02 * i for i in ids]
        return Segment(origin, ids, logprobs, version=0, temperature=temperature)

    return Transcript().append(*(segment(*run) for run in runs))


def batch_of(seed: int, families: list[Family], *, hot: bool = False) -> Batch:
    """A group per family. `hot` runs every third row at another temperature."""
    rng = np.random.default_rng(seed)
    groups: list[Group] = []
    for g, family in enumerate(families):
        rows, links = grown(rng, family)
        task = Task(id=f"t{g}", question="q")
        members = tuple(
            Trajectory(
                uid=f"0/t{g}/{i}",
                task=task,
                sibling=i,
                rows=(transcript(runs, 0.7 if hot and i % 3 == 2 else 1.0),),
                messages=(),
                stop=StopReason.TERMINATED,
                reward=float(rng.integers(0, 4)),
                rewards={"env": float(rng.integers(0, 2)), "b": float(rng.random())},
                excluded="overlong" if i == 4 else None,
                parent=None if parent < 0 else f"0/t{g}/{parent}",
                fork_tokens=None if parent < 0 else fork,
            )
            for i, (runs, (parent, fork)) in enumerate(zip(rows, links, strict=True))
        )
        per_token = tuple(rng.normal(size=size(runs)).astype(np.float32) * 0.1 for runs in rows)
        groups.append(Group(task, members, token_rewards=per_token))
    return make_batch(groups, pad_id=0)


STAR = [Family(40, 6, []), Family(25, 4, [])]
"""Plain groups: siblings share a prompt."""
TREE = [
    Family(30, 2, [(0, 0.7), (0, 0.7), (2, 0.8), (2, 0.9), (1, 0.6)]),
    Family(16, 3, [(1, 0.5), (3, 0.9), (0, 1.0)]),
]
"""Branches of branches."""
SCENES = {"plain groups": STAR, "nested trees": TREE}


def ready(batch: Batch, advantage: str = "outcome") -> Batch:
    """With advantages by the registered name."""
    rng = torch.Generator().manual_seed(0)
    if advantage == "gae":
        batch = replace(batch, values=torch.randn(batch.mask.shape, generator=rng) * batch.mask)
    # What an engine records beside the tokens when it is asked to.
    batch = replace(batch, entropies=torch.rand(batch.mask.shape, generator=rng))
    return estimate(build("advantage", Plugin(name=advantage)), batch, CTX)


def pair(path: Path, **options: Any) -> dict[bool, TorchLearner]:
    """Two learners of the same weights, which no update changes unless `lr` is given."""
    given = {"lr": 0.0, "micro_tokens": 250} | options
    return {shared: TorchLearner(path, shared_prefixes=shared, **given) for shared in (True, False)}


def update(
    learner: TorchLearner, batch: Batch, loss: Any = None, **options: Any
) -> dict[str, float]:
    loss = Clip() if loss is None else loss
    return dict(learner.update(batch, loss=loss, aggregate=Aggregate(), ctx=CTX, **options))


def compared(
    learners: Mapping[bool, TorchLearner], batch: Batch, **options: Any
) -> dict[str, float]:
    """Metrics of the sharing learner, after all of both were found to agree."""
    shared, flat = (update(learners[which], batch, **options) for which in (True, False))
    assert shared["shared_prefixes"] == 1
    assert flat["shared_prefixes"] == 0
    assert shared["shared_prefix_ratio"] > 1.2
    assert flat["shared_prefix_ratio"] <= 1
    assert shared["grad_norm"] == pytest.approx(flat["grad_norm"], rel=1e-5)
    assert shared["grad_norm"] > 0
    for name in set(flat) - {"shared_prefixes", "shared_prefix_ratio"}:
        assert shared[name] == pytest.approx(flat[name], rel=1e-4, abs=1e-5), name
    return shared


@pytest.fixture(scope="module")
def learners(tiny: Path) -> Mapping[bool, TorchLearner]:
    return pair(tiny)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("loss", names("loss"))
def test_every_loss_with_every_advantage(
    learners: Mapping[bool, TorchLearner], loss: str, scene: str
) -> None:
    """Off policy, so that ratios are not 1 and clips bind."""
    batch = batch_of(1, SCENES[scene])
    rng = torch.Generator().manual_seed(2)
    drift = torch.randn(batch.mask.shape, generator=rng) * 0.3
    batch = replace(batch, old_logprobs=(learners[False].logprobs(batch) + drift) * batch.mask)
    for advantage in names("advantage"):
        compared(learners, ready(batch, advantage), loss=build("loss", Plugin(name=loss)))


@pytest.mark.parametrize("name", names("aux"))
def test_every_auxiliary_term(learners: Mapping[bool, TorchLearner], name: str) -> None:
    batch = ready(batch_of(2, TREE))
    extra = torch.linspace(-1, 1, batch.mask.numel()).view(batch.mask.shape) * batch.mask
    logprobs = learners[False].logprobs(batch)
    batch = replace(batch, ref_logprobs=logprobs + extra, teacher_logprobs=logprobs - extra)
    term = build("aux", Plugin(name=name, **REQUIRED.get(name, {})))
    compared(learners, batch, aux={name: term})


def scored(lm: CausalLM, batch: Batch, tokens: Tensor) -> tuple[list[Tensor], Tensor]:
    """Logprobs and entropies, and the whole gradient of a fixed mixture of them, as a vector."""
    rng = torch.Generator().manual_seed(5)
    scores = lm.scores(batch, tokens)
    weights = torch.randn(2, *tokens.shape, generator=rng)
    mixture = (scores.logprobs * weights[0] + scores.entropies * weights[1]).sum()
    parameters = [parameter for _, parameter in lm.named_parameters()]
    found = torch.autograd.grad(mixture, parameters)
    return [scores.logprobs, scores.entropies], torch.cat([g.flatten() for g in found])


def assert_equal(shared: CausalLM, flat: CausalLM, batch: Batch) -> None:
    got, gradient = scored(shared, batch, batch.mask)
    expected, flat_gradient = scored(flat, batch, batch.mask)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
        assert not one[~batch.mask].any()
    # Stronger than equal norms: the difference itself is small.
    assert float((gradient - flat_gradient).norm() / flat_gradient.norm()) < 1e-5


FAMILIES = st.lists(
    st.builds(
        Family,
        st.integers(1, 30),
        st.integers(1, 4),
        st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), max_size=6),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is packed, whether it pays or not, at every common token."""
    monkeypatch.setattr(causal_lm, "pack", partial(pack, pays=10.0, min_shared=1))


@settings(max_examples=40, deadline=None)
@given(families=FAMILIES, seed=st.integers(0, 1000), hot=st.booleans())
def test_any_branch_pattern(
    tiny_pair: tuple[CausalLM, CausalLM], families: list[Family], seed: int, hot: bool
) -> None:
    """Nothing shared at all, equal rows, rows that end inside others, nested branches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_lm, "pack", partial(pack, pays=10.0, min_shared=1))
        assert_equal(*tiny_pair, batch_of(seed, families, hot=hot))


@pytest.fixture(scope="module")
def tiny_pair(tiny: Path) -> tuple[CausalLM, CausalLM]:
    return CausalLM(tiny), CausalLM(tiny, shared_prefixes=False)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"num_key_value_heads": 4})),
        lambda: LlamaForCausalLM(LlamaConfig(**SHAPE | {"tie_word_embeddings": False})),
        lambda: GPT2LMHeadModel(GPT2Config(**GPT2, **ENDS)),
    ],
    ids=["one key head each", "untied llama", "learned positions"],
)
def test_families_of_models(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    path = saved(make(), tmp_path)
    shared = CausalLM(path)
    assert shared.flat_because is None
    assert_equal(shared, CausalLM(path, shared_prefixes=False), batch_of(3, TREE, hot=True))


@pytest.mark.usefixtures("always")
def test_the_portable_attention_trains_alike(
    tiny_pair: tuple[CausalLM, CausalLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs where there is no fused kernel."""
    monkeypatch.setattr("agentrl.train.packing.attention._has_kernel", lambda *_: False)
    assert_equal(*tiny_pair, batch_of(4, TREE))


@pytest.mark.parametrize("scene", SCENES)
def test_with_activation_checkpointing(tiny: Path, scene: str) -> None:
    batch = ready(batch_of(6, SCENES[scene]))
    kept = compared(pair(tiny), batch)
    again = compared(pair(tiny, activation_checkpointing=True), batch)
    assert again["grad_norm"] == pytest.approx(kept["grad_norm"], rel=1e-6)


def test_in_bf16_the_norm_is_close(tiny: Path) -> None:
    batch = ready(batch_of(6, TREE))
    found = {which: update(made, batch) for which, made in pair(tiny, dtype="bfloat16").items()}
    exact = update(TorchLearner(tiny, lr=0.0), batch)["grad_norm"]
    assert found[True]["shared_prefix_ratio"] > 1.2
    for metrics in found.values():
        assert metrics["grad_norm"] == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_with_a_critic(tiny: Path, trunk: Any) -> None:
    """Three updates that move the value head away from zero; values and norms stay equal."""
    options = CriticOptions(trunk=trunk, minibatches=1)
    made = pair(tiny, critic=options, lr=1e-3, eps=1e-3)
    for seed in range(3):
        batch = batch_of(seed, TREE)
        found = {}
        for which, learner in made.items():
            prepared = learner.prepared(batch)
            assert prepared.values is not None
            metrics = update(
                learner, estimate(build("advantage", Plugin(name="gae")), prepared, CTX)
            )
            found[which] = metrics
            values = prepared.values if which else values_of(made[False], batch)
            assert values[~batch.mask].eq(0).all()
        for name in ("grad_norm", "critic/loss", "critic/explained_variance"):
            assert found[True][name] == pytest.approx(found[False][name], rel=1e-4, abs=1e-6), name
    one, other = (values_of(made[which], batch_of(9, TREE)) for which in (True, False))
    assert one.abs().max() > 0
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def values_of(learner: TorchLearner, batch: Batch) -> Tensor:
    values = learner.prepared(batch).values
    assert values is not None
    return values


def test_reference_and_rows_are_scored_alike(tiny: Path) -> None:
    batch = batch_of(7, TREE)
    made = pair(tiny, reference=True)
    one, other = (made[which].prepared(batch).ref_logprobs for which in (True, False))
    assert one is not None
    assert other is not None
    torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
    assert one[batch.mask].abs().min() > 0
    held = batch.attention_mask
    rows = [ids[own].tolist() for ids, own in zip(batch.token_ids, held, strict=True)]
    for name in ("policy", "ref"):
        got, expected = (made[which].score_rows(name, rows) for which in (True, False))
        for mine, plain in zip(got, expected, strict=True):
            np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("micro_tokens", [1, 60, 100_000])
def test_cut_trees_have_the_same_gradient(tiny: Path, micro_tokens: int) -> None:
    batch = ready(batch_of(8, TREE))
    expected = update(pair(tiny)[False], batch)["grad_norm"]
    learner = TorchLearner(tiny, lr=0.0, micro_tokens=micro_tokens)
    assert update(learner, batch)["grad_norm"] == pytest.approx(expected, rel=1e-5)


def apart(lengths: list[int]) -> Batch:
    """One group of rows with nothing in common."""
    rng = np.random.default_rng(0)
    task = Task(id="t", question="q")
    rows = [
        [(Origin.PROMPT, [10 + i, 3, 4]), (Origin.MODEL, rng.integers(1, VOCAB, n).tolist())]
        for i, n in enumerate(lengths)
    ]
    members = tuple(
        Trajectory(str(i), task, i, (transcript(r),), (), StopReason.TERMINATED, reward=float(i))
        for i, r in enumerate(rows)
    )
    return estimate(Outcome(), make_batch([Group(task, members)], pad_id=0), CTX)


def test_with_nothing_shared_it_is_the_flat_update_bit_for_bit(tiny: Path) -> None:
    found = []
    for learner in pair(tiny, lr=1e-2).values():
        metrics = update(learner, apart([12] * 6))
        found.append((metrics["grad_norm"], metrics["loss"], weights(learner)))
    assert found[0][:2] == found[1][:2]
    for name, tensor in found[0][2].items():
        assert torch.equal(tensor, found[1][2][name])


def test_rows_of_unequal_length_are_packed_without_padding(tiny: Path) -> None:
    """Nothing is shared, and nothing but what predicts a trained token is computed."""
    batch = apart([3, 30, 5, 11])
    both = {which: update(learner, batch) for which, learner in pair(tiny).items()}
    assert both[True]["shared_prefix_ratio"] == 1
    assert both[False]["shared_prefix_ratio"] == (5 + 32 + 7 + 13) / (4 * 32)
    assert both[True]["grad_norm"] == pytest.approx(both[False]["grad_norm"], rel=1e-5)


def weights(learner: TorchLearner) -> dict[str, Tensor]:
    return {k: v.clone() for bucket in learner.export() for k, v in bucket.items()}


def test_runs_repeat_bit_for_bit(tiny: Path) -> None:
    found = []
    for _ in range(2):
        learner = TorchLearner(tiny, lr=1e-2, micro_tokens=100)
        metrics = [update(learner, ready(batch_of(seed, TREE))) for seed in range(3)]
        found.append((metrics, weights(learner)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(tensor, found[1][1][name]) for name, tensor in found[0][1].items())


def test_the_ratio_by_hand(tiny: Path) -> None:
    """Four rows of 20 prompt tokens and 6 trained ones: 25 of each are read, 20 + 4 x 5 computed."""
    rng = np.random.default_rng(0)
    task = Task(id="t", question="q")
    prompt: Runs = [(Origin.PROMPT, rng.integers(1, VOCAB, 20).tolist())]
    rows = [[*prompt, (Origin.MODEL, [10 + i, *range(3, 8)])] for i in range(4)]
    members = tuple(
        Trajectory(str(i), task, i, (transcript(r),), (), StopReason.TERMINATED, reward=float(i))
        for i, r in enumerate(rows)
    )
    batch = estimate(Outcome(), make_batch([Group(task, members)], pad_id=0), CTX)
    both = pair(tiny)
    assert update(both[True], batch)["shared_prefix_ratio"] == 100 / 40
    assert update(both[False], batch)["shared_prefix_ratio"] == 1
