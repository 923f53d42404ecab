"""Code that takes all it can: memory, disk, descriptors. Bounded, so that a box that fails only
loses a few times its own limits."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Step
from agentrl.testing.sandbox_cases.verdicts import (
    closed_in_time,
    ends,
    every,
    fails_with,
    gives,
    in_time,
    not_ok,
    prints_not,
    within_memory,
)

_FULL = every(not_ok, prints_not("all of it"), within_memory)

AT_ONCE = "x = bytearray((16 * MEMORY_MB + 8192) << 20)\nprint('all of it')"

IN_STEPS = """
kept = []
for _ in range(MEMORY_MB // 4 + 64): kept.append(b"x" * (8 << 20) + b"y")
print("all of it")
"""

SHARED = """
import mmap
kept = []
for _ in range(MEMORY_MB // 4 + 64):
    kept.append(mmap.mmap(-1, 8 << 20)); kept[-1][:] = b"x" * (8 << 20)
print("all of it")
"""

OUTSIDE_QUOTA = """
import mmap
kept, total = [], 0
def fill(fd):
    global total
    kept.append(fd)
    for _ in range(32):
        os.write(fd, b"x" * (1 << 20)); total += 1
def many(make):
    for n in range(MEMORY_MB // 16 + 16): fill(make(n))
attempt("memfd", many, lambda n: os.memfd_create(f"m{n}"))
def shm(n):
    path = f"/dev/shm/{MARK}{n}"
    fd = os.open(path, os.O_CREAT | os.O_RDWR); os.unlink(path)
    return fd
attempt("shm", many, shm)
def sysv(n):
    identity = call(29, 194, 0, 32 << 20, 0o1600)
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(identity, None, 0)
    call(31, 195, identity, 0, 0)
    ctypes.memset(at, 1, 32 << 20)
    return 32
def segments():
    global total
    for n in range(MEMORY_MB // 16 + 16): total += sysv(n)
attempt("sysv", segments)
print("all of it" if total > 2 * MEMORY_MB else total)
"""

HUGE_MAPPINGS = """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
bad = ctypes.c_void_p(-1).value
for flags in (0x22, 0x4022, 0x4021):
    for power in (46, 44, 42, 40):
        if libc.mmap(None, 1 << power, 3, flags, -1, 0) != bad: print("mapped", power)
print("answered")
"""

ZIP_MEMORY = """
import gzip
x = gzip.decompress(gzip.compress(bytes(1 << 20)) * (4 * MEMORY_MB))
print("all of it")
"""

ZIP_DISK = """
import zipfile
with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as z, z.open("big", "w", force_zip64=True) as f:
    for _ in range(4 * DISK_MB): f.write(bytes(1 << 20))
with zipfile.ZipFile("bomb.zip") as z: z.extractall()
print("all of it")
"""

ONE_FILE = """
with open("big", "wb", buffering=0) as f:
    for _ in range(3 * DISK_MB): f.write(b"x" * (1 << 20))
print("all of it")
"""

MANY_FILES = """
for n in range(12 * DISK_MB):
    with open(f"f{n}", "wb") as f: f.write(b"x" * (1 << 18))
    time.sleep(0.001)
print("all of it")
"""

DELETED = """
held = []
for n in range(min(OPEN_FILES - 10, 40)):
    f = open("f", "w+b", buffering=0); os.unlink("f"); held.append(f)
    for _ in range(max(DISK_MB // 8, 1)): f.write(b"x" * (1 << 20))
    time.sleep(0.02)
time.sleep(0.3)
print("all of it")
"""

MANY_ENTRIES = """
for n in range(40_000): os.mkdir(f"d{n}")
time.sleep(0.3)
print("all of it")
"""

LONG_LINKS = """
target = "x" * 4000
for n in range(40_000): os.symlink(target, f"l{n}")
time.sleep(0.3)
print("all of it")
"""

HARD_LINKS = """
write("f")
for n in range(40_000): os.link("f", f"h{n}")
time.sleep(0.3)
print("all of it")
"""

ATTRIBUTES = """
total = 0
for n in range(4000):
    write(f"f{n}", "x")
    os.setxattr(f"f{n}", "user.a", b"x" * 60_000); total += 60_000
time.sleep(0.3)
print("all of it" if total > 3 * DISK_MB << 20 else total)
"""

SPARSE = """
def grow(size):
    with open("sparse", "wb") as f: f.truncate(size)
attempt("truncate", grow, 1 << 50)
attempt("seek", lambda: os.pwrite(os.open("s", os.O_CREAT | os.O_WRONLY), b"x", 1 << 45))
def allocate():
    fd = os.open("a", os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(fd, 0, (4 * DISK_MB) << 20)
attempt("allocate", allocate)
tried["allocate"] == "done"
"""

DESCRIPTORS = """
kept = []
try:
    while len(kept) < 100_000: kept.append(open("/dev/null"))
finally: print(len(kept))
"""

EVENTS = """
import select
def storm(make):
    kept = []
    try:
        while len(kept) < 50_000: kept.append(make())
    except OSError: pass
    for fd in kept: os.close(fd)
    return str(len(kept))
attempt("eventfd", storm, lambda: os.eventfd(0))
attempt("timerfd", storm, lambda: call(283, 85, 1, 0))
attempt("epoll", storm, lambda: call(291, 20, 0))
attempt("signalfd", storm, lambda: call(289, 74, -1, b"\\0" * 8, 8, 0))
attempt("memfd", storm, lambda: os.memfd_create("m"))
max(int(n) for n in tried.values() if n.isdigit()) < 50_000
"""

PIPES = """
import fcntl, socket
kept, total = [], 0
try:
    while len(kept) < 20_000:
        r, w = os.pipe(); kept += [r, w]
        try: fcntl.fcntl(w, 1031, 1 << 20)
        except OSError: pass
        os.set_blocking(w, False)
        try:
            while True: total += os.write(w, b"x" * 65536)
        except BlockingIOError: pass
except OSError: pass
for fd in kept: os.close(fd)
total < (MEMORY_MB + 256) << 20
"""

MANY_ROUNDS = "kept = [b'x' * (8 << 20) for _ in range(MEMORY_MB // 16)]\nlen(kept) > 0"

FILLING: tuple[Case, ...] = (
    Case(
        "memory taken at once is refused", "2", AT_ONCE,
        every(_FULL, ends("error", "oom", "signal", "exited")), "memory",
    ),
    Case("memory taken in steps is refused", "2", IN_STEPS, _FULL, "memory"),
    Case("shared memory is memory", "2", SHARED, _FULL, "memory"),
    Case(
        "memory outside any quota is refused", "21", OUTSIDE_QUOTA,
        every(prints_not("all of it"), within_memory), "memory", ("linux",),
    ),
    Case(
        "huge mappings do no harm", "", HUGE_MAPPINGS,
        every(ends("ok", "error", "oom"), in_time(10)), "memory", ("linux",),
    ),
    Case("a zip bomb bursts in its own memory", "24", ZIP_MEMORY, _FULL, "memory"),
    Case("a zip bomb bursts on its own disk", "24", ZIP_DISK, every(not_ok), "disk"),
    Case(
        "memory is free again after a reset", "",
        (Step(MANY_ROUNDS), Step(MANY_ROUNDS, reset=True), Step(MANY_ROUNDS, reset=True)),
        gives("True"), "memory",
    ),
    Case("one large file is refused", "21", ONE_FILE, not_ok, "disk"),
    Case("many files are refused", "21", MANY_FILES, not_ok, "disk"),
    Case("deleted files that stay open are counted", "21", DELETED, not_ok, "disk"),
    Case("forty thousand folders are refused", "21", MANY_ENTRIES,
         every(not_ok, closed_in_time), "disk"),
    Case("forty thousand long links are refused", "", LONG_LINKS,
         every(not_ok, closed_in_time), "disk"),
    Case("forty thousand hard links are refused", "", HARD_LINKS,
         every(not_ok, closed_in_time), "disk"),
    Case("file attributes are counted or refused", "", ATTRIBUTES, prints_not("all of it"),
         "disk", ("linux",)),
    Case("sparse files are cheap or refused", "", SPARSE, gives("False"), "disk"),
    Case(
        "running out of descriptors is an error", "22", DESCRIPTORS,
        every(fails_with("OSError"), prints_not("100000")), "harmless",
    ),
    Case(
        "a storm of event descriptors ends at a limit", "", EVENTS, gives("True"), "escape",
        ("linux",),
    ),
    Case(
        "buffers of pipes end at a limit", "", PIPES, gives("True"), "memory", ("linux",),
    ),
)  # fmt: skip
