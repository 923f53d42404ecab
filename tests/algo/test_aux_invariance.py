"""Every term in a learner's hands: own tokens, own count, own weights, and nothing of the cut."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from agentrl.algo.aux import (
    DPO,
    KL,
    REDI,
    TEA,
    AdaptiveEntropy,
    Distill,
    DistillUnsolved,
    Echo,
    Entropy,
    SFTPositives,
    Supervised,
)
from agentrl.algo.types import Batch, ForwardOutput, OwnTokens, OwnWeights
from agentrl.points import AuxTerm, Ctx, needs_of
from agentrl.transcript import Origin

Make = Callable[..., Batch]
CTX = Ctx(
    step=3,
    total_steps=10,
    seed=0,
    metrics={
        "entropy": 0.1,
        "entropy_control": 0.2,
        "kl_ref": 0.3,
        "kl_coef": 0.1,
        "n_sequences": 6,
    },
)
TERMS: dict[str, AuxTerm] = {
    "kl_k1": KL(0.1, "k1"),
    "kl_k2": KL(0.1, "k2"),
    "kl_k3": KL(0.1, "k3"),
    "kl_k3+": KL(0.1, "k3+"),
    "kl_abs": KL(0.1, "abs"),
    "kl_adaptive": KL(0.1, "k2", target=0.1, horizon=100),
    "entropy": Entropy(0.1),
    "entropy_floor": Entropy(0.1, floor=0.5),
    "adaptive_entropy": AdaptiveEntropy(0.5),
    "tea": TEA(0.1),
    "tea_times_tokens": TEA(0.1, cap=1.2, times_tokens=True),
    "sft_positives": SFTPositives(),
    "supervised": Supervised(0.5),
    "echo": Echo(0.5),
    "distill": Distill(0.1, "k3"),
    "distill_response": Distill(0.1, skip_correct=True),
    "distill_group": DistillUnsolved(0.1),
    "redi": REDI(),
    "dpo": DPO(beta=0.5),
}


class Scene(NamedTuple):
    batch: Batch
    logprobs: Tensor
    entropies: Tensor


def scene(make: Make) -> Scene:
    """Three groups; a trajectory of two rows, observations, an expert's row, an unsolved group."""
    generator = torch.Generator().manual_seed(6)
    batch = make(
        [1, 0, 0, 0.5, 0, 1, 0.2, 0.1],
        [0, 0, 0, 0, 1, 1, 2, 2],
        lengths=[7, 3, 5, 6, 1, 4, 5, 2],
        trajectories=[0, 1, 1, 2, 3, 4, 5, 6],
    )
    mask = batch.mask.clone()
    mask[0, 3:5] = mask[3, 2] = mask[6, 1:3] = False
    origins = torch.where(batch.mask & ~mask, int(Origin.OBSERVATION), batch.origins)
    origins[4, 1] = int(Origin.DEMO)
    origins[3, 5:7] = int(Origin.DEMO)
    mask[4], mask[3, 5:7] = False, False
    counts = torch.zeros(7, dtype=torch.int64).index_add(0, batch.trajectory_index, mask.sum(1))
    numbers = -torch.rand(4, *mask.shape, generator=generator)
    batch = replace(
        batch,
        mask=mask,
        origins=origins.to(torch.int8),
        trained=counts[batch.trajectory_index],
        ref_logprobs=numbers[0],
        teacher_logprobs=numbers[1],
        advantages=torch.randn(mask.shape, generator=generator) * mask,
    ).recount()
    return Scene(batch, numbers[2], -numbers[3])


