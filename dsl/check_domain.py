"""Indices stay inside their tensors, operations inside their domains, on every unmasked pair.

An index, an integer division and anything that positions, sizes and scalars alone decide must be
proved: what cannot be proved is an error (A201, A202), with a counterexample where a small one
exists, that asks for `clamp`, `pad=`, `where` or a fact. What data decides (the sum of weights
that a score is divided by) is an error only when it is refuted; else it is a warning (W304), and
none at all behind the usual guard, `x / (y + 1e-6)`: a researcher who divides by a norm knows
that it is not zero, and the compiler cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnspec.dsl.ast import (
    Apply,
    Contract,
    Cumsum,
    Expr,
    GridIndex,
    Index,
    Kind,
    Last,
    Literal,
    Normalize,
    Rank,
    Read,
    Reduce,
    Spec,
    children,
    walk,
)
from attnspec.dsl.build import apply, constant, lit, size
from attnspec.dsl.check_atoms import root
from attnspec.dsl.check_blame import (
    forbidden,
    is_data,
    is_guarded,
    mend_index,
    mend_operation,
    title,
)
from attnspec.dsl.check_known import Known
from attnspec.dsl.check_linear import value_of
from attnspec.dsl.check_names import TOKENS
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_report import Report
from attnspec.dsl.check_witness import Point, evaluate, search

if TYPE_CHECKING:
    from attnspec.dsl.span import Span

ENOUGH = 20  # errors to report: each costs a search for an offending pair
_Question = Callable[[Expr, Known], bool]
_DIVISIONS = frozenset({"div", "floordiv", "mod"})


@dataclass(frozen=True, slots=True)
class Proof:
    """That `part`, which `op` takes, lies where it must; `by` is the least that shows it."""

    op: str
    part: Expr
    by: str


def check_domain(spec: Spec, prover: Prover, report: Report) -> None:
    """Report every index and operation of `spec` that may go wrong."""
    _walk(spec, _Walker(spec, prover, report))


def proofs(spec: Spec) -> tuple[Proof, ...]:
    """What `check_domain` proves of a spec's indices and operations, each once."""
    walker = _Walker(spec, Prover(spec), Report(), keeping=True)
    _walk(spec, walker)
    return tuple(dict.fromkeys(walker.proofs))


def anchored(spec: Spec, together: bool) -> tuple[tuple[str, str], ...]:
    """What is not shown to stand right where positions start elsewhere than at 0: the text of the
    first such thing of a side, and the side. Both start `together` in a recurrence."""
    found: list[tuple[str, str]] = []
    gridded = {"i", "j"} if spec.shared_grid else {grid.side for grid in spec.grids}
    for moved in ("ij",) if together else ("i", "j"):
        if gridded.intersection(moved):  # a grid has all its tokens
            continue
        walker = _Walker(spec, Prover(spec, frozenset(moved), together), Report())
        _walk(spec, walker)
        found += [(walker.unproved[0], side) for side in moved if walker.unproved]
    return tuple(found)


def _walk(spec: Spec, walker: _Walker) -> None:
    prover, report = walker.prover, walker.report
    start = prover.start()
    if spec.mask is not None:
        walker.visit(spec.mask, start)
    for axes, name, expr in _expressions(spec):
        if len(report.errors) >= ENOUGH:
            return
        known = start
        if walker.on_pairs(axes, name):
            known = prover.at_pair(start, "i", "j")
        walker.visit(expr, known)


def _expressions(spec: Spec) -> Iterator[tuple[tuple[str, ...], str, Expr]]:
    for require in spec.requires:
        yield (), "", require
    for decl in spec.decls:
        yield from ((decl.axes, "", e) for e in (decl.default, decl.where) if e is not None)
    for definition in spec.defs:
        yield definition.axes, definition.name, definition.expr
    for state in spec.states:
        yield state.axes, state.name, state.init
        yield state.axes, state.name, state.step
    if spec.output is not None:
        yield (spec.token,), "", spec.output
    for result in spec.returns:
        yield result.axes, result.name, result.expr


def _of_mask(spec: Spec) -> frozenset[str]:
    """The definitions and states that the mask uses: they are evaluated on every pair."""
    found: set[str] = set()
    stack = [spec.mask] if spec.mask is not None else []
    while stack:
        for node in walk(stack.pop()):
            if isinstance(node, Read) and node.name not in found:
                found.add(node.name)
                definition, state = spec.definition(node.name), spec.state(node.name)
                if definition is not None:
                    stack.append(definition.expr)
                if state is not None:
                    stack.extend((state.init, state.step))
    return frozenset(found)


