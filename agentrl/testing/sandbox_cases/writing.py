"""Code that tries to change something outside its work folder."""

from __future__ import annotations

from agentrl.testing.sandbox_cases.case import Case, Step
from agentrl.testing.sandbox_cases.leaks import (
    FILES_WRITABLE,
    LINKS_RACED,
    PROCESSES_OPEN,
    ROOTS_FILES,
)
from agentrl.testing.sandbox_cases.verdicts import (
    closed_in_time,
    every,
    gives,
    in_time,
    refused,
    untouched,
    unwritten,
)

CHANGES = """
import shutil, mmap, fcntl
def append(path):
    with open(path, "a") as file: file.write("pwned")
def xattr(path): os.setxattr(path, "user.x", b"y")
def mapped(path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory: memory[0:1] = b"X"
def through_descriptor(path):
    fd = os.open(path, os.O_RDONLY); os.fchmod(fd, 0o777); os.futimens(fd)
def lease(path):
    fd = os.open(path, os.O_RDWR); fcntl.fcntl(fd, 1024, 1)
attempt("write", write, CANARY)
attempt("append", append, CANARY)
attempt("new", write, FOLDER + "/new")
attempt("truncate", os.truncate, CANARY, 0)
attempt("chmod", os.chmod, CANARY, 0o777)
attempt("utime", os.utime, CANARY, (0, 0))
attempt("xattr", xattr, CANARY)
attempt("mapped", mapped, CANARY)
attempt("lease", lease, CANARY)
attempt("descriptor", through_descriptor, CANARY)
attempt("chown", os.chown, CANARY, 1, 1)
attempt("rename", os.rename, CANARY, FOLDER + "/moved")
attempt("steal", os.rename, CANARY, "stolen")
attempt("plant", lambda: (write("mine"), os.rename("mine", FOLDER + "/planted")))
attempt("mkdir", os.mkdir, FOLDER + "/d")
attempt("symlink", os.symlink, "x", FOLDER + "/l")
attempt("fifo", os.mkfifo, FOLDER + "/p")
attempt("hard link out", os.link, CANARY, FOLDER + "/h")
attempt("hard link in", os.link, CANARY, "hard")
attempt("socket", call, 133, 33, -100, (FOLDER + "/s").encode(), 0o140666, 0)
attempt("unlink", os.unlink, CANARY)
attempt("rmtree", shutil.rmtree, FOLDER)
"""

PLANT = """
for place in PLACES:
    for name in (MARK, MARK + ".pth"):
        attempt(place + name, write, os.path.join(place, name), "")
for where in ("/tmp", "/dev/shm", "/dev/mqueue"):
    attempt(where, write, os.path.join(where, MARK))
"""

KERNEL_FILES = """
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger",
             "/proc/sys/vm/drop_caches", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/release_agent",
             "/sys/fs/cgroup/memory/release_agent", "/proc/self/oom_score_adj_never",
             "/sys/kernel/mm/ksm/run", "/proc/sys/kernel/modprobe", "/proc/1/oom_score_adj"):
    attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
tried
"""

LOOSEN = """
import glob
places = glob.glob("/sys/fs/cgroup/**/memory.max", recursive=True)
places += glob.glob("/sys/fs/cgroup/**/memory.limit_in_bytes", recursive=True)
places += glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True)
places += glob.glob("/sys/fs/cgroup/**/pids.max", recursive=True)
for path in places[:200]:
    attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
tried
"""

OWN_IMAGE = """
def patch(path):
    os.close(os.open(path, os.O_RDWR))  # opening tells enough
paths = ["/proc/self/exe", sys.executable, os.path.realpath(sys.executable), ctypes.__file__]
paths += [p for p in ("/proc/self/map_files",) if os.path.isdir(p)]
for path in paths: attempt(path, patch, path)
tried
"""

