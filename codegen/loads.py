"""How much a tile holds at once, which sizes it."""

from __future__ import annotations

from attnspec.codegen.plan_types import BLOCKED, TABLES, PairPlan
from attnspec.codegen.tile import needed
from attnspec.dsl.ast import Kind

_SOME, _MUCH = 24, 44  # numbers of a pair


def work(plan: PairPlan) -> int:
    """How many numbers a pass works out or reads for every pair, those in sums over channels and
    those of derivatives included; a look-up holds an address of two numbers besides, and a running
    sum its tile several times."""
    sums = sum(len(part.ops) + len(part.vectors) for part in plan.sums)
    ops = sum(op.axes == "ij" for op in plan.ops)
    looked_up = sum(leaf.role in (*BLOCKED, *TABLES) for leaf in plan.leaves)
    return ops + sums + len(plan.leaves) + 4 * looked_up + 4 * len(plan.scans)


def loads(plan: PairPlan) -> tuple[str, str]:
    """How much a forward and a backward tile hold at once; `runtime.tiles.Need` says the words."""
    if work(plan) > _MUCH:
        return "crowded", "crowded"
    usual = "listed" if plan.blocks is not None else "light" if plan.keep is None else "masked"
    usual = "several" if len(plan.branches) > 1 else usual
    keep = [] if plan.keep is None else [plan.keep]
    scores = [branch.score for branch in plan.branches]
    ops = [op for op in needed(plan.ops, [*scores, *keep]) if op.axes == "ij"]
    floats = [leaf for leaf in plan.leaves if leaf.kind is Kind.FLOAT]
    parts = len(floats) + (plan.gate is not None)
    pointwise = keep and not plan.softmax
    looked_up = plan.entries is not None
    looked_up = looked_up or any(leaf.role in ("pair", *BLOCKED, *TABLES) for leaf in plan.leaves)
    paired = plan.patches is not None or looked_up or bool(plan.sums)
    forward = parts > 1 or pointwise or paired or (keep and len(ops) > 10)
    walks = plan.patches or plan
    full = plan.blocks is not None or (walks.rows.full and walks.columns.full)
    backward = (keep and not full) or pointwise or paired or len(floats) > 1
    heavy = "laden" if work(plan) > _SOME else "heavy"
    return heavy if forward else usual, heavy if backward else usual
