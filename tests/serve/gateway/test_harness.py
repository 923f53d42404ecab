"""Foreign programs as the rollout: equal to our own loop on nano, trained on, and cleaned up after."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from agentrl.cli.exits import sole_cause
from agentrl.compose import compose
from agentrl.config import RunConfig
from agentrl.errors import UserError
from agentrl.model_path import model_path
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import Episodes
from agentrl.rollout.plans.sample import Sample
from agentrl.serve.gateway.harness import Harness
from agentrl.serve.gateway.program import run_program
from agentrl.train import setup
from agentrl.train.loop import open_parts
from agentrl.train.metrics import TIME_METRICS
from agentrl.train.run import train
from agentrl.trajectory import StopReason, Trajectory
from agentrl.trajectory_json import from_line
from agentrl.types import Task

AGENT = Path(__file__).with_name("foreign_agent.py")
with_openai = pytest.mark.skipif(
    importlib.util.find_spec("openai") is None, reason="the foreign agent needs `openai`"
)


def nano(*words: str) -> RunConfig:
    """The embedded run on tasks whose code the program and the sandbox answer alike."""
    return compose(["env=retool_math", "env.levels=[1]", "rollout.group_size=4", *words])


async def played(config: RunConfig, plans: dict[str, Any], n: int) -> dict[str, list[Trajectory]]:
    """Each plan's trajectories of the same tasks, at the same step."""
    make_env = setup.env_factory(config.env)
    env = make_env()
    chat = setup.open_chat(config, env)
    engine = setup.make_engine(config, chat, model_path(config.model.path))
    parts = setup.make_parts(config, chat, make_env, engine, config.rollout.temperature)
    services = Services(episodes=Episodes(parts, seed=config.seed))
    tasks = setup.eval_tasks(setup.with_tasks(config, n), env)
    found: dict[str, list[Trajectory]] = {name: [] for name in plans}
    async with AsyncExitStack() as opened:
        await open_parts(opened, engine, parts.pool, {})
        for name, plan in plans.items():
            for task in tasks:
                group = await plan.collect(task, services, Ctx(0, 1, config.seed))
                found[name] += group.trajectories
    return found


async def test_a_foreign_agent_s_rows_are_our_own_loop_s():
    """The exactness test: same seeds, same ids, logprobs, masks, versions, rewards, ends."""
    plans = {
        "own": Sample(group_size=4),
        "foreign": Harness(command=(sys.executable, "-S", str(AGENT), "plain"), group_size=4),
    }
    found = await played(nano(), plans, n=3)
    pairs = [
        (own, foreign)
        for own, foreign in zip(found["own"], found["foreign"], strict=True)
        if not any(call.error or call.truncated for call in own.calls)
    ]
    for own, foreign in pairs:
        assert facts(foreign) == facts(own)
    assert len(pairs) >= 9
    assert sum(len(own.calls) for own, _ in pairs) >= 6
    assert {own.rewards["env"] for own, _ in pairs} == {0.0, 1.0}


@with_openai
async def test_so_are_those_of_an_agent_on_openai_s_client():
    plans = {
        "own": Sample(group_size=3),
        "foreign": Harness(command=f"{sys.executable} {AGENT}", group_size=3, in_flight=2),
    }
    found = await played(nano(), plans, n=1)
    assert [facts(t) for t in found["foreign"]] == [facts(t) for t in found["own"]]
    assert sum(len(t.calls) for t in found["own"]) >= 1


def facts(trajectory: Trajectory) -> dict[str, Any]:
    """All that training reads, and what people do."""
    return {
        "uid": trajectory.uid,
        "rows": [
            (
                row.token_ids.tolist(),
                row.logprobs.tolist(),
                row.mask.tolist(),
                row.origins.tolist(),
                row.versions.tolist(),
                row.temperatures.tolist(),
            )
            for row in trajectory.rows
        ],
        "rewards": dict(trajectory.rewards),
        "stop": trajectory.stop,
        "answer": trajectory.answer,
        "error": trajectory.error,
        "excluded": trajectory.excluded,
        "turns": trajectory.n_turns,
        "seed": trajectory.seed,
        "calls": [(c.turn, c.name, c.arguments, c.content) for c in trajectory.calls],
        "messages": [(m.role, m.content) for m in trajectory.messages],
    }


