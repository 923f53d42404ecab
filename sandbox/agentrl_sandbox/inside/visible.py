"""Which parts of the machine's file tree model code may read: an interpreter and its libraries.

Never a whole prefix: a virtual environment may sit in a project folder or in a home.
"""

from __future__ import annotations

import os
import sys
import sysconfig

SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/libx32", "/etc/ld.so.cache")
READ_DEVICES = ("/dev/zero", "/dev/random", "/dev/urandom")
WRITE_DEVICES = ("/dev/null",)


def interpreter() -> tuple[str, ...]:
    """Library folders of the running interpreter, real paths, no folder inside another."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [sysconfig.get_paths()[name] for name in names]
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        found.append(os.path.join(prefix, "lib"))
    return outermost([*found, *(os.path.realpath(path) for path in found)])


def outermost(paths: list[str]) -> tuple[str, ...]:
    """Existing paths, sorted, without those that lie inside another one."""
    kept: list[str] = []
    for path in sorted({os.path.normpath(p) for p in paths if os.path.exists(p)}):
        if not any(path == k or path.startswith(k + os.sep) for k in kept):
            kept.append(path)
    return tuple(kept)


def readable() -> tuple[str, ...]:
    """Everything a session may read outside its work folder, devices excepted."""
    return outermost([*SYSTEM, *interpreter()])
