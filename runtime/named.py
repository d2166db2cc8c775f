"""Tensors whose dimensions have names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Named:
    """`tensor`, whose dimensions are the index variables `dims`."""

    tensor: Tensor
    dims: tuple[str, ...]

    def over(self, dims: Sequence[str]) -> Tensor:
        """A view with exactly `dims`, of size 1 where the value does not depend on one."""
        tensor = self.tensor.permute([self.dims.index(d) for d in dims if d in self.dims])
        for place, dim in enumerate(dims):
            if dim not in self.dims:
                tensor = tensor.unsqueeze(place)
        return tensor

    def full(self, dims: Sequence[str], sizes: Mapping[str, int]) -> Tensor:
        """A view with exactly `dims`, each of its full size."""
        return self.over(dims).expand([sizes[d] for d in dims])

    def rename(self, names: Mapping[str, str]) -> Named:
        """The same values under other index variables."""
        return Named(self.tensor, tuple(names.get(d, d) for d in self.dims))

    def select(self, dim: str, row: int) -> Named:
        """The values at one index of `dim`."""
        if dim not in self.dims:
            return self
        place = self.dims.index(dim)
        return Named(self.tensor.select(place, row), self.dims[:place] + self.dims[place + 1 :])


def join(*values: Named | None) -> tuple[str, ...]:
    """Every dimension of `values`, each once."""
    return tuple(dict.fromkeys(d for v in values if v is not None for d in v.dims))


def broadcast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Views of one shape."""
    return tuple(torch.broadcast_tensors(*tensors))
