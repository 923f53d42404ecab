"""The plan `harness`: a program of somebody else is the rollout.

For each sibling the program is started with the address of a gateway in this process. Whatever it
asks there is written by the policy and recorded, whatever it does between two requests is its own
business, and the trajectory is trained on like any other.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import ClassVar, final

from agentrl.chat.base import Tokenizer
from agentrl.errors import UserError, WorldFault
from agentrl.points import Ctx, Services
from agentrl.rollout.faults import told
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Names, Parts
from agentrl.rollout.plans.siblings import side_by_side
from agentrl.rollout.slots import Slots
from agentrl.serve.gateway.backend import Recording
from agentrl.serve.gateway.bench import Bench, bench
from agentrl.serve.gateway.program import Outcome, run_program
from agentrl.serve.gateway.rewards import read_rewards
from agentrl.serve.gateway.server import LOCAL, listening, need_packages
from agentrl.serve.gateway.session import SamplingBy, Session
from agentrl.serve.gateway.turns import Verdict
from agentrl.serve.gateway.wire import ApiError, message_json, tool_specs
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.types import JsonValue, Task

MODEL = "policy"
"""The policy's name at the gateway."""
_log = logging.getLogger("agentrl.serve")


@dataclass(slots=True)
class _Guest:
    """A program's session, and the rewards it gave itself."""

    session: Session
    rewards: Mapping[str, float] | None = None


