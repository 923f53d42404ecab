"""The flat tensors that advantages, losses and learners see.

Index t of every [B, T] tensor describes token t; logprobs[t] = log pi(x_t | x_<t). Rows are padded
on the right. A *sequence* is a trajectory: one with several rows counts once wherever sequences are
counted. Trees never reach this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from agentrl.algo.tensors import distinct, integers
from agentrl.errors import UserError

if TYPE_CHECKING:
    from agentrl.points import Ctx


class RowContext(IntEnum):
    """Under which prompt a row is trained, and what its ratio is taken against."""

    SAME = 0
    """The prompt it was sampled under."""
    BEHAVIOUR = 1
    """Another prompt; the ratio's denominator is what was sampled (Guide)."""
    RELABEL = 2
    """Another prompt; the denominator is recomputed under it (RuscaRL)."""


class MicroBatch(NamedTuple):
    """Some rows of a batch, cut to the tokens that are needed."""

    rows: Tensor
    """i64 [b]: where they come from."""
    batch: Batch

    def take(self, values: Tensor) -> Tensor:
        """The same cut of a [B, T] tensor of the whole batch."""
        return values[self.rows, : self.batch.token_ids.shape[1]]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B rows of at most T tokens. Raises ValueError when a law of the tensors is broken."""

    token_ids: Tensor
    """i64 [B, T]."""
    attention_mask: Tensor
    """bool [B, T]: False is padding, always on the right."""
    mask: Tensor
    """bool [B, T]: tokens of the policy term. Never index 0, never padding."""
    behaviour_logprobs: Tensor
    """f32 [B, T]: what the engine (or a plan) recorded; 0 where nothing was sampled."""
    temperatures: Tensor
    """f32 [B, T]: the learner scores token t under it; positive."""
    versions: Tensor
    """i32 [B, T]: policy version that sampled the token, else -1."""
    origins: Tensor
    """i8 [B, T]: `agentrl.transcript.Origin`; padding counts as PROMPT."""
    rewards: Tensor
    """f32 [B]: shaped scalar of the row's trajectory."""
    weights: Tensor
    """f32 [B]: multiplies the row's advantages (set by gates)."""
    trajectory_index: Tensor
    """i64 [B]: rows of one trajectory share it."""
    group_index: Tensor
    """i64 [B]: trajectories of one task share it."""
    lengths: Tensor
    """i64 [B]: tokens the policy wrote in the row's whole trajectory, trained or not."""
    trained: Tensor
    """i64 [B]: tokens with mask 1 in the row's whole trajectory."""
    contexts: Tensor
    """i8 [B]: `RowContext`."""
    correct: Tensor
    """bool [B]: the environment's own reward of the row's trajectory is the full score."""
    parents: Tensor
    """i64 [B]: row, counted in the whole step's batch, that this one was branched from; -1: none."""
    forks: Tensor
    """i64 [B]: leading tokens it has in common with its parent; 0 without one."""
    n_tokens: int
    """Global count of tokens with mask 1: the normaliser of `token-mean`."""
    n_sequences: int
    """Global count of trajectories with at least one such token."""
    entropies: Tensor | None = None
    """f32 [B, T] in nats, as the engine recorded them while sampling; nan where it did not. None when
    it was asked for none."""
    token_rewards: Tensor | None = None
    """f32 [B, T], earned at each token beside `rewards`; None when every reward is an outcome."""
    old_logprobs: Tensor | None = None
    """f32 [B, T]: the learner's logprobs before the update, or None when not computed yet."""
    ref_logprobs: Tensor | None = None
    """f32 [B, T]: those of the reference model, or None."""
    teacher_logprobs: Tensor | None = None
    """f32 [B, T]: those of the teacher model, or None."""
    values: Tensor | None = None
    """f32 [B, T]: the critic's value of the state before token t, or None without a critic."""
    advantages: Tensor | None = None
    """f32 [B, T]: what the estimator gave, times the rows' weights; None before it ran."""
    returns: Tensor | None = None
    """f32 [B, T]: the critic's targets, or None."""
    components: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """f32 [B] each: the named reward components of the row's trajectory, before shaping."""

    def __post_init__(self) -> None:
        # A batch is checked where it is made; on an accelerator every check would be a sync.
        if self.token_ids.device.type != "cpu":
            return
        _check_shapes(self)
        _check_laws(self)

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    @property
    def n_masked_rows(self) -> int:
        """Rows that train no token: excluded ones, and those the policy wrote nothing in."""
        return int((~self.mask.any(1)).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def select(self, rows: Tensor, n_columns: int | None = None) -> Batch:
        """Those rows, in that order, cut to `n_columns` or to their longest.

        Global counts stay, so a sum over selections that cover the batch is the batch's.
        """
        if n_columns is None:
            kept = self.attention_mask[rows]
            n_columns = int(kept.sum(1).max()) if len(rows) else 0
        return self._map(lambda x: x[rows, :n_columns] if x.dim() == 2 else x[rows])

    def recount(self) -> Batch:
        """The same rows as a batch of their own: counts are taken over them alone."""
        trained = self.trajectory_index[self.mask.any(1)]
        n_sequences = len(set(integers(trained)))
        return replace(self, n_tokens=int(self.mask.sum()), n_sequences=n_sequences)

    def micro_batches(self, max_tokens: int, tokens: Tensor | None = None) -> list[MicroBatch]:
        """Cover the rows that hold `tokens` (bool [B, T], by default the mask) by micro-batches.

        Each is cut after its last such token and padded to at most `max_tokens` (one row may
        exceed it alone). Rows go by length, then index: the cut depends on nothing else.
        """
        wanted = self.mask if tokens is None else tokens
        columns = torch.arange(1, wanted.shape[1] + 1, device=wanted.device)
        ends = integers((wanted * columns).amax(1))
        order = sorted((row for row in range(len(self)) if ends[row]), key=lambda r: (-ends[r], r))
        cuts: list[list[int]] = []
        for row in order:
            if not cuts or (len(cuts[-1]) + 1) * ends[cuts[-1][0]] > max_tokens:
                cuts.append([])
            cuts[-1].append(row)
        return [
            MicroBatch(rows, self.select(rows, ends[cut[0]]))
            for cut in cuts
            for rows in [torch.tensor(cut, device=self.token_ids.device)]
        ]

    def minibatches(self, n: int) -> list[MicroBatch]:
        """Split for `n` optimiser steps, in order, whole groups together where there are enough.

        Each part counts for itself. Fewer trajectories than `n` give fewer parts.
        """
        if n < 1:
            raise UserError(f"minibatches is at least 1, not {n}; set minibatches=1")
        if n == 1:
            return [MicroBatch(torch.arange(len(self)), self)]
        groups = distinct(self.group_index).inverse
        units = distinct(self.trajectory_index).inverse
        unit = groups if int(groups.max()) + 1 >= n else units
        parts = torch.arange(int(unit.max()) + 1).tensor_split(n)
        rows = [torch.isin(unit, part).nonzero().flatten() for part in parts if len(part)]
        return [
            MicroBatch(r, self.select(r, self.token_ids.shape[1]).recount()) for r in rows if len(r)
        ]

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        components = {name: change(value) for name, value in self.components.items()}
        return replace(self, **changed, components=components)


@dataclass(frozen=True, slots=True, eq=False)
class ForwardOutput:
    """What one differentiable forward of a micro-batch gives an AuxTerm."""

    logprobs: Tensor
    """f32 [B, T], with gradient; 0 where the token was not scored."""
    entropies: Tensor
    """f32 [B, T] in nats, with gradient, of the distribution each scored token came from."""
    n_tokens: int
    """Global count of the term's own tokens: its normaliser."""
    weights: Tensor | None = None
    """f32 [B, T]: this micro-batch's cut of the term's `OwnWeights`; None for a term without."""


@runtime_checkable
class OwnTokens(Protocol):
    """An AuxTerm with a mask of its own; without it a term reads the policy's tokens."""

    def tokens(self, batch: Batch) -> Tensor:
        """bool [B, T]: tokens it needs scored. Never index 0."""
        ...


@runtime_checkable
class OwnWeights(Protocol):
    """An AuxTerm or PolicyLoss whose per-token factors depend on the whole optimiser step's batch.

    Pairs (DPO), softmaxes over tokens (TEA), counts by sign (OREAL) and rank statistics cannot be
    taken from a micro-batch.
    """

    def weights(self, batch: Batch, ctx: Ctx) -> Tensor:
        """f32 [B, T], detached. A term's are handed back, cut to the micro-batch, as
        `ForwardOutput.weights`, and `batch.old_logprobs` (over the mask and its own tokens) is set
        for it; a loss's multiply its losses, and `batch.advantages` is set."""
        ...


_ROW = {
    "rewards": torch.float32,
    "weights": torch.float32,
    "trajectory_index": torch.int64,
    "group_index": torch.int64,
    "lengths": torch.int64,
    "trained": torch.int64,
    "contexts": torch.int8,
    "correct": torch.bool,
    "parents": torch.int64,
    "forks": torch.int64,
}
_TOKEN = {
    "token_ids": torch.int64,
    "attention_mask": torch.bool,
    "mask": torch.bool,
    "behaviour_logprobs": torch.float32,
    "temperatures": torch.float32,
    "versions": torch.int32,
    "origins": torch.int8,
    "entropies": torch.float32,
    "token_rewards": torch.float32,
    "old_logprobs": torch.float32,
    "ref_logprobs": torch.float32,
    "teacher_logprobs": torch.float32,
    "values": torch.float32,
    "advantages": torch.float32,
    "returns": torch.float32,
}


_FINITE = (
    "behaviour_logprobs",
    "old_logprobs",
    "ref_logprobs",
    "teacher_logprobs",
    "token_rewards",
    "values",
    "advantages",
    "returns",
)


def _check_shapes(batch: Batch) -> None:
    n_rows, n_columns = batch.token_ids.shape
    for names, shape in ((_ROW, (n_rows,)), (_TOKEN, (n_rows, n_columns))):
        for name, dtype in names.items():
            tensor: Tensor | None = getattr(batch, name)
            if tensor is None:
                continue
            if tuple(tensor.shape) != shape or tensor.dtype != dtype:
                found = f"{tensor.dtype} {tuple(tensor.shape)}"
                raise ValueError(f"batch.{name} is {found}, expected {dtype} {shape}")


def _check_laws(batch: Batch) -> None:
    attended, mask = batch.attention_mask, batch.mask
    if bool((attended[:, 1:] & ~attended[:, :-1]).any()):
        raise ValueError("batch: padding belongs on the right")
    if bool((mask & ~attended).any()):
        raise ValueError("batch: a padding token is in the policy mask")
    if bool(mask[:, :1].any()):
        raise ValueError("batch: token 0 has no context and cannot be trained")
    for name in _FINITE:
        tensor: Tensor | None = getattr(batch, name)
        if tensor is not None and not bool(tensor[mask].isfinite().all()):
            raise ValueError(f"batch.{name} holds a value that is not finite")
    for name in ("rewards", "weights"):
        if not bool(getattr(batch, name).isfinite().all()):
            raise ValueError(f"batch.{name} holds a value that is not finite")
    if bool((batch.temperatures <= 0).any()):
        raise ValueError("batch: a temperature is not positive")


__all__ = ["Batch", "ForwardOutput", "MicroBatch", "OwnTokens", "OwnWeights", "RowContext"]
