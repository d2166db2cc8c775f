"""Facts of a checked spec, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.dsl.analysis.bounds import HI, LO, Bounds, bounds
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.ast import Apply, Expr, Index, Literal, Read, Size, Spec

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%"}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known of a spec: its value, why it holds, and what it buys."""

    name: str
    value: str
    why: str
    buys: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is proved of a spec. `rows` bounds the keys of a tile of queries, `columns` the
    queries of a tile of keys, over the tile's first and last position `lo` and `hi`."""

    rows: Bounds
    columns: Bounds
    facts: tuple[Fact, ...]


def analyze(spec: Spec) -> Facts:
    """The facts of a spec."""
    mask = None if spec.mask is None else coordinates(inline(spec, spec.mask), spec)
    rows, columns = bounds(mask, "j", "i"), bounds(mask, "i", "j")
    found = []
    for name, bound in (
        ("keys of a tile of queries", rows),
        ("queries of a tile of keys", columns),
    ):
        if bound.first is None and bound.last is None:
            continue
        ends = f"{shown(bound.first) or 'start'} .. {shown(bound.last) or 'end'}"
        why = "each comparison of the mask is solved for the loop's position"
        buys = "tiles outside are never visited"
        if bound.full:
            buys += ", tiles inside the full range need no mask"
        found.append(Fact(name, ends, why, buys))
    if spec.mask is None:
        found.append(Fact("mask", "every pair", "there is no mask", "no mask arithmetic"))
    if spec.causal:
        found.append(
            Fact("causal", "no pair with j > i", "checked with the spec", "decode offsets")
        )
    return Facts(rows, columns, tuple(found))


def shown(expr: Expr | None) -> str:
    """An integer expression as text; empty for none."""
    match expr:
        case None:
            return ""
        case Literal(value=value):
            return str(value)
        case Index(axis=axis):
            return {LO: "lo", HI: "hi"}.get(axis, axis)
        case Size(of=of):
            return f"size({of})"
        case Read(name=name):
            return name
        case Apply(op="neg", args=(a,)):
            return f"-{shown(a)}"
        case Apply(op=op, args=(a, b)) if op in _SIGNS:
            return f"({shown(a)} {_SIGNS[op]} {shown(b)})"
        case Apply(op=op, args=args):
            return f"{op}({', '.join(shown(a) for a in args)})"
    return "?"
