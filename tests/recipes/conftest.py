"""Every method's recipe on the same few trajectories, through the plug-ins that its own file names.

A test with the argument `recipe` runs once per method: a recipe file whose header has a `Nano` line.
`lab` gives the recipe's rewards, verdicts, advantages and the slopes of its loss as numbers.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from typing import Any

import pytest
import torch
from torch import Tensor

from agentrl.algo.advantage import estimate
from agentrl.algo.batch import make_batch
from agentrl.algo.loss import Aggregate, TokenScores
from agentrl.algo.offpolicy import keep
from agentrl.algo.types import Batch
from agentrl.compose import compose, config_root, group_names
from agentrl.config import RunConfig
from agentrl.history import HistoryStore
from agentrl.plugins import build, options
from agentrl.points import Ctx, Patch, Services, Verdict, combined
from agentrl.train.assemble import make_update
from agentrl.train.collect import score, shape
from agentrl.train.critic import CriticOptions, teach
from agentrl.train.objective import Objective
from agentrl.train.setup import plugins
from agentrl.train.token_log import TokenLog
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.transcript import Origin, Segment, Transcript
from agentrl.types import Message, Task

LABELS = ("Changes", "Differs", "Nano", "Published", "Measured")
"""Entries of a recipe's header, in order, after the line that names the paper."""
CTX = Ctx(step=0, total_steps=10, seed=0)


