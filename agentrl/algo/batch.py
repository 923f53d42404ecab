"""Groups of trajectories -> flat tensors.

Rows are ordered by (group as given, sibling, row) and never by arrival. Trajectories that the world
failed are left out of the tensors and so of every statistic; excluded ones (void, overlong) keep
their place in the statistics and train no token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agentrl.algo.types import Batch, RowContext
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import BoolArray, Float32Array, Origin, Transcript


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One row as it is trained: under its `train_context` where it has one."""

    transcript: Transcript
    n_prompt: int
    """Tokens of the sampled prompt that `prompt` replaces."""
    prompt: np.ndarray
    """Ids [p] put in their place; empty when nothing is replaced."""
    mask: BoolArray
    """[t] of the transcript, before the replacement."""
    token_rewards: Float32Array | None
    trajectory: int
    group: int
    reward: float
    weight: float
    length: int
    trained: int
    correct: bool = False
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    uid: str = ""
    parent: str | None = None
    fork: int = 0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.transcript) - self.n_prompt

    def aligned(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Per-token values of the transcript, `fill` over the replaced prompt."""
        head = np.full(len(self.prompt), fill, values.dtype)
        return np.concatenate([head, values[self.n_prompt :]])


def make_batch(
    groups: Sequence[Group], *, pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """The batch of a step.

    Raises ValueError when a trajectory has no shaped reward yet (None is not 0.0), when a row
    starts with a trained token, when a group mixes the two ratio modes, or when no row is left.
    """
    rows: list[_Row] = []
    n_trajectories = 0
    for index, group in enumerate(groups):
        _refuse_mixed_ratios(group)
        for position, trajectory in _members(group):
            if trajectory.reward is None:
                raise ValueError(f"trajectory {trajectory.uid} has no shaped reward")
            per_token = group.token_rewards[position] if group.token_rewards else None
            rows += _rows(trajectory, per_token, n_trajectories, index)
            n_trajectories += 1
    return _padded(rows, pad_id).to(device)


def demo_batch(
    rows: Sequence[Transcript], *, pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """Rows of demonstrations for a supervised update: no reward, no policy mask."""
    made = [
        _Row(
            transcript=row,
            n_prompt=0,
            prompt=np.zeros(0, np.int32),
            mask=np.zeros(len(row), np.bool_),
            token_rewards=None,
            trajectory=index,
            group=index,
            reward=0.0,
            weight=1.0,
            length=row.n_sampled,
            trained=0,
        )
        for index, row in enumerate(rows)
    ]
    return _padded(made, pad_id).to(device)


def _members(group: Group) -> list[tuple[int, Trajectory]]:
    members = [(i, t) for i, t in enumerate(group.trajectories) if t.error is None]
    return sorted(members, key=lambda member: (member[1].sibling, member[1].uid))


def _refuse_mixed_ratios(group: Group) -> None:
    modes = {
        row.ratio_mode
        for trajectory in group.trajectories
        for row in trajectory.rows
        if row.train_context is not None
    }
    if len(modes) > 1:
        raise ValueError(
            f"the group of task {group.task.id} mixes ratio modes {', '.join(sorted(modes))}; a plan "
            "trains all its hinted rows one way"
        )


def _rows(
    trajectory: Trajectory, per_token: Float32Array | None, index: int, group: int
) -> list[_Row]:
    trains = trajectory.excluded is None
    total = sum(len(row) for row in trajectory.rows)
    if per_token is not None and len(per_token) != total:
        raise ValueError(f"{trajectory.uid}: {len(per_token)} token rewards for {total} tokens")
    made: list[_Row] = []
    start = 0
    for row in trajectory.rows:
        made.append(
            _Row(
                transcript=row,
                n_prompt=_n_prompt(row),
                prompt=np.zeros(0, np.int32) if row.train_context is None else row.train_context,
                mask=row.mask if trains else np.zeros(len(row), np.bool_),
                token_rewards=None if per_token is None else per_token[start : start + len(row)],
                trajectory=index,
                group=group,
                reward=float(trajectory.reward or 0.0),
                weight=trajectory.weight,
                length=trajectory.n_sampled,
                trained=trajectory.n_sampled if trains else 0,
                correct=trajectory.correct,
                components=trajectory.rewards,
                uid=trajectory.uid,
                parent=trajectory.parent,
                fork=trajectory.fork_tokens or 0,
            )
        )
        start += len(row)
    return made


def _n_prompt(row: Transcript) -> int:
    if row.train_context is None:
        return 0
    return sum(len(s) for s in row.segments if s.origin is Origin.PROMPT)


def _padded(rows: Sequence[_Row], pad_id: int) -> Batch:
    if not rows:
        raise ValueError("a batch needs at least one row; every trajectory failed")
    scored = any(row.token_rewards is not None for row in rows)
    mask = _stack(rows, [r.aligned(r.mask, False) for r in rows], False, torch.bool)
    trained = {row.trajectory for row in rows if row.trained}
    return Batch(
        token_ids=_stack(rows, [_ids(r) for r in rows], pad_id, torch.int64),
        attention_mask=_stack(rows, [np.ones(len(r), np.bool_) for r in rows], False, torch.bool),
        mask=mask,
        behaviour_logprobs=_stack(rows, [_behaviour(r) for r in rows], 0.0, torch.float32),
        temperatures=_stack(rows, [_temperatures(r) for r in rows], 1.0, torch.float32),
        versions=_stack(
            rows, [r.aligned(r.transcript.versions, -1) for r in rows], -1, torch.int32
        ),
        origins=_stack(rows, [_origins(r) for r in rows], int(Origin.PROMPT), torch.int8),
        rewards=torch.tensor([r.reward for r in rows], dtype=torch.float32),
        weights=torch.tensor([r.weight for r in rows], dtype=torch.float32),
        trajectory_index=torch.tensor([r.trajectory for r in rows]),
        group_index=torch.tensor([r.group for r in rows]),
        lengths=torch.tensor([r.length for r in rows]),
        trained=torch.tensor([r.trained for r in rows]),
        contexts=torch.tensor([_context(r) for r in rows], dtype=torch.int8),
        correct=torch.tensor([r.correct for r in rows]),
        parents=torch.tensor(_parents(rows)),
        forks=torch.tensor([r.fork if r.parent is not None else 0 for r in rows]),
        components={
            name: torch.tensor([r.components.get(name, 0.0) for r in rows], dtype=torch.float32)
            for name in sorted({name for r in rows for name in r.components})
        },
        n_tokens=int(mask.sum()),
        n_sequences=len(trained),
        entropies=_entropies(rows),
        token_rewards=_stack(rows, [_token_rewards(r) for r in rows], 0.0, torch.float32)
        if scored
        else None,
    )


def _parents(rows: Sequence[_Row]) -> list[int]:
    """The row each was branched from: its parent trajectory's last one; -1 when that is not here."""
    last = {row.uid: index for index, row in enumerate(rows) if row.uid}
    return [-1 if row.parent is None else last.get(row.parent, -1) for row in rows]


def _stack(
    rows: Sequence[_Row], values: Sequence[np.ndarray], fill: float, dtype: torch.dtype
) -> Tensor:
    stacked = torch.full((len(rows), max(map(len, rows))), fill, dtype=dtype)
    for target, value in zip(stacked, values, strict=True):
        target[: len(value)] = torch.tensor(value)
    return stacked


def _ids(row: _Row) -> np.ndarray:
    return np.concatenate([row.prompt, row.transcript.token_ids[row.n_prompt :]])


def _behaviour(row: _Row) -> np.ndarray:
    return row.aligned(row.transcript.logprobs, 0.0)


def _temperatures(row: _Row) -> np.ndarray:
    # Greedy tokens carry the logprobs of temperature 1 (the engine's contract).
    values = row.aligned(row.transcript.temperatures, 1.0)
    return np.where(values > 0, values, np.float32(1.0)).astype(np.float32)


def _origins(row: _Row) -> np.ndarray:
    return row.aligned(row.transcript.origins, int(Origin.PROMPT))


def _entropies(rows: Sequence[_Row]) -> Tensor | None:
    """What the engine recorded; None is cheaper than a tensor of nan."""
    if all(s.entropies is None for row in rows for s in row.transcript.segments):
        return None
    recorded = [
        row.aligned(
            np.concatenate(
                [
                    np.full(len(s), np.nan, np.float32) if s.entropies is None else s.entropies
                    for s in row.transcript.segments
                ]
            ),
            np.nan,
        )
        for row in rows
    ]
    return _stack(rows, recorded, np.nan, torch.float32)


def _token_rewards(row: _Row) -> np.ndarray:
    if row.token_rewards is None:
        return np.zeros(len(row), np.float32)
    return row.aligned(row.token_rewards, 0.0)


def _context(row: _Row) -> RowContext:
    if row.transcript.train_context is None:
        return RowContext.SAME
    relabel = row.transcript.ratio_mode == "relabel"
    return RowContext.RELABEL if relabel else RowContext.BEHAVIOUR


__all__ = ["demo_batch", "make_batch"]
