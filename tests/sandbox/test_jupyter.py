"""The jupyter sandbox: kernels behind the contract, in bubblewrap and without it."""

from __future__ import annotations

import ast
import asyncio
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import IsolationLevel, Sandbox, SandboxLimits, SandboxPool
from agentrl_sandbox.inside import kernel as system
from agentrl_sandbox.jupyter import fence, launch
from agentrl_sandbox.jupyter.pool import JupyterPool

pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are watched through /proc"),
]
LIMITS = SandboxLimits(memory_mb=256, disk_mb=16, output_bytes=20_000)
HERE: IsolationLevel = "standard" if shutil.which("bwrap") else "none"
fenced = pytest.mark.skipif(HERE == "none", reason="no bubblewrap")


def folders(pid: int | None = None) -> set[str]:
    """Folders of the kernels of a process, this one unless told."""
    pattern = f"agentrl-jupyter-{pid or os.getpid()}-*"
    return {str(path) for path in Path(launch._base()).glob(pattern)}


def make(level: IsolationLevel, **options: int) -> JupyterPool:
    """A pool of that level."""
    return JupyterPool(limits=LIMITS, min_isolation=level, max_isolation=level, **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[JupyterPool]:
    """An open pool, made while the environment holds a secret."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTRL_TEST_SECRET", "s3cret-of-the-parent")
        pool = make(HERE)
        await pool.open()
    assert pool.isolation == HERE
    yield pool
    await pool.close()
    assert folders() == set()


@pytest_asyncio.fixture(loop_scope="module")
async def box(pool: JupyterPool) -> AsyncIterator[Sandbox]:
    """A fresh session."""
    session = await pool.acquire()
    yield session
    await session.close()


def kernel_pid(session: Sandbox) -> int:
    """Its kernel's process, as this machine numbers it."""
    return session._kernel._pid  # type: ignore[attr-defined]


def parent_of(pid: int) -> int:
    """The process that started it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for something outside to happen."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


# --- the contract ----------------------------------------------------------------------------


async def test_what_a_run_tells(pool: JupyterPool, box: Sandbox) -> None:
    assert isinstance(pool, SandboxPool)
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nx = 6\nx * 7"
    result = await box.run(code, timeout_s=20)
    assert (result.status, result.value, result.error) == ("ok", "42", None)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert (result.exit_code, result.signal, result.state_lost) == (None, None, False)
    assert result.isolation == pool.isolation
    failed = await box.run("print('kept')\nx / 0", timeout_s=20)
    assert (failed.status, failed.value) == ("error", None)
    assert failed.error == "ZeroDivisionError: division by zero"
    assert failed.stdout == "kept\n"
    assert "x / 0" in failed.stderr
    assert "\x1b" not in failed.stderr


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("None", None),
        ("list(range(100))", repr(list(range(100)))),
        ("'\\ud800'", "'\\ud800'"),
        ("import math\nmath.nan", "nan"),
        ("'x' * 30_000", "'" + "x" * 19_999 + "... [10002 more bytes]"),
    ],
)
async def test_echo_is_the_repr(box: Sandbox, code: str, value: str | None) -> None:
    """Not IPython's pretty print, which would break the list into lines."""
    assert (await box.run(code, timeout_s=20)).value == value


async def test_output_keeps_its_order_and_survives_a_crash(box: Sandbox) -> None:
    code = "import os\nprint('a')\nos.write(1, b'b\\xff')\nprint('\\ud800')\nos.abort()"
    result = await box.run(code, timeout_s=20)
    assert (result.status, result.signal, result.state_lost) == ("signal", signal.SIGABRT, True)
    assert result.stdout == "a\nb\ufffd\\ud800\n"


async def test_lone_surrogate_in_the_source(box: Sandbox) -> None:
    result = await box.run("x = '\ud800'", timeout_s=20)
    assert result.status == "error"
    assert (result.error or "").startswith("UnicodeEncodeError")


async def test_exits_end_the_interpreter(box: Sandbox) -> None:
    for code, exit_code in (("import sys\nsys.exit(3)", 3), ("exit()", 0), ("raise SystemExit", 0)):
        result = await box.run(f"print('kept')\n{code}", timeout_s=20)
        assert (result.status, result.exit_code, result.stdout) == ("exited", exit_code, "kept\n")
        assert result.state_lost
    assert (await box.run("1", timeout_s=20)).value == "1"


async def test_deadline(box: Sandbox) -> None:
    """By message where the code listens, by force where it does not."""
    await box.run("x = 1", timeout_s=20)
    result = await box.run("while True: pass", timeout_s=0.3)
    assert (result.status, result.state_lost) == ("timeout", False)
    assert (await box.run("x", timeout_s=20)).value == "1"
    stubborn = "import signal\nsignal.signal(2, signal.SIG_IGN)\nwhile True: pass"
    result = await box.run(stubborn, timeout_s=0.3)
    assert (result.status, result.state_lost) == ("timeout", True)
    assert result.signal == signal.SIGKILL
    assert "NameError" in ((await box.run("x", timeout_s=20)).error or "")


async def test_without_bubblewrap() -> None:
    """The same kernels, and nothing of them is left."""
    pool = make("none", spares=0)
    await pool.open()
    try:
        session = await pool.acquire()
        result = await session.run(
            "open('note', 'w').write('x')\nimport os\nos.listdir()", timeout_s=20
        )
        assert (result.value, result.isolation) == ("['note']", "none")
        filled = await session.run(
            "while True: open('big', 'ab').write(b'x' * 2**20)", timeout_s=60
        )
        assert filled.status in ("output_limit", "error")
        assert (await session.run("os._exit(4)", timeout_s=20)).state_lost or filled.state_lost
        assert (await session.run("1", timeout_s=20)).value == "1"
    finally:
        await pool.close()
    with pytest.raises(SandboxError, match="not open"):
        await pool.acquire()


async def test_processor_time_is_bounded() -> None:
    limits = SandboxLimits(memory_mb=256, cpu_s=0.3)
    pool = JupyterPool(limits=limits, min_isolation="none", max_isolation="none", spares=0)
    await pool.open()
    try:
        session = await pool.acquire()
        result = await session.run("while True: pass", timeout_s=60)
        assert (result.status, result.state_lost) == ("cpu_limit", False)
        assert 0.3 <= result.cpu_s < 20
        assert pool.statistics().timeouts == 1
    finally:
        await pool.close()


async def test_memory_is_bounded_from_outside(box: Sandbox) -> None:
    """256 MB beyond what the idle kernel took, set by this side on the kernel's process."""
    result = await box.run("x = bytearray(300 << 20)", timeout_s=20)
    assert (result.status, result.error) == ("error", "MemoryError")
    soft, hard = resource.prlimit(kernel_pid(box), resource.RLIMIT_AS)
    assert soft == hard < 8 << 30
    fits = await box.run("x = bytearray(100 << 20)\nlen(x)", timeout_s=20)
    assert fits.value == str(100 << 20)
    assert fits.peak_rss_mb > 100


async def test_flood_is_cut(box: Sandbox) -> None:
    result = await box.run("while True: print('a' * 100_000)", timeout_s=60)
    assert (result.status, result.state_lost) == ("output_limit", True)
    assert result.stdout_dropped > 60_000_000
    assert len(result.stdout) < LIMITS.output_bytes + 100


async def test_threads_do_not_run_between_runs(box: Sandbox) -> None:
    await box.run(
        "import threading, time\nticks = []\n"
        "def tick():\n  while True:\n    ticks.append(time.monotonic()); time.sleep(0.01)\n"
        "threading.Thread(target=tick, daemon=True).start(); time.sleep(0.05)",
        timeout_s=20,
    )
    await asyncio.sleep(0.5)
    code = "time.sleep(0.05); max(b - a for a, b in zip(ticks, ticks[1:]))"
    gap = await box.run(code, timeout_s=20)
    assert float(gap.value or 0) > 0.4


async def test_interrupt_from_outside(box: Sandbox) -> None:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(box.run("while True: pass", timeout_s=60))
        await asyncio.sleep(0.5)
        await box.interrupt()  # type: ignore[attr-defined]
    assert (running.result().status, running.result().error) == ("error", "KeyboardInterrupt")


async def test_code_that_breaks_its_channels(box: Sandbox) -> None:
    """Garbage into its own sockets: the kernel is lost at once, not at the deadline."""
    code = (
        "import os\nfor fd in range(3, 128):\n"
        '    try: os.write(fd, b\'{"status": "ok"}\' * 9)\n'
        "    except OSError: pass\nimport time; time.sleep(60)"
    )
    result = await box.run(code, timeout_s=60)
    assert result.status in ("error", "signal", "exited")
    assert result.wall_s < 30
    assert (await box.run("1", timeout_s=20)).value == "1"


async def test_closed_streams_are_mended(box: Sandbox) -> None:
    await box.run("import sys\nsys.stdout.close(); sys.stderr.close()", timeout_s=20)
    assert (await box.run("print('back')", timeout_s=20)).stdout == "back\n"


async def test_reset_and_fresh_kernels(pool: JupyterPool, box: Sandbox) -> None:
    await box.run("x = 1\nopen('note', 'w').write('x')", timeout_s=20)
    other = await pool.acquire()
    assert "NameError" in ((await other.run("x", timeout_s=20)).error or "")
    await other.close()
    await box.reset()
    code = "import os\n'x' in globals(), os.listdir()"
    assert (await box.run(code, timeout_s=20)).value == "(False, [])"


FILES_EVERYWHERE = """
import os
made = {}
for folder, _, _ in os.walk("/"):
    try:
        for n in range(20_000):
            open(f"{folder}/{n}", "x").close()
            made[folder] = n + 1
    except OSError:
        pass
made
"""


@fenced
async def test_no_folder_takes_any_number_of_files(box: Sandbox) -> None:
    """Each empty file costs the machine a kilobyte that no size limit counts."""
    result = await box.run(FILES_EVERYWHERE, timeout_s=60)
    made = ast.literal_eval(result.value or "")
    assert 0 < made.pop("/box") < 16_384
    assert all(folder.startswith("/var/ipython") for folder in made), made
    assert sum(made.values()) < 256


@fenced
async def test_nothing_comes_in_or_is_left(pool: JupyterPool, box: Sandbox) -> None:
    text = "import os\nstr(dict(os.environ))"
    assert "s3cret" not in ((await box.run(text, timeout_s=20)).value or "s3cret")
    # Of a kernel that stands not even the sockets are left: only spares still have folders.
    assert len(folders()) <= pool.statistics().spares
    found = await box.run("os.path.exists('/proc/1'), os.path.exists('/etc/passwd')", timeout_s=20)
    assert found.value == "(False, False)"


# --- faults of the world ---------------------------------------------------------------------


async def test_kernel_killed_from_outside(box: Sandbox) -> None:
    """While it runs and between runs: told, never taken for success."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(box.run("while True: pass", timeout_s=60))
        await asyncio.sleep(0.3)
        os.kill(kernel_pid(box), signal.SIGKILL)
    assert (running.result().status, running.result().signal) == ("signal", signal.SIGKILL)
    await box.run("x = 1", timeout_s=20)
    os.kill(kernel_pid(box), signal.SIGKILL)
    await asyncio.sleep(0.3)
    told = await box.run("x", timeout_s=20)
    assert (told.status, told.state_lost) == ("signal", True)
    assert "NameError" in ((await box.run("x", timeout_s=20)).error or "")


async def test_guard_killed_from_outside(box: Sandbox) -> None:
    """Nobody can tell how the kernel ended: the box's fault."""
    guard = parent_of(kernel_pid(box))
    killing = asyncio.get_running_loop().call_later(0.5, os.kill, guard, signal.SIGKILL)
    with pytest.raises(SandboxError, match="lost"):
        await box.run("while True: pass", timeout_s=60)
    killing.cancel()
    assert (await box.run("1", timeout_s=20)).value == "1"


async def test_close_ends_a_run_and_spares(pool: JupyterPool) -> None:
    session = await pool.acquire()
    pid = kernel_pid(session)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(session.run("while True: pass", timeout_s=60))
        await asyncio.sleep(0.3)
        await session.close()
    assert running.result().status == "signal"
    await until(lambda: not alive(pid))
    with pytest.raises(SandboxError, match="closed"):
        await session.run("1", timeout_s=5)


async def test_cancelled_run_does_not_go_on(box: Sandbox) -> None:
    await box.run("1", timeout_s=20)
    pid = kernel_pid(box)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await box.run("while True: pass", timeout_s=60)
    await until(lambda: not alive(pid))
    await box.run("1", timeout_s=20)
    assert (await box.run("1 + 1", timeout_s=20)).value == "2"


PARENT = """
import asyncio, sys
from agentrl_sandbox.jupyter.pool import JupyterPool
async def main():
    pool = JupyterPool(min_isolation=sys.argv[1], max_isolation=sys.argv[1])
    await pool.open()
    session = await pool.acquire()
    print(session._kernel._pid, flush=True)
    await session.run("while True: pass", timeout_s=600)
asyncio.run(main())
"""


@pytest.mark.parametrize("level", sorted({HERE, "none"}))
async def test_parent_killed(level: str) -> None:
    """`kill -9` of the process that opened the pool takes kernels and spares with it."""
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT, level], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(await asyncio.to_thread(parent.stdout.readline))
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    await until(lambda: not alive(pid))
    launch.sweep()
    assert folders(parent.pid) == set()


