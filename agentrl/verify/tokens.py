r"""LaTeX and plain answers as one stream of canonical tokens.

First rung of the ladder: `tidy` reads a string once, left to right, and drops what never changes
an answer's value (math mode, `\left`, spacing, `\boxed`), renames synonyms (`\dfrac`, `\cdot`,
Unicode signs) and turns `\text{...}`, `%`, `$` and degrees into tokens of their own. Linear in the
length of the text; nothing is evaluated.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["num", "word", "cmd", "text", "unit", "sym", "space"]
"""What a token is: digits, letters, `\\command`, `\\text{...}`, a sign such as `%`, one character,
or (already collapsed) white space."""


class Token(NamedTuple):
    """One canonical token."""

    kind: Kind
    text: str
    """The canonical spelling; for "text" the wrapper's content, for "unit" one of `% $ deg`."""


SPACE = Token("space", " ")
THOUSANDS = Token("sym", "{,}")
"""A comma that can only separate thousands: `{,}`, `,\\!` or `\\,` between digit groups."""

MAX_GROUPS = 8
"""How many pairs of braces around a whole answer are taken off."""

_TOKEN = re.compile(
    r"""(?P<cmd>\\[A-Za-z]+|\\.)
      | (?P<num>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-][0-9]{2,}|[eE][0-9]+(?![0-9.]))?)
      | (?P<word>[A-Za-z]+)
      | (?P<space>\s+)
      | (?P<sym>.)""",
    re.VERBOSE | re.DOTALL,
)

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
        "÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "√": r"\sqrt ",
        "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "，": ",",
        "（": "(", "）": ")", "％": "%", "²": "^2", "³": "^3", "½": r"\frac12 ",
        "¼": r"\frac14 ", "¾": r"\frac34 ", "θ": r"\theta ", "\u200b": "", "\ufeff": "",
    }
)  # fmt: skip


def names(text: str) -> frozenset[str]:
    """The set of white-space separated names; a table that reads as prose."""
    return frozenset(text.split())


_DROPPED = names(
    r"""\left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr
    \displaystyle \textstyle \limits \boxed \fbox \( \) \[ \] \mathbf \boldsymbol \bf \bm
    \mathit \rm"""
)
_SPACING = frozenset(("\\;", "\\:", "\\ ", "\\>", "~", r"\quad", r"\qquad", r"\enspace"))
_TEXT = names(
    r"""\text \mbox \hbox \textbf \textrm \textit \textnormal \mathrm \operatorname \mathsf
    \texttt \emph"""
)
_RENAMED: dict[str, Token] = {
    r"\dfrac": Token("cmd", r"\frac"),
    r"\tfrac": Token("cmd", r"\frac"),
    r"\cfrac": Token("cmd", r"\frac"),
    r"\leq": Token("cmd", r"\le"),
    r"\leqslant": Token("cmd", r"\le"),
    r"\geq": Token("cmd", r"\ge"),
    r"\geqslant": Token("cmd", r"\ge"),
    r"\infin": Token("cmd", r"\infty"),
    r"\bigcup": Token("cmd", r"\cup"),
    r"\lbrace": Token("cmd", r"\{"),
    r"\rbrace": Token("cmd", r"\}"),
    r"\cdot": Token("sym", "*"),
    r"\times": Token("sym", "*"),
    r"\ast": Token("sym", "*"),
    r"\div": Token("sym", "/"),
    r"\lbrack": Token("sym", "["),
    r"\rbrack": Token("sym", "]"),
    r"\langle": Token("sym", "("),
    r"\rangle": Token("sym", ")"),
    r"\lparen": Token("sym", "("),
    r"\rparen": Token("sym", ")"),
    r"\$": Token("unit", "$"),
    r"\textdollar": Token("unit", "$"),
    r"\%": Token("unit", "%"),
    "%": Token("unit", "%"),
    "€": Token("unit", "€"),
    "£": Token("unit", "£"),
    "¥": Token("unit", "¥"),
    r"\degree": Token("unit", "deg"),
    r"\degrees": Token("unit", "deg"),
    r"\circ": Token("cmd", r"\circ"),
}


def tokenise(text: str) -> list[Token]:
    """Raw tokens of `text`, Unicode signs spelt as LaTeX; white space collapsed per run."""
    out: list[Token] = []
    for match in _TOKEN.finditer(text.translate(_UNICODE)):
        kind = match.lastgroup
        assert kind in ("cmd", "num", "word", "space", "sym")
        out.append(SPACE if kind == "space" else Token(kind, match.group()))
    return out


def tidy(text: str) -> list[Token]:
    """Canonical tokens of an answer; no leading, trailing or repeated space tokens."""
    tokens = join_thousands(_squash(_rewrite(tokenise(text))), THOUSANDS)
    for _ in range(MAX_GROUPS):
        if not _is_group_alone(tokens):
            break
        tokens = _squash(tokens[1:-1])
    return tokens


def _is_group_alone(tokens: list[Token]) -> bool:
    """Whether one pair of braces holds everything."""
    if len(tokens) < 2 or tokens[0].text != "{" or tokens[-1].text != "}":
        return False
    depth = 0
    for token in tokens[:-1]:
        depth += (token.text == "{") - (token.text == "}")
        if depth == 0:
            return False
    return True


