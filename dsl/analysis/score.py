"""Facts of a softmax logit: what lets a kernel compute less of it.

A softmax does not see what is the same for a whole row, so such terms need not be computed for
every pair; a logit that is a positive number times a dot product has its maximum where the
dot product has; and one that lies between two numbers needs no maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import PAIR, inline
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.analysis.products import products
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Form,
    Index,
    Kind,
    Literal,
    Normalize,
    Read,
    Spec,
    walk,
)
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.formula import formula

_ONE = Literal(1.0, kind=Kind.FLOAT)


@dataclass(frozen=True, slots=True)
class Distance:
    """A sum of positions `of`, which enters the logit as a term of its own; it grows by `step`
    a query, so that `of` at some query, plus step * (i - that query), is the same."""

    of: Expr
    step: int

    def at(self, axis: str) -> Expr:
        """`of` with the query's position read as `axis`."""
        return _replaced(self.of, axis)


@dataclass(frozen=True, slots=True)
class Score:
    """What is proved of a softmax logit.

    `constant`: summands that are the same for a whole row. `distances`: sums of positions in the
    other summands. `factor`: what remains is a dot product times this number of the call or of a
    head, which is above 0. `range`: the logit lies between these numbers of the call; `gentle`
    where it is, besides, one number times a tanh.
    """

    constant: tuple[Expr, ...] = ()
    distances: tuple[Distance, ...] = ()
    factor: Expr | None = None
    range: tuple[Expr, Expr] | None = None
    gentle: bool = False


def score_of(spec: Spec, logit: Expr, sink: bool = False) -> Score:
    """The facts of an inlined softmax logit. A sink sees what is the same for a whole row, and has
    no bound of its own."""
    prover = Prover(spec)
    if sink:
        return Score(factor=_factor(prover, logit))
    terms = list(summands(logit))
    found = _range(prover, logit)
    constant: tuple[Expr, ...] = ()
    if found is None:
        constant = tuple(t for t in terms if "j" not in t.free and _apart(t, terms))
    kept = [t for t in terms if t not in constant]
    distances = [d for d in map(_distance, kept) if d is not None]
    factor = _factor(prover, kept[0]) if len(kept) == 1 else None
    gentle = isinstance(_peeled(logit), Apply) and _op(_peeled(logit)) == "tanh"
    return Score(
        constant, tuple(dict.fromkeys(distances)), factor, found, found is not None and gentle
    )


def describe(spec: Spec) -> Iterator[Fact]:
    """What is known of the output's logits, and what each fact buys."""
    if spec.output is not None:
        nodes = dict.fromkeys(walk(inline(spec, spec.output)))
        for node in nodes:
            if isinstance(node, Normalize) and node.op == "softmax" and node.axes == ("j",):
                logit = coordinates(node.body, spec)
                yield from _described(score_of(spec, logit, node.sink is not None))


def _described(found: Score) -> Iterator[Fact]:
    gone = [formula(t) for t in found.constant]
    gone += [f"the query's part of {formula(d.of)}" for d in found.distances]
    if gone:
        yield Fact(
            "row-constant terms",
            ", ".join(gone),
            "its derivative with respect to the key's position is 0, and softmax removes it",
            "computed once a row, for the log-sum-exp alone",
        )
    if found.factor is not None:
        yield Fact(
            "affine score",
            f"{formula(found.factor)} times a dot product",
            "the factor depends on no pair and is positive",
            "scale and log2(e) in one multiply-add; the maximum is taken of the products",
        )
    if found.range is not None:
        low, high = (formula(end) for end in found.range)
        yield Fact(
            "bounded score",
            f"{low} .. {high}",
            "interval arithmetic on the score",
            "no running maximum and no rescaling where that fits the dtype",
        )


# Row-constant terms


