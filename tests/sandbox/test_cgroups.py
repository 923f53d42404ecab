"""The cgroups of level `strong`: limits that bite, both versions, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.errors import SandboxUnavailable
from agentrl.sandbox import SandboxLimits
from agentrl_sandbox import cgroups, forkers
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.probe import probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cgroups of Linux")
needs_strong = pytest.mark.skipif(
    probe().level != "strong", reason=f"no level strong: {probe().why_not('strong')}"
)
HOG = (
    "keep = bytearray(60 << 20)\nfor n in range(100): _ = open(f'f{n}', 'wb').write(bytes(2 << 20))"
)


def _groups() -> list[Path]:
    return [f for p in dict.fromkeys(cgroups.find().of.values()) for f in p.glob("agentrl-*")]


def _sessions(pool: LocalPool) -> list[Path]:
    """Groups of single sessions, below the pool's own homes."""
    assert pool._zygotes._forkers is not None
    homes = map(Path, pool._zygotes._forkers.home.paths())
    return [entry for home in homes for entry in home.iterdir() if entry.is_dir()]


def _ended_process() -> int:
    """The pid of a process that is no more."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        process.wait()
    return process.pid


@needs_strong
async def test_out_of_memory_is_a_status() -> None:
    """60 MB of heap and then files: more than 64 MB and the 64 that are for the interpreter."""
    pool = LocalPool(limits=SandboxLimits(memory_mb=64, disk_mb=256))
    await pool.open()
    assert pool.isolation == "strong"
    session, witness = await pool.acquire(), await pool.acquire()
    assert (await witness.run("x = 6", timeout_s=10)).status == "ok"
    for _ in range(2):
        result = await session.run(HOG, timeout_s=60)
        assert (result.status, result.signal, result.state_lost) == ("oom", 9, True)
        assert result.error == "MemoryError: the code used more than 64 MB and was killed"
    single = await pool.run_once(HOG, timeout_s=60)
    assert (single.status, single.state_lost) == ("oom", False)
    # Nobody but the eater was killed: not the others, no zygote.
    assert (await witness.run("x * 7", timeout_s=10)).value == "42"
    assert (await session.run("6 * 7", timeout_s=10)).value == "42"
    assert pool.statistics().ooms == 3
    # A kill by its own hand is none of the kernel's.
    killed = await session.run("import os; os.kill(os.getpid(), 9)", timeout_s=10)
    assert (killed.status, killed.signal) == ("signal", 9)
    await pool.close()


@needs_strong
async def test_a_family_has_the_limits_of_its_members() -> None:
    """Three of one family may use three times as much; only the one that goes on eating dies."""
    pool = LocalPool(limits=SandboxLimits(memory_mb=64, disk_mb=512, processes=20))
    await pool.open()
    session = await pool.acquire()
    copies = await session.fork(2)
    for copy in copies:
        assert (await copy.run("keep = bytearray(50 << 20)", timeout_s=20)).status == "ok"
    eaten = await session.run(HOG.replace("100", "250"), timeout_s=60)
    assert (eaten.status, eaten.signal) == ("oom", 9)
    assert [(await c.run("len(keep) >> 20", timeout_s=10)).value for c in copies] == ["50", "50"]
    for member in (session, *copies):
        await member.close()
    # The next session in the same group has the limits of one again.
    alone = await pool.acquire()
    assert (await alone.run(HOG, timeout_s=60)).status == "oom"
    await pool.close()


@needs_strong
async def test_threads_are_counted() -> None:
    pool = LocalPool(limits=SandboxLimits(processes=10))
    await pool.open()
    session = await pool.acquire()
    code = """
import threading
stop = threading.Event()
threads = []
try:
    while True:
        thread = threading.Thread(target=stop.wait); thread.start(); threads.append(thread)
