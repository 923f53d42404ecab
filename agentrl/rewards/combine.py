"""Reward algebra: shapers made of shapers, and the outcome they start from.

Constants differ from paper to paper, so they are data: every combinator's children are nodes of the
configuration, built through the same registry as any other shaper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentrl.chat.base import Tokenizer
from agentrl.config import Plugin
from agentrl.errors import UserError
from agentrl.history import HistoryStore, Write
from agentrl.plugins import build
from agentrl.points import Ctx, RewardShaper, Shaped
from agentrl.rewards.base import COMPONENT, CORRECT, added, chain, column, correct, spent
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Float32Array, floats_array


@dataclass(frozen=True, slots=True)
class Outcome:
    """Replaces the component by a value for right, wrong, missing and truncated answers.

    LASER's base reward is wrong -0.5, missing -1; DAPO's is wrong -1; Dr. GRPO's truncated 0.
    """

    right: float = 1.0
    wrong: float = 0.0
    missing: float | None = None
    """When no answer was given; null counts it as wrong."""
    truncated: float | None = None
    """When a limit ended the episode, whatever was answered; null asks the answer."""
    component: str = COMPONENT
    above: float = CORRECT

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Remembers nothing."""
        values = [self._value(t) - spent(t, self.component) for t in group.trajectories]
        return added(shaped, values)

    def _value(self, trajectory: Trajectory) -> float:
        if self.truncated is not None and trajectory.truncated:
            return self.truncated
        if correct(trajectory, self.component, self.above):
            return self.right
        if self.missing is not None and trajectory.answer is None:
            return self.missing
        return self.wrong


@dataclass(frozen=True, slots=True)
class Components:
    """The reward becomes the weighted sum of named components; those not named do not count."""

    weights: Mapping[str, float]
    """Component -> weight; measurements may be named too. An absent component counts 0."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Whatever was shaped before is forgotten."""
        sums = [
            sum(weight * t.rewards.get(name, 0.0) for name, weight in self.weights.items())
            for t in group.trajectories
        ]
        return shaped._replace(rewards_G=floats_array(sums), writes=())


@dataclass(frozen=True, slots=True)
class Mul:
    """The reward times what each child makes of a reward of 1."""

    shapers: tuple[RewardShaper, ...]

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Token rewards stay as they are; a child that gives some is refused by UserError."""
        rewards = np.array(shaped.rewards_G, np.float64)
        ones = Shaped(floats_array([1.0] * len(rewards)))
        writes: list[Write] = []
        for shaper in self.shapers:
            factor = shaper(group, ones, history, ctx)
            if factor.token_rewards_GT is not None:
                raise UserError("mul multiplies scalars; put a shaper with token rewards in `add`")
            rewards = rewards * factor.rewards_G
            writes.extend(factor.writes)
        return shaped._replace(rewards_G=floats_array(rewards), writes=tuple(writes))


@dataclass(frozen=True, slots=True)
class Add:
    """The reward plus the weighted change each child would make to it, all seeing the same one."""

    shapers: tuple[RewardShaper, ...]
    weights: tuple[float, ...]

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Token rewards are weighted and added alike."""
        rewards = np.array(shaped.rewards_G, np.float64)
        tokens = _tokens(group, shaped)
        total = list(tokens)
        writes: list[Write] = []
        for shaper, weight in zip(self.shapers, self.weights, strict=True):
            given = shaper(group, shaped._replace(writes=()), history, ctx)
            rewards += weight * (given.rewards_G.astype(np.float64) - shaped.rewards_G)
            changes = zip(total, _tokens(group, given), tokens, strict=True)
            total = [floats_array(sum_T + weight * (new - old)) for sum_T, new, old in changes]
            writes.extend(given.writes)
        keeps_none = shaped.token_rewards_GT is None and not any(t.any() for t in total)
        per_token = None if keeps_none else tuple(total)
        return Shaped(floats_array(rewards), per_token, tuple(writes))


