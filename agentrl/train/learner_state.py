"""What decides a learner's next update, and its two files in a checkpoint.

The weights themselves are in the Hugging Face folder `model` beside them, in fp32 and so exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType] (a bare PathLike in its stub)
    save_file,  # pyright: ignore[reportUnknownVariableType] (a bare PathLike in its stub)
)
from torch import Tensor

from agentrl.errors import UserError

MODEL = "model"
TENSORS = "learner.safetensors"
SCALARS = "learner.json"


@dataclass(frozen=True, slots=True, eq=False)
class LearnerState:
    """Copies, independent of the learner they came from."""

    model: Mapping[str, Tensor]
    """By Hugging Face name, tied weights under each of their names."""
    optimizer: Mapping[str, Tensor]
    """`<moment>.<parameter>`; empty before the first step."""
    reference: Mapping[str, Tensor] | None
    """Weights of the reference model, when one was frozen."""
    critic: Mapping[str, Tensor]
    """A critic's own weights and moments; empty without one."""
    rng: Tensor
    """u8: torch's generator."""
    version: int
    n_updates: int
    """Updates so far, those in which only a critic learnt included."""
    n_steps: int
    """Optimiser steps taken: where the schedule stands."""
    n_skipped: int
    """Steps in a row, up to now, whose gradient was not finite."""
    base_lr: float

    def write(self, folder: Path) -> None:
        """Everything but the model's weights, into `folder`."""
        tensors = {f"optimizer.{name}": value for name, value in self.optimizer.items()}
        for name, value in (self.reference or {}).items():
            # Tied weights share storage, which the format refuses.
            tensors[f"reference.{name}"] = value.clone()
        tensors |= {f"critic.{name}": value.clone() for name, value in self.critic.items()}
        tensors["rng"] = self.rng
        save_file(
            {name: value.cpu().contiguous() for name, value in tensors.items()}, folder / TENSORS
        )
        scalars = {
            "version": self.version,
            "n_updates": self.n_updates,
            "n_steps": self.n_steps,
            "n_skipped": self.n_skipped,
            "base_lr": self.base_lr,
            "reference": self.reference is not None,
        }
        (folder / SCALARS).write_text(json.dumps(scalars, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path, like: Mapping[str, Tensor]) -> LearnerState:
        """The state in `folder`; `like` holds the model's tensors, tied names included.

        Raises UserError when files are missing, damaged or of another model.
        """
        try:
            tensors = load_file(folder / TENSORS)
            scalars = cast(dict[str, float], json.loads((folder / SCALARS).read_text()))
            stored: dict[str, Tensor] = {}
            for file in sorted((folder / MODEL).glob("*.safetensors")):
                stored |= load_file(file)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"{folder} is not a whole checkpoint ({error}); resume from another one"
            ) from error
        reference = under("reference", tensors) if scalars["reference"] else None
        return cls(
            model=_with_tied(stored, like),
            optimizer=under("optimizer", tensors),
            reference=reference,
            critic=under("critic", tensors),
            rng=tensors["rng"],
            version=int(scalars["version"]),
            n_updates=int(scalars["n_updates"]),
            n_steps=int(scalars["n_steps"]),
            n_skipped=int(scalars["n_skipped"]),
            base_lr=float(scalars["base_lr"]),
        )


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `prefix.*`, without the prefix."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def _with_tied(stored: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tied weights, stored once, back under each of their names."""
    by_storage = {like[name].data_ptr(): value for name, value in stored.items() if name in like}
    tied = {
        name: by_storage[tensor.data_ptr()]
        for name, tensor in like.items()
        if name not in stored and tensor.data_ptr() in by_storage
    }
    return {**stored, **tied}


__all__ = ["MODEL", "SCALARS", "TENSORS", "LearnerState", "under"]
