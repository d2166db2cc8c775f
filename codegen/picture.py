"""A mask drawn in characters: which tiles of pairs are full, partial, empty, and visited.

Sizes are small and scalars have their defaults where those show something. What else the call
gives is made up: documents of several lengths, padding at the end, a sprinkled graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from attnspec.dsl.analysis import Facts
from attnspec.dsl.analysis.bounds import Bounds
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.ast import (
    Decl,
    Def,
    Expr,
    Form,
    Kind,
    Literal,
    Size,
    Spec,
    Values,
    children,
    walk,
)
from attnspec.dsl.check_witness import Number, Point, Unknown, evaluate

FULL, PARTIAL, EMPTY, VISITED = "█", "▒", "·", "○"
_TILES, _TILE = 16, 4
_SIDE = 8
_HEADS = 4
_ALL = Literal(True, kind=Kind.BOOL)
_MOST_NODES = 600
_DOCUMENTS = (0.15, 0.4, 0.75)  # where documents end, as parts of the length


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows of characters, one a tile of `tile` x `tile` pairs; `assumed` are sizes and numbers,
    `made_up` the arguments that are only an example. Of `tiles` in all the loop over keys goes to
    `visited`, to `unmasked` of them without the mask.
    """

    rows: tuple[str, ...]
    tile: int
    assumed: tuple[tuple[str, int | float], ...]
    made_up: tuple[str, ...]
    tiles: int
    visited: int
    unmasked: int


