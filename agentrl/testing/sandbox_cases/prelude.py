"""Names that the code of a case may use; run before it, in a cell of its own."""

from __future__ import annotations

PRELUDE = """
import ctypes, errno, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
tried = {}
def attempt(name, act, *arguments):
    "Note what came of it: `done`, the text it gave, or the name of the error."
    try:
        result = act(*arguments)
    except OSError as error:
        result = errno.errorcode.get(error.errno, str(error.errno))
    except Exception as error:
        result = type(error).__name__
    tried[name] = result if isinstance(result, str) else "done"
def call(x86, other, *arguments):
    "A system call by its number on x86-64 and elsewhere."
    number = x86 if X86 else other
    if number is None:
        raise OSError(errno.ENOSYS, "not on this machine")
    ctypes.set_errno(0)
    padded = [*arguments, *[0] * (6 - len(arguments))]
    given = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in padded]
    result = libc.syscall(ctypes.c_long(number), *given)
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def read(path, count=100_000):
    with open(path, "rb") as file:
        return file.read(count).decode("latin-1")
def write(path, text="pwned"):
    with open(path, "w") as file:
        file.write(text)
def named(name):
    "Give this process a name that the other side can find."
    libc.prctl(15, name.encode()[:15], 0, 0, 0)
def fork():
    "A fork that may be refused: -1 then."
    try:
        return os.fork()
    except OSError:
        return -1
"""
"""Beside what `Stage.told` names there is EARLIER, the values of the case's steps so far when the session
began. `attempt` fills `tried`; a case that ends in the expression `tried` shows the other side how
each attempt went."""
