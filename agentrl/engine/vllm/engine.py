"""vLLM as an engine in this process.

Requests in flight across a weight update keep their tokens and their logprobs; vLLM preempts them and
recomputes their keys and values under the new weights, and `Generation.versions` tells which weights
drew which tokens. Prefixes cached under one version are never found under another.
"""

from __future__ import annotations

from pathlib import Path

from agentrl.engine.stops import Decodes
from agentrl.engine.threaded import ThreadedEngine
from agentrl.engine.vllm.backend import VllmBackend
from agentrl.engine.vllm.start import VllmSettings


class VllmEngine(ThreadedEngine[VllmBackend]):
    """Implements `agentrl.engine.base.Engine`.

    Entropies and scores are those of the distribution after temperature (and, for what is sampled,
    top-k and top-p), computed in vLLM's own sampler. Opening imports vLLM, and raises SetupError when
    it is not installed.
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
        sleep: bool = False,
    ) -> None:
        """
        model: folder or hub id. tokenizer: needed for stop strings. max_batch: rows computed
        together. max_context: longest row in tokens; None takes the model's own. kv_cache_mb: None
        takes 256 on a CPU, and what `gpu_share` leaves on a GPU. gpu_share: how much of the GPU's
        memory weights and cache may take; the learner needs the rest. tensor_parallel: GPUs that
        share one copy of the weights. sleep: allow `sleep` and `wake_up`, on a GPU.
        """
        settings = VllmSettings(
            model, tokenizer, dtype, max_batch, max_context, kv_cache_mb, gpu_share,
            tensor_parallel, sleep,
        )  # fmt: skip
        super().__init__(lambda: VllmBackend(settings), name="vllm")

    async def sleep(self, *, keep_weights: bool = True) -> None:
        """Give the GPU's memory to the learner; requests wait until `wake_up`.

        keep_weights: copy them to the host; False drops them, and an update must follow `wake_up`.
        Raises UserError unless the engine was made with `sleep=true`, which a CPU refuses.
        """
        await self._thread.call(lambda backend: backend.sleep(keep_weights=keep_weights))

    async def wake_up(self) -> None:
        """Take the memory back and go on with what waited."""
        await self._thread.call(lambda backend: backend.wake_up())
