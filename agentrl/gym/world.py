"""Which Gymnasium world is played, and how a task's seed opens it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, cast, final

import gymnasium
from gymnasium.envs.registration import load_env_creator

from agentrl.errors import UserError
from agentrl.gym.words import random_action, read
from agentrl.seeds import derive


@final
@dataclass(frozen=True, slots=True)
class World:
    """`gymnasium.make(id, **arguments)`, started somewhere that the seed decides."""

    id: str
    arguments: Mapping[str, Any]
    random_start: int = 0
    """Blind moves made before the first observation, at most."""
    random_map: int | None = None
    """Side of a map drawn for every task; None plays the one that the world comes with."""

    def __post_init__(self) -> None:
        """Raises UserError on an unknown id or an option that this world has no use for."""
        if not self.id:
            raise UserError("env=gym needs env.id=NAME, such as env.id=FrozenLake-v1")
        if self.random_start < 0:
            raise UserError(f"env.random_start is at least 0, not {self.random_start}")
        if self.random_map is None:
            return
        if self.random_map < 2:
            raise UserError(f"env.random_map is a side of at least 2, not {self.random_map}")
        if "desc" not in inspect.signature(creator(self.id)).parameters:
            raise UserError(f"env.random_map: {self.id} takes no map; leave it out")

    def __hash__(self) -> int:
        return hash((self.id, repr(sorted(self.arguments.items())), self.random_map))

    def map_seed(self, seed: int) -> int:
        """What of a task's seed the map depends on."""
        return 0 if self.random_map is None else seed

    @property
    def render_mode(self) -> str | None:
        """`ansi` where the world can show itself as text."""
        modes = cast(Mapping[str, Any], getattr(creator(self.id), "metadata", {}))
        return "ansi" if "ansi" in modes.get("render_modes", []) else None

    def make(self, seed: int) -> gymnasium.Env[Any, Any]:
        """The world of a task, not yet reset. Raises UserError when it cannot be made."""
        given = dict(self.arguments)
        if self.random_map is not None:
            from gymnasium.envs.toy_text.frozen_lake import generate_random_map

            given["desc"] = generate_random_map(self.random_map, seed=seed)
        try:
            return gymnasium.make(
                self.id, render_mode=self.render_mode, disable_env_checker=True, **given
            )
        except (gymnasium.error.Error, TypeError, ImportError) as error:
            raise UserError(f"env.id={self.id}: {' '.join(str(error).split())}") from None

    def start(self, env: gymnasium.Env[Any, Any], seed: int) -> object:
        """Reset, make the blind moves, and say what is seen; a start never is an ending."""
        seen, _ = env.reset(seed=seed)
        rng = Random(derive("start", seed))
        for _ in range(rng.randint(0, self.random_start)):
            move = read(env.action_space, random_action(env.action_space, rng))
            seen, _, terminated, truncated, _ = env.step(move)
            if terminated or truncated:
                return env.reset(seed=seed)[0]
        return seen


def creator(env_id: str) -> Any:
    """What makes the world. Raises UserError on an unknown id."""
    try:
        entry = gymnasium.spec(env_id).entry_point
        return load_env_creator(entry) if isinstance(entry, str) else entry
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f"env.id: {' '.join(str(error).split())}") from None


__all__ = ["World", "creator"]
