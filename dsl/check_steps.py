"""The order of recurrences: every new value must be computable before it is read."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl import check_linear as lin
from attnspec.dsl.ast import (
    Cumsum,
    Expr,
    Last,
    Normalize,
    Rank,
    Read,
    Reduce,
    Spec,
    State,
    children,
)
from attnspec.dsl.build import index, substitute
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_report import Report
from attnspec.dsl.span import Span

# State -> offsets in time at which a step reads it (None: any), and where.
_Reads = dict[str, dict[int | None, Span]]


def check_steps(spec: Spec, prover: Prover, report: Report) -> None:
    """Report states whose steps wait for one another, or read a time that is not there yet."""
    reads = {state.name: _reads(spec, prover, state) for state in spec.states}
    waits: dict[str, set[str]] = {}
    for state in spec.states:
        old = 1 if state.reverse else -1
        for other, offsets in reads[state.name].items():
            peer = spec.state(other)
            assert peer is not None
            together = (peer.time, peer.reverse) == (state.time, state.reverse)
            if not together or 0 in offsets:
                waits.setdefault(state.name, set()).add(other)
            elsewhere = [span for offset, span in offsets.items() if offset not in (0, old)]
            for place in elsewhere if together else ():
                sign = "+" if state.reverse else "-"
                report.error(
                    "A113",
                    f"a step reads `{other}` at another time",
                    place,
                    f"only {state.time} and {state.time} {sign} 1 are there",
                    f"keep what is needed in a further state, or read"
                    f" `{other}[{state.time} {sign} 1]`",
                )
    for state in spec.states:
        path = _cycle(state.name, waits)
        if path:
            report.error(
                "A109",
                f"`{state.name}` waits for itself",
                state.span,
                " -> ".join(f"`{name}`" for name in path),
                f"read the value before the token, `{path[1]}[{state.time}"
                f" {'+' if state.reverse else '-'} 1]`",
            )
            return


def _cycle(start: str, waits: dict[str, set[str]]) -> list[str]:
    """A path from `start` back to it."""
    stack = [[start]]
    seen: set[str] = set()
    while stack:
        path = stack.pop()
        for following in sorted(waits.get(path[-1], ())):
            if following == start:
                return [*path, start]
            if following not in seen:
                seen.add(following)
                stack.append([*path, following])
    return []


def _reads(spec: Spec, prover: Prover, state: State) -> _Reads:
    found: _Reads = {}
    seen: set[tuple[int, bool]] = set()
    keep: list[Expr] = []
    stack = [(state.step, False)]  # an expression, and whether the time is bound anew there
    while stack:
        expr, rebound = stack.pop()
        if (id(expr), rebound) in seen:
            continue
        seen.add((id(expr), rebound))
        keep.append(expr)
        if isinstance(expr, Read) and spec.state(expr.name) is not None:
            offset = None if rebound else _offset(prover, expr, state)
            found.setdefault(expr.name, {}).setdefault(offset, expr.span)
        if isinstance(expr, Read):
            definition = spec.definition(expr.name)
            if definition is not None:
                values = dict(zip(definition.axes, expr.index, strict=True))
                try:
                    stack.append((substitute(definition.expr, values), rebound))
                except ValueError:
                    stack.append((definition.expr, rebound))
        binds = state.time in _bound(expr)
        stack.extend((child, rebound or binds) for child in children(expr))
    return found


def _bound(expr: Expr) -> Iterator[str]:
    if isinstance(expr, Reduce | Normalize):
        yield from expr.axes
    elif isinstance(expr, Cumsum | Rank):
        yield expr.axis


def _offset(prover: Prover, read: Read, state: State) -> int | None:
    time = read.index[2]
    if isinstance(time, Last):
        return None
    distance = lin.plus(prover.poly(time), prover.poly(index(state.time)), -1)
    value = lin.value_of(distance)
    return int(value) if value is not None and value.denominator == 1 else None
