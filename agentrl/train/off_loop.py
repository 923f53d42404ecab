"""The learner's update beside the event loop: episodes go on while it computes."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

import torch

from agentrl.errors import RunFailed

T = TypeVar("T")

UPDATE_S = 6 * 3600.0
"""Deadline of one update."""


async def off_loop(work: Callable[[], T], *, deadline_s: float = UPDATE_S) -> T:
    """What `work` returns or raises, computed on a thread of its own.

    An update cannot be taken back, so an interrupt waits for its end and is raised at the caller's
    next await: the caller can settle what the update has changed before that.

    Raises RunFailed when the deadline passes; the thread is left behind and does not keep the
    process alive.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    done: Future[T] = loop.create_future()
    # The engine's thread sets torch's default to its own number; this one takes the caller's.
    n_threads = torch.get_num_threads()

    def run() -> None:
        """On the thread: compute, and hand the outcome to the loop."""
        try:
            torch.set_num_threads(n_threads)
            value = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            _settle(loop, done, error)
        else:
            _settle(loop, done, value)

    Thread(target=run, name="learner", daemon=True).start()
    interrupts = 0
    ends = loop.time() + deadline_s
    while not done.done():
        try:
            await asyncio.wait((done,), timeout=max(0.0, ends - loop.time()))
        except asyncio.CancelledError:
            interrupts += 1
            task.uncancel()
        if loop.time() >= ends and not done.done():
            raise RunFailed(
                f"the learner did not finish an update within {deadline_s:g} s; resume from the "
                "last checkpoint with a smaller learner.micro_tokens or batch"
            )
    for _ in range(interrupts):
        task.cancel()
    return done.result()


def _settle(loop: AbstractEventLoop, done: Future[T], value: T | BaseException) -> None:
    def settle() -> None:
        """On the loop."""
        if done.done():
            return
        if isinstance(value, BaseException):
            done.set_exception(value)
        else:
            done.set_result(value)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle)


__all__ = ["UPDATE_S", "off_loop"]
