"""A model's parameters on their way to vLLM: what must come, and weights as files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agentrl.engine.weights import safetensors_files, saved_names

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Names a weight sync must bring."""

    expected: frozenset[str]
    """A tied model's head is not among them."""
    tied: bool
    """Whether the head is the embedding."""

    def missing(self, received: set[str]) -> list[str]:
        """Names that did not come, sorted."""
        return sorted(self.expected - received)

    def known(self, name: str) -> bool:
        """Whether the model has such a parameter."""
        return name in self.expected or name == HEAD

    def with_head(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, and a tied model's embedding a second time as its head.

        vLLM keeps a packed copy of a tied head on a CPU and would go on using the old one, silently.
        """
        both = dict(tensors)
        if self.tied and EMBEDDING in both:
            both[HEAD] = both[EMBEDDING]
        return both


def parameters_of(folder: Path) -> Parameters:
    """Read from the saved model. Raises UserError when it holds no safetensors."""
    from transformers import AutoConfig

    tied = bool(cast(Any, AutoConfig).from_pretrained(folder).tie_word_embeddings)
    names = saved_names(safetensors_files(folder)) - ({HEAD} if tied else set())
    return Parameters(frozenset(names), tied)


def vocabulary_of(folder: Path) -> int:
    """Number of ids the saved model knows."""
    from transformers import AutoConfig

    return int(cast(Any, AutoConfig).from_pretrained(folder).vocab_size)


def shared_memory() -> str | None:
    """A folder whose files lie in memory, or None for the system's temporary one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, index: int) -> None:
    """Write parameters as the folder's file number `index`, each one copied whole.

    The file is complete when it appears. Tensors that share memory are written twice.
    """
    import safetensors.torch

    save = cast("Callable[[dict[str, Tensor], Path], None]", safetensors.torch.save_file)
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    unfinished = folder / f".{index}.part"
    save(copies, unfinished)
    unfinished.rename(folder / f"model-{index:05d}.safetensors")


__all__ = ["Parameters", "parameters_of", "shared_memory", "vocabulary_of", "write_tensors"]
