"""The tasks of reasoning_gym, beside the package itself; skipped where it is not installed."""

from __future__ import annotations

import inspect
import re
import sys
import threading
import warnings
from itertools import islice
from typing import Any

import pytest

from agentrl.env import Action
from agentrl.errors import SetupError, UserError
from agentrl.testing import check_env, failures
from agentrl.types import Task
from agentrl_envs.reasoning_gym import ReasoningGym, reasoning_gym
from agentrl_envs.reasoning_gym.guard import FORMULAS, LITERALS, allowed


@pytest.fixture(scope="module")
def package() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("reasoning_gym", reason="the `tasks` extra is not installed")


async def scored(env: ReasoningGym, task: Task, text: str) -> float:
    await env.reset(task, seed=0)
    return (await env.step(Action(text))).reward


@pytest.mark.parametrize("dataset", ["chain_sum", "countdown", "letter_counting", "n_queens"])
async def test_questions_and_scores_are_the_package_s_own(package: Any, dataset: str):
    env = reasoning_gym(dataset=dataset)
    for task in islice(env.tasks("train", seed=0), 5):
        theirs = package.create_dataset(dataset, seed=task.metadata["item"], size=1)
        entry = theirs[0]
        assert (task.question, task.answer) == (entry["question"], entry["answer"])
        (first,) = await env.reset(task, seed=0)
        assert first.content.startswith(entry["question"])
        for answer in (entry["answer"], "7", "12345", "no idea"):
            score = await scored(env, task, f"so <answer>{answer}</answer>")
            refused = not allowed(dataset, answer)
            assert refused == (dataset == "countdown" and answer == "no idea")
            assert score == (0.0 if refused else theirs.score_answer(answer, entry))
        (shown,) = env.expert(task, seed=0)
        assert await scored(env, task, shown) == 1.0
        assert await scored(env, task, entry["answer"]) == 0.0, "without the tag there is no answer"


async def test_options_reach_the_data_set(package: Any):
    env = reasoning_gym(
        dataset="chain_sum", options={"min_terms": 2, "max_terms": 2, "max_digits": 1}
    )
    for task in islice(env.tasks("train", seed=0), 20):
        assert re.search(r": \d [+-] \d =$", task.question)


async def test_splits_share_no_question_and_small_sets_end(package: Any):
    one_digit = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    env = reasoning_gym(dataset="chain_sum", options=one_digit)
    train = [task.question for task in env.tasks("train", seed=0)]
    test = [task.question for task in env.tasks("test", seed=0)]
    assert not set(train) & set(test)
    assert len(train) == len(set(train))
    assert 80 < len(train) + len(test) <= 200, "two digits and a sign"


async def test_it_keeps_the_env_contract(package: Any):
    assert failures(await check_env(reasoning_gym)) == []
    bare = await check_env(lambda: reasoning_gym(dataset="boxnet"))
    assert failures(bare) == []
    assert "skipped: no expert" in {result.detail for result in bare}


async def test_a_scorer_that_hangs_leaves_the_answer_unverified(
    package: Any, monkeypatch: pytest.MonkeyPatch
):
    released = threading.Event()

    def hang(self: ReasoningGym, number: int, answer: str) -> float:
        released.wait(20)
        return 1.0

    monkeypatch.setattr("agentrl_envs.reasoning_gym.env.SCORE_S", 0.05)
    monkeypatch.setattr(ReasoningGym, "_scored", hang)
    env = reasoning_gym()
    await env.reset(next(env.tasks("train", seed=0)), seed=0)
    last = await env.step(Action("<answer>1</answer>"))
    released.set()
    assert (last.reward, last.info.excluded) == (0.0, "unverified")


def test_mistakes(package: Any):
    with pytest.raises(UserError, match="no data set 'chain_sums'; did you mean 'chain_sum'"):
        reasoning_gym(dataset="chain_sums")
    with pytest.raises(UserError, match=r"env\.options: chain_sum does not take .*max_term"):
        reasoning_gym(options={"max_term": 3})
    with pytest.raises(UserError, match=r"env\.options: chain_sum"):
        reasoning_gym(options={"min_terms": 9, "max_terms": 3})
    with pytest.raises(UserError, match="no item of chain_sum"):
        reasoning_gym()._item_of(Task("t", "?", "1"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(SetupError, match=r'pip install "agentrl-framework\[tasks\]"'):
        reasoning_gym(dataset="chain_sum", options={"max_terms": 5})


HOSTILE = (
    "__import__('os').system('true')",
    "eval('1')",
    "[x for x in (1,)]",
    "().__class__",
    "exec('1')",
    "open('/etc/passwd')",
    "(lambda: 1)()",
    "f'{1}'",
    "x[0]",
    "9**9**9",
    "((9**64)**64)**64",
    "2**(64*64*64)",
    "sin.__call__(1)",
    "exp(1, evaluate=True)",
    "system",
)


@pytest.mark.parametrize("answer", HOSTILE)
def test_no_scorer_evaluates_what_a_model_wrote(answer: str):
    assert not any(allowed(name, answer) for name in FORMULAS)
    if "**" not in answer and answer != "system":
        assert not any(allowed(name, answer) for name in LITERALS)
    assert allowed("letter_counting", answer), "nothing evaluates it there"


@pytest.mark.parametrize(
    "answer", ["3*x**2 + 2*x - 1", "(4 + 5)*6 - 7/2", "-cos(x)*exp(2*x)/3", "x**2*sqrt(3)", "5"]
)
def test_formulas_pass(answer: str):
    assert all(allowed(name, answer) for name in FORMULAS)


def test_matrices_pass():
    for answer in ("[[0, 1], [1, 0]]", "0 1\n1 0", "_ Q _ _", "['a', 'b']", "AABCD"):
        assert all(allowed(name, answer) for name in LITERALS)


def test_a_long_answer_and_unreadable_formulas_do_not_pass():
    assert not allowed("countdown", "1+" * 2000 + "1")
    assert not allowed("countdown", "3!")
    assert not allowed("n_queens", "[" + "0," * 2000 + "]")


def test_every_scorer_that_evaluates_is_known(package: Any):
    """A new release may add one: then `guard` has to name it."""
    from reasoning_gym.factory import DATASETS

    evaluating = {
        name
        for name, (cls, _) in DATASETS.items()
        if re.search(
            r"(?<![\w.])(eval|exec|parse_expr)\(|sympify\(", inspect.getsource(cls.score_answer)
        )
        or re.search(r"(sympy|sp)\.parse_expr\(", inspect.getsource(cls.score_answer))
    }
    assert evaluating - {"number_sorting", "propositional_logic"} <= LITERALS | FORMULAS
    assert {"countdown", "n_queens"} <= evaluating
