"""The learner against a naive reference, and its invariances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from agentrl.algo.advantage import Outcome, estimate
from agentrl.algo.aux import KL, Entropy, Supervised
from agentrl.algo.batch import demo_batch, make_batch
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.offpolicy import Correction
from agentrl.algo.types import Batch
from agentrl.errors import RunFailed, UserError
from agentrl.points import Ctx, PolicyLoss
from agentrl.train.torch_learner import TorchLearner
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Task

CTX = Ctx(step=0, total_steps=10, seed=0)
VOCAB = 61
GRPO = Outcome()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer model with tied embeddings."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        attention_dropout=0.1,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def row(rng: np.random.Generator, *, demo: bool = False, temperature: float = 1.0) -> Transcript:
    """prompt, policy, observation, policy (or an expert's text), each 3 to 9 tokens."""

    def ids() -> np.ndarray:
        return rng.integers(1, VOCAB, rng.integers(3, 10)).astype(np.int32)

    def sampled() -> Segment:
        tokens = ids()
        logprobs = -rng.uniform(2, 6, len(tokens)).astype(np.float32)
        return Segment(Origin.MODEL, tokens, logprobs, version=0, temperature=temperature)

    last = Segment(Origin.DEMO, ids()) if demo else sampled()
    first = Segment(Origin.DEMO, ids()) if demo else sampled()
    return Transcript().append(
        Segment(Origin.PROMPT, ids()), first, Segment(Origin.OBSERVATION, ids()), last
    )


def batch_of(seed: int = 0, n_groups: int = 3, siblings: int = 4, **options: float) -> Batch:
    rng = np.random.default_rng(seed)
    groups: list[Group] = []
    for g in range(n_groups):
        task = Task(id=f"t{g}", question="q")
        members = tuple(
            Trajectory(
                uid=f"0/t{g}/{s}",
                task=task,
                sibling=s,
                rows=tuple(row(rng, **options) for _ in range(2 if s == 1 else 1)),
                messages=(),
                stop=StopReason.TERMINATED,
                reward=float(rng.integers(0, 3)),
                excluded="overlong" if s == 3 else None,
            )
            for s in range(siblings)
        )
        groups.append(Group(task, members))
    return make_batch(groups, pad_id=0)


def learner_of(path: Path, **options: object) -> TorchLearner:
    return TorchLearner(path, **({"lr": 1e-2, "micro_tokens": 60} | options))  # type: ignore[arg-type]


def weights(learner: TorchLearner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for bucket in learner.export() for k, v in bucket.items()}


def reference_logprobs(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """log_softmax over all logits of one padded forward, shifted by hand."""
    logits = model(input_ids=batch.token_ids, attention_mask=batch.attention_mask.long()).logits
    scaled = logits[:, :-1] / batch.temperatures[:, 1:, None]
    chosen = F.log_softmax(scaled, -1).gather(-1, batch.token_ids[:, 1:, None])[..., 0]
    return F.pad(chosen, (1, 0))


def test_two_updates_equal_a_naive_reference(tiny: Path) -> None:
    learner = learner_of(tiny, weight_decay=0.1, max_grad_norm=0.7, warmup_steps=2, eps=1e-3)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=0,
        eps=1e-3,
    )
    for step in range(2):
        batch = batch_of(step, temperature=0.8)
        batch = estimate(GRPO, batch, CTX)
        metrics = learner.update(
            batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX, aux={"entropy": Entropy(0.01)}
        )
        logits = model(input_ids=batch.token_ids).logits[:, :-1] / batch.temperatures[:, 1:, None]
        log_p = F.log_softmax(logits, -1)
        logp = F.pad(log_p.gather(-1, batch.token_ids[:, 1:, None])[..., 0], (1, 0))
        entropy = F.pad(-(log_p.exp() * log_p).sum(-1), (1, 0))[batch.mask].mean()
        ratio = (logp - logp.detach()).exp()
        loss = -(ratio * batch.advantages)[batch.mask].sum() / batch.mask.sum() - 0.01 * entropy
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.7)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (step + 1) / 2
        optimizer.step()
        assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert metrics["entropy"] == pytest.approx(entropy.item(), abs=1e-5)
    expected = model.state_dict()
    got = weights(learner)
    assert set(got) == set(expected)
    assert "lm_head.weight" in got
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-6)
    assert learner.version == 2


