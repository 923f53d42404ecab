"""Finding out what this machine can isolate, by doing it in throw-away children."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable

from agentrl_sandbox.inside import kernel, landlock, namespaces, privileges, seccomp, visible


def main() -> None:
    """Print a JSON object: primitive -> [works, detail]."""
    found: dict[str, tuple[bool, str]] = {}
    for name, attempt in (
        ("seccomp", _seccomp),
        ("landlock", _landlock),
        ("namespaces", _namespaces),
        ("session mounts", _session_mounts),
    ):
        found[name] = _tried(attempt)
    json.dump(found, sys.stdout)


def _tried(attempt: Callable[[], str]) -> tuple[bool, str]:
    """Run `attempt` in a child of its own; what it returns, or why it could not."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                words = attempt()
                status = 0
            except Exception as error:  # noqa: BLE001 - the reason is the answer
                words = f"{type(error).__name__}: {error}"
            os.write(writer, words.encode()[:1000])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        words = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    return status == 0, words


def _seccomp() -> str:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.load(seccomp.build(os.getpid(), private_files=False))
    try:
        os.fork()
    except PermissionError:
        return f"filter for {kernel.ARCH} loaded and obeyed"
    os._exit(1)


def _landlock() -> str:
    version = landlock.abi()
    if version == 0:
        raise OSError("the kernel has no Landlock, or it is not enabled (lsm=)")
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict((), (tempfile.gettempdir(),), ())
    try:
        os.listdir("/")
    except PermissionError:
        return f"ABI {version}, obeyed"
    raise OSError("loaded but not obeyed")


def _in_new_pid_namespace(act: Callable[[str], str]) -> str:
    how = namespaces.enter()
    works, words = _tried(lambda: act(how))
    if not works:
        raise OSError(words)
    return words


def _namespaces() -> str:
    def act(how: str) -> str:
        """In the new namespaces: build the file tree and look at it."""
        namespaces.build_root(visible.readable())
        if os.path.exists("/proc/self") or not os.path.exists(os.__file__):
            raise OSError("the private file tree is not as ordered")
        return "as root" if how == "root" else "inside a user namespace"

    return _in_new_pid_namespace(act)


def _session_mounts() -> str:
    def act(how: str) -> str:
        """In the new namespaces: fork a session child that mounts its own folders."""
        namespaces.build_root(visible.readable())
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                me = os.geteuid(), os.getegid()
                namespaces.session_mounts(*me, 1)
                privileges.drop_capabilities()
                status = 0
            finally:
                os._exit(status)
        if status := os.waitpid(pid, 0)[1]:
            raise OSError(f"a session child failed with status {status}")
        return "own work folder per session"

    return _in_new_pid_namespace(act)
