"""Question answering: what was answered, against every accepted answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentrl.points import Services
from agentrl.rewards.texts import turn_texts
from agentrl.trajectory import Trajectory
from agentrl.types import Task
from agentrl.verify.extract import last_answer_tag
from agentrl.verify.text_answer import contains_match, exact_match, token_f1


def golds(task: Task) -> list[str]:
    """All accepted answers: the metadata's `answers` when there are, and the task's own."""
    listed = task.metadata.get("answers")
    more = listed if isinstance(listed, (list, tuple)) else ()
    own = [] if task.answer is None else [task.answer]
    return [*own, *(str(answer) for answer in more)]


def response_answer(trajectory: Trajectory) -> str | None:
    """The last `<answer>` of the policy's own turns.

    Search-R1's code decodes the prompt too, whose example answer makes it demand two tags.
    """
    return last_answer_tag("\n".join(turn_texts(trajectory)))


@dataclass(frozen=True, slots=True)
class AnswerMatch:
    """Measurements `answer/em`, `answer/sub_em` and `answer/f1`, each in [0, 1].

    Reads the answer the environment read, or else the last answer tag of the policy's turns; no
    answer scores 0. A shaper takes one as its component (`arpo` with `component: answer/f1`).
    """

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """Three numbers."""
        said = trajectory.answer
        said = response_answer(trajectory) if said is None else said
        wanted = golds(trajectory.task)
        return {
            "answer/em": float(exact_match(said, wanted)),
            "answer/sub_em": float(contains_match(said, wanted)),
            "answer/f1": token_f1(said, wanted),
        }


__all__ = ["AnswerMatch", "golds", "response_answer"]
