"""Nothing outlives what started it, nothing leaks, and a pool survives the loss of its zygote."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentrl.errors import SandboxError
from agentrl.sandbox import SandboxLimits
from agentrl_sandbox import cgroups
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.none import UnsafePool
from agentrl_sandbox.probe import probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

GONE_S = 10.0
needs_strong = pytest.mark.skipif(
    probe().level != "strong", reason=probe().why_not("strong") or "no memory cgroup"
)
# Where there is `strong`, which is `standard` and cgroups, the latter alone is for `-m slow`.
beside_strong = [pytest.mark.slow] if probe().level == "strong" else []
LEVELS = [
    pytest.param("strong", marks=needs_strong),
    pytest.param("standard", marks=beside_strong),
    "lite",
]
PARENT = """
import asyncio, os, sys
from functools import partial
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.none import UnsafePool

async def main(level, keep_copy):
    make = UnsafePool if level == "none" else partial(LocalPool, max_isolation=level)
    pool = make(spares=0)
    await pool.open()
    sessions = [await pool.acquire() for _ in range(3)]
    idle = await pool.acquire()
    await idle.run("open('left', 'w').write('x')", timeout_s=10)
    if level != "none":
        # A session's copies are no one's children but the zygote's.
        sessions += await sessions[0].fork(2)
    if keep_copy and os.fork() == 0:
        # A copy of the trainer, as a data loader would be, that keeps every descriptor open.
        os.closerange(0, 3)
        import time; time.sleep(120); os._exit(0)
    async with asyncio.TaskGroup() as group:
        for s in sessions:
            group.create_task(s.run(BUSY, timeout_s=100))
        await asyncio.sleep(0.3)
        print("running", flush=True)

BUSY = '''
import ctypes, signal
for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)   # forget to die with the parent
while True: pass
'''
asyncio.run(main(sys.argv[1], sys.argv[2] == "copy"))
"""


def _identity(pid: int) -> tuple[int, str] | None:
    """A process for good: its pid and the moment it started."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (pid, fields[19])


def _descendants(root: int) -> set[tuple[int, str]]:
    """Living processes below `root`, itself left out."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(name)] = int(fields[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {who for pid in found - {root} if (who := _identity(pid)) is not None}


def _wait_until_gone(who: set[tuple[int, str]]) -> set[tuple[int, str]]:
    deadline = time.monotonic() + GONE_S
    while (alive := {w for w in who if _identity(w[0]) == w}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


def _cgroups_of(owner: int) -> int:
    """Folders for the cgroups of a process's pools, one per hierarchy."""
    return sum(len(list(parent.glob(f"agentrl-{owner}-*"))) for parent in _group_parents())


def _group_parents() -> list[Path]:
    try:
        return list(dict.fromkeys(cgroups.find().of.values()))
    except OSError:
        return []


@pytest.mark.parametrize(
    ("level", "copy"),
    [
        pytest.param("strong", "copy", marks=needs_strong),
        pytest.param("standard", "copy", marks=beside_strong),
        ("lite", "copy"),
        ("none", "alone"),
    ],
)
def test_kill_nine_of_the_parent_leaves_nothing(tmp_path: Path, level: str, copy: str) -> None:
    """Three sessions that spin and refuse to die, one with a file, a fork holding the sockets."""
    tmp_path.chmod(0o755)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, level, copy],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    holders: set[tuple[int, str]] = set()
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"running\n"
        started = _descendants(parent.pid)
        # A launcher, its zygote, four sessions, two copies; in cgroups four more zygotes, and one
        # that the first, proving session left for the next.
        expected = {"none": 6, "lite": 8, "standard": 8, "strong": 12}[level]
        assert len(started) == expected + (copy == "copy")
        assert (_cgroups_of(parent.pid) > 0) == (level == "strong")
        if copy == "copy":
            holders = {
                w for w in started if b"TaskGroup" in Path(f"/proc/{w[0]}/cmdline").read_bytes()
            }
            assert len(holders) == 1
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    try:
        assert _wait_until_gone(started - holders) == set()
        assert os.listdir(tmp_path) == []
        for _ in range(100):
            if _cgroups_of(parent.pid) == 0:
                break
            time.sleep(0.05)
        assert _cgroups_of(parent.pid) == 0
    finally:
        for pid, _ in holders:
            os.kill(pid, signal.SIGKILL)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("level", LEVELS)
