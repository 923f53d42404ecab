"""What a session promises: state, echo, errors, deadlines, capture, parallel runs."""

from __future__ import annotations

import ast
import asyncio
import logging
import sys
import time

import pytest

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import PoolStatistics, Sandbox, SandboxLimits, SandboxPool
from agentrl_sandbox.local import LocalPool, remedy
from agentrl_sandbox.none import UnsafePool
from agentrl_sandbox.probe import Capabilities, Primitive, probe
from agentrl_sandbox.session import MAX_CODE

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux"),
]


async def value(box: Sandbox, code: str) -> str | None:
    result = await box.run(code, timeout_s=10)
    assert result.status == "ok", result
    return result.value


async def test_state_lives_from_run_to_run(box: Sandbox) -> None:
    assert await value(box, "import math\ndef f(n): return math.factorial(n)\nx = 3") is None
    assert await value(box, "f(x) + 1") == "7"
    assert await value(box, "_ + 1") == "8"


async def test_classes_and_pickles_belong_to_main(box: Sandbox) -> None:
    await value(box, "import pickle\nclass Point:\n    def __init__(self): self.x = 4")
    assert await value(box, "pickle.loads(pickle.dumps(Point())).x") == "4"
    assert await value(box, "__name__, Point.__module__") == "('__main__', '__main__')"


async def test_reset_forgets(box: Sandbox) -> None:
    await value(box, "x = 1; open('f', 'w').write('x')")
    await box.reset()
    result = await box.run("x", timeout_s=10)
    assert (result.status, result.error) == ("error", "NameError: name 'x' is not defined")
    assert await value(box, "import os; os.listdir()") == "[]"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 + 1", "2"),
        ("x = 2", None),
        ("None", None),
        ("x = 5\nx * 2", "10"),
        ("x = 5; x * 2", "10"),
        ("'é' + '\\ud800'", "'é\\ud800'"),
        ("", None),
        ("# only a comment", None),
        ("if True:\n    7", None),
        ("print('shown')", None),
    ],
)
async def test_echo_of_a_last_expression(box: Sandbox, code: str, expected: str | None) -> None:
    assert await value(box, code) == expected


async def test_a_value_too_long_says_so(pool: LocalPool, box: Sandbox) -> None:
    """`repr` of 50,000 letters is 50,002 bytes; 20,000 - 64 of them are kept."""
    found = await value(box, "'x' * 50_000")
    assert found == "'" + "x" * (20_000 - 64 - 1) + f"... [{50_002 - 19_936} more bytes]"


async def test_traceback_shows_the_source(box: Sandbox) -> None:
    await value(box, "def half(n):\n    return n / 0")
    result = await box.run("y = 1\nhalf(y)", timeout_s=10)
    assert result.error == "ZeroDivisionError: division by zero"
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert '  File "<cell 2>", line 2, in <module>' in lines
    assert "    half(y)" in lines
    assert "    return n / 0" in lines
    assert "agentrl" not in result.stderr


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("def", "SyntaxError"),
        ("x = '\x00'", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E"),
        ("raise ExceptionGroup('many', [ValueError(1)])", "ExceptionGroup"),
    ],
)
async def test_whatever_is_raised_is_an_answer(box: Sandbox, code: str, kind: str) -> None:
    result = await box.run(code, timeout_s=10)
    assert result.status == "error"
    assert kind in (result.error or "")
    assert await value(box, "1") == "1"


async def test_a_redirected_stdout_is_put_back(box: Sandbox) -> None:
    await value(box, "import sys, io\nsys.stdout = io.StringIO()\nprint('swallowed')")
    result = await box.run("print('seen')", timeout_s=10)
    assert result.stdout == "seen\n"


async def test_streams_are_kept_apart_and_in_order(box: Sandbox) -> None:
    result = await box.run(
        "import sys, os\nprint('a')\nprint('b', file=sys.stderr)\nos.write(1, b'c\\n')\n"
        "print('d', end='')",
        timeout_s=10,
    )
    assert (result.stdout, result.stderr) == ("a\nc\nd", "b\n")


async def test_output_before_a_kill_is_kept(box: Sandbox) -> None:
    result = await box.run("print('kept')\nimport os\nos.kill(os.getpid(), 11)", timeout_s=10)
    if result.status == "ok":  # the first process of a namespace ignores what it does not handle
        result = await box.run("print('kept')\nimport ctypes\nctypes.string_at(0)", timeout_s=10)
    assert (result.status, result.signal, result.stdout) == ("signal", 11, "kept\n")


async def test_the_middle_of_long_output_is_counted(box: Sandbox) -> None:
    """200,000 bytes into 20,000: 10,000 from each end, 180,000 left out."""
    result = await box.run(
        "import sys\nsys.stdout.write('a' * 100_000 + 'z' * 100_000)", timeout_s=10
    )
    assert result.stdout == "a" * 10_000 + "\n... [180000 bytes left out] ...\n" + "z" * 10_000
    assert result.stdout_dropped == 180_000
    assert result.stderr_dropped == 0


