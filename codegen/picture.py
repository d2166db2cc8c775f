"""A mask drawn in characters: which tiles of pairs are full, partial, empty, and visited."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.scene import ALL, Scene
from attnspec.codegen.visits import Reach, Shape, by_lists, by_search, compact, in_order
from attnspec.dsl.analysis import Facts
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.ast import Expr, Spec, children
from attnspec.dsl.check_witness import Unknown

FULL, PARTIAL, EMPTY, VISITED = "█", "▒", "·", "○"
_TILES, _TILE = 16, 4
_SIDES = {1: (_TILES * _TILE, 4096), 2: (8, 128), 3: (4, 32)}  # of a grid, to draw and to count
_USUAL = 128
_MOST_NODES = 600


@dataclass(frozen=True, slots=True)
class OnGrid:
    """Visited tiles of `tile` tokens on a grid of `sides`: as patches of these shapes, and with
    tokens in row-major order."""

    sides: Shape
    tile: int
    rows: Shape
    columns: Shape
    compact: int
    in_order: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows of characters, one a tile of `tile` x `tile` pairs; `assumed` are sizes and numbers,
    `made_up` the arguments that are only an example. Of `tiles` in all the loop over keys goes to
    `visited`, to `unmasked` of them without the mask. With `grid`, tiles are patches.
    """

    rows: tuple[str, ...]
    tile: int
    assumed: tuple[tuple[str, int | float], ...]
    made_up: tuple[str, ...]
    tiles: int
    visited: int
    unmasked: int
    grid: OnGrid | None


def picture(spec: Spec, facts: Facts) -> Picture | None:
    """The mask of `spec` at a small length; None where scores or reductions decide it, or where
    there are no pairs."""
    mask = ALL if spec.mask is None else inline(spec, spec.mask)
    # Each pair is worked out on its own: enough for any mask that a person writes.
    if spec.states or _count(mask) > _MOST_NODES:
        return None
    axes = max((len(grid.names) for grid in spec.grids), default=1)
    side, longer = _SIDES[axes]
    length = side**axes
    tile = max(length // _TILES, 1)
    scene = Scene(spec, length, side)
    try:
        queries, keys, reaches = _tiles(scene, facts, (side,) * axes, tile)
        rows = tuple(
            "".join(
                _drawn([scene.keeps(mask, i, j) for i in own for j in other], n in reach.visited)
                for n, other in enumerate(keys)
            )
            for own, reach in zip(queries, reaches, strict=True)
        )
        grid = _counted(spec, facts, (longer,) * axes) if facts.patches is not None else None
    except Unknown:
        return None
    return Picture(
        rows,
        tile,
        tuple(scene.numbers.items()),
        tuple(scene.made_up),
        len(queries) * len(keys),
        sum(len(reach.visited) for reach in reaches),
        sum(len(reach.full) for reach in reaches),
        grid,
    )


def _tiles(
    scene: Scene, facts: Facts, sides: Shape, tile: int
) -> tuple[list[list[int]], list[list[int]], list[Reach]]:
    """The tokens of each tile of queries and of keys, and what each tile of queries reaches."""
    if facts.patches is None:
        whole = [list(range(at, at + tile)) for at in range(0, scene.length, tile)]
        if facts.blocks is not None:
            return whole, whole, by_lists(facts.blocks, scene.number, scene.length, tile)
        if facts.ranges is not None:
            return whole, whole, by_search(facts.ranges, scene.number, scene.length, tile)
        return whole, whole, in_order(facts.rows, scene.number, scene.length, tile)
    found = compact(facts.patches, scene.number, sides, tile)
    return found.tokens(found.rows), found.tokens(found.columns), found.reaches()


def _counted(spec: Spec, facts: Facts, sides: Shape) -> OnGrid:
    """What is visited on a grid of a usual size, with tiles of a usual size."""
    assert facts.patches is not None
    length = sides[0] ** len(sides)
    scene = Scene(spec, length, sides[0])
    found = compact(facts.patches, scene.number, sides, _USUAL)
    plain = in_order(facts.rows, scene.number, length, _USUAL)
    visited = sum(len(reach.visited) for reach in plain)
    return OnGrid(sides, _USUAL, found.rows, found.columns, found.visited, visited)


def _drawn(pairs: list[bool], visited: bool) -> str:
    if all(pairs):
        return FULL
    return PARTIAL if any(pairs) else VISITED if visited else EMPTY


def _count(expr: Expr) -> int:
    total, stack = 0, [expr]
    while stack and total <= _MOST_NODES:
        total += 1
        stack.extend(children(stack.pop()))
    return total
