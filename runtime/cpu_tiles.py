"""A call cut into tiles for the CPU: values, bounds and dot products of each.

All heads share one matrix product a tile. Shapes: B batch, H query heads, G of them to a key
head, m and n a tile's rows and columns; every value is [B or 1, H or 1, m or 1, n or 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attnspec.runtime import patches
from attnspec.runtime.blocks import Stretch, limits, visited
from attnspec.runtime.kept import kept, place_of
from attnspec.runtime.problem import ChannelSum, Limits, Patches, Problem, Values
from attnspec.runtime.shapes import broadcast, once
from attnspec.runtime.tiles import BLOCK

ROWS, COLUMNS = 128, 512  # a tile of all heads of one batch fits a core's cache


# Tokens of a tile: consecutive ones, or those of a patch by number.
Place: TypeAlias = "slice | Tensor"


@dataclass(frozen=True, slots=True)
class Block:
    """A tile's rows, and the columns to visit; of a patch instead the first and last coordinates
    of its queries, `ends`."""

    rows: Place
    visits: Sequence[Stretch] = ()
    ends: dict[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """Some rows and columns; `masked` where it may have holes."""

    rows: Place
    columns: Place
    masked: bool

    def shape(self, call: Problem) -> tuple[int, ...]:
        """[B, H, m, n]."""
        lengths = (
            len(range(*p.indices(n))) if isinstance(p, slice) else len(p)
            for p, n in ((self.rows, call.rows), (self.columns, call.columns))
        )
        return (call.batch, call.heads, *lengths)

    def blocked(self, role: str) -> Tile:
        """The tile of the blocks of its rows ("row_blocks") or of its columns ("column_blocks")."""
        assert isinstance(self.rows, slice)
        assert isinstance(self.columns, slice)
        rows = _blocks_of(self.rows) if role == "row_blocks" else self.rows
        columns = _blocks_of(self.columns) if role == "column_blocks" else self.columns
        return replace(self, rows=rows, columns=columns)

    def of(self, pairs: Tensor) -> tuple[Any, ...]:
        """The index of this tile in a tensor [.., .., M, N]."""
        rows, columns = self.rows, self.columns
        if isinstance(rows, Tensor):
            rows = rows[:, None]
            if isinstance(columns, slice):
                columns = torch.arange(columns.start, columns.stop, device=pairs.device)
        return (slice(None), slice(None), rows, columns)


def _blocks_of(place: slice) -> slice:
    """The numbers of the blocks that tokens make up."""
    return slice(place.start // BLOCK, -(-place.stop // BLOCK))


def widened(x: Tensor, call: Problem) -> Tensor:
    """A float tensor in the dtype of sums; others as they are."""
    return x.to(call.wide) if x.is_floating_point() else x


def of_key_heads(x: Tensor, call: Problem) -> Tensor:
    """[B or 1, Hk or 1, ..] as [B or 1, H or 1, ..]."""
    return x if x.shape[1] == 1 else x.repeat_interleave(call.groups, 1)


def by_key_head(x: Tensor, call: Problem) -> Tensor:
    """[B, H, m, C] as [B, Hk, G m, C]."""
    return x.reshape(call.batch, call.key_heads, -1, x.shape[-1])


def by_head(x: Tensor, call: Problem) -> Tensor:
    """[B, Hk, G m, C] as [B, H, m, C]."""
    rows = x.shape[1] * x.shape[2] // call.heads
    return x.reshape(call.batch, call.heads, rows, x.shape[-1])


def fixed_values(call: Problem) -> Values:
    """Values that no tile changes: numbers, heads, per-head leaves, tables."""
    device = call.device
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
            values[leaf.name] = widened(once(tensor), call)[:, :, None, None]
        elif leaf.role == "table":
            values[leaf.operand] = tensor
    return values


def blocks(call: Problem) -> Iterator[Block]:
    """The rows of a call, a tile of all its heads at a time."""
    if call.plan.patches is not None:
        yield from _patches(call, call.plan.patches)
        return
    for at, found in enumerate(visits(call, ROWS)):
        yield Block(slice(at * ROWS, min((at + 1) * ROWS, call.rows)), found)


def visits(call: Problem, rows: int) -> list[list[Stretch]]:
    """The columns that every `rows` rows visit: within some run of the mask's bounds."""
    return kept(call, place_of(call, ("columns", rows)), lambda: _visits(call, rows))


