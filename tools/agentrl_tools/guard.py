"""Runs a server so that it cannot outlive the process that wanted it. Executed by path, never imported.

    python guard.py PARENT_PID COMMAND [ARGUMENT]...

The server shares this process's standard streams and its process group, which is a group of its own.
When the parent is gone (even by SIGKILL, which no handler sees), or when the server has ended and
left children behind, the whole group is ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

LOOK_S = 0.05
GRACE_S = 1.0
NOT_FOUND = 127


def main(parent: int, command: list[str]) -> int:
    """The server's exit code, or 127 when it cannot be started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server's to obey; SIGKILL still ends both
    try:
        # Ignored signals are inherited, so the server gets the usual meaning back.
        server = subprocess.Popen(command, preexec_fn=_heed)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return NOT_FOUND
    while server.poll() is None:
        if os.getppid() != parent:
            _end_group(server)
        time.sleep(LOOK_S)
    os.killpg(0, signal.SIGTERM)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def _heed() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    while server.poll() is None and time.monotonic() < until:
        time.sleep(LOOK_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
