"""RetoolMath: tasks, the demonstrator played through the real protocol, and what each ending earns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Literal, cast

import pytest

from agentrl.chat.protocols.retool import ReTool
from agentrl.context import Context
from agentrl.env import Action, Expert, StepResult, TaskGenerator
from agentrl.errors import UserError
from agentrl.transcript import ids_array
from agentrl.types import Task, ToolCall
from agentrl.verify.math_answer import MathChecker, Verdict
from agentrl_envs.families import FAMILIES
from agentrl_envs.families.base import Style
from agentrl_envs.retool_math import ASK, RetoolMath

MUL = Task("mul/1/37-84", "37*84=?", "3108", {"family": "mul", "operands": ["37", "84"]})


def env_of(style: Style = "terse", **options: object) -> RetoolMath:
    return RetoolMath(style=style, **options)  # type: ignore[arg-type]


async def play(env: RetoolMath, ctx: Context, task: Task, turns: Iterable[str]) -> list[StepResult]:
    """The steps of turns read by the environment's own protocol."""
    await env.open(ctx)
    await env.reset(task, seed=0)
    protocol = ReTool(fence=env.protocol == "retool")
    return [
        await env.step(protocol.parse(ids_array(()), text, turn=i)) for i, text in enumerate(turns)
    ]


async def answer(text: str, task: Task = MUL, **options: object) -> StepResult:
    """The step of one final turn."""
    env = env_of(**options)  # type: ignore[arg-type]
    await env.open(Context())
    await env.reset(task, seed=0)
    return await env.step(Action(text))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("style", ["terse", "plain"])
async def test_the_expert_with_the_tool_solves_every_family(
    name: str, style: Style, ctx: Context
) -> None:
    env = env_of(style, families=(name,))
    for task in [t for s in ("train", "test") for t in islice(env.tasks(s, seed=1), 6)]:
        steps = await play(env, ctx, task, env.expert(task, seed=0))
        n_calls = 2 if task.metadata["need"] == "two_calls" else 1
        assert [len(step.info.results) for step in steps] == [1] * n_calls + [0]
        assert all(r.error is None for step in steps for r in step.info.results)
        assert [step.terminated for step in steps] == [False] * n_calls + [True]
        assert (steps[-1].reward, steps[-1].info.answer) == (1.0, task.answer)


async def test_the_second_call_sees_the_first_ones_variable(ctx: Context) -> None:
    env = env_of(families=("chain",), levels=(1,))
    task = FAMILIES["chain"].task(("37", "84", "17"), 1, "terse")
    assert list(env.expert(task, seed=0)) == [
        "<code>k=37*84</code>",
        "<code>k%17</code>",
        "<answer>14</answer>",
    ]
    steps = await play(env, ctx, task, env.expert(task, seed=0))
    assert [s.observation[0].content for s in steps[:2]] == ["(no output)", "14"]


async def test_habits_of_the_demonstrator(ctx: Context) -> None:
    """At 0.6 the tool is used on 60 % of tasks; by head only the easy families are right."""
    env = env_of(tool_habit=0.6)
    by_tool, head_right = [], Counter[tuple[bool, bool]]()
    for task in islice(env.tasks("train", seed=0), 1400):
        turns = list(env.expert(task, seed=5))
        assert turns == list(env.expert(task, seed=5))
        by_tool.append(len(turns) > 1)
        if len(turns) == 1:
            reward = (await play(env, ctx, task, turns))[0].reward
            head_right[task.metadata["need"] == "head", reward == 1.0] += 1
    assert sum(by_tool) / len(by_tool) == pytest.approx(0.6, abs=0.04)
    assert head_right[True, False] == 0
    assert head_right[False, True] / (head_right[False, True] + head_right[False, False]) < 0.1
    task = next(env.tasks("train", seed=0))
    assert len(list(env.expert(task, seed=0, habit="tool"))) > 1
    assert len(list(env.expert(task, seed=0, habit="head"))) == 1


def test_the_two_styles_of_a_turn() -> None:
    assert list(env_of().expert(MUL, seed=0)) == ["<code>37*84</code>", "<answer>3108</answer>"]
    assert list(env_of("plain").expert(MUL, seed=0)) == [
        "<code>\n```python\n37*84\n```\n</code>",
        "<answer>\n\\boxed{3108}\n</answer>",
    ]
    assert (env_of().protocol, env_of("plain").protocol) == ("retool_bare", "retool")


async def test_first_messages() -> None:
    assert (await env_of().reset(MUL, seed=0))[0].content == "37*84=?"
    assert (await env_of("plain").reset(MUL, seed=0))[0].content == "37*84=?" + ASK
    with pytest.raises(UserError, match="task x has no answer"):
        await env_of().reset(Task("x", "why?"), seed=0)


@pytest.mark.parametrize(
    ("text", "read", "reward"),
    [
        ("<answer>3108</answer>", "3108", 1.0),
        ("I think <answer>\n\\boxed{3,108}\n</answer>", "3,108", 1.0),
        ("<answer>1</answer> no, <answer>3108</answer>", "3108", 1.0),
        ("so \\boxed{3108}.", "3108", 1.0),
        ("<answer>3107</answer>", "3107", 0.0),
        ("<answer></answer>", "", 0.0),
        ("<answer>3108", None, 0.0),
        ("3108", None, 0.0),
        ("", None, 0.0),
    ],
)
async def test_what_a_final_turn_earns(text: str, read: str | None, reward: float) -> None:
    result = await answer(text)
    assert (result.info.answer, result.reward) == (read, reward)
    assert result[2:4] == (True, False)
    assert result.info.excluded is None


