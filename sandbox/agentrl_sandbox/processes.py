"""The processes at the far end of a link: how to end them and when they are gone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from typing import Protocol

_STDERR_BYTES = 4000


class Process(Protocol):
    """A zygote's process, or the launcher that guards it."""

    @property
    def pid(self) -> int:
        """Its process id, as seen from here."""
        ...

    def kill(self) -> None:
        """End it at once; what it started dies with it."""
        ...

    def hush(self) -> None:
        """Nothing is expected on its outputs any more."""
        ...

    def bury(self, deadline_s: float) -> str:
        """Wait until it is gone, kill it at the deadline; its last words. Idempotent."""
        ...


class Launched:
    """A launcher that this process started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The launcher's own."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def hush(self) -> None:
        """Close its outputs: a full pipe must not stop the zygote."""
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def bury(self, deadline_s: float) -> str:
        """Wait for its end; what it said on stderr."""
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        words = b""
        if self._process.stderr is not None and not self._process.stderr.closed:
            os.set_blocking(self._process.stderr.fileno(), False)
            words = self._process.stderr.read(1 << 20) or b""
        self.hush()
        return words.decode("utf-8", "replace").strip()[-_STDERR_BYTES:]


class Forked:
    """A zygote that another zygote forked, known by its pidfd."""

    def __init__(self, pidfd: int, pid: int) -> None:
        self._pidfd = pidfd
        self._pid = pid
        # Who was cancelled while burying has left a thread that still does.
        self._burying = threading.Lock()

    @property
    def pid(self) -> int:
        """Its process id, as seen from here."""
        return self._pid

    def kill(self) -> None:
        """End it at once; its children die with it."""
        with contextlib.suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def hush(self) -> None:
        """It has no outputs of its own."""

    def bury(self, deadline_s: float) -> str:
        """Wait for its end; it has no words."""
        with self._burying:
            if self._pidfd >= 0:
                poll = select.poll()
                poll.register(self._pidfd, select.POLLIN)
                if not poll.poll(deadline_s * 1000):
                    self.kill()
                pidfd, self._pidfd = self._pidfd, -1
                os.close(pidfd)
        return ""
