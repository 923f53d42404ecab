"""Code graded on another machine: the reward's pool is a server's, or a stranger's by replay."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from agentrl.errors import SandboxUnavailable
from agentrl.serve.sandbox_server import listen, server_of
from agentrl.types import Task
from agentrl.verify.code import Grader, forms
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.remote.pool import RemotePool
from agentrl_sandbox.remote.wire import Wire, Wiring

SUITE = Task(
    "t/1",
    "?",
    metadata={
        "entry_point": "f",
        "test": "def check(c):\n    for n in range(5):\n        assert c(n) == n * n, n\n",
    },
)


class Stranger(httpx.AsyncBaseTransport):
    """Our server with its own routes hidden: what is left is a SandboxFusion."""

    def __init__(self) -> None:
        self._real = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/agentrl"):
            return httpx.Response(404, json={"detail": "Not Found"})
        return await self._real.handle_async_request(request)

    async def aclose(self) -> None:
        await self._real.aclose()


@pytest.mark.parametrize("own", [True, False], ids=["agentrl", "stranger"])
async def test_grading_over_the_wire(own: bool) -> None:
    behind = LocalPool(max_sessions=4)
    try:
        await behind.open()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = server_of(behind)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listening]))
        pool = RemotePool(url=url, state="replay", min_isolation="none")
        if not own:
            pool._wire = Wire(Wiring(url, transport=Stranger()))  # pyright: ignore[reportPrivateUsage]
        await pool.open()
        grader = Grader(pool)
        right = await grader.grade(forms.tests_of(SUITE), "def f(n): return n ** 2")
        wrong = await grader.grade(forms.tests_of(SUITE), "def f(n): return 4 if n == 2 else n")
        await pool.close()
        server.should_exit = True
    assert right.correct, right.reason
    assert (wrong.correct, wrong.reason) == (False, "AssertionError: 3")
