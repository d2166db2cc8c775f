"""The mask as a whole: is it empty, and does `causal` hold?"""

from __future__ import annotations

from attnspec.dsl.ast import Read, Spec, walk
from attnspec.dsl.build import apply, index
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_report import Report
from attnspec.dsl.check_witness import Point, search
from attnspec.dsl.span import Span


def check_mask(spec: Spec, prover: Prover, claim: Span | None, report: Report) -> None:
    """Report a mask that no pair can pass, and a `causal` (at `claim`) that is not proved."""
    known = prover.at_pair(prover.start(), "i", "j")
    if spec.mask is not None and prover.impossible(known):
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
    if prover.holds(apply("le", index("j"), index("i")), known):
        return
    conditions = (spec.mask,) if spec.mask is not None else ()
    chosen = frozenset({"i", "j"}) | _heads(spec)
    point = search(spec, conditions, _future, chosen)
    label = f"a pair with j > i takes part: {point}"
    if point is None:
        possible = search(spec, conditions, _future, chosen, undecided=True)
        label = "the mask does not show that j <= i"
        if possible is not None:
            label = f"nothing excludes the pair {possible}{_deciding(spec)}"
    report.error(
        "A204",
        "`causal` does not hold" if point is not None else "`causal` is not proved",
        claim,
        label,
        "add `mask j <= i`, or remove `causal`",
    )


def _heads(spec: Spec) -> frozenset[str]:
    return frozenset({"h"}) if spec.mask is not None and "h" in spec.mask.free else frozenset()


def _deciding(spec: Spec) -> str:
    """Who decides about a pair that positions alone do not exclude."""
    nodes = () if spec.mask is None else walk(spec.mask)
    names = dict.fromkeys(f"`{node.name}`" for node in nodes if isinstance(node, Read))
    return f": {', '.join(names)} may let it pass" if names else ""


def _future(point: Point) -> bool:
    return point.at["j"] > point.at["i"]
