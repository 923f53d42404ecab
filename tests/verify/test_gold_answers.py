"""Real gold answers against themselves, their re-formatted equals, and near misses.

The rewrites below know nothing of the checker: they are plain string surgery on the gold, chosen
by the look of it. What the ladder leaves open goes to math-verify, and must come out right there.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from agentrl.verify import MathChecker, ladder

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
INTEGER = re.compile(r"-?\d+")
DECIMAL = re.compile(r"-?\d*\.\d+")
FRACTION = re.compile(r"(-?)\\d?frac\{?(\d+?)\}?\s*\{?(\d+)\}?")


def golds(name: str) -> list[str]:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {path.name} beside the checkout")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    key = {"math500": "answer", "aime24": "output", "aime25": "output"}.get(name)
    if key:
        return [str(row[key]) for row in rows]
    return [row["answer"].split("####")[1].strip() for row in rows]


def grouped(n: int, comma: str) -> str:
    return f"{n:,}".replace(",", comma)


def any_equals(gold: str) -> Iterator[str]:
    """Rewrites that fit every answer."""
    yield from (rf"\boxed{{{gold}}}", f"${gold}$", rf"\({gold}\)", f"  {gold} ", f"{gold}.")
    yield from (rf"\displaystyle {gold}", f"The answer is {gold}", rf"{{{gold}}}", f"${gold}$.")
    yield from (rf"\text{{The answer is }} {gold}", f"Answer: ${gold}$", f"\n{gold}\n")
    if r"\text" not in gold:
        yield gold.replace("(", r"\left(").replace(")", r"\right)").replace(r"\left\left", r"\left")
    yield gold.replace(r"\left", "").replace(r"\right", "")
    yield gold.replace(r"\frac", r"\dfrac").replace(r"\ddfrac", r"\dfrac")
    yield gold.replace(r"\dfrac", r"\frac").replace(r"\frac", r"\tfrac")
    yield gold.replace(r"\pi", "π").replace(r"\infty", "∞").replace("-", "−")
    if r"\text" not in gold and r"\mbox" not in gold and not re.search(r"\\[a-z]+ [a-z]", gold):
        yield gold.replace(" ", "")
    spaced = re.sub(r"([-+=,])(?!\\)", r" \1 ", gold)
    if "," not in gold or not re.search(r"\d,\d{3}", gold.replace(r"\!", "")):
        yield spaced


def integer_equals(n: int) -> Iterator[str]:
    yield from (f"{n}.0", f"{n}.00", rf"\frac{{{2 * n}}}{{2}}", f"{3 * n}/3", f"x={n}", f"x = {n}")
    yield from (rf"{n} \text{{ units}}", f"{n} apples", f"{n} dollars per day", rf"{n}^\circ")
    yield from (rf"\${n}", f"${n}", rf"\text{{{n}}}", rf"\mathrm{{{n}}}", rf"{n}\text{{ cm}}^2")
    yield from (f"n = {n} apples.", f"{n} square inches", f"{n}°", rf"{n}\%" if n else "0")
    if abs(n) >= 1000:
        for comma in (",", "{,}", r",\!", r"{,}\!", r"\,"):
            if comma != r"{,}\!":
                yield grouped(n, comma)
        yield "$" + grouped(n, ",") + ".00"
    if n >= 0:
        yield from (f"+{n}", f"{n:04d}" if n else "0")


def fraction_equals(sign: str, top: int, bottom: int) -> Iterator[str]:
    value = Fraction(top, bottom)
    yield from (f"{sign}{top}/{bottom}", rf"{sign}\dfrac{{{top}}}{{{bottom}}}")
    yield from (rf"\frac{{{sign}{top}}}{{{bottom}}}", rf"{sign}\frac{{{2 * top}}}{{{2 * bottom}}}")
    yield from (rf"{sign}\frac {{{top}}} {{{bottom}}}", f"{sign}{top} / {bottom}")
    yield from (rf"{sign}\left(\frac{{{top}}}{{{bottom}}}\right)", f"{sign}({top}/{bottom})")
    if top < 10 and bottom < 10:
        yield from (rf"{sign}\frac{top}{bottom}", rf"{sign}\tfrac {top}{bottom}")
    if 10**12 % value.denominator == 0:
        decimal = f"{float(value):.12f}".rstrip("0")
        yield from (f"{sign}{decimal}", f"{sign}{decimal}0", f"{sign}{decimal.lstrip('0')}")
    else:
        yield f"{sign}{float(value):.10f}"
    if top > bottom and top % bottom:
        whole, rest = divmod(top, bottom)
        yield from (rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}", f"{sign}{whole} {rest}/{bottom}")


def decimal_equals(gold: str) -> Iterator[str]:
    value = Fraction(gold)
    yield from (gold + "0", f"{value.numerator}/{value.denominator}", f"{float(value)!r}")
    yield from (rf"\frac{{{value.numerator}}}{{{value.denominator}}}", f"{gold} \\text{{ m}}")
    yield gold.lstrip("0") if gold.startswith("0") else "0" + gold.lstrip("0").rjust(2, "0")


def other_equals(gold: str) -> Iterator[str]:
    """Rewrites for structures, roots, units and algebra, each where its look allows."""
    if "pmatrix" in gold:
        tight = re.sub(r"\s*(\\\\|&)\s*", r"\1", gold)
        yield from (gold.replace("pmatrix", "bmatrix"), tight, tight.replace("pmatrix", "bmatrix"))
        yield re.sub(r"(-?)(\d+)/(\d+)", r"\1\\frac{\2}{\3}", gold)
        yield r"\left[" + gold.replace("{pmatrix}", "{matrix}", 2) + r"\right]"
    if re.fullmatch(r"\\left[\[(].*|[\[(].*[\])]", gold) and gold.count("(") < 2:
        yield re.sub(r",\s*", ",  ", gold)
        yield re.sub(r"\s*,\s*", r",\\,", gold)
        yield gold.replace(r"\left", "").replace(r"\right", "").replace(" ", "")
    if gold.endswith(r"^\circ"):
        bare = gold.removesuffix(r"^\circ")
        yield from (bare, bare + "°", bare + " degrees", bare + r"\text{ degrees}")
        yield from (bare + r"^{\circ}", bare + r"^{ \circ }", rf"\angle A = {gold}", bare + ".0")
    if single := re.search(r"\\sqrt\{(\d)\}", gold):
        yield gold.replace(single.group(), rf"\sqrt{single.group(1)}")
    if r"\sqrt" in gold:
        yield re.sub(r"\\sqrt\{(\d+)\}", r"{\1}^{1/2}", gold)
        yield re.sub(r"\\sqrt\s*\{", r"\\sqrt {", gold)
    if text := re.fullmatch(r"\\text\{(\(?)(\w+)\)?\}", gold):
        word = text.group(2)
        yield from (
            word,
            rf"\text{{ {word} }}",
            rf"\textbf{{{word}}}",
            rf"\mathrm{{{word}}}",
            f"{word}.",
        )
        if text.group(1):
            yield from (f"({word})", rf"\textbf{{({word})}}", rf"({word})\ \text{{because}}")
        else:
            yield from (word.lower(), word.upper())
    if re.fullmatch(r"-?\d+(, ?-?\d+)+", gold) and not re.fullmatch(r"\d{1,3}(,\d{3})+", gold):
        parts = re.split(r", ?", gold)
        yield from (", ".join(reversed(parts)), " and ".join(parts), r" \text{ or } ".join(parts))
        yield from (
            r"\{" + ",".join(parts) + r"\}",
            ", ".join(f"x = {p}" for p in parts),
            f"x={gold}",
        )
    if numeral := re.fullmatch(r"(\d+)_\{?(\d)\}?", gold):
        yield from (rf"{numeral[1]}_{{{numeral[2]}}}", f"{numeral[1]}_{numeral[2]}", rf"{gold}.")
    if r"\cup" in gold:
        yield from (" \\cup ".join(reversed(gold.split(" \\cup "))), gold.replace(r"\cup", "∪"))
    if re.fullmatch(r"[a-zA-Z] = .*|x=5", gold):
        yield gold.split("=")[1]
    if re.fullmatch(r"[-\w^+ ]+", gold) and "+ " in gold and "_" not in gold:
        terms = gold.replace("- ", "+ -").split("+ ")
        yield " + ".join(reversed([term.strip() for term in terms])).replace("+ -", "- ")
        yield re.sub(r"(\d)([a-z])", r"\1 \\cdot \2", gold)
        yield re.sub(r"(\d)([a-z])", r"\1*\2", gold).replace("^", "**")
    if unit := re.fullmatch(r"(\d+)\s*\\mbox\{ (\w+)\}\^2", gold):
        yield from (unit[1], f"{unit[1]} square {unit[2]}", rf"{unit[1]}\text{{ {unit[2]}}}^{{2}}")


def equals(gold: str) -> set[str]:
    found = [*any_equals(gold), *other_equals(gold)]
    if INTEGER.fullmatch(gold.replace(",", "").replace("\\!", "").replace(" ", "")) and (
        "," not in gold or re.fullmatch(r"\d{1,3}(,(\\!)? ?\d{3})+", gold)
    ):
        found += integer_equals(int(re.sub(r"[^-\d]", "", gold)))
    elif DECIMAL.fullmatch(gold):
        found += decimal_equals(gold)
    elif match := FRACTION.fullmatch(gold):
        found += fraction_equals(match[1], int(match[2]), int(match[3]))
    return set(found) - {gold}


def near_misses(gold: str) -> set[str]:
    """Wrong answers that look like the gold."""
    found: list[str] = []
    if INTEGER.fullmatch(gold):
        n = int(gold)
        found += [
            str(n + 1),
            str(n - 1),
            f"{n}.5",
            f"{n}, {n + 1}",
            f"{n + 1} apples",
            f"1/{n}" * (abs(n) > 1),
        ]
        found += (
            [str(-n), f"{n}0", f"0.{abs(n)}", rf"\sqrt{{{abs(n)}}}" * (n > 1), f"({n}, 7)"]
            if n
            else []
        )
        found += [f"{n}x", f"{n} \\pi", f"{n}i", f"{n} million", f"[{n}, {n + 1}]"] if n else []
        found += [f"{n}.000001", f"{n}^2" if abs(n) > 1 else "-2"]
    elif match := FRACTION.fullmatch(gold):
        sign, top, bottom = match[1], int(match[2]), int(match[3])
        found += [f"{sign}{top}{bottom}", f"{sign}{bottom}/{top}", f"{sign}{top + 1}/{bottom}"]
        found += [f"{sign}{top}/{bottom + 1}", f"{sign}{top}.{bottom}", str(top), str(bottom)]
        found += [
            f"{'' if sign else '-'}{top}/{bottom}",
            f"{top}, {bottom}",
            f"{top / bottom:.2f}1",
        ]
    elif DECIMAL.fullmatch(gold):
        found += [
            f"-{gold}",
            gold.replace(".", ""),
            gold + "1",
            str(float(gold) * 10),
            f"{gold}, 1",
        ]
        found += [str(Fraction(gold) + 1), gold.replace(".", ",") if "." in gold else ""]
    elif re.fullmatch(r"\\left[(\[].*|[(\[][^()]*[)\]]", gold) and "," in gold:
        left, right = gold.split(",", 1)
        inner_left = left.replace(r"\left", "")[1:].strip()
        inner_right = right.replace(r"\right", "")[:-1].strip()
        found += [f"({inner_right}, {inner_left})", f"({inner_left}, {inner_right}, 0)", inner_left]
        if gold.count(",") == 1:
            closed = "[" if "(" in gold[:6] else "("
            found += [f"{closed}{inner_left}, {inner_right}{gold[-1]}"]
            found += [f"{gold[0]}{inner_left}, {inner_right}{']' if gold[-1] == ')' else ')'}"] * (
                gold[0] in "(["
            )
    elif "pmatrix" in gold:
        found += [gold.replace(r" \end", r" \\ 0 \end"), re.sub(r"\d", "7", gold, count=1)]
        found += [gold.replace(r"\\", "&") if r"\\" in gold else ""]
    elif text := re.fullmatch(r"\\text\{\(?(\w+)\)?\}", gold):
        found += [text[1] + "s", "(F)", "no", "7", text[1][::-1] + "x"]
    elif gold.endswith(r"^\circ"):
        n = int(gold.removesuffix(r"^\circ"))
        found += [rf"{n + 1}^\circ", f"{n}0", rf"-{n}^\circ", f"{n} cm"]
    else:
        found += [f"-({gold})"] * (
            "," not in gold and "=" not in gold and "_" not in gold and "cup" not in gold
        )
        found += [
            re.sub(r"\d", lambda d: str((int(d[0]) + 1) % 10), gold, count=1),
            f"{gold}, 99",
            "0.123",
        ]
    wrong = {miss for miss in found if miss and miss != gold}
    return {miss for miss in wrong if not (r"\pm" in gold and miss.startswith("-("))}


def settle(pairs: list[tuple[str, str]], expected: bool, label: str) -> None:
    """Judge all pairs by the ladder, the open ones by math-verify; print shares, list what fails."""
    by_ladder = {pair: ladder(*pair) for pair in pairs}
    open_pairs = [pair for pair, verdict in by_ladder.items() if verdict is None]
    failed = [pair for pair, verdict in by_ladder.items() if verdict is (not expected)]
    with MathChecker(deadline_s=10.0) as checker:
        for pair in open_pairs:
            if checker.check_now(*pair).correct is not expected:
                failed.append(pair)
    share = 1 - len(open_pairs) / max(len(by_ladder), 1)
    print(f"{label}: {len(by_ladder)} pairs, ladder decided {share:.2%}; symbolic: {open_pairs}")
    assert failed == []


@pytest.mark.parametrize("name", ["math500", "gsm8k_test", "aime24", "aime25"])
def test_gold_equals_itself_and_its_rewrites(name: str) -> None:
    answers = sorted(set(golds(name)))
    assert all(ladder(gold, gold) is True for gold in answers)
    pairs = [(gold, other) for gold in answers for other in sorted(equals(gold))]
    assert len(pairs) > 15 * len(answers)
    settle(pairs, True, f"{name} equals")


@pytest.mark.parametrize("name", ["math500", "gsm8k_test", "aime24", "aime25"])
def test_near_misses_are_rejected(name: str) -> None:
    answers = sorted(set(golds(name)))
    pairs = [(gold, miss) for gold in answers for miss in sorted(near_misses(gold))]
    assert len(pairs) > 4 * len(answers)
    settle(pairs, False, f"{name} near misses")


def test_all_of_gsm8k_train_by_the_ladder_alone() -> None:
    answers = sorted(set(golds("gsm8k_train")))
    verdicts = Counter[bool | None]()
    for gold in answers:
        verdicts.update(ladder(gold, other) for other in {gold, *equals(gold)})
        verdicts.update(
            None if (verdict := ladder(gold, miss)) is None else not verdict
            for miss in near_misses(gold)
        )
    print(f"gsm8k_train: {verdicts.total()} pairs over {len(answers)} golds: {dict(verdicts)}")
    assert verdicts[False] == 0
    assert verdicts[None] <= 0.001 * verdicts.total()


MATH500_TWINS = {
    ("(-2,1)", "-2,1"), ("-2,1", "1,-2"), ("10,\\!080", "10080"), ("120", "120^\\circ"),
    ("15", "15\\mbox{ cm}^2"), ("2 \\sqrt{5}", "2\\sqrt{5}"), ("30", "30^\\circ"), ("36", "36^\\circ"),
    ("36", "\\$36"), ("5", "x=5"), ("90", "90^\\circ"), ("\\frac14", "\\frac{1}{4}"),
}  # fmt: skip
"""Different spellings of one answer, order and unit aside; found in both directions."""
MATH500_BASES = {
    ("36", "40_9"), ("36^\\circ", "40_9"), ("\\$36", "40_9"), ("42", "52_8"), ("54", "204_5"),
    ("40_9", "40"),
}  # fmt: skip
"""Equal through a base: a numeral's value, or a gold numeral's bare digits. One direction only."""


@pytest.mark.parametrize("name", ["math500", "gsm8k_train", "gsm8k_test", "aime24", "aime25"])
def test_a_neighbours_gold_is_not_accepted(name: str) -> None:
    """Pairs of different golds: all of aime, a seeded sample of 40,000 of the others."""
    answers = sorted(set(golds(name)))
    pairs = [(a, b) for a in answers for b in answers if a != b]
    pairs = random.Random(0).sample(pairs, min(len(pairs), 40_000))
    if name == "math500":
        twins = MATH500_TWINS | {(b, a) for a, b in MATH500_TWINS} | MATH500_BASES
        pairs = sorted({*pairs, *twins})
    else:
        twins = {(a, b) for a, b in pairs if a.replace(",", "") == b.replace(",", "")}
    verdicts = {pair: ladder(*pair) for pair in pairs}
    counts = Counter(verdicts.values())
    print(f"{name}: {len(answers)} golds, {dict(counts)}, truly equal {sorted(twins)}")
    assert {pair for pair, verdict in verdicts.items() if verdict} == twins
    assert counts[None] <= 0.01 * len(pairs)
