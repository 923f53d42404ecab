"""Requests and answers of vLLM's token-in, token-out route, as JSON. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from agentrl.engine.base import Generation, Sampling, StopKind
from agentrl.engine.vllm.worker import WANTS_ENTROPIES, entropy_of_rank
from agentrl.errors import EngineError
from agentrl.transcript import Float32Array, Int32Array

GENERATE = "/inference/v1/generate"
ID_PREFIX = "generate-tokens-"
"""What the server puts before a request's id."""
SEED_MASK = (1 << 63) - 1
FIRST_VERSION = "0"


def generation_body(
    token_ids: Int32Array,
    sampling: Sampling,
    *,
    max_tokens: int,
    request_id: str,
    version: int,
    stream: bool,
) -> dict[str, object]:
    """A request to continue a row by at most `max_tokens`; its cache is salted with the version."""
    parameters: dict[str, object] = {
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed & SEED_MASK,
        "stop_token_ids": list(sampling.stop_ids),
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }
    if sampling.entropies:
        parameters["extra_args"] = {WANTS_ENTROPIES: True}
    return {
        "request_id": request_id,
        "token_ids": token_ids.tolist(),
        "sampling_params": parameters,
        "cache_salt": f"v{version}",
        "stream": stream,
    }


def scoring_body(token_ids: Int32Array, temperature: float) -> dict[str, object]:
    """A request for the logprobs of a fixed row; vLLM generates one token more, which is dropped."""
    return {
        "token_ids": token_ids.tolist(),
        "sampling_params": {
            "max_tokens": 1,
            "temperature": temperature,
            "prompt_logprobs": 0,
            "detokenize": False,
        },
    }


def scores(token_ids: Int32Array, answer: dict[str, Any]) -> Float32Array:
    """Logprobs [t] of the row; entry 0 is 0.0. Raises EngineError when they are not all there."""
    entries = cast("list[dict[str, dict[str, float]] | None]", answer.get("prompt_logprobs") or [])
    if len(entries) != len(token_ids):
        raise EngineError(f"the vLLM server scored {len(entries)} of {len(token_ids)} tokens")
    found = [0.0]
    for token_id, entry in zip(token_ids[1:].tolist(), entries[1:], strict=True):
        if entry is None or str(token_id) not in entry:
            raise EngineError(f"the vLLM server gave no logprob of token {token_id}")
        found.append(float(entry[str(token_id)]["logprob"]))
    return np.array(found, np.float32)


@dataclass(slots=True)
class Received:
    """What has come of one generation."""

    sampling: Sampling
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    entropies: list[float] = field(default_factory=list[float])
    runs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """`(n_tokens, version)`; known when the server has finished."""
    finish: str | None = None

    def take(self, answer: dict[str, Any]) -> None:
        """Add a whole answer's or one event's tokens."""
        choice = cast("dict[str, Any]", answer["choices"][0])
        ids = cast("list[int]", choice.get("token_ids") or [])
        content = cast("list[dict[str, Any]]", (choice.get("logprobs") or {}).get("content") or [])
        if len(content) != len(ids):
            raise EngineError(f"the vLLM server gave {len(ids)} ids and {len(content)} logprobs")
        self.token_ids.extend(ids)
        self.logprobs.extend(float(entry["logprob"]) for entry in content)
        if self.sampling.entropies:
            self.entropies.extend(entropy_of_rank(int(entry["rank"])) for entry in content)
        self.finish = choice.get("finish_reason") or self.finish
        for span in cast("list[dict[str, Any]]", choice.get("weight_versions") or []):
            self.runs.append((int(span["end"]) - int(span["start"]), int(span["version"])))

    def generation(self, n: int, version: int, stop_text: str | None) -> Generation:
        """The first `n` tokens as the finished request's record.

        version: of all of them, when the server did not say.
        """
        kinds: dict[str, StopKind] = {"stop": "stop_id", "length": "length", "abort": "abort"}
        if stop_text is None and self.finish not in kinds:
            raise EngineError(f"the vLLM server ended a request with {self.finish!r}")
        return Generation(
            np.array(self.token_ids[:n], np.int32),
            np.array(self.logprobs[:n], np.float32),
            "stop_text" if stop_text is not None else kinds[str(self.finish)],
            first_runs(self.runs or [(n, version)], n),
            stop_text,
            np.array(self.entropies[:n], np.float32) if self.sampling.entropies else None,
        )


def first_runs(runs: list[tuple[int, int]], n: int) -> tuple[tuple[int, int], ...]:
    """Runs `(n_tokens, version)` cut to `n` tokens; neighbours of one version are joined."""
    cut: list[tuple[int, int]] = []
    for length, version in runs:
        length = min(length, n)
        n -= length
        if length and cut and cut[-1][1] == version:
            cut[-1] = (cut[-1][0] + length, version)
        elif length:
            cut.append((length, version))
    return tuple(cut)


__all__ = ["GENERATE", "Received", "generation_body", "scores", "scoring_body"]
