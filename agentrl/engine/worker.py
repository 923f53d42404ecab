"""The thread an in-process engine computes on, and the asyncio side of it.

The event loop never computes: callers post requests and wait on futures. Between two steps the
thread takes up requests, aborts and other calls, so weight updates need no pause protocol. When a
step raises, every waiter gets an EngineError and the engine is dead for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from agentrl.engine.base import Sampling
from agentrl.engine.rows import Request, Result
from agentrl.errors import AgentRLError, DeadlineExceeded, EngineError, UserError
from agentrl.transcript import Int32Array, ids_array


class Finished(NamedTuple):
    """A request that needs no further step."""

    request_id: int
    result: Result


class Backend(Protocol):
    """What computes; all of it is called on the engine's thread."""

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        ...

    def submit(self, request: Request) -> None:
        """Take up a request. Raises UserError when it cannot be served."""
        ...

    def abort(self, request_id: int) -> None:
        """Drop a request, whatever its state."""
        ...

    def step(self) -> Sequence[Finished]:
        """Advance all requests by one step."""
        ...

    def close(self) -> None:
        """Free what was opened."""
        ...


BackendT = TypeVar("BackendT", bound=Backend)
T = TypeVar("T")
_Waiter: TypeAlias = "tuple[AbstractEventLoop, Future[Result]]"


class _Item(NamedTuple):
    """Something for the thread to do, and what to do instead when the thread is dead."""

    run: Callable[[], None]
    refuse: Callable[[EngineError], None]


def _nothing(_: EngineError | None = None) -> None:
    return None


OPEN_TIMEOUT_S = 1800.0
"""Loading a large model from a cold disk."""
CALL_TIMEOUT_S = 600.0
"""A call waits for the running step; a weight copy is seconds at most."""
CLOSE_TIMEOUT_S = 60.0


class EngineThread(Generic[BackendT]):
    """Runs one Backend on one thread."""

    def __init__(self, make: Callable[[], BackendT], *, name: str) -> None:
        self._make, self._name = make, name
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._waiters: dict[int, _Waiter] = {}
        self._ids = itertools.count()
        self._thread: threading.Thread | None = None
        self._backend: BackendT | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._dead: str | None = None
        """Why nothing more is served."""

    @property
    def backend(self) -> BackendT:
        """The open backend; only plain reads are safe outside the thread."""
        if self._backend is None:
            raise EngineError(f"engine {self._name} is not open")
        return self._backend

    @property
    def dead(self) -> str | None:
        """Why nothing more is served; None while the thread serves or was not started."""
        return self._dead

    async def open(self) -> None:
        """Start the thread and load. Raises what loading raises."""
        if self._thread is not None:
            return
        loop = asyncio.get_running_loop()
        ready: Future[None] = loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(loop, ready), name=f"engine-{self._name}", daemon=True
        )
        self._thread.start()
        await _within(OPEN_TIMEOUT_S, ready, f"opening engine {self._name}")

    async def request(
        self, token_ids: Int32Array, sampling: Sampling, *, scoring: bool = False
    ) -> Result:
        """Serve one request. Raises EngineError when it or the engine failed.

        Cancelling the caller aborts it.
        """
        request = Request(next(self._ids), ids_array(token_ids), sampling, scoring)
        loop = asyncio.get_running_loop()
        future: Future[Result] = loop.create_future()
        waiter = (loop, future)
        self._post(_Item(partial(self._submit, request, waiter), partial(_post_result, *waiter)))
        try:
            # The rollout's own deadline cancels this wait, and with it the request.
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(EngineError):
                self._post(_Item(partial(self._abort, request.id), _nothing))
            raise

    async def call(self, function: Callable[[BackendT], T]) -> T:
        """Run `function` on the thread between two steps. What it raises kills the engine, except
        a UserError."""
        loop = asyncio.get_running_loop()
        future: Future[T] = loop.create_future()

        def run() -> None:
            """On the thread: run the function and hand its outcome to the caller's loop."""
            try:
                value = function(self.backend)
            except UserError as error:
                _post_result(loop, future, error)
            except BaseException as error:
                _post_result(loop, future, _as_engine_error(self._name, error))
                raise  # the thread's border ends the engine
            else:
                _post_result(loop, future, value)

        self._post(_Item(run, partial(_post_result, loop, future)))
        return await _within(CALL_TIMEOUT_S, future, f"a call of engine {self._name}")

    async def close(self) -> None:
        """Stop the thread; whoever still waits gets an EngineError. Idempotent."""
        thread, self._closing = self._thread, True
        if thread is None or not thread.is_alive():
            return
        self._inbox.put(_Item(_nothing, _nothing))
        await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)

    def _post(self, item: _Item) -> None:
        with self._lock:
            if self._dead is not None:
                raise EngineError(self._dead)
            if self._thread is None:
                raise EngineError(f"engine {self._name} is not open")
            self._inbox.put(item)

    def _run(self, loop: AbstractEventLoop, ready: Future[None]) -> None:
        try:
            self._backend = backend = self._make()
        except BaseException as error:  # noqa: BLE001 - the thread border
            self._die(_as_engine_error(self._name, error))
            _post_result(loop, ready, error)
            return
        _post_result(loop, ready, None)
        try:
            self._serve(backend)
        except BaseException as error:  # noqa: BLE001 - the thread's border: waiters must hear of it
            self._die(_as_engine_error(self._name, error))
        else:
            self._die(EngineError(f"engine {self._name} was closed"))
        with contextlib.suppress(Exception):
            backend.close()

    def _serve(self, backend: BackendT) -> None:
        while not self._closing:
            self._take(block=not backend.busy)
            if backend.busy and not self._closing:
                for request_id, result in backend.step():
                    self._finish(request_id, result)

    def _take(self, *, block: bool) -> None:
        try:
            while True:
                self._inbox.get(block=block).run()
                block = False
        except queue.Empty:
            return

    def _submit(self, request: Request, waiter: _Waiter) -> None:
        try:
            self.backend.submit(request)
        except UserError as error:
            _post_result(*waiter, error)
        else:
            self._waiters[request.id] = waiter

    def _abort(self, request_id: int) -> None:
        if self._waiters.pop(request_id, None) is not None:
            self.backend.abort(request_id)

    def _finish(self, request_id: int, result: Result) -> None:
        waiter = self._waiters.pop(request_id, None)
        if waiter is not None:
            _post_result(*waiter, result)

    def _die(self, error: AgentRLError) -> None:
        """Refuse new requests and fail the waiting ones, those still in the inbox included."""
        with self._lock:
            self._dead = str(error)
        for waiter in self._waiters.values():
            _post_result(*waiter, EngineError(str(error)))
        self._waiters.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait().refuse(EngineError(str(error)))


def _post_result(loop: AbstractEventLoop, future: Future[T], value: T | BaseException) -> None:
    """Settle a future of another thread's loop; one that is gone or cancelled is left alone."""

    def settle() -> None:
        """On the future's own loop."""
        if future.done():
            return
        if isinstance(value, BaseException):
            future.set_exception(value)
        else:
            future.set_result(value)

    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(settle)


async def _within(seconds: float, future: Future[T], what: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await future
    except TimeoutError as error:
        raise DeadlineExceeded(f"{what} took more than {seconds:g} s") from error


def _as_engine_error(name: str, error: BaseException) -> AgentRLError:
    if isinstance(error, EngineError):
        return error
    wrapped = EngineError(f"engine {name} died: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
