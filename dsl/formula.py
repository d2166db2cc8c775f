"""The checked tree as text: every axis written, in the words of the language.

`b` and `h` stand only where something else than themselves is read; a sum over the pairs of the
mask has a `:` before what is summed (`sum(j: weight * v[j, e])`), one over everything a comma.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from attnspec.dsl.ast import (
    Apply,
    Concat,
    Contract,
    Coord,
    Cumsum,
    Expr,
    GridIndex,
    Index,
    Last,
    Literal,
    Normalize,
    Random,
    Rank,
    Read,
    Reduce,
    Rope,
    Size,
)

_SIZES = {"i": "M", "j": "N", "d": "D", "e": "E", "b": "B", "h": "H"}
# How tightly an operator binds: an operand that binds less stands in brackets.
_INFIX = {
    "or": (1, " or "),
    "and": (2, " and "),
    "lt": (4, " < "),
    "le": (4, " <= "),
    "gt": (4, " > "),
    "ge": (4, " >= "),
    "eq": (4, " == "),
    "ne": (4, " != "),
    "add": (5, " + "),
    "sub": (5, " - "),
    "mul": (6, " * "),
    "div": (6, " / "),
    "floordiv": (6, " // "),
    "mod": (6, " % "),
}
_NOT, _NEG, _POW, _ATOM = 3, 7, 8, 9
_ANY_ORDER = frozenset({"or", "and"})


def formula(expr: Expr) -> str:
    """`expr` on one line."""
    return _bound(expr)[0]


def _bound(expr: Expr) -> tuple[str, int]:
    """The text of `expr` and how tightly it binds."""
    match expr:
        case Literal(value=value):
            text = str(value).lower() if isinstance(value, bool) else repr(value)
            return text, _NEG if text.startswith("-") else _ATOM
        case Index(axis=axis):
            return axis.removesuffix(".i"), _ATOM
        case Coord(axis=axis, along=along):
            return f"{axis}.{along}", _ATOM
        case Size(of=of):
            return _SIZES.get(of, f"size({of})"), _ATOM
        case Last(axis=axis):
            return f"last({axis})", _ATOM
        case GridIndex(coords=coords):
            return _call("token", coords), _ATOM
        case Read(name=name, index=index, pad=pad):
            places = [formula(i) for i in index if not _own(i)]
            places += [] if pad is None else [f"pad={formula(pad)}"]
            return name + (f"[{', '.join(places)}]" if places else ""), _ATOM
        case Apply(op=op, args=args):
            return _apply(op, args)
        case Contract(axes=axes, left=left, right=right):
            return f"sum({_names(axes)}, {_product(left, right)})", _ATOM
        case Reduce(op=op, axes=axes, body=body, where=where, mask=mask):
            sign = ":" if mask else ","
            return f"{op}({_names(axes)}{sign} {formula(body)}{_key('where', where)})", _ATOM
        case Normalize(op=op, axes=axes, body=body, where=where, mask=mask, sink=sink, alpha=alpha):
            keys = _key("sink", sink) + _key("alpha", alpha) + _key("where", where)
            sign = ":" if mask else ","
            return f"{op}({_names(axes)}{sign} {formula(body)}{keys})", _ATOM
        case Cumsum(axis=axis, body=body, where=where):
            return f"cumsum({axis}, {formula(body)}{_key('where', where)})", _ATOM
        case Rank(axis=axis, body=body, where=where):
            return f"rank({axis}, {formula(body)}{_key('where', where)})", _ATOM
        case Rope(body=body, axis=axis, positions=positions, base=base):
            at = ", ".join(formula(position) for position in positions)
            return f"rope({axis}, {formula(body)}, {at}, base={formula(base)})", _ATOM
        case Concat(parts=parts):
            return _call("concat", [part for _, part in parts]), _ATOM
        case Random(seed=seed):
            return _call("random", [seed]), _ATOM
        case _:
            assert_never(expr)


def _apply(op: str, args: Sequence[Expr]) -> tuple[str, int]:
    if op in _INFIX and len(args) > 1:
        level, sign = _INFIX[op]
        # Only the left may bind as loosely as the operator itself, in comparisons not even that.
        left = level + (op in ("lt", "le", "gt", "ge", "eq", "ne"))
        right = level if op in _ANY_ORDER else level + 1
        texts = [_at_least(args[0], left), *(_at_least(a, right) for a in args[1:])]
        return sign.join(texts), level
    if op == "neg":
        return f"-{_at_least(args[0], _NEG)}", _NEG
    if op == "not":
        return f"not {_at_least(args[0], _NOT)}", _NOT
    if op == "pow":
        return f"{_at_least(args[0], _ATOM)} ** {_at_least(args[1], _NEG)}", _POW
    return _call(op, args), _ATOM


def _at_least(expr: Expr, level: int) -> str:
    text, binds = _bound(expr)
    return text if binds >= level else f"({text})"


def _product(left: Expr, right: Expr) -> str:
    level = _INFIX["mul"][0]
    return f"{_at_least(left, level)} * {_at_least(right, level)}"


def _call(name: str, args: Sequence[Expr]) -> str:
    return f"{name}({', '.join(formula(arg) for arg in args)})"


def _names(axes: Sequence[str]) -> str:
    return ", ".join(axis.removesuffix(".i") for axis in axes)


def _key(name: str, value: Expr | None) -> str:
    return "" if value is None else f", {name}={formula(value)}"


def _own(index: Expr) -> bool:
    return isinstance(index, Index) and index.axis in ("b", "h")
