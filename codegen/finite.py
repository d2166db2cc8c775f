"""Whether a number is finite wherever it is computed: at places that nobody reads, too.

There a gradient of 0 comes back, and a product would pass it on as 0 times the other factor: what
nobody reads has derivative 0, however large it is.
"""

from __future__ import annotations

import math

from attnspec.dsl.ast import (
    OPS,
    REDUCTIONS,
    Apply,
    Expr,
    Kind,
    Literal,
    Normalize,
    Rank,
    Read,
    Reduce,
    Spec,
    children,
    walk,
)
from attnspec.dsl.check_interval import TOP, Interval
from attnspec.dsl.check_known import Known
from attnspec.dsl.check_prover import Prover


class Finite:
    """What is finite wherever it is computed, of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._prover = Prover(spec)
        self._known: dict[str, bool] = {}  # of definitions

    def __call__(self, expr: Expr) -> bool:
        """Whether finite tensors make `expr` finite, short of sums, products and powers of large
        numbers."""
        if isinstance(expr, Literal):
            return math.isfinite(expr.value)
        if expr.kind is not Kind.FLOAT or isinstance(expr, Normalize | Rank):
            return True
        if isinstance(expr, Read):
            return self._definition(expr.name)
        return not _has_pole(self._prover, expr) and all(map(self, children(expr)))

    def _definition(self, name: str) -> bool:
        if name not in self._known:
            found = self._prover.spec.definition(name)
            self._known[name] = found is None or self(found.expr)
        return self._known[name]


def _said(node: Expr) -> bool:
    """Whether a node is as the language has it, and so as the ranges of expressions know it."""
    match node:
        case Literal(value=value):
            return math.isfinite(value)
        case Apply(op="add" | "mul", args=args):
            return len(args) == 2
        case Apply(op=op):
            return op in OPS
        case Reduce(op=op):
            return op in REDUCTIONS
    return True


def _has_pole(prover: Prover, expr: Expr) -> bool:
    """Whether an operation may take finite numbers to an infinite one, or to none."""

    def of(part: Expr) -> Interval:
        return prover.range(part, Known()) if all(map(_said, walk(part))) else TOP

    match expr:
        case Reduce(op="amax" | "amin" | "logsumexp"):
            return expr.where is not None or expr.mask is not None  # of nothing they are infinite
        case Apply(op="sqrt", args=(x,)):
            return of(x).lo < 0
        case Apply(op="rsqrt" | "log" | "log2", args=(x,)):
            return of(x).lo <= 0
        case Apply(op="log1p", args=(x,)):
            return of(x).lo <= -1
        case Apply(op="div", args=(_, x)):
            return bool(x.free) and of(x).lo <= 0 <= of(x).hi
        case Apply(op="pow", args=(x, Literal(value=exponent))):
            return exponent < 0 or (not float(exponent).is_integer() and of(x).lo < 0)
        case Apply(op="pow", args=(Literal(value=x), _)):
            return x <= 0
        case Apply(op="pow"):
            return True
    return False
