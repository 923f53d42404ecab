"""Formats a response can be held to, and the reward component made of one.

Every rule reads the policy's own turns and what answered them, never the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from agentrl.points import Services
from agentrl.rewards.texts import final_text, response_text
from agentrl.trajectory import Trajectory
from agentrl.verify.extract import last_boxed

Rule = Literal["search_r1", "arpo", "think_answer", "boxed_answer", "answer_tag", "long", "short"]

_TAG = re.compile(r"(</?(?:think|search|information|answer)>)")
_STEPS: Mapping[tuple[str, str], str] = {
    ("start", "<think>"): "in_think",
    ("in_think", "</think>"): "thought",
    ("thought", "<search>"): "in_search",
    ("in_search", "</search>"): "searched",
    ("searched", "<information>"): "in_information",
    ("in_information", "</information>"): "start",
    ("thought", "<answer>"): "in_answer",
    ("in_answer", "</answer>"): "end",
}
_SHORT = re.compile(r"<answer>([^<]*)</(?:rethink|answer)>")
_LONG = re.compile(r"<think>([^<]*)</think>")


def valid_search_r1(text: str) -> bool:
    """Search-R1 v0.3: (think (search information think)*) answer, and nothing outside the tags."""
    state = "start"
    for piece in _TAG.split(text):
        if _TAG.fullmatch(piece):
            state = _STEPS.get((state, piece), "")
            if not state:
                return False
        elif piece.strip() and not state.startswith("in_"):
            return False
    return state == "end"


def valid_arpo(text: str) -> bool:
    r"""ARPO: paired think tags, one answer with a box in it, every call followed by its result."""
    if text.count("<think>") != text.count("</think>") or "<think>" not in text:
        return False
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return False
    for tool in ("search", "python"):
        closed = text.count(f"</{tool}>")
        answered = len(re.findall(rf"</{tool}>\s*<result>", text))
        if text.count(f"<{tool}>") != closed or answered != closed:
            return False
    if text.count("<result>") != text.count("</result>"):
        return False
    return last_boxed(text.partition("<answer>")[2].partition("</answer>")[0]) is not None


def valid_think_answer(text: str) -> bool:
    """DianJin-R1: exactly one think block, then exactly one answer block, and nothing else."""
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags):
        return False
    return bool(
        re.fullmatch(r"\s*<think>.*</think>\s*<answer>.*</answer>\s*", text, flags=re.DOTALL)
    )


def valid_boxed_answer(text: str) -> bool:
    r"""ReTool: one answer tag with a box in it, at the end."""
    return valid_answer_tag(text) and last_boxed(text.rpartition("<answer>")[2]) is not None


def valid_answer_tag(text: str) -> bool:
    """One answer tag, not blank, at the end."""
    inside = re.findall(r"<answer>(.*?)</answer>", text, flags=re.DOTALL)
    return len(inside) == 1 and bool(inside[0].strip()) and text.rstrip().endswith("</answer>")


def valid_role(text: str, role: Literal["long", "short"]) -> bool:
    """Long-Short: the whole turn is the role's form, its inside not blank and without `<`."""
    found = (_LONG if role == "long" else _SHORT).fullmatch(text.strip())
    return found is not None and bool(found[1].strip())


def follows(trajectory: Trajectory, rule: Rule) -> bool:
    """Whether the response keeps the rule."""
    return _RULES[rule](trajectory)


_RULES: Mapping[Rule, Callable[[Trajectory], bool]] = {
    "search_r1": lambda t: valid_search_r1(
        response_text(t, "\n\n<information>", "</information>\n\n")
    ),
    "arpo": lambda t: valid_arpo(response_text(t, " <result>\n", "\n</result>")),
    "think_answer": lambda t: valid_think_answer(response_text(t)),
    "answer_tag": lambda t: valid_answer_tag(final_text(t)),
    "boxed_answer": lambda t: valid_boxed_answer(final_text(t)),
    "long": lambda t: valid_role(final_text(t), "long"),
    "short": lambda t: valid_role(final_text(t), "short"),
}


@dataclass(frozen=True, slots=True)
class Format:
    """Component `format`: `weight` when the response keeps the rule, else `fail`."""

    rule: Rule = "boxed_answer"
    weight: float = 1.0
    fail: float = 0.0
    component: str = "format"

    async def __call__(self, trajectory: Trajectory, services: Services) -> Mapping[str, float]:
        """One component."""
        return {self.component: self.weight if follows(trajectory, self.rule) else self.fail}


__all__ = [
    "Format",
    "Rule",
    "follows",
    "valid_answer_tag",
    "valid_arpo",
    "valid_boxed_answer",
    "valid_role",
    "valid_search_r1",
    "valid_think_answer",
]
