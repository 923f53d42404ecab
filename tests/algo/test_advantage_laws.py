"""What every estimator of advantages must keep to, on batches with everything in them at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from agentrl.algo.advantage import GRPO, PRESETS, Outcome, identity
from agentrl.algo.capo import CAPO
from agentrl.algo.deepsearch import DeepSearch
from agentrl.algo.entropy_aware import EntropyAware
from agentrl.algo.gae import GAE
from agentrl.algo.gdpo import GDPO
from agentrl.algo.gigpo import GiGPO
from agentrl.algo.mt_grpo import MTGRPO
from agentrl.algo.oreal import OREAL
from agentrl.algo.pass_at_k import PassAtK
from agentrl.algo.reward_to_go import RewardToGo
from agentrl.algo.shared_prefix import ARPO
from agentrl.algo.types import Batch
from agentrl.config import Plugin
from agentrl.plugins import build
from agentrl.points import Advantage, Ctx, Estimate
from agentrl.registry import names
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=1, seed=0)
ESTIMATORS: dict[str, Advantage] = {
    **PRESETS,
    "batch": Outcome(center="batch", scale="batch"),
    "identity": identity(),
    "gae": GAE(0.99, 0.95),
    "reward_to_go": RewardToGo(0.9),
    "pass_at_k": PassAtK(scaled=True),
    "gdpo": GDPO(),
    "gdpo_token": GDPO(whiten="token"),
    "capo": CAPO(),
    "oreal": OREAL(),
    "arpo": ARPO("hard"),
    "mt_grpo": MTGRPO(),
    "gigpo": GiGPO(),
    "deepsearch": DeepSearch(scaled=True),
    "aepo": EntropyAware(),
}
BY_GROUP = ["grpo", "dr_grpo", "rloo", "opo", "identity", "pass_at_k", "capo", "oreal", "arpo"]
BY_GROUP += ["mt_grpo", "gigpo", "deepsearch"]
"""Whose numbers in one group do not depend on another's."""
RELATIVE = [name for name in BY_GROUP if name not in ("identity", "deepsearch")]
RELATIVE += ["lite_ppo", "gdpo", "batch"]
Make = Callable[..., Batch]
every = pytest.mark.parametrize("name", sorted(ESTIMATORS))


def found(name: str, batch: Batch) -> Tensor:
    if batch.entropies is None:
        batch = replace(batch, entropies=torch.ones_like(batch.behaviour_logprobs))
    got = ESTIMATORS[name](batch, CTX)
    return got.advantages if isinstance(got, Estimate) else got


@pytest.fixture
def rich(make: Make, recount: Make) -> Make:
    """Three groups of 4, 3 and 1 trajectories; some of two rows, some excluded, all with holes."""

    def build(seed: int) -> Batch:
        rng = torch.Generator().manual_seed(seed)
        trajectories = [0, 1, 1, 2, 3, 4, 5, 5, 6, 7]
        groups = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]
        lengths = torch.randint(3, 9, (10,), generator=rng).tolist()
        scalars = torch.rand(8, generator=rng).round(decimals=1)
        batch = make(scalars[trajectories].tolist(), groups, lengths, trajectories)
        shape = batch.mask.shape
        hole = (torch.rand(shape, generator=rng) < 0.3) & batch.mask
        hole[:, 1] = False
        origins = torch.where(hole, int(Origin.OBSERVATION), batch.origins.long()).to(torch.int8)
        mask = batch.mask & ~hole
        mask[4] = False
        batch = replace(
            batch,
            mask=mask,
            origins=origins,
            token_ids=torch.randint(1, 4, shape, generator=rng),
            values=torch.rand(shape, generator=rng),
            entropies=torch.where(mask, torch.linspace(0, 2, shape[1]), torch.nan),
            token_rewards=(torch.rand(shape, generator=rng) - 0.5) * batch.attention_mask,
            correct=(torch.rand(8, generator=rng) < 0.5)[trajectories],
            components={
                k: torch.rand(8, generator=rng).round(decimals=1)[trajectories]
                for k in ("env", "b")
            },
        )
        return recount(batch)

    return build


def taken(batch: Batch, rows: Tensor) -> Batch:
    """Those rows, all columns."""
    return batch.select(rows, batch.mask.shape[1])


@every
@pytest.mark.parametrize("seed", range(3))
def test_finite_and_zero_off_the_mask(rich: Make, name: str, seed: int) -> None:
    batch = rich(seed)
    got = found(name, batch)
    assert got.dtype == torch.float32
    assert got.isfinite().all()
    assert (got[~batch.mask] == 0).all()
    assert got.abs().sum() > 0


@every
@pytest.mark.parametrize("seed", range(3))
def test_permuting_siblings_permutes_advantages(rich: Make, name: str, seed: int) -> None:
    """Rows of one trajectory keep their order; groups and siblings come in any."""
    batch = rich(seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed)).tolist()
    rows = torch.cat([(batch.trajectory_index == t).nonzero().flatten() for t in order])
    place = {t: i for i, t in enumerate(order)}
    mixed = taken(batch, rows)
    renamed = [place[int(t)] for t in mixed.trajectory_index]
    mixed = replace(mixed, trajectory_index=torch.tensor(renamed))
    torch.testing.assert_close(found(name, mixed), found(name, batch)[rows], rtol=1e-5, atol=1e-6)


