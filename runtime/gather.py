"""Reading a tensor at any indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from attnspec.runtime.named import Named, broadcast, join

# Where one dimension of a tensor is read: at one row, at rows that depend on index variables, or
# (a name) at every row in order, which that index variable then counts.
Rows: TypeAlias = "int | str | Named"

# An index that lies outside every tensor: a grid's token whose coordinates do not exist.
OUTSIDE = -(1 << 40)


def gather(tensor: Tensor, rows: Sequence[Rows], pad: Named | None = None) -> Named:
    """`tensor` read at `rows`, one for each dimension; rows outside it give `pad`.

    Without `pad` a row outside gives any value of the tensor: the checker has shown that no
    such value is used.
    """
    rows = _spread(tensor, rows, pad is not None)
    for place in reversed(range(len(rows))):
        row = rows[place]
        if isinstance(row, int):
            tensor = tensor.select(place, min(max(row, 0), tensor.shape[place] - 1))
    rows = [row for row in rows if not isinstance(row, int)]
    plain = [n for n, row in enumerate(rows) if isinstance(row, str)]
    names = tuple(str(rows[n]) for n in plain)
    places = [n for n, row in enumerate(rows) if isinstance(row, Named)]
    if not places:
        return _padded(Named(tensor, names), None, pad)
    indices = [row for row in rows if isinstance(row, Named)]
    dims = join(*indices)
    lengths = [tensor.shape[n] for n in places]
    tensor = tensor.permute(*plain, *places)
    shape = [tensor.shape[n] for n in range(len(plain))]
    aligned = broadcast(*(i.over(dims) for i in indices))
    valid = torch.ones((), dtype=torch.bool, device=tensor.device)
    for index, length in zip(aligned, lengths, strict=True):
        valid = valid & (index >= 0) & (index < length)
    if 0 in lengths:
        value = tensor.new_zeros([*shape, *aligned[0].shape])
    else:
        inside = [i.clamp(0, n - 1) for i, n in zip(aligned, lengths, strict=True)]
        every: list[slice | Tensor] = [slice(None)] * len(plain)
        value = tensor[(*every, *inside)]
    return _padded(Named(value, (*names, *dims)), Named(valid, dims), pad)


def _spread(tensor: Tensor, rows: Sequence[Rows], padded: bool) -> list[Rows]:
    """Names that cannot stay slices as numbered rows: twice the same, or one that others use."""
    used = {d for row in rows if isinstance(row, Named) for d in row.dims}
    out: list[Rows] = []
    for place, row in enumerate(rows):
        again = isinstance(row, str) and sum(r == row for r in rows if isinstance(r, str)) > 1
        if isinstance(row, str) and (again or row in used):
            every = torch.arange(tensor.shape[place], device=tensor.device)
            out.append(Named(every, (row,)))
        elif isinstance(row, int) and padded:
            out.append(Named(torch.tensor(row, device=tensor.device), ()))
        else:
            out.append(row)
    return out


def _padded(value: Named, valid: Named | None, pad: Named | None) -> Named:
    if pad is None or valid is None:
        return value
    dims = join(value, valid, pad)
    a, b = value.over(dims), pad.over(dims)
    return Named(torch.where(valid.over(dims), a, b.to(a.dtype)), dims)
