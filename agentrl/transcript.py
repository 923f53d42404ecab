"""Token truth: the only door through which tokens are appended.

A `Transcript` (a *row*) is one context the engine saw: an immutable sequence of `Segment`s. Ids,
mask and logprobs are derived from the segments, never stored beside them, so they cannot disagree.
Index t of every per-token array describes token t; logprobs[t] = log pi(x_t | x_<t).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Int32Array: TypeAlias = npt.NDArray[np.int32]
Float32Array: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

ScalarT = TypeVar("ScalarT", bound=np.generic)


class Origin(IntEnum):
    """Who wrote a token."""

    PROMPT = 0
    """The first messages, as rendered."""
    MODEL = 1
    """Sampled by the engine."""
    FORCED = 2
    """Placed by a plan that declared the probability with which it did so."""
    OBSERVATION = 3
    """Written by the environment."""
    SCAFFOLD = 4
    """Template glue, injected closers and hints."""
    DEMO = 5
    """Expert text for supervised terms."""


SAMPLED = (Origin.MODEL, Origin.FORCED)
"""Origins with a behaviour logprob: exactly these carry policy-gradient mask 1."""


def ids_array(token_ids: Iterable[int]) -> Int32Array:
    """Pack token ids, read-only, shape [t]."""
    array = np.array(token_ids if isinstance(token_ids, np.ndarray) else list(token_ids), np.int32)
    array.setflags(write=False)
    return array


def floats_array(values: Iterable[float]) -> Float32Array:
    """Pack per-token numbers, read-only, shape [t]."""
    array = np.array(values if isinstance(values, np.ndarray) else list(values), np.float32)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of tokens with one origin, one policy, one version and one sampling setting.

    Raises ValueError when the arrays do not share one length, when a sampled segment lacks
    logprobs or a version, or when another kind carries them.
    """

    origin: Origin
    token_ids: Int32Array
    """Shape [t]."""
    logprobs: Float32Array | None = None
    """Behaviour logprobs [t] under the sampled distribution; set iff the origin is sampled."""
    version: int | None = None
    """Policy version that sampled it; set iff the origin is MODEL."""
    temperature: float = 1.0
    """Sampling temperature; the learner scores the segment under the same one."""
    entropies: Float32Array | None = None
    """Entropy in nats [t] of each sampled token's distribution, when asked for."""
    policy: str = "policy"
    """Name of the model that wrote it; differs only where several take part."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", ids_array(self.token_ids))
        n = len(self.token_ids)
        if self.token_ids.ndim != 1:
            raise ValueError(
                f"a segment holds one row of token ids, got shape {self.token_ids.shape}"
            )
        if n and int(self.token_ids.min()) < 0:
            raise ValueError("a token id is negative")
        sampled = self.origin in SAMPLED
        if sampled != (self.logprobs is not None):
            raise ValueError(
                f"{self.origin.name} {'needs' if sampled else 'cannot carry'} logprobs"
            )
        if (self.origin is Origin.MODEL) != (self.version is not None):
            raise ValueError(f"a policy version belongs to MODEL segments, not {self.origin.name}")
        for name in ("logprobs", "entropies"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, _checked(name, values, n))
        if self.entropies is not None and self.origin is not Origin.MODEL:
            raise ValueError(f"{self.origin.name} cannot carry entropies")

    def __len__(self) -> int:
        return len(self.token_ids)


def _checked(name: str, values: Iterable[float], n: int) -> Float32Array:
    array = floats_array(values)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape} for {n} token ids")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")
    if name == "logprobs" and n and float(array.max()) > 1e-3:
        raise ValueError(f"a logprob is positive ({float(array.max()):.4g})")
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Transcript:
    """One row: an append-only sequence of segments. Appending returns a new row that shares the old."""

    segments: tuple[Segment, ...] = ()
    train_context: Int32Array | None = None
    """Prompt ids [p] the row is trained under when they differ from those it was sampled under."""
    ratio_mode: str = "behaviour"
    """`behaviour`: the ratio's denominator is what was sampled; `relabel`: recomputed under
    `train_context`. Only meaningful with a `train_context`."""
    context: str = ""
    """What the environment calls it, where it has several (`StepInfo.context`)."""

    def __post_init__(self) -> None:
        if self.ratio_mode not in ("behaviour", "relabel"):
            raise ValueError(f"ratio_mode is 'behaviour' or 'relabel', not {self.ratio_mode!r}")
        if self.train_context is not None:
            object.__setattr__(self, "train_context", ids_array(self.train_context))

    def append(self, *segments: Segment) -> Transcript:
        """The row followed by `segments`; empty ones are dropped.

        Raises ValueError when a PROMPT would follow another origin.
        """
        kept = tuple(s for s in segments if len(s))
        last = self.segments[-1].origin if self.segments else Origin.PROMPT
        for segment in kept:
            if segment.origin is Origin.PROMPT and last is not Origin.PROMPT:
                raise ValueError(f"a PROMPT segment cannot follow {last.name}")
            last = segment.origin
        return replace(self, segments=self.segments + kept)

    def fork(self, n_tokens: int) -> Transcript:
        """The first `n_tokens` as a row of their own; whole segments are shared, not copied."""
        if not 0 <= n_tokens <= len(self):
            raise ValueError(f"cannot fork {n_tokens} tokens of a row of {len(self)}")
        kept: list[Segment] = []
        for segment in self.segments:
            if n_tokens <= 0:
                break
            kept.append(segment if n_tokens >= len(segment) else head(segment, n_tokens))
            n_tokens -= len(segment)
        return replace(self, segments=tuple(kept))

    def __len__(self) -> int:
        return sum(len(s) for s in self.segments)

    @property
    def token_ids(self) -> Int32Array:
        """Every id the engine saw or wrote, in order, shape [t]."""
        return _joined([s.token_ids for s in self.segments], np.int32)

    @property
    def mask(self) -> BoolArray:
        """True where a behaviour logprob was recorded (law 2), shape [t]."""
        return _joined([np.full(len(s), s.origin in SAMPLED) for s in self.segments], np.bool_)

    @property
    def logprobs(self) -> Float32Array:
        """Behaviour logprobs; 0 where the mask is False, shape [t]."""
        return self._per_token([s.logprobs for s in self.segments])

    @property
    def entropies(self) -> Float32Array:
        """Entropies in nats; 0 where none was recorded, shape [t]."""
        return self._per_token([s.entropies for s in self.segments])

    @property
    def temperatures(self) -> Float32Array:
        """Sampling temperature of each token's segment, shape [t]."""
        return self._per_token([np.full(len(s), s.temperature) for s in self.segments])

    @property
    def origins(self) -> npt.NDArray[np.int8]:
        """`Origin` of each token, shape [t]."""
        return _joined([np.full(len(s), int(s.origin)) for s in self.segments], np.int8)

    @property
    def versions(self) -> Int32Array:
        """Policy version of each token; -1 where it was not sampled by the engine, shape [t]."""
        return _joined(
            [np.full(len(s), -1 if s.version is None else s.version) for s in self.segments],
            np.int32,
        )

    @property
    def n_sampled(self) -> int:
        """Tokens with mask 1: the row's length for every length-aware method."""
        return sum(len(s) for s in self.segments if s.origin in SAMPLED)

    def _per_token(self, parts: Sequence[npt.NDArray[np.floating] | None]) -> Float32Array:
        filled = [
            np.zeros(len(s), np.float32) if part is None else part
            for s, part in zip(self.segments, parts, strict=True)
        ]
        return _joined(filled, np.float32)


def head(segment: Segment, n_tokens: int) -> Segment:
    """The first `n_tokens` of a segment."""
    return replace(
        segment,
        token_ids=segment.token_ids[:n_tokens],
        logprobs=None if segment.logprobs is None else segment.logprobs[:n_tokens],
        entropies=None if segment.entropies is None else segment.entropies[:n_tokens],
    )


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type[ScalarT]) -> npt.NDArray[ScalarT]:
    array = np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)
    array.setflags(write=False)
    return array


__all__ = [
    "SAMPLED",
    "BoolArray",
    "Float32Array",
    "Int32Array",
    "Origin",
    "Segment",
    "Transcript",
    "floats_array",
    "head",
    "ids_array",
]