def picture(spec: Spec, facts: Facts) -> Picture | None:
    """The mask of `spec` at a small length; None where scores or reductions decide it, or where
    there are no pairs."""
    if spec.states:
        return None
    sides = max((len(grid.names) for grid in spec.grids), default=0)
    side = _SIDE if sides < 3 else 4
    length = side**sides if sides else _TILES * _TILE
    mask = _ALL if spec.mask is None else inline(spec, spec.mask)
    # Each pair is worked out on its own: enough for any mask that a person writes.
    if _count(mask) > _MOST_NODES:
        return None
    scene = _Scene(spec, length, side)
    try:
        kept = [[scene.keeps(mask, i, j) for j in range(length)] for i in range(length)]
        tile = max(length // _TILES, 1)
        visited = list(_visited(scene, facts.rows, length, tile))
    except Unknown:
        return None
    starts = range(0, length, tile)
    rows = tuple(
        "".join(
            _tile([x for row in kept[i : i + tile] for x in row[j : j + tile]], j // tile in seen)
            for j in starts
        )
        for i, (seen, _) in zip(starts, visited, strict=True)
    )
    return Picture(
        rows,
        tile,
        tuple(scene.numbers.items()),
        tuple(scene.made_up),
        len(rows) ** 2,
        sum(len(seen) for seen, _ in visited),
        sum(len(full) for _, full in visited),
    )


def _tile(pairs: list[bool], visited: bool) -> str:
    if all(pairs):
        return FULL
    return PARTIAL if any(pairs) else VISITED if visited else EMPTY


def _count(expr: Expr) -> int:
    total, stack = 0, [expr]
    while stack and total <= _MOST_NODES:
        total += 1
        stack.extend(children(stack.pop()))
    return total


def _visited(
    scene: _Scene, bounds: Bounds, length: int, tile: int
) -> Iterator[tuple[set[int], set[int]]]:
    """For every tile of queries the tiles of keys that its runs visit, and those they call full."""
    for start in range(0, length, tile):
        at = {"lo": start, "hi": min(start + tile, length) - 1}
        seen: set[int] = set()
        full: set[int] = set()
        for run in bounds.runs:
            first, last, full_first, full_last = (
                default if end is None else scene.number(end, at)
                for end, default in (
                    (run.first, 0),
                    (run.last, length - 1),
                    (run.full_first, 0),
                    (run.full_last, length - 1),
                )
            )
            first, last = max(first, 0), min(last, length - 1)
            mine = set(range(first // tile, last // tile + 1)) if first <= last else set()
            seen |= mine
            if run.full:
                low, high = max(first, full_first), min(last, full_last)
                full |= {t for t in mine if low <= t * tile and (t + 1) * tile - 1 <= high}
        yield seen, full


class _Scene:
    """What the picture assumes: sizes, scalars, and tensors as functions of their indices."""

    def __init__(self, spec: Spec, length: int, side: int) -> None:
        self.spec = spec
        self.length = length
        self.numbers: dict[str, Number] = {"N": length}
        self.made_up: dict[str, None] = {}
        self.sizes = {"b": 1, "h": _HEADS, "i": length, "j": length}
        if any(node == Size("h", kind=Kind.INT) for node in walk(spec.mask or _ALL)):
            self.numbers["H"] = _HEADS
        for grid in spec.grids:
            self.numbers |= {f"G{name.upper()}": side for name in grid.names}
            for where in ("i", "j") if spec.shared_grid else (grid.side,):
                self.sizes |= {f"{where}.{name}": side for name in grid.names}
        self.extent = side if spec.grids else length
        self.given: dict[str, Callable[..., Number]] = {}
        for decl in spec.decls:
            fixed = not decl.axes or (decl.form is Form.PARAM and isinstance(decl.default, Literal))
            self.given[decl.name] = self._number(decl) if fixed else self._tensor(decl)
        self.given |= {d.name: self._definition(d) for d in spec.defs}

    def keeps(self, mask: Expr, i: int, j: int) -> bool:
        """Whether a pair takes part."""
        return bool(self._value(mask, {"b": 0, "h": 0, "i": i, "j": j}))

    def number(self, expr: Expr, at: Mapping[str, int]) -> int:
        """An integer expression over a tile's ends."""
        return int(self._value(expr, {"b": 0, "h": 0, **at}))

    def _value(self, expr: Expr, at: Mapping[str, int]) -> Number:
        return evaluate(self.spec, expr, Point(self.sizes, at, self.given))

    def _definition(self, made: Def) -> Callable[..., Number]:
        return cache(lambda *at: self._value(made.expr, dict(zip(made.axes, at, strict=True))))

    def _number(self, decl: Decl) -> Callable[..., Number]:
        """A default, or a number that shows something at this size."""
        default = decl.default

        def given(*_: int) -> Number:
            value: Number = self.extent // 4
            if isinstance(default, Literal) and default.value <= self.extent // 2:
                value = default.value
            self.numbers[decl.name] = value
            return value

        return given

    def _tensor(self, decl: Decl) -> Callable[..., Number]:
        tokens = [place for place, axis in enumerate(decl.axes) if axis in ("i", "j")]
        others = set(decl.axes) - {"b", "h", "i", "j"}

        def at(*index: int) -> Number:
            if decl.values is not None:
                return _element(decl.values, index)
            if others or decl.form is Form.PARAM:
                raise Unknown
            self.made_up[decl.name] = None
            return self._example(decl.kind, [index[place] for place in tokens])

        return at

    def _example(self, kind: Kind, at: list[int]) -> Number:
        """An element at these positions: of a sequence, of a token, of a pair."""
        if not at:
            return {Kind.BOOL: True, Kind.INT: 3 * self.length // 4, Kind.FLOAT: 0.5}[kind]
        if len(at) == 2:
            drawn = (at[0] * 7 + at[1] * 13) % 11 < 3
            return drawn if kind is Kind.BOOL else int(drawn)
        place = at[0] / self.length
        if kind is Kind.INT:
            return sum(place >= end for end in _DOCUMENTS)
        return place < _DOCUMENTS[-1] if kind is Kind.BOOL else max(_DOCUMENTS[-1] - place, 0.0)


def _element(values: Values, index: tuple[int, ...]) -> Number:
    for place in index:
        if not isinstance(values, tuple) or not 0 <= place < len(values):
            raise Unknown
        values = values[place]
    if isinstance(values, tuple):
        raise Unknown
    return values
