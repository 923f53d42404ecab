"""The commands' entry points: train, evaluate, supervise and the dry run.

Each turns a configuration into the parts of a run, makes the run folder, and hands both to a loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from agentrl.config import RunConfig
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.env import Env
from agentrl.errors import UserError
from agentrl.evaluate.report import EvalReport, report
from agentrl.evaluate.run import play
from agentrl.points import Ctx
from agentrl.rollout.loop import Parts
from agentrl.train import boundary, checkpoint, loop, setup
from agentrl.train.assemble import assemble, make_exam, make_learner
from agentrl.train.demos import conversation_rows
from agentrl.train.dry_run import dry_run
from agentrl.train.folder import RunFolder, create, fingerprint
from agentrl.train.fresh import fresh_model
from agentrl.train.metrics import JsonLines, Sink, append_line
from agentrl.train.sft import demo_rows, fit
from agentrl.trajectory import Group
from agentrl.trajectory_json import to_line
from agentrl.transcript import Int32Array
from agentrl.types import Task

PROGRESS_EVERY = 50
"""Tasks between two notes of an evaluation."""


def train(config: RunConfig, *, sinks: Sequence[Sink], command: str) -> Path:
    """Train, from the start or from `resume`; returns the run folder.

    Raises UserError, SetupError or RunFailed; an interrupt leaves a checkpoint behind.
    """
    config, folder, found = _folder(config, command)
    run, state = assemble(config, folder, sinks, found)
    for sink in run.sinks:
        sink.start(run.total_steps, summary(config, folder))
    try:
        asyncio.run(loop.train(run, state))
    finally:
        for sink in run.sinks:
            sink.close()
    return folder.path


def _folder(config: RunConfig, command: str) -> tuple[RunConfig, RunFolder, Path | None]:
    """The run's folder and, when resuming, its newest checkpoint."""
    if config.resume is None:
        return config, create(config, command), None
    folder = RunFolder(Path(config.resume))
    stored = folder.config()
    if fingerprint(stored) != fingerprint(config):
        raise UserError(
            f"{folder.path} was run with another configuration; resume it unchanged with "
            f"`agentrl train @{folder.path}/config.yaml resume={folder.path}`"
        )
    found = checkpoint.latest(folder.checkpoints)
    if found is None:
        raise UserError(f"{folder.path} holds no checkpoint yet; start it again with another dir=")
    return config, folder, found


def summary(config: RunConfig, folder: RunFolder) -> dict[str, str]:
    """What is run, for the head of a display."""
    return {
        "env": config.env.name,
        "model": config.model.path,
        "engine": config.engine.name,
        "sandbox": config.sandbox.name,
        "advantage": config.algo.advantage.name,
        "folder": str(folder.path),
    }


def evaluate(config: RunConfig, *, sinks: Sequence[Sink], command: str) -> EvalReport:
    """Play the evaluation's tasks; every trajectory and the report go to the run folder."""
    make_env = setup.env_factory(config.env)
    env = make_env()
    tasks = setup.eval_tasks(config, env)
    chat = setup.open_chat(config, env)
    path = setup.model_path(config.model.path)
    engine = setup.make_engine(config, chat, path, tasks)
    parts = setup.make_parts(config, chat, make_env, engine, config.eval.temperature)
    folder = create(config, command)
    for sink in sinks:
        sink.start(len(tasks), summary(config, folder))
    groups = asyncio.run(_played(config, env, tasks, parts, folder, sinks))
    found = report(groups)
    (folder.path / "report.json").write_text(json.dumps(found.to_json(), indent=2) + "\n")
    for sink in sinks:
        sink.note(loop.told(found))
        sink.close()
    return found


async def _played(
    config: RunConfig,
    env: Env,
    tasks: Sequence[Task],
    parts: Parts,
    folder: RunFolder,
    sinks: Sequence[Sink],
) -> list[Group]:
    exam = make_exam(config, env, parts)
    done = 0

    def arrived(group: Group) -> None:
        nonlocal done
        done += 1
        for trajectory in group.trajectories:
            append_line(folder.trajectories, to_line(trajectory))
        if done % PROGRESS_EVERY == 0:
            for sink in sinks:
                sink.note(f"{done}/{len(tasks)} tasks")

    ctx = Ctx(step=0, total_steps=1, seed=config.seed)
    async with AsyncExitStack() as opened:
        await loop.open_parts(opened, parts.engine, parts.pool)
        return await play(tasks, exam.plan, exam.services, ctx, arrived)


def sft(config: RunConfig, *, sinks: Sequence[Sink], command: str) -> Path:
    """Supervised training on demonstrations or stored conversations; returns the run folder."""
    make_env = setup.env_factory(config.env)
    folder = create(config, command)
    with TemporaryDirectory() as fresh:
        if config.sft.architecture is not None:
            fresh_model(config.sft.architecture, Path(fresh), config.seed)
            model = config.model.model_copy(update={"path": fresh})
            config = config.model_copy(update={"model": model})
        chat = setup.open_chat(config, make_env())
        learner = make_learner(config)
        for sink in sinks:
            sink.start(config.sft.steps, summary(config, folder))
        if config.sft.path is not None:
            rows = conversation_rows(Path(config.sft.path), chat)
        else:
            engine = ScriptedEngine(_silent, tokenizer=chat.tokenizer)
            parts = setup.make_parts(config, chat, make_env, engine, temperature=1.0)
            rows = asyncio.run(demo_rows(config, parts, sinks))
        fit(config, learner, rows, [JsonLines(folder.metrics), *sinks])
        boundary.save(config, folder, learner, loop.State(step=config.sft.steps), best=False)
    for sink in sinks:
        sink.close()
    return folder.path


def _silent(token_ids: Int32Array, sampling: Sampling, request: int) -> str:
    """Never asked: each demonstration brings its own script."""
    return ""


__all__ = ["dry_run", "evaluate", "sft", "train"]
