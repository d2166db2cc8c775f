"""The tables of tile sizes, by target, phase, number of channels and load; see `tiles.Need`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Config:
    """Rows and columns of a tile, warps and pipeline stages.

    A partial tile is taken `edge` columns (by columns: rows) at a time, the whole of it by
    default: masks hold registers that full tiles do not need. `descriptors`: whole tiles of
    operands are copied by the device's copy engine, which works out addresses itself. With `pack`
    the rows of a forward tile are those of several query heads of a key head, which reads keys and
    values once. With `again` a forward tile is computed as if every value were finite, and once
    more with care where its output is not; else every partial tile is taken with care.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    edge: int | None = None
    descriptors: bool = False
    pack: bool = False
    again: bool = False


# For each phase, tiles up to a number of channels, by load.
Row: TypeAlias = tuple[int, dict[str, Config]]
Table: TypeAlias = dict[str, tuple[Row, ...]]


def _row(
    limit: int,
    light: Config,
    heavy: Config | None = None,
    masked: Config | None = None,
    listed: Config | None = None,
    several: Config | None = None,
    shared: Config | None = None,
    tight: Config | None = None,
    medium: Config | None = None,
    laden: Config | None = None,
) -> Row:
    masked = masked or light
    by_load = {"light": light, "masked": masked, "listed": listed or masked}
    by_load |= {"shared": shared or by_load["listed"], "tight": tight or by_load["listed"]}
    heavy = heavy or light
    by_load |= {"several": several or masked, "medium": medium or heavy, "heavy": heavy}
    return limit, by_load | {"laden": laden or heavy, "crowded": heavy}


# Few rows share one product among the warps, each of which takes some keys.
_FEW = (
    _row(
        128,
        Config(16, 64, 4, 3),
        heavy=Config(16, 32, 4, 2),
        listed=Config(16, 64, 4, 3, edge=32),
    ),
    _row(256, Config(16, 32, 8, 2)),
    _row(512, Config(16, 32, 4, 1)),
)

# Such rows of several heads of queries are more.
_PACKED = (
    _row(64, Config(64, 64, 4, 3, edge=32), heavy=Config(64, 32, 4, 2)),
    _row(
        128,
        Config(64, 32, 4, 3),
        heavy=Config(64, 32, 8, 2),
        listed=Config(64, 32, 8, 3),
    ),
    _row(256, Config(32, 32, 8, 2)),
    _row(512, Config(16, 32, 4, 1)),
)

# Products by warp group: eight warps share an accumulator of 128 rows. Backward by columns holds
# two accumulators and two tiles of scores at once, so its tiles of rows are short. Each edge is
# the widest without spills.
_HOPPER: Table = {
    "forward": (
        _row(
            64,
            Config(128, 128, 8, 3, edge=64),
            heavy=Config(128, 32, 8, 3),
            medium=Config(128, 64, 8, 3, edge=32),
        ),
        _row(
            128,
            Config(128, 128, 8, 3, edge=32),
            heavy=Config(128, 32, 8, 2),
            masked=Config(128, 128, 8, 3, edge=64),
            tight=Config(128, 128, 8, 3, edge=32),
            medium=Config(128, 64, 8, 3, edge=32),
            laden=Config(128, 16, 8, 2),
        ),
        _row(
            256,
            Config(128, 64, 8, 2, edge=32),
            heavy=Config(128, 16, 8, 2),
            several=Config(128, 64, 8, 2, edge=16),
        ),
        _row(512, Config(64, 32, 8, 1), several=Config(32, 32, 8, 1)),
    ),
    "forward_few": _FEW,
    "forward_packed": _PACKED,
    "backward_rows": (
        _row(
            64,
            Config(128, 128, 8, 2, edge=64),
            heavy=Config(128, 32, 8, 2),
            medium=Config(128, 64, 8, 2, edge=32),
        ),
        _row(
            128,
            Config(128, 128, 8, 2, edge=32),
            heavy=Config(128, 32, 8, 2),
            medium=Config(128, 64, 8, 2, edge=32),
            listed=Config(128, 64, 8, 2, edge=32),
            laden=Config(128, 16, 8, 2),
        ),
        _row(
            256,
            Config(128, 32, 8, 2),
            heavy=Config(64, 32, 8, 2, edge=16),
            several=Config(128, 64, 8, 2, edge=32),
        ),
        _row(512, Config(32, 32, 8, 1)),
    ),
    "backward_gated": (
        _row(
            64,
            Config(128, 128, 8, 2, edge=32),
            heavy=Config(128, 32, 8, 2),
            tight=Config(128, 64, 8, 2, edge=32),
        ),
        _row(
            128,
            Config(128, 32, 8, 2),
            heavy=Config(128, 16, 8, 2),
            tight=Config(128, 32, 8, 2, edge=16),
        ),
        _row(256, Config(32, 16, 8, 1)),
        _row(512, Config(16, 16, 8, 1)),
    ),
    "backward_columns": (
        _row(
            64,
            Config(64, 128, 8, 2, edge=32),
            heavy=Config(32, 128, 8, 2),
            medium=Config(64, 128, 8, 2, edge=32),
            laden=Config(32, 32, 4, 2),
        ),
        _row(
            128,
            Config(64, 128, 8, 2, edge=16),
            heavy=Config(16, 128, 8, 2),
            tight=Config(32, 128, 8, 2),
            medium=Config(32, 128, 8, 2, edge=16),
            laden=Config(32, 32, 8, 2),
        ),
        _row(256, Config(64, 32, 8, 2), several=Config(16, 128, 8, 2)),
        _row(512, Config(32, 32, 8, 1)),
    ),
    "backward_table": (
        _row(128, Config(64, 32, 4, 2)),
        _row(256, Config(32, 16, 8, 2)),
        _row(512, Config(32, 32, 8, 1)),
    ),
}

