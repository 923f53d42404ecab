"""`Session.fork`: copies of a live interpreter, and what hostile code makes of the way they arise."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agentrl.env import Forkable
from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import LEVELS, IsolationLevel, SandboxLimits
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.none import UnsafePool
from agentrl_sandbox.probe import probe
from agentrl_sandbox.session import Session

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux"),
]
LIMITS = SandboxLimits(memory_mb=256, disk_mb=16, output_bytes=20_000)


def _levels() -> list[object]:
    """Where there is `strong`, which is `standard` and cgroups, the latter alone is for `-m slow`."""
    found = probe()
    levels: tuple[IsolationLevel, ...] = ("strong", "standard", "lite")
    marks = {
        level: [
            pytest.mark.skipif(
                LEVELS.index(found.level) < LEVELS.index(level), reason=found.why_not(level)
            )
        ]
        for level in levels
    }
    if found.level == "strong":
        marks["standard"].append(pytest.mark.slow)
    return [pytest.param(level, marks=marks[level]) for level in levels]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=_levels())
async def pool(request: pytest.FixtureRequest) -> AsyncIterator[LocalPool]:
    """An open pool without spares, so that its processes can be counted."""
    pool = LocalPool(limits=LIMITS, max_isolation=request.param, spares=0, max_sessions=32)
    await pool.open()
    yield pool
    await pool.close()


@pytest_asyncio.fixture(loop_scope="module")
async def box(pool: LocalPool) -> AsyncIterator[Session]:
    """A fresh session."""
    session = await pool.acquire()
    yield session
    await session.close()


async def value(box: Session, code: str) -> str | None:
    result = await box.run(textwrap.dedent(code), timeout_s=20)
    assert result.status == "ok", result
    return result.value


async def close_all(sessions: list[Session]) -> None:
    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(session.close())


def processes(pool: LocalPool) -> set[int]:
    """Every living process below the pool's launcher."""
    assert pool._zygotes.link is not None
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            parents[int(name)] = int(fields[1])
    found = {pool._zygotes.link.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


async def settled(pool: LocalPool, expected: set[int]) -> set[int]:
    """The pool's processes, once they are as expected or half a minute has passed."""
    for _ in range(600):
        if processes(pool) <= expected:
            break
        await asyncio.sleep(0.05)
    return processes(pool)


async def test_copies_go_their_own_ways(box: Session) -> None:
    """Each starts from the state of the moment; what it does then stays with it."""
    assert isinstance(box, Forkable)
    await value(box, "x = [1]\ndef f(): return sum(x)\nclass C: y = 2")
    copies = await box.fork(3)
    for n, copy in enumerate(copies):
        assert (
            await value(copy, f"x.append({10 * n}); C.y += {n}; f(), C.y")
            == f"({1 + 10 * n}, {2 + n})"
        )
    assert await value(box, "x.append(5); f(), C.y") == "(6, 2)"
    await box.close()
    assert [await value(copy, "f()") for copy in copies] == ["1", "11", "21"]
    await close_all(copies)


async def test_random_numbers_part(box: Session) -> None:
    await value(box, "import random, numpy as np\nrandom.seed(1); np.random.seed(1)")
    copies = await box.fork(3)
    draws = [await value(s, "(random.random(), float(np.random.rand()))") for s in [*copies, box]]
    assert len(set(draws)) == 4
    # The parent's own stream is not disturbed: the first draws after seed 1, by hand.
    assert draws[3] == "(0.13436424411240122, 0.417022004702574)"
    await close_all(copies)


async def test_the_work_folder_is_copied(box: Session) -> None:
    """Files, folders and links; open files go on at the same place, in the own copy."""
    await value(
        box,
        """
        import os
        os.makedirs('d/e'); open('d/e/deep', 'w').write('deep'); os.symlink('d/e/deep', 'link')
        os.chmod('d/e/deep', 0o600)
        log = open('log', 'w'); _ = log.write('one ')
        os.chdir('d')
        """,
    )
    copies = await box.fork(2)
    look = """
        log.write('{}'); log.flush()
        home = os.environ['HOME']
        (open('../log').read(), os.listdir('.'), open(home + '/link').read(),
         os.getcwd() == home + '/d')
        """
    assert await value(copies[0], look.format("two")) == "('one two', ['e'], 'deep', True)"
    assert await value(copies[1], look.format("3")) == "('one 3', ['e'], 'deep', True)"
    assert await value(box, look.format("0")) == "('one 0', ['e'], 'deep', True)"
    await value(copies[0], "import shutil; shutil.rmtree('e')")
    assert await value(box, "os.listdir('.')") == "['e']"
    await close_all(copies)


async def test_copies_of_copies(box: Session) -> None:
    await value(box, "path = ['root']; open('f', 'w').write('0')")
    family: list[Session] = []
    here = box
    for depth in range(4):
        [here] = await here.fork(1)
        family.append(here)
        await value(here, f"path.append({depth}); _ = open('f', 'a').write('{depth}')")
    assert await value(here, "path, open('f').read()") == "(['root', 0, 1, 2, 3], '00123')"
    assert await value(box, "path, open('f').read()") == "(['root'], '0')"
    await close_all(family)


async def test_facts_about_a_copy_come_from_outside(pool: LocalPool, box: Session) -> None:
    """Signal, exit code, deadline, CPU time and flood, exactly as for a session from the zygote."""
    await value(box, "import os, signal, time\nfor _ in range(300_000): pass")
    copies = await box.fork(5)
    signalled = await copies[0].run("os.kill(os.getpid(), signal.SIGUSR1)", timeout_s=20)
    assert (signalled.status, signalled.signal) == ("signal", signal_number("SIGUSR1"))
    aborted = await copies[1].run("print('kept'); os.abort()", timeout_s=20)
    assert (aborted.status, aborted.signal, aborted.stdout) == ("signal", 6, "kept\n")
    ended = await copies[2].run("os._exit(7)", timeout_s=20)
    assert (ended.status, ended.exit_code, ended.state_lost) == ("exited", 7, True)
    late = await copies[3].run("time.sleep(60)", timeout_s=0.2)
    assert (late.status, late.state_lost) == ("timeout", False)
    stuck = await copies[4].run(
        "while True:\n    try: time.sleep(60)\n    except BaseException: pass", timeout_s=0.2
    )
    assert (stuck.status, stuck.signal, stuck.isolation) == ("timeout", 9, pool.isolation)
    idle = await copies[3].run("1", timeout_s=20)
    assert 0 <= idle.cpu_s < 1
    assert await value(copies[4], "'os' in globals()") == "False"
    await close_all(copies)


def signal_number(name: str) -> int:
    import signal

    return int(getattr(signal, name))


async def test_resetting_a_copy_forgets_its_past(box: Session) -> None:
    await value(box, "x = 1")
    [copy] = await box.fork(1)
    await copy.reset()
    assert await value(copy, "'x' in globals()") == "False"
    assert await value(box, "x") == "1"
    await copy.close()


async def test_no_copies(pool: LocalPool, box: Session) -> None:
    assert await box.fork(0) == []
    with pytest.raises(UserError, match="fork"):
        await box.fork(-1)
    closed = await pool.acquire()
    await closed.close()
    with pytest.raises(SandboxError, match="closed"):
        await closed.fork(1)


async def test_threads_cannot_be_copied(box: Session) -> None:
    await value(
        box,
        "import threading\nstop = threading.Event(); t = threading.Thread(target=stop.wait); t.start()",
    )
    with pytest.raises(SandboxError, match="2 threads cannot be copied"):
        await box.fork(1)
    await value(box, "stop.set(); t.join()")
    [copy] = await box.fork(1)
    assert await value(copy, "t.is_alive(), threading.active_count()") == "(False, 1)"
    await copy.close()


async def test_forking_never_waits_for_slots() -> None:
    """Every slot is held by a session that forks: were copies to need slots, none would ever go on."""
    pool = LocalPool(limits=LIMITS, max_sessions=2, wait_s=60, spares=0)
    await pool.open()
    sessions = [await pool.acquire() for _ in range(2)]
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        forking = [group.create_task(session.fork(3)) for session in sessions]
    copies = [copy for task in forking for copy in task.result()]
    found = pool.statistics()
    assert (found.open_sessions, found.copies, found.waiting) == (8, 6, 0)
    for session in sessions:
        await session.close()
    # The ends of sessions free their two slots, the ends of copies none.
    again = [await pool.acquire() for _ in range(2)]
    await close_all(copies)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.1)
    found = pool.statistics()
    assert (found.open_sessions, found.copies, found.waiting) == (2, 0, 1)
    await again[0].close()
    await (await waiting).close()
    await pool.close()


