"""Python literals and calls laid out as a formatter would."""

from __future__ import annotations

import ast

LINE = 100


def layout(code: str, indent: int = 0, used: int = 0) -> str:
    """`code`, one expression of calls, tuples, names and constants, broken where it is too long.

    `indent` is that of the line it stands on, `used` the columns before it on that line.
    """
    return _laid(ast.parse(code, mode="eval").body, indent, used)


def _flat(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str() as value):
            return '"' + ascii(value)[1:-1].replace('"', '\\"').replace("\\'", "'") + '"'
        case ast.Call(func=func, args=args, keywords=keywords):
            inside = [_flat(a) for a in args] + [f"{k.arg}={_flat(k.value)}" for k in keywords]
            return f"{_flat(func)}({', '.join(inside)})"
        case ast.Tuple(elts=[one]):
            return f"({_flat(one)},)"
        case ast.Tuple(elts=items):
            return f"({', '.join(_flat(i) for i in items)})"
    return ast.unparse(node)


def _laid(node: ast.expr, indent: int, used: int) -> str:
    flat = _flat(node)
    if used + len(flat) <= LINE - 1:
        return flat
    pad = " " * (indent + 4)
    match node:
        case ast.Call(func=func, args=args, keywords=keywords):
            items = [_laid(a, indent + 4, indent + 4) for a in args]
            for k in keywords:
                name = f"{k.arg}="
                items.append(name + _laid(k.value, indent + 4, indent + 4 + len(name)))
            opening, closing = f"{_flat(func)}(", ")"
        case ast.Tuple(elts=elts) if elts:
            items = [_laid(e, indent + 4, indent + 4) for e in elts]
            opening, closing = "(", ")"
        case _:
            return flat
    lines = [opening, *(f"{pad}{item}," for item in items), " " * indent + closing]
    return "\n".join(lines)
