"""Calls of a generated module: one like another that has passed the checks is not checked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias, cast

import torch
from torch import _C, Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from attnspec.runtime.bind import Bound, Cut, Initial, Number, Pair, bind, cuts, halves
from attnspec.runtime.extents import read_by
from attnspec.runtime.forward_mode import no_forward_mode
from attnspec.runtime.memo import Memo
from attnspec.runtime.precision import own_precision
from attnspec.runtime.signature import STARTS, Signature

# Of a call all that its checks look at, and what launches depend on: names, shapes, strides (True
# where there are no gaps), dtypes, devices (True for the CPU), and numbers as text, in which 1, 1.0
# and True differ, and 0.0 and -0.0.
Kind: TypeAlias = "tuple[object, ...]"
_NUMBERS = (int, float, bool)
MADE, LARGEST = 8, 1 << 21  # of how many calls what reads no tensor is kept, and how many numbers
_PARAMETER = torch.nn.Parameter
_wrapped: Callable[[Tensor], bool] = _C._functorch.is_functorch_wrapped_tensor
_OF_KIND: dict[str, Callable[[Any], Number]] = {"int": int, "float": float, "bool": bool}


def kind_of(given: Mapping[str, object], free: frozenset[str] = frozenset()) -> Kind | None:
    """The kind of a call; None where something in it is neither a plain tensor nor a number. Of the
    numbers `free` only the type counts, unless they are negative."""
    found: list[object] = []
    for name, value in given.items():
        of = type(value)
        if of is Tensor or of is _PARAMETER:
            x: Any = value
            if not _bare(x):
                return None
            found += (name, x.shape, x.is_contiguous() or x.stride(), x.dtype, x.is_cpu or x.device)
        elif value is None:
            found += (name, None)
        elif of in _NUMBERS:
            by_type = name in free and not cast("Number", value) < 0
            found += (name, of if by_type else repr(value))
        elif isinstance(value, tuple):
            parts = kind_of({str(place): part for place, part in enumerate(value)})
            if parts is None:
                return None
            found += (name, parts)
        else:
            return None
    return tuple(found)


def free_numbers(signature: Signature) -> frozenset[str]:
    """The numbers of a call that decide neither sizes nor which rows of a tensor are read."""
    found = {argument.name for argument in signature.arguments if argument.scalar}
    paired = any(argument.paired for argument in signature.arguments)
    if not (paired or signature.across or signature.grids or signature.square):
        found |= {"q_start", "k_start"}
    found -= {STARTS[side] for _, side in signature.anchored}
    return frozenset(found.difference(*(read_by(extent) for _, extent in signature.sizes)))


@dataclass(frozen=True, slots=True, eq=False)
class _Passed:
    """A call that has passed, without its tensors: `whole` were given once for both sides and are
    cut; `numbers` are free ones, with what makes them what they are declared as; `made` are the
    tensors that it left out, each with its version when it was made."""

    bound: Bound
    names: tuple[str, ...]
    whole: tuple[tuple[str, tuple[Cut, Cut]], ...]
    numbers: tuple[tuple[str, Callable[[Any], Number]], ...]
    made: tuple[tuple[str, Tensor | Pair, int], ...]

    def again(self, given: Mapping[str, Any]) -> Bound | None:
        """The call with other tensors of the same kind; None where what was made has changed."""
        bound = self.bound
        tensors: dict[str, Tensor | Pair] = {n: given[n] for n in self.names}
        for name, of in self.whole:
            tensors[name] = halves(tensors[name], of)  # type: ignore[arg-type]
        for name, made, version in self.made:
            if _version(made) != version:
                return None
            tensors[name] = made
        scalars = bound.scalars
        if self.numbers:
            scalars = {**scalars, **{name: made_of(given[name]) for name, made_of in self.numbers}}
        return Bound(
            tensors,
            scalars,
            bound.sizes,
            given.get("q_start", 0),
            given.get("k_start", 0),
            bound.dtype,
            bound.device,
            None if noticed() else self,
        )


def plain(x: Tensor) -> bool:
    """Whether a tensor's numbers are its own, in memory that kernels reach: it is of no subclass,
    no view that negates, nothing that a transform has left behind."""
    of = type(x)
    return (of is Tensor or of is _PARAMETER) and _bare(x)


def _bare(x: Tensor) -> bool:
    """The same of one that is of no subclass."""
    return (x.is_cpu or x.is_cuda) and not x.is_neg() and not _wrapped(x)


def not_kept() -> bool:
    """Whether what a call makes is not for others: traced, transformed, or yet to be computed."""
    return (
        is_compiling()
        or _C._are_functorch_transforms_active()
        or _C._len_torch_dispatch_stack() > 0
        or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())
    )


def noticed() -> bool:
    """Whether somebody would notice that a call of plain tensors does not go through PyTorch's
    dispatcher, besides those for whom nothing of it is kept."""
    return (
        _C._is_torch_function_mode_enabled()
        or _C._get_tracing_state() is not None
        or _C._autograd._profiler_enabled()
    )


class Calls:
    """The calls of one module, bound by `bind`."""

    def __init__(self, signature: Signature, initial: Initial | None = None) -> None:
        self.signature = signature
        self.initial = initial
        self.free = free_numbers(signature)
        self.lock = Lock()
        self.passed: Memo[Kind, _Passed] = Memo()
        self.made: Memo[tuple[object, ...], tuple[Tensor, ...]] = Memo(MADE)

    def bind(self, given: Mapping[str, object]) -> Bound:
        """What `runtime.bind.bind` makes of the arguments, which it checks, by name; AttnError for
        forward-mode differentiation, too."""
        kind = None if not_kept() else self._kind(given)
        if kind is None:
            bound = bind(self.signature, (), given, self.initial)
        else:
            passed = self.passed.get(kind)
            again = None if passed is None else passed.again(given)
            bound = again or self._checked(given)
        if forward_ad._current_level >= 0:
            no_forward_mode(bound.tensors.values())
        return bound

    def fixed(
        self,
        bound: Bound,
        make: Callable[[Bound], tuple[Tensor, ...]],
        numbers: tuple[Number, ...],
    ) -> tuple[Tensor, ...]:
        """`make(bound)`, which reads no tensor of a call and of its numbers no others, or what it
        gave for an earlier call."""
        if bound.passed is None:
            return make(bound)
        device = bound.device
        # what was made waits for the work of its own stream alone
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        key = (device, stream, bound.dtype, *map(repr, numbers))
        found = self.made.get(key)
        if found is None:
            # else nothing with gradients may read it, or it is as exact as this call alone wants
            with torch.inference_mode(False), own_precision(device):
                found = make(bound)
            if sum(map(Tensor.numel, found)) <= LARGEST:
                self.made[key] = found
        return found

    def _kind(self, given: Mapping[str, object]) -> Kind | None:
        try:
            kind = kind_of(given, self.free)
        except RuntimeError:  # of what has neither shape nor strides
            return None
        if kind is not None and torch.cuda.is_initialized():
            # what was made waits for the work of its own stream alone
            devices = {x.device for x in given.values() if isinstance(x, Tensor) and x.is_cuda}
            kind = (*kind, *(torch.cuda.current_stream(at).cuda_stream for at in devices))
        return kind

    def _checked(self, given: Mapping[str, object]) -> Bound:
        looked: list[_Watched] = []

        def watched(name: str, now: Bound) -> Tensor | Number:
            assert self.initial is not None
            looked.append(_Watched(now))
            return self.initial(name, cast("Bound", looked[-1]))

        bound = bind(self.signature, (), given, self.initial and watched)
        passed = self._passed(bound, given)
        with self.lock:
            self.free -= {name for reads in looked for name in reads.numbers}
            kind = self._kind(given)
        if passed is None or kind is None or any(reads.tensors.read for reads in looked):
            return bound
        self.passed[kind] = passed
        return bound if noticed() else bound._replace(passed=passed)

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
        numbers = tuple(
            (argument.name, _OF_KIND[argument.kind])
            for argument in self.signature.arguments
            if argument.scalar and given.get(argument.name) is not None
        )
        return _Passed(bound._replace(tensors={}), names, whole, numbers, tuple(made))


class _Watched:
    """A call as the code of defaults sees it, which notes what that looks at."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._starts: set[str] = set()
        self.tensors = _Reads(bound.tensors)
        self.scalars = _Reads(bound.scalars)

    def __getattr__(self, name: str) -> Any:
        self._starts.add(name)
        return getattr(self._bound, name)

    @property
    def numbers(self) -> set[str]:
        """The names of the numbers that it read."""
        return self._starts | self.scalars.read


class _Reads(dict[str, Any]):
    """Arguments by name; `read` are the names of those that somebody asked for."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def _version(made: Tensor | Pair) -> int:
    """Changes whenever somebody writes into what was made."""
    return sum(x._version for x in made) if isinstance(made, tuple) else made._version