@every
def test_what_stands_off_the_mask_changes_nothing(rich: Make, name: str) -> None:
    """Ids, logprobs and values of observations and padding; GiGPO reads ids as identities only."""
    batch = rich(0)
    off = ~batch.mask & (batch.origins != int(Origin.MODEL))
    noise = torch.Generator().manual_seed(9)
    ids = torch.randint(1, 50, off.shape, generator=noise)
    ids = batch.token_ids + 1000 if name == "gigpo" else ids
    other = replace(
        batch,
        token_ids=torch.where(off, ids, batch.token_ids),
        behaviour_logprobs=torch.where(off, -7.0, batch.behaviour_logprobs),
        values=torch.where(off, 99.0, batch.values),  # type: ignore[arg-type]
    )
    assert torch.equal(found(name, other), found(name, batch))


@every
def test_padding_changes_nothing(rich: Make, name: str) -> None:
    batch = rich(1)
    wide = {}
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Tensor) and value.dim() == 2:
            fill = 1 if f.name == "temperatures" else -1 if f.name == "versions" else 0
            wide[f.name] = torch.nn.functional.pad(value, (0, 3), value=fill)
    padded = found(name, replace(batch, **wide))
    assert torch.equal(padded[:, :-3], found(name, batch))
    assert (padded[:, -3:] == 0).all()


@pytest.mark.parametrize("name", BY_GROUP)
def test_groups_do_not_touch_each_other(rich: Make, name: str) -> None:
    batch = rich(2)
    first = (batch.group_index == 0).nonzero().flatten()
    torch.testing.assert_close(
        found(name, taken(batch, first)), found(name, batch)[first], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_a_group_of_equals_gets_exactly_nothing(make: Make, name: str, reward: float) -> None:
    batch = make([reward] * 3, [0] * 3, [2, 2, 2])
    same = torch.full((3,), reward)
    batch = replace(batch, correct=same > 0.5, components={"env": same})
    assert (found(name, batch) == 0).all()


@every
def test_a_group_of_one_is_finite(make: Make, name: str) -> None:
    batch = make([0.5], [0], [3])
    zeros = torch.zeros(batch.mask.shape)
    batch = replace(
        batch, values=zeros, token_rewards=zeros, components={"env": torch.tensor([0.5])}
    )
    assert found(name, batch).isfinite().all()


@every
def test_a_batch_that_trains_nothing_is_no_accident(make: Make, name: str) -> None:
    """Every trajectory excluded: the run decides what to do, not an exception from here."""
    batch = make([1, 0], [0, 0], [2, 1])
    zeros = torch.zeros(batch.mask.shape)
    batch = replace(
        batch,
        mask=zeros.bool(),
        values=zeros,
        token_rewards=zeros,
        components={"env": torch.tensor([1.0, 0.0])},
    )
    assert (found(name, batch) == 0).all()


def test_excluded_trajectories_count_in_every_group_statistic(rich: Make) -> None:
    """Row 4 trains nothing; its reward moves its siblings all the same."""
    batch = rich(3)
    worse = replace(
        batch,
        rewards=batch.rewards.index_fill(0, torch.tensor([4]), -5.0),
        correct=batch.correct.index_fill(0, torch.tensor([4]), not bool(batch.correct[4])),
        components={
            k: v.index_fill(0, torch.tensor([4]), -5.0) for k, v in batch.components.items()
        },
    )
    for name in ("grpo", "rloo", "opo", "gdpo", "capo", "oreal", "mt_grpo", "gigpo", "deepsearch"):
        assert not torch.equal(found(name, worse)[:4], found(name, batch)[:4]), name


def test_token_rewards_count_into_outcomes(make: Make, observe: Make) -> None:
    """A penalty inside the reward: [1 - .2 - .1, 0 - .3 + .5 at an observation] = [.7, .2]."""
    batch = observe(make([1, 0], [0, 0], [2, 3]), [(1, 2)])
    paid = replace(batch, token_rewards=torch.tensor([[0, -0.2, -0.1, 0], [0, -0.3, 0.5, 0]]))
    assert PRESETS["dr_grpo"](paid, CTX)[:, 1].tolist() == pytest.approx([0.25, -0.25])
    assert PRESETS["rloo"](paid, CTX)[:, 1].tolist() == pytest.approx([0.5, -0.5])


def test_nothing_is_earned_before_the_first_action(make: Make) -> None:
    """A reward at the prompt is nobody's."""
    batch = make([1, 0], [0, 0], [2, 2])
    early = replace(batch, token_rewards=torch.tensor([[5.0, 0, 0], [0, 0, 0]]))
    for name in ("dr_grpo", "reward_to_go", "mt_grpo", "gigpo", "capo"):
        torch.testing.assert_close(found(name, early), found(name, batch))


def test_every_registered_estimator_is_tried_here() -> None:
    """With its defaults, by the name a recipe uses."""
    made = {type(build("advantage", Plugin(name=name))) for name in names("advantage")}
    ours = {kind for kind in made if kind.__module__.startswith("agentrl.algo")}
    assert ours == {type(estimator) for estimator in ESTIMATORS.values()}
    assert build("advantage", Plugin(name="outcome")) == GRPO
