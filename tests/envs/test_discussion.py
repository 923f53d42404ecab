"""Discussions: the vote, the turns by hand, what is shown to whom, options and promises."""

from __future__ import annotations

from itertools import islice

import pytest

from agentrl.env import Action, StepResult
from agentrl.errors import UserError
from agentrl.testing.env_kit import check_env
from agentrl.testing.result import failures
from agentrl.types import Task
from agentrl_envs.discussion import Discussion
from agentrl_envs.discussion.vote import answer_of, majority

TASK = Task("t", "What is 17 + 6?", "23", {"sees": "all"})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "terse"},
        {"sees": "part", "agents": 4},
        {"sees": "part", "style": "terse", "rounds": 2},
        {"decide": "judge"},
        {"decide": "judge", "adaptive": True, "rounds": 3, "agents": 2},
        {"rounds": 0},
    ],
)
async def test_every_promise_is_kept(options: dict[str, object]) -> None:
    assert not failures(await check_env(lambda: Discussion(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["1", "2", "2"], "2"),
        (["1", "2"], "1"),
        (["2", "1", "1", "2"], "2"),
        ([None, "5", None], "5"),
        (["1,000", "7", "1000.0"], "1,000"),
        (["A b", "c", "ab"], "A b"),
        (["", None], None),
        ([], None),
    ],
)
def test_the_vote(answers: list[str | None], winner: str | None) -> None:
    assert majority(answers) == winner


def test_answers_stand_behind_the_thinking() -> None:
    assert answer_of("<think><answer>1</answer></think> \\boxed{2}") == "2"
    assert answer_of("<answer>\\boxed{3}</answer>") == "3"
    assert answer_of("4") is None


async def said(env: Discussion, *texts: str, task: Task = TASK) -> list[StepResult]:
    await env.reset(task, seed=0)
    return [await env.step(Action(text)) for text in texts]


async def test_who_reads_what() -> None:
    env = Discussion(agents=3, rounds=1)
    first = (await env.reset(TASK, seed=0))[0].content
    assert first == (
        "You are agent1, one of 3 who solve this together.\n\nWhat is 17 + 6?\n\n"
        "Give your answer inside <answer> and </answer>."
    )
    steps = await said(
        env, "<think>hm</think>A: <answer>1</answer>", "<answer>2</answer>", "no idea"
    )
    assert [s.info.context for s in steps] == ["agent2", "agent3", ""]
    assert steps[0].observation[0].content.startswith("You are agent2, one of 3")
    assert steps[2].observation[0].content == (
        "The others said:\n\nagent2: <answer>2</answer>\n\nagent3: no idea\n\n"
        "Think about it and answer again.\n\nGive your answer inside <answer> and </answer>."
    )
    heard = await env.step(Action("<answer>23</answer>"))
    assert "agent1: A: <answer>1</answer>\n\nagent3: no idea" in heard.observation[0].content


async def test_answers_alone_when_asked() -> None:
    steps = await said(Discussion(agents=2, shows="answers"), "A: <answer>1</answer>", "none")
    assert "agent2: ?\n" in steps[1].observation[0].content


@pytest.mark.parametrize(
    ("final", "reward"),
    [
        (("23", "23", "1"), 1.0),
        (("1", "23", "23.0"), 1.0),
        (("1", "23", "2"), 0.0),
        (("x", "x", "23"), 0.0),
    ],
)
async def test_all_share_the_reward_of_the_last_rounds_vote(
    final: tuple[str, ...], reward: float
) -> None:
    turns = [f"<answer>{a}</answer>" for a in ("23", "23", "23", *final)]
    steps = await said(Discussion(), *turns)
    assert [s.reward for s in steps] == [0, 0, 0, 0, 0, reward]
    assert [s.terminated for s in steps] == [False] * 5 + [True]


