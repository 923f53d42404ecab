"""Long computations thought in short contexts, after Delethink (arXiv 2510.06557).

The environment itself renews the context: a turn is a chunk, and the next one is read in a fresh
row that holds the question and the last characters written, so one trajectory has several rows and
one reward. What a chunk ends with is therefore all that the next one knows. With `renew=false` a
task is one turn of any length, which `rollout.plan=delethink` cuts by tokens, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from hashlib import sha256
from random import Random
from typing import Self, cast, final

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl_envs.delethink.chunks import Chunks
from agentrl_envs.delethink.machines import LABELS, MACHINES, Machine, Style, chosen, line, question

OPEN, CLOSE = "<answer>", "</answer>"


@final
class Delethink(Env):
    """Long computations in chunks: the context is renewed, a few characters are carried over."""

    protocol = "hermes"
    random_ceiling = 0.2

    def __init__(
        self,
        *,
        style: Style = "plain",
        machines: tuple[str, ...] = tuple(MACHINES),
        steps: tuple[int, int] = (24, 48),
        chunk: int = 120,
        carry: int = 40,
        keep_head: int = 0,
        chunks: int = 8,
        renew: bool = True,
        carry_habit: float = 1.0,
    ) -> None:
        """Make one episode's environment.

        Args:
            style: `terse` questions for tiny models, `plain` English otherwise.
            machines: kinds of computation to draw from: sums, registers, strings.
            steps: the shortest and the longest computation, in operations.
            chunk: characters of the response that one context holds.
            carry: how many of them come from the contexts before.
            keep_head: how many of those are the response's first; the rest are its last.
            chunks: contexts at most; a response that needs more earns nothing.
            renew: false asks for the whole response in one turn, whatever its length.
            carry_habit: how often `expert` leaves a chunk with its state written down; otherwise
                it leaves dots and then guesses, for making a model that has something to learn.

        Raises UserError on an unknown machine or sizes that contradict each other.
        """
        if not 1 <= steps[0] <= steps[1]:
            raise UserError(f"env.steps is [shortest, longest], at least 1, not {list(steps)}")
        if style == "terse" and steps[1] > len(LABELS):
            raise UserError(f"env.style=terse has names for {len(LABELS)} steps, not {steps[1]}")
        if not 0 <= carry_habit <= 1:
            raise UserError(f"env.carry_habit is a probability, not {carry_habit:g}")
        self.style: Style = style
        self.machines = chosen(machines)
        self.steps = steps
        self.chunks = Chunks(chunk, carry, keep_head, chunks)
        self.renew = renew
        self.carry_habit = carry_habit
        self.expert_floor = 1.0 if carry_habit == 1 else 0.0
        self._task: Task | None = None
        self._response = ""
        self._chunk = 1

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The question; the first context carries nothing. Raises UserError without an answer."""
        if task.answer is None:
            raise UserError(f"task {task.id} has no answer; delethink needs one to check against")
        self._task, self._response, self._chunk = task, "", 1
        return (self._told(task),)

    async def step(self, action: Action) -> StepResult:
        """Read the answer, or renew the context; what is written beyond the room is lost."""
        task = self._task
        if task is None:
            raise RuntimeError("reset() the environment before stepping it")
        room = self.chunks.room(self._response) if self.renew else len(action.text)
        whole = self._response + action.text
        answer = _answer(whole, len(self._response) + room)
        if answer is not None:
            reward = float(answer == str(task.answer).strip())
            return StepResult((), reward, True, False, StepInfo(answer=answer))
        if not self.renew:
            return StepResult((), 0.0, True, False, StepInfo())
        self._response += action.text[:room]
        if self._chunk == self.chunks.count:
            return StepResult((), 0.0, False, True, StepInfo())
        self._chunk += 1
        info = StepInfo(context=f"chunk {self._chunk}")
        return StepResult((self._told(task),), 0.0, False, False, info)

    def _told(self, task: Task) -> Message:
        """The first message of a context."""
        carried, sizes = self.chunks.carried(self._response), self.chunks
        if not self.renew:
            return Message("user", task.question)
        if self.style == "terse":
            return Message("user", task.question + (f"|{carried}" if self._chunk > 1 else ""))
        rule = (
            f"You may write {sizes.room(self._response)} characters now, then end your turn: the "
            f"context is renewed, at most {sizes.count - self._chunk} more times, and of what you "
            f"wrote only the last {sizes.carry - sizes.keep_head} characters remain"
        )
        rule += f", and the first {sizes.keep_head}." if sizes.keep_head else "."
        so_far = f"\n\nSo far you wrote:\n{carried}" if self._chunk > 1 else ""
        return Message("user", f"{task.question}\n\n{rule}{so_far}")

    async def fork(self, n: int) -> list[Self]:
        """Copies; all state is immutable."""
        return [copy(self) for _ in range(n)]

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream; a hash of the question decides its split. Raises UserError."""
        if split not in ("train", "test"):
            raise UserError(f"delethink has the splits train and test, not {split!r}")
        rng = Random(derive("delethink", split, seed))
        while True:
            task = self._drawn(rng)
            if (int(task.id.rpartition("/")[2], 16) % 8 == 0) == (split == "test"):
                yield task

    def _drawn(self, rng: Random) -> Task:
        machine = rng.choice(self.machines)
        start = machine.state(rng)
        operations = [machine.draw(rng) for _ in range(rng.randint(*self.steps))]
        digest = sha256("\n".join([machine.name, start, *operations]).encode()).hexdigest()[:16]
        return Task(
            f"{machine.name}/{digest}",
            question(machine, start, operations, self.style),
            machine.run(start, operations)[-1],
            {"machine": machine.name, "start": start, "operations": operations},
        )

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """Whole lines, as many as a chunk has room for, then the answer.

        Raises UserError when the chunks are too small or too few for the task.
        """
        lines = [line(n, *step, self.style) for n, step in enumerate(_steps(task))]
        ending = f"{OPEN}{task.answer}{CLOSE}"
        if not self.renew:
            return ["".join(lines) + ending]
        turns = self._turns(lines, ending)
        rng = Random(derive("carry", seed, task.id))
        if len(turns) == 1 or rng.random() < self.carry_habit:
            return turns
        dots = turns[0][: -self.chunks.carry] + "." * self.chunks.carry
        guess = _machine(task).state(rng)
        return [dots, f"{OPEN}{guess}{CLOSE}"]

    def _turns(self, lines: Sequence[str], ending: str) -> list[str]:
        turns, response = [""], ""
        for written in lines:
            start = response[: len(response) - len(turns[-1])]
            if len(turns[-1]) + len(written) > self.chunks.room(start):
                turns.append("")
                start = response
            if len(written) > min(self.chunks.room(start), self.chunks.carry):
                raise UserError(
                    f"a line of this computation has {len(written)} characters; set env.carry to "
                    "that or more, and env.chunk above twice that"
                )
            turns[-1] += written
            response += written
        if len(turns) > self.chunks.count:
            raise UserError(
                f"this computation needs {len(turns)} chunks; set env.chunks={len(turns)}"
            )
        return [*turns[:-1], turns[-1] + ending]

    def random_turn(self, rng: Random) -> str:
        """Some state of some machine, as the answer."""
        return f"{OPEN}{rng.choice(self.machines).state(rng)}{CLOSE}"


def _machine(task: Task) -> Machine:
    name = str(task.metadata.get("machine"))
    if name not in MACHINES:
        raise UserError(f"task {task.id} was made by no machine, so no expert can run it")
    return MACHINES[name]


def _steps(task: Task) -> list[tuple[str, str]]:
    """Every operation and the state after it."""
    operations = cast("list[str]", task.metadata["operations"])
    states = _machine(task).run(str(task.metadata["start"]), operations)
    return list(zip(operations, states, strict=True))


def _answer(response: str, end: int) -> str | None:
    """The first whole answer tag that opens before `end`: it may straddle a boundary."""
    start = response.find(OPEN)
    close = response.find(CLOSE, start)
    if start < 0 or close < 0 or start > end:
        return None
    return response[start + len(OPEN) : close].strip()


__all__ = ["Delethink"]
