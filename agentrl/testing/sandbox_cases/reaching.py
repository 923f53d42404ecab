"""Code that tries to reach another process or another machine."""

from __future__ import annotations

import socket

from agentrl.testing.sandbox_cases.case import Case, Seen
from agentrl.testing.sandbox_cases.verdicts import (
    every,
    nothing_passed,
    refused,
    unharmed,
    unreached,
)

CONNECT = """
import socket
def stream(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s: s.settimeout(2); s.connect(address)
def datagram(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as s: s.sendto(b"x", address)
def pair(path):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b"x", path)
def reused(path):
    a, b = socket.socketpair(); a.connect(path)
attempt("tcp", stream, socket.AF_INET, ("127.0.0.1", PORTS["tcp"]))
attempt("tcp6", stream, socket.AF_INET6, ("::1", PORTS["tcp6"]))
attempt("udp", datagram, socket.AF_INET, ("127.0.0.1", PORTS["udp"]))
attempt("unix", stream, socket.AF_UNIX, FOLDER + "/unix")
attempt("log", datagram, socket.AF_UNIX, FOLDER + "/log")
attempt("abstract", stream, socket.AF_UNIX, "\\0" + MARK)
attempt("pair", pair, FOLDER + "/log")
attempt("reused", reused, FOLDER + "/unix")
"""

FAMILIES = """
import socket
def opened(family, kind, protocol, address=None):
    with socket.socket(family, kind, protocol) as s:
        if address is not None: s.settimeout(1); s.connect(address)
attempt("vsock", opened, 40, 1, 0, (2, 22))
attempt("packet", opened, 17, 3, 768)
attempt("raw", opened, 2, 3, 1)
attempt("alg", opened, 38, 5, 0)
attempt("tipc", opened, 30, 2, 0)
attempt("bluetooth", opened, 31, 3, 1)
attempt("xdp", opened, 44, 3, 0)
attempt("can", opened, 29, 3, 1)
tried
"""

INTERFACES = "import socket\nprint('<' + '> <'.join(n for _, n in socket.if_nameindex()) + '>')"

DATAGRAM_OUT = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(2)
    s.connect(("192.0.2.1", 53))
    s.send(b"x")
"""

SIGNALS = """
import resource, signal
pid = VICTIM
attempt("kill", os.kill, pid, 9)
attempt("group", os.killpg, pid, 9)
attempt("tgkill", call, 234, 131, pid, pid, 9)
attempt("tkill", call, 200, 130, pid, 9)
attempt("queue", call, 129, 138, pid, 9, 0)
attempt("tgqueue", call, 297, 240, pid, pid, 9, 0)
def by_pidfd():
    fd = call(434, 434, pid, 0); call(424, 424, fd, 9, 0, 0)
attempt("pidfd", by_pidfd)
def by_proc():
    fd = os.open(f"/proc/{pid}", os.O_RDONLY); call(424, 424, fd, 9, 0, 0)
attempt("proc", by_proc)
for other in (PARENT, os.getppid() or 1 << 21, -1, 1):
    attempt(f"probe {other}", os.kill, other, 0)
"""

MEDDLE = """
import resource
pid = VICTIM
attempt("rlimit", resource.prlimit, pid, resource.RLIMIT_NOFILE, (5, 5))
attempt("affinity", os.sched_setaffinity, pid, [0])
attempt("priority", os.setpriority, os.PRIO_PROCESS, pid, 19)
attempt("scheduler", os.sched_setscheduler, pid, os.SCHED_BATCH, os.sched_param(0))
attempt("ioprio", call, 251, 30, 1, pid, 3 << 13)
attempt("setpgid", os.setpgid, pid, 0)
attempt("oom", write, f"/proc/{pid}/oom_score_adj", "1000")
attempt("pages", call, 256, 238, pid, 64, 0, 0)
"""

OWNED = """
import fcntl, socket, struct
a, b = socket.socketpair()
r, w = os.pipe()
pid = VICTIM
for fd in (a.fileno(), r):
    attempt(f"owner {fd}", fcntl.fcntl, fd, 8, pid)
    attempt(f"signal {fd}", fcntl.fcntl, fd, 10, 9)
    attempt(f"owner_ex {fd}", fcntl.fcntl, fd, 15, struct.pack("ii", 1, pid))
    attempt(f"ioctl {fd}", fcntl.ioctl, fd, 0x8901, struct.pack("i", pid))
    attempt(f"group {fd}", fcntl.ioctl, fd, 0x8902, struct.pack("i", pid))
    attempt(f"async {fd}", fcntl.fcntl, fd, 4, 0o20000 | os.O_NONBLOCK)
