"""Making a copy of a running session, from the inside.

This code runs in the process that model code has had, so it is trusted with nothing: what a copy
may be is decided in `family`. Here is only what an honest interpreter must do to become one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import io
import os
import tempfile

from agentrl_sandbox.inside import confine, kernel, privileges, seccomp
from agentrl_sandbox.inside.folders import copy_tree

# Without giving up the interpreter's lock: nothing of it may run between the call and its return.
_locked = ctypes.PyDLL(None, use_errno=True)
_python = ctypes.pythonapi


def clone(private_files: bool) -> bool:
    """Fork as the zygote permits; True in the copy. Raises OSError.

    `os.fork` cannot ask for a copy that is the zygote's child; what it does around the call is done
    here. The session has one thread, so no lock of the C library is held by another.
    """
    flags = seccomp.copy_flags(private_files)
    # Where the C library keeps the thread's id, which the kernel is to write for the copy.
    address = ctypes.c_ulong()
    kernel.prctl(kernel.PR_GET_TID_ADDRESS, ctypes.byref(address))
    number = kernel.number_of("clone")
    arguments = clone_arguments(kernel.ARCH, flags, address.value)
    _python.PyOS_BeforeFork()
    pid = _locked.syscall(*map(ctypes.c_long, (number, *arguments)))
    code = ctypes.get_errno()
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return True
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(code, f"clone: {os.strerror(code)}")
    return False


def clone_arguments(machine: str, flags: int, address: int) -> tuple[int, int, int, int, int]:
    """Flags, stack, parent's place for the thread id, and the child's: before or after its TLS."""
    return (flags, 0, 0, address, 0) if machine == "x86_64" else (flags, 0, 0, 0, address)


def move_in(old: str, work: str, here: str) -> None:
    """Take the contents of the old work folder along; the current folder must be it.

    `here` was the current folder of the session. Raises OSError.
    """
    copy_tree(".", work)
    _reopen(old, work, here)
    os.chdir(_moved(here, old, work))
    for name, text in os.environ.items():
        os.environ[name] = _moved(text, old, work)
    if tempfile.tempdir is not None:
        tempfile.tempdir = _moved(tempfile.tempdir, old, work)


def _moved(path: str, old: str, work: str) -> str:
    return work + path[len(old) :] if path == old or path.startswith(old + os.sep) else path


def _reopen(old: str, work: str, here: str) -> None:
    """Let open files of the old folder be those of the new one, at the same position.

    A file that has no name any more stays shared, as after any fork.
    """
    for found in gc.get_objects():
        if type(found) is io.FileIO and not found.closed and isinstance(found.name, str):
            with contextlib.suppress(OSError):
                inside = _place(found, old, here)
                if inside is not None:
                    _exchange(found.fileno(), os.path.join(work, inside))


def _place(file: io.FileIO, old: str, here: str) -> str | None:
    """Where an open file lies below the old folder, which is the current one; None: not there.

    A relative name counts from the folder that was current then, which may have changed since.
    """
    for start in (here, old):
        path = os.path.normpath(os.path.join(start, str(file.name)))
        if path.startswith(old + os.sep):
            inside = os.path.relpath(path, old)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(inside), os.fstat(file.fileno())):
                    return inside
    return None


def _exchange(fd: int, path: str) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
    fresh = os.open(path, flags | os.O_CLOEXEC)
    os.lseek(fresh, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
    os.dup2(fresh, fd, inheritable=False)
    os.close(fresh)


def finish_fence(parent: int) -> None:
    """Give up what making a file tree of one's own gave, and die with the zygote."""
    privileges.drop_capabilities()
    kernel.die_with_parent(parent)
    confine.reseed()
