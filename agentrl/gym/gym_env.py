"""Any text, discrete or box `gymnasium.Env` as an environment for language models."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy, deepcopy
from functools import lru_cache
from random import Random
from typing import Any, Literal, Self, cast, final

import gymnasium
import numpy as np
import numpy.typing as npt

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import CannotFork, UserError
from agentrl.gym.planning import Table, table_of
from agentrl.gym.words import expects, plain, random_action, read
from agentrl.gym.world import World
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl.verify.extract import extract_answer

COLOURED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0m", re.DOTALL)
"""Terminal colours mark the player in Gymnasium's toy worlds; brackets say the same in text."""

LAST_MOVE = re.compile(r"^ *\(\w+\) *\n?", re.MULTILINE)
"""The line in which toy worlds repeat the move just made."""

CLUMSY = 8
"""Moves after which a demonstrator of little skill goes straight to the end."""

SAMPLED = 32
"""Starts over which floor and ceiling are worked out."""

TURNS = 100
"""Longest episode considered of a world that sets no limit."""

MARGIN = 0.05
"""Above what blind moves earn on average; a sample of episodes scatters."""

Style = Literal["plain", "terse"]


class GymEnv(Env):
    """Plays `gymnasium.make(env.id)`: the observation as text, the action in <answer> tags.

    Worlds that can render as text are shown that way as well. An action that cannot be read
    changes nothing and is answered with what is allowed.
    """

    protocol = "hermes"

    def __init__(self, world: World, *, instructions: str = "", style: Style = "plain") -> None:
        self.id = world.id
        self.instructions = instructions or f"You play {world.id}."
        self.style: Style = style
        self._world = world
        self._env: gymnasium.Env[Any, Any] | None = None

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The rules and the first observation; the task's own seed decides the world."""
        await self.close()
        self._env = await asyncio.to_thread(self._world.make, task.seed)
        expects(self._env.action_space)
        seen = await asyncio.to_thread(self._world.start, self._env, task.seed)
        shown = await self._shown(seen)
        if self.style == "plain":
            shown = f"{self.instructions}\n{self._allowed()}\n\n{shown}"
        return (Message("user", shown),)

    async def step(self, action: Action) -> StepResult:
        """Act, or say what could not be read."""
        if self._env is None:
            raise RuntimeError("reset() the environment before step()")
        written = extract_answer(action.text, ("answer",))
        move = read(self._env.action_space, written if written is not None else action.text)
        if move is None:
            problem = f"That action cannot be read. {self._allowed()}"
            told = problem if self.style == "plain" else "?"
            return StepResult((Message("user", told),), 0.0, False, False, StepInfo())
        seen, reward, terminated, truncated, _ = await asyncio.to_thread(self._env.step, move)
        over = bool(terminated or truncated)
        info = StepInfo(answer=written or action.text.strip()) if over else StepInfo()
        shown = () if over else (Message("user", await self._shown(seen)),)
        return StepResult(shown, float(reward), bool(terminated), bool(truncated), info)

    async def close(self) -> None:
        """Close the world."""
        env, self._env = self._env, None
        if env is not None:
            await asyncio.to_thread(env.close)

    async def fork(self, n: int) -> list[Self]:
        """Copies in copies of the world. Raises CannotFork for a world that cannot be copied."""
        made = [copy(self) for _ in range(n)]
        for branch in made:
            try:
                branch._env = await asyncio.to_thread(deepcopy, self._env)
            except (TypeError, ValueError, NotImplementedError, RecursionError) as error:
                raise CannotFork(f"{self.id} cannot be copied: {error}") from error
        return made

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """One task per seed of the world; train seeds are even, test seeds odd."""
        if split not in ("train", "test"):
            raise UserError(f"gym has the splits train and test, not {split!r}")
        rng = Random(derive("gym", self.id, split, seed))
        while True:
            number = 2 * rng.getrandbits(30) + (split == "test")
            yield Task(f"{self.id}/{number}", self.instructions, seed=number)

    def random_turn(self, rng: Random) -> str:
        """Some action of the world."""
        return self._written(random_action(_space(self._world), rng))

    def _written(self, action: str) -> str:
        return action if self.style == "terse" else f"<answer>{action}</answer>"

    def _allowed(self) -> str:
        space = None if self._env is None else self._env.action_space
        return f"Give your action in <answer></answer> tags: {expects(space)}."

    async def _shown(self, seen: object) -> str:
        """What the model sees; the terse style shows a picture alone, its player as `@`."""
        terse = self.style == "terse"
        picture = await self._picture("@" if terse else r"[\1]")
        if terse and picture:
            return LAST_MOVE.sub("", picture).strip()
        if not isinstance(seen, str):
            written = json.dumps(plain(seen), separators=(",", ":") if terse else None)
            seen = written if terse else f"Observation: {written}"
        return f"{picture.strip()}\n{seen}" if picture else seen

    async def _picture(self, player: str) -> str:
        if self._world.render_mode is None or self._env is None:
            return ""
        picture = str(await asyncio.to_thread(self._env.render))
        several = len(COLOURED.findall(picture)) > 1
        return COLOURED.sub(r"[\1]" if several else player, picture)


