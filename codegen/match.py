"""Finding the first family's form in a spec: `sum(j, weight * value)` and what is around it."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.plan_types import (
    Unsupported,
)
from attnspec.dsl.analysis.inlining import PAIR, inline
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Kind,
    Literal,
    Normalize,
    Read,
    Reduce,
    Spec,
    walk,
)


@dataclass(frozen=True, slots=True)
class Match:
    """What was found: the node to compute, its weight's parts, the value and the gate."""

    result: Reduce
    normalizer: Normalize | None
    score: Expr
    sink: Expr | None
    value: Expr
    gate: Expr | None
    gated: Expr | None


def match_output(spec: Spec) -> Match:
    """Find the first family's form in the output; `Unsupported` says what is in the way."""
    if spec.output is None:
        raise Unsupported("no output: the weights themselves are what is returned")
    if spec.states or spec.token != "i":
        raise Unsupported("a recurrence")
    output = inline(spec, spec.output)
    sums = list(dict.fromkeys(
        n for n in walk(output)
        if isinstance(n, Reduce) and n.axes == ("j",) and n.body.free.union(n.mask or ()) >= PAIR
    ))  # fmt: skip
    if len(sums) != 1:
        kind = "no sum over j" if not sums else f"{len(sums)} different sums over j"
        raise Unsupported(f"{kind} of pairwise terms")
    found = sums[0]
    if found.op != "sum" or found.where is not None:
        raise Unsupported(f"a pairwise {found.op}" if found.op != "sum" else "a sum with where=")
    weights: list[Expr] = []
    values: list[Expr] = []
    for factor in _factors(found.body):
        (weights if "i" in factor.free or factor.free <= {"b", "h", "j"} else values).append(factor)
    if not values:
        raise Unsupported("a sum over j without a value vector")
    value = _product(values)
    softmaxes = [w for w in weights if isinstance(w, Normalize)]
    rest = [w for w in weights if not isinstance(w, Normalize)]
    if any(w.free - {"b", "h", "i", "j"} for w in weights):
        raise Unsupported("a weight that is a vector, or a value that depends on the query")
    gate, gated = _gate(output, found)
    if not softmaxes:
        pointwise(spec, _product(weights))
        return Match(found, None, _product(weights), None, value, gate, gated)
    if len(softmaxes) > 1 or any(w.free >= PAIR for w in rest):
        raise Unsupported("a softmax times another pairwise factor")
    # what depends on one token alone scales the values, or the sum of a query
    value = _product([*(w for w in rest if "i" not in w.free), value])
    scales: list[Expr] = [w for w in rest if "i" in w.free]
    if gate is not None:
        scales.append(gate)
    gate = _product(scales) if scales else None
    softmax = softmaxes[0]
    if softmax.op != "softmax" or softmax.axes != ("j",) or softmax.where is not None:
        raise Unsupported(f"`{softmax.op}` over {', '.join(softmax.axes)} with other indices")
    if softmax.mask != found.mask:
        raise Unsupported("a softmax without the mask")
    sink = softmax.sink
    if sink is not None and "j" in sink.free:
        raise Unsupported("a sink that depends on the key")
    if sink is not None and any(n.free >= PAIR for n in walk(sink)):
        raise Unsupported("a sink that is itself a pairwise reduction")
    pointwise(spec, softmax.body)
    return Match(found, softmax, softmax.body, sink, value, gate, gated)


def pointwise(spec: Spec, expr: Expr) -> None:
    """Raise `Unsupported` unless `expr` is pointwise over pairs."""
    for node in walk(expr):
        if node.free >= PAIR and not isinstance(node, Apply | Read | Contract):
            raise Unsupported(f"a pairwise {type(node).__name__.lower()} inside the weight")
        found = spec.definition(node.name) if isinstance(node, Read) else None
        if found is not None and node.free >= PAIR and PAIR.issubset(found.axes):
            raise Unsupported(f"`{found.name}` is read at other indices than its own")


def _factors(expr: Expr) -> list[Expr]:
    match expr:
        case Apply(op="mul", args=args):
            return [f for a in args for f in _factors(a)]
        case Apply(op="div", args=(a, b)) if any(n.free >= PAIR for n in walk(a)):
            one = Literal(1.0, kind=Kind.FLOAT)
            return [*_factors(a), Apply("div", (one, b), kind=Kind.FLOAT)]
        case Apply(op="neg", args=(a,)) if any(n.free >= PAIR for n in walk(a)):
            return [Literal(-1.0, kind=Kind.FLOAT), *_factors(a)]
    return [expr]


def _product(factors: list[Expr]) -> Expr:
    product = factors[0]
    for factor in factors[1:]:
        product = Apply("mul", (product, factor), kind=Kind.FLOAT)
    return product


def _gate(output: Expr, core: Expr) -> tuple[Expr | None, Expr | None]:
    """(gate, gated node) when the whole output is the sum times factors of the query alone."""
    factors = _factors(output)
    others = [f for f in factors if f != core]
    if len(others) + 1 != len(factors) or not others or any(core in walk(f) for f in others):
        return None, None
    gate = _product(others)
    return (None, None) if not gate.free <= output.free else (gate, output)
