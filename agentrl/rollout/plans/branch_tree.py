"""A task's group grown as a tree: some roots, branches after tool results, the rest sampled afresh.

One place of the runner holds the whole tree: the roots beyond the first are copied from its start, so
that no path waits for a place while others of its task hold theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from statistics import fmean

from agentrl.chat.base import Renderer
from agentrl.engine.base import Generation
from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.branch_rules import BranchRule
from agentrl.rollout.plans.grove import Grove
from agentrl.rollout.plans.places import Places
from agentrl.rollout.plans.siblings import side_by_side
from agentrl.seeds import derive
from agentrl.trajectory import Group, Trajectory
from agentrl.types import Task


@dataclass(frozen=True, slots=True)
class TreeShape:
    """What is the same for every task."""

    size: int
    """Trajectories of a group: the budget M."""
    rule: BranchRule
    copies: int = 1
    """Branches made where the rule says so: Z."""
    renderer: Renderer | None = None
    """For ln V; needed where the rule reads entropies."""
    record: bool = False
    """Record entropies of every turn, those that no rule reads included."""
    grove: Grove = field(init=False)
    """Bounds the trees of this shape that grow at once."""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise UserError(f"rollout.plan.copies is at least 1, not {self.copies}")
        object.__setattr__(self, "grove", Grove(self.size))

    @property
    def asks(self) -> bool:
        """Whether turns are written with entropies."""
        return self.record or self.rule.look != "nowhere"

    def entropy(self, generation: Generation) -> float:
        """The rule's measure of a turn. Raises UserError where the engine gave no entropies."""
        if generation.entropies is None:
            raise UserError(
                "the plan branches by entropy and the engine gave none; set engine=transformers, or "
                "rollout.plan={name: arpo, form: fixed}"
            )
        return self.rule.measure(generation.entropies.tolist(), self._log_vocab)

    @property
    def _log_vocab(self) -> float:
        if self.renderer is None:
            raise UserError("a plan that branches by entropy is made with a renderer=")
        return log(self.renderer.tokenizer.vocab_size)


@dataclass(slots=True)
class _Path:
    """One episode of the tree and where it stands."""

    episode: Episode
    turn: int = 0
    initial: float | None = None
    """H of the first turn it descends from; the `before` form compares with it."""
    streak: int = 0
    forked: bool = False
    """Branches hang on it: it must not be closed before them."""


