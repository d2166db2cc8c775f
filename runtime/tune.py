"""Tiles for the file beside the tables: the fastest on the GPU at hand, or without one the largest
that spills no registers.

A search goes from tile to tile by one change at a time and stops where no change gains enough. All
tiles of a step are timed in turns, and one that does not compile, does not fit, spills registers or
gives other numbers takes no part. Without a GPU there is nothing to time: a kernel whose tile
spills gets the first that does not, from the least change to the smallest tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.aot import DTYPES, Built, Work, build_kernel, gpu_target, record
from attnspec.runtime.api import Attention
from attnspec.runtime.arrange import need
from attnspec.runtime.launch import target
from attnspec.runtime.rounds import ratios, rounds
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import BLOCK, FEW, Key, config, describes, fits_in, key, own_key, trial
from attnspec.runtime.typical import typical

Times = Mapping[Config, Sequence[float]]
Measure = Callable[[Sequence[Config]], Times]
Check = Callable[[Config], bool]

_GAIN = 0.02  # of the time: less than this is noise
_STEPS = 12
_SIDES = (16, 32, 64, 128, 256)
_WARPS = (4, 8)
_STAGES = (1, 2, 3, 4)
_PAIRS = 1024  # of a tile for each warp, where it takes other warps
_ALIKE = 2e-2  # of the largest number
_TOKENS, _WIDTH = 16_384, 2_048  # batch * length and heads * channels


@dataclass(frozen=True, slots=True)
class Tuned:
    """A kernel's tile before and after, which is None where none is better; `what` it has of the
    other's time, or of its spills."""

    key: Key
    before: Config
    after: Config | None
    what: str


def neighbours(tile: Config, by_columns: bool, where: str) -> tuple[Config, ...]:
    """Every tile that differs in one number, by one step, on a target; an edge stays within its
    side. Heads that are packed may be taken apart, and values with care at once. Where descriptors
    take the place of pointers, which hold registers of their own, the edge may change at once."""
    steps: dict[str, Sequence[Any]] = {
        "block_m": _SIDES, "block_n": _SIDES, "warps": _WARPS, "stages": _STAGES,
    }  # fmt: skip
    found = [
        replace(tile, **{name: near})
        for name, each in steps.items()
        for near in _beside(each, getattr(tile, name))
    ]
    side = tile.block_m if by_columns else tile.block_n
    edge = tile.edge or side
    found += [replace(tile, edge=near) for near in _beside(_SIDES, edge) if near <= side]
    if describes(where):
        other = replace(tile, descriptors=not tile.descriptors)
        found += [other, *(replace(other, edge=near) for near in _SIDES if near <= side)]
    found += [replace(tile, pack=False)] if tile.pack else []
    found += [replace(tile, again=False)] if tile.again else []
    return tuple(dict.fromkeys(_settled(one, by_columns) for one in found))


def _beside(steps: Sequence[Any], value: Any) -> tuple[Any, ...]:
    return tuple(
        near
        for near in (
            max((step for step in steps if step < value), default=None),
            min((step for step in steps if step > value), default=None),
        )
        if near is not None
    )


def _settled(tile: Config, by_columns: bool) -> Config:
    """An edge as long as its side is none."""
    side = tile.block_m if by_columns else tile.block_n
    return replace(tile, edge=None) if tile.edge is not None and tile.edge >= side else tile


def best(times: Times, now: Config, gain: float = _GAIN) -> tuple[Config, float]:
    """The fastest tile and its time over that of `now`, round by round; `now` unless it gains."""
    found = {tile: ratios(each, times[now]).median for tile, each in times.items()}
    fastest = min(found, key=lambda tile: found[tile])
    return (fastest, found[fastest]) if found[fastest] < 1 - gain else (now, 1.0)


def search(start: Config, measure: Measure, by_columns: bool, where: str) -> tuple[Config, float]:
    """The tile that no change of one number makes faster on a target, and its time over that of
    `start`."""
    now, whole, seen = start, 1.0, {start}
    for _ in range(_STEPS):
        new = [tile for tile in neighbours(now, by_columns, where) if tile not in seen]
        seen |= {*new}
        times = measure((now, *new))
        found, ratio = best(times, now)
        if found == now:
            break
        now, whole = found, whole * ratio
    return now, whole


def smaller(tile: Config, by_columns: bool) -> tuple[Config, ...]:
    """Tiles that may take fewer registers, the least change first: partial tiles in smaller pieces,
    other warps, fewer stages, then half the tile, the side that is walked first, and so on."""
    across, along = ("block_n", "block_m") if by_columns else ("block_m", "block_n")
    found: list[Config] = []
    now: tuple[Config, ...] = (tile,)
    while now:
        found += [more for one in now for more in _of_a_size(one, by_columns)]
        halves = [_half(one, side) for side in (along, across) for one in now]
        now = tuple(dict.fromkeys(_settled(one, by_columns) for one in halves if one))
    return tuple(one for one in dict.fromkeys(found) if one != tile)