async def test_fifty_sessions_leak_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    os.chmod(tmp_path, 0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before_open = _descriptors()
    pool = LocalPool(max_isolation=level, spares=0)  # pyright: ignore[reportArgumentType]
    await pool.open()
    session = await pool.acquire()
    await session.run("1", timeout_s=10)
    await session.close()
    link = pool._zygotes.link
    assert link is not None
    zygote = max(_descendants(link._process.pid))[0]

    def census() -> tuple[int, int, int, int]:
        mounts = len(Path("/proc/self/mountinfo").read_text().splitlines())
        return _descriptors(), len(_descendants(os.getpid())), mounts, _entries(tmp_path)

    before, inside = census(), len(os.listdir(f"/proc/{zygote}/fd"))
    for n in range(50):
        session = await pool.acquire()
        if n % 5 == 0:
            await session.run("open('f', 'w').write('x')", timeout_s=10)
        if n % 10 == 0:
            await session.run("import os; os._exit(1)", timeout_s=10)
        await session.close()
    await asyncio.sleep(0.3)
    assert census() == before
    assert len(os.listdir(f"/proc/{zygote}/fd")) == inside
    assert pool.statistics().open_sessions == 0
    mine = _descendants(link._process.pid)
    await pool.close()
    assert _wait_until_gone(mine) == set()
    assert os.listdir(tmp_path) == []
    assert _descriptors() <= before_open


def _entries(folder: Path) -> int:
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


@pytest.mark.parametrize("level", LEVELS)
async def test_losing_the_zygote(level: str) -> None:
    """Code under way and state that is gone are errors of the box; whatever comes next works."""
    pool = LocalPool(max_isolation=level)  # pyright: ignore[reportArgumentType]
    await pool.open()
    busy, stateful, fresh = [await pool.acquire() for _ in range(3)]
    await stateful.run("x = 1", timeout_s=10)
    link = pool._zygotes.link
    assert link is not None
    children = _descendants(link._process.pid)
    zygote = min(pid for pid, _ in children if _parent_of(pid) == link._process.pid)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_outcome(busy.run("while True: pass", timeout_s=60)))
        await asyncio.sleep(0.3)
        os.kill(zygote, signal.SIGKILL)
    assert running.result() == "SandboxError"
    assert _wait_until_gone(children) == set()
    assert await _outcome(stateful.run("x", timeout_s=10)) == "SandboxError"
    assert (await stateful.run("'x' in globals()", timeout_s=10)).value == "False"
    assert (await fresh.run("6 * 7", timeout_s=10)).value == "42"
    assert (await busy.run("6 * 7", timeout_s=10)).value == "42"
    new = await pool.acquire()
    assert (await new.run("2", timeout_s=10)).value == "2"
    assert pool.statistics().restarts >= 1
    await pool.close()


async def _outcome(running: object) -> str:
    try:
        await running  # pyright: ignore[reportGeneralTypeIssues]
    except SandboxError as error:
        return type(error).__name__
    return "a result"


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_closing_a_pool_in_use() -> None:
    pool = LocalPool(limits=SandboxLimits(memory_mb=128))
    await pool.open()
    sessions = [await pool.acquire() for _ in range(4)]
    link = pool._zygotes.link
    assert link is not None
    processes = _descendants(link._process.pid)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(s.run("while True: pass", timeout_s=60)) for s in sessions[:2]]
        await asyncio.sleep(0.2)
        started = time.monotonic()
        await pool.close()
    assert time.monotonic() - started < 5
    assert [task.result().status for task in running] == ["signal", "signal"]
    assert _wait_until_gone(processes) == set()
    with pytest.raises(SandboxError):
        await sessions[3].run("1", timeout_s=1)


async def test_a_pool_can_be_opened_again() -> None:
    pool = UnsafePool()
    for _ in range(2):
        await pool.open()
        session = await pool.acquire()
        assert (await session.run("1", timeout_s=10)).value == "1"
        await pool.close()


async def test_giving_up_a_lease_harms_nobody() -> None:
    """Leases cancelled at every stage of a fork: the zygote lives on, and so do its sessions."""
    pool = UnsafePool(spares=0)
    await pool.open()
    session = await pool.acquire()
    await session.run("x = 6", timeout_s=10)
    link = pool._zygotes.link
    assert link is not None
    before = _descriptors()
    for n in range(20):
        leasing = asyncio.ensure_future(pool.acquire())
        await asyncio.sleep(0.0005 * n)
        leasing.cancel()
        done, _ = await asyncio.wait({leasing}, timeout=10)
        if not leasing.cancelled():
            await done.pop().result().close()
    assert pool._zygotes.link is link
    assert not link.lost
    assert (await session.run("x * 7", timeout_s=10)).value == "42"
    for _ in range(100):
        if len(_descendants(link.pid)) == 2 and _descriptors() == before:
            break
        await asyncio.sleep(0.05)
    assert len(_descendants(link.pid)) == 2
    assert _descriptors() == before
    assert pool.statistics().restarts == 0
    await pool.close()
