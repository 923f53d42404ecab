"""The Python tool: one stateful interpreter per episode, in the episode's sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from agentrl.context import Context
from agentrl.errors import ToolError
from agentrl.sandbox import ExecResult, Sandbox
from agentrl.types import JsonValue, ToolFault, ToolResult
from agentrl_tools.clip import clip_middle
from agentrl_tools.display import Display, is_artist

SILENT = "(no output)"
"""What the model reads when its code said nothing."""


@final
class PythonTool:
    """Runs code and returns what it printed and the value of a last bare expression.

    Variables live on between the calls of one episode. The sandbox is leased at the first call, so
    an episode that never computes costs none. New figures are described in words.
    """

    name = "python"
    parallel = False

    def __init__(self, *, timeout_s: float = 5.0, max_chars: int = 400) -> None:
        """`timeout_s` bounds one piece of code; `max_chars` is the observation's budget."""
        if timeout_s <= 0 or max_chars < 2:
            raise ValueError(f"timeout_s > 0 and max_chars >= 2, not {timeout_s:g}, {max_chars}")
        self.timeout_s = timeout_s
        self.max_chars = max_chars
        self._ctx: Context | None = None
        self._sandbox: Sandbox | None = None
        self._display = Display()

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return (
            "Runs Python code in an interpreter that keeps its variables between calls. "
            "Returns what the code prints and the value of a last bare expression. "
            f"Each call may take {self.timeout_s:g} seconds."
        )

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """One argument, `code`."""
        code = {"type": "string", "description": "Python source code."}
        return {"type": "object", "properties": {"code": code}, "required": ["code"]}

    async def open(self, ctx: Context) -> None:
        """Remember where to lease a sandbox."""
        self._ctx = ctx

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Run `code`. Raises ToolError on empty code, SandboxError when the box failed."""
        code = str(arguments["code"])
        if not code.strip():
            raise ToolError("There is no code to run.")
        if self._ctx is None:
            raise RuntimeError("open() the python tool before calling it")
        if self._sandbox is None:
            self._sandbox = await self._ctx.lease_sandbox()
        await self._display.before(self._sandbox, code)
        result = await self._sandbox.run(code, timeout_s=self._ctx.remaining_s(self.timeout_s))
        figures = await self._display.after(self._sandbox, result)
        clipped = clip_middle(self._said(result, figures), self.max_chars)
        return ToolResult(
            call_id="",
            content=clipped.text,
            error=fault(result),
            truncated=clipped.truncated or bool(result.stdout_dropped or result.stderr_dropped),
            queue_s=result.queue_s,
        )

    def _said(self, result: ExecResult, figures: str) -> str:
        if not figures:
            return shown(result, self.timeout_s)
        if is_artist(result.value):
            result = replace(result, value=None)
        text = shown(result, self.timeout_s)
        return figures if text == SILENT else f"{text}\n{figures}"

    async def fork(self, n: int) -> list[PythonTool]:
        """Copies that go on from the present variables: their leases hold copied interpreters."""
        made = [PythonTool(timeout_s=self.timeout_s, max_chars=self.max_chars) for _ in range(n)]
        for tool in made:
            tool._display = self._display.copy()
        return made

    async def close(self) -> None:
        """Let go of the lease; the episode that granted it closes it."""
        self._sandbox = None
        self._ctx = None
        self._display = Display()


def fault(result: ExecResult) -> ToolFault | None:
    """Whether and how the code failed."""
    if result.status == "ok":
        return None
    return "timeout" if result.status in ("timeout", "cpu_limit") else "execution"


def shown(result: ExecResult, timeout_s: float) -> str:
    """What the model reads: output, echoed value, then what went wrong."""
    parts = [result.stdout.rstrip("\n")]
    if result.value is not None:
        parts.append(result.value)
    if result.status == "ok" and not any(parts):
        parts.append(result.stderr.rstrip("\n"))
    if result.status != "ok":
        parts.append(_teaching(result, timeout_s))
    if result.state_lost:
        parts.append("The interpreter restarted; variables are gone.")
    return "\n".join(part for part in parts if part) or SILENT


def _teaching(result: ExecResult, timeout_s: float) -> str:
    match result.status:
        case "timeout" | "cpu_limit":
            return f"Timed out after {timeout_s:g} s; use a faster way."
        case "oom":
            return "MemoryError: out of memory; use less of it."
        case "output_limit":
            return "Too much output; print less."
        case "exited":
            return f"The interpreter exited with code {result.exit_code}; do not call exit."
        case "signal":
            return f"The interpreter was ended by signal {result.signal}."
        case _:
            return result.error or _last_line(result.stderr)


def _last_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else "The code failed without a message."
