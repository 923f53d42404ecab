"""Grading in real sessions: honest code passes, and no trick of the solution's process scores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import ExecResult, SandboxLimits
from agentrl.testing.fakes import FakePool
from agentrl.types import JsonValue, Task
from agentrl.verify.code import Grade, GradeLimits, Grader, forms
from agentrl_sandbox.local import LocalPool

pytestmark = pytest.mark.asyncio(loop_scope="module")
FAST = GradeLimits(case_s=0.5)
SLOW = GradeLimits(case_s=30.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[Grader]:
    pool = LocalPool(limits=SandboxLimits(memory_mb=256, disk_mb=16), max_sessions=4)
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield Grader(pool)
    await pool.close()


def task(**metadata: JsonValue) -> Task:
    return Task("t/1", "?", metadata=metadata)


ADD = task(
    entry_point="add", cases=[{"args": [2, 3], "expected": 5}, {"args": [4, 4], "expected": 8}]
)
SUITE = task(
    entry_point="add",
    prompt='def add(a, b):\n    """a + b"""\n',
    test="def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(b=4, a=4) == 8\n",
)
BOTH = pytest.mark.parametrize("tests", [ADD, SUITE], ids=["cases", "suite"])


async def graded(grader: Grader, of: Task, code: str, limits: GradeLimits = SLOW) -> Grade:
    return await grader.grade(forms.tests_of(of), code, limits)


@BOTH
@pytest.mark.parametrize(
    "code",
    [
        "def add(a, b):\n    return a + b\n",
        "from __future__ import annotations\ndef add(a: X, b: Y) -> Z: return a + b\n",
        "add = lambda a, b: a + b",
        # Names that a harness might have been careless about.
        "list = dict = len = str = print = isinstance = None\ndef add(a, b): return a + b\n",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: 'int'\n"
        "def add(a, b): return P(a).x + b\n",
        "def add(a, b): return a + b\nif __name__ == '__main__':\n    raise SystemExit(1)\n",
        "print('noise' * 10000)\ndef add(a, b):\n    print('more')\n    return a + b\n",
        "class int(int):\n    __eq__ = None\ndef add(a, b): return int(a + b)\n",
    ],
)  # fmt: skip
async def test_right_code_passes(grader: Grader, tests: Task, code: str) -> None:
    assert (await graded(grader, tests, code)).correct


WRONG = {
    "off by one": "def add(a, b): return a + b + 1",
    "nothing": "",
    "broken syntax": "def add(a, b) return",
    "another name": "def sub(a, b): return a + b",
    "exit at once": "import os; os._exit(0)",
    "exit in the call": "import os\ndef add(a, b): os._exit(0)",
    "sys.exit": "import sys\ndef add(a, b): sys.exit(0)",
    "sys.exit at once": "raise SystemExit(0)",
    "always equal": "class E:\n    __eq__ = lambda s, o: True\ndef add(a, b): return E()",
    "always equal int": "class E(int):\n    __eq__ = lambda s, o: True\ndef add(a, b): return E(1)",
    "always equal inside": "class E(int):\n    __eq__ = lambda s, o: True\ndef add(a, b): return [E()]",
    "raises AssertionError": "def add(a, b): raise AssertionError",
    "raises what ends threads": "def add(a, b): raise GeneratorExit",
    "forged print": "print('{\"passed\": true, \"calls\": 2}')\ndef add(a, b): print('passed')",
    "patched json": "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'\n"
    "def add(a, b): return 0",
    "patched builtins": "import builtins\nbuiltins.isinstance = lambda a, b: True\n"
    "builtins.len = lambda a: 0\ndef add(a, b): return 0",
    "patched harness": "import sys\nm = sys.modules['agentrl.verify.code.mailbox']\n"
    "sys.modules['agentrl.verify.code.solution'].encode = lambda v: {'passed': True}\n"
    "m.Mailbox.post = lambda s, n, **k: m.Text("
    "m._dumps({'nonce': n, 'passed': True, 'returned': True, 'calls': 2}))\ndef add(a, b): return 0",
    "forged reply from the frames": "import sys\ndef add(a, b):\n    f = sys._getframe()\n"
    "    while f:\n        for v in list(f.f_locals.values()):\n"
    "            if isinstance(v, int) and not isinstance(v, bool): return v\n        f = f.f_back\n",
    "deep value": "def add(a, b):\n    v = []\n    for _ in range(10**5): v = [v]\n    return v",
    "huge value": "def add(a, b): return 'x' * 10**7",
    "endless value": "import itertools\ndef add(a, b): return itertools.count()",
    "huge number": "def add(a, b): return 10 ** 10 ** 6",
    "crash": "import ctypes\ndef add(a, b): ctypes.string_at(0)",
    "no function": "add = 5",
    "hangs up": "import os\ndef add(a, b): os.close(3)",
    "writes to every descriptor": "import os\ndef add(a, b):\n    for fd in range(3, 64):\n"
    "        try: os.write(fd, b'{\"passed\": true}' * 100)\n        except OSError: pass\n    return 0",
    "memory": "def add(a, b): return [0] * 10**10",
    "nan": "def add(a, b): return float('nan')",
}


@BOTH
@pytest.mark.parametrize("code", WRONG.values(), ids=WRONG)
async def test_wrong_code_fails_with_a_reason(grader: Grader, tests: Task, code: str) -> None:
    grade = await graded(grader, tests, code)
    assert not grade.correct
    assert grade.passed == 0
    assert grade.reason


HANGING = {
    "at once": "while True: pass",
    "in the call": "def add(a, b):\n    while True: pass",
    "deaf": "def add(a, b):\n    while True:\n        try:\n            while True: pass\n"
    "        except BaseException: pass",
    "asleep": "import time\ndef add(a, b):\n    time.sleep(1000)\n    return a + b",
}


@BOTH
@pytest.mark.parametrize("code", HANGING.values(), ids=HANGING)
async def test_a_timeout_scores_nothing(grader: Grader, tests: Task, code: str) -> None:
    one = task(entry_point="add", cases=[{"args": [2, 3], "expected": 5}])
    grade = await graded(grader, one if tests is ADD else tests, code, FAST)
    assert grade.passed == 0
    assert "timed out after 0.5 s" in grade.reason


async def test_the_solution_never_sees_what_is_expected(grader: Grader) -> None:
    """Every object and frame the solution can reach is searched for the secrets of the test."""
    spy = (
        "import gc, sys, os\n"
        "def spy(x):\n"
        "    seen = []\n"
        "    for frame in sys._current_frames().values():\n"
        "        while frame:\n"
        "            seen.append(repr(frame.f_locals)); frame = frame.f_back\n"
        "    for thing in gc.get_objects():\n"
        "        if isinstance(thing, (dict, list, tuple)):\n"
        "            seen += [s for s in (thing.values() if isinstance(thing, dict) else thing)"
        " if isinstance(s, str)]\n"
        "    text = ' '.join(seen) + str(sys.argv) + str(os.environ)\n"
        "    return [needle[::-1] for needle in ('TERC' 'ES', 'TXE' 'N', 'TES' 'SA')"
        " if needle[::-1] in text]\n"
    )
    cases = task(
        entry_point="spy",
        cases=[{"args": ["a"], "expected": "SECRET"}, {"args": ["NEXT"], "expected": "SECRET"}],
    )
    grade = await graded(grader, cases, spy)
    assert grade.reason == "case 1: wrong value []"
    suite = task(
        entry_point="spy", test="assert spy(1) == [], 'SECRET'\nassert spy('NEXT') != ['ASSET']"
    )
    assert (await graded(grader, suite, spy)).correct


async def test_cases_count_one_by_one_and_a_broken_session_is_renewed(grader: Grader) -> None:
    code = (
        "import os\ndef f(n):\n    if n == 2: os._exit(0)\n    if n == 3: raise KeyError('k')\n"
        "    return n"
    )
    cases: list[JsonValue] = [{"args": [n], "expected": n} for n in range(1, 6)]
    cases += [{"args": [3], "raises": "LookupError"}, {"args": [3], "raises": "OSError"}]
    cases += [{"args": [1], "raises": "KeyError"}, {"kwargs": {"n": 1}, "expected": 1.0}]
    grade = await graded(grader, task(entry_point="f", cases=cases), code)
    assert (grade.passed, grade.cases) == (5, 9)
    assert grade.reason == "case 2: the interpreter was ended with exit code 0"


async def test_values_keep_their_types_on_the_way(grader: Grader) -> None:
    values: list[JsonValue] = [
        {"$tuple": [1, {"$set": [2]}]}, {"$dict": [[{"$tuple": [1, 2]}, "x"]]}, {"$bytes": "AP8="},
        {"$complex": [1.0, -2.0]}, {"$float": "inf"}, {"$int": hex(10**60)}, "\ud800", [], {},
        {"$frozenset": []}, {"$fraction": [1, 3]}, "x" * 50_000,
    ]  # fmt: skip
    same = task(entry_point="f", cases=[{"args": [v], "expected": v} for v in values])
    assert (await graded(grader, same, "def f(x): return x")).correct
    kind = task(entry_point="f", cases=[{"args": [values[0]], "expected": "tuple set"}])
    code = "def f(x): return type(x).__name__ + ' ' + type(x[1]).__name__"
    assert (await graded(grader, kind, code)).correct


async def test_a_method_of_a_class_is_called_on_a_new_object(grader: Grader) -> None:
    two = task(entry_point="Solution.add", cases=[{"args": [2, 3], "expected": 5}])
    code = "class Solution:\n    def add(self, a, b):\n        return a + b"
    assert (await graded(grader, two, code)).correct


async def test_tolerance_is_for_numbers_only(grader: Grader) -> None:
    third = task(entry_point="f", cases=[{"args": [], "expected": [0.3, "a"]}])
    code = "def f(): return [0.1 + 0.2, 'a']"
    assert not (await graded(grader, third, code)).correct
    assert (await graded(grader, third, code, GradeLimits(tolerance=1e-9))).correct


PRINTS = task(cases=[{"stdin": "1 2\n3\n", "stdout": "6\n"}, {"stdin": "", "stdout": "0"}])
READERS = {
    "input": "t = 0\ntry:\n    while True: t += sum(map(int, input().split()))\n"
    "except EOFError: print(t)",
    "sys.stdin": "import sys\nprint(sum(int(x) for line in sys.stdin for x in line.split()))",
    "buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "descriptor": "import os\nprint(sum(map(int, os.read(0, 100).split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "main, then exit": "import sys\ndef main():\n    print(sum(map(int, sys.stdin.read().split())))\n"
    "if __name__ == '__main__':\n    main()\n    sys.exit(0)",
    "exit without flushing": "import os, sys\nn = sum(map(int, sys.stdin.read().split()))\n"
    "os.write(1, b'%d\\n' % n)\nos._exit(0)",
}  # fmt: skip


@pytest.mark.parametrize("code", READERS.values(), ids=READERS)
async def test_programs_read_as_they_like(grader: Grader, code: str) -> None:
    grade = await graded(grader, PRINTS, code)
    # An interpreter that ended itself did not end well, whatever it printed.
    assert grade.passed == (0 if "_exit(0)" in code and "os.write" in code else 2), grade.reason


@pytest.mark.parametrize(
    ("code", "passed", "reason"),
    [
        ("print(6)", 1, "case 2: wrong output, beginning '6\\n'"),
        ("print(input())", 0, "case 1: wrong output, beginning '1 2\\n'"),
        ("print(6); raise SystemExit(3)", 0, "case 1: the interpreter was ended with exit code 3"),
        ("print(6); 1 / 0", 0, "case 1: ZeroDivisionError: division by zero"),
        (
            "import os\nopen('n', 'a').write('x')\nprint(6 if os.path.getsize('n') == 1 else 0)",
            1,
            None,
        ),
        ("print('6' * 200_000)", 0, "case 1: printed 134465 bytes too much"),
    ],
)
async def test_programs_that_fail(
    grader: Grader, code: str, passed: int, reason: str | None
) -> None:
    grade = await graded(grader, PRINTS, code)
    assert (grade.passed, grade.cases) == (passed, 2)
    assert reason is None or grade.reason == reason


async def test_a_suite_may_expect_exceptions_and_iterators(grader: Grader) -> None:
    test = (
        "def check(candidate):\n"
        "    for bad, kind in ((None, TypeError), ('x', ValueError), (7, Exception)):\n"
        "        try:\n            candidate(bad)\n"
        "        except kind as e:\n            assert type(e) is not AssertionError, e\n"
        "        else:\n            raise AssertionError(bad)\n"
        "    assert sorted(candidate(3)) == [0, 1, 2]\n"
        "    assert next(candidate(1)) == 0\n"
        "    assert candidate.__name__ == 'f'\n"
    )
    code = (
        "class Own(Exception): pass\ndef f(n):\n    if n == 7: raise Own('x')\n"
        "    return iter(range(int(n)))"
    )
    assert (await graded(grader, task(entry_point="f", test=test), code)).correct


async def test_arguments_are_passed_by_value_unless_asked(grader: Grader) -> None:
    test = "def check(f):\n    box = [3, 1, [2]]\n    f(box)\n    assert box == [1, [2], 3], box\n"
    clear = "def f(x): x.clear()"
    place = "def f(x): x.sort(key=str)"
    hidden, shown = (
        task(entry_point="f", test=test),
        task(entry_point="f", test=test, by_reference=True),
    )
    assert not (await graded(grader, hidden, place)).correct
    assert (await graded(grader, shown, place)).correct is (
        sorted([3, 1, [2]], key=str) == [1, [2], 3]
    )
    grade = await graded(grader, shown, clear)
    assert grade.reason == "AssertionError: []"
    trick = task(entry_point="f", test="x = [2, 1]\nassert f(x) == sorted(x)")
    assert not (await graded(grader, trick, "def f(x):\n    x.clear()\n    return []")).correct


async def test_inner_objects_stay_themselves_by_reference(grader: Grader) -> None:
    test = (
        "inner, s, d, b = [1], {1}, {'k': [0]}, bytearray(b'a')\n"
        "outer, k = [inner, s, d, b], d['k']\n"
        "f(outer, more=d)\n"
        "assert outer[0] is inner and inner == [1, 2] and s == {9} and k == [0, 5] and b == b'z'\n"
    )
    code = (
        "def f(o, more):\n    o[0].append(2); o[1].clear(); o[1].add(9); o[2]['k'].append(5)\n"
        "    more['k'].append(5)\n    o[3][:] = b'z'\n"
    )
    assert (await graded(grader, task(entry_point="f", test=test, by_reference=True), code)).correct


async def test_random_tests_are_the_same_for_siblings(grader: Grader) -> None:
    """The drawn number comes back in the reason, so equal reasons are equal draws."""
    draws = task(entry_point="f", test="import random\nassert f(random.random()) is None")
    code = "def f(x): raise ValueError(x)"
    one = await graded(grader, draws, code, GradeLimits(seed=1))
    again = await graded(grader, draws, code, GradeLimits(seed=1))
    other = await graded(grader, draws, code, GradeLimits(seed=2))
    assert one == again
    assert one.reason == "ValueError: 0.13436424411240122"
    assert other.reason != one.reason


async def test_mbpp_lists_of_asserts(grader: Grader) -> None:
    mbpp = task(
        entry_point="f", test_list=["assert f(1) == 2", "assert f(N) == 4"], test_setup_code="N = 3"
    )
    assert (await graded(grader, mbpp, "def f(x): return x + 1")).correct
    assert not (await graded(grader, mbpp, "def f(x): return 2")).correct


async def test_tests_that_cannot_be_carried_over_are_named(grader: Grader) -> None:
    passes = task(entry_point="f", test="f(lambda: 1)")
    with pytest.raises(UserError, match=r"of f cannot be graded: .*function cannot leave"):
        await graded(grader, passes, "def f(x): return x")
    thread = "import threading\nt = threading.Thread(target=f)\nt.start(); t.join()"
    with pytest.raises(UserError, match="from a thread of its own"):
        await graded(grader, task(entry_point="f", test=thread), "def f(): pass")
    empty = await graded(grader, task(entry_point="f", test="def check(c): pass"), "def f(): pass")
    assert empty == Grade(0, 1, "the test never called the solution")


async def test_parts_of_a_large_value_share_one_deadline(grader: Grader) -> None:
    """A harness replaced by one that hands out each part slowly gains no time by it."""
    code = (
        "import sys, time\nm = sys.modules['agentrl.verify.code.mailbox']\n"
        "m.Mailbox.part = lambda s, i: time.sleep(0.3) or m.Text('x')\n"
        "def f(): return 'x' * 1_000_000\n"
    )
    large = task(entry_point="f", cases=[{"expected": "x" * 1_000_000}])
    grade = await graded(grader, large, code, GradeLimits(case_s=1.0))
    assert "timed out after" in grade.reason
    assert (await graded(grader, large, "def f(): return 'x' * 1_000_000")).correct


async def test_the_total_deadline_ends_many_slow_cases(grader: Grader) -> None:
    slow = task(entry_point="f", cases=[{"args": [n], "expected": n} for n in range(50)])
    code = "import time\ndef f(n):\n    time.sleep(0.3)\n    return n"
    grade = await graded(grader, slow, code, GradeLimits(case_s=5, total_s=1.0))
    assert grade.passed < 10
    assert not grade.correct


async def test_many_suites_in_a_pool_of_two() -> None:
    """Each needs two sessions at once: they must not starve one another."""
    pool = LocalPool(max_sessions=2)
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    grader = Grader(pool)
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            code = "def add(a, b): return a + b"
            tasks = [group.create_task(graded(grader, SUITE, code)) for _ in range(8)]
        assert all(t.result().correct for t in tasks)
        assert pool.statistics().open_sessions == 0
    finally:
        await pool.close()


@pytest.mark.parametrize("tests", [ADD, SUITE, PRINTS], ids=["cases", "suite", "programs"])
async def test_a_lost_box_is_no_grade(tests: Task) -> None:
    pool = FakePool([SandboxError("gone")])
    with pytest.raises(SandboxError, match="gone"):
        await Grader(pool).grade(forms.tests_of(tests), "def add(a, b): return a + b")
    assert all(sandbox.closed for sandbox in pool.sandboxes)
    unfit = FakePool([ExecResult("error", error="ImportError: no ast")])
    with pytest.raises(SandboxError, match=r"prepared for grading: error ImportError: no ast"):
        await Grader(unfit).grade(forms.tests_of(tests), "")


async def test_a_small_output_limit_is_refused_not_graded() -> None:
    pool = LocalPool(limits=SandboxLimits(output_bytes=8_000))
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    try:
        with pytest.raises(UserError, match="output_bytes of at least 12256"):
            await Grader(pool).grade(forms.tests_of(ADD), "def add(a, b): return a + b")
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "task t/1 does not say how its code is tested"),
        ({"cases": []}, "does not say"),
        ({"test": "check"}, "does not say"),
        ({"entry_point": "f", "cases": [{"args": [1]}]}, "neither `expected` nor `raises`"),
        ({"entry_point": "f", "cases": ["x"]}, "must be an object"),
        ({"entry_point": "f", "cases": [{"args": 1, "expected": 1}]}, "`args` must be a list"),
        ({"entry_point": "f", "cases": [{"raises": "Nonsense"}]}, "built-in exception"),
        ({"entry_point": "f", "cases": [{"raises": "SystemExit"}]}, "built-in exception"),
        ({"entry_point": "f", "cases": [{"expected": {"$set": 1}}]}, "no encoded value"),
        ({"entry_point": 3, "cases": [{"expected": 1}]}, "the text `entry_point`"),
        ({"cases": [{"stdin": "1"}]}, "the text `stdout`"),
    ],
)  # fmt: skip
async def test_bad_tasks_are_named(metadata: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(UserError, match=message):
        forms.tests_of(task(**metadata))
