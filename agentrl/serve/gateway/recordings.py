"""The sessions of a recording gateway: begun by name, closed by a reward, written as trajectories."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic

from agentrl.errors import WorldFault
from agentrl.rollout.faults import told
from agentrl.rollout.parts import Names, Parts
from agentrl.serve.gateway.bench import bench
from agentrl.serve.gateway.rewards import read_rewards
from agentrl.serve.gateway.session import SamplingBy, Session
from agentrl.serve.gateway.turns import Verdict
from agentrl.serve.gateway.wire import ApiError
from agentrl.trajectory import StopReason, Trajectory
from agentrl.types import JsonValue, Task

NAME = re.compile(r"[\w.:@-]{1,128}")
"""What a session may be called."""
LOOK_S = 5.0
"""Between two looks for idle sessions."""
NO_METADATA: Mapping[str, JsonValue] = {}
UNREWARDED = "unrewarded"
"""Why a session that nobody rewarded trains nothing."""


@dataclass(frozen=True, slots=True)
class _Open:
    session: Session
    names: Names
    judged: bool
    """It was begun at a task, so the environment can judge it."""


class OpenSessions:
    """Implements `Sessions`. A name is free again once its session was rewarded."""

    def __init__(
        self,
        parts: Parts,
        keep: Callable[[Trajectory], None],
        *,
        seed: int = 0,
        sampling: SamplingBy = "run",
        most: int = 1024,
        idle_s: float = 3600.0,
    ) -> None:
        """keep: writes a closed session. most: open at once. idle_s: after which one is closed as
        unrewarded."""
        self._parts, self._keep, self._seed = parts, keep, seed
        self._sampling: SamplingBy = sampling
        self._most, self._idle_s = most, idle_s
        self._open: dict[str, _Open] = {}
        self._begun: Counter[str] = Counter()

    def find(self, who: str) -> Session:
        """The session of that name, begun now if there is none."""
        if who not in self._open:
            self._begin(who, Task(who, ""), judged=False)
        return self._open[who].session

    def create(self, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Begin a session: `id` names it, `task` (id, question, answer, metadata, seed) is what the
        environment judges it by. Raises ApiError for a name in use."""
        who = body.get("id") or f"s-{token_hex(8)}"
        if not isinstance(who, str) or who in self._open:
            raise ApiError("id must be a name that is not in use", param="id", status=409)
        given = body.get("task")
        task = Task(who, "") if given is None else _task(given)
        self._begin(who, task, judged=given is not None)
        return {"id": who, "path": f"/v1/sessions/{who}", "uid": self._open[who].session.uid}

    async def settle(self, who: str, body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
        """Close a session with its `reward`, or by the environment's own check without one."""
        known = self._open.get(who)
        if known is None:
            raise ApiError("there is no such session", status=404, code="session_not_found")
        session = known.session
        if session.busy:
            raise ApiError("a request of this session is still being answered", status=409)
        if not session.rows:
            raise ApiError("this session has no turn yet: there is nothing to reward", status=409)
        if body.get("reward") is not None:
            ending = session.limit or StopReason.TERMINATED
            verdict = Verdict(ending, read_rewards(body))
        elif known.judged:
            verdict = await self._judged(known)
        else:
            raise ApiError("give a reward: this session was begun without a task", param="reward")
        if self._open.pop(who, None) is None:
            raise ApiError("this session was just closed", status=409)
        return self._closed(session, verdict)

    async def reap(self) -> None:
        """Close what is idle, for as long as this is awaited."""
        while True:
            await asyncio.sleep(min(LOOK_S, self._idle_s))
            now = monotonic()
            for who, known in list(self._open.items()):
                if not known.session.busy and now - known.session.touched > self._idle_s:
                    self._drop(who)

    def close_all(self) -> None:
        """Write what is open, unrewarded."""
        for who in list(self._open):
            self._drop(who)

    def _begin(self, who: str, task: Task, *, judged: bool) -> None:
        if not NAME.fullmatch(who):
            raise ApiError(
                "a session's name has up to 128 letters, digits and . _ : @ -", param="id"
            )
        if len(self._open) >= self._most:
            raise ApiError("too many open sessions: reward some first", status=429)
        names = Names(self._seed, 0, task)
        sibling = self._begun[task.id]
        self._begun[task.id] += 1
        session = Session(self._parts, names, sibling, sampling=self._sampling)
        self._open[who] = _Open(session, names, judged)

    async def _judged(self, known: _Open) -> Verdict:
        try:
            async with bench(self._parts, known.names, known.session.sibling) as judge:
                return await judge.judge(known.session)
        except WorldFault as error:
            return Verdict(StopReason.ERROR, error=told(error))

    def _drop(self, who: str) -> None:
        session = self._open.pop(who).session
        if session.rows:
            self._closed(session, Verdict(StopReason.ABORTED, excluded=UNREWARDED))

    def _closed(self, session: Session, verdict: Verdict) -> Mapping[str, JsonValue]:
        trajectory = session.finish(verdict)
        self._keep(trajectory)
        counts = session.counts
        return {
            "uid": trajectory.uid,
            "stop": str(trajectory.stop),
            "rewards": trajectory.rewards,
            "error": trajectory.error,
            "turns": trajectory.n_turns,
            "rows": len(trajectory.rows),
            "sampled_tokens": trajectory.n_sampled,
            "continued": counts.continued,
            "branched": counts.branched,
            "rendered": counts.rendered,
        }


def _task(given: JsonValue) -> Task:
    """A task as a client gives it. Raises ApiError."""
    if not isinstance(given, Mapping):
        raise ApiError("task must be an object", param="task")
    task_id, question, answer = given.get("id"), given.get("question"), given.get("answer")
    seed, metadata = given.get("seed", 0), given.get("metadata", NO_METADATA)
    if not isinstance(task_id, str) or not isinstance(question, str) or not task_id:
        raise ApiError("task needs `id` and `question` as text", param="task")
    if answer is not None and not isinstance(answer, str):
        raise ApiError("task.answer must be text", param="task.answer")
    if isinstance(seed, bool) or not isinstance(seed, int) or not isinstance(metadata, Mapping):
        raise ApiError("task.seed is a whole number and task.metadata an object", param="task")
    return Task(task_id, question, answer, metadata, seed)


__all__ = ["UNREWARDED", "OpenSessions"]
