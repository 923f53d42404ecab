"""Finished rows declared anew by a plan: what was prefix, what was certain, what has another probability.

Every function returns a copy; ids never change, so what the engine saw stays what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agentrl.transcript import (
    SAMPLED,
    Float32Array,
    Int32Array,
    Origin,
    Segment,
    Transcript,
    floats_array,
    ids_array,
)


def as_context(row: Transcript, n_tokens: int) -> Transcript:
    """The row whose first `n_tokens` train nothing: its sampled tokens there become SCAFFOLD.

    A branch that treats question and prefix as its prompt (CURE) leaves the prefix to its parent.
    """
    segments: list[Segment] = []
    start = 0
    for segment in row.segments:
        inside = min(max(n_tokens - start, 0), len(segment))
        start += len(segment)
        if segment.origin not in SAMPLED or not inside:
            segments.append(segment)
            continue
        segments.append(Segment(Origin.SCAFFOLD, segment.token_ids[:inside]))
        segments.append(_tail(segment, inside))
    return replace(row, segments=tuple(s for s in segments if len(s)))


def certain(row: Transcript) -> Transcript:
    """The row's sampled tokens as FORCED with probability 1 (LUFFY, 2504.14945, section 3.2).

    Foreign or differently prompted text has no behaviour probability under the plain prompt; the
    loss `shaped` reads denominator log 1 = 0 as its sign to shape pi itself.
    """
    return _sampled_as(
        row,
        lambda s: Segment(
            Origin.FORCED,
            s.token_ids,
            logprobs=floats_array([0.0] * len(s)),
            temperature=s.temperature,
            policy=s.policy,
        ),
    )


def as_demo(row: Transcript) -> Transcript:
    """The row's sampled tokens as DEMO: text for a supervised term, outside the policy's."""
    return _sampled_as(row, lambda s: Segment(Origin.DEMO, s.token_ids, policy=s.policy))


def declared(row: Transcript, logprobs: Float32Array) -> Transcript:
    """The row with other behaviour logprobs [t], read where the mask is True.

    It is trained under its own prompt with `ratio_mode` behaviour: what is declared is the ratio's
    denominator, not what a learner recomputes. Raises ValueError on another length.
    """
    if logprobs.shape != (len(row),):
        raise ValueError(f"{logprobs.shape} logprobs for a row of {len(row)} tokens")
    segments: list[Segment] = []
    start = 0
    for segment in row.segments:
        end = start + len(segment)
        if segment.origin in SAMPLED:
            segment = replace(segment, logprobs=floats_array(logprobs[start:end]))
        segments.append(segment)
        start = end
    own = prompt_of(row) if row.train_context is None else row.train_context
    return replace(row, segments=tuple(segments), train_context=own, ratio_mode="behaviour")


def prompt_of(row: Transcript) -> Int32Array:
    """Ids [p] of the row's PROMPT."""
    n = sum(len(s) for s in row.segments if s.origin is Origin.PROMPT)
    return ids_array(row.token_ids[:n])


def _sampled_as(row: Transcript, made: Callable[[Segment], Segment]) -> Transcript:
    segments = tuple(made(s) if s.origin in SAMPLED else s for s in row.segments)
    return replace(row, segments=segments)


def _tail(segment: Segment, n_tokens: int) -> Segment:
    """All but the first `n_tokens` of a segment."""
    return replace(
        segment,
        token_ids=segment.token_ids[n_tokens:],
        logprobs=None if segment.logprobs is None else segment.logprobs[n_tokens:],
        entropies=None if segment.entropies is None else segment.entropies[n_tokens:],
    )


__all__ = ["as_context", "as_demo", "certain", "declared", "prompt_of"]
