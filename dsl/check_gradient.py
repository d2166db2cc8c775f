"""Warnings about gradients: what softmax removes (W301), params that learn nothing (W302)."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl.ast import (
    COMPARISONS,
    LOGIC,
    Apply,
    Def,
    Expr,
    Form,
    Index,
    Kind,
    Normalize,
    Random,
    Rank,
    Read,
    Reduce,
    Spec,
    children,
)
from attnspec.dsl.check_report import Report

_FLAT = COMPARISONS | LOGIC | {"floor", "ceil", "sign", "stopgrad", "floordiv"}


def check_gradients(spec: Spec, report: Report) -> None:
    """Warn of params and float inputs that are used and get no gradient."""
    roots = [result.expr for result in spec.returns]
    if spec.output is not None:
        roots.insert(0, spec.output)
    plain = _Flow(spec, removing=False)
    kept = _Flow(spec, removing=True)
    for expr in roots:
        plain.visit(expr, frozenset())
        kept.visit(expr, frozenset())
    lost = plain.reached - kept.reached
    for term, axis in kept.removed:
        flow = _Flow(spec, removing=False)
        flow.visit(term, frozenset())
        names = sorted(flow.reached & lost)
        if names:
            lost -= set(names)
            report.warn(
                "W301",
                "softmax removes this term",
                term.span,
                f"the same at every `{axis}`, so that `{names[0]}` has no effect",
                f"let it depend on `{axis}`, or remove it",
            )
    for decl in spec.decls:
        is_param = decl.form is Form.PARAM and decl.kind is Kind.FLOAT
        if is_param and decl.name not in plain.reached:
            report.warn(
                "W302",
                f"param `{decl.name}` gets no gradient",
                decl.span,
                "it reaches the result only through comparisons, rounding or `stopgrad`",
                "declare it as an `input`, or use it where the result is differentiable in it",
            )


class _Flow:
    """Which params and float inputs the result depends on differentiably.

    With `removing`, terms that a softmax removes are passed over and kept in `removed`.
    """

    def __init__(self, spec: Spec, removing: bool) -> None:
        self.spec = spec
        self.removing = removing
        self.reached: set[str] = set()
        self.removed: list[tuple[Expr, str]] = []
        self._sources = {
            d.name
            for d in spec.decls
            if d.kind is Kind.FLOAT and d.form in (Form.PARAM, Form.INPUT)
        }
        self._defs = {d.name: d for d in spec.defs}
        self._seen: set[tuple[int, frozenset[int]]] = set()

    def visit(self, expr: Expr, without: frozenset[int]) -> None:
        """Follow `expr`, but not into the nodes whose ids are in `without`."""
        stack = [(expr, without)]
        while stack:
            node, gone = stack.pop()
            if id(node) in gone or (id(node), gone) in self._seen:
                continue
            self._seen.add((id(node), gone))
            if isinstance(node, Normalize) and node.op == "softmax" and node.sink is None:
                terms = list(_row_terms(node.body, frozenset(node.axes), self._defs))
                if self.removing:
                    self.removed += [(term, node.axes[0]) for term in terms]
                    stack.append((node.body, gone | {id(term) for term in terms}))
                    continue
            if isinstance(node, Read) and node.name in self._sources:
                self.reached.add(node.name)
            stack.extend((part, gone) for part in parts_with_gradient(self.spec, node))


def parts_with_gradient(spec: Spec, node: Expr) -> Iterator[Expr]:
    """The expressions directly under `node`, or defining it, that it is differentiable in."""
    match node:
        case Read(name, _, pad):
            definition, state = spec.definition(name), spec.state(name)
            if definition is not None:
                yield definition.expr
            elif state is not None:
                yield state.init
                yield state.step
            if pad is not None:
                yield pad
        case Apply("where", (_, a, b)):
            yield a
            yield b
        case Apply(op):
            if op not in _FLAT:
                yield from node.args
        case Reduce(op, _, body):
            if op not in ("any", "all", "argmax"):
                yield body
        case Normalize(_, _, body, _, _, sink, alpha):
            yield from (part for part in (body, sink, alpha) if part is not None)
        case Rank() | Random():
            return
        case _:
            yield from children(node)


def _row_terms(
    expr: Expr, axes: frozenset[str], defs: dict[str, Def], depth: int = 50
) -> Iterator[Expr]:
    """The summands of `expr` that are free of `axes`: a softmax over them removes those."""
    if depth == 0:
        return
    if not expr.free & axes:
        yield expr
        return
    match expr:
        case Apply("add" | "sub" | "neg", args):
            for arg in args:
                yield from _row_terms(arg, axes, defs, depth - 1)
        case Apply("mul", (a, b)):
            if not b.free & axes:
                yield from _row_terms(a, axes, defs, depth - 1)
            elif not a.free & axes:
                yield from _row_terms(b, axes, defs, depth - 1)
        case Apply("div", (a, b)) if not b.free & axes:
            yield from _row_terms(a, axes, defs, depth - 1)
        case Read(name, index) if name in defs:
            own = defs[name].axes
            here = tuple(part.axis for part in index if isinstance(part, Index))
            if here == own:
                yield from _row_terms(defs[name].expr, axes, defs, depth - 1)
