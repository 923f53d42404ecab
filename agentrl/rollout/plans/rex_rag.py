"""REX-RAG (2508.08149): wrong answers are taken back and thought about again, and the ratio knows it.

An original that ended wrong is cloned with some probability: its answer is stripped, a sentence that
doubts it is inserted, and the policy goes on from there. Originals pi and clones mu are trained under
the mixture they came from, p = (1 - a) pi_old + a mu with a the share of clones (section 3.3).

Deviations: a plan sees one task, so share and failure rate are those of the last step's batch, in the
first step the group's own. What a small group would keep is rounded by a draw, so that the expected
number is the paper's. pi_old of what is inserted is the scorer's, at temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import ClassVar, cast

import numpy as np

from agentrl.chat.base import Renderer
from agentrl.episode import Episode
from agentrl.errors import UserError
from agentrl.points import Ctx, Need, Services
from agentrl.rollout.loop import played_out
from agentrl.rollout.plans.reflections import REFLECTIONS
from agentrl.rollout.plans.rows import declared
from agentrl.rollout.plans.stage import TRIES, Stage, in_order
from agentrl.trajectory import Group, StopReason, Trajectory
from agentrl.transcript import Float32Array, floats_array
from agentrl.types import JsonValue, Task

REOPENED = "rex/reopened"
"""Measurement of a cloned original: whether its clone, kept or not, was right."""
EWM = 0.1
"""Weight of the newest step in the moving accuracy of clones."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step's batch was, for the next one."""

    share: float
    """Kept clones over all."""
    error: float
    """Failed originals over originals."""


@dataclass(frozen=True, slots=True)
class Clone:
    """A re-opened original."""

    trajectory: Trajectory
    at: int
    """Tokens of its row before what was inserted."""
    inserted: tuple[float, ...]
    """Declared logprobs of what was inserted."""
    score: float


