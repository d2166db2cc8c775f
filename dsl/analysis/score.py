"""Facts of a softmax logit: what lets a kernel compute less of it."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.dsl.analysis.inlining import PAIR
from attnspec.dsl.ast import Apply, Contract, Expr, Kind, Literal, Spec
from attnspec.dsl.check_prover import Prover

_ONE = Literal(1.0, kind=Kind.FLOAT)


@dataclass(frozen=True, slots=True)
class Score:
    """A softmax logit. `factor`: the logit is a dot product times this number of the call or of
    a head, which is above 0; None where that is not proved."""

    factor: Expr | None = None


def score_of(spec: Spec, logit: Expr) -> Score:
    """The facts of an inlined softmax logit."""
    return Score(_factor(spec, logit))


def _factor(spec: Spec, logit: Expr) -> Expr | None:
    found, prover = _split(logit), Prover(spec)
    return found if found is not None and prover.positive(found, prover.start()) else None


def _split(expr: Expr) -> Expr | None:
    """The number that `expr` multiplies one dot product of a pair by, if that is all it does."""
    match expr:
        case Contract() if expr.free >= PAIR:
            return _ONE
        case Apply(op="neg", args=(inner,)):
            found = _split(inner)
            return None if found is None else Apply("neg", (found,), kind=Kind.FLOAT)
        case Apply(op="mul", args=args):
            paired = [a for a in args if a.free & PAIR]
            rest = [a for a in args if not a.free & PAIR]
            found = _split(paired[0]) if len(paired) == 1 else None
            return None if found is None else _product([found, *rest])
        case Apply(op="div", args=(above, below)) if not below.free & PAIR:
            found = _split(above)
            return None if found is None else Apply("div", (found, below), kind=Kind.FLOAT)
    return None


def _product(factors: list[Expr]) -> Expr:
    rest = [f for f in factors if f != _ONE]
    if not rest:
        return _ONE
    total = rest[0]
    for factor in rest[1:]:
        total = Apply("mul", (total, factor), kind=Kind.FLOAT)
    return total
