"""Logic puzzles, answered in one turn.

SynLogic (arXiv:2505.19641): a generator per game under difficulty knobs, a rule that verifies, and
a reward that is 1 when the format is kept and the answer is right, else 0. The answer is read from
the answer tag behind the closing think tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from random import Random
from typing import Literal, cast, final

from agentrl.env import Action, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import JsonValue, Message, Task
from agentrl.verify.extract import last_answer_tag
from agentrl_envs.families.base import Style, split_of
from agentrl_envs.logic.games import GAMES, Game
from agentrl_envs.logic.games.base import LEVELS, Data, Knobs
from agentrl_envs.tool_env import ToolEnv

THINK = (
    "\n\nReason inside <think> and </think>, then give the answer inside <answer> and </answer>."
)
ANSWER = "\n\nGive the answer inside <answer> and </answer>."
CLOSED = "</think>"

LONGEST = 4000
"""Characters of an answer that is checked at all; every right one is shorter."""

FRESH = 4096
"""A stream avoids the ids among its last tasks, counted up to this many at a time."""


@final
class Logic(ToolEnv):
    """Logic puzzles of nineteen kinds, with difficulty knobs."""

    expert_floor = 1.0

    def __init__(
        self,
        *,
        games: tuple[str, ...] | None = None,
        levels: tuple[int, ...] = (1, 2, 3),
        knobs: Mapping[str, Mapping[str, int]] | None = None,
        format: Literal["think", "answer"] | None = None,
        style: Style = "plain",
    ) -> None:
        """Make one episode's environment.

        Args:
            games: names of the games to draw from; None for all.
            levels: difficulties to draw from, of 1 to 5.
            knobs: settings that replace a level's own, by game: `{sudoku: {size: 6, holes: 12}}`.
            format: `think` demands a closed think tag before the answer tag (SynLogic), `answer`
                the answer tag alone; None for `think` in the plain style and `answer` in the terse.
            style: `terse` names the game and leaves rules and instructions out, for tiny models.

        Raises UserError on an unknown game, level or knob, or a knob out of its bounds.
        """
        super().__init__()
        self.protocol = "retool_bare" if style == "terse" else "hermes"
        self.games = _chosen(games)
        self.random_ceiling = 0.1 + 0.5 / len(self.games)  # some are won by a coin
        self.levels = _levels(levels)
        self.knobs = _checked(knobs or {})
        self.thinks = (format or ("answer" if style == "terse" else "think")) == "think"
        self.style: Style = style

    def first_messages(self, task: Task) -> Observation:
        """The rules, the puzzle and the form of the answer, as one user message.

        Raises UserError for a task that no game made.
        """
        _puzzle(task)
        if self.style == "terse":
            return (Message("user", task.question),)
        return (Message("user", task.question + (THINK if self.thinks else ANSWER)),)

    async def judge(self, action: Action) -> StepResult:
        """Reward 1 for a turn that keeps the format and is right; then end."""
        answer = self.read(action.text)
        game, data = _puzzle(self.task)
        right = answer is not None and len(answer) <= LONGEST and game.right(data, answer)
        return StepResult((), float(right), True, False, StepInfo(answer=answer))

    def read(self, text: str) -> str | None:
        """The answer of a turn; None when the format is not kept."""
        before, closed, after = text.rpartition(CLOSED)
        if self.thinks and (not closed or CLOSED in before):
            return None
        return last_answer_tag(after)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """An endless stream; every game comes once, in a new order, before any comes again.

        Raises UserError on a split other than train and test.
        """
        if split not in ("train", "test"):
            raise UserError(f"logic has the splits train and test, not {split!r}")
        return self._stream(Random(derive("logic", seed, split)), split)

    def _stream(self, rng: Random, split: str) -> Iterator[Task]:
        seen: set[str] = set()
        while True:
            for game in rng.sample(self.games, len(self.games)):
                task = self._fresh(game, rng, split, seen)
                seen.add(task.id)
                yield task
            if len(seen) > FRESH:
                seen.clear()

    def _fresh(self, game: Game, rng: Random, split: str, seen: set[str]) -> Task:
        """A task of the split, if possible not among those seen: an easy level may run out."""
        level = rng.choice(self.levels)
        task = self._of_split(game, level, rng, split)
        for _ in range(20):
            if task.id not in seen:
                break
            task = self._of_split(game, level, rng, split)
        return task

    def _of_split(self, game: Game, level: int, rng: Random, split: str) -> Task:
        while True:
            task = made(game, level, rng, self.style, self.knobs.get(game.name))
            if split_of(str(task.metadata["body"])) == split:
                return task

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The stored solution, in the format asked for."""
        _puzzle(task)
        think = (
            f"<think>\nOnly one answer fits all that is given.\n{CLOSED}\n" if self.thinks else ""
        )
        if self.style == "terse":
            return (f"{think}<answer>{task.answer}</answer>",)
        return (f"{think}<answer>\n{task.answer}\n</answer>",)

    def random_turn(self, rng: Random) -> str:
        """A blind guess at some puzzle of these games, which need not be the one asked."""
        game = rng.choice(self.games)
        puzzle = game.make(rng, game.at(min(self.levels), self.knobs.get(game.name)))
        think = f"<think>\n{CLOSED}\n" if self.thinks else ""
        return f"{think}<answer>{game.guess(puzzle.data, rng)}</answer>"


