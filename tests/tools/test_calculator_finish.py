"""Exact arithmetic, its limits, and the call that ends an episode."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.context import Context
from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import ToolError
from agentrl.testing import check_tool, failures
from agentrl.tool import tool
from agentrl.types import Message, Task, ToolCall
from agentrl_envs.tool_env import ToolEnv
from agentrl_tools.calculator import calculator
from agentrl_tools.exact import calculate, written
from agentrl_tools.finish import FinishTool


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2+3*4", "14"),
        ("1.10 + 2.20", "3.3"),
        ("0.1 * 3", "0.3"),
        ("1/3", "1/3 (about 0.333333333333)"),
        ("-7/4", "-1.75"),
        ("2**64", "18446744073709551616"),
        ("1,234 + 1", "1235"),
        ("(12.5 - 3) * 4^2 / 8", "19"),
        ("2^-1", "0.5"),
        ("sqrt(2)", "about 1.41421356237"),
        ("sqrt(9/4)", "1.5"),
        ("-1/3", "-1/3 (about -0.333333333333)"),
        ("0.05 - 0.1", "-0.05"),
    ],
)
async def test_results(expression: str, result: str) -> None:
    assert await calculator(expression=expression) == result


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", "nothing to calculate"),
        ("x + 1", "x has no value"),
        ("1/0", "Division by zero"),
        ("9^99999", "too large"),
        ("(9^999)^(9^999)", "too large"),
        ("7 % 3", "cannot be calculated"),
        ("__import__('os').system('id')", "cannot be calculated"),
        ("2i", "not a real number"),
        ("(" * 500 + "1" + ")" * 500, "cannot be calculated"),
        ("1+" * 2000, "longer than 2000"),
        ("\x00\ud800", "cannot be calculated"),
    ],
)
async def test_refusals_teach(expression: str, told: str) -> None:
    with pytest.raises(ToolError, match="(?s)" + told):
        await calculator(expression=expression)


decimals = st.decimals(-(10**9), 10**9, places=4, allow_nan=False)


@given(decimals, decimals, st.sampled_from("+-*"))
def test_decimals_are_exact(a: Decimal, b: Decimal, operator: str) -> None:
    """Python's own decimals, whose precision here loses nothing, are the other implementation."""
    x, y = Fraction(a), Fraction(b)
    expected = {"+": x + y, "-": x - y, "*": x * y}[operator]
    shown = written(calculate(f"({a:f}) {operator} ({b:f})"))
    assert Fraction(shown) == expected


async def test_kits() -> None:
    assert not failures(await check_tool(calculator, arguments={"expression": "1+1"}))
    assert not failures(await check_tool(FinishTool))


class Asked(ToolEnv):
    """One answer is right; a wrong one may be tried again when `again`."""

    again = False

    def first_messages(self, task: Task) -> Observation:
        return (Message("user", task.question),)

    async def judge(self, action: Action) -> StepResult:
        right = action.text == self.task.answer
        if self.again and not right:
            return StepResult((Message("user", "Try again."),), 0.0, False, False, StepInfo())
        return StepResult((), float(right), True, False, StepInfo(answer=action.text))


@tool
async def note(text: str) -> str:
    """Notes a text down.

    Args:
        text: Any text.
    """
    return f"noted {text}"


def call(i: int, name: str, **arguments: str) -> ToolCall:
    return ToolCall(f"call_0_{i}", name, arguments)


async def begun(max_calls: int = 8) -> Asked:
    env = Asked([note, FinishTool()], max_calls=max_calls)
    await env.open(Context())
    await env.reset(Task("t", "2+2?", "4"), seed=0)
    return env


async def test_a_finishing_call_ends_the_episode_after_the_calls_before_it() -> None:
    env = await begun()
    calls = (call(0, "note", text="a"), call(1, "finish", answer=" 4 "), call(2, "note", text="b"))
    ended = await env.step(Action("", calls))
    assert ended[1:4] == (1.0, True, False)
    assert ended.info.answer == "4"
    assert [r.content for r in ended.info.results] == ["noted a", "4"]


async def test_finishing_stays_possible_without_calls_left() -> None:
    env = await begun(max_calls=0)
    assert (await env.step(Action("", (call(0, "finish", answer="5"),))))[1:4] == (0.0, True, False)


async def test_an_empty_answer_is_corrected_and_ends_nothing() -> None:
    env = await begun()
    step = await env.step(Action("", (call(0, "note", text="a"), call(1, "finish", answer=" "))))
    assert (step.terminated, step.reward) == (False, 0.0)
    assert [m.content for m in step.observation] == [
        "noted a",
        "The answer is empty; nothing was ended. Give one.",
    ]
    assert [r.error for r in step.info.results] == [None, "execution"]
    missing = await env.step(Action("", (call(0, "finish"),)))
    assert missing.info.results[0].error == "arguments"
    assert not missing.terminated


async def test_an_environment_may_go_on_after_an_answer() -> None:
    env = await begun()
    env.again = True
    step = await env.step(Action("", (call(0, "finish", answer="5"),)))
    assert (step.terminated, step.observation) == (
        False,
        (Message("tool", "Try again.", call_id="call_0_0", name="finish"),),
    )
    (copy,) = await env.fork(1)
    assert (await copy.step(Action("", (call(0, "finish", answer="4"),)))).reward == 1.0
