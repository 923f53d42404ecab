"""Programming problems: reference against solution, hidden tests, HumanEval, LiveCodeBench's form."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import pytest

import agentrl
from agentrl.chat.protocols.hermes import Hermes
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.context import Context
from agentrl.data.tasks import load_tasks
from agentrl.engine.base import Sampling
from agentrl.env import StepResult
from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import ExecResult, Sandbox, SandboxPool
from agentrl.testing import FakePool, check_env, check_tool, failures
from agentrl.tool import call_tool
from agentrl.transcript import ids_array
from agentrl.types import JsonValue, Task, ToolCall
from agentrl_envs.code_tests.env import CodeTestsEnv
from agentrl_envs.code_tests.problems import PROBLEMS
from agentrl_envs.code_tests.script import own_solutions
from agentrl_tools.run_tests import RunTests

pytestmark = pytest.mark.asyncio(loop_scope="module")

HUMANEVAL = Path(__file__).parents[2].parent / "shared" / "data" / "humaneval.jsonl.gz"
TWICE = Task(
    "twice", "Write solve(x) that doubles.", "def solve(x):\n    return 2 * x",
    {
        "entry_point": "solve",
        "cases": [{"args": [3], "expected": 6}, {"args": ["a"], "expected": "aa"}],
        "public": [{"args": [1], "expected": 2}, {"args": [2], "expected": 4}],
    },
)  # fmt: skip


@asynccontextmanager
async def playing(env: CodeTestsEnv, pool: SandboxPool) -> AsyncIterator[CodeTestsEnv]:
    box = await pool.acquire()

    async def lease() -> Sandbox:
        return box

    await env.open(Context(lease_sandbox=lease))
    try:
        yield env
    finally:
        await env.close()
        await box.close()


async def said(env: CodeTestsEnv, task: Task, text: str) -> StepResult:
    await env.reset(task, seed=0)
    return await env.step(Hermes().parse(ids_array(()), text, turn=0))


@pytest.mark.parametrize(
    ("name", "parameters", "arguments", "result"),
    [
        ("divisible", (10, 3), [[10, 5, -20]], -30),
        ("between", (50,), [[-10, -11, 50, 51]], 2),
        ("blocks", (10,), [[1, 2, 3, 4, 5]], [3, 2, 1, 5, 4]),  # k = 10 % 9 + 2 = 3
        ("shifted", (27,), ["az b!"], "ba c!"),
        ("recurrence", (10, 11), [3], 10 * (10 * 2 + 11 * 1) + 11 * 2),
        ("frequent", (10,), [[1, 11, 2, 32, 22, 3]], [[1, 2], [2, 3]]),
        ("window", (10,), [[1, -5, 4, 2]], 6),  # k = 10 % 5 + 2 = 2
        ("window", (10,), [[1]], None),
        ("steps", (50,), [6], 8),  # 6 3 10 5 16 8 4 2 1
        ("steps", (3,), [6], 3),
        ("digits", (100,), [12], 9),
        ("runs", (10,), ["aab"], "12a11b"),
    ],
)
async def test_references_by_hand(
    name: str, parameters: tuple[int, ...], arguments: list[JsonValue], result: JsonValue
) -> None:
    assert PROBLEMS[name].reference(parameters, arguments) == result
    found: dict[str, Callable[..., JsonValue]] = {}
    exec(PROBLEMS[name].solution(parameters), found)
    assert found["solve"](*arguments) == result


async def test_experts_solve_every_family_in_both_forms(local_pool: SandboxPool) -> None:
    async with playing(CodeTestsEnv(hidden=2), local_pool) as env:
        seen: set[tuple[object, object]] = set()
        for task in islice(env.tasks("test", seed=1), 20):
            await env.reset(task, seed=0)
            for i, text in enumerate(env.expert(task, seed=0)):
                step = await env.step(Hermes().parse(ids_array(()), text, turn=i))
                if i == 0:
                    assert step.observation[0].content == "2 of 2 public tests pass."
            assert (step.reward, step.terminated) == (1.0, True), task.id
            seen.add((task.metadata["family"], task.metadata["form"]))
    assert {family for family, _ in seen} == set(PROBLEMS)
    assert {form for _, form in seen} == {"function", "program"}


@pytest.mark.parametrize(
    ("text", "reward", "share"),
    [
        ("```python\ndef solve(x):\n    return x + x\n```", 1.0, 1.0),
        ("def solve(x): return 2 * x", 1.0, 1.0),
        ("```python\ndef solve(x):\n    return x + 3\n```", 0.0, 0.5),
        ("```python\ndef solve(x): return 6\n```", 0.0, 0.5),
        ("```python\ndef other(x): return 6\n```", 0.0, 0.0),
        ("I do not know.", 0.0, 0.0),
        ("```python\nimport os; os._exit(0)\n```", 0.0, 0.0),
        ("```python\nclass A:\n    __eq__ = lambda a, b: True\ndef solve(x): return A()\n```", 0.0, 0.0),
        ("```python\ndef solve(x):\n    while True: pass\n```", 0.0, 0.0),
    ],
)  # fmt: skip
async def test_what_code_earns(
    local_pool: SandboxPool, text: str, reward: float, share: float
) -> None:
    for score, wanted in (("all", reward), ("fraction", share)):
        env = CodeTestsEnv(score=score, case_s=0.5)  # type: ignore[arg-type]
        async with playing(env, local_pool) as env:
            step = await said(env, TWICE, text)
            assert (step.reward, step.terminated) == (wanted, True)


class Listening:
    """A session that remembers all that is sent to it."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.heard: list[str] = []

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        self.heard.append(code)
        return await self.box.run(code, timeout_s=timeout_s)

    async def reset(self) -> None:
        await self.box.reset()

    async def close(self) -> None:
        await self.box.close()


