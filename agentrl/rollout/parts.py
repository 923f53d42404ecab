"""What episodes are made of: the parts a run shares, the names and seeds each one has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from agentrl.chat.base import Renderer, ToolProtocol
from agentrl.context import Limiter
from agentrl.engine.base import Engine, Sampling
from agentrl.env import Env
from agentrl.errors import UserError
from agentrl.points import Ctx, Patch
from agentrl.rollout.limits import Limits
from agentrl.rollout.slots import EngineLimiter, Unranked
from agentrl.sandbox import SandboxPool
from agentrl.seeds import derive
from agentrl.types import Task


@dataclass(frozen=True, slots=True)
class Parts:
    """What every episode of a run shares."""

    make_env: Callable[[], Env]
    engine: Engine
    renderer: Renderer
    protocol: ToolProtocol
    limits: Limits
    sampling: Sampling
    """Temperature, top-p, top-k and entropies; tokens, stops and seed are set per turn."""
    tool_slots: Limiter
    pool: SandboxPool | None = None
    engine_slots: EngineLimiter = field(default_factory=Unranked)
    """Bounds generations in flight over all episodes."""
    partners: Mapping[str, Engine] = field(default_factory=dict[str, Engine])
    """See `Services.partners`."""

    def writer(self, by: str | None) -> Engine:
        """The policy's engine, or a partner's. Raises UserError when there is no such partner."""
        if by is None:
            return self.engine
        if by not in self.partners:
            raise UserError(
                f"the plan lets a partner {by!r} write and there is none; set "
                f"rollout.partners.{by}.model=<a model with the same vocabulary>"
            )
        return self.partners[by]

    def patched(self, patch: Patch) -> Parts:
        """The parts with the temperature and the row length that schedules have set."""
        parts = self
        if patch.temperature is not None:
            parts = replace(parts, sampling=replace(parts.sampling, temperature=patch.temperature))
        if patch.max_tokens is not None:
            at_most = min(patch.max_tokens, parts.limits.max_tokens)
            parts = replace(parts, limits=replace(parts.limits, max_tokens=at_most))
        return parts


@dataclass(frozen=True, slots=True)
class Seeds:
    """The two seeds of an episode: siblings share the environment's, never the sampling's."""

    env: int
    sampling: int

    def turn(self, turn: int, part: int = 0) -> int:
        """The sampling seed of one generation; a turn may be written in several parts."""
        return derive(self.sampling, turn, part)


@dataclass(frozen=True, slots=True)
class Names:
    """How the siblings of one task are told apart in one step: uids and seeds."""

    run_seed: int
    step: int
    task: Task
    repeat: int = 0

    @classmethod
    def of(cls, run_seed: int, task: Task, ctx: Ctx) -> Names:
        """Those of `task` at the step of `ctx`."""
        return cls(run_seed, ctx.step, task, ctx.repeat)

    def uid(self, sibling: int) -> str:
        """Unique in the run."""
        again = f"+{self.repeat}" if self.repeat else ""
        return f"{self.step}/{self.task.id}/{sibling}{again}"

    def seeds(self, sibling: int) -> Seeds:
        """H(run, step, task, sibling) for sampling; the task's own seed for the environment."""
        again = (self.repeat,) if self.repeat else ()
        return Seeds(
            env=derive(self.run_seed, self.task.id, self.task.seed),
            sampling=derive(self.run_seed, self.step, self.task.id, sibling, *again),
        )


__all__ = ["Names", "Parts", "Seeds"]