@final
class PlannedGymEnv(GymEnv):
    """A world without chance whose table is known: the shortest way to its reward is its expert."""

    def __init__(
        self, world: World, *, instructions: str = "", style: Style = "plain", skill: float = 1.0
    ) -> None:
        """`skill`: how often the expert's move is the planned one."""
        super().__init__(world, instructions=instructions, style=style)
        if not 0 <= skill <= 1:
            raise UserError(f"env.skill is a probability, not {skill:g}")
        self.skill = skill
        bounds = _bounds(world)
        if bounds is not None:
            self.expert_floor = bounds[0] if skill == 1 else 0.0
            self.random_ceiling = bounds[1]

    def expert(self, task: Task, *, seed: int) -> Iterable[str]:
        """The moves of the plan, tried out in a world of its own."""
        rng = Random(derive("skill", seed, task.id))
        env = self._world.make(task.seed)
        try:
            self._world.start(env, task.seed)
            plan = _plan(self._world, self._world.map_seed(task.seed))
            over, moves = False, list[str]()
            while not over:
                move = str(int(plan[_state(env)]))
                if len(moves) < CLUMSY and rng.random() >= self.skill:
                    move = random_action(env.action_space, rng)
                moves.append(move)
                _, _, terminated, truncated, _ = env.step(read(env.action_space, move))
                over = bool(terminated or truncated)
        finally:
            env.close()
        return [self._written(move) for move in moves]


def gym_env(
    *,
    id: str = "",
    arguments: Mapping[str, Any] | None = None,
    instructions: str = "",
    style: Style = "plain",
    random_start: int = 0,
    random_map: int | None = None,
    skill: float = 1.0,
) -> GymEnv:
    """Any text, discrete or box world of Gymnasium: `gymnasium.make(env.id)`, played in words.

    Args:
        id: what `gymnasium.make` takes, `module:Name-v0` included.
        arguments: keyword arguments of `gymnasium.make`.
        instructions: the rules in words, put before the first observation.
        style: `terse` shows the picture alone and takes bare actions, for tiny models.
        random_start: blind moves made before the first observation, at most, so that a world
            with one start has many tasks.
        random_map: side of a map drawn for every task, in worlds that take one (FrozenLake); None
            keeps the world's own.
        skill: how often a move of `expert` is the planned one, where there is a plan; below 1 it
            blunders on purpose, for making a model that has something left to learn.

    Raises UserError on a missing or unknown id, or an option the world has no use for.
    """
    world = World(id, dict(arguments or {}), random_start, random_map)
    if _table(world, world.map_seed(0)) is not None:
        return PlannedGymEnv(world, instructions=instructions, style=style, skill=skill)
    if skill != 1:
        raise UserError(f"env.skill: {id} has no plan to fall short of; leave it out")
    return GymEnv(world, instructions=instructions, style=style)


@lru_cache(maxsize=1024)
def _table(world: World, seed: int) -> Table | None:
    """The transition table of the world that `seed` makes, if it has one and no chance."""
    env = world.make(seed)
    try:
        expects(env.action_space)
        env.reset(seed=seed)
        return table_of(env)
    finally:
        env.close()


@lru_cache(maxsize=1024)
def _plan(world: World, seed: int) -> npt.NDArray[np.int64]:
    table = _table(world, seed)
    assert table is not None, "chance was ruled out when the environment was made"
    return table.plan()


@lru_cache(maxsize=64)
def _space(world: World) -> gymnasium.Space[Any]:
    env = world.make(0)
    try:
        return env.action_space
    finally:
        env.close()


def _state(env: gymnasium.Env[Any, Any]) -> int:
    return int(cast(Any, env.unwrapped).s)


@lru_cache(maxsize=64)
def _bounds(world: World) -> tuple[float, float] | None:
    """What the plan earns at least and blind moves on average, over some starts.

    None where rewards may be negative: then what is earned depends on where an episode is cut.
    """
    planned: list[float] = []
    blind: list[float] = []
    for seed in range(SAMPLED):
        table = _table(world, world.map_seed(seed))
        assert table is not None, "chance was ruled out when the environment was made"
        if table.rewards.min() < 0:
            return None
        env = world.make(seed)
        world.start(env, seed)
        turns = (env.spec and env.spec.max_episode_steps) or TURNS
        blind.append(float(table.blind(turns)[_state(env)]))
        planned.append(table.earned(_plan(world, world.map_seed(seed)), _state(env), turns))
        env.close()
    return min(planned), sum(blind) / len(blind) + MARGIN


__all__ = ["GymEnv", "PlannedGymEnv", "gym_env"]
