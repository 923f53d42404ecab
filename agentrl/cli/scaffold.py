"""Texts of a new plug-in package; `@NAME@` and `@CLASS@` are filled in by `agentrl new`."""

from __future__ import annotations

from collections.abc import Mapping

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "agentrl-@DASHED@"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["agentrl-framework"]

[project.entry-points."agentrl.@GROUP@"]
@NAME@ = "@NAME@:@ATTRIBUTE@"

[tool.hatch.build.targets.wheel]
packages = ["src/@NAME@"]

[tool.pytest.ini_options]
pythonpath = ["src"]
"""

TOOL = '''\
"""The @NAME@ tool."""

from __future__ import annotations

from agentrl.errors import ToolError
from agentrl.tool import tool


@tool(parallel=True)
async def @NAME@(text: str) -> str:
    """Counts the words of a text.

    Args:
        text: the text to count in.
    """
    if not text.strip():
        raise ToolError("There is no text to count in.")
    return str(len(text.split()))
'''

TOOL_TEST = """\
import asyncio

from agentrl.testing import check_tool, failures

from @NAME@ import @NAME@


def test_it_keeps_the_tool_contract():
    assert failures(asyncio.run(check_tool(@NAME@, arguments={"text": "one two"}))) == []


def test_it_counts_words():
    assert asyncio.run(@NAME@(text="one two three")) == "3"
"""

ENV = '''\
"""The @NAME@ environment: say a word backwards."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.seeds import derive
from agentrl.types import Message, Task


class @CLASS@(Env):
    """Asks for a word spelled backwards; one turn, reward 1 when it is right."""

    protocol = "hermes"

    def __init__(self, *, letters: int = 5) -> None:
        """`letters` is the length of the words, set with env.letters=..."""
        self.letters = letters
        self._answer = ""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The question."""
        self._answer = task.answer or ""
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        """Compare the last word of the answer."""
        said = (action.text.split() or [""])[-1].strip(".\\"'")
        reward = 1.0 if said == self._answer else 0.0
        return StepResult((), reward, True, False, StepInfo(answer=said))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """Random words; train words start with a to m, test words with n to z."""
        rng = Random(derive("@NAME@", split, seed))
        first = "abcdefghijklm" if split == "train" else "nopqrstuvwxyz"
        while True:
            letters = rng.choices("abcdefghijklmnopqrstuvwxyz", k=self.letters - 1)
            word = rng.choice(first) + "".join(letters)
            yield Task(word, f"Spell {word!r} backwards.", word[::-1])

    def expert(self, task: Task, *, seed: int) -> Iterator[str]:
        """How it is solved, for `agentrl sft`."""
        yield f"It is {task.answer}"
'''

ENV_TEST = """\
import asyncio

from agentrl.testing import check_env, failures

from @NAME@ import @CLASS@


def test_it_keeps_the_env_contract():
    assert failures(asyncio.run(check_env(@CLASS@))) == []
"""

REWARD = '''\
"""The @NAME@ reward."""

from __future__ import annotations

from collections.abc import Mapping

from agentrl.points import Services
from agentrl.trajectory import Trajectory


class @CLASS@:
    """Takes `cost` for every tool call; added to the environment's own reward."""

    def __init__(self, *, cost: float = 0.05) -> None:
        """`cost` is set with algo.rewards=[{name: @NAME@, cost: 0.1}]."""
        self.cost = cost

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """One component, named after this plug-in."""
        return {"@NAME@": -self.cost * trajectory.n_calls}
'''

REWARD_TEST = """\
import asyncio
from dataclasses import replace

from agentrl.trajectory import CallRecord, StopReason, Trajectory
from agentrl.transcript import Transcript
from agentrl.types import Task

from @NAME@ import @CLASS@

CALL = CallRecord(0, "python", "{}", "5", None, False, 0.0, 0.0)
NONE = Trajectory("0/t/0", Task("t", "?"), 0, (Transcript(),), (), StopReason.TERMINATED)


def test_calls_cost_something():
    score = @CLASS@(cost=0.1)
    assert asyncio.run(score(NONE, None)) == {"@NAME@": 0.0}
    assert asyncio.run(score(replace(NONE, calls=(CALL, CALL)), None)) == {"@NAME@": -0.2}
"""

PLAN = '''\
"""The @NAME@ rollout plan."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agentrl.points import Ctx, Services
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task


class @CLASS@:
    """Samples half of a group; the other half only where the first does not agree."""

    def __init__(self, *, group_size: int = 8) -> None:
        """`group_size` is the run's; further options are set with rollout.plan={name: @NAME@, ...}."""
        self.group_size = group_size

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """The siblings of one task, in order."""
        half = (self.group_size + 1) // 2
        members = await self._sampled(range(half), task, services, ctx)
        if len({member.rewards.get("env") for member in members}) > 1:
            members += await self._sampled(range(half, self.group_size), task, services, ctx)
        return Group(task, tuple(members), ctx.step)

    async def _sampled(
        self, siblings: Iterable[int], task: Task, services: Services, ctx: Ctx
    ) -> list[Trajectory]:
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(services.episodes.run(task, sibling, ctx)) for sibling in siblings
            ]
        return [one.result() for one in running]
'''

PLAN_TEST = """\
import asyncio

from agentrl.testing import check_plan, failures

from @NAME@ import @CLASS@


def test_it_keeps_the_plan_contract():
    assert failures(asyncio.run(check_plan(lambda renderer: @CLASS@(group_size=4)))) == []
"""

TEXTS: Mapping[str, tuple[str, str]] = {
    "tool": (TOOL, TOOL_TEST),
    "env": (ENV, ENV_TEST),
    "reward": (REWARD, REWARD_TEST),
    "plan": (PLAN, PLAN_TEST),
}
"""Kind -> the plug-in and its test."""


def filled(kind: str, name: str) -> dict[str, str]:
    """Path inside the new folder -> text."""
    class_name = "".join(part.capitalize() for part in name.split("_"))
    words = {
        "@NAME@": name,
        "@CLASS@": class_name,
        "@DASHED@": name.replace("_", "-"),
        "@GROUP@": f"{kind}s",
        "@ATTRIBUTE@": name if kind == "tool" else class_name,
    }
    plugin, test = TEXTS[kind]
    texts = {
        "pyproject.toml": PYPROJECT,
        f"src/{name}/__init__.py": plugin,
        f"tests/test_{name}.py": test,
    }
    for mark, word in words.items():
        texts = {path: text.replace(mark, word) for path, text in texts.items()}
    return texts
