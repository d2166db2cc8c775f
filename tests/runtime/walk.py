"""Walks over random runs against sets of tiles, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.walk
"""
# mypy: ignore-errors

from __future__ import annotations

import random
import sys

import torch
import triton
import triton.language as tl

import attnspec
from attnspec.runtime.triton_walk import count, nth, nth_besides, reach, walk

BLOCK = 8


@triton.jit
def one(first, last, full_first, full_last, at, start, size, full: tl.constexpr):
    return reach(
        tl.load(first + at),
        tl.load(last + at),
        tl.load(full_first + at),
        tl.load(full_last + at),
        start,
        size,
        8,
        full,
    )


@triton.jit
def listed(first, last, full_first, full_last, out, n, start, size, runs: tl.constexpr):
    """Write the full tiles, then the others, and their numbers to the last two places."""
    if runs == 1:
        spans = (one(first, last, full_first, full_last, 0, start, size, True),)
    elif runs == 2:
        spans = (
            one(first, last, full_first, full_last, 0, start, size, True),
            one(first, last, full_first, full_last, 1, start, size, False),
        )
    else:
        spans = (
            one(first, last, full_first, full_last, 0, start, size, True),
            one(first, last, full_first, full_last, 1, start, size, True),
            one(first, last, full_first, full_last, 2, start, size, True),
            reach(None, tl.load(last + 3), None, None, start, size, 8, True),
        )
    visited, full = walk(spans)
    for place in tl.range(0, count(full)):
        tl.store(out + place, nth(place, full))
    for place in tl.range(0, count(visited) - count(full)):
        tl.store(out + count(full) + place, nth_besides(place, visited, full))
    tl.store(out + n - 2, count(full))
    tl.store(out + n - 1, count(visited) - count(full))


def expected(runs, start, size):
    """The sets of full and of other tiles, position by position."""
    tiles = range(-(-size // BLOCK))
    full, some = set(), set()
    for first, last, full_first, full_last, may in runs:
        for tile in tiles:
            tokens = range(tile * BLOCK, min((tile + 1) * BLOCK, size))
            reached = [t for t in tokens if first <= start + t <= last]
            whole = [
                t for t in tokens if max(first, full_first) <= start + t <= min(last, full_last)
            ]
            if reached:
                some.add(tile)
            if may and reached and len(whole) == BLOCK:
                full.add(tile)
    return full, some - full


def main() -> int:
    rng = random.Random(7)
    for case in range(120):
        amount = (1, 2, 4)[case % 3]
        start, size = rng.choice((0, 0, 5)), rng.randint(1, 90)
        runs = []
        for at in range(4):
            first = rng.randint(-10, 100) if rng.random() < 0.8 else rng.randint(-10, 5)
            last = first + rng.randint(-6, 60)
            full_first = first + rng.randint(0, 20)
            full_last = last - rng.randint(0, 20)
            runs.append((first, last, full_first, full_last, not (amount == 2 and at == 1)))
        if amount == 4:
            runs[3] = (-1000, runs[3][1], -1000, runs[3][1], True)
        if case % 5 == 0:  # an end that no int32 holds
            first, last, full_first, full_last, may = runs[0]
            runs[0] = (first - 2**33, last + 2**33, full_first - 2**33, full_last, may)
        ends = [torch.tensor([run[end] for run in runs], dtype=torch.int64) for end in range(4)]
        out = torch.full((64,), -1, dtype=torch.int32)
        listed[(1,)](*ends, out, len(out), start, size, amount)
        *tiles, full, others = out.tolist()
        found = tiles[:full], tiles[full : full + others]
        want = expected(runs[:amount], start, size)
        if (set(found[0]), set(found[1])) != want or full + others != sum(map(len, want)):
            print(runs[:amount], start, size, found, want)
            return 1
    return wide_windows()


def wide_windows() -> int:
    """Windows as long as an int32 can say hold everything."""
    attention = attnspec.compile("attention a\ninput r: int = 4 where r > 0\nmask abs(i - j) < r\n")
    q, k, v = torch.randn(3, 1, 1, 40, 16, generator=torch.Generator().manual_seed(0)).unbind()
    for r in (5, 2**30, 2**31 - 1):
        got = attention(q, k, v, r=r, backend="triton")
        want = attention.reference(q, k, v, r=r)
        if (got - want).abs().max() > 1e-5:
            print(f"a window of {r}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
