"""Weights that split into a part of the query and a part of the key: linear-time forms exist.

Two shapes are recognised. A weight without a normaliser over the keys that is a sum of terms
`dot * f(i) * g(j)`: what is left of a term beside its dot product is split when the mixed second
derivative of its logarithm, d2 log w / di dj, is 0 (SymPy, on functions that have one). And a
recurrence whose step is linear in its own state: `S[t] = A S[t - 1] + write` with A a number, a
number per channel, or one of these times identity minus a product of two vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from attnspec.dsl.analysis.canonical import same
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import PAIR, inline
from attnspec.dsl.analysis.recurrence import Unread, normal_form
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Index,
    Literal,
    Normalize,
    Reduce,
    Spec,
    children,
)
from attnspec.dsl.build import apply, index
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.formula import formula

_MOST_TERMS, _MOST_NODES = 8, 60
_BUYS = "a chunked form in linear time is the same function (no kernel has it yet)"


def describe(spec: Spec) -> Iterator[Fact]:
    """The normal form of each recurrence, or the terms of a separable weight."""
    for state in spec.states:
        try:
            form = normal_form(spec, state)
        except Unread:
            continue
        yield Fact(
            f"recurrence {state.name}", form.shape, f"the step is linear: {form.shown}", _BUYS
        )
    terms = separated(spec)
    if terms:
        count = sum(term.count for term in terms)
        value = "dot * f(i) * g(j)" if count == 1 else f"sum of {count} terms dot * f(i) * g(j)"
        why = "; ".join(dict.fromkeys(t.proof for t in terms if t.proof))
        yield Fact("separable weight", value, why or "each factor knows one token", _BUYS)


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a weight: its dot product (if any), and why the rest splits, in how many."""

    dot: Expr | None
    proof: str = ""
    count: int = 1


def separated(spec: Spec) -> tuple[Term, ...]:
    """The separable terms of the weight over every pair, or over those with j <= i; else none."""
    if spec.states or spec.output is None or not _prefix(spec):
        return ()
    splitter = _Splitter(spec)
    try:
        sums = list(dict.fromkeys(_sums(inline(spec, spec.output))))
        if len(sums) != 1:
            return ()
        for inner in _sums(sums[0].body):  # the sum of a row, by which it is divided
            for factors in _expanded(_factors(inner.body)):
                splitter.term(factors)
        return tuple(splitter.term(factors) for factors in _expanded(_weight(sums[0].body)))
    except Unread:
        return ()


def _sums(expr: Expr) -> Iterator[Reduce]:
    """The outermost sums over keys of something of a pair; `Unread` for what is no sum."""
    if isinstance(expr, Reduce | Normalize) and expr.axes == ("j",) and expr.body.free >= PAIR:
        if not isinstance(expr, Reduce) or expr.op != "sum" or expr.where is not None:
            raise Unread
        yield expr
    else:
        for child in children(expr):
            yield from _sums(child)


def _prefix(spec: Spec) -> bool:
    """Whether keys take part everywhere, or exactly up to the query's position."""
    i, j = index("i"), index("j")
    return spec.mask is None or any(same(spec.mask, apply(op, j, i)) for op in ("le", "lt"))


def _weight(body: Expr) -> list[Expr]:
    """The factors of a summed product that depend on the query, as the values do not."""
    return [f for f in _factors(body) if "i" in f.free]


def _factors(expr: Expr) -> list[Expr]:
    match expr:
        case Apply(op="mul", args=args):
            return [f for a in args for f in _factors(a)]
        case Apply(op="div", args=(a, b)):
            return [*_factors(a), apply("div", Literal(1.0, kind=b.kind), b)]
        case Apply(op="neg", args=(a,)):
            return _factors(a)
    return [expr]


def _expanded(factors: list[Expr]) -> list[list[Expr]]:
    """A product of sums over pairs as a sum of products."""
    terms: list[list[Expr]] = [[]]
    for factor in factors:
        parts = [factor]
        match factor:
            case Apply(op="add" | "sub", args=args) if factor.free >= PAIR:
                parts = list(args)
        terms = [[*term, *_factors(part)] for term in terms for part in parts]
        if len(terms) > _MOST_TERMS:
            raise Unread
    return terms


