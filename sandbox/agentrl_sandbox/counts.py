"""What a pool of forked interpreters counts about itself, for metrics."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.sandbox import ExecResult


@dataclass(slots=True)
class Counts:
    """Since the pool was opened; the pool makes the contract's snapshot of them."""

    runs: int = 0
    restarts: int = 0
    refused: int = 0
    expired: int = 0
    timeouts: int = 0
    ooms: int = 0
    queue_s: float = 0.0
    run_s: float = 0.0

    def began(self) -> None:
        """Count a run from its start, so that one in flight is seen."""
        self.runs += 1

    def replaced(self) -> None:
        """Count an interpreter or zygote that was lost."""
        self.restarts += 1

    def ended(self, result: ExecResult) -> None:
        """Count what a run came to."""
        self.queue_s += result.queue_s
        self.run_s += result.wall_s
        self.timeouts += result.status in ("timeout", "cpu_limit")
        self.ooms += result.status == "oom"
