"""Boxes of patches against sets of tokens, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.boxes
"""
# mypy: ignore-errors

from __future__ import annotations

import random
import sys
from itertools import product

import torch
import triton
import triton.language as tl

from attnspec.runtime.triton_patches import area, box, cell, cell_besides, patch, patches, tokens
from attnspec.runtime.triton_walk import reach


@triton.jit
def run(limits, axis, side, length: tl.constexpr):
    return reach(
        tl.load(limits + 4 * axis),
        tl.load(limits + 4 * axis + 1),
        tl.load(limits + 4 * axis + 2),
        tl.load(limits + 4 * axis + 3),
        0,
        side,
        length,
        True,
    )


@triton.jit
def listed(
    limits,
    out,
    counts,
    a,
    b,
    c,
    start,
    length,
    one: tl.constexpr,
    two: tl.constexpr,
    three: tl.constexpr,
    amount: tl.constexpr,
    axes: tl.constexpr,
):
    """Write the tokens of the full patches, then those of the others, and how many there are."""
    if axes == 2:
        sides = (b, c)
        runs = (run(limits, 0, b, two), run(limits, 1, c, three))
    else:
        sides = (a, b, c)
        runs = (run(limits, 0, a, one), run(limits, 1, b, two), run(limits, 2, c, three))
    visited, full = box(runs, sides, start, length)
    local = tl.arange(0, amount)
    for place in tl.range(0, area(full)):
        at = cell(place, full)
        if axes == 2:
            token = tokens(at, sides, (two, three), start, length, amount)
        else:
            token = tokens(at, sides, (one, two, three), start, length, amount)
        tl.store(out + place * amount + local, token)
    for place in tl.range(0, area(visited) - area(full)):
        at = cell_besides(place, visited, full)
        if axes == 2:
            token = tokens(at, sides, (two, three), start, length, amount)
        else:
            token = tokens(at, sides, (one, two, three), start, length, amount)
        tl.store(out + (area(full) + place) * amount + local, token)
    tl.store(counts, area(full))
    tl.store(counts + 1, area(visited) - area(full))


@triton.jit
def every(
    out, a, b, c, start, length,
    one: tl.constexpr, two: tl.constexpr, three: tl.constexpr, amount: tl.constexpr,
):  # fmt: skip
    """Write the tokens of every patch of a grid of three axes."""
    sides, local = (a, b, c), tl.arange(0, amount)
    for number in tl.range(0, patches(sides, (one, two, three))):
        token = tokens(
            patch(number, sides, (one, two, three)), sides, (one, two, three), start, length, amount
        )
        tl.store(out + number * amount + local, token)


def expected(limits, sides, shape, start, length):
    """Sets of the tokens of full patches and of the others, patch by patch."""
    size = 1
    for side in sides:
        size *= side
    full, others = set(), set()
    for low in product(*(range(0, side, n) for side, n in zip(sides, shape, strict=True))):
        axes = [range(at, min(at + n, side)) for at, n, side in zip(low, shape, sides, strict=True)]
        ends = list(zip(axes, limits, strict=True))
        if not all(any(x[0] <= p <= x[1] for p in axis) for axis, x in ends):
            continue
        whole = all(
            all(max(x[0], x[2]) <= p <= min(x[1], x[3]) for p in axis) for axis, x in ends
        ) and all(len(axis) == n for axis, n in zip(axes, shape, strict=True))
        found = set()
        for at in product(*axes):
            position = 0
            for coordinate, side in zip(at, sides, strict=True):
                position = position * side + coordinate
            if 0 <= position - start < length:
                found.add(position - start)
        (full if whole and start == 0 and length == size else others).add(frozenset(found))
    return full, others


def main() -> int:
    rng = random.Random(11)
    for case in range(48):
        axes = 2 + case % 2
        sides = [rng.randint(1, 9) for _ in range(3)]
        shape = [rng.choice((1, 2, 4)) for _ in range(3)]
        if axes == 2:
            sides[0] = shape[0] = 1
        amount = shape[0] * shape[1] * shape[2]
        limits = []
        for side in sides[3 - axes :]:
            first = rng.randint(-2, side)
            last = first + rng.randint(-1, 9)
            limits.append((first, last, first + rng.randint(0, 2), last - rng.randint(0, 2)))
        size = sides[0] * sides[1] * sides[2]
        start, length = (0, size) if rng.random() < 0.7 else (2, max(size - 3, 1))
        out = torch.full((4096,), -1, dtype=torch.int32)
        counts = torch.zeros(2, dtype=torch.int32)
        listed[(1,)](
            torch.tensor(limits, dtype=torch.int32).flatten(), out, counts, *sides, start, length,
            *shape, amount, axes,
        )  # fmt: skip
        full, others = counts.tolist()
        rows = out[: (full + others) * amount].view(-1, amount).tolist()
        found = [frozenset(t for t in row if t < length) for row in rows]
        want = expected(limits, sides[3 - axes :], shape[3 - axes :], start, length)
        if (set(found[:full]), set(found[full:])) != want:
            print(limits, sides, shape, start, length, found[:full], found[full:], want)
            return 1
        out.fill_(length)
        every[(1,)](out, *sides, start, length, *shape, amount)
        there = sorted(t for t in out.tolist() if t < length)
        if there != [t for t in range(length) if t + start < size]:
            print(sides, shape, start, length, there)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
