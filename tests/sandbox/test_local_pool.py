"""Warm spares, single runs, bounded waiting, budgets and expiry of the local pool."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import OneShot, SandboxLimits
from agentrl_sandbox.local import LocalPool
from agentrl_sandbox.none import UnsafePool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")
BUSY = "while True: pass"
STUBBORN = (
    "while True:\n    try:\n        while True: sum(range(10**6))\n    except BaseException: pass"
)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something to come true, half a minute at most."""
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def stocked(pool: LocalPool | UnsafePool, spares: int) -> None:
    """Wait until a pool has that many spares."""
    await until(lambda: pool.statistics().spares == spares)


async def emptied(pool: LocalPool | UnsafePool) -> None:
    """Wait until no session is open."""
    await until(lambda: pool.statistics().open_sessions == 0)


async def test_spares_are_leased_and_replaced() -> None:
    pool = UnsafePool(spares=2)
    await pool.open()
    await stocked(pool, 2)
    forks = pool._zygotes.link._expected.numbered if pool._zygotes.link else 0
    first, second = await pool.acquire(), await pool.acquire()
    # Both were there already: nothing has been forked for them.
    assert pool._zygotes.link is not None
    assert pool._zygotes.link._expected.numbered == forks
    assert [(await s.run("x", timeout_s=10)).status for s in (first, second)] == ["error"] * 2
    assert first._child is not second._child
    await stocked(pool, 2)
    await pool.close()
    assert pool.statistics().spares == 0


async def test_a_dead_spare_is_not_leased() -> None:
    pool = LocalPool(spares=2)
    await pool.open()
    await stocked(pool, 2)
    oldest = pool._spares._ready[0]
    oldest.send_signal(signal.SIGKILL)
    await until(oldest.has_ended)
    session = await pool.acquire()
    assert session._child is not oldest
    assert (await session.run("6 * 7", timeout_s=10)).value == "42"
    await stocked(pool, 2)
    await pool.close()


async def test_spares_of_a_lost_zygote_are_not_leased() -> None:
    pool = LocalPool(spares=3)
    await pool.open()
    await stocked(pool, 3)
    assert pool._zygotes.link is not None
    pool._zygotes.link.kill()
    session = await pool.acquire()
    assert (await session.run("6 * 7", timeout_s=10)).value == "42"
    await stocked(pool, 3)
    assert pool.statistics().restarts == 1
    await pool.close()


async def test_single_runs_share_nothing() -> None:
    pool = LocalPool(max_sessions=2)
    assert isinstance(pool, OneShot)
    await pool.open()
    first = await pool.run_once("open('f', 'w').write('x'); x = 6", timeout_s=10)
    assert (first.status, first.state_lost, first.isolation) == ("ok", False, pool.isolation)
    second = await pool.run_once("import os\n'x' in globals(), os.listdir()", timeout_s=10)
    assert second.value == "(False, [])"
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(pool.run_once(f"{n} ** 2", timeout_s=20)) for n in range(12)]
    assert [run.result().value for run in runs] == [str(n**2) for n in range(12)]
    await emptied(pool)
    counts = pool.statistics()
    assert (counts.runs, counts.restarts, counts.refused) == (14, 0, 0)
    await pool.close()


async def test_a_single_run_has_no_grace() -> None:
    """What ignores the interrupt of a session is killed at the deadline; nothing is lost by it."""
    pool = LocalPool()
    await pool.open()
    late = await pool.run_once(f"print('kept')\n{STUBBORN}", timeout_s=0.3)
    assert (late.status, late.signal, late.stdout) == ("timeout", 9, "kept\n")
    assert late.state_lost is False
    assert late.error == "TimeoutError: the code did not finish within 0.3 s"
    ended = await pool.run_once("import os; os._exit(3)", timeout_s=10)
    assert (ended.status, ended.exit_code) == ("exited", 3)
    await pool.close()


async def test_a_cancelled_single_run_leaves_nothing() -> None:
    pool = LocalPool(max_sessions=1, spares=0)
    await pool.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await pool.run_once(BUSY, timeout_s=60)
    assert (await pool.run_once("6 * 7", timeout_s=10)).value == "42"
    await emptied(pool)
    await pool.close()


async def test_closing_ends_single_runs() -> None:
    pool = LocalPool()
    await pool.open()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(pool.run_once(BUSY, timeout_s=60))
        await asyncio.sleep(0.3)
        await pool.close()
    assert (running.result().status, running.result().signal) == ("signal", 9)
    with pytest.raises(SandboxError, match="not open"):
        await pool.run_once("1", timeout_s=1)


