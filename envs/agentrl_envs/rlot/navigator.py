"""The paper's navigator: a duelling network of 2,566 parameters, trained by double DQN.

RLoT (arXiv:2505.14140) trains it on the seven scores with a process reward after each block. The
shape is the paper's; the settings of its training are not published, so these are this project's.
It runs on numpy in seconds against the scripted solver, and is the yardstick for a language model
that navigates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentrl.seeds import derive
from agentrl.types import Task
from agentrl_envs.rlot.blocks import BLOCKS, Block, Scores, executed
from agentrl_envs.rlot.solver import Work, begun, expected, run, scores

Array: TypeAlias = NDArray[np.float64]

Pays = Literal["score", "change"]

SIZES = ((7, 32), (32, 32), (32, 1), (32, 32), (32, 5))
"""Inputs and outputs of the layers: shared; value, two; advantage, two."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the navigator is trained."""

    episodes: int = 1000
    batch: int = 64
    lr: float = 1e-3
    gamma: float = 0.95
    memory: int = 5000
    """Transitions kept for replay."""
    target_every: int = 100
    """Updates between copies of the network into the one that values the next state."""
    explore: float = 0.1
    """Share of random blocks at the end; it falls from 1 over the first half."""
    pays: Pays = "change"
    """`score`: the process score after each block, as the paper has it. It also pays for blocks that
    do nothing. `change`: by how much a block changed the score, and the outcome at the end."""


@dataclass(frozen=True, slots=True)
class _Passed:
    """One forward pass, as the gradient needs it."""

    states: Array
    shared: Array
    value: Array
    advantage: Array
    q: Array


def combined(value: Array, advantage: Array) -> Array:
    """`Q = V + A - mean(A)`: V=1 and A=[1,2,3,4,5] give [-1,0,1,2,3]."""
    return value + advantage - advantage.mean(axis=-1, keepdims=True)


class Navigator:
    """The duelling network; parameters are one weight and one bias per layer."""

    def __init__(self, seed: int = 0) -> None:
        """Weights are uniform within 1/sqrt(inputs), biases zero."""
        rng = np.random.default_rng(seed)
        self.parameters: list[Array] = []
        for n_in, n_out in SIZES:
            bound = n_in**-0.5
            self.parameters += [rng.uniform(-bound, bound, (n_in, n_out)), np.zeros(n_out)]

    @property
    def n_parameters(self) -> int:
        """2,566."""
        return sum(parameter.size for parameter in self.parameters)

    def q(self, states: Array) -> Array:
        """Values of the five blocks, [..., 5], for scores [..., 7]."""
        return self._forward(states).q

    def best(self, state: Scores) -> Block:
        """The block with the highest value."""
        return BLOCKS[int(self.q(_inputs([state]))[0].argmax())]

    def _forward(self, states: Array) -> _Passed:
        w = self.parameters
        shared = np.maximum(states @ w[0] + w[1], 0)
        value = np.maximum(shared @ w[2] + w[3], 0)
        advantage = np.maximum(shared @ w[6] + w[7], 0)
        q = combined(value @ w[4] + w[5], advantage @ w[8] + w[9])
        return _Passed(states, shared, value, advantage, q)

    def gradient(self, states: Array, taken: NDArray[np.int64], targets: Array) -> list[Array]:
        """Of half the mean squared error of the taken blocks' values, in the parameters' order."""
        w, passed = self.parameters, self._forward(states)
        n = len(states)
        error = np.zeros_like(passed.q)
        error[np.arange(n), taken] = (passed.q[np.arange(n), taken] - targets) / n
        d_value = error.sum(axis=1, keepdims=True)
        d_advantage = error - error.mean(axis=1, keepdims=True)
        v = (d_value @ w[4].T) * (passed.value > 0)
        a = (d_advantage @ w[8].T) * (passed.advantage > 0)
        s = (v @ w[2].T + a @ w[6].T) * (passed.shared > 0)
        pairs = (
            (passed.states, s), (passed.shared, v), (passed.value, d_value),
            (passed.shared, a), (passed.advantage, d_advantage),
        )  # fmt: skip
        return [part for x, d in pairs for part in (x.T @ d, d.sum(axis=0))]


