"""The ladder's rungs, one table each: what it accepts, what it rejects, what it leaves open."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.verify import canonical, ladder
from agentrl.verify.tokens import tidy

EQUAL = [
    (r"\frac12", "0.5"),
    (r"\frac12", ".50"),
    (r"\frac{3}{4}", r"\frac{6}{8}"),
    ("-1/3", r"\frac{-1}{3}"),
    (r"1\frac{4}{5}", "9/5"),
    (r"137 \frac{1}{2}", "137.5"),
    ("1 4/5", "1.8"),
    ("-1 1/2", "-1.5"),
    ("1,234,567", "1234567"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    (r"58,500", r"58{,}500"),
    ("14", "13.999999999999998"),
    ("0.3", "0.30000000000000004"),
    ("0.00001", "1e-05"),
    ("3000000", "3 million"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\frac{2}{3}", "0.6666667"),
    (r"\pi", "3.14159265"),
    (r"3\sqrt{13}", r"\sqrt{117}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"2^{10}", "1024"),
    (r"\sqrt[3]{27}", "3"),
    (r"(a+5)(b+2)", "ab + 2a + 5b + 10"),
    (r"6 - 5i", "-5i+6"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\frac{11+9a}{20}", r"\frac{9a}{20} + 0.55"),
    ("50%", "0.5"),
    (r"50\%", "50"),
    ("25", "25 percent"),
    (r"\$18.90", "18.9 dollars"),
    (r"\$18.90", "1890 cents"),
    ("6 hours", "360 minutes"),
    (r"864 \mbox{ inches}^2", "864 square inches"),
    (r"15\mbox{ cm}^2", r"15\ \text{cm}^{2}"),
    (r"5.4 \text{ cents}", "5.4¢"),
    (r"90^\circ", "90 degrees"),
    ("5", "5 m"),
    ("5", "x = 5"),
    ("x=5", "5"),
    (r"x \in [-2,7]", "[-2, 7]"),
    ("y = 2x + 3", "3+2x"),
    ("1,-2", "x = -2 or x = 1"),
    ("3, 5, 7", "[7, 5, 3]"),
    ("3, 5, 7", "3, 5, and 7"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt{5}, 1-\sqrt{5}\}"),
    (r"(2,\infty)", "(2, oo)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"\left(\frac{3}{5},\frac{8}{3}\right]", r"(0.6, \frac83]"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{bmatrix}0.2\\-3.6\end{bmatrix}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "[[1, 2], [3, 4]]"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 2)"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", "(C) the ellipse"),
    (r"\text{ellipse}", "An ellipse."),
    ("3", "three"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    ("(1,2)", "y = 2, x = 1"),
    ("x=1, y=2", "y=2, x=1"),
    ("500000", "5 hundred thousand"),
    (r"\text{No}", "no."),
    ("no", r"\text{No}"),
    ("5", r"\angle ABC = 5"),
    ("5", "P(A) = 5"),
    ("5", "Area of ABC = 5"),
    ("5", "Final Answer: 5"),
    ("a:b", "a : b"),
]  # fmt: skip

DIFFERENT = [
    ("3", "-3"), ("-3", "3"), ("1/2", "12"), (r"\frac{1}{2}", "2"), ("0.5", "5"), ("5", "0.5"),
    ("42", "43"), ("1000000", "1000001"), ("1000001", "1000000.0"), ("14", "13.99999"),
    ("0.15", "0.1500001"), (r"\frac{1}{3}", "0.33"), (r"\frac{1}{3}", "0.333334"), (r"\pi", "3.14"),
    ("(3,4)", "(4,3)"), ("(1,2]", "[1,2]"), ("(1,2]", "(1,2)"), ("[1,2]", "1,2"), ("1,2", "1,2,3"),
    ("1,2,3", "1,2"), ("1,1,2", "1,2,2"), (r"\{1,2\}", r"\{1,3\}"), ("5", "5, 6"), ("5, 6", "5"),
    (r"(2,\infty)", "(2,6)"), (r"(2,\infty)", r"(-\infty,2)"), ("(3,4)", "(3,4,0)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3 \end{pmatrix}"),
    (r"\text{(C)}", "D"), (r"\text{even}", "odd"), (r"\text{Evelyn}", "7"), ("7", "Evelyn"),
    ("x=1, y=2", "x=2, y=1"),
    ("(1,2)", "x = 2, y = 1"),
    ("(5)", "5.7"),
    ("52_8", "52_9"), ("52_8", "42"), (r"\sqrt{2}", r"\sqrt{3}"), ("2k+2", "2k+3"), ("2k", "2n"),
    ("x^3+3x-6", "x^3-3x-6"), ("1+2i", "1-2i"), ("5.4 cents", "5.4 dollars"), ("5 cm", "5 hours"),
    (r"15\mbox{ cm}^2", r"15\text{ cm}^3"), ("50%", "5%"), ("0.5", "0.5%"), ("5", "5 million"),
    ("5", r"5\sqrt{2}"), ("5", ""), ("5", "  "), ("1,234", "1,235"), ("1,234", "1.234"),
("9", "2^3"), (r"1\frac{4}{5}", "4/5"),
]  # fmt: skip

OPEN = [
    ("5", r"5 + 0\cdot\log 3"),
    (r"\frac{1}{2x}", "1/2x"),
    ("6", "3!"),
    ("5", r"\int_0^5 dx"),
    ("5", "9^{9^{9^9}}"),
    (r"\sqrt{12}", r"\sqrt12"),
    ("5x - 7y + 11z + 4 = 0", "-5x + 7y - 11z - 4 = 0"),
    ("5", "not 5"),
    (r"\frac{11}{2}", r"4\frac{3}{2}"),
    ("x = 5", "y = 5"),
    ("a:b", "c:b"),
    ("$", "5"),
    (r"\frac{x}{3} = y", "y"),
    ("x", "|x|"),
    ("x", r"\sqrt{x^2}"),
    (r"(0,5) \cup [5,9)", "(0,9)"),
    ("5", "5" * 5000),
]


@pytest.mark.parametrize(("gold", "prediction"), EQUAL)
def test_accepts(gold: str, prediction: str) -> None:
    assert ladder(gold, prediction) is True


@pytest.mark.parametrize(("gold", "prediction"), DIFFERENT)
def test_rejects(gold: str, prediction: str) -> None:
    assert ladder(gold, prediction) is False


@pytest.mark.parametrize(("gold", "prediction"), OPEN)
def test_leaves_open(gold: str, prediction: str) -> None:
    assert ladder(gold, prediction) is None


@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999))
def test_fractions_compare_exactly(a, b) -> None:
    spelt = [
        f"{b.numerator}/{b.denominator}",
        rf"\dfrac{{{b.numerator * 3}}}{{{b.denominator * 3}}}",
        rf"$\left(\frac{{{b.numerator}}}{{{b.denominator}}}\right)$ units",
    ]
    gold = rf"\frac{{{a.numerator}}}{{{a.denominator}}}"
    assert [ladder(gold, text) for text in spelt] == [a == b] * 3


@given(st.integers(-(10**9), 10**9), st.sampled_from([",", "{,}", r",\!", r"\,"]))
def test_thousands_separators(n: int, comma: str) -> None:
    written = f"{n:,}".replace(",", comma)
    assert ladder(str(n), written) is True
    assert ladder(str(n + 1), written) is False
    assert ladder(written, str(n)) is True


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_sets_ignore_order_and_tuples_keep_it(items: list[int], rng) -> None:
    shuffled = items.copy()
    rng.shuffle(shuffled)
    inner, other = ", ".join(map(str, items)), ", ".join(map(str, shuffled))
    assert ladder(rf"\{{{inner}\}}", rf"\{{{other}\}}") is True
    assert ladder(inner, rf"\{{{other}\}}") is True
    assert ladder(f"({inner})", f"({other})") is (items == shuffled)
    assert ladder(inner, f"{other}, 100") is False


@settings(max_examples=300)
@given(st.text(alphabet=r"0123456789+-*/^_=(){}[],.\fracsqtpi $%&x!", max_size=40))
def test_any_text_equals_itself_and_never_raises(text: str) -> None:
    empty = not tidy(text)
    assert ladder(text, text) is not empty
    assert not empty or ladder("3", text) is False


def test_canonical_keys_for_votes() -> None:
    assert len({canonical(x) for x in (r"\frac12", "1/2", "0.5", r"$\dfrac{2}{4}$", "50%")}) == 1
    assert canonical("1,000") == canonical("1000.0") == "1000"
    assert canonical(r"\text{Even}") == canonical("even")
    assert canonical("2") != canonical("-2")
