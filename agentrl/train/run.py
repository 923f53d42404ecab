"""The commands' entry points: train, evaluate, supervise and the dry run.

Each turns a configuration into the parts of a run, makes the run folder, and hands both to a loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from agentrl.config import RunConfig
from agentrl.engine.base import Sampling
from agentrl.engine.scripted import ScriptedEngine
from agentrl.errors import UserError
from agentrl.evaluate.report import EvalReport, report
from agentrl.evaluate.run import play
from agentrl.model_path import model_path
from agentrl.points import Ctx
from agentrl.rollout.parts import Parts
from agentrl.train import boundary, checkpoint, exam, loop, setup
from agentrl.train.assemble import assemble, make_exam, make_learner
from agentrl.train.demands import check_env_partners
from agentrl.train.demos import conversation_rows
from agentrl.train.dry_run import dry_run
from agentrl.train.folder import RunFolder, create, fingerprint, planned
from agentrl.train.fresh import fresh_model
from agentrl.train.metrics import JsonLines, Sink, append_line
from agentrl.train.sft import demo_rows, fit
from agentrl.train.state import State
from agentrl.trajectory import Group
from agentrl.trajectory_json import to_line
from agentrl.transcript import Int32Array
from agentrl.types import Task

PROGRESS_EVERY = 50
"""Tasks between two notes of an evaluation."""


def train(config: RunConfig, *, sinks: Sequence[Sink], command: str) -> Path:
    """Train, from the start or from `resume`; returns the run folder.

    Raises UserError, SetupError or RunFailed, those from inside a rollout in an ExceptionGroup; an
    interrupt leaves a checkpoint behind.
    """
    folder, found = _folder(config)
    run, state = assemble(config, folder, sinks, found)
    if found is None:
        create(folder, config, command)
    with _reporting(run.sinks, run.total_steps, summary(config, folder)):
        asyncio.run(loop.train(run, state))
    return folder.path


@contextmanager
def _reporting(
    sinks: Sequence[Sink], total_steps: int, summary: Mapping[str, str]
) -> Generator[None]:
    """Start the sinks, and close them whatever happens."""
    try:
        for sink in sinks:
            sink.start(total_steps, summary)
        yield
    finally:
        for sink in sinks:
            sink.close()


def _folder(config: RunConfig) -> tuple[RunFolder, Path | None]:
    """The run's folder, not yet made when new, and the newest checkpoint to resume from."""
    if config.resume is None:
        return planned(config), None
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
    return folder, found


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
    folder = planned(config)
    make_env = setup.env_factory(config.env)
    env = make_env()
    check_env_partners(config, env)
    tasks = setup.eval_tasks(config, env)
    chat = setup.open_chat(config, env)
    path = model_path(config.model.path)
    engine = setup.make_engine(config, chat, path, tasks)
    parts = setup.make_parts(config, chat, make_env, engine, config.eval.temperature)
    create(folder, config, command)
    with _reporting(sinks, len(tasks), summary(config, folder)):
        groups = asyncio.run(_played(config, tasks, parts, folder, sinks))
        found = report(groups)
        (folder.path / "report.json").write_text(json.dumps(found.to_json(), indent=2) + "\n")
        for sink in sinks:
            sink.note(exam.told(found))
    return found


async def _played(
    config: RunConfig,
    tasks: Sequence[Task],
    parts: Parts,
    folder: RunFolder,
    sinks: Sequence[Sink],
) -> list[Group]:
    sitting = make_exam(config, tasks, parts)
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
        await loop.open_parts(opened, parts.engine, parts.pool, parts.partners)
        return await play(sitting.tasks, sitting.plan, sitting.services, ctx, arrived)


def sft(config: RunConfig, *, sinks: Sequence[Sink], command: str) -> Path:
    """Supervised training on demonstrations or stored conversations; returns the run folder."""
    folder, asked = planned(config), config
    env = setup.env_factory(config.env)()
    with TemporaryDirectory() as fresh:
        if config.sft.architecture is not None:
            fresh_model(config.sft.architecture, Path(fresh), config.seed)
            model = config.model.model_copy(update={"path": fresh})
            config = config.model_copy(update={"model": model})
        chat = setup.open_chat(config, env)
        learner = make_learner(config)
        stored = config.sft.path and conversation_rows(Path(config.sft.path), chat)
        create(folder, asked, command)
        with _reporting(sinks, config.sft.steps, summary(config, folder)):
            rows = stored or asyncio.run(demo_rows(config, _expert_parts(config, chat), sinks))
            fit(config, learner, rows, [JsonLines(folder.metrics), *sinks])
            boundary.save(config, folder, learner, State(step=config.sft.steps), best=False)
    return folder.path


def _expert_parts(config: RunConfig, chat: setup.Chat) -> Parts:
    """What demonstrations share."""
    engine = ScriptedEngine(_silent, tokenizer=chat.tokenizer)
    make_env = setup.env_factory(config.env)
    return setup.make_parts(config, chat, make_env, engine, temperature=1.0)


def _silent(token_ids: Int32Array, sampling: Sampling, request: int) -> str:
    """Never asked: each demonstration brings its own script."""
    return ""


__all__ = ["dry_run", "evaluate", "sft", "train"]