# --- what cannot work ------------------------------------------------------------------------


async def test_no_bubblewrap_is_no_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl_sandbox.jupyter.pool._BWRAP", "no-such-bwrap")
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        await JupyterPool().open()


async def test_bubblewrap_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho bwrap: No permissions to create new namespace >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("agentrl_sandbox.jupyter.pool._BWRAP", str(fake))
    with pytest.raises(SandboxUnavailable, match="No permissions to create new namespace"):
        await JupyterPool().open()


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/true"])
async def test_interpreter_that_is_none(python: str) -> None:
    with pytest.raises(SandboxUnavailable, match="cannot be used for kernels"):
        await JupyterPool(python=python, min_isolation="none", max_isolation="none").open()


async def test_bad_options() -> None:
    with pytest.raises(UserError, match="spares"):
        JupyterPool(spares=-1)
    with pytest.raises(SandboxError, match="not open"):
        await JupyterPool().acquire()


def _sockets_that_open() -> list[str]:
    """In a process behind the kernels' filter: families and whether a socket can be made."""
    program = (
        "import socket\n"
        "from agentrl_sandbox.inside import kernel\n"
        "from agentrl_sandbox.jupyter import fence\n"
        "kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)\n"
        "fence.load()\n"
        "for family in (1, 2, 10, 16, 17, 40):\n"
        "    try: socket.socket(family, socket.SOCK_DGRAM).close(); print(family)\n"
        "    except OSError: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


async def test_only_socket_files_pass_the_filter() -> None:
    """Of unix, inet, inet6, netlink, packet and vsock only the first."""
    if system.ARCH not in ("x86_64", "aarch64"):
        pytest.skip(f"no system call table for {system.ARCH}")
    assert await asyncio.to_thread(_sockets_that_open) == ["1"]


FALL_THROUGH = 0xFFFF


def answered(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """What a filter answers, by interpreting its loads, comparisons and returns."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    program += struct.pack("=HBBI", 0x06, 0, 0, FALL_THROUGH)
    position, value = 0, 0
    while True:
        operation, yes, no, operand = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        else:
            assert operation == 0x15
            position += yes if value == operand else no


@pytest.mark.parametrize(
    ("machine", "arch", "socket", "connect", "schedule"),
    [("x86_64", 0xC000003E, 41, 42, 144), ("aarch64", 0xC00000B7, 198, 203, 119)],
)
async def test_filter_of_every_machine(
    machine: str, arch: int, socket: int, connect: int, schedule: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Socket files pass, netlink gets EOPNOTSUPP (95), others EPERM (1); all else is left to the
    filter that follows, and so is every call of another machine type."""
    monkeypatch.setattr(system, "ARCH", machine)
    program = fence._sockets()
    allowed, refused = 0x7FFF0000, 0x00050000
    found = [answered(program, arch, socket, family) for family in (1, 2, 10, 16, 40)]
    assert found == [allowed, refused | 1, refused | 1, refused | 95, refused | 1]
    assert answered(program, arch, connect, 3) == allowed
    assert answered(program, arch, schedule, 77, 0) == refused  # success, and nothing done
    assert answered(program, arch, schedule, 77, 1) == FALL_THROUGH
    assert answered(program, arch, 0) == FALL_THROUGH
    assert answered(program, 0x40000003, socket, 1) == FALL_THROUGH
