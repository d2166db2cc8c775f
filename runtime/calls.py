"""Calls of a generated module: one like another that has passed the checks is not checked again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attnspec.runtime.bind import Bound, Cut, Initial, Number, Pair, bind, cuts, halves
from attnspec.runtime.memo import Memo
from attnspec.runtime.signature import Signature

# Of a call all that its checks look at: names, shapes, dtypes, devices, and numbers as text, in
# which 1, 1.0 and True differ, and 0.0 and -0.0.
Kind: TypeAlias = "tuple[object, ...]"
_PLAIN = (Tensor, torch.nn.Parameter)
_NUMBERS = (int, float, bool, type(None))


def kind_of(given: Mapping[str, object]) -> Kind | None:
    """The kind of a call; None where something in it is neither a plain tensor nor a number."""
    found: list[object] = []
    for name, value in given.items():
        of = type(value)
        if of in _PLAIN:
            found += (name, value.shape, value.dtype, value.device)  # type: ignore[attr-defined]
        elif of in _NUMBERS:
            found += (name, repr(value))
        elif isinstance(value, tuple):
            parts = kind_of({str(place): part for place, part in enumerate(value)})
            if parts is None:
                return None
            found += (name, parts)
        else:
            return None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Passed:
    """A call that has passed, without its tensors: `whole` were given once for both sides and are
    cut; `made` are the tensors that it left out, each with its version when it was made."""

    bound: Bound
    names: tuple[str, ...]
    whole: tuple[tuple[str, tuple[Cut, Cut]], ...]
    made: tuple[tuple[str, Tensor | Pair, int], ...]

    def again(self, given: Mapping[str, object]) -> Bound | None:
        """The call with other tensors of the same kind; None where what was made has changed."""
        bound = self.bound
        tensors: dict[str, Tensor | Pair] = {n: given[n] for n in self.names}  # type: ignore[misc]
        for name, of in self.whole:
            tensors[name] = halves(tensors[name], of)  # type: ignore[arg-type]
        for name, made, version in self.made:
            if _version(made) != version:
                return None
            tensors[name] = made
        return Bound(
            tensors,
            bound.scalars,
            bound.sizes,
            bound.q_start,
            bound.k_start,
            bound.dtype,
            bound.device,
        )


def _observed() -> bool:
    """Whether what a call makes is not for others: traced, transformed, or yet to be computed."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
    )


class Calls:
    """The calls of one module, bound by `bind`."""

    def __init__(self, signature: Signature, initial: Initial | None = None) -> None:
        self.signature = signature
        self.initial = initial
        self.passed: Memo[Kind, _Passed] = Memo()

    def bind(self, given: Mapping[str, object]) -> Bound:
        """What `runtime.bind.bind` makes of the arguments, which it checks, by name."""
        kind = None if _observed() else kind_of(given)
        if kind is not None and torch.cuda.is_initialized():
            # what was made waits for the work of its own stream alone
            devices = {x.device for x in given.values() if isinstance(x, Tensor) and x.is_cuda}
            kind = (*kind, *(torch.cuda.current_stream(at).cuda_stream for at in devices))
        if kind is None:
            return bind(self.signature, (), given, self.initial)
        passed = self.passed.get(kind)
        again = None if passed is None else passed.again(given)
        return self._checked(kind, given) if again is None else again

    def _checked(self, kind: Kind, given: Mapping[str, object]) -> Bound:
        looked: list[_Reads] = []

        def watched(name: str, now: Bound) -> Tensor | Number:
            assert self.initial is not None
            looked.append(_Reads(now.tensors))
            return self.initial(name, replace(now, tensors=looked[-1]))

        bound = bind(self.signature, (), given, self.initial and watched)
        passed = self._passed(bound, given)
        if passed is not None and not any(reads.read for reads in looked):
            self.passed[kind] = passed
        return bound

    def _passed(self, bound: Bound, given: Mapping[str, object]) -> _Passed | None:
        names = tuple(n for n in bound.tensors if isinstance(given.get(n), Tensor | tuple))
        if any(isinstance(given.get(n), Tensor) for n in bound.scalars):
            return None  # the value of that tensor is not in the kind
        starts = {"i": bound.q_start, "j": bound.k_start}
        whole = tuple(
            (argument.name, of)
            for argument in self.signature.arguments
            if isinstance(given.get(argument.name), Tensor)
            and (of := cuts(argument, bound.sizes, starts)) is not None
        )
        made = []
        for name, value in bound.tensors.items():
            if name not in names:
                parts = value if isinstance(value, tuple) else (value,)
                if any(type(x) is not Tensor or x.is_inference() for x in parts):
                    return None
                made.append((name, value, _version(value)))
        return _Passed(replace(bound, tensors={}), names, whole, tuple(made))


class _Reads(dict[str, Any]):
    """The tensors of a call; `read` once one of them was."""

    read = False

    def __getitem__(self, name: str) -> Any:
        self.read = True
        return super().__getitem__(name)


def _version(made: Tensor | Pair) -> int:
    """Changes whenever somebody writes into what was made."""
    return sum(x._version for x in made) if isinstance(made, tuple) else made._version
