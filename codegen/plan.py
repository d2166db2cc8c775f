"""Facts to plan: what becomes a kernel, what stays with the host, and what no kernel covers."""

from __future__ import annotations

from attnspec.codegen.pairwise import plan_pair
from attnspec.codegen.plan_types import Plan, Stage, Unsupported
from attnspec.codegen.wrapper import wrap
from attnspec.dsl.analysis import Facts
from attnspec.dsl.ast import Spec

__all__ = ["Plan", "Stage", "plan"]


def plan(spec: Spec, facts: Facts) -> Plan:
    """The plan of a checked spec. What no kernel covers is one `dense` stage that says why."""
    del facts  # the pairwise plan reads the mask's bounds itself, over its own names
    try:
        pair = plan_pair(spec)
        wrap(spec, pair)
    except Unsupported as error:
        kind = "scan" if spec.states else "pairwise"
        return Plan((Stage("output", kind, "dense", str(error)),), backward=False, pair=None)
    stages: list[Stage] = []
    for operand in (*(x for d in pair.dots for x in (d.left, d.right)), pair.value):
        if not hasattr(operand.expr, "name"):
            stages.append(Stage(operand.name.removeprefix("u_"), "host", "host"))
    stages.append(Stage("output", "pairwise", "fused"))
    if pair.result is not spec.output and len(wrap(spec, pair).after) > 2:
        stages.append(Stage("epilogue", "host", "host"))
    return Plan(tuple(stages), backward=True, pair=pair)
