"""The same plan for `agentrl bench rollout`: one replica's engine, its rows and tools, in virtual time.

The simulator plays the real loop, so it has what the roofline leaves out: rows of unlike lengths, tools
of unlike speed, a cache that fills.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.train.estimate.plan import Plan
from agentrl.train.estimate.report import Estimate
from agentrl.train.estimate.shapes import kv_bytes_per_token, layer_matrices
from agentrl.train.estimate.steptime import decode_s

LEAST_EPISODES = 8
"""That the simulator takes."""


def simulator_words(found: Estimate) -> Sequence[str]:
    """The command that simulates the rollouts of one replica of `found.plan`."""
    plan = found.plan
    work, at_once = plan.work, max(2, plan.rows_per_engine)
    context = work.prompt_tokens + (work.sampled_tokens + work.observed_tokens) / 2
    one, many = decode_s(plan, 1, context), decode_s(plan, at_once, context)
    row_ms = 1e3 * (many - one) / (at_once - 1)
    prefill = 2e3 * plan.shape.n_layers * layer_matrices(plan.shape)
    prefill_ms = 1e3 * prefill / (plan.tensor_parallel * plan.device.flops(plan.dtype))
    calls = round(work.calls)
    return (
        "agentrl bench rollout",
        f"-c {at_once}",
        f"--episodes {max(LEAST_EPISODES, -(-work.rows // plan.replicas))}",
        f"--calls {calls}",
        f"--turn-tokens {work.sampled_tokens / (calls + 1):.0f}",
        f"--tool-s {work.tool_s:g}",
        f"--step-ms {1e3 * one - row_ms:.3g}",
        f"--row-ms {row_ms:.3g}",
        f"--prefill-ms {prefill_ms:.3g}",
        f"--max-batch {at_once}",
        f"--kv-tokens {_kv_tokens(plan, found)}",
    )


def _kv_tokens(plan: Plan, found: Estimate) -> int:
    """Tokens that the rest of a replica's memory holds; at least the longest row, as engines demand."""
    beside = found.learner.total if plan.placement == "colocated" else 0.0
    taken = plan.device.overhead + beside + found.engine.weights + found.engine.temporaries
    across = min(plan.tensor_parallel, plan.shape.n_kv_heads)
    token = kv_bytes_per_token(plan.shape, plan.size) / across
    return max(plan.max_tokens, int((plan.device.memory - taken) // token))


__all__ = ["simulator_words"]
