"""The constants of the methods that act on rewards, groups, tasks and schedules, turned.

Each check gets a recipe as it is and the same with other words, both as composed configurations, and
compares shaped rewards, verdicts, drawn tasks or patches with numbers worked out here.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import agentrl
from agentrl.algo.advantage import estimate
from agentrl.algo.batch import make_batch
from agentrl.chat.base import Tokenizer
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.config import RunConfig
from agentrl.history import HistoryStore
from agentrl.plugins import build
from agentrl.points import Ctx, Drop, Keep, Patch, Services, TaskSource, Verdict, combined
from agentrl.train.assemble import make_update
from agentrl.train.collect import _admitted, score, shape
from agentrl.train.setup import env_factory, plugins, train_source
from agentrl.trajectory import CallRecord, Group, StopReason, Trajectory
from agentrl.trajectory_json import to_line
from agentrl.transcript import Float32Array, Origin, Segment, Transcript, floats_array
from agentrl.types import Message, Task, ToolFault

Check = Callable[[Any, RunConfig, RunConfig], None]
"""The lab, the recipe as it is, the recipe turned."""
CASES: list[tuple[str, tuple[str, ...], Check]] = []
TASK = Task("t", "?", "42", {"level": 1})
CTX = Ctx(step=0, total_steps=11, seed=0)


def turned(recipe: str, *words: str) -> Callable[[Check], Check]:
    """Enter a check into the table: the recipe, and the words that turn its constant."""

    def enter(check: Check) -> Check:
        CASES.append((recipe, words, check))
        return check

    return enter


# --- trajectories by hand -----------------------------------------------------------------------------


@cache
def tokenizer() -> Tokenizer:
    """The shipped model's."""
    return load_tokenizer(str(Path(agentrl.__file__).parent / "_assets" / "nano"))


def member(
    env: float = 0.0,
    n: int = 1,
    *,
    ids: Sequence[int] | None = None,
    turns: Sequence[str] = ("<answer>42</answer>",),
    calls: Sequence[ToolFault | None] = (),
    answer: str | None = "42",
    task: Task = TASK,
    step: int = 0,
    rewards: Mapping[str, float] | None = None,
    stop: StopReason = StopReason.TERMINATED,
) -> Callable[[int], Trajectory]:
    """A trajectory but for its place in the group; the first turn has all but one token of others.

    `ids` are its sampled ids, else `n` of them that never repeat; `calls` are the calls' errors.
    """
    sampled = list(range(100, 100 + n)) if ids is None else list(ids)

    def placed(sibling: int) -> Trajectory:
        row = Transcript().append(Segment(Origin.PROMPT, [3, 4]))
        row = row.append(Segment(Origin.MODEL, sampled, [-1.0] * len(sampled), version=0))
        messages = [Message("user", task.question)]
        for turn, text in enumerate(turns):
            messages += [Message("tool", "7")] if turn else []
            messages.append(Message("assistant", text))
        return Trajectory(
            uid=f"{step}/{task.id}/{sibling}",
            task=task,
            sibling=sibling,
            rows=(row,),
            messages=tuple(messages),
            stop=stop,
            rewards={"env": env, **(rewards or {})},
            calls=tuple(CallRecord(0, "python", "", "7", e, False, 0.0, 0.0) for e in calls),
            n_turns=len(turns),
            answer=answer,
        )

    return placed


def group(*members: Callable[[int], Trajectory], task: Task = TASK, step: int = 0) -> Group:
    return Group(task, tuple(make(i) for i, make in enumerate(members)), step)


def accuracies(
    shares: Mapping[str, tuple[int, int]], tasks: Mapping[str, Task], step: int = 0
) -> list[Group]:
    """Groups of the named tasks with so many right of so many."""
    return [
        group(
            *(member(float(i < right), task=tasks[name], step=step) for i in range(n)),
            task=tasks[name],
            step=step,
        )
        for name, (right, n) in shares.items()
    ]


# --- the recipe's own plug-ins ------------------------------------------------------------------------


class NoEpisodes:
    async def run(self, task: Task, sibling: int, ctx: Ctx) -> Trajectory:
        raise AssertionError("no episode is played in these tests")


def scored(config: RunConfig, one: Group, scorer: Any = None, judge: Any = None) -> Group:
    rewards = plugins("reward", config.algo.rewards, tokenizer=tokenizer())
    services = Services(episodes=NoEpisodes(), rewards=rewards, scorer=scorer, judge=judge)
    return asyncio.run(score([one], services))[0]


