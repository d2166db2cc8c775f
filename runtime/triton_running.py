"""Running sums of a tile, block by block of the tokens along one side of it.

Which side that is says the shape of their positions: [1, n] along axis 1, [n, 1] along axis 0.
"""
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from attnspec.runtime.tiles import BLOCK

RUN = tl.constexpr(BLOCK)


@triton.jit
def runs(place):
    """The numbers of the blocks that the consecutive tokens `place` make up."""
    count: tl.constexpr = place.shape[0] // RUN
    return tl.min(tl.reshape(place // RUN, [count, RUN]), 1)


@triton.jit
def _cut(x, place, end):
    """A tile by blocks, tokens from position `end` on as 0: their place in one has an axis of its
    own, 2 where the tokens lie along axis 1, else 1."""
    x = tl.where(place < end, x, 0.0)
    if place.shape[0] == 1:
        cut = tl.reshape(x, [x.shape[0], x.shape[1] // RUN, RUN])
    else:
        cut = tl.reshape(x, [x.shape[0] // RUN, RUN, x.shape[1]])
    return cut


@triton.jit
def _joined(before, last, more, own):
    """What comes before the last number of a run, and that number, of two runs in one."""
    return before + last + more, own


@triton.jit
def running(x, carried, place, end, after: tl.constexpr, own: tl.constexpr):
    """Of each number of a tile the sum of those before it in its block (or `after` it, or with its
    `own`), which is never the difference of two others; plus what is `carried` to its block."""
    if place.shape[0] == 1:
        shape: tl.constexpr = [x.shape[0] if carried is None else carried.shape[0], place.shape[1]]
    else:
        shape: tl.constexpr = [place.shape[0], x.shape[1] if carried is None else carried.shape[1]]
    cut = _cut(x + tl.zeros(shape, dtype=tl.float32), place, end)
    axis: tl.constexpr = 2 if place.shape[0] == 1 else 1
    found, last = tl.associative_scan((tl.zeros_like(cut), cut), axis, _joined, reverse=after)
    if own:
        found += last
    if carried is not None:
        found += tl.expand_dims(carried, axis)
    return tl.reshape(found, shape)


@triton.jit
def block_sums(x, place, end):
    """What the blocks of a tile add up to."""
    return tl.sum(_cut(x, place, end), 2 if place.shape[0] == 1 else 1)


@triton.jit
def by_run(parts, place):
    """Numbers of blocks as those of their tokens."""
    if place.shape[0] == 1:
        spread = tl.expand_dims(parts, 2) + tl.zeros([1, 1, RUN], dtype=tl.float32)
        found = tl.reshape(spread, [parts.shape[0], place.shape[1]])
    else:
        spread = tl.expand_dims(parts, 1) + tl.zeros([1, RUN, 1], dtype=tl.float32)
        found = tl.reshape(spread, [place.shape[0], parts.shape[1]])
    return found
