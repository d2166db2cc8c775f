"""Compact tiles on a grid: their shape, chosen by what a mask lets them visit, and their tokens.

A patch of queries reaches a box of keys, an interval along each axis (`Patches.boxes`). Which
shape of a given length visits least is counted, axis by axis: the number of visited tiles is the
product of the axes' sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from attnspec.runtime.memo import Memo
from attnspec.runtime.problem import Patches, Problem, Values
from attnspec.runtime.shapes import broadcast

Shape: TypeAlias = "tuple[int, ...]"

_shapes: Memo[object, tuple[Shape, Shape]] = Memo()


@dataclass(frozen=True, slots=True)
class Grid:
    """One side's tokens along each axis, and the steps that part them by remainders."""

    sides: Shape
    steps: Shape

    def part(self, rest: Shape) -> Shape:
        """Tokens along each axis with the remainders `rest`."""
        axes = zip(self.sides, self.steps, rest, strict=True)
        return tuple(-(-max(side - least, 0) // step) for side, step, least in axes)

    def patches(self, shape: Shape) -> int:
        """The number of patches of all remainders."""
        lengths = zip(self.part(tuple(0 for _ in shape)), shape, strict=True)
        return prod(-(-side // length) for side, length in lengths) * prod(
            map(min, self.sides, self.steps)
        )

    def rests(self) -> Iterator[Shape]:
        """All remainders that tokens leave."""
        return product(*map(range, map(min, self.sides, self.steps)))

    def tokens(self, low: Shape, high: Shape, rest: Shape, start: int, length: int) -> Tensor:
        """Rows of a tensor, whose first holds position `start`, of the tokens at coordinates `low`
        to `high` of remainders `rest`, row-major; those that it has not are left out."""
        position = torch.zeros((), dtype=torch.int64)
        axes = zip(low, high, self.part(rest), self.sides, self.steps, rest, strict=True)
        for first, last, amount, side, step, least in axes:
            end = max(first, min(last + 1, amount))
            position = position[..., None] * side + torch.arange(first, end) * step + least
        token = position.flatten() - start
        return token[(token >= 0) & (token < length)]


def grids(call: Problem) -> tuple[Grid, Grid]:
    """The grids of queries and of keys."""
    found = _patches(call)

    def number(of: str | int | None, otherwise: int) -> int:
        if of is None:
            return otherwise
        return int(call.numbers[of]) if isinstance(of, str) else of

    steps = tuple(number(n, 1) for n in found.steps)
    rows = tuple(number(n, call.q_start + call.rows) for n in found.rows)
    columns = tuple(number(n, call.k_start + call.columns) for n in found.columns)
    return Grid(rows, steps), Grid(columns, steps)


def shapes(call: Problem, rows: int, columns: int) -> tuple[Shape, Shape]:
    """Shapes of patches of `rows` queries and `columns` keys (powers of two) that visit least."""
    found, both = _patches(call), grids(call)
    key = found.boxes, both, tuple(call.numbers.items()), rows, columns
    if key not in _shapes:
        _shapes[key] = _least(found, _values(call), *both, rows, columns)
    return _shapes[key]


def _values(call: Problem) -> Values:
    """The numbers of the call and of its heads, where counting is quick."""
    values: Values = {
        name: torch.tensor(n, dtype=call.wide if isinstance(n, float) else None)
        for name, n in call.numbers.items()
    }
    for leaf in call.plan.leaves:
        if leaf.role == "head":
            values[leaf.name] = call.tensors[leaf.operand].detach().cpu()[:, :, None, None]
    heads = torch.arange(call.heads).view(-1, 1, 1)
    return values | {"b": torch.tensor(0), "h": heads, "wide": call.wide}


def _patches(call: Problem) -> Patches:
    assert call.plan.patches is not None
    return call.plan.patches


def _least(
    found: Patches, values: Values, rows: Grid, columns: Grid, m: int, n: int
) -> tuple[Shape, Shape]:
    rest = tuple(0 for _ in found.axes)  # the others are as large, or a token smaller
    values = values | {f"rest_{axis}": torch.tensor(0) for axis in found.axes}
    visits: dict[tuple[int, int, int], int] = {}
    for own in {length for shape in _factors(m, len(rest)) for length in shape}:
        for axis, (first, last) in enumerate(
            boxes(found, values, rows.part(rest), columns.part(rest), own)
        ):
            for other in {length for shape in _factors(n, len(rest)) for length in shape}:
                some = (last // other - first // other + 1).where(last >= first, 0)
                visits[axis, own, other] = int(some.sum())

    def cost(pair: tuple[Shape, Shape]) -> tuple[int, Shape]:
        mine, others = pair
        total = prod(
            visits[axis, a, b] for axis, (a, b) in enumerate(zip(mine, others, strict=True))
        )
        return total, (*mine[:-1], *others[:-1])  # of equals the one longest in memory

    return min(product(_factors(m, len(rest)), _factors(n, len(rest))), key=cost)


def _factors(total: int, axes: int) -> list[Shape]:
    """The ways to write a power of two as a product of `axes` of them."""
    if axes == 1:
        return [(total,)]
    lengths = [1 << n for n in range(total.bit_length())]
    return [(one, *rest) for one in lengths for rest in _factors(total // one, axes - 1)]


def boxes(
    found: Patches, values: Values, rows: Shape, columns: Shape, length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Axis by axis, first and last coordinate of the keys that patches `length` long reach."""
    ends = dict(values)
    for axis, side in zip(found.axes, rows, strict=True):
        low = torch.arange(0, max(side, 1), length)
        ends[f"lo_{axis}"], ends[f"hi_{axis}"] = low, (low + length).clamp(max=side) - 1
    for axis, side, run in zip(found.axes, columns, found.boxes(ends), strict=True):
        like = ends[f"lo_{axis}"]
        first, last = _limit(run[0], like, 0), _limit(run[1], like, side - 1)
        yield first.amin(0).clamp(min=0), last.amax(0).clamp(max=side - 1)


def _limit(limit: Tensor | int | bool | None, like: Tensor, otherwise: int) -> Tensor:
    """A limit of every patch along an axis, [heads or 1, patches]."""
    limit = torch.as_tensor(otherwise if limit is None else limit)
    return limit.expand(broadcast(limit.shape, like.shape)).reshape(-1, len(like))
