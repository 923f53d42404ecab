"""The judge that goes by rules, asked over HTTP by the judge client that runs use."""

from __future__ import annotations

import importlib.util
import socket
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from agentrl.errors import WorldFault
from agentrl.rewards.asking import read_score
from agentrl.rewards.capo import read_list
from agentrl.rewards.judge import OpenAIJudge
from agentrl_envs.demonstrator import answer_turn, demonstrate
from agentrl_envs.retool_math import RetoolMath


@pytest.fixture(scope="module")
def server() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "judge_server.py"
    spec = importlib.util.spec_from_file_location("judge_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_it_names_wrong_steps_and_grades_answers(server: ModuleType) -> None:
    """The expert's own steps are right; another answer and a bare sentence are wrong."""
    task = next(t for t in RetoolMath(style="terse").tasks("train", seed=3) if t.answer == "3")
    right = demonstrate(task, seed=0, habit="tool", style="terse")
    steps = [*right, answer_turn("4", "terse"), "let me see"]
    listed = "\n\n".join(f"Step {k}:\n{text}" for k, text in enumerate(steps))
    port = free_port()
    with server.serving(port, 3):
        judge = OpenAIJudge(base_url=f"http://127.0.0.1:{port}/v1", model_id="rules", retries=0)
        said = await judge.grade(f"Question:\n{task.question}\n\n{listed}\n\n(Critique 1)")
        assert read_list(said) == [len(right), len(right) + 1]
        for answer, grade in (("3", 10.0), ("4", 0.0), ("34", 20 / 3)):
            text = answer_turn(answer, "terse")
            said = await judge.grade(f"Grade.\n\nQuestion:\n{task.question}\n\nText:\n{text}")
            assert read_score(said) == pytest.approx(grade, abs=0.01)
        with pytest.raises(WorldFault):
            await judge.grade("Question:\nwho?\n\nText:\nnobody")


def test_it_knows_the_tasks_that_a_run_draws(server: ModuleType) -> None:
    known = server.RuleJudge(0)
    for task in islice(RetoolMath(style="terse").tasks("train", seed=0), 500):
        prompt = f"Question:\n{task.question}\n\nText:\n{answer_turn(str(task.answer), 'terse')}"
        assert read_score(known.reply(prompt)) == 10
