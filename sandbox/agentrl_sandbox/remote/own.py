"""Sessions of agentrl's own server: real state, every fact of a result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from secrets import token_hex
from typing import Any, get_args

from agentrl.errors import SandboxError
from agentrl.sandbox import LEVELS, ExecResult, ExecStatus
from agentrl_sandbox.remote.wire import Answer, Body, Wire

CLOSE_S = 5.0
"""For giving a session back; a server that does not hear of it closes it for idleness."""
_STATUSES = frozenset(get_args(ExecStatus))
_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,), "str | None": (str, type(None)), "int": (int,), "int | None": (int, type(None)),
    "float": (int, float), "bool": (bool,), "ExecStatus": (str,), "IsolationLevel": (str,),
}  # fmt: skip


def parse_result(body: Body, queue_s: float) -> ExecResult:
    """A server's result, every field checked; `queue_s` of our own waiting is added.

    Raises SandboxError when it is not one.
    """
    told: dict[str, Any] = {}
    for field in fields(ExecResult):
        if field.name in body:
            value = body[field.name]
            if not isinstance(value, _KINDS[str(field.type)]):
                raise SandboxError(
                    f"the sandbox server sent a result whose {field.name} is {value!r}"
                )
            told[field.name] = value
    if told.get("status") not in _STATUSES or told.get("isolation") not in LEVELS:
        raise SandboxError(f"the sandbox server sent no result but {str(body)[:200]}")
    return replace(ExecResult(**told), queue_s=told.get("queue_s", 0.0) + queue_s)


def expected(answer: Answer) -> Body:
    """The fields of a good answer. Raises SandboxError with what a bad one says."""
    if answer.status != 200:
        said = answer.body.get("error") if isinstance(answer.body, Mapping) else answer.body
        raise SandboxError(f"the sandbox server refused ({answer.status}): {str(said)[:300]}")
    return answer.fields


class OwnSandbox:
    """One interpreter on the server, leased under an id that only we know."""

    def __init__(
        self,
        wire: Wire,
        *,
        slack_s: float,
        ran: Callable[[ExecResult], None],
        released: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._path = f"/agentrl/sessions/{token_hex(16)}"
        self._slack_s = slack_s
        self._ran = ran
        self._released = released
        self._lock = asyncio.Lock()
        self._runs = 0
        self._closed = False

    async def lease(self, wait_s: float) -> None:
        """Make the session. Raises SandboxError when none can be had within `wait_s`."""
        expected(await self._wire.ask("PUT", self._path, budget_s=wait_s, repeatable=True))

    async def run(self, code: str, *, timeout_s: float) -> ExecResult:
        """Execute `code`; see the contract. A run whose answer was lost is asked for again under its
        number, and not run twice. Raises SandboxError."""
        async with self._lock:
            self._refuse_if_closed()
            self._runs += 1
            body: Body = {"run": self._runs, "code": code, "timeout_s": timeout_s}
            answer = await self._wire.ask(
                "POST", f"{self._path}/run", body,
                budget_s=timeout_s + self._slack_s, repeatable=True,
            )  # fmt: skip
            result = parse_result(expected(answer), answer.queue_s)
            self._ran(result)
            return result

    async def reset(self) -> None:
        """Forget all state; see the contract."""
        async with self._lock:
            self._refuse_if_closed()
            path = f"{self._path}/reset"
            expected(
                await self._wire.ask("POST", path, {}, budget_s=self._slack_s, repeatable=True)
            )

    async def close(self) -> None:
        """Give the session back. Idempotent; a run in flight ends at once."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._wire.ask("DELETE", self._path, budget_s=CLOSE_S, repeatable=True)
        except SandboxError:
            pass  # the server closes what nobody uses
        finally:
            self._released()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise SandboxError("this sandbox session is closed")


__all__ = ["OwnSandbox", "expected", "parse_result"]
