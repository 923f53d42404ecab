"""Questions of one to three hops over a world, as tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from agentrl.errors import UserError
from agentrl.seeds import derive
from agentrl.types import Task
from agentrl_envs.search_qa.relations import RELATIONS, Relation, askable
from agentrl_envs.search_qa.wording import question_text
from agentrl_envs.search_qa.world import World

HOPS = (1, 2, 3)
"""How many facts a question may chain."""

FRESH = 4096
"""A stream avoids the ids among its last tasks, counted up to this many at a time."""

_BY_NAME = {relation.name: relation for relation in RELATIONS}


def questions(world: World, *, seed: int, hops: Sequence[int]) -> Iterator[Task]:
    """An endless stream; every length of chain comes once before any comes again."""
    rng = Random(derive("questions", seed, world.spec.split, world.spec.seed))
    names = list(world.kinds)
    seen: set[str] = set()
    while True:
        for length in rng.sample(list(hops), len(hops)):
            task = _task(world, rng, names, length)
            for _ in range(20):  # a small world may have run out of new ones
                if task.id not in seen:
                    break
                task = _task(world, rng, names, length)
            seen.add(task.id)
            yield task
        if len(seen) > FRESH:
            seen.clear()


def _task(world: World, rng: Random, names: Sequence[str], length: int) -> Task:
    while True:
        start = rng.choice(names)
        chain, path = _walk(world, rng, start, length)
        if len(set(path)) == len(path):  # who comes round again would be answered by the question
            return _asked(world, chain, path)


def _walk(world: World, rng: Random, start: str, length: int) -> tuple[list[Relation], list[str]]:
    chain: list[Relation] = []
    path = [start]
    for hop in range(length):
        last = hop == length - 1
        relation = rng.choice(askable(world.kinds[path[-1]], world.spec.style, last=last))
        chain.append(relation)
        path.append(world.facts[path[-1], relation.name])
    return chain, path


def _asked(world: World, chain: Sequence[Relation], path: Sequence[str]) -> Task:
    spec = world.spec
    names = [relation.name for relation in chain]
    return Task(
        id=f"{spec.split}/{spec.style}/{spec.seed}/{path[0].replace(' ', '_')}/{'-'.join(names)}",
        question=question_text(path[0], chain, spec.style),
        answer=path[-1],
        metadata={
            "family": f"{len(chain)} hops" if len(chain) > 1 else "1 hop",
            "hops": len(chain),
            "split": spec.split,
            "path": list(path),
            "relations": names,
            "retrieval": True,
        },
    )


def path_of(task: Task) -> list[str]:
    """Start, every entity on the way, answer. Raises UserError on a task that no world made."""
    path = task.metadata.get("path")
    if not isinstance(path, list | tuple):
        raise UserError(f"task {task.id} was not made by search_qa: it has no path to its answer")
    return [str(name) for name in path]


def chain_of(task: Task) -> list[Relation]:
    """The relations of a generated task. Raises UserError on a task that no world made."""
    names = task.metadata.get("relations")
    if not isinstance(names, list | tuple):
        raise UserError(f"task {task.id} was not made by search_qa: it has no relations")
    return [_BY_NAME[str(name)] for name in names]


__all__ = ["HOPS", "chain_of", "path_of", "questions"]
