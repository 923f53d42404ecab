"""From logits to sampled ids, logprobs and entropies.

A draw is inverse-CDF sampling with one uniform number that depends on (seed, position) alone, so
the same request gives the same tokens in any batch and at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agentrl.engine.cache import IntArray
from agentrl.transcript import Float32Array, Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """How each row [m] of logits is sampled."""

    temperatures: Float32Array
    """0 is greedy, with logprobs of temperature 1."""
    top_k: IntArray
    """0 keeps every token."""
    top_p: Float32Array
    seeds: npt.NDArray[np.uint64]
    positions: IntArray
    """Position, in its row, of the token to be drawn."""
    targets: IntArray
    """The token to be scored; -1 draws one."""
    entropies: bool


class Drawn(NamedTuple):
    """Results per row [m]."""

    token_ids: Int32Array
    logprobs: Float32Array
    entropies: Float32Array | None


def draw(logits: Tensor, draws: Draws) -> Drawn:
    """Sample or score every row of logits [m, vocab].

    Logprobs and entropies are those of the distribution after temperature, top-k and top-p.
    """
    scaled = _filtered(_scaled(logits, draws.temperatures), draws)
    logprobs = torch.log_softmax(scaled, -1)
    picks = _picks(logits, scaled, draws)
    chosen = logprobs.gather(1, picks[:, None])[:, 0]
    entropies: Float32Array | None = None
    if draws.entropies:
        entropies = _entropies(scaled)
    return Drawn(picks.cpu().numpy().astype(np.int32), chosen.cpu().numpy(), entropies)


def uniforms(seeds: npt.NDArray[np.uint64], positions: IntArray) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1 - 2^-32] that depend on (seed, position) alone, shape [m].

    A counter-based generator: SplitMix64's finaliser (Steele et al., OOPSLA 2014) over both.
    """
    mixed = _mix(_mix(seeds) ^ (positions.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)))
    return (mixed >> np.uint64(32)).astype(np.float64) / 2.0**32


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _entropies(scaled: Tensor) -> Float32Array:
    terms = cast(Tensor, torch.special.entr(torch.softmax(scaled, -1)))
    return terms.sum(-1).cpu().numpy()


def _scaled(logits: Tensor, temperatures: Float32Array) -> Tensor:
    factors = np.where(temperatures == 0, 1, temperatures)
    if (factors == 1).all():
        return logits
    return logits / torch.from_numpy(factors).to(logits.device)[:, None]


def _filtered(scaled: Tensor, draws: Draws) -> Tensor:
    """-inf where top-k and then top-p drop a token; rows without a filter are untouched."""
    vocab = scaled.shape[1]
    filtering = (draws.top_p < 1) | ((draws.top_k > 0) & (draws.top_k < vocab))
    rows = np.flatnonzero(filtering & (draws.temperatures > 0))
    if not len(rows):
        return scaled
    index = torch.from_numpy(rows).to(scaled.device)
    ordered, order = torch.sort(scaled[index], dim=-1, descending=True, stable=True)
    keep_k = np.where(draws.top_k[rows] > 0, draws.top_k[rows], vocab)
    ranks = torch.arange(vocab, device=scaled.device)
    ordered = ordered.masked_fill(
        ranks >= torch.from_numpy(keep_k).to(scaled.device)[:, None], float("-inf")
    )
    probabilities = torch.softmax(ordered, -1).double()
    before = probabilities.cumsum(-1) - probabilities
    limits = torch.from_numpy(draws.top_p[rows]).to(scaled.device).double()[:, None]
    # The likeliest token always stays, and a limit of 1 drops nothing whatever the rounding.
    dropped = (before >= limits) & (limits < 1) & (ranks > 0)
    ordered = ordered.masked_fill(dropped, float("-inf"))
    kept = torch.empty_like(ordered).scatter_(1, order, ordered)
    return scaled.index_copy(0, index, kept)


def _picks(logits: Tensor, scaled: Tensor, draws: Draws) -> Tensor:
    """The id of every row [m]: its target, its likeliest token or a draw."""
    greedy, given = draws.temperatures == 0, draws.targets >= 0
    picks = torch.from_numpy(np.where(given, draws.targets, 0)).to(logits.device)
    if (greedy & ~given).any():
        best = logits.argmax(-1)
        picks = torch.where(torch.from_numpy(greedy & ~given).to(picks.device), best, picks)
    if (~greedy & ~given).any():
        cumulative = torch.softmax(scaled, -1).double().cumsum(-1)
        numbers = torch.from_numpy(uniforms(draws.seeds, draws.positions)).to(picks.device)
        levels = numbers[:, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, levels, right=True)[:, 0]
        picks = torch.where(torch.from_numpy(~greedy & ~given).to(picks.device), drawn, picks)
    return picks
