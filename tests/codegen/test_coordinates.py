"""Kernels whose tiles are compact on a grid have tokens' coordinates from what makes the tiles."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

import attnspec
from attnspec.codegen.library import names

STEPPED = ["natten_dilated", "gna", "maxvit_grid", "grid_gating"]


def divided(source: str) -> Iterator[str]:
    """What kernels divide by a number that is known at the call only."""
    for kernel in ast.parse(source).body:
        if not isinstance(kernel, ast.FunctionDef) or not kernel.decorator_list:
            continue
        for node in ast.walk(kernel):
            match node:
                case ast.BinOp(left=left, op=ast.FloorDiv() | ast.Mod(), right=ast.Name()):
                    yield ast.unparse(left)
                case ast.Call(func=ast.Name(id="floordiv" | "floormod"), args=[left, ast.Name()]):
                    yield ast.unparse(left)


def test_no_position_is_divided() -> None:
    compact = set()
    for name in names():
        attention = attnspec.load(name)
        if any(found.patches is not None for found in attention.plan.passes):
            assert not {"i", "j"} & set(divided(attention.source)), name
            compact.add(name)
    assert {"natten", "natten_causal", "swin", "temporal_gaussian", *STEPPED} <= compact


@pytest.mark.parametrize("name", STEPPED)
def test_no_coordinate_is_divided_by_a_step(name: str) -> None:
    tokens = {f"{side}_{axis}" for side in "ij" for axis in "yx"}
    assert not tokens & set(divided(attnspec.load(name).source))
