"""Every family: size, split, answers by running its own code, exact checks, guesses that fail."""

from __future__ import annotations

import ast
import math
from collections import Counter
from random import Random

import pytest

from agentrl.errors import UserError
from agentrl.types import Task
from agentrl_envs.families import FAMILIES, Family
from agentrl_envs.families.base import (
    LEVELS,
    Draw,
    Split,
    as_integer,
    belongs,
    number_like,
    operands_of,
)

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def sample(family: Family, split: Split, level: int, n: int, seed: int = 0) -> list[Task]:
    """`n` tasks of one level."""
    draw = Draw(Random(seed), split)
    return [family.task(family.draw(draw, level), level, "terse") for _ in range(n)]


def notebook(cells: tuple[str, ...]) -> str | None:
    """Echo of the last cell's last expression, run in this process: only for our own code."""
    names: dict[str, object] = {}
    value: object = None
    for cell in cells:
        tree = ast.parse(cell)
        value = None
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(tree.body[:-1], []), "cell", "exec"), names)
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
        else:
            exec(compile(tree, "cell", "exec"), names)
    return None if value is None else repr(value)


def read_echo(family: str, echo: str) -> str:
    """What a careful reader answers after the echo."""
    if family == "parity":
        return {"0": "no", "1": "yes"}[echo]
    return echo.strip("'[]").removeprefix("0x").replace(",", "")


@each_family
def test_there_are_at_least_a_hundred_thousand_distinct_tasks(family: Family) -> None:
    train_share = 0.75 ** len(sample(family, "train", 3, 1)[0].metadata["operands"])  # type: ignore[arg-type]
    assert sum(family.count(level) for level in LEVELS) * train_share >= 1e5


