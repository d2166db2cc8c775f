"""Boxes of compact tiles against brute force: no pair is skipped, no full box has a hole."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from tests.dsl.tiles import covered
from torch import Tensor

from attnspec.codegen.library import find, names
from attnspec.dsl.analysis.patches import Patches, patches
from attnspec.dsl.analysis.runs import Run
from attnspec.dsl.ast import Expr, Index, Spec
from attnspec.dsl.check import check
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse
from attnspec.runtime.bind import Bound
from attnspec.runtime.reference import Evaluator
from attnspec.runtime.sampling import sample

SIDES = {1: 40, 2: 13, 3: 5}  # the longest side by the number of axes


def parsed(text: str) -> tuple[Spec, Patches | None]:
    spec = check(parse(text))[0]
    return spec, patches(spec, Prover(spec))


COMPACT = [name for name in names() if parsed(find(name)[0])[1] is not None]


def test_windows_on_grids_take_compact_tiles() -> None:
    assert {"natten", "natten_causal", "natten_dilated", "gna", "swin", "moore"} <= set(COMPACT)


def test_a_window_that_stays_inside_fills_tiles_of_both_sides() -> None:
    for name in ("natten", "natten_dilated", "gna"):
        found = parsed(find(name)[0])[1]
        assert found is not None
        assert all(run.full for run in (*found.rows, *found.columns))


@pytest.mark.parametrize("name", COMPACT)
def test_boxes(name: str) -> None:
    spec, found = parsed(find(name)[0])
    assert found is not None
    reached = full = 0
    for seed in range(4):
        bound = call(spec, seed)
        evaluate = Evaluator(spec, bound, torch.float64)
        assert spec.mask is not None
        allowed = evaluate(spec.mask).full(("b", "h", "i", "j"), bound.sizes)[0, 0]
        for runs, pairs, own, other in (
            (found.rows, allowed, "i", "j"),
            (found.columns, allowed.T, "j", "i"),
        ):
            for tile in (2, 5):
                for mine, box, inside in boxes(found, runs, bound, evaluate, tile, own, other):
                    seen = pairs[mine]
                    assert not seen[:, ~box].any()
                    assert seen[:, inside].all()
                    reached, full = reached + int(box.sum()), full + int(inside.sum())
    assert reached > 0
    if all(run.full for run in (*found.rows, *found.columns)):
        assert full > 0


def call(spec: Spec, seed: int) -> Bound:
    """Arguments on small grids, of sides of their own where the spec takes these."""
    rng = random.Random(seed)
    sides = {} if spec.grids else dict.fromkeys("ij", rng.randint(20, SIDES[1]))
    for grid in spec.grids:
        most = SIDES[len(grid.names)]
        sides |= {f"{grid.side}.{name}": rng.randint(most // 2, most) for name in grid.names}
    generator, small = torch.Generator().manual_seed(seed), {"b": 1, "h": 1, "d": 2}
    try:
        return sample(spec, generator, small | sides)
    except AttnError:
        return sample(spec, generator, small)


def boxes(
    found: Patches,
    runs: tuple[Run, ...],
    bound: Bound,
    evaluate: Evaluator,
    tile: int,
    own: str,
    other: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of every patch: its tokens, and whether tokens of the other side lie in its box, full box."""

    def leaf(expr: Expr) -> Tensor:
        return evaluate(expr).over(())

    lengths = {
        side: [
            bound.sizes[side] if expr is None else int(leaf(expr))
            for expr in (found.i_sides if side == "i" else found.j_sides)
        ]
        for side in "ij"
    }
    steps = [int(leaf(step)) for step in found.steps]
    coordinates = {
        side: torch.cartesian_prod(*(torch.arange(n) for n in lengths[side])).view(
            -1, len(found.axes)
        )
        for side in "ij"
    }
    tiles = [
        [(rest, low) for rest in range(step) for low in range(0, -(-(n - rest) // step), tile)]
        for n, step in zip(lengths[own], steps, strict=True)
    ]
    for patch in product(*tiles):
        mine = torch.ones(math.prod(lengths[own]), dtype=torch.bool)
        box = torch.ones(math.prod(lengths[other]), dtype=torch.bool)
        inside = box.clone()
        for axis, (rest, low) in enumerate(patch):
            step, run, name = steps[axis], runs[axis], found.axes[axis]
            here, there = coordinates[own][:, axis], coordinates[other][:, axis]
            last = min(low + tile, -(-(lengths[own][axis] - rest) // step)) - 1
            mine &= (here % step == rest) & (here // step >= low) & (here // step <= last)
            ends = {f"lo_{name}": low, f"hi_{name}": last, f"rest_{name}": rest}

            def at(expr: Expr, ends: dict[str, int] = ends) -> Tensor:
                if isinstance(expr, Index) and expr.axis in ends:
                    return torch.tensor(ends[expr.axis])
                return leaf(expr)

            reached, whole = covered(run, at, there // step, 1)
            box &= (there % step == rest) & reached[0]
            inside &= whole[0]
        if mine.any():
            yield mine, box, box & inside
