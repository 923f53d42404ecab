"""What a forward is asked for, and what it spared: the states of the tokens to score, back to flat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from agentrl.train.packing.cuts import input_lengths
from agentrl.train.packing.pack import Packed


class Wanted(NamedTuple):
    """M different tokens to score, on the model's device."""

    states: Tensor
    """[M, H]: what predicts each."""
    targets: Tensor
    """i64 [M]."""
    temperatures: Tensor
    """f32 [M]."""
    copies: Tensor | None = None
    """i64 [n]: which of the M each wanted token of the batch is; None: they are the M, in order."""

    @classmethod
    def of(cls, hidden: Tensor, packed: Packed) -> Wanted:
        """From the last hidden states [N, H] of a forest."""
        predictors, targets, temperatures, copies = (
            x.to(hidden.device)
            for x in (packed.predictors, packed.targets, packed.temperatures, packed.copies)
        )
        return cls(hidden.index_select(0, predictors), targets, temperatures, copies)

    def scattered(self, values: Tensor, tokens: Tensor) -> Tensor:
        """Values [M] at all places of their tokens (bool [B, T]), 0 elsewhere: [B, T]."""
        values = values if self.copies is None else values.index_select(0, self.copies)
        return torch.zeros(tokens.shape, device=tokens.device).masked_scatter(tokens, values)


@dataclass(slots=True)
class Tally:
    """Tokens a model was given and tokens it computed for them."""

    given: int = 0
    """Up to the last predictor of each row, padding left out."""
    computed: int = 0
    """Shared prefixes once, padding included."""

    def add(self, tokens: Tensor, computed: int) -> None:
        """Count a forward that scores `tokens` (bool [B, T])."""
        self.given += int(input_lengths(tokens).sum())
        self.computed += computed

    @property
    def ratio(self) -> float:
        """Given over computed: above 1 is what sharing saves, below 1 what padding costs."""
        return self.given / self.computed if self.computed else 1.0


__all__ = ["Tally", "Wanted"]
