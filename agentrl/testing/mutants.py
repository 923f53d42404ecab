"""Wrong programs made from right ones by one small change, for testing graders and rewards.

The changes are those of mutation testing (DeMillo, Lipton, Sayward 1978): an operator, a comparison,
a connective or a constant is exchanged. Some mutants are equivalent to the original.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitXor: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def mutants(source: str, function: str) -> Iterator[str]:
    """Every one-change mutant of the last module-level `function` in `source`, whole programs.

    Raises SyntaxError when `source` is no Python, ValueError when it has no such function.
    """
    tree = ast.parse(source)
    found = [
        n for n, s in enumerate(tree.body) if isinstance(s, ast.FunctionDef) and s.name == function
    ]
    if not found:
        raise ValueError(f"there is no function {function!r}")
    places = len(_nodes(tree.body[found[-1]]))
    for place in range(places):
        changed = copy.deepcopy(tree)
        if _change(_nodes(changed.body[found[-1]])[place]):
            yield ast.unparse(ast.fix_missing_locations(changed))


def _nodes(function: ast.stmt) -> list[ast.AST]:
    """Nodes of the body, the docstring excepted."""
    assert isinstance(function, ast.FunctionDef)
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return [node for part in function.body[documented:] for node in ast.walk(part)]


def _change(node: ast.AST) -> bool:
    """Change a node in place; False when it is of a kind that is left alone."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _BINARY:
            node.op = _BINARY[type(op)]()
        case ast.Compare(ops=[op, *rest]) if type(op) in _COMPARED:
            node.ops = [_COMPARED[type(op)](), *rest]
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
        case ast.Constant(value=str(value)):
            node.value = value + "x"
        case _:
            return False
    return True


__all__ = ["mutants"]
