"""Running sums of a tile in PyTorch, and of the blocks around it."""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.runtime.tiles import BLOCK


def block_sums(x: Tensor, dim: int) -> Tensor:
    """What every `BLOCK` numbers along a dimension add up to; the last of them may be fewer."""
    return _cut(x, dim).sum(-1).movedim(-1, dim)


def running(x: Tensor, dim: int, after: bool, own: bool) -> Tensor:
    """Of each number the sum of those before it in its block along a dimension (or `after` it, or
    with its `own`), which is never the difference of two others."""
    found = _summed(_cut(x, dim), after, own).flatten(-2)
    return found[..., : x.shape[dim]].movedim(-1, dim)


def running_tile(
    x: Tensor, carried: Tensor, place: Tensor, dim: int, after: bool, own: bool
) -> Tensor:
    """`running` of a tile along the positions `place`, plus what is `carried` to its blocks."""
    shape = list(x.shape)
    shape[dim] = place.shape[dim]
    return running(x.expand(shape), dim, after, own) + by_run(carried, dim, place.shape[dim])


def by_run(parts: Tensor, dim: int, count: int) -> Tensor:
    """Numbers of blocks as those of their `count` tokens."""
    return parts.repeat_interleave(BLOCK, dim).narrow(dim, 0, count)


def carried(x: Tensor, after: bool) -> Tensor:
    """Of sums of blocks [.., blocks] the sum of those before each, or `after` it."""
    return _summed(x, after, own=False)


def _cut(x: Tensor, dim: int) -> Tensor:
    """[.., blocks, BLOCK]: the dimension in blocks, with 0 past its end."""
    x = x.movedim(dim, -1)
    blocks = -(-x.shape[-1] // BLOCK)
    whole: Tensor = torch.nn.functional.pad(x, (0, blocks * BLOCK - x.shape[-1]))
    return whole.reshape(*x.shape[:-1], blocks, BLOCK)


def _summed(x: Tensor, after: bool, own: bool) -> Tensor:
    """Sums along the last dimension."""
    x = x.flip(-1) if after else x
    if not own:
        x = torch.nn.functional.pad(x, (1, 0))[..., :-1]
    found: Tensor = x.cumsum(-1)
    return found.flip(-1) if after else found
