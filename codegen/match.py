"""What one pass computes: a sum over a token axis of weighted values, as its parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Literal as OneOf

from attnspec.codegen.by_entry import Places, entry_of
from attnspec.codegen.entmax import THRESHOLD
from attnspec.codegen.plan_types import Result, Unsupported
from attnspec.codegen.rewrite import log_sum_exp, mask_at
from attnspec.codegen.rewrite_ranks import CUTS
from attnspec.codegen.running import running
from attnspec.codegen.terms import FIRST, ONE, PLACE, ZERO, factors_of, times
from attnspec.codegen.token_axes import base, over_pairs, tokens
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Kind,
    Normalize,
    Random,
    Rank,
    Read,
    Reduce,
    Role,
    Spec,
    children,
    walk,
)
from attnspec.dsl.build import add

Side = OneOf["i", "j"]
_CHANNELS = frozenset({Role.CHANNEL, Role.CONCAT})


@dataclass(frozen=True, slots=True)
class Weight:
    """A softmax of `score`, with a `sink` or not, times its `coefficient`, a number of the row, if
    it has one; or `score` itself."""

    softmax: bool
    score: Expr
    sink: Expr | None = None
    coefficient: Expr | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A sum over `column` for every `row`: of the sum of `weights`, times `value` if there is one,
    at the pairs of the mask at `mask` where `where` holds; for every index of `lanes`, too.

    `node` is what is computed: that sum, a log-sum-exp, (`form` "map") the weight of a pair,
    (`form` "entries") the sum for every entry at `places`, (`form` "blocks") for every block of
    columns, (`form` "position") the place of the
    largest weight of a row, (`form` "threshold") the number t of a row at which
    tempered(score - t, `order`) sums to 1, or (`form` "cuts") the cuts around the `order` largest
    of a row. What is `still` has no gradient.
    `gated` is the node times `gate`, a factor of the row, if it is all of the output.
    """

    node: Expr
    form: Result
    row: str
    column: str
    weights: tuple[Weight, ...]
    value: Expr | None = None
    mask: tuple[str, str] | None = None
    where: Expr | None = None
    gate: Expr | None = None
    gated: Expr | None = None
    places: Places = ()
    order: Expr | None = None
    still: bool = False

    @property
    def lanes(self) -> tuple[str, ...]:
        """What a pair has a number for each of, as it has for each head."""
        parts = [x for w in self.weights for x in (w.score, w.sink, w.coefficient)]
        free = frozenset().union(*(x.free for x in (*parts, self.where, self.order) if x))
        return tuple(sorted(free - {"b", "h", self.row, self.column}))

    def softmax(self, weight: Weight) -> Normalize:
        """The softmax that a weight is."""
        axes = (self.column,)
        return Normalize("softmax", axes, weight.score, self.where, self.mask, weight.sink,
                         kind=Kind.FLOAT)  # fmt: skip

    @property
    def log_sum_exps(self) -> list[Expr | None]:
        """The node that is equal to the log-sum-exp of the rows, which such a pass gives too, for
        each weight that is a softmax."""
        return [log_sum_exp(self.softmax(w)) if w.softmax else None for w in self.weights]


