"""Shapes of tensors that are computed with together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all of these, each of which fits, broadcast to.

    `torch.broadcast_shapes` imports all of SymPy when it is first called.
    """
    rank = max(len(shape) for shape in shapes)
    found = [1] * rank
    for shape in shapes:
        for place, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                found[place] = size
    return tuple(found)


def once(x: Tensor) -> Tensor:
    """x [B, H, ...] with one batch or head where all are the same."""
    for dim in (0, 1):
        if x.stride(dim) == 0 and x.shape[dim] > 1:
            x = x.narrow(dim, 0, 1)
    return x