async def test_without_a_fence_there_are_no_copies() -> None:
    pool = UnsafePool()
    await pool.open()
    session = await pool.acquire()
    with pytest.raises(SandboxError, match="cannot be copied"):
        await session.fork(1)
    assert (await session.run("1", timeout_s=10)).value == "1"
    await pool.close()


async def test_nothing_is_left_of_a_family(pool: LocalPool) -> None:
    warm = await pool.acquire()
    await warm.close()
    await asyncio.sleep(0.3)
    before = processes(pool)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        session = await pool.acquire()
        copies = await session.fork(3)
        await session.close()
        nested = await copies[0].fork(2)
        assert [await value(s, "6 * 7") for s in nested] == ["42", "42"]
        await close_all([*copies, *nested])
    assert await settled(pool, before) <= before
    assert len(os.listdir("/proc/self/fd")) == descriptors


# --- hostile sessions --------------------------------------------------------------------------

FORGE = """
import ctypes, os, time
from agentrl_sandbox.inside import branch, seccomp, kernel
import platform
libc = ctypes.PyDLL(None, use_errno=True)
nr = 56 if platform.machine() == 'x86_64' else 220
def raw(flags): return libc.syscall(*map(ctypes.c_long, (nr, flags, 0, 0, 0, 0)))
both = [seccomp.copy_flags(False), seccomp.copy_flags(True)]
"""


