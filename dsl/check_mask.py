"""The mask as a whole: is it empty, and does `causal` hold?"""

from __future__ import annotations

from attnspec.dsl.ast import Spec
from attnspec.dsl.build import apply, index
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_report import Report
from attnspec.dsl.check_witness import Point, search
from attnspec.dsl.span import Span


def check_mask(spec: Spec, prover: Prover, claim: Span | None, report: Report) -> None:
    """Report a mask that no pair can pass, and a `causal` (at `claim`) that is not proved."""
    pair = prover.at_pair(prover.start(), "i", "j")
    if spec.mask is not None and prover.impossible(pair):
        report.error(
            "A203",
            "the mask is empty",
            spec.mask.span,
            "no pair (i, j) can pass it",
            "turn a comparison round, or join alternatives with `or` in one `mask` line",
        )
        return
    if claim is None or (spec.mask is None and spec.token == "t"):
        return
    if prover.holds(apply("le", index("j"), index("i")), pair):
        return
    conditions = (spec.mask,) if spec.mask is not None else ()
    point = search(spec, conditions, _future, frozenset({"i", "j"}))
    report.error(
        "A204",
        "`causal` does not hold" if point is not None else "`causal` is not proved",
        claim,
        f"a pair with j > i takes part: {point}"
        if point is not None
        else "the mask does not show that j <= i",
        "add `mask j <= i`, or remove `causal`",
    )


def _future(point: Point) -> bool:
    return point.at["j"] > point.at["i"]
