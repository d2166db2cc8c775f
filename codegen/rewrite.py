"""Pairwise expressions in the forms that a pass computes.

A pass sums over one token axis: a softmax over that axis times values, or any pointwise function
of pairs. So a sum of several softmaxes becomes a sum of sums, a softmax in any other place is
written as exp(x - logsumexp(x)) with the log-sum-exp a sum of its own, and a mean is a quotient.
An entmax is written over the threshold of its row, which sums find.
The largest value of a row is a sum of one pair, which a pass before it has found: so it has a
gradient like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from attnspec.codegen.by_entry import at_entry, counted, table_of
from attnspec.codegen.entmax import weights
from attnspec.codegen.finite import Finite
from attnspec.codegen.lookups import Lookup
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.rewrite_mixed import pulled_out, spread_out
from attnspec.codegen.rewrite_products import as_sum
from attnspec.codegen.rewrite_ranks import CUTS, as_less, chosen
from attnspec.codegen.terms import (
    FIRST,
    LOWEST,
    MINUS,
    ONE,
    PLACE,
    ZERO,
    both,
    factors_in,
    negative,
    opposite,
    times,
)
from attnspec.codegen.token_axes import base, ends, over_pairs, renamed, tokens
from attnspec.dsl.analysis.positions import coordinates, rebuild
from attnspec.dsl.ast import (
    Apply,
    Contract,
    Expr,
    Index,
    Kind,
    Literal,
    Normalize,
    Random,
    Rank,
    Read,
    Reduce,
    Size,
    Spec,
    walk,
)
from attnspec.dsl.build import substitute
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_rows import every_row_has_a_pair

_FLOAT = Kind.FLOAT


def canonical(spec: Spec, expr: Expr, within: tuple[str, str] | None = None) -> Expr:
    """`expr`, which counts at pairs of the mask at the two variables `within` (None: everywhere),
    with what runs over pairs in the forms of a pass; may raise `Unsupported`."""
    return _Rewriter(spec).visit(written_out(spec, expr), within)


# Definitions


def defined(spec: Spec, name: str) -> Expr:
    """A definition at its own indices in canonical form."""
    found = spec.definition(name)
    assert found is not None
    return canonical(spec, found.expr)


def reached(spec: Spec, *exprs: Expr) -> Iterator[Expr]:
    """Every node of expressions and of the definitions of one token that they read."""
    seen: set[str] = set()
    stack = list(exprs)
    while stack:
        for node in walk(stack.pop()):
            yield node
            if isinstance(node, Read) and node.name not in seen and of_token(spec, node):
                seen.add(node.name)
                stack.append(defined(spec, node.name))


def of_token(spec: Spec, read: Read) -> bool:
    """Whether what is read is a definition over one token at most."""
    found = spec.definition(read.name)
    return found is not None and len(tokens(spec, frozenset(found.axes))) < 2


def written_out(spec: Spec, expr: Expr) -> Expr:
    """`expr` with every definition over pairs, or made of something over pairs, written out.

    One that is read at other indices than variables (`S[i, last]`), of one token at another head or
    channel, at another head than that of its random numbers, at an index that it sums over itself,
    or for the other side where the call may give that side a tensor of its own, stays a `Read`.
    """
    done: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr:
        if node not in done:
            done[node] = _written(node)
        return done[node]

    def _written(node: Expr) -> Expr:
        found = spec.definition(node.name) if isinstance(node, Read) else None
        if found is None or not isinstance(node, Read):
            return rebuild(node, visit)
        body = visit(found.expr)
        run = tokens(spec, frozenset(found.axes))
        if len(run) < 2 and not any(over_pairs(spec, n) for n in walk(body)):
            return rebuild(node, visit)
        names: dict[str, str] = {}
        if len(run) > 1 and not all(isinstance(at, Index) for at in node.index):
            return _placed(spec, node, body, visit)
        for axis, at in zip(found.axes, node.index, strict=True):
            if not isinstance(at, Index) or (len(run) < 2 and axis not in run and at.axis != axis):
                return rebuild(node, visit)
            names[axis] = at.axis
            if base(spec, at.axis) != base(spec, axis) and _of_side(spec, body, axis):
                return rebuild(node, visit)
        apart = _own_mask_written(spec, body, {axis for axis, at in names.items() if axis != at})
        if apart is None:
            return rebuild(node, visit)
        try:
            return renamed(apart, names)
        except Unsupported:
            return rebuild(node, visit)

    return visit(expr)


def _own_mask_written(spec: Spec, body: Expr, axes: set[str]) -> Expr | None:
    """`body`, of which `axes` are to be read elsewhere, with the mask of its own batch and head
    written out as a condition; None for random numbers, which have no other head."""
    axes &= {"b", "h"}
    if axes and any(isinstance(n, Random) for n in walk(body)):
        return None
    if spec.mask is None or not axes & spec.mask.free:
        return body

    def visit(node: Expr) -> Expr:
        built = rebuild(node, visit)
        if not isinstance(built, Reduce | Normalize) or built.mask is None:
            return built
        allowed = mask_at(spec, built.mask)
        where = allowed if built.where is None else both(built.where, allowed)
        return replace(built, where=where, mask=None)

    return visit(body)


def _placed(spec: Spec, read: Read, body: Expr, visit: Callable[[Expr], Expr]) -> Expr:
    """A definition over pairs, `body`, at computed indices: 0 for a weight outside the mask."""
    found = spec.definition(read.name)
    assert found is not None
    elsewhere = {
        axis
        for axis, x in zip(found.axes, read.index, strict=True)
        if not isinstance(x, Index) or x.axis != axis
    }
    queries = any(base(spec, a) == "i" and _of_side(spec, body, a) for a in elsewhere)
    apart = _own_mask_written(spec, body, elsewhere)
    if read.pad is None and apart is not None and not queries:
        at = {a: _there(spec, a, visit(x)) for a, x in zip(found.axes, read.index, strict=True)}
        try:
            return substitute(coordinates(_Rewriter(spec).visit(apart, None), spec), at)
        except (Unsupported, ValueError):  # of what sums over such an index itself
            pass
    return rebuild(read, visit)


def _of_side(spec: Spec, body: Expr, axis: str) -> bool:
    """Whether `body` reads at the token `axis` what the call may give apart for queries and keys:
    at a token of the other side, or a computed place, it would read that of the other."""
    paired = {decl.name for decl in spec.decls if decl.paired}
    return any(isinstance(n, Read) and n.name in paired and axis in n.free for n in walk(body))


def _there(spec: Spec, axis: str, at: Expr) -> Expr:
    """An index of `axis`; one that lies outside it reads an end, whatever is read."""
    if isinstance(at, Index) or axis not in tokens(spec, frozenset({axis})):
        return at
    return Apply("clamp", (at, *ends(spec, axis)), kind=Kind.INT)


# Forms


@dataclass(slots=True)
class _Rewriter:
    spec: Spec
    _done: dict[tuple[Expr, tuple[str, str] | None], Expr] = field(default_factory=dict)
    _finite: Finite = field(init=False)

    def __post_init__(self) -> None:
        self._finite = Finite(self.spec)

    def visit(self, node: Expr, within: tuple[str, str] | None) -> Expr:
        """`node` rewritten; it counts only at pairs of the mask at the two variables `within`."""
        if not any(over_pairs(self.spec, n) for n in walk(node)):
            return node
        key = (node, within)
        if key not in self._done:
            self._done[key] = self._visit(node, within)
        return self._done[key]

    def _visit(self, node: Expr, within: tuple[str, str] | None) -> Expr:
        if isinstance(node, Reduce):
            node = self._without_row(node)
        if over_pairs(self.spec, node):
            match node:
                case Reduce(op="sum"):
                    return self._sum(node)
                case Reduce(op="mean"):
                    return self._mean(node)
                case Reduce(op="any" | "all"):
                    return self._any(node)
                case Reduce(op="prod"):
                    return self.visit(as_sum(self.spec, node), within)
                case Reduce(op="argmax"):
                    return Apply("max", (self._place(node), FIRST), kind=Kind.INT)
                case Reduce(op="amax" | "amin", axes=(*rest, inner)) if rest:
                    body = self.visit(replace(node, axes=(inner,)), None)
                    return self.visit(Reduce(node.op, tuple(rest), body, kind=node.kind), None)
                case Reduce(op="amax" | "amin") if node.kind is Kind.INT:
                    return self._largest_whole(node)
                case Reduce(op="amax"):
                    return self._largest(node)
                case Reduce(op="amin"):
                    return negative(self._largest(replace(node, body=negative(node.body))))
                case Reduce(op=op) if op in CUTS:
                    return self._cut(node)
                case Reduce(mask=mask):
                    return rebuild(node, lambda n: self.visit(n, mask))
                case Normalize():
                    return self._spread(node, within)
        less = as_less(node)
        if less is not node:
            return self.visit(less, within)
        if isinstance(node, Apply) and node.op in ("and", "lt"):
            node = self._ranked(node)
        return rebuild(node, lambda n: self.visit(n, within))

    def _ranked(self, node: Apply) -> Expr:
        """`node` with ranks among what a row may see written by places and cut-offs."""
        if node.op == "and":
            args = tuple(self._chosen(arg, node.args) or arg for arg in node.args)
            return node if args == node.args else replace(node, args=args)
        return self._chosen(node) or node

    def _chosen(self, node: Expr, among: tuple[Expr, ...] = ()) -> Expr | None:
        node = as_less(node)
        match node:
            case Apply("lt", (Rank(axis=axis) as rank, _)) if over_pairs(self.spec, rank):
                rows = tokens(self.spec, rank.free) - {axis}
                if len(rows) != 1:
                    raise Unsupported("a rank for every pair of other tokens")
                [row] = rows
                return chosen(self.spec, node, row, among)
        return None

    def _cut(self, node: Reduce) -> Reduce:
        """A cut with its parts rewritten; the comparison in it is how it is written."""
        fewer = rebuild(
            node.body,
            lambda n: rebuild(n, self._everywhere) if isinstance(n, Rank) else self._everywhere(n),
        )
        return self._reduced(node, fewer)

    def _everywhere(self, node: Expr) -> Expr:
        return self.visit(node, None)

    def _any(self, node: Reduce) -> Expr:
        """How many there are, or how many there are not."""
        counted = (ONE, ZERO) if node.op == "any" else (ZERO, ONE)
        one = Apply("where", (node.body, *counted), kind=_FLOAT)
        total = self._sum(replace(node, op="sum", body=one, kind=_FLOAT))
        return Apply("gt" if node.op == "any" else "eq", (total, ZERO), kind=Kind.BOOL)

    def _mean(self, node: Reduce) -> Expr:
        total = self._sum(replace(node, op="sum"))
        count: Expr = Reduce("sum", node.axes, ONE, node.where, node.mask, kind=_FLOAT)
        if node.where is None and node.mask is None:
            count = times([Size(axis, kind=Kind.INT) for axis in node.axes])
        else:
            count = Apply("max", (self._visit(count, None), ONE), kind=_FLOAT)
        return Apply("div", (total, count), kind=_FLOAT)

    def _place(self, node: Reduce) -> Reduce:
        """The position of the first largest value of a row, -1 where nothing takes part."""
        found = self._reduced(node, self.visit(node.body, node.mask))
        return replace(found, op=PLACE, kind=Kind.INT)

    def _largest(self, node: Reduce) -> Expr:
        """The value at the place of the largest one: the sum of what stands there."""
        place = self._place(node)
        here = Apply("eq", (Index(node.axes[0], kind=Kind.INT), place), kind=Kind.BOOL)
        value = replace(place, op="sum", where=here, kind=_FLOAT)
        none = Apply("lt", (place, FIRST), kind=Kind.BOOL)
        return Apply("where", (none, LOWEST, value), kind=_FLOAT)

    def _largest_whole(self, node: Reduce) -> Expr:
        """The integer at the place of the largest or the least one, which the host reads there: a
        sum of floats would round it."""
        [axis] = node.axes
        body = coordinates(node.body, self.spec)
        up = node.op == "amax"
        place = self._place(node if up else replace(node, body=opposite(node.body)))
        try:
            if base(self.spec, axis) == "i" and _of_side(self.spec, body, axis):
                raise ValueError
            found = substitute(body, {axis: _there(self.spec, axis, place)})
        except ValueError:
            why = f"a pairwise {node.op} of integers that cannot be read at one place"
            raise Unsupported(why) from None
        none = Literal(-(2**63) if up else 2**63 - 1, kind=Kind.INT)
        empty = Apply("lt", (place, FIRST), kind=Kind.BOOL)
        return Apply("where", (empty, none, self.visit(found, None)), kind=Kind.INT)

    def _sum(self, node: Reduce) -> Expr:
        """A sum over pairs as a sum of sums with one softmax each, and of what is left."""
        inner = max(node.axes, key=lambda a: (a in tokens(self.spec, frozenset(node.axes)), a))
        if len(node.axes) > 1:
            rest = tuple(a for a in node.axes if a != inner)
            within = self.visit(replace(node, axes=(inner,)), None)
            return self.visit(Reduce("sum", rest, within, kind=node.kind), None)
        apart = [f for f in factors_in(node.body) if inner not in f.free and f != ONE]
        if apart and len(tokens(self.spec, node.free)) > 1 and node.kind is _FLOAT:
            inside = [f for f in factors_in(node.body) if f not in apart] or [ONE]
            return self.visit(times([*apart, replace(node, body=times(inside))]), None)
        node = replace(
            node, body=times([self._of_something(node, f) for f in factors_in(node.body)])
        )
        spread = spread_out(self.spec, node)
        if spread is not None:
            return self.visit(spread, None)
        parts = self._terms(node, node.body)
        if len(parts) == 1 and not any(self._of_row(node, f) for f in parts[0]):
            return self._one(node, parts[0])
        sums = []
        for factors in parts:
            outside = [f for f in factors if not set(node.axes) & f.free]
            inside = [f for f in factors if f not in outside] or [ONE]
            outside = [self._of_something(node, f) for f in outside]
            sums.append(times([*(self.visit(f, None) for f in outside), self._one(node, inside)]))
        return sums[0] if len(sums) == 1 else Apply("add", tuple(sums), kind=_FLOAT)

    def _of_something(self, node: Reduce, factor: Expr) -> Expr:
        """A factor of what a sum adds up; one of the row that is not finite is 0 where the
        sum is one of nothing, and so 0."""
        of_row = factor.free.isdisjoint(node.axes)
        if not of_row or self._finite(factor) or not self._may_be_empty(node):
            return factor
        every = replace(node, op="any", body=Literal(True, kind=Kind.BOOL), kind=Kind.BOOL)
        some = self._any(every)
        if isinstance(factor, Apply) and factor.op == "where" and factor.args[0] == some:
            return factor
        return Apply("where", (some, factor, ZERO), kind=_FLOAT)

    def _may_be_empty(self, node: Reduce) -> bool:
        """Whether nothing may take part in a sum over pairs for a row."""
        if node.where is not None or node.mask is None:
            return node.where is not None
        return node.mask[1] not in node.axes or not every_row_has_a_pair(Prover(self.spec))

    def _one(self, node: Reduce, factors: list[Expr]) -> Expr:
        for place, factor in enumerate(factors):
            outer = pulled_out(self.spec, node, factor)
            others = [*factors[:place], *factors[place + 1 :]]
            if outer is not None and not set(outer.axes) & self._free(node, others):
                total = self._sum(replace(node, body=times([*others, outer.left])))
                return Contract(outer.axes, total, self.visit(outer.right, None), kind=_FLOAT)
        looked_up = [f for f in factors if self._table(node, f)]
        rest = [f for f in factors if f not in looked_up]
        if looked_up and not any(f.free - {"b", "h"} - tokens(self.spec, f.free) for f in rest):
            found = self._table(node, times(looked_up))
            if found is not None:
                return self._from_table(node, found, rest)
        node = counted(self.spec, node)
        softmaxes = [f for f in factors if isinstance(f, Normalize) and self._own(node, f)]
        apart = [f for f in factors if f not in softmaxes]
        if len(softmaxes) == 1 and not any(set(node.axes) & f.free for f in apart):
            return times([self._share(softmaxes[0]), *(self.visit(f, None) for f in apart)])
        run = [tokens(self.spec, f.free) for f in apart]
        vectors = any(f.free - {"b", "h"} - at for f, at in zip(apart, run, strict=True))
        if len(softmaxes) != 1 or not vectors or any(len(at) > 1 for at in run):
            return self._reduced(node, self.visit(times(factors), node.mask))
        softmax = rebuild(softmaxes[0], lambda n: self.visit(n, node.mask))
        return self._reduced(node, times([softmax, *(self.visit(f, node.mask) for f in apart)]))

    def _free(self, node: Reduce, factors: list[Expr]) -> frozenset[str]:
        """What factors of what a sum adds up depend on, and where they count."""
        mask = self.spec.mask if node.mask is not None else None
        parts = [*factors, *(x for x in (node.where, mask) if x is not None)]
        return frozenset().union(*(x.free for x in parts))

    def _from_table(self, node: Reduce, found: tuple[Lookup, list[Expr]], rest: list[Expr]) -> Expr:
        """The sum of vectors of a table, each times what the weights of its pairs add up to."""
        table, more = found
        weight = self.visit(times([*rest, *more] or [ONE]), node.mask)
        share = self._reduced(at_entry(node, table.places), weight)
        axes = tuple(axis for axis, _ in table.places)
        return Contract(axes, share, self.visit(table.table, None), kind=_FLOAT)

    def _table(self, node: Reduce, expr: Expr) -> tuple[Lookup, list[Expr]] | None:
        """A vector for every pair as a table that the pair looks up."""
        run = tokens(self.spec, expr.free)
        if not expr.free - {"b", "h"} - run or not set(node.axes) < run:
            return None
        return table_of(self.spec, node, expr, *sorted(run - set(node.axes)))

    def _share(self, softmax: Normalize) -> Expr:
        """What the weights of a softmax add up to: 1, less what a sink takes; 0 of no pair."""
        alone, total = (
            self.visit(log_sum_exp(x), None) for x in (replace(softmax, sink=None), softmax)
        )
        some = Apply("ne", (alone, LOWEST), kind=Kind.BOOL)
        less = Apply("sub", (alone, total), kind=_FLOAT)
        return Apply("exp", (Apply("where", (some, less, LOWEST), kind=_FLOAT),), kind=_FLOAT)

    def _reduced(self, node: Reduce, body: Expr) -> Reduce:
        where = None if node.where is None else self.visit(node.where, node.mask)
        return self._without_row(replace(node, body=body, where=where))

    def _without_row(self, node: Reduce) -> Reduce:
        """`node`; if its row stands in no more than a mask that does not depend on it, without."""
        if node.mask is None:
            return node
        mask = mask_at(self.spec, node.mask)
        where = mask if node.where is None else Apply("and", (node.where, mask), kind=Kind.BOOL)
        alone = replace(node, mask=None, where=where)
        return node if over_pairs(self.spec, alone) else alone

    def _own(self, node: Reduce, factor: Expr) -> bool:
        """Whether a factor is a softmax over just what a sum runs over."""
        return (
            isinstance(factor, Normalize)
            and factor.op == "softmax"
            and (factor.axes, factor.mask, factor.where) == (node.axes, node.mask, node.where)
        )

    def _terms(self, node: Reduce, expr: Expr) -> list[list[Expr]]:
        """Summands as factors, multiplied out as far as that brings a softmax forth, or a vector
        of the row, which the sum does not run over, or of a table."""
        if not any(self._own(node, n) for n in walk(expr)) and not self._mixed(node, expr):
            return [[expr]]
        match expr:
            case Apply(op="add", args=args):
                return [part for a in args for part in self._terms(node, a)]
            case Apply(op="sub", args=(a, b)):
                minus = [[MINUS, *part] for part in self._terms(node, b)]
                return [*self._terms(node, a), *minus]
            case Apply(op="neg", args=(a,)):
                return [[MINUS, *part] for part in self._terms(node, a)]
            case Apply(op="mul"):
                choices = product(*(self._terms(node, f) for f in factors_in(expr)))
                return [[f for part in parts for f in part] for parts in choices]
            case Apply(op="div", args=(a, b)) if not any(self._own(node, n) for n in walk(b)):
                inverse = Apply("div", (ONE, b), kind=_FLOAT)
                return [[*part, inverse] for part in self._terms(node, a)]
        return [[expr]]

    def _mixed(self, node: Reduce, expr: Expr) -> bool:
        """Whether vectors of the row or of a table are among the terms and factors of `expr`."""
        if isinstance(expr, Apply) and expr.op in ("add", "sub", "neg", "mul", "div"):
            return any(self._mixed(node, arg) for arg in expr.args)
        apart = self._of_row(node, expr) or pulled_out(self.spec, node, expr) is not None
        return apart or self._table(node, expr) is not None

    def _of_row(self, node: Reduce, expr: Expr) -> bool:
        """Whether `expr` is a vector that does not depend on what a sum runs over."""
        run = tokens(self.spec, expr.free)
        return bool(run and expr.free - {"b", "h"} - run) and not set(node.axes) & expr.free

    def _spread(self, node: Normalize, within: tuple[str, str] | None) -> Expr:
        """A softmax as exp(x - logsumexp(x)), or an entmax, 0 where its own pairs end."""
        inner = rebuild(node, lambda n: self.visit(n, node.mask))
        assert isinstance(inner, Normalize)
        score, where = inner.body, inner.where
        if node.op == "entmax":
            weight = weights(inner)
        else:
            less = Apply("sub", (score, log_sum_exp(inner)), kind=_FLOAT)
            weight = Apply("exp", (less,), kind=_FLOAT)
        kept = [] if where is None else [where]
        if node.mask is not None and node.mask != within:
            kept.append(self.visit(mask_at(self.spec, node.mask), None))
        if not kept:
            return weight
        allowed = kept[0] if len(kept) == 1 else Apply("and", tuple(kept), kind=Kind.BOOL)
        return Apply("where", (allowed, weight, ZERO), kind=_FLOAT)


def log_sum_exp(softmax: Normalize) -> Expr:
    """What a softmax takes from its logits, its sink counted."""
    total = Reduce(
        "logsumexp", softmax.axes, softmax.body, softmax.where, softmax.mask, kind=_FLOAT
    )
    if softmax.sink is None:
        return total
    return Apply("logaddexp", (total, softmax.sink), kind=_FLOAT)


def mask_at(spec: Spec, at: tuple[str, str]) -> Expr:
    """The mask of the pair that stands at the two variables."""
    assert spec.mask is not None
    return renamed(canonical(spec, spec.mask), dict(zip("ij", at, strict=True)))
