"""The engine contract: token ids in; token ids, logprobs and versions out.

Logprobs and entropies are those of the distribution that was sampled from (after temperature,
top-k and top-p). A stop string's or stop id's own tokens are always part of the generation.
Cancelling the task that awaits `generate` aborts the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from agentrl.transcript import Float32Array, Int32Array, floats_array, ids_array

if TYPE_CHECKING:
    from torch import Tensor

Bucket: TypeAlias = "Mapping[str, Tensor]"
"""Named parameters, in the Hugging Face layout of the model."""

StopKind = Literal["stop_id", "stop_text", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """One request's settings."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy; its logprobs are those of temperature 1."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    stop: tuple[str, ...] = ()
    """Strings that end the generation once its decoded text contains one."""
    stop_ids: tuple[int, ...] = ()
    seed: int = 0
    """Alone decides the request's random draws."""
    entropies: bool = False
    """Ask for the entropy in nats of each sampled token's distribution."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is at least 1, not {self.max_tokens}")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError("temperature >= 0, 0 < top_p <= 1 and top_k >= 0")


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """What one request gave."""

    token_ids: Int32Array
    """Shape [t]."""
    logprobs: Float32Array
    """Shape [t]."""
    stop: StopKind
    versions: tuple[tuple[int, int], ...]
    """Runs `(n_tokens, policy_version)` that cover the tokens in order."""
    stop_text: str | None = None
    """The stop string found, when `stop` is stop_text."""
    entropies: Float32Array | None = None
    """Shape [t], when asked for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", ids_array(self.token_ids))
        object.__setattr__(self, "logprobs", floats_array(self.logprobs))
        n = len(self.token_ids)
        if len(self.logprobs) != n or sum(count for count, _ in self.versions) != n:
            raise ValueError(f"{n} ids, {len(self.logprobs)} logprobs, versions {self.versions}")
        if self.entropies is not None:
            object.__setattr__(self, "entropies", floats_array(self.entropies))
            if len(self.entropies) != n:
                raise ValueError(f"{n} ids but {len(self.entropies)} entropies")


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """An engine at one moment."""

    running: int
    waiting: int
    generated_tokens: int
    """Since the engine was opened."""
    prefill_tokens: int
    busy_s: float
    """Seconds spent computing."""
    kv_used: float | None = None
    """Share of the cache for keys and values that requests hold, 0 to 1; None is not known."""
    preemptions: int = 0
    """Requests set back for want of cache since the engine was opened: their keys and values were
    computed twice."""
    cached_tokens: int = 0
    """Prompt tokens found in the cache instead of computed."""


@runtime_checkable
class Engine(Protocol):
    """Produces tokens. Found by name under `agentrl.engines`."""

    @property
    def version(self) -> int:
        """Policy version of the weights in use."""
        ...

    @property
    def max_context(self) -> int:
        """Longest row, prompt and generation together, in tokens."""
        ...

    async def open(self) -> None:
        """Load; raises SetupError or UserError."""
        ...

    async def generate(self, token_ids: Int32Array, sampling: Sampling) -> Generation:
        """Continue a row. Raises EngineError when the request or the engine failed."""
        ...

    async def score(self, token_ids: Int32Array, sampling: Sampling) -> Float32Array:
        """Logprobs [t] of a fixed row under `sampling.temperature`; entry 0 is 0.0."""
        ...

    async def begin_update(self, version: int) -> None:
        """Start an atomic weight update: nothing is generated until `finish_update`."""
        ...

    async def put(self, bucket: Bucket) -> None:
        """Hand over some parameters; the engine copies what it keeps."""
        ...

    async def finish_update(self) -> None:
        """Use the new weights and drop every cache of the old ones.

        Raises EngineError, and marks the engine dead, when a parameter never arrived.
        """
        ...

    async def close(self) -> None:
        """Stop and free. Idempotent."""
        ...

    def statistics(self) -> EngineStatistics:
        """Counts for metrics."""
        ...
