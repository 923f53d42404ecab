"""Losses, aggregations, KL estimates and the value loss beside verl's, value and gradient.

The numbers are verl's own (`oracle/make_verl_losses.py`), on rows with holes in the mask and one row
without any trained token.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agentrl.algo.aux import adapted, kl_estimate
from agentrl.algo.loss import Aggregate, Clip
from agentrl.algo.losses import CISPO, GSPO
from agentrl.algo.types import Batch
from agentrl.algo.value_loss import value_losses
from agentrl.points import PolicyLoss

MADE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "oracle" / "verl_losses.json").read_text()
)
ROWS = {
    name: torch.tensor(values, dtype=torch.bool if name == "mask" else torch.float64)
    for name, values in MADE["rows"].items()
}
MASK = ROWS["mask"]
Case = dict[str, Any]


def cases(*names: str) -> list[Any]:
    def label(case: Case) -> str:
        parts = (
            case[key] for key in ("name", "low", "high", "mode", "clip", "kind") if key in case
        )
        return "-".join(str(part) for part in parts)

    return [pytest.param(case, id=label(case)) for case in MADE["cases"] if case["name"] in names]


def check(case: Case, leaf: Tensor, loss: Tensor) -> None:
    (slopes,) = torch.autograd.grad(loss, leaf)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-7)
    expected = torch.tensor(case["slopes"], dtype=torch.float64)
    torch.testing.assert_close(slopes, expected, rtol=1e-7, atol=1e-9)


def batch_of(make: Callable[..., Batch]) -> Batch:
    batch = make([0] * 4, [0] * 4, lengths=[6] * 4)
    return replace(batch, mask=MASK, trained=MASK.sum(1)).recount()


def loss_of(case: Case) -> PolicyLoss:
    low, high = case["low"], case["high"]
    match case["name"]:
        case "vanilla":
            return Clip(low, high, dual=case["dual"])
        case "gspo":
            return GSPO(low, high, level="token")
        case _:
            return CISPO(low, high)


@pytest.mark.parametrize("case", cases("vanilla", "gspo", "cispo"))
def test_policy_losses(make: Callable[..., Batch], case: Case) -> None:
    leaf = ROWS["logprobs"].clone().requires_grad_(True)
    found, _ = loss_of(case)(leaf, ROWS["old"], ROWS["advantages"], MASK)
    norm = case["mode"] == "seq-mean-token-sum-norm"
    aggregate = Aggregate(case["mode"], length=MASK.shape[1] if norm else None)
    check(case, leaf, aggregate(found, batch_of(make)))


@pytest.mark.parametrize("case", cases("value"))
def test_value_loss(make: Callable[..., Batch], case: Case) -> None:
    leaf = ROWS["values"].clone().requires_grad_(True)
    found = value_losses(leaf, ROWS["old_values"], ROWS["returns"], clip=case["clip"])
    check(case, leaf, Aggregate("token-mean")(found, batch_of(make)))


@pytest.mark.parametrize("case", cases("kl"))
def test_kl_estimates(case: Case) -> None:
    leaf = ROWS["logprobs"].clone().requires_grad_(True)
    check(case, leaf, (kl_estimate(leaf, ROWS["ref"], case["kind"]) * MASK).sum())


def test_kl_controller() -> None:
    coef, seen = 0.1, list[float]()
    for kl in (0.2, 0.05, 0.04, 0.055):
        coef = adapted(coef, kl, target=0.05, n=64, horizon=1000)
        seen.append(coef)
    assert seen == pytest.approx(MADE["controller"])
