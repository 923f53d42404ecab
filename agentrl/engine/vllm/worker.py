"""What runs inside vLLM's workers: exact entropies and tempered scores.

vLLM adds `WorkerExtension` to its worker class by name, in this process, in tensor-parallel workers
and in a server alike; its methods are called by collective RPC. Entropies travel in the field of the
sampled token's rank, which every transport of vLLM carries and which nobody here asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

EXTENSION = "agentrl.engine.vllm.worker.WorkerExtension"
"""vLLM's `worker_extension_cls`."""
WANTS_ENTROPIES = "agentrl_entropies"
"""Key of `SamplingParams.extra_args` that asks for them."""


def entropy_of_rank(rank: int) -> float:
    """The entropy in nats that a rank carries: the bits of a float32."""
    (entropy,) = struct.unpack("<f", struct.pack("<i", rank))
    return entropy


def ranks_of_entropies(entropies: Tensor, like: Tensor) -> Tensor:
    """Entropies [m] as ranks [m] of the integer type of `like`."""
    return entropies.float().contiguous().view(torch.int32).to(like.dtype)


def row_entropies(logprobs: Tensor) -> Tensor:
    """Entropies [m] in nats of logprobs [m, vocab]; a filtered token (-inf) adds nothing."""
    return cast(Tensor, torch.special.entr(logprobs.exp())).sum(-1)


@dataclass(slots=True)
class _Hooks:
    """Wrappers around one model runner's sampler."""

    runner: Any  # vllm.v1.worker.gpu_model_runner.GPUModelRunner
    gather: Callable[[Tensor, int, Tensor], Any]
    compute: Callable[[Tensor], Tensor]
    prompt: Callable[[Tensor, dict[str, int]], dict[str, Any]]
    temperature: float | None = None
    """Of the row that is being scored; None while tokens are sampled."""

    def gathered(self, logprobs: Tensor, num_logprobs: int, token_ids: Tensor) -> Any:
        """`Sampler.gather_logprobs`, with entropies for ranks where a request wants them."""
        found = self.gather(logprobs, num_logprobs, token_ids)
        if self.temperature is not None or not any(
            map(self._wants, self.runner.input_batch.req_ids)
        ):
            return found
        ranks = ranks_of_entropies(row_entropies(logprobs), found.selected_token_ranks)
        return found._replace(selected_token_ranks=ranks)

    def computed(self, logits: Tensor) -> Tensor:
        """`Sampler.compute_logprobs`, under the temperature of the row that is being scored."""
        if self.temperature in (None, 1.0):
            return self.compute(logits)
        return self.compute(logits.float() / self.temperature)

    def prompted(self, hidden: Tensor, scheduled: dict[str, int]) -> dict[str, Any]:
        """`GPUModelRunner._get_prompt_logprobs_dict`, one request and its temperature at a time."""
        wanted: dict[str, int] = self.runner.num_prompt_logprobs
        found: dict[str, Any] = {}
        try:
            for request_id in [name for name in wanted if name in scheduled]:
                sampling = self.runner.requests[request_id].sampling_params
                self.temperature = float(sampling.temperature) or 1.0
                self.runner.num_prompt_logprobs = {request_id: wanted[request_id]}
                found.update(self.prompt(hidden, scheduled))
                if request_id not in self.runner.num_prompt_logprobs:
                    del wanted[request_id]
        finally:
            self.temperature = None
            self.runner.num_prompt_logprobs = wanted
        return found

    def _wants(self, request_id: str) -> bool:
        extra = self.runner.requests[request_id].sampling_params.extra_args
        return bool(extra and extra.get(WANTS_ENTROPIES))


class WorkerExtension:
    """Methods added to vLLM's worker; every name starts with `agentrl_`."""

    def agentrl_install(self) -> dict[str, bool]:
        """Wrap the sampler; once per worker, a second call changes nothing.

        Raises RuntimeError when vLLM chose a model runner without the pieces that are wrapped.
        """
        runner = cast(Any, self).model_runner
        sampler = runner.sampler
        if isinstance(getattr(sampler.gather_logprobs, "__self__", None), _Hooks):
            return {"installed": True}
        if not hasattr(runner, "_get_prompt_logprobs_dict") or not hasattr(runner, "input_batch"):
            raise RuntimeError(
                f"this vLLM runs {type(runner).__module__}: set VLLM_USE_V2_MODEL_RUNNER=0"
            )
        hooks = _Hooks(
            runner,
            sampler.gather_logprobs,
            sampler.compute_logprobs,
            runner._get_prompt_logprobs_dict,
        )
        sampler.gather_logprobs = hooks.gathered
        sampler.compute_logprobs = hooks.computed
        runner._get_prompt_logprobs_dict = hooks.prompted
        return {"installed": True}


__all__ = ["EXTENSION", "WANTS_ENTROPIES", "WorkerExtension", "entropy_of_rank"]
