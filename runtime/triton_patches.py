"""Tiles that are compact on a grid: their tokens, and the boxes of them that a loop visits.

`sides` are the grid's tokens along each axis, slowest first. `steps` part each axis by remainders:
the tokens of one remainder on every axis, `rest`, are a grid of their own (one step: the whole
grid). `shape` is a patch's, powers of two whose product is the tile's length. Patches are counted
row-major, remainder by remainder. A box is a span (begin, end) of patches an axis.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def parted(sides, steps, rest):
    """The sides of the grid of tokens with the remainders `rest`."""
    found = ()
    for axis in tl.static_range(len(sides)):
        found += (tl.cdiv(tl.maximum(sides[axis] - rest[axis], 0), steps[axis]),)
    return found


@triton.jit
def digits(number, sizes):
    """`number` written row-major over axes of `sizes`."""
    at = ()
    for axis in tl.static_range(len(sizes)):
        size = 1
        for inner in tl.static_range(axis + 1, len(sizes)):
            size *= sizes[inner]
        at += (number // size,)
        number = number % size
    return at


@triton.jit
def grid_of_patches(sides, steps, shape):
    """The patches along each axis, as many as any remainder has."""
    found = ()
    for axis in tl.static_range(len(sides)):
        found += (tl.cdiv(tl.cdiv(sides[axis], steps[axis]), shape[axis]),)
    return found


@triton.jit
def remainders(sides, steps):
    """How many remainders tokens leave along each axis."""
    found = ()
    for axis in tl.static_range(len(sides)):
        found += (tl.minimum(sides[axis], steps[axis]),)
    return found


@triton.jit
def times(numbers):
    """The product of a tuple."""
    total = numbers[0]
    for axis in tl.static_range(1, len(numbers)):
        total *= numbers[axis]
    return total


@triton.jit
def patches(sides, steps, shape):
    """The number of patches of all remainders."""
    return times(grid_of_patches(sides, steps, shape)) * times(remainders(sides, steps))


@triton.jit
def patch(number, sides, steps, shape):
    """The remainders of patch `number`, and its place along each axis."""
    lengths = grid_of_patches(sides, steps, shape)
    each = times(lengths)
    return digits(number // each, remainders(sides, steps)), digits(number % each, lengths)


@triton.jit
def ends(at, rest, sides, steps, shape):
    """First and last coordinate of a patch along each axis, as one tuple."""
    lengths = parted(sides, steps, rest)
    found = ()
    for axis in tl.static_range(len(sides)):
        low = (at[axis] * shape[axis]).to(tl.int64)  # as a window may be any number
        found += (low, tl.minimum(low + shape[axis], lengths[axis]) - 1)
    return found


@triton.jit
def places(at, shape, amount: tl.constexpr):
    """Where the `amount` tokens of a patch lie along each axis among those of their remainder."""
    found = ()
    local = tl.arange(0, amount)
    size = amount
    for axis in tl.static_range(len(shape)):
        size = size // shape[axis]
        found += (at[axis] * shape[axis] + local // size % shape[axis],)
    return found


@triton.jit
def tokens(at, rest, sides, steps, start, length):
    """The tokens at the `places` of a patch as rows of a tensor whose first holds position `start`;
    `length` where the tensor has none."""
    position = tl.zeros_like(at[0])
    there = position == 0
    for axis in tl.static_range(len(sides)):
        coordinate = at[axis] * steps[axis] + rest[axis]
        there = there & (coordinate < sides[axis])
        position = position * sides[axis] + coordinate
    token = position - start
    return tl.where(there & (token >= 0) & (token < length), token, length)


@triton.jit
def box(runs, sides, start, length):
    """All patches that a run an axis reaches, and the full ones: two boxes.

    Where the tensor does not hold the whole grid no patch counts as full.
    """
    whole = (start == 0) & (length == times(sides))
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
    lengths, at = (), ()
    for axis in tl.static_range(len(spans)):
        lengths += (spans[axis][1] - spans[axis][0],)
    local = digits(place, lengths)
    for axis in tl.static_range(len(spans)):
        at += (spans[axis][0] + local[axis],)
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
