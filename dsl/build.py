"""Making expressions of the checked tree: constructors that compute kinds, and substitution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from attnspec.dsl.ast import (
    COMPARISONS,
    EXPRESSION_FIELDS,
    LOGIC,
    Apply,
    Concat,
    Contract,
    Coord,
    Cumsum,
    Expr,
    Index,
    Kind,
    Literal,
    Normalize,
    Random,
    Rank,
    Reduce,
    Rope,
    Size,
)
from attnspec.dsl.operators import CALCULATING
from attnspec.dsl.span import NOWHERE, Span

_PRESERVING = frozenset({"neg", "add", "sub", "mul", "floordiv", "mod", "pow", "abs", "min", "max"})
_PRESERVING |= {"clamp", "sign", "stopgrad", "relu"}


class KindError(ValueError):
    """An operation is given a kind that it does not take."""


def result_kind(op: str, kinds: tuple[Kind, ...]) -> Kind:
    """The kind of `op` on arguments of these kinds; KindError when it does not take them."""
    if op in LOGIC:
        if any(kind is not Kind.BOOL for kind in kinds):
            raise KindError(f"`{op}` takes bools")
        return Kind.BOOL
    if op in ("eq", "ne") and Kind.BOOL in kinds:
        if kinds[0] is not kinds[1]:
            raise KindError("a bool is compared with a number")
        return Kind.BOOL
    if op == "where":
        if kinds[0] is not Kind.BOOL:
            raise KindError("the condition of `where` is a bool")
        if kinds[1] is Kind.BOOL and kinds[2] is Kind.BOOL:
            return Kind.BOOL
        kinds = kinds[1:]
    if Kind.BOOL in kinds:
        raise KindError("a bool is no number")
    if op in COMPARISONS:
        return Kind.BOOL
    if op in ("floor", "ceil"):
        return Kind.INT
    if op == "where" or op in _PRESERVING:
        return Kind.INT if all(kind is Kind.INT for kind in kinds) else Kind.FLOAT
    return Kind.FLOAT


def apply(op: str, *args: Expr, span: Span = NOWHERE) -> Apply:
    """`op` of `args`; KindError when a kind does not fit."""
    kind = result_kind(op, tuple(arg.kind for arg in args))
    if op == "pow" and isinstance(args[1], Literal) and args[1].value < 0:
        kind = Kind.FLOAT
    return Apply(op, args, kind=kind, span=span)


def lit(value: bool | int | float, span: Span = NOWHERE) -> Literal:
    """A literal."""
    if isinstance(value, bool):
        kind = Kind.BOOL
    else:
        kind = Kind.INT if isinstance(value, int) else Kind.FLOAT
    return Literal(value, kind=kind, span=span)


def index(axis: str, span: Span = NOWHERE) -> Index:
    """The value of index variable `axis`."""
    return Index(axis, kind=Kind.INT, span=span)


def size(of: str, span: Span = NOWHERE) -> Size:
    """The size of an axis or of a grid's side."""
    return Size(of, kind=Kind.INT, span=span)


def neg(a: Expr, span: Span = NOWHERE) -> Apply:
    """-a."""
    return apply("neg", a, span=span)


def add(a: Expr, b: Expr, span: Span = NOWHERE) -> Apply:
    """a + b."""
    return apply("add", a, b, span=span)


def sub(a: Expr, b: Expr, span: Span = NOWHERE) -> Apply:
    """a - b."""
    return apply("sub", a, b, span=span)


def mul(a: Expr, b: Expr, span: Span = NOWHERE) -> Apply:
    """a * b."""
    return apply("mul", a, b, span=span)


def div(a: Expr, b: Expr, span: Span = NOWHERE) -> Apply:
    """a / b, real."""
    return apply("div", a, b, span=span)


def constant(expr: Expr) -> bool | int | float | None:
    """The value of arithmetic on literals; None where it is none, is undefined or is huge."""
    if isinstance(expr, Literal):
        return expr.value
    if not isinstance(expr, Apply) or expr.op not in _CONSTANT:
        return None
    values = [constant(arg) for arg in expr.args]
    numbers = [v for v in values if v is not None and not isinstance(v, bool)]
    if len(numbers) != len(values) or any(abs(v) > 2**53 for v in numbers):
        return None
    if expr.op == "pow" and (abs(numbers[1]) > 64 or (numbers[0] < 0 and numbers[1] % 1)):
        return None
    try:
        result = _CONSTANT[expr.op](*numbers)
    except (ArithmeticError, ValueError):
        return None
    return result if abs(result) <= 2**63 else None


