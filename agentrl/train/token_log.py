"""Per-token numbers of one update, gathered over its micro-batches and summarised once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from agentrl.algo.loss import MAX_LOG_RATIO
from agentrl.algo.offpolicy import Correction, Denominators, mismatch
from agentrl.algo.types import Batch, RowContext
from agentrl.transcript import Origin


class TokenLog:
    """Collects masked tokens as flat tensors; nothing here carries a gradient.

    The engine/learner gap is taken over tokens that the engine sampled under the learner's own
    version and prompt; tokens of older versions are reported as drift instead.
    """

    def __init__(self, version: int) -> None:
        self._version = version
        self._columns: list[dict[str, Tensor]] = []

    def add(
        self,
        batch: Batch,
        *,
        learner: Tensor,
        against: Denominators,
        weights: Tensor,
        entropies: Tensor,
        advantages: Tensor,
    ) -> None:
        """One micro-batch; every tensor is [B, T], `learner` its logprobs before the update."""
        mask = batch.mask
        own = (batch.origins == int(Origin.MODEL)) & (
            (batch.contexts == int(RowContext.SAME))[:, None]
        )
        fresh = batch.versions == self._version
        sequences = batch.trajectory_index[:, None].expand_as(mask)
        columns = {
            "sequences": sequences,
            "d": against.old - against.behaviour,
            "weights": weights,
            "entropies": entropies,
            "advantages": advantages,
            "gap": learner - batch.behaviour_logprobs,
            "fresh": own & fresh,
            "stale": own & ~fresh,
        }
        self._columns.append({k: v.detach()[mask].cpu() for k, v in columns.items()})

    def summary(self, correction: Correction) -> Mapping[str, float]:
        """The update's per-token metrics, by the names every recipe logs."""
        if not self._columns:
            return {}
        flat = {k: torch.cat([c[k] for c in self._columns]).double() for k in self._columns[0]}
        sequences = flat["sequences"].long()
        fresh, stale = flat["fresh"] > 0, flat["stale"] > 0
        metrics = {
            "entropy": float(flat["entropies"].mean()),
            "advantage_abs_mean": float(flat["advantages"].abs().mean()),
            "zero_advantage_share": float((flat["advantages"] == 0).double().mean()),
            "stale_share": float(stale.double().mean()),
        }
        if bool(fresh.any()):
            gap = flat["gap"][fresh].abs()
            metrics |= {"gap_mean": float(gap.mean()), "gap_max": float(gap.max())}
        if bool(stale.any()):
            metrics["drift_mean"] = float(flat["gap"][stale].abs().mean())
        d = flat["d"].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return {**metrics, **mismatch(d, flat["weights"], correction, sequences)}


__all__ = ["TokenLog"]
