"""AdamW over named parameters, with its schedule and a state that fits one safetensors file."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# torch leaves optimiser state untyped; what leaves this file is typed.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agentrl.errors import UserError


@dataclass(frozen=True, slots=True)
class AdamWOptions:
    """Decoupled weight decay (1711.05101), linear warm-up, constant or linearly falling rate."""

    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Applied to matrices and embeddings, not to norms and biases."""
    max_grad_norm: float = 1.0
    """Global norm the gradient is scaled down to; inf leaves it."""
    warmup_steps: int = 0
    """Optimiser step k (from 1) of the warm-up runs at lr k / warmup_steps."""
    decay_steps: int | None = None
    """Steps from the first to the one where the rate would reach 0; None keeps it constant."""

    def __post_init__(self) -> None:
        if self.lr < 0 or self.max_grad_norm <= 0 or self.warmup_steps < 0:
            raise UserError(
                "learner.lr and warmup_steps are at least 0 and max_grad_norm is above 0, not "
                f"{self.lr}, {self.warmup_steps} and {self.max_grad_norm}"
            )

    def factor(self, step: int) -> float:
        """What the base rate is multiplied by at optimiser step `step`, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_steps is None:
            return warm
        return warm * max(0.0, 1 - step / self.decay_steps)


class NamedAdamW:
    """torch's AdamW, its moments addressed by parameter name."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], options: AdamWOptions) -> None:
        self.options = options
        self.base_lr = options.lr
        self.n_steps = 0
        """Optimiser steps taken."""
        decayed = [(n, p) for n, p in named if p.dim() >= 2]
        plain = [(n, p) for n, p in named if p.dim() < 2]
        self._named = decayed + plain
        self._groups = [
            {"params": [p for _, p in decayed], "weight_decay": options.weight_decay},
            {"params": [p for _, p in plain], "weight_decay": 0.0},
        ]
        self.reset()

    def reset(self) -> None:
        """Forget the moments; steps already taken still count for the schedule."""
        self._adamw = torch.optim.AdamW(
            [dict(group) for group in self._groups if group["params"]],
            lr=self.base_lr,
            betas=self.options.betas,
            eps=self.options.eps,
            fused=True,
        )

    @property
    def lr(self) -> float:
        """The rate the next step runs at."""
        return self.base_lr * self.options.factor(self.n_steps)

    def step(self) -> tuple[float, bool]:
        """Clip, then step unless the gradient is not finite; returns (norm before, stepped).

        Gradients are cleared either way.
        """
        parameters = [p for _, p in self._named]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm))
        finite = norm < float("inf")
        if finite:
            for group in self._adamw.param_groups:
                group["lr"] = self.lr
            self._adamw.step()
            self.n_steps += 1
        self._adamw.zero_grad(set_to_none=True)
        return norm, finite

    def tensors(self) -> dict[str, Tensor]:
        """Live moments as `<moment>.<parameter name>`; empty before the first step."""
        return {
            f"{moment}.{name}": value
            for name, parameter in self._named
            for moment, value in sorted(self._adamw.state.get(parameter, {}).items())
        }

    def restore(self, tensors: Mapping[str, Tensor], *, n_steps: int, base_lr: float) -> None:
        """Take over what `tensors` gave. Raises UserError when it is of another model."""
        self.n_steps, self.base_lr = n_steps, base_lr
        self.reset()
        index = {name: i for i, (name, _) in enumerate(self._named)}
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            moment, _, name = key.partition(".")
            if name not in index or value.shape not in (self._named[index[name]][1].shape, ()):
                raise UserError(f"the optimiser state {key!r} does not fit this model")
            state.setdefault(index[name], {})[moment] = value.clone()
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": state, "param_groups": groups})


__all__ = ["AdamWOptions", "NamedAdamW"]
