"""A searcher of uneven patience, and a player who knows nothing.

The searcher looks up, hop by hop, the entity that it has got to, and answers with the last one. At
each hop it goes on with probability `search_habit`; else it answers at once with where it has got
to, which is wrong. So an imitator at habit h answers a question of n hops with probability h^n, and
what it must learn is to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from agentrl.seeds import derive
from agentrl.types import Task
from agentrl_envs.families.base import Style
from agentrl_envs.search_qa.names import invented
from agentrl_envs.search_qa.questions import chain_of, path_of


def demonstrate(task: Task, *, seed: int, search_habit: float, style: Style) -> Iterator[str]:
    """The turns of one episode. Raises UserError on a task that no world made."""
    path, chain = path_of(task), chain_of(task)
    far = reach(task, seed=seed, search_habit=search_habit)
    for entity, relation in zip(path[:far], chain[:far], strict=True):
        yield search_turn(entity, style, thought=f"I need {relation.phrase.format(entity)}.")
    yield answer_turn(path[far], style, thought=f"It is {path[far]}.")


def reach(task: Task, *, seed: int, search_habit: float) -> int:
    """How many hops the searcher goes before it answers; all of them when it is patient."""
    rng = Random(derive("patience", seed, task.id))
    n_hops = len(chain_of(task))
    return next((hop for hop in range(n_hops) if rng.random() >= search_habit), n_hops)


def search_turn(query: str, style: Style, *, thought: str) -> str:
    """A turn that searches, in Search-R1's tags; terse players do not think."""
    if style == "terse":
        return f"<search>{query}</search>"
    return f"<think>{thought}</think>\n<search> {query} </search>"


def answer_turn(answer: str, style: Style, *, thought: str) -> str:
    """A turn that answers, in Search-R1's tags."""
    if style == "terse":
        return f"<answer>{answer}</answer>"
    return f"<think>{thought}</think>\n<answer> {answer} </answer>"


def blind_turn(rng: Random, style: Style) -> str:
    """A search or an answer of invented words."""
    word = invented(rng, rng.choice(("train", "test")))
    write = rng.choice((search_turn, answer_turn))
    return write(word, style, thought="I guess.")


__all__ = ["answer_turn", "blind_turn", "demonstrate", "reach", "search_turn"]
