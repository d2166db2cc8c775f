"""A call cut into tiles for the CPU: values, bounds and dot products of each.

All heads share one matrix product a tile. Shapes: B batch, H query heads, G of them to a key
head, m and n a tile's rows and columns; every value is [B or 1, H or 1, m or 1, n or 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from attnspec.runtime.problem import Problem, Values

ROWS, COLUMNS = 128, 512  # a tile of all heads of one batch fits a core's cache


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows `low` to `high`, columns `first` to `end`; `masked` where it may have holes."""

    low: int
    high: int
    first: int
    end: int
    masked: bool

    @property
    def rows(self) -> slice:
        return slice(self.low, self.high)

    @property
    def columns(self) -> slice:
        return slice(self.first, self.end)


def widened(x: Tensor, call: Problem) -> Tensor:
    """A float tensor in the dtype of sums; others as they are."""
    return x.to(call.wide) if x.is_floating_point() else x


def by_key_head(x: Tensor, call: Problem) -> Tensor:
    """[B, H, m, C] as [B, Hk, G m, C]."""
    return x.reshape(call.batch, call.key_heads, -1, x.shape[-1])


def by_head(x: Tensor, call: Problem) -> Tensor:
    """[B, Hk, G m, C] as [B, H, m, C]."""
    return x.reshape(call.batch, call.heads, -1, x.shape[-1])


def fixed_values(call: Problem) -> Values:
    """Values that no tile changes: numbers, heads, per-head leaves, tables."""
    device = call.right.device
    values: Values = {
        name: torch.tensor(v, dtype=call.wide if isinstance(v, float) else None, device=device)
        for name, v in call.numbers.items()
    }
    # scores are natural logarithms here: the factor for base 2 is 1
    values |= {"wide": call.wide, "LOG2E": 1.0}
    values["b"] = torch.arange(call.batch, device=device).view(-1, 1, 1, 1)
    values["h"] = torch.arange(call.heads, device=device).view(1, -1, 1, 1)
    for leaf in call.plan.leaves:
        tensor = call.tensors[leaf.operand]
        if leaf.role == "head":
            values[leaf.name] = widened(tensor, call)[:, :, None, None]
        elif leaf.role == "table":
            values[leaf.operand] = tensor
    return values


def row_values(call: Problem, fixed: Values, low: int, high: int) -> Values:
    """`fixed` and what rows low to high fix."""
    place = torch.arange(low, high, device=call.right.device) + call.q_start
    values = fixed | {"i": place.view(1, 1, -1, 1)}
    for leaf in call.plan.leaves:
        if leaf.role == "row":
            values[leaf.name] = widened(call.tensors[leaf.operand][:, :, low:high, None], call)
    return values


def left_operands(call: Problem, low: int, high: int) -> list[Tensor]:
    """The row side of every dot product, [B, Hk, G m, C]."""
    return [
        by_key_head(call.tensors[x][:, :, low:high].to(call.wide), call)
        for _, x, _ in call.plan.dots
    ]


def fill(call: Problem, values: Values, left: Sequence[Tensor], tile: Tile) -> None:
    """Put what the tile's columns and pairs fix, and its dot products, into `values`."""
    place = torch.arange(tile.first, tile.end, device=call.right.device) + call.k_start
    values["j"] = place.view(1, 1, 1, -1)
    for leaf in call.plan.leaves:
        tensor = call.tensors[leaf.operand]
        if leaf.role == "column":
            part = widened(tensor[:, :, tile.columns], call)
            values[leaf.name] = part.repeat_interleave(call.groups, 1)[:, :, None, :]
        elif leaf.role == "pair":
            values[leaf.name] = widened(tensor[:, :, tile.rows, tile.columns], call)
    for rows, (name, _, y) in zip(left, call.plan.dots, strict=True):
        right = call.tensors[y][:, :, tile.columns].to(call.wide)
        values[name] = by_head(rows @ right.transpose(-1, -2), call)


def tiles(call: Problem, values: Values, low: int, high: int) -> list[Tile]:
    """The tiles that rows low to high can reach, edges apart from what has no holes."""
    if low >= high:
        return []
    ends = {"lo": low + call.q_start, "hi": high - 1 + call.q_start}
    values = values | {name: torch.tensor(at) for name, at in ends.items()}
    reached: list[tuple[int, int]] = []
    whole: list[tuple[int, int]] = []
    for first, last, full_first, full_last, full in call.plan.rows(values):
        begin = max(0, _position(first, torch.amin, 0, call))
        end = min(call.columns, _position(last, torch.amax, call.columns, call) + 1)
        reached.append((begin, end))
        if full:
            inside = max(begin, _position(full_first, torch.amax, begin, call))
            whole.append((inside, min(end, _position(full_last, torch.amin, end, call) + 1)))
    return [
        Tile(low, high, at, min(at + COLUMNS, end), masked)
        for begin, end, masked in stretches(reached, whole)
        for at in range(begin, end, COLUMNS)
    ]


def _position(
    limit: Tensor | int | bool | None,
    pick: Callable[[Tensor], Tensor],
    otherwise: int,
    call: Problem,
) -> int:
    """A limit as a column: of those of several heads the one that `pick` takes."""
    if limit is None:
        return otherwise
    return int(pick(torch.as_tensor(limit))) - call.k_start


def stretches(
    reached: Sequence[tuple[int, int]], whole: Sequence[tuple[int, int]]
) -> list[tuple[int, int, bool]]:
    """The union of intervals [begin, end) as (begin, end, masked), in order and disjoint; masked
    is what lies in none of `whole`."""
    cuts = sorted({at for one in (*reached, *whole) for at in one})
    found: list[tuple[int, int, bool]] = []
    for begin, end in pairwise(cuts):
        if not any(a <= begin and end <= b for a, b in reached):
            continue
        masked = not any(a <= begin and end <= b for a, b in whole)
        if found and found[-1][1:] == (begin, masked):
            begin = found.pop()[0]
        found.append((begin, end, masked))
    return found


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """A table [B or 1, H or 1, T] at `index` [.., .., m, n]; an index outside reads the edge."""
    size = table.shape[-1]
    index = index.clamp(0, size - 1)
    shape = torch.broadcast_shapes((*table.shape[:2], 1, 1), index.shape)
    flat = index.expand(shape).flatten(2)
    picked = torch.gather(table.expand(*shape[:2], size), 2, flat).view(shape)
    if not table.is_floating_point():
        return picked
    return picked.to(torch.float64 if table.dtype is torch.float64 else torch.float32)
