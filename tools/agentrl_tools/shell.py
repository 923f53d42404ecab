"""The shell tool: commands in the episode's sandbox, never on the host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast, final

from agentrl.context import Context
from agentrl.errors import ToolError
from agentrl.sandbox import ExecResult, Sandbox
from agentrl.types import JsonValue, ToolFault, ToolResult
from agentrl_tools.clip import clip_middle
from agentrl_tools.inside import Inside, told

SILENT = "(no output)"
MAX_COMMAND = 100_000
_GRACE_S = 2.0
"""The shell's own clock stops a command first; the sandbox's deadline may cost the interpreter."""


@final
class ShellTool:
    """Runs shell commands in the sandbox; the working folder and files last through the episode.

    Where the sandbox lets code start processes, `/bin/sh` runs them. Where it does not (the local
    one at every level), a small shell of file and text commands does, and says so about all else. It
    shares the sandbox, and so the files, with the python tool.
    """

    name = "shell"
    parallel = False

    def __init__(
        self, *, timeout_s: float = 10.0, max_chars: int = 2000, small: bool = True
    ) -> None:
        """`timeout_s` bounds one command, `max_chars` what is shown of its output; `small=False`
        refuses where no process can be started instead of using the small shell."""
        if timeout_s <= 0 or max_chars < 2:
            raise ValueError(f"timeout_s > 0 and max_chars >= 2, not {timeout_s:g}, {max_chars}")
        self._timeout_s = timeout_s
        self._max_chars = max_chars
        self._small = small
        self._refused = False
        self._shell, self._commands = Inside("shell"), Inside("small_shell", "files", "commands")
        self._ctx: Context | None = None
        self._sandbox: Sandbox | None = None

    @property
    def description(self) -> str:
        """Addressed to the model."""
        return (
            "Runs a shell command in a sandbox. The working folder and files last from call to call. "
            f"Each call may take {self._timeout_s:g} seconds."
        )

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """One argument, `command`."""
        command = {"type": "string", "description": "One or more shell commands."}
        return {"type": "object", "properties": {"command": command}, "required": ["command"]}

    async def open(self, ctx: Context) -> None:
        """Remember where to lease a sandbox."""
        self._ctx = ctx

    async def __call__(self, **arguments: JsonValue) -> ToolResult:
        """Run `command`. Raises ToolError when it cannot be run, SandboxError when the box failed."""
        command = str(arguments["command"])
        if not command.strip():
            raise ToolError("There is no command to run.")
        if len(command) > MAX_COMMAND:
            raise ToolError(f"The command is longer than {MAX_COMMAND} characters; write a file.")
        if self._ctx is None:
            raise RuntimeError("open() the shell tool before calling it")
        if self._sandbox is None:
            self._sandbox = await self._ctx.lease_sandbox()
        reply = await self._ran(self._sandbox, command, self._ctx.remaining_s(self._timeout_s))
        output, code = str(reply.get("output", "")).rstrip("\n"), reply.get("code")
        parts = [output] if output else []
        error: ToolFault | None = None
        if reply.get("timeout") is True:
            parts.append(f"[stopped after {self._timeout_s:g} s]")
            error = "timeout"
        elif code != 0:
            parts.append(f"[exit code {code}]")
            error = "execution"
        clipped = clip_middle("\n".join(parts) or SILENT, self._max_chars)
        return ToolResult("", clipped.text, error=error, truncated=clipped.truncated)

    async def _ran(self, sandbox: Sandbox, command: str, timeout_s: float) -> Mapping[str, object]:
        if not self._refused:
            result = await self._shell.call(
                sandbox, "run", command, timeout_s, timeout_s=timeout_s + _GRACE_S
            )
            reply = _reply(result)
            if "refused" not in reply:
                return reply
            self._refused = True
        if not self._small:
            raise ToolError("This sandbox starts no processes, so there is no shell; use Python.")
        return _reply(await self._commands.call(sandbox, "run", command, timeout_s=timeout_s))

    async def fork(self, n: int) -> list[ShellTool]:
        """Copies that go on in the present folder: their leases hold copied interpreters."""
        made = [
            ShellTool(timeout_s=self._timeout_s, max_chars=self._max_chars, small=self._small)
            for _ in range(n)
        ]
        for tool in made:
            tool._refused = self._refused
        return made

    async def close(self) -> None:
        """Let go of the lease; the episode that granted it closes it."""
        self._sandbox = None
        self._ctx = None


def _reply(result: ExecResult) -> Mapping[str, object]:
    """The JSON object a call returned. Raises ToolError when it did not end well."""
    lost = " The interpreter restarted; files may be gone." if result.state_lost else ""
    match result.status:
        case "timeout" | "cpu_limit":
            raise ToolError(f"The command took too long and was stopped.{lost}")
        case "oom":
            raise ToolError(f"The command took too much memory.{lost}")
        case _:
            pass
    text = told(result)
    try:
        reply: object = json.loads(text or "")
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise ToolError(f"The command ended the interpreter or broke the shell.{lost}")
    return cast(Mapping[str, object], reply)