@dataclass(frozen=True, slots=True)
class _Transition:
    state: Scores
    taken: int
    reward: float
    after: Scores | None
    """None when the block ended the episode."""


def trained(tasks: Iterable[Task], *, seed: int = 0, settings: Settings | None = None) -> Navigator:
    """A navigator trained on the scripted solver with its process reward; the same under a seed."""
    chosen = settings or Settings()
    rng, net = Random(derive("navigator", seed)), Navigator(seed)
    optimiser = _Adam(net.parameters, chosen.lr)
    memory: deque[_Transition] = deque(maxlen=chosen.memory)
    frozen, updates = Navigator(seed), 0
    for episode, task in zip(range(chosen.episodes), tasks, strict=False):
        share = max(chosen.explore, 1 - 2 * episode / chosen.episodes)
        for transition in _played(net, task, share, rng, pays=chosen.pays):
            memory.append(transition)
            if len(memory) < chosen.batch:
                continue
            if updates % chosen.target_every == 0:
                frozen.parameters = [p.copy() for p in net.parameters]
            updates += 1
            _update(net, frozen, rng.sample(memory, chosen.batch), chosen.gamma, optimiser)
    return net


def _update(
    net: Navigator, frozen: Navigator, batch: Sequence[_Transition], gamma: float, optimiser: _Adam
) -> None:
    """Double DQN: the network picks the next block, the frozen one says what it is worth."""
    after = _inputs([t.after or t.state for t in batch])
    worth = frozen.q(after)[np.arange(len(batch)), net.q(after).argmax(axis=1)]
    goes_on = np.array([t.after is not None for t in batch])
    targets = np.array([t.reward for t in batch]) + gamma * worth * goes_on
    taken = np.array([t.taken for t in batch], dtype=np.int64)
    optimiser.step(net.gradient(_inputs([t.state for t in batch]), taken, targets))


def _played(
    net: Navigator, task: Task, explore: float, rng: Random, *, pays: Pays
) -> list[_Transition]:
    """One episode as transitions; what is learnt is the choice, also where another block was run."""
    work, made, before = begun(str(task.metadata["expression"])), list[_Transition](), 1.0
    while work.answer is None:
        state = scores(work)
        choice = rng.choice(BLOCKS) if rng.random() < explore else net.best(state)
        work = _after(work, choice, len(made))
        score, over = float(str(expected(work)) == task.answer), work.answer is not None
        reward = score if pays == "score" else score - before + (score if over else 0.0)
        made.append(
            _Transition(state, BLOCKS.index(choice), reward, None if over else scores(work))
        )
        before = score
    return made


def _after(work: Work, choice: Block, n_blocks: int, most: int = 12) -> Work:
    return run(work, executed(choice, n_blocks=n_blocks, answered=False, most=most))


def success(navigator: Navigator, tasks: Sequence[Task]) -> float:
    """Share of tasks that end with the right answer when the best block is always taken."""
    solved = 0
    for task in tasks:
        work, n = begun(str(task.metadata["expression"])), 0
        while work.answer is None:
            work, n = _after(work, navigator.best(scores(work)), n), n + 1
        solved += str(work.answer) == task.answer
    return solved / len(tasks)


def _inputs(states: Sequence[Scores]) -> Array:
    """Scores centred at 0."""
    return np.asarray(states, dtype=np.float64) - 2.0


class _Adam:
    """Adam (arXiv:1412.6980) over a list of arrays, changed in place."""

    def __init__(self, parameters: list[Array], lr: float) -> None:
        self._parameters, self._lr, self._t = parameters, lr, 0
        self._m = [np.zeros_like(p) for p in parameters]
        self._v = [np.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[Array]) -> None:
        """One step down."""
        self._t += 1
        scale = (1 - 0.999**self._t) ** 0.5 / (1 - 0.9**self._t)
        for p, g, m, v in zip(self._parameters, gradients, self._m, self._v, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= self._lr * scale * m / (np.sqrt(v) + 1e-8)


__all__ = ["Navigator", "Settings", "combined", "success", "trained"]
