"""Model code that attacks: every case on every level this machine can give.

The same file is run again as an ordinary user (`test_other_user.py`) and inside a default
container (`test_container.py`).
"""

from __future__ import annotations

import ast
import asyncio
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrl.sandbox import ExecResult, Sandbox
from agentrl_sandbox.inside import wire
from agentrl_sandbox.local import LocalPool

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux"),
]

SECRET = "s3cret-of-the-parent"
MB = 1 << 20
TRY = """
import ctypes, os, errno
libc = ctypes.CDLL(None, use_errno=True)
def attempt(act, *arguments):
    "What happened: 'done', or the name of the error."
    try:
        result = act(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except Exception as error:
        return type(error).__name__
    return result if isinstance(result, (str, bytes)) else "done"
def call(number, *arguments):
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), "refused")
"""
REFUSED = {"EPERM", "EACCES", "ENOSYS", "ESRCH", "ENOENT", "EROFS", "EXDEV"}


async def run(box: Sandbox, code: str, *, timeout_s: float = 10.0) -> ExecResult:
    return await box.run(code, timeout_s=timeout_s)


async def outcomes(box: Sandbox, code: str, *, timeout_s: float = 10.0) -> list[object]:
    """Run code that ends in a list of outcomes, and return that list."""
    result = await run(box, TRY + code, timeout_s=timeout_s)
    assert result.status == "ok", result
    assert result.value is not None
    return ast.literal_eval(result.value)


async def still_works(box: Sandbox) -> None:
    result = await run(box, "6 * 7")
    assert (result.status, result.value) == ("ok", "42")


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user outside the sandbox."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder outside, writable by anyone, with a file that anyone may change."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="canary-"))
    folder.chmod(0o777)
    (folder / "canary").write_text(SECRET)
    (folder / "canary").chmod(0o666)
    yield folder
    shutil.rmtree(folder)


# --- what it must not read -------------------------------------------------------------------


async def test_environment_of_the_parent(box: Sandbox) -> None:
    parent = os.getpid()
    found = await outcomes(
        box,
        f"""
def read(path): return open(path, "rb").read()
pids = ["self", "1", "{parent}", str(os.getppid())]
names = ["environ", "cmdline", "mem", "maps", "root", "fd", "cwd/x"]
[attempt(read, f"/proc/{{p}}/{{n}}") for p in pids for n in names]
""",
    )
    assert set(found) <= REFUSED, found


async def test_environment_is_not_inherited(box: Sandbox) -> None:
    result = await run(
        box,
        """
import ctypes, os
block = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
n, c_level = 0, []
while block[n]:
    c_level.append(block[n]); n += 1
print(dict(os.environ), c_level)
""",
    )
    assert result.status == "ok"
    assert SECRET not in result.stdout
    assert "AGENTRL" not in result.stdout


async def test_private_files_of_the_user(box: Sandbox, open_folder: Path) -> None:
    ssh = open_folder / ".ssh"
    ssh.mkdir()
    (ssh / "id_rsa").write_text(SECRET)
    home = os.environ.get("HOME", "/root")
    found = await outcomes(
        box,
        f"""
def read(path): return open(path).read()
def through_link(path):
    os.symlink(path, "link%d" % len(os.listdir(".")))
    return read(sorted(os.listdir("."))[-1])
def through_hard_link(path):
    os.link(path, "hard"); return read("hard")
secret = {str(ssh / "id_rsa")!r}
[attempt(read, secret), attempt(read, "/proc/self/root" + secret),
 attempt(read, "../" * 20 + secret), attempt(through_link, secret),
 attempt(through_hard_link, secret), attempt(os.listdir, {str(ssh)!r}),
 attempt(os.listdir, {home!r} + "/.ssh"), attempt(os.listdir, {home!r}),
 attempt(read, "/etc/shadow"), attempt(read, "/etc/passwd"), attempt(read, "/dev/mem")]
""",
    )
    assert set(found) <= REFUSED, found


async def test_this_repository(box: Sandbox) -> None:
    here = os.path.abspath(__file__)  # noqa: ASYNC240 - no disk is touched
    found = await outcomes(
        box, f"[attempt(open, {here!r}), attempt(os.listdir, {os.path.dirname(here)!r})]"
    )
    assert set(found) <= REFUSED, found