async def test_without_tools_a_call_is_told_so(ctx: Context) -> None:
    env = env_of(tools="none")
    steps = await play(env, ctx, MUL, ["<code>37*84</code>", "<answer>3108</answer>"])
    assert env.tools == ()
    assert steps[0].observation[0].content == "There is no tool named 'python'. Tools: none."
    assert steps[0].info.results[0].error == "unknown_tool"
    assert steps[1].reward == 1.0


async def test_calls_and_characters_are_bounded(ctx: Context) -> None:
    env = env_of(max_calls=1, observation_chars=20)
    steps = await play(env, ctx, MUL, ["<code>'x'*100</code>", "<code>2</code>"])
    first = steps[0].info.results[0]
    assert (first.content, first.truncated) == ("'xxxxxxxxx...xxxxxxxxx'", True)
    assert steps[1].observation[0].content == "No calls left: answer now."


async def test_code_that_fails_is_an_observation(ctx: Context) -> None:
    steps = await play(env_of(), ctx, MUL, ["<code>1/0</code>", "<code>2+2"])
    assert steps[0].observation[0].content == "ZeroDivisionError: division by zero"
    assert steps[0].info.results[0].error == "execution"
    assert steps[1].observation[0].role == "tool"
    assert "There is no </code>" in steps[1].observation[0].content
    assert not steps[1].terminated


FILE_TASK = Task("math500/3-ab", "What is one half?", "\\frac{1}{2}")


async def test_tasks_from_files_go_to_the_checker() -> None:
    with MathChecker() as checker:
        for text, reward in {"\\boxed{0.5}": 1.0, "\\dfrac12": 1.0, "2": 0.0}.items():
            result = await answer(f"<answer>{text}</answer>", FILE_TASK, _checker=checker)
            assert result.reward == reward
            assert result.info.excluded is None


async def test_what_cannot_be_checked_is_excluded_not_wrong() -> None:
    class Stuck:
        async def check(self, gold: str, prediction: str) -> Verdict:
            return Verdict(None, "timeout")

    checker = cast(MathChecker, Stuck())
    result = await answer("<answer>?</answer>", FILE_TASK, _checker=checker)
    assert (result.info.excluded, result.terminated, result.reward) == ("unverified", True, 0.0)
    nothing = await answer("I give up", FILE_TASK, _checker=checker)
    assert (nothing.info.excluded, nothing.reward) == (None, 0.0)


def test_the_stream_repeats_under_a_seed_and_covers_every_family_in_turn() -> None:
    env = env_of()
    tasks = list(islice(env.tasks("train", seed=3), 280))
    assert tasks == list(islice(env_of().tasks("train", seed=3), 280))
    assert tasks != list(islice(env.tasks("train", seed=4), 280))
    for start in range(0, 280, 14):
        assert {t.metadata["family"] for t in tasks[start : start + 14]} == set(FAMILIES)
    assert {t.metadata["level"] for t in tasks} == {1, 2, 3}
    assert {t.seed for t in tasks} == {0}


def test_a_stream_does_not_repeat_itself_early_and_the_splits_share_nothing() -> None:
    train = [t.id for t in islice(env_of().tasks("train", seed=0), 3000)]
    test = [t.id for t in islice(env_of().tasks("test", seed=0), 512)]
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)
    assert not set(train) & set(test)


def test_a_level_with_few_tasks_goes_on() -> None:
    tasks = list(islice(env_of(families=("add",), levels=(1,)).tasks("test", seed=0), 600))
    assert len({t.id for t in tasks}) < len(tasks) == 600


def test_options_choose_families_and_levels() -> None:
    env = env_of(families=("gcd", "max"), levels=(2,))
    tasks = list(islice(env.tasks("train", seed=0), 40))
    assert Counter(str(t.metadata["family"]) for t in tasks) == {"gcd": 20, "max": 20}
    assert {t.metadata["level"] for t in tasks} == {2}
    assert all(t.question.startswith(("gcd(", "max(")) for t in tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ("gdc",)}, "'gdc' is not a family; choose among add, max"),
        ({"families": ()}, "families is empty"),
        ({"levels": (0, 1)}, "choose some of 1, 2 and 3, not \\[0, 1\\]"),
        ({"levels": ()}, "choose some of 1, 2 and 3"),
        ({"tool_habit": 1.5}, "tool_habit is a probability"),
        ({"timeout_s": 0.0}, "timeout_s is above 0"),
        ({"timeout_s": 31.0}, "at most env.call_s \\(30\\)"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        env_of(**options)  # type: ignore[arg-type]


def test_bad_splits_and_tasks_without_an_expert() -> None:
    with pytest.raises(UserError, match="splits train and test, not 'dev'"):
        env_of().tasks("dev", seed=0)
    with pytest.raises(UserError, match="not made by a family"):
        env_of().expert(FILE_TASK, seed=0)


def test_it_declares_what_it_can_do() -> None:
    env = env_of()
    assert isinstance(env, Expert)
    assert isinstance(env, TaskGenerator)


async def test_two_episodes_keep_apart(ctx: Context) -> None:
    tools: list[Literal["python", "none"]] = ["python", "none"]
    first, second = (env_of(tools=kind) for kind in tools)
    await play(first, ctx, MUL, ["<code>1</code>"])
    await second.reset(FILE_TASK, seed=0)
    assert (first.task, second.task) == (MUL, FILE_TASK)
    assert await second.step(Action("", (ToolCall("a", "python", {"code": "1"}),)))
    await first.close()
    await first.close()