def match_reduce(spec: Spec, node: Reduce, output: Expr | None = None) -> Match:
    """The parts of a reduction over pairs; `Unsupported` says what is in the way. `output` is the
    whole output, where the node stands in that."""
    row, column = _sides(spec, node)
    if node.op == "logsumexp":
        pointwise(spec, node.body, row, column)
        return Match(node, "number", row, column, (Weight(True, node.body),), mask=node.mask,
                     where=node.where)  # fmt: skip
    if node.op in (PLACE, THRESHOLD, *CUTS):
        form: Result = "position"
        score, order = node.body, None
        if node.op == THRESHOLD:
            assert isinstance(score, Apply)
            form, (score, order) = "threshold", score.args
        elif node.op in CUTS:
            assert isinstance(score, Apply)
            form, (rank, order) = "cuts", score.args
            assert isinstance(rank, Rank)
            score = rank.body if column in rank.body.free else FIRST
        pointwise(spec, score, row, column)
        return Match(node, form, row, column, (Weight(False, score),), mask=node.mask,
                     where=node.where, order=order, still=True)  # fmt: skip
    if node.op != "sum":
        raise Unsupported(f"a pairwise {node.op}")
    here = frozenset({"b", "h", row, column})
    body, still = node.body, False
    if isinstance(body, Apply) and body.op == "stopgrad" and body.free <= here:
        body, still = body.args[0], True  # to be rounded as with a gradient
    weights: list[Expr] = []
    values: list[Expr] = []
    for factor in factors_of(body, frozenset({row, column})):
        (weights if row in factor.free or factor.free <= here else values).append(factor)
    gate, gated = (None, None) if output is None else _gate(output, node, here)
    places, where = entry_of(spec, node)
    normal = any(isinstance(n, Normalize) and over_pairs(spec, n) for w in weights for n in walk(w))
    apart = frozenset().union(*(x.free for x in values)) - here
    if not normal and apart <= _vectors(weights, where) - here:
        weights, values = [*weights, *values], []  # a number for every lane
    value = times(values) if values else None
    if value is None:  # numbers have no gate
        gate = gated = None
    if places:
        if value is not None or _vectors(weights, where) & {axis for axis, _ in places}:
            raise Unsupported("vectors by the entry of a table")
        weight = times(weights) if weights else ONE
        pointwise(spec, weight, row, column)
        return Match(node, "entries", row, column, (Weight(False, weight),), mask=node.mask,
                     where=where, places=places)  # fmt: skip
    form = "number" if value is None else "vector"
    sums = [w for w in weights if _mixture(spec, w)]
    of_key = [w for w in weights if w not in sums]
    if len(sums) == 1 and value is not None and not any(row in w.free for w in of_key):
        mixed, value = _mixture(spec, sums[0]), times([*of_key, value])
        for each in mixed:
            pointwise(spec, each.score, row, column)
        return Match(node, form, row, column, mixed, value, node.mask, node.where, gate, gated)
    softmaxes = [w for w in weights if isinstance(w, Normalize) and over_pairs(spec, w)]
    if not softmaxes:
        weight = times(weights) if weights else ONE
        pointwise(spec, weight, row, column)
        return Match(node, form, row, column, (Weight(False, weight),), value, node.mask,
                     node.where, gate, gated, still=still)  # fmt: skip
    rest = [w for w in weights if w is not softmaxes[0]]
    softmax = softmaxes[0]
    if len(softmaxes) > 1 or any(w.free >= {row, column} for w in rest) or value is None:
        raise Unsupported("a softmax times another pairwise factor")
    if softmax.op != "softmax" or (softmax.axes, softmax.mask, softmax.where) != (
        (column,),
        node.mask,
        node.where,
    ):
        raise Unsupported(f"`{softmax.op}` over {', '.join(softmax.axes)} with other indices")
    # what depends on one token alone scales the values, or the sum of a query
    value = times([*(w for w in rest if row not in w.free), value])
    scales: list[Expr] = [w for w in rest if row in w.free]
    if scales and gated is None:
        gated = node
    if gate is not None:
        scales.append(gate)
    if softmax.sink is not None and column in softmax.sink.free:
        raise Unsupported("a sink that depends on the key")
    pointwise(spec, softmax.body, row, column)
    return Match(node, form, row, column, (Weight(True, softmax.body, softmax.sink),), value,
                 node.mask, node.where, times(scales) if scales else None, gated)  # fmt: skip


def _vectors(weights: list[Expr], where: Expr | None) -> frozenset[str]:
    """Whatever weights and the choice of pairs depend on."""
    parts = weights if where is None else [*weights, where]
    return frozenset().union(*(x.free for x in parts))


def _mixture(spec: Spec, expr: Expr) -> tuple[Weight, ...]:
    """A sum of softmaxes, each times numbers of the row, and of what is none, which is one weight;
    nothing where there is no softmax among its terms."""
    if not isinstance(expr, Apply) or expr.op != "add":
        return ()
    found: list[Weight] = []
    rest: list[Expr] = []
    for term in expr.args:
        parts = factors_of(term, frozenset())
        softmax = next((x for x in parts if isinstance(x, Normalize) and over_pairs(spec, x)), None)
        if softmax is None:
            rest.append(term)
        else:
            factors = [x for x in parts if x not in (softmax, ONE)]
            coefficient = times(factors) if factors else None
            found.append(Weight(True, softmax.body, softmax.sink, coefficient))
    if found and rest:
        found.append(Weight(False, reduce(add, rest)))
    return tuple(found)


