"""What a gateway kept, handed out to training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.loop import Episodes
from agentrl.serve.gateway.recorded import Recorded, recorded_tasks
from agentrl.serve.gateway.session import Session
from agentrl.serve.gateway.turns import Verdict
from agentrl.trajectory import StopReason
from agentrl.trajectory_json import to_line
from agentrl.types import Message, Task


@pytest.fixture
async def file(world: Any, tmp_path: Path) -> Path:
    """Five sessions of task a, rewarded 0 to 4; one of b; one that nobody rewarded."""
    lines: list[str] = []
    for task, sibling, reward in [("a", i, float(i)) for i in range(5)] + [
        ("b", 0, 9.0),
        ("c", 0, None),
    ]:
        names = replace(world.names(), task=Task(task, "Q"))
        session = Session(world.parts(world.engine("x")), names, sibling)
        await session.complete(world.ask(Message("user", "Q")))
        rewards = {} if reward is None else {"env": reward}
        left = "unrewarded" if reward is None else None
        lines.append(
            to_line(session.finish(Verdict(StopReason.TERMINATED, rewards, excluded=left)))
        )
    path = tmp_path / "trajectories.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_sessions_of_a_task_in_turn(world: Any, file: Path, caplog: Any):
    """Two a step of five: 0 1, 2 3, 4 0, ...; the one of b alone, again and again."""
    services = Services(episodes=Episodes(world.parts(world.engine("x")), seed=1))
    plan = Recorded(path=str(file), renderer=world.renderer, group_size=2)
    assert "1 of 7 sessions train nothing" in caplog.text
    found = [
        [
            t.rewards["env"]
            for t in (await plan.collect(Task(task, "Q"), services, ctx)).trajectories
        ]
        for task, ctx in [("a", Ctx(i, 9, 0)) for i in range(3)]
        + [("b", Ctx(i, 9, 0)) for i in (0, 1)]
    ]
    assert found == [[0.0, 1.0], [2.0, 3.0], [4.0, 0.0], [9.0], [9.0]]
    group = await plan.collect(Task("a", "Q"), services, Ctx(2, 9, 0, repeat=1))
    assert [(t.uid, t.sibling) for t in group.trajectories] == [("2/a/0+1", 0), ("2/a/1+1", 1)]
    with pytest.raises(UserError, match="no session of task c"):
        await plan.collect(Task("c", "Q"), services, Ctx(0, 9, 0))


def test_its_tasks_are_drawn(file: Path):
    source = recorded_tasks(path=str(file))
    assert {task.id for task in source.next(2, Ctx(0, 1, 0))} == {"a", "b"}


def test_files_that_will_not_do(world: Any, tmp_path: Path):
    def read(path: Path) -> None:
        Recorded(path=str(path), renderer=world.renderer)

    with pytest.raises(UserError, match="there is no file"):
        read(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="no rewarded session"):
        read(tmp_path / "empty")
    (tmp_path / "broken").write_text("{}\n")
    with pytest.raises(UserError, match="broken:1: not a trajectory line"):
        read(tmp_path / "broken")


def test_what_a_text_endpoint_wrote_is_never_trained(world: Any, file: Path):
    """Its tokens stand under version -1 and have no logprobs."""
    file.write_text(file.read_text().replace('"version":0', '"version":-1'))
    with pytest.raises(UserError, match="no rewarded session"):
        Recorded(path=str(file), renderer=world.renderer)


def test_ids_of_another_vocabulary_are_refused(world: Any, file: Path):
    text = file.read_text().replace('"token_ids":[258', '"token_ids":[99999', 1)
    file.write_text(text)
    with pytest.raises(UserError, match="another vocabulary"):
        Recorded(path=str(file), renderer=world.renderer)
