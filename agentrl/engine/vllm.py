"""vLLM as an engine in this process.

Requests in flight across a weight update keep their tokens; vLLM preempts them and recomputes their
keys and values.
"""

from __future__ import annotations

from pathlib import Path

from agentrl.engine.stops import Decodes
from agentrl.engine.threaded import ThreadedEngine
from agentrl.engine.vllm_backend import VllmBackend, VllmSettings


class VllmEngine(ThreadedEngine[VllmBackend]):
    """Implements `agentrl.engine.base.Engine`.

    What vLLM cannot give is refused with a UserError: entropies, and scores under a temperature
    other than 1. Opening imports vLLM, and raises SetupError when it is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: Decodes | None = None,
        dtype: str = "float32",
        max_batch: int = 128,
        max_context: int | None = None,
        kv_cache_mb: int | None = None,
        gpu_share: float = 0.45,
        tensor_parallel: int = 1,
    ) -> None:
        """
        model: folder or hub id. tokenizer: needed for stop strings. max_batch: rows computed
        together. max_context: longest row in tokens; None takes the model's own. kv_cache_mb: None
        takes 256 on a CPU, and what `gpu_share` leaves on a GPU. gpu_share: how much of the GPU's
        memory weights and cache may take; the learner needs the rest.
        """
        settings = VllmSettings(
            model, tokenizer, dtype, max_batch, max_context, kv_cache_mb, gpu_share, tensor_parallel
        )
        super().__init__(lambda: VllmBackend(settings), name="vllm")
