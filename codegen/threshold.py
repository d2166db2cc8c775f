"""What searches compute of every pair: for the threshold of an entmax row, and for its largest."""

from __future__ import annotations

from typing import Any

from attnspec.codegen.lower import Builder
from attnspec.codegen.plan_types import Ranking, Search
from attnspec.codegen.tile import Atom
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.ast import Expr, Kind

AT = "threshold"  # what kernels call the number of each row that a sweep tries


def searched(build: Builder, score: Atom, order: Any) -> Search:
    """Lower the weight of a pair at AT and its derivative to -AT; `order` is over atoms."""
    # declared as if it differed between pairs, since it changes from sweep to sweep
    at = build.symbol(build.tape.declare(AT, Kind.FLOAT, "ij"))
    gap = build.symbol(score) - at
    share = build.printed(symbolic.apply("tempered", [gap, order]))
    slope = build.printed(symbolic.apply("tempered_slope", [gap, order]))
    return Search(share, slope, build.printed(order))


def ranked(build: Builder, score: Expr, count: Expr) -> Ranking:
    """Lower the score of a pair as a mask does that compares it."""
    whole = score.kind is Kind.INT
    return Ranking(build.emit(score), build.emit(count), whole)