def _half(tile: Config, side: str) -> Config | None:
    size = getattr(tile, side)
    return replace(tile, **{side: size // 2}) if size > BLOCK else None


def _of_a_size(tile: Config, by_columns: bool) -> Iterator[Config]:
    side = tile.edge or (tile.block_m if by_columns else tile.block_n)
    edges = [edge for edge in reversed(_SIDES) if edge <= side]
    fits = [other for other in _WARPS if tile.block_m * tile.block_n <= _PAIRS * other]
    for stages in range(tile.stages, min(tile.stages, 2) - 1, -1):  # one stage waits for each tile
        for warps in dict.fromkeys((tile.warps, *fits)):
            for edge in edges:
                yield _settled(replace(tile, edge=edge, stages=stages, warps=warps), by_columns)


def at_hand() -> str:
    """The target that is the GPU at hand; AttnError where there is none."""
    if not torch.cuda.is_available():
        raise AttnError("tune: expected a CUDA GPU to measure on, there is none here")
    return target(torch.device("cuda", torch.cuda.current_device()))


def tune(
    attention: Attention, length: int, channels: int, dtype: str, rows: int | None, group: int
) -> Iterator[Tuned]:
    """Search the tile of every kernel of a spec, for calls with so many queries (as many as keys
    by default) and query heads to a key head; AttnError where there is no GPU."""
    where = at_hand()
    forward, backward = _calls(attention, length, channels, dtype, rows, group)
    module = attention._generated
    for place, (_, kernels) in enumerate(module.PASSES):
        call = record(attention.spec, module, dtype, channels, place, rows=rows, group=group)
        for name in kernels:
            wanted = need(call, name)
            of, before = key(wanted, where), config(wanted, where)
            run = forward if name == "forward" else backward
            work = attention.spec, module, name, call, where, dtype, channels
            check = partial(spares, work)
            if "AGAIN" not in kernels[name].arg_names:  # there are no values to take care of
                check = partial(_spares_as, check, before)
            measure = measure_by(of, run, "cuda", check)
            after, ratio = search(before, measure, name == "backward_columns", where)
            yield Tuned(of, before, after, f"{ratio:.2f} of the time")


def spare(
    attention: Attention, where: str, channels: int, dtype: str, rows: int | None, group: int
) -> Iterator[Tuned]:
    """For every kernel of a spec that spills registers when compiled for a target, for calls as
    `tune` has them, the first smaller tile that does not; needs no GPU. AttnError for an unknown
    target and for a spec without kernels."""
    gpu_target(where)
    if not attention.plan.fused:
        raise AttnError(f"{attention.spec.name}: has no kernels")
    module = attention._generated
    for place, (_, kernels) in enumerate(module.PASSES):
        call = record(attention.spec, module, dtype, channels, place, rows=rows, group=group)
        for name in kernels:
            wanted = need(call, name)
            before, by_columns = config(wanted, where), name == "backward_columns"
            work = attention.spec, module, name, call, where, dtype, channels
            if spills := _built(work, before).spills:
                others = (tile for tile in smaller(before, by_columns) if spares(work, tile))
                what = f"none of {spills} instructions that spill"
                yield Tuned(own_key(wanted, where), before, next(others, None), what)


def _calls(
    attention: Attention, length: int, channels: int, dtype: str, rows: int | None, group: int
) -> tuple[Callable[[], Sequence[Tensor]], Callable[[], Sequence[Tensor]]]:
    """What runs the forward kernels, and the backward kernels alone."""
    if not attention.plan.fused or attention.spec.output is None:
        raise AttnError(f"{attention.spec.name}: has no kernels whose output could be timed")
    heads = max(1, _WIDTH // channels // group) * group
    given = typical(
        attention.spec,
        batch=max(1, _TOKENS // length),
        heads=heads,
        kv_heads=heads // group,
        length=length,
        rows=rows,
        channels=channels,
        dtype=DTYPES[dtype],
        device="cuda",
    )
    leaves = [x for x in given.values() if isinstance(x, Tensor) and x.is_floating_point()]
    for leaf in leaves:
        leaf.requires_grad_()
    out = attention(**given)
    upstream = torch.randn_like(out)

    def forward() -> Sequence[Tensor]:
        with torch.no_grad():
            return (attention(**given),)

    def backward() -> Sequence[Tensor]:
        found = torch.autograd.grad(out, leaves, upstream, retain_graph=True, allow_unused=True)
        return [x for x in found if x is not None]

    return forward, backward


def spares(work: Work, tile: Config) -> bool:
    """Whether kernel and call of `work`, as `aot.build_kernel` takes them, compile without spilling
    registers, and fit."""
    try:
        found = _built(work, tile)
    except Exception:  # whatever the compiler says of it
        return False
    return found.spills == 0 and fits_in(found.shared, work[4])


def _built(work: Work, tile: Config) -> Built:
    few = work[3].rows <= FEW  # whose keys several programs share
    return build_kernel(*work, tile, parts=2 if few else 1)[0]


def _spares_as(check: Check, before: Config, tile: Config) -> bool:
    return tile.again == before.again and check(tile)


def measure_by(
    of: Key, run: Callable[[], Sequence[Tensor]], device: str, check: Check = lambda tile: True
) -> Measure:
    """What times several tiles in turns: the first, and those that `check` lets pass and that give
    the same numbers."""

    def under(tile: Config) -> Callable[[], Sequence[Tensor]]:
        def call() -> Sequence[Tensor]:
            with trial(of, tile):
                return run()

        return call

    def measure(tiles: Sequence[Config]) -> Times:
        want = under(tiles[0])()
        calls = {}
        for tile in tiles:
            try:
                if tile != tiles[0] and not check(tile):
                    continue
                got = under(tile)()
                if device == "cuda":
                    torch.cuda.synchronize()
            except Exception:  # it does not compile, or needs more than there is
                continue
            if all(_alike(x, y) for x, y in zip(got, want, strict=True)):
                calls[str(tile)] = under(tile)
        names = {str(tile): tile for tile in tiles}
        times = rounds(calls, device, seconds=0.2, limit=5.0)
        return {names[name]: each for name, each in times.items()}

    return measure


def _alike(got: Tensor, want: Tensor) -> bool:
    error, size = (got.double() - want.double()).abs().max(), want.double().abs().max()
    return bool(error <= _ALIKE * size)
