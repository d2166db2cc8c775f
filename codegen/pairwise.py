"""The pairwise plan: one softmax or element-wise weight over dot products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sympy as sp

from attnspec.codegen import host
from attnspec.codegen.forms import backward_form
from attnspec.codegen.logit import gentle, in_base_2, logit
from attnspec.codegen.lower import Builder
from attnspec.codegen.match import Match, match_output, pointwise
from attnspec.codegen.plan_types import (
    BlockPlan,
    Ends,
    Gradient,
    Loop,
    Operand,
    PairPlan,
    PatchPlan,
    RangePlan,
    Run,
    Unsupported,
)
from attnspec.codegen.tile import Atom, needed
from attnspec.dsl.analysis import Facts, symbolic
from attnspec.dsl.analysis.ascending import Ranges
from attnspec.dsl.analysis.boxes import Box, End
from attnspec.dsl.analysis.inlining import PAIR, inline
from attnspec.dsl.analysis.patches import Patches
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.analysis.runs import HI, LO, Bounds, Runs
from attnspec.dsl.analysis.score import score_of, summands
from attnspec.dsl.ast import (
    Expr,
    Kind,
    Read,
    Reduce,
    Spec,
    walk,
)


def plan_pair(spec: Spec, facts: Facts) -> PairPlan:
    """The pairwise plan of a spec of the first family; raises `Unsupported`."""
    found = match_output(spec)
    build = Builder(spec, _listed(facts))

    def lower(expr: Expr) -> Expr:
        return coordinates(inline(spec, expr), spec)

    mask = None if spec.mask is None else lower(spec.mask)
    if mask is not None:
        pointwise(spec, mask)
        if found.result.mask is None:
            raise Unsupported("a sum without the mask")
    # summand by summand, as what a row does not see is taken away again
    score = sp.Add(*map(build.sym, summands(lower(found.score))))
    patches = _patches(build, facts.patches)
    if patches is not None and facts.patches is not None:  # tiles fulfil the rest of the mask
        mask = None if facts.patches.mask is None else coordinates(facts.patches.mask, spec)
    keep = None if mask is None else build.emit(mask)
    softmax = found.normalizer is not None
    build.tape.declare("LOG2E", Kind.FLOAT, "")
    names = [d.name for d in build.dots] + [leaf.name for leaf in build.leaves if leaf.grad]
    build.tape.note = ""
    build.from_line(found.score)
    final = build.printed(in_base_2(score) if softmax else score)
    expanded, forms = backward_form(build, score, names, softmax)
    again = build.printed(in_base_2(expanded) if softmax else expanded)
    slopes = symbolic.derivatives(expanded, names)
    kept = None
    if softmax:
        known = score_of(spec, lower(found.score), found.sink is not None)
        if facts.patches is not None:  # whose positions do not run on in a row
            known = replace(known, distances=())
        kept = logit(build, known, score, expanded)
        if known.gentle:
            slopes = {name: gentle(slope) for name, slope in slopes.items()}
    build.tape.note = "its derivatives"
    gradients = tuple(Gradient(n, build.printed(slopes[n])) for n in names)
    build.tape.note = ""
    # apart from the dots' operands, so that each has a gradient of its own
    dims = ("b", "h", "j", *_channel(found.value))
    hint = found.value.name if isinstance(found.value, Read) else "value"
    value = Operand(build.fresh(f"u_{hint}"), found.value, dims)
    gate = sink = None
    if found.gate is not None:
        gate = Operand(build.fresh("u_gate"), found.gate, ("b", "h", "i", *_channel(found.gate)))
    if found.sink is not None:
        if found.sink.free - {"b", "h", "i"}:
            raise Unsupported("a sink that is a vector")
        sink = Operand(build.fresh("u_sink"), found.sink, ("b", "h", "i"))
    for operand in [*build.operands.values(), value, *(x for x in (gate, sink) if x is not None)]:
        host.require_supported(spec, operand.expr)
    for leaf in build.leaves:
        if leaf.role != "pair":
            host.require_supported(spec, leaf.operand.expr)
    ranges, blocks = _ranges(build, facts.ranges), _blocks(build, facts.blocks)
    if blocks is not None or ranges is not None:
        full = blocks is None or blocks.certain is not False
        rows = columns = Loop((), (Run(None, None, None, None, full),))
    else:
        rows, columns = _loop(build, facts.rows), _loop(build, facts.columns)
    roots: list[Atom] = [final, again, *(g.value for g in gradients)]
    if kept is not None:
        roots += [kept.kept, kept.raw, kept.factor, kept.lifted]
    if keep is not None:
        roots.append(keep)
    roots.extend(leaf.index for leaf in build.leaves if leaf.index is not None)
    roots.extend(end for leaf in build.leaves for end in leaf.repeated or ())
    return PairPlan(
        normalizer="softmax" if softmax else "none",
        dots=tuple(build.dots),
        value=value,
        gate=gate,
        sink=sink,
        leaves=tuple(build.leaves),
        scalars=tuple(build.scalars),
        ops=needed(build.tape.ops, roots),
        keep=keep,
        score=final,
        logit=kept,
        gradients=gradients,
        rows=rows,
        columns=columns,
        patches=patches,
        ranges=ranges,
        blocks=blocks,
        result=found.result if found.gated is None else found.gated,
        log_sum_exp=_log_sum_exp(spec, found),
        choices=tuple(build.choices.values()),
        again=again,
        forms=forms,
    )


def _listed(facts: Facts) -> frozenset[Expr]:
    """What the host makes to find the tiles, whatever kernels compute."""
    found = [x.ends for x in (facts.ranges, facts.blocks) if x is not None]
    return frozenset(end.of for ends in found for end in ends)


def _channel(expr: Expr) -> tuple[str, ...]:
    channels = tuple(sorted(expr.free - {"b", "h", "i", "j"}))
    if len(channels) > 1:
        raise Unsupported("a value or gate with two channel axes")
    return channels


def _log_sum_exp(spec: Spec, found: Match) -> Expr | None:
    """The `logsumexp(j, score)` that the kernel saves anyway, where a return asks for it."""
    if found.normalizer is None or found.sink is not None:
        return None
    for item in spec.returns:
        for node in walk(inline(spec, item.expr)):
            if (
                isinstance(node, Reduce)
                and node.op == "logsumexp"
                and node.axes == ("j",)
                and node.where is None
                and node.mask == found.normalizer.mask
                and node.body == found.score
            ):
                return node
    return None


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
    return PatchPlan(found.axes, i_sides, j_sides, steps, rows, columns)


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
        if isinstance(end.of, Read) and end.of.free >= PAIR:
            leaf = build.pair(end.of)
        else:
            leaf = build.leaf(end.of)
        for name in (end.low, end.high):
            build.end(name, end.of.kind, end.side)
        ends.append((end.low, end.high, leaf))
    return tuple(ends)