async def test_a_long_program_arrives_whole(box: Sandbox) -> None:
    """10 MB and more as bytes."""
    code = "x = '" + "é" * 5_500_000 + "'\nlen(x)"
    assert (await box.run(code, timeout_s=60)).value == "5500000"


async def test_a_program_beyond_all_bounds_is_refused(box: Sandbox) -> None:
    result = await box.run("#" * (MAX_CODE + 1), timeout_s=60)
    assert result.status == "error"
    assert result.error == (
        f"LimitError: the code has {MAX_CODE + 1} characters, at most {MAX_CODE} are run"
    )
    assert await value(box, "1") == "1"


@pytest.mark.parametrize("code", ["'\ud800'", "print('\udcff')", "x = 1  # \ud800\udc00"])
async def test_half_a_character_in_the_source_is_an_error(box: Sandbox, code: str) -> None:
    result = await box.run(code, timeout_s=10)
    assert result.status == "error"
    assert (result.error or "").startswith("UnicodeEncodeError")
    assert await value(box, "1") == "1"


async def test_bytes_that_are_no_text_are_replaced(box: Sandbox) -> None:
    """Each byte that UTF-8 cannot have becomes one mark; NUL and what is text stay."""
    result = await box.run(
        "import os, sys\nos.write(1, b'a\\x00\\xff\\xfe b')\n"
        "sys.stderr.buffer.write(bytes(range(128, 256))); sys.stderr.flush()",
        timeout_s=10,
    )
    assert result.stdout == "a\x00\ufffd\ufffd b"
    assert result.stderr == "\ufffd" * 128


async def test_a_flood_without_a_newline_is_cut_and_counted(box: Sandbox) -> None:
    """Killed at 64 MiB beyond what is kept; what was dropped and what is shown is all there was."""
    result = await box.run("import sys\nwhile True: sys.stdout.write('x' * 65536)", timeout_s=60)
    assert (result.status, result.state_lost, result.signal) == ("output_limit", True, 9)
    assert result.stdout_dropped > 64 << 20
    head, _, tail = result.stdout.partition("\n")
    assert head == "x" * 10_000
    assert tail == f"... [{result.stdout_dropped} bytes left out] ...\n" + "x" * 10_000


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
async def test_no_time_is_no_deadline(box: Sandbox, seconds: float) -> None:
    with pytest.raises(UserError, match="timeout_s"):
        await box.run("1", timeout_s=seconds)


async def test_interrupt_keeps_state_and_kill_loses_it(box: Sandbox) -> None:
    await value(box, "x = 1")
    soft = await box.run("import time\ntime.sleep(60)", timeout_s=0.2)
    assert (soft.status, soft.state_lost, soft.signal) == ("timeout", False, None)
    assert soft.error == "TimeoutError: the code did not finish within 0.2 s"
    assert await value(box, "x") == "1"
    hard = await box.run(
        "while True:\n    try: time.sleep(60)\n    except BaseException: pass", timeout_s=0.2
    )
    assert (hard.status, hard.state_lost, hard.signal) == ("timeout", True, 9)
    assert hard.wall_s >= 0.7
    fresh = await box.run("x", timeout_s=10)
    assert (fresh.status, fresh.state_lost) == ("error", False)


async def test_an_interpreter_that_dies_between_runs_is_reported(box: Sandbox) -> None:
    await value(
        box,
        "import threading, os, time\nx = 1\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), os._exit(9))).start()",
    )
    # The thread is frozen between runs: it can only end the interpreter during one.
    await asyncio.sleep(0.2)
    result = await box.run("time.sleep(5)", timeout_s=10)
    assert (result.status, result.exit_code, result.state_lost) == ("exited", 9, True)
    assert (await box.run("x", timeout_s=10)).status == "error"