class _Walker:
    """One walk over a spec; a shared node is visited once for everything known there."""

    def __init__(self, spec: Spec, prover: Prover, report: Report, keeping: bool = False) -> None:
        self.spec = spec
        self.keeping = keeping
        self.proofs: list[Proof] = []
        self.unproved: list[str] = []  # where positions start elsewhere than at 0
        self.prover = prover
        self.report = report
        self.unmasked = _of_mask(spec)
        self._seen: set[tuple[int, Known]] = set()

    def on_pairs(self, axes: tuple[str, ...], name: str) -> bool:
        """Whether what is defined over `axes` matters on the mask's pairs only."""
        return self.spec.mask is not None and {"i", "j"} <= set(axes) and name not in self.unmasked

    def visit(self, expr: Expr, known: Known) -> None:
        """Check `expr` where `known` holds."""
        if (id(expr), known) in self._seen:
            return
        self._seen.add((id(expr), known))
        prover = self.prover
        match expr:
            case Apply("and" | "or" as op, args):
                for arg in args:
                    self.visit(arg, known)
                    known = prover.assume(known, arg, truth=op == "and")
                return
            case Apply("where", (c, a, b)):
                self.visit(c, known)
                self.visit(a, prover.assume(known, c))
                self.visit(b, prover.assume(known, c, truth=False))
                return
            case Reduce(axes=axes) | Normalize(axes=axes):
                inner = prover.rebind(known, axes)
                if expr.mask is not None:
                    inner = prover.at_pair(inner, *expr.mask)
                self._bound(expr.body, expr.where, inner)
                if isinstance(expr, Normalize):
                    self._normalize(expr, known)
                return
            case Cumsum(axis, body, where) | Rank(axis, body, where):
                self._bound(body, where, prover.rebind(known, (axis,)))
                return
            case Contract(axes):
                known = prover.rebind(known, axes)
            case Read():
                self._read(expr, known)
            case Apply():
                self._apply(expr, known)
        for child in children(expr):
            self.visit(child, known)

    def _bound(self, body: Expr, where: Expr | None, inner: Known) -> None:
        if where is not None:
            self.visit(where, inner)
            inner = self.prover.assume(inner, where)
        self.visit(body, inner)

    def _normalize(self, expr: Normalize, known: Known) -> None:
        for part in (expr.sink, expr.alpha):
            if part is not None:
                self.visit(part, known)
        if expr.alpha is not None:
            above = apply("sub", expr.alpha, lit(1.0), span=expr.alpha.span)
            self._require("entmax", above, known, self.prover.positive, "at most 0")

    # Indices

    def _read(self, read: Read, known: Known) -> None:
        axes = self._axes_of(read.name)
        if self.spec.definition(read.name) is not None and self.on_pairs(axes, read.name):
            at = dict(zip(axes, read.index, strict=True))
            pair = tuple(part.axis for part in (at["i"], at["j"]) if isinstance(part, Index))
            if pair not in known.pairs:
                self._elsewhere(read, known)
        if read.pad is not None:
            return
        for axis, index in zip(axes, read.index, strict=True):
            state = self.spec.state(read.name)
            if state is not None and axis == state.time:
                self._step(read, axis, index, "add" if state.reverse else "sub")
                continue
            if isinstance(index, Last):
                continue
            if isinstance(index, GridIndex):
                names = next(g.names for g in self.spec.grids if g.side == index.grid)
                for name, part in zip(names, index.coords, strict=True):
                    self._inside(read, part, f"{index.grid}.{name}", known)
            elif not self._stands(axis, index):
                self._inside(read, index, self._side(read, axis, index), known)

    def _elsewhere(self, read: Read, known: Known) -> None:
        """Check a definition that is read at a pair which the mask may exclude."""
        inlined = self.prover.inlined(read)
        if inlined is not None:
            self.visit(inlined, known)
        else:
            definition = self.spec.definition(read.name)
            assert definition is not None
            self.visit(definition.expr, self.prover.start())

    def _step(self, read: Read, axis: str, index: Expr, back: str) -> None:
        """The last step, this one and the one before exist wherever steps start."""
        match index:
            case Apply(op, (Index(), Literal(1))) if op == back:
                return
        plain = isinstance(index, Last) or self._stands(axis, index)
        if not plain and self.prover.first(axis) is not None:
            self._unproved(read.span)

    def _axes_of(self, name: str) -> tuple[str, ...]:
        found = self.spec.decl(name) or self.spec.definition(name) or self.spec.state(name)
        assert found is not None
        return found.axes

    def _stands(self, axis: str, index: Expr) -> bool:
        """Whether an index is a variable that runs over the axis, or is checked at the call."""
        if not isinstance(index, Index):
            return False
        mine, its = root(self.prover, axis), root(self.prover, index.axis)
        if mine == its or {(mine, its), (its, mine)} & set(self.spec.equal_sizes):
            return True
        return self._is_token(mine) and self._is_token(its)

    def _is_token(self, axis: str) -> bool:
        found = self.prover.axes.get(axis)
        return axis == "t" or (found is not None and found.role in TOKENS)

    def _side(self, read: Read, axis: str, index: Expr) -> str:
        """The axis whose size bounds an index: of what either side has rows of, the side's own."""
        mine = root(self.prover, axis)
        decl = self.spec.decl(read.name)
        if decl is None or not decl.paired:
            return mine
        sides = {root(self.prover, a) for a in index.free}
        sides = {side for side in sides if self._is_token(side)}
        reads = any(isinstance(node, Read | Reduce) for node in walk(index))
        return sides.pop() if self._is_token(mine) and len(sides) == 1 and not reads else mine

    def _inside(self, read: Read, index: Expr, axis: str, known: Known) -> None:
        length = size(axis)
        prover = self.prover
        first = prover.first(axis)

        def inside(part: Expr, known: Known) -> bool:
            place = part if first is None else apply("sub", part, first)
            within = prover.holds(apply("lt", place, length), known)
            return within and prover.nonnegative(place, known)

        if inside(index, known):
            self._keep(f"index of {read.name}", index, known, inside)
            return
        if prover.moved:
            self._unproved(read.span)
            return

        def wrong(point: Point) -> bool:
            return not 0 <= evaluate(self.spec, index, point) < evaluate(self.spec, length, point)

        point = search(self.spec, (*known.true, *known.either), wrong, _variables(index, known))
        high, fixed = prover.range(index, known).hi, value_of(prover.poly(length))
        if point is not None:
            where = f"at {point} it is {evaluate(self.spec, index, point)},"
            label = f"{where} and the axis has {evaluate(self.spec, length, point)}"
        elif not prover.nonnegative(index, known):
            label = "not proved to be at least 0"
        else:
            most = f": it may be {high:g}" if math.isfinite(high) else ""
            label = f"not proved to be below the size{most}"
        self.report.error(
            "A201",
            f"index may fall outside `{read.name}`",
            index.span if index.span.end else read.span,
            label,
            mend_index(index, None if fixed is None else int(fixed)),
        )

    # Operations

    def _apply(self, expr: Apply, known: Known) -> None:
        prover, args, op = self.prover, expr.args, expr.op
        if op in _DIVISIONS:
            self._require(op, args[1], known, prover.nonzero, "0", expr.span)
        elif op in ("log", "log2", "rsqrt"):
            self._require(op, args[0], known, prover.positive, "at most 0")
        elif op == "sqrt":
            self._require(op, args[0], known, prover.nonnegative, "negative")
        elif op == "log1p":
            above = apply("add", args[0], lit(1.0), span=args[0].span)
            self._require(op, above, known, prover.positive, "at most 0")
        elif op == "pow":
            self._power(expr, known)

    def _power(self, expr: Apply, known: Known) -> None:
        base, exponent = expr.args
        prover = self.prover
        whole = exponent.kind is Kind.INT or (
            isinstance(exponent, Literal) and float(exponent.value).is_integer()
        )
        if expr.kind is Kind.INT or (whole and not prover.nonzero(base, known)):
            kept = prover.nonnegative
            self._require("exponent", exponent, known, kept, "negative", data=is_data(base))
        elif not whole and not prover.positive(base, known):

            def proved(base: Expr, known: Known) -> bool:
                return prover.nonnegative(base, known) and prover.positive(exponent, known)

            self._require("pow", base, known, proved, "negative")

    def _unproved(self, span: Span) -> None:
        self.unproved.append(" ".join(self.spec.text[span.start : span.end].split()))

    def _keep(self, op: str, part: Expr, known: Known, proved: _Question) -> None:
        """Note a proof, with the least that is enough for it."""
        if self.keeping and constant(part) is None:
            enough = ((Known(), "ranges"), (self.prover.start(), "require"), (known, "conditions"))
            by = next((by for less, by in enough if proved(part, less)), "conditions")
            self.proofs.append(Proof(op, part, by))

    def _require(
        self,
        op: str,
        part: Expr,
        known: Known,
        proved: _Question,
        bad: str,
        span: Span | None = None,
        data: bool = False,
    ) -> None:
        """Report `part` unless it is proved never to be `bad`."""
        if proved(part, known):
            self._keep(op, part, known, proved)
            return
        prover = self.prover
        if prover.moved:
            if not is_data(part):
                self._unproved(part.span if part.span.end else span or part.span)
            return
        interval = prover.range(part, known)
        zero, below = bad == "0", bad == "negative"

        def wrong(point: Point) -> bool:
            value = evaluate(self.spec, part, point)
            return value == 0 if zero else value < 0 or (value == 0 and not below)

        point = search(self.spec, (*known.true, *known.either), wrong, _variables(part, known))
        refuted = interval.lo == interval.hi == 0 if zero else interval.negative
        refuted = refuted or (not zero and not below and interval.hi <= 0)
        place = part.span if part.span.end else span or part.span
        data = data or is_data(part)
        shown = forbidden(op, bad)
        unknown = f"nothing says that this is not {shown}"
        mend = mend_operation(op, part, bad)
        if not data or op in ("floordiv", "mod") or refuted:
            label = f"always {shown}" if refuted else unknown
            if point is not None and not (refuted and not part.free):
                label = f"{shown} at {point}"
            self.report.error("A202", title(op, bad), place, label, mend)
        elif not is_guarded(part):
            self.report.warn("W304", title(op, bad), place, unknown, mend)


def _variables(part: Expr, known: Known) -> frozenset[str]:
    """The index variables that a counterexample must choose."""
    return part.free.union(*(c.free for c in (*known.true, *known.either))) - {"b", "h"}
