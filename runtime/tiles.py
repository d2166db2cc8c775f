"""Tile sizes by need: chosen from a table, never searched for at run time.

Sizes are given by phase and by the widest channel axis; what a target cannot hold is not in the
table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """Rows and columns of a tile, warps and pipeline stages."""

    block_m: int
    block_n: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Need:
    """What a tile holds: padded channels of all row operands, all column operands and the value,
    and the number of dot products. `phase` is forward, backward_rows, backward_columns or
    backward_table."""

    phase: str
    left: int
    right: int
    value: int
    dots: int
    dtype: torch.dtype


TARGETS = ("cuda:80", "cuda:86", "cuda:89", "cuda:90", "cuda:100", "hip:gfx942")
INTERPRETED = Config(32, 32, 4, 1)  # as large as there: each operation has a fixed cost


def width(channels: int) -> int:
    """The padded width of a channel axis: a power of two, at least what a matrix product takes."""
    return max(16, 1 << (max(channels, 1) - 1).bit_length())


def config(need: Need, target: str) -> Config:
    """The tile of a kernel on a target."""
    wide = max(need.left, need.right, need.value)
    phase = need.phase
    if need.dtype is torch.float32:
        return Config(64, 32, 4, 1) if wide <= 64 else Config(32, 32, 4, 1)
    if wide > 256:
        return Config(32, 32, 4, 1)
    if wide > 128:
        return Config(64, 32, 4, 1)
    hopper = target in ("cuda:90", "cuda:100")
    if phase == "forward":
        if wide <= 64:
            return Config(128, 64, 4 if not hopper else 8, 3)
        return Config(128, 64, 8, 3 if hopper else 2)
    if phase == "backward_columns":
        return Config(64, 64 if wide <= 64 else 128, 4 if wide <= 64 else 8, 2)
    if phase == "backward_rows":
        return Config(64, 64, 4, 2) if wide <= 64 else Config(128, 64, 8, 2)
    return Config(64, 32, 4, 1)  # tables