def match_map(spec: Spec, node: Expr) -> Match:
    """The parts of an expression of pairs that is itself wanted."""
    row, column = _sides(spec, node)
    mask, weight = None, node
    if isinstance(node, Apply) and node.op == "where" and node.args[2] == ZERO:
        condition, inside, _ = node.args
        if spec.mask is not None and condition == mask_at(spec, (row, column)):
            mask, weight = (row, column), inside
    if weight.free - {"b", "h", row, column}:
        raise Unsupported("a vector for every pair")
    if weight.kind is not Kind.FLOAT:
        raise Unsupported(f"{weight.kind.value} values for every pair")
    pointwise(spec, weight, row, column)
    return Match(node, "map", row, column, (Weight(False, weight),), mask=mask)


def match_blocks(spec: Spec, node: Apply) -> Match:
    """The parts of what the blocks of tokens before a pair's own add to a running sum: the sum of
    each block."""
    found = running(spec, node.args[0])
    assert found is not None
    pointwise(spec, found.body, found.other, found.side)
    return Match(node, "blocks", found.other, found.side, (Weight(False, found.body),),
                 mask=found.mask, where=found.where)  # fmt: skip


def _sides(spec: Spec, node: Expr) -> tuple[str, str]:
    """Row and column axis."""
    if isinstance(node, Reduce):
        if len(node.axes) != 1:
            raise Unsupported("a reduction over pairs and another axis")
        column = node.axes[0]
        rows = tokens(spec, node.free)
    else:
        column = "j" if "j" in node.free else max(tokens(spec, node.free))
        rows = tokens(spec, node.free) - {column}
    if len(rows) != 1:
        raise Unsupported("an expression of three tokens")
    return next(iter(rows)), column


def pointwise(spec: Spec, expr: Expr, row: str = "i", column: str = "j") -> None:
    """Raise `Unsupported` unless `expr` is pointwise over pairs; what belongs to one token at most
    may be anything."""
    seen, stack = set[int](), [expr]
    while stack:
        node = stack.pop()
        if id(node) in seen or not node.free >= {row, column}:
            continue
        seen.add(id(node))
        sum_of = running(spec, node)
        if sum_of is not None:
            stack.append(sum_of.term(spec))
            continue
        stack.extend(children(node))
        if _inside(spec, node, frozenset({row, column})):
            continue
        if not isinstance(node, Apply | Read | Contract | Random):
            raise Unsupported(_why(spec, node))
        found = spec.definition(node.name) if isinstance(node, Read) else None
        if found is not None and {row, column}.issubset(found.axes):
            raise Unsupported(f"`{found.name}` is read at other indices than its own")


def _why(spec: Spec, node: Expr) -> str:
    """Why no tile computes a number of a pair."""
    what = node.op if isinstance(node, Reduce | Normalize) else type(node).__name__.lower()
    axes = node.axes if isinstance(node, Reduce | Normalize) else ()
    if any(base(spec, axis) == "h" for axis in axes):
        return f"a pairwise {what} over heads: a tile has the scores of one head"
    if isinstance(node, Rank):
        return "a rank as a number of a pair: a tile has no whole row to count in"
    return f"a pairwise {what} inside the weight"


def _inside(spec: Spec, node: Expr, pair: frozenset[str]) -> bool:
    """Whether a tile computes a reduction or a normaliser: over channels, or a sum over heads of
    dot products."""
    if not isinstance(node, Reduce | Normalize):
        return False
    roles = {spec.axis(base(spec, axis)).role for axis in node.axes}
    if roles <= _CHANNELS or isinstance(node, Normalize):
        return roles <= _CHANNELS
    both = [x for x in factors_of(node.body, pair) if x.free >= pair]
    products = len(both) == 1 and isinstance(both[0], Contract)
    heads = roles <= {*_CHANNELS, Role.HEAD} and "h" not in node.axes
    return heads and node.op in ("sum", "mean") and products


def _gate(output: Expr, core: Expr, here: frozenset[str]) -> tuple[Expr | None, Expr | None]:
    """(gate, gated node) when the whole output is the sum times factors of the query alone."""
    factors = factors_of(output, here - {"b", "h"})
    others = [f for f in factors if f != core]
    if len(others) + 1 != len(factors) or not others or any(core in walk(f) for f in others):
        return None, None
    gate = times(others)
    return (None, None) if not gate.free <= output.free else (gate, output)