@each_family
@pytest.mark.parametrize("level", LEVELS)
def test_the_declared_count_matches_the_collisions_of_a_sample(family: Family, level: int) -> None:
    """Birthday estimate: n draws from N hold about n^2 / 2N equal pairs; N of the train split."""
    n = 2000
    tasks = sample(family, "train", level, n)
    pairs = sum(c * (c - 1) // 2 for c in Counter(task.id for task in tasks).values())
    operands = tasks[0].metadata["operands"]
    assert isinstance(operands, list)
    in_split = sum(len(str(o)) > 1 for o in operands)
    expected = n * n / 2 / (family.count(level) * 0.75**in_split)
    # Non-uniform families (gcd) collide more often, never much less.
    assert pairs <= 3.0 * expected + 5 * math.sqrt(expected) + 3
    assert pairs >= 0.5 * expected - 3 * math.sqrt(expected) - 1


@each_family
def test_no_operand_of_train_occurs_in_test(family: Family) -> None:
    seen: dict[str, set[str]] = {}
    for split in ("train", "test"):
        tasks = [t for level in LEVELS for t in sample(family, split, level, 400)]
        operands = {o for task in tasks for o in operands_of(task)}
        seen[split] = {o for o in operands if len(o) > 1}
        assert all(belongs(o, split) for o in operands)
        seen[split + " ids"] = {task.id for task in tasks}
    assert not seen["train"] & seen["test"]
    assert not seen["train ids"] & seen["test ids"]


@each_family
def test_both_splits_are_equally_hard(family: Family) -> None:
    for level in LEVELS:
        length = {
            split: sum(len(str(t.answer)) for t in sample(family, split, level, 300)) / 300
            for split in ("train", "test")
        }
        assert length["test"] == pytest.approx(length["train"], abs=0.5)


@each_family
def test_operands_grow_with_the_level(family: Family) -> None:
    def size(level: int) -> float:
        tasks = sample(family, "train", level, 200)
        return sum(len("".join(operands_of(task))) for task in tasks) / 200

    assert size(1) < size(2) < size(3)


@each_family
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_code_gives_the_answer(family: Family, split: Split) -> None:
    for task in (t for level in LEVELS for t in sample(family, split, level, 40)):
        cells = family.cells(operands_of(task))
        echo = notebook(cells)
        assert echo is not None
        assert read_echo(family.name, echo) == task.answer
        assert family.matches(str(task.answer), str(task.answer))
        assert len(cells) == (2 if family.need == "two_calls" else 1)


@each_family
def test_near_misses_are_wrong(family: Family) -> None:
    for task in (t for level in LEVELS for t in sample(family, "train", level, 30)):
        gold = str(task.answer)
        if gold.lstrip("-").isdigit() and family.name != "hex":
            misses = [str(int(gold) + 1), str(int(gold) - 1), gold + "1", f"-{gold}1", gold + " 1"]
        elif family.name == "parity":
            misses = ["no" if gold == "yes" else "yes", "yes no", "1"]
        elif family.name == "sort":
            numbers = gold.split()
            misses = [" ".join(reversed(numbers)), " ".join(numbers[:-1]), gold + " 99"]
        elif family.name == "hex":
            misses = [f"{int(gold, 16) + 1:x}", str(int(gold, 16)), gold + "0"]
        else:
            misses = [gold[::-1], gold + "a", gold[1:]] if gold != gold[::-1] else [gold + "a"]
        for miss in [*misses, "", "?"]:
            assert not family.matches(gold, miss), (gold, miss)


@each_family
def test_a_question_and_its_code_are_short(family: Family) -> None:
    for task in (t for level in LEVELS for t in sample(family, "train", level, 100)):
        assert len(task.question.encode()) <= 32
        assert sum(len(c) for c in family.cells(operands_of(task))) <= 36


@each_family
def test_the_two_styles_are_one_task(family: Family) -> None:
    operands = family.draw(Draw(Random(3), "train"), 2)
    terse, plain = family.task(operands, 2, "terse"), family.task(operands, 2, "plain")
    assert (terse.id, terse.answer) == (plain.id, plain.answer)
    assert terse.id == f"{family.name}/2/{'-'.join(operands)}"
    assert all(o in terse.question and o in plain.question for o in operands)
    assert len(plain.question) > len(terse.question)


@each_family
def test_guessing_pays_only_where_the_head_suffices(family: Family) -> None:
    rng = Random(7)
    tasks = [t for level in LEVELS for t in sample(family, "train", level, 300)]
    right = [family.matches(str(t.answer), family.guess(operands_of(t), rng)) for t in tasks]
    assert (
        sum(right) / len(right) == 1.0 if family.need == "head" else sum(right) / len(right) < 0.1
    )
    if family.need != "head":
        answers = Counter(task.answer for task in tasks)
        assert answers.most_common(1)[0][1] / len(tasks) < 0.1, "one constant answer pays"


def test_answers_worked_out_by_hand() -> None:
    by_hand = {
        "add": (("38", "7"), "45"),
        "max": (("381", "742"), "742"),
        "parity": (("48213",), "yes"),
        "reverse": (("kqzt",), "tzqk"),
        "mul": (("37", "84"), "3108"),
        "expr": (("37", "48", "19", "62"), "1553"),  # 85 * 19 - 62
        "isqrt": (("990024",), "994"),  # 995 ** 2 - 1
        "gcd": (("888", "1036"), "148"),  # 148 * 6, 148 * 7
        "powmod": (("2", "10", "31"), "1"),  # 1024 = 33 * 31 + 1
        "digitsum": (("2", "15"), "26"),  # 32768
        "hex": (("48213",), "bc55"),
        "sort": (("52", "17", "93", "40"), "17 40 52 93"),
        "chain": (("37", "84", "17"), "14"),  # 3108 = 182 * 17 + 14
        "branch": (("37", "85", "12", "50"), "3157"),  # 3145 is odd
    }
    assert by_hand.keys() == FAMILIES.keys()
    for name, (operands, answer) in by_hand.items():
        assert FAMILIES[name].answer(operands) == answer
    assert FAMILIES["branch"].answer(("37", "84", "12", "50")) == "3058"
    assert FAMILIES["expr"].answer(("37", "84", "19")) == "3127"
    assert FAMILIES["expr"].answer(("437", "48", "195", "62")) == "99973"  # 389 * 257


def test_forms_of_an_integer() -> None:
    assert [as_integer(t) for t in ("3,108", " $3108 ", "-5", "+7", "12.0", "12.")] == [
        3108,
        3108,
        -5,
        7,
        12,
        12,
    ]
    assert [as_integer(t) for t in ("", "-", "1_0", "٣", "1/2", "12.5", "0x1f")] == [None] * 7


def test_a_number_like_another_keeps_sign_and_length() -> None:
    rng = Random(0)
    assert {len(number_like("4821", rng)) for _ in range(50)} == {4}
    assert all(number_like("-48", rng).startswith("-") for _ in range(5))
    assert {number_like("7", rng) for _ in range(300)} == set("0123456789")


def test_only_families_make_operands() -> None:
    with pytest.raises(UserError, match="task gsm8k-1 was not made by a family"):
        operands_of(Task(id="gsm8k-1", question="?"))
