"""DeepSearch (2509.25454): a tree search per task, node values as token rewards, rare successes kept.

Round by round: the best node of the whole frontier (first the root) is expanded to `width` children
of at most `node_tokens` tokens, then the best child by UCT, and so on, until a child ends. One of
the ended children is backed up. A turn that is complete is acted upon within its node, so a tool's
answer closes the node that called it. The search stops at `group_size` ended trajectories; a round
may end more: those backed up come first, then the earliest. All branches share their root's deadline
(`env.episode_s`): a path that it cuts counts as incomplete. What the tree cost, members or not, is
measured as `search/nodes` (the root among them) and `search/tokens`.

The group's `token_rewards` are the values; advantage `deepsearch` subtracts the siblings' mean score
from them (give it scores of +1 and -1: shaper `outcome` with `wrong: -1`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.plans.rare_successes import RareSuccesses, replayed
from agentrl.rollout.plans.search_tree import Frontier, Node, teacher, uct
from agentrl.rollout.plans.siblings import sampled
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Float32Array, floats_array
from agentrl.types import JsonValue, Task


def outcome_of(trajectory: Trajectory) -> float:
    """+1 right; -1 wrong, or cut by a limit."""
    return 1.0 if trajectory.correct else -1.0


def overlong(n_tokens: int, most: int, cache: int) -> float:
    """DAPO's soft punishment: 0 up to most - cache, -1 at `most`, and on below it."""
    return min(0.0, -(n_tokens - (most - cache)) / cache)


@dataclass(slots=True)
class _Search:
    """One task's tree."""

    nodes: list[Node] = field(default_factory=list[Node])
    leaves: list[Node] = field(default_factory=list[Node])
    """Ended, in order of their rounds and of their children."""
    taught: list[Node] = field(default_factory=list[Node])
    """Those that were backed up."""
    forked: set[int] = field(default_factory=set[int])
    """Episodes that others were branched from; they close together."""
    numbers: int = 1
    """Sibling numbers given away."""
    n_sampled: int = 0
    """Tokens written in all nodes."""

    def cost(self) -> Mapping[str, float]:
        """What the whole tree took, members or not."""
        return {"search/nodes": float(len(self.nodes)), "search/tokens": float(self.n_sampled)}


