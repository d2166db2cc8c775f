"""Tiles that are compact on a grid: their tokens, and the boxes of them that a loop visits.

`sides` are the grid's tokens along each axis, slowest first, `shape` a patch's: powers of two whose
product is the tile's length. Patches are counted row-major like tokens. A box is a span
(begin, end) of patches an axis.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def patches(sides, shape):
    """The number of patches of a grid."""
    total = tl.cdiv(sides[0], shape[0])
    for axis in tl.static_range(1, len(sides)):
        total *= tl.cdiv(sides[axis], shape[axis])
    return total


@triton.jit
def patch(number, sides, shape):
    """The place of patch `number` along each axis."""
    at = ()
    for axis in tl.static_range(len(sides)):
        size = 1
        for inner in tl.static_range(axis + 1, len(sides)):
            size *= tl.cdiv(sides[inner], shape[inner])
        at += (number // size,)
        number = number % size
    return at


@triton.jit
def ends(at, sides, shape):
    """First and last coordinate of a patch along each axis, as one tuple."""
    found = ()
    for axis in tl.static_range(len(sides)):
        low = at[axis] * shape[axis]
        found += (low, tl.minimum(low + shape[axis], sides[axis]) - 1)
    return found


@triton.jit
def tokens(at, sides, shape, start, length, amount: tl.constexpr):
    """The `amount` tokens of a patch as rows of a tensor whose first holds position `start`;
    `length` where the tensor has none."""
    local = tl.arange(0, amount)
    position = tl.zeros([amount], dtype=tl.int32)
    there = position == 0
    size = amount
    for axis in tl.static_range(len(sides)):
        size = size // shape[axis]
        coordinate = at[axis] * shape[axis] + local // size % shape[axis]
        there = there & (coordinate < sides[axis])
        position = position * sides[axis] + coordinate
    token = position - start
    return tl.where(there & (token >= 0) & (token < length), token, length)


@triton.jit
def box(runs, sides, start, length):
    """All patches that a run an axis reaches, and the full ones: two boxes.

    Where the tensor does not hold the whole grid no patch counts as full.
    """
    size = 1
    for axis in tl.static_range(len(sides)):
        size *= sides[axis]
    whole = (start == 0) & (length == size)
    visited, full = (), ()
    for axis in tl.static_range(len(runs)):
        visited += (runs[axis][0],)
        full += ((runs[axis][1][0], tl.where(whole, runs[axis][1][1], runs[axis][1][0])),)
    return visited, full


@triton.jit
def area(spans):
    """The number of patches in a box."""
    total = spans[0][1] - spans[0][0]
    for axis in tl.static_range(1, len(spans)):
        total *= spans[axis][1] - spans[axis][0]
    return total


@triton.jit
def cell(place, spans):
    """The patch at `place` of a box, row-major, as its place along each axis."""
    at = ()
    for axis in tl.static_range(len(spans)):
        size = 1
        for inner in tl.static_range(axis + 1, len(spans)):
            size *= spans[inner][1] - spans[inner][0]
        at += (spans[axis][0] + place // size,)
        place = place % size
    return at


@triton.jit
def cell_besides(place, spans, others):
    """The patch at `place` of a box without a box inside it."""
    at = ()
    among = place >= 0  # still in a slice that the inner box cuts
    for axis in tl.static_range(len(spans)):
        size, cut = 1, 1  # patches of a slice, and those of the inner box in it
        for inner in tl.static_range(axis + 1, len(spans)):
            size *= spans[inner][1] - spans[inner][0]
            cut *= others[inner][1] - others[inner][0]
        slices = others[axis][1] - others[axis][0]
        before = (others[axis][0] - spans[axis][0]) * size
        rest = size - cut
        turn = (place - before) // tl.maximum(rest, 1)
        here = among & (place >= before) & (turn < slices) & (rest > 0)
        # past the cut slices, or where nothing is left of them: count as if they were whole
        place = tl.where(among & (place >= before) & ~here, place + slices * cut, place)
        at += (tl.where(here, others[axis][0] + turn, spans[axis][0] + place // size),)
        place = tl.where(here, (place - before) % tl.maximum(rest, 1), place % size)
        among = here
    return at