def summands(expr: Expr) -> Iterator[Expr]:
    """The summands of a logit."""
    match expr:
        case Apply(kind=Kind.FLOAT, op="add", args=args):
            for arg in args:
                yield from summands(arg)
        case Apply(kind=Kind.FLOAT, op="sub", args=(a, b)):
            yield from summands(a)
            for term in summands(b):
                yield Apply("neg", (term,), kind=term.kind, span=term.span)
        case Apply(op="neg", args=(Apply(op="neg", args=(a,)),)):
            yield from summands(a)
        case _:
            yield from _multiplied_out(expr)


def _multiplied_out(expr: Expr) -> list[Expr]:
    """A number times a dot product of sums that depend on both tokens, product by product; anything
    else alone."""
    match expr:
        case Contract() if expr.free >= PAIR:
            signed = list(products(expr))
            return [p if n > 0 else Apply("neg", (p,), kind=Kind.FLOAT) for n, p in signed]
        case Apply(op="neg", args=(a,)) if expr.free >= PAIR:
            return [Apply("neg", (part,), kind=Kind.FLOAT) for part in _multiplied_out(a)]
        case Apply(op="mul", args=args) if sum(bool(a.free & PAIR) for a in args) == 1:
            place = next(n for n, a in enumerate(args) if a.free & PAIR)
            return [
                Apply("mul", (*args[:place], part, *args[place + 1 :]), kind=Kind.FLOAT)
                for part in _multiplied_out(args[place])
            ]
        case Apply(op="div", args=(a, b)) if not b.free & PAIR:
            return [Apply("div", (part, b), kind=Kind.FLOAT) for part in _multiplied_out(a)]
    return [expr]


def _apart(term: Expr, terms: list[Expr]) -> bool:
    """Whether no other summand reads what `term` reads.

    In c[i] - c[j] the two may be large and cancel: to drop one would lose the digits of the other.
    """
    others = [t for t in terms if t is not term and "j" in t.free]
    mine = _names(term)
    return bool(others) and not any(mine & _names(o) for o in others if not _has_dot(o))


def _names(expr: Expr) -> set[str]:
    return {node.name for node in walk(expr) if isinstance(node, Read) and node.free & PAIR}


def _has_dot(expr: Expr) -> bool:
    return any(isinstance(node, Contract) and node.free >= PAIR for node in walk(expr))


def _distance(term: Expr) -> Distance | None:
    """The positions in a summand that is a number of the call or a head times them."""
    inner = _peeled(term)
    if inner.kind is not Kind.INT or not inner.free >= PAIR:
        return None
    step = slope(inner, "i")
    return None if not step or not slope(inner, "j") else Distance(inner, step)


def slope(expr: Expr, axis: str) -> int | None:
    """By how much a sum of integers grows with a position; None where that varies."""
    match expr:
        case _ if axis not in expr.free:
            return 0
        case Index():
            return 1
        case Apply(op="neg", args=(a,)):
            found = slope(a, axis)
            return None if found is None else -found
        case Apply(op=("add" | "sub") as op, args=(a, b)):
            x, y = slope(a, axis), slope(b, axis)
            return None if x is None or y is None else x + y if op == "add" else x - y
        case Apply(op="mul", args=(Literal(value=int(value)), a)):
            found = slope(a, axis)
            return None if found is None else value * found
    return None


def _replaced(expr: Expr, axis: str) -> Expr:
    match expr:
        case Index(axis="i"):
            return Index(axis, kind=Kind.INT)
        case Apply(op=op, args=args):
            return Apply(op, tuple(_replaced(a, axis) for a in args), kind=Kind.INT)
    return expr


# Affine


def _peeled(expr: Expr) -> Expr:
    """What is left of a product without its numbers of the call and of heads."""
    match expr:
        case Apply(op="neg", args=(a,)) if expr.free & PAIR:
            return _peeled(a)
        case Apply(op="mul", args=args):
            paired = [a for a in args if a.free & PAIR]
            return _peeled(paired[0]) if len(paired) == 1 else expr
        case Apply(op="div", args=(a, b)) if not b.free & PAIR:
            return _peeled(a)
    return expr


