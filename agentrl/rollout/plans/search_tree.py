"""DeepSearch's tree (2509.25454): nodes of one task's search, and the rules that value and choose them.

A node is a piece of text, with what the world answered to it; the root is the prompt. V is its value,
N its visits, Q = V / N. Depth counts from 0 at the root, a path's length is its leaf's depth + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentrl.episode import Episode
from agentrl.trajectory import Trajectory
from agentrl.transcript import Float32Array, floats_array

LEAST_WEIGHT = 0.1
"""Of an outcome at the nodes furthest from it."""


def path_weight(depth: int, length: int) -> float:
    """w = max((depth + 1) / length, 0.1): the nearer to the leaf, the more of its outcome."""
    return max((depth + 1) / length, LEAST_WEIGHT)


def backed_up(value: float, weight: float, outcome: float) -> float:
    """V after an outcome v: V + w v where they agree; w v where a success contradicts; else V."""
    if value * outcome >= 0:
        return value + weight * outcome
    return weight * outcome if outcome > 0 else value


def uct(q: float, parent_visits: int, visits: int, explore: float = 2.0) -> float:
    """Q + c sqrt(ln N_parent / N); without visits there is nothing to explore by."""
    if not visits or not parent_visits:
        return q
    return q + explore * math.sqrt(math.log(parent_visits) / visits)


@dataclass(frozen=True, slots=True)
class Frontier:
    """How all open nodes of a tree are compared."""

    parent: float = 0.4
    """Weight of tanh(Q of the parent)."""
    entropy: float = 0.4
    """Weight of H, the mean -logprob of the node's tokens in nats; 0 switches it off."""
    depth: float = 0.01
    """Weight of sqrt(depth / max_depth)."""

    def score(self, parent_q: float, entropy: float, depth: int, max_depth: int) -> float:
        """The highest is expanded next."""
        deep = math.sqrt(depth / max_depth)
        return self.parent * math.tanh(parent_q) + self.entropy * entropy + self.depth * deep


@dataclass(slots=True, eq=False)
class Node:
    """One node while the search goes on."""

    number: int
    """Sibling number of the episode that wrote it."""
    parent: Node | None
    depth: int
    start: int
    """Its tokens are [start, end) of the row."""
    end: int
    entropy: float = 0.0
    """Mean -logprob of its sampled tokens, nats."""
    episode: Episode | None = None
    """Stands at its end; None once it was expanded or has ended."""
    trajectory: Trajectory | None = None
    """Set where the search ended."""
    outcome: float | None = None
    """+1 right, -1 wrong or incomplete; None of an inner node."""
    value: float = 0.0
    visits: int = 0
    children: list[Node] = field(default_factory=list["Node"])

    @property
    def q(self) -> float:
        """V / N; 0 before the first visit."""
        return self.value / self.visits if self.visits else 0.0

    def path(self) -> Iterator[Node]:
        """From here to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def back_up(self, outcome: float) -> None:
        """One visit and the outcome's share for every node of the path; this node is the leaf."""
        for node in self.path():
            node.visits += 1
            weight = path_weight(node.depth, self.depth + 1)
            node.value = backed_up(node.value, weight, outcome)

    def token_values(self) -> Float32Array:
        """Of a leaf, [t] over its row: tanh(V) of the inner node each token belongs to, its own
        outcome for the last one, 0 of the prompt."""
        values = [0.0] * self.end
        for node in self.path():
            shown = math.tanh(node.value) if node.outcome is None else node.outcome
            if node.parent is not None:
                values[node.start : node.end] = [shown] * (node.end - node.start)
        return floats_array(values)


def teacher(leaves: Sequence[Node]) -> Node:
    """Which of a round's leaves is backed up: the first right one, else the surest error."""
    right = [leaf for leaf in leaves if leaf.outcome == 1.0]
    return right[0] if right else min(leaves, key=_uncertainty)


def _uncertainty(leaf: Node) -> float:
    """Mean -logprob over all sampled tokens of a finished leaf, nats; 0 without any."""
    assert leaf.trajectory is not None
    rows = leaf.trajectory.rows
    total = sum(float(row.logprobs[row.mask].sum()) for row in rows)
    return -total / max(1, leaf.trajectory.n_sampled)


__all__ = [
    "Frontier",
    "Node",
    "backed_up",
    "path_weight",
    "teacher",
    "uct",
]
