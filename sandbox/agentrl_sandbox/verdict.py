"""Putting a run into words: what the trusted side saw becomes the status and the error text."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from agentrl.sandbox import ExecStatus, SandboxLimits
from agentrl_sandbox.child import Exit
from agentrl_sandbox.conversation import Ending
from agentrl_sandbox.inside import wire

Overdue = Literal["timeout", "cpu_limit"]


@dataclass(frozen=True, slots=True)
class Course:
    """How one run went."""

    ending: Ending
    overdue: Overdue | None
    """Which time ran out before the code ended by itself."""
    wall_s: float
    out_of_memory: bool = False
    """The kernel killed something in the session's memory cgroup during the run."""


def status_of_exit(exit_: Exit) -> ExecStatus:
    """How an interpreter ended that nobody out here meant to end."""
    if exit_.signal == signal.SIGXCPU:
        return "cpu_limit"
    return "exited" if exit_.signal is None else "signal"


def status_of(course: Course, reply: wire.Reply | None, exit_: Exit | None) -> ExecStatus:
    """The contract's status of a run."""
    if course.ending in ("flood", "disk"):
        return "output_limit"
    if course.out_of_memory and exit_ is not None and exit_.signal == signal.SIGKILL:
        return "oom"
    if course.overdue is not None:
        return course.overdue
    if course.ending == "broken":
        return "error"
    if exit_ is not None:
        return status_of_exit(exit_)
    return "ok" if reply is not None and reply.kind == wire.OK else "error"


def error_of(
    course: Course, reply: wire.Reply | None, timeout_s: float, limits: SandboxLimits
) -> str | None:
    """The contract's `error` of a run: ours where we ended it, else what the code claims."""
    if course.ending == "disk":
        return f"the work folder grew beyond {limits.disk_mb} MB"
    if course.ending == "flood":
        return "the output grew beyond all bounds"
    if course.out_of_memory:
        return f"MemoryError: the code used more than {limits.memory_mb} MB and was killed"
    if course.overdue == "timeout":
        return f"TimeoutError: the code did not finish within {timeout_s:g} s"
    if course.overdue == "cpu_limit":
        return f"TimeoutError: the code used more than {limits.cpu_s:g} s of CPU time"
    if course.ending == "broken":
        return "the code broke the interpreter's control channel"
    return reply.error if course.ending == "done" and reply else None
