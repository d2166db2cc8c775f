"""What planning a mask takes of memory, and documents to plan for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Inside, `most` is the number of bytes alive at once of the storages that operations made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = _storages((args, kwargs))
        out = func(*args, **(kwargs or {}))
        self._made = {n: one for n, one in self._made.items() if not one[0].expired()}
        self._made |= {n: one for n, one in _storages(out).items() if n not in given}
        self.most = max(self.most, sum(size for _, size in self._made.values()))
        return out


def _storages(values: Any) -> dict[int, tuple[StorageWeakRef, int]]:
    found = {}
    for x in tree_leaves(values):
        if isinstance(x, Tensor):
            ref = StorageWeakRef(x.untyped_storage())
            found[ref.cdata] = ref, x.untyped_storage().nbytes()
    return found


def documents(length: int, count: int) -> Tensor:
    """Ascending numbers [1, length] of `count` documents of random lengths."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randperm(length - 1, generator=generator)[: count - 1].sort().values + 1
    return torch.bucketize(torch.arange(length), ends, right=True)[None]
