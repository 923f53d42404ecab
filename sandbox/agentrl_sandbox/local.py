"""The `local` sandbox: sessions of this machine's Python behind the best fence it can put up."""

from __future__ import annotations

import asyncio
import logging
import sys

from agentrl.errors import SandboxUnavailable
from agentrl.sandbox import LEVELS, IsolationLevel, SandboxLimits
from agentrl_sandbox.pool import ForkPool
from agentrl_sandbox.probe import Capabilities, probe
from agentrl_sandbox.size import Size

_log = logging.getLogger("agentrl.sandbox.local")


class LocalPool(ForkPool):
    """Stateful interpreters forked from a warm zygote; refuses to open below `min_isolation`.

    `python`: interpreter for the sandbox, another virtual environment perhaps (3.11 or later).
    `max_isolation`: do not go above this level; for tests and comparisons.
    """

    def __init__(
        self,
        *,
        limits: SandboxLimits = SandboxLimits(),  # noqa: B008 - frozen
        min_isolation: IsolationLevel = "lite",
        python: str | None = None,
        max_sessions: int = 64,
        spares: int = 2,
        wait_s: float = 600.0,
        idle_s: float = 3600.0,
        max_cells: int | None = None,
        max_isolation: IsolationLevel = "strong",
    ) -> None:
        super().__init__(limits, python, Size(max_sessions, spares, wait_s, idle_s, max_cells))
        self._least: IsolationLevel = min_isolation
        self._most: IsolationLevel = max_isolation

    async def _choose_level(self) -> IsolationLevel:
        found = await asyncio.to_thread(probe, self._python)
        level: IsolationLevel = LEVELS[min(map(LEVELS.index, (found.level, self._most)))]
        if LEVELS.index(level) < LEVELS.index(self._least):
            if level != found.level:
                raise SandboxUnavailable(
                    f"max_isolation={self._most!r} is below min_isolation={self._least!r}: raise "
                    f"the one or lower the other; {remedy(found, self._least)}"
                )
            raise SandboxUnavailable(remedy(found, self._least))
        if LEVELS.index(found.level) < LEVELS.index("standard"):
            _log.warning("sandbox isolation is %r: %s", level, found.why_not("standard"))
        return level

    def doctor_lines(self) -> list[str]:
        """What this machine can isolate, one line per primitive."""
        return probe(self._python).lines()


def remedy(found: Capabilities, wanted: IsolationLevel) -> str:
    """One sentence: what is missing here for `wanted`, and what to do about it."""
    begin = f"sandbox isolation {wanted!r} is not available here (only {found.level!r}): "
    if sys.platform == "darwin":
        return begin + (
            "macOS has no namespaces, Landlock or seccomp; run agentrl in a Linux container "
            '(docker run --rm -it -v "$PWD":/src -w /src python:3.11 bash -c '
            "'pip install -e . && agentrl train env=retool_math'), "
            "or use sandbox=none to run model code without any isolation"
        )
    if sys.platform != "linux":
        return begin + "run agentrl inside WSL 2"
    why = found.why_not(wanted)
    if wanted == "strong":
        return begin + (
            f"{why}; run as root where /sys/fs/cgroup can be written to (in a container "
            "`--cgroupns=private` and that folder mounted read-write), or as a user in a group of "
            "your own (`systemd-run --user --scope -p Delegate=yes`), or ask for 'standard'"
        )
    if wanted == "standard":
        return begin + (
            f"{why}; allow unprivileged user namespaces, in a container with "
            "`--security-opt seccomp=unconfined` (and apparmor=unconfined where AppArmor is on)"
        )
    return begin + (
        f"{why}; it needs a kernel from 5.13 on with Landlock and seccomp enabled, in a container "
        "perhaps `--security-opt seccomp=unconfined`, or use sandbox=none to run without isolation"
    )
