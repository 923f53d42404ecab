"""The far side of the shell tool where a sandbox lets code start processes: a real `/bin/sh`.

Sent as source (`inside.py`); the standard library alone. The working folder lasts from call to call;
variables do not.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time

MAX_OUTPUT = 20_000
"""Characters kept, half from each end."""
_SAVING = "trap 'pwd -P > \"$AGENTRL_CWD_FILE\"' EXIT\n"

_folder = os.getcwd()


def run(command: str, seconds: float) -> str:
    """JSON of `output` (both streams), `code` and `timeout`; or `refused` where nothing may start."""
    global _folder
    with tempfile.TemporaryFile() as output, tempfile.NamedTemporaryFile("r") as where:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SAVING + command],
                cwd=_folder if os.path.isdir(_folder) else None,
                env={**os.environ, "AGENTRL_CWD_FILE": where.name},
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError, UnicodeError) as error:
            refused = isinstance(error, OSError)
            return json.dumps({"refused": True} if refused else {"output": str(error), "code": 2})
        timeout = not _ended(process, seconds)
        # Whatever the command left in the background ends with it.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        said = where.read().rstrip("\n")
        _folder = said or _folder
        output.seek(0)
        text = output.read(1 << 22).decode("utf-8", "replace")
        return json.dumps({"output": shortened(text), "code": code, "timeout": timeout})


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends in time."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def shortened(text: str) -> str:
    """Text within `MAX_OUTPUT`, its middle left out."""
    half = MAX_OUTPUT // 2
    return text if len(text) <= MAX_OUTPUT else f"{text[:half]}\n...\n{text[-half:]}"