async def test_names_of_files_outside(
    box: Sandbox, pool: LocalPool, request: pytest.FixtureRequest
) -> None:
    if pool.isolation == "lite":
        reason = "Landlock guards contents and listings, not whether a name exists (stat)"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    result = await run(box, "import os; [os.path.exists(p) for p in ('/etc/passwd', '/proc/1')]")
    assert result.value == "[False, False]"


async def test_name_of_the_machine(
    box: Sandbox, pool: LocalPool, request: pytest.FixtureRequest
) -> None:
    if pool.isolation == "lite":
        reason = "without a UTS namespace the host name shows"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    assert (await run(box, "import os; os.uname().nodename")).value == "'sandbox'"


# --- what it must not reach ------------------------------------------------------------------


async def test_connect_anywhere(box: Sandbox, open_folder: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
    ):
        unix.bind(str(open_folder / "socket"))
        unix.listen()
        log.bind(str(open_folder / "log"))
        for name in ("socket", "log"):
            (open_folder / name).chmod(0o777)
        found = await outcomes(
            box,
            f"""
import socket
def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.connect(address)
def datagram_pair(path):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.sendto(b"x", path)
def reused_pair(path):
    a, b = socket.socketpair()
    a.connect(path)
folder, port = {str(open_folder)!r}, {tcp.getsockname()[1]}
[attempt(connect, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
 attempt(connect, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 53)),
 attempt(connect, socket.AF_INET6, socket.SOCK_STREAM, ("::1", port)),
 attempt(connect, socket.AF_UNIX, socket.SOCK_STREAM, folder + "/socket"),
 attempt(connect, socket.AF_UNIX, socket.SOCK_STREAM, "\\0/tmp/.X11-unix/X0"),
 attempt(connect, socket.AF_NETLINK, socket.SOCK_RAW, (0, 0)),
 attempt(connect, 40, socket.SOCK_STREAM, (2, 22)),
 attempt(datagram_pair, folder + "/log"), attempt(reused_pair, folder + "/socket")]
""",
        )
        tcp.settimeout(0)
        unix.settimeout(0)
        log.settimeout(0)
        for server in (tcp.accept, unix.accept, lambda: log.recv(10)):
            with pytest.raises(BlockingIOError):
                server()
    assert set(found) <= REFUSED, found


async def test_kill_a_foreign_process(
    box: Sandbox, pool: LocalPool, victim: subprocess.Popen[bytes]
) -> None:
    other = await pool.acquire()
    found = await outcomes(
        box,
        f"""
import platform, resource, signal
x86 = platform.machine() == "x86_64"
tkill, tgkill, queue, pidfd = (200, 234, 129, 434) if x86 else (130, 131, 138, 434)
names = []
for pid in ({victim.pid}, {os.getpid()}, os.getppid() or 1 << 21, -1, -{victim.pid}):
    if pid == os.getpid(): continue  # that number is our own in our namespace
    names.append(attempt(os.kill, pid, 9))
    names.append(attempt(call, tgkill, pid, pid, 9))
    names.append(attempt(call, tkill, pid, 9))
    names.append(attempt(call, queue, pid, 9, 0))
    names.append(attempt(call, pidfd, pid, 0))
    if pid < 0: continue
    names.append(attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE, (0, 0)))
    names.append(attempt(os.sched_setaffinity, pid, [0]))
    names.append(attempt(os.setpriority, os.PRIO_PROCESS, pid, 19))
names
""",
    )
    assert set(found) <= REFUSED, found
    assert victim.poll() is None
    await still_works(box)
    await still_works(other)
    await other.close()


async def test_signal_by_owning_a_descriptor(box: Sandbox, victim: subprocess.Popen[bytes]) -> None:
    found = await outcomes(
        box,
        f"""
import fcntl, socket, struct, time
a, b = socket.socketpair()
pid = {victim.pid}
names = [attempt(fcntl.fcntl, a, 8, pid), attempt(fcntl.fcntl, a, 10, 9),
         attempt(fcntl.fcntl, a, 15, struct.pack("ii", 1, pid)),
         attempt(fcntl.ioctl, a, 0x8901, struct.pack("i", pid)),
         attempt(fcntl.ioctl, a, 0x8902, struct.pack("i", pid))]
names
""",
    )
    assert set(found) <= REFUSED, found
    assert victim.poll() is None