_CONSTANT: Mapping[str, Callable[..., int | float]] = {
    **CALCULATING,
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "floor": math.floor,
    "ceil": math.ceil,
}


def conjunction(parts: tuple[Expr, ...]) -> Expr | None:
    """All of `parts`; None when there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return apply("and", *parts, span=parts[0].span)


def rename(expr: Expr, names: Mapping[str, str]) -> Expr:
    """`expr` with free index variables called by other names; ValueError where one is captured."""
    return substitute(expr, {old: index(new) for old, new in names.items()})


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """`expr` with integer expressions in place of free index variables.

    ValueError where a value would be captured by a binder, or where the tree has no place for it:
    the variable of a coordinate, mask, normaliser, cumulative sum, rank, rope, concat or random
    number can only become another variable.
    """
    return _substitute(expr, {a: v for a, v in values.items() if a in expr.free}, {})


_Memo = dict[tuple[int, frozenset[str]], Expr]


def _substitute(expr: Expr, values: Mapping[str, Expr], memo: _Memo) -> Expr:
    values = {axis: value for axis, value in values.items() if axis in expr.free}
    if not values:
        return expr
    # Under one root an axis has one value, so the axes still substituted tell the mappings apart.
    key = (id(expr), frozenset(values))
    if key not in memo:
        memo[key] = _rebuild(expr, values, memo)
    return memo[key]


def _rebuild(expr: Expr, values: Mapping[str, Expr], memo: _Memo) -> Expr:
    match expr:
        case Index(axis):
            return values[axis]
        case Coord(axis):
            return replace(expr, axis=_variable(axis, values))
        case Reduce(_, axes):
            if expr.mask is not None:
                row, column = (m if m in axes else _variable(m, values) for m in expr.mask)
                expr = replace(expr, mask=(row, column))
            _avoid_capture(axes, values)
            return _fields(expr, values, memo)
        case Normalize(_, axes):
            new = _renamed(expr, axes, values)
            mask = expr.mask
            if mask is not None:
                mask = (_variable(mask[0], values), _variable(mask[1], values))
            return _fields(expr, values, memo, axes=new, mask=mask)
        case Cumsum(axis) | Rank(axis) | Rope(_, axis):
            (new_axis,) = _renamed(expr, (axis,), values)
            return _fields(expr, values, memo, axis=new_axis)
        case Concat(axis, parts):
            _avoid_capture(tuple(own for own, _ in parts), values)
            moved = tuple(
                (own, _substitute(part, {a: v for a, v in values.items() if a != own}, memo))
                for own, part in parts
            )
            return replace(expr, axis=_variable(axis, values), parts=moved)
        case Random(_, row, column):
            expr = replace(expr, row=_variable(row, values), column=_variable(column, values))
            return _fields(expr, values, memo)
        case _:
            axes = getattr(expr, "axes", ())
            _avoid_capture(axes, values)
            return _fields(expr, values, memo)


def _variable(axis: str, values: Mapping[str, Expr]) -> str:
    value = values.get(axis)
    if value is None:
        return axis
    if isinstance(value, Index):
        return value.axis
    raise ValueError(f"index variable {axis!r} can only be renamed here")


def _renamed(expr: Expr, axes: tuple[str, ...], values: Mapping[str, Expr]) -> tuple[str, ...]:
    """The new names of axes that are bound in the parts of `expr` and free in its value."""
    new = tuple(_variable(axis, values) for axis in axes)
    _avoid_capture(new, {axis: value for axis, value in values.items() if axis not in axes})
    if (set(new) - set(axes)) & (expr.free - set(values)):
        raise ValueError(f"renaming {axes!r} would capture another variable")
    return new


def _avoid_capture(bound: tuple[str, ...], values: Mapping[str, Expr]) -> None:
    for axis, value in values.items():
        if value.free & set(bound):
            raise ValueError(f"the value of {axis!r} would be captured")


def _fields(expr: Expr, values: Mapping[str, Expr], memo: _Memo, **changed: object) -> Expr:
    """`expr` with its direct parts substituted, and the fields in `changed` replaced."""
    bound = set(expr.axes) if isinstance(expr, Contract | Reduce) else set()
    inner = {axis: value for axis, value in values.items() if axis not in bound}
    for name in EXPRESSION_FIELDS[type(expr)]:
        old = getattr(expr, name)
        if isinstance(old, Expr):
            changed[name] = _substitute(old, inner, memo)
        elif isinstance(old, tuple) and old and isinstance(old[0], Expr):
            changed[name] = tuple(_substitute(part, inner, memo) for part in old)
    result: Expr = replace(expr, **changed)  # type: ignore[arg-type]
    return result
