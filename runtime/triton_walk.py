"""The tiles of a loop, in closed form: which to visit, and which of them hold pairs only.

A mask is a union of runs; each run reaches an interval of tiles around an interval of full ones.
A span is a pair (begin, end) of tile numbers; spans in order are sorted and share no tile. Loops
count from 0 and map the count to a tile, so that any number of runs takes two loops, each with a
trip count and an address that the compiler can pipeline.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def reach(first, last, full_first, full_last, start, size, block: tl.constexpr, full: tl.constexpr):
    """((begin, end), (inside, until)): tiles with any position of a run, and tiles of its alone.

    `first` to `last` are the positions that the run may hold, `full_first` to `full_last` those
    that it holds for the whole tile of the other side (nowhere unless `full`); None is no limit.
    Position `start` is token 0 of `size`. A run with `last < first` is empty.
    """
    stop = start + size
    low = start if first is None else within(first, start, stop)
    high = stop if last is None else within(last, start - 1, stop - 1) + 1
    begin = (low - start) // block
    end = tl.where(low < high, (high - start + block - 1) // block, begin)
    if not full:
        return (begin, end), (end, end)
    low = low if full_first is None else tl.maximum(within(full_first, start, stop), low)
    high = (
        high if full_last is None else tl.minimum(within(full_last, start - 1, stop - 1) + 1, high)
    )
    inside = tl.minimum((low - start + block - 1) // block, end)
    until = tl.maximum((high - start) // block, inside)
    return (begin, end), (inside, tl.minimum(until, end))


@triton.jit
def within(position, low, high):
    """The nearest position from `low` to `high`; what is far away may need 64 bits."""
    return tl.minimum(tl.maximum(position, low), high).to(tl.int32)


@triton.jit
def walk(runs):
    """All tiles that runs reach, and the full ones: two lists of spans in order."""
    visited, full = (), ()
    for run in tl.static_range(len(runs)):
        visited += (runs[run][0],)
        full += (runs[run][1],)
    return in_order(visited), in_order(full)


@triton.jit
def in_order(spans):
    """Spans sorted by where they begin, each without the tiles of those before it."""
    for done in tl.static_range(len(spans) - 1):
        for at in tl.static_range(len(spans) - 1 - done):
            one, two = spans[at], spans[at + 1]
            turn = two[0] < one[0]
            least = (tl.where(turn, two[0], one[0]), tl.where(turn, two[1], one[1]))
            most = (tl.where(turn, one[0], two[0]), tl.where(turn, one[1], two[1]))
            spans = spans[:at] + (least, most) + spans[at + 2 :]
    for at in tl.static_range(len(spans) - 1):
        begin = tl.maximum(spans[at + 1][0], spans[at][1])
        rest = (begin, tl.maximum(spans[at + 1][1], begin))
        spans = spans[: at + 1] + (rest,) + spans[at + 2 :]
    return spans


@triton.jit
def count(spans):
    """The number of tiles in spans in order."""
    total = spans[0][1] - spans[0][0]
    for at in tl.static_range(1, len(spans)):
        total += spans[at][1] - spans[at][0]
    return total


@triton.jit
def nth(place, spans):
    """The tile at `place` of spans in order."""
    tile = spans[0][0] + place
    before = spans[0][1] - spans[0][0]
    for at in tl.static_range(1, len(spans)):
        tile = tl.where(place < before, tile, spans[at][0] + place - before)
        before += spans[at][1] - spans[at][0]
    return tile


@triton.jit
def nth_besides(place, spans, others):
    """The tile at `place` of spans in order without `others`, spans in order inside them."""
    for at in tl.static_range(len(others)):
        before = 0  # tiles of `spans` that come before this one of `others`
        for of in tl.static_range(len(spans)):
            begin, end = spans[of][0], spans[of][1]
            before += tl.minimum(tl.maximum(others[at][0], begin), end) - begin
        place = tl.where(place < before, place, place + others[at][1] - others[at][0])
    return nth(place, spans)