def shaped(
    config: RunConfig,
    one: Group,
    *,
    history: HistoryStore | None = None,
    step: int = 0,
    scorer: Any = None,
    judge: Any = None,
) -> Group:
    """The group after the recipe's reward functions and shapers; what they wish to keep is kept."""
    store = HistoryStore() if history is None else history
    shapers = plugins("shaper", config.algo.shapers, tokenizer=tokenizer())
    ctx = Ctx(step=step, total_steps=11, seed=0)
    done, writes = shape(scored(config, one, scorer, judge), shapers, store, ctx)
    store.commit(writes)
    return done


def rewards(config: RunConfig, *members: Callable[[int], Trajectory], **given: Any) -> list[float]:
    done = shaped(config, group(*members), **given)
    return [float(t.reward or 0.0) for t in done.trajectories]


def verdict(config: RunConfig, one: Group, ctx: Ctx = CTX) -> Verdict:
    assert config.algo.gate is not None
    return build("gate", config.algo.gate)(shaped(config, one), HistoryStore(), ctx)


def source(config: RunConfig) -> TaskSource:
    return train_source(config, env_factory(config.env)())


def drawn(found: TaskSource, n: int, step: int = 0) -> list[Task]:
    return found.next(n, Ctx(step=step, total_steps=11, seed=0))


def observed(found: TaskSource, groups: Sequence[Group], step: int = 0) -> None:
    found.observe(groups, Ctx(step=step, total_steps=11, seed=0))


def patch(config: RunConfig, step: int) -> Patch:
    ctx = Ctx(step=step, total_steps=11, seed=0)
    return combined(schedule.at(ctx) for schedule in make_update(config).schedules)


def are(got: Iterable[float], *wanted: float) -> None:
    assert list(got) == pytest.approx(wanted, abs=2e-5)


# --- length and efficiency ----------------------------------------------------------------------------


