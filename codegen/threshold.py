"""What the search for the threshold of an entmax row computes of every pair."""

from __future__ import annotations

from typing import Any

from attnspec.codegen.lower import Builder
from attnspec.codegen.plan_types import Search
from attnspec.codegen.tile import Atom
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.ast import Kind

AT = "threshold"  # what kernels call the number of each row that a sweep tries


def searched(build: Builder, score: Atom, order: Any) -> Search:
    """Lower the weight of a pair at AT and its derivative to -AT; `order` is over atoms."""
    # declared as if it differed between pairs, since it changes from sweep to sweep
    at = build.symbol(build.tape.declare(AT, Kind.FLOAT, "ij"))
    gap = build.symbol(score) - at
    share = build.printed(symbolic.apply("tempered", [gap, order]))
    slope = build.printed(symbolic.apply("tempered_slope", [gap, order]))
    return Search(share, slope, build.printed(order))