def test_a_step_is_trained_on_it_as_on_our_own(tmp_path: Path):
    """One step of GRPO from the command's words: the same metrics but times, the same weights.

    So it is on what was kept on disk.
    """
    words = ("train.steps=1", "train.tasks_per_step=2", "eval.every=0", "train.deterministic=true")
    file = f"{{name: recorded, path: {tmp_path}/own/trajectories.jsonl}}"
    plans = {
        "own": (),
        "harness": (
            f"rollout.plan={{name: harness, command: [{sys.executable}, -S, {AGENT}, plain]}}",
        ),
        "recorded": (f"rollout.plan={file}", f"data.source={file}"),
    }
    lines, weights = [], []
    for where, own in plans.items():
        config = nano(*words, f"dir={tmp_path / where}", *own)
        folder = train(config, sinks=[], command="x")
        lines.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]))
        stored = (folder / "trajectories.jsonl").read_text().split("\n")[:-1]
        assert [from_line(line).error for line in stored] == [None] * 8
        weights.append((Path(model_path(str(folder))) / "model.safetensors").read_bytes())
    kept = [{k: v for k, v in line.items() if k not in TIME_METRICS} for line in lines]
    assert kept[0] == kept[1] == kept[2]
    assert kept[0]["grad_norm"] > 0
    assert weights[0] == weights[1] == weights[2]


ASK = """
import json, os, sys, time, urllib.request, subprocess
def post(path, body):
    request = urllib.request.Request(os.environ["BASE_URL"] + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))
def ask(*said):
    messages = [{"role": "user", "content": text} for text in said]
    return post("/chat/completions", {"messages": messages})
"""


def program(then: str) -> tuple[str, ...]:
    """A program of some lines that may ask the model."""
    return (sys.executable, "-S", "-c", ASK + then)


@pytest.fixture
def collect(world: Any) -> Callable[..., Any]:
    """One group played by a program against a scripted model that always answers right."""

    async def run(then: str, group_size: int = 1, **options: Any) -> list[Trajectory]:
        limits = {k: options.pop(k) for k in ("max_turns", "turn_tokens") if k in options}
        engine = world.engine("<answer>4</answer>")
        services = Services(episodes=Episodes(world.parts(engine, **limits), seed=1))
        plan = Harness(command=program(then), group_size=group_size, **options)
        group = await plan.collect(world.task, services, Ctx(0, 1, 1))
        return list(group.trajectories)

    return run


async def test_the_environment_judges_the_last_turn(collect: Any, quiz: Any):
    opened, closed = quiz.opened, quiz.closed
    found = await collect("ask('Q')", group_size=3)
    assert [(t.uid, t.rewards, t.stop) for t in found] == [
        (f"0/t/{i}", {"env": 1.0}, StopReason.TERMINATED) for i in range(3)
    ]
    assert (quiz.opened - opened, quiz.closed - closed) == (3, 3)


async def test_a_program_may_reward_itself(collect: Any):
    reward = "ask('Q'); post('/reward', {'reward': 0.25, 'components': {'style': 2}})"
    (found,) = await collect(reward)
    assert (found.rewards, found.error) == ({"env": 0.25, "style": 2.0}, None)


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("ask('Q'); raise ValueError('bad day')", "ended with status 1: ValueError: bad day"),
        ("sys.exit(0)", "was given no turn: it said nothing"),
        ("os.kill(os.getpid(), 9)", "was given no turn"),
    ],
)
async def test_a_program_that_fails_leaves_the_statistics(collect: Any, then: str, told: str):
    (found,) = await collect(then)
    assert found.stop is StopReason.ERROR
    assert told in str(found.error)
    assert (found.rewards, found.trainable) == ({}, False)