class Tree:
    """Grows one task's group; used once."""

    def __init__(
        self, shape: TreeShape, task: Task, services: Services, ctx: Ctx, *, roots: range
    ) -> None:
        """roots: sibling numbers that start; those before them are done elsewhere."""
        self._shape, self._task, self._services, self._ctx = shape, task, services, ctx
        self._roots = roots
        self._places = Places(roots, shape.size)
        self._first: dict[int, float] = {}
        """Root -> H of its first turn. Lives as long as the tree: a task's next step starts anew."""
        self._done: dict[int, Trajectory] = {}

    async def group(self, done: Sequence[Trajectory] = ()) -> Group:
        """The whole group in sibling order: `done`, the tree's, then fresh ones for what is left.

        A member that the world failed is played afresh; branches keep what they shared with it.
        """
        self._done = {t.sibling: t for t in done}
        if len(self._roots):
            episodes, root = self._services.episodes, self._roots.start
            async with (
                self._shape.grove.place(self._services.sandbox),
                episodes.live(self._task, root, self._ctx) as first,
            ):
                await self._grow(first)
        members = dict(sorted(self._done.items()))
        for sibling in [s for s, t in members.items() if t.error is not None]:
            members = rehung(members, sibling)
        left = [s for s in range(self._shape.size) if s not in members]
        for trajectory in await side_by_side(left, self.fresh):
            members[trajectory.sibling] = trajectory
        ordered = tuple(trajectory for _, trajectory in sorted(members.items()))
        return Group(self._task, ordered, self._ctx.step)

    async def fresh(self, sibling: int) -> Trajectory:
        """One episode from the root, with entropies where the plan records them."""
        async with self._services.episodes.live(self._task, sibling, self._ctx) as episode:
            while episode.stop is None:
                if not episode.complete:
                    await episode.write(entropies=self._shape.record)
                if episode.complete:
                    await episode.act()
            return episode.finish()

    async def _grow(self, first: Episode) -> None:
        """All roots and what branches from them, to their ends."""
        if first.stop is not None:  # the world failed before the first turn
            return
        others = self._roots[1:]
        copies = await first.fork(others) if others else ()
        self._paths = asyncio.TaskGroup()
        async with self._paths:
            self._start(_Path(first, forked=bool(copies)))
            for copy in copies:
                self._start(_Path(copy))

    def _start(self, path: _Path) -> None:
        self._paths.create_task(self._play(path))

    async def _play(self, path: _Path) -> None:
        """Turn after turn; at each one that follows a tool result the path may branch."""
        episode, look = path.episode, self._shape.rule.look
        answered = False
        while episode.stop is None:
            generation = await episode.write(entropies=self._shape.asks)
            if generation is None or not episode.complete:
                break
            h = 0.0 if look == "nowhere" else self._shape.entropy(generation)
            if path.turn == 0:
                path.initial = self._first[episode.sibling] = h
            if look == "after" or path.turn == 0:
                await self._pass(path, h if answered else None)
            calls = episode.n_calls
            await episode.act()
            answered = episode.n_calls > calls
            path.turn += 1
            if look != "after" and episode.stop is None:
                await self._pass(path, h if answered else None)
        self._end(path)
        if not path.forked:
            await asyncio.shield(episode.close())

    def _end(self, path: _Path) -> None:
        trajectory = path.episode.finish()
        if trajectory.sibling in self._roots:  # a prompt in common is no branching
            trajectory = replace(trajectory, parent=None, fork_tokens=None)
        self._done[trajectory.sibling] = trajectory
        self._places.leave(trajectory.sibling)

    async def _pass(self, path: _Path, h: float | None) -> None:
        """Pass the turn; `h` is the entropy to judge after a tool result, None elsewhere."""
        wants = h is not None and self._places.free > 0 and await self._wants(path, h)
        taken = await self._places.claim(
            path.turn, path.episode.sibling, self._shape.copies if wants else 0
        )
        if h is not None:
            path.streak = path.streak + 1 if taken else 0
        if taken:
            path.forked = True
            for branch in await path.episode.fork(taken):
                self._start(_Path(branch, path.turn, path.initial, path.streak))

    async def _wants(self, path: _Path, h: float) -> bool:
        u = uniform(self._ctx, self._task, path.episode.sibling, path.turn)
        return self._shape.rule.branches(h - await self._initial(path), u, path.streak)

    async def _initial(self, path: _Path) -> float:
        """H_initial: in the paper's form the task's own, the mean over its roots."""
        if self._shape.rule.look != "after":
            return path.initial or 0.0
        await self._places.all_past(0)
        return fmean(h for _, h in sorted(self._first.items()))


def uniform(ctx: Ctx, task: Task, sibling: int, turn: int) -> float:
    """A draw from U(0, 1) that depends on nothing but names."""
    return derive(ctx.seed, ctx.step, ctx.repeat, task.id, sibling, turn, "branch") / 2**63


def rehung(members: Mapping[int, Trajectory], lost: int) -> dict[int, Trajectory]:
    """The members without `lost`, which is played afresh and shares nothing with its branches then.

    The branch that shared most takes its place: the others hang on that one, and the calls that the
    lost one ran count as its own.
    """
    gone = members[lost]
    rest = {sibling: t for sibling, t in members.items() if sibling != lost}
    heirs = [t for t in rest.values() if t.parent == gone.uid]
    if not heirs:
        return rest
    heir = min(heirs, key=lambda t: (-(t.fork_tokens or 0), t.sibling))
    for branch in heirs:
        rest[branch.sibling] = replace(branch, parent=heir.uid)
    rest[heir.sibling] = replace(
        heir,
        parent=gone.parent,
        fork_tokens=gone.fork_tokens,
        n_executed=heir.n_executed + gone.n_executed,
    )
    return rest


__all__ = ["Tree", "TreeShape", "rehung", "uniform"]