async def test_look_into_a_foreign_process(box: Sandbox, victim: subprocess.Popen[bytes]) -> None:
    found = await outcomes(
        box,
        f"""
import platform
numbers = [101, 310, 311, 438, 312] if platform.machine() == "x86_64" else [117, 270, 271, 438, 272]
[attempt(call, n, 16 if n in (101, 117) else {victim.pid}, {victim.pid}, 0, 0, 0, 0) for n in numbers]
""",
    )
    assert set(found) <= REFUSED, found


# --- what it must not start ------------------------------------------------------------------


async def test_fork_bomb(box: Sandbox) -> None:
    found = await outcomes(
        box,
        """
import multiprocessing, platform, subprocess
def forks():
    while True:
        os.fork()
def worker():
    multiprocessing.get_context("fork").Process(target=print).start()
clone = 56 if platform.machine() == "x86_64" else 220
[attempt(forks), attempt(worker), attempt(subprocess.run, ["/bin/sh", "-c", ":"]),
 attempt(os.posix_spawn, "/bin/sh", ["sh"], {}), attempt(os.execv, "/bin/sh", ["sh"]),
 attempt(call, clone, 17, 0, 0, 0, 0), attempt(call, clone, 0x4111, 0, 0, 0, 0),
 attempt(call, 435, 0, 0), attempt(call, 58, 0) if clone == 56 else "EPERM",
 attempt(os.system, "true") if os.system("true") == 0 else "EPERM"]
""",
    )
    assert set(found) <= REFUSED, found
    await still_works(box)


async def test_thread_bomb(box: Sandbox) -> None:
    result = await run(
        box,
        """
import threading, time
n = 0
try:
    while n < 50_000:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(); n += 1
except RuntimeError as error:
    print("stopped")
""",
        timeout_s=10,
    )
    assert result.stdout == "stopped\n"
    await box.reset()
    await still_works(box)


def _our_processes(pool: LocalPool) -> set[int]:
    """Living processes that the pool's launcher started, and sandbox orphans of anyone."""
    link = pool._link
    assert link is not None
    parents: dict[int, int] = {}
    orphans: set[int] = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if fields[0] == "Z":
            continue
        parents[int(name)] = int(fields[1])
        if b"agentrl_sandbox" in line and fields[1] == "1" and os.getpid() != 1:
            orphans.add(int(name))
    ours = {link._process.pid}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours | orphans


async def test_daemon_outliving_the_run(box: Sandbox, pool: LocalPool) -> None:
    before = _our_processes(pool)
    session = await pool.acquire()
    assert len(_our_processes(pool)) == len(before) + 1
    result = await run(
        session,
        """
import os, signal, threading, time
def fork():
    try: return os.fork()
    except OSError: return 1
if fork() == 0:
    os.setsid()
    if fork() == 0:
        time.sleep(1000)
def spin():
    while True: pass
for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(s, signal.SIG_IGN)
for _ in range(3): threading.Thread(target=spin).start()
"started"
""",
        timeout_s=10,
    )
    assert result.value == "'started'"
    await session.close()
    assert _our_processes(pool) == before


async def test_threads_do_not_run_between_runs(box: Sandbox) -> None:
    await run(
        box,
        """
import threading, time
ticks = []
def tick():
    while True:
        ticks.append(time.monotonic()); time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
time.sleep(0.05)
""",
    )
    await asyncio.sleep(0.5)
    gap = await run(box, "time.sleep(0.05); max(b - a for a, b in zip(ticks, ticks[1:]))")
    assert float(gap.value or 0) > 0.4


# --- what it must not change -----------------------------------------------------------------


