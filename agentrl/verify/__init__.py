"""Answer checkers: pure functions over short texts, used by environments and rewards."""

from __future__ import annotations

from agentrl.verify.extract import extract_answer
from agentrl.verify.ladder import canonical, ladder
from agentrl.verify.math_answer import MathChecker, MathStatistics, Verdict
from agentrl.verify.text_answer import contains_match, exact_match, normalise_text, token_f1

__all__ = [
    "MathChecker",
    "MathStatistics",
    "Verdict",
    "canonical",
    "contains_match",
    "exact_match",
    "extract_answer",
    "ladder",
    "normalise_text",
    "token_f1",
]