def test_logprobs_equal_log_softmax_and_score(tiny: Path) -> None:
    learner = learner_of(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    batch = batch_of(temperature=0.7)
    with torch.no_grad():
        expected = reference_logprobs(model, batch)
    got = learner.logprobs(batch)
    torch.testing.assert_close(got, expected * batch.mask, rtol=0, atol=1e-5)

    transcript = row(np.random.default_rng(1))
    ids = torch.tensor(transcript.token_ids, dtype=torch.int64)[None]
    with torch.no_grad():
        log_p = F.log_softmax(model(input_ids=ids).logits[0, :-1] / 0.5, -1)
    whole = learner.score(transcript.token_ids, temperature=0.5)
    assert whole[0] == 0
    np.testing.assert_allclose(whole[1:], log_p.gather(-1, ids[0, 1:, None])[:, 0], atol=1e-5)


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
@pytest.mark.parametrize("micro_tokens", [1, 100, 10_000])
def test_update_does_not_depend_on_micro_batches(tiny: Path, mode: str, micro_tokens: int) -> None:
    # The large eps keeps AdamW linear in small gradients, whose last bits it would blow up.
    results = []
    for size in (55, micro_tokens):
        learner = learner_of(tiny, micro_tokens=size, lr=1e-3, eps=1e-3)
        learner.snapshot_reference()
        batch = batch_of()
        batch = replace(batch, ref_logprobs=learner.prepared(batch).ref_logprobs - 0.3)
        metrics = learner.update(
            estimate(GRPO, batch, CTX),
            loss=Clip(),
            aggregate=Aggregate(mode),  # type: ignore[arg-type]
            aux={"kl": KL(0.05), "entropy": Entropy(0.01)},
            correction=Correction("sequence", normalize=True),
            ctx=CTX,
        )
        results.append((metrics, weights(learner)))
    (a, wa), (b, wb) = results
    assert set(a) == set(b)
    for name in set(a) - {"shared_prefix_ratio"}:  # what a cut tree computes twice
        assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), name
    for name in wa:
        torch.testing.assert_close(wa[name], wb[name], rtol=0, atol=1e-6)


def test_observations_change_nothing_but_what_follows_them(tiny: Path) -> None:
    """Another last observation, with no policy token behind it, leaves the update bit for bit."""
    changed = []
    for filler in (7, 9):
        rng = np.random.default_rng(5)
        task = Task(id="t", question="q")
        members = tuple(
            Trajectory(
                uid=str(s),
                task=task,
                sibling=s,
                rows=(row(rng).append(Segment(Origin.OBSERVATION, [filler] * (filler - 3))),),
                messages=(),
                stop=StopReason.TERMINATED,
                reward=float(s),
            )
            for s in range(3)
        )
        batch = make_batch([Group(task, members)], pad_id=0)
        learner = learner_of(tiny)
        metrics = learner.update(
            estimate(GRPO, batch, CTX), loss=Clip(), aggregate=Aggregate(), ctx=CTX
        )
        changed.append((dict(metrics), weights(learner)))
    assert changed[0][0] == changed[1][0]
    for name, tensor in changed[0][1].items():
        assert torch.equal(tensor, changed[1][1][name])