async def test_a_cancelled_run_leaves_nothing_running(box: Sandbox) -> None:
    await value(box, "x = 1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await box.run("while True: pass", timeout_s=60)
    result = await box.run("x", timeout_s=10)
    assert result.status != "ok"
    assert await value(box, "1 + 1") == "2"


async def test_sessions_run_side_by_side(pool: LocalPool) -> None:
    sessions = [await pool.acquire() for _ in range(16)]
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        pulse = group.create_task(heart())
        async with asyncio.TaskGroup() as work:
            runs = [
                work.create_task(s.run(f"import time; time.sleep(0.5); {n}", timeout_s=20))
                for n, s in enumerate(sessions)
            ]
        pulse.cancel()
    assert [task.result().value for task in runs] == [str(n) for n in range(16)]
    assert time.monotonic() - started < 16 * 0.5 / 2
    assert beats >= 10
    for session in sessions:
        await session.close()


async def test_runs_of_one_session_queue(box: Sandbox) -> None:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(box.run("import time; time.sleep(0.3); x = 1", timeout_s=10))
        second = group.create_task(box.run("x", timeout_s=10))
    assert first.result().status == "ok"
    assert second.result().value == "1"
    assert second.result().queue_s >= 0.25


async def test_a_closed_session_refuses(pool: LocalPool) -> None:
    session = await pool.acquire()
    await session.close()
    await session.close()
    with pytest.raises(SandboxError, match="closed"):
        await session.run("1", timeout_s=1)


async def test_closing_ends_a_run_in_flight(pool: LocalPool) -> None:
    session = await pool.acquire()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(session.run("while True: pass", timeout_s=60))
        await asyncio.sleep(0.2)
        await session.close()
    assert (running.result().status, running.result().signal) == ("signal", 9)


async def test_a_full_pool_makes_others_wait() -> None:
    pool = LocalPool(limits=SandboxLimits(), max_sessions=1, spares=0)
    assert isinstance(pool, SandboxPool)
    with pytest.raises(SandboxError, match="not open"):
        await pool.acquire()
    await pool.open()
    first = await pool.acquire()
    assert isinstance(first, Sandbox)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(pool.acquire())
        await asyncio.sleep(0.1)
        assert pool.statistics() == PoolStatistics(1, 1, 0, 0, capacity=1)
        await first.run("1", timeout_s=10)
        await first.close()
    assert (await waiting.result().run("2", timeout_s=10)).value == "2"
    counts = pool.statistics()
    assert (counts.open_sessions, counts.waiting, counts.runs, counts.restarts) == (1, 0, 2, 0)
    assert counts.queue_s >= 0.1
    assert counts.run_s < counts.queue_s
    await pool.close()
    await pool.close()
    assert pool.statistics().open_sessions == 0


async def test_no_isolation_says_so_loudly(caplog: pytest.LogCaptureFixture) -> None:
    pool = UnsafePool()
    with caplog.at_level(logging.WARNING):
        await pool.open()
    assert "WITHOUT ANY ISOLATION" in caplog.text
    session = await pool.acquire()
    result = await session.run(
        "import os\nos.getppid() > 1, os.path.exists('/etc/passwd')", timeout_s=10
    )
    assert (result.value, result.isolation) == ("(True, True)", "none")
    assert (await session.run("while True: pass", timeout_s=0.2)).status == "timeout"
    await pool.close()


async def test_the_filter_alone_is_the_minimal_level() -> None:
    """Asked for by name only: no network and no processes, but files can be read."""
    pool = LocalPool(min_isolation="minimal", max_isolation="minimal")
    await pool.open()
    session = await pool.acquire()
    assert await value(session, "open('/etc/passwd').read() != ''") == "True"
    for attack in ("import socket; socket.socket()", "import os; os.fork()"):
        result = await session.run(attack, timeout_s=10)
        assert result.error == "PermissionError: [Errno 1] Operation not permitted"
        assert result.isolation == "minimal"
    await pool.close()


async def test_below_the_demanded_level_nothing_opens() -> None:
    pool = LocalPool(min_isolation="standard", max_isolation="lite")
    with pytest.raises(SandboxUnavailable, match="seccomp=unconfined"):
        await pool.open()
    with pytest.raises(SandboxError):
        await pool.acquire()
    with pytest.raises(SandboxUnavailable, match="strong"):
        await LocalPool(min_isolation="strong", max_isolation="standard").open()


@pytest.mark.parametrize(
    ("platform", "words"),
    [
        ("darwin", ["docker run", "sandbox=none"]),
        ("win32", ["WSL"]),
        ("linux", ["5.13", "Landlock", "--security-opt seccomp=unconfined", "ENOSYS"]),
    ],
)
async def test_the_remedy_fits_the_machine(
    monkeypatch: pytest.MonkeyPatch, platform: str, words: list[str]
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    found = Capabilities("minimal", (Primitive("landlock", False, "ENOSYS"),))
    text = remedy(found, "lite")
    assert all(word in text for word in words), text


async def test_the_remedy_for_no_memory_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    found = Capabilities("standard", (Primitive("memory cgroup", False, "read-only"),))
    text = remedy(found, "strong")
    assert all(word in text for word in ("read-only", "Delegate=yes", "ask for 'standard'")), text


async def test_an_interpreter_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"/nowhere/python.*set python to"):
        await LocalPool(python="/nowhere/python").open()


async def test_what_doctor_prints() -> None:
    lines = LocalPool().doctor_lines()
    assert [line.split(":")[0] for line in lines] == [
        "seccomp",
        "landlock",
        "namespaces",
        "session mounts",
        "memory cgroup",
        "isolation level",
    ]
    assert lines[-1] == f"isolation level: {probe().level}"


async def test_hash_order_is_the_same_in_every_pool() -> None:
    """Sets of strings print in one order, so a resumed run sees what the first one saw."""
    found: set[str | None] = set()
    for _ in range(2):
        pool = UnsafePool()
        await pool.open()
        session = await pool.acquire()
        found.add(await value(session, "[hash('one'), list({'a', 'b', 'c', 'd'})]"))
        await pool.close()
    assert len(found) == 1
    assert ast.literal_eval(found.pop() or "")[0] != 0