async def test_writing_outside_the_work_folder(box: Sandbox, open_folder: Path) -> None:
    canary = open_folder / "canary"
    before = canary.stat()
    packages = str(Path(pytest.__file__).parent.parent)
    await outcomes(
        box,
        f"""
import shutil
folder, packages = {str(open_folder)!r}, {packages!r}
canary = folder + "/canary"
def write(path):
    with open(path, "w") as f: f.write("pwned")
def append(path):
    with open(path, "a") as f: f.write("pwned")
def xattr(path): os.setxattr(path, "user.x", b"y")
def handle(path):
    fd = os.open(path, os.O_RDONLY); os.fchmod(fd, 0o777)
[attempt(write, canary), attempt(append, canary), attempt(write, folder + "/new"),
 attempt(os.truncate, canary, 0), attempt(os.chmod, canary, 0o777),
 attempt(os.utime, canary, (0, 0)), attempt(os.unlink, canary), attempt(xattr, canary),
 attempt(os.rename, canary, folder + "/moved"), attempt(os.rename, canary, "stolen"),
 attempt(os.mkdir, folder + "/d"), attempt(os.symlink, "x", folder + "/l"),
 attempt(os.mkfifo, folder + "/p"), attempt(os.link, canary, "hard"),
 attempt(os.chown, canary, 1, 1), attempt(handle, packages + "/pytest/__init__.py"),
 attempt(shutil.rmtree, folder)]
""",
    )
    after = canary.stat()
    assert canary.read_text() == SECRET
    assert (after.st_mode, after.st_mtime_ns, after.st_uid, after.st_nlink) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_uid,
        1,
    )
    assert os.listdir(open_folder) == ["canary"]


async def test_writing_system_places(box: Sandbox) -> None:
    packages = str(Path(pytest.__file__).parent.parent)
    found = await outcomes(
        box,
        f"""
name = "/agentrl-canary.pth"
def write(path):
    with open(path, "w") as f: f.write("import os")
folders = ["/usr", "/usr/lib", "/etc", "/dev", "/dev/shm", "/", "/var/tmp", "/root", "/home",
           "/run", {packages!r}, "/proc/self", "/sys"]
[attempt(write, folder + name) for folder in folders] + [attempt(write, "/proc/sys/kernel/core_pattern")]
""",
    )
    assert set(found) <= REFUSED, found
    assert "agentrl-canary.pth" not in os.listdir(packages)


async def test_leaving_the_work_folder_by_link(box: Sandbox, open_folder: Path) -> None:
    await run(
        box,
        f"""
import os
os.symlink({str(open_folder)!r}, "way")
for path in ("way/new", "way/canary"):
    try: open(path, "w").write("pwned")
    except OSError: pass
""",
    )
    assert (open_folder / "canary").read_text() == SECRET
    assert os.listdir(open_folder) == ["canary"]


async def test_mounts_and_namespaces(box: Sandbox) -> None:
    found = await outcomes(
        box,
        """
import platform
x86 = platform.machine() == "x86_64"
table = dict(unshare=(272, 97), setns=(308, 268), mount=(165, 40), umount=(166, 39),
             pivot=(155, 41), chroot=(161, 51), bpf=(321, 280), perf=(298, 241), keyctl=(250, 219),
             userfault=(323, 282), handle=(304, 265), memfd=(319, 279), shmget=(29, 194),
             uring=(425, 425), clone3=(435, 435), fsopen=(430, 430), new_call=(467, 467),
             personality=(135, 92), mq=(240, 180), secret=(447, 447), swapon=(167, 224))
[attempt(call, pair[0 if x86 else 1], 0x10000000, 0, 0, 0, 0) for pair in table.values()]
""",
    )
    assert set(found) <= REFUSED, found


# --- what it must not exhaust ----------------------------------------------------------------


async def test_memory_bomb_at_once(box: Sandbox) -> None:
    result = await run(box, "x = bytearray(8 << 30)")
    assert (result.status, result.error) == ("error", "MemoryError")
    await still_works(box)


async def test_memory_bomb_in_steps(box: Sandbox) -> None:
    result = await run(box, "x = []\nwhile True: x.append(bytearray(8 << 20))")
    assert (result.status, result.error) == ("error", "MemoryError")
    assert result.peak_rss_mb < 256 + 150
    result = await run(box, "del x\n6 * 7")
    assert result.value == "42"


