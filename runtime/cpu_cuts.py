"""The largest of every row on the CPU: three numbers that say which pairs these are.

A pair is one of them if its order is above the first number, or above the second and its position
not after the third. The first two lie halfway between what is in and what is out, so that a score
which a later pass rounds otherwise falls on the same side; where equal ones are on both sides, they
lie around these, and the position decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.runtime.cpu_tiles import blocks, fill, fixed_values, left_operands, row_values, tiles
from attnspec.runtime.problem import Problem

LEAST, MOST = -(2**63), 2**63 - 1


def cuts(call: Problem) -> Tensor:
    """[B, H, M, 3]: the cuts of each row; all are in of a row that has no more."""
    out = torch.empty((call.batch, call.heads, call.rows, 3), dtype=torch.int64, device=call.device)
    fixed = fixed_values(call)
    assert call.plan.search is not None
    for block in blocks(call):
        values = row_values(call, fixed, block.rows)
        left = left_operands(call, block.rows)
        shape = out[:, :, block.rows, 0].shape
        every = torch.full((*shape, call.columns), LEAST, device=call.device)
        most, dtype = torch.zeros((), dtype=torch.int64, device=call.device), torch.int64
        for tile in tiles(call, values, block):
            fill(call, values, left, tile)
            keep, score, (count,) = call.plan.search(values, tile.masked)
            order = order_tile(score) if score.is_floating_point() else score.long()
            order = order.expand(tile.shape(call))
            every[..., tile.columns] = order if keep is None else torch.where(keep, order, LEAST)
            most, dtype = torch.as_tensor(count, device=call.device).long(), score.dtype
        out[:, :, block.rows] = _cuts(every, most.expand(*shape, 1), dtype, call.k_start)
    return out


def _cuts(every: Tensor, most: Tensor, dtype: torch.dtype, start: int) -> Tensor:
    """[.., m, 3] of the orders [.., m, N] of scores of `dtype`, `most` [.., m, 1] of which are in;
    LEAST takes no part."""
    order, at = every.sort(dim=-1, descending=True, stable=True)
    first, last = (order.new_full((*order.shape[:-1], 1), end) for end in (MOST, LEAST))
    order, at = torch.cat((first, order, last), -1), torch.cat((first, at), -1)
    most = torch.minimum(most.clamp(min=0), (every > LEAST).sum(-1, keepdim=True))
    inner, outer = order.gather(-1, most), order.gather(-1, most + 1)
    tied = (inner == outer) & (most > 0)
    above = torch.where(order > inner, order, MOST).amin(-1, keepdim=True)
    below = torch.where(order < inner, order, LEAST).amax(-1, keepdim=True)
    cut = torch.where(most == 0, MOST, middle(outer, inner, dtype))
    last = torch.where(tied, at.gather(-1, most) + start, -1)
    first = torch.where(tied, middle(inner, above, dtype), cut)
    second = torch.where(tied, middle(below, inner, dtype), cut)
    return torch.cat((first, second, last), -1)


def middle(low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    """An order from `low` up to below `high`, in the middle of the numbers of `dtype` that have
    these orders, or of the orders where there is none; `low` if both are the same."""
    found = (low & high) + ((low ^ high) >> 1)
    if not dtype.is_floating_point:
        return found
    half = order_tile(_number(low, dtype) * 0.5 + _number(high, dtype) * 0.5)
    return torch.where((half >= low) & (half < high), half, found)


def _number(order: Tensor, dtype: torch.dtype) -> Tensor:
    """The number of an order."""
    bits = torch.int64 if dtype is torch.float64 else torch.int32
    most = torch.iinfo(bits).max
    turned = torch.where(order < 0, order ^ most, order)
    return turned.to(bits).view(dtype)


def order_tile(x: Tensor) -> Tensor:
    """int64 in the order of x, all above LEAST; -0 is 0, what is not a number above all."""
    bits = torch.int64 if x.dtype is torch.float64 else torch.int32
    most = torch.iinfo(bits).max
    found = x.contiguous().view(bits)
    whole = torch.where(found < 0, found ^ most, found)
    return torch.where(x.isnan(), most, torch.where(x == 0, 0, whole)).long()
