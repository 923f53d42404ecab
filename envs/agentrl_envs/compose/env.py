"""String functions and their compositions, after f(g(x)) (arXiv:2509.25123).

Level d nests d functions. Training draws atoms (level 1) and compositions of the training depths;
testing draws deeper ones, and of what it composes no two neighbours were ever composed in training:
every ordered pair of functions belongs to one split. Some functions are never composed in training
at all, only met as atoms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from string import ascii_lowercase
from typing import cast, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl.verify.extract import last_answer_tag
from agentrl_envs.compose.functions import FUNCTIONS, applied, nested
from agentrl_envs.families.base import Style, split_of
from agentrl_envs.fresh import fresh
from agentrl_envs.tool_env import ToolEnv

ASK = "\n\nGive the resulting string alone inside <answer> and </answer>."
DEEPEST = 8
"""The paper's hardest level."""

LONGEST = 48
"""Characters of any string on the way; longer ones are drawn again."""


@final
class Compose(ToolEnv):
    """String functions f(g(x)), trained on some compositions and tested on others and deeper ones."""

    expert_floor = 1.0
    random_ceiling = 0.05

    def __init__(
        self,
        *,
        train_depths: tuple[int, ...] = (1, 2),
        test_depths: tuple[int, ...] = (1, 2, 3, 4, 5),
        held_out: int = 5,
        definitions: bool = False,
        letters: tuple[int, int] = (4, 7),
        style: Style = "plain",
    ) -> None:
        """Make one episode's environment.

        Args:
            train_depths: functions nested in a training task, of 1 (atoms) to 8.
            test_depths: the same for testing; usually deeper.
            held_out: how many of the 25 functions, the last ones, training never composes.
            definitions: show each function's definition (learning the atoms); the paper hides them
                in reinforcement learning and testing.
            letters: shortest and longest argument.
            style: `terse` questions for tiny models, `plain` sentences otherwise.

        Raises UserError on depths, lengths or a number of functions that cannot be.
        """
        super().__init__()
        self.protocol = "retool_bare" if style == "terse" else "hermes"
        self.depths = {"train": _depths(train_depths), "test": _depths(test_depths)}
        if not 0 <= held_out <= len(FUNCTIONS) - 2:
            raise UserError(f"env.held_out is from 0 to {len(FUNCTIONS) - 2}, not {held_out}")
        if not 1 <= letters[0] <= letters[1] <= 20:
            raise UserError("env.letters is a shortest and a longest length, from 1 to 20")
        self.names = tuple(FUNCTIONS)
        self.composed = self.names[: len(self.names) - held_out]
        self.definitions = definitions
        self.letters = letters
        self.style: Style = style

    def first_messages(self, task: Task) -> Observation:
        """The question, as one user message."""
        return (Message("user", task.question + ("" if self.style == "terse" else ASK)),)

    async def judge(self, action: Action) -> StepResult:
        """Reward 1 when the answer tag holds exactly the string, quoted or not; then end."""
        answer = last_answer_tag(action.text)
        right = answer is not None and unquoted(answer) == self.task.answer
        return StepResult((), float(right), True, False, StepInfo(answer=answer))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream; depths are uniform over those of the split.

        Raises UserError on a split other than train and test.
        """
        if split not in ("train", "test"):
            raise UserError(f"compose has the splits train and test, not {split!r}")
        rng = Random(derive("compose", seed, split))
        return fresh(lambda: self._drawn(rng, split))

    def _drawn(self, rng: Random, split: str) -> Task:
        depth = rng.choice(self.depths[split])
        while True:
            names = self._chain(rng, depth, split)
            x = "".join(rng.choices(ascii_lowercase, k=rng.randint(*self.letters)))
            if split_of(x) != split:
                continue
            values = applied(names, x)
            if all(0 < len(value) <= LONGEST for value in values):
                return self._asked(names, x, values[-1])

    def _chain(self, rng: Random, depth: int, split: str) -> tuple[str, ...]:
        """Functions from the outermost inwards whose neighbouring pairs all belong to the split."""
        if depth == 1:
            return (rng.choice(self.names),)
        pool = self.composed if split == "train" else self.names
        while True:
            chain = [rng.choice(pool)]
            while len(chain) < depth:
                inner = [name for name in pool if self.pair_split(chain[-1], name) == split]
                if not inner:
                    break
                chain.append(rng.choice(inner))
            else:
                return tuple(chain)

    def pair_split(self, outer: str, inner: str) -> str:
        """The split in which `outer(inner(x))` may occur."""
        if outer not in self.composed or inner not in self.composed:
            return "test"
        return split_of(f"{outer}({inner}")

    def _asked(self, names: tuple[str, ...], x: str, answer: str) -> Task:
        told = "\n".join(f"def {n}(x): return {FUNCTIONS[n].source}" for n in sorted(set(names)))
        told = f"{told}\n" if self.definitions else ""
        if self.style == "terse":
            question = f"{told}{_short(nested(names, x))}=?"
        else:
            question = f"{told}What does {nested(names, repr(x)).replace(chr(39), chr(34))} return?"
        return Task(
            id=f"compose/{len(names)}/{'-'.join(n.removeprefix('func_') for n in names)}/{x}",
            question=question,
            answer=answer,
            metadata={"depth": len(names), "functions": list(names), "argument": x},
        )

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """Works from the inside out, one function per line, then answers.

        Raises UserError for a task of another kind.
        """
        names, x = task.metadata.get("functions"), task.metadata.get("argument")
        if not isinstance(names, list | tuple) or not isinstance(x, str):
            raise UserError(f"task {task.id} was not made by compose: it has no functions")
        chain = tuple(str(name) for name in cast("list[str]", names))
        values = applied(chain, x)
        if self.style == "terse":
            return (
                "".join(f"{value}\n" for value in values[1:-1]) + f"<answer>{values[-1]}</answer>",
            )
        inward = reversed(chain)
        lines = [f'{n}("{a}") = "{b}"' for n, a, b in zip(inward, values, values[1:], strict=False)]
        return ("\n".join([*lines, f"<answer>\n{values[-1]}\n</answer>"]),)

    def random_turn(self, rng: Random) -> str:
        """Random letters as the answer."""
        guess = "".join(rng.choices(ascii_lowercase, k=rng.randint(*self.letters)))
        return f"<answer>{guess}</answer>"


def unquoted(answer: str) -> str:
    """The answer without one pair of quotes around it."""
    if len(answer) > 1 and answer[0] == answer[-1] and answer[0] in "\"'`":
        return answer[1:-1]
    return answer


def _short(text: str) -> str:
    return text.replace("func_", "f")


def _depths(depths: tuple[int, ...]) -> tuple[int, ...]:
    if not depths or not all(1 <= depth <= DEEPEST for depth in depths):
        raise UserError(f"env depths are from 1 to {DEEPEST}, not {list(depths)}")
    return tuple(depths)


__all__ = ["Compose", "unquoted"]
