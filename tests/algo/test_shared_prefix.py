"""ARPO on branched rows: who shares a token, by hand and by walking every chain of parents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from agentrl.algo.advantage import GRPO, Outcome
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.shared_prefix import ARPO, token_owners
from agentrl.algo.types import Batch
from agentrl.points import Ctx

CTX = Ctx(step=0, total_steps=1, seed=0)
Make = Callable[..., Batch]
REWARDS = [1, 0, 0.2, 0.9, 0.1, 0.4, 0.8, 0.2]
POPULATION = Outcome(ddof=0)


def branched(batch: Batch, branches: dict[int, tuple[int, int]]) -> Batch:
    """row -> (parent, leading tokens in common); ids are copied down, in the order given."""
    ids = torch.arange(batch.token_ids.numel()).reshape(batch.token_ids.shape) + 1
    ids[:, 0] = 0
    parents, forks = batch.parents.clone(), batch.forks.clone()
    for row, (parent, n) in branches.items():
        ids[row, :n] = ids[parent, :n]
        parents[row], forks[row] = parent, n
    return replace(batch, token_ids=ids, parents=parents, forks=forks)


def test_two_pairs_share_two_tokens(make: Make) -> None:
    """Rows 0 and 1, 3 and 4 share the prompt and two tokens: .1361 on both pairs' shared ones."""
    batch = branched(make(REWARDS, [0] * 8, [4] * 8), {1: (0, 3), 4: (3, 3)})
    got = ARPO("hard", POPULATION)(batch, CTX)
    private = [1.4969, -1.2247, -0.6804, 1.2247, -0.9526, -0.1361, 0.9526, -0.6804]
    assert got[:, 4].tolist() == pytest.approx(private, abs=1e-4)
    assert got[:, 3].tolist() == pytest.approx(private, abs=1e-4)
    shared = [0.1361, 0.1361, -0.6804, 0.1361, 0.1361, -0.1361, 0.9526, -0.6804]
    assert got[:, 1].tolist() == pytest.approx(shared, abs=1e-4)
    assert got[:, 2].tolist() == pytest.approx(shared, abs=1e-4)


def test_nested_branches(make: Make) -> None:
    """1 leaves 0 after one token, 2 leaves 1 after three, 3 leaves 2 after one; rewards 4 0 2 6.

    Token 1 is everybody's (mean 3), tokens 2 and 3 are 0's alone, 1's and 2's, and 3's alone.
    """
    batch = branched(make([4, 0, 2, 6], [0] * 4, [4] * 4), {1: (0, 2), 2: (1, 4), 3: (2, 2)})
    got = ARPO("hard", Outcome(center="none", scale="none"))(batch, CTX)
    assert got[:, 1:].tolist() == [[3, 4, 4, 4], [3, 1, 1, 0], [3, 1, 1, 2], [3, 6, 6, 6]]


@pytest.mark.parametrize("seed", range(8))
def test_equals_walking_up_every_chain(make: Make, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    n, width = 9, 7
    branches = {
        row: (
            int(torch.randint(row, (), generator=rng)),
            int(torch.randint(width, (), generator=rng)),
        )
        for row in range(1, n)
        if int(torch.randint(4, (), generator=rng))
    }
    lengths = torch.randint(3, width, (n,), generator=rng).tolist()
    batch = branched(make(torch.rand(n, generator=rng).tolist(), [0] * n, lengths), branches)
    attended = batch.attention_mask
    owners = token_owners(batch)
    own = ARPO(base=GRPO)(batch, CTX)
    hard = ARPO("hard", GRPO)(batch, CTX)
    for row in range(n):
        for column in range(1, lengths[row] + 1):
            top = row
            while top in branches:
                parent, fork = branches[top]
                both = (attended[parent] & attended[top])[:fork].long().cumprod(0).sum()
                if column >= both:
                    break
                top = parent
            assert int(owners[row, column]) == top
            sharers = [r for r in range(n) if attended[r, column] and owners[r, column] == top]
            mean = sum(float(own[r, 1]) for r in sharers) / len(sharers)
            assert float(hard[row, column]) == pytest.approx(mean, abs=1e-5)


def test_hard_and_soft_have_one_gradient_where_ratios_are_equal(make: Make) -> None:
    """The copies of a token carry the same logprob, so only the sum of their advantages counts."""
    batch = branched(make(REWARDS, [0] * 8, [4] * 8), {1: (0, 3), 2: (1, 4), 4: (3, 2)})
    owners = token_owners(batch)
    width = owners.shape[1]
    tokens = torch.zeros(owners.numel(), requires_grad=True)
    grads: list[torch.Tensor] = []
    for mode in ("soft", "hard"):
        logprobs = tokens[owners * width + torch.arange(width)]
        advantages = ARPO(mode, GRPO)(batch, CTX)  # type: ignore[arg-type]
        losses, _ = Clip()(logprobs, logprobs.detach(), advantages, batch.mask)
        (grad,) = torch.autograd.grad(Aggregate()(losses, batch), tokens)
        grads.append(grad)
    assert grads[0].abs().max() > 0.01
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-7)


def test_soft_and_unbranched_are_the_outcome(make: Make) -> None:
    batch = make(REWARDS, [0, 0, 0, 0, 1, 1, 1, 1], [3, 1, 2, 4, 1, 2, 3, 4])
    assert torch.equal(ARPO()(batch, CTX), GRPO(batch, CTX))
    assert torch.equal(ARPO("hard")(batch, CTX), GRPO(batch, CTX))
    family = branched(batch, {1: (0, 2)})
    assert torch.equal(ARPO("soft")(family, CTX), GRPO(family, CTX))


def test_excluded_rows_are_not_among_the_sharers(make: Make, recount: Make) -> None:
    batch = branched(make([4, 0, 2], [0] * 3, [2] * 3), {1: (0, 2), 2: (0, 2)})
    mask = batch.mask.clone()
    mask[1] = False
    batch = recount(replace(batch, mask=mask))
    got = ARPO("hard", Outcome(center="none", scale="none"))(batch, CTX)
    assert got[:, 1].tolist() == [3, 0, 3]


def test_a_prefix_trained_once_still_gets_everybodys_mean(make: Make, recount: Make) -> None:
    """As CURE has it the branch does not train the prefix; the parent's copy stands for all."""
    batch = branched(make([4, 0], [0] * 2, [2] * 2), {1: (0, 2)})
    mask = batch.mask.clone()
    mask[1, 1] = False
    batch = recount(replace(batch, mask=mask))
    got = ARPO("hard", Outcome(center="none", scale="none"))(batch, CTX)
    assert got[:, 1:].tolist() == [[2, 4], [0, 0]]


def test_only_what_is_really_in_common_is_shared(make: Make) -> None:
    """A second row of a branched trajectory names the same parent and has other ids."""
    batch = branched(make([4, 0], [0] * 2, [3] * 2), {1: (0, 4)})
    ids = batch.token_ids.clone()
    ids[1, 2] = 99
    got = ARPO("hard", Outcome(center="none", scale="none"))(replace(batch, token_ids=ids), CTX)
    assert got[:, 1:].tolist() == [[2, 4, 4], [2, 0, 0]]