@dataclass(frozen=True, slots=True)
class Gate:
    """The children where a component is above the bar; elsewhere a fixed reward and nothing else."""

    component: str
    shapers: tuple[RewardShaper, ...] = ()
    above: float = CORRECT
    fail: float = 0.0
    """Reward of what does not pass: -1 (ARPO), 0, 0.1 (Med-R3), ..."""

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Children see the whole group; a trajectory that fails the gate offers no write.

        Raises UserError when the component was not recorded.
        """
        column(group, self.component, "gate")
        given = chain(self.shapers, group, shaped, history, ctx)
        passed = [correct(t, self.component, self.above) for t in group.trajectories]
        pairs = zip(given.rewards_G, passed, strict=True)
        rewards = floats_array([float(r) if ok else self.fail for r, ok in pairs])
        failed = {t.uid for t, ok in zip(group.trajectories, passed, strict=True) if not ok}
        writes = tuple(w for w in given.writes if w.uid not in failed)
        tokens = given.token_rewards_GT
        if tokens is not None:
            kept = zip(tokens, passed, strict=True)
            tokens = tuple(t if ok else floats_array(np.zeros_like(t)) for t, ok in kept)
        return Shaped(rewards, tokens, writes)


@dataclass(frozen=True, slots=True)
class Stage:
    """Another chain of children in each stage of the run (UR2)."""

    until: tuple[int, ...]
    """Step at which each stage but the last ends."""
    stages: tuple[tuple[RewardShaper, ...], ...]

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """An empty stage leaves the reward alone."""
        stage = sum(ctx.step >= end for end in self.until)
        return chain(self.stages[stage], group, shaped, history, ctx)


@dataclass(frozen=True, slots=True)
class Cap:
    """The children's reward, kept between two bounds."""

    shapers: tuple[RewardShaper, ...] = ()
    low: float | None = None
    high: float | None = None

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Token rewards are not bounded."""
        given = chain(self.shapers, group, shaped, history, ctx)
        low = -np.inf if self.low is None else self.low
        high = np.inf if self.high is None else self.high
        return given._replace(rewards_G=floats_array(np.clip(given.rewards_G, low, high)))


def _tokens(group: Group, shaped: Shaped) -> list[Float32Array]:
    """Token rewards, zeros when there are none."""
    if shaped.token_rewards_GT is not None:
        return list(shaped.token_rewards_GT)
    return [floats_array(np.zeros(t.n_tokens)) for t in group.trajectories]


def mul(*, shapers: tuple[Plugin, ...], tokenizer: Tokenizer | None = None) -> Mul:
    """The reward times what each shaper makes of a reward of 1."""
    return Mul(_built("mul", shapers, tokenizer))


def add(
    *,
    shapers: tuple[Plugin, ...],
    weights: tuple[float, ...] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Add:
    """The reward plus the weighted change each shaper would make to it; weights are 1 by default."""
    if weights is not None and len(weights) != len(shapers):
        raise UserError(f"add has {len(shapers)} shapers and {len(weights)} weights; give as many")
    return Add(_built("add", shapers, tokenizer), weights or (1.0,) * len(shapers))


def gate(
    *,
    component: str,
    shapers: tuple[Plugin, ...] = (),
    above: float = CORRECT,
    fail: float = 0.0,
    tokenizer: Tokenizer | None = None,
) -> Gate:
    """The shapers where a component is above the bar; elsewhere the fixed reward `fail`."""
    return Gate(component, _built("gate", shapers, tokenizer, least=0), above, fail)


def stage(
    *,
    until: tuple[int, ...],
    stages: tuple[tuple[Plugin, ...], ...],
    tokenizer: Tokenizer | None = None,
) -> Stage:
    """Another chain of shapers from each step in `until` on."""
    if len(stages) != len(until) + 1 or list(until) != sorted(set(until)):
        raise UserError(
            f"stage has {len(stages)} stages and until={list(until)}; give one ascending step for "
            "every stage but the last"
        )
    return Stage(until, tuple(_built("stage", nodes, tokenizer, least=0) for nodes in stages))


def cap(
    *,
    shapers: tuple[Plugin, ...] = (),
    low: float | None = None,
    high: float | None = None,
    tokenizer: Tokenizer | None = None,
) -> Cap:
    """The reward, after the shapers, kept between two bounds."""
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise UserError(f"cap needs low or high, and low <= high; not {low} and {high}")
    return Cap(_built("cap", shapers, tokenizer, least=0), low, high)


def _built(
    name: str, nodes: Sequence[Plugin], tokenizer: Tokenizer | None, least: int = 1
) -> tuple[RewardShaper, ...]:
    if len(nodes) < least:
        raise UserError(f"{name} needs at least {least} shaper in `shapers`")
    host = {} if tokenizer is None else {"tokenizer": tokenizer}
    return tuple(build("shaper", node, **host) for node in nodes)


__all__ = [
    "Add",
    "Cap",
    "Components",
    "Gate",
    "Mul",
    "Outcome",
    "Stage",
    "add",
    "cap",
    "gate",
    "mul",
    "stage",
]
