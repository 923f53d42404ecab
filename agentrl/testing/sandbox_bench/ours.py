"""Our sides of the comparisons."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import perf_counter

from agentrl.config import Plugin
from agentrl.errors import SandboxError
from agentrl.plugins import build
from agentrl.sandbox import ExecResult, OneShot, SandboxPool
from agentrl.testing.sandbox_bench.census import descendants, private_mb
from agentrl.testing.sandbox_bench.timing import Side

CORES = os.cpu_count() or 1
USES_BOTH = "import numpy, sympy\nprint(1 + 1)"
PRINTS = "print(1 + 1)"
_DEADLINE_S = 60.0


@asynccontextmanager
async def pool(options: Mapping[str, object], name: str = "local") -> AsyncGenerator[SandboxPool]:
    """An open pool. Raises SandboxUnavailable."""
    made: SandboxPool = build("sandbox", Plugin.model_validate({"name": name, **options}))
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def once(on: SandboxPool, code: str, timeout_s: float = _DEADLINE_S) -> ExecResult:
    """Run code in a fresh interpreter, by the short way where the pool has one."""
    if isinstance(on, OneShot):
        return await on.run_once(code, timeout_s=timeout_s)
    session = await on.acquire()
    try:
        return await session.run(code, timeout_s=timeout_s)
    finally:
        await session.close()


def one_shot(on: SandboxPool, code: str) -> Side:
    """Seconds of one fresh interpreter, from call to result."""

    async def measure() -> float:
        began = perf_counter()
        _expect_ok(await once(on, code))
        return perf_counter() - began

    return measure


def together(operation: Callable[[], Awaitable[object]], count: int, workers: int) -> Side:
    """Seconds per operation when `workers` of them run side by side."""

    async def work(left: list[int]) -> None:
        while left:
            left.pop()
            await operation()

    async def measure() -> float:
        left = list(range(count))
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work(left))
        return (perf_counter() - began) / count

    return measure


def throughput(on: SandboxPool, code: str, count: int = 48) -> Side:
    """Seconds per fresh interpreter with as many workers as cores."""

    async def operation() -> None:
        _expect_ok(await once(on, code))

    return together(operation, count, CORES)


@asynccontextmanager
async def cells(on: SandboxPool, count: int = 20) -> AsyncGenerator[Side]:
    """Seconds per cell of a session that lives on."""
    session = await on.acquire()

    async def measure() -> float:
        began = perf_counter()
        for _ in range(count):
            _expect_ok(await session.run("1 + 1", timeout_s=_DEADLINE_S))
        return (perf_counter() - began) / count

    try:
        yield measure
    finally:
        await session.close()


def starts(on: SandboxPool) -> Side:
    """Seconds until a new session stands ready."""

    async def measure() -> float:
        began = perf_counter()
        session = await on.acquire()
        took_s = perf_counter() - began
        await session.close()
        return took_s

    return measure


def idle_memory(on: SandboxPool, sessions: int = 16) -> Side:
    """MB that an idle session adds, numpy and sympy loaded and one cell run."""

    async def measure() -> float:
        before = descendants(os.getpid())
        held = [await on.acquire() for _ in range(sessions)]
        try:
            for session in held:
                _expect_ok(await session.run("import numpy, sympy\n1 + 1", timeout_s=_DEADLINE_S))
            new = descendants(os.getpid()) - before
            return sum(map(private_mb, new)) / sessions
        finally:
            for session in held:
                await session.close()

    return measure


async def overshoots(on: SandboxPool, limit_s: float, runs: int) -> list[float]:
    """By how many seconds each of `runs` endless loops outlived its deadline, queueing left out."""

    async def one() -> float:
        began = perf_counter()
        result = await once(on, "while True: pass", limit_s)
        took_s = perf_counter() - began - result.queue_s
        if result.status != "timeout":
            raise SandboxError(f"an endless loop ended as {result.status}")
        return took_s - limit_s

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one()) for _ in range(runs)]
    return [task.result() for task in running]


def _expect_ok(result: ExecResult) -> None:
    if result.status != "ok":
        raise SandboxError(f"a measured run ended as {result.status}: {result.error}")