async def test_hidden_answers_never_enter_the_sandbox(local_pool: SandboxPool) -> None:
    task = Task(
        "t", "?", None, {"entry_point": "solve", "cases": [{"args": [1], "expected": 987_123}]}
    )
    box = Listening(await local_pool.acquire())

    async def lease() -> Sandbox:
        return box

    env = CodeTestsEnv()
    await env.open(Context(lease_sandbox=lease))
    assert (await said(env, task, "def solve(x): return 987123 - 0")).reward == 1.0
    assert not [cell for cell in box.heard if "987123" in cell and "- 0" not in cell]
    await box.close()


async def test_one_answers_leavings_do_not_reach_the_next(local_pool: SandboxPool) -> None:
    leaving = (
        "import builtins\nbuiltins.kept = 1\nopen('kept', 'w').close()\ndef solve(x): return 0"
    )
    looking = (
        "import builtins, os\n"
        "def solve(x): return 2 * x if not hasattr(builtins, 'kept') and not os.listdir() else 0"
    )
    async with playing(CodeTestsEnv(), local_pool) as env:
        await env.reset(TWICE, seed=0)
        tool = env.tools[0]
        assert "0 of 2" in str(await tool(code=leaving))
        assert (await said(env, TWICE, looking)).reward == 1.0


