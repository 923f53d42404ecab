"""What a family of generated maths tasks is: operands in, question, answer, code and a guess out.

Everything about a task follows from its operands, which are kept as the strings that stand in the
question. Train and test share no operand: each number of two or more digits, and each word, belongs
to one split by a hash of its text, so both splits cover the same sizes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from random import Random
from typing import ClassVar, Literal, TypeAlias

from agentrl.errors import UserError
from agentrl.types import Task

Operands: TypeAlias = tuple[str, ...]
"""The parts of a question that vary, as written there."""

Split = Literal["train", "test"]
Style = Literal["terse", "plain"]
"""`terse`: a few bytes, for tiny byte-level models; `plain`: an English sentence."""

Need = Literal["head", "code", "two_calls"]
"""What solving takes: nothing but reading; one piece of code; two, the second using the first."""

LEVELS = (1, 2, 3)
"""Difficulties of every family; operands grow with the level."""

TEST_SHARE = 4
"""One operand in this many belongs to the test split."""


@lru_cache(maxsize=1 << 16)
def split_of(operand: str) -> Split:
    """The one split in which an operand may appear."""
    digest = blake2b(operand.encode(), digest_size=4, person=b"split").digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"


def belongs(operand: str, split: Split) -> bool:
    """True when `operand` may appear in `split`; single characters may appear in both."""
    return len(operand) < 2 or split_of(operand) == split


@dataclass(frozen=True, slots=True)
class Draw:
    """Draws operands of one split."""

    rng: Random
    split: Split

    def integer(self, low: int, high: int) -> str:
        """A number of the split, uniform over low..high inclusive; the range must hold one."""
        while True:
            text = str(self.rng.randint(low, high))
            if belongs(text, self.split):
                return text

    def digits(self, n: int) -> str:
        """A number of `n` digits."""
        return self.integer(10 ** (n - 1) if n > 1 else 1, 10**n - 1)

    def word(self, n: int) -> str:
        """`n` lower-case letters."""
        while True:
            text = "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=n))
            if belongs(text, self.split):
                return text


class Family(ABC):
    """One kind of question. Concrete families are final and hold no state."""

    name: ClassVar[str]
    need: ClassVar[Need]

    @abstractmethod
    def draw(self, draw: Draw, level: int) -> Operands:
        """Operands of one task of the split."""

    @abstractmethod
    def count(self, level: int) -> int:
        """How many distinct operand tuples the level has, both splits and mixed ones together."""

    @abstractmethod
    def question(self, operands: Operands, style: Style) -> str:
        """The question as the model reads it."""

    @abstractmethod
    def answer(self, operands: Operands) -> str:
        """The exact answer, in the form the expert writes."""

    @abstractmethod
    def cells(self, operands: Operands) -> tuple[str, ...]:
        """Code to run, one entry per call; the last one echoes what the answer is read from."""

    def guess(self, operands: Operands, rng: Random) -> str:
        """What someone answers without a tool: by default a number of the right length."""
        return number_like(self.answer(operands), rng)

    def matches(self, gold: str, prediction: str) -> bool:
        """Exact comparison of a prediction with the answer: by default as integers."""
        value = as_integer(prediction)
        return value is not None and value == int(gold)

    def task(self, operands: Operands, level: int, style: Style) -> Task:
        """The task of these operands; its id does not depend on the style."""
        return Task(
            id=f"{self.name}/{level}/{'-'.join(operands)}",
            question=self.question(operands, style),
            answer=self.answer(operands),
            metadata={
                "family": self.name,
                "level": level,
                "need": self.need,
                "operands": list(operands),
            },
        )


def operands_of(task: Task) -> Operands:
    """The operands of a generated task. Raises UserError for a task of another kind."""
    operands = task.metadata.get("operands")
    if not isinstance(operands, list | tuple):
        raise UserError(f"task {task.id} was not made by a family: it has no operands")
    return tuple(str(operand) for operand in operands)


def as_integer(text: str) -> int | None:
    """The integer a text writes (`3,108`, `$3108`, `3108.0`), or None."""
    text = text.strip().strip("$").replace(",", "").removesuffix(".0").removesuffix(".")
    digits = text[1:] if text[:1] in "+-" else text
    return int(text) if digits.isascii() and digits.isdigit() else None


def number_like(answer: str, rng: Random) -> str:
    """A uniformly drawn number with as many digits, and the sign, of `answer`."""
    sign, digits = ("-", answer[1:]) if answer.startswith("-") else ("", answer)
    low = 10 ** (len(digits) - 1) if len(digits) > 1 else 0
    return sign + str(rng.randint(low, 10 ** len(digits) - 1))
