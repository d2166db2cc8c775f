"""Sizes as expressions: their value and their spelling."""

from __future__ import annotations

from collections.abc import Mapping

from attnspec.runtime.signature import LABELS, STARTS, Extent

_INFIX = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}
OPERATIONS = frozenset(_INFIX) | {"neg", "min", "max", "blocks", "number"}


def extent_value(
    extent: Extent,
    sizes: Mapping[str, int],
    numbers: Mapping[str, int | float | bool],
    starts: Mapping[str, int],
) -> int:
    """The value of `extent`; KeyError names a size that is not known.

    `numbers` are the scalar arguments, `starts` the first positions of "i" and "j".
    """
    if isinstance(extent, int):
        return extent
    if isinstance(extent, str):
        return sizes[extent]
    op = extent[0]
    if op == "number":
        return int(numbers[str(extent[1])])
    values = [extent_value(e, sizes, numbers, starts) for e in extent[1:]]
    if op == "blocks":  # ("blocks", axis, length), numbered from position 0
        end = values[0] + starts.get(str(extent[1]), 0)
        return -(-end // max(values[1], 1))
    return fold(str(op), values)


def read_by(extent: Extent) -> frozenset[str]:
    """The numbers of a call that `extent` reads: scalar arguments and first positions."""
    if not isinstance(extent, tuple):
        return frozenset()
    op, *parts = extent
    if op == "number":
        return frozenset({str(parts[0])})
    start = STARTS.get(str(parts[0])) if op == "blocks" else None
    return frozenset({start} if start else ()).union(*map(read_by, parts))


def fold(op: str, values: list[int]) -> int:
    """`op` of numbers; ValueError for a division by zero or an operation that sizes have not."""
    match op, values:
        case "neg", [a]:
            return -a
        case "add", [a, b]:
            return a + b
        case "sub", [a, b]:
            return a - b
        case "mul", [a, b]:
            return a * b
        case "floordiv", [a, b] if b:
            return a // b
        case "mod", [a, b] if b:
            return a % b
        case "min", [*_]:
            return min(values)
        case "max", [*_]:
            return max(values)
        case _:
            raise ValueError(f"{op} of {values} is not a size")


def spell(extent: Extent) -> str:
    """`extent` as an author would write it, for messages."""
    if isinstance(extent, int):
        return str(extent)
    if isinstance(extent, str):
        side, _, name = extent.partition(".")
        if name.isdigit() or not name:
            return LABELS.get(extent, extent)
        return f"size({side}.{name})"
    op, *operands = extent
    if op == "number":
        return str(operands[0])
    texts = [f"({spell(o)})" if isinstance(o, tuple) else spell(o) for o in operands]
    if op in _INFIX:
        return f" {_INFIX[str(op)]} ".join(texts)
    return "-" + texts[0] if op == "neg" else f"{op}({', '.join(texts)})"
