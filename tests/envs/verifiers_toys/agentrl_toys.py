"""Environments written with the verifiers package's own classes, in a group of its own.

With n rows each: the first n are single turns, then tools, guessing, and guessing without memory.
"""

from __future__ import annotations

import os
from typing import Any

import verifiers as vf
from datasets import Dataset

SYSTEM = "Answer in <answer> tags."


def rows(n: int, offset: int = 0) -> Dataset:
    numbers = range(offset, offset + n)
    return Dataset.from_list(
        [
            {"question": f"What is {i} + {i}?", "answer": str(2 * i), "info": {"i": i}}
            for i in numbers
        ]
    )


def right(parser: vf.Parser, completion: Any, answer: str) -> float:
    return 1.0 if parser.parse_answer(completion) == answer else 0.0


def brevity(completion: Any) -> float:
    return 1.0 if len(completion) == 1 else 0.0


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    if a == 13:
        raise ValueError("unlucky")
    if a == 99:
        os._exit(3)
    print("noise on standard output")
    return a + b


class Guessing(vf.MultiTurnEnv):
    """Says higher or lower until the number, the answer, is said."""

    async def env_response(self, messages: Any, state: Any, **kw: Any) -> Any:
        said = messages[-1]["content"] if isinstance(messages[-1], dict) else messages[-1].content
        gold = int(state["answer"])
        number = int(said) if said.isdigit() else -1
        if number == gold:
            state["final_env_response"] = [vf.UserMessage(content="yes")]
            state["won"] = True
        return [vf.UserMessage(content="higher" if number < gold else "lower")]


class Forgetful(Guessing):
    """The same, with only the last answer in sight."""

    async def get_prompt_messages(self, state: Any) -> Any:
        if not state["trajectory"]:
            return state["prompt"]
        before = await super().get_prompt_messages(state)
        return [*state["prompt"], before[-1]]


def won(state: Any) -> float:
    return 1.0 if state.get("won") else 0.0


def load_environment(n: int = 32, own_eval: bool = True, broken: bool = False) -> vf.Environment:
    if broken:
        raise ValueError("no licence")
    parser = vf.XMLParser(["answer"], answer_field="answer")
    rubric = vf.Rubric(funcs=[right, brevity], weights=[1.0, 0.25], parser=parser)

    def common(offset: int) -> dict[str, Any]:
        more = {"eval_dataset": rows(6, offset=offset + 1000)} if own_eval else {}
        return {"dataset": rows(n, offset), "system_prompt": SYSTEM, **more}

    guess = vf.Rubric(funcs=[won])
    return vf.EnvGroup(
        envs=[
            vf.SingleTurnEnv(rubric=rubric, parser=parser, **common(0)),
            vf.ToolEnv(tools=[add], max_turns=4, rubric=rubric, parser=parser, **common(n)),
            Guessing(max_turns=3, rubric=guess, **common(2 * n)),
            Forgetful(max_turns=4, rubric=guess, **common(3 * n)),
        ],
        env_names=["single", "tool", "guessing", "forgetful"],
    )
