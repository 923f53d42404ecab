"""The rewards of search agents on episodes of search_qa, played through the loop; sums by hand."""

from __future__ import annotations

from itertools import islice
from math import exp
from typing import Any

import pytest

from agentrl.rewards.answer_match import AnswerMatch
from agentrl.rewards.formats import Format
from agentrl.rewards.judged import Judged
from agentrl.rewards.med_r3 import MedR3
from agentrl.rewards.search_agents import Arpo, SearchR1
from agentrl.rewards.tool_use import ToolUse
from agentrl.rewards.ur2 import Ur2, Ur2Rules
from agentrl_envs.search_qa.env import SearchQA

LOOK = "<think>a</think>\n<search> Rex fed </search>"
ADA = "<think>a</think>\n<search> Ada </search>"
BOB = "<think>b</think>\n<answer> Bob </answer>"
EVE = "<think>b</think>\n<answer> Eve </answer>"


def searching() -> SearchQA:
    return SearchQA(top_k=1)


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ((LOOK, BOB), 1.0),
        (
            ("<search> Rex fed </search>", BOB),
            0.8,
        ),  # right, but nothing was thought before searching
        ((ADA, EVE), 0.2),
        ((LOOK, EVE), 0.3),  # wrong in form, and what was found holds Bob
        ((LOOK, "<answer> Eve </answer>"), 0.1),
        ((LOOK, "So it is", "It is", "Bob", "then"), 0.0),
    ],
)
async def test_search_r1(stage: Any, turns: tuple[str, ...], reward: float) -> None:
    played = await stage.play(searching, stage.dogs, *turns)
    shaped = await stage.rewarded(played, shapers=[SearchR1(retrieval=0.1)])
    assert shaped.rewards_G.tolist() == pytest.approx([reward])


@pytest.mark.parametrize(
    ("turns", "reward"),
    [
        ((LOOK, "<think>b</think><answer>\\boxed{Robert Bob of York}</answer>"), 2 / 3 + 0.1),
        (("<think>b</think><answer>\\boxed{Robert Bob of York}</answer>",), 2 / 3),
        ((LOOK, "<think>b</think><answer>\\boxed{Eve}</answer>"), 0.0),
        ((LOOK, "<think>b<answer>\\boxed{Bob}</answer>"), -1.0),
    ],
)
async def test_arpo(stage: Any, turns: tuple[str, ...], reward: float) -> None:
    """`robert bob of york` against `robert bob`: precision 1/2, recall 1, F1 2/3."""
    played = await stage.play(lambda: SearchQA(metric="f1"), stage.dogs, *turns)
    shaped = await stage.rewarded(played, shapers=[Arpo(tools=("search",))])
    assert shaped.rewards_G.tolist() == pytest.approx([reward])


@pytest.mark.parametrize(
    ("n_searches", "phase", "reward"),
    [(0, 1, -1.0), (1, 1, 4.0), (2, 1, 5.0), (1, 2, 3.0)],
)
async def test_ur2(stage: Any, n_searches: int, phase: int, reward: float) -> None:
    """Stage 1, epoch 0: 1 for the form, 3 for one query, 4 for more, -1 for none; stage 2: 2 + 1."""
    (task,) = islice(SearchQA(people=60, hops=(1,)).tasks("train", seed=0), 1)
    answer = f"<think>b</think>\n<answer> {task.answer} </answer>"
    played = await stage.play(lambda: SearchQA(people=60), task, *[LOOK] * n_searches, answer)
    rules = Ur2Rules(opens="<search>", closes="</search>")
    shaped = await stage.rewarded(played, [rules], [Ur2(phase=phase)])  # type: ignore[arg-type]
    assert shaped.rewards_G.tolist() == pytest.approx([reward])


class Two:
    """A judge that finds everything perfect."""

    async def grade(self, prompt: str) -> str:
        return "<score>2</score>"


async def test_med_r3(stage: Any) -> None:
    r"""Thinking `aaaaaaaaaa\nbbbbbbbbb` has 20 characters, the answering turn's rest 22.

    s = (1 - e^(-20/22)) / (1 - e^-2) = 0.6906, so R = 1 - 0.1 (1 - s) = 0.9691.
    """
    turns = [
        f"<think>{'a' * 10}</think><search> Rex </search>",
        f"<think>{'b' * 9}</think><answer> Bob </answer>",
    ]
    played = await stage.play(searching, stage.dogs, *turns)
    judged = Judged(aspect="answer", top=2, scaled=False)
    form = Format(rule="search_r1", fail=0.5, component="med_r3/format")
    shaped = await stage.rewarded(played, [judged, form], [MedR3()], judge=Two())
    s = (1 - exp(-20 / 22)) / (1 - exp(-2))
    assert s == pytest.approx(0.6906, abs=1e-4)
    assert shaped.rewards_G.tolist() == pytest.approx([1 - 0.1 * (1 - s)])


async def test_tool_use_counts_what_was_tried(stage: Any) -> None:
    """One search, one turn without tags, one search more: 3 tried, 2 executed."""
    played = await stage.play(searching, stage.dogs, LOOK, "hm", ADA, BOB)
    found = await ToolUse()(played, None)  # type: ignore[arg-type]
    assert (found["tools/attempted"], found["tools/executed"]) == (3.0, 2.0)
    matched = await AnswerMatch()(played, None)  # type: ignore[arg-type]
    assert matched == {"answer/em": 1.0, "answer/sub_em": 1.0, "answer/f1": 1.0}


async def test_what_was_found_is_never_trained(stage: Any) -> None:
    """The mask is 1 on the two turns' ids, and on nothing else."""
    played = await stage.play(searching, stage.dogs, LOOK, BOB)
    (row,) = played.rows
    wrote = [len(ids) for ids in stage.engine.generated]
    assert int(row.mask.sum()) == sum(wrote)
    trained = stage.text(row.token_ids[row.mask.astype(bool)])
    assert "fed by Bob" not in trained
    assert "fed by Bob" in stage.text(row.token_ids)
