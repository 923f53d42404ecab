"""Formats and the rewards made of outcome and format: Search-R1, ARPO, CoRT, Long-Short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from agentrl.episode import EpisodeRunner
from agentrl.history import HistoryStore
from agentrl.points import Ctx, Services
from agentrl.rewards.answer_match import AnswerMatch, golds, response_answer
from agentrl.rewards.base import summed
from agentrl.rewards.formats import (
    Format,
    valid_answer_tag,
    valid_arpo,
    valid_boxed_answer,
    valid_role,
    valid_search_r1,
    valid_think_answer,
)
from agentrl.rewards.search_agents import Arpo, Cort, SearchR1
from agentrl.trajectory import CallRecord, Group, Trajectory
from agentrl.types import Message, Task

Member = Callable[..., Trajectory]
Groups = Callable[..., Group]
Calls = Callable[..., CallRecord]
SERVICES = Services(episodes=cast(EpisodeRunner, None))

SEARCH = ("<think>a</think><search>q</search>", "<think>b</think><answer>42</answer>")


def shaped_by(shaper: object, group: Group, ctx: Ctx) -> list[float]:
    return shaper(group, summed(group), HistoryStore(), ctx).rewards_G.tolist()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("<think>a</think><answer>b</answer>", True),
        (
            "<think>a</think>\n<search>q</search>\n<information>d</information>\n"
            "<think>b</think> <answer>c</answer>\n",
            True,
        ),
        ("<answer>b</answer>", False),
        ("<think>a</think><answer>b</answer> and more", False),
        ("so <think>a</think><answer>b</answer>", False),
        ("<think>a</think><search>q</search><answer>b</answer>", False),
        ("<think>a</think><search>q</search><information>d</information><answer>b</answer>", False),
        ("<think>a<think>b</think><answer>c</answer>", False),
        ("<think>a</think><answer>b</answer><answer>c</answer>", False),
        ("<think>a</think><answer>b", False),
        ("", False),
    ],
)
def test_search_r1_state_machine(text: str, valid: bool):
    assert valid_search_r1(text) is valid


def test_search_r1_table(member: Member, group: Groups, ctx: Ctx):
    """right/valid 1, right/invalid .8, wrong/valid .2, wrong/invalid .1, no answer/invalid 0."""
    found = ("nothing",)
    bad = ("<answer>42</answer>",)
    five = group(
        member(0, 1.0, turns=SEARCH, observations=found),
        member(1, 1.0, turns=bad),
        member(2, 0.0, turns=SEARCH, observations=found),
        member(3, 0.0, turns=bad),
        member(4, 0.0, turns=("no tags at all",)),
    )
    assert shaped_by(SearchR1(), five, ctx) == pytest.approx([1, 0.8, 0.2, 0.1, 0])
    plain = SearchR1(structure=0, final=0)
    assert shaped_by(plain, five, ctx) == [1, 1, 0, 0, 0]


def test_search_r1_retrieval_bonus(member: Member, group: Groups, ctx: Ctx):
    """A valid wrong answer whose observation holds a gold answer gets .1 more."""
    two = group(
        member(0, 0.0, turns=SEARCH, observations=("Doc 1: it is 42.",)),
        member(1, 0.0, turns=SEARCH, observations=("Doc 1: it is 43.",)),
    )
    assert shaped_by(SearchR1(retrieval=0.1), two, ctx) == pytest.approx([0.3, 0.2])


def test_the_prompts_example_neither_answers_nor_is_needed(member: Member, group: Groups, ctx: Ctx):
    """Search-R1's code decodes prompt and response and wants two tags: one answer would score 0."""
    prompt = "for example <answer> Beijing </answer>. Question?"
    one = member(0, 1.0, turns=("<think>a</think><answer>42</answer>",), prompt=prompt)
    none = member(1, 0.0, turns=("<think>Beijing</think>",), prompt=prompt)
    assert response_answer(one) == "42"
    assert response_answer(none) is None
    assert shaped_by(SearchR1(), group(one, none), ctx) == [1, 0]


def test_examples_in_the_prompt_are_not_the_policys_turns(member: Member):
    """An assistant message of a few-shot prompt is no turn of the policy."""
    shown = (Message("user", "?"), Message("assistant", "<answer>Beijing</answer>"))
    trajectory = member(0, 0.0, turns=("thinking",))
    assert response_answer(replace(trajectory, messages=shown + trajectory.messages)) is None


def test_golds_are_the_answer_and_its_aliases():
    task = Task("t", "?", "42", {"answers": ["42", "forty-two"]})
    assert golds(task) == ["42", "42", "forty-two"]
    assert golds(Task("t", "?")) == []


GOOD = "<think>a</think><python>1</python>"
LAST = "<think>b</think><answer>\\boxed{42}</answer>"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (LAST, True),
        (f"{GOOD} <result>\n1\n</result>{LAST}", True),
        (f"{GOOD}{LAST}", False),
        ("<think>b</think><answer>42</answer>", False),
        (f"{LAST}{LAST}", False),
        ("<think>b<answer>\\boxed{42}</answer>", False),
        ("<answer>\\boxed{42}</answer>", False),
    ],
)
def test_arpo_format(text: str, valid: bool):
    assert valid_arpo(text) is valid


