"""The best way through a world whose transition table is known (`env.unwrapped.P`).

Gymnasium's toy worlds expose their table: P[state][action] lists (probability, next state, reward,
over). Where every outcome is certain, value iteration with a discount below one finds the shortest
way to the reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt

DISCOUNT = 0.99
"""Below one, so that of two ways to a reward the shorter one is worth more."""

Outcome = tuple[float, int, float, bool]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A world without chance; arrays are `[states, actions]`."""

    following: npt.NDArray[np.int64]
    """The state that an action leads to."""
    rewards: npt.NDArray[np.float64]
    over: npt.NDArray[np.bool_]
    """Whether the action ends the episode."""

    def plan(self) -> npt.NDArray[np.int64]:
        """The best action of every state, `[states]`; the first of equals."""
        values = np.zeros(len(self.following))
        for _ in range(10_000):
            worth = self._worth(values, DISCOUNT)
            new = worth.max(axis=1)
            settled = np.abs(new - values).max() < 1e-9
            values = new
            if settled:
                break
        return self._worth(values, DISCOUNT).round(9).argmax(axis=1)

    def blind(self, turns: int) -> npt.NDArray[np.float64]:
        """What uniformly random moves earn within `turns`, by state, `[states]`."""
        values = np.zeros(len(self.following))
        for _ in range(turns):
            values = self._worth(values, 1.0).mean(axis=1)
        return values

    def earned(self, plan: npt.NDArray[np.int64], state: int, turns: int) -> float:
        """What a plan earns from a state within `turns`."""
        total = 0.0
        for _ in range(turns):
            action = plan[state]
            total += float(self.rewards[state, action])
            if self.over[state, action]:
                break
            state = int(self.following[state, action])
        return total

    def _worth(self, values: npt.NDArray[np.float64], discount: float) -> npt.NDArray[np.float64]:
        return self.rewards + discount * np.where(self.over, 0.0, values[self.following])


def table_of(env: gymnasium.Env[Any, Any]) -> Table | None:
    """A reset world's table; None when it has none, or chance decides."""
    found: object = getattr(env.unwrapped, "P", None)
    if not isinstance(found, Mapping) or not hasattr(env.unwrapped, "s"):
        return None
    rows = cast("Mapping[int, Mapping[int, list[Outcome]]]", found)
    certain = all(_certain(outcomes) for row in rows.values() for outcomes in row.values())
    if not rows or not certain or list(rows) != list(range(len(rows))):
        return None
    cells = [[_likely(rows[s][a]) for a in sorted(rows[s])] for s in rows]
    return Table(
        np.array([[cell[1] for cell in row] for row in cells], dtype=np.int64),
        np.array([[cell[2] for cell in row] for row in cells], dtype=np.float64),
        np.array([[cell[3] for cell in row] for row in cells], dtype=np.bool_),
    )


def _certain(outcomes: list[Outcome]) -> bool:
    return len({outcome[1:] for outcome in outcomes if outcome[0] > 0}) == 1


def _likely(outcomes: list[Outcome]) -> Outcome:
    return max(outcomes, key=lambda outcome: outcome[0])


__all__ = ["DISCOUNT", "Table", "table_of"]
