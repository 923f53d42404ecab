"""From a configuration to a training run: the learner, the extension points, the boundary to start at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agentrl.algo.offpolicy import Correction
from agentrl.config import Plugin, RunConfig
from agentrl.plugins import build
from agentrl.points import Services, TaskSource
from agentrl.rollout.loop import Episodes, Parts
from agentrl.seeds import derive
from agentrl.train import boundary, loop, setup
from agentrl.train.collect import Method
from agentrl.train.folder import RunFolder, fingerprint
from agentrl.train.learner import Learner
from agentrl.train.metrics import JsonLines, Sink, append_line, keep_until
from agentrl.train.sync import Sync, probe_ids
from agentrl.trajectory_json import to_line
from agentrl.types import Task


def assemble(
    config: RunConfig, folder: RunFolder, sinks: Sequence[Sink], found: Path | None
) -> tuple[loop.Run, loop.State]:
    """Every part of a training run and the boundary it starts from."""
    make_env = setup.env_factory(config.env)
    env = make_env()
    source = setup.train_source(config, env)
    chat = setup.open_chat(config, env)
    learner = make_learner(config)
    state = loop.State()
    if found is not None:
        state = boundary.load(found, learner, fingerprint(config))
        source.restore(state.source)
        keep_until(folder.metrics, state.step)
        keep_until(folder.trajectories, state.step)
    engine = setup.make_engine(config, chat, setup.model_path(config.model.path))
    parts = setup.make_parts(config, chat, make_env, engine, config.rollout.temperature)
    method = make_method(config, source, parts)
    tasks = setup.eval_tasks(config, env) if config.eval.every else ()
    example = tasks or setup.eval_tasks(setup.with_tasks(config, 1), env)
    prompt = chat.tokenizer.encode(example[0].question)
    run = loop.Run(
        seed=config.seed,
        total_steps=config.train.steps,
        tasks_per_step=config.train.tasks_per_step,
        engine=engine,
        pool=parts.pool,
        learner=learner,
        method=method,
        update=make_update(config),
        sync=Sync(
            learner=learner,
            engine=engine,
            probe=probe_ids(chat.tokenizer.vocab_size, prompt, config.seed),
            dtype=config.model.dtype,
        ),
        exam=make_exam(config, tasks, parts),
        sinks=[JsonLines(folder.metrics), *sinks],
        keep=lambda trajectory: append_line(folder.trajectories, to_line(trajectory)),
        save=lambda state, best: boundary.save(config, folder, learner, state, best=best),
        checkpoint_every=config.train.checkpoint_every,
    )
    return run, state


def make_learner(config: RunConfig) -> Learner:
    """The learner named by the configuration, with its weights loaded."""
    own = config.learner
    return build(
        "learner",
        own,
        model=setup.model_path(config.model.path),
        dtype=config.model.dtype,
        seed=config.seed,
        lr=own.lr,
        weight_decay=own.weight_decay,
        max_grad_norm=own.max_grad_norm,
        warmup_steps=own.warmup_steps,
        micro_tokens=own.micro_tokens,
    )


def make_method(config: RunConfig, source: TaskSource, parts: Parts) -> Method:
    """The extension points that decide a step's groups."""
    rollout, algo = config.rollout, config.algo
    episodes = Episodes(
        parts, seed=config.seed, in_flight=rollout.in_flight, retries=rollout.retries
    )
    return Method(
        source=source,
        plan=build("plan", rollout.plan, group_size=rollout.group_size),
        services=Services(episodes=episodes, rewards=setup.plugins("reward", algo.rewards)),
        shapers=setup.plugins("shaper", algo.shapers),
        gate=None if algo.gate is None else build("gate", algo.gate),
        rounds=1 if algo.gate is None else algo.gate_rounds,
    )


def make_exam(config: RunConfig, tasks: Sequence[Task], parts: Parts) -> loop.Exam:
    """An evaluation on `tasks`: its own temperature, seeds and samples."""
    own = config.eval
    sampling = replace(
        parts.sampling, temperature=own.temperature, top_p=own.top_p, top_k=own.top_k
    )
    parts = replace(parts, sampling=sampling)
    episodes = Episodes(
        parts,
        seed=derive(config.seed, "eval"),
        in_flight=config.rollout.in_flight,
        retries=config.rollout.retries,
    )
    plan = build("plan", Plugin(name="sample"), group_size=config.eval.samples)
    return loop.Exam(config.eval.every, tasks, plan, Services(episodes=episodes))


def make_update(config: RunConfig) -> loop.Update:
    """The extension points of the optimiser step."""
    algo = config.algo
    return loop.Update(
        advantage=build("advantage", algo.advantage),
        loss=build("loss", algo.loss),
        aux=setup.plugins("aux", algo.aux),
        schedules=setup.plugins("schedule", algo.schedules),
        correction=Correction(**algo.offpolicy.model_dump()),
        algo=algo,
    )
