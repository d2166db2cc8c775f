"""Looking for a counterexample: small sizes, every index, plain evaluation.

Only what indices, sizes and scalars with a default decide is evaluated; as soon as a tensor has a
say that the point does not give there is no counterexample to show.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from attnspec.dsl.ast import Apply, Coord, Expr, GridIndex, Index, Literal, Read, Role, Size, Spec
from attnspec.dsl.operators import OPERATORS

MAX_POINTS = 10_000
MAX_UNKNOWN = 300
_LENGTHS = (1, 2, 3, 5, 9, 17, 33, 65, 130, 300, 1000, 5000, 100_000)
_GRIDS = (1, 2, 3, 4, 7, 8, 14, 16, 64)

Number = bool | int | float


class Unknown(Exception):
    """The value depends on tensors."""


@dataclass(frozen=True, slots=True)
class Point:
    """An assignment of sizes and index variables; `given` are arguments as functions of indices."""

    sizes: Mapping[str, int]
    at: Mapping[str, Number]
    given: Mapping[str, Callable[..., Number]] = field(default_factory=dict)

    def __str__(self) -> str:
        named = {"i": "M", "j": "N"}
        indices = [f"{axis} = {value}" for axis, value in sorted(self.at.items())]
        sides = [f"{named.get(of, of)} = {n}" for of, n in self.sizes.items() if of in named]
        for of, n in self.sizes.items():
            if "." in of and of.startswith("i."):
                sides.append(f"G{of[2:].upper()} = {n}")
        return f"{', '.join(indices)} ({', '.join(sides)})" if indices else ", ".join(sides)


_SIMPLE: Mapping[str, Callable[..., Number]] = {
    **OPERATORS,
    "not": operator.not_,
    "abs": abs,
    "min": min,
    "max": max,
    "clamp": lambda x, lo, hi: min(max(x, lo), hi),
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "sign": lambda x: (x > 0) - (x < 0),
    "log": math.log,
    "log2": math.log2,
    "stopgrad": lambda x: x,
}


def evaluate(spec: Spec, expr: Expr, point: Point) -> Number:
    """The value of `expr` at a point; Unknown when tensors decide it."""
    if isinstance(expr, Apply):  # most are
        return _applied(spec, expr.op, expr.args, point)
    match expr:
        case Literal(value):
            return value
        case Index(axis) if axis in point.at:
            return point.at[axis]
        case Size(of):
            return _size(spec, of, point)
        case Coord(axis, along, grid) if axis in point.at:
            return _coordinate(spec, int(point.at[axis]), along, grid, point)
        case GridIndex(coords, grid):
            place = 0
            for coord, along in zip(coords, _names(spec, grid), strict=True):
                place = place * point.sizes[f"{grid}.{along}"] + int(evaluate(spec, coord, point))
            return place
        case Read(name, index, None) if name in point.given:
            return point.given[name](*(evaluate(spec, at, point) for at in index))
        case Read(name, ()):
            decl = spec.decl(name)
            if decl is not None and decl.default is not None and decl.form == "input":
                return evaluate(spec, decl.default, point)
    raise Unknown


def _applied(spec: Spec, op: str, args: tuple[Expr, ...], point: Point) -> Number:
    if op in _SIMPLE:
        try:
            result = _SIMPLE[op](*[evaluate(spec, arg, point) for arg in args])
        except (ArithmeticError, ValueError) as problem:
            raise Unknown from problem
        if isinstance(result, complex) or abs(result) > 1e100:
            raise Unknown
        return result
    match op, args:
        case "where", (c, a, b):
            return evaluate(spec, a if evaluate(spec, c, point) else b, point)
        case "and" | "or", _:
            return _logic(spec, op, args, point)
    raise Unknown


def _logic(spec: Spec, op: str, args: tuple[Expr, ...], point: Point) -> bool:
    """`and`, `or`: decided by one side even when another is unknown."""
    unknown = False
    for arg in args:
        try:
            if bool(evaluate(spec, arg, point)) is (op == "or"):
                return op == "or"
        except Unknown:
            unknown = True
    if unknown:
        raise Unknown
    return op == "and"


def _size(spec: Spec, of: str, point: Point) -> int:
    if of in point.sizes:
        return point.sizes[of]
    axis = next((a for a in spec.axes if a.name == of), None)
    if axis is None or axis.size is None:
        return 2
    size = int(evaluate(spec, axis.size, point))
    if axis.role is Role.BLOCK:
        return -(-point.sizes.get(axis.base or "j", 1) // size)
    return size


def _coordinate(spec: Spec, position: int, along: str, side: str, point: Point) -> int:
    names = _names(spec, side)
    for name in reversed(names):
        length = point.sizes[f"{side}.{name}"]
        if name == along:
            return position % length if name != names[0] else position
        position //= length
    raise Unknown


def _names(spec: Spec, side: str) -> tuple[str, ...]:
    return next(g.names for g in spec.grids if g.side == side or spec.shared_grid)


def _all_sizes(spec: Spec) -> Iterator[dict[str, int]]:
    grids = {grid.side: grid.names for grid in spec.grids}
    for length in _GRIDS if grids else _LENGTHS:
        sizes = {"i": length, "j": length, "t": length}
        for side, names in grids.items():
            for name in names:
                sizes[f"{side}.{name}"] = length
            for other in ("i", "j", "t") if spec.shared_grid else (side,):
                sizes[other] = length ** len(names)
        yield sizes


def search(
    spec: Spec,
    conditions: tuple[Expr, ...],
    wrong: Callable[[Point], bool],
    axes: frozenset[str],
    undecided: bool = False,
) -> Point | None:
    """A point at which the conditions hold and `wrong` says so, if one is found.

    Small sizes are gone through whole, of large ones the ends. With `undecided`, a condition that
    tensors decide may hold.
    """
    left, unknown = MAX_POINTS // (1 + len(conditions)), 0
    roots = {a.name: a.base if a.role is Role.ALIAS else a.name for a in spec.axes}
    tokens = sorted(axes)

    def holds(condition: Expr, point: Point) -> bool:
        try:
            return bool(evaluate(spec, condition, point))
        except Unknown:
            if undecided:
                return True
            raise

    for sizes in _all_sizes(spec):
        start = Point(sizes, {})
        try:
            if not all(evaluate(spec, r, start) for r in spec.requires if not r.free):
                continue
            counts = [_size(spec, roots.get(a) or a, start) for a in tokens]
        except Unknown:
            return None
        spans = [range(count) for count in counts]
        places = spans if math.prod(counts) <= left else [_ends(span) for span in spans]
        for values in itertools.product(*places):
            left -= 1
            if left < -MAX_POINTS:
                return None
            point = Point(sizes, dict(zip(tokens, values, strict=True)))
            try:
                if all(holds(c, point) for c in conditions) and wrong(point):
                    return point
            except Unknown:
                unknown += 1
                if unknown > MAX_UNKNOWN:
                    return None
    return None


def _ends(span: range) -> Sequence[int]:
    return sorted({*span[:2], *span[-2:], *span[len(span) // 2 :][:1]})
