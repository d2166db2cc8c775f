"""A mask drawn in characters: which tiles of pairs are full, partial or empty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attnspec.dsl.ast import (
    Apply,
    Coord,
    Expr,
    GridIndex,
    Index,
    Kind,
    Literal,
    Read,
    Size,
    Spec,
    children,
)

FULL, PARTIAL, EMPTY = "█", "▒", "·"
_TILES, _TILE = 16, 4
_SIDE = 8
_MOST_NODES = 500


class Unknown(Exception):
    """The mask depends on what the call gives."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows of characters, one a tile of `tile` x `tile` pairs; `assumed` are sizes and numbers."""

    rows: tuple[str, ...]
    tile: int
    assumed: tuple[tuple[str, int | float], ...]


def picture(spec: Spec) -> Picture | None:
    """The mask of `spec` at a small length; None where it reads a tensor."""
    sides = max((len(grid.names) for grid in spec.grids), default=0)
    side = _SIDE if sides < 3 else 4
    length = side**sides if sides else _TILES * _TILE
    numbers = {d.name: _number(d.default, length) for d in spec.decls if not d.axes}
    # Each pair is worked out on its own: enough for any mask that a person writes.
    if spec.mask is not None and _count(spec.mask) > _MOST_NODES:
        return None
    try:
        kept = [
            [_pair(spec, i, j, length, side, numbers) for j in range(length)] for i in range(length)
        ]
    except Unknown:
        return None
    tile = max(length // _TILES, 1)
    starts = range(0, length, tile)
    rows = tuple(
        "".join(_tile([x for row in kept[i : i + tile] for x in row[j : j + tile]]) for j in starts)
        for i in starts
    )
    sizes = {f"G{name.upper()}": side for grid in spec.grids for name in grid.names}
    return Picture(rows, tile, (("N", length), *sizes.items(), *numbers.items()))


def _tile(pairs: list[bool]) -> str:
    return FULL if all(pairs) else PARTIAL if any(pairs) else EMPTY


def _count(expr: Expr) -> int:
    total, stack = 0, [expr]
    while stack and total <= _MOST_NODES:
        total += 1
        stack.extend(children(stack.pop()))
    return total


def _number(default: Expr | None, length: int) -> int | float:
    """A scalar's default, or a number that shows something at this length."""
    if isinstance(default, Literal) and (default.kind is not Kind.INT or default.value < length):
        return default.value
    return length // 4


def _pair(
    spec: Spec, i: int, j: int, length: int, side: int, numbers: Mapping[str, int | float]
) -> bool:
    if spec.mask is None:
        return True
    at = {"i": i, "j": j}

    def coordinate(axis: str, along: str, grid: str) -> int:
        names = next(g.names for g in spec.grids if spec.shared_grid or g.side == grid)
        after: int = side ** (len(names) - 1 - names.index(along))
        return at[axis] // after % side

    def value(expr: Expr) -> float:
        match expr:
            case Literal(value=number):
                return number
            case Index(axis=axis) if axis in at:
                return at[axis]
            case Coord(axis=axis, along=along, grid=grid) if axis in at:
                return coordinate(axis, along, grid)
            case GridIndex(coords=coords):
                found = 0
                for coord in coords:
                    found = found * side + int(value(coord))
                return found
            case Size(of="i" | "j"):
                return length
            case Size(of=of) if "." in of:
                return side
            case Read(name=name, index=()) if name in numbers:
                return numbers[name]
            case Apply(op="where", args=(condition, yes, no)):
                return value(yes) if value(condition) else value(no)
            case Apply(op="and", args=args):
                return all(value(arg) for arg in args)
            case Apply(op="or", args=args):
                return any(value(arg) for arg in args)
            case Apply(op=op, args=args) if op in _OPERATIONS:
                try:
                    return _OPERATIONS[op](*[value(arg) for arg in args])
                except (ArithmeticError, ValueError):
                    raise Unknown from None
            case _:
                raise Unknown

    return bool(value(spec.mask))


_OPERATIONS: dict[str, Callable[..., float]] = {
    "neg": lambda a: -a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": math.pow,  # overflows where `**` would go on
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "not": lambda a: not a,
    "abs": abs,
    "min": min,
    "max": max,
    "clamp": lambda x, low, high: min(max(x, low), high),
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "exp2": lambda a: 2.0**a,
    "log": math.log,
    "log2": math.log2,
    "sign": lambda a: (a > 0) - (a < 0),
}
