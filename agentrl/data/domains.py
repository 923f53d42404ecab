"""RuleReasoner (2506.08672): domains the policy does worse on are drawn more often.

Underfit v_d = max(0, r_target - r_d), weight w_d = softmax((v_d + eps) / tau); eps cancels. r_d is
the domain's smoothed reward, new weights every `every` steps from the batch of that step:

- `ema`: r_d <- alpha r_d + (1 - alpha) r, at first r itself;
- `harmonic`, over the last `window` such batches: the newest counts 1, the one before 1/2, then
  1/3, ...; the discounted rewards are averaged over all items, and the target becomes
  r_target (1 + 1/2 + ... + 1/window) / window, 0.5208 of it at 4.

Where it differs from the released code: a smoothed reward of exactly 0 is a value, not "unset"; a
domain that the batch lacks keeps its smoothed reward instead of its weight being lost. One that was
never measured counts as reward 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, final

from agentrl.data.state import restored, stored
from agentrl.data.stream import Cursor, TaskStream
from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.seeds import derive
from agentrl.trajectory import Group
from agentrl.types import JsonValue, Task

Sums = dict[str, tuple[float, int]]
"""Domain -> sum of rewards and how many, of one batch."""


@dataclass(slots=True)
class DomainState:
    """Everything that decides the next draw."""

    drawn: int = 0
    positions: dict[str, int] = field(default_factory=dict[str, int])
    """Domain -> place of its own in the stream."""
    weights: dict[str, float] = field(default_factory=dict[str, float])
    """Domain -> probability; empty while uniform."""
    smoothed: dict[str, float] = field(default_factory=dict[str, float])
    """Domain -> r_d of the last update (`ema`)."""
    batches: list[Sums] = field(default_factory=list[Sums])
    """The last updates' batches, oldest first (`harmonic`)."""


