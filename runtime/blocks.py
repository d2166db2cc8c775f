"""Lists of the tiles that a mask over inputs reaches, made from each block's extreme values.

A generated module says for vectors of blocks which pairs of a block of rows and a block of columns
may take part and which do so entirely; here these become lists for the kernels' loops, by row or by
column. Nothing waits for the device, and nothing has the size of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from attnspec.runtime.kept import Place, kept
from attnspec.runtime.problem import Ends, Leaf, Problem, Values
from attnspec.runtime.shapes import broadcast, once

# first column, end, whether some pair of some batch or head is excluded
Stretch: TypeAlias = "tuple[int, int, bool]"
PAIRS = 1 << 19  # pairs of blocks that are looked at together


@dataclass(frozen=True, slots=True)
class Lists:
    """What a loop visits: for R blocks of one side the blocks of the other, B' and H' being 1
    where the mask is the same for all. int32.

    `counts` [B', H', R, 2] counts the full and the partial ones; `index` [B', H', R, C or more]
    holds first the full, then the partial ones, both in order.
    """

    counts: Tensor
    index: Tensor


def visits(call: Problem, rows: int, columns: int, by_columns: bool) -> dict[str, Tensor]:
    """What tells a kernel with tiles of `rows` times `columns` where to go, by argument."""
    if call.plan.ranges is not None:
        return {"limits": limits(call, rows, columns, by_columns)}
    if call.plan.blocks is not None:
        found = lists(call, rows, columns, by_columns)
        return {"counts": found.counts, "index": found.index}
    return {}


def visits_again(call: Problem, place: Place | None) -> dict[str, Tensor]:
    """`visits`, made anew only when what decides it has changed; `place` is where it is kept, and
    holds its arguments."""
    return {} if place is None else kept(call, place, lambda: visits(call, *place.what))


def lists(call: Problem, rows: int, columns: int, by_columns: bool = False) -> Lists:
    """For tiles of `rows` times `columns`, what each block of rows visits (or of columns)."""
    own, other = -(-call.rows // rows), -(-call.columns // columns)
    if by_columns:
        own, other = other, own
    parts = [_listed(*flags) for flags in classes(call, rows, columns, by_columns)]
    if not parts:
        empty = torch.zeros(1, 1, own, 2, dtype=torch.int32, device=call.device)
        return Lists(empty, empty)
    counts, index = (torch.cat(x, 2) if len(x) > 1 else x[0] for x in zip(*parts, strict=True))
    return Lists(counts, index)


def visited(call: Problem, size: int) -> list[list[Stretch]]:
    """For every `size` rows what some batch or head visits of blocks of `size` columns, joined."""
    found = []
    for partial, full in classes(call, size, size):
        some, whole = (partial | full).any(0).any(0), full.all(0).all(0)
        for line in some.to(torch.int8) + whole.to(torch.int8):
            kinds, counts = torch.unique_consecutive(line, return_counts=True)
            ends = (counts.cumsum(0) * size).clamp(max=call.columns).tolist()
            parts = zip([0, *ends[:-1]], ends, kinds.tolist(), strict=True)
            found.append([(begin, end, kind == 1) for begin, end, kind in parts if kind])
    return found or [[] for _ in range(0, call.rows, size)]


def classes(
    call: Problem, rows: int, columns: int, by_columns: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Stretches of (partial, full) [B', H', some of R, C]; nothing where there are no pairs.

    R counts blocks of rows and C of columns, the reverse with `by_columns`. A block that the
    length cuts off is never full on the side of C.
    """
    own, other = (call.rows, rows), (call.columns, columns)
    blocks = call.plan.blocks
    assert blocks is not None
    if not call.rows or not call.columns:
        return
    values = _values(call, rows, columns, blocks.names, blocks.ends)
    if by_columns:
        own, other = other, own
        values = {name: x.mT if x.dim() > 1 else x for name, x in values.items()}
    count, others = (-(-length // size) for length, size in (own, other))
    lead = prod(broadcast(*(x.shape[:-2] for x in values.values())))
    step = max(1, PAIRS // (others * lead))
    for first in range(0, count, step):
        length = min(step, count - first)
        now = {
            name: x.narrow(-2, first, length) if x.dim() > 1 and x.shape[-2] > 1 else x
            for name, x in values.items()
        }
        possible, certain = blocks.flags(now | {"wide": call.wide})
        alike = broadcast(possible.shape, certain.shape, (1, 1, 1, 1))[:2]
        possible, certain = (x.expand(*alike, length, others) for x in (possible, certain))
        full = possible & certain
        if other[0] % other[1]:
            full[..., -1] = False
        yield possible & ~full, full


def _listed(partial: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and indices of one stretch."""
    at = full.cumsum(-1, dtype=torch.int32)
    after = partial.cumsum(-1, dtype=torch.int32)
    counts = torch.stack([at[..., -1], after[..., -1]], -1)
    place = torch.where(full, at, after.add_(counts[..., :1])).sub_(1)
    blocks = full.shape[-1]
    place.masked_fill_(~(partial | full), blocks)  # one place more, for those not visited
    index = place.new_zeros((*full.shape[:-1], blocks + 1))
    numbers = torch.arange(blocks, dtype=torch.int32, device=full.device)
    return counts, index.scatter_(-1, place.long(), numbers.expand(full.shape))


def limits(call: Problem, rows: int, columns: int, by_columns: bool = False) -> Tensor:
    """What each of R blocks of rows reaches (or of columns), int32 [B', H', R, 4 runs]: of every
    run the first and the last position, and those of what holds pairs only."""
    ranges = call.plan.ranges
    assert ranges is not None
    names = ranges.column_names if by_columns else ranges.row_names
    values = _values(call, rows, columns, names, ranges.ends, "j" if by_columns else "i")
    found = (ranges.columns if by_columns else ranges.rows)(values | {"wide": call.wide})
    start, length = (call.q_start, call.rows) if by_columns else (call.k_start, call.columns)
    own = (1, -(-call.columns // columns)) if by_columns else (-(-call.rows // rows), 1)
    whole, none = (start, start + length - 1), (start + length, start - 1)
    ends = []
    for first, last, full_first, full_last, full in found:
        inside = (full_first, full_last) if full else none
        for end, otherwise in zip((first, last, *inside), whole * 2, strict=True):
            limit = otherwise if end is None else end
            ends.append(torch.as_tensor(limit, device=call.device))
    lead = broadcast((1, 1), *(end.shape[:-2] for end in ends))
    spread = [end.expand(*lead, *own).flatten(-2) for end in ends]
    return torch.stack(spread, -1).to(torch.int32)


def _values(
    call: Problem, rows: int, columns: int, names: Sequence[str], ends: Ends, own: str = "i"
) -> Values:
    """What decides about blocks, by name: [B', H', R or 1, C or 1], a number, or all the tokens of
    a leaf [B', H', N]. `lo` and `hi` are positions of blocks of the side `own`."""
    device = call.device
    found: Values = {
        "b": torch.arange(call.batch, device=device).view(-1, 1, 1, 1),
        "h": torch.arange(call.heads, device=device).view(1, -1, 1, 1),
    }
    numbers = {**call.numbers, "start_i": call.q_start, "start_j": call.k_start}
    for name in names:
        if name in numbers:  # filled in on the device: nothing is copied to it
            wide = call.wide if isinstance(numbers[name], float) else torch.int64
            found[name] = torch.full((), numbers[name], dtype=wide, device=device)
    for axis, length, size, start in (
        ("i", call.rows, rows, call.q_start),
        ("j", call.columns, columns, call.k_start),
    ):
        low = torch.arange(0, length, size, device=device)
        low = low[:, None] if axis == "i" else low[None, :]
        found[f"lo_{axis}"] = low + start
        found[f"hi_{axis}"] = (low + size).clamp(max=length) - 1 + start
    found |= {end: found[f"{end}_{own}"] for end in ("lo", "hi")}
    leaves = {leaf.name: leaf for leaf in call.plan.leaves}
    for name in names:
        if name in leaves:
            x = _leaf(call, leaves[name])
            found[name] = x[:, :, None, None] if leaves[name].role == "head" else x
    for low_name, high_name, at in ends:
        role, x = leaves[at].role, _leaf(call, leaves[at])
        x = {"row": x[..., None], "column": x[..., None, :]}.get(role, x)
        for name, reduce in ((low_name, torch.amin), (high_name, torch.amax)):
            if name in names:
                end = x if role == "column" else _by_blocks(reduce, x, -2, rows)
                found[name] = end if role == "row" else _by_blocks(reduce, end, -1, columns)
    return {name: found[name] for name in names}


def _leaf(call: Problem, leaf: Leaf) -> Tensor:
    """A leaf's tensor [B', H', ...], with size 1 at the batch and the heads that it repeats."""
    x = once(call.tensors[leaf.operand])
    if leaf.role == "column" and x.shape[1] > 1:
        x = x.repeat_interleave(call.groups, 1)
    return x.to(call.wide) if x.is_floating_point() else x


def _by_blocks(reduce: Callable[..., Tensor], x: Tensor, dim: int, size: int) -> Tensor:
    """`reduce` over every `size` values along `dim`, over fewer at the end."""
    count, rest = divmod(x.shape[dim], size)
    whole = x.narrow(dim, 0, count * size).unflatten(dim, (count, size))
    found = reduce(whole, dim)
    if not rest:
        return found
    last = reduce(x.narrow(dim, count * size, rest), dim, keepdim=True)
    return torch.cat([found, last], dim)
