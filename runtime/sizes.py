"""The sizes of a call, from the shapes of its arguments."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.extents import extent_value, spell
from attnspec.runtime.signature import LABELS, Argument, Signature


def resolve(
    signature: Signature,
    tensors: Mapping[str, Tensor | tuple[Tensor, Tensor]],
    given: Mapping[str, object],
    scalars: Mapping[str, int | float | bool],
    starts: Mapping[str, int],
) -> dict[str, int]:
    """The size of every axis; AttnError names the argument that does not fit.

    `given` has the grid's sizes.
    """
    sizes = {name: extent for name, extent in signature.sizes if isinstance(extent, int)}
    heads: list[tuple[Argument, Tensor]] = []
    for argument in signature.arguments:
        value = tensors.get(argument.name)
        if isinstance(value, tuple):
            for side, part in zip(("i", "j"), value, strict=True):
                _shape(signature, argument, part, side, sizes, heads)
        elif value is not None:
            _shape(signature, argument, value, None, sizes, heads)
    _tables(signature, sizes)
    _heads(signature, heads, sizes)
    sizes.setdefault("b", 1)
    _equal(signature, tensors, sizes)
    _grids(signature, given, sizes, starts)
    for one, other in (("i", "j"), ("j", "i")):
        if one not in sizes and other in sizes:
            sizes[one] = sizes[other]
    if signature.square:
        _square(signature, sizes, starts)
    _extents(signature, tensors, sizes, scalars, starts)
    return sizes


def wrong(signature: Signature, name: str, text: str, *, expected: bool = True) -> AttnError:
    """The error of argument `name`."""
    return AttnError(f"{signature.name}: argument `{name}`: {'expected ' * expected}{text}")


def describe(signature: Signature, argument: Argument) -> str:
    """What an argument is, for messages: `a tensor [B, Hkv, N, D]`."""
    if argument.scalar:
        return {"int": "an integer", "float": "a number", "bool": "true or false"}[argument.kind]
    return f"a tensor [{', '.join(_labels(signature, argument, argument.axes))}]"


def _labels(signature: Signature, argument: Argument, axes: tuple[str, ...]) -> list[str]:
    """The names of a shape's sizes as authors know them."""
    declared = {name: spell(extent) for name, extent in signature.sizes}
    return [
        "Hkv" if axis == "h" and argument.operand else declared.get(axis, LABELS.get(axis, axis))
        for axis in axes
    ]


def _shape(
    signature: Signature,
    argument: Argument,
    tensor: Tensor,
    side: str | None,
    sizes: dict[str, int],
    heads: list[tuple[Argument, Tensor]],
) -> None:
    """Hold a tensor's shape against the sizes so far, and add those it tells first."""
    axes, shape = argument.axes, tensor.shape
    if side is not None:
        axes = tuple(side if n == argument.token else axis for n, axis in enumerate(axes))
    if len(axes) != len(shape):
        raise _misfit(signature, argument, axes, tensor, sizes)
    for axis, size in zip(axes, shape, strict=True):
        if axis == "b" and size == 1:
            continue
        if axis == "h" and argument.operand:
            heads.append((argument, tensor))
        elif sizes.setdefault(axis, size) != size:
            raise _misfit(signature, argument, axes, tensor, sizes)


def _misfit(
    signature: Signature,
    argument: Argument,
    axes: tuple[str, ...],
    tensor: Tensor,
    sizes: Mapping[str, int],
) -> AttnError:
    labels = _labels(signature, argument, axes)
    values = [
        label if label == "Hkv" else str(sizes.get(axis, label))
        for axis, label in zip(axes, labels, strict=True)
    ]
    want = f"[{', '.join(labels)}]"
    if values != labels:
        want += f" = [{', '.join(values)}]"
    return wrong(signature, argument.name, f"shape {want}, got {list(tensor.shape)}")


