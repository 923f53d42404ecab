"""TaTToo (2510.06217): the reward of a verifier that labels the steps of a solution over a table.

The verifier writes `<label>+1</label>` or `<label>-1</label>` per step, in order, each after its rationale:
    s_i = 1[rhat_i = r_i] - lc (-ln R(r_i | T, q, tau)) + lt support(v_i)
rhat_i its label, r_i the task's (metadata `labels`), R the probability it gives the right label, support
whether the rationale really uses what a tool returned. The trajectory's reward is mean_i s_i; the
solution's score is mean_i rhat_i.

lc and lt are not given in the paper; 0.1 and 0.5 are ours. R(right) is that of the sampled label token
when it is right, else one minus it, kept in [0.01, 1]. Support is a rule of ours: a number of an
observation, or a capitalised word where there is no number, stands in the rationale. A step without
label earns what a wrong, certain, unsupported one does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast, final

import numpy as np

from agentrl.chat.base import Tokenizer
from agentrl.errors import UserError
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services, Shaped
from agentrl.rewards.base import added, column, spent, with_tokens
from agentrl.rewards.texts import char_ends, runs
from agentrl.trajectory import Group, Trajectory
from agentrl.transcript import Float32Array, Origin, floats_array
from agentrl.types import Task

COMPONENT = "tattoo"
STEP = "tattoo/step"
FLOOR = 0.01
"""Least probability that enters the confidence term: its logarithm stays bounded."""
_LABEL = re.compile(r"<label>\s*([+-]1)\s*</label>")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_NAME = re.compile(r"\b[A-Z][A-Za-z]{2,}\b")
_COUNTING = re.compile(r"\bstep\s*\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Label:
    """One verdict of the verifier."""

    said: int
    """+1 or -1."""
    probability: float
    """Of its tokens, as they were sampled."""
    rationale: str
    """What was written since the verdict before."""
    seen: str
    """All observations before it."""
    token: int
    """Index of its last token in the joined rows."""


def step_reward(
    *, match: bool, probability: float, support: bool, confidence: float, grounding: float
) -> float:
    """s_i; `probability` is that of the right label, `confidence` is lc and `grounding` lt."""
    unsure = -math.log(min(1.0, max(FLOOR, probability)))
    return float(match) - confidence * unsure + grounding * support


def solution_score(labels: Sequence[int]) -> float:
    """mean_i r_i of a solution's step labels; 0.0 without any."""
    return sum(labels) / len(labels) if labels else 0.0


def supported(rationale: str, seen: str) -> bool:
    """Whether the rationale uses something that an observation said."""
    said = _COUNTING.sub("", rationale)
    numbers = _values(_NUMBER, seen)
    return bool(numbers & _values(_NUMBER, said)) if numbers else bool(
        _values(_NAME, seen) & _values(_NAME, said)
    )  # fmt: skip


def _values(pattern: re.Pattern[str], text: str) -> set[str]:
    return {found.replace(",", "").rstrip(".") for found in pattern.findall(text)}


def gold_labels(task: Task) -> list[int]:
    """The task's labels. Raises UserError when its metadata has none, or others than +1 and -1."""
    listed = task.metadata.get("labels")
    labels = cast(list[object], listed) if isinstance(listed, list | tuple) else []
    if not labels or any(label not in (1, -1) for label in labels):
        raise UserError(f'task {task.id} needs metadata "labels": a list of 1 and -1, one per step')
    return [1 if label == 1 else -1 for label in labels]


