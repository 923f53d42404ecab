"""Symbolic comparison in killable worker processes, from threads and from an event loop.

Each worker is a fresh interpreter (`symbolic.main`) that answers one request at a time, as JSON
over pipes. The deadline counts CPU time, so that a verdict does not depend on how busy the machine
is; the parent waits `PATIENCE` times as long, then kills. Either way the worker is replaced, and
the outcome says so. A worker ends by itself when its parent goes: at once when idle, at its timer when
busy. Only the worker loads math-verify and sympy.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agentrl.errors import SetupError
from agentrl.verify.symbolic import OVERRUN, Reply, Request

PATIENCE = 4.0
"""How many times its deadline of CPU time a comparison may take in real time."""
START_S = 60.0
"""How long a new worker may take to import sympy on a busy machine."""

_BOOT = "import sys; sys.path.append({root!r}); from agentrl.verify.symbolic import main; main()"
_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one comparison."""

    correct: bool | None
    """None unless `how` is "answered" and the gold could be read."""
    how: Literal["answered", "timeout", "crashed", "raised"]
    """"crashed": the worker died, for instance of memory; "raised": sympy failed on the text."""
    detail: str = ""
    """The exception's name when `how` is "raised"."""


class _WorkerGone(Exception):
    """The worker process ended while it was needed; never leaves this module."""


class SymbolicWorker:
    """One child process; not thread-safe, a pool lends it to one caller at a time."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        # -P: a file named sympy.py in the working folder must not be imported
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT.format(root=root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            start_new_session=True,
        )
        self._buffer = b""
        self._ready = False

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait for the first line of a new worker.

        Raises:
            SetupError: math-verify is not installed, or the worker does not start in time.
        """
        if self._ready:
            return
        try:
            reply = self._receive(time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise SetupError(
                f"the answer checker did not start within {timeout_s:.0f} s; is the machine overloaded?"
            ) from error
        if reply["error"]:
            raise SetupError(f"pip install math-verify: {reply['error']}")
        self._ready = True

    def compare(self, gold: str, prediction: str, deadline_s: float) -> Reply:
        """One comparison in `deadline_s` of CPU time, counted from when the worker is ready.

        Raises:
            TimeoutError: the worker overran, and ended itself or must be killed.
            _WorkerGone: the worker died of something else.
        """
        self.wait_ready()
        wall_s = PATIENCE * deadline_s
        request = Request(
            id=next(_ids), gold=gold, prediction=prediction, cpu_s=deadline_s, wall_s=wall_s
        )
        deadline = time.monotonic() + wall_s
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise _WorkerGone("the symbolic worker closed its pipe") from error
        reply = self._receive(deadline)
        if reply["id"] != request["id"]:
            raise _WorkerGone("the symbolic worker answered another request")
        return reply

    def end(self) -> None:
        """Signal the process to end; a caller waiting on it sees `_WorkerGone`."""
        self._process.kill()

    def kill(self) -> None:
        """End the process at once, reap it and close its pipes; safe to call twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _receive(self, deadline: float) -> Reply:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._buffer:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poller.poll(left_s * 1000):
                raise TimeoutError
            chunk = os.read(fd, 65536)
            if not chunk:
                if self._process.wait(timeout=START_S) in OVERRUN:
                    raise TimeoutError
                raise _WorkerGone("the symbolic worker ended")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)


class SymbolicPool:
    """A few workers behind one queue; started on first use, and anew after a fork."""

    def __init__(self, *, size: int = 1, deadline_s: float = 5.0) -> None:
        """`deadline_s`: CPU seconds of one comparison, queueing and the worker's start excluded."""
        self._size = size
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._owner = 0
        self._executor: ThreadPoolExecutor | None = None
        self._idle: list[SymbolicWorker] = []
        self._alive: set[SymbolicWorker] = set()
        self._closed = False
        self._replaced = 0

    @property
    def replaced(self) -> int:
        """How many workers were killed or found dead and replaced."""
        return self._replaced

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers alive now."""
        return [worker.pid for worker in list(self._alive)]

    def submit(self, gold: str, prediction: str) -> Future[Outcome]:
        """Queue one comparison; the future raises SetupError when no worker can be started."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the answer checker is closed")
            if self._executor is None or self._owner != os.getpid():
                # a forked child has neither its parent's threads nor a right to its pipes
                self._owner, self._idle, self._alive = os.getpid(), [], set()
                self._executor = ThreadPoolExecutor(self._size, thread_name_prefix="symbolic")
            return self._executor.submit(self._run, gold, prediction)

    def compare_now(self, gold: str, prediction: str) -> Outcome:
        """Compare and wait; every queued request ahead takes `PATIENCE` deadlines at most."""
        return self.submit(gold, prediction).result()

    async def compare(self, gold: str, prediction: str) -> Outcome:
        """Compare without blocking the event loop; cancelling gives up the place in the queue."""
        return await asyncio.wrap_future(self.submit(gold, prediction))

    def close(self) -> None:
        """Kill the workers and fail what is queued; idempotent, returns at once."""
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
            workers = list(self._alive) if self._owner == os.getpid() else []
        if executor is not None and self._owner == os.getpid():
            executor.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.end()
            executor.shutdown(wait=True)
        for worker in workers:
            worker.kill()

    def _lend(self) -> SymbolicWorker:
        """An idle worker, or a new one; there are never more than threads to run them."""
        with self._lock:
            return self._idle.pop() if self._idle else self._hire()

    def _hire(self) -> SymbolicWorker:
        if self._closed:
            raise _WorkerGone("the answer checker was closed")
        try:
            worker = SymbolicWorker()
        except OSError as error:
            raise SetupError(f"no process for the answer checker: {error}") from error
        self._alive.add(worker)
        return worker

    def _replace(self, worker: SymbolicWorker) -> None:
        """Kill a worker; its successor starts importing while nobody waits for it."""
        worker.kill()
        with self._lock, contextlib.suppress(SetupError, _WorkerGone):
            self._alive.discard(worker)
            self._replaced += 1
            self._idle.append(self._hire())

    def _run(self, gold: str, prediction: str) -> Outcome:
        worker = self._lend()
        try:
            reply = worker.compare(gold, prediction, self._deadline_s)
        except TimeoutError:
            self._replace(worker)
            return Outcome(None, "timeout")
        except (_WorkerGone, ValueError):
            self._replace(worker)
            return Outcome(None, "crashed")
        except SetupError:
            self._replace(worker)
            raise
        with self._lock:
            self._idle.append(worker)
        if reply["error"]:
            return Outcome(None, "raised", reply["error"])
        return Outcome(reply["correct"], "answered")