MEMORY_FILE = """
def poke(pid):
    "The door that ignores page protection; opening it tells enough."
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
for pid in dict.fromkeys([VICTIM, PARENT, os.getppid(), 1]):
    if pid not in (0, os.getpid()): attempt(f"mem {pid}", poke, pid)
tried
"""

LINK_MAZE = """
os.symlink(FOLDER, "way")
os.symlink(".", "loop")
os.makedirs("d/e")
os.symlink(FOLDER, "d/e/way")
os.symlink(CANARY, "d/e/file")
for path in ("way/new", "way/canary", "d/e/file", "d/e/way/new"):
    attempt(path, write, path)
"""

SWAP = """
import threading
stop = time.monotonic() + 0.5
os.mkdir("real"); write("real/canary", "x"); os.symlink(FOLDER, "false")
def swap():
    while time.monotonic() < stop:
        try:
            os.rename("real", "place"); os.rename("place", "real")
            os.rename("false", "place"); os.rename("place", "false")
        except OSError: pass
workers = [threading.Thread(target=swap) for _ in range(2)]
for w in workers: w.start()
while time.monotonic() < stop:
    attempt("through", write, "place/canary")
for w in workers: w.join()
"""

DEEP = """
made = 0
try:
    for made in range(3000):
        os.mkdir("d" * 200); os.chdir("d" * 200)
except OSError: pass
made > 50
"""

ODD_NAMES = """
for name in (b"\\xff\\xfe", b"new\\nline", b"-rf", b"*", "\\u202e.txt".encode(), b"a" * 255, b"~", b" "):
    with open(name, "wb") as file: file.write(b"x")
    os.mkdir(name[:250] + b"d")
attempt("fifo", os.mkfifo, "fifo")
os.mkdir("locked"); write("locked/file"); os.chmod("locked", 0)
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
"made"
"""

UPROOT = """
here = os.getcwd()
attempt("rename", os.rename, here, here + "-moved")
attempt("rmdir", os.rmdir, here)
attempt("chmod", os.chmod, here, 0)
"""

WRITING: tuple[Case, ...] = (
    Case("cannot change a file outside", "9", CHANGES, untouched,
         known=(FILES_WRITABLE,)),
    Case("cannot plant files on this machine", "9", PLANT, unwritten,
         known=(FILES_WRITABLE,)),
    Case("cannot write the kernel's files", "9", KERNEL_FILES, refused, needs=("linux",),
         known=(ROOTS_FILES,)),
    Case("cannot loosen its control group", "", LOOSEN, refused, needs=("linux",),
         known=(ROOTS_FILES,)),
    Case("cannot overwrite the interpreter it runs in", "", OWN_IMAGE, every(refused, untouched),
         known=(ROOTS_FILES,)),
    Case(
        "cannot write into a process through /proc", "", MEMORY_FILE, refused,
        needs=("victim", "linux"), known=(PROCESSES_OPEN,),
    ),
    Case(
        "links out of the work folder lead nowhere", "10",
        (Step(LINK_MAZE), Step("os.listdir()", reset=True)),
        every(untouched, gives("[]"), closed_in_time), known=(FILES_WRITABLE,)),
    Case(
        "a race of links out of the work folder is lost", "",
        (Step(SWAP), Step("os.listdir()", reset=True)),
        every(untouched, gives("[]")), known=(LINKS_RACED,)),
    Case(
        "folders three thousand deep are cleaned up", "",
        (Step(DEEP), Step("os.listdir()", reset=True)),
        every(gives("[]"), in_time(0), closed_in_time), danger="harmless",
    ),
    Case(
        "files with odd names and modes are cleaned up", "",
        (Step(ODD_NAMES), Step("os.listdir()", reset=True)),
        every(gives("'made'", step=0), gives("[]"), closed_in_time), danger="harmless",
    ),
    Case(
        "moving the work folder away does not hurt the next", "",
        (Step(UPROOT), Step("write('f'); os.listdir()", reset=True)),
        gives("['f']"),
    ),
)  # fmt: skip
