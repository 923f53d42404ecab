"""The `none` sandbox: the same sessions with no isolation at all, for those who ask for it."""

from __future__ import annotations

import logging

from agentrl.sandbox import IsolationLevel, SandboxLimits
from agentrl_sandbox.pool import ForkPool
from agentrl_sandbox.size import Size

_log = logging.getLogger("agentrl.sandbox.none")


class UnsafePool(ForkPool):
    """Runs model code as the current user; only resource limits and deadlines hold.

    Model code can read and delete your files and use the network. Never chosen automatically.
    """

    def __init__(
        self,
        *,
        limits: SandboxLimits = SandboxLimits(),  # noqa: B008 - frozen
        python: str | None = None,
        max_sessions: int = 64,
        spares: int = 2,
        wait_s: float = 600.0,
        idle_s: float = 3600.0,
        max_cells: int | None = None,
    ) -> None:
        super().__init__(limits, python, Size(max_sessions, spares, wait_s, idle_s, max_cells))

    async def _choose_level(self) -> IsolationLevel:
        _log.warning(
            "sandbox=none: MODEL CODE RUNS WITHOUT ANY ISOLATION, as this user, with your files "
            "and your network"
        )
        return "none"
