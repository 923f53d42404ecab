"""Pools at every isolation level that this machine can give, one per level and module."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentrl.sandbox import LEVELS, IsolationLevel, Sandbox, SandboxLimits
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.probe import probe

SECRET = "s3cret-of-the-parent"
LIMITS = SandboxLimits(memory_mb=256, disk_mb=16, output_bytes=20_000, open_files=64)


def _levels() -> list[object]:
    found = probe()
    levels: tuple[IsolationLevel, ...] = ("standard", "lite")
    return [
        pytest.param(
            level,
            marks=pytest.mark.skipif(
                LEVELS.index(found.level) < LEVELS.index(level), reason=found.why_not(level)
            ),
        )
        for level in levels
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=_levels())
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[LocalPool]:
    """An open pool, made while the environment holds a secret."""
    os.environ["AGENTRL_TEST_SECRET"] = SECRET
    pool = LocalPool(limits=LIMITS, max_isolation=request.param)
    await pool.open()
    assert pool.isolation == request.param
    yield pool
    await pool.close()
    del os.environ["AGENTRL_TEST_SECRET"]


@pytest_asyncio.fixture(loop_scope="module")
async def box(pool: LocalPool) -> AsyncIterator[Sandbox]:
    """A fresh session."""
    session = await pool.acquire()
    yield session
    await session.close()