async def test_shared_memory_bomb(box: Sandbox) -> None:
    result = await run(
        box,
        "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 8 << 20)); x[-1][:] = bytes(8 << 20)",
    )
    assert result.status == "error"
    assert result.peak_rss_mb < 256 + 150


def _used(box: Sandbox) -> int:
    """Bytes of the machine's disk in the session's folder; 0 when it has a private one."""
    child = getattr(box, "_child", None)
    if child is None or not child.work:
        return 0
    return sum(
        os.stat(os.path.join(folder, name)).st_blocks * 512
        for folder, _, names in os.walk(child.work)
        for name in names
    )


async def test_disk_bomb_one_file(box: Sandbox) -> None:
    result = await run(
        box, "f = open('big', 'wb', buffering=0)\nwhile True: f.write(bytes(1 << 20))"
    )
    assert result.status in ("error", "output_limit")
    assert _used(box) <= 17 * MB


async def test_disk_bomb_many_files(box: Sandbox) -> None:
    result = await run(
        box,
        """
import time
n = 0
while True:
    with open(f"f{n}", "wb") as f: f.write(bytes(1 << 20))
    n += 1; time.sleep(0.005)
""",
    )
    assert result.status in ("error", "output_limit")
    assert result.wall_s < 5
    assert _used(box) <= 17 * MB
    await box.reset()
    await still_works(box)


async def test_disk_bomb_many_entries(box: Sandbox) -> None:
    result = await run(box, "import os\nn = 0\nwhile True: os.mkdir(f'd{n}'); n += 1", timeout_s=20)
    assert result.status in ("error", "output_limit")
    await box.reset()
    await still_works(box)


async def test_disk_bomb_of_deleted_files(box: Sandbox) -> None:
    result = await run(
        box,
        """
import os, time
held = []
while True:
    f = open("f", "w+b"); os.unlink("f"); f.write(bytes(1 << 20)); f.flush(); held.append(f)
    time.sleep(0.01)
""",
    )
    assert result.status in ("error", "output_limit")
    assert result.wall_s < 5


async def test_descriptor_exhaustion(box: Sandbox) -> None:
    result = await run(box, "x = []\nwhile True: x.append(open('/dev/null'))")
    assert result.status == "error"
    assert "Too many open files" in (result.error or "")
    assert (await run(box, "del x; 6 * 7")).value == "42"


async def test_raising_limits(box: Sandbox) -> None:
    found = await outcomes(
        box,
        """
import resource
top = resource.RLIM_INFINITY
names = [resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE]
[attempt(resource.setrlimit, n, (top, top)) for n in names] + [
    attempt(os.setuid, 0), attempt(os.setgid, 0), attempt(os.setgroups, [0]),
    attempt(os.execv, "/usr/bin/su", ["su"])]
""",
    )
    if (await run(box, "os.getuid()")).value == "0":
        found = [name for name in found if name != "done"]  # root to root changes nothing
    assert set(found) <= REFUSED | {"ValueError", "EINVAL"}, found


# --- results that cannot be forged -----------------------------------------------------------

FORGE = f"""
import os, struct
def frame(nonce): return struct.pack("!16sBII", nonce, {wire.OK}, 7, 0) + b"forged"
def everywhere(data):
    for fd in range(256):
        try: os.write(fd, data)
        except OSError: pass
"""


async def test_forged_result_before_an_exit(box: Sandbox) -> None:
    """Bytes on every descriptor change neither how the process ended nor what is claimed."""
    result = await run(box, FORGE + 'everywhere(frame(bytes(16)) + b"reward: 1"); os._exit(3)')
    assert result.status in ("exited", "error")
    assert result.status != "ok"
    assert result.value is None
    assert result.exit_code == 3 or result.signal == 9
    assert result.state_lost
    await still_works(box)


async def test_forged_result_with_a_guessed_nonce(box: Sandbox) -> None:
    result = await run(
        box, FORGE + 'everywhere(frame(b"0123456789abcdef"))\nimport time; time.sleep(5)'
    )
    assert (result.status, result.value, result.state_lost) == ("error", None, True)
    await still_works(box)


