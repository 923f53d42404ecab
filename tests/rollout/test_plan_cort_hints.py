"""CoRT's hints: placed at the start, or where the model calculates by hand or doubts its code."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.errors import UserError
from agentrl.points import Ctx
from agentrl.rollout.plans.cort_hints import CortHints
from agentrl.trajectory import Group
from agentrl.transcript import Origin

CTX = Ctx(step=0, total_steps=4, seed=1)
HINTS = {"calculation": " Use code. ", "doubt": " Trust it. ", "by_hand": ("by hand",)}


def turn(text: str, seed: int) -> str:
    """By hand, until told to use code; in doubt of what it printed, until told to trust it."""
    if "Use code" not in text and "Code first" not in text:
        return "I do it by hand: 5. <answer>5</answer>"
    if "</code>" not in text:
        return "<code>4</code>"
    return (
        "<answer>4</answer>" if text.endswith("Trust it. ") else "Let me verify: <answer>5</answer>"
    )


async def collected(world: Any, served: Any, turn: Any = turn, **options: Any) -> Group:
    plan = CortHints(**({"group_size": 2} | HINTS | options))
    return await plan.collect(world.task, served(turn), CTX)


async def test_hints_stand_where_they_are_needed(world: Any, served: Any) -> None:
    group = await collected(world, served)
    assert [t.sibling for t in group.trajectories] == [0, 1]
    played = group.trajectories[0]
    assert played.correct
    assert played.rewards["hints/placed"] == 2.0
    said = [m.content for m in played.messages if m.role == "assistant"]
    assert said == [
        "I do it by hand Use code. <code>4</code>",
        "Let me verify Trust it. <answer>4</answer>",
    ]


async def test_hints_are_read_and_never_trained(world: Any, served: Any) -> None:
    row = (await collected(world, served)).trajectories[0].rows[0]
    decode = world.renderer.tokenizer.decode
    placed = [decode(s.token_ids) for s in row.segments if s.origin is Origin.SCAFFOLD]
    assert placed == [" Use code. ", " Trust it. "]
    trained = decode(row.token_ids[row.mask])
    assert "Use" not in trained
    assert "Trust" not in trained
    assert "by hand" in trained


async def test_the_prompt_style_hints_once_at_the_start(world: Any, served: Any) -> None:
    group = await collected(world, served, style="prompt", opening="Code first. ")
    played = group.trajectories[0]
    assert played.rewards["hints/placed"] == 1.0
    assert played.messages[2].content == "Code first. <code>4</code>"
    assert played.rows[0].segments[1].origin is Origin.SCAFFOLD
    assert not played.correct, "nobody told it to trust the result"


async def test_hints_come_a_few_times_only(world: Any, served: Any) -> None:
    def stubborn(text: str, seed: int) -> str:
        return "still by hand"

    for most in (1, 3):
        group = await collected(world, served, stubborn, max_hints=most)
        assert group.trajectories[0].rewards["hints/placed"] == most


async def test_calculating_is_left_alone_once_there_was_a_call(world: Any, served: Any) -> None:
    def later(text: str, seed: int) -> str:
        return "by hand <answer>4</answer>" if "</code>" in text else "<code>4</code>"

    for until_called, n in ((False, 3), (True, 0)):
        group = await collected(world, served, later, until_called=until_called)
        assert group.trajectories[0].rewards["hints/placed"] == n


def test_an_empty_trigger_is_refused() -> None:
    with pytest.raises(UserError, match="no empty text"):
        CortHints(by_hand=("",))