def spell(tokens: list[Token]) -> str:
    """Canonical string of a token list, spaces dropped: equal strings mean equal answers."""
    parts: list[str] = []
    for token in tokens:
        if token.kind == "text":
            parts.append(r"\text{" + " ".join(token.text.split()) + "}")
        elif token.kind == "unit":
            parts.append(rf"\{token.text}")
        elif token.kind != "space":
            # a command followed by a letter must not read as a longer command
            glue = " " if parts and token.text[0].isalpha() and parts[-1][-1].isalpha() else ""
            parts.append(glue + token.text)
    return "".join(parts)


def write(tokens: list[Token]) -> str:
    """LaTeX that reads as these tokens."""
    signs = {"deg": r"^{\circ}", "%": r"\%", "$": r"\$"}
    parts: list[str] = []
    for token in tokens:
        if token.kind == "text":
            parts.append(rf"\text{{{token.text}}}")
        elif token.kind == "unit":
            parts.append(signs.get(token.text, token.text))
        else:
            parts.append(token.text + " " * (token.kind == "cmd"))
    return "".join(parts)


def join_thousands(tokens: list[Token], comma: Token) -> list[Token]:
    """Join `1 comma 234` (groups of exactly three digits, no spaces) into the number `1234`."""
    out: list[Token] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        i += 1
        if token.kind == "num" and token.text.isdigit() and len(token.text) <= 3:
            digits = [token.text]
            while i + 1 < len(tokens) and tokens[i] == comma and _is_group(tokens[i + 1]):
                digits.append(tokens[i + 1].text)
                i += 2
                if "." in digits[-1]:
                    break
            token = Token("num", "".join(digits))
        out.append(token)
    return out


def _is_group(token: Token) -> bool:
    """Three digits, or three digits and decimals."""
    return token.kind == "num" and token.text.isascii() and len(token.text.split(".")[0]) == 3


def _rewrite(raw: list[Token]) -> list[Token]:
    """Drop, rename and wrap; each raw token is read once."""
    out: list[Token] = []
    i = 0
    while i < len(raw):
        token = raw[i]
        step = 1
        if token.text in _TEXT:
            content, step = _text_argument(raw, i + 1)
            out.extend(content)
        elif token.text == "^" and (degrees := _degree_length(raw, i)):
            step = degrees
            out.append(Token("unit", "deg"))
        elif token.text == "," and _next(raw, i + 1).text == "\\!":
            # `10,\! 080`: spaces after the negative space are typesetting too
            step = _skip_spaces(raw, i + 2) - i
            out.append(THOUSANDS)
        elif token.text == "\\,":
            out.append(THOUSANDS if _between_groups(out, raw, i) else SPACE)
        elif [t.text for t in raw[i : i + 3]] == ["{", ",", "}"]:
            step = 3
            out.append(THOUSANDS)
        elif token.text == "*" and _next(raw, i + 1).text == "*":
            step = 2
            out.append(Token("sym", "^"))
        elif token.text in _SPACING:
            out.append(SPACE)
        elif token.text not in _DROPPED and token.text not in ("$", "\\!"):
            out.append(_RENAMED.get(token.text, token))
        i += step
    return out


def _squash(tokens: list[Token]) -> list[Token]:
    """Collapse runs of spaces, drop those at both ends."""
    out: list[Token] = []
    for token in tokens:
        if token.kind != "space" or (out and out[-1].kind != "space"):
            out.append(token)
    if out and out[-1].kind == "space":
        out.pop()
    return out


def _next(raw: list[Token], i: int) -> Token:
    return raw[i] if i < len(raw) else SPACE


def _skip_spaces(raw: list[Token], i: int) -> int:
    while i < len(raw) and raw[i].kind == "space":
        i += 1
    return i


def _between_groups(out: list[Token], raw: list[Token], i: int) -> bool:
    """`10\\,080` separates thousands; `x\\,y` is a thin space."""
    return bool(out) and out[-1].kind == "num" and _is_group(_next(raw, i + 1))


def _degree_length(raw: list[Token], i: int) -> int:
    """How many tokens from `^` on spell `^\\circ` or `^{\\circ}`; 0 when they do not."""
    if _next(raw, i + 1).text == r"\circ":
        return 2
    j = _skip_spaces(raw, i + 2)
    if _next(raw, i + 1).text == "{" and _next(raw, j).text == r"\circ":
        j = _skip_spaces(raw, j + 1)
        return j + 1 - i if _next(raw, j).text == "}" else 0
    return 0


def _text_argument(raw: list[Token], i: int) -> tuple[list[Token], int]:
    """Tokens for a text command's argument, and how many raw tokens it took in all.

    Text with digits, such as `\\text{5 apples}`, is read as if it had no wrapper.
    """
    start = _skip_spaces(raw, i)
    if _next(raw, start).text != "{":
        return [], start - i + 1
    depth, j = 1, start + 1
    while j < len(raw) and depth:
        depth += {"{": 1, "}": -1}.get(raw[j].text, 0)
        j += 1
    inner = raw[start + 1 : j - 1 if depth == 0 else j]
    took = j - i + 1
    if any(token.kind == "num" for token in inner):
        return [SPACE, *_squash([_RENAMED.get(t.text, t) for t in inner])], took
    return [Token("text", "".join(token.text for token in inner))], took
