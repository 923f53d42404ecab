"""Which part of a model's text is its answer."""

from __future__ import annotations

import pytest

from agentrl.verify import extract_answer

CASES = [
    (r"so \boxed{5}.", "5"),
    (r"\boxed{4} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\boxed{7}}", r"\boxed{7}"),
    (r"\boxed {8}", "8"),
    (r"\fbox{9}", "9"),
    (r"\boxed{}", ""),
    (r"\boxed{3} and then \boxed{4", "3"),
    (r"\boxed{ open \boxed{6}", "6"),
    (r"} } \boxed{a_{b_{c}}}", "a_{b_{c}}"),
    ("<answer> Beijing </answer>", "Beijing"),
    ("<answer>a</answer> wait <answer>b</answer>", "b"),
    ("<answer>a</answer> <answer>unfinished", "a"),
    (r"<answer>It is \boxed{12}</answer>", "12"),
    ("He pays 3+4=<<3+4=7>>7\n#### 1,007\n", "1,007"),
    ("#### 5\nno\n#### 6", "6"),
    ("####", None),
    ("the answer is 5", None),
    ("", None),
    ("</answer> <answer>", None),
]


@pytest.mark.parametrize(("text", "answer"), CASES)
def test_extracts(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_order_and_choice_of_marks() -> None:
    text = "\\boxed{1} <answer>2</answer>\n#### 3"
    assert extract_answer(text) == "1"
    assert extract_answer(text, marks=("gsm8k", "boxed")) == "3"
    assert extract_answer(text, marks=("answer",)) == "2"
    assert extract_answer("#### 3", marks=("answer",)) is None
