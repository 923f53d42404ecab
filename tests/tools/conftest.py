"""The real sandbox for tools that run something."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentrl.errors import SandboxUnavailable
from agentrl.registry import resolve
from agentrl.sandbox import SandboxPool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local_pool() -> AsyncIterator[SandboxPool]:
    """The real sandbox; skipped where the machine cannot isolate."""
    pool = resolve("sandbox", "local")()
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox here: {error}")
    yield pool
    await pool.close()
