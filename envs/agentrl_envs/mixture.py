"""Several environments as one: each task is played in the environment it came from.

Puzzles beside maths, a warm-up task beside the target, the same task with and without tools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self, final

from agentrl.config import Plugin
from agentrl.context import Context
from agentrl.env import Action, Env, Expert, Forkable, Observation, StepResult, TaskGenerator
from agentrl.errors import CannotFork, UserError
from agentrl.plugins import maker
from agentrl.seeds import derive
from agentrl.tool import Tool
from agentrl.types import Task

KEY = "env"
"""Metadata that says which member a task belongs to."""


class Member(Plugin):
    """One environment of the mixture and how much of it; further keys are its options."""

    share: float = 1.0
    """Relative to the other members'."""
    label: str | None = None
    """What its tasks are marked with; the name unless two members share it."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A member, ready to be made."""

    label: str
    share: float
    make: Callable[[], Env]


class Mixture(Env):
    """Tasks of several environments in given proportions."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        samples = {part.label: part.make() for part in parts}
        self._parts = {part.label: part for part in parts}
        self._ctx = Context()
        self._live: Env | None = None
        self.protocol = _one_protocol(samples)
        self.tools = _all_tools(samples)

    async def open(self, ctx: Context) -> None:
        """Nothing is acquired before the task says which environment plays."""
        self._ctx = ctx
        if self._live is not None:
            await self._live.open(ctx)

    async def fork(self, n: int) -> list[Self]:
        """Copies around copies of the live environment. Raises CannotFork when that has none."""
        if not isinstance(self._live, Forkable):
            raise CannotFork("the environment of this task has no `fork`")
        made = [copy(self) for _ in range(n)]
        for branch, live in zip(made, await self._live.fork(n), strict=True):
            branch._live, branch.tools = live, live.tools
        return made

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Open the task's own environment; from here on `tools` are that one's.

        Raises UserError when the task belongs to no member.
        """
        await self.close()
        part, inner = self._of(task)
        self._live = part.make()
        self.tools = self._live.tools
        await self._live.open(self._ctx)
        return await self._live.reset(inner, seed=seed)

    async def step(self, action: Action) -> StepResult:
        """The live environment's step."""
        if self._live is None:
            raise RuntimeError("reset() the environment before stepping it")
        return await self._live.step(action)

    async def close(self) -> None:
        """Close the live environment."""
        live, self._live = self._live, None
        if live is not None:
            await live.close()

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream in which every stretch holds the members in their proportions.

        Raises UserError when a member generates no tasks or lacks the split.
        """
        streams = {
            p.label: iter(_generator(p).tasks(split, seed=derive(seed, p.label)))
            for p in self._parts.values()
        }
        shares = {p.label: p.share for p in self._parts.values()}
        for label in turns(shares):
            yield _marked(next(streams[label]), label)

    def _of(self, task: Task) -> tuple[_Part, Task]:
        """The member a task belongs to, and the task as that member made it."""
        label = str(task.metadata.get(KEY))
        if label not in self._parts:
            raise UserError(
                f"task {task.id} belongs to env {label!r}, not to one of the mixture "
                f"({', '.join(self._parts)}); mark it with metadata {KEY!r}"
            )
        inner = {key: value for key, value in task.metadata.items() if key != KEY}
        return self._parts[label], replace(
            task, id=task.id.removeprefix(f"{label}/"), metadata=inner
        )


@final
class ExpertMixture(Mixture):
    """A mixture all of whose members can show how a task is solved."""

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The member's own demonstration."""
        part, inner = self._of(task)
        shown = part.make()
        assert isinstance(shown, Expert)
        return shown.expert(inner, seed=seed)


def mixture(*, envs: tuple[Member, ...], max_calls: int = 8, call_s: float = 30.0) -> Mixture:
    """Tasks of several environments in given proportions.

    Args:
        envs: the members, each `{name: ..., share: ..., label: ...}` and its own options.
        max_calls: calls per episode, for members that do not say.
        call_s: seconds of one call, for members that do not say.

    Raises UserError on fewer than one member, a label used twice, a wrong option, members of
    different protocols, or one tool name with two meanings.
    """
    parts, expert = _prepared(envs, max_calls, call_s)
    return ExpertMixture(parts) if expert else Mixture(parts)


@lru_cache(maxsize=16)
def _prepared(
    envs: tuple[Member, ...], max_calls: int, call_s: float
) -> tuple[tuple[_Part, ...], bool]:
    """The members with their options checked, and whether all are experts; once, not per episode."""
    labels = [member.label or member.name for member in envs]
    if not labels or len(set(labels)) != len(labels):
        raise UserError("mixture needs env.envs=[{name: ...}, ...], each with a label of its own")
    if any(member.share <= 0 for member in envs):
        raise UserError("mixture needs a positive share for every member; leave the others out")
    parts = tuple(
        _Part(label, member.share, maker("env", member, max_calls=max_calls, call_s=call_s))
        for label, member in zip(labels, envs, strict=True)
    )
    return parts, all(isinstance(part.make(), Expert) for part in parts)


def _one_protocol(samples: Mapping[str, Env]) -> str:
    names = {label: env.protocol for label, env in samples.items()}
    if len(set(names.values())) > 1:
        told = ", ".join(f"{label} {name}" for label, name in names.items())
        raise UserError(f"mixture: a run has one protocol, but its members want {told}")
    return next(iter(names.values()))


def _all_tools(samples: Mapping[str, Env]) -> tuple[Tool, ...]:
    """Every tool by name, in the order of members."""
    tools: dict[str, Tool] = {}
    for label, env in samples.items():
        for tool in env.tools:
            known = tools.setdefault(tool.name, tool)
            if (known.description, known.schema) != (tool.description, tool.schema):
                raise UserError(
                    f"mixture: the tool {tool.name!r} of {label} differs from another member's"
                )
    return tuple(tools.values())


def _generator(part: _Part) -> TaskGenerator:
    env = part.make()
    if not isinstance(env, TaskGenerator):
        raise UserError(f"mixture: {part.label} generates no tasks; give data.path=tasks.jsonl")
    return env


def _marked(task: Task, label: str) -> Task:
    return replace(task, id=f"{label}/{task.id}", metadata={**task.metadata, KEY: label})


def turns(shares: Mapping[str, float]) -> Iterator[str]:
    """Labels for ever, each time the one furthest behind its share; ties in the order given."""
    total = sum(shares.values())
    owed = dict.fromkeys(shares, 0.0)
    while True:
        owed = {label: debt + shares[label] / total for label, debt in owed.items()}
        label = max(owed, key=lambda name: owed[name])
        owed[label] -= 1.0
        yield label


__all__ = ["KEY", "ExpertMixture", "Member", "Mixture", "mixture", "turns"]
