"""How a branch gets a world of its own: copied where that is possible, else played again."""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.env import Action, Env, Forkable, Observation
from agentrl.errors import CannotFork
from agentrl.rollout.faults import of_env
from agentrl.rollout.limits import Lease
from agentrl.types import Task


async def copied(env: Env, lease: Lease, n: int) -> list[tuple[Env, Lease]] | None:
    """`n` copies of an environment and its sandbox, not yet opened; None when it has none to give."""
    if not isinstance(env, Forkable):
        return None
    try:
        envs = await of_env(env.fork(n))
        return list(zip(envs, await lease.fork(n), strict=True))
    except CannotFork:
        return None


def fingerprint(observation: Observation) -> int:
    """Equal, within this process, for observations of equal text."""
    return hash(tuple(message.content for message in observation))


async def replayed(env: Env, task: Task, seed: int, steps: Sequence[tuple[Action, int]]) -> int:
    """Bring a freshly opened environment to where these steps end; the calls that took.

    A step is an action and the fingerprint of what answered it. Raises CannotFork when the
    environment does not answer as it did.
    """
    await of_env(env.reset(task, seed=seed))
    calls = 0
    for turn, (action, before) in enumerate(steps):
        result = await of_env(env.step(action))
        calls += len(result.info.results)
        if fingerprint(result.observation) != before:
            raise CannotFork(
                f"turn {turn} was answered differently when it was played again; give the "
                "environment a `fork`, or make it depend on task and seed alone"
            )
    return calls


__all__ = ["copied", "fingerprint", "replayed"]
