"""Arguments of a call held against a signature, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.signature import STARTS, Argument, Signature
from attnspec.runtime.sizes import describe, resolve, wrong

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTS = (torch.int64, torch.int32)
_SIDES = {"i": "queries", "j": "keys"}

Number: TypeAlias = "bool | int | float"
Pair: TypeAlias = "tuple[Tensor, Tensor]"
# What of a tensor is one side's: dimension, first row, their number; None for all of it.
Cut: TypeAlias = "tuple[int, int, int] | None"


class Bound(NamedTuple):
    """A call's arguments by name, checked.

    A paired tensor is (for queries [M rows], for keys [N rows]), however it was given. `sizes`
    has every axis of the spec ("i" is M, "j" N, "i.y" a side of a grid). `dtype` is the one of
    all float tensors. `passed` stands for the kind of the call, the same for equal ones, where
    nobody traces or watches it.
    """

    tensors: Mapping[str, Tensor | Pair]
    scalars: Mapping[str, Number]
    sizes: Mapping[str, int]
    q_start: int
    k_start: int
    dtype: torch.dtype
    device: torch.device
    passed: object = None

    def start(self, side: str) -> int:
        """The position of the first row of `side` ("i" or "j")."""
        return self.q_start if side == "i" else self.k_start


# The value of an argument that the call leaves out, from everything that is bound before it.
Initial: TypeAlias = "Callable[[str, Bound], Tensor | Number]"


def bind(
    signature: Signature,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    initial: Initial | None = None,
) -> Bound:
    """Check the arguments of a call; AttnError names the one that is wrong.

    `kwargs` may hold the grid's sizes, `q_start` and `k_start`. `initial` evaluates the default
    of an argument whose signature says `computed`.
    """
    given = _assign(signature, args, kwargs)
    starts = {
        side: _whole(signature, name, given.pop(name, 0), 0, "a position, 0 or more")
        for side, name in STARTS.items()
    }
    scalars: dict[str, Number] = {}
    tensors: dict[str, Tensor | Pair] = {}
    numbers: dict[str, Number] = {}  # given for params of rank 0
    for argument in signature.arguments:
        value = given.get(argument.name)
        if value is None:
            if argument.required:
                raise wrong(
                    signature, argument.name, f"{describe(signature, argument)}, got nothing"
                )
            if not argument.scalar:
                continue
            value = argument.default
        if not argument.scalar and not argument.axes and isinstance(value, int | float):
            numbers[argument.name] = value
        elif not argument.scalar:
            tensors[argument.name] = _tensor(signature, argument, value)
        elif value is not None:
            scalars[argument.name] = _scalar(signature, argument, value)
    dtype, device = _types(signature, tensors)
    sizes = resolve(signature, tensors, given, scalars, starts)
    _anchored(signature, starts)
    pairs = _pairs(signature, tensors, sizes, starts)
    bound = Bound(pairs, scalars, sizes, starts["i"], starts["j"], dtype, device)
    return _defaults(signature, bound, numbers, initial)


def _assign(
    signature: Signature, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, object]:
    names = [a.name for a in signature.arguments]
    if len(args) > len(names):
        raise AttnError(
            f"{signature.name}: expected at most {len(names)} positional arguments"
            f" ({', '.join(names)}), got {len(args)}"
        )
    given: dict[str, object] = dict(zip(names, args, strict=False))
    known = {*names, "q_start", "k_start", *(s for g in signature.grids for s in g.sizes)}
    for name, value in kwargs.items():
        if name in given:
            raise wrong(signature, name, "given twice", expected=False)
        if name not in known:
            options = [*names, *(s for g in signature.grids for s in g.sizes), "q_start", "k_start"]
            raise wrong(signature, name, f"unknown; it takes {', '.join(options)}", expected=False)
        given[name] = value
    return given


def _whole(signature: Signature, name: str, value: object, least: int, text: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(signature, name, f"{text}, got {_show(value)}")
    return value


def _show(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, bool | int | float) or value is None:
        return repr(value)
    return f"a {type(value).__name__}"


def _scalar(signature: Signature, argument: Argument, value: object) -> Number:
    if isinstance(value, Tensor) and value.dim() == 0:
        if value.requires_grad:
            raise wrong(signature, argument.name, "a number without gradient (a `param` has one)")
        value = value.item()
    match argument.kind, value:
        case "bool", bool():
            return value
        case "int", int() if not isinstance(value, bool):
            return value
        case "float", (int() | float()) if not isinstance(value, bool):
            return float(value)
        case _:
            raise wrong(
                signature, argument.name, f"{describe(signature, argument)}, got {_show(value)}"
            )


def _tensor(signature: Signature, argument: Argument, value: object) -> Tensor | Pair:
    if argument.paired and isinstance(value, tuple | list):
        if len(value) != 2 or not all(isinstance(v, Tensor) for v in value):
            raise wrong(signature, argument.name, "a tensor or a pair (for queries, for keys)")
        return (value[0], value[1])
    if isinstance(value, Tensor):
        return value
    raise wrong(signature, argument.name, f"{describe(signature, argument)}, got {_show(value)}")


def _types(
    signature: Signature, tensors: dict[str, Tensor | Pair]
) -> tuple[torch.dtype, torch.device]:
    """The one float dtype and the one device of all tensors."""
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    of_dtype = of_device = ""
    for argument in signature.arguments:
        name = argument.name
        for tensor in _parts(tensors.get(name, ())):
            got = tensor.dtype
            if argument.kind == "int":
                if got not in INTS:
                    raise wrong(signature, name, f"dtype torch.int32 or torch.int64, got {got}")
            elif argument.kind == "bool":
                if got is not torch.bool:
                    raise wrong(signature, name, f"dtype torch.bool, got {got}")
            elif got not in FLOATS:
                raise wrong(signature, name, f"dtype {' or '.join(map(str, FLOATS))}, got {got}")
            elif dtype is None:
                dtype, of_dtype = got, name
            elif got is not dtype:
                raise wrong(signature, name, f"dtype {dtype} as `{of_dtype}` has, got {got}")
            if device is None:
                device, of_device = tensor.device, name
            elif tensor.device != device:
                raise wrong(
                    signature, name, f"device {device} as `{of_device}` has, got {tensor.device}"
                )
    return dtype or torch.float32, device or torch.device("cpu")


def _parts(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _anchored(signature: Signature, starts: Mapping[str, int]) -> None:
    """Check that a side starts at 0 where what is proved holds from there on."""
    for text, side in signature.anchored:
        if starts[side]:
            raise AttnError(
                f"{signature.name}: `{text}` is shown to be right where positions start at 0:"
                f" expected {STARTS[side]} = 0, got {starts[side]}"
            )


def _pairs(
    signature: Signature,
    tensors: dict[str, Tensor | Pair],
    sizes: Mapping[str, int],
    starts: Mapping[str, int],
) -> dict[str, Tensor | Pair]:
    """Paired tensors as pairs, after checking that what is read at the other side lies there."""
    whole = {n for n, v in tensors.items() if not isinstance(v, tuple)}
    names = {a.name for a in signature.arguments}
    for name, own, at in signature.across:
        if name not in whole and name in names:
            continue
        low, high = starts[at], starts[at] + sizes[at]
        if not starts[own] <= low <= high <= starts[own] + sizes[own]:
            got = f"positions {starts[own]} to {starts[own] + sizes[own] - 1}"
            need = f"rows for the positions {low} to {high - 1} of the {_SIDES[at]}"
            if name in names:
                pair = signature.argument(name).paired
                need += " or a pair (for queries, for keys)" if pair else ""
                raise wrong(signature, name, f"{need}, got {got}")
            raise AttnError(
                f"{signature.name}: `{name}` is read at the other side: expected {need}, got {got}"
            )
    out = dict(tensors)
    for argument in signature.arguments:
        value = tensors.get(argument.name)
        if isinstance(value, Tensor):
            out[argument.name] = paired(argument, value, sizes, starts)
    return out


def paired(
    argument: Argument, value: Tensor, sizes: Mapping[str, int], starts: Mapping[str, int]
) -> Tensor | Pair:
    """A paired tensor that was given once, as (its rows for queries, its rows for keys)."""
    found = cuts(argument, sizes, starts)
    return value if found is None else halves(value, found)


def halves(value: Tensor, of: tuple[Cut, Cut]) -> Pair:
    """The rows for queries and the rows for keys of a tensor that holds both."""
    queries, keys = of
    return (
        value if queries is None else value.narrow(*queries),
        value if keys is None else value.narrow(*keys),
    )


def cuts(
    argument: Argument, sizes: Mapping[str, int], starts: Mapping[str, int]
) -> tuple[Cut, Cut] | None:
    """How a tensor is parted that is given once for queries and for keys; None for others."""
    place = argument.token
    if not argument.paired or place is None:
        return None
    own = argument.axes[place]
    queries, keys = (
        None
        if starts[side] == starts[own] and sizes[side] == sizes[own]
        else (place, starts[side] - starts[own], sizes[side])
        for side in ("i", "j")
    )
    return queries, keys


def _defaults(
    signature: Signature, bound: Bound, numbers: Mapping[str, Number], initial: Initial | None
) -> Bound:
    """Everything that the call left out."""
    tensors, scalars = dict(bound.tensors), dict(bound.scalars)
    options = {"float": bound.dtype, "int": torch.int64, "bool": torch.bool}
    for argument in signature.arguments:
        name, dtype = argument.name, options[argument.kind]
        if name in tensors or name in scalars:
            continue
        if argument.computed and name not in numbers:
            if initial is None:
                raise wrong(signature, name, f"{describe(signature, argument)}, got nothing")
            now = bound._replace(tensors=dict(tensors), scalars=dict(scalars))
            computed = initial(name, now)
            if argument.scalar:
                scalars[name] = _scalar(signature, argument, computed)
                continue
            value = computed if isinstance(computed, Tensor) else torch.tensor(computed)
        else:
            value = torch.tensor(numbers.get(name, argument.default))
        try:
            shape = [bound.sizes[axis] for axis in argument.axes]
        except KeyError as error:
            text = f"(nothing else tells the size of axis {error}), got nothing"
            text = f"{describe(signature, argument)} {text}"
            raise wrong(signature, name, text) from None
        full = value.to(bound.device, dtype).expand(shape)
        starts = {"i": bound.q_start, "j": bound.k_start}
        tensors[name] = paired(argument, full, bound.sizes, starts)
    return bound._replace(tensors=tensors, scalars=scalars)
