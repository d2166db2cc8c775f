"""Facts to plan: what becomes a kernel, what stays with the host, and what no kernel covers."""

from __future__ import annotations

from attnspec.codegen.pairwise import plan_pair
from attnspec.codegen.plan_types import TABLES, Plan, Stage, Unsupported
from attnspec.codegen.wrapper import wrap
from attnspec.dsl.analysis import Facts
from attnspec.dsl.ast import Expr, Read, Spec

__all__ = ["Plan", "Stage", "plan"]


def plan(spec: Spec, facts: Facts) -> Plan:
    """The plan of a checked spec. What no kernel covers is one `dense` stage that says why."""
    try:
        pair = plan_pair(spec, facts)
        wrapper = wrap(spec, pair)
    except Unsupported as error:
        stage = Stage("output", "scan" if spec.states else "pairwise", "dense", str(error))
        return Plan((stage,), backward=False, pair=None)
    stages: list[Stage] = []
    for operand in (*(x for d in pair.dots for x in (d.left, d.right)), pair.value):
        if not _given(spec, operand.expr):
            stages.append(Stage(operand.name.removeprefix("u_"), "host", "host"))
    for leaf in pair.leaves:
        if leaf.role in TABLES and not _given(spec, leaf.operand.expr):
            size = " x ".join(leaf.operand.dims)
            stages.append(Stage(leaf.operand.name.removeprefix("u_"), "host", "host", size))
    stages.append(Stage("output", "pairwise", "fused"))
    if len(wrapper.after) > 2:  # more than naming the result and what is found besides
        stages.append(Stage("epilogue", "host", "host"))
    return Plan(tuple(stages), backward=True, pair=pair)


def _given(spec: Spec, expr: Expr) -> bool:
    """Whether an operand is an argument itself, by whatever name."""
    found = spec.definition(expr.name) if isinstance(expr, Read) else None
    return isinstance(expr, Read) if found is None else _given(spec, found.expr)