except RuntimeError: pass
stop.set(); len(threads)"""
    assert (await session.run(code, timeout_s=20)).value == "9"
    await pool.close()


@needs_strong
async def test_cores_are_shared_out() -> None:
    """A quarter of a core: 0.2 s of computing take 0.6 s at least."""
    pool = LocalPool(limits=SandboxLimits(cpus=0.25))
    await pool.open()
    session = await pool.acquire()
    code = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    result = await session.run(code, timeout_s=60)
    assert result.status == "ok"
    assert result.wall_s >= 0.5
    await pool.close()


@needs_strong
async def test_zygotes_that_nobody_needs_any_more_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wave of sessions leaves its zygotes for the next wave, but not for ever."""
    pool = LocalPool(spares=0)
    await pool.open()
    sessions = [await pool.acquire() for _ in range(4)]
    kinds = len({folder.parent for folder in _sessions(pool)})
    assert len(_sessions(pool)) == 4 * kinds
    for session in sessions[1:]:
        await session.close()
    await pool._zygotes.tidy()
    assert len(_sessions(pool)) == 4 * kinds
    monkeypatch.setattr(forkers, "_KEEP_S", 0.0)
    await pool._zygotes.tidy()
    assert len(_sessions(pool)) == kinds
    assert (await sessions[0].run("6 * 7", timeout_s=10)).value == "42"
    again = await pool.acquire()
    assert (await again.run("6 * 7", timeout_s=10)).value == "42"
    assert len(_sessions(pool)) == 2 * kinds
    await pool.close()


@needs_strong
async def test_nothing_is_left_and_what_is_left_is_swept() -> None:
    """Groups of a process that is no more go at the next open; those of a living one stay."""
    dead = _ended_process()
    parent = cgroups.find().of["memory"]
    stale = parent / f"agentrl-{dead}-1-0"
    ours = parent / f"agentrl-{os.getpid()}-{cgroups._started(os.getpid())}-9999"
    other = parent / "agentrl-test-other"
    for folder in (stale, stale / "3", ours, other):
        folder.mkdir()
    try:
        pool = LocalPool()
        await pool.open()
        assert not stale.exists()
        assert ours.exists()
        assert other.exists()
        before = set(_groups())
        assert any(f.name.startswith(f"agentrl-{os.getpid()}-") for f in before - {ours})
        for _ in range(3):
            await pool.run_once("1", timeout_s=10)
        assert set(_groups()) == before
        await pool.close()
        mine = [f for f in _groups() if f.name.startswith(f"agentrl-{os.getpid()}-")]
        assert mine == [ours]
    finally:
        for folder in (stale / "3", stale, ours, other):
            if folder.exists():
                folder.rmdir()


@needs_strong
async def test_a_home_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was writable when it was probed and is not any more: unavailable, not weaker."""
    assert probe().level == "strong"

    def closed() -> cgroups.Places:
        raise PermissionError("read-only now")

    monkeypatch.setattr(cgroups, "find", closed)
    with pytest.raises(
        SandboxUnavailable,
        match="no cgroups can be made any more: read-only now",
    ):
        await LocalPool(min_isolation="strong").open()


# --- both versions, on files -------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /sys/fs/cgroup of ordinary files; `lay_out` fills in what /proc says about it."""
    monkeypatch.setattr(cgroups, "_PROC", tmp_path / "proc")
    (tmp_path / "proc").mkdir()
    return tmp_path


def lay_out(machine: Path, mounts: list[tuple[str, str, str, str]], groups: list[str]) -> None:
    """`mounts`: root, folder, kind and options; as `proc_pid_mountinfo(5)` writes them."""
    lines = [
        f"{30 + n} 23 0:{n} {root} {machine / folder} rw,relatime shared:1 - {kind} {kind} {options}"
        for n, (root, folder, kind, options) in enumerate(mounts)
    ]
    (machine / "proc" / "mountinfo").write_text("".join(line + "\n" for line in lines))
    (machine / "proc" / "cgroup").write_text("\n".join(groups) + "\n")


