"""Entmax on the CPU: its weights, and the search for the threshold of a row, sweep by sweep.

Of scores s the weights at t are (1 + a (s - t)) ** (1 / a), cut off at 0. Their sum falls from 1 or
more at t = max(s). For a of 1 at most that sum to the power a is convex in t, a norm of convex
functions, so that Newton's steps from the left never go beyond the threshold, and the product of
height and slope falls fourfold or more a step: at most log4(n ** 2 / eps) steps, 3 to 12 in
practice. For a above 1 the interval up to max(s) + 1 is halved; its lower end is taken, where
nothing of the support is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.runtime.cpu_tiles import (
    Tile,
    blocks,
    fill,
    fixed_values,
    left_operands,
    row_values,
    tiles,
)
from attnspec.runtime.problem import Problem, Values


def thresholds(call: Problem) -> Tensor:
    """[B, H, M]: of each row the number at which its shares add up to 1, nearly; of a row without
    pairs, any number."""
    wide = call.wide
    out = torch.zeros((call.batch, call.heads, call.rows), dtype=wide, device=call.device)
    fixed = fixed_values(call)
    for block in blocks(call):
        values = row_values(call, fixed, block.rows)
        left = left_operands(call, block.rows)
        visited = tiles(call, values, block)
        top = torch.full_like(out[:, :, block.rows, None], float("-inf"))
        for tile in visited:
            fill(call, values, left, tile)
            keep, score = call.plan.tile(values, tile.masked)
            score = score.to(wide).expand(tile.shape(call))
            kept = score if keep is None else torch.where(keep, score, float("-inf"))
            top = torch.maximum(top, kept.amax(-1, keepdim=True))
        out[:, :, block.rows] = _search(call, values, left, visited, top).squeeze(-1)
    return out


def _search(
    call: Problem, values: Values, left: list[Tensor], visited: list[Tile], top: Tensor
) -> Tensor:
    """The thresholds [B, H, m, 1] of rows whose largest scores are `top`."""
    allowed, sweeps = (2.0**-44, 80) if call.wide is torch.float64 else (2.0**-18, 40)
    low = near = torch.where(torch.isfinite(top), top, 0.0)
    high, convex = low + 1, torch.ones_like(low, dtype=torch.bool)
    for _ in range(sweeps):
        values["threshold"] = near
        total, slope, a = _sums(call, values, left, visited, near)
        convex, enough = a <= 1, total >= 1
        low, high = torch.where(enough, near, low), torch.where(enough, high, near)
        step = torch.where(enough, _step(total, slope, a), 0.0)
        after = torch.where(convex, near + step, (low + high) / 2)
        off = (total - 1 > allowed) | ~(enough | convex)
        moving = bool((off & (after != near)).any())
        near = after
        if not moving:
            break
    return torch.where(convex, near, low)


def _step(total: Tensor, slope: Tensor, a: Tensor) -> Tensor:
    """That of Newton's method on total ** a - 1, whose `total` falls by `slope`."""
    height = torch.log(total)
    y = a * height
    lower = torch.where(y > 0, -torch.expm1(-y) / torch.where(y > 0, y, 1.0), 1.0)
    return total / slope * height * lower


def _sums(
    call: Problem, values: Values, left: list[Tensor], visited: list[Tile], near: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of shares and of slopes over every row's pairs, and the order."""
    assert call.plan.search is not None
    total, slope, order = torch.zeros_like(near), torch.zeros_like(near), torch.ones_like(near)
    for tile in visited:
        fill(call, values, left, tile)
        keep, share, (fall, less) = call.plan.search(values, tile.masked)
        for into, part in ((total, share), (slope, fall)):
            each = torch.as_tensor(part, dtype=call.wide).expand(tile.shape(call))
            each = each if keep is None else torch.where(keep, each, 0.0)
            into += each.sum(-1, keepdim=True)
        order = torch.as_tensor(less, dtype=call.wide, device=near.device)
    return total, slope, order


def tempered_tile(z: Tensor | float, a: Tensor | float) -> Tensor:
    """(1 + a z) ** (1 / a) where the base is above 0, else 0; e ** z at a = 0."""
    u = torch.as_tensor(a * z)
    outside = u <= -1  # which is not true of what is not a number
    some = ~outside & (u != 0)
    safe = torch.where(some, u, 1.0)
    slope = torch.where(some, torch.log1p(safe) / safe, 1.0)
    return torch.where(outside, 0.0, torch.exp(z * slope))


def bend_tile(z: Tensor | float, a: Tensor | float) -> Tensor:
    """d log(tempered(z, a)) / da: (u / (1 + u) - log(1 + u)) / u ** 2 times z ** 2 with u = a z, by
    a series near 0; 0 where the base is not above 0."""
    u = torch.as_tensor(a * z)
    inside, far = u > -1, u.abs() > 0.05
    v = torch.where(inside & far, u, 1.0)
    whole = (v / (1 + v) - torch.log1p(v)) / (v * v)
    near = torch.where(far, 0.0, u)
    series = torch.zeros_like(near)
    for n in range(13, 1, -1):
        series = (n - 1) / n - series * near
    return torch.where(inside, z * z * torch.where(far, whole, -series), 0.0)
