"""The in-process engine: our own continuous batching over preallocated keys and values.

Qwen2, Qwen3 and Llama checkpoints in the Hugging Face layout, on a CPU or one GPU. Under
`deterministic` a row's tokens and logprobs have the same bits whatever its neighbours, slot and
time of arrival are, and whether its prefix was computed, decoded or found in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from agentrl.engine.architecture import model_folder, read_architecture, rotations
from agentrl.engine.attention import invariant_heads
from agentrl.engine.batcher import Batcher
from agentrl.engine.cache import Cache
from agentrl.engine.decoder import Decoder
from agentrl.engine.device import chosen_device
from agentrl.engine.linear import can_pack, prove_rows
from agentrl.engine.stops import Decodes
from agentrl.engine.threaded import ThreadedEngine
from agentrl.engine.weights import Weights, read_safetensors, safetensors_files
from agentrl.errors import SetupError, UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEFAULT_MAX_CONTEXT = 8192
"""Used when the model allows more and nobody asked: every slot is preallocated at this length."""


@dataclass(frozen=True, slots=True)
class _Settings:
    model: str | Path
    tokenizer: Decodes | None
    dtype: str
    device: str
    max_batch: int
    max_context: int | None
    deterministic: bool
    threads: int


class TransformersEngine(ThreadedEngine[Batcher]):
    """Implements `agentrl.engine.base.Engine`; opening proves `deterministic` on this machine.

    Weights are an explicit snapshot: `put` copies into the engine's own storage. Requests in flight
    across an update keep their tokens; their keys and values are recomputed under the new weights
    before the next token is drawn, and `Generation.versions` records which weights drew which.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: Decodes | None = None,
        dtype: str = "float32",
        device: str = "auto",
        max_batch: int = 128,
        max_context: int | None = None,
        deterministic: bool | None = None,
        threads: int = 1,
    ) -> None:
        """
        model: folder or hub id. tokenizer: needed for stop strings. max_batch: rows computed
        together; further requests wait. max_context: longest row in tokens; None takes the model's
        own, at most 8192. threads: of torch, on the engine's thread. device: `auto` takes the GPU
        where there is one. deterministic: None means on the CPU.

        Raises UserError for a type or device it does not know.
        """
        device = chosen_device(device)
        deterministic = device == "cpu" if deterministic is None else deterministic
        if dtype not in DTYPES:
            raise UserError(f"engine dtype {dtype!r} is not known: use {' or '.join(DTYPES)}")
        if max_batch < 1 or threads < 1:
            raise UserError("engine.max_batch and engine.threads are at least 1")
        settings = _Settings(
            model, tokenizer, dtype, device, max_batch, max_context, deterministic, threads
        )
        super().__init__(lambda: _load(settings), name="transformers")


@torch.inference_mode()
def _load(settings: _Settings) -> Batcher:
    from transformers import AutoConfig

    if torch.get_num_threads() != settings.threads:
        torch.set_num_threads(settings.threads)
    folder = model_folder(settings.model)
    config = cast(Any, AutoConfig).from_pretrained(folder)  # transformers configs are untyped
    shape = read_architecture(config, str(settings.model))
    dtype, device = DTYPES[settings.dtype], torch.device(settings.device)
    max_context = settings.max_context or min(shape.max_positions, DEFAULT_MAX_CONTEXT)
    if max_context > shape.max_positions:
        raise UserError(
            f"engine.max_context {max_context} is more than the model's "
            f"{shape.max_positions} positions: lower it"
        )
    files = safetensors_files(folder)
    weights = Weights(shape, dtype=dtype, device=device, packed=can_pack(device, dtype))
    for bucket in read_safetensors(files):
        weights.put(bucket)
    weights.seal()
    heads = _proven_heads(weights, max_context) if settings.deterministic else None
    cache = Cache(
        shape,
        n_running=settings.max_batch,
        n_stashed=settings.max_batch,
        n_positions=max_context,
        dtype=dtype,
        device=device,
    )
    decoder = Decoder(weights, cache, rotations(config, max_context), heads_per_call=heads)
    return Batcher(decoder, settings.tokenizer)


def _proven_heads(weights: Weights, n_positions: int) -> int:
    """Prove on this machine that bits depend on the row alone; see `linear` and `attention`."""
    packed: dict[torch.Size, bool] = {}
    for linear in weights.linears():
        size = linear.weight.shape
        if size not in packed and not prove_rows(linear):
            raise _not_deterministic(weights, f"a {tuple(size)} matrix product")
        linear.use(packed=packed.setdefault(size, linear.packed))
    heads = invariant_heads(weights.shape, weights.dtype, weights.device, n_positions)
    if heads is None:
        raise _not_deterministic(weights, "attention")
    return heads


def _not_deterministic(weights: Weights, what: str) -> SetupError:
    return SetupError(
        f"on this {weights.device.type} with {weights.dtype}, the bits of {what} depend on the "
        "batch: set engine.deterministic=false"
    )
