"""Tile sizes by need: chosen from a table, never searched for at run time.

The tables hold what compiles without spilling registers where that is possible, and what fits a
target's shared memory always; `attnspec build --target` shows what each choice takes. What
`attnspec tune` has measured on a GPU stands in a file beside and comes first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import torch

from attnspec.dsl.diagnostics import AttnError

# Tokens of a block whose numbers a tile adds up one after another: every tile and every piece of
# one holds whole blocks.
BLOCK = 16


@dataclass(frozen=True, slots=True)
class Config:
    """Rows and columns of a tile, warps and pipeline stages.

    A partial tile is taken `edge` columns (by columns: rows) at a time, the whole of it by
    default: masks hold registers that full tiles do not need. `descriptors`: whole tiles of
    operands are copied by the device's copy engine, which works out addresses itself. With `pack`
    the rows of a forward tile are those of several query heads of a key head, which reads keys and
    values once.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    edge: int | None = None
    descriptors: bool = False
    pack: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """What a tile holds: padded channels of all row operands, all column operands and the value.

    `phase` is forward, forward_few (of at most `FEW` rows, those of several heads counted if these
    may share a tile), forward_packed (of at most `FEW` of each head, which together are more),
    backward_rows, backward_gated (the same where it sums the ungated output anew, for a gate),
    backward_columns or backward_table. `load` is what else it holds: "light" with no mask,
    "masked", "listed" with a mask and lists of tiles, "shared" the same with a loop over the query
    heads that share a tile's keys, "tight" with more than one of the small things that take
    registers (see `arrange.need`), "several" with several weights, "medium" with a mask or a score
    of some parts, "heavy" with one of many, "laden" the same with many numbers of a pair, or
    "crowded" with more of these than fit beside the products.
    """

    phase: str
    left: int
    right: int
    value: int
    load: str
    dtype: torch.dtype


FEW = 16  # rows that fill no larger tile

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
_SHORT = ("forward_few", "forward_packed")  # tiles in which heads that share keys are packed

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
            Config(128, 64, 8, 3),
            heavy=Config(64, 16, 8, 3),
            masked=Config(64, 32, 4, 3),
            medium=Config(128, 32, 8, 3),
        ),
        _row(
            128,
            Config(128, 32, 8, 3),
            heavy=Config(64, 16, 8, 3),
            masked=Config(64, 32, 8, 2),
            several=Config(64, 16, 8, 2),
            medium=Config(64, 32, 8, 3),
        ),
        _row(256, Config(64, 32, 8, 1, edge=16), heavy=Config(64, 16, 8, 2)),
        _row(512, Config(16, 32, 4, 1)),
    ),
    "forward_few": _FEW,
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

