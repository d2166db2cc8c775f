"""What depends on one token alone: computed by the host and kept, or again in every tile.

A choice by operation count. Kept, a value is a tensor that the host makes in a pass over memory
and that a tile loads; its derivative is the host's. Computed again, it takes a load for each number
that it reads, its operations, and where a gradient flows those of its derivatives, which share
with it what they can. What reads positions and numbers of the call alone is no tensor and never
made one; a head's numbers are computed once a program, which costs a tile nothing.

The unit is one operation on every row or column of a tile, which is half an operation a score
element: of a tile of 128 x 128 over eight warps, a thread holds 64 elements and, for want of a
layout that shares them, 32 columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attnspec.codegen.plan_types import Choice, Leaf
from attnspec.codegen.tile import Op
from attnspec.dsl.analysis.inlining import PAIR
from attnspec.dsl.ast import COMPARISONS, LOGIC, Apply, Expr, Index, Kind, Read, walk

# Instructions that a function of a column adds to the forward loop compiled for cuda:90, those of
# the special function unit counted four times: it takes a quarter of the threads a clock. Measured
# by benchmarks/weights.py; what is not here takes one.
WEIGHTS = {
    "div": 11, "sqrt": 4, "rsqrt": 4, "exp": 8, "exp2": 4, "log": 25, "log2": 27, "log1p": 43,
    "sin": 106, "cos": 108, "atan": 39, "tanh": 19, "quick_tanh": 11, "sigmoid": 10, "silu": 11,
    "softplus": 53, "logsigmoid": 55, "elu": 13, "erf": 31, "gelu": 35, "pow": 39,
    "tempered": 40, "tempered_bend": 80,
    "floordiv": 24, "mod": 20, "floordiv_unsigned": 14, "mod_unsigned": 12,
    "stopgrad": 0,
}  # fmt: skip
LOAD = 3  # the load itself, its address, and the way into the layout of the products
PASS = 8  # the launch and the traffic, spread over the tiles of some 2000 tokens
SUM = 2  # a gradient adds up one number a pair
SCALE = 2  # of which each is multiplied first, where the derivative is no number of a head
SPREAD = 1000  # keys and values repeated for every query head that shares them

_CHOOSING = COMPARISONS | LOGIC | {"where", "min", "max", "clamp", "neg", "abs", "stopgrad"}
_DIVIDING = frozenset({"floordiv", "mod"})
_ADDING = frozenset({"add", "sub", "mul"})


def weight(ops: Iterable[Op]) -> int:
    """What operations cost, those on numbers of a head nothing."""
    return sum(WEIGHTS.get(op.op, 1) for op in ops if op.axes)


def choice(
    expr: Expr,
    listed: frozenset[Expr],
    ops: Iterable[Op],
    leaves: Sequence[Leaf],
    slopes: Sequence[str],
) -> Choice:
    """Keep `expr` or not. `ops` compute it and its derivatives from `leaves`; `slopes` are the
    tokens that each derivative depends on; `listed` is what the host makes anyway, to list tiles.
    """
    recompute = weight(ops)
    for leaf in leaves:
        made = leaf.operand.expr in listed or _given(leaf.operand.expr)
        recompute += LOAD * (leaf.role != "head") + PASS * (not made)
    recompute += sum(SUM + SCALE * bool(tokens) for tokens in slopes)
    keep = LOAD * bool(expr.free & PAIR) + SUM * bool(slopes)
    if expr not in listed:
        keep += PASS + SPREAD * _spreads(expr, [*listed, *(x.operand.expr for x in leaves)])
    return Choice(expr, keep <= recompute, recompute, keep)


def _spreads(expr: Expr, others: Iterable[Expr]) -> bool:
    """Whether, kept, a value of a key differs between query heads that share it, as none of the
    `others` that the host makes does."""
    return expr.free >= {"h", "j"} and not any(x.free >= {"h", "j"} for x in others)


def _given(expr: Expr) -> bool:
    """Whether an expression is a tensor as it was given."""
    return isinstance(expr, Read) and all(isinstance(at, Index) for at in expr.index)


def alike(expr: Expr) -> bool:
    """Whether an expression comes out the same wherever it is computed: by the host, which lists
    tiles, or in kernels.

    Kernels fuse multiply-adds, so that floats may be rounded once, by an operation that rounds to
    the nearest; and their integers of a token may have 32 bits where the host's have 64.
    """
    return _rounded(expr) <= 1


def _rounded(expr: Expr) -> int:
    """How often a float is rounded; 2 for what comes out differently."""
    match expr:
        case Apply(op=op, args=args):
            below = sum(map(_rounded, args))
            whole = expr.kind is not Kind.FLOAT
            if op in _CHOOSING or (op in _DIVIDING and whole):
                return below
            if op in _ADDING and whole:
                return below + 2 * any(isinstance(x, Read) and x.free & PAIR for x in walk(expr))
            return below + len(args) - 1 if op in _ADDING else 2
    return 0
