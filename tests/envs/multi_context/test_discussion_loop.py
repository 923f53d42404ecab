"""Discussions through the real loop: one row per agent, each trained on its own words only."""

from __future__ import annotations

from typing import Any

from agentrl.trajectory import StopReason
from agentrl.types import Task
from agentrl_envs.discussion import Discussion

TASK = Task("t", "17+6=?", "23", {"sees": "all"})
PARTS = Task(
    "p", "sum?", "100", {"sees": "part", "question": "sum of all?", "parts": ["10 20", "30 40"],
    "asked": "sum", "numbers": [["10", "20"], ["30", "40"]]},
)  # fmt: skip


async def test_rows_masks_and_ids_with_a_frozen_agent(stage: Any, named_row: Any) -> None:
    """Three agents, one revision, agent3 frozen; `<answer>` and `</answer>` are one id each.

    ""      9 prompt "17+6=?", 5 "<answer>22</answer>" + end, 11 heard "2: 23\\n3: 24" + 3, 5 answer
    agent2  the same lengths; agent3 too, but nothing of it is trained
    """
    policy = stage.speaker(
        "<answer>22</answer>", "<answer>23</answer>", "<answer>23</answer>", "<answer>24</answer>"
    )
    frozen = stage.speaker("<answer>24</answer>", "<answer>23</answer>")
    env = lambda: Discussion(style="terse", frozen=("agent3",))  # noqa: E731
    played = await stage.play(env, TASK, policy, {"agent3": frozen})
    assert (played.stop, played.rewards, played.answer) == (
        StopReason.TERMINATED,
        {"env": 1.0},
        "23",
    )
    assert played.n_turns == 6
    assert {row.context for row in played.rows} == {"", "agent2", "agent3"}
    for context, trained in (("", 10), ("agent2", 10), ("agent3", 0)):
        row = named_row(played, context)
        assert len(row) == 9 + 5 + (len("2: 23\n3: 24") + 3) + 5
        assert int(row.mask.sum()) == trained
        if trained:
            assert row.mask.tolist() == [False] * 9 + [True] * 5 + [False] * 14 + [True] * 5
    asked = "<|user|>17+6=?<|end|><|assistant|>"
    assert policy.heard == [
        asked,
        asked,
        f"{asked}<answer>22</answer><|end|><|user|>2: 23\n3: 24<|end|><|assistant|>",
        f"{asked}<answer>23</answer><|end|><|user|>1: 22\n3: 24<|end|><|assistant|>",
    ]
    assert frozen.heard[1] == (
        f"{asked}<answer>24</answer><|end|><|user|>1: 22\n2: 23<|end|><|assistant|>"
    )


async def test_everybody_reads_a_part(stage: Any, named_row: Any) -> None:
    env = lambda: Discussion(style="terse", agents=2, sees="part")  # noqa: E731
    turns = list(env().expert(PARTS, seed=0))
    assert turns == [f"<answer>{a}</answer>" for a in ("30", "70", "100", "100")]
    policy = stage.speaker(*turns)
    played = await stage.play(env, PARTS, policy)
    assert played.rewards == {"env": 1.0}
    assert "30 40" not in policy.heard[0] + policy.heard[2]
    assert policy.heard[2].endswith("<|user|>2: 70<|end|><|assistant|>")
    assert [row.context for row in played.rows] == ["", "agent2"]


async def test_a_judge_who_ends_the_discussion(stage: Any, named_row: Any) -> None:
    """Two agents and up to three revisions; the judge lets them go on once, then answers."""
    policy = stage.speaker(
        "<answer>1</answer>", "<answer>2</answer>", "CONTINUE",
        "<answer>23</answer>", "<answer>9</answer>", "<answer>23</answer>",
    )  # fmt: skip
    env = lambda: Discussion(style="terse", agents=2, rounds=3, decide="judge", adaptive=True)  # noqa: E731
    played = await stage.play(env, TASK, policy)
    assert (played.rewards, played.n_turns) == ({"env": 1.0}, 6)
    judge = named_row(played, "judge")
    first, later = "17+6=?\n\n1: 1\n2: 2", "1: 23\n2: 9"
    assert len(judge) == (3 + len(first)) + (8 + 1) + (3 + len(later)) + 5
    assert int(judge.mask.sum()) == 9 + 5
    assert policy.heard[5] == (
        f"<|user|>{first}<|end|><|assistant|>CONTINUE<|end|><|user|>{later}<|end|><|assistant|>"
    )


async def test_a_judging_partner_reads_the_last_round_only(stage: Any, named_row: Any) -> None:
    policy, judge = stage.speaker("<answer>22</answer>"), stage.speaker("<answer>23</answer>")
    env = lambda: Discussion(  # noqa: E731
        style="terse", agents=2, rounds=1, decide="judge", judge="partner"
    )
    played = await stage.play(env, TASK, policy, {"judge": judge})
    assert played.rewards == {"env": 1.0}
    assert judge.heard == ["<|user|>17+6=?\n\n1: 22\n2: 22<|end|><|assistant|>"]
    assert not named_row(played, "judge").mask.any()
