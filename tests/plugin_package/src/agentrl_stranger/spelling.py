"""Spelling: how many letters has a word? A tool may be asked once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from agentrl.context import Context
from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.seeds import derive
from agentrl.tool import call_tool
from agentrl.types import Message, Task
from agentrl_stranger.dictionary import dictionary

WORDS = {"train": ("cat", "house", "tree"), "test": ("river", "sun")}


class Spelling(Env):
    """Asks how many letters a word has."""

    protocol = "hermes"
    tools = (dictionary,)

    def __init__(self, *, bonus: float = 0.0) -> None:
        """`bonus` is added for a right answer."""
        self.bonus = bonus
        self._ctx = Context()
        self._answer = ""

    async def open(self, ctx: Context) -> None:
        """Keep the context for calls."""
        await super().open(ctx)
        self._ctx = ctx

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """One question."""
        self._answer = task.answer or ""
        return (Message("user", task.question),)

    async def step(self, action: Action) -> StepResult:
        """Run the calls, correct what could not be read, or judge the answer."""
        if action.parse_error:
            return StepResult((Message("user", action.parse_error),), 0.0, False, False, StepInfo())
        known = {tool.name: tool for tool in self.tools}
        results = tuple([await call_tool(known, call, self._ctx) for call in action.tool_calls])
        if results:
            said = tuple(Message("tool", r.content, call_id=r.call_id) for r in results)
            return StepResult(said, 0.0, False, False, StepInfo(results=results))
        right = action.text.strip() == self._answer
        info = StepInfo(answer=action.text.strip())
        return StepResult((), (1.0 + self.bonus) if right else 0.0, True, False, info)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """Words of a split, numbered so that every id is new."""
        rng = Random(derive("spelling", split, seed))
        number = 0
        while True:
            word = rng.choice(WORDS[split])
            task = Task(word, f"How many letters has {word!r}?", str(len(word)))
            yield replace(task, id=f"{split}/{number}/{word}")
            number += 1

    def expert(self, task: Task, *, seed: int) -> Iterator[str]:
        """The answer, at once."""
        yield task.answer or ""
