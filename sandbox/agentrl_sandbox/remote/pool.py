"""The `remote` sandbox: interpreters of a server, agentrl's own or any SandboxFusion."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Literal

from agentrl.errors import SandboxError, SandboxUnavailable, UserError
from agentrl.sandbox import LEVELS, ExecResult, IsolationLevel, PoolStatistics, Sandbox
from agentrl_sandbox.counts import Counts
from agentrl_sandbox.remote.fusion import FusionTerms, ReplaySandbox, run_code
from agentrl_sandbox.remote.own import OwnSandbox, expected, parse_result
from agentrl_sandbox.remote.wire import Body, Unauthorized, Unreachable, Wire, Wiring
from agentrl_sandbox.slots import Slots

PROTOCOL = 1
TOKEN_ENV = "AGENTRL_SANDBOX_TOKEN"
_OPEN_S = 20.0
_log = logging.getLogger("agentrl.sandbox.remote")
State = Literal["refuse", "replay"]


class RemotePool:
    """Leases sessions from a server over HTTP.

    agentrl's own server (`agentrl sandbox serve`) keeps real state and says how it isolates. Any other
    SandboxFusion runs single programs; it says nothing about isolation, so it counts as `none`
    unless `trust_isolation` states a level, and it keeps no state, so sessions are refused unless
    `state="replay"` runs all earlier cells again before each new one.
    """

    def __init__(
        self,
        *,
        url: str,
        min_isolation: IsolationLevel = "lite",
        trust_isolation: IsolationLevel | None = None,
        state: State = "refuse",
        token_env: str = TOKEN_ENV,
        max_sessions: int = 64,
        wait_s: float = 600.0,
        slack_s: float = 60.0,
        retries: int = 5,
        memory_mb: int | None = None,
        output_bytes: int = 65_536,
    ) -> None:
        """`url`: such as http://10.0.0.5:8080. `token_env`: environment variable that holds the
        server's token, if it wants one. `max_sessions`: leases and requests at once. `wait_s`:
        longest wait for a lease. `slack_s`: seconds beyond a run's own that its answer may take,
        the server's queue included. `retries`: further attempts when the server is busy or away.
        `memory_mb`, `output_bytes`: of a stranger's runs; agentrl's own server has its own limits.

        Raises UserError on an address that is none.
        """
        if not url.startswith(("http://", "https://")):
            raise UserError(f"sandbox.url={url!r} must begin with http:// or https://")
        if slack_s <= 0 or retries < 0:
            raise UserError("sandbox.slack_s must be positive and sandbox.retries not negative")
        token = os.environ.get(token_env) or None
        self._token_env = token_env
        self._wire = Wire(Wiring(url, token, at_once=max_sessions, retries=retries))
        self._least: IsolationLevel = min_isolation
        self._trusted: IsolationLevel | None = trust_isolation
        self._state: State = state
        self._wait_s, self._slack_s = wait_s, slack_s
        self._memory_mb, self._output_bytes = memory_mb, output_bytes
        self._counts = Counts()
        self._slots = Slots(max_sessions, wait_s, self._counts)
        self._level: IsolationLevel | None = None
        self._own = False
        self._sessions: set[Sandbox] = set()

    @property
    def isolation(self) -> IsolationLevel:
        """What the server says, or what the user states for a stranger's; `none` before `open`."""
        return self._level or "none"

    async def open(self) -> None:
        """Find out whose server it is and how it isolates.

        Raises SandboxUnavailable when it cannot be reached, wants another token or isolates less than
        `min_isolation`; UserError when an option does not fit the server.
        """
        if self._level is None:
            try:
                self._level, self._own = await self._admitted()
            except BaseException:
                await self._wire.close()
                raise

    async def _admitted(self) -> tuple[IsolationLevel, bool]:
        """The server's level, high enough, and whether it is agentrl's own."""
        try:
            level, own = await self._greet()
        except Unauthorized as error:
            raise SandboxUnavailable(f"{error}; set ${self._token_env} to its token") from error
        except Unreachable as error:
            raise SandboxUnavailable(
                f"{error}; start one with `agentrl sandbox serve`, or set sandbox.url"
            ) from error
        except SandboxError as error:
            raise SandboxUnavailable(str(error)) from error
        if own and self._memory_mb is not None:
            raise UserError("sandbox.memory_mb is the server's to set; leave it out here")
        if LEVELS.index(level) < LEVELS.index(self._least):
            raise SandboxUnavailable(self._remedy(level, own))
        if LEVELS.index(level) < LEVELS.index("standard"):
            _log.warning("sandbox isolation of %s is %r", self._wire.url, level)
        return level, own

    async def _greet(self) -> tuple[IsolationLevel, bool]:
        answer = await self._wire.ask("GET", "/agentrl", budget_s=_OPEN_S, repeatable=True)
        if answer.status == 200 and "agentrl" in answer.fields:
            protocol, said = answer.fields.get("protocol"), answer.fields.get("isolation")
            level: IsolationLevel | None = next((known for known in LEVELS if known == said), None)
            if protocol != PROTOCOL or level is None:
                raise SandboxError(
                    f"the server {self._wire.url} speaks protocol {protocol!r} and this agentrl "
                    f"{PROTOCOL}: use the same version on both sides"
                )
            return level, True
        return await self._greet_stranger(), False

    async def _greet_stranger(self) -> IsolationLevel:
        """A stranger is tried before it is believed to be a sandbox."""
        level: IsolationLevel = self._trusted or "none"
        terms = self._terms(level, counted=False)
        tried = await run_code(self._wire, "print(6 * 7)", 10.0, terms)
        if tried.stdout != "42\n" or tried.status != "ok":
            raise SandboxError(f"the server {self._wire.url} gave {tried} for print(6 * 7)")
        return level

    def _remedy(self, level: IsolationLevel, own: bool) -> str:
        begin = f"sandbox isolation {self._least!r} is not offered by {self._wire.url} (only {level!r}): "
        if own:
            return begin + (
                "run its `agentrl sandbox serve` where `agentrl doctor` shows that level, or set "
                "sandbox.min_isolation"
            )
        return begin + (
            "it is a SandboxFusion, which does not say how it isolates; state it yourself with "
            "sandbox.trust_isolation, or use `agentrl sandbox serve` there"
        )

    def _terms(self, level: IsolationLevel, *, counted: bool = True) -> FusionTerms:
        return FusionTerms(
            isolation=level,
            slack_s=self._slack_s,
            memory_mb=-1 if self._memory_mb is None else self._memory_mb,
            output_bytes=self._output_bytes,
            ran=self._ran if counted else _uncounted,
        )

    def _ran(self, result: ExecResult) -> None:
        self._counts.began()
        self._counts.ended(result)
        if result.state_lost:
            self._counts.replaced()

    async def acquire(self) -> Sandbox:
        """Lease a fresh interpreter.

        Raises SandboxError when none can be had in time, SandboxUnavailable on a server that keeps
        no state when replaying was not asked for.
        """
        self._refuse_if_closed()
        if not self._own and self._state == "refuse":
            raise SandboxUnavailable(
                f"{self._wire.url} is a SandboxFusion, which keeps no state between runs: set "
                "sandbox.state=replay to run all earlier cells again before each new one, or use "
                "`agentrl sandbox serve` there"
            )
        await self._slots.take()
        try:
            session = await self._session()
        except BaseException:
            self._slots.give_back()
            raise
        self._sessions.add(session)
        return session

    async def _session(self) -> Sandbox:
        def released() -> None:
            self._sessions.discard(session)
            self._slots.give_back()

        session: Sandbox
        if not self._own:
            session = ReplaySandbox(self._wire, self._terms(self.isolation), released)
            return session
        own = OwnSandbox(self._wire, slack_s=self._slack_s, ran=self._ran, released=released)
        session = own
        await own.lease(self._wait_s)
        return session

    async def run_once(self, code: str, *, timeout_s: float) -> ExecResult:
        """Run `code` in an interpreter of its own; see `OneShot`. Raises SandboxError."""
        self._refuse_if_closed()
        if not self._own:
            return await run_code(self._wire, code, timeout_s, self._terms(self.isolation))
        body: Body = {"code": code, "timeout_s": timeout_s}
        answer = await self._wire.ask(
            "POST", "/agentrl/run", body, budget_s=timeout_s + self._slack_s
        )
        result = parse_result(expected(answer), answer.queue_s)
        self._ran(result)
        return result

    def _refuse_if_closed(self) -> None:
        if self._level is None:
            raise SandboxError("the sandbox pool is not open")

    async def close(self) -> None:
        """Give every session back and close the connections. Idempotent."""
        self._level = None
        async with asyncio.TaskGroup() as group:
            for session in list(self._sessions):
                group.create_task(session.close())
        await self._wire.close()

    def statistics(self) -> PoolStatistics:
        """Counts of this client; the server has its own."""
        return self._slots.statistics(open_sessions=len(self._sessions))


def _uncounted(result: ExecResult) -> None:
    """The greeting is no run."""


__all__ = ["RemotePool"]
