"""The environment beside a foreign program: it says how the task begins and judges the last turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic

from agentrl.context import Context
from agentrl.env import Env, Observation
from agentrl.errors import DeadlineExceeded
from agentrl.rollout.faults import of_env, within
from agentrl.rollout.limits import Lease, Limits
from agentrl.rollout.parts import Names, Parts
from agentrl.serve.gateway.session import Session
from agentrl.serve.gateway.turns import Verdict
from agentrl.tool import Tool
from agentrl.trajectory import StopReason


class Bench:
    """One open environment, reset to the task of a session. Its tools are described, not run."""

    def __init__(self, env: Env, first: Observation, limits: Limits) -> None:
        self._env, self._limits = env, limits
        self.messages = first
        """How the environment begins the conversation."""

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Tools the environment offers."""
        return tuple(self._env.tools)

    async def judge(self, session: Session) -> Verdict:
        """What the last turn is worth, as our own loop would find it.

        A turn that a limit cut, or that still waits for its calls, is not shown to the environment
        and earns 0. Raises WorldFault when the environment failed.
        """
        if session.limit is not None:
            return Verdict(session.limit, {"env": 0.0})
        if session.last is None or session.last.tool_calls:
            return Verdict(StopReason.ENV_TRUNCATED, {"env": 0.0})
        async with _deadline(self._limits.step_s, "judge the last turn"):
            result = await of_env(self._env.step(session.last))
        stop = StopReason.TERMINATED if result.terminated else StopReason.ENV_TRUNCATED
        info = result.info
        return Verdict(stop, {"env": result.reward}, info.answer, excluded=info.excluded)


@asynccontextmanager
async def bench(parts: Parts, names: Names, sibling: int) -> AsyncGenerator[Bench]:
    """An environment for one session, closed with the block. Raises WorldFault."""
    env, lease, limits = parts.make_env(), Lease(parts.pool), parts.limits
    seed = names.seeds(sibling).env
    ends = None if limits.episode_s is None else monotonic() + limits.episode_s
    context = Context(
        lease_sandbox=lease.get, tool_limiter=parts.tool_slots, deadline=ends, seed=seed
    )
    try:
        async with _deadline(limits.setup_s, "start"):
            await of_env(env.open(context))
            first = await of_env(env.reset(names.task, seed=seed))
        yield Bench(env, first, limits)
    finally:
        await asyncio.shield(_released(env, lease, limits.close_s))


async def _released(env: Env, lease: Lease, close_s: float) -> None:
    try:
        await within(close_s, of_env(env.close()))
    finally:
        if lease.held:
            await within(close_s, lease.close())


@asynccontextmanager
async def _deadline(seconds: float, doing: str) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded(f"the environment did not {doing} within {seconds:g} s") from error


__all__ = ["Bench", "bench"]
