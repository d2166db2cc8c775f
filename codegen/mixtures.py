"""Several sums over the same pairs as one: sums, differences and mixtures of softmaxes.

`softmax(a) - lam * softmax(b)` times values is two sums, which read the same values at the same
pairs, and the gradients of whose weights are the same product. So one pass computes both: the sum
of the values, each times the sum of all weights of its pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

from attnspec.codegen.match import Match, match_reduce
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite import log_sum_exp, reached
from attnspec.codegen.terms import MINUS, ONE, factors_of, times
from attnspec.codegen.token_axes import over_pairs
from attnspec.dsl.analysis.positions import rebuild
from attnspec.dsl.ast import Apply, Contract, Expr, Kind, Normalize, Reduce, Spec, walk
from attnspec.dsl.build import add

PRODUCTS = 4  # of queries and keys in one pass, whose tiles hold the operands of all of them


@dataclass(frozen=True, slots=True)
class _Term:
    """A sum of one weight times values, times numbers of its row, the `factors`."""

    node: Reduce
    found: Match
    factors: tuple[Expr, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """What several must share."""
        found = self.found
        return found.row, found.column, found.lanes, found.mask, found.where, found.value


def joined(spec: Spec, exprs: Sequence[Expr]) -> list[Expr]:
    """Expressions in the forms of passes, with sums of the same values at the same pairs as one
    where there is a softmax among them; but what is needed alone, too, stays."""
    apart: set[Expr] = set()
    while True:
        joiner = _Joiner(spec, apart)
        found = [joiner.visit(expr) for expr in exprs]
        alone = {n for expr in found for n in walk(expr) if n in joiner.taken}
        if not alone:
            return found
        apart |= alone


@dataclass(slots=True)
class _Joiner:
    spec: Spec
    apart: set[Expr]
    taken: set[Expr] = field(default_factory=set)
    _done: dict[Expr, Expr] = field(default_factory=dict)

    def visit(self, node: Expr) -> Expr:
        if not any(isinstance(n, Normalize) for n in walk(node)):
            return node
        if node not in self._done:
            self._done[node] = self._visit(node)
        return self._done[node]

    def _visit(self, node: Expr) -> Expr:
        if not isinstance(node, Apply) or node.op not in ("add", "sub"):
            return rebuild(node, self.visit)
        terms = list(self._terms(node, ()))
        groups: dict[tuple[object, ...], list[_Term]] = {}
        for term in terms:
            if isinstance(term, _Term):
                groups.setdefault(term.key, []).append(term)
        sums = {key: self._one(found) for key, found in groups.items() if self._together(found)}
        if not sums:
            return rebuild(node, self.visit)
        others = [t for t in terms if not isinstance(t, _Term) or t.key not in sums]
        whole = [t if not isinstance(t, _Term) else times([*t.factors, t.node]) for t in others]
        return reduce(add, [*sums.values(), *map(self.visit, whole)])

    def _terms(self, node: Expr, factors: tuple[Expr, ...]) -> Iterator[_Term | Expr]:
        """The summands of `node` times `factors`."""
        match node:
            case Apply(op="add", args=args):
                for arg in args:
                    yield from self._terms(arg, factors)
            case Apply(op="sub", args=(a, b)):
                yield from self._terms(a, factors)
                yield from self._terms(b, (*factors, MINUS))
            case _:
                yield self._term(node, factors) or times([*factors, node])

    def _term(self, node: Expr, factors: tuple[Expr, ...]) -> _Term | None:
        parts = factors_of(node, frozenset())
        sums = [x for x in parts if isinstance(x, Reduce) and over_pairs(self.spec, x)]
        if len(sums) != 1 or sums[0] in self.apart:
            return None
        try:
            found = match_reduce(self.spec, sums[0])
        except Unsupported:
            return None
        others = (*factors, *(x for x in parts if x is not sums[0]))
        others += () if found.gate is None else (found.gate,)
        if found.form != "vector" or found.still or len(found.weights) > 1:
            return None
        if any(x.free - {"b", "h", found.row} for x in others):
            return None
        return _Term(sums[0], found, others)

    def _together(self, terms: list[_Term]) -> bool:
        """Whether one pass is to compute several sums: not if one is scaled by what another one's
        pass has to give first, its log-sum-exp."""
        weights = [(t.found, t.found.weights[0]) for t in terms]
        softmaxes = {found.softmax(weight) for found, weight in weights if weight.softmax}
        if not softmaxes or len(terms) < 2:
            return False
        pair = {terms[0].found.row, terms[0].found.column}
        scores = [weight.score for _, weight in weights]
        nodes = (node for score in scores for node in walk(score))
        products = {n for n in nodes if isinstance(n, Contract) and n.free >= pair}
        several = len(softmaxes) + any(not weight.softmax for _, weight in weights)
        if max(several, len(products)) > PRODUCTS:
            return False
        totals = {log_sum_exp(softmax) for softmax in softmaxes}
        factors = [factor for term in terms for factor in term.factors]
        return totals.isdisjoint(reached(self.spec, *factors))

    def _one(self, terms: list[_Term]) -> Expr:
        """The sum of all of them: a softmax that several have counts once."""
        self.taken |= {term.node for term in terms}
        found, scales, rest = terms[0].found, dict[Expr, list[Expr]](), list[Expr]()
        for term in terms:
            weight = term.found.weights[0]
            if weight.softmax:
                softmax = found.softmax(weight)
                scales.setdefault(softmax, []).append(times([*term.factors] or [ONE]))
            else:
                rest.append(times([*term.factors, weight.score]))
        weights = [times([reduce(add, scale), softmax]) for softmax, scale in scales.items()]
        assert found.value is not None
        total = Apply("add", (*weights, *rest), kind=Kind.FLOAT)
        body = times([total if len(total.args) > 1 else total.args[0], found.value])
        node = Reduce("sum", (found.column,), body, found.where, found.mask, kind=Kind.FLOAT)
        return rebuild(node, self.visit)
