r"""R-HORIZON's composition and rewards, with the numbers of agentic.md section 26."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from agentrl.env import Action
from agentrl.errors import UserError
from agentrl.testing.env_kit import check_env
from agentrl.testing.result import failures
from agentrl.types import Task
from agentrl_envs.families.base import split_of
from agentrl_envs.horizon import Horizon
from agentrl_envs.horizon.composition import (
    chained,
    composed,
    difference,
    if_independent,
    in_math,
    read,
    right_before_wrong,
    written,
)
from agentrl_envs.horizon.problems import BARE, NUMBER, Problem, filed

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize(
    "options",
    [{}, {"style": "terse", "n": (1, 3)}, {"n": (4,), "reward": "prefix"}, {"reward": "last"}],
)
async def test_every_promise_is_kept(options: dict[str, object]) -> None:
    assert not failures(await check_env(lambda: Horizon(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "number", "told"),
    [
        (7, 5, "[answer1] - 2"),
        (5, 7, "[answer1] + 2"),
        (6, 6, "[answer1] + 0"),
        (-3, 4, "[answer1] + 7"),
    ],
)
def test_the_line_that_links_two_problems(answer: int, number: int, told: str) -> None:
    assert difference("[answer1]", number, answer) == told


def test_a_chain_is_written_as_in_the_paper() -> None:
    problems = [Problem("What is 3 + 4?", 7), Problem("Tom has 5 apples. Double?", 10)]
    assert composed(problems, Random(0)) == (
        "Problem 1:\nWhat is 3 + 4?\n\n"
        "Problem 2:\nTom has [variable2] apples. Double?\n[variable2] = [answer1] - 2\n\n"
        "Solve the problems in order: each one needs the answer of the one before. Finish with\n"
        "### Final Answers\nProblem 1: \\boxed{[answer1]}\nProblem 2: \\boxed{[answer2]}"
    )
    assert written([7, 10]) == "### Final Answers\nProblem 1: \\boxed{7}\nProblem 2: \\boxed{10}"
    terse = composed([Problem("3+4=?", 7), Problem("max(9,9)?", 9)], Random(0), "terse")
    assert terse in ("1: 3+4=?\n2: max(v2,9)? v2=a1+2", "1: 3+4=?\n2: max(9,v2)? v2=a1+2")


def test_braces_inside_formulas_only() -> None:
    maths = Problem("Solve $x^7=y$ now.", 1, latex=True)
    assert chained(maths, 3, 5, Random(0)) == (
        "Solve $x^{[variable3]}=y$ now.\n[variable3] = [answer2] + 2"
    )
    plain = Problem("Pay $7 now.", 1)
    assert chained(plain, 2, 5, Random(0)) == "Pay $[variable2] now.\n[variable2] = [answer1] + 2"
    text = "a 1 \\(2\\) 3 $4$ 5 \\[6\\] \\begin{align}7\\end{align} 8 \\$ 9"
    inside = [m.group() for m in NUMBER.finditer(text) if in_math(text, m.start())]
    assert inside == ["2", "4", "6", "7"]


def test_which_digits_are_numbers_of_their_own() -> None:
    text = "In 1,250 days 3.5 of 40% and x2 see $12, 7. Not 2nd or \\3, but 8^9 and (0,3)."
    assert NUMBER.findall(text) == ["12", "7", "8", "9", "0"]
    assert BARE.findall("gcd(384,72)? k=25*73;odd:k+70") == ["384", "72", "25", "73", "70"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (written([7, 10, 3]), [7, 10, 3]),
        ("Problem 1: \\boxed{7}", [None, None, None]),
        ("### Final Answers\nProblem 1: 7\nProblem 2: \\boxed{1,000}", [None, 1000, None]),
        ("### Final Answers\nProblem 2: \\boxed{2}\nProblem 1: \\boxed{1}", [1, 2, None]),
        (written([0, 0, 0]) + "\nNo.\n" + written([7, 10, 3]), [7, 10, 3]),
        ("### Final Answers\nProblem 1: \\boxed{1/2}\nProblem 9: \\boxed{4}", [None, None, None]),
        ("", [None, None, None]),
    ],
)
def test_reading_final_answers(text: str, found: list[int | None]) -> None:
    assert read(text, 3) == found


def test_reading_terse_answers() -> None:
    assert read("<answer>7, 10</answer>", 2, "terse") == [7, 10]
    assert read("<answer>7</answer>", 2, "terse") == [7, None]
    assert read("<answer>7,10,3</answer>", 2, "terse") == [None, None]


@pytest.mark.parametrize(
    ("reward", "scores"),
    [
        ("all", (1.0, 0.0, 0.0, 0.0)),
        ("prefix", (1.0, 2 / 3, 0.0, 1 / 3)),
        ("last", (1.0, 0.0, 1.0, 1.0)),
    ],
)
async def test_rewards(reward: Literal["all", "prefix", "last"], scores: tuple[float, ...]) -> None:
    """Of three: all right; the last wrong (2 right -> 0); the first wrong; the second wrong."""
    env, earned = Horizon(reward=reward), list[float]()
    for given in ([4, 5, 6], [4, 5, 0], [0, 5, 6], [4, 0, 6]):
        await env.reset(Task("t", "?", "4,5,6", {"n": 3}), seed=0)
        result = await env.step(Action(written(given)))
        earned.append(result.reward)
        assert result.info.answer == ",".join(map(str, given))
    assert tuple(earned) == pytest.approx(scores)


def test_right_answers_before_the_first_wrong_one() -> None:
    assert [right_before_wrong([1, 2, 3], g) for g in ([1, 2, 3], [1, 2, None], [0, 2, 3])] == [
        3,
        2,
        0,
    ]


def test_the_reference_of_independent_successes() -> None:
    assert if_independent((0.8, 0.5)) == pytest.approx(0.4)


def test_every_problem_keeps_its_answer() -> None:
    """Solving in order with what the links say gives back each original question."""
    for task in islice(Horizon(n=(4,)).tasks("train", seed=0), 40):
        answers = [int(a) for a in str(task.answer).split(",")]
        blocks = task.question.split("\n\n")[:4]
        for k, (block, original) in enumerate(
            zip(blocks, task.metadata["questions"], strict=True),
            1,  # type: ignore[arg-type]
        ):
            _, question, *link = block.split("\n")
            if link:
                name, _, formula = link[0].partition(" = ")
                value = eval(formula.replace(f"[answer{k - 1}]", str(answers[k - 2])))  # noqa: S307
                question = question.replace(name, str(value))
            assert question == original


@pytest.mark.parametrize(
    ("name", "least"), [("gsm8k_test", 1000), ("math500", 100), ("aime24", 10)]
)
def test_real_problem_files(name: str, least: int) -> None:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    source = filed(str(path))
    assert sum(map(len, source.by_split.values())) > least
    env = Horizon(path=str(path), n=(2, 3))
    train = {q for t in islice(env.tasks("train", seed=0), 60) for q in t.metadata["questions"]}  # type: ignore[union-attr]
    test = {q for t in islice(env.tasks("test", seed=0), 60) for q in t.metadata["questions"]}  # type: ignore[union-attr]
    assert not train & test
    assert {split_of(str(q)) for q in train} == {"train"}


def test_a_small_file(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i} + 1?", "answer": f"so\n#### {i + 1}"} for i in range(40)]
    rows += [
        {"problem": "Half of 3?", "answer": "\\frac{3}{2}"},
        {"input": "none here", "output": "4"},
    ]
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert sum(map(len, filed(str(path)).by_split.values())) == 40
    tasks = list(islice(Horizon(path=str(path)).tasks("train", seed=0), 3000))
    assert len(tasks) == 3000  # more than there are chains: some come again, none waits


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Horizon(path=str(tmp_path / "none.jsonl"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": 1}\n{oops')
    with pytest.raises(UserError, match=r"bad.jsonl:2 is not JSON"):
        Horizon(path=str(bad))
    few = tmp_path / "few.jsonl"
    few.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    with pytest.raises(UserError, match="too few problems"):
        Horizon(path=str(few))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": ()}, "lengths are from 1 to 16"),
        ({"n": (17,)}, r"not \[17\]"),
        ({"families": ("hex",)}, "'hex' has no whole-number answers"),
        ({"levels": (4,)}, "some of 1, 2 and 3"),
        ({"path": "x.jsonl", "style": "terse"}, "set env.style=plain, or leave env.path out"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Horizon(**options)  # type: ignore[arg-type]


async def test_foreign_tasks_and_splits_are_refused() -> None:
    with pytest.raises(UserError, match="is no chain"):
        await Horizon().reset(Task("t", "1+1", "2"), seed=0)
    with pytest.raises(UserError, match="is no chain"):
        Horizon().expert(Task("t", "?", "a,b"), seed=0)
    with pytest.raises(UserError, match="splits train and test"):
        Horizon().tasks("dev", seed=0)


async def test_an_interpreter_when_asked() -> None:
    env = Horizon(tools="python")
    assert [tool.name for tool in env.tools] == ["python"]
    assert (env.protocol, Horizon().protocol, Horizon(style="terse").protocol) == (
        "retool", "hermes", "retool_bare",
    )  # fmt: skip
