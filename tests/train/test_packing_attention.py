"""Attention over a forest against a softmax under the mask that spells it out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agentrl.train.packing import attention
from agentrl.train.packing.attention import Part, forest_attention, part, portable_part
from agentrl.train.packing.forest import Forest, forest

N_HEADS, N_KEYS, WIDTH, SCALE = 6, 2, 8, 0.3


def scene(seed: int, family: str) -> tuple[Forest, Tensor]:
    """A forest and the mask [N, N] of who sees whom."""
    rng = np.random.default_rng(seed)
    n_rows, n_columns = {"alone": (1, 9), "star": (6, 30), "nested": (9, 40)}[family]
    ids = rng.integers(0, 2, (n_rows, n_columns))
    ids[:, : {"alone": 0, "star": 20, "nested": 4}[family]] = 1
    lengths = rng.integers(n_columns // 2, n_columns + 1, n_rows)
    made = forest(ids, lengths, min_shared=1)
    visible = torch.zeros(len(made), len(made), dtype=torch.bool)
    for places, n in zip(made.places, lengths, strict=True):
        own = torch.from_numpy(places[:n])
        for t in range(n):
            visible[own[t], own[: t + 1]] = True
    return made, visible


def inputs(n_tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(n_tokens, heads, WIDTH, generator=rng, dtype=torch.float64)
        .to(dtype)
        .transpose(0, 1)  # as models hand them over: heads are not outermost in memory
        .requires_grad_()
        for heads in (N_HEADS, N_KEYS, N_KEYS)
    )


def results(out: Tensor, given: tuple[Tensor, ...]) -> list[Tensor]:
    slopes = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    return [out, *torch.autograd.grad(out, given, slopes.to(out.dtype))]


def plain(given: tuple[Tensor, ...], visible: Tensor) -> Tensor:
    query, key, value = (x.double() for x in given)
    n_groups = N_HEADS // N_KEYS
    key, value = key.repeat_interleave(n_groups, 0), value.repeat_interleave(n_groups, 0)
    scores = (query @ key.mT * SCALE).masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ value


@pytest.mark.parametrize("kernel", ["fused", "portable"])
@pytest.mark.parametrize("family", ["alone", "star", "nested"])
def test_equals_a_softmax_under_the_mask(
    family: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "portable":
        monkeypatch.setattr(attention, "_has_kernel", lambda *_: False)
        monkeypatch.setattr(attention, "SCORES", 300)  # several slices of queries
    for seed in range(4):
        made, visible = scene(seed, family)
        given = inputs(len(made), torch.float32)
        got = results(forest_attention(*given, made.levels, SCALE), given)
        expected = results(plain(given, visible).float(), given)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_the_portable_kernel_passes_the_numerical_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_has_kernel", lambda *_: False)
    made, _ = scene(3, "star")
    given = inputs(len(made), torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, k, v: forest_attention(q, k, v, made.levels, SCALE), given, fast_mode=True
    )


@pytest.mark.parametrize("family", ["star", "nested"])
def test_bf16_is_as_close_as_its_rounding(family: str) -> None:
    made, visible = scene(0, family)
    given = inputs(len(made), torch.bfloat16)
    got = results(forest_attention(*given, made.levels, SCALE), given)
    expected = results(plain(given, visible).to(torch.bfloat16), given)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype is torch.bfloat16
        gap = (one - other).float().abs().max() / other.float().abs().max()
        assert gap < 2e-2


def test_the_fused_kernel_is_causal_from_the_first_query_and_gives_its_lse() -> None:
    """What `part` assumes of it: query i sees keys 0..i, later queries all; shapes [K, G, L(, D)]."""
    query, key, value = inputs(50, torch.float32)
    grouped = query.detach().unflatten(0, (N_KEYS, -1))
    for n_keys in (1, 7, 50):
        given = (grouped, key[:, :n_keys].detach(), value[:, :n_keys].detach(), SCALE)
        got, expected = part(*given), portable_part(*given)
        assert isinstance(got, Part)
        torch.testing.assert_close(got.out, expected.out, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got.lse, expected.lse, rtol=1e-5, atol=1e-5)
        by_hand = (query[3, 20] * SCALE) @ key[1, : min(n_keys, 21)].T
        assert got.lse[1, 0, 20].item() == pytest.approx(by_hand.logsumexp(0).item(), rel=1e-5)
