"""Code that looks for what it must not see: other processes, files, the environment."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Seen
from agentrl.testing.sandbox_cases.leaks import (
    FILES_READABLE,
    HOST_NAME_SHOWS,
    NAMES_SHOW,
    OWN_FILES_READABLE,
    PROCESSES_OPEN,
    ROOTS_FILES,
)
from agentrl.testing.sandbox_cases.verdicts import (
    every,
    is_not,
    not_this_host,
    secret_kept,
    unharmed,
)

LOOK_AROUND = """
import glob
for path in glob.glob("/proc/*/cmdline") + glob.glob("/proc/*/environ") + glob.glob("/proc/*/comm"):
    try: print(path, read(path).replace("\\0", " "))
    except OSError: pass
"""

LOOK_INSIDE = """
import re
for pid in dict.fromkeys([VICTIM, PARENT, os.getppid(), 1]):
    attempt(f"environ {pid}", read, f"/proc/{pid}/environ")
    attempt(f"cmdline {pid}", read, f"/proc/{pid}/cmdline")
    attempt(f"stack {pid}", read, f"/proc/{pid}/stack")
    attempt(f"root {pid}", lambda: read(f"/proc/{pid}/root" + CANARY))
    attempt(f"cwd {pid}", lambda: "\\n".join(os.listdir(f"/proc/{pid}/cwd")))
    def memory():
        found = []
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for line in maps:
                low, high = (int(x, 16) for x in line.split()[0].split("-"))
                if "[stack]" in line or "[heap]" in line:
                    mem.seek(low)
                    found += re.findall(rb"secret-[0-9a-f]{24}", mem.read(high - low))
        return b" ".join(found).decode()
    if pid not in (os.getpid(),): attempt(f"memory {pid}", memory)
    def files():
        return "".join(read(f"/proc/{pid}/fd/{n}", 4096) for n in os.listdir(f"/proc/{pid}/fd")[:8])
    if pid == VICTIM: attempt(f"files {pid}", files)
print(tried)
"""

OWN_ENVIRONMENT = """
block = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
n, below = 0, []
while block[n]:
    below.append(block[n]); n += 1