async def test_waiting_for_a_slot_is_bounded() -> None:
    pool = UnsafePool(max_sessions=2, wait_s=0.3, spares=0)
    await pool.open()
    held = [await pool.acquire() for _ in range(2)]
    began = time.monotonic()
    with pytest.raises(
        SandboxError, match=r"within 0\.3 s: all 2 sessions are taken.*max_sessions"
    ):
        await pool.acquire()
    assert time.monotonic() - began >= 0.3
    assert (pool.statistics().refused, pool.statistics().waiting) == (1, 0)
    await held[0].close()
    assert (await pool.run_once("6 * 7", timeout_s=10)).value == "42"
    await pool.close()


async def test_waiting_is_told_apart_from_running() -> None:
    """A lease that waited 0.4 s for its slot: in `queue_s` of the first run, in no `wall_s`."""
    pool = UnsafePool(max_sessions=1, spares=0)
    await pool.open()
    first = await pool.acquire()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(pool.run_once("import time; time.sleep(0.1)", timeout_s=0.35))
        await asyncio.sleep(0.4)
        await first.close()
    result = waiting.result()
    assert result.status == "ok"
    assert result.queue_s >= 0.3
    assert result.wall_s >= 0.1
    counts = pool.statistics()
    assert counts.queue_s == result.queue_s
    assert counts.run_s == result.wall_s
    await pool.close()


async def test_a_budget_of_cpu_time() -> None:
    """0.2 s of CPU: sleeping costs nothing, every run has its own, a second thread counts too."""
    pool = LocalPool(limits=SandboxLimits(cpu_s=0.2))
    await pool.open()
    session = await pool.acquire()
    assert (await session.run("x = 1\nimport time; time.sleep(0.5)", timeout_s=20)).status == "ok"
    for _ in range(2):
        spent = await session.run(BUSY, timeout_s=60)
        assert (spent.status, spent.state_lost) == ("cpu_limit", False)
        assert spent.error == "TimeoutError: the code used more than 0.2 s of CPU time"
        assert 0.2 <= spent.cpu_s < 5
    assert (await session.run("x", timeout_s=20)).value == "1"
    threads = await session.run(
        "import threading, hashlib\n"
        "def work():\n    while True: hashlib.sha256(bytes(1 << 20)).digest()\n"
        "for _ in range(3): threading.Thread(target=work, daemon=True).start()\ntime.sleep(60)",
        timeout_s=60,
    )
    assert threads.status == "cpu_limit"
    stuck = await (await pool.acquire()).run(STUBBORN, timeout_s=60)
    assert (stuck.status, stuck.signal, stuck.state_lost) == ("cpu_limit", 9, True)
    single = await pool.run_once(STUBBORN, timeout_s=60)
    assert (single.status, single.signal) == ("cpu_limit", 9)
    late = await pool.run_once("import time; time.sleep(60)", timeout_s=0.3)
    assert late.status == "timeout"
    assert pool.statistics().timeouts == 6
    await pool.close()


async def test_a_session_that_nobody_uses_is_closed() -> None:
    pool = UnsafePool(max_sessions=1, idle_s=0.4, spares=0)
    await pool.open()
    forgotten = await pool.acquire()
    busy = await forgotten.run("import time; time.sleep(1)", timeout_s=20)
    # While code runs a session is in use, however long it takes.
    assert busy.status == "ok"
    other = await pool.acquire()
    assert (await other.run("6 * 7", timeout_s=10)).value == "42"
    with pytest.raises(
        SandboxError, match="without a run, and its state is gone; raise the pool's"
    ):
        await forgotten.run("1", timeout_s=1)
    await forgotten.close()
    assert pool.statistics().expired == 1
    await other.close()
    await pool.close()


async def test_a_session_has_so_many_runs() -> None:
    pool = UnsafePool(max_cells=2)
    await pool.open()
    session = await pool.acquire()
    results = [await session.run("6 * 7", timeout_s=10) for _ in range(3)]
    assert [result.value for result in results] == ["42", "42", None]
    assert results[2].status == "error"
    assert results[2].error == "LimitError: this session has had the 2 runs that it may have"
    await pool.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_sessions": 0}, "max_sessions=0"),
        ({"spares": -1}, "spares=-1"),
        ({"wait_s": 0}, "wait_s=0"),
        ({"idle_s": -1.0}, r"idle_s=-1\.0"),
        ({"max_cells": 0}, "max_cells=0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        LocalPool(**settings)  # pyright: ignore[reportArgumentType]


async def test_leases_end_in_any_order() -> None:
    """Slots, children and descriptors are all given back, whoever closes what when."""
    pool = UnsafePool(max_sessions=4, spares=1)
    await pool.open()
    await stocked(pool, 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        sessions = [await pool.acquire() for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for session in sessions[::-1]:
                group.create_task(session.close())
    await stocked(pool, 1)
    assert len(os.listdir("/proc/self/fd")) == before
    await pool.close()