async def test_the_tool_tells_what_public_tests_expect(local_pool: SandboxPool) -> None:
    async with playing(CodeTestsEnv(), local_pool) as env:
        await env.reset(TWICE, seed=0)
        (tool,) = env.tools
        wrong = await tool(code="```python\ndef solve(x): return x * x + 1\n```")
        assert getattr(wrong, "content", "") == (
            "1 of 2 public tests pass. First failure: case 2: wrong value 5 for arguments [2]; "
            "expected 4"
        )
        await env.reset(
            Task("t", "?", None, {k: TWICE.metadata[k] for k in ("entry_point", "cases")}), seed=0
        )
        call = '<tool_call>\n{"name": "run_tests", "arguments": {"code": "x"}}\n</tool_call>'
        step = await env.step(Hermes().parse(ids_array(()), call, turn=0))
        assert step.observation[0].content == "This task has no public tests."


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def solve(x):\n    while True: pass", "timed out"),
        ("import os; os._exit(0)", "ended with exit code 0"),
        ("def solve(x): print('y' * 10**8)", ""),
        ("not python at all", "SyntaxError"),
        ("def solve(x): raise SystemExit", "raised SystemExit"),
        ("def solve(x): return lambda: x", "cannot leave its process"),
        ("x = 1", "has no attribute 'solve'"),
        ("\x00\ud800", ""),
        (" ", "There is no code to test."),
    ],
)
async def test_hostile_code_is_told_how_it_failed(
    local_pool: SandboxPool, code: str, told: str
) -> None:
    async with playing(CodeTestsEnv(case_s=0.5), local_pool) as env:
        await env.reset(TWICE, seed=0)
        call = ToolCall("c", "run_tests", {"code": code})
        result = await call_tool({"run_tests": env.tools[0]}, call, Context())
        assert told in result.content
        assert "2 of 2" not in result.content
        assert len(result.content) <= 403


async def test_contract(local_pool: SandboxPool) -> None:
    made = await check_env(lambda: CodeTestsEnv(hidden=2, forms=("function",)), pool=local_pool)
    assert not failures(made)
    assert not failures(await check_tool(RunTests, pool=local_pool))


async def test_splits_share_no_task() -> None:
    ids = {
        split: {task.id for task in islice(CodeTestsEnv().tasks(split, seed=7), 200)}
        for split in ("train", "test")
    }
    assert not ids["train"] & ids["test"]
    assert len(ids["train"]) > 190


async def test_the_script_finds_its_task_by_the_question() -> None:
    """`Add.` begins `Add. Then print.`: the longest question that fits is the row's."""
    tokenizer = load_tokenizer(str(Path(agentrl.__file__).parent / "_assets" / "nano"))
    short, long = Task("a", "Add.", "1"), Task("b", "Add. Then print.\n", "2")
    opening = Task("c", "def f():\n", "    return 3", {"prompt": "def f():\n"})
    script = own_solutions([short, long, opening], tokenizer)

    def wrote(text: str) -> str:
        return script(ids_array(tokenizer.encode(text)), Sampling(max_tokens=1), 0)

    assert wrote("Please: Add. Then print.") == "```python\n2\n```"
    assert wrote("Please: Add. Thank you.") == "```python\n1\n```"
    assert wrote("```\ndef f():\n```") == "```python\ndef f():\n    return 3\n```"
    with pytest.raises(ValueError, match="none of the script's questions"):
        wrote("Subtract.")


async def check_humaneval(pool: SandboxPool, tasks: list[Task]) -> None:
    async with playing(CodeTestsEnv(), pool) as env:
        for task in tasks:
            (text,) = env.expert(task, seed=0)
            step = await said(env, task, text)
            assert step.reward == 1.0, task.id
            empty = await said(env, task, f"```python\n{task.question}    return None\n```")
            assert empty.reward == 0.0, task.id


def humaneval() -> list[Task]:
    if not HUMANEVAL.exists():
        pytest.skip(f"needs ../shared/data/{HUMANEVAL.name}")
    return load_tasks(str(HUMANEVAL))


async def test_humanevals_own_solutions_pass(local_pool: SandboxPool) -> None:
    await check_humaneval(local_pool, humaneval()[::8][:20])


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_all_of_humanevals_own_solutions_pass(local_pool: SandboxPool) -> None:
    await check_humaneval(local_pool, humaneval())


def livecode_row(**changes: object) -> dict[str, object]:
    hidden = json.dumps([{"input": "5\n1 2", "output": "8", "testtype": "stdin"}])
    packed = base64.b64encode(zlib.compress(pickle.dumps(hidden))).decode()
    return {
        "question_content": "Add all.",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1\n2 3", "output": "6", "testtype": "stdin"}]),
        "private_test_cases": packed,
        "metadata": "{}",
        **changes,
    }


