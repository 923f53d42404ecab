"""Classes in TRL's shape: the same class in TRL's own GRPOTrainer and in ours."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from agentrl.chat.protocols.hermes import Hermes
from agentrl.context import Context
from agentrl.env import StepResult
from agentrl.errors import CannotFork, UserError
from agentrl.testing import check_env, failures
from agentrl.transcript import ids_array
from agentrl.types import Message, Task
from agentrl_envs.trl_class import TrlClass

GAME = Path(__file__).with_name("trl_game.py")
PATH = f"{GAME}:Game"


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


TURNS = (
    (call("guess", number=5), call("guess", number=3, loud=True), "It is 3."),
    (call("guess", number=1) + "\n" + call("peek", places=[1, 2]), "I give up."),
    ("I know it without asking.",),
    (call("guess", number=3), "It is 3."),
)
"""Rewards 1 - 0.25, 0, 0 and 1."""


async def played(env: TrlClass, turns: Sequence[str], task: Task) -> tuple[list[str], StepResult]:
    """What the tools said, and the last step."""
    await env.open(Context())
    await env.reset(task, seed=0)
    said: list[str] = []
    for n, text in enumerate(turns):
        result = await env.step(Hermes().parse(ids_array(()), text, turn=n))
        said += [message.content for message in result.observation]
    await env.close()
    return said, result


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What TRL's GRPOTrainer made of the class and of the same turns."""
    for module in ("trl", "datasets"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    given = tmp_path_factory.mktemp("trl") / "turns.json"
    given.write_text(json.dumps({"turns": TURNS, "secret": 3}))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(GAME), str(given)],
        capture_output=True, text=True, timeout=110,
        env={**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_tools_are_what_trl_tells_the_model(theirs: Any):
    ours = [(tool.name, tool.description, tool.schema) for tool in TrlClass(path=PATH).tools]
    assert ours == [(t["name"], t["description"], t["parameters"]) for t in theirs["tools"]]


async def test_rewards_and_observations_are_trl_s(theirs: Any):
    task = Task("t", "Guess.", None, {"secret": 3})
    rewards: list[float] = []
    told: list[list[str]] = []
    for turns in TURNS:
        said, last = await played(TrlClass(path=PATH), turns, task)
        assert last.terminated
        told.append(said)
        rewards.append(last.reward)
    assert rewards == theirs["rewards"] == [0.75, 0.0, 0.0, 1.0]
    assert told == theirs["told"]
    (first,) = await TrlClass(path=PATH).reset(task, seed=0)
    assert f"<|im_start|>user\n{first.content}<|im_end|>" in theirs["prompt"]


async def test_an_exception_is_read_by_the_model_and_the_game_goes_on():
    turns = (call("guess", number=0), call("guess", number="5"), call("shout"), "done")
    said, last = await played(TrlClass(path=PATH), turns, Task("t", "Guess.", None, {"secret": 3}))
    assert said[0] == "guess failed: ValueError: too small to be true"
    assert said[1] == "guess: the argument 'number' must be of type integer, not str."
    assert said[2].startswith("There is no tool named 'shout'")
    assert last.reward == 0.0


def write(folder: Path, body: str, name: str = "game.py") -> str:
    path = folder / name
    path.write_text(body)
    return f"{path}:Made"


async def test_reset_is_handed_what_it_has_arguments_for(tmp_path: Path):
    path = write(
        tmp_path,
        "class Made:\n"
        "    def reset(self, seed, prompt, answer):\n"
        "        self.got = (seed, prompt[0]['content'], answer)\n"
        "        return f' {self.got}'\n"
        "    async def get_reward(self):\n"
        "        return None\n",
    )
    env = TrlClass(path=path)
    (first,) = await env.reset(Task("t", "Q?", "A", {"more": 1}, seed=9), seed=0)
    assert first == Message("user", "Q? (9, 'Q?', 'A')")
    last = await env.step(Hermes().parse(ids_array(()), "bye", turn=0))
    assert (last.reward, last.info.excluded) == (0.0, "unscored")


async def test_an_object_that_brings_its_problems_has_tasks():
    env = TrlClass(path=PATH, prompt="Guess.")
    train, test = (list(islice(env.tasks(split, seed=0), 20)) for split in ("train", "test"))
    assert not {t.seed for t in train} & {t.seed for t in test}
    (first,) = await env.reset(train[0], seed=0)
    assert first.content == "Guess. It is between 1 and 9."
    (bare,) = await TrlClass(path=PATH).reset(train[0], seed=0)
    assert bare.content == " It is between 1 and 9."
    assert failures(await check_env(lambda: TrlClass(path=PATH))) == []


async def test_branches_have_an_object_each(tmp_path: Path):
    env = TrlClass(path=PATH)
    await env.open(Context())
    await env.reset(Task("t", "Guess.", None, {"secret": 3}), seed=0)
    await env.step(Hermes().parse(ids_array(()), call("guess", number=5), turn=0))
    one, two = await env.fork(2)
    for branch, number in ((one, 3), (two, 4)):
        await branch.step(Hermes().parse(ids_array(()), call("guess", number=number), turn=1))
    ended = [await e.step(Hermes().parse(ids_array(()), "ok", turn=2)) for e in (one, two, env)]
    assert [end.reward for end in ended] == [0.75, 0.0, 0.0]
    locked = TrlClass(
        path=write(
            tmp_path,
            "import threading\n"
            "class Made:\n"
            "    def reset(self):\n"
            "        self.lock = threading.Lock()\n",
        )
    )
    await locked.reset(Task("t", "?"), seed=0)
    with pytest.raises(CannotFork, match="cannot be copied"):
        await locked.fork(1)


BAD = {
    "    def go(self, x: int): pass\n": r"Made\.go cannot be a tool: .*docstring",
    "    def go(self, x):\n        '''Go.\n\n        Args:\n            x: how far\n        '''\n": (
        r"Made\.go cannot be a tool: .*x.*type hints"
    ),
    "    def go(self, x: int):\n        '''Go.'''\n": r"Made\.go cannot be a tool: .*x",
}


@pytest.mark.parametrize(("method", "told"), BAD.items())
def test_a_method_that_cannot_be_a_tool_is_named(tmp_path: Path, method: str, told: str):
    with pytest.raises(UserError, match=told):
        TrlClass(path=write(tmp_path, "class Made:\n    def reset(self): pass\n" + method))


async def test_other_mistakes(tmp_path: Path):
    with pytest.raises(UserError, match="Made has no method `reset`"):
        TrlClass(path=write(tmp_path, "class Made:\n    pass\n"))
    shows = write(tmp_path, "class Made:\n    def reset(self): return [1]\n", "list.py")
    with pytest.raises(UserError, match=r"Made\.reset returned list"):
        await TrlClass(path=shows).reset(Task("t", "?"), seed=0)
    with pytest.raises(UserError, match="splits train and test"):
        next(TrlClass(path=PATH).tasks("dev", seed=0))
