"""The whole checker: ladder, symbolic workers, deadlines, crashes, caching, shutdown."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from agentrl.errors import UserError
from agentrl.verify import MathChecker, Verdict
from agentrl.verify.worker import Outcome, SymbolicPool


@pytest.fixture(scope="module")
def checker() -> Iterator[MathChecker]:
    with MathChecker(deadline_s=15.0) as made:
        yield made


SYMBOLIC = [
    ("6", "3!", True),
    ("6", "4!", False),
    ("2", r"\log_{10} 100", True),
    (r"\frac{1}{2x}", "1/2x", True),
    ("y = 2x + 3", "y - 2x = 3", True),
    ("y = 2x + 3", "y - 2x = 4", False),
    ("5x - 7y + 11z + 4 = 0", "-5x + 7y - 11z - 4 = 0", True),
    ("5x - 7y + 11z + 4 = 0", "-5x + 7y - 11z + 4 = 0", False),
    (r"\sin^2 x", r"1 - \cos^2 x", True),
    ("5", "not 5", False),
    ("5", r"\frac{5}{", False),
    ("5", "5} or \\boxed{6", False),
    ("6", r"The answer is $3!$.", True),
    ("y = 2x + 3", r"\boxed{y - 2x = 3}", True),
    ("5", "5} or {6", False),
    ("5", "\ud800\x00 5", False),
]


@pytest.mark.parametrize(("gold", "prediction", "correct"), SYMBOLIC)
def test_the_symbolic_rung(checker: MathChecker, gold: str, prediction: str, correct: bool) -> None:
    assert checker.check_now(gold, prediction) == Verdict(correct, "symbolic")


def test_cheap_answers_start_no_process() -> None:
    with MathChecker() as checker:
        assert checker.check_now(r"\frac12", "0.5") == Verdict(True, "ladder")
        assert checker.check_now("3", "-3") == Verdict(False, "ladder")
        assert checker.check_now("3", None) == Verdict(False, "missing")
        assert checker.check_now("3", " \n") == Verdict(False, "missing")
        assert checker.check_now("3", "3" * 10_000) == Verdict(False, "oversize")
        assert checker.check_now("3", "-3") == Verdict(False, "ladder")
        counts = checker.statistics()
        assert checker._pool.pids == []
    assert (counts.checks, counts.ladder, counts.missing, counts.oversize) == (6, 3, 2, 1)
    assert (counts.cached, counts.timeouts, counts.symbolic) == (1, 0, 0)


async def test_hangs_end_at_the_deadline_and_the_next_request_works() -> None:
    """A tower of powers and a huge factorial: None, counted, remembered; the pool goes on."""
    with MathChecker(deadline_s=1.0) as checker:
        await checker.check("6", "3!")
        for hang in ("9^{9^{9^9}}", "10000000!"):
            checker._pool.compare_now("6", "2!")  # the successor has started
            start = time.monotonic()
            assert await checker.check("5", hang) == Verdict(None, "timeout")
            assert time.monotonic() - start < 5.0
            start = time.monotonic()
            assert await checker.check("5", hang) == Verdict(None, "timeout")
            assert time.monotonic() - start < 0.5
        assert await checker.check("24", "4!") == Verdict(True, "symbolic")
        counts = checker.statistics()
    # two computed and two remembered
    assert (counts.timeouts, counts.cached, counts.replaced_workers, counts.symbolic) == (
        4,
        2,
        2,
        2,
    )
    assert counts.checks == 6


async def test_a_killed_worker_is_a_crash_not_a_zero_and_close_ends_its_successor() -> None:
    pool = SymbolicPool(deadline_s=10.0)
    assert await pool.compare("6", "3!") == Outcome(True, "answered")
    [pid] = pool.pids
    async with asyncio.TaskGroup() as group:
        lost = group.create_task(pool.compare("5", "9^{9^{9^9}}"))
        await asyncio.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
    assert lost.result() == Outcome(None, "crashed")
    assert await pool.compare("6", "3!") == Outcome(True, "answered")
    assert pool.replaced == 1
    [successor] = pool.pids
    pool.close()
    pool.close()
    assert not _alive(pid)
    assert not _alive(successor)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("6", "3!")


async def test_the_event_loop_stays_free_and_requests_queue(checker: MathChecker) -> None:
    """Twenty checks on one worker from twenty tasks; between any two answers the loop has run."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        ticker = asyncio.ensure_future(tick())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(checker.check(str(n), rf"\log_{{2}} {2**n}"))
                for n in range(1, 21)
            ]
        ticker.cancel()
    assert [task.result() for task in tasks] == [Verdict(True, "symbolic")] * 20
    assert len(checker._pool.pids) == 1
    assert ticks > 20


def test_a_closed_checker_keeps_its_ladder() -> None:
    checker = MathChecker()
    checker.close()
    checker.close()
    assert checker.check_now("6", "6.0") == Verdict(True, "ladder")
    with pytest.raises(RuntimeError, match="closed"):
        checker.check_now("24", "4!")


@pytest.mark.parametrize("prediction", ["3!", "9^{9^{9^9}}"])
def test_workers_end_with_their_parent(prediction: str) -> None:
    """A parent killed outright, its worker idle or busy; only the worker has loaded sympy."""
    code = (
        "import sys, threading, time; from agentrl.verify import MathChecker\n"
        "c = MathChecker(deadline_s=1.5); c.check_now('6', '3!')\n"
        "assert not {'sympy', 'math_verify', 'torch', 'numpy'} & set(sys.modules)\n"
        "print(*c._pool.pids, flush=True)\n"
        f"c.check_now('5', {prediction!r}); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_bad_input_is_a_user_error() -> None:
    with pytest.raises(UserError, match="deadline_s"):
        MathChecker(deadline_s=0)
    with MathChecker() as checker, pytest.raises(UserError, match="empty"):
        checker.check_now("  ", "5")