@cache
def header(name: str) -> Mapping[str, str]:
    """Label -> text of a recipe's leading comment; the line that names the paper is `Paper`."""
    text = (config_root() / "recipe" / f"{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    label = "Paper"
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        body = line[1:].strip()
        start, colon, rest = body.partition(":")
        if colon and start in LABELS:
            label, body = start, rest.strip()
        found[label] = f"{found.get(label, '')} {body}".strip()
    return found


def methods() -> tuple[str, ...]:
    """Recipes that are methods, not models or sizes."""
    return tuple(name for name in group_names("recipe") if "Nano" in header(name))


def nano_words(name: str) -> list[str]:
    """What its header says to type after `agentrl train`."""
    command, _, _ = header(name)["Nano"].partition(";")
    words = shlex.split(command)
    assert words[:2] == ["agentrl", "train"], command
    return words[2:]


def published_words(name: str) -> list[str]:
    """The words of its published size, up to the semicolon."""
    return shlex.split(header(name)["Published"].partition(";")[0])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recipe" in metafunc.fixturenames:
        metafunc.parametrize("recipe", methods())


@dataclass(frozen=True)
class Member:
    """One trajectory: what it earned and how it was written."""

    env: float
    turns: tuple[int, ...]
    """Tokens of each turn; an observation of 2 tokens stands between two."""
    stop: StopReason = StopReason.TERMINATED


MEMBERS: Mapping[str, tuple[Member, ...]] = {
    "a": (Member(1, (3, 2)), Member(0, (4,)), Member(0, (2, 3)), Member(1, (6,))),
    "b": (Member(1, (5,)), Member(0, (3,)), Member(0, (2, 2)), Member(0, (4, 3, 2))),
    "c": (
        Member(1, (2,)),
        Member(1, (20, 28)),
        Member(1, (3, 4), StopReason.TURN_TOKENS),
        Member(0, (7,)),
    ),
}
"""Task -> siblings; the last group has a long and a truncated right answer."""


def made_group(name: str, members: Sequence[Member], step: int = 0) -> Group:
    """A group of hand-made trajectories; every turn but the last one made a call that worked."""
    task = Task(name, f"what is {name}?", "1", {"family": name})
    return Group(task, tuple(made(task, i, member, step) for i, member in enumerate(members)), step)


def made(task: Task, sibling: int, member: Member, step: int) -> Trajectory:
    """One trajectory. Ids, logprobs and texts are arbitrary and fixed."""
    row = Transcript().append(Segment(Origin.PROMPT, [3, 4]))
    messages = [Message("user", task.question)]
    seed = 7 * sibling + len(task.id) + ord(task.id[0])
    for turn, n in enumerate(member.turns):
        ids = [5 + (seed + turn + 3 * k) % 40 for k in range(n)]
        logprobs = [-0.9 - 0.1 * ((seed + turn + k) % 5) for k in range(n)]
        row = row.append(Segment(Origin.MODEL, ids, logprobs, version=0))
        last = turn == len(member.turns) - 1
        messages.append(Message("assistant", "<answer>\n\\boxed{1}\n</answer>" if last else "code"))
        if not last:
            row = row.append(Segment(Origin.OBSERVATION, [50 + sibling % 2, 60]))
            messages.append(Message("tool", "2"))
    calls = tuple(
        CallRecord(turn, "python", "{}", "2", None, False, 0.0, 0.0)
        for turn in range(len(member.turns) - 1)
    )
    return Trajectory(
        uid=f"{step}/{task.id}/{sibling}",
        task=task,
        sibling=sibling,
        rows=(row,),
        messages=tuple(messages),
        stop=member.stop,
        rewards={"env": member.env},
        calls=calls,
        n_turns=len(member.turns),
        answer="1" if member.env else "2",
    )


def patterned(batch: Batch, values: Sequence[float], stride: int) -> Tensor:
    """[B, T] that walks through `values`, starting elsewhere in each row."""
    n_rows, n_columns = batch.mask.shape
    rows = [
        list(islice(cycle(values), stride * row, stride * row + n_columns)) for row in range(n_rows)
    ]
    return torch.tensor(rows)


@dataclass(frozen=True)
class Slopes:
    """A loss and its gradient, all [B, T], zero where nothing depends on it."""

    loss: float
    logprobs: Tensor
    entropies: Tensor
    values: Tensor


class Lab:
    """A recipe's own plug-ins on fixed trajectories."""

    members = MEMBERS

    def config(self, name: str, *more: str) -> RunConfig:
        """What its nano command composes, with more words."""
        return compose([*nano_words(name), *more])

    def groups(self, members: Mapping[str, Sequence[Member]] = MEMBERS) -> list[Group]:
        """The fixed groups, or others, before anything is scored."""
        return [made_group(name, siblings) for name, siblings in members.items()]

    def shaped(
        self,
        config: RunConfig,
        groups: Sequence[Group] | None = None,
        *,
        history: HistoryStore | None = None,
        ctx: Ctx = CTX,
    ) -> list[Group]:
        """The groups with the recipe's reward functions and shapers applied."""
        services = Services(episodes=NoEpisodes(), rewards=plugins("reward", config.algo.rewards))
        scored = asyncio.run(_scored(self.groups() if groups is None else groups, services))
        shapers = plugins("shaper", config.algo.shapers)
        store = HistoryStore() if history is None else history
        return [shape(group, shapers, store, ctx)[0] for group in scored]

    def rewards(self, config: RunConfig, **given: Any) -> Tensor:
        """[B] shaped rewards, in the batch's order."""
        return torch.tensor(
            [t.reward for g in self.shaped(config, **given) for t in g.trajectories]
        )

    def verdicts(self, config: RunConfig, **given: Any) -> list[Verdict]:
        """What the recipe's gate says of each group."""
        assert config.algo.gate is not None
        gate = build("gate", config.algo.gate)
        ctx = given.get("ctx", CTX)
        return [gate(group, HistoryStore(), ctx) for group in self.shaped(config, **given)]

    def batch(self, config: RunConfig, **given: Any) -> Batch:
        """The batch with everybody's logprobs and values.

        The learner's differ from the engine's by factors of 0.45 to 1.9, except in rows 1 and 4.
        """
        batch = make_batch(self.shaped(config, **given), pad_id=0)
        off = batch.behaviour_logprobs
        gap = patterned(batch, (0.0, 0.05, -0.1, 0.02, 0.0, -0.03, 1.0 / 1.6, -0.8), 3)
        gap[1] = gap[4] = 0
        old = (off + gap).clamp(max=-0.01) * batch.mask
        return replace(
            batch,
            old_logprobs=old,
            ref_logprobs=(old - patterned(batch, (0.2, -0.1, 0.4, 0.05, 0.0), 2)) * batch.mask,
            teacher_logprobs=(old - patterned(batch, (-0.3, 0.1, 0.5), 1)) * batch.mask,
            values=patterned(batch, (0.5, 0.1, 0.9, 0.3), 1),
        )

    def now(self, batch: Batch) -> Tensor:
        """[B, T] logprobs in the middle of an update: ratios from 0.55 to 12, 1 in the first row."""
        assert batch.old_logprobs is not None
        drift = patterned(batch, (0.22, -0.6, 0.1, -0.1, 0.3, -0.3, 0.6, 2.5, 0.0, -0.05, 1.8), 4)
        drift[0] = 0
        demo = patterned(batch, (-0.4, -1.1), 1)
        return torch.where(batch.mask, batch.old_logprobs + drift, demo)

    def new_values(self, batch: Batch) -> Tensor:
        """[B, T] of the critic in the middle of its update."""
        return patterned(batch, (0.6, 0.4, 0.8), 1)

    def entropies(self, batch: Batch) -> Tensor:
        """[B, T] in nats."""
        return patterned(batch, (0.2, 1.2, 0.7, 0.4, 0.9), 1)

    def estimated(self, config: RunConfig, ctx: Ctx = CTX, **given: Any) -> Batch:
        """The batch with the KL paid from its rewards and its advantages."""
        update = make_update(config)
        batch = self.batch(config, ctx=ctx, **given)
        if update.reward_kl is not None:
            batch, _ = update.reward_kl(batch, ctx)
        return estimate(update.advantage, batch, ctx)

    def advantages(self, config: RunConfig, **given: Any) -> Tensor:
        """[B, T]."""
        found = self.estimated(config, **given).advantages
        assert found is not None
        return found

    def slopes(self, config: RunConfig, *, ctx: Ctx = CTX, **given: Any) -> Slopes:
        """The whole loss, correction and terms included, and its gradient by logprob and entropy.

        `values` is the gradient of the critic's loss, on a shared trunk with its coefficient.
        """
        update = make_update(config)
        batch = self.estimated(config, ctx=ctx, **given)
        now = self.now(batch)
        batch, _ = keep(batch, update.correction)
        critic = options("learner", config.learner).get("critic")
        assert critic is None or isinstance(critic, CriticOptions)
        objective = Objective(
            update.loss,
            Aggregate(config.algo.aggregate, config.algo.aggregate_length),
            update.aux,
            update.correction,
            ctx,
            TokenLog(0),
            score=lambda _, tokens: now * tokens,
            critic=critic if critic is not None and critic.trunk == "shared" else None,
        )
        objective.start(batch)
        own = [now.clone(), self.entropies(batch), self.new_values(batch)]
        logprobs, entropies, values = (tensor.requires_grad_() for tensor in own)
        total = torch.zeros(())
        # Micro-batches are cut as in a run: a share counts globally.
        for micro in batch.micro_batches(200, objective.wanted):
            cut = TokenScores(micro.take(logprobs), micro.take(entropies), micro.take(values))
            total = total + objective(micro, cut)
        if critic is not None and critic.trunk == "separate":
            total = total + teach(values, batch, critic.clip)
        total.backward()
        grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in own]
        return Slopes(float(total.detach()), *grads)

    def patch(self, config: RunConfig, ctx: Ctx) -> Patch:
        """What the recipe's schedules change at a step."""
        return combined(s.at(ctx) for s in plugins("schedule", config.algo.schedules))


async def _scored(groups: Sequence[Group], services: Services) -> list[Group]:
    return await score(groups, services)


class NoEpisodes:
    """Nothing here plays."""

    async def run(self, task: Task, sibling: int, ctx: Ctx) -> Trajectory:
        raise AssertionError("no episode is played in these tests")


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()


@dataclass(frozen=True)
class Headers:
    """What recipes say of themselves."""

    def of(self, name: str) -> Mapping[str, str]:
        return header(name)

    def nano(self, name: str) -> list[str]:
        return nano_words(name)

    def published(self, name: str) -> list[str]:
        return published_words(name)


@pytest.fixture(scope="session")
def headers() -> Headers:
    return Headers()
