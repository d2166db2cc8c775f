"""Products over tokens as powers of e of sums, where every factor is proved to be above 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.terms import ONE, ZERO, negative
from attnspec.dsl.ast import Apply, Expr, Kind, Literal, Reduce, Spec
from attnspec.dsl.build import apply
from attnspec.dsl.check_prover import Prover


def as_sum(spec: Spec, node: Reduce) -> Expr:
    """A product over pairs by the sum of its logarithms."""
    prover = Prover(spec)
    known = prover.rebind(prover.start(), node.axes)
    if node.mask is not None:
        known = prover.at_pair(known, *node.mask)
    if node.where is not None:
        known = prover.assume(known, node.where)
    if node.body.kind is not Kind.FLOAT or not prover.positive(node.body, known):
        raise Unsupported("a product of what is not proved to be above 0")
    total = replace(node, op="sum", body=_log(node.body, lambda x: prover.positive(x, known)))
    return Apply("exp", (total,), kind=Kind.FLOAT)


def _log(expr: Expr, positive: Callable[[Expr], bool]) -> Expr:
    """The logarithm of what is above 0, without the loss of digits near 0 and 1."""
    match expr:
        case Apply(op="sigmoid", args=(x,)):
            return apply("logsigmoid", x)
        case Apply(op="exp", args=(x,)):
            return x
        case Apply(op="mul", args=args) if all(map(positive, args)):
            return apply("add", *(_log(x, positive) for x in args))
        case Apply(op="div", args=(a, b)) if positive(a) and positive(b):
            return apply("sub", _log(a, positive), _log(b, positive))
        case Apply(op="where", args=(chosen, a, b)) if positive(a) and positive(b):
            return apply("where", chosen, _log(a, positive), _log(b, positive))
        case Apply(op="sub", args=(Literal(value=1), Apply(op="sigmoid", args=(x,)))):
            return apply("logsigmoid", negative(x))
        case Apply(op="sub", args=(Literal(value=1), x)):
            return apply("log1p", negative(x))
        case Apply(op="add", args=(Literal(value=1), x)):
            return apply("log1p", x)
    return ZERO if expr == ONE else apply("log", expr)