def told(
    term: AuxTerm, given: Scene, cuts: list[Tensor] | None = None
) -> tuple[float, Tensor, Tensor, dict[str, float]]:
    """Loss, its gradients by logprobs and by entropies, and metrics, added up over cuts of the rows."""
    whole = given.batch
    count = int(term.tokens(whole).sum()) if isinstance(term, OwnTokens) else whole.n_tokens
    weights = None
    if isinstance(term, OwnWeights):
        weights = term.weights(replace(whole, old_logprobs=given.logprobs), CTX)
    logprobs = given.logprobs.clone().requires_grad_(True)
    entropies = given.entropies.clone().requires_grad_(True)
    value, metrics = 0.0, defaultdict[str, float](float)
    for rows in cuts or [torch.arange(len(given.batch))]:
        part = given.batch.select(rows)
        width = part.mask.shape[1]
        own = None if weights is None else weights[rows, :width]
        output = ForwardOutput(logprobs[rows, :width], entropies[rows, :width], count, own)
        share, numbers = term(output, part, CTX)
        if share.requires_grad:
            share.backward()
        value += share.item()
        for name, number in numbers.items():
            assert not number.requires_grad
            metrics[name] += float(number)
    slopes = (x.grad if x.grad is not None else torch.zeros_like(x) for x in (logprobs, entropies))
    by_logprobs, by_entropies = slopes
    return value, by_logprobs, by_entropies, dict(metrics)


@pytest.mark.parametrize("name", TERMS)
def test_micro_batches_and_ranks_do_not_matter(make: Make, name: str) -> None:
    given, term = scene(make), TERMS[name]
    value, *slopes, metrics = told(term, given)
    assert value != 0
    assert sum(float(x.abs().sum()) for x in slopes) > 0
    for cuts in (
        [torch.tensor([row]) for row in (4, 0, 5, 2, 3, 7, 6, 1)],
        [micro.rows for micro in given.batch.micro_batches(14, given.batch.attention_mask)],
        [torch.tensor([1, 5, 3, 7]), torch.tensor([2, 0, 6, 4])],
    ):
        again, *others, numbers = told(term, given, cuts)
        assert again == pytest.approx(value, abs=1e-6)
        assert numbers == pytest.approx(metrics, abs=1e-6)
        for got, expected in zip(others, slopes, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_only_a_terms_own_tokens_matter(make: Make, name: str) -> None:
    """Anything elsewhere, infinities too, changes no bit of the loss or of its gradients."""
    given, term = scene(make), TERMS[name]
    own = term.tokens(given.batch) if isinstance(term, OwnTokens) else given.batch.mask
    value, *slopes, _ = told(term, given)
    off = ~own
    for number in (3.0, -math.inf):
        batch = given.batch
        changed = Scene(
            replace(
                batch,
                ref_logprobs=_put(batch.ref_logprobs, off & ~batch.mask, number),
                teacher_logprobs=_put(batch.teacher_logprobs, off & ~batch.mask, number),
            ),
            given.logprobs.masked_fill(off, number),
            given.entropies.masked_fill(off, abs(number)),
        )
        again, *others, _ = told(term, changed)
        assert again == value
        for got, expected in zip(others, slopes, strict=True):
            assert torch.equal(got, expected)
            assert not got[off].any()


def _put(values: Tensor | None, where: Tensor, number: float) -> Tensor:
    assert values is not None
    return values.masked_fill(where, number)


@pytest.mark.parametrize("name", TERMS)
def test_a_batch_without_its_tokens_gives_nothing(make: Make, name: str) -> None:
    given, term = scene(make), TERMS[name]
    nothing = replace(
        given.batch,
        mask=torch.zeros_like(given.batch.mask),
        origins=torch.zeros_like(given.batch.origins),
        trained=torch.zeros_like(given.batch.trained),
        advantages=torch.zeros(given.batch.mask.shape),
    ).recount()
    value, *slopes, metrics = told(term, given._replace(batch=nothing))
    assert value == 0
    assert not any(x.any() for x in slopes)
    assert all(number == 0 for number in metrics.values())


def test_terms_say_what_they_need() -> None:
    needed = {name: set(needs_of(term)) for name, term in TERMS.items() if needs_of(term)}
    assert needed == {
        **{name: {"reference"} for name in TERMS if name.startswith("kl")},
        **{name: {"teacher"} for name in TERMS if name.startswith("distill")},
        "dpo": {"reference"},
    }