@turned("hapo", "algo.shapers=[{name: hapo, w: 0.5}]")
def history_pays_for_brevity(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [member(1.0, n) for n in (10, 20, 30, 50)] + [member(0.0, n) for n in (10, 30)]
    quarter = math.cos(math.pi / 4)
    for config, w in ((before, 1.0), (after, 0.5)):
        store = HistoryStore()
        are(rewards(config, member(1.0, 20), member(0.0, 5), history=store), 1.0, 0.0)
        found = rewards(config, *members, history=store, step=1)
        are(found, 1 + w * quarter, 1, 1 - w * 0.7, 1 - w * 0.7, 0, -w * quarter)


@turned("hapo", "data.limit=16")
def its_tasks_come_again(lab: Any, before: RunConfig, after: RunConfig) -> None:
    for config, n in ((before, 64), (after, 16)):
        found = Counter(task.id for task in drawn(source(config), 3 * n))
        assert set(found.values()) == {3}
        assert len(found) == n


@turned(
    "laser",
    "algo.shapers=[{name: outcome, wrong: -0.5, missing: -1.0}, {name: laser, target_tokens: 9}]",
)
def a_step_at_the_target(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [member(1.0, n) for n in (9, 10, 24, 25)]
    members += [member(0.0, 5), member(0.0, 5, answer=None)]
    are(rewards(before, *members), 1.5, 1.5, 1.5, 1.0, -0.5, -1.0)
    are(rewards(after, *members), 1.5, 1.0, 1.0, 1.0, -0.5, -1.0)


def monitored(config: RunConfig) -> HistoryStore:
    """Steps 0 to 3 saw right answers of 8, 16, ... 64 tokens: an easy task."""
    store = HistoryStore()
    for step in range(4):
        shaped(config, group(*(member(1.0, 8 * k) for k in range(1, 9))), history=store, step=step)
    return store


OUTCOME = "{name: outcome, wrong: -0.5, missing: -1.0}"
LASER_D = "{name: laser_d, every: 8, low_tokens: 8, high_tokens: 64, step_tokens: 8}"


@turned("laser_d", f"algo.shapers=[{OUTCOME}, {LASER_D}]")
def the_target_is_measured(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """n_b = 5 of 8; the least L that an eighth times 5 covers is the second, 16."""
    members = [member(1.0, n) for n in (16, 17, 24, 64, 65, 8, 8)] + [member(0.0, 24)]
    found = rewards(before, *members, history=monitored(before), step=4)
    are(found, 1.5, 1.0, 1.0, 1.0, 1.0, 1.5, 1.5, -0.5)
    found = rewards(after, *members, history=monitored(after), step=4)
    are(found, 1.5, 1.5, 1.5, 1.5, 1.0, 1.5, 1.5, -0.5)  # no window is finished: 64


LASER_DE = "{name: laser_d, every: 4, low_tokens: 8, high_tokens: 64, step_tokens: 8"


@turned("laser_de", f"algo.shapers=[{OUTCOME}, {LASER_DE}, explore: false}}]")
def exploring_is_paid_beyond_the_target(lab: Any, before: RunConfig, after: RunConfig) -> None:
    loop = [1, 2, 3, *[4, 5] * 12]
    members = [member(1.0, 8)] * 6 + [member(0.0, 24), member(0.0, 10), member(0.0, ids=loop)]
    for config, explored in ((before, 0.0), (after, -0.5)):
        found = rewards(config, *members, history=monitored(config), step=4)
        are(found, *[1.5] * 6, explored, -0.5, -0.5)


@turned("campo", "algo.shapers=[{name: campo, weight: 0.5}]")
def loops_cost_their_share(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [
        member(1.0, ids=[1, 2, 3, 4, 3, 4, 3, 4]),
        member(1.0, 4),
        member(0.0, ids=[1, 2, 2]),
    ]
    are(rewards(before, *members), 0.25, 1.0, -2 / 3)
    are(rewards(after, *members), 0.625, 1.0, -1 / 3)


@turned("campo", "algo.schedules=[{name: length_stages, tokens: [56, 80, 1152], steps: [5, 4]}]")
@turned(
    "length_stages", "algo.schedules=[{name: length_stages, tokens: [56, 80, 1152], steps: [5, 4]}]"
)
def the_budget_grows(lab: Any, before: RunConfig, after: RunConfig) -> None:
    assert [patch(before, s).max_tokens for s in (0, 3, 4, 7, 8, 10)] == [
        56,
        56,
        80,
        80,
        1152,
        1152,
    ]
    assert [patch(after, s).max_tokens for s in (0, 3, 4, 7, 8, 10)] == [56, 56, 56, 80, 80, 1152]


@turned("rlsp", "algo.shapers=[{name: rlsp, effort: null, penalty: 2.0}]")
def pressure_on_short_thoughts(lab: Any, before: RunConfig, after: RunConfig) -> None:
    long, short = ("x" * 40,), ("x" * 8,)
    members = [member(1.0, turns=long), member(1.0, turns=short), member(0.0, turns=long)]
    members.append(member(0.0, turns=long, answer=None))
    are(rewards(before, *members), 0.9, 0.5, -0.1, -0.6)
    are(rewards(after, *members), 0.8, 0.0, -0.2, -0.7)


@turned("kimi_length", "algo.shapers=[{name: kimi_length, weight: 0.5}]")
@turned("light_r1", "algo.shapers=[{name: kimi_length, weight: 0.5}]")
def brevity_among_siblings(lab: Any, before: RunConfig, after: RunConfig) -> None:
    weight = 0.25 if before.algo.aux else 1.0  # Light-R1 has a KL and is milder
    members = [member(1.0, n) for n in (10, 20, 30)] + [member(0.0, n) for n in (10, 30)]
    for config, w in ((before, weight), (after, 0.5)):
        are(rewards(config, *members), 1 + w / 2, 1.0, 1 - w / 2, 0.0, -w / 2)


@turned("otc_ppo", "algo.shapers=[{name: otc, form: ppo, c: 2.0}]")
def calls_cost_right_answers(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [member(1.0, calls=[None] * m) for m in (0, 1, 2, 3)] + [member(0.0)]
    are(rewards(before, *members), 1.0, 0.5, 0.30902, 0.22252, 0.0)
    are(rewards(after, *members), 1.0, math.cos(math.pi / 4), 0.5, math.cos(3 * math.pi / 8), 0.0)


@turned("retool_turns", "algo.shapers=[{name: retool_turns, per_turn: 0.2}]")
def trying_softens_failure(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [member(0.0, turns=("x",) * n) for n in (1, 3, 5, 7)] + [member(1.0)]
    are(rewards(before, *members), -1.0, -0.8, -0.6, -0.6, 1.0)
    are(rewards(after, *members), -1.0, -0.6, -0.6, -0.6, 1.0)


@turned("cort", "algo.shapers=[{name: cort, penalty: 0.4}]")
def code_that_gave_nothing_costs(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [
        member(1.0, calls=["execution"]),
        member(0.0, calls=["timeout", "execution"]),
        member(1.0, calls=["execution", None]),
        member(1.0),
    ]
    are(rewards(before, *members), 0.9, -0.1, 1.0, 1.0)
    are(rewards(after, *members), 0.6, -0.4, 1.0, 1.0)


# --- process rewards and other judges of an answer ------------------------------------------------------


def called(right: int, n: int) -> list[ToolFault | None]:
    """So many calls of `n` that ran."""
    return [*[None] * right, *["execution"] * (n - right)]


@turned(
    "trust_grpo",
    "algo.shapers=[{name: trust, alpha: 0.6, decay_steps: 20.0, thinking: process/tools}]",
)
def thoughts_are_trusted_when_they_agree(lab: Any, before: RunConfig, after: RunConfig) -> None:
    counts = [(1.0, 2, 5), (1.0, 3, 5), (0.0, 9, 10), (0.0, 7, 10)]
    members = [member(env, calls=called(right, n)) for env, right, n in counts]
    are(rewards(before, *members), 1.0889, 1.13335, 0.20002, 0.15557)
    are(rewards(after, *members), 1.17779, 1.26669, 0.40004, 0.31115)
    fading = math.exp(-1)
    found = rewards(before, *members, step=20)
    are(found, 1 + 0.0889 * fading, 1 + 0.13335 * fading, 0.20002 * fading, 0.15557 * fading)


@turned("p_grpo", "algo.shapers=[{name: p_grpo, thinking: process/tools, weight: 2.0}]")
def only_right_thoughts_count(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [
        member(1.0, calls=called(3, 5)),
        member(0.0, calls=called(9, 10)),
        member(0.0, calls=called(9, 10), turns=("42",)),
    ]
    are(rewards(before, *members), 2.6, 1.0, 0.0)
    are(rewards(after, *members), 3.2, 1.0, 0.0)


@turned("noise", "algo.shapers=[{name: noise, p: 0.1}]")
def prompts_are_flipped(lab: Any, before: RunConfig, after: RunConfig) -> None:
    for config, p in ((before, 0.4), (after, 0.1)):
        shapers = plugins("shaper", config.algo.shapers)
        flips = 0
        for index in range(400):
            task = Task(f"t{index}", "?", "42")
            both = group(member(1.0, task=task), member(0.0, task=task), task=task)
            found = [t.reward for t in shape(both, shapers, HistoryStore(), CTX)[0].trajectories]
            assert found in ([1.0, 0.0], [0.0, 1.0])  # the whole group or nobody
            flips += found == [0.0, 1.0]
        assert flips / 400 == pytest.approx(p, abs=3 * math.sqrt(p * (1 - p) / 400))


@turned("ttrl", "algo.shapers=[{name: ttrl, same: text}]")
def the_majority_is_right(lab: Any, before: RunConfig, after: RunConfig) -> None:
    numbers = [member(1.0, answer=a) for a in ("7", "7", "3", "7", "5")]
    words = [member(0.0, answer=a) for a in ("3", "Seven", "seven.", "SEVEN", None)]
    for config, texts in ((before, [1, 0, 0, 0, 0]), (after, [0, 1, 1, 1, 0])):
        are(rewards(config, *numbers), 1, 1, 0, 1, 0)
        are(rewards(config, *words), *texts)


class Probabilities:
    """A scorer that gives a row's last tokens known probabilities."""

    def __init__(self, reasoned: Mapping[int, Sequence[float]], bare: Sequence[float]) -> None:
        """`reasoned` by the id of the first sampled token; `bare` for rows without one."""
        self._reasoned, self._bare = reasoned, bare

    async def logprobs(self, model: str, rows: Sequence[Sequence[int]]) -> list[Float32Array]:
        found: list[Float32Array] = []
        for row in rows:
            probs = next((p for first, p in self._reasoned.items() if first in row), self._bare)
            padded = [0.0] * (len(row) - len(probs)) + [math.log(p) for p in probs]
            found.append(floats_array(padded))
        return found


def reasoning(mark: int) -> list[int]:
    """Ids of an answer whose first token is `mark`, which stands in no other."""
    return [mark, *tokenizer().encode_markup("<answer>42</answer>")]


MARKS = (tokenizer().encode("q")[0], tokenizer().encode("z")[0])


@turned("rlpr", "algo.shapers=[{name: rlpr, share: 0.5}]")
def likelihood_instead_of_a_verifier(lab: Any, before: RunConfig, after: RunConfig) -> None:
    scorer = Probabilities({MARKS[0]: [0.9, 0.6], MARKS[1]: [0.2, 0.4]}, [0.4, 0.6])
    members = [member(0.0, ids=reasoning(MARKS[0])), member(1.0, ids=reasoning(MARKS[1]))]
    members.append(member(0.0, ids=reasoning(MARKS[0]), turns=("42",)))
    are(rewards(before, *members, scorer=scorer), 0.325, 0.1, 0.225)
    are(rewards(after, *members, scorer=scorer), 0.625, 0.5, 0.125)


def widths(*stds: float) -> tuple[Mapping[str, float], ...]:
    return tuple({"reward_std": std} for std in stds)


@turned("rlpr", "algo.gate.beta=0.25")
@turned("rlpr_filter", "algo.gate.beta=0.25")
def narrow_groups_are_drawn_again(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """The average of steps 1 and 2 is 0.4, of steps 1 to 3 0.99 0.4 + 0.01 1.4 = 0.41."""
    wide, narrow = ([0.5, 0.8], [0.5, 0.7])  # deviations 0.2121 and 0.1414
    early = Ctx(step=2, total_steps=11, seed=0, past=widths(9.0, 0.3))
    due = Ctx(step=3, total_steps=11, seed=0, past=widths(9.0, 0.3, 0.5))
    later = Ctx(step=4, total_steps=11, seed=0, past=widths(9.0, 0.3, 0.5, 1.4))

    def says(config: RunConfig, values: Sequence[float], ctx: Ctx) -> Verdict:
        one = shape(group(*map(member, values)), (), HistoryStore(), ctx)[0]
        assert config.algo.gate is not None
        return build("gate", config.algo.gate)(one, HistoryStore(), ctx)

    assert says(before, narrow, early) == Keep()
    assert says(before, wide, due) == Keep()
    assert says(before, narrow, due) == Drop("std_low")
    assert says(after, narrow, due) == Keep()
    assert says(before, wide, later) == Keep()  # 0.2121 > 0.205
    assert says(before, [0.5, 0.789], later) == Drop("std_low")  # 0.2043 < 0.205


@turned("dro", "algo.shapers=[{name: r3, length: 1.0}]")
def reference_tokens_that_reasoning_decides(lab: Any, before: RunConfig, after: RunConfig) -> None:
    scorer = Probabilities(
        {
            MARKS[0]: [math.exp(-1), math.exp(-0.1)],
            MARKS[1]: [math.exp(-3), math.exp(-0.1)],
        },
        [math.exp(-2), math.exp(-0.1)],
    )
    members = [
        member(0.0, ids=reasoning(MARKS[0])),
        member(1.0, ids=reasoning(MARKS[1]), answer="4"),
    ]
    are(rewards(before, *members, scorer=scorer), 1 + 1, -1 + 1 - 0.5 * 0.5)
    are(rewards(after, *members, scorer=scorer), 1 + 1, -1 + 1 - 1.0 * 0.5)


@turned("dro", "algo.gate.min_sigma=0.3")
def prompts_that_reasoning_moves(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Logprobs -1 and -1.4: a deviation of 0.2. A tenth of what is dropped is kept after all."""
    kept = {}
    for name, config in (("before", before), ("after", after)):
        assert config.algo.gate is not None
        gate = build("gate", config.algo.gate)
        verdicts = Counter[str]()
        for index in range(300):
            task = Task(f"t{index}", "?", "42")
            two = [member(rewards={"r3/logp/0": x}, task=task) for x in (-1.0, -1.4)]
            verdicts[str(gate(group(*two, task=task), HistoryStore(), CTX))] += 1
        kept[name] = verdicts[str(Keep())] / 300
    assert kept["before"] == 1
    assert kept["after"] == pytest.approx(0.1, abs=0.05)


class Replies:
    """A judge that gives its replies in turn, for ever."""

    def __init__(self, *replies: str) -> None:
        self._replies = cycle(replies)

    async def grade(self, prompt: str) -> str:
        return next(self._replies)


JUDGED = "{name: capo_judge, critiques: 4, vote: union}"


@turned(
    "capo",
    f"algo.rewards=[{JUDGED}]",
    "algo.shapers=[{name: capo_tokens, outcome: 2, penalty: 0.5}]",
)
def tokens_of_wrong_steps_pay(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """All four critiques name step 1; step 0 is named once: only a union takes it for wrong."""
    steps = [tokenizer().encode(text) for text in ("one\n\n", "two\n\n", "three")]
    ids = [token for step in steps for token in step]
    for config, cost in ((before, [0.0, 1.0, 0.0]), (after, [0.5, 0.5, 0.0])):
        judge = Replies("[0, 1]", "[1]", "[1]", "[1]")
        one = shaped(config, group(member(1.0, ids=ids), member(0.0, ids=ids)), judge=judge)
        assert one.token_rewards is not None
        paid = [c for step, c in zip(steps, cost, strict=True) for _ in step]
        for trajectory, per_token, outcome in zip(
            one.trajectories, one.token_rewards, (2.0, 0.0), strict=True
        ):
            assert trajectory.reward == outcome
            are(per_token[2:], *(-c for c in paid))


@turned("rlmt", "algo.rewards=[{name: judge, aspect: answer, top: 20}]")
def a_grade_of_the_answer_alone(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [member(1.0), member(0.0, turns=("<think>never closed",))]
    are(rewards(before, *members, judge=Replies("<score>7</score>")), 0.7, 0.0)
    are(rewards(after, *members, judge=Replies("<score>7</score>")), 0.35, 0.0)


# --- which groups train -------------------------------------------------------------------------------


def share(right: int, n: int = 10) -> Group:
    return group(*(member(float(i < right)) for i in range(n)))


@turned("difficulty_filter", "algo.gate.low=0.1")
def a_balanced_band(lab: Any, before: RunConfig, after: RunConfig) -> None:
    hard = [verdict(before, share(n)) for n in (0, 1, 2, 8, 9)]
    assert hard == [Drop("hard"), Drop("hard"), Keep(), Keep(), Drop("easy")]
    assert [verdict(after, share(n)) for n in (0, 1, 2)] == [Drop("hard"), Keep(), Keep()]


VOID = (
    "[{name: component_band, of: std, low: 1.0e-3}, "
    "{name: accuracy_band, low: 0.1, high: 0.9, open: false}"
)


@turned("simpletir", f"algo.gate.gates={VOID}]")
def void_turns_train_nothing(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Without the gate for void turns all four train; statistics are of all four either way."""
    turns = ("<answer>1</answer>", "let me see", "<answer>1</answer>", "<answer>2</answer>")
    one = group(*(member(float(i % 2 == 0), 3, turns=(t,)) for i, t in enumerate(turns)))
    a = 0.86602
    are(summed_advantages(before, one), 3 * a, 0, 3 * a, -3 * a)
    are(summed_advantages(after, one), 3 * a, -3 * a, 3 * a, -3 * a)
    assert verdict(before, share(0)) == Drop("std_low")


def summed_advantages(config: RunConfig, one: Group) -> list[float]:
    """Per trajectory over its trained tokens, the group being let in by the recipe's gate."""
    found = verdict(config, one)
    assert isinstance(found, Keep)
    batch = make_batch([_admitted(shaped(config, one), found)], pad_id=0)
    advantages = estimate(make_update(config).advantage, batch, CTX).advantages
    assert advantages is not None
    return (advantages * batch.mask).sum(dim=1).tolist()


@turned("overlong_filter", "algo.gate.reasons=[overlong, unfinished]")
def cut_answers_train_nothing(lab: Any, before: RunConfig, after: RunConfig) -> None:
    stops = (StopReason.TURN_TOKENS, StopReason.MAX_TURNS, StopReason.TERMINATED)
    one = group(*(member(float(i), stop=stop) for i, stop in enumerate(stops)))
    cut = {"0/t/0": "overlong"}
    assert verdict(before, one) == Keep(excluded=cut)
    assert verdict(after, one) == Keep(excluded={**cut, "0/t/1": "unfinished"})
    lost = group(member(stop=StopReason.MAX_TOKENS))
    assert verdict(before, lost) == Drop("overlong")


@turned("pc_grpo", "algo.gate.choices=4")
def half_solved_and_diverse_groups_weigh_most(
    lab: Any, before: RunConfig, after: RunConfig
) -> None:
    """dpi of A, A, B, B is 1/3 as distinct answers, 1/2 as entropy among 4 choices."""
    one = group(*(member(float(a == "A"), answer=a) for a in "AABB"))
    for config, dpi in ((before, 1 / 3), (after, 1 / 2)):
        found = verdict(config, one)
        assert isinstance(found, Keep)
        assert found.weight == pytest.approx(math.sqrt(dpi))
        wanted = [sign * 0.5 * math.sqrt(dpi) for sign in (1, 1, -1, -1)]
        are(summed_advantages(config, one), *wanted)


# --- which tasks come ---------------------------------------------------------------------------------


@turned("rulereasoner", "data.source.domains=[add, mul]", "data.source.tau=0.6")
def weak_domains_come_more_often(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Rewards 0.7 and 0.3: weights in the ratio exp(0.4 / tau); the other twelve count as 0."""
    tasks = {name: Task(name, "?", "1", {"family": name}) for name in ("add", "mul")}
    groups = accuracies({"add": (7, 10), "mul": (3, 10)}, tasks)
    for config, tau in ((before, 0.3), (after, 0.6)):
        found = source(config)
        for step in range(4):
            assert found.state()["weights"] == {}
            observed(found, groups, step)
        weights = found.state()["weights"]
        assert isinstance(weights, dict)
        assert weights["mul"] / weights["add"] == pytest.approx(math.exp(0.4 / tau))
        many = Counter(task.metadata["family"] for task in drawn(found, 300, 4))
        wanted = 300 * weights["mul"]
        assert many["mul"] == pytest.approx(wanted, abs=4 * math.sqrt(wanted))
    two = source(lab.config("rulereasoner", "data.source.domains=[add, mul]"))
    observed(two, groups, 3)
    assert two.state()["weights"] == pytest.approx({"add": 0.20861, "mul": 0.79139}, abs=1e-5)


FAST = "{steps: 3}, {steps: 2, min_chars: 15}, {}]"


@turned("fastcurl", f"data.source.stages=[{{steps: 3, max_chars: 10}}, {FAST}")
def questions_grow_longer(lab: Any, before: RunConfig, after: RunConfig) -> None:
    for config, most in ((before, 14), (after, 10)):
        found = source(config)
        sizes = [[len(t.question) for t in drawn(found, 60, step)] for step in (0, 3, 6, 8)]
        assert max(sizes[0]) == most
        assert min(sizes[1]) < 15 <= max(sizes[1])
        assert min(sizes[2]) == 15
        assert min(sizes[3]) < 15 <= max(sizes[3])
        assert [patch(config, s).max_tokens for s in (2, 3, 6, 8)] == [64, 96, 128, 96]


def passing(config: RunConfig, step: int) -> set[int]:
    """Of 8 tasks solved 0, 1, ... 7 times in 8 when first drawn: which come at `step`."""
    found = source(config)
    tasks = {str(i): task for i, task in enumerate(drawn(found, 8))}
    observed(found, accuracies({name: (int(name), 8) for name in tasks}, tasks))
    ids = {task.id: int(name) for name, task in tasks.items()}
    return {ids[task.id] for task in drawn(found, 400, step) if task.id in ids}


@turned("acereason", "data.source.stages=[{steps: 2}, {steps: 2}, {max_rate: 0.5}]")
def only_what_is_still_hard(lab: Any, before: RunConfig, after: RunConfig) -> None:
    assert passing(before, 2) == set(range(8))
    assert passing(before, 4) == {0, 1, 2, 3}  # up to 6 in 16
    assert passing(after, 4) == {0, 1, 2, 3, 4}
    assert [patch(before, s).max_tokens for s in (0, 2, 4)] == [64, 96, 1152]


HARDER = "{steps: 4, min_rate: 0.5}, {max_rate: 0.25}]"


@turned("difficulty_staged", f"data.source.stages=[{{steps: 4}}, {HARDER}")
def first_what_is_nearly_solved(lab: Any, before: RunConfig, after: RunConfig) -> None:
    assert passing(before, 4) == {4, 5, 6, 7}
    assert passing(before, 8) == {0, 1, 2, 3, 4}
    assert passing(after, 8) == {0, 1, 2}


@turned("orz_hard", "data.source.below=0.25")
def hard_prompts_at_the_end(lab: Any, before: RunConfig, after: RunConfig) -> None:
    assert passing(before, 4) == {0, 1, 2, 3}
    assert passing(after, 4) == {0, 1}
    assert patch(before, 3).lr is None
    are([patch(before, s).lr or 0.0 for s in (4, 9, 14, 15)], 2e-4, 1.3e-4, 6e-5, 6e-5)


@turned("orz_hard", "algo.schedules=[{name: anneal, start: 2e-4, end: 6e-5, steps: 5}]")
def its_rate_falls(lab: Any, before: RunConfig, after: RunConfig) -> None:
    found = [patch(config, 5).lr or 0.0 for config in (before, after)]
    assert found == pytest.approx([1.86e-4, 6e-5])


@turned("one_shot", "data.source.n_tasks=2")
def the_most_varied_task_for_ever(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Accuracies 0, 1, 0, 1 vary by 0.25, 1, 1, 1, 0 by 0.1875, the others not."""
    for config, wanted in ((before, ["4"]), (after, ["4", "2"])):
        found = source(config)
        tasks = {str(i): task for i, task in enumerate(drawn(found, 16))}
        for step, (most, second) in enumerate(((0, 4), (4, 4), (0, 4), (4, 0))):
            shares = dict.fromkeys(tasks, (2, 4)) | {"4": (most, 4), "2": (second, 4)}
            observed(found, accuracies(shares, tasks, step), step)
        ids = {task.id: name for name, task in tasks.items()}
        assert [ids[task.id] for task in drawn(found, 4, 4)] == (wanted * 4)[:4]


def rates_file(folder: Path, config: RunConfig) -> tuple[Path, dict[str, int]]:
    """A stored evaluation of the recipe's first 8 tasks, solved 0, 1, ... 7 times in 7."""
    tasks = {str(i): task for i, task in enumerate(drawn(source(config), 8))}
    groups = accuracies({name: (int(name), 7) for name in tasks}, tasks)
    path = folder / "trajectories.jsonl"
    lines = [to_line(t) for one in groups for t in one.trajectories]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, {task.id: int(name) for name, task in tasks.items()}


@pytest.mark.parametrize("name", ["demyagent", "light_r1"])
def test_tasks_are_chosen_by_stored_rates(name: str, lab: Any, tmp_path: Path) -> None:
    """Always and never solved tasks do not come; a tighter bound takes more away."""
    path, ids = rates_file(tmp_path, lab.config(name))
    for words, wanted in (((), {1, 2, 3, 4, 5, 6}), (("data.source.low=0.5",), {4, 5, 6})):
        config = lab.config(name, f"data.source.rates={path}", *words)
        assert {ids[task.id] for task in drawn(source(config), 80)} == wanted


@turned("demyagent", "data.source.high=0.5")
@turned("light_r1", "data.source.high=0.5")
def tasks_that_fit_the_model(lab: Any, before: RunConfig, after: RunConfig) -> None:
    """Measured as they come: 0 in 8 never again; as it is up to 7 in 8, turned below 4 in 8."""
    assert passing(before, 1) == {1, 2, 3, 4, 5, 6, 7}
    assert passing(after, 1) == {1, 2, 3}


OVERLONG = "{name: overlong, max_tokens: 56, cache_tokens: 16}"


@turned("demyagent", f"algo.shapers=[{{name: demy_tools, per_call: 0.2}}, {OVERLONG}]")
def calls_are_worth_a_tenth(lab: Any, before: RunConfig, after: RunConfig) -> None:
    members = [member(1.0, calls=[None] * 2), member(0.0, calls=[None] * 2), member(1.0, 48)]
    members.append(member(0.0, 56))
    are(rewards(before, *members), 1.2, -0.8, 0.5, -2.0)
    are(rewards(after, *members), 1.4, -0.6, 0.5, -2.0)


# --- what changes over the run ------------------------------------------------------------------------


@turned("temperature", "algo.schedules=[{name: temperature, start: 0.6, end: 1.2}]")
def the_temperature_rises(lab: Any, before: RunConfig, after: RunConfig) -> None:
    are([patch(before, s).temperature or 0.0 for s in (0, 5, 10)], 0.6, 0.8, 1.0)
    are([patch(after, s).temperature or 0.0 for s in (0, 5, 10)], 0.6, 0.9, 1.2)


@pytest.mark.parametrize(
    ("name", "words", "check"),
    CASES,
    ids=[f"{name}-{check.__name__}" for name, _, check in CASES],
)
def test_turning_a_constant(name: str, words: tuple[str, ...], check: Check, lab: Any) -> None:
    check(lab, lab.config(name), lab.config(name, *words))