@dataclass(slots=True)
class _Splitter:
    spec: Spec
    functions: dict[Expr, Any] = field(default_factory=dict)

    def term(self, factors: list[Expr]) -> Term:
        """One summand; `Unread` where it is not proved to split."""
        dots = [f for f in factors if isinstance(f, Contract) and f.free >= PAIR]
        rest = [f for f in factors if f.free >= PAIR and f not in dots]
        if len(dots) > 1 or any(
            n.left.free >= PAIR or n.right.free >= PAIR for n in dots if isinstance(n, Contract)
        ):
            raise Unread
        dot = dots[0] if dots else None
        if not rest:
            return Term(dot)
        prover = Prover(self.spec)
        product = sp.Mul(*[self.form(f, prover) for f in rest])
        parts = sp.Add.make_args(sp.expand(sp.expand_trig(sp.expand(product))))
        if len(parts) > _MOST_TERMS or not all(splits(p) for p in parts):
            raise Unread
        shown = " * ".join(formula(f) for f in rest)
        expanded = "" if len(parts) == 1 else " for each term of its expansion"
        return Term(dot, f"d2 log({shown}) / di dj = 0{expanded}", len(parts))

    def form(self, expr: Expr, prover: Prover) -> Any:
        """`expr` as a function of real i and j; `Unread` for what has no derivatives."""
        if not expr.free >= PAIR and not isinstance(expr, Index | Literal):
            return self._opaque(expr, prover)
        match expr:
            case Index(axis="i" | "j" as axis):
                return sp.Symbol(axis, real=True)
            case Literal(value=value):
                return sp.Rational(value) if isinstance(value, int) else sp.Float(value)
            case Apply(op="abs" | "max" | "min" | "relu" as op, args=args):
                return self._one_branch(op, args, prover)
            case Apply(op=op, args=args) if op in _SMOOTH:
                return _SMOOTH[op](*(self.form(a, prover) for a in args))
        raise Unread

    def _one_branch(self, op: str, args: tuple[Expr, ...], prover: Prover) -> Any:
        """What a kinked function is where the mask leaves one of its branches."""
        known = prover.at_pair(prover.start(), "i", "j")
        match op, args:
            case (("abs" | "relu"), (x,)) if prover.nonnegative(x, known):
                return self.form(x, prover)
            case "abs", (x,) if prover.nonnegative(apply("neg", x), known):
                return -self.form(x, prover)
            case (("max" | "min"), (a, b)):
                larger = a if prover.holds(apply("ge", a, b), known) else None
                larger = b if larger is None and prover.holds(apply("ge", b, a), known) else larger
                if larger is not None:
                    smaller = b if larger is a else a
                    return self.form(larger if op == "max" else smaller, prover)
        raise Unread

    def _opaque(self, expr: Expr, prover: Prover) -> Any:
        """A function of one token, or of none, without looking inside."""
        if expr not in self.functions:
            name = f"f{len(self.functions)}"
            side = expr.free & PAIR
            if side:
                self.functions[expr] = sp.Function(name)(sp.Symbol(*side, real=True))
            else:
                positive = prover.positive(expr, prover.start()) or None
                self.functions[expr] = sp.Symbol(name, positive=positive, real=True)
        return self.functions[expr]


_SMOOTH: dict[str, Any] = {
    "add": sp.Add,
    "sub": lambda a, b: a - b,
    "neg": lambda a: -a,
    "mul": sp.Mul,
    "div": lambda a, b: a / b,
    "pow": sp.Pow,
    "exp": sp.exp,
    "exp2": lambda a: sp.Pow(2, a),
    "log": sp.log,
    "sqrt": sp.sqrt,
    "sin": sp.sin,
    "cos": sp.cos,
}


def splits(product: Any) -> bool:
    """Whether a smooth function of i and j is f(i) * g(j): d2 log / di dj is 0."""
    if sp.count_ops(product) > _MOST_NODES:
        return False
    i, j = sp.Symbol("i", real=True), sp.Symbol("j", real=True)
    mixed = product * sp.diff(product, i, j) - sp.diff(product, i) * sp.diff(product, j)
    return bool(sp.expand(mixed) == 0)
