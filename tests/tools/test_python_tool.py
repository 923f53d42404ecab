"""The Python tool's words to the model, its budget and its lease; clipping after ReTool."""

from __future__ import annotations

from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.context import Context
from agentrl.errors import SandboxError
from agentrl.sandbox import ExecResult
from agentrl.tool import Tool, call_tool
from agentrl.types import ToolCall, ToolResult
from agentrl_tools.clip import clip_middle
from agentrl_tools.python import PythonTool


class Scripted:
    """Answers code with results in order, and remembers what it was asked."""

    def __init__(self, *results: ExecResult | Exception) -> None:
        self.results = list(results)
        self.asked: list[tuple[str, float]] = []
        self.leases = 0
        self.closed = False

    async def lease(self) -> Scripted:
        self.leases += 1
        return self

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        self.asked.append((code, timeout_s))
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def reset(self) -> None: ...

    async def close(self) -> None:
        self.closed = True


async def ran(result: ExecResult, **options: float) -> ToolResult:
    """What the model gets for one result."""
    python = PythonTool(**options)  # type: ignore[arg-type]
    await python.open(Context(lease_sandbox=Scripted(result).lease))
    return await python(code="...")


def test_retools_rule() -> None:
    """1000 characters at a budget of 400 become 200 + "..." + 200."""
    text = "a" * 500 + "b" * 500
    assert clip_middle(text, 400) == ("a" * 200 + "..." + "b" * 200, True)
    assert clip_middle(text, 1000) == (text, False)
    assert clip_middle("abcdefg", 5) == ("abc...fg", True)


@given(st.text(max_size=60), st.integers(2, 50))
def test_clipping_keeps_both_ends_and_the_budget(text: str, budget: int) -> None:
    clipped = clip_middle(text, budget)
    if len(text) <= budget:
        assert clipped == (text, False)
    else:
        head, tail = budget - budget // 2, budget // 2
        assert clipped.text == text[:head] + "..." + text[-tail:]
        assert len(clipped.text) == budget + 3


@pytest.mark.parametrize(
    ("result", "content", "error"),
    [
        (ExecResult("ok", stdout="3108\n"), "3108", None),
        (ExecResult("ok", value="3108"), "3108", None),
        (ExecResult("ok", stdout="a\nb\n", value="[1]"), "a\nb\n[1]", None),
        (ExecResult("ok"), "(no output)", None),
        (ExecResult("ok", stderr="a warning\n"), "a warning", None),
        (ExecResult("ok", stdout="1\n", stderr="a warning\n"), "1", None),
        (
            ExecResult("error", stdout="before\n", error="NameError: name 'x' is not defined"),
            "before\nNameError: name 'x' is not defined",
            "execution",
        ),
        (
            ExecResult("error", stderr="Traceback ...\nValueError: no\n"),
            "ValueError: no",
            "execution",
        ),
        (ExecResult("error"), "The code failed without a message.", "execution"),
        (
            ExecResult("timeout", stdout="so far\n", state_lost=True),
            "so far\nTimed out after 5 s; use a faster way.\n"
            "The interpreter restarted; variables are gone.",
            "timeout",
        ),
        (ExecResult("cpu_limit"), "Timed out after 5 s; use a faster way.", "timeout"),
        (ExecResult("oom"), "MemoryError: out of memory; use less of it.", "execution"),
        (ExecResult("output_limit"), "Too much output; print less.", "execution"),
        (
            ExecResult("exited", exit_code=3, state_lost=True),
            "The interpreter exited with code 3; do not call exit.\n"
            "The interpreter restarted; variables are gone.",
            "execution",
        ),
        (ExecResult("signal", signal=11), "The interpreter was ended by signal 11.", "execution"),
    ],
)
async def test_what_the_model_reads(result: ExecResult, content: str, error: str | None) -> None:
    shown = await ran(result)
    assert (shown.content, shown.error, shown.truncated) == (content, error, False)


async def test_a_long_error_keeps_its_tail() -> None:
    noise = "x" * 1000 + "\n"
    shown = await ran(ExecResult("error", stdout=noise, error="ValueError: the reason"))
    assert shown.content.startswith("xxx")
    assert shown.content.endswith("ValueError: the reason")
    assert (len(shown.content), shown.truncated) == (403, True)


async def test_output_lost_in_the_sandbox_counts_as_truncated() -> None:
    assert (await ran(ExecResult("ok", stdout="a", stdout_dropped=1))).truncated
    assert (await ran(ExecResult("ok", stdout="a", stderr_dropped=1))).truncated


async def test_one_sandbox_is_leased_at_the_first_call_and_left_to_its_owner() -> None:
    box = Scripted(ExecResult("ok"), ExecResult("ok"), ExecResult("ok"))
    python = PythonTool(timeout_s=2.5)
    await python.open(Context(lease_sandbox=box.lease))
    assert box.leases == 0
    await python(code="a = 1")
    await python(code="a")
    assert (box.leases, box.asked) == (1, [("a = 1", 2.5), ("a", 2.5)])
    await python.close()
    await python.close()
    assert not box.closed
    await python.open(Context(lease_sandbox=box.lease))
    await python(code="a")
    assert box.leases == 2


async def test_the_episodes_deadline_shortens_the_run() -> None:
    box = Scripted(ExecResult("ok"))
    python = PythonTool(timeout_s=5.0)
    await python.open(Context(lease_sandbox=box.lease, deadline=monotonic() + 1.0))
    await python(code="1")
    assert 0.5 < box.asked[0][1] <= 1.0


async def test_at_the_tool_border() -> None:
    box = Scripted(ExecResult("ok", value="4", queue_s=0.25), SandboxError("gone"))
    python = PythonTool()
    ctx = Context(lease_sandbox=box.lease)
    await python.open(ctx)
    assert isinstance(python, Tool)

    async def call(**arguments: str) -> ToolResult:
        return await call_tool({"python": python}, ToolCall("c", "python", arguments), ctx)

    four = await call(code="2+2")
    assert (four.call_id, four.content, four.queue_s) == ("c", "4", 0.25)
    empty = await call(code=" \n")
    assert (empty.error, empty.content) == ("execution", "There is no code to run.")
    assert (await call()).content == "python: the argument 'code' is missing."
    with pytest.raises(SandboxError, match="gone"):
        await call(code="2+2")


async def test_misuse_is_our_own_fault() -> None:
    with pytest.raises(RuntimeError, match="open"):
        await PythonTool()(code="1")
    with pytest.raises(ValueError, match="timeout_s > 0"):
        PythonTool(timeout_s=0)
    assert "2.5 seconds" in PythonTool(timeout_s=2.5).description