def test_minibatches_are_separate_steps_against_the_first_logprobs(tiny: Path) -> None:
    batch = batch_of(n_groups=4)
    batch = estimate(GRPO, batch, CTX)
    learner = learner_of(tiny)
    metrics = learner.update(batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX, minibatches=2)
    by_hand = learner_of(tiny)
    batch = replace(batch, old_logprobs=by_hand.logprobs(batch))
    for part in batch.minibatches(2):
        by_hand.update(part.batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX)
    for name, tensor in weights(by_hand).items():
        torch.testing.assert_close(weights(learner)[name], tensor, rtol=0, atol=1e-6)
    assert metrics["optimizer_steps"] == 2
    assert metrics["ppo_kl"] != 0
    assert learner.version == 1


def test_gap_counts_own_version_only(tiny: Path) -> None:
    learner = learner_of(tiny, lr=0.0)
    batch = batch_of()
    exact = learner.logprobs(batch)
    versions = batch.versions.clone()
    odd = batch.mask & (torch.arange(batch.mask.shape[1]) % 2 == 1)
    versions[odd] = -7
    behaviour = torch.where(odd, exact - 0.5, exact - 0.25 * batch.mask)
    batch = replace(batch, behaviour_logprobs=behaviour, versions=versions)
    metrics = learner.update(
        estimate(GRPO, batch, CTX), loss=Clip(), aggregate=Aggregate(), ctx=CTX
    )
    assert metrics["gap_mean"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["gap_max"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["drift_mean"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["stale_share"] == pytest.approx(float(odd.sum()) / batch.n_tokens)
    assert metrics["ppo_kl"] == 0


def test_sft_equals_cross_entropy_and_learns(tiny: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [row(rng, demo=True) for _ in range(6)]
    batch = demo_batch(rows, pad_id=0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    demo = batch.origins == int(Origin.DEMO)
    logits = model(input_ids=batch.token_ids).logits
    expected = F.cross_entropy(logits[:, :-1][demo[:, 1:]], batch.token_ids[:, 1:][demo[:, 1:]])
    learner = learner_of(tiny)
    losses = [learner.sft_update(batch)["loss"] for _ in range(20)]
    assert losses[0] == pytest.approx(expected.item(), abs=1e-5)
    assert losses[-1] < 0.5 * losses[0]


def test_supervised_term_reads_its_own_tokens(tiny: Path) -> None:
    """DEMO tokens beside policy tokens: the term's mean is over the former alone."""
    rng = np.random.default_rng(4)
    task = Task(id="t", question="q")
    rows = (row(rng), row(rng, demo=True))
    member = Trajectory("a", task, 0, rows, (), StopReason.TERMINATED, reward=0.0)
    batch = make_batch([Group(task, (member,))], pad_id=0)
    learner = learner_of(tiny, lr=0.0)
    batch = replace(batch, advantages=torch.zeros_like(batch.behaviour_logprobs))
    metrics = learner.update(
        batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX, aux={"supervised": Supervised(0.5)}
    )
    alone = learner.sft_update(batch)["loss"]
    assert metrics["sft_loss"] == pytest.approx(alone, abs=1e-5)
    assert metrics["loss"] == pytest.approx(0.5 * alone, abs=1e-5)


def test_state_round_trip_is_bitwise(tiny: Path) -> None:
    def go(learner: TorchLearner, seed: int) -> dict[str, float]:
        batch = batch_of(seed)
        batch = estimate(GRPO, batch, CTX)
        return dict(learner.update(batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX))

    straight = learner_of(tiny, warmup_steps=4)
    go(straight, 0)
    straight.snapshot_reference()
    state = straight.state()
    expected = [go(straight, seed) for seed in (1, 2)]
    resumed = learner_of(tiny, warmup_steps=4)
    resumed.restore(state)
    assert [go(resumed, seed) for seed in (1, 2)] == expected
    batch = batch_of(9)
    assert torch.equal(resumed.prepared(batch).ref_logprobs, straight.prepared(batch).ref_logprobs)
    for name, tensor in weights(straight).items():
        assert torch.equal(weights(resumed)[name], tensor)
    assert resumed.version == straight.version == 3


def test_nonfinite_gradient_is_skipped_then_ends_the_run(tiny: Path) -> None:
    learner = learner_of(tiny)
    before = weights(learner)
    batch = batch_of()
    batch = estimate(GRPO, batch, CTX)

    def broken(
        logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return logprobs * torch.inf, {}

    def go(loss: PolicyLoss) -> dict[str, float]:
        return dict(learner.update(batch, loss=loss, aggregate=Aggregate(), ctx=CTX))

    assert go(broken)["skipped_steps"] == 1
    assert go(broken)["skipped_steps"] == 1
    for name, tensor in weights(learner).items():
        assert torch.equal(tensor, before[name])
    assert learner.version == 0
    assert go(Clip())["skipped_steps"] == 0
    go(broken)
    go(broken)
    with pytest.raises(RunFailed, match="not finite in 3 steps"):
        go(broken)


def test_soft_capped_logits_are_scored_as_the_model_defines_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.5,
        attn_implementation="eager",
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    learner = learner_of(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    batch = batch_of()
    with torch.no_grad():
        expected = reference_logprobs(model, batch) * batch.mask
    torch.testing.assert_close(learner.logprobs(batch), expected, rtol=0, atol=1e-5)


def test_activation_checkpointing_and_bf16_agree(tiny: Path) -> None:
    batch = batch_of()
    batch = estimate(GRPO, batch, CTX)
    norms = []
    for options in ({}, {"activation_checkpointing": True}, {"dtype": "bfloat16"}):
        learner = learner_of(tiny, **options)
        metrics = learner.update(batch, loss=Clip(), aggregate=Aggregate(), ctx=CTX)
        norms.append(metrics["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert norms[2] == pytest.approx(norms[0], rel=0.05)
    assert norms[2] != norms[0]


def test_nothing_to_train_is_no_step(tiny: Path) -> None:
    learner = learner_of(tiny)
    batch = batch_of()
    empty = replace(
        batch,
        mask=torch.zeros_like(batch.mask),
        trained=batch.trained * 0,
        n_tokens=0,
        n_sequences=0,
    )
    empty = replace(empty, advantages=torch.zeros(batch.mask.shape))
    metrics = learner.update(empty, loss=Clip(), aggregate=Aggregate(), ctx=CTX)
    assert metrics["optimizer_steps"] == 0
    assert metrics["masked_rows"] == len(batch)
    assert learner.version == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchLearner("/nowhere/model"), "no model folder at /nowhere/model"),
        (lambda: TorchLearner("nano", micro_tokens=0), "micro_tokens"),
        (lambda: TorchLearner("nano", max_grad_norm=0), "max_grad_norm"),
    ],
)
def test_bad_settings_are_told(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        TorchLearner(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UserError, match="no causal language model"):
        TorchLearner(tmp_path)


def test_kl_pulls_back_to_the_kept_reference(tiny: Path) -> None:
    """With no advantage the KL term is the loss: zero at first, and smaller after a step on it."""
    learner = learner_of(tiny, reference=True, lr=1e-3)
    batch = batch_of()
    zero = replace(batch, advantages=torch.zeros_like(batch.behaviour_logprobs))

    def go(batch: Batch, *aux: KL) -> dict[str, float]:
        return dict(
            learner.update(
                batch,
                loss=Clip(),
                aggregate=Aggregate(),
                ctx=CTX,
                aux={type(term).__name__: term for term in aux},
            )
        )

    assert go(zero, KL(1.0))["kl_ref"] == pytest.approx(0, abs=1e-6)
    for _ in range(3):
        go(estimate(GRPO, batch, CTX))
    away = go(zero, KL(1.0, "k2"))
    learner.reset_optimizer()
    for _ in range(5):
        back = go(zero, KL(1.0, "k2"))
    assert away["loss"] == pytest.approx(away["kl_ref"])
    assert 0 < back["kl_ref"] < 0.7 * away["kl_ref"]


def test_reference_must_be_kept_first(tiny: Path) -> None:
    with pytest.raises(UserError, match="reference"):
        learner_of(tiny).score_rows("ref", [[1, 2]])
