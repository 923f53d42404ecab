"""Any text, discrete or box `gymnasium.Env` as an environment for language models."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, cast, final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from agentrl.env import Action, Env, Observation, StepInfo, StepResult
from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Message, Task
from agentrl.verify.extract import extract_answer

COLOURED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0m", re.DOTALL)
"""Terminal colours mark the player in Gymnasium's toy worlds; brackets say the same in text."""


@final
class GymEnv(Env):
    """Plays `gymnasium.make(env.id)`: the observation as text, the action in <answer> tags.

    Worlds that can render as text are shown that way as well. An action that cannot be read
    changes nothing and is answered with what is allowed.
    """

    protocol = "hermes"

    def __init__(
        self, *, id: str = "", arguments: Mapping[str, Any] | None = None, instructions: str = ""
    ) -> None:
        """Make one episode's environment.

        Args:
            id: what `gymnasium.make` takes, `module:Name-v0` included.
            arguments: keyword arguments of `gymnasium.make`.
            instructions: the rules in words, put before the first observation.

        Raises UserError on a missing or unknown id.
        """
        if not id:
            raise UserError("env=gym needs env.id=NAME, such as env.id=FrozenLake-v1")
        self.id = id
        self.instructions = instructions or f"You play {id}."
        self._arguments = dict(arguments or {})
        self._env: gymnasium.Env[Any, Any] | None = None
        try:
            modes: list[str] = _metadata(id).get("render_modes", [])
        except (gymnasium.error.Error, ModuleNotFoundError) as error:
            raise UserError(f"env.id: {' '.join(str(error).split())}") from None
        self._render_mode = "ansi" if "ansi" in modes else None

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """The rules and the first observation; the task's own seed decides the world."""
        await self.close()
        self._env = await asyncio.to_thread(self._make)
        expects(self._env.action_space)
        seen, _ = await asyncio.to_thread(self._env.reset, seed=task.seed)
        text = f"{self.instructions}\n{self._allowed()}\n\n{await self._shown(seen)}"
        return (Message("user", text),)

    def _make(self) -> gymnasium.Env[Any, Any]:
        return gymnasium.make(
            self.id, render_mode=self._render_mode, disable_env_checker=True, **self._arguments
        )

    async def step(self, action: Action) -> StepResult:
        """Act, or say what could not be read."""
        if self._env is None:
            raise RuntimeError("reset() the environment before step()")
        written = extract_answer(action.text, ("answer",))
        move = read(self._env.action_space, written if written is not None else action.text)
        if move is None:
            problem = f"That action cannot be read. {self._allowed()}"
            return StepResult((Message("user", problem),), 0.0, False, False, StepInfo())
        seen, reward, terminated, truncated, _ = await asyncio.to_thread(self._env.step, move)
        over = bool(terminated or truncated)
        info = StepInfo(answer=written) if over else StepInfo()
        shown = () if over else (Message("user", await self._shown(seen)),)
        return StepResult(shown, float(reward), bool(terminated), bool(truncated), info)

    async def close(self) -> None:
        """Close the world."""
        env, self._env = self._env, None
        if env is not None:
            await asyncio.to_thread(env.close)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """One task per seed of the world; train seeds are even, test seeds odd."""
        if split not in ("train", "test"):
            raise UserError(f"gym has the splits train and test, not {split!r}")
        rng = Random(derive("gym", self.id, split, seed))
        while True:
            world = 2 * rng.getrandbits(30) + (split == "test")
            yield Task(f"{self.id}/{world}", self.instructions, seed=world)

    def _allowed(self) -> str:
        space = None if self._env is None else self._env.action_space
        return f"Give your action in <answer></answer> tags: {expects(space)}."

    async def _shown(self, seen: object) -> str:
        text = seen if isinstance(seen, str) else f"Observation: {json.dumps(plain(seen))}"
        if self._render_mode is None or self._env is None:
            return text
        picture = str(await asyncio.to_thread(self._env.render))
        return COLOURED.sub(r"[\1]", picture).strip() + "\n" + text


def _metadata(env_id: str) -> Mapping[str, Any]:
    from gymnasium.envs.registration import load_env_creator

    entry = gymnasium.spec(env_id).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return cast(Mapping[str, Any], getattr(creator, "metadata", {}))


def plain(value: object) -> object:
    """An observation as JSON values; floats to four digits."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in cast(list[object], value)]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(cast(Any, value).tolist())
    return float(f"{value:.4g}") if isinstance(value, float) else value


def expects(space: gymnasium.Space[Any] | None) -> str:
    """What may be written for a space. Raises UserError for a kind that text cannot steer."""
    if isinstance(space, spaces.Discrete):
        first, last = int(space.start), int(space.start) + int(space.n) - 1
        return f"an integer from {first} to {last}"
    if isinstance(space, spaces.Box):
        low, high = float(space.low.min()), float(space.high.max())
        shape = "x".join(str(n) for n in space.shape) or "one"
        return f"a JSON list of {shape} numbers from {low:g} to {high:g}"
    if space is not None and type(space).__name__ in ("Text", "UnicodeText"):
        return "text"
    raise UserError(
        f"env=gym takes discrete, box and text action spaces, not {type(space).__name__}; "
        "wrap the environment in a gymnasium.ActionWrapper"
    )


def read(space: gymnasium.Space[Any], text: str) -> object | None:
    """The action written, or None when it does not fit the space."""
    text = text.strip()
    if isinstance(space, spaces.Discrete):
        number = int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else None
        return np.int64(number) if number is not None and space.contains(number) else None
    if not isinstance(space, spaces.Box):
        return text if space.contains(text) else None
    try:
        values: npt.NDArray[Any] = np.array(json.loads(text), dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    if values.size != math.prod(space.shape):
        return None
    move = values.reshape(space.shape).astype(cast(Any, space.dtype))
    return move if space.contains(move) else None