def _visits(call: Problem, rows: int) -> list[list[Stretch]]:
    if call.plan.blocks is not None:
        return visited(call, rows)
    if call.plan.ranges is not None:
        table = limits(call, rows, COLUMNS).unflatten(-1, (-1, 4)).permute(2, 0, 1, 3, 4)
        runs: Limits = tuple((*run.unbind(-1), True) for run in table.unbind(-2))
        return reached(call, runs, len(table))
    low = torch.arange(0, call.rows, rows).view(-1, 1, 1, 1, 1)
    ends = {"lo": low + call.q_start, "hi": (low + rows).clamp(max=call.rows) - 1 + call.q_start}
    return reached(call, call.plan.rows(fixed_values(call) | ends), len(low))


def _patches(call: Problem, found: Patches) -> Iterator[Block]:
    grid, _ = patches.grids(call)
    shape, _ = patches.shapes(call, ROWS, ROWS)
    for rest in grid.rests():
        sides = grid.part(rest)
        for low in product(*(range(0, side, n) for side, n in zip(sides, shape, strict=True))):
            high = tuple(min(a + n, s) - 1 for a, n, s in zip(low, shape, sides, strict=True))
            rows = grid.tokens(low, high, rest, call.q_start, call.rows)
            fixed = {"lo": low, "hi": high, "rest": rest}
            ends = {
                f"{name}_{axis}": torch.tensor(at)
                for name, place in fixed.items()
                for axis, at in zip(found.axes, place, strict=True)
            }
            if len(rows) > 0:
                yield Block(rows, ends=ends)


def positions(place: Place, length: int, start: int, device: torch.device) -> Tensor:
    """The positions of a tile's tokens."""
    return torch.arange(length, device=device)[place] + start


def row_values(call: Problem, fixed: Values, rows: Place) -> Values:
    """`fixed` and what a tile's rows fix."""
    place = positions(rows, call.rows, call.q_start, call.device)
    values = fixed | {"i": place.view(1, 1, -1, 1)}
    for leaf in call.plan.leaves:
        if leaf.role == "row_table":
            values[leaf.operand] = call.tensors[leaf.operand][:, :, rows]
        elif leaf.role == "row":
            values[leaf.name] = widened(once(call.tensors[leaf.operand])[:, :, rows, None], call)
    return values


def left_operands(call: Problem, rows: Place) -> list[Tensor]:
    """The row side of every dot product, [B, Hk, G m, C]."""
    return [
        by_key_head(call.tensors[x][:, :, rows].to(call.wide), call) for _, x, _ in call.plan.dots
    ]


def fill(
    call: Problem, values: Values, left: Sequence[Tensor], tile: Tile, backward: bool = False
) -> None:
    """Put what the tile's columns and pairs fix, its dot products, and what it makes of channels
    into `values`."""
    place = positions(tile.columns, call.columns, call.k_start, call.device)
    values["j"] = place.view(1, 1, 1, -1)
    for leaf in call.plan.leaves:
        tensor = call.tensors[leaf.operand]
        if leaf.role == "column":
            part = widened(once(tensor)[:, :, tile.columns], call)
            values[leaf.name] = of_key_heads(part, call)[:, :, None, :]
        elif leaf.role == "column_table":
            values[leaf.operand] = of_key_heads(tensor[:, :, tile.columns], call)
        elif leaf.role == "pair":
            values[leaf.name] = widened(tensor[tile.of(tensor)], call)
        elif leaf.role in ("row_blocks", "column_blocks"):
            values[leaf.name] = tensor[tile.blocked(leaf.role).of(tensor)]
    for rows, (name, _, y) in zip(left, call.plan.dots, strict=True):
        right = call.tensors[y][:, :, tile.columns].to(call.wide)
        values[name] = by_head(rows @ right.transpose(-1, -2), call)
    for found in call.plan.sums:
        if found.op == "sum":
            values |= _summed(call, values, found, tile, found.beside if backward else ())
        else:
            values[found.name] = _sought(call, values, found, tile)