@pytest.mark.parametrize(
    ("then", "limits", "stop"),
    [
        ("ask('Q'); ask('Q2')", {"max_turns": 1}, StopReason.MAX_TURNS),
        ("ask('Q')", {"turn_tokens": 2}, StopReason.TURN_TOKENS),
    ],
)
async def test_a_limit_ends_it_as_in_our_own_loop(collect: Any, then: str, limits: Any, stop: Any):
    """The refused program dies of an HTTP error, which is no failure of the world."""
    (found,) = await collect(then, **limits)
    assert (found.stop, found.rewards, found.error) == (stop, {"env": 0.0}, None)


async def test_a_deadline_kills_the_whole_group(collect: Any, tmp_path: Path):
    """The program and the child it started; the turn it had is kept and earns nothing."""
    child = f"import time,os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    then = (
        f"ask('Q'); subprocess.Popen([sys.executable, '-S', '-c', {child!r}])\n"
        f"while not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.01)\n"
        "time.sleep(600)"
    )
    (found,) = await collect(then, deadline_s=3.0)
    assert (found.stop, found.rewards, found.n_turns) == (StopReason.DEADLINE, {"env": 0.0}, 1)
    await gone(int((tmp_path / "pid").read_text()))


async def test_nothing_survives_a_program_that_ends_well(tmp_path: Path):
    sleeper = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        "print(p.pid)"
    )
    outcome = await run_program((sys.executable, "-S", "-c", sleeper), {}, timeout_s=60)
    assert (outcome.code, outcome.timed_out) == (0, False)
    await gone(int(outcome.last_words))


async def test_nothing_survives_a_cancelled_rollout(tmp_path: Path):
    mark = tmp_path / "pid"
    code = f"import time,os; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    running = asyncio.ensure_future(
        run_program((sys.executable, "-S", "-c", code), {}, timeout_s=None)
    )
    async with asyncio.timeout(60):
        while not mark.exists() or not mark.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone(int(mark.read_text()))


async def gone(pid: int) -> None:
    """Wait until the process has ended."""
    async with asyncio.timeout(30):
        while alive(pid):  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """It runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_the_answer_is_never_told(world: Any, tmp_path: Path):
    mark = tmp_path / "environ"
    services = Services(episodes=Episodes(world.parts(world.engine("x")), seed=1))
    then = f"open({str(mark)!r}, 'w').write(json.dumps(dict(os.environ))); ask('Q')"
    task = Task("t", "Q", "the hidden answer", {"gold": "the hidden answer"})
    await Harness(command=program(then), group_size=1).collect(task, services, Ctx(0, 1, 1))
    seen = json.loads(mark.read_text())
    assert "hidden" not in json.dumps(seen)
    told = json.loads(seen["TASK"])
    assert (told["id"], told["messages"]) == ("t", [{"role": "user", "content": "Q"}])
    assert seen["OPENAI_BASE_URL"] == seen["BASE_URL"]
    assert seen["API_KEY"] in seen["BASE_URL"]


async def test_a_program_that_rewrites_history_is_told_of_once(collect: Any, caplog: Any):
    found = await collect("ask('one'); ask('two')", group_size=2)
    assert [len(t.rows) for t in found] == [2, 2]
    assert caplog.text.count("2 of 2 turns began a row") == 1


async def test_bad_settings_are_one_sentence(world: Any):
    with pytest.raises(UserError, match="names the program"):
        Harness(command="")
    with pytest.raises(UserError, match="deadline_s > 0"):
        Harness(command="x", deadline_s=0)
    services = Services(episodes=Episodes(world.parts(world.engine("x")), seed=1))
    plan = Harness(command=("/no/such/program",), group_size=2)
    with pytest.raises(BaseExceptionGroup) as failed:
        await plan.collect(world.task, services, Ctx(0, 1, 1))
    assert "cannot start '/no/such/program'" in str(sole_cause(failed.value))
