"""Wrong programs made from right ones by one small change, for testing graders and rewards.

The changes are those of mutation testing (DeMillo, Lipton, Sayward 1978): an operator, comparison,
connective or constant is exchanged, a filter turned round, a call around a returned value or an
argument taken away. Some mutants are equivalent to the original.
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
    for change in (_exchange, _strip):
        for place in range(places):
            changed = copy.deepcopy(tree)
            if change(_nodes(changed.body[found[-1]])[place]):
                yield ast.unparse(ast.fix_missing_locations(changed))


def _nodes(function: ast.stmt) -> list[ast.AST]:
    """Nodes of the body, the docstring excepted."""
    assert isinstance(function, ast.FunctionDef)
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return [node for part in function.body[documented:] for node in ast.walk(part)]


def _exchange(node: ast.AST) -> bool:
    """Exchange an operator or a constant in place; False for a node of another kind."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _BINARY:
            node.op = _BINARY[type(op)]()
        case ast.Compare(ops=[op, *rest]) if type(op) in _COMPARED:
            node.ops = [_COMPARED[type(op)](), *rest]
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.comprehension(ifs=[test, *rest]):
            node.ifs = [ast.UnaryOp(ast.Not(), test), *rest]
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
        case ast.Constant(value=str(value)):
            node.value = value + "x"
        case _:
            return False
    return True


def _strip(node: ast.AST) -> bool:
    """Take one call away: `return len(x)` or `x.strip()` returns `x`, `f(g(x))` becomes `f(x)`."""
    match node:
        case ast.Return(value=ast.Call(func=ast.Attribute(value=kept)) as call) if not call.args:
            node.value = kept
        case ast.Return(value=ast.Call(func=ast.Name(), args=[kept, *_])):
            node.value = kept
        case ast.Call(args=[ast.Call(func=ast.Name(), args=[kept]), *rest]):
            node.args = [kept, *rest]
        case _:
            return False
    return True


__all__ = ["mutants"]
