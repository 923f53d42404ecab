"""The sandbox contract: where model-written code runs.

A `SandboxPool` belongs to a run; it probes once what the machine can isolate and refuses to open
below the demanded level. A `Sandbox` is one stateful interpreter leased to one trajectory. Facts
about a run (status, exit code, signal, times, memory) come from the trusted side only; everything
the code printed or claimed about itself is data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

IsolationLevel = Literal["none", "minimal", "lite", "standard", "strong"]
LEVELS: tuple[IsolationLevel, ...] = ("none", "minimal", "lite", "standard", "strong")
"""Weakest to strongest."""

ExecStatus = Literal[
    "ok", "error", "timeout", "cpu_limit", "oom", "output_limit", "signal", "exited"
]
"""`error`: the code raised; `exited`: the interpreter ended itself (`os._exit`, `sys.exit`);
`timeout`: too much wall time; `cpu_limit`: too much CPU time; `oom`: the memory cgroup was full;
`output_limit`: a flood of output, or a work folder beyond its size. That the box itself failed is no
status: `run` raises SandboxError then."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one session may use."""

    memory_mb: int = 512
    """Address space beyond the warm interpreter's own; also the memory cgroup where there is one."""
    disk_mb: int = 64
    """Size of the private work folder."""
    output_bytes: int = 65_536
    """Kept of each of stdout and stderr, half from the start and half from the end."""
    open_files: int = 64
    cpu_s: float | None = None
    """CPU seconds one run may use, all its threads together; None: only `timeout_s` counts. On a
    loaded machine judge by CPU: `cpu_s=T` with `timeout_s=3 * T + 1`."""
    processes: int = 64
    """Threads and processes together, where the back end can count them."""
    cpus: float | None = None
    """Cores that one session may keep busy, where there are cgroups; None: no bound."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """One piece of code, run."""

    status: ExecStatus
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    """`repr` of a last bare expression, as a notebook would echo it; claimed by the code's process."""
    error: str | None = None
    """Last line of the traceback, such as `ZeroDivisionError: division by zero`; likewise claimed."""
    exit_code: int | None = None
    """Set when the interpreter ended; None while the session lives on."""
    signal: int | None = None
    """The signal that ended the interpreter, if one did."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    queue_s: float = 0.0
    """Seconds spent waiting for a slot before the clock of `timeout_s` started."""
    peak_rss_mb: float = 0.0
    stdout_dropped: int = 0
    """Bytes of stdout that exceeded `output_bytes`; never dropped silently."""
    stderr_dropped: int = 0
    isolation: IsolationLevel = "none"
    state_lost: bool = False
    """True when the interpreter had to be killed: the next `run` starts from a fresh one."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment."""

    open_sessions: int
    waiting: int
    runs: int
    """Executions since the pool was opened."""
    restarts: int
    """Sessions or zygotes lost and replaced."""
    spares: int = 0
    """Interpreters that stand ready to be leased."""
    refused: int = 0
    """Calls of `acquire` that gave up waiting for a slot."""
    queue_s: float = 0.0
    """Seconds that leases and runs waited for a slot or an interpreter, all together."""
    run_s: float = 0.0
    """Wall seconds of all runs together; waiting is not in it."""
    timeouts: int = 0
    """Runs that ended as `timeout` or `cpu_limit`."""
    ooms: int = 0
    """Runs that ended as `oom`."""
    expired: int = 0
    """Sessions closed because nobody used them for too long."""
    copies: int = 0
    """Of the open sessions, those made by `fork`: they take no slot, so that forking never waits."""
    capacity: int = 0
    """Sessions that may be leased at once, copies aside; 0 is not known."""


@runtime_checkable
class Sandbox(Protocol):
    """One stateful interpreter, private to one trajectory."""

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """Execute `code` in the session's namespace.

        Raises SandboxError when the box, not the code, failed.
        """
        ...

    async def reset(self) -> None:
        """Forget all state; the next `run` sees a fresh interpreter."""
        ...

    async def close(self) -> None:
        """Release the session and kill whatever it left behind. Idempotent."""
        ...


@runtime_checkable
class SandboxPool(Protocol):
    """Makes sandboxes; one per run, found by name under `agentrl.sandboxes`."""

    @property
    def isolation(self) -> IsolationLevel:
        """The level probed by doing; meaningful once open."""
        ...

    async def open(self) -> None:
        """Probe and warm up. Raises SandboxUnavailable with the exact remedy."""
        ...

    async def acquire(self) -> Sandbox:
        """Lease a fresh interpreter.

        Waits while all slots are taken. Raises SandboxError when none can be made or none came
        free in time.
        """
        ...

    async def close(self) -> None:
        """End every session and process this pool started. Idempotent."""
        ...

    def statistics(self) -> PoolStatistics:
        """Counts for metrics."""
        ...


@runtime_checkable
class OneShot(Protocol):
    """Pools with a path for code that needs no session: one fresh interpreter per run."""

    async def run_once(self, code: str, *, timeout_s: float) -> ExecResult:
        """Run `code` in an interpreter of its own and throw that away.

        The result says `state_lost=False`: there is no state to lose. Raises SandboxError when the
        box, not the code, failed.
        """
        ...


@runtime_checkable
class Interruptible(Protocol):
    """Sessions whose running code can be stopped from outside, as Ctrl-C does."""

    async def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the code that runs; without any, nothing happens.

        The run ends as `error` and the session lives on, unless the code takes no notice.
        """
        ...
