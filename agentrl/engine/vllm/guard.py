"""Runs a command that must not outlive its parent:

    python -m agentrl.engine.vllm.guard PID FOLDER COMMAND...

The guard starts the command in a process group of its own, prints the group's number, and kills the
group when its standard input closes, when its parent (PID) dies, on SIGTERM, and when the command
itself ends. It exits as the command did, and removes FOLDER unless the command ended by itself, whose
log is still to be read.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
LOOK_EVERY_S = 0.2


def die_with_guard() -> None:
    """Ask Linux to kill the command should even the guard be killed; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_group(group: int) -> None:
    """Kill every process of a group; one that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def watch(child: subprocess.Popen[bytes], parent: int) -> None:
    """Return when the child has ended or nobody wants it any more."""
    while child.poll() is None and os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], LOOK_EVERY_S)
        if readable and not os.read(0, 1):
            return


def main() -> int:
    """Guard one command; returns its exit status, 128 + n for signal n."""
    parent, folder, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]

    def stop(number: int, frame: FrameType | None) -> None:
        """End `watch`, whatever it waits for."""
        raise KeyboardInterrupt

    # Linux could signal the death of the parent, but means the thread that started us; so `watch` looks.
    signal.signal(signal.SIGTERM, stop)
    # The guard has one thread, so the function that runs between fork and exec is safe.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=die_with_guard,
    )
    ended = False
    try:
        print(child.pid, flush=True)
        watch(child, parent)
        ended = child.poll() is not None
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    finally:
        kill_group(child.pid)
    status = child.wait()
    if not ended:
        shutil.rmtree(folder, ignore_errors=True)
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
