"""Grading inside an episode: its own sandbox, made fresh, is what the grader leases.

Cases need one session. A test suite needs a second one for its asserts: a copy of the first, taken
while that has run nothing, so the two share no more than a family's limits. Back ends whose sessions
cannot be copied grade cases only.
"""

from __future__ import annotations

from agentrl.context import Context
from agentrl.env import Forkable
from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult, IsolationLevel, PoolStatistics, Sandbox
from agentrl.verify.code import Grade, GradeLimits, Grader, Tests


class LeasedGrader:
    """Grades code in the episode's sandbox, one grading at a time; everything there is forgotten."""

    def __init__(self, ctx: Context) -> None:
        self._pool = _LeasedPool(ctx)
        self._grader = Grader(self._pool, at_once=1)

    async def grade(self, tests: Tests, code: str, limits: GradeLimits) -> Grade:
        """What the tests say. Raises what `Grader.grade` raises."""
        self._pool.first = True
        return await self._grader.grade(tests, code, limits)


class _LeasedPool:
    """The lease as a pool of two sessions for one grading."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.first = True

    @property
    def isolation(self) -> IsolationLevel:
        return "none"

    async def open(self) -> None:
        """The run's pool is open."""

    async def acquire(self) -> Sandbox:
        """The leased session without what it held; the second time a copy of it."""
        box = await self._ctx.lease_sandbox()
        if self.first:
            self.first = False
            await box.reset()
            return _Kept(box)
        if not isinstance(box, Forkable):
            raise SandboxError(
                "a test suite needs a sandbox whose sessions can be copied (sandbox=local or docker)"
            )
        (copied,) = await box.fork(1)
        return copied

    async def close(self) -> None:
        """The run closes its pool."""

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(open_sessions=1, waiting=0, runs=0, restarts=0)


class _Kept:
    """A session that outlives the grading: the episode that leased it closes it."""

    def __init__(self, box: Sandbox) -> None:
        self._box = box

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        return await self._box.run(code, timeout_s=timeout_s)

    async def reset(self) -> None:
        await self._box.reset()

    async def close(self) -> None:
        """Kept."""
