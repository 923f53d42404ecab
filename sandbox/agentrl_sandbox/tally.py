"""What a pool counts for its statistics."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.sandbox import ExecResult, PoolStatistics


@dataclass(slots=True)
class Tally:
    """Counts since a pool was opened."""

    runs: int = 0
    restarts: int = 0
    """Interpreters, kernels or containers lost and replaced."""
    refused: int = 0
    queue_s: float = 0.0
    run_s: float = 0.0
    timeouts: int = 0
    ooms: int = 0
    waiting: int = 0
    """Leases that wait for a slot now."""

    def count(self, result: ExecResult) -> None:
        """Take a result that is about to be returned."""
        self.runs += 1
        self.restarts += result.state_lost
        self.run_s += result.wall_s
        self.queue_s += result.queue_s
        self.timeouts += result.status in ("timeout", "cpu_limit")
        self.ooms += result.status == "oom"

    def statistics(self, *, open_sessions: int, spares: int = 0) -> PoolStatistics:
        """The counts, with what only the pool knows."""
        return PoolStatistics(
            open_sessions=open_sessions,
            waiting=self.waiting,
            runs=self.runs,
            restarts=self.restarts,
            spares=spares,
            refused=self.refused,
            queue_s=self.queue_s,
            run_s=self.run_s,
            timeouts=self.timeouts,
            ooms=self.ooms,
        )
