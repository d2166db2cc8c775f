"""Boxes of patches against sets of tokens, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.boxes
"""
# mypy: ignore-errors

from __future__ import annotations

import random
import sys
from itertools import product
from math import prod

import torch
import triton
import triton.language as tl

from attnspec.runtime.triton_patches import (
    area,
    box,
    cell,
    cell_besides,
    parted,
    patch,
    patches,
    places,
    tokens,
)
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
    limits, out, counts, start, length, amount: tl.constexpr, axes: tl.constexpr,
    a, b, c, step_a, step_b, step_c, rest_a, rest_b, rest_c,
    one: tl.constexpr, two: tl.constexpr, three: tl.constexpr,
):  # fmt: skip
    """Write the tokens of the full patches, then those of the others, and how many there are."""
    if axes == 2:
        sides, steps, rest, shape = (b, c), (step_b, step_c), (rest_b, rest_c), (two, three)
        mine = parted(sides, steps, rest)
        runs = (run(limits, 0, mine[0], two), run(limits, 1, mine[1], three))
    else:
        sides, steps, rest = (a, b, c), (step_a, step_b, step_c), (rest_a, rest_b, rest_c)
        shape = (one, two, three)
        mine = parted(sides, steps, rest)
        runs = (
            run(limits, 0, mine[0], one), run(limits, 1, mine[1], two),
            run(limits, 2, mine[2], three),
        )  # fmt: skip
    visited, full = box(runs, sides, start, length)
    local = tl.arange(0, amount)
    for place in tl.range(0, area(full)):
        token = tokens(places(cell(place, full), shape, amount), rest, sides, steps, start, length)
        tl.store(out + place * amount + local, token)
    for place in tl.range(0, area(visited) - area(full)):
        at = cell_besides(place, visited, full)
        token = tokens(places(at, shape, amount), rest, sides, steps, start, length)
        tl.store(out + (area(full) + place) * amount + local, token)
    tl.store(counts, area(full))
    tl.store(counts + 1, area(visited) - area(full))


@triton.jit
def every(
    out, start, length, amount: tl.constexpr, a, b, c, step_a, step_b, step_c,
    one: tl.constexpr, two: tl.constexpr, three: tl.constexpr,
):  # fmt: skip
    """Write the tokens of every patch of a grid of three axes."""
    sides, steps, shape = (a, b, c), (step_a, step_b, step_c), (one, two, three)
    for number in tl.range(0, patches(sides, steps, shape)):
        rest, at = patch(number, sides, steps, shape)
        token = tokens(places(at, shape, amount), rest, sides, steps, start, length)
        tl.store(out + number * amount + tl.arange(0, amount), token)


def expected(limits, sides, steps, rest, shape, start, length):
    """Sets of the tokens of full patches and of the others, patch by patch."""
    mine = [len(range(least, n, step)) for n, step, least in zip(sides, steps, rest, strict=True)]
    full, others = set(), set()
    for low in product(*(range(0, side, n) for side, n in zip(mine, shape, strict=True))):
        axes = [range(at, min(at + n, side)) for at, n, side in zip(low, shape, mine, strict=True)]
        ends = list(zip(axes, limits, strict=True))
        if not all(any(x[0] <= p <= x[1] for p in axis) for axis, x in ends):
            continue
        whole = all(
            all(max(x[0], x[2]) <= p <= min(x[1], x[3]) for p in axis) for axis, x in ends
        ) and all(len(axis) == n for axis, n in zip(axes, shape, strict=True))
        found = set()
        for at in product(*axes):
            position = 0
            for place, side, step, least in zip(at, sides, steps, rest, strict=True):
                position = position * side + place * step + least
            if 0 <= position - start < length:
                found.add(position - start)
        whole = whole and start == 0 and length == prod(sides)
        (full if whole else others).add(frozenset(found))
    return full, others


def main() -> int:
    rng = random.Random(11)
    for case in range(48):
        axes = 2 + case % 2
        sides = [rng.randint(1, 9) for _ in range(3)]
        steps = [rng.choice((1, 1, 2, 3)) for _ in range(3)]
        shape = [rng.choice((1, 2, 4)) for _ in range(3)]
        if axes == 2:
            sides[0] = steps[0] = shape[0] = 1
        rest = [rng.randrange(min(n, step)) for n, step in zip(sides, steps, strict=True)]
        amount, size = prod(shape), prod(sides)
        limits = []
        for side in sides[3 - axes :]:
            first = rng.randint(-2, side)
            last = first + rng.randint(-1, 9)
            limits.append((first, last, first + rng.randint(0, 2), last - rng.randint(0, 2)))
        start, length = (0, size) if rng.random() < 0.7 else (2, max(size - 3, 1))
        out = torch.full((4096,), -1, dtype=torch.int32)
        counts = torch.zeros(2, dtype=torch.int32)
        ends = torch.tensor(limits, dtype=torch.int32).flatten()
        grid = (*sides, *steps)
        listed[(1,)](ends, out, counts, start, length, amount, axes, *grid, *rest, *shape)
        full, others = counts.tolist()
        rows = out[: (full + others) * amount].view(-1, amount).tolist()
        found = [frozenset(t for t in row if t < length) for row in rows]
        used = (x[3 - axes :] for x in (sides, steps, rest, shape))
        want = expected(limits, *used, start, length)
        if (set(found[:full]), set(found[full:])) != want:
            print(limits, sides, steps, rest, shape, start, length, found, full, want)
            return 1
        out.fill_(length)
        every[(1,)](out, start, length, amount, *grid, *shape)
        there = sorted(t for t in out.tolist() if t < length)
        if there != [t for t in range(length) if t + start < size]:
            print(sides, steps, shape, start, length, there)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
