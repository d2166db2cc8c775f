"""How much a tile holds at once, which sizes it."""

from __future__ import annotations

from attnspec.codegen.plan_types import BLOCKED, TABLES, PairPlan
from attnspec.codegen.tile import needed
from attnspec.dsl.ast import Kind

_SOME, _MANY, _MUCH = 20, 24, 44  # numbers of a pair
_TOKENS = 8  # numbers of a token that a backward tile holds at once


def work(plan: PairPlan) -> int:
    """How many numbers a pass works out or reads for every pair, those in sums over channels and
    those of derivatives included; a look-up holds an address of two numbers besides, and a running
    sum its tile several times."""
    sums = sum(len(part.ops) + len(part.vectors) for part in plan.sums)
    ops = sum(op.axes == "ij" for op in plan.ops)
    looked_up = sum(leaf.role in (*BLOCKED, *TABLES) for leaf in plan.leaves)
    return ops + sums + len(plan.leaves) + 4 * looked_up + 4 * len(plan.scans)


def _held(plan: PairPlan, forward: bool) -> int:
    """`work`, and what else takes the registers of a wide tile, as numbers of a pair: what a
    compact tile works out for its tokens, a loop over channels, entries that belong to a token,
    every weight but one, and a mask that a weight without softmax carries to its product."""
    tokens = sum(op.axes in ("i", "j") for op in plan.ops) if plan.patches is not None else 0
    of_tokens = sum(leaf.role in ("row_table", "column_table") for leaf in plan.leaves)
    held = work(plan) + (tokens if forward else min(tokens, _TOKENS))
    carried = plan.keep is not None and not plan.softmax
    held += 20 * len(plan.sums) + 10 * of_tokens + 8 * carried
    return held + 14 * (len(plan.branches) - 1)


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
    return _loaded(plan, True) if forward else usual, _loaded(plan, False) if backward else usual


def counts(plan: PairPlan) -> str:
    """What a pass works out and reads, in counts: passes alike in these take about as many
    registers, though some operations take more than others."""
    axes = ("ij", "i", "j")
    ops = [f"{sum(op.axes == a for op in plan.ops)} {a}" for a in axes]
    ops.append(f"{sum(op.axes not in axes for op in plan.ops)} of a head")
    roles = sorted(leaf.role + (" grad" if leaf.grad else "") for leaf in plan.leaves)
    several = {"dot": plan.dots, "sum": plan.sums, "scan": plan.scans, "scalar": plan.scalars}
    parts = [f"{len(each)} {name}" for name, each in several.items() if each]
    weights = [b.normalizer + (" sink" if b.sink else "") for b in plan.branches]
    perhaps = ("keep", "patches", "ranges", "blocks", "gate", "value")
    there = [name for name in perhaps if getattr(plan, name) is not None]
    return ", ".join([*ops, *roles, *parts, *weights, *there, plan.form])


def _loaded(plan: PairPlan, forward: bool) -> str:
    """The word for a tile of many parts."""
    if work(plan) > _MANY:
        return "laden"
    return "heavy" if _held(plan, forward) > _SOME else "medium"
