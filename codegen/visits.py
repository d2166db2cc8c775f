"""Which tiles the loops over keys go to, for given sizes: counted as the kernels decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeAlias

from attnspec.dsl.analysis.ascending import Ranges
from attnspec.dsl.analysis.boxes import Box
from attnspec.dsl.analysis.patches import Patches
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.analysis.runs import Bounds, Run
from attnspec.dsl.ast import Apply, Expr
from attnspec.dsl.build import lit
from attnspec.dsl.check_witness import Number

# the value of an expression at a tile's ends, or at a token
Value: TypeAlias = Callable[[Expr, Mapping[str, Number]], Number]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """The tiles of keys that one tile of queries visits, and those of them without the mask."""

    visited: frozenset[int]
    full: frozenset[int]


def in_order(bounds: Bounds, number: Value, length: int, tile: int) -> list[Reach]:
    """Tiles of consecutive tokens."""
    found = []
    for start in range(0, length, tile):
        at = {"lo": start, "hi": min(start + tile, length) - 1}
        found.append(_union(_reach(run, at, number, length, tile) for run in bounds.runs))
    return found


def _union(reaches: Iterable[Reach]) -> Reach:
    parts = list(reaches)
    visited, full = (p.visited for p in parts), (p.full for p in parts)
    return Reach(frozenset().union(*visited), frozenset().union(*full))


def by_search(found: Ranges, number: Value, length: int, tile: int) -> list[Reach]:
    """Tiles of consecutive tokens, as they are searched for in ascending inputs."""

    def reach(queries: range) -> Reach:
        at: dict[str, Number] = {"lo": queries[0], "hi": queries[-1], "start_i": 0, "start_j": 0}
        for end in found.ends:
            if end.side == "i":
                values = [number(end.of, {"i": i}) for i in queries]
                at |= {end.low: min(values), end.high: max(values)}

        def counted(expr: Expr) -> Expr:
            match expr:
                case Apply(op=("below" | "upto") as op, args=(numbers, limit)):
                    most = number(limit, at) - (op == "below")
                    each = (number(numbers, {"j": j}) for j in range(length))
                    return lit(sum(value <= most for value in each))
            return rebuild(expr, counted)

        def searched(end: Expr, _: Mapping[str, Number]) -> Number:
            return number(counted(end), at)

        return _union(_reach(run, at, searched, length, tile) for run in found.rows)

    return [reach(range(at, min(at + tile, length))) for at in range(0, length, tile)]


def by_lists(box: Box, number: Value, length: int, tile: int) -> list[Reach]:
    """Tiles of consecutive tokens, as block lists pick them."""
    tokens = [range(start, min(start + tile, length)) for start in range(0, length, tile)]

    def ends(side: str, at: list[dict[str, Number]]) -> dict[str, Number]:
        """The least and greatest of what is read at these places of a tile."""
        found: dict[str, Number] = {}
        for end in box.ends:
            if end.side == side:
                values = [number(end.of, place) for place in at]
                found |= {end.low: min(values), end.high: max(values)}
        return found

    rows, columns = (
        [
            {f"lo_{side}": own[0], f"hi_{side}": own[-1], **ends(side, [{side: t} for t in own])}
            for own in tokens
        ]
        for side in "ij"
    )
    found = []
    for mine, row in zip(tokens, rows, strict=True):
        visited, full = set(), set()
        for place, (others, column) in enumerate(zip(tokens, columns, strict=True)):
            at = row | column | ends("ij", [{"i": i, "j": j} for i in mine for j in others])
            if number(box.possible, at):
                visited.add(place)
                if number(box.certain, at):
                    full.add(place)
        found.append(Reach(frozenset(visited), frozenset(full)))
    return found


def _reach(run: Run, at: Mapping[str, Number], number: Value, length: int, tile: int) -> Reach:
    ends = [
        default if end is None else int(number(end, at))
        for end, default in (
            (run.first, 0),
            (run.last, length - 1),
            (run.full_first, 0),
            (run.full_last, length - 1),
        )
    ]
    first, last = max(ends[0], 0), min(ends[1], length - 1)
    if last < first:
        return Reach(frozenset(), frozenset())
    visited = frozenset(range(first // tile, last // tile + 1))
    low, high = max(first, ends[2]), min(last, ends[3])
    full = frozenset(
        t
        for t in visited
        if run.full and low <= t * tile and min((t + 1) * tile, length) - 1 <= high
    )
    return Reach(visited, full)


@dataclass(frozen=True, slots=True)
class Part:
    """The tokens of one remainder along each axis: how many there are, and what a place along one
    axis reaches along it, axis by axis."""

    rest: Shape
    sides: Shape
    along: tuple[tuple[Reach, ...], ...]

    @property
    def visited(self) -> int:
        """How many pairs of patches are visited: a product, as every box is."""
        return prod(sum(len(r.visited) for r in reaches) for reaches in self.along)


@dataclass(frozen=True, slots=True)
class Compact:
    """Patches of queries and of keys, as long along each axis as their shapes say, on a grid of
    `sides` that `steps` part by remainders."""

    sides: Shape
    steps: Shape
    rows: Shape
    columns: Shape
    parts: tuple[Part, ...]

    @property
    def visited(self) -> int:
        """How many pairs of patches are visited."""
        return sum(part.visited for part in self.parts)

    def tokens(self, shape: Shape) -> list[list[int]]:
        """The tokens of every patch of a shape, remainder by remainder, both in row-major order."""
        found = []
        for part in self.parts:
            axes = list(zip(part.sides, shape, strict=True))
            for corner in product(*(range(0, side, step) for side, step in axes)):
                spans = [range(c, min(c + n, s)) for c, (s, n) in zip(corner, axes, strict=True)]
                found.append([self._position(at, part.rest) for at in product(*spans)])
        return found

    def _position(self, at: Shape, rest: Shape) -> int:
        place = 0
        for coordinate, least, side, step in zip(at, rest, self.sides, self.steps, strict=True):
            place = place * side + coordinate * step + least
        return place

    def reaches(self) -> list[Reach]:
        """What each patch of queries reaches, patches counted as in `tokens`."""
        found: list[Reach] = []
        before = 0
        for part in self.parts:
            counts = [-(-n // step) for n, step in zip(part.sides, self.columns, strict=True)]
            for box in product(*part.along):
                visited = _flat([r.visited for r in box], counts, before)
                found.append(Reach(visited, _flat([r.full for r in box], counts, before)))
            before += prod(counts)
        return found


def _flat(box: Sequence[frozenset[int]], counts: Sequence[int], before: int) -> frozenset[int]:
    found = {0}
    for part, count in zip(box, counts, strict=True):
        found = {place * count + n for place in found for n in part}
    return frozenset(before + place for place in found)


def compact(found: Patches, number: Value, sides: Shape, tile: int) -> Compact:
    """The shapes of `tile` tokens that visit least (the longest in memory of equals)."""
    steps = tuple(int(number(step, {})) for step in found.steps)
    rests = list(product(*map(range, map(min, sides, steps))))

    def part(rest: Shape) -> Shape:
        axes = zip(sides, steps, rest, strict=True)
        return tuple(-(-(side - least) // step) for side, step, least in axes)

    def along(axis: int, own: int, other: int, rest: Shape) -> tuple[Reach, ...]:
        name, side, run = found.axes[axis], part(rest)[axis], found.rows[axis]
        fixed = {f"rest_{a}": least for a, least in zip(found.axes, rest, strict=True)}
        patches = range(0, side, own)
        ends = [{f"lo_{name}": p, f"hi_{name}": min(p + own, side) - 1, **fixed} for p in patches]
        return tuple(_reach(run, at, number, side, other) for at in ends)

    cost = {
        (axis, own, other): sum(len(r.visited) for r in along(axis, own, other, rests[0]))
        for axis in range(len(sides))
        for own, other in product(_powers(tile), repeat=2)
    }

    def visits(pair: tuple[Shape, ...]) -> tuple[int, Shape]:
        rows, columns = pair
        axes = zip(range(len(sides)), rows, columns, strict=True)
        return prod(cost[step] for step in axes), (*rows[:-1], *columns[:-1])

    rows, columns = min(product(_shapes(tile, len(sides)), repeat=2), key=visits)
    parts = [
        Part(
            rest, part(rest), tuple(along(n, rows[n], columns[n], rest) for n in range(len(sides)))
        )
        for rest in rests
    ]
    return Compact(sides, steps, rows, columns, tuple(parts))


def _powers(total: int) -> list[int]:
    return [1 << n for n in range(total.bit_length())]


def _shapes(total: int, axes: int) -> Iterator[Shape]:
    """The ways to write a power of two as a product of `axes` of them."""
    if axes == 1:
        yield (total,)
        return
    for one in _powers(total):
        for rest in _shapes(total // one, axes - 1):
            yield (one, *rest)
