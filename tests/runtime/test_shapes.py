"""Shapes that broadcast, as PyTorch has it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from attnspec.runtime.shapes import broadcast

torch.broadcast_shapes((1,))  # imports SymPy, which takes longer than a test may


@given(st.data())
def test_shapes_broadcast_as_pytorch_has_it(data: st.DataObject) -> None:
    whole = data.draw(st.lists(st.integers(0, 3), max_size=4))
    shapes = []
    for _ in range(data.draw(st.integers(1, 3))):
        kept = data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))
        some = [n if yes else 1 for n, yes in zip(whole, kept, strict=True)]
        shapes.append(some[data.draw(st.integers(0, len(some))) :])
    assert broadcast(*shapes) == tuple(torch.broadcast_shapes(*shapes))
