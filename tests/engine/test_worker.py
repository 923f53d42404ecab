"""The engine thread: whatever goes wrong on it, nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from agentrl.engine.base import Generation, Sampling
from agentrl.engine.worker import EngineThread, Finished
from agentrl.errors import EngineError, SetupError, UserError

ROW = np.array([1, 2], np.int32)


class Countdown:
    """Finishes a request after as many steps as its first token says; 66 makes the step raise."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}
        self.aborted: list[int] = []
        self.closed = False
        self.thread = threading.current_thread()

    @property
    def busy(self) -> bool:
        return bool(self.left)

    def submit(self, request) -> None:
        if request.token_ids[0] == 0:
            raise UserError("no zeros: give another token")
        self.left[request.id] = int(request.token_ids[0])

    def abort(self, request_id: int) -> None:
        self.aborted.append(request_id)
        del self.left[request_id]

    def step(self) -> list[Finished]:
        assert threading.current_thread() is self.thread
        if 66 in self.left.values():
            raise ZeroDivisionError("step 66")
        self.left = {i: n - 1 for i, n in self.left.items()}
        done = [i for i, n in self.left.items() if n == 0]
        for i in done:
            del self.left[i]
        return [Finished(i, Generation(ROW, [0.0, 0.0], "length", ((2, 0),))) for i in done]

    def close(self) -> None:
        self.closed = True


async def opened() -> EngineThread[Countdown]:
    thread = EngineThread(Countdown, name="countdown")
    await thread.open()
    return thread


def first(token: int) -> np.ndarray:
    return np.array([token], np.int32)


async def test_requests_finish_and_a_bad_one_fails_alone():
    thread = await opened()
    with pytest.raises(UserError, match="no zeros"):
        await thread.request(first(0), Sampling(max_tokens=1))
    result = await thread.request(first(3), Sampling(max_tokens=1))
    assert isinstance(result, Generation)
    await thread.close()
    assert thread.backend.closed


async def test_an_exception_on_the_thread_reaches_every_waiter_and_later_ones():
    thread = await opened()
    tokens = [10**9] * 20 + [66]
    results = await asyncio.gather(
        *[thread.request(first(t), Sampling(max_tokens=1)) for t in tokens], return_exceptions=True
    )
    assert all(
        isinstance(r, EngineError) and "ZeroDivisionError: step 66" in str(r) for r in results
    )
    with pytest.raises(EngineError, match="step 66"):
        await thread.request(first(1), Sampling(max_tokens=1))
    with pytest.raises(EngineError, match="step 66"):
        await thread.call(lambda backend: None)
    await thread.close()  # waits for the thread, which closes its backend last
    assert thread.backend.closed


async def test_cancelling_a_request_aborts_exactly_that_one():
    thread = await opened()
    task = asyncio.create_task(thread.request(first(10**9), Sampling(max_tokens=1)))
    other = asyncio.create_task(thread.request(first(10**9), Sampling(max_tokens=1)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await thread.call(lambda backend: (backend.aborted, list(backend.left))) == ([0], [1])
    await thread.close()
    with pytest.raises(EngineError, match="closed"):
        await other


async def test_a_failing_call_ends_the_engine_but_a_user_error_does_not():
    thread = await opened()

    def refuse(_):
        raise UserError("no: do that")

    def break_it(_):
        raise KeyError("lost")

    with pytest.raises(UserError):
        await thread.call(refuse)
    assert await thread.call(lambda backend: 5) == 5
    with pytest.raises(EngineError, match="lost"):
        await thread.call(break_it)
    with pytest.raises(EngineError, match="lost"):
        await thread.call(lambda backend: 5)


async def test_a_failed_load_raises_what_it_raised_and_leaves_nothing_open():
    def fail() -> Countdown:
        raise SetupError("nothing here")

    thread = EngineThread(fail, name="broken")
    with pytest.raises(SetupError, match="nothing here"):
        await thread.open()
    with pytest.raises(EngineError, match="nothing here"):
        await thread.request(first(1), Sampling(max_tokens=1))


async def test_close_is_idempotent_and_ends_the_thread():
    thread = await opened()
    worker = await thread.call(lambda backend: backend.thread)
    await thread.close()
    await thread.close()
    assert not worker.is_alive()
