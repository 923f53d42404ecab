"""From a configuration to a training run: the learner, the extension points, the boundary to start at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from agentrl.algo.offpolicy import Correction
from agentrl.config import Plugin, RunConfig
from agentrl.env import Expert
from agentrl.errors import UserError
from agentrl.model_path import model_path
from agentrl.plugins import build
from agentrl.points import Adaptive, AuxTerm, Scorer, Services, TaskSource
from agentrl.rollout.episode import Finished, forget
from agentrl.rollout.loop import Episodes
from agentrl.rollout.parts import Parts
from agentrl.rollout.plans.stage import Experts, ExpertTurn
from agentrl.seeds import derive
from agentrl.train import boundary, loop, setup
from agentrl.train.alarms import Alarms, watched
from agentrl.train.collect import Method
from agentrl.train.demands import check_demands, check_engine_trains, check_partners
from agentrl.train.demos import demonstrations
from agentrl.train.exam import Exam
from agentrl.train.feed import Overlap
from agentrl.train.folder import RunFolder, fingerprint
from agentrl.train.learner import Learner
from agentrl.train.metrics import JsonLines, Sink, append_line, keep_first, keep_until
from agentrl.train.reward_kl import RewardKL
from agentrl.train.scorer import LearnerScorer
from agentrl.train.state import State
from agentrl.train.sync import Sync, probe_ids
from agentrl.train.unwritten import Unwritten
from agentrl.train.update import Update
from agentrl.trajectory_json import to_line
from agentrl.transcript import Transcript
from agentrl.types import Task

MAX_STALENESS = 2
"""Versions behind the learner that `async` trains on unless told otherwise."""


def assemble(
    config: RunConfig, folder: RunFolder, sinks: Sequence[Sink], found: Path | None
) -> tuple[loop.Run, State]:
    """Every part of a training run and the boundary it starts from."""
    check_engine_trains(config)
    make_env = setup.env_factory(config.env)
    env = make_env()
    source = setup.train_source(config, env)
    chat = setup.open_chat(config, env)
    update = make_update(config)
    overlap = make_overlap(config)
    learner = make_learner(config)
    state = State()
    if found is not None:
        state = boundary.load(found, learner, fingerprint(config))
        source.restore(state.source)
        keep_until(folder.metrics, state.step)
        if config.train.mode == "sync":
            keep_until(folder.trajectories, state.step)
        else:
            keep_first(folder.trajectories, state.written)
    engine = setup.make_engine(config, chat, model_path(config.model.path))
    parts = setup.make_parts(config, chat, make_env, engine, config.rollout.temperature)
    unwritten = Unwritten()
    episodes = make_episodes(config, parts, unwritten if overlap.mode == "sync" else forget)
    scorer = LearnerScorer(learner, overlap.busy)
    method = make_method(config, source, parts, episodes, scorer)
    if isinstance(method.plan, Adaptive) and found is not None:
        method.plan.restore(state.plan)
    check_demands(config, env, called(update, method))
    check_partners(config, method.plan, env)
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
        update=update,
        sync=Sync(
            learner=learner,
            engine=engine,
            probe=probe_ids(chat.tokenizer.vocab_size, prompt, config.seed),
            dtype=config.model.dtype,
            remedy=f"resume with `agentrl train @{folder.path}/config.yaml resume={folder.path}`",
        ),
        exam=make_exam(config, tasks, parts),
        sinks=[JsonLines(folder.metrics), *sinks],
        keep=lambda trajectory: append_line(folder.trajectories, to_line(trajectory)),
        readings=lambda: (episodes.statistics(), engine.statistics()),
        save=lambda state, best: boundary.save(config, folder, learner, state, best=best),
        checkpoint_every=config.train.checkpoint_every,
        alarms=Alarms(watched(config.train.stall_steps)),
        demonstrate=partial(_demonstrated, parts, config.seed),
        overlap=overlap,
        unwritten=unwritten,
    )
    return run, state


async def _demonstrated(
    parts: Parts, seed: int, tasks: Sequence[Task], step: int
) -> Sequence[Transcript]:
    return await demonstrations(tasks, parts, derive(seed, "diverted", step), lambda _: None)


def make_overlap(config: RunConfig) -> Overlap:
    """How rollouts and updates share the time. Raises UserError for settings that do not go with
    the mode."""
    train = config.train
    if train.max_staleness is not None and train.mode != "async":
        raise UserError(
            f"train.max_staleness bounds train.mode=async, not {train.mode}; leave it out or change "
            "the mode"
        )
    if train.deterministic and train.mode != "sync":
        raise UserError(
            f"train.mode={train.mode} cannot promise train.deterministic=true, since what is sampled "
            "under which weights depends on time; use train.mode=sync, or leave it out"
        )
    staleness = MAX_STALENESS if train.max_staleness is None else train.max_staleness
    return Overlap(train.mode, staleness, train.stuck_s)


def called(update: Update, method: Method) -> dict[str, object]:
    """Every plug-in of a method by the words a user has for it."""
    named: dict[str, object] = {"algo.advantage": update.advantage, "algo.loss": update.loss}
    named |= {f"the aux term {name!r}": term for name, term in update.aux.items()}
    named |= {"algo.reward_kl": update.reward_kl, "algo.gate": method.gate}
    named["rollout.plan"] = method.plan
    for kind, plugins in (
        ("schedule", update.schedules),
        ("reward", method.services.rewards),
        ("shaper", method.shapers),
    ):
        named |= {f"{kind} {type(p).__name__}": p for p in plugins}
    return named


def make_learner(config: RunConfig) -> Learner:
    """The learner named by the configuration, with its weights loaded.

    Beside a working engine it leaves torch's setting of deterministic algorithms alone, which belongs
    to the process: turned over while vLLM compiles a graph, it kills that engine.
    """
    own = config.learner
    return build(
        "learner",
        own,
        model=model_path(config.model.path),
        dtype=config.model.dtype,
        seed=config.seed,
        lr=own.lr,
        weight_decay=own.weight_decay,
        max_grad_norm=own.max_grad_norm,
        warmup_steps=own.warmup_steps,
        micro_tokens=own.micro_tokens,
        **({} if config.train.mode == "sync" else {"deterministic": False}),
    )


def make_episodes(config: RunConfig, parts: Parts, finished: Finished = forget) -> Episodes:
    """What runs a training run's episodes; `finished` hears of each as it ends."""
    return Episodes(
        parts,
        seed=config.seed,
        in_flight=config.rollout.in_flight,
        retries=config.rollout.retries,
        adaptive=not config.train.deterministic,
        finished=finished,
    )