@final
class Domains:
    """Domains weighted by how far their reward is from its target."""

    def __init__(
        self,
        *,
        stream: TaskStream,
        seed: int,
        key: str = "domain",
        domains: tuple[str, ...] | None = None,
        smoothing: Literal["ema", "harmonic"] = "ema",
        alpha: float = 0.5,
        window: int = 4,
        target: float = 1.0,
        tau: float = 0.3,
        eps: float = 0.1,
        every: int = 8,
        component: str = "env",
    ) -> None:
        """Find the domains.

        Args:
            stream: what is drawn from.
            seed: the run's.
            key: the metadata that names a task's domain.
            domains: the domains to draw; None takes all that the stream shows.
            smoothing: `ema` or `harmonic`.
            alpha: weight of the past in `ema`.
            window: batches in `harmonic`.
            target: reward at which a domain needs no more.
            tau: temperature of the softmax; smaller is more uneven.
            eps: added to every underfit; it cancels, and stands for the paper's formula.
            every: steps between updates.
            component: the reward that is averaged.

        Raises UserError on values out of range, or when fewer than two domains are found.
        """
        if tau <= 0 or every < 1 or window < 1 or not 0 <= alpha < 1 or not 0 < target <= 1:
            raise UserError(
                "domains needs tau > 0, every >= 1, window >= 1, 0 <= alpha < 1 and 0 < target <= 1"
            )
        found = {domain for task in stream.look() if (domain := domain_of(task, key)) is not None}
        self._domains = tuple(sorted(found if domains is None else set(domains)))
        if len(self._domains) < 2:
            raise UserError(
                f"domains found {', '.join(self._domains) or 'no domain'} under the metadata "
                f"{key!r}; set data.source.key to one that tells tasks apart"
            )
        self._stream, self._seed, self._key, self._component = stream, seed, key, component
        self._smoothing, self._alpha, self._window = smoothing, alpha, window
        self._target, self._tau, self._eps, self._every = target, tau, eps, every
        self._state = DomainState()
        self._cursors = self._placed()

    def next(self, n: int, ctx: Ctx) -> list[Task]:
        """`n` tasks, the domain of each drawn by weight."""
        return [self._one() for _ in range(n)]

    def _one(self) -> Task:
        rng = Random(derive("domain", self._seed, self._state.drawn))
        weights = [self._state.weights.get(d, 1.0) for d in self._domains]
        domain = rng.choices(self._domains, weights)[0]
        self._state.drawn += 1
        called = f"metadata {self._key}={domain}"
        return self._cursors[domain].take(1, lambda t: domain_of(t, self._key) == domain, called)[0]

    def observe(self, groups: Sequence[Group], ctx: Ctx) -> None:
        """New weights after every `every`-th step."""
        if (ctx.step + 1) % self._every:
            return
        sums = self._sums(groups)
        if not sums:
            return
        rewards, target = self._smooth(sums)
        self._state.weights = weights(
            {d: rewards.get(d, 0.0) for d in self._domains}, target, self._tau, self._eps
        )

    def _sums(self, groups: Sequence[Group]) -> Sums:
        rewards: dict[str, list[float]] = {}
        for group in groups:
            domain = domain_of(group.task, self._key)
            if domain in self._cursors:
                found = [t.rewards.get(self._component, 0.0) for t in group.scored]
                rewards.setdefault(domain, []).extend(found)
        # fsum is exact, so the order of arrival cannot show.
        return {d: (math.fsum(rs), len(rs)) for d, rs in sorted(rewards.items()) if rs}

    def _smooth(self, sums: Sums) -> tuple[Mapping[str, float], float]:
        """Smoothed rewards and their target."""
        state = self._state
        if self._smoothing == "harmonic":
            state.batches = [*state.batches, sums][-self._window :]
            return harmonic(state.batches), self._target * harmonic_share(self._window)
        for domain, (total, n) in sums.items():
            mean, before = total / n, state.smoothed.get(domain)
            state.smoothed[domain] = (
                mean if before is None else self._alpha * before + (1 - self._alpha) * mean
            )
        return state.smoothed, self._target

    def state(self) -> Mapping[str, JsonValue]:
        """Places, weights and what they rest on."""
        self._state.positions = {d: c.position for d, c in self._cursors.items()}
        return stored(self._state, self._stream)

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on from `state`. Raises UserError when it is of other tasks."""
        self._state = restored(DomainState, state, self._stream)
        self._cursors = self._placed()

    def _placed(self) -> dict[str, Cursor]:
        places = self._state.positions
        return {d: Cursor(self._stream, places.get(d, 0)) for d in self._domains}


def domain_of(task: Task, key: str) -> str | None:
    """The domain as text; None when the task does not say."""
    value = task.metadata.get(key)
    return None if value is None else str(value)


def weights(
    rewards: Mapping[str, float], target: float, tau: float, eps: float = 0.1
) -> dict[str, float]:
    """softmax((max(0, target - r_d) + eps) / tau)."""
    scores = {d: (max(0.0, target - reward) + eps) / tau for d, reward in rewards.items()}
    top = max(scores.values())
    powers = {d: math.exp(score - top) for d, score in scores.items()}
    total = math.fsum(powers.values())
    return {d: power / total for d, power in powers.items()}


def harmonic(batches: Sequence[Sums]) -> dict[str, float]:
    """Domain -> mean over all items of reward / age, the newest batch (the last) of age 1."""
    totals: dict[str, list[tuple[float, int]]] = {}
    for age, sums in enumerate(reversed(batches), 1):
        for domain, (total, n) in sums.items():
            totals.setdefault(domain, []).append((total / age, n))
    return {d: math.fsum(t for t, _ in ts) / sum(n for _, n in ts) for d, ts in totals.items()}


def harmonic_share(window: int) -> float:
    """(1 + 1/2 + ... + 1/window) / window: what a reward of 1 in every batch is smoothed to."""
    return math.fsum(1 / age for age in range(1, window + 1)) / window


__all__ = ["DomainState", "Domains", "Sums", "domain_of", "harmonic", "harmonic_share", "weights"]