async def test_frozen_agents_speak_after_the_policys() -> None:
    env = Discussion(agents=3, rounds=0, frozen=("agent1",))
    assert env.partners == ("agent1",)
    assert (await env.reset(TASK, seed=0))[0].content.startswith("You are agent2")
    steps = await said(env, "<answer>1</answer>", "<answer>2</answer>", "<answer>23</answer>")
    assert [(s.info.context, s.info.by) for s in steps[:2]] == [
        ("agent3", None),
        ("agent1", "agent1"),
    ]
    assert steps[-1].info.answer == "23"  # of three different answers agent1's comes first


async def test_a_judge_without_an_answer_ends_in_nothing() -> None:
    env = Discussion(agents=2, rounds=0, decide="judge")
    steps = await said(env, "<answer>23</answer>", "<answer>23</answer>", "hm")
    assert (steps[1].info.context, steps[2].terminated, steps[2].reward) == ("judge", True, 0.0)
    assert "CONTINUE" not in steps[1].observation[0].content
    adaptive = Discussion(agents=2, rounds=1, decide="judge", adaptive=True)
    going = await said(adaptive, "1", "2", "CONTINUE", "3", "4", "CONTINUE")
    assert "CONTINUE" in going[1].observation[0].content
    assert "CONTINUE" not in going[4].observation[0].content
    assert [s.terminated for s in going] == [False] * 5 + [True]


async def test_a_judge_chooses_who_speaks() -> None:
    env = Discussion(agents=3, rounds=2, decide="judge", adaptive=True)
    steps = await said(
        env, "one", "two", "three", "CONTINUE agent3 and agent1",
        "one again", "three again", "CONTINUE", "a", "b", "<answer>23</answer>",
    )  # fmt: skip
    contexts = [s.info.context for s in steps[3:]]
    assert contexts == ["", "agent3", "judge", "", "agent2", "agent3", "judge"]
    assert "agent2: two\n\nagent3: three again" in steps[6].observation[0].content
    assert "agent1: one again\n\nagent2: two" in steps[5].observation[0].content


def test_parts_belong_to_one_split_and_to_one_agent() -> None:
    env = Discussion(sees="part", agents=2)
    held: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, numbers in held.items():
        for task in islice(env.tasks(split, seed=0), 100):
            pairs = task.metadata["numbers"]
            values = [int(n) for pair in pairs for n in pair]  # type: ignore[union-attr]
            rule = {"max": max, "min": min, "sum": sum}[str(task.metadata["asked"])]
            assert task.answer == str(rule(values))
            numbers |= {n for pair in pairs for n in pair}  # type: ignore[union-attr]
    assert not held["train"] & held["test"]


async def test_parts_for_fewer_agents_are_refused() -> None:
    task = next(Discussion(sees="part", agents=2).tasks("train", seed=0))
    with pytest.raises(UserError, match=r"parts for 2 agents; set env\.agents"):
        await Discussion(sees="part", agents=3).reset(task, seed=0)
    with pytest.raises(UserError, match="has no answer"):
        await Discussion().reset(Task("t", "why?"), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": 1}, "from 2 to 8, not 1"),
        ({"rounds": -1}, "at least 0"),
        ({"frozen": ("bob",)}, "'bob' does not discuss; choose among agent1, agent2, agent3"),
        ({"agents": 2, "frozen": ("agent1", "agent2")}, "leaves no agent to the policy"),
        ({"adaptive": True}, "need env.decide=judge"),
        ({"judge": "partner"}, "need env.decide=judge"),
        ({"path": "x.jsonl", "sees": "part"}, "needs env.style=plain and env.sees=all"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        Discussion(**options)  # type: ignore[arg-type]


async def test_a_fork_goes_its_own_way() -> None:
    env = Discussion(agents=2, rounds=0)
    await said(env, "<answer>1</answer>")
    (branch,) = await env.fork(1)
    assert (await env.step(Action("<answer>1</answer>"))).info.answer == "1"
    await branch.step(Action("none"))
    assert branch.task is env.task


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(UserError, match="splits train and test"):
        Discussion().tasks("dev", seed=0)
