"""Training on what a recording gateway kept: a source of its tasks, a plan that hands out its sessions.

The sessions were sampled under the weights that were served: version 0 stands for those, so the run
should start from the same model. From its second step on their tokens are stale, which
`algo.offpolicy` corrects.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from agentrl.chat.base import Renderer
from agentrl.data.stream import FileStream
from agentrl.data.uniform import Uniform
from agentrl.errors import UserError
from agentrl.points import Ctx, Services
from agentrl.rollout.parts import Names
from agentrl.trajectory import Group, Trajectory
from agentrl.trajectory_json import from_line
from agentrl.types import Task

_log = logging.getLogger("agentrl.serve")


def recorded_tasks(*, path: str, seed: int = 0) -> Uniform:
    """The tasks of a gateway's `trajectories.jsonl`, each once an epoch, for the plan `recorded`."""
    tasks = {trajectory.task.id: trajectory.task for trajectory in kept(path)}
    return Uniform(stream=FileStream(tuple(tasks.values()), seed=seed, shuffle=True))


def kept(path: str) -> list[Trajectory]:
    """What was rewarded and can be trained on. Raises UserError with the line that cannot be read."""
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"there is no file {path}; give the trajectories.jsonl of a recording gateway"
        )
    found: list[Trajectory] = []
    lines = file.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(from_line(line))
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    chosen = [t for t in found if t.trainable and t.rewards and _sampled_here(t)]
    if not chosen:
        raise UserError(f"{path} holds no rewarded session; post rewards to the gateway first")
    if len(chosen) < len(found):
        _log.warning("%d of %d sessions train nothing", len(found) - len(chosen), len(found))
    return chosen


def _sampled_here(trajectory: Trajectory) -> bool:
    """No turn was written by a text endpoint (engine `api`), whose tokens have no logprobs."""
    segments = [segment for row in trajectory.rows for segment in row.segments]
    return all(segment.version is None or segment.version >= 0 for segment in segments)


@final
class Recorded:
    """Sessions that a gateway recorded stand in for rollouts, those of one task as a group."""

    def __init__(self, *, path: str, renderer: Renderer, group_size: int = 8) -> None:
        """Read them.

        Args:
            path: `trajectories.jsonl` of a run folder of `agentrl serve --mode record`.
            renderer: of the run, whose vocabulary the recorded ids must be of.
            group_size: sessions of a task handed out at once, in the order of their recording, from
                the start again when there are no more; a task with fewer makes a smaller group.

        Raises UserError for a file without rewarded sessions or of another vocabulary.
        """
        if group_size < 1:
            raise UserError("rollout.plan.group_size is at least 1")
        self._group_size = group_size
        self._by_task: dict[str, list[Trajectory]] = {}
        vocabulary = renderer.tokenizer.vocab_size
        for trajectory in kept(path):
            if any(int(row.token_ids.max()) >= vocabulary for row in trajectory.rows):
                raise UserError(
                    f"{path} was recorded with another vocabulary; use the model served"
                )
            self._by_task.setdefault(trajectory.task.id, []).append(trajectory)

    async def collect(self, task: Task, services: Services, ctx: Ctx) -> Group:
        """The next sessions of the task. Raises UserError when it has none."""
        known = self._by_task.get(task.id)
        if known is None:
            raise UserError(
                f"no session of task {task.id} was recorded; draw the recorded ones with "
                "data.source='{name: recorded, path: ...}'"
            )
        n = min(self._group_size, len(known))
        first = (ctx.step + ctx.repeat) * n
        chosen = [known[i % len(known)] for i in range(first, first + n)]
        return Group(task, tuple(_renamed(chosen, task, ctx)), ctx.step)


def _renamed(chosen: Sequence[Trajectory], task: Task, ctx: Ctx) -> list[Trajectory]:
    """Under names that are unique in this run."""
    names = Names.of(ctx.seed, task, ctx)
    return [
        replace(trajectory, uid=names.uid(sibling), sibling=sibling, task=task, reward=None)
        for sibling, trajectory in enumerate(chosen)
    ]


__all__ = ["Recorded", "recorded_tasks"]
