"""The command line of a `vllm serve` of our own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from agentrl.engine.stops import Decodes
from agentrl.engine.vllm.start import CPU_KV_CACHE_MB, ENVIRONMENT, check_parallel
from agentrl.engine.vllm.worker import EXTENSION
from agentrl.errors import UserError


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server is started with, or where it is; see `VllmServerEngine`."""

    model: str | Path
    tokenizer: Decodes | None
    dtype: str
    max_batch: int
    max_context: int | None
    kv_cache_mb: int | None
    gpu_share: float
    tensor_parallel: int
    devices: tuple[int, ...] | None
    sleep: bool
    url: str | None
    weights_dir: Path | None
    start_timeout_s: float
    request_timeout_s: float


def command(settings: ServerSettings, folder: Path, socket: Path) -> list[str]:
    """Its arguments: token ids only, logprobs of the sampled distribution, our worker extension."""
    on_cpu = not torch.cuda.is_available()
    kv_cache_mb = settings.kv_cache_mb or (CPU_KV_CACHE_MB if on_cpu else None)
    arguments = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--uds", str(socket)),
        *("--skip-tokenizer-init", "--enable-scale-out"),
        *("--dtype", settings.dtype, "--max-num-seqs", str(settings.max_batch)),
        *("--tensor-parallel-size", str(settings.tensor_parallel)),
        *("--logprobs-mode", "processed_logprobs", "--worker-extension-cls", EXTENSION),
        *("--enable-prefix-caching", "--disable-uvicorn-access-log"),
        # A token in flight across a weight update would belong to neither version.
        "--no-async-scheduling",
    ]
    if settings.max_context is not None:
        arguments += ["--max-model-len", str(settings.max_context)]
    if kv_cache_mb is not None:
        arguments += ["--kv-cache-memory-bytes", str(kv_cache_mb << 20)]
    if on_cpu:
        # On a CPU a seeded request whose prefill is cut into chunks kills vLLM.
        arguments += ["--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"]
    else:
        arguments += ["--gpu-memory-utilization", str(settings.gpu_share)]
    return arguments + (["--enable-sleep-mode"] if settings.sleep else [])


def variables(settings: ServerSettings) -> dict[str, str]:
    """What its environment holds beside what it inherits."""
    # The control routes (pause, weights, cache) exist in this mode only; the socket is private.
    own = {**ENVIRONMENT, "VLLM_SERVER_DEV_MODE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if settings.devices is not None:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, settings.devices))
    return own


def check(settings: ServerSettings, folder: Path) -> None:
    """Raises UserError for what this machine or an existing server cannot honour."""
    if settings.url is not None:
        _check_url(settings)
        return
    n_gpus = torch.cuda.device_count() if settings.devices is None else len(settings.devices)
    check_parallel(folder, settings.tensor_parallel, n_gpus)
    if settings.sleep and not torch.cuda.is_available():
        raise UserError(
            "engine.sleep=true frees GPU memory and vLLM ignores it on a CPU: leave it out"
        )


def _check_url(settings: ServerSettings) -> None:
    given = {
        "max_context": settings.max_context is not None,
        "kv_cache_mb": settings.kv_cache_mb is not None,
        "devices": settings.devices is not None,
        "sleep": settings.sleep,
        "tensor_parallel": settings.tensor_parallel != 1,
    }
    for name, is_given in given.items():
        if is_given:
            raise UserError(
                f"engine.{name} is set where a server starts: give it to the one at engine.url"
            )
