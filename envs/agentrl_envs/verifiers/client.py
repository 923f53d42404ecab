"""The process in which a verifiers environment lives, shared by all episodes that play it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import anyio

import agentrl_tools
from agentrl.errors import SetupError, UserError, WorldFault
from agentrl.types import JsonValue
from agentrl_tools import background

Fields = Mapping[str, JsonValue]
T = TypeVar("T")

WORKER = Path(__file__).with_name("worker.py")
GUARD = Path(agentrl_tools.__file__).with_name("guard.py")
_LINE_BYTES = 256 << 20
_TAIL = 5


class WorkerLost(WorldFault, RuntimeError):
    """The process of the environment died, hangs, or failed an episode."""


@dataclass(frozen=True, slots=True)
class Played:
    """Which environment, in which Python; equal ones share a process."""

    env: str
    args: str
    """JSON of the loader's arguments."""
    python: str
    path: tuple[str, ...] = ()
    """Folders put before `sys.path` there."""


class _Started(NamedTuple):
    """Where requests are written."""

    loop: asyncio.AbstractEventLoop
    stdin: asyncio.StreamWriter


class Worker:
    """A process that is started at once; requests may come from any event loop."""

    def __init__(self, played: Played) -> None:
        self._played = played
        self._next = 0
        self._waiting: dict[int, Future[JsonValue]] = {}
        self._started: Future[_Started] = Future()
        self._last: list[str] = []
        self._lock = threading.Lock()
        self._life = background.start(self._live)
        self._life.add_done_callback(self._ended)

    @property
    def alive(self) -> bool:
        """Worth asking, as far as is known."""
        return not self._life.done()

    def sizes(self, within_s: float) -> Fields:
        """Load the environment; blocks. See `ask`."""
        return background.start(self.loaded, within_s).result(within_s + 5)

    def rows(self, split: str, start: int, n: int, within_s: float) -> list[Fields]:
        """Prompt and answer of some rows; blocks. See `ask`."""

        async def asked() -> JsonValue:
            return await self.ask("rows", within_s, split=split, start=start, stop=start + n)

        return cast(list[Fields], background.start(asked).result(within_s + 5))

    async def loaded(self, within_s: float) -> Fields:
        """Sizes of the splits, once the environment is there. See `ask`."""
        args = cast(JsonValue, json.loads(self._played.args))
        path = list(self._played.path)
        told = await self.ask("load", within_s, env=self._played.env, args=args, path=path)
        return cast(Fields, told)

    async def ask(self, do: str, within_s: float, /, **fields: JsonValue) -> JsonValue:
        """One request. Raises WorkerLost, UserError and SetupError as the answer's kind says."""
        answer: Future[JsonValue] = Future()
        with self._lock:
            self._next += 1
            number = self._next
            self._waiting[number] = answer
        if not self.alive:
            raise self._lost(do)
        line = json.dumps({"id": number, "do": do, **fields}) + "\n"
        try:
            async with asyncio.timeout(within_s):
                start = await asyncio.shield(_watched(self._started))
                start.loop.call_soon_threadsafe(start.stdin.write, line.encode())
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            raise WorkerLost(
                f"the verifiers environment {self._played.env} did not answer {do} within "
                f"{within_s:g} seconds"
            ) from error
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    async def _live(self) -> None:
        command = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid())]
        command += [self._played.python, str(WORKER)]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,
        )
        assert process.stdin is not None
        self._started.set_result(_Started(asyncio.get_running_loop(), process.stdin))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(process))
                group.create_task(self._listen(process))
        finally:
            process.stdin.close()
            with anyio.move_on_after(2, shield=True) as late:
                await process.wait()
            if late.cancelled_caught:
                os.killpg(process.pid, 9)
                with anyio.CancelScope(shield=True):
                    await process.wait()

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            told = cast(Fields, json.loads(line))
            with self._lock:
                waiting = self._waiting.get(cast(int, told["id"]))
            if waiting is None or not waiting.set_running_or_notify_cancel():
                continue
            if "error" in told:
                waiting.set_exception(self._fault(str(told["error"]), str(told.get("kind"))))
            else:
                waiting.set_result(told.get("ok"))

    async def _listen(self, process: Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last = [*self._last, text][-_TAIL:]

    def _fault(self, text: str, kind: str) -> Exception:
        if kind == "missing":
            return SetupError(
                f"{text}; give it a Python of its own and name that: python -m venv vf && "
                "vf/bin/pip install verifiers, then env.python=vf/bin/python"
            )
        if kind == "user":
            return UserError(f"{text}; install it there, or name its folder in env.path")
        return WorkerLost(f"the verifiers environment {self._played.env} failed: {text}")

    def _lost(self, do: str) -> WorkerLost:
        last = f" (its last words: {self._last[-1][-200:]})" if self._last else ""
        return WorkerLost(f"the process of {self._played.env} ended during {do}{last}")

    def _ended(self, life: Future[None]) -> None:
        """Runs in the background thread; whoever still waits is told."""
        if not self._started.done():
            self._started.set_exception(self._lost("its start"))
        with self._lock:
            waiting, self._waiting = dict(self._waiting), {}
        for answer in waiting.values():
            if answer.set_running_or_notify_cancel():
                answer.set_exception(self._lost("a request"))


def _watched(future: Future[T]) -> asyncio.Future[T]:
    """The future in this loop; a failure that nobody is left to hear of is no error of the loop."""
    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return waiting


_workers: dict[tuple[int, Played], Worker] = {}
_lock = threading.Lock()


def worker_of(played: Played) -> Worker:
    """The process that plays an environment; a dead one is replaced. Raises UserError."""
    if shutil.which(played.python) is None:
        raise UserError(f"env.python: there is no program {played.python!r}")
    key = (os.getpid(), played)
    with _lock:
        found = _workers.get(key)
        if found is None or not found.alive:
            found = _workers[key] = Worker(played)
        return found


__all__ = ["Fields", "Played", "Worker", "WorkerLost", "worker_of"]
