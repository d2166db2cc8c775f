"""A spec as others' attention has it: weights of one dot product, a mask, a sum of values.

Read from the checked tree alone, so that what a spec is timed beside says what the spec says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attnspec.dsl import ast
from attnspec.runtime.axes import side

_PAIR = frozenset({"i", "j"})


class Unfit(Exception):
    """Why an implementation cannot say what the spec says."""


@dataclass(frozen=True, slots=True)
class Form:
    """output = epilogue(sum(j, weight * value)), where the weight reads `query` . `key` once.

    `scaled` is the dot product with the constant factors around it, `score` what the softmax takes
    (None where the weight is none, whole: then `weight` is any function of the dot product).
    """

    total: ast.Reduce
    weight: ast.Expr
    value: ast.Expr
    dot: ast.Contract
    scaled: ast.Expr
    score: ast.Expr | None
    sink: ast.Expr | None
    masked: bool

    @property
    def query(self) -> ast.Expr:
        """The side of the dot product that belongs to the query."""
        return self.dot.right if "i" in self.dot.right.free else self.dot.left

    @property
    def key(self) -> ast.Expr:
        """The side that belongs to the key."""
        return self.dot.left if "i" in self.dot.right.free else self.dot.right

    @property
    def channel(self) -> str:
        """The channel axis of the values."""
        return next(iter(self.total.free - {"b", "h", "i"}))


def form(spec: ast.Spec) -> Form:
    """The form of `spec`; `Unfit` where it has another."""
    if spec.output is None or spec.token != "i" or spec.states:
        raise Unfit("it is no sum over keys")
    if spec.returns:
        raise Unfit("it returns more than an output")
    whole = inlined(spec, spec.output)
    sums = [n for n in ast.walk(whole) if isinstance(n, ast.Reduce) and "j" in n.axes]
    if len(sums) != 1 or sums[0].op != "sum" or sums[0].axes != ("j",) or sums[0].where is not None:
        raise Unfit("its output is not made of one sum over the keys")
    total = sums[0]
    weight, value = _factors(spec, total)
    if len(total.free - {"b", "h", "i"}) != 1:
        raise Unfit("its values are not vectors")
    score, sink = None, None
    if isinstance(weight, ast.Normalize):
        if weight.op != "softmax" or weight.axes != ("j",) or weight.where is not None:
            raise Unfit("its weights are no softmax over all keys")
        score, sink = inlined(spec, weight.body), weight.sink
    within = tuple(pairwise(spec, weight if score is None else score))
    dots = [node for node in within if isinstance(node, ast.Contract)]
    if len(dots) != 1:
        raise Unfit(f"its weights read {len(dots) or 'no'} dot products")
    dot = dots[0]
    if len(dot.axes) != 1 or dot.left.free >= _PAIR or dot.right.free >= _PAIR:
        raise Unfit("its dot product is not of one query and one key")
    scaled = next(node for node in within if _multiple(spec, node, dot))
    masked = total.mask is not None or (isinstance(weight, ast.Normalize) and bool(weight.mask))
    return Form(total, weight, value, dot, scaled, score, sink, masked)


def _factors(spec: ast.Spec, total: ast.Reduce) -> tuple[ast.Expr, ast.Expr]:
    """Weight and value of a sum over the keys."""
    body = inlined(spec, total.body)
    if not isinstance(body, ast.Apply) or body.op != "mul":
        raise Unfit("its sum over the keys is of no product")
    factors = [inlined(spec, factor) for factor in body.args]
    weights = [factor for factor in factors if "i" in factor.free]
    values = [factor for factor in factors if "i" not in factor.free]
    if len(weights) != 1 or len(values) != 1:
        raise Unfit("its values depend on the query")
    if not weights[0].free <= {"b", "h", "i", "j"}:
        raise Unfit("its weights are vectors")
    return weights[0], values[0]


def inlined(spec: ast.Spec, node: ast.Expr) -> ast.Expr:
    """What a read of a definition at its own indices stands for; anything else is itself."""
    while isinstance(node, ast.Read) and node.pad is None:
        definition = spec.definition(node.name)
        if definition is None or node.index != own(definition):
            break
        node = definition.expr
    return node


def own(definition: ast.Def) -> tuple[ast.Expr, ...]:
    """The indices that a definition has itself."""
    return tuple(ast.Index(axis, kind=ast.Kind.INT) for axis in definition.axes)


def pairwise(spec: ast.Spec, whole: ast.Expr) -> Iterator[ast.Expr]:
    """Every node of `whole` that depends on a query and a key, definitions inlined, each once."""
    seen: set[int] = set()
    stack = [whole]
    while stack:
        node = inlined(spec, stack.pop())
        if id(node) in seen or not over_pairs(spec, node):
            continue
        seen.add(id(node))
        yield node
        stack += ast.children(node)


def over_pairs(spec: ast.Spec, node: ast.Expr) -> bool:
    """Whether a value depends on a token of either side."""
    return {"i", "j"} <= {side(spec, axis) for axis in node.free}


def terms(spec: ast.Spec, whole: ast.Expr, of: ast.Expr) -> tuple[tuple[int, ast.Expr], ...] | None:
    """The signs and summands beside `of` in a sum; None where `of` is in no sum, or subtracted."""
    whole = inlined(spec, whole)
    if whole is of:
        return ()
    match whole:
        case ast.Apply(op="add" | "sub" as op, args=(left, right)):
            signs = {"add": (1, 1), "sub": (1, -1)}[op]
            for sign, here, other, apart in (
                (signs[0], left, right, signs[1]),
                (signs[1], right, left, signs[0]),
            ):
                if any(node is of for node in pairwise(spec, here)):
                    found = terms(spec, here, of) if sign > 0 else None
                    return None if found is None else ((apart, other), *found)
    return None


def _multiple(spec: ast.Spec, node: ast.Expr, dot: ast.Expr) -> bool:
    """Whether `node` is `dot` times and over numbers that are the same for the whole call."""
    node = inlined(spec, node)
    match node:
        case ast.Apply(op="mul" | "div", args=(left, right)) if _number(spec, right):
            return _multiple(spec, left, dot)
        case ast.Apply(op="mul", args=(left, right)) if _number(spec, left):
            return _multiple(spec, right, dot)
    return node is dot


def _number(spec: ast.Spec, node: ast.Expr) -> bool:
    """Whether a node is a number of the call, and not a learned one."""
    reads = (n for n in ast.walk(node) if isinstance(n, ast.Read))
    decls = [spec.decl(n.name) for n in reads]
    return not node.free and all(d is not None and d.form is not ast.Form.PARAM for d in decls)