def _summed(
    call: Problem, values: Values, found: ChannelSum, tile: Tile, beside: tuple[str, ...]
) -> dict[str, Tensor]:
    """A sum over channels, and those `beside` it."""
    names = (found.name, *beside)
    totals = [torch.zeros((), dtype=call.wide, device=call.device)] * len(names)
    for _ in channels(call, values, found, tile):
        terms = found.terms(values) if beside else (found.term(values),)
        totals = [total + term for total, term in zip(totals, terms, strict=True)]
    return dict(zip(names, totals, strict=True))


def _sought(call: Problem, values: Values, found: ChannelSum, tile: Tile) -> Tensor:
    """The largest term over channels, or its place."""
    top = torch.full((), -math.inf, dtype=call.wide, device=call.device)
    place = torch.full((), -1, device=call.device)
    for channel in channels(call, values, found, tile):
        if found.op == "amax":
            top = torch.maximum(top, found.term(values))
        else:
            term, keep = found.term(values)
            above = keep & ((place < 0) | (term > top) | (term.isnan() & ~top.isnan()))
            top, place = torch.where(above, term, top), torch.where(above, channel, place)
    return place if found.op == "place" else top


def channels(call: Problem, values: Values, part: ChannelSum, tile: Tile) -> Iterator[int]:
    """Put the elements of vectors at each channel into `values`, one channel after another."""
    values |= part.before(values)
    vectors = {}
    for vector in part.vectors:
        tensor = widened(once(call.tensors[vector.operand]), call)
        match vector.role:
            case "row":
                vectors[vector.name] = tensor[:, :, tile.rows, None]
            case "column":
                mine = of_key_heads(tensor[:, :, tile.columns], call)
                vectors[vector.name] = mine[:, :, None]
            case _:
                vectors[vector.name] = tensor[:, :, None, None]
    count = call.tensors[part.vectors[0].operand].shape[-1]
    for channel in range(count):
        values["channel"] = torch.tensor(channel, device=call.device)
        for name, elements in vectors.items():
            values[name] = elements[..., channel]
        yield channel


def tiles(call: Problem, values: Values, block: Block) -> list[Tile]:
    """The tiles that a block of rows can reach, edges apart from what has no holes."""
    if block.ends is not None:
        return _box(call, values | block.ends, block)
    return [
        Tile(block.rows, slice(at, min(at + COLUMNS, end)), masked)
        for begin, end, masked in block.visits
        for at in range(begin, end, COLUMNS)
    ]


def reached(call: Problem, runs: Limits, blocks: int) -> list[list[Stretch]]:
    """The columns within some run, of every block: what limits a run is one for all blocks, or has
    an axis for them before those of batches and heads."""
    start = call.k_start
    found = [_intervals(run, start, start + call.columns - 1, blocks) for run in runs]
    return [_stretches_of(call, [of_run[n] for of_run in found]) for n in range(blocks)]