async def test_forged_result_with_the_real_nonce_cannot_touch_the_next(box: Sandbox) -> None:
    """Its own claim is the code's to make; one more frame than due ends the interpreter."""
    result = await run(
        box,
        FORGE
        + """
import sys
f = sys._getframe()
while "nonce" not in f.f_locals: f = f.f_back
os.write(3, frame(f.f_locals["nonce"]))
""",
    )
    assert (result.status, result.value) == ("ok", "forged")
    after = await run(box, "1 + 1")
    assert after.value != "forged"
    assert after.status != "ok" or after.value == "2"
    await still_works(box)


async def test_printed_protocol_is_only_text(box: Sandbox) -> None:
    result = await run(box, FORGE + "os.write(1, frame(bytes(16)))\nprint('\\0\\x1e done ok')")
    assert result.status == "ok"
    assert result.value is None
    assert result.stdout.endswith("\0\x1e done ok\n")


async def test_early_exit_is_not_success(box: Sandbox) -> None:
    for code, exit_code in (("import os; os._exit(0)", 0), ("raise SystemExit", 0), ("exit(5)", 5)):
        result = await run(box, code)
        assert (result.status, result.exit_code, result.state_lost) == ("exited", exit_code, True)


async def test_closing_the_control_channel(box: Sandbox) -> None:
    result = await run(box, "import os\nos.closerange(0, 100)\nwhile True: pass", timeout_s=5)
    assert (result.status, result.state_lost) == ("error", True)
    assert result.wall_s < 4
    await still_works(box)


# --- ends and deadlines ----------------------------------------------------------------------


async def test_infinite_loop(box: Sandbox) -> None:
    result = await run(box, "x = 7\nwhile True: pass", timeout_s=0.3)
    assert result.status == "timeout"
    assert 0.3 <= result.wall_s < 3
    assert not result.state_lost
    assert (await run(box, "x")).value == "7"


async def test_loop_that_holds_the_interpreter_lock(box: Sandbox) -> None:
    result = await run(box, "x = 10 ** 10 ** 8; y = str(x)", timeout_s=0.3)
    assert result.status in ("timeout", "error")
    assert result.wall_s < 0.3 + 0.5 + 3
    await still_works(box)


async def test_c_code_that_never_returns(box: Sandbox) -> None:
    result = await run(
        box,
        "import ctypes; ctypes.PyDLL(None).pause()\nwhile True: ctypes.PyDLL(None).pause()",
        timeout_s=0.3,
    )
    assert result.status == "timeout"
    await still_works(box)


