"""The matrix of recipes and extension points, read from the shipped files and the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentrl.compose import compose, config_root, group_names
from agentrl.config import Plugin, RunConfig
from agentrl.errors import AgentRLError
from agentrl.registry import resolve

POINTS = (
    "source",
    "plan",
    "reward",
    "shaper",
    "gate",
    "advantage",
    "loss",
    "aux",
    "schedule",
)
"""The nine extension points, as the registry calls their kinds."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One shipped recipe and what it changes."""

    name: str
    title: str
    """The first line of its file."""
    points: Mapping[str, tuple[str, ...]]
    """Extension point -> names of the plug-ins it puts there; only points that it touches."""
    besides: tuple[str, ...]
    """Fixed stages it sets: aggregate, offpolicy, critic, ..."""
    error: str | None = None
    """Why it cannot be resolved here, or None."""


def recipes() -> Iterator[Recipe]:
    """Every shipped recipe, by name."""
    plain = compose([])
    folder = config_root() / "recipe"
    for name in group_names("recipe"):
        first = (folder / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        title = first.lstrip("# ") if first.startswith("#") else ""
        try:
            config = compose([f"recipe={name}"])
            points = _touched(config, plain)
            for kind, plugins in points.items():
                for plugin in plugins:
                    resolve(kind, plugin)
        except AgentRLError as error:
            yield Recipe(name, title, {}, (), str(error))
            continue
        yield Recipe(name, title, points, _besides(config, plain))


def _touched(config: RunConfig, plain: RunConfig) -> Mapping[str, tuple[str, ...]]:
    mine, theirs = _nodes(config), _nodes(plain)
    return {
        point: tuple(dict.fromkeys(node.name for node in mine[point]))
        for point in POINTS
        if mine[point] != theirs[point]
    }


def _nodes(config: RunConfig) -> Mapping[str, Sequence[Plugin]]:
    algo = config.algo
    return {
        "source": (config.data.source,),
        "plan": (config.rollout.plan,),
        "reward": algo.rewards,
        "shaper": algo.shapers,
        "gate": () if algo.gate is None else (algo.gate,),
        "advantage": (algo.advantage,),
        "loss": (algo.loss,),
        "aux": algo.aux,
        "schedule": algo.schedules,
    }


def _besides(config: RunConfig, plain: RunConfig) -> tuple[str, ...]:
    algo, default = config.algo, plain.algo
    given = config.learner.given
    found = {
        algo.aggregate: algo.aggregate != default.aggregate,
        "off-policy": algo.offpolicy != default.offpolicy,
        "KL in the reward": algo.reward_kl != default.reward_kl,
        "demonstrations": algo.demos != default.demos,
        "replay": algo.replay != default.replay,
        "judge": algo.judge is not None,
        "critic": given.get("critic") is not None,
        "reference": bool(given.get("reference")),
        "teacher": given.get("teacher") is not None,
        f"{algo.minibatches} minibatches": algo.minibatches != default.minibatches,
    }
    return tuple(name for name, differs in found.items() if differs)


__all__ = ["POINTS", "Recipe", "recipes"]
