"""How the far side is started: which interpreter, flags and environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agentrl.errors import UserError

_BOOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "agentrl_sandbox", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
package = importlib.util.module_from_spec(spec)
sys.modules["agentrl_sandbox"] = package
spec.loader.exec_module(package)
from importlib import import_module
import_module("agentrl_sandbox.inside." + sys.argv[2]).main()
"""
_KEPT = ("TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPYCACHEPREFIX")
_SET = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    # The order of sets of strings is part of what a program prints: runs must be repeatable.
    "PYTHONHASHSEED": "0",
}


def start(
    module: str, *arguments: str, python: str | None = None, fd: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `agentrl_sandbox.inside.<module>.main()` in a clean interpreter that inherits `fd`.

    The package is loaded from its files without putting anything on the interpreter's path. stdout
    and stderr are pipes. Raises UserError when `python` cannot be started.
    """
    home = str(Path(__file__).resolve().parent)
    # -I would ignore the hash seed too; the environment is a list of our own, so nothing else
    # of what -I guards against can come in.
    command = [python or sys.executable, "-s", "-P", "-c", _BOOT, home, module, *arguments]
    try:
        return subprocess.Popen(
            command,
            env=_SET | {name: os.environ[name] for name in _KEPT if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=() if fd is None else (fd,),
            close_fds=True,
            start_new_session=True,
            cwd="/",
        )
    except OSError as error:
        raise UserError(
            f"the sandbox interpreter {command[0]!r} cannot be started ({error.strerror}): set "
            "python to the path of a Python 3.11 or later, or leave it out"
        ) from error
