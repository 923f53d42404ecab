"""The asynchronous side of a Gymnasium episode, and the thread it lives in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, final

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepResult
from agentrl.rollout.limits import Lease
from agentrl.sandbox import IsolationLevel, PoolStatistics, Sandbox, SandboxPool
from agentrl.types import Task

T = TypeVar("T")


@final
class LoopThread:
    """An event loop in a thread of its own, so that a synchronous caller may sit inside another."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="agentrl-gym", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def wait(self, work: Coroutine[Any, Any, T], *, deadline_s: float) -> T:
        """Run `work` there to its end. Raises what it raises; TimeoutError past the deadline."""
        bounded = asyncio.wait_for(work, deadline_s)
        return asyncio.run_coroutine_threadsafe(bounded, self._loop).result()

    def close(self) -> None:
        """Stop the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()


@final
class LazyPool:
    """A sandbox pool that opens when the first session is asked for."""

    def __init__(self, make_pool: Callable[[], SandboxPool]) -> None:
        self._make_pool = make_pool
        self._pool: SandboxPool | None = None

    @property
    def isolation(self) -> IsolationLevel:
        """The real pool's level; `none` while it is not open."""
        return "none" if self._pool is None else self._pool.isolation

    async def open(self) -> None:
        """Nothing yet."""

    async def acquire(self) -> Sandbox:
        """A session. Raises SandboxUnavailable when the pool cannot open here."""
        if self._pool is None:
            pool = self._make_pool()
            await pool.open()
            self._pool = pool
        return await self._pool.acquire()

    async def close(self) -> None:
        """Close what was opened."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    def statistics(self) -> PoolStatistics:
        """The real pool's counts."""
        return PoolStatistics(0, 0, 0, 0) if self._pool is None else self._pool.statistics()


@final
class Session:
    """One episode after another over one pool."""

    def __init__(self, make_env: Callable[[], Env], make_pool: Callable[[], SandboxPool]) -> None:
        self._make_env = make_env
        self._pool = LazyPool(make_pool)
        self._lease = Lease(self._pool)
        self.env: Env | None = None
        """The live episode's environment."""

    async def start(self, task: Task) -> tuple[Env, Observation]:
        """End the last episode and begin the next."""
        await self.end()
        self._lease = Lease(self._pool)
        self.env = self._make_env()
        await self.env.open(Context(lease_sandbox=self._lease.get, seed=task.seed))
        return self.env, await self.env.reset(task, seed=task.seed)

    async def step(self, action: Action) -> StepResult:
        """One step of the live episode. Raises RuntimeError when there is none."""
        if self.env is None:
            raise RuntimeError("no episode is live")
        return await self.env.step(action)

    async def end(self) -> None:
        """Close the live episode. Idempotent."""
        env, self.env = self.env, None
        try:
            if env is not None:
                await env.close()
        finally:
            await self._lease.close()

    async def close(self) -> None:
        """End everything. Idempotent."""
        try:
            await self.end()
        finally:
            await self._pool.close()
