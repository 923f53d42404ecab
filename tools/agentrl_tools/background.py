"""The thread in which connections live that all episodes of this process share.

A connection belongs to one event loop, and episodes come and go with theirs (a run, a Gymnasium
session, a test); a loop of its own lets all of them share a server. The thread ends with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import cache
from typing import TypeVar, TypeVarTuple, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def start(work: Callable[[Unpack[Ts]], Awaitable[T]], *arguments: *Ts) -> Future[T]:
    """Begin `work` in the background; cancelling the future cancels it there."""
    return _portal(os.getpid()).start_task_soon(work, *arguments)


async def run(work: Callable[[Unpack[Ts]], Awaitable[T]], *arguments: *Ts) -> T:
    """Await `work` done in the background; cancelling this cancels it there."""
    return await asyncio.wrap_future(start(work, *arguments))


@cache
def _portal(process: int) -> BlockingPortal:
    """One per process: a forked child has the memory of the thread, but not the thread."""
    stack = ExitStack()
    portal = stack.enter_context(start_blocking_portal(name="agentrl-background"))

    def end() -> None:
        if os.getpid() == process:
            portal.start_task_soon(portal.stop, True)
            stack.close()

    atexit.register(end)
    return portal


__all__ = ["run", "start"]