@dataclass(slots=True)
class _Guests:
    """Implements `Sessions`: those of one group, each under a secret name."""

    open: dict[str, _Guest] = field(default_factory=dict[str, _Guest])

    def find(self, who: str) -> Session:
        """See `Sessions.find`."""
        return self._guest(who).session

    def create(self, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Raises ApiError: the plan begins sessions, one for each program."""
        raise ApiError("sessions begin with their programs here", status=403)

    async def settle(self, who: str, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Keep the reward; the session goes on until its program ends."""
        rewards = read_rewards(body)
        self._guest(who).rewards = rewards
        return {"session": who, "rewards": rewards}

    def _guest(self, who: str) -> _Guest:
        if who not in self.open:
            raise ApiError("there is no such session", status=404, code="session_not_found")
        return self.open[who]


@final
class Harness:
    """A program of your own plays each trajectory, through an OpenAI-compatible address."""

    roles: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        *,
        command: str | tuple[str, ...],
        group_size: int = 8,
        deadline_s: float | None = None,
        in_flight: int = 16,
        sampling: SamplingBy = "run",
        folder: str | None = None,
    ) -> None:
        """Check the settings; nothing is started yet.

        Args:
            command: the program and its arguments. It finds BASE_URL, API_KEY and TASK (JSON: id,
                question, messages, tools, seed) in its environment, and OPENAI_BASE_URL and
                OPENAI_API_KEY, which OpenAI's client reads by itself.
            deadline_s: seconds one program may take; None takes `env.episode_s`.
            in_flight: programs at once.
            sampling: `run` samples at the run's temperature whatever a request says; `request`
                takes the request's temperature and seed and refuses temperature 0 and top_p below 1.
            folder: where the programs run; None is the present one.

        Raises UserError for an empty command, SetupError without the extra `serve`.
        """
        words = shlex.split(command) if isinstance(command, str) else list(command)
        if not words:
            raise UserError("rollout.plan.command names the program, such as '[python, agent.py]'")
        if in_flight < 1 or (deadline_s is not None and deadline_s <= 0):
            raise UserError("rollout.plan needs in_flight >= 1 and deadline_s > 0")
        need_packages()
        self._command, self._group_size = words, group_size
        self._deadline_s, self._folder = deadline_s, folder
        self._sampling: SamplingBy = sampling
        self._slots = Slots(in_flight, name="place for a program")
        self._warned = False

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` programs, each with a session of its own; those the world failed run again."""
        runner = services.episodes
        if not isinstance(runner, Episodes):
            raise UserError("rollout.plan=harness plays the run's own episodes only")
        parts, names = runner.parts.patched(ctx.patch), runner.names(task, ctx)
        guests = _Guests()
        async with _gateway(guests, parts.renderer.tokenizer) as url:

            async def play(sibling: int) -> Trajectory:
                async with self._slots.slot():
                    return await self._played(url, guests, parts, names, sibling)

            members = await side_by_side(range(self._group_size), play)
        return Group(task, members, ctx.step)

    async def _played(
        self, url: str, guests: _Guests, parts: Parts, names: Names, sibling: int
    ) -> Trajectory:
        """One program's run. The world's failures end as data."""
        guest = _Guest(Session(parts, names, sibling, sampling=self._sampling))
        who = f"sk-{token_hex(16)}"
        guests.open[who] = guest
        try:
            async with bench(parts, names, sibling) as judge:
                variables = _variables(url, who, names.task, judge)
                limit_s = self._deadline_s or parts.limits.episode_s
                outcome = await run_program(
                    self._command, variables, timeout_s=limit_s, folder=self._folder
                )
                verdict = await _verdict(guest, outcome, judge)
        except WorldFault as error:
            verdict = Verdict(StopReason.ERROR, error=told(error))
        finally:
            del guests.open[who]
        self._look(guest.session)
        return guest.session.finish(verdict)

    def _look(self, session: Session) -> None:
        """Say once that a program rewrites what was said: each rewriting begins another row."""
        if session.counts.rendered > 1 and not self._warned:
            self._warned = True
            _log.warning(
                "the program changed its conversation's history: %d of %d turns began a row of "
                "their own, rendered from text (told once)",
                session.counts.rendered,
                session.n_turns,
            )


def _gateway(guests: _Guests, tokenizer: Tokenizer) -> AbstractAsyncContextManager[str]:
    from agentrl.serve.gateway.app import Rules, gateway_app

    backend = Recording(MODEL, guests, tokenizer)
    return listening(gateway_app(MODEL, backend, Rules(hosts=LOCAL), guests))


def _variables(url: str, who: str, task: Task, judge: Bench) -> dict[str, str]:
    """What a program finds in its environment; never the task's answer."""
    base = f"{url}/v1/sessions/{who}"
    told = {
        "id": task.id,
        "question": task.question,
        "messages": [message_json(message) for message in judge.messages],
        "tools": tool_specs(judge.tools),
        "seed": task.seed,
    }
    past = [name for name in (os.environ.get("NO_PROXY"), "127.0.0.1", "localhost") if name]
    return {
        "BASE_URL": base,
        "API_KEY": who,
        "MODEL": MODEL,
        "TASK": json.dumps(told),
        "OPENAI_BASE_URL": base,
        "OPENAI_API_KEY": who,
        "NO_PROXY": ",".join(past),
        "no_proxy": ",".join(past),
    }


async def _verdict(guest: _Guest, outcome: Outcome, judge: Bench) -> Verdict:
    """How it ended: the program's own reward, or a limit, or a failure, or the environment's."""
    session = guest.session
    if not session.rows:
        return _failed(outcome, session.fault or "the program was given no turn")
    if guest.rewards is not None:
        return Verdict(session.limit or StopReason.TERMINATED, guest.rewards)
    if outcome.timed_out:
        return Verdict(StopReason.DEADLINE, {"env": 0.0})
    if session.limit is None and session.fault is not None:
        return Verdict(StopReason.ERROR, error=session.fault)
    if session.limit is None and outcome.code != 0:
        return _failed(outcome, f"the program ended with status {outcome.code}")
    return await judge.judge(session)


def _failed(outcome: Outcome, what: str) -> Verdict:
    return Verdict(StopReason.ERROR, error=f"HarnessError: {what}: {outcome.last_words}")


__all__ = ["Harness"]
