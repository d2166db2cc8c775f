"""A softmax logit as kernels compute it: without what a row does not see, ready for base 2."""

from __future__ import annotations

from typing import Any

import sympy as sp

from attnspec.codegen.lower import ORIGIN, Builder
from attnspec.codegen.plan_types import Logit
from attnspec.codegen.tile import Atom
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.analysis.score import Distance, Score
from attnspec.dsl.ast import Expr, Kind

LOG2E = sp.Symbol("LOG2E")


def logit(build: Builder, score: Score, whole: Any, again: Any) -> Logit:
    """Lower what is left of `whole`, the logit over atoms, by the facts of it; `again` is the same
    number in the form that the backward computes."""
    constant = [build.sym(term) for term in score.constant]
    dropped = sp.Add(*constant)
    places = {}
    for distance in score.distances:
        near, since = _relative(build, distance)
        place = build.sym(distance.of)
        constant.append(sp.diff(whole - dropped, place) * since)
        places[place] = near

    def left(expr: Any) -> Any:
        short = (expr - dropped).xreplace(places)
        return gentle(short) if score.gentle else short

    kept = left(whole)
    raw: Atom = build.printed(in_base_2(kept))
    final = build.printed(in_base_2(left(again)))
    factor: Atom = 1.0
    dots = [sp.Symbol(dot.name) for dot in build.dots if sp.Symbol(dot.name) in kept.free_symbols]
    if score.factor is not None and len(dots) == 1:
        dot = dots[0]
        times = sp.diff(kept, dot)
        if times * dot == kept:  # not where `stopgrad` hides the product
            raw, factor = str(dot), build.printed(LOG2E * times)
    lifted = build.printed(in_base_2(-sp.Add(*constant))) if constant else 0.0
    ends = None
    if score.range is not None:
        ends = build.scalar(score.range[0]), build.scalar(score.range[1])
    return Logit(final, raw, factor, lifted, ends)


def in_base_2(expr: Any) -> Any:
    """`expr` times log2(e), the factor in every term."""
    terms = expr.args if expr.is_Add else (expr,)
    return sp.Add(*[LOG2E * term for term in terms])


def gentle(expr: Any) -> Any:
    """`expr` with every tanh as one whose error may be that of 16 bits."""
    quick = symbolic.FUNCTIONS["quick_tanh"]
    return expr.replace(symbolic.FUNCTIONS["tanh"], lambda x: quick(x))


def _relative(build: Builder, distance: Distance) -> tuple[Any, Any]:
    """A distance from the tile's first position on, and its growth since there.

    Both are short: dropped as a whole, slope * i would cost digits far from the origin.
    """
    since = build.tape.add("sub", ("i", ORIGIN), Kind.INT)
    if distance.step != 1:
        since = build.tape.add("mul", (distance.step, since), Kind.INT)
    place: Expr = distance.at(ORIGIN)
    near = build.tape.add("near", (build.emit(place), since), Kind.FLOAT)
    return sp.Symbol(near), sp.Symbol(build.tape.add("since", (since,), Kind.FLOAT))
