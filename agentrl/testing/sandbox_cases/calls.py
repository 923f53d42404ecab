"""System calls that open a way out, by name, by number and by machine code."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Seen
from agentrl.testing.sandbox_cases.verdicts import (
    ends,
    every,
    fewer_than,
    gives,
    lost,
    nothing_left,
    refused,
)

NAMESPACES = """
attempt("unshare user", call, 272, 97, 0x10000000)
attempt("unshare mount", call, 272, 97, 0x00020000)
attempt("unshare net", call, 272, 97, 0x40000000)
attempt("setns", call, 308, 268, 0, 0)
def into_user():
    "Would be a child in a user namespace of its own."
    pid = call(56, 220, 0x10000011, 0, 0, 0, 0)
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
attempt("clone user", into_user)
tried
"""

CLONE3 = """
class Arguments(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint64) for n in "f pidfd child parent exit stack size tls tid n cg".split()]
def clone3(flags):
    given = Arguments(f=flags, exit=17)
    pid = call(435, 435, ctypes.addressof(given), 88)
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
attempt("user", clone3, 0x10000000)
attempt("mount", clone3, 0x00020000)
tried
"""

MOUNTS = """
os.mkdir("from"); os.mkdir("to")
here = os.getcwd().encode()
def mount(source, kind, flags, options):
    "Mounts on a folder of its own, and takes it away again at once."
    call(165, 40, source, here + b"/to", kind, flags, options)
    call(166, 39, here + b"/to", 2)
