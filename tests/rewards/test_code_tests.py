"""The `code_tests` reward: which text is the code, what is a score, whose fault is what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.points import RewardFn, Services, needs_of
from agentrl.registry import resolve
from agentrl.rewards.code_tests import CodeTests
from agentrl.sandbox import SandboxPool
from agentrl.testing.fakes import FakePool
from agentrl.trajectory import StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import JsonValue, Message, Task
from agentrl.verify.code.extract import extract_code
from agentrl_sandbox.local import LocalPool

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[SandboxPool]:
    pool = LocalPool(max_sessions=4)
    try:
        await pool.open()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield pool
    await pool.close()


def services(pool: SandboxPool | None) -> Services:
    return Services(episodes=None, sandbox=pool)  # type: ignore[arg-type]


def trajectory(
    said: str, metadata: Mapping[str, JsonValue], answer: str | None = None
) -> Trajectory:
    row = Transcript().append(Segment(Origin.PROMPT, [1]))  # type: ignore[arg-type]
    messages = (Message("user", "?"), Message("assistant", said), Message("tool", "def f(): 0"))
    task = Task("t/1", "?", metadata=metadata)
    stop = StopReason.TERMINATED
    return Trajectory("0/t/0", task, 0, (row,), messages, stop, answer=answer)


HALVE: Mapping[str, JsonValue] = {
    "entry_point": "half",
    "cases": [{"args": [n], "expected": n / 2} for n in (2, 4, 5, 8)],
}
RIGHT = (
    "Here:\n```python\ndef half(n):\n    return n / 2\n```\nUse it so:\n```python\nhalf(3)\n```\n"
)
FLOOR = "```\ndef half(n):\n    return n // 2\n```"


async def test_scores(pool: SandboxPool) -> None:
    whole, share = CodeTests(), CodeTests(score="fraction", component="tests")
    assert isinstance(whole, RewardFn)
    assert await whole(trajectory(RIGHT, HALVE), services(pool)) == {"code_tests": 1.0}
    assert await whole(trajectory(FLOOR, HALVE), services(pool)) == {"code_tests": 0.0}
    assert await share(trajectory(FLOOR, HALVE), services(pool)) == {"tests": 0.75}
    assert await whole(trajectory("I give up.", HALVE), services(pool)) == {"code_tests": 0.0}
    grade = await whole.grade(trajectory(FLOOR, HALVE), services(pool))
    assert grade.reason == "case 3: wrong value 2"


async def test_the_answer_the_environment_read_wins(pool: SandboxPool) -> None:
    answered = trajectory(FLOOR, HALVE, answer="def half(n): return n / 2")
    assert await CodeTests()(answered, services(pool)) == {"code_tests": 1.0}


async def test_a_base_model_continues_the_prompt(pool: SandboxPool) -> None:
    suite: Mapping[str, JsonValue] = {
        "entry_point": "half",
        "prompt": 'import math\ndef half(n):\n    """n / 2"""\n',
        "test": "def check(candidate):\n    assert candidate(3) == 1.5\n    assert half(1) == 0.5\n",
    }
    for said in ("    return math.fsum([n]) / 2\n", "def half(n):\n    return math.fsum([n]) / 2"):
        assert await CodeTests()(trajectory(said, suite), services(pool)) == {"code_tests": 1.0}


async def test_whose_fault(pool: SandboxPool) -> None:
    reward = CodeTests()
    assert needs_of(reward) == {"sandbox"}
    with pytest.raises(UserError, match="give the run a sandbox"):
        await reward(trajectory(RIGHT, HALVE), services(None))
    with pytest.raises(UserError, match="does not say how its code is tested"):
        await reward(trajectory(RIGHT, {}), services(pool))
    with pytest.raises(SandboxError, match="gone"):
        await reward(trajectory(RIGHT, HALVE), services(FakePool([SandboxError("gone")])))
    # Another pool, such as that of an evaluation, is another grader.
    assert await reward(trajectory(RIGHT, HALVE), services(pool)) == {"code_tests": 1.0}


async def test_found_by_name_with_its_limits_checked() -> None:
    assert resolve("reward", "code_tests") is CodeTests
    with pytest.raises(UserError, match="case_s, total_s and at_once > 0"):
        CodeTests(case_s=0)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("``` py\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("a\n  ```Python title='x'\nx = 1\n  ```\nb", "x = 1\n"),
        ("```\nx = '```'\n```", "x = '```'\n"),
        ("no code", "no code"),
        ("```json\n{}\n```", "```json\n{}\n```"),
        ("```py\ndef f(): 1\n```\n```py\nf()\n```", "def f(): 1\n"),
        ("```py\ndef f(): 1\n```\n```py\nclass f: 2\n```", "class f: 2\n"),
    ],
)
async def test_which_text_is_the_code(text: str, code: str) -> None:
    assert extract_code(text, "f") == code


async def test_a_hostile_megabyte_of_fences_is_read_once() -> None:
    extract_code("```\n" * 250_000)
    extract_code("```python\n" + "`" * 1_000_000)
    assert extract_code(" \t" * 500_000) == " \t" * 500_000
