"""From a configuration to the parts of a run: tokenizer, renderer, environment, engine, pool, data.

Every part is found by name; whatever is wrong with the input is said here, before weights load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import Any, cast

from agentrl.chat.base import Renderer, Tokenizer, ToolProtocol
from agentrl.chat.doctor import renderer_for
from agentrl.chat.tokenizers import load_tokenizer
from agentrl.config import DataConfig, EnvConfig, Plugin, RunConfig
from agentrl.data.stream import FileStream, GeneratedStream, TaskStream
from agentrl.data.tasks import load_hub_tasks, load_tasks
from agentrl.engine.base import Engine, Sampling
from agentrl.env import Env, TaskGenerator, may_lease
from agentrl.errors import UserError
from agentrl.model_path import model_path
from agentrl.plugins import build, maker
from agentrl.points import TaskSource
from agentrl.registry import names, resolve
from agentrl.rollout.limits import Limits, Slots
from agentrl.rollout.parts import Parts
from agentrl.sandbox import SandboxPool
from agentrl.types import Task

DRAWS = 50
"""Draws of a generated split per wanted task, after which it is taken to have no more."""


@dataclass(frozen=True, slots=True)
class Chat:
    """How this run's model reads and writes."""

    tokenizer: Tokenizer
    renderer: Renderer
    protocol: ToolProtocol


def env_factory(config: EnvConfig) -> Callable[[], Env]:
    """Makes one environment per episode; its options are checked once, here."""
    make = maker("env", config, max_calls=config.max_calls, call_s=config.call_s)
    if not isinstance(make(), Env):
        raise UserError(f"env {config.name!r} is not an agentrl.env.Env")
    return make


def open_chat(config: RunConfig, env: Env) -> Chat:
    """Tokenizer, renderer and protocol. Raises UserError on an unknown or unsafe template."""
    tokenizer = load_tokenizer(model_path(config.model.path))
    known = {name: resolve("renderer", name) for name in names("renderer")}
    renderer = renderer_for(tokenizer, config.model.renderer, known=known)
    protocol = build("protocol", Plugin(name=config.env.protocol or env.protocol))
    return Chat(tokenizer, renderer, cast(ToolProtocol, protocol))


def make_engine(config: RunConfig, chat: Chat, path: str, tasks: Sequence[Task] = ()) -> Engine:
    """The engine over the weights at `path`, not yet open; `tasks` are what a script may know."""
    return build(
        "engine",
        config.engine,
        model=path,
        tokenizer=chat.tokenizer,
        renderer=chat.renderer,
        tasks=tasks,
        dtype=config.model.dtype,
        max_context=config.env.max_tokens,
        max_batch=config.rollout.in_flight,
        **_determinism(config),
    )


def _determinism(config: RunConfig) -> dict[str, bool]:
    """Nothing when the choice is the engine's; else the demand, which the engine must know."""
    wanted = config.train.deterministic
    if wanted is None:
        return {}
    known = signature(resolve("engine", config.engine.name)).parameters
    if wanted and "deterministic" not in known:
        raise UserError(
            f"engine={config.engine.name} cannot promise train.deterministic=true; use "
            "engine=transformers, or leave train.deterministic out"
        )
    return {"deterministic": wanted}


def make_partners(config: RunConfig, chat: Chat, engine: Engine) -> Mapping[str, Engine]:
    """The models that play a plan's other roles, not yet open, and the policy as `self`.

    Raises UserError when one reads other tokens than the policy.
    """
    made = {"self": engine}
    for role, partner in config.rollout.partners.items():
        if role == "self":
            raise UserError("rollout.partners.self is the policy; give the role another name")
        if partner.name == "self":
            made[role] = engine
            continue
        path = model_path(partner.model or config.model.path)
        if _spelling(load_tokenizer(path)) != _spelling(chat.tokenizer):
            raise UserError(
                f"rollout.partners.{role} has another vocabulary than the policy; its tokens stand "
                "in the policy's rows, so give it a model of the same family"
            )
        own = config.model_copy(update={"engine": partner})
        made[role] = make_engine(own, chat, path)
    return made