def _tables(signature: Signature, sizes: dict[str, int]) -> None:
    for name, axes, shape in signature.tables:
        for axis, size in zip(axes, shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                label = LABELS.get(axis, axis)
                raise AttnError(
                    f"{signature.name}: constant `{name}`: expected {label} = {size},"
                    f" got {label} = {sizes[axis]}"
                )


def _heads(
    signature: Signature, heads: list[tuple[Argument, Tensor]], sizes: dict[str, int]
) -> None:
    """Keys and values may have fewer heads, each a divisor of H."""
    place = [(argument, tensor.shape[argument.axes.index("h")]) for argument, tensor in heads]
    total = sizes.setdefault("h", max([1, *(n for _, n in place)]))
    for argument, count in place:
        if count < 1 or total % count:
            text = f"a number of heads that divides H = {total}, got {count}"
            raise wrong(signature, argument.name, text)


def _equal(signature: Signature, tensors: Mapping[str, object], sizes: dict[str, int]) -> None:
    for one, other in signature.equal:
        a, b = sizes.get(one), sizes.get(other)
        if a is None and b is not None:
            sizes[one] = b
        elif b is None and a is not None:
            sizes[other] = a
        elif a != b:
            label, wanted = LABELS.get(one, one), LABELS.get(other, other)
            text = f"{label} = {wanted}, got {label} = {a} and {wanted} = {b}"
            raise wrong(signature, _owner(signature, tensors, one, other), text)


def _owner(signature: Signature, tensors: Mapping[str, object], *axes: str) -> str:
    """The last argument that has one of `axes`: the one to blame."""
    names = [a.name for a in signature.arguments if a.name in tensors and set(axes) & set(a.axes)]
    return names[-1] if names else signature.arguments[-1].name


def _grids(
    signature: Signature,
    given: Mapping[str, object],
    sizes: dict[str, int],
    starts: Mapping[str, int],
) -> None:
    for grid in signature.grids:
        total = 1
        for name, keyword in zip(grid.names, grid.sizes, strict=True):
            size = given.get(keyword)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                got = "nothing" if size is None else repr(size)
                raise wrong(
                    signature,
                    keyword,
                    f"a positive integer, the grid's size along {name}, got {got}",
                )
            total *= size
            sizes[f"{grid.side}.{name}"] = size
            if signature.shared_grid:
                sizes[f"j.{name}"] = size
        for side in ("i", "j") if signature.shared_grid else (grid.side,):
            rows = sizes.setdefault(side, total)
            product = " * ".join(grid.sizes)
            if rows != total:
                text = f"{product} = {LABELS[side]} = {rows}, got {total}"
                raise wrong(signature, grid.sizes[0], text)
            if starts[side]:
                start = "q_start" if side == "i" else "k_start"
                raise wrong(signature, start, f"0 (a grid has all its tokens), got {starts[side]}")


def _square(signature: Signature, sizes: Mapping[str, int], starts: Mapping[str, int]) -> None:
    if sizes.get("i") != sizes.get("j"):
        raise AttnError(
            f"{signature.name}: expected M = N (a recurrence over tokens),"
            f" got M = {sizes['i']} and N = {sizes['j']}"
        )
    if starts["i"] != starts["j"]:
        text = f"q_start = {starts['i']} (a recurrence over tokens), got {starts['j']}"
        raise wrong(signature, "k_start", text)


def _extents(
    signature: Signature,
    tensors: Mapping[str, object],
    sizes: dict[str, int],
    scalars: Mapping[str, int | float | bool],
    starts: Mapping[str, int],
) -> None:
    """Sizes that follow from others."""
    for name, extent in signature.sizes:
        try:
            value = extent_value(extent, sizes, scalars, starts)
        except KeyError:
            continue  # of an axis that no argument has
        except ValueError as error:
            raise AttnError(f"{signature.name}: axis `{name}`: {error}") from None
        if value < 0 or sizes.setdefault(name, value) != value:
            got = sizes.get(name, value)
            text = f"{name} = {spell(extent)} = {value}, got {got}"
            raise wrong(signature, _owner(signature, tensors, name), text)
