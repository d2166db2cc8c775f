"""What is worked out of tensors' values and kept until they change.

A tensor is known by its memory and by the version that PyTorch counts of it, both of the tensor
that owns the memory, to which only a weak reference is held: memory that was freed and used again
is another tensor's. What no version tells, such as NumPy writing into memory that it shares, a
comparison with a copy does on the CPU. On a GPU nothing waits for the device, and what a call
leaves to be replayed, as a CUDA graph does, or makes on another stream is made anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from attnspec.runtime.memo import Memo
from attnspec.runtime.problem import Pairwise, Problem

Made = TypeVar("Made")
COPIED = 1 << 20  # numbers of tensors on the CPU that are copied; of larger ones nothing is kept
_KEPT: Memo[tuple[Any, ...], _Entry] = Memo(64)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was made of the tensors of `owners`, whose values on the CPU were the `copies`, one of
    each memory, with a tensor's place."""

    owners: list[weakref.ref[Tensor]]
    copies: list[tuple[int, Tensor]]
    made: Any


class Place(NamedTuple):
    """What calls share of which something is kept: `what` that is, of which pass, where, and how
    the tensors lie that decide it."""

    what: tuple[Any, ...]
    plan: Pairwise
    device: torch.device
    on_gpu: bool
    wide: torch.dtype
    lengths: tuple[int, ...]
    lie: tuple[Any, ...]


def place_of(call: Problem, what: tuple[Any, ...]) -> Place:
    """Where `what` of a call is kept."""
    tensors = [call.tensors[name] for name in call.plan.decisive]
    lie = tuple([(x.shape, x.stride(), x.dtype) for x in tensors])
    on_gpu = call.device.type == "cuda"
    return Place(what, call.plan, call.device, on_gpu, call.wide, call.sizes[:5], lie)


def kept(call: Problem, place: Place, make: Callable[[], Made]) -> Made:
    """`make()`, which depends on what calls of this place share, on the call's first positions, and
    on its numbers and tensors that decide what is visited alone; that of an earlier call where
    nothing of this has changed."""
    plan, stream = place.plan, 0
    tensors = [call.tensors[name] for name in plan.decisive]
    known: list[Any] = []
    try:
        for x in tensors:
            known += (x.data_ptr(), x._version)
    except RuntimeError:  # tensors of inference mode have no version, traced ones no memory
        return make()
    if torch.compiler.is_compiling():
        return make()
    if place.on_gpu:
        if torch.cuda.is_current_stream_capturing():
            return make()
        stream = torch.cuda.current_stream(place.device).cuda_stream
    numbers = [repr(call.numbers[name]) for name in plan.listed]
    key = (place, stream, call.q_start, call.k_start, *numbers, *known)
    found = _KEPT.get(key)
    if found is not None and _same(found, tensors):
        made: Made = found.made
        return made
    result = make()
    if place.on_gpu or sum(map(Tensor.numel, tensors)) <= COPIED:
        alike = {(x.data_ptr(), place.lie[n]): (n, x) for n, x in enumerate(tensors)}
        copies = [] if place.on_gpu else [(n, x.clone()) for n, x in alike.values()]
        _KEPT[key] = _Entry([weakref.ref(_owner(x)) for x in tensors], copies, result)
    return result


def _owner(x: Tensor) -> Tensor:
    """Of a view, what it is of."""
    return x if x._base is None else x._base


def _same(found: _Entry, tensors: Sequence[Tensor]) -> bool:
    for owner, x in zip(found.owners, tensors, strict=True):
        if owner() is not _owner(x):
            return False
    return all(torch.equal(x, tensors[n]) for n, x in found.copies)  # none on a GPU