b.send(b"x"); os.write(w, b"x"); time.sleep(0.1)
"""

TRACE = """
pid = VICTIM
buffer = ctypes.create_string_buffer(64)
class Span(ctypes.Structure): _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]
span = Span(ctypes.addressof(buffer), 64)
def vm(x86, other):
    call(x86, other, pid, ctypes.addressof(span), 1, ctypes.addressof(span), 1, 0)
attempt("attach", call, 101, 117, 16, pid, 0, 0)
attempt("seize", call, 101, 117, 0x4206, pid, 0, 0)
attempt("readv", vm, 310, 270)
attempt("writev", vm, 311, 271)
def steal():
    fd = call(434, 434, pid, 0); call(438, 438, fd, 0, 0)
attempt("getfd", steal)
attempt("kcmp", call, 312, 272, pid, os.getpid(), 0, 0, 0)
attempt("madvise", lambda: call(440, 440, call(434, 434, pid, 0), ctypes.addressof(span), 1, 20, 0))
tried
"""

PASS_DESCRIPTORS = """
import array, socket
write(MARK, "x")
held = [os.open(MARK, os.O_RDONLY) for _ in range(8)]
message = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", held))]
for fd in range(3, 64):
    if fd in held: continue
    try: s = socket.socket(fileno=os.dup(fd))
    except OSError: continue
    try: s.sendmsg([b"x"], message)
    except OSError: pass
"""

TERMINAL = """
import fcntl
def push(fd): fcntl.ioctl(fd, 0x5412, b"\\0")
for fd in (0, 1, 2): attempt(f"push {fd}", push, fd)
attempt("tty", lambda: push(os.open("/dev/tty", os.O_RDWR)))
attempt("paste", lambda: fcntl.ioctl(0, 0x541C, b"\\x03"))
attempt("steal", lambda: fcntl.ioctl(0, 0x540E, 1))
tried
"""


def _only_own_interfaces(seen: Seen) -> str:
    own = {name for _, name in socket.if_nameindex()} - {"lo"}
    found = [name for name in own if f"<{name}>" in seen.last.stdout]
    return f"it sees this machine's {', '.join(found)}" if found else ""


REACHING: tuple[Case, ...] = (
    Case("cannot connect to this machine", "7", CONNECT, unreached, needs=("sockets",)),
    Case(
        "gets no socket of a family that is not confined", "7", FAMILIES, refused,
        needs=("linux",),
    ),
    Case("cannot see this machine's interfaces", "7", INTERFACES, _only_own_interfaces),
    Case(
        "cannot send a datagram away", "7", DATAGRAM_OUT,
        lambda seen: "it was sent" if seen.last.status == "ok" else "",
    ),
    Case("cannot signal another process", "6", SIGNALS, unharmed, needs=("victim",)),
    Case(
        "cannot change another process's limits or schedule", "6", MEDDLE, unharmed,
        needs=("victim", "linux"),
    ),
    Case(
        "cannot signal by owning a descriptor", "6", OWNED, unharmed, needs=("victim", "linux"),
    ),
    Case(
        "cannot trace another process", "11", TRACE, every(refused, unharmed),
        needs=("victim", "linux"),
    ),
    Case(
        "cannot pass descriptors to this side", "", PASS_DESCRIPTORS, nothing_passed,
        needs=("linux",),
    ),
    Case("cannot type into a terminal", "", TERMINAL, refused, needs=("linux",)),
)  # fmt: skip
