"""The passes of a spec, in the order they run.

What a pass reads, operands and leaves, is made by the host; where that needs a sum over pairs
itself, another pass comes first. Gradients go from pass to pass by autograd.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from attnspec.codegen.match import Match, match_blocks, match_map, match_reduce, pointwise
from attnspec.codegen.mixtures import joined
from attnspec.codegen.pairwise import plan_pass
from attnspec.codegen.plan_types import Operand, PairPlan, Unsupported
from attnspec.codegen.rewrite import canonical, defined, log_sum_exp, of_token, reached
from attnspec.codegen.rewrite_blocks import is_place, match_block
from attnspec.codegen.rewrite_ranks import CUTS
from attnspec.codegen.running import OTHERS, running
from attnspec.codegen.token_axes import over_pairs, tokens
from attnspec.dsl.analysis import Facts
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.ast import Apply, Expr, Kind, Normalize, Read, Reduce, Spec, children, walk

# PyTorch's operations take 64 arguments, of which one for gradients has 13 of its own.
ARGUMENTS = 64 - 13


def operands(plan: PairPlan) -> list[Operand]:
    """The tensors that a pass reads, in order, each once."""
    found = [d.left for d in plan.dots] + [d.right for d in plan.dots]
    found += [x for x in (plan.value, plan.gate, *plan.of_row) if x is not None]
    found += [leaf.operand for leaf in plan.read]
    return list({o.name: o for o in found}.values())


def roots(spec: Spec) -> tuple[tuple[str, Expr], ...]:
    """The output (if there is one) and what is returned, over sums that passes compute; the
    weight's log-sum-exp, if it is a softmax over the keys, counts as returned."""
    found = [] if spec.output is None else [("output", spec.output)]
    found += [(item.name, item.expr) for item in spec.returns]
    weight = spec.definition("weight")
    softmax = None if weight is None else weight.expr
    if isinstance(softmax, Normalize) and (softmax.op, softmax.axes) == ("softmax", ("j",)):
        found += [("lse", log_sum_exp(softmax))] if "lse" not in dict(found) else []
    exprs = joined(spec, [canonical(spec, expr) for _, expr in found])
    return tuple((name, expr) for (name, _), expr in zip(found, exprs, strict=True))


def plan_passes(
    spec: Spec, facts: Facts, wanted: tuple[tuple[str, Expr], ...]
) -> tuple[PairPlan, ...]:
    """Every pass that the roots of a spec need, none if the host computes it all; raises
    `Unsupported`."""
    if spec.states or spec.token != "i":
        raise Unsupported("a recurrence")
    planner = _Planner(spec, facts, dict(wanted))
    for _, root in wanted:
        planner.visit(root)
    return tuple(planner.passes)


@dataclass(slots=True)
class _Planner:
    spec: Spec
    facts: Facts
    roots: dict[str, Expr]
    passes: list[PairPlan] = field(default_factory=list)
    asked: frozenset[Expr] = frozenset()
    _begun: set[Expr] = field(default_factory=set)
    _open: list[Expr] = field(default_factory=list)  # what is being planned now
    _seen: set[Expr] = field(default_factory=set)
    _totals: dict[Expr, Reduce] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = list(reached(self.spec, *self.roots.values()))
        sums = [n for n in nodes if self._is_sum(n)]
        self.asked = frozenset(n for n in nodes if _is_total(n))
        for node in sums:
            if node.op == "sum" and self.asked:
                found = self._match(node)
                read = [x for x in (node, found.gate) if x is not None]
                for total in self.asked.intersection(found.log_sum_exps):
                    if total not in reached(self.spec, *read):
                        self._totals.setdefault(total, node)

    def visit(self, expr: Expr) -> None:
        """Plan what the host needs for `expr`."""
        if expr in self._seen:
            return
        self._seen.add(expr)
        if self._is_sum(expr):
            self._add(expr)
        elif isinstance(expr, Apply) and expr.op == OTHERS:
            self._plan(expr, match_blocks(self.spec, expr))
        elif self._is_block(expr):
            self._plan(expr, match_block(self.spec, expr))
        elif isinstance(expr, Apply) and expr in self._totals:
            self._plan(self._totals[expr], self._match(self._totals[expr]))
        elif self._is_map(expr):
            self._plan(expr, match_map(self.spec, expr))
        else:
            if isinstance(expr, Read) and of_token(self.spec, expr):
                self.visit(defined(self.spec, expr.name))
            for child in children(expr):
                self.visit(child)

    def _is_sum(self, expr: Expr) -> TypeGuard[Reduce]:
        """Whether `expr` is a reduction for every row, none for every pair."""
        pairs = isinstance(expr, Reduce) and over_pairs(self.spec, expr)
        return pairs and running(self.spec, expr) is None

    def _is_block(self, expr: Expr) -> TypeGuard[Reduce]:
        """Whether `expr` is a reduction over the places of a block for every row."""
        places = isinstance(expr, Reduce) and is_place(self.spec, expr.axes[0])
        return places and bool(tokens(self.spec, expr.free))

    def _is_map(self, expr: Expr) -> bool:
        """Whether `expr` is a number for every pair, computed as such."""
        sides = tokens(self.spec, expr.free)
        if len(sides) < 2 or expr.kind is not Kind.FLOAT or expr.free - sides - {"b", "h"}:
            return False
        try:
            pointwise(self.spec, expr, *sorted(sides))
        except Unsupported:
            return False
        return True

    def _add(self, node: Reduce) -> None:
        if node.op in CUTS:  # which one pass finds
            node = replace(node, op=CUTS[0])
        shared = self._totals.get(node)
        if shared is not None and shared not in self._open:
            node = shared
        self._plan(node, self._match(node))

    def _plan(self, node: Expr, found: Match) -> None:
        key = coordinates(node, self.spec)
        if key in self._begun:
            return
        self._begun.add(key)
        self._open.append(node)
        plan = plan_pass(self.spec, self.facts, found, self.asked)
        count = len(operands(plan)) + len(plan.scalars)
        if count > ARGUMENTS:
            raise Unsupported(f"a pass over {count} operands and numbers, of at most {ARGUMENTS}")
        given = {x.operand.name for x in plan.leaves if x.role == "pair"}
        for operand in operands(plan):
            if operand.name not in given:
                self.visit(operand.expr)
        self._open.pop()
        self.passes.append(plan)

    def _match(self, node: Reduce) -> Match:
        output = self.roots.get("output")
        for name, root in self.roots.items():
            if name != "output" and node in walk(root):  # without the gate, it is wanted itself
                output = None
        return match_reduce(self.spec, node, output)


def _is_total(expr: Expr) -> bool:
    """Whether an expression may be the log-sum-exp of a softmax."""
    match expr:
        case Reduce(op="logsumexp"):
            return True
        case Apply(op="logaddexp"):
            return True
    return False


def known(plan: PairPlan) -> Iterator[tuple[Expr, str]]:
    """The nodes that a pass gives, and which of its results: "out", "out[..., 0]" and so on, "lse",
    or "lse[0]" and so on where it has several."""
    several = len(plan.branches) > 1
    if plan.form == "cuts":
        assert isinstance(plan.result, Reduce)
        for place, op in enumerate(CUTS):
            yield replace(plan.result, op=op), f"out[..., {place}]"
    elif plan.value is not None or not plan.softmax:
        yield plan.result, "out"
    else:
        yield plan.result, "lse"
    for place, branch in enumerate(plan.branches):
        if branch.log_sum_exp is not None:
            yield branch.log_sum_exp, f"lse[{place}]" if several else "lse"
