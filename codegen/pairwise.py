"""The plan of a pass: a sum over pairs of one weight, or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from attnspec.codegen.forms import backward_form
from attnspec.codegen.logit import gentle, in_base_2, logit
from attnspec.codegen.lookups import repeated
from attnspec.codegen.lower import Builder
from attnspec.codegen.match import Match, Weight, pointwise
from attnspec.codegen.plan_types import (
    UNIT,
    BlockPlan,
    Branch,
    Ends,
    Entries,
    Gradient,
    Loop,
    Operand,
    PairPlan,
    PatchPlan,
    RangePlan,
    Run,
    Unsupported,
)
from attnspec.codegen.rewrite import canonical, mask_at
from attnspec.codegen.scans import ScanBuilder
from attnspec.codegen.terms import ONE
from attnspec.codegen.threshold import ranked, searched
from attnspec.codegen.tile import Atom, needed
from attnspec.dsl.analysis import Facts, symbolic
from attnspec.dsl.analysis.ascending import Ranges
from attnspec.dsl.analysis.bounds import bounds
from attnspec.dsl.analysis.boxes import Box, End
from attnspec.dsl.analysis.patches import Patches
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.analysis.runs import HI, LO, Bounds, Runs
from attnspec.dsl.analysis.score import Score, score_of, summands
from attnspec.dsl.ast import (
    Apply,
    Expr,
    Index,
    Kind,
    Literal,
    Read,
    Size,
    Spec,
)
from attnspec.dsl.check_prover import Prover


def plan_pass(spec: Spec, facts: Facts, found: Match, asked: frozenset[Expr]) -> PairPlan:
    """The plan of one pass; raises `Unsupported`. `asked`: nodes that anything needs."""
    walks = _walks(spec, facts, found)
    build = ScanBuilder(spec, found.row, found.column, found.lanes, _listed(spec, walks))
    if walks.patches is not None:
        build.named = _coordinates(walks.patches)
    mask = walks.mask
    if mask is not None:
        pointwise(spec, mask, found.row, found.column)
    logits = [coordinates(weight.score, spec) for weight in found.weights]
    ranking = None
    if found.form == "cuts" and found.order is not None:
        ranking = ranked(build, logits[0], coordinates(found.order, spec))
        scores = [build.symbol(ranking.score)]
    elif any(x.kind is Kind.INT for x in logits):  # no float has all integers
        scores = [build.symbol(build.emit(x)) for x in logits]
    else:  # summand by summand, as what a row does not see is taken away again
        scores = [sp.Add(*map(build.sym, summands(parts))) for parts in logits]
    aligned = bool(build.scans) or found.form == "blocks"  # tiles hold whole blocks of a row
    patches = None if aligned else _patches(build, walks.patches)
    if patches is not None and walks.patches is not None:  # tiles fulfil the rest of the mask
        rest = walks.patches.mask
        mask = None if rest is None else coordinates(canonical(spec, rest, ("i", "j")), spec)
    keep = None if mask is None else build.emit(mask)
    build.tape.declare("LOG2E", Kind.FLOAT, "")
    if build.scans and len(found.weights) > 1:
        raise Unsupported("a running sum in one of several weights")
    names = build.differentiated
    order = build.sym(found.order) if found.order is not None and ranking is None else None
    if _constant(build, found):
        names, build.leaves = [], [replace(leaf, grad=False) for leaf in build.leaves]
        build.scans = {x: replace(scan, gradients=()) for x, scan in build.scans.items()}
    branches = tuple(
        replace(
            _branch(build, found.row, walks, weight, parts, score, names),
            log_sum_exp=total if total in asked else None,
        )
        for weight, parts, score, total in zip(
            found.weights, logits, scores, found.log_sum_exps, strict=True
        )
    )
    search = ranking if order is None else searched(build, branches[0].score, order)
    build.tape.note = ""
    value, gate = _around(build, found)
    read = [leaf.kind for leaf in build.leaves]
    if not (build.operands or value or Kind.FLOAT in read):  # which tells the dtype of sums
        build.leaf(ONE)
    ranges, blocks = _ranges(build, walks.ranges), _blocks(build, walks.blocks)
    if blocks is not None or ranges is not None:
        full = blocks is None or blocks.certain is not False
        rows = columns = Loop((), (Run(None, None, None, None, full),))
    else:
        rows, columns = _loop(build, walks.rows), _loop(build, walks.columns)
    roots = [atom for branch in branches for atom in branch.atoms]
    if keep is not None:
        roots.append(keep)
    if search is not None:
        roots += search.atoms
    roots.extend(name for part in build.sums.values() for name in part.outside)
    roots.extend(leaf.index for leaf in build.leaves if leaf.index is not None)
    roots.extend(end for leaf in build.leaves for end in leaf.repeated or ())
    roots.extend(g.value for scan in build.scans.values() for g in scan.gradients)
    entries = _entries(build, found)
    if entries is not None:
        roots += [entries.index, *(entries.repeated or ())]
    return PairPlan(
        row=found.row,
        column=found.column,
        lanes=found.lanes,
        form=found.form,
        branches=branches,
        dots=tuple(build.dots),
        sums=tuple(build.sums.values()),
        scans=tuple(build.scans.values()),
        value=value,
        gate=gate,
        leaves=tuple(build.leaves),
        scalars=tuple(build.scalars),
        ops=needed(build.tape.ops, roots),
        keep=keep,
        rows=rows,
        columns=columns,
        patches=patches,
        ranges=ranges,
        blocks=blocks,
        result=found.node if found.gated is None else found.gated,
        choices=tuple(build.choices.values()),
        entries=entries,
        search=search,
    )


def _constant(build: Builder, found: Match) -> bool:
    """Whether nothing that a pass gives has a gradient."""
    if found.still:
        return True
    apart = [found.value, found.gate, *(weight.sink for weight in found.weights)]
    scores = [weight.score for weight in found.weights]
    return not any(apart) and not any(map(build.carries_gradient, scores))


def _branch(
    build: Builder,
    row: str,
    walks: _Walks,
    weight: Weight,
    logits: Expr,
    score: Any,
    names: list[str],
) -> Branch:
    """What the tile computes of one weight, whose `logits` over atoms are `score`."""
    build.tape.note = ""
    build.from_line(weight.score)
    softmax = weight.softmax
    final = build.printed(in_base_2(score) if softmax else score)
    expanded, forms = backward_form(build, score, names, softmax)
    again = build.printed(in_base_2(expanded) if softmax else expanded)
    slopes = symbolic.derivatives(expanded, names)
    kept = None
    if softmax:
        known = Score() if walks.apart else score_of(build.spec, logits, weight.sink is not None)
        if walks.patches is not None:  # whose positions do not run on in a row
            known = replace(known, distances=())
        kept = logit(build, known, score, expanded)
        if known.gentle:
            slopes = {name: gentle(slope) for name, slope in slopes.items()}
    build.tape.note = "its derivatives"
    return Branch(
        normalizer="softmax" if softmax else "none",
        coefficient=_coefficient(build, row, weight),
        sink=_sink(build, row, weight),
        score=final,
        logit=kept,
        gradients=tuple(Gradient(n, build.printed(slopes[n])) for n in names),
        again=again,
        forms=forms,
        log_sum_exp=None,
    )


def _coefficient(build: Builder, row: str, weight: Weight) -> Operand | float:
    if weight.coefficient is None:
        return 1.0
    if isinstance(weight.coefficient, Literal):
        return float(weight.coefficient.value)
    return build.made("scale", weight.coefficient, "b", "h", row)


def _sink(build: Builder, row: str, weight: Weight) -> Operand | None:
    if weight.sink is None:
        return None
    if weight.sink.free - {"b", "h", row, *build.lanes}:
        raise Unsupported("a sink that is a vector")
    return build.made("sink", weight.sink, "b", "h", row)


def _listed(spec: Spec, walks: _Walks) -> frozenset[Expr]:
    """What the host makes to find the tiles, whatever kernels compute."""
    found = [x.ends for x in (walks.ranges, walks.blocks) if x is not None]
    return frozenset(canonical(spec, end.of) for ends in found for end in ends)


def _around(build: Builder, found: Match) -> tuple[Operand | None, Operand | None]:
    """Value and gate: apart from the dots' operands, so that each has its own gradient."""
    value = gate = None
    if found.value is not None:
        hint = found.value.name if isinstance(found.value, Read) else "value"
        channel = _channel(build, found.value) or (UNIT,)
        value = build.made(hint, found.value, "b", "h", found.column, *channel)
    if found.gate is not None:
        channel = _channel(build, found.gate)
        gate = build.made("gate", found.gate, "b", "h", found.row, *channel)
    return value, gate


