"""Tile sizes by need: chosen from a table, never searched for at run time.

The tables hold what compiles without spilling registers for most kernels, and what fits a target's
shared memory always; `attnspec build --target` shows what each choice takes. A file beside comes
first: it holds what `attnspec tune` has measured on a GPU and, where the tables' tile spills, the
nearest that does not, which `attnspec tune --compile-only` finds without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.tile_tables import CROWDED, FLOAT32, TABLES, WIDEST, Config

# Tokens of a block whose numbers a tile adds up one after another: every tile and every piece of
# one holds whole blocks.
BLOCK = 16


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
    "crowded" with more of these than fit beside the products. `counts` say more exactly what a pass
    works out and reads.
    """

    phase: str
    left: int
    right: int
    value: int
    load: str
    dtype: torch.dtype
    counts: str = ""


FEW = 16  # rows that fill no larger tile
_SHORT = ("forward_few", "forward_packed")  # tiles in which heads that share keys are packed
TARGETS = tuple(TABLES)
_WIDE, _OTHER = 512, 128  # channels of most tiles, and of their other side where there are more
SHARED = {
    "cuda:80": 163 * 1024,
    "cuda:90": 227 * 1024,
    "cuda:100": 227 * 1024,
    "hip:gfx942": 64 * 1024,
}  # bytes a program may use
_LEAST_SHARED = 99 * 1024  # on other targets

# Multiprocessors; what has fewer programs shares the keys of a tile of rows among several.
_PROCESSORS = {"cuda:80": 108, "cuda:90": 132, "cuda:100": 148, "hip:gfx942": 304}
_SHARE = 512  # keys at least of each
_PARTS = 64


def parts(programs: int, columns: int, target: str) -> int:
    """How many programs share the keys of a tile of rows, where there are `programs` of these and
    as many keys as `columns`: 1, unless the device would stand idle."""
    free = _PROCESSORS.get(target if target in TABLES else _nearest(target), 1) // max(programs, 1)
    most = max(min(free, columns // _SHARE, _PARTS), 1)
    return 1 << most.bit_length() - 1  # few numbers: kernels are compiled for each


# As large as may be: each operation has a fixed cost there. Partial tiles in pieces as elsewhere.
INTERPRETED = Config(32, 32, 4, 1, edge=16, again=True)


def width(channels: int) -> int:
    """The padded width of a channel axis: a power of two, at least what a matrix product takes."""
    return max(16, 1 << (max(channels, 1) - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Key:
    """What a tile of the file is for: `channels` are those of the widest side, `wide` is float32.
    It may be for kernels alone that are `like` each other, see `own_key`."""

    target: str
    phase: str
    load: str
    channels: int
    wide: bool
    like: str = ""


def key(need: Need, target: str) -> Key:
    """Under which a kernel's tile stands in the file: one of its own, one of its like in bfloat16
    where it is float16, or what all of its load have."""
    own = own_key(need, target)
    alike = [own]
    if need.dtype is torch.float16:
        alike.append(own_key(replace(need, dtype=torch.bfloat16), target))
    return next((of for of in alike if of in _tuned()), replace(own, like=""))


def own_key(need: Need, target: str) -> Key:
    """Under which the tile stands of kernels that work out and read as many numbers, in operands as
    wide."""
    sides = need.left, need.right, need.value
    dtype = str(need.dtype).removeprefix("torch.")
    like = "{}; {} by {}, {} of {}".format(need.counts, *sides, dtype)
    return Key(target, need.phase, need.load, max(sides), need.dtype is torch.float32, like)


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
    """Add tiles to a file, a line each."""
    every = {**read_tuned(file), **found}
    rows = [{"key": asdict(of), "tile": asdict(every[of])} for of in sorted(every, key=repr)]
    lines = ",\n".join(json.dumps(row) for row in rows)
    file.write_text(f"[\n{lines}\n]\n")
    _tuned.cache_clear()


@cache
def _tuned() -> dict[Key, Config]:
    return read_tuned(TUNED)


def config(need: Need, target: str) -> Config:
    """The tile of a kernel on a target; AttnError where no tile fits, with what would."""
    of = key(need, target)
    if tried := _trials.get(of):
        return tried
    found = _tuned().get(of) or replace(
        _tabled(need, target), pack=need.phase in _SHORT, again=_again(need, target)
    )
    return described(need, found) if describing() and describes(target) else found


def _again(need: Need, target: str) -> bool:
    """Whether a forward tile is taken with care only where its output is not finite: loops of
    float32 and of many channels have no registers left for what must be kept, and for cuda:100
    Triton 3.7.1 compiles no sum over both axes of an output."""
    kind, _, arch = target.partition(":")
    narrow = need.dtype is not torch.float32 and need.phase.startswith("forward")
    narrow &= max(need.left, need.right, need.value) <= _OTHER
    return narrow and kind == "cuda" and not 100 <= int(arch) < 120


def _tabled(need: Need, target: str) -> Config:
    known = target if target in TABLES else _nearest(target)
    whole = need.dtype is torch.float32
    table = (FLOAT32[known.partition(":")[0]] if whole else TABLES[known])[need.phase]
    if need.load == "crowded" and not whole and known.startswith("cuda"):
        table = CROWDED.get(need.phase, table)
    wide = max(need.left, need.right, need.value)
    fits = sorted((need.left, need.right, need.value))[1] <= _OTHER
    fits &= not (whole and known.startswith("hip"))
    if need.load == "several":  # which one pass for each would take
        fits = fits_in((136 if whole else 80) * 1024, known)
    for limit, by_load in (*table, WIDEST):
        if wide <= limit and (fits or limit <= _WIDE):
            return by_load[need.load]
    raise AttnError(
        f"channels: expected at most {_WIDE} on {target} (all operands of a side together, "
        f'each padded to a power of two), got {wide}; backend="dense" takes any number'
    )


def fits_in(shared: int, target: str) -> bool:
    """Whether a program may use so many bytes of shared memory."""
    return shared <= SHARED.get(target, _LEAST_SHARED)


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