def _factor(prover: Prover, expr: Expr) -> Expr | None:
    """The number that a logit multiplies one dot product by, if it is that and is positive."""
    dot = _peeled(expr)
    if not isinstance(dot, Contract) or not dot.free >= PAIR:
        return None
    found = _with_one(expr, dot)
    return found if prover.positive(found, prover.start()) else None


def _with_one(expr: Expr, dot: Expr) -> Expr:
    """`expr` with 1 in place of `dot`."""
    if expr is dot:
        return _ONE
    assert isinstance(expr, Apply)
    args = [_with_one(a, dot) if a.free & PAIR else a for a in expr.args]
    if expr.op == "mul":
        args = [a for a in args if a != _ONE]
        if len(args) == 1:
            return args[0]
    return Apply(expr.op, tuple(args), kind=Kind.FLOAT) if args else _ONE


# Bounded


def _op(expr: Expr) -> str:
    return expr.op if isinstance(expr, Apply) else ""


def _range(prover: Prover, expr: Expr) -> tuple[Expr, Expr] | None:
    """Two numbers of the call between which `expr` lies."""
    if not expr.free and not any(isinstance(n, Read) and _tensor(prover, n) for n in walk(expr)):
        return expr, expr
    match expr:
        case Apply(op=("tanh" | "erf" | "sin" | "cos")):
            return _number(-1.0), _number(1.0)
        case Apply(op="sigmoid"):
            return _number(0.0), _number(1.0)
        case Contract(axes=axes, left=a, right=b) if _unit(a, axes) and _unit(b, axes):
            return _number(-1.0), _number(1.0)  # Cauchy and Schwarz
        case Apply(op="neg", args=(a,)):
            found = _range(prover, a)
            return None if found is None else (_apply("neg", found[1]), _apply("neg", found[0]))
        case Apply(op=("add" | "sub") as op, args=(a, b)):
            x, y = _range(prover, a), _range(prover, b)
            if x is None or y is None:
                return None
            y = y if op == "add" else (y[1], y[0])
            return _apply(op, x[0], y[0]), _apply(op, x[1], y[1])
        case Apply(op=("mul" | "div") as op, args=(a, b)):
            if op == "mul" and _range(prover, b) != (b, b):
                a, b = b, a
            found = _range(prover, a)
            if found is None or _range(prover, b) != (b, b):
                return None
            if not prover.positive(b, prover.start()):
                return None
            return _apply(op, found[0], b), _apply(op, found[1], b)
        case Apply(op="clamp", args=(_, low, high)):
            ends = _range(prover, low), _range(prover, high)
            return (low, high) if ends == ((low, low), (high, high)) else None
    return None


def _number(value: float) -> Expr:
    return Literal(value, kind=Kind.FLOAT)


def _apply(op: str, *args: Expr) -> Expr:
    match op, args:
        case "neg", (Literal(value=value),):
            return _number(-value)
        case "mul", (Literal(value=1.0), b):
            return b
        case "mul", (Literal(value=-1.0), b):
            return _apply("neg", b)
    return Apply(op, args, kind=Kind.FLOAT)


def _tensor(prover: Prover, read: Read) -> bool:
    decl = prover.decls.get(read.name)
    return decl is None or bool(decl.axes) or decl.form is Form.PARAM


def _unit(expr: Expr, axes: tuple[str, ...]) -> bool:
    """Whether a vector's length is at most 1: x * rsqrt(max(dot(x, x), ...))."""
    match expr:
        case Apply(op="mul", args=(x, Apply(op="rsqrt", args=(inner,)))):
            squares = inner.args if _op(inner) == "max" and isinstance(inner, Apply) else (inner,)
            return any(
                isinstance(s, Contract) and s.axes == axes and s.left == x and s.right == x
                for s in squares
            )
    return False