def written(path: Path, row: dict[str, object]) -> str:
    path.write_text(json.dumps(row) + "\n")
    return str(path)


async def test_livecodebench_programs(local_pool: SandboxPool, tmp_path: Path) -> None:
    (task,) = load_tasks(written(tmp_path / "live.jsonl", livecode_row()))
    assert task.metadata["cases"] == [{"stdin": "5\n1 2", "stdout": "8"}]
    assert task.metadata["public"] == [{"stdin": "1\n2 3", "stdout": "6"}]
    right = "```python\nimport sys\nprint(sum(map(int, sys.stdin.read().split())))\n```"
    async with playing(CodeTestsEnv(), local_pool) as env:
        assert (await said(env, task, right)).reward == 1.0
        assert (await said(env, task, "```python\nprint(6)\n```")).reward == 0.0
        with pytest.raises(UserError, match="brings no solution"):
            list(env.expert(task, seed=0))


async def test_livecodebench_functions(local_pool: SandboxPool, tmp_path: Path) -> None:
    tests = json.dumps([{"input": "[1, 2]\n3", "output": "[3, 6]", "testtype": "functional"}])
    row = livecode_row(
        starter_code="class Solution:\n    def scale(self, xs: List[int], k: int) -> List[int]:\n",
        metadata='{"func_name": "scale"}',
        public_test_cases=tests,
        private_test_cases="",
    )
    (task,) = load_tasks(written(tmp_path / "live.jsonl", row))
    assert task.metadata["cases"] == [{"args": [[1, 2], 3], "expected": [3, 6]}]
    assert "Start from this code" in task.question
    code = (
        "```python\nclass Solution:\n    def scale(self, xs: List[int], k: int) -> List[int]:\n"
        "        return [k * x for x in xs]\n```"
    )
    async with playing(CodeTestsEnv(), local_pool) as env:
        assert (await said(env, task, code)).reward == 1.0


class Planted:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"public_test_cases": "[", "private_test_cases": ""}, "public_test_cases is not JSON"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "there are no tests"),
        ({"private_test_cases": "!!!"}, "neither JSON nor packed"),
        ({"public_test_cases": [3]}, "must be an object"),
        ({"public_test_cases": [{"input": 1}]}, "no text input and output"),
        ({"public_test_cases": {"a": 1}}, "must be a list"),
        ({"metadata": '{"func_name": "f"}'}, "a test's input is not JSON"),
    ],
)
async def test_broken_livecodebench_rows(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        load_tasks(written(tmp_path / "live.jsonl", livecode_row(**changes)))


async def test_packed_tests_are_never_unpickled(tmp_path: Path) -> None:
    hostile = base64.b64encode(zlib.compress(pickle.dumps(Planted()))).decode()
    row = livecode_row(private_test_cases=hostile)
    with pytest.raises(UserError, match="texts instead of one"):
        load_tasks(written(tmp_path / "live.jsonl", row))


async def test_bad_tasks_and_worlds(local_pool: SandboxPool) -> None:
    async with playing(CodeTestsEnv(), local_pool) as env:
        with pytest.raises(UserError, match="does not say how its code is tested"):
            await env.reset(Task("t", "?"), seed=0)
    async with playing(CodeTestsEnv(), FakePool([SandboxError("gone")])) as env:
        with pytest.raises(SandboxError, match="gone"):
            await said(env, TWICE, "def solve(x): return 1")
    suite = Task("t", "?", None, {"entry_point": "f", "test": "def check(f): assert f() == 1"})
    async with playing(CodeTestsEnv(), FakePool(lambda _: "")) as env:
        with pytest.raises(SandboxError, match="sessions can be copied"):
            await said(env, suite, "def f(): return 1")


@pytest.mark.parametrize(
    "options", [{"families": ("x",)}, {"levels": (5,)}, {"hidden": 0}, {"case_s": 0}, {"forms": ()}]
)
async def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(UserError):
        CodeTestsEnv(**options)  # type: ignore[arg-type]
