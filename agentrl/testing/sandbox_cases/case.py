"""One case of the sandbox kit as data: code to run, and a verdict drawn on this side.

A case is judged in a `Cell`: one back end at one level, as root or as an ordinary user. Where it is
known to leak, the case says so with the reason; there it must leak, so that documentation and
tests cannot drift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentrl.sandbox import ExecResult, IsolationLevel, SandboxLimits
from agentrl.testing.sandbox_cases.stage import Need, Stage

Danger: TypeAlias = Literal["harmless", "escape", "memory", "disk", "processes"]
"""What a box that fails the case lets happen: nothing; a poke at things of the case's own making;
or a bounded bomb, of which one runs at a time. Only `harmless` ones run without isolation."""

User: TypeAlias = Literal["root", "apart", "ordinary"]
"""`apart`: this side is root's, but each session runs as a user of its own, as they do where another
user can reach the interpreter."""

SHORT_S = 0.3
"""Deadline of code that never ends."""
LONG_S = 20.0
"""Deadline of code that ends by itself, long before."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a case is judged."""

    backend: str
    """Name under which the pool is registered."""
    level: IsolationLevel
    user: User
    """Who runs this side, and its sessions."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Cells in which a case is known to leak; an empty tuple matches everything."""

    reason: str
    """One clause, printed with the result."""
    backends: tuple[str, ...]
    """Never empty: nothing is known of a stranger's back end."""
    levels: tuple[IsolationLevel, ...] = ()
    users: tuple[User, ...] = ()
    certain: bool = True
    """False: it takes a race that the code may lose, so that it held proves nothing."""

    def covers(self, cell: Cell) -> bool:
        """Whether the leak is known in `cell`."""
        return (
            cell.backend in self.backends
            and (not self.levels or cell.level in self.levels)
            and (not self.users or cell.user in self.users)
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a case."""

    code: str
    who: str = "one"
    """Name of the session; a new name leases another one of the same pool."""
    timeout_s: float = LONG_S
    reset: bool = False
    """Reset the session before."""
    pause_s: float = 0.0
    """Wait on this side before."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What this side saw of a case; all a verdict may use."""

    results: tuple[ExecResult, ...]
    """One per step."""
    took_s: tuple[float, ...]
    """Seconds that each step took by this side's clock, waiting for a slot included."""
    closed_s: float
    """Seconds that closing the sessions took."""
    stage: Stage
    limits: SandboxLimits

    @property
    def last(self) -> ExecResult:
        """Result of the last step."""
        return self.results[-1]

    @property
    def text(self) -> str:
        """Everything that came out of all steps."""
        parts = ((r.stdout, r.stderr, r.value or "", r.error or "") for r in self.results)
        return "\n".join(text for result in parts for text in result)


Verdict: TypeAlias = Callable[[Seen], str]
"""Empty when the promise held, otherwise what went wrong. Runs in a thread: it may block."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that code does, and how one tells that it was in vain, or that it worked."""

    name: str
    """The promise, as it is listed: `cannot connect to this machine`."""
    row: str
    """Row of the hostile suite in the sandbox's documentation; empty for cases added since."""
    code: str | tuple[Step, ...]
    """Sees the names of `prelude.PRELUDE` and `Stage.told`."""
    verdict: Verdict
    danger: Danger = "escape"
    needs: tuple[Need, ...] = ()
    """Things of this machine to set up before; or what it must be, else the case is skipped."""
    known: tuple[Leak, ...] = ()
    timeout_s: float = LONG_S
    """Of a `code` that is text."""
    slow: bool = False
    """Takes seconds even where it holds."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The runs in order."""
        if isinstance(self.code, str):
            return (Step(self.code, timeout_s=self.timeout_s),)
        return self.code

    @property
    def id(self) -> str:
        """The name as a test identifier."""
        words = "".join(c if c.isalnum() else " " for c in self.name).split()
        return "_".join(words)

    def known_leak(self, cell: Cell) -> Leak | None:
        """How the case leaks in `cell`, None where it must hold."""
        return next((leak for leak in self.known if leak.covers(cell)), None)
