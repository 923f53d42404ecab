"""A `vllm serve` of our own: started, watched, and never left behind.

It listens on a socket file in a private folder, so no port is taken and nobody else on the machine
can reach its control routes. Between it and us stands `vllm_guard`, which ends it with us.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from agentrl.engine.vllm.guard import kill_group
from agentrl.errors import DeadlineExceeded, EngineError

_log = logging.getLogger("agentrl.engine.vllm.server")

LOOK_EVERY_S = 0.2
TELL_EVERY_S = 10.0
GUARD_S = 60.0
STOP_S = 10.0
SOCKET_PATH_LIMIT = 100
"""Linux takes 107 bytes."""

KEPT_NAMES = frozenset(
    {"PATH", "HOME", "USER", "LANG", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH"}
)
KEPT_PREFIXES = (
    "CUDA", "NVIDIA", "NCCL", "HIP_", "HSA_", "ROCR_", "GLOO", "OMP_", "KMP_", "GOMP", "MKL",
    "LC_", "VLLM_", "TORCH", "PYTORCH", "TRITON", "FLASHINFER", "XDG_", "VIRTUAL_ENV",
    "CONDA_PREFIX", "HF_HOME", "HF_HUB_OFFLINE",
)  # fmt: skip
SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL")


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What the server inherits: paths and settings of its libraries, no secret, nothing else."""

    def kept(name: str) -> bool:
        """Whether the server needs the variable."""
        secret = any(word in name for word in SECRETS)
        return not secret and (name in KEPT_NAMES or name.startswith(KEPT_PREFIXES))

    return {name: value for name, value in os.environ.items() if kept(name)} | dict(extra)


class ServerProcess:
    """One server and its guard."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentrl-vllm-"))
        """Private; holds the socket and the log, and goes with the server."""
        if len(str(self.folder)) > SOCKET_PATH_LIMIT - len("/socket"):
            self.folder.rmdir()
            self.folder = Path(tempfile.mkdtemp(prefix="agentrl-vllm-", dir="/tmp"))
        self.socket = self.folder / "socket"
        self.group: int | None = None
        """Process group of the server."""
        self._log_file = self.folder / "log"
        self._guard: subprocess.Popen[bytes] | None = None

    async def start(self, command: Sequence[str], extra_environment: Mapping[str, str]) -> None:
        """Start the command through the guard; does not wait until it answers.

        Raises EngineError or DeadlineExceeded when even the guard does not start.
        """
        guard = [
            sys.executable,
            "-m",
            "agentrl.engine.vllm.guard",
            str(os.getpid()),
            str(self.folder),
        ]
        with self._log_file.open("wb") as log:
            self._guard = subprocess.Popen(  # noqa: ASYNC220 - milliseconds, and on the caller's thread
                [*guard, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(extra_environment),
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        try:
            async with asyncio.timeout(GUARD_S):
                line = await asyncio.to_thread(self._guard.stdout.readline)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the guard of the vLLM server did not start within {GUARD_S:g} s"
            ) from error
        if not line.strip().isdigit():
            raise EngineError(f"the vLLM server did not start: {self.last_words()}")
        self.group = int(line)

    async def ready(self, healthy: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Wait until the server answers, telling the log how far it is.

        Raises EngineError with its last words when it ends first, DeadlineExceeded when it takes
        longer than `timeout_s`.
        """
        started = told = time.monotonic()
        while not await healthy():
            now = time.monotonic()
            death = self.death()
            if death is not None:
                raise EngineError(death)
            if now - started > timeout_s:
                raise DeadlineExceeded(
                    f"the vLLM server did not answer within {timeout_s:g} s; it last said: "
                    f"{self.last_words()}"
                )
            if now - told > TELL_EVERY_S:
                told = now
                _log.info("vLLM server, %.0f s: %s", now - started, self.last_words())
            await asyncio.sleep(LOOK_EVERY_S)
        _log.info("vLLM server is ready after %.1f s", time.monotonic() - started)

    def death(self) -> str | None:
        """How the server ended, or None while it runs."""
        status = None if self._guard is None else self._guard.poll()
        if status is None:
            return None
        how = f"with status {status}"
        number = -status if status < 0 else status - 128
        if number in {int(s) for s in signal.Signals}:
            how = f"by {signal.Signals(number).name}" + (" of its guard" if status < 0 else "")
        return f"the vLLM server ended {how}: {self.last_words()}"

    def last_words(self) -> str:
        """The newest line of its log that names an error, else the newest line."""
        try:
            text = self._log_file.read_text(errors="replace")[-20000:]
        except OSError:
            return "no log"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or ["nothing was logged"])[-1][-500:]

    async def stop(self) -> None:
        """End the server and all it started, and remove its folder. Idempotent."""
        guard = self._guard
        if guard is not None and guard.poll() is None:
            assert guard.stdin is not None
            guard.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(guard.wait, STOP_S)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End the server at once, without waiting for it to finish anything."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        # A guard that ended by itself has killed the group; its number may be another's by now.
        if self.group is not None and (guard.poll() is None or guard.returncode < 0):
            kill_group(self.group)
        guard.kill()
        guard.wait(STOP_S)
        for pipe in (guard.stdin, guard.stdout):
            if pipe is not None:
                pipe.close()


__all__ = ["ServerProcess", "environment"]
