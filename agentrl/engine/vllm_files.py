"""Weights on their way to vLLM as files: in memory where the system offers it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentrl.engine.base import Bucket

if TYPE_CHECKING:
    from torch import Tensor


def shared_memory() -> str | None:
    """A folder whose files lie in memory, or None for the system's temporary one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def write_bucket(bucket: Bucket, folder: Path, index: int) -> None:
    """Write some parameters as the folder's file number `index`.

    The file is complete when it appears. Tensors that share memory are written twice.
    """
    import safetensors.torch

    save = cast("Callable[[dict[str, Tensor], Path], None]", safetensors.torch.save_file)
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in bucket.items()}
    unfinished = folder / f".{index}.part"
    save(tensors, unfinished)
    unfinished.rename(folder / f"model-{index:05d}.safetensors")