def made(game: Game, level: int, rng: Random, style: Style, knobs: Knobs | None = None) -> Task:
    """One item as a task; its id does not depend on the style."""
    puzzle = game.make(rng, game.at(level, knobs))
    digest = blake2b(puzzle.body.encode(), digest_size=6).hexdigest()
    question = (
        f"{game.name}\n{puzzle.body}" if style == "terse" else f"{game.rules}\n\n{puzzle.body}"
    )
    return Task(
        id=f"{game.name}/{level}/{digest}",
        question=question,
        answer=puzzle.answer,
        metadata={"game": game.name, "level": level, "body": puzzle.body, "puzzle": puzzle.data},
    )


def _puzzle(task: Task) -> tuple[Game, Data]:
    """The game and the data of a generated task. Raises UserError for any other."""
    name, data = task.metadata.get("game"), task.metadata.get("puzzle")
    if name not in GAMES or not isinstance(data, Mapping):
        raise UserError(f"task {task.id} was not made by a logic game; leave data.path out")
    return GAMES[str(name)], cast(Mapping[str, JsonValue], data)


def _chosen(names: tuple[str, ...] | None) -> tuple[Game, ...]:
    unknown = [name for name in names or () if name not in GAMES]
    if unknown:
        raise UserError(f"env.games: {unknown[0]!r} is no game; choose among {', '.join(GAMES)}")
    if names == ():
        raise UserError("env.games is empty; name at least one or leave it out for all")
    return tuple(GAMES[name] for name in names or GAMES)


def _levels(levels: tuple[int, ...]) -> tuple[int, ...]:
    if not levels or not set(levels) <= set(LEVELS):
        raise UserError(f"env.levels: choose some of 1 to 5, not {list(levels)}")
    return tuple(levels)


def _checked(knobs: Mapping[str, Mapping[str, int]]) -> Mapping[str, Mapping[str, int]]:
    for name, values in knobs.items():
        if name not in GAMES:
            raise UserError(f"env.knobs: {name!r} is no game; choose among {', '.join(GAMES)}")
        bounds = GAMES[name].bounds
        for knob, value in values.items():
            if knob not in bounds:
                raise UserError(f"env.knobs: {name} has {', '.join(bounds)}, no knob {knob!r}")
            low, high = bounds[knob]
            if not low <= value <= high:
                raise UserError(f"env.knobs: {name}.{knob} is from {low} to {high}, not {value}")
    return knobs


__all__ = ["Logic", "made"]