attempt("tmpfs", mount, b"none", b"tmpfs", 0, b"size=1m")
attempt("bind", mount, here + b"/from", b"none", 4096, b"")
attempt("proc", mount, b"none", b"proc", 0, b"")
attempt("chroot", call, 161, 51, here)
attempt("pivot", call, 155, 41, here + b"/to", here + b"/to")
attempt("fsopen", call, 430, 430, b"tmpfs", 0)
attempt("open_tree", call, 428, 428, -100, b"/", 1)
attempt("move_mount", call, 429, 429, -100, b"/", -100, b"/", 0)
attempt("mount_setattr", call, 442, 442, -100, b"/", 0, b"\\0" * 32, 32)
tried
"""

DANGEROUS = """
import struct
attempt("bpf", call, 321, 280, 0, struct.pack("IIII", 2, 4, 4, 1) + bytes(112), 128)
attempt("perf", call, 298, 241, struct.pack("II", 1, 112) + bytes(104), 0, -1, -1, 0)
attempt("userfault", call, 323, 282, 0)
attempt("handle", call, 304, 265, -100, b"\\0" * 32, 0)
attempt("keyring", call, 250, 219, 0, -3, 1)
attempt("add_key", call, 248, 217, b"user", b"k", b"x", 1, -3)
attempt("acct", call, 163, 89, b"x")
attempt("syslog", call, 103, 116, 3, b"\\0" * 64, 64)
attempt("personality", call, 135, 92, 0x0040000)
attempt("fanotify", call, 300, 262, 0, 0)
attempt("iopl", call, 172, None, 3)
attempt("modify_ldt", call, 154, None, 1, b"\\0" * 16, 16)
attempt("lookup_dcookie", call, 212, 18, 0, b"\\0" * 64, 64)
attempt("memfd_secret", call, 447, 447, 0)
attempt("mknod", lambda: os.mknod("disk", 0o60666, os.makedev(253, 0)))
attempt("mknod mem", lambda: os.mknod("memory", 0o20666, os.makedev(1, 1)))
tried
"""

IO_URING = """
attempt("setup", call, 425, 425, 4, b"\\0" * 120)
attempt("enter", call, 426, 426, 0, 0, 0, 0)
attempt("register", call, 427, 427, 0, 0, 0, 0)
tried
"""

CLOCKS = """
import struct  # everything is set to what it is
name = os.uname().nodename.encode()
attempt("clock_settime", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
attempt("settimeofday", lambda: call(164, 170, struct.pack("qq", int(time.time()), 0), 0))
attempt("hostname", call, 170, 161, name, len(name))
tried
"""

PRIVILEGES = """
import resource
now = os.getuid()
for name in ("AS", "FSIZE", "NOFILE", "CORE", "NPROC"):
    number = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(number)[1]
    if hard != resource.RLIM_INFINITY:
        attempt(name, resource.setrlimit, number, (hard + 1, hard + 1))
if now != 0:
    attempt("setuid", os.setuid, 0)
    attempt("setgid", os.setgid, 0)
    attempt("setresuid", os.setresuid, 0, 0, 0)
attempt("setgroups", lambda: os.setgroups([0, 6]))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
attempt("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10)))
attempt("deadline", call, 314, 274, 0, bytes([48, 0, 0, 0, 6, 0, 0, 0]) + b"\\1" * 40, 0)
attempt("ioprio", call, 251, 30, 1, 0, 1 << 13)
attempt("mlock", lambda: call(151, 230, 3))
tried
"""

SET_USER_ID = """
import glob, subprocess
def elevated(path):
    return subprocess.run([path, "-c", "id -u"], capture_output=True, text=True, timeout=5,
                          stdin=subprocess.DEVNULL).stdout.strip()
print("uid", os.getuid())
for path in ("/usr/bin/su", "/bin/su", "/usr/bin/sudo", "/usr/bin/pkexec", "/usr/bin/newgrp"):
    attempt(path, elevated, path)
write("tool", "#!/bin/sh\\nid -u\\n")
attempt("own", lambda: (os.chmod("tool", 0o4755), os.chown("tool", 0, 0)))
os.getuid() != 0 and "0" in tried.values()
"""

CAPABILITIES = """
class Header(ctypes.Structure): _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure): _fields_ = [(name, ctypes.c_uint32) for name in "epi"]
header, data = Header(0x20080522, 0), (Data * 2)()
libc.capget(ctypes.byref(header), data)
held = [d.e | d.p | d.i for d in data]
ambient = [n for n in range(41) if libc.prctl(47, 2, n, 0, 0) == 0]
[held, ambient, libc.prctl(39, 0, 0, 0, 0)]
"""

PRCTL = """
def prctl(*a):
    ctypes.set_errno(0)
    if libc.prctl(*map(ctypes.c_long, (*a, *[0] * (5 - len(a))))) < 0:
        raise OSError(ctypes.get_errno(), "refused")
attempt("seccomp off", prctl, 22, 0)
attempt("new privileges", prctl, 38, 0)
attempt("mm", prctl, 35, 12, 0)
attempt("capbset", prctl, 24, 21)
tried
"""

BY_32_BIT_DOOR = """
import mmap
# mov eax, 2 (fork of the 32-bit table); int 0x80; ret
code = b"\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3"
m = mmap.mmap(-1, 4096, prot=7)
m.write(code)
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
"""

X32 = """
print(libc.syscall(ctypes.c_long(0x40000000 + 39)))
"""

BY_MACHINE_CODE = """
import mmap
if X86:  # mov eax, 57 (fork); syscall; ret
    code = b"\\xb8\\x39\\x00\\x00\\x00\\x0f\\x05\\xc3"
else:  # mov x0, 17; mov x1..x4, 0; mov x8, 220 (clone); svc 0; ret
    words = (0xD2800220, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800004, 0xD2801B88, 0xD4000001, 0xD65F03C0)
    code = b"".join(w.to_bytes(4, "little") for w in words)
m = mmap.mmap(-1, 4096, prot=7)
m.write(code)
call_it = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
made = 0
for _ in range(400):
    pid = call_it()
    if pid == 0:
        named(MARK); time.sleep(30); os._exit(0)
    if pid < 0: break
    made += 1
print(made)
"""

MACHINE_SOCKET = """
import mmap, socket
if X86:  # mov edi, 2; mov esi, 1; xor edx, edx; mov eax, 41 (socket); syscall; ret
    code = bytes.fromhex("bf02000000be0100000031d2b8290000000f05c3")
else:
    words = (0xD2800040, 0xD2800021, 0xD2800002, 0xD28018C8, 0xD4000001, 0xD65F03C0)
    code = b"".join(w.to_bytes(4, "little") for w in words)
m = mmap.mmap(-1, 4096, prot=7)
m.write(code)
fd = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
if fd >= 0:
    with socket.socket(fileno=fd) as s: s.settimeout(2); s.connect(("127.0.0.1", PORTS["tcp"]))
"""


def _died_or_refused(seen: Seen) -> str:
    """Killed by the filter, or the call did nothing."""
    found = seen.last
    return "" if found.status != "ok" or found.stdout.strip() == "-1" else "it was allowed"


def _no_rights(seen: Seen) -> str:
    found = seen.last.value
    return "" if found == "[[0, 0], [], 1]" else f"capabilities, ambient, no_new_privs: {found}"


def _unreached(seen: Seen) -> str:
    return ", ".join(f"it reached {name}" for name in seen.stage.reached())


CALLS: tuple[Case, ...] = (
    Case("cannot enter namespaces of its own", "30", NAMESPACES, refused, needs=("linux",)),
    Case("cannot enter namespaces by clone3", "30", CLONE3, refused, needs=("linux",)),
    Case("cannot mount", "30", MOUNTS, refused, needs=("linux",)),
    Case("cannot use calls that open the kernel", "30", DANGEROUS, refused, needs=("linux",)),
    Case("cannot use io_uring", "29", IO_URING, refused, needs=("linux",)),
    Case("cannot turn clocks or rename the machine", "", CLOCKS, refused, needs=("linux",)),
    Case("cannot raise its limits or its rank", "35", PRIVILEGES, refused, needs=("linux",)),
    Case("cannot rise by set-user-id programs", "35", SET_USER_ID, gives("False"),
         "processes", ("linux",)),
    Case("has no capabilities and cannot gain any", "35", CAPABILITIES, _no_rights,
         needs=("linux",)),
    Case("cannot take down its own fence", "", PRCTL, refused, needs=("linux",)),
    Case(
        "the 32-bit door is shut", "31", BY_32_BIT_DOOR, every(ends("signal", "exited"), lost),
        needs=("linux", "x86_64"),
    ),
    Case(
        "the x32 door is shut", "31", X32, _died_or_refused, needs=("linux", "x86_64"),
    ),
    Case(
        "machine code cannot fork", "", BY_MACHINE_CODE,
        every(fewer_than(256), nothing_left), "processes", ("linux",),
    ),
    Case("machine code cannot connect", "", MACHINE_SOCKET, _unreached,
         needs=("linux", "sockets")),
)  # fmt: skip
