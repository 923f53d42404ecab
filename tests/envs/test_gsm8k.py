"""GSM8K's annotations as a policy, and the counts the published files must give."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentrl.chat.protocols.retool import ReTool
from agentrl.context import Context
from agentrl.data.tasks import load_tasks
from agentrl.transcript import ids_array
from agentrl.types import Task
from agentrl_envs.gsm8k import (
    annotation_turns,
    corrupt_operand,
    evaluate,
    expressions,
    final_turn,
    reaches_gold,
)
from agentrl_envs.retool_math import RetoolMath

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def item(solution: str, answer: str) -> Task:
    return Task("gsm8k/0", "?", answer, {"solution": solution})


CLIPS = item("48/2 = <<48/2=24>>24 clips. 48+24 = <<48+24=72>>72 altogether.\n#### 72", "72")


def published(split: str) -> list[Task]:
    path = DATA / f"gsm8k_{split}.jsonl"
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{path.name}")
    return load_tasks(str(path))


def test_every_annotation_becomes_code() -> None:
    assert expressions(CLIPS) == ["48/2", "48+24"]
    assert annotation_turns(CLIPS, "terse") == ["<code>48/2</code>", "<code>48+24</code>"]
    assert annotation_turns(CLIPS) == [
        "<code>\n```python\n48/2\n```\n</code>",
        "<code>\n```python\n48+24\n```\n</code>",
    ]
    assert annotation_turns(item("no annotation\n#### 3", "3")) is None
    assert annotation_turns(item("<<two+2=4>>4\n#### 4", "4")) is None


def test_the_answer_is_the_last_output_alone() -> None:
    told = "<interpreter>\n24.0\n</interpreter>\n\n<code>48+24</code>\n<interpreter>\n72\n</interpreter>"
    assert final_turn(told, "terse") == "<answer>72</answer>"
    assert final_turn("nothing ran, though 72 is right", "terse") == "<answer></answer>"


def test_which_items_reach_their_gold() -> None:
    assert reaches_gold(CLIPS)
    assert reaches_gold(item("<<3*.1=.3>>\n#### 0.3", "0.3"))
    assert not reaches_gold(item("<<48+24=72>>72\n#### 71", "71"))
    assert not reaches_gold(item("<<48+24=72>>72, then halved\n#### 36", "36"))
    assert not reaches_gold(item("#### 36", "36"))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("7/2", 3.5),
        ("7//2", 3),
        ("-3-(+2)", -5),
        (".5*10", 5.0),
        ("1/0", None),
        ("2**3", None),
        ("5%3", None),
        ("05+1", None),
        ("x+1", None),
        ("f(1)", None),
        ("__import__('os')", None),
        ("'a'*3", None),
        ("True+1", None),
        ("1j", None),
        ("[1][0]", None),
        ("", None),
        ("(" * 5000, None),
        ("1" + "+1" * 20_000, None),
    ],
)
def test_arithmetic_and_nothing_else_is_evaluated(expression: str, value: float | None) -> None:
    assert evaluate(expression) == value


def test_a_corrupted_operand_changes_the_last_value_only() -> None:
    for style in ("terse", "plain"):
        turns = annotation_turns(CLIPS, style)
        assert turns is not None
        for seed in range(20):
            wrong = corrupt_operand(turns, seed)
            assert wrong == corrupt_operand(turns, seed)
            assert wrong[:-1] == turns[:-1]
            changed = wrong[-1].removeprefix("<code>").removesuffix("</code>").strip("\n`python")
            assert evaluate(changed) not in (None, 72)
    assert corrupt_operand(["<code>5*0</code>"], 1)[0].startswith("<code>5*")
    big = corrupt_operand(["<code>252000000-60000000</code>"], 0)[0]
    assert "e+" not in big
    assert big != "<code>252000000-60000000</code>"


@pytest.mark.parametrize(("split", "n", "reached"), [("train", 7473, 7001), ("test", 1319, 1208)])
def test_the_published_share_of_items_is_reached(split: str, n: int, reached: int) -> None:
    """93.7 % of train and 91.6 % of test, every one of which can be played and corrupted."""
    tasks = published(split)
    able = [task for task in tasks if reaches_gold(task)]
    assert (len(tasks), len(able)) == (n, reached)
    for task in able:
        turns = annotation_turns(task, "terse")
        assert turns is not None
        assert corrupt_operand(turns, 0) != turns


async def test_played_items_are_right_and_corrupted_ones_wrong(ctx: Context) -> None:
    """Code, interpreter, answer and check over the first 60 items, answers from outputs only."""
    tasks = published("test")[:60]
    protocol, env = ReTool(), RetoolMath(max_calls=16)

    async def score(task: Task, turns: list[str]) -> float:
        await env.open(ctx)
        await env.reset(task, seed=0)
        told = ""
        for i, text in enumerate(turns):
            step = await env.step(protocol.parse(ids_array(()), text, turn=i))
            told += f"<interpreter>{step.observation[0].content}</interpreter>"
        return (await env.step(protocol.parse(ids_array(()), final_turn(told), turn=9))).reward

    for task in tasks:
        turns = annotation_turns(task)
        if turns is not None:
            assert await score(task, turns) == float(reaches_gold(task)), task.id
            if reaches_gold(task):
                assert await score(task, corrupt_operand(turns, 1)) == 0.0, task.id
