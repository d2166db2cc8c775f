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
from typing import Any, TypeVar

import torch
from torch import Tensor

from attnspec.runtime.memo import Memo
from attnspec.runtime.problem import Problem

Made = TypeVar("Made")
COPIED = 1 << 20  # numbers of tensors on the CPU that are copied; of larger ones nothing is kept
_KEPT: Memo[tuple[Any, ...], _Entry] = Memo(64)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was made of the tensors of `owners`, which on the CPU had the values `copies`."""

    owners: tuple[weakref.ref[Tensor], ...]
    copies: tuple[Tensor, ...]
    made: Any


def kept(
    call: Problem, what: tuple[Any, ...], names: Sequence[str], make: Callable[[], Made]
) -> Made:
    """`make()`, which depends on `what`, on the call's numbers and on its tensors `names` alone;
    that of an earlier call where nothing of this has changed."""
    tensors = [call.tensors[name] for name in names]
    try:
        known = [(x.data_ptr(), x._version, x.shape, x.stride(), x.dtype) for x in tensors]
    except RuntimeError:  # tensors of inference mode have no version, traced ones no memory
        return make()
    if torch.compiler.is_compiling():
        return make()
    device, stream = call.device, 0
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return make()
        stream = torch.cuda.current_stream(device).cuda_stream
    numbers = [repr(call.numbers[name]) for name in call.plan.listed]
    key = (what, call.plan, device, call.wide, stream, call.sizes, *numbers, *known)
    owners = [x if x._base is None else x._base for x in tensors]  # of views, what they are of
    found = _KEPT.get(key)
    if found is not None and _same(found, owners, tensors):
        made: Made = found.made
        return made
    result = make()
    if device.type == "cuda" or sum(map(Tensor.numel, tensors)) <= COPIED:
        copies = tuple(x.clone() for x in tensors) if device.type != "cuda" else ()
        _KEPT[key] = _Entry(tuple(map(weakref.ref, owners)), copies, result)
    return result


def _same(found: _Entry, owners: Sequence[Tensor], tensors: Sequence[Tensor]) -> bool:
    for ref, owner in zip(found.owners, owners, strict=True):
        if ref() is not owner:
            return False
    return all(map(torch.equal, found.copies, tensors))  # on a GPU there are no copies
