"""Facts to plan: what becomes a kernel, what stays with the host, and what no kernel covers."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.passes import plan_passes, roots
from attnspec.codegen.plan_types import TABLES, PairPlan, Plan, Stage, Unsupported
from attnspec.codegen.prepared import prepared
from attnspec.codegen.wrapper import wrap
from attnspec.dsl.analysis import Facts
from attnspec.dsl.ast import Expr, Read, Spec

__all__ = ["Plan", "Stage", "plan"]


def plan(spec: Spec, facts: Facts) -> Plan:
    """The plan of a checked spec. What no kernel covers is one stage that says why: `blocked`, or
    `dense` where it is a recurrence."""
    try:
        spec = prepared(spec)
        wanted = roots(spec)
        passes = plan_passes(spec, facts, wanted)
        wrapper = wrap(spec, passes, wanted)
    except Unsupported as error:
        if spec.states:
            stage = Stage("output", "scan", "dense", str(error))
        else:
            stage = Stage("output", "pairwise", "blocked", str(error))
        return Plan((stage,), backward=not spec.states, passes=())
    stages: list[Stage] = []
    for place, found in enumerate(passes):
        for name, size in _made(spec, found):
            if name not in {s.name for s in stages}:
                stages.append(Stage(name, "host", "host", size))
        last = place + 1 == len(passes)
        held = () if found.entries is None else found.entries.axes
        held = (found.column,) if found.form == "map" else held
        held = (f"blocks of {found.column}",) if found.form == "blocks" else held
        size = f"{' x '.join((found.row, *held))} numbers" if held else ""
        stages.append(Stage("output" if last else f"pass {place + 1}", "pairwise", "fused", size))
    if not passes:
        stages.append(Stage("output", "host", "host"))
    elif len(wrapper.after) > 2:  # more than naming the result and what is found besides
        stages.append(Stage("epilogue", "host", "host"))
    return Plan(tuple(stages), True, passes, wanted)


def _made(spec: Spec, found: PairPlan) -> Iterator[tuple[str, str]]:
    """Operands that the host makes for a pass, and the sizes of its tables."""
    sides = [x for d in found.dots for x in (d.left, d.right)]
    sides += [v.operand for total in found.sums for v in total.vectors]
    for operand in (*sides, *(() if found.value is None else (found.value,))):
        if not _given(spec, operand.expr):
            yield operand.name.removeprefix("u_"), ""
    for leaf in found.leaves:
        if leaf.role in TABLES and not _given(spec, leaf.operand.expr):
            yield leaf.operand.name.removeprefix("u_"), " x ".join(leaf.operand.axes)


def _given(spec: Spec, expr: Expr) -> bool:
    """Whether an operand is an argument itself, by whatever name."""
    found = spec.definition(expr.name) if isinstance(expr, Read) else None
    return isinstance(expr, Read) if found is None else _given(spec, found.expr)
