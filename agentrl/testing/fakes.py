"""A sandbox that executes nothing: it answers code with results written down beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from agentrl.errors import WorldFault
from agentrl.sandbox import ExecResult, IsolationLevel, PoolStatistics

Reply: TypeAlias = ExecResult | str | WorldFault
"""A result; text, which stands for a run that printed it; or the fault to raise."""

Script: TypeAlias = Callable[[str], Reply] | Sequence[Reply]
"""A function of the code, or replies in order; every sandbox plays a sequence from its start."""


class FakeSandbox:
    """One scripted session."""

    def __init__(self, script: Script = ()) -> None:
        self._script = script
        self.ran: list[str] = []
        """Every piece of code handed over, in order."""
        self.resets = 0
        self.closed = False

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """The next reply. Raises its WorldFault, or AssertionError when the script is used up."""
        if self.closed:
            raise AssertionError("this fake sandbox is closed")
        self.ran.append(code)
        reply = self._reply(code)
        if isinstance(reply, WorldFault):
            raise reply
        return ExecResult("ok", stdout=reply) if isinstance(reply, str) else reply

    def _reply(self, code: str) -> Reply:
        if callable(self._script):
            return self._script(code)
        if len(self.ran) > len(self._script):
            raise AssertionError(f"the script has {len(self._script)} replies; none for {code!r}")
        return self._script[len(self.ran) - 1]

    async def reset(self) -> None:
        """Count the reset."""
        self.resets += 1

    async def close(self) -> None:
        """Refuse further runs."""
        self.closed = True


class FakePool:
    """Hands out scripted sandboxes and remembers them."""

    def __init__(self, script: Script = ()) -> None:
        self._script = script
        self.sandboxes: list[FakeSandbox] = []
        """Every sandbox leased, in order."""

    @property
    def isolation(self) -> IsolationLevel:
        """`none`: nothing runs, and nothing is isolated."""
        return "none"

    async def open(self) -> None:
        """Nothing to probe."""

    async def acquire(self) -> FakeSandbox:
        """A fresh session that plays the script from its start."""
        sandbox = FakeSandbox(self._script)
        self.sandboxes.append(sandbox)
        return sandbox

    async def close(self) -> None:
        """Close every session."""
        for sandbox in self.sandboxes:
            await sandbox.close()

    def statistics(self) -> PoolStatistics:
        """Counts of what was leased and run."""
        return PoolStatistics(
            open_sessions=sum(not sandbox.closed for sandbox in self.sandboxes),
            waiting=0,
            runs=sum(len(sandbox.ran) for sandbox in self.sandboxes),
            restarts=0,
        )
