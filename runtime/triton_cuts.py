"""The largest of every row of a tile in kernels: a search for their cuts, sweep by sweep.

`runtime.cpu_cuts` says what the cuts are. Orders are found digit by digit in base 4: a sweep counts
what is at or above each of three numbers, and the highest at which that is enough is taken. Where
it is just enough, the row is done. If equal ones are left after the last digit, a second search
finds the column of the last one that is in. The first sweep counts all.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from attnspec.runtime.triton_functions import in_order


@triton.jit
def ends_of(kind: tl.constexpr):
    """What is below every order of a type, and what none is above."""
    last: tl.constexpr = (1 << (kind.primitive_bitwidth - 1)) - 1
    return -last - 1, last


@triton.jit
def tried(order, left):
    """The distance of the numbers that a sweep tries, in the type of `order`; of the first, 1."""
    digits: tl.constexpr = order.dtype.primitive_bitwidth // 2
    return tl.full([], 1, dtype=order.dtype) << tl.where(left > digits, 0, 2 * left - 2)


@triton.jit
def of_ties(order, tie, column, lowest, highest):
    """Of orders equal to `tie` such that those of earlier columns are higher; the least of all for
    others."""
    return tl.where(order == tie[:, None], highest - column.to(order.dtype)[None, :], lowest)


@triton.jit
def searched(base, tie, have, beyond, wanted, left, tying, counts, step, length):
    """The search after a sweep that tried `base` plus 1 to 3 steps: `counts` are at or above each.

    `have` are at or above `base`, `beyond` above what may still come; `left` sweeps may follow.
    `tying`: what is searched for is the last of `wanted` among those that equal `tie`.
    """
    begun = left <= base.dtype.primitive_bitwidth // 2
    moving = begun & (have > wanted)
    near, found, enough, above = base, base, have, beyond
    for place in tl.static_range(3):
        near += step
        some = counts[place] >= wanted
        found = tl.where(some, near, found)
        enough = tl.where(some, counts[place], enough)
    for place in tl.static_range(2, -1, -1):
        above = tl.where(counts[place] < wanted, counts[place], above)
    base = tl.where(moving, found, base)
    have = tl.where(moving, enough, tl.where(begun, have, counts[0]))
    beyond = tl.where(moving, above, beyond)
    moving = have > wanted
    left = tl.where(tl.max(moving.to(tl.int32), 0) > 0, left - 1, 0)
    # where equal ones are left
    turn = moving & (left == 0) & (tying == 0)
    now = tl.max(turn.to(tl.int32), 0)
    digits = _digits(length)
    below = (tl.full([], 1, dtype=base.dtype) << (2 * digits)) - 1
    tie = tl.where(turn, base, tie)
    _, highest = ends_of(base.dtype)
    base = tl.where(turn, highest - below, base)
    have = tl.where(turn, have - beyond, have)
    wanted = tl.where(turn, wanted - beyond, wanted)
    beyond = tl.where(turn, 0, beyond)
    return base, tie, have, beyond, wanted, tl.where(now > 0, digits, left), tying | now


@triton.jit
def _digits(length):
    """How many digits numbers below `length` have in base 4."""
    found = tl.zeros([], dtype=tl.int32)
    while ((length - 1) >> (2 * found)) > 0:
        found += 1
    return found


@triton.jit
def middle(low, high):
    """An order from `low` up to below `high`, in the middle of the numbers that have these orders,
    or of the orders where there is none; `low` if both are the same."""
    found = (low & high) + ((low ^ high) >> 1)
    if low.dtype == tl.int32:
        half = in_order(_number(low) * 0.5 + _number(high) * 0.5)
        found = tl.where((half >= low) & (half < high), half, found)
    return found


@triton.jit
def _number(order):
    """The number of an order."""
    turned = tl.where(order < 0, order ^ 0x7FFFFFFF, order)
    return turned.to(tl.float32, bitcast=True)
