"""Whether rows of several query heads may share a tile, where queries are few."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.codegen.plan_types import Leaf, PairPlan
from attnspec.codegen.tile import Atom, Op, names_used, needed

KEYED = ("column", "column_table")  # leaves that belong to a key head


def packs(plan: PairPlan) -> bool:
    """Whether the forward kernel can: every number of a head is then one of a row, and all heads
    of a tile visit the same keys."""
    return apart(plan) is None


def apart(plan: PairPlan) -> str | None:
    """Why rows of several query heads may not share a tile; None where they may."""
    if plan.form != "vector":
        return "what a tile gives is no sum of values"
    if len(plan.branches) > 1:
        return "each tile holds several weights"
    if plan.patches:
        return "tiles that are compact on a grid are those of one head"
    if plan.scans:
        return "running sums go along the tokens of one head"
    used = frozenset(_deciding(plan))
    read = (x for x in plan.leaves if used & {x.name, x.operand.name})
    if "h" in used or any(of_head(x) for x in read):
        return "which keys a tile visits depends on the head"
    return None


def of_head(leaf: Leaf) -> bool:
    """Whether what a leaf reads differs between the query heads of a key head."""
    operand = leaf.operand
    return leaf.role not in KEYED and ("h" in operand.expr.free or bool(operand.lanes))


def _deciding(plan: PairPlan) -> Iterator[str]:
    """The names of what decides which keys a tile of rows visits."""
    ops: tuple[Op, ...]
    limits: tuple[Atom, ...]
    if plan.blocks is not None:
        ops, limits = plan.blocks.ops, (plan.blocks.possible, plan.blocks.certain)
        yield from (leaf for _, _, leaf in plan.blocks.ends)
    else:
        walk = plan.rows if plan.ranges is None else plan.ranges.rows
        ops, limits = walk.ops, walk.limits
        yield from (leaf for _, _, leaf in (plan.ranges.ends if plan.ranges else ()))
    yield from names_used(needed(ops, limits), limits)
