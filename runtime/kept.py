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

from attnspec.runtime.problem import Problem

Made = TypeVar("Made")
ENTRIES = 64  # kept together
COPIED = 1 << 20  # numbers of tensors on the CPU that are copied; of larger ones nothing is kept
_KEPT: dict[tuple[Any, ...], _Entry] = {}


@dataclass(frozen=True, slots=True)
class _Entry:
    """What was made of the tensors of `owners`, which on the CPU had the values `copies`; the key
    holds the identity of `plan`."""

    plan: object
    owners: tuple[weakref.ref[Tensor], ...]
    copies: tuple[Tensor, ...]
    made: Any


def kept(
    call: Problem, what: tuple[Any, ...], names: Sequence[str], make: Callable[[], Made]
) -> Made:
    """`make()`, which depends on `what`, on the call's numbers and on its tensors `names` alone;
    that of an earlier call where nothing of this has changed."""
    tensors = [call.tensors[name] for name in names]
    if any(x.is_inference() for x in tensors) or torch.compiler.is_compiling():
        return make()
    stream = 0
    if call.device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return make()
        stream = torch.cuda.current_stream(call.device).cuda_stream
    elif sum(x.numel() for x in tensors) > COPIED:
        return make()
    sizes = (call.batch, call.heads, call.key_heads, call.rows, call.columns)
    starts = (call.q_start, call.k_start, call.wide, call.device, stream)
    known = [(x.data_ptr(), x._version, x.shape, x.stride(), x.dtype) for x in tensors]
    key = (what, id(call.plan), sizes, starts, repr(call.numbers), *known)
    owners = [_owner(x) for x in tensors]
    found = _KEPT.get(key)
    if found is not None and _same(found, owners, tensors):
        made: Made = found.made
        return made
    result = make()
    if len(_KEPT) >= ENTRIES:
        _KEPT.clear()
    copies = tuple(x.clone() for x in tensors) if call.device.type == "cpu" else ()
    _KEPT[key] = _Entry(call.plan, tuple(map(weakref.ref, owners)), copies, result)
    return result


def _owner(x: Tensor) -> Tensor:
    """The tensor of which `x` is a view."""
    return x if x._base is None else x._base


def _same(found: _Entry, owners: Sequence[Tensor], tensors: Sequence[Tensor]) -> bool:
    if any(ref() is not owner for ref, owner in zip(found.owners, owners, strict=True)):
        return False
    return all(torch.equal(copy, x) for copy, x in zip(found.copies, tensors, strict=False))