async def test_nobody_forks_without_an_order(pool: LocalPool, box: Session) -> None:
    """Not by any flags, before or after copies were ordered, in a parent or in a copy."""
    before = processes(pool)
    tries = FORGE + (
        "found = [raw(flags) for flags in (*both, 17, 0x8011, 0x10000011)]\n"
        "try: os.fork()\nexcept OSError as error: found.append(error.errno)\n"
        "try: os.setsid()\nexcept OSError as error: found.append(error.errno)\n"
        "found.append(libc.prctl(1, 9, 0, 0, 0))\nfound"
    )
    nothing = str([-1] * 5 + [1, 1, -1])
    assert await value(box, tries) == nothing
    [copy] = await box.fork(1)
    assert await value(copy, tries) == nothing
    assert await value(box, tries) == nothing
    await copy.close()
    assert await settled(pool, before) <= before


HOSTILE = {
    "a copy that never shows itself": """
        def clone(private, old=branch.clone):
            if old(private): time.sleep(1000)
            return False
        branch.clone = clone
        """,
    "copies beyond the order": """
        def clone(private, old=branch.clone):
            for _ in range(50):
                if old(private): time.sleep(1000)
        branch.clone = clone
        """,
    "a copy that keeps its parent-death signal unset": """
        branch.finish_fence = lambda parent: None
        """,
    "a copy that keeps its capabilities": """
        branch.privileges.drop_capabilities = lambda: None
        branch.finish_fence = lambda parent: libc.prctl(1, 9, 0, 0, 0)
        """,
    "a copy that hides a thread": """
        import threading
        branch.confine.reseed = lambda: None
        def fence(parent):
            threading.Thread(target=time.sleep, args=(1000,)).start()
            libc.prctl(1, 9, 0, 0, 0)
        branch.finish_fence = fence
        """,
    "a copy that dies at once": """
        branch.move_in = lambda *a: os._exit(3)
        """,
    "a session that says it is done and is not": """
        branch.clone = lambda private: False
        """,
    "a session that says nothing": """
        def clone(private): time.sleep(1000)
        branch.clone = clone
        """,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_session_is_not_copied(
    pool: LocalPool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order fails with a typed error, and no process is left that nobody leased."""
    if "capabilities" in name and pool.isolation == "lite":
        pytest.skip("copies have none to keep where there are no namespaces")
    witness = await pool.acquire()
    session = await pool.acquire()
    [elder] = await session.fork(1)
    before = processes(pool)
    await value(session, FORGE + textwrap.dedent(HOSTILE[name]))
    with monkeypatch.context() as patch:
        patch.setattr("agentrl_sandbox.copying._CLONE_S", 0.7)
        patch.setattr("agentrl_sandbox.copying._SETTLE_S", 2.0)
        with pytest.raises(SandboxError):
            await session.fork(2)
    assert await settled(pool, before) <= before
    assert await value(witness, "6 * 7") == "42"
    assert await value(elder, "6 * 7") == "42"
    await close_all([session, elder, witness])
    again = await pool.acquire()
    [copy] = await again.fork(1)
    assert await value(copy, "6 * 7") == "42"
    await close_all([again, copy])


async def test_a_fork_that_fails_costs_no_state(pool: LocalPool, box: Session) -> None:
    """As where user namespaces are switched off: a typed error, and the session goes on."""
    code = FORGE + textwrap.dedent(
        """
        x = 6
        real = branch.clone
        def clone(private):
            raise PermissionError(1, 'clone: Operation not permitted')
        branch.clone = clone
        """
    )
    await value(box, code)
    with pytest.raises(SandboxError, match="clone: Operation not permitted"):
        await box.fork(2)
    assert await value(box, "branch.clone = real; x * 7") == "42"
    if pool.isolation != "lite":
        # The same where the kernel refuses what the zygote has allowed: one process per user. At
        # `lite` the user may be root, who has as many as he likes.
        limit = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, ({}, most))"
        await value(box, "import resource; now, most = resource.getrlimit(resource.RLIMIT_NPROC)")
        await value(box, limit.format(1))
        with pytest.raises(SandboxError, match="temporarily unavailable"):
            await box.fork(2)
        assert await value(box, limit.format("now") + "; x * 7") == "42"
    [copy] = await box.fork(1)
    assert await value(copy, "x * 7") == "42"
    await copy.close()


async def test_copies_cannot_reach_each_other(box: Session) -> None:
    """By pid they are as closed to each other as strangers are."""
    copies = await box.fork(2)
    pids = [int(await value(s, "import os, resource; os.getpid()") or 0) for s in (box, *copies)]
    for session, own in zip((box, *copies), pids, strict=True):
        for pid in pids:
            code = f"""
                def attempt(f, *a):
                    try: f(*a)
                    except OSError as error: return error.errno
                [attempt(os.kill, {pid}, 0), attempt(os.kill, -{pid}, 0),
                 attempt(resource.prlimit, {pid}, resource.RLIMIT_NOFILE),
                 attempt(os.sched_setaffinity, {pid}, [0])]"""
            found = await value(session, code)
            if pid == own:
                assert found == "[None, 1, None, None]"
            else:
                assert found == "[1, 1, 1, 1]"
    await close_all(copies)