def test_arpo_reward(member: Member, group: Groups, call: Calls, ctx: Ctx):
    """F1 .5 with both tools .6, with one .5; acc 0 earns no bonus; a broken tag -1 whatever acc."""
    both = (call(name="search"), call(name="python"))
    unread = (call(name="search"), call(name="python", error="arguments"))
    rows = [(0.5, both, LAST), (0.5, both[:1], LAST), (0.0, both, LAST), (0.5, both, LAST[:-9])]
    members = [
        member(i, env, turns=(text,), calls=calls) for i, (env, calls, text) in enumerate(rows)
    ]
    members.append(member(4, 0.5, turns=(LAST,), calls=unread))
    assert shaped_by(Arpo(), group(*members), ctx) == pytest.approx([0.6, 0.5, 0, -1, 0.5])


def test_cort_punishes_code_that_gave_nothing(member: Member, group: Groups, call: Calls, ctx: Ctx):
    outputs = [["Error..", ""], ["4", "Error"], ["Done"], ["[]", "NameError: x"], ["4"]]
    members = [
        member(i, 1.0, calls=[call(c) for c in contents]) for i, contents in enumerate(outputs)
    ]
    got = shaped_by(Cort(), group(*members), ctx)
    assert got == pytest.approx([0.9, 1.0, 0.9, 0.9, 1.0])


def test_cort_all_of_nothing_is_not_all_bad(member: Member, group: Groups, call: Calls, ctx: Ctx):
    """`all([])` is true: the released code punishes trajectories that never wrote code."""
    two = group(member(0, 0.0), member(1, 0.0, calls=[call("1", "execution")]))
    assert shaped_by(Cort(), two, ctx) == pytest.approx([0.0, -0.1])
    assert shaped_by(Cort(no_code_counts=True), two, ctx) == pytest.approx([-0.1, -0.1])


def test_cort_judge_is_worth_a_tenth_either_way(member: Member, group: Groups, ctx: Ctx):
    three = group(*(member(i, 1.0, rewards={"judge/answer": float(i)}) for i in range(3)))
    assert shaped_by(Cort(judge="judge/answer"), three, ctx) == pytest.approx([0.9, 1.0, 1.1])


@pytest.mark.parametrize(
    ("text", "role", "valid"),
    [
        ("<answer> </answer>", "short", False),
        ("<answer>x</rethink>", "short", True),
        ("<answer>x</answer>", "short", True),
        ("<answer>a<b</answer>", "short", False),
        ("<answer>x</answer> more", "short", False),
        ("<think>x</think>", "long", True),
        ("<think></think>", "long", False),
    ],
)
def test_long_short_roles(text: str, role: str, valid: bool):
    assert valid_role(text, role) is valid  # type: ignore[arg-type]


def test_think_answer_and_boxed_answer():
    assert valid_think_answer("<think>a</think>\n<answer>\\boxed{A}</answer>\n")
    assert not valid_think_answer("<think>a</think><think>b</think><answer>A</answer>")
    assert not valid_think_answer("<think>a</think><answer>A</answer> so A")
    assert valid_boxed_answer("so\n<answer>\n\\boxed{1}\n</answer>\n")
    assert not valid_boxed_answer("<answer>1</answer>")
    assert not valid_boxed_answer("<answer>\\boxed{1}</answer>, I think")
    assert valid_answer_tag("so <answer>1</answer>\n")
    assert not valid_answer_tag("<answer>1</answer><answer>2</answer>")
    assert not valid_answer_tag("<answer> </answer>")


async def test_format_is_a_component(member: Member):
    right = member(turns=(LAST,))
    assert await Format()(right, SERVICES) == {"format": 1.0}
    assert await Format(rule="arpo", fail=-0.5)(right, SERVICES) == {"format": 1.0}
    wrong = member(turns=("42",))
    assert await Format(rule="arpo", fail=-0.5)(wrong, SERVICES) == {"format": -0.5}
    searched = member(turns=SEARCH, observations=("d",))
    assert await Format(rule="search_r1", weight=0.2)(searched, SERVICES) == {"format": 0.2}


@pytest.mark.parametrize(
    ("turns", "answer", "em", "sub_em", "f1"),
    [
        (("<answer>the beijing.</answer>",), None, 1, 1, 1),
        (("<answer>x</answer>",), "it is Beijing city", 0, 1, 2 / 5),
        (("no tag",), None, 0, 0, 0),
        (("<answer>Peking</answer>",), None, 1, 1, 1),
    ],
)
async def test_answers_are_matched(
    member: Member, turns: tuple[str, ...], answer: str | None, em: int, sub_em: int, f1: float
):
    """Any accepted answer counts; "it is Beijing city" shares 1 of 4 tokens with 1: F1 2/5."""
    task = Task("t", "?", "Beijing", {"answers": ["Peking"]})
    scores = await AnswerMatch()(member(turns=turns, task=task, answer=answer), SERVICES)
    assert list(scores.values()) == pytest.approx([em, sub_em, f1])


async def test_arpo_reads_f1(member: Member, group: Groups, call: Calls, ctx: Ctx):
    """Two of four tokens right: F1 2/3, and with both tools + .1; env's 0 is not read."""
    task = Task("t", "?", "new york")
    calls = [call(name="search"), call(name="python")]
    text = "<think>b</think><answer>\\boxed{new york city hall}</answer>"
    one = member(0, 0.0, turns=(text,), task=task, calls=calls, answer="new york city hall")
    scored = one.scored(**await AnswerMatch()(one, SERVICES))
    got = shaped_by(Arpo(component="answer/f1"), group(scored), ctx)
    assert got == pytest.approx([2 / 3 + 0.1])