def _entries(build: Builder, found: Match) -> Entries | None:
    if not found.places:
        return None
    places = tuple((axis, coordinates(at, build.spec)) for axis, at in found.places)
    sizes = [Size(axis, kind=Kind.INT) for axis, _ in places]
    size = build.scalar(sizes[0] if len(sizes) == 1 else Apply("mul", tuple(sizes), kind=Kind.INT))
    ends = repeated(places, found.row, found.column)
    return Entries(
        tuple(axis for axis, _ in places),
        size,
        build.flat(places),
        None if ends is None else tuple(map(build.emit, ends)),
    )


@dataclass(frozen=True, slots=True)
class _Walks:
    """Which pairs of a pass take part, and how its loops find them; `apart` where the row is no
    query or the column no key of the mask as it is written."""

    mask: Expr | None
    rows: Bounds
    columns: Bounds
    patches: Patches | None
    ranges: Ranges | None
    blocks: Box | None
    apart: bool


def _walks(spec: Spec, facts: Facts, found: Match) -> _Walks:
    parts = [] if found.where is None else [found.where]
    plain = (found.row, found.column) == ("i", "j")
    if spec.mask is None:
        at = None
    elif found.mask is not None:
        at = coordinates(mask_at(spec, found.mask), spec)
        if plain and not parts and found.mask == ("i", "j"):
            return _Walks(at, facts.rows, facts.columns, facts.patches, facts.ranges,
                          facts.blocks, False)  # fmt: skip
        parts.insert(0, at)
    if not parts:
        empty = bounds(None, found.column, found.row, Prover(spec))
        return _Walks(None, empty, empty, None, None, None, not plain)
    both = parts[0] if len(parts) == 1 else Apply("and", tuple(parts), kind=Kind.BOOL)
    mask, prover = coordinates(both, spec), Prover(spec)
    rows = bounds(mask, found.column, found.row, prover)
    columns = bounds(mask, found.row, found.column, prover)
    return _Walks(mask, rows, columns, None, None, None, not plain)