def _stretches_of(call: Problem, runs: Sequence[tuple[int, int, int, int]]) -> list[Stretch]:
    """The columns that the `_intervals` of one block cover; of whole blocks of tokens where tiles
    have to hold those."""
    start = call.k_start
    reached = [(first - start, last - start + 1) for first, last, _, _ in runs]
    whole = [(inside - start, until - start + 1) for _, _, inside, until in runs]
    if call.plan.blocked:
        reached = [(low // BLOCK * BLOCK, min(_upper(high), call.columns)) for low, high in reached]
        whole = [(_upper(low), high // BLOCK * BLOCK) for low, high in whole]
    return stretches(reached, whole)


def _upper(place: int) -> int:
    """The end of the block that ends at a token or after it."""
    return -(-place // BLOCK) * BLOCK


def _box(call: Problem, values: Values, block: Block) -> list[Tile]:
    """The tiles of the box of keys that a patch of queries reaches."""
    assert call.plan.patches is not None
    _, grid = patches.grids(call)
    rest = tuple(int(values[f"rest_{axis}"]) for axis in call.plan.patches.axes)
    low, high, whole = [], [], True
    for side, run in zip(grid.part(rest), call.plan.patches.boxes(values), strict=True):
        first, last, inside, until = _interval(run, 0, side - 1)
        low.append(first)
        high.append(last)
        whole = whole and inside <= first and last <= until
    tokens = grid.tokens(tuple(low), tuple(high), rest, call.k_start, call.columns)
    return [Tile(block.rows, part, not whole) for part in tokens.split(COLUMNS) if len(part) > 0]


def _interval(
    run: Sequence[Tensor | int | bool | None], low: int, high: int
) -> tuple[int, int, int, int]:
    """`_intervals` of one block."""
    return _intervals(run, low, high, 1)[0]


def _intervals(
    run: Sequence[Tensor | int | bool | None], low: int, high: int, blocks: int
) -> list[tuple[int, int, int, int]]:
    """Of a run within [low, high] for every block the first and the last position that some head
    reaches, then those between which every head takes part throughout."""
    *given, full = run
    first, last, full_first, full_last = (
        torch.as_tensor(otherwise if end is None else end)
        for end, otherwise in zip(given, (low, high, low, high), strict=True)
    )

    def of_blocks(x: Tensor) -> Tensor:
        x = x.reshape((1,) * max(5 - x.dim(), 0) + x.shape)
        return x.expand(blocks, *x.shape[1:]).flatten(1)

    inside, until = torch.full((blocks,), high + 1), torch.full((blocks,), low - 1)
    if full:
        inside = of_blocks(torch.maximum(first, full_first)).amax(1)
        until = of_blocks(torch.minimum(last, full_last)).amin(1)
    first, last = of_blocks(first).amin(1).clamp(min=low), of_blocks(last).amax(1).clamp(max=high)
    ends = (x.tolist() for x in (first, last, inside, until))
    return list(zip(*ends, strict=True))


def stretches(
    reached: Sequence[tuple[int, int]], whole: Sequence[tuple[int, int]]
) -> list[Stretch]:
    """The union of intervals [begin, end) as (begin, end, masked), in order and disjoint; masked
    is what lies in none of `whole`."""
    cuts = sorted({at for one in (*reached, *whole) for at in one})
    found: list[Stretch] = []
    for begin, end in pairwise(cuts):
        if not any(a <= begin and end <= b for a, b in reached):
            continue
        masked = not any(a <= begin and end <= b for a, b in whole)
        if found and found[-1][1:] == (begin, masked):
            begin = found.pop()[0]
        found.append((begin, end, masked))
    return found


def lookup_row(table: Tensor, index: Tensor) -> Tensor:
    """Tables [B or 1, H or 1, m, T] of a tile's rows at `index` [.., .., m, n]; outside as
    `lookup`."""
    shape = broadcast((*table.shape[:3], 1), index.shape)
    size = table.shape[-1]
    return table.expand(*shape[:3], size).gather(3, index.clamp(0, size - 1).expand(shape))


def lookup_column(table: Tensor, index: Tensor) -> Tensor:
    """Tables [B or 1, H or 1, n, T] of a tile's columns, as `lookup_row`."""
    return lookup_row(table, index.transpose(-1, -2)).transpose(-1, -2)


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """A table [B or 1, H or 1, T] at `index` [.., .., m, n]; an index outside reads the edge."""
    size = table.shape[-1]
    index = index.clamp(0, size - 1)
    shape = broadcast((*table.shape[:2], 1, 1), index.shape)
    flat = index.expand(shape).flatten(2)
    picked = torch.gather(table.expand(*shape[:2], size), 2, flat).view(shape)
    if not table.is_floating_point():
        return picked
    return picked.to(torch.float64 if table.dtype is torch.float64 else torch.float32)