# As above, but of a table's kernel the compiler takes no more rows: its loop over entries reduces
# tiles out of tensor memory (Triton 3.7.1 refuses). Nor does it spare registers for two sums of
# wide values.
_BLACKWELL: Table = _HOPPER | {
    "forward_few": (_row(64, Config(16, 64, 4, 3)), _row(128, Config(16, 32, 4, 3)), *_FEW[1:]),
    "forward": (
        _HOPPER["forward"][0],
        _row(
            128,
            Config(128, 128, 8, 3, edge=32),
            heavy=Config(128, 32, 8, 3),
            listed=Config(128, 128, 8, 3, edge=16),
            medium=Config(128, 64, 8, 3, edge=16),
        ),
        _row(
            256,
            Config(64, 64, 8, 2, edge=32),
            heavy=Config(64, 16, 8, 2),
            listed=Config(64, 64, 8, 2, edge=16),
            several=Config(64, 32, 8, 2),
        ),
        *_HOPPER["forward"][3:],
    ),
    "backward_rows": (
        _row(64, Config(128, 128, 8, 2, edge=64), heavy=Config(128, 32, 8, 2)),
        _row(
            128,
            Config(128, 128, 8, 2, edge=32),
            heavy=Config(128, 32, 8, 2),
            masked=Config(128, 64, 8, 2, edge=32),
        ),
        _row(
            256,
            Config(128, 32, 8, 2, edge=16),
            heavy=Config(64, 32, 8, 2, edge=16),
            several=Config(128, 64, 8, 2, edge=32),
        ),
        *_HOPPER["backward_rows"][3:],
    ),
    "backward_columns": (
        _row(
            64,
            Config(64, 128, 8, 2, edge=32),
            heavy=Config(32, 128, 8, 2),
            shared=Config(64, 64, 8, 2, edge=32),
        ),
        _row(
            128,
            Config(64, 128, 8, 2, edge=16),
            heavy=Config(16, 128, 8, 2),
            shared=Config(64, 32, 8, 2),
            tight=Config(64, 32, 8, 2),
        ),
        *_HOPPER["backward_columns"][2:],
    ),
    "backward_table": (_row(128, Config(32, 32, 4, 2)), *_HOPPER["backward_table"][1:]),
}