def labels_of(trajectory: Trajectory, tokenizer: Tokenizer) -> list[Label]:
    """Every verdict that the policy wrote, in order."""
    found: list[Label] = []
    pending = ""
    for run in runs(trajectory):
        row = trajectory.rows[run.row]
        ids, logprobs = row.token_ids[: run.start], row.logprobs[run.start :]
        observed = ids[row.origins[: run.start] == Origin.OBSERVATION]
        seen = tokenizer.decode(observed)
        text, ends = tokenizer.decode(run.token_ids), char_ends(tokenizer, run.token_ids)
        begun = 0
        for match in _LABEL.finditer(text):
            first = int(np.searchsorted(ends, match.start(1), side="right"))
            last = int(np.searchsorted(ends, match.end(1), side="left"))
            probability = math.exp(float(logprobs[first : last + 1].sum()))
            rationale = pending + text[begun : match.start()]
            token = run.offset + min(last, len(run.token_ids) - 1)
            found.append(Label(int(match[1]), probability, rationale, seen, token))
            pending, begun = "", match.end()
        pending += text[begun:] + "\n"
    return found


@final
class Tattoo:
    """Reward function: `tattoo`, mean_i s_i; measurements `tattoo/step/<i>`, accuracy, support, score."""

    def __init__(
        self, *, tokenizer: Tokenizer, confidence: float = 0.1, grounding: float = 0.5
    ) -> None:
        """`confidence` is lc, `grounding` is lt. Raises UserError when one is negative."""
        if confidence < 0 or grounding < 0:
            raise UserError("tattoo needs confidence >= 0 and grounding >= 0")
        self._tokenizer = tokenizer
        self._confidence, self._grounding = confidence, grounding

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Labels beyond the task's steps count for nothing. Raises UserError without gold labels."""
        gold = gold_labels(trajectory.task)
        labels = labels_of(trajectory, self._tokenizer)[: len(gold)]
        rewards = [self._of(right, label) for right, label in zip(gold, labels, strict=False)]
        rewards += [self._missing()] * (len(gold) - len(labels))
        matched = sum(right == label.said for right, label in zip(gold, labels, strict=False))
        grounded = sum(supported(label.rationale, label.seen) for label in labels)
        return {
            COMPONENT: sum(rewards) / len(gold),
            **{f"{STEP}/{i}": reward for i, reward in enumerate(rewards)},
            "tattoo/accuracy": matched / len(gold),
            "tattoo/support": grounded / len(gold),
            "tattoo/score": solution_score([label.said for label in labels]),
        }

    def _of(self, right: int, label: Label) -> float:
        match = label.said == right
        return step_reward(
            match=match,
            probability=label.probability if match else 1 - label.probability,
            support=supported(label.rationale, label.seen),
            confidence=self._confidence,
            grounding=self._grounding,
        )

    def _missing(self) -> float:
        return step_reward(
            match=False, probability=0.0, support=False,
            confidence=self._confidence, grounding=self._grounding,
        )  # fmt: skip


@final
class TattooTokens:
    """Shaper: moves each s_i / n from the scalar to the last token of its label.

    Steps without label pay at the last token of all. The token rewards add up to the component.
    """

    def __init__(self, *, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, group: Group, shaped: Shaped, history: HistoryStore, ctx: Ctx) -> Shaped:
        """Raises UserError when the reward function `tattoo` recorded nothing."""
        column(group, COMPONENT, "tattoo")
        changes = [-spent(t, COMPONENT) for t in group.trajectories]
        placed = [self._placed(t) for t in group.trajectories]
        return with_tokens(group, added(shaped, changes), placed)

    def _placed(self, trajectory: Trajectory) -> Float32Array:
        rewards = np.zeros(trajectory.n_tokens)
        places = [label.token for label in labels_of(trajectory, self._tokenizer)]
        sampled = runs(trajectory)
        if not sampled:
            return floats_array(rewards)
        end = sampled[-1].offset + len(sampled[-1].token_ids) - 1
        n = len(gold_labels(trajectory.task))
        for i in range(n):
            place = places[i] if i < len(places) else end
            rewards[place] += trajectory.rewards.get(f"{STEP}/{i}", 0.0) / n
        return floats_array(rewards)


__all__ = [
    "COMPONENT", "STEP", "Label", "Tattoo", "TattooTokens", "gold_labels", "labels_of",
    "solution_score", "step_reward", "supported",
]  # fmt: skip
