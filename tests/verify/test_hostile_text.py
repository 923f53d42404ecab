"""Hostile answers cost bounded time: no backtracking, no recursion error, no huge number."""

from __future__ import annotations

import time

import pytest

from agentrl.verify import MathChecker, canonical, extract_answer, ladder, token_f1
from agentrl.verify.tokens import tidy

N = 100_000
HOSTILE = {
    "nested braces": "{" * N + "5" + "}" * N,
    "open braces": "{" * N,
    "close braces": "}" * N,
    "open boxes": r"\boxed{" * N,
    "nested boxes": r"\boxed{" * N + "5" + "}" * N,
    "box and blanks": (r"\boxed" + " " * 99) * (N // 100),
    "nested fractions": r"\frac{" * N,
    "nested text": r"\text{" * N,
    "nested roots": r"\sqrt{" * N + "5" + "}" * N,
    "functions of functions": r"\sin" * N,
    "minus signs": "-" * N + "5",
    "parentheses": "(" * N + "5" + ")" * N,
    "brackets and commas": "(1,[2," * N,
    "commas": "1," * N,
    "thousands": "1" + ",000" * N,
    "digits": "9" * 1_000_000,
    "a long decimal": "0." + "3" * 1_000_000,
    "exponents": "1e" + "9" * N,
    "towers": "9^" * N + "9",
    "factorials": "9" + "!" * N,
    "blanks": "5" + " " * 1_000_000 + "5",
    "newlines": "5" + "\n" * 1_000_000,
    "nuls": "\x00" * 1_000_000,
    "surrogates": "\ud800" * N,
    "dollars": "$" * 1_000_000,
    "equals": "x=" * N + "5",
    "words": "a " * (N * 5),
    "answer tags": "<answer>" * N,
    "closing tags": "</answer>" * N,
    "hashes": "#" * 1_000_000,
    "matrices": r"\begin{pmatrix}" * (N // 10),
    "plus or minus": r"\pm 1," * N,
    "unions": r"(0,1)\cup" * N,
    "units": "5" + " cm" * N,
    "degrees": "5" + r"^\circ" * N,
    "backslashes": "\\" * 1_000_001,
}


def spent_s(function, *arguments: object) -> float:
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


@pytest.mark.parametrize("name", HOSTILE)
def test_long_texts_take_linear_time(name: str) -> None:
    """Extraction, F1 and the refusal of over-long answers on up to a megabyte; tokens on 0.1."""
    text = HOSTILE[name]
    assert spent_s(extract_answer, text) < 3.0
    assert spent_s(tidy, text[:N]) < 2.0
    assert spent_s(token_f1, text, ["5"]) < 3.0
    assert spent_s(ladder, "5", text) < 0.1
    with MathChecker() as checker:
        verdict = checker.check_now("5", text)
    assert verdict.correct is False
    assert verdict.how in ("oversize", "missing")


@pytest.mark.parametrize("name", HOSTILE)
def test_texts_just_short_enough_to_be_read(name: str) -> None:
    """The ladder itself at its length limit: every reading, in well under a second."""
    text = HOSTILE[name]
    middle = len(text) // 2
    for cut in (text[:4000], text[-4000:], text[middle - 2000 : middle + 2000]):
        for gold in ("5", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "1,2,3", "(1,2]", "x^2+1"):
            assert spent_s(ladder, gold, cut) < 3.0
        assert spent_s(canonical, cut) < 1.0
        assert spent_s(ladder, cut, cut[::-1]) < 2.0


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').system('true')",
        "exec('x')",
        "().__class__",
        "{5}.format",
        r"\input{/etc/passwd}",
    ],
)
def test_code_is_text(code: str) -> None:
    assert ladder("5", code) is not True
