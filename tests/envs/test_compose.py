"""String functions: definitions against callables, held-out compositions, the answer read."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest

from agentrl.env import Action
from agentrl.errors import UserError
from agentrl.testing.env_kit import check_env
from agentrl.testing.result import failures
from agentrl.types import Task
from agentrl_envs.compose import Compose
from agentrl_envs.compose.functions import FUNCTIONS, applied, nested
from agentrl_envs.families.base import split_of


@pytest.mark.parametrize(
    "options",
    [{}, {"style": "terse"}, {"definitions": True, "train_depths": (1,)}, {"held_out": 0}],
)
async def test_every_promise_is_kept(options: dict[str, object]) -> None:
    assert not failures(await check_env(lambda: Compose(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_definition_says_what_the_function_does(name: str) -> None:
    rng, function = Random(name), FUNCTIONS[name]
    words = ["".join(rng.choices("abczxye-(Aq", k=k)) for k in range(9) for _ in range(5)]
    for x in words:
        assert function.apply(x) == eval(function.source, {"x": x})  # noqa: S307  our own text


def test_twenty_five_different_functions() -> None:
    probe = ("abcdefg", "banana", "zz", "q", "oaoab")
    seen = {tuple(function.apply(x) for x in probe) for function in FUNCTIONS.values()}
    assert len(seen) == len(FUNCTIONS) == 25


def test_the_innermost_function_runs_first() -> None:
    names = ("func_11", "func_3", "func_1")  # doubled(rotated by one(reversed))
    assert nested(names, "x") == "func_11(func_3(func_1(x)))"
    assert applied(names, "abcd") == ["abcd", "dcba", "cbad", "cbadcbad"]


def chains(split: str, n: int = 600, **options: object) -> list[Task]:
    return list(islice(Compose(**options).tasks(split, seed=3), n))  # type: ignore[arg-type]


def pairs(task: Task) -> list[tuple[str, str]]:
    return list(pairwise(task.metadata["functions"]))  # type: ignore[arg-type]


def test_no_composition_of_the_test_split_was_ever_trained() -> None:
    train, test = chains("train", train_depths=(1, 2, 3)), chains("test")
    assert Counter(t.metadata["depth"] for t in train).keys() == {1, 2, 3}
    assert Counter(t.metadata["depth"] for t in test).keys() == {1, 2, 3, 4, 5}
    trained = {pair for task in train for pair in pairs(task)}
    tested = {pair for task in test for pair in pairs(task)}
    assert trained
    assert tested
    assert not trained & tested
    held_out = {f"func_{i}" for i in range(21, 26)}
    assert not held_out & {name for pair in trained for name in pair}
    assert held_out <= {name for pair in tested for name in pair}
    atoms = {t.metadata["functions"][0] for t in train if t.metadata["depth"] == 1}  # type: ignore[index]
    assert held_out <= atoms
    assert {split_of(str(t.metadata["argument"])) for t in train} == {"train"}
    assert {split_of(str(t.metadata["argument"])) for t in test} == {"test"}


def test_answers_are_those_of_the_definitions() -> None:
    for task in chains("test", 100):
        names = task.metadata["functions"]
        scope = {name: eval(f"lambda x: {FUNCTIONS[name].source}") for name in names}  # type: ignore[union-attr]  # noqa: S307
        question = task.question.removeprefix("What does ").removesuffix(" return?")
        assert task.answer == eval(question, scope)  # noqa: S307
        assert 0 < len(str(task.answer)) <= 48


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<answer>dcba</answer>", 1.0),
        ("<answer>\ndcba\n</answer>", 1.0),
        ('<answer>"dcba"</answer>', 1.0),
        ("<answer>abcd</answer> no <answer>dcba</answer>", 1.0),
        ("<answer>dcb</answer>", 0.0),
        ("<answer>DCBA</answer>", 0.0),
        ('<answer>"dcba</answer>', 0.0),
        ("dcba", 0.0),
        ("", 0.0),
    ],
)
async def test_what_a_turn_earns(text: str, reward: float) -> None:
    env = Compose()
    await env.reset(Task("t", "?", "dcba"), seed=0)
    result = await env.step(Action(text))
    assert (result.reward, result.terminated) == (reward, True)


def test_how_tasks_and_experts_read() -> None:
    env = Compose(style="terse", definitions=True, test_depths=(2,), letters=(3, 3))
    task = env._asked(("func_15", "func_1"), "abc", "qcba")
    assert (
        task.question
        == "def func_1(x): return x[::-1]\ndef func_15(x): return 'q' + x\nf15(f1(abc))=?"
    )
    assert list(env.expert(task, seed=0)) == ["cba\n<answer>qcba</answer>"]
    plain = Compose()._asked(("func_15", "func_1"), "abc", "qcba")
    assert plain.question == 'What does func_15(func_1("abc")) return?'
    assert plain.id == task.id == "compose/2/15-1/abc"
    assert list(Compose().expert(plain, seed=0)) == [
        'func_1("abc") = "cba"\nfunc_15("cba") = "qcba"\n<answer>\nqcba\n</answer>'
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_depths": ()}, "from 1 to 8"),
        ({"test_depths": (9,)}, r"from 1 to 8, not \[9\]"),
        ({"held_out": 24}, "from 0 to 23, not 24"),
        ({"letters": (5, 4)}, "shortest and a longest"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Compose(**options)  # type: ignore[arg-type]


def test_foreign_tasks_and_splits_are_refused() -> None:
    with pytest.raises(UserError, match="not made by compose"):
        Compose().expert(Task("t", "?", "a"), seed=0)
    with pytest.raises(UserError, match="splits train and test"):
        Compose().tasks("dev", seed=0)
