"""The trusted side's talk with the far side of grading: one leased session, cell by cell."""

from __future__ import annotations

import asyncio
import base64
import json
import marshal
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.util import MAGIC_NUMBER
from secrets import token_hex
from typing import Any, cast

from agentrl.errors import SandboxError, UserError
from agentrl.sandbox import ExecResult, Sandbox
from agentrl.verify.code import mailbox

HARNESS = "the code broke the test harness in its process"
_NAME = "_agentrl"
_START_S = 30.0
_LOAD = """
import sys, types
from base64 import b64decode
from importlib.util import MAGIC_NUMBER
from marshal import loads
def _load(name, source, compiled):
    module = sys.modules[name] = types.ModuleType(name)
    same = MAGIC_NUMBER == {magic!r}
    exec(loads(b64decode(compiled)) if same else compile(source, name, "exec"), module.__dict__)
    return module
_load("agentrl.verify.code.literals", *{literals!r})
{name} = _load("agentrl.verify.code.mailbox", *{mailbox!r})
{role} = _load("agentrl.verify.code.{side}", *{source!r}).{kind}()
{name}.CANARY
"""


class Refused(Exception):
    """The code in the session did not do what was asked; the message says how it failed."""


class TimedOut(Refused):
    """It took too long."""


@cache
def _module(name: str) -> tuple[str, str]:
    """Source of a module, and its code for sessions of this very Python: a tenth of the time."""
    source = files("agentrl.verify.code").joinpath(f"{name}.py").read_text(encoding="utf-8")
    compiled = marshal.dumps(compile(source, name, "exec"))
    return source, base64.b64encode(compiled).decode()


class Conversation:
    """One session in which the object of one side lives: `Solution` or `Tester`."""

    def __init__(self, sandbox: Sandbox, kind: str) -> None:
        self._sandbox = sandbox
        self._kind = kind
        self._role = "_role"

    async def begin(self) -> None:
        """Load the far side into a fresh session, before any code under test.

        Raises SandboxError when the session cannot run it, UserError when its output limit is too
        small to grade through.
        """
        cell = _LOAD.format(
            magic=MAGIC_NUMBER,
            literals=_module("literals"),
            mailbox=_module("mailbox"),
            side=self._kind.lower(),
            source=_module(self._kind.lower()),
            name=_NAME,
            role=self._role,
            kind=self._kind,
        )
        result = await self._sandbox.run(cell, timeout_s=_START_S)
        if result.status != "ok":
            raise _broken_box(result)
        if result.value != repr(mailbox.CANARY):
            raise UserError(
                "grading code needs sandbox.limits.output_bytes of at least "
                f"{mailbox.PART_CHARS + 256}; raise it"
            )

    async def ask(self, method: str, *arguments: object, timeout_s: float) -> Mapping[str, Any]:
        """Call a method and take its reply. Raises Refused; SandboxError when the box failed.

        What comes back is checked to be JSON that answers this very question, nothing more.
        """
        nonce = token_hex(8)
        told = ", ".join(repr(argument) for argument in (nonce, *arguments))
        reply = await self._reply(f"{self._role}.{method}({told})", timeout_s)
        parts = reply.get("parts")
        if isinstance(parts, int) and 1 < parts <= -(-mailbox.MAX_CHARS // mailbox.PART_CHARS):
            reply = await self._fetched(parts, timeout_s)
        if reply.get("nonce") != nonce:
            raise Refused(HARNESS)
        return reply

    async def _fetched(self, parts: int, timeout_s: float) -> Mapping[str, Any]:
        pieces: list[str] = []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        for index in range(parts):
            # All parts share one deadline: each of them is code that the solution may have replaced.
            left_s = max(deadline - loop.time(), 0.001)
            result = await self.run(f"{self._role}.mail.part({index})", left_s)
            pieces.append(result.value or "")
        return _parsed("".join(pieces))

    async def _reply(self, cell: str, timeout_s: float) -> Mapping[str, Any]:
        return _parsed((await self.run(cell, timeout_s)).value)

    async def run(self, cell: str, timeout_s: float) -> ExecResult:
        """Run a cell that must end well. Raises Refused with what went wrong."""
        result = await self._sandbox.run(cell, timeout_s=timeout_s)
        if result.status in ("timeout", "cpu_limit"):
            raise TimedOut(f"timed out after {timeout_s:g} s")
        if result.status != "ok":
            raise Refused(_failure(result))
        return result

    async def program(self, source: str, stdin: str, timeout_s: float) -> ExecResult:
        """Run a whole program; see `Solution.program`. Raises Refused."""
        return await self.run(f"{self._role}.program({source!r}, {stdin!r})", timeout_s)

    async def restart(self) -> None:
        """Begin again in a fresh interpreter."""
        await self._sandbox.reset()
        await self.begin()


def _broken_box(result: ExecResult) -> SandboxError:
    why = result.error or result.stderr[-200:]
    return SandboxError(f"the session could not be prepared for grading: {result.status} {why}")


def _parsed(text: str | None) -> Mapping[str, Any]:
    try:
        reply: object = json.loads(text or "")
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise Refused(HARNESS)
    return cast(dict[str, Any], reply)


def _failure(result: ExecResult) -> str:
    match result.status:
        case "oom":
            return "out of memory"
        case "output_limit":
            return result.error or "too much output"
        case "exited":
            return f"the interpreter was ended with exit code {result.exit_code}"
        case "signal":
            return f"the interpreter was ended by signal {result.signal}"
        case _:
            return result.error or "the code failed without a message"


__all__ = ["HARNESS", "Conversation", "Refused", "TimedOut"]