print(dict(os.environ), below)
attempt("proc", read, "/proc/self/environ")
print(tried, sys.argv, getattr(sys, "orig_argv", None))
"""

OWN_STACK = """
import re
loader = next((n for n in ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1") if X86 == ("x86" in n)))
end = ctypes.c_void_p.in_dll(ctypes.CDLL(loader), "__libc_stack_end").value
libc.getauxval.restype = ctypes.c_ulong
name = libc.getauxval(31)  # AT_EXECFN: the text behind arguments and environment
region = ctypes.string_at(end, name - end + 64)
print(len(region), re.findall(rb"secret-[0-9a-f]{24}", region), region[-4000:].split(b"\\0"))
"""

PRIVATE_READS = """
def through_link(path):
    os.symlink(path, "link"); return read("link")
def through_hard_link(path):
    os.link(path, "hard"); return read("hard")
def rename_in(path):
    os.rename(path, "mine"); return read("mine")
def handle(path):
    fd = os.open(path, os.O_PATH); return read(f"/proc/self/fd/{fd}")
def upwards(path): return read("../" * 40 + path)
def around(path): return read("/proc/self/root" + path)
def first(path): return read("/proc/1/root" + path)
for act in (read, through_link, through_hard_link, handle, upwards, around, first):
    attempt(act.__name__, act, TARGET)
print(tried)
"""

DIGESTS = """
import hashlib
for path in PRIVATE_FILES:
    attempt(path, lambda: hashlib.sha256(open(path, "rb").read()).hexdigest())
tried
"""

LISTINGS = """
for place in [FOLDER, *PLACES, "/proc", os.path.dirname(FOLDER), os.path.expanduser("~"), ".."]:
    attempt(place, lambda: " ".join(os.listdir(place)))
print({name: text for name, text in tried.items() if "secret-" in text})
"""

WATCH = """
fd = call(294, 26, 0)
libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
for path in (FOLDER, CANARY, os.path.dirname(FOLDER)):
    if libc.inotify_add_watch(fd, path.encode(), 0xFFF) >= 0: print("watching")
"""

DESCRIPTORS = """
import stat
for fd in range(3, 256):
    try: mode = os.fstat(fd).st_mode
    except OSError: continue
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
        writable = os.get_inheritable(fd) or True
        print(fd, "regular" if stat.S_ISREG(mode) else "folder")
"""

DEVICES = """
for name in ("mem", "kmem", "port", "kmsg", "kvm", "fuse", "vda", "sda", "nvme0n1", "loop0", "net/tun",
             "vhost-net", "uinput", "input/event0", "tty", "console", "ptmx", "nvidia0", "rtc", "hpet"):
    for flags in (os.O_RDONLY, os.O_RDWR):
        attempt(f"{name} {flags}", os.open, "/dev/" + name, flags | os.O_NONBLOCK)
tried
"""

SECRETS_IN_MEMORY = """
import gc, re
pattern = re.compile("sec" + "ret-[0-9a-f]{24}")
found = set()
for thing in gc.get_objects():
    items = thing.values() if type(thing) is dict else thing if type(thing) in (list, tuple) else ()
    for item in items:
        if type(item) is str: found.update(pattern.findall(item))
        elif type(item) is bytes: found.update(pattern.findall(item.decode("latin-1")))
frame = sys._getframe()
while frame:
    for item in frame.f_locals.values():
        if type(item) is str: found.update(pattern.findall(item))
    frame = frame.f_back
print(found)
"""


def _no_device(seen: Seen) -> str:
    from agentrl.testing.sandbox_cases.verdicts import tried

    opened = sorted({n.split()[0] for n, outcome in tried(seen).items() if outcome == "done"})
    harmless = {"ptmx", "tty", "console"}  # a container's own
    bad = [name for name in opened if name not in harmless]
    return f"opened /dev/{', /dev/'.join(bad)}" if bad else ""


def _no_host_name(seen: Seen) -> str:
    name = seen.stage.host_name()
    return "it knows this machine's name" if f"<{name}>" in seen.last.stdout else ""


def _nothing_printed(seen: Seen) -> str:
    found = seen.last.stdout.strip()
    return f"it printed {found[:120]!r}" if found else ""


READING: tuple[Case, ...] = (
    Case(
        "cannot see other processes' arguments and environment", "5", LOOK_AROUND, secret_kept,
        needs=("victim", "linux"), known=(PROCESSES_OPEN,),
    ),
    Case(
        "cannot look into other processes through /proc", "5", LOOK_INSIDE,
        every(secret_kept, unharmed), needs=("victim", "linux"), known=(PROCESSES_OPEN,),
    ),
    Case(
        "inherits no environment", "27", OWN_ENVIRONMENT, secret_kept,
    ),
    Case(
        "finds no inherited environment on its stack", "27", OWN_STACK, secret_kept,
        needs=("linux",),
    ),
    Case(
        "finds no secret among its objects and frames", "28", SECRETS_IN_MEMORY, secret_kept,
    ),
    Case(
        "cannot read a private file by any path", "8", "TARGET = PRIVATE" + PRIVATE_READS,
        secret_kept, known=(OWN_FILES_READABLE,)),
    Case(
        "cannot read a public file by any path", "8", "TARGET = CANARY" + PRIVATE_READS,
        secret_kept, known=(FILES_READABLE,)),
    Case("cannot read the system's private files", "8", DIGESTS, not_this_host,
         known=(ROOTS_FILES,)),
    Case("cannot list folders outside", "8", LISTINGS, secret_kept,
         known=(FILES_READABLE,)),
    Case(
        "cannot tell whether a file outside exists", "8", "os.path.exists(CANARY)", is_not("True"),
        known=(NAMES_SHOW,)),
    Case(
        "cannot learn the machine's name", "8",
        "import socket\nprint(f'<{os.uname().nodename}> <{socket.gethostname()}>')", _no_host_name,
        known=(HOST_NAME_SHOWS,),
    ),
    Case("cannot watch folders outside", "", WATCH, _nothing_printed, needs=("linux",)),
    Case(
        "holds no descriptor of a file or folder", "", DESCRIPTORS, _nothing_printed,
    ),
    Case("cannot open devices", "", DEVICES, _no_device,
         known=(ROOTS_FILES,)),
)  # fmt: skip
