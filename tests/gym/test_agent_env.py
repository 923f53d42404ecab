"""Our environments through Gymnasium's own door and under its own checker."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import registry
from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.gym import AgentEnv, UnicodeText
from agentrl.testing import FakePool
from agentrl.tool import call_tool
from agentrl.types import Message, Task
from agentrl_tools.python import PythonTool

TASK = Task("one", "What is 6 * 7?", "42")
CODE = "<code>\n```python\nprint(6 * 7)\n```\n</code>"


class Sums(Env):
    """A small environment with the Python tool."""

    protocol = "retool"
    opened = 0

    def __init__(self, *, bonus: float = 0.0) -> None:
        self.tools = (PythonTool(),)
        self.bonus = bonus

    async def open(self, ctx: Context) -> None:
        await super().open(ctx)
        self.ctx = ctx

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.task = task
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        if action.tool_calls:
            known = {tool.name: tool for tool in self.tools}
            results = [await call_tool(known, c, self.ctx) for c in action.tool_calls]
            said = tuple(Message("tool", r.content, call_id=r.call_id) for r in results)
            return StepResult(said, 0.0, False, False, StepInfo(tuple(results)))
        if action.parse_error:
            return StepResult((Message("user", action.parse_error),), 0.0, False, False, StepInfo())
        right = action.text == self.task.answer
        return StepResult((), self.bonus + right, True, False, StepInfo(answer=action.text))

    def tasks(self, split: str, *, seed: int):
        while True:
            yield Task(f"{split}/{seed}", f"What is {seed % 97} + 1?", str(seed % 97 + 1))


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[FakePool]:
    """Every sandbox pool opened; their sandboxes answer 42."""
    made: list[FakePool] = []

    def make() -> FakePool:
        made.append(FakePool(lambda code: "42\n"))
        return made[-1]

    entries = {("env", "sums"): Sums, ("sandbox", "fake"): make}
    monkeypatch.setattr(registry, "_registered", entries)
    return made


@pytest.fixture
def env(pools: list[FakePool]):
    made = AgentEnv("sums", sandbox="fake", render_mode="ansi")
    yield made
    made.close()


def test_an_episode_by_hand(env: AgentEnv, pools: list[FakePool]):
    first, info = env.reset(options={"task": TASK})
    assert first.endswith("What is 6 * 7?")
    assert "<code>" in first, "the protocol's instructions come first"
    assert info == {"task_id": "one", "tools": ["python"]}
    assert pools == [], "no sandbox before a tool needs one"
    seen, reward, terminated, truncated, info = env.step(CODE)
    assert (seen, reward, terminated, truncated) == (
        "\n<interpreter>\n42\n</interpreter>\n\n",
        0.0,
        False,
        False,
    )
    assert info["calls"] == [{"error": None, "truncated": False}]
    assert env.step("42")[:4] == ("", 1.0, True, False)
    assert env.render() is not None
    assert env.render().count("> ") == 2
    (pool,) = pools
    assert pool.sandboxes[0].ran == ["print(6 * 7)"]
    env.close()
    assert pool.statistics().open_sessions == 0


def test_one_pool_serves_many_episodes_each_with_a_fresh_session(
    env: AgentEnv, pools: list[FakePool]
):
    for _ in range(3):
        env.reset(seed=1)
        env.step(CODE)
    assert len(pools) == 1
    assert [sandbox.closed for sandbox in pools[0].sandboxes] == [True, True, False]


def test_gymnasium_s_checker_is_content(pools: list[FakePool], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("agentrl/sums-v0", AgentEnv, kwargs={"name": "sums", "sandbox": "fake"})
    made = gymnasium.make("agentrl/sums-v0", render_mode="ansi")
    check_env(made.unwrapped)
    made.close()


def test_seeds_decide_the_task(env: AgentEnv):
    one, two, other = (env.reset(seed=s)[0] for s in (5, 5, 6))
    assert one == two != other
    assert env.reset()[0] != other, "without a seed the stream goes on"


def test_it_works_inside_a_running_loop(env: AgentEnv):
    import asyncio

    async def inside() -> float:
        env.reset(options={"task": TASK})
        env.step(CODE)
        return env.step("42")[1]

    assert asyncio.run(inside()) == 1.0


def test_turns_are_limited(pools: list[FakePool]):
    env = AgentEnv("sums", sandbox="fake", max_turns=2)
    env.reset(options={"task": TASK})
    assert env.step(CODE)[2:4] == (False, False)
    assert env.step(CODE)[2:4] == (False, True)
    env.close()


def test_close_leaves_no_thread_and_may_come_twice(env: AgentEnv):
    env.reset(seed=0)
    assert any(t.name == "agentrl-gym" for t in threading.enumerate())
    env.close()
    env.close()
    assert not any(t.name == "agentrl-gym" for t in threading.enumerate())


def test_mistakes(env: AgentEnv):
    with pytest.raises(ResetNeeded):
        env.step("42")
    with pytest.raises(UserError, match=r"must be an agentrl\.types\.Task"):
        env.reset(options={"task": "one"})
    with pytest.raises(UserError, match=r"unknown key 'env\.bonsu'; did you mean 'bonus'"):
        AgentEnv("sums", sandbox="fake", bonsu=1.0)
    with pytest.raises(UserError, match="there is no env named 'smus'; did you mean 'sums'"):
        AgentEnv("smus")


TEXTS = st.text(max_size=50)


@given(TEXTS)
def test_the_space_holds_any_unicode(text: str):
    assert text in UnicodeText()
    assert UnicodeText().from_jsonable(UnicodeText().to_jsonable([text])) == [text]


@settings(max_examples=50)
@given(st.integers(0, 2**31))
def test_samples_lie_in_the_space_and_repeat(seed: int):
    one, two = UnicodeText(40, seed=seed), UnicodeText(40, seed=seed)
    sample = one.sample()
    assert sample in one
    assert sample == two.sample()
    sample.encode("utf-8")


def test_what_the_space_refuses():
    space = UnicodeText(3)
    assert "abcd" not in space
    assert "\ud800" not in space, "UTF-8 cannot write a lone surrogate"
    assert 3 not in space
    with pytest.raises(ValueError, match="no mask"):
        space.sample(mask=1)
    assert pickle.loads(pickle.dumps(space)) == space != UnicodeText(4)  # noqa: S301


def test_make_works_without_importing_agentrl_first():
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('agentrl.gym:agentrl/retool_math-v0')\n"
        "text, info = env.reset(seed=3)\n"
        "assert info['tools'] == ['python'], info\n"
        "env.close()\n"
        "print(text in env.observation_space)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "True\n", done.stderr


def test_every_environment_is_registered_once():
    from agentrl.gym import register_envs

    register_envs()
    ours = [env_id for env_id in gymnasium.registry if env_id.startswith("agentrl/")]
    assert "agentrl/retool_math-v0" in ours
    assert "agentrl/gym-v0" not in ours
