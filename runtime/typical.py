"""Arguments of a typical size: for pictures, benchmarks and demonstrations.

Sizes fit each other and what the spec requires of them; scalars are its defaults where those say
something at that size; tensors are drawn at random within their facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.axes import expressions, root
from attnspec.runtime.extents import extent_value
from attnspec.runtime.signature import Argument, Signature
from attnspec.runtime.signature_of import extent, signature

Number: TypeAlias = bool | int | float
Arguments: TypeAlias = dict[str, Any]  # tensors and numbers by name

# Sides of a grid that suit most windows, tried in turn: powers of two, and sevens.
_SIDES = (8, 7, 16, 14, 12)
_HEADS = range(1, 65)  # tried where a spec does not take those asked for
_FREE = 6  # channels of an axis whose size only the inputs tell


@dataclass(frozen=True, slots=True)
class Range:
    """Where a number must lie; an open end is not reached."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False


def typical(
    spec: ast.Spec,
    *,
    batch: int = 2,
    heads: int = 4,
    kv_heads: int | None = None,
    length: int = 64,
    rows: int | None = None,
    channels: int = 16,
    value_channels: int | None = None,
    side: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Arguments:
    """Keyword arguments of a call. A grid sets its own length, by its sides (`side` where the spec
    allows it); `rows` are the queries (M). `heads` becomes the nearest number that the spec allows,
    with as many to a key head as asked for or, where these do not divide it, fewer."""
    takes = signature(spec)
    generator = torch.Generator().manual_seed(seed)
    sizes = {"b": batch, "h": heads, "j": length, "i": rows or length}
    sizes |= {"d": channels, "e": value_channels or channels}
    for axis, unit in _units(spec).items():
        sizes[axis] = -(-sizes.get(axis, _FREE) // unit) * unit
    if takes.square:
        sizes["i"] = sizes["j"]
    numbers = {a.name: _scalar(spec, a, sizes) for a in takes.arguments if a.scalar}
    tried = _SIDES if side is None else (side, *_SIDES)
    sides = _grid(spec, takes, sizes, numbers, tried)
    group = heads // (kv_heads or heads)
    _channels(spec, takes, sizes, numbers)
    drawn: Arguments = {**numbers, **sides}
    for argument in takes.arguments:
        if argument.scalar:
            continue
        shape = [sizes[axis] for axis in argument.axes]
        if argument.operand and kv_heads:
            shape[1] = sizes["h"] // math.gcd(sizes["h"], group)
        values = _tensor(argument, shape, _range(spec, argument.name, sizes, numbers), generator)
        drawn[argument.name] = values.to(device, dtype if argument.kind == "float" else None)
    return drawn


def _units(spec: ast.Spec) -> dict[str, int]:
    """What the size of a channel axis must be a multiple of: rotations split it in pairs."""
    units: dict[str, int] = {}
    for whole in expressions(spec):
        for node in ast.walk(whole):
            if isinstance(node, ast.Rope) and spec.axis(node.axis).size is None:
                axis = root(spec, node.axis)
                units[axis] = math.lcm(units.get(axis, 1), 2 * len(node.positions))
    return units


def _scalar(spec: ast.Spec, argument: Argument, sizes: Mapping[str, int]) -> Number:
    """The default, made small enough to matter at the typical length."""
    default, length = argument.default, sizes["j"]
    if isinstance(default, bool | int | float):
        small = argument.kind != "int" or default <= length // 3
        if small:
            return default
    where = _range(spec, argument.name, sizes, {})
    if argument.kind == "bool":
        return True
    if argument.kind == "int":
        return int(_clip(length // 4, where))
    return _clip(0.5, where)


def _grid(
    spec: ast.Spec,
    takes: Signature,
    sizes: dict[str, int],
    numbers: Mapping[str, Number],
    sides: Sequence[int],
) -> dict[str, int]:
    """The grid's sides by keyword, the first that the spec's requirements allow; `sizes` gets them,
    and the number of heads that goes with them."""
    heads = sorted(_HEADS, key=lambda count: abs(count - sizes["h"]))
    for count, side in product((sizes["h"], *heads), sides):
        given: dict[str, int] = {}
        trial = sizes | {"h": count}
        for grid in takes.grids:
            lengths = [4, *([side] * 2)] if len(grid.names) == 3 else [side] * len(grid.names)
            for name, keyword, count in zip(grid.names, grid.sizes, lengths, strict=True):
                given[keyword] = count
                for where in ("i", "j") if takes.shared_grid else (grid.side,):
                    trial[f"{where}.{name}"] = count
            for where in ("i", "j") if takes.shared_grid else (grid.side,):
                trial[where] = math.prod(lengths)
        if all(_holds(fact, trial, numbers) for fact in spec.requires):
            sizes.update(trial)
            return given
    raise AttnError(f"{spec.name}: no typical size meets what it requires")


def _channels(
    spec: ast.Spec, takes: Signature, sizes: dict[str, int], numbers: Mapping[str, Number]
) -> None:
    """The sizes of the axes that `takes` declares, and of those that only inputs tell."""
    for _, axes, shape in takes.tables:
        sizes.update(zip(axes, shape, strict=True))
    known = frozenset(sizes)
    for fact in spec.requires:
        for claim in ast.conjuncts(fact):
            _told(claim, sizes, numbers, known)
    declared = dict(takes.sizes)
    for argument in takes.arguments:
        for axis in argument.axes:
            if axis not in declared:
                sizes.setdefault(axis, _FREE)
    for name, size in declared.items():
        sizes.setdefault(name, extent_value(size, sizes, numbers, {"i": 0, "j": 0}))
    for one, other in takes.equal:
        sizes[other] = sizes[one]


def _told(
    claim: ast.Expr, sizes: dict[str, int], numbers: Mapping[str, Number], known: frozenset[str]
) -> None:
    """Make a size that is not `known` as large as a requirement asks, at the last token."""
    match claim:
        case ast.Apply(op="eq", args=(a, b)):
            sides = [(a, b), (b, a)]
        case ast.Apply(op="ge" | "gt", args=(a, b)) | ast.Apply(op="le" | "lt", args=(b, a)):
            sides = [(a, b)]
        case _:
            return
    for size, other in sides:
        if isinstance(other, ast.Index):
            asked: float | None = sizes[other.axis] - 1 if other.axis in sizes else None
        else:
            asked = _value(other, sizes, numbers)
        if isinstance(size, ast.Size) and size.of not in known and asked is not None:
            least = int(asked) + (claim.op in ("gt", "lt"))
            sizes[size.of] = max(sizes.get(size.of, least), least)


def _tensor(
    argument: Argument, shape: list[int], where: Range, generator: torch.Generator
) -> Tensor:
    # documents follow each other, padding follows the tokens; a graph over pairs is sprinkled
    follows = argument.axes[-1:] in (("i",), ("j",)) and not {"i", "j"} <= set(argument.axes)
    if argument.kind == "bool":
        drawn = torch.rand(shape, generator=generator) < 0.75
        return drawn.sort(-1, descending=True).values if follows else drawn
    if argument.kind == "int":
        low = 0 if math.isinf(where.low) else math.ceil(where.low) + where.low_open
        high = low + 3 if math.isinf(where.high) else math.floor(where.high) - where.high_open
        numbers = torch.randint(int(low), int(max(low, high)) + 1, shape, generator=generator)
        return numbers.sort(-1).values if follows else numbers
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    if math.isinf(where.low) and math.isinf(where.high):
        return normal
    if math.isinf(where.high):
        return where.low + 0.1 + normal.abs()
    if math.isinf(where.low):
        return where.high - 0.1 - normal.abs()
    return where.low + (where.high - where.low) * (0.05 + 0.9 * normal.sigmoid())


# Facts


def _range(
    spec: ast.Spec, name: str, sizes: Mapping[str, int], numbers: Mapping[str, Number]
) -> Range:
    """What the `where` of `name` leaves, as far as it compares the name with numbers."""
    decl = spec.decl(name)
    found = Range()
    if decl is None or decl.where is None:
        return found
    stack: list[ast.Expr] = [decl.where]
    while stack:
        match stack.pop():
            case ast.Apply(op="and", args=args):
                stack.extend(args)
            case ast.Apply(op="gt" | "ge" as op, args=(a, b)):
                flipped = "lt" if op == "gt" else "le"
                stack.append(ast.Apply(flipped, (b, a), kind=ast.Kind.BOOL))
            case ast.Apply(op="lt" | "le" as op, args=(ast.Read(name=at), b)) if at == name:
                bound = _value(b, sizes, numbers)
                if bound is not None and bound <= found.high:
                    found = Range(found.low, bound, found.low_open, op == "lt")
            case ast.Apply(op="lt" | "le" as op, args=(a, ast.Read(name=at))) if at == name:
                bound = _value(a, sizes, numbers)
                if bound is not None and bound >= found.low:
                    found = Range(bound, found.high, op == "lt", found.high_open)
    return found


def _clip(value: float, where: Range) -> float:
    low, high = where.low + where.low_open, where.high - where.high_open
    return min(max(value, low), high)


def _value(expr: ast.Expr, sizes: Mapping[str, int], numbers: Mapping[str, Number]) -> float | None:
    """A number made of literals, sizes and scalars; None for anything else."""
    if isinstance(expr, ast.Literal):
        return expr.value
    try:
        return extent_value(extent(expr), sizes, numbers, {"i": 0, "j": 0})
    except (AttnError, KeyError, ValueError):
        return None


def _holds(expr: ast.Expr, sizes: Mapping[str, int], numbers: Mapping[str, Number]) -> bool:
    """Whether a requirement holds, as far as it compares sizes; what it says else is not asked."""
    match expr:
        case ast.Apply(op="and", args=args):
            return all(_holds(arg, sizes, numbers) for arg in args)
        case ast.Apply(op="or", args=args):
            return any(_holds(arg, sizes, numbers) for arg in args)
        case ast.Apply(op=op, args=(a, b)):
            left, right = _value(a, sizes, numbers), _value(b, sizes, numbers)
            if left is None or right is None:
                return True
            match op:
                case "lt":
                    return left < right
                case "le":
                    return left <= right
                case "gt":
                    return left > right
                case "ge":
                    return left >= right
                case "eq":
                    return left == right
                case "ne":
                    return left != right
    return True
