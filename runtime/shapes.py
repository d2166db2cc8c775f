"""Shapes of tensors that are computed with together."""

from __future__ import annotations

from collections.abc import Sequence


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
