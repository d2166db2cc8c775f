"""The derivatives that a backward pass needs, by SymPy's chain rule."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from attnspec.dsl.analysis import symbolic
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import PAIR, inline
from attnspec.dsl.ast import Apply, Contract, Expr, Kind, Literal, Read, Spec
from attnspec.dsl.check_gradient import parts_with_gradient

_COMPARING = frozenset({"lt", "gt", "eq", "where", "step", "sign"})
_ARITHMETIC = frozenset({"add", "sub", "neg", "mul", "div", "float", "stopgrad"})
_ARGUMENTS = sp.symbols("x a b", real=True)
_VALUE = sp.Symbol("y", real=True)


def describe(spec: Spec) -> Iterator[Fact]:
    """The rule of every function of a pair, over its own value y where that is enough."""
    functions, dots = _functions(spec)
    if not dots and not functions:
        return
    rules = {op: rule(op) for op in functions if op in symbolic.DERIVATIVES}
    shown = [f"{op}' = {_text(found)}" for op, found in rules.items()]
    again = [op for op, found in rules.items() if _calls(found) - _COMPARING]
    yield Fact(
        "derivative",
        ", ".join(shown) or "linear in the dot products",
        "chain rule of SymPy on the score, with each function kept whole",
        f"exact backward; {', '.join(again)} needs another function there"
        if again
        else "exact backward, from the values that the forward form has",
    )


def rule(op: str) -> sp.Expr:
    """The derivative of a function to its first argument x, y being its value."""
    taken = {"where": 3, "min": 2, "max": 2, "pow": 2, "leaky_relu": 2, "clamp": 3, "mod": 2}
    found = symbolic.DERIVATIVES[op](_VALUE, *_ARGUMENTS[: taken.get(op, 1)])[0]
    return sp.Integer(found) if isinstance(found, int) else found


def _calls(found: sp.Expr) -> set[str]:
    return {type(node).op for node in found.atoms(symbolic.Fn)}


def _text(found: sp.Expr) -> str:
    short = {number: sp.Float(number, 5) for number in found.atoms(sp.Float)}
    return str(found.xreplace(short)).replace("fn_", "").replace("Where", "where")


def _learns(spec: Spec, expr: Expr) -> bool:
    """Whether a gradient through `expr` reaches an argument."""
    stack, seen = [expr], set[int]()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        declared = isinstance(node, Read) and spec.decl(node.name) is not None
        if declared and node.kind is Kind.FLOAT:
            return True
        stack.extend(parts_with_gradient(spec, node))
    return False


def _functions(spec: Spec) -> tuple[list[str], bool]:
    """The functions that stand between pairs' dot products and the result; whether any dot does."""
    roots = [r.expr for r in spec.returns] + ([] if spec.output is None else [spec.output])
    stack: list[Expr] = [inline(spec, root) for root in roots]
    alive, seen = list(stack), set[int]()
    found: dict[str, None] = {}
    dots = False
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Contract) and node.free >= PAIR:
            dots = True
            continue
        if isinstance(node, Apply) and node.free >= PAIR and node.kind is Kind.FLOAT:
            power = node.op == "pow" and isinstance(node.args[1], Literal)
            if node.op not in _ARITHMETIC and not power and _learns(spec, node):
                found[node.op] = None
        parts = [
            inline(spec, part) if isinstance(part, Read) else part
            for part in parts_with_gradient(spec, node)
        ]
        alive += parts
        stack.extend(parts)
    return sorted(found), dots