class DeepSearch:
    """One tree per task; `Adaptive`: rarely solved questions keep their right answers.

    A question solved by a share in (0, `rare`] keeps its right trajectories. When it comes again it
    is not searched: they join plain samples, whose values are their outcomes. It forgets them once a
    larger share of fresh ones is right. Runs that bound the age of what they train on exclude them.
    """

    def __init__(
        self,
        *,
        group_size: int = 8,
        width: int = 8,
        node_tokens: int = 256,
        max_depth: int = 64,
        explore: float = 2.0,
        parent: float = 0.4,
        entropy: float = 0.4,
        depth: float = 0.01,
        open_nodes: int = 256,
        rare: float = 0.25,
        capacity: int = 256,
        long_tokens: int | None = None,
        long_cache: int = 4096,
    ) -> None:
        """
        width: children of an expanded node. max_depth: nodes of a path without the root; a path
        that gets there without an end counts as incomplete. explore: UCT's c. parent, entropy,
        depth: weights of the frontier's score. open_nodes: most nodes that may wait for their
        expansion, as each holds a world (after a tool call a sandbox too); the worst are given up.
        rare: largest share of right answers that is worth
        keeping; 0 keeps none. capacity: questions kept, the oldest forgotten first; all of them are in
        every checkpoint. long_tokens:
        length of the whole overlong penalty, which ramps up over the last `long_cache` of it and is
        part of the score (component `overlong`) and of every token's reward; null for none.
        """
        if min(width, node_tokens, max_depth) < 1:
            raise UserError("deepsearch needs width, node_tokens and max_depth of at least 1")
        if open_nodes < width:
            raise UserError(
                f"deepsearch.open_nodes is at least its width {width}, not {open_nodes}"
            )
        self._group_size, self._width, self._node_tokens = group_size, width, node_tokens
        self._max_depth, self._explore = max_depth, explore
        self._frontier = Frontier(parent, entropy, depth)
        self._open_nodes = open_nodes
        if long_tokens is not None and not 0 < long_cache <= long_tokens:
            raise UserError("deepsearch needs 0 < long_cache <= long_tokens")
        self._long = (long_tokens, long_cache)
        self._kept = RareSuccesses(rare, capacity)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """`group_size` trajectories with the values of their nodes as token rewards."""
        kept = self._kept.of(task)[: self._group_size - 1]
        if kept:
            return self._penalised(await self._without_search(task, kept, services, ctx))
        async with services.episodes.live(task, 0, ctx) as root:
            search = _Search()
            await self._searched(root, search)
        chosen = self._chosen(search)
        cost = search.cost()
        members = [leaf.trajectory.scored(**cost) for leaf in chosen if leaf.trajectory is not None]
        values = [leaf.token_values() for leaf in chosen]
        missing = range(search.numbers, search.numbers + self._group_size - len(chosen))
        fresh = await sampled(task, services, ctx, missing)
        return self._penalised(_group(task, ctx, [*members, *fresh], [*values, *map(_flat, fresh)]))

    def _penalised(self, group: Group) -> Group:
        """With the overlong penalty in scores and values."""
        most, cache = self._long
        if most is None or group.token_rewards is None:
            return group
        costs = [overlong(t.n_sampled, most, cache) for t in group.trajectories]
        members = [
            t if t.error is not None else t.scored(overlong=cost)
            for t, cost in zip(group.trajectories, costs, strict=True)
        ]
        values = [
            floats_array(v + cost) for v, cost in zip(group.token_rewards, costs, strict=True)
        ]
        return replace(group, trajectories=tuple(members), token_rewards=tuple(values))

    async def _without_search(
        self, task: Task, kept: Sequence[Trajectory], services: Services, ctx: Ctx
    ) -> Group:
        again = [replayed(trajectory, i, ctx) for i, trajectory in enumerate(kept)]
        fresh = await sampled(task, services, ctx, range(len(kept), self._group_size))
        members = [*again, *fresh]
        return _group(task, ctx, members, [*map(_flat, members)])

    async def _searched(self, episode: Episode, search: _Search) -> None:
        """Rounds until enough trajectories ended, or nothing is left to expand."""
        n = len(episode.row)
        node: Node | None = Node(0, None, 0, 0, n, episode=episode)
        if episode.stop is not None:
            return
        search.nodes.append(node)
        while node is not None and len(search.leaves) < self._group_size:
            ended = await self._round(node, search)
            if ended:
                search.leaves += ended
                search.taught.append(teacher(ended))
                search.taught[-1].back_up(search.taught[-1].outcome or 0.0)
            node = self._best(search)

    async def _round(self, node: Node, search: _Search) -> list[Node]:
        """Down from `node`, child by child, until some children end; the ended ones."""
        while True:
            children = await self._expanded(node, search)
            ended = [child for child in children if child.outcome is not None]
            on = [child for child in children if child.episode is not None]
            if ended or not on:
                return ended
            parent = node
            node = max(on, key=lambda c: uct(c.q, parent.visits, c.visits, self._explore))

    def _best(self, search: _Search) -> Node | None:
        """The frontier's highest score; the earliest of equals. None when nothing is open."""
        ranked = self._ranked(search)
        return ranked[0] if ranked else None

    def _ranked(self, search: _Search) -> list[Node]:
        """The open nodes, best first, the earlier of equals first."""

        def score(node: Node) -> float:
            q = 0.0 if node.parent is None else node.parent.q
            return self._frontier.score(q, node.entropy, node.depth, self._max_depth)

        open_nodes = [node for node in search.nodes if node.episode is not None]
        return sorted(open_nodes, key=score, reverse=True)

    async def _expanded(self, node: Node, search: _Search) -> list[Node]:
        """All children at once: the node's own episode goes on as the first of them."""
        episode, node.episode = node.episode, None
        assert episode is not None
        episodes = [episode]
        if self._width > 1:
            numbers = range(search.numbers, search.numbers + self._width - 1)
            search.numbers += len(numbers)
            search.forked.add(episode.sibling)
            episodes += await episode.fork(numbers, at=len(episode.row))
        async with asyncio.TaskGroup() as writing:
            running = [writing.create_task(self._child(node, e, search)) for e in episodes]
        children = [task.result() for task in running]
        node.children = children
        search.nodes += children
        for child, own in zip(children, episodes, strict=True):
            if child.episode is None:
                await self._left(own, search)
        for worst in self._ranked(search)[self._open_nodes :]:
            given_up, worst.episode = worst.episode, None
            if given_up is not None:
                await self._left(given_up, search)
        return children

    async def _left(self, episode: Episode, search: _Search) -> None:
        """Close what nobody goes on with; those that others were branched from close at the end."""
        if episode.sibling not in search.forked:
            await episode.close()

    async def _child(self, node: Node, episode: Episode, search: _Search) -> Node:
        """One more piece of text, and the world's answer when it completes a turn."""
        written = (
            await episode.write(max_tokens=self._node_tokens) if episode.stop is None else None
        )
        if episode.complete:
            await episode.act()
        child = Node(episode.sibling, node, node.depth + 1, node.end, len(episode.row))
        if written is not None and len(written.logprobs):
            child.entropy = -float(written.logprobs.mean())
            search.n_sampled += len(written.logprobs)
        if episode.stop is None and child.depth < self._max_depth:
            child.episode = episode
        elif episode.stop is not StopReason.ERROR:
            child.trajectory = episode.finish(StopReason.MAX_TOKENS)
            child.outcome = outcome_of(child.trajectory)
        return child

    def _chosen(self, search: _Search) -> list[Node]:
        """At most `group_size` leaves: those that were backed up, then the earliest; by number."""
        others = [leaf for leaf in search.leaves if leaf not in search.taught]
        chosen = [*search.taught, *others][: self._group_size]
        return sorted(chosen, key=lambda leaf: leaf.number)

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Keep the right answers of rarely solved questions."""
        self._kept.observe(groups)

    def state(self) -> Mapping[str, JsonValue]:
        """What is kept; see `RareSuccesses.state`."""
        return self._kept.state()

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`."""
        self._kept.restore(state)


def _flat(trajectory: Trajectory) -> Float32Array:
    """The outcome at every token: the value of a path that is one node."""
    value = 0.0 if trajectory.error is not None else outcome_of(trajectory)
    return floats_array([value] * trajectory.n_tokens)


def _group(
    task: Task, ctx: Ctx, members: Sequence[Trajectory], values: Sequence[Float32Array]
) -> Group:
    placed = tuple(replace(t, sibling=i) for i, t in enumerate(members))
    return Group(task, placed, ctx.step, tuple(values))


__all__ = ["DeepSearch", "outcome_of", "overlong"]
