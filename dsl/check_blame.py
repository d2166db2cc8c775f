"""What to say of an index or an operation that is not proved safe, and how to mend it."""

from __future__ import annotations

from attnspec.dsl.ast import (
    Apply,
    Contract,
    Cumsum,
    Expr,
    Literal,
    Normalize,
    Read,
    Reduce,
    walk,
)

_WHAT = {
    "div": "division by a value",
    "floordiv": "division by a value",
    "mod": "division by a value",
    "pow": "fractional power of a value",
    "exponent": "power with an exponent",
    "entmax": "`entmax` with an `alpha`",
}
_SHIFTED = {"log1p": "at most -1", "entmax": "at most 1"}  # the operand is compared after a shift
_FACTS = {"0": "{} > 0", "at most 0": "{} > 0", "negative": "{} >= 0"}
_FLOAT_BASE = "write the base as a float, `2.0 ** x`, or keep the exponent at least 0"
_GUARD = "guard it with `max(…)` or `where(…)`, or state a fact with `where` or `require`"
_SMALL = "guard it, for instance `max(x, 1e-6)`, or state a fact with `where`"


def forbidden(op: str, bad: str) -> str:
    """What an operand of `op` must not be, in words."""
    return _SHIFTED.get(op, bad)


def title(op: str, bad: str) -> str:
    """The finding: an operation whose operand may leave its domain."""
    return f"{_WHAT.get(op, f'`{op}` of a value')} that may be {forbidden(op, bad)}"


def mend_operation(op: str, part: Expr, bad: str) -> str:
    """How to keep `part` inside the domain of `op`."""
    if op == "exponent" and not is_data(part):
        return _FLOAT_BASE
    if isinstance(part, Read) and op not in _SHIFTED:
        fact = _FACTS[bad].format(part.name)
        return f"state a fact where it is declared, `where {fact}`, or guard it with `max(…)`"
    return _SMALL if is_data(part) else _GUARD


def mend_index(index: Expr, length: int | None) -> str:
    """How to keep an index inside an axis of `length` (None: not fixed)."""
    if isinstance(index, Read) and length is not None:
        fact = f"where 0 <= {index.name} < {length}"
        return f"state a fact where it is declared, `{fact}`, use `clamp(…)` or give `pad=`"
    return "use `clamp(x, 0, size - 1)`, give `pad=`, or state a fact with `where` or `require`"


def is_data(part: Expr) -> bool:
    """Whether a tensor decides the value."""
    return any(
        not isinstance(node, Read) or node.index
        for node in walk(part)
        if isinstance(node, Read | Reduce | Normalize | Contract | Cumsum)
    )


def is_guarded(part: Expr) -> bool:
    """Whether a small positive literal is added, which is how people guard a quotient."""
    match part:
        case Apply("add", args):
            return any(isinstance(a, Literal) and 0 < a.value <= 1e-3 for a in args)
        case Apply("max", args):
            return any(isinstance(a, Literal) and a.value > 0 for a in args)
    return False