def _spelling(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Alike for tokenizers that spell alike."""
    return (tokenizer.vocab_size, *tokenizer.encode("The 3 quick foxes: def f(x):\n    return x"))


def make_pool(config: RunConfig, env: Env) -> SandboxPool | None:
    """The sandbox pool, not yet open; None when the environment runs no code."""
    if not may_lease(env):
        return None
    return build("sandbox", config.sandbox, max_sessions=config.rollout.in_flight)


def make_parts(
    config: RunConfig, chat: Chat, make_env: Callable[[], Env], engine: Engine, temperature: float
) -> Parts:
    """What every episode of the run shares."""
    env = config.env
    return Parts(
        make_env=make_env,
        engine=engine,
        renderer=chat.renderer,
        protocol=chat.protocol,
        pool=make_pool(config, make_env()),
        tool_slots=Slots(config.rollout.tool_slots),
        partners=make_partners(config, chat, engine),
        limits=Limits(
            max_turns=env.max_turns,
            max_calls=env.max_calls,
            max_parse_errors=env.max_parse_errors,
            turn_tokens=env.turn_tokens,
            max_tokens=env.max_tokens,
            observation_tokens=env.observation_tokens,
            episode_s=env.episode_s,
        ),
        sampling=Sampling(
            max_tokens=env.turn_tokens,
            temperature=temperature,
        ),
    )


def train_source(config: RunConfig, env: Env) -> TaskSource:
    """Which tasks a step trains on: `data.source` over the stream of `train_stream`.

    A source whose factory takes no `stream` brings its own tasks.
    """
    source = config.data.source
    wants = "stream" in signature(resolve("source", source.name)).parameters
    return build(
        "source",
        source,
        **({"stream": train_stream(config, env)} if wants else {}),
        seed=config.seed,
        group_size=config.rollout.group_size,
    )


def train_stream(config: RunConfig, env: Env) -> TaskStream:
    """The data file's tasks, else the environment's own: endless, or `data.limit` of them."""
    data, seed = config.data, config.seed
    tasks: Sequence[Task] | None = _file_tasks(data)
    if tasks is None and data.limit is not None:
        tasks = _generated(config, env, "train", data.limit, "data.limit")
    if tasks is not None:
        return FileStream(tasks, seed=seed, shuffle=data.shuffle)
    return GeneratedStream(_generator(env, config), split="train", seed=seed)


def eval_tasks(config: RunConfig, env: Env) -> Sequence[Task]:
    """The tasks of an evaluation: `eval.path`'s, else the data file's, else the test split's."""
    if config.eval.path is not None:
        return load_tasks(config.eval.path, limit=config.eval.tasks)
    tasks = _file_tasks(config.data)
    if tasks is not None:
        return tasks[: config.eval.tasks]
    return _generated(config, env, config.eval.split, config.eval.tasks, "eval.tasks")


def _generated(config: RunConfig, env: Env, split: str, n: int, option: str) -> tuple[Task, ...]:
    """The first `n` distinct tasks of a split. Raises UserError when there are fewer."""
    drawn = islice(_generator(env, config).tasks(split, seed=config.seed), DRAWS * n)
    unique: dict[str, Task] = {}
    for task in drawn:
        unique.setdefault(task.id, task)
        if len(unique) == n:
            return tuple(unique.values())
    raise UserError(
        f"the split {split!r} of env {config.env.name!r} has only {len(unique)} distinct tasks under "
        f"these options; set {option}={len(unique)}"
    )


def with_tasks(config: RunConfig, n: int) -> RunConfig:
    """The same run with an evaluation of `n` tasks."""
    return config.model_copy(update={"eval": config.eval.model_copy(update={"tasks": n})})


def _file_tasks(data: DataConfig) -> list[Task] | None:
    if data.path is not None and data.hf is not None:
        raise UserError("give data.path or data.hf, not both")
    if data.path is not None:
        return load_tasks(
            data.path, layout=data.layout, limit=data.limit, unanswered=data.unanswered
        )
    if data.hf is not None:
        return load_hub_tasks(
            data.hf, layout=data.layout, limit=data.limit, unanswered=data.unanswered
        )
    return None


def _generator(env: Env, config: RunConfig) -> TaskGenerator:
    if not isinstance(env, TaskGenerator):
        raise UserError(f"env {config.env.name!r} generates no tasks; give data.path=tasks.jsonl")
    return env


def plugins(kind: str, nodes: Sequence[Plugin], **host: Any) -> tuple[Any, ...]:
    """Every plug-in of a list, made in order; each is handed the host values it has a name for."""
    return tuple(build(kind, node, **host) for node in nodes)