def test_version_two(machine: Path) -> None:
    """Controllers are switched on above, limits written in the file of each, swap off."""
    own = machine / "fs" / "user.slice" / "run"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    (own / "cgroup.subtree_control").write_text("memory\n")
    lay_out(machine, [("/", "fs", "cgroup2", "rw")], ["0::/user.slice/run"])
    places = cgroups.find()
    assert places.unified
    assert places.of == {"memory": own, "pids": own, "cpu": own}
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +pids"
    limits = SandboxLimits(memory_mb=100, processes=7, cpus=1.5)
    home = places.make_home(limits)
    assert home.paths() == (str(next(own.glob("agentrl-*"))),)
    folder = Path(home.paths()[0]) / "0"
    group = home.make_group("0")
    written = {file.name: file.read_text() for file in folder.iterdir()}
    assert written == {
        "memory.max": str(164 << 20),
        "pids.max": "8",
        "cpu.max": "150000 100000",
    }
    group.allow(3)
    assert (folder / "memory.max").read_text() == str(3 * 164 << 20)
    assert (folder / "pids.max").read_text() == "22"
    group.attach(4242)
    assert (folder / "cgroup.procs").read_text() == "4242"
    assert group.oom_kills() == 0
    (folder / "memory.events").write_text("low 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert group.oom_kills() == 2


def test_version_two_in_a_namespace(machine: Path) -> None:
    """Mounted from its own group on: the path in /proc/self/cgroup is relative to that."""
    (machine / "fs").mkdir()
    (machine / "fs" / "cgroup.controllers").write_text("memory pids\n")
    (machine / "fs" / "cgroup.subtree_control").write_text("memory pids\n")
    lay_out(machine, [("/", "fs", "cgroup2", "rw")], ["0::/"])
    assert cgroups.find().of == {"memory": machine / "fs", "pids": machine / "fs"}


def test_version_two_beside_processes(machine: Path) -> None:
    """Our own group cannot be divided while processes are in it: then the one above it."""
    own = machine / "fs" / "slice" / "run"
    own.mkdir(parents=True)
    (own / "cgroup.controllers").write_text("memory pids\n")
    (own / "cgroup.subtree_control").mkdir()  # writing fails, as with EBUSY
    above = machine / "fs" / "slice"
    (above / "cgroup.controllers").write_text("memory pids\n")
    (above / "cgroup.subtree_control").write_text("memory pids\n")
    lay_out(machine, [("/", "fs", "cgroup2", "rw")], ["0::/slice/run"])
    assert cgroups.find().of["memory"] == above


def test_version_one(machine: Path) -> None:
    """One folder per hierarchy; the part of the path that is mounted elsewhere is cut off."""
    for name in ("memory/box", "pids", "cpu,cpuacct"):
        (machine / "fs" / name).mkdir(parents=True)
    mounts = [
        ("/docker/abc", "fs/memory", "cgroup", "rw,memory"),
        ("/", "fs/pids", "cgroup", "rw,pids"),
        ("/", "fs/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
    ]
    lay_out(machine, mounts, ["4:memory:/docker/abc/box", "3:cpu,cpuacct:/", "2:pids:/", "0::/"])
    places = cgroups.find()
    assert not places.unified
    fs = machine / "fs"
    expected = {"memory": fs / "memory" / "box", "pids": fs / "pids", "cpu": fs / "cpu,cpuacct"}
    assert places.of == expected
    home = places.make_home(SandboxLimits(memory_mb=1, processes=2))
    assert len(home.paths()) == 2
    group = home.make_group("0")
    folder = group.folders["memory"]
    assert (folder / "memory.limit_in_bytes").read_text() == str(65 << 20)
    assert not (folder / "memory.memsw.limit_in_bytes").exists()
    (folder / "memory.memsw.limit_in_bytes").touch()
    group.allow(2)
    assert (folder / "memory.memsw.limit_in_bytes").read_text() == str(130 << 20)
    assert (group.folders["pids"] / "pids.max").read_text() == "5"
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert group.oom_kills() == 4


@pytest.mark.parametrize(
    ("mounts", "groups", "words"),
    [
        ([], ["0::/"], "no memory and no pids controller is mounted"),
        ([("/", "fs/memory", "cgroup", "rw,memory")], ["4:memory:/"], "no pids controller"),
        ([("/", "fs", "cgroup2", "rw")], ["0::/"], "no memory and no pids"),
    ],
)
def test_what_is_missing_is_said(
    machine: Path, mounts: list[tuple[str, str, str, str]], groups: list[str], words: str
) -> None:
    lay_out(machine, mounts, groups)
    with pytest.raises(OSError, match=words):
        cgroups.find()