# Wavefronts of 64, shared memory of 64 KB.
_CDNA: Table = {
    "forward": (
        _row(64, Config(128, 64, 4, 1)),
        _row(128, Config(64, 32, 4, 1)),
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
        _row(128, Config(32, 32, 4, 1)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "backward_gated": (_row(512, Config(16, 16, 4, 1)),),
    "backward_columns": (
        _row(64, Config(32, 64, 4, 1)),
        _row(128, Config(32, 32, 4, 1)),
        _row(512, Config(16, 16, 4, 1)),
    ),
    "backward_table": (_row(128, Config(32, 32, 4, 1)), _row(512, Config(16, 16, 4, 1))),
}

# Numbers of a pair fill the registers of every CUDA target alike. Tiles of many products go through
# the pipeline: else those loaded ahead would stand in registers, too.
_CROWDED: Table = {
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

# Plain multiply-adds, operands of twice the size.
_FLOAT32: tuple[Row, ...] = (
    _row(32, Config(64, 32, 4, 1)),
    _row(128, Config(32, 32, 4, 1, edge=16)),
    _row(512, Config(16, 16, 4, 1)),
)

_TABLES = {
    "cuda:80": _AMPERE,
    "cuda:86": _AMPERE,
    "cuda:89": _AMPERE,
    "cuda:90": _HOPPER,
    "cuda:100": _BLACKWELL,
    "cuda:120": _AMPERE,
    "hip:gfx942": _CDNA,
}
TARGETS = tuple(_TABLES)

# Many products of few vectors, as with every place of a block, where one side is far wider than the
# other; or several weights of wide vectors.
_WIDE, _WIDEST, _OTHER = 512, _row(1024, Config(16, 16, 8, 1)), 128
SHARED = {
    "cuda:80": 163 * 1024,
    "cuda:90": 227 * 1024,
    "cuda:100": 227 * 1024,
    "hip:gfx942": 64 * 1024,
}  # bytes a program may use; others have 99 KB

# As large as may be: each operation has a fixed cost there. Partial tiles in pieces as elsewhere.
# Multiprocessors; what has fewer programs shares the keys of a tile of rows among several.
_PROCESSORS = {"cuda:80": 108, "cuda:90": 132, "cuda:100": 148, "hip:gfx942": 304}
_SHARE = 512  # keys at least of each
_PARTS = 64


def parts(programs: int, columns: int, target: str) -> int:
    """How many programs share the keys of a tile of rows, where there are `programs` of these and
    as many keys as `columns`: 1, unless the device would stand idle."""
    free = _PROCESSORS.get(target if target in _TABLES else _nearest(target), 1) // max(programs, 1)
    most = max(min(free, columns // _SHARE, _PARTS), 1)
    return 1 << most.bit_length() - 1  # few numbers: kernels are compiled for each


INTERPRETED = Config(32, 32, 4, 1, edge=16)


def width(channels: int) -> int:
    """The padded width of a channel axis: a power of two, at least what a matrix product takes."""
    return max(16, 1 << (max(channels, 1) - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Key:
    """What a measured tile is for: `channels` are those of the widest side, `wide` is float32."""

    target: str
    phase: str
    load: str
    channels: int
    wide: bool


def key(need: Need, target: str) -> Key:
    """Under which a kernel's tile stands among those that were measured."""
    channels = max(need.left, need.right, need.value)
    return Key(target, need.phase, need.load, channels, need.dtype is torch.float32)


TUNED = Path(__file__).with_name("tuned.json")
_trials: dict[Key, Config] = {}
_describing: list[bool] = []


def trying() -> bool:
    """Whether some kernel's tile is another for a while."""
    return bool(_trials) or describing()


def describing() -> bool:
    """Whether descriptors are to load tiles, whatever the tables say."""
    return bool(_describing)


@contextmanager
def trial(of: Key, tile: Config) -> Iterator[None]:
    """Inside, `tile` is the one of every kernel with this key."""
    _trials[of] = tile
    try:
        yield
    finally:
        del _trials[of]


@contextmanager
def by_descriptors() -> Iterator[None]:
    """Inside, descriptors load whole tiles where they may, see `described`."""
    _describing.append(True)
    try:
        yield
    finally:
        _describing.pop()


def described(need: Need, tile: Config) -> Config:
    """A tile that descriptors load, unless that spills registers: of float32, and beside two sums
    of many channels."""
    sums = need.phase == "backward_columns" and max(need.left, need.right, need.value) > 64
    return replace(tile, descriptors=not (sums or need.dtype is torch.float32))


def read_tuned(file: Path) -> dict[Key, Config]:
    """The tiles of a file that `write_tuned` wrote; none where there is no file."""
    if not file.exists():
        return {}
    rows = json.loads(file.read_text())
    return {Key(**row["key"]): Config(**row["tile"]) for row in rows}


def write_tuned(file: Path, found: Mapping[Key, Config]) -> None:
    """Add measured tiles to a file, a line each."""
    every = {**read_tuned(file), **found}
    rows = [{"key": asdict(of), "tile": asdict(every[of])} for of in sorted(every, key=repr)]
    lines = ",\n".join(json.dumps(row) for row in rows)
    file.write_text(f"[\n{lines}\n]\n")


@cache
def _tuned() -> dict[Key, Config]:
    return read_tuned(TUNED)


def config(need: Need, target: str) -> Config:
    """The tile of a kernel on a target; AttnError where no tile fits, with what would."""
    of = key(need, target)
    if tried := _trials.get(of):
        return tried
    found = _tuned().get(of) or replace(_tabled(need, target), pack=need.phase in _SHORT)
    return described(need, found) if describing() and describes(target) else found


def _tabled(need: Need, target: str) -> Config:
    known = target if target in _TABLES else _nearest(target)
    table = _FLOAT32 if need.dtype is torch.float32 else _TABLES[known][need.phase]
    if need.load == "crowded" and table is not _FLOAT32 and known.startswith("cuda"):
        table = _CROWDED.get(need.phase, table)
    wide = max(need.left, need.right, need.value)
    whole = need.dtype is torch.float32
    fits = sorted((need.left, need.right, need.value))[1] <= _OTHER
    fits &= not (whole and known.startswith("hip"))
    if need.load == "several":  # which one pass for each would take
        fits = SHARED.get(known, 99 * 1024) >= (136 if whole else 80) * 1024
    for limit, by_load in (*table, _WIDEST):
        if wide <= limit and (fits or limit <= _WIDE):
            return by_load[need.load]
    raise AttnError(
        f"channels: expected at most {_WIDE} on {target} (all operands of a side together, "
        f'each padded to a power of two), got {wide}; backend="dense" takes any number'
    )


def describes(target: str) -> bool:
    """Whether a target has an engine that copies tiles by tensor descriptors."""
    kind, _, arch = target.partition(":")
    return kind == "cuda" and int(arch) >= 90


def _nearest(target: str) -> str:
    """The newest target in the tables that is not newer than `target`, or the oldest."""
    kind, _, arch = target.partition(":")
    if kind != "cuda":
        return "hip:gfx942"
    older = [t for t in TARGETS if t.startswith("cuda") and int(t[5:]) <= int(arch)]
    return max(older, key=lambda t: int(t[5:]), default="cuda:80")