def make_method(
    config: RunConfig,
    source: TaskSource,
    parts: Parts,
    episodes: Episodes,
    scorer: Scorer | None = None,
) -> Method:
    """The extension points that decide a step's groups."""
    rollout, algo = config.rollout, config.algo
    tokenizer = parts.renderer.tokenizer
    return Method(
        source=source,
        plan=build(
            "plan",
            rollout.plan,
            group_size=rollout.group_size,
            renderer=parts.renderer,
            expert=_expert(parts),
            limits=parts.limits,
        ),
        services=Services(
            episodes=episodes,
            rewards=setup.plugins("reward", algo.rewards, tokenizer=tokenizer),
            scorer=scorer,
            judge=None if algo.judge is None else build("judge", algo.judge),
            sandbox=parts.pool,
            partners=parts.partners,
        ),
        shapers=setup.plugins("shaper", algo.shapers, tokenizer=tokenizer),
        gate=None if algo.gate is None else build("gate", algo.gate),
        rounds=1 if algo.gate is None else algo.gate_rounds,
    )


def _expert(parts: Parts) -> Experts | None:
    """What the environment's expert would write; None when it has none."""
    env, stops = parts.make_env(), parts.protocol.stops
    if not isinstance(env, Expert):
        return None

    def turns(task: Task, seed: int) -> tuple[ExpertTurn, ...]:
        return tuple(
            ExpertTurn(text, parts.renderer.demo(text, ended=not text.endswith(stops)))
            for text in env.expert(task, seed=seed)
        )

    return turns


def make_exam(config: RunConfig, tasks: Sequence[Task], parts: Parts) -> Exam:
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
        adaptive=not config.train.deterministic,
    )
    plan = build("plan", Plugin(name="sample"), group_size=config.eval.samples)
    return Exam(config.eval.every, tasks, plan, Services(episodes=episodes))


def make_update(config: RunConfig) -> Update:
    """The extension points of the optimiser step."""
    algo = config.algo
    return Update(
        advantage=build("advantage", algo.advantage),
        loss=build("loss", algo.loss),
        aux=_numbered(algo.aux),
        schedules=setup.plugins("schedule", algo.schedules),
        correction=Correction(**algo.offpolicy.model_dump()),
        reward_kl=RewardKL(**algo.reward_kl.model_dump()) if algo.reward_kl.coef else None,
        algo=algo,
    )


def _numbered(nodes: Sequence[Plugin]) -> dict[str, AuxTerm]:
    """The terms by name; the second `kl` is `kl_2`."""
    terms: dict[str, AuxTerm] = {}
    for node in nodes:
        before = sum(name.partition("_")[0] == node.name for name in terms)
        terms[f"{node.name}_{before + 1}" if before else node.name] = build("aux", node)
    return terms