class RexRag:
    """`group_size` originals, and the clones of wrong ones that are most likely under the policy."""

    needs: ClassVar[frozenset[Need]] = frozenset({"scorer"})

    def __init__(
        self,
        renderer: Renderer,
        *,
        group_size: int = 5,
        probability: float = 0.2,
        reflections: tuple[str, ...] | None = None,
        answer: str = "<answer>",
        max_turns: int = 5,
        component: str = "env",
    ) -> None:
        """Make the plan.

        Args:
            renderer: encodes what is inserted.
            group_size: originals.
            probability: with which a wrong original is cloned; clones never are.
            reflections: what the re-opened turn goes on with, one of these drawn; null for thirty
                sentences after `<think>`.
            answer: where the answer action starts. A last turn without it is taken back whole.
            max_turns: further turns of a clone.
            component: of the reward, that decides what is wrong: below 1.
        """
        if not 0 <= probability <= 1 or max_turns < 1 or not answer:
            raise UserError(
                "rollout.plan.probability is between 0 and 1, max_turns at least 1 and answer a text"
            )
        texts = REFLECTIONS if reflections is None else reflections
        self._reflections = [tuple(renderer.demo(text).tolist()) for text in texts]
        if not all(self._reflections) or not self._reflections:
            raise UserError("rollout.plan.reflections needs one text or more, none of them empty")
        self._renderer, self._n, self._p = renderer, group_size, probability
        self._answer, self._max_turns, self._component = answer, max_turns, component
        self._ratio: float | None = None
        """Moving accuracy of past clones; None before the first."""
        self._last: Batch | None = None
        """The last step's; None before the first."""

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """Originals in sibling order, then the kept clones in theirs."""
        stage = Stage(task, services, ctx)
        clones: dict[int, Clone] = {}

        async def original(sibling: int) -> Trajectory:
            async def play(episode: Episode) -> Trajectory:
                played = await played_out(episode)
                rng = stage.rng("rex_rag", sibling)
                if played.error is None and rng.random() < self._p:
                    clone = await self._reopened(stage, episode, played, rng)
                    if clone is not None:
                        clones[sibling] = clone
                return played

            return await stage.play(sibling, play)

        originals = await in_order([original(i) for i in range(self._n)])
        found = [clones[i] for i in sorted(clones)]
        originals = [
            t.scored(**{REOPENED: clones[t.sibling].score}) if t.sibling in clones else t
            for t in originals
        ]
        return Group(task, tuple(await self._mixed(stage, originals, found)), ctx.step)

    async def _reopened(
        self, stage: Stage, episode: Episode, original: Trajectory, rng: Random
    ) -> Clone | None:
        """None for a right original, one without a turn to take back, or a world that fails."""
        turn = episode.row.token_ids[episode.turn_start :].tolist()
        if not turn or await stage.score(original, self._component) >= 1:
            return None
        at = episode.turn_start + self._kept(turn)
        ids = rng.choice(self._reflections)
        logprobs = trie_logprobs(self._reflections, ids)
        for _ in range(TRIES):
            (branch,) = await episode.fork([self._n + episode.sibling], at=at)
            branch.force(ids, logprobs)
            played = await self._continued(branch)
            if played.error is None:
                score = await stage.score(played, self._component)
                return Clone(played, at, tuple(logprobs), float(score >= 1))
        return None

    def _kept(self, turn: Sequence[int]) -> int:
        """Tokens of a turn before its last answer; 0 without one."""
        decode = self._renderer.tokenizer.decode
        end = decode(turn).rfind(self._answer)
        if end <= 0:
            return 0
        return sum(len(decode(turn[: k + 1])) <= end for k in range(len(turn)))

    async def _continued(self, branch: Episode) -> Trajectory:
        for _ in range(self._max_turns):
            while branch.stop is None and not branch.complete:
                await branch.write()
            if branch.stop is not None or not await branch.act():
                break
        return branch.finish(StopReason.MAX_TURNS)

    async def _mixed(
        self, stage: Stage, originals: Sequence[Trajectory], clones: Sequence[Clone]
    ) -> list[Trajectory]:
        """Everybody under the mixture's probabilities."""
        policy = await self._scored(stage, clones)
        kept = self._best(stage, clones, policy)
        good = [t for t in originals if t.error is None]
        scores = await stage.scores(good, self._component)
        own = Batch(
            len(kept) / (len(good) + len(kept)) if kept else 0.0,
            fmean(score < 1 for score in scores) if scores else 1.0,
        )
        known = own if self._last is None else self._last
        # A step without clones, or without a failure, says nothing of what a clone is worth now.
        share = known.share or own.share
        error = known.error or own.error
        made = [t if t.error is not None else _original(t, share) for t in originals]
        return made + [_clone(clones[i], policy[i], share, error) for i in kept]

    async def _scored(self, stage: Stage, clones: Sequence[Clone]) -> list[Float32Array]:
        """The policy's logprobs of the clones' rows, inserted tokens included."""
        if not clones:
            return []
        scorer = stage.services.scorer
        if scorer is None:
            raise UserError("rollout.plan rex_rag needs a learner that scores rows (learner=torch)")
        rows = [clone.trajectory.rows[-1].token_ids.tolist() for clone in clones]
        return await scorer.logprobs("policy", rows)

    def _best(
        self, stage: Stage, clones: Sequence[Clone], policy: Sequence[Float32Array]
    ) -> list[int]:
        """Places of the clones to keep: those whose inserted tokens the policy finds likeliest."""
        if self._ratio is None:
            return list(range(len(clones)))
        keep = int(self._n * self._ratio + stage.rng("rex_rag/keep").random())

        def likely(i: int) -> float:
            clone = clones[i]
            return float(policy[i][clone.at : clone.at + len(clone.inserted)].mean())

        ranked = sorted(range(len(clones)), key=lambda i: (-likely(i), i))
        return sorted(ranked[:keep])

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """Take the accuracy of the step's clones into the moving one, and what the batch was."""
        members = [t for group in groups for t in group.scored if "rex/clone" in t.rewards]
        originals = [t for t in members if not t.rewards["rex/clone"]]
        if originals:
            failed = fmean(t.rewards.get(self._component, 0.0) < 1 for t in originals)
            self._last = Batch(1 - len(originals) / len(members), failed)
        found = [t.rewards[REOPENED] for t in members if REOPENED in t.rewards]
        if found:
            now = fmean(found)
            self._ratio = now if self._ratio is None else moving(self._ratio, now)

    def state(self) -> Mapping[str, JsonValue]:
        """The moving accuracy and the last batch."""
        last = None if self._last is None else [self._last.share, self._last.error]
        return {"ratio": self._ratio, "last": last}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`."""
        ratio = state["ratio"]
        self._ratio = float(ratio) if isinstance(ratio, (int, float)) else None
        last = cast("Sequence[float] | None", state["last"])
        self._last = None if last is None else Batch(*last)


def moving(before: float, now: float) -> float:
    """Exponentially weighted mean, unadjusted: the first value is its start."""
    return (1 - EWM) * before + EWM * now


def trie_logprobs(texts: Sequence[Sequence[int]], chosen: Sequence[int]) -> list[float]:
    """Log of each token's frequency among the texts that begin as `chosen` does so far."""
    logprobs: list[float] = []
    for n in range(len(chosen)):
        alike = [text for text in texts if tuple(text[:n]) == tuple(chosen[:n])]
        on = sum(len(text) > n and text[n] == chosen[n] for text in alike)
        logprobs.append(math.log(on / len(alike)))
    return logprobs


def mixture(policy: Float32Array, mu: Float32Array, share: float) -> Float32Array:
    """log((1 - a) pi_old + a mu), [t]; above 0 where mu is far enough above 1."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-share) + policy, np.log(share) + mu).astype(np.float32)


def prefix_logprobs(policy: Float32Array, error: float) -> Float32Array:
    """mu = pi_old / err^(1/j) of a clone's first j tokens: their product over the failure rate."""
    return (policy - math.log(error) / max(len(policy), 1)).astype(np.float32)


def _original(trajectory: Trajectory, share: float) -> Trajectory:
    """mu is 0 where no clone can come from: its own tokens."""
    trajectory = trajectory.scored(**{"rex/clone": 0.0, "rex/over": 0.0})
    if not share:
        return trajectory
    rows = tuple(
        declared(row, floats_array(row.logprobs + np.float32(math.log1p(-share))))
        for row in trajectory.rows
    )
    return replace(trajectory, rows=rows)


def _clone(clone: Clone, policy: Float32Array, share: float, error: float) -> Trajectory:
    """Prefix, insertion and continuation each under its own mu.

    The measurement `rex/over` is the share of its tokens whose mixture exceeds 1: there 1 is
    recorded, the largest a probability can be.
    """
    row = clone.trajectory.rows[-1]
    first, last = clone.at, clone.at + len(clone.inserted)
    old = row.logprobs.copy()
    old[first:last] = policy[first:last]
    mu = old.copy()
    mu[first:last] = clone.inserted
    before = np.flatnonzero(row.mask[:first])
    mu[before] = prefix_logprobs(old[before], error)
    mixed = np.where(row.mask, mixture(old, mu, share), np.float32(0.0))
    over = float((mixed > 1e-6).sum() / max(row.n_sampled, 1))
    rows = (*clone.trajectory.rows[:-1], declared(row, floats_array(np.minimum(mixed, 0.0))))
    return replace(clone.trajectory, rows=rows).scored(**{"rex/clone": 1.0, "rex/over": over})


__all__ = ["RexRag", "mixture", "moving", "prefix_logprobs", "trie_logprobs"]