async def test_ignoring_every_signal_and_exception(box: Sandbox) -> None:
    result = await run(
        box,
        """
import signal
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except Exception: pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
        timeout_s=0.3,
    )
    assert (result.status, result.signal, result.state_lost) == ("timeout", 9, True)
    assert result.wall_s < 0.3 + 0.5 + 3
    assert result.cpu_s > 0.1
    await still_works(box)


async def test_stopping_itself(box: Sandbox) -> None:
    result = await run(box, "import os\nos.kill(os.getpid(), 19)\nos.kill(0, 19)", timeout_s=0.3)
    assert result.status in ("timeout", "ok")
    await still_works(box)


async def test_endless_output(box: Sandbox) -> None:
    result = await run(box, "import os\nwhile True: os.write(1, b'spam' * 16384)", timeout_s=20)
    assert result.status == "output_limit"
    assert len(result.stdout) < 20_000 + 100
    assert result.stdout_dropped >= 64 * MB
    await still_works(box)


async def test_crash_in_c(box: Sandbox) -> None:
    result = await run(box, "import ctypes; ctypes.string_at(0)")
    assert (result.status, result.signal, result.state_lost) == ("signal", 11, True)
    await still_works(box)


async def test_deep_recursion(box: Sandbox) -> None:
    result = await run(box, "def f(): f()\nf()")
    assert (result.error or "").startswith("RecursionError")
    result = await run(box, "x = []\nfor _ in range(10**5): x = [x]\nlen(repr(x))")
    assert result.status in ("error", "signal")
    await still_works(box)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="32-bit entry of x86-64")
async def test_calls_by_the_32_bit_door(box: Sandbox) -> None:
    """`int 0x80` with eax = 20 (getpid) would be another call table: the process dies of it."""
    result = await run(
        box,
        """
import ctypes, mmap
code = b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3"
m = mmap.mmap(-1, 4096, prot=7)
m.write(code)
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
""",
    )
    assert (result.status, result.signal) == ("signal", 31)
    await still_works(box)


async def test_reading_standard_input(box: Sandbox) -> None:
    result = await run(box, "input()")
    assert (result.error or "").startswith("EOFError")


async def test_bytes_that_are_no_text(box: Sandbox) -> None:
    result = await run(box, r"import os; os.write(1, b'a\xff\x00\x1b[31m'); print('\ud800')")
    assert result.status == "ok"
    assert result.stdout.startswith("a�\0\x1b[31m")
    assert "\\ud800" in result.stdout
    assert (await run(box, "x = '\ud800'")).error is not None
    await still_works(box)


# --- neighbours ------------------------------------------------------------------------------


async def test_siblings_do_not_see_each_other(box: Sandbox, pool: LocalPool) -> None:
    other = await pool.acquire()
    mine = await run(
        box,
        "import os\nopen('mine', 'w').write('x'); secret = 5; len = None\nos.getcwd(), os.getpid()",
    )
    folder, pid = ast.literal_eval(mine.value or "")
    found = await outcomes(
        other,
        f"""
def look(): return open({folder!r} + "/mine").read()
[attempt(look), attempt(os.kill, {pid}, 0) if {pid} != os.getpid() else "ESRCH",
 attempt(lambda: secret), attempt(lambda: str(len("abc")))]
""",
    )
    assert found[0] in REFUSED
    assert found[1] in REFUSED
    assert found[2:] == ["NameError", "3"]
    await other.close()


async def test_random_numbers_differ(box: Sandbox, pool: LocalPool) -> None:
    code = (
        "import random, numpy as np, sympy.core.random as sr\n"
        "(random.random(), float(np.random.rand()), sr.random())"
    )
    other = await pool.acquire()
    one = ast.literal_eval((await run(box, code)).value or "")
    two = ast.literal_eval((await run(other, code)).value or "")
    await other.close()
    assert len({*one, *two}) == 6


# --- and ordinary work goes on ---------------------------------------------------------------


async def test_ordinary_work(box: Sandbox) -> None:
    result = await run(
        box,
        """
import asyncio, shutil, sqlite3, tempfile, threading, zoneinfo, decimal, json, os, concurrent.futures
import numpy as np, sympy as sp
x = sp.Symbol("x")
assert sp.solve(x**2 - 4, x) == [-2, 2]
assert np.linalg.det(np.eye(3)) == 1.0
assert asyncio.run(asyncio.sleep(0, "done")) == "done"
with concurrent.futures.ThreadPoolExecutor(4) as threads:
    assert sum(threads.map(abs, range(-5, 5))) == 25
db = sqlite3.connect("data.sqlite")
db.execute("create table t (a)"); db.execute("insert into t values (42)"); db.commit()
assert db.execute("select a from t").fetchone() == (42,)
with tempfile.TemporaryDirectory() as folder, open(folder + "/f", "w+") as f:
    f.write("x" * 1000)
    f.flush()
    shutil.copy(folder + "/f", "copy")
os.rename("copy", "moved"); os.remove("moved")
np.save("array.npy", np.arange(5)); assert np.load("array.npy").sum() == 10
import statistics, csv, html, urllib.parse, difflib, hashlib, uuid, bz2, lzma, zlib
sp.plotting, sp.ntheory.primerange(10)
sum(range(10))
""",
        timeout_s=30,
    )
    assert (result.status, result.value, result.stderr) == ("ok", "45", "")


async def test_facts_of_a_result(box: Sandbox, pool: LocalPool) -> None:
    result = await run(
        box, "import time\nt = time.process_time()\nwhile time.process_time() < t + 0.2: pass"
    )
    assert result.isolation == pool.isolation
    assert 0.19 < result.cpu_s < 0.6
    assert result.wall_s >= 0.19
    assert re.fullmatch(r"\d+\.\d+", str(result.peak_rss_mb))
    assert result.exit_code is None
