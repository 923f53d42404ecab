"""Law 8: after a sync, the engine must say what the learner says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.engine.base import Engine, Sampling
from agentrl.errors import SyncMismatch, UserError
from agentrl.transcript import Float32Array, Int32Array

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest absolute difference of a logprob, in nats. Two correct fp32 forwards differ by some 2e-6,
two bf16 ones by 8e-3; stale weights or caches by 0.3 and more."""

RELATIVE = {"float32": 0.0, "bfloat16": 2e-2}
"""And this share of the logprob itself: a bf16 logit of 12 has steps of 0.06."""

SCORING = Sampling(max_tokens=1)


@dataclass(frozen=True, slots=True)
class SyncCheck:
    """How far engine and learner were apart on the probe."""

    version: int
    max_difference: float
    """Largest absolute difference, in nats."""
    mean_difference: float
    tolerance: float


async def check_sync(
    engine: Engine,
    probe: Sequence[Int32Array],
    expected: Sequence[Float32Array] | Callable[[Int32Array], Float32Array],
    *,
    version: int | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
) -> SyncCheck:
    """Compare the engine's logprobs of fixed rows with the learner's, under temperature 1.

    probe: rows [t] of ids, t >= 2. expected: the learner's logprobs [t] of each row, entry 0 unused,
    or a function that gives them. version: the one the engine must have. dtype: the coarser of the
    two computations, which sets the tolerance.

    Raises SyncMismatch, naming the worst row and token, when they differ.
    """
    if not probe or min(len(row) for row in probe) < 2:
        raise UserError("a sync probe needs rows of at least two tokens")
    limit = TOLERANCES[dtype] if tolerance is None else tolerance
    relative = RELATIVE[dtype] if tolerance is None else 0.0
    if version is not None and engine.version != version:
        raise SyncMismatch(
            f"the engine has policy version {engine.version} after the sync of version {version}: "
            "the update did not reach it"
        )
    differences: list[Float32Array] = []
    for i, row in enumerate(probe):
        learner = expected(row) if callable(expected) else expected[i]
        engine_logprobs = await engine.score(row, SCORING)
        difference = np.abs(engine_logprobs[1:] - learner[1:])
        differences.append(difference)
        allowed = (limit + relative * np.abs(learner[1:])).astype(np.float32)
        _judge(i, difference, engine_logprobs, learner, allowed)
    joined = np.concatenate(differences)
    return SyncCheck(engine.version, float(joined.max()), float(joined.mean()), limit)


def _judge(
    i: int,
    difference: Float32Array,
    engine: Float32Array,
    learner: Float32Array,
    limits: Float32Array,
) -> None:
    if np.isfinite(difference).all() and bool((difference <= limits).all()):
        return
    over = difference - limits
    worst = int(np.argmax(np.where(np.isfinite(over), over, np.inf))) + 1
    raise SyncMismatch(
        f"after the sync, engine and learner differ by {difference[worst - 1]:.4g} nats at token "
        f"{worst} of probe row {i} ({engine[worst]:.6f} against {learner[worst]:.6f}, allowed "
        f"{limits[worst - 1]:g}): the engine runs other weights (a parameter missing from the sync, a "
        "tied head left behind, or cached keys and values of the old weights)"
    )