# Products by warp, operands in registers: narrower tiles than above. Also for shared memory of
# 99 KB.
_AMPERE: Table = {
    "forward": (
        _row(
            64,
            Config(128, 64, 8, 3, edge=32),
            heavy=Config(64, 16, 8, 3),
            medium=Config(128, 32, 8, 3),
        ),
        _row(
            128,
            Config(128, 32, 8, 3),
            heavy=Config(64, 16, 8, 3),
            masked=Config(128, 64, 8, 2, edge=16),
            several=Config(128, 32, 8, 2, edge=16),
            medium=Config(64, 32, 8, 3),
        ),
        _row(256, Config(64, 32, 8, 1, edge=16), heavy=Config(64, 16, 8, 2)),
        _row(512, Config(16, 32, 4, 1)),
    ),
    "forward_few": (_row(64, Config(16, 64, 4, 3), heavy=Config(16, 32, 4, 2)), *_FEW),
    "forward_packed": _PACKED,
    "backward_rows": (
        _row(
            64,
            Config(128, 64, 8, 2, edge=32),
            heavy=Config(64, 32, 8, 2),
            laden=Config(64, 16, 8, 2),
        ),
        _row(
            128,
            Config(128, 32, 8, 2),
            heavy=Config(64, 16, 8, 2),
            tight=Config(128, 32, 8, 1),
            medium=Config(64, 32, 8, 2),
            laden=Config(32, 32, 8, 2),
        ),
        _row(256, Config(32, 32, 8, 1)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "backward_gated": (
        _row(64, Config(64, 32, 8, 2), heavy=Config(64, 16, 8, 2), listed=Config(64, 16, 8, 2)),
        _row(128, Config(64, 32, 8, 2), heavy=Config(64, 16, 8, 2), listed=Config(64, 16, 8, 2)),
        _row(256, Config(16, 16, 8, 1)),
        _row(512, Config(16, 16, 8, 1)),
    ),
    "backward_columns": (
        _row(
            64,
            Config(32, 64, 4, 2),
            heavy=Config(32, 32, 8, 2),
            medium=Config(64, 32, 8, 2),
        ),
        _row(
            128,
            Config(32, 64, 8, 3),
            heavy=Config(16, 64, 8, 3),
            medium=Config(32, 32, 8, 2),
            laden=Config(16, 32, 8, 2),
        ),
        _row(256, Config(32, 32, 8, 2), masked=Config(16, 16, 8, 2)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "backward_table": (
        _row(64, Config(32, 32, 4, 1)),
        _row(128, Config(16, 32, 8, 1)),
        _row(256, Config(32, 16, 8, 1)),
        _row(512, Config(16, 16, 4, 1)),
    ),
}


def _narrower(masked: Config) -> Table:
    """The same where masked tiles of 128 channels, forward, spill unless they are narrower."""
    first, (limit, by_load), *others = _AMPERE["forward"]
    narrow = dict.fromkeys(("masked", "listed", "shared", "tight"), masked)
    return _AMPERE | {"forward": (first, (limit, by_load | narrow), *others)}


# Wavefronts of 64, shared memory of 64 KB.
_CDNA: Table = {
    "forward": (
        _row(64, Config(128, 64, 4, 1), masked=Config(128, 64, 4, 1, edge=16)),
        _row(128, Config(64, 32, 4, 1), masked=Config(64, 32, 4, 1, edge=16)),
        _row(256, Config(16, 16, 8, 1)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "forward_few": _FEW,
    "forward_packed": (
        _row(64, Config(64, 64, 4, 1)),
        _row(128, Config(64, 32, 4, 1)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "backward_rows": (
        _row(64, Config(64, 32, 4, 1)),
        _row(128, Config(32, 32, 4, 1), masked=Config(32, 32, 4, 1, edge=16)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "backward_gated": (_row(512, Config(16, 16, 4, 1)),),
    "backward_columns": (
        _row(64, Config(32, 64, 4, 1)),
        _row(128, Config(32, 32, 4, 1), masked=Config(32, 32, 4, 1, edge=16)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "backward_table": (_row(128, Config(32, 32, 4, 1)), _row(512, Config(16, 16, 4, 1))),
}

# Numbers of a pair fill the registers of every CUDA target alike. Tiles of many products go through
# the pipeline: else those loaded ahead would stand in registers, too.
CROWDED: Table = {
    "forward": (
        _row(256, Config(64, 16, 8, 2)),
        _row(512, Config(16, 16, 8, 2)),
        _row(1024, Config(16, 32, 8, 2)),
    ),
    "backward_rows": (_row(64, Config(32, 16, 8, 2)), _row(512, Config(16, 32, 8, 1))),
    "backward_columns": (
        _row(128, Config(32, 32, 8, 1)),
        _row(256, Config(16, 32, 8, 1)),
        _row(512, Config(16, 16, 8, 1)),
    ),
}


def _float32(wide: Config) -> tuple[Row, ...]:
    """Plain multiply-adds, operands of twice the size; `wide` holds more than 64 channels."""
    return (
        _row(32, Config(64, 32, 4, 1)),
        _row(64, Config(32, 32, 4, 1, edge=16)),
        _row(128, wide),
        _row(512, Config(16, 16, 4, 1)),
    )


_FLOAT32: Table = {
    "forward": _float32(Config(16, 32, 8, 1, edge=16)),
    "forward_few": _float32(Config(16, 32, 8, 1, edge=16)),
    "forward_packed": _float32(Config(16, 32, 8, 1, edge=16)),
    "backward_rows": _float32(Config(32, 16, 8, 1)),
    "backward_gated": _float32(Config(32, 16, 8, 1)),
    "backward_columns": _float32(Config(32, 32, 8, 1, edge=16)),
    "backward_table": _float32(Config(32, 32, 4, 1, edge=16)),
}
# By kind of target.
FLOAT32 = {
    "cuda": _FLOAT32,
    "hip": _FLOAT32 | {"backward_columns": _float32(Config(32, 32, 4, 1, edge=16))},
}

TABLES = {
    "cuda:80": _AMPERE,
    "cuda:86": _narrower(Config(128, 32, 8, 2, edge=16)),
    "cuda:89": _narrower(Config(128, 32, 8, 2, edge=16)),
    "cuda:90": _HOPPER,
    "cuda:100": _BLACKWELL,
    "cuda:120": _narrower(Config(64, 32, 8, 2)),
    "hip:gfx942": _CDNA,
}

# Many products of few vectors, as with every place of a block, where one side is far wider than the
# other; or several weights of wide vectors.
WIDEST = _row(1024, Config(16, 16, 8, 1))
