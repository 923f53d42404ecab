"""vLLM's engine behind the backend contract: requests, steps and weight updates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from agentrl.engine.architecture import model_folder
from agentrl.engine.base import Bucket, EngineStatistics, Generation, StopKind
from agentrl.engine.rows import Request
from agentrl.engine.stops import StopMatcher
from agentrl.engine.vllm.files import parameters_of, shared_memory, write_tensors
from agentrl.engine.vllm.start import VllmSettings, check_temperature, refusals, start
from agentrl.engine.vllm.worker import WANTS_ENTROPIES, entropy_of_rank
from agentrl.engine.worker import Finished
from agentrl.errors import EngineError, UserError

if TYPE_CHECKING:
    from torch import Tensor

SEED_MASK = (1 << 63) - 1


@dataclass(slots=True, eq=False)
class _Running:
    """A request inside vLLM."""

    request: Request
    internal_id: str
    matcher: StopMatcher | None
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    entropies: list[float] = field(default_factory=list[float])
    runs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Runs `(n_tokens, version)` that ended with a weight update."""


class VllmBackend:
    """The backend of `VllmEngine`; lives on the engine's thread."""

    def __init__(self, settings: VllmSettings) -> None:
        folder = model_folder(settings.model)
        self._parameters = parameters_of(folder)
        self._settings = settings
        self._engine = start(settings, folder)
        self._refusals = refusals()
        self.max_context: int = self._engine.vllm_config.model_config.max_model_len
        self._vocab: int = self._engine.vllm_config.model_config.get_vocab_size()
        self._scheduler: Any = self._engine.engine_core.engine_core.scheduler
        self.version = 0
        self._next_version: int | None = None
        self._staged: dict[str, Tensor] = {}
        self._running: dict[str, _Running] = {}
        """By the id vLLM reports."""
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self._asleep = False
        self._generated = self._prefilled = self._cached = self._preempted = 0
        self._busy_s = 0.0
        self._count_preemptions()

    @property
    def busy(self) -> bool:
        """See `Backend.busy`; False while asleep and between `begin_update` and `finish_update`."""
        return self._next_version is None and not self._asleep and bool(self._running)

    def submit(self, request: Request) -> None:
        """See `Backend.submit`. Raises UserError for what vLLM cannot compute."""
        # Room for one token even when scoring: vLLM always generates one more than it scores.
        request.check(vocab=self._vocab, max_context=self.max_context, room=1)
        check_temperature(request.sampling)
        matcher = None
        if request.sampling.stop and not request.scoring:
            if self._settings.tokenizer is None:
                raise UserError("stop strings need a tokenizer: give the engine one")
            matcher = self._matchers.setdefault(
                request.sampling.stop,
                StopMatcher(self._settings.tokenizer, request.sampling.stop),
            )
        # The salt keeps versions apart in the prefix cache, should a reset ever leave one behind.
        version = self.version if self._next_version is None else self._next_version
        prompt = {"prompt_token_ids": request.token_ids.tolist(), "cache_salt": f"v{version}"}
        try:
            internal = self._engine.add_request(str(request.id), prompt, _parameters_of(request))
        except self._refusals as error:  # one bad request is no reason to end the engine
            raise UserError(f"vLLM refuses the request ({error}): change its settings") from error
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
            if not self._parameters.known(name):
                raise EngineError(f"the model has no parameter {name!r}")
            self._staged[name] = tensor.detach().clone()

    def finish_update(self) -> None:
        """Reload, then drop every cached key and value of the old weights."""
        if self._next_version is None:
            raise RuntimeError("finish_update was called without begin_update")
        missing = self._parameters.missing(set(self._staged))
        if missing:
            raise EngineError(
                f"{len(missing)} parameters never arrived, first {missing[0]!r}: "
                "a sync must hand over the whole model"
            )
        self._reload()
        for running in self._running.values():
            self._end_run(running)
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise EngineError("vLLM kept keys and values of the old weights")
        self._staged.clear()
        self.version, self._next_version = self._next_version, None

    def sleep(self, *, keep_weights: bool) -> None:
        """Free the GPU's memory; requests wait until `wake_up`.

        Raises UserError unless the engine was started with `sleep=true`.
        """
        if not self._settings.sleep:
            raise UserError("this engine cannot sleep: start it with engine.sleep=true, on a GPU")
        if not self._asleep:
            self._engine.sleep(1 if keep_weights else 2, mode="keep")
            self._asleep = True

    def wake_up(self) -> None:
        """Take the memory back. What was cached is gone; weights that were not kept must come by an
        update before the next request."""
        if self._asleep:
            self._engine.wake_up()
            self._engine.reset_prefix_cache(reset_running_requests=True)
            self._asleep = False

    def statistics(self) -> EngineStatistics:
        """See `Engine.statistics`; read from any thread."""
        n = len(self._running)
        running = min(n, len(self._scheduler.running))
        return EngineStatistics(
            running,
            n - running,
            self._generated,
            self._prefilled,
            self._busy_s,
            kv_used=float(self._scheduler.kv_cache_manager.usage),
            preemptions=self._preempted,
            cached_tokens=self._cached,
        )

    def _reload(self) -> None:
        """Hand the staged parameters to vLLM's workers."""
        weights = self._parameters.with_head(self._staged)
        if self._settings.tensor_parallel == 1:
            arguments: dict[str, Any] = {"weights_iterator": iter(weights.items())}
            self._engine.collective_rpc("reload_weights", kwargs=arguments)
            return
        # Tensors do not survive the way to other processes as arguments; files do.
        with TemporaryDirectory(prefix="agentrl-weights-", dir=shared_memory()) as folder:
            write_tensors(weights, Path(folder), 0)
            self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def _count_preemptions(self) -> None:
        """Count the rows that vLLM sets back for want of cache; an update's own do not count."""
        preempt = self._scheduler._preempt_request

        def counted(*args: Any, **kwargs: Any) -> Any:
            """`Scheduler._preempt_request`, counted."""
            self._preempted += self._next_version is None and not self._asleep
            return preempt(*args, **kwargs)

        self._scheduler._preempt_request = counted

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
            if request.sampling.entropies:
                running.entropies.append(entropy_of_rank(int(entry[token_id].rank)))
            matcher = running.matcher
            found = matcher.found(running.token_ids) if matcher is not None else None
            stopped_by_id = token_id in request.sampling.stop_ids
            if found is not None and not stopped_by_id:
                if not output.finished:
                    self._engine.abort_request([str(request.id)])
                return self._finished(running, output, "stop_text", found)
        if not output.finished:
            return None
        kinds: dict[str, StopKind] = {"stop": "stop_id", "length": "length", "abort": "abort"}
        return self._finished(running, output, kinds[completion.finish_reason], None)

    def _finished(
        self,
        running: _Running,
        output: Any,  # vllm.RequestOutput
        stop: StopKind,
        stop_text: str | None,
    ) -> Finished:
        del self._running[str(running.request.id)]
        n = len(running.token_ids)
        rest = n - sum(count for count, _ in running.runs)
        runs = [*running.runs, (rest, self.version)] if rest else running.runs
        self._generated += n
        self._count_prompt(running.request, output)
        generation = Generation(
            np.array(running.token_ids, np.int32),
            np.array(running.logprobs, np.float32),
            stop,
            tuple(runs),
            stop_text,
            np.array(running.entropies, np.float32) if running.request.sampling.entropies else None,
        )
        return Finished(running.request.id, generation)

    def _scored(self, request: Request, output: Any) -> Finished:  # vllm.RequestOutput
        del self._running[str(request.id)]
        self._count_prompt(request, output)
        entries = output.prompt_logprobs[1:]
        logprobs = [0.0]
        for token_id, entry in zip(request.token_ids[1:].tolist(), entries, strict=True):
            logprobs.append(float(entry[token_id].logprob))
        return Finished(request.id, np.array(logprobs, np.float32))

    def _count_prompt(self, request: Request, output: Any) -> None:  # vllm.RequestOutput
        cached = int(output.num_cached_tokens or 0)
        self._cached += cached
        self._prefilled += len(request.token_ids) - cached


def _parameters_of(request: Request) -> Any:  # vllm.SamplingParams
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    s = request.sampling
    kind = RequestOutputKind.DELTA if s.stop else RequestOutputKind.FINAL_ONLY
    if request.scoring:
        return SamplingParams(
            max_tokens=1,
            temperature=s.temperature,
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
        extra_args={WANTS_ENTROPIES: True} if s.entropies else None,
    )


__all__ = ["VllmBackend"]