def _channel(build: Builder, expr: Expr) -> tuple[str, ...]:
    channels = tuple(sorted(expr.free - {"b", "h", *build.lanes} - build.sides))
    if len(channels) > 1:
        raise Unsupported("a value or gate with two channel axes")
    return channels


def _loop(build: Builder, found: Bounds) -> Loop:
    try:
        return _runs(build, found.runs)
    except Unsupported:
        return Loop((), (Run(None, None, None, None, False),))


def _runs(build: Builder, found: Runs) -> Loop:
    def end(expr: Expr | None) -> Atom | None:
        return None if expr is None else build.emit(expr)

    runs = tuple(
        Run(end(r.first), end(r.last), end(r.full_first), end(r.full_last), r.full) for r in found
    )
    return Loop(needed(build.tape.ops, Loop((), runs).limits), runs)


def _patches(build: Builder, found: Patches | None) -> PatchPlan | None:
    if found is None:
        return None
    for axis in found.axes:
        for name in (LO, HI, "rest"):
            build.end(f"{name}_{axis}", Kind.INT, "")
    try:
        rows, columns = _runs(build, found.rows), _runs(build, found.columns)
    except Unsupported:
        return None
    i_sides, j_sides = (
        tuple(None if side is None else build.scalar(side) for side in sides)
        for sides in (found.i_sides, found.j_sides)
    )
    steps = tuple(build.scalar(step) for step in found.steps)
    i_at, j_at = (tuple(build.named[at] for at in places) for places in (found.i_at, found.j_at))
    return PatchPlan(found.axes, i_at, j_at, i_sides, j_sides, steps, rows, columns)


def _coordinates(found: Patches) -> dict[Expr, str]:
    """What kernels call the coordinates of a query and of a key: on one axis `i` and `j`."""
    return {
        at: at.axis if isinstance(at, Index) else f"{side}_{axis}"
        for side, places in (("i", found.i_at), ("j", found.j_at))
        for axis, at in zip(found.axes, places, strict=True)
    }


def _ranges(build: Builder, found: Ranges | None) -> RangePlan | None:
    if found is None:
        return None
    ends = _ends(build, found.ends)
    for axis in ("i", "j"):
        build.end(f"start_{axis}", Kind.INT, "")
    return RangePlan(_runs(build, found.rows), _runs(build, found.columns), ends)


def _blocks(build: Builder, found: Box | None) -> BlockPlan | None:
    if found is None:
        return None
    ends = _ends(build, found.ends)
    possible, certain = build.emit(found.possible), build.emit(found.certain)
    return BlockPlan(needed(build.tape.ops, [possible, certain]), possible, certain, ends)


def _ends(build: Builder, found: Sequence[End]) -> Ends:
    """Declare a tile's extreme positions and values."""
    for axis in ("i", "j"):
        for place in ("lo", "hi"):
            build.end(f"{place}_{axis}", Kind.INT, axis)
    ends = []
    for end in found:
        if isinstance(end.of, Read) and end.of.free >= build.sides:
            leaf = build.pair(end.of)
        else:
            leaf = build.leaf(canonical(build.spec, end.of))
        for name in (end.low, end.high):
            build.end(name, end.of.kind, end.side)
        ends.append((end.low, end.high, leaf))
    return tuple(ends)
