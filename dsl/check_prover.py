"""Proving inequalities about a checked spec, within a budget.

An expression becomes a polynomial over atoms (whatever is no sum or product), each atom comes
with facts (a position lies in its axis, `x // m` within x / m, what `where` and `require` say),
and linear arithmetic and intervals decide. `False` always means "not proved". Values are real
numbers here: exp is above 0 however small. Positions start at 0, those of sides that are `moved`
anywhere from there on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

from attnspec.dsl import check_linear as lin
from attnspec.dsl.ast import Apply, Expr, Kind, Literal, Read, Role, Size, Spec
from attnspec.dsl.build import apply, lit, rename, substitute
from attnspec.dsl.check_atoms import facts_of_atom
from attnspec.dsl.check_cases import alternatives, cases, replace_atom
from attnspec.dsl.check_interval import TOP, Interval
from attnspec.dsl.check_known import Known
from attnspec.dsl.check_linear import Constraint, Monomial, Poly
from attnspec.dsl.check_ranges import range_of
from attnspec.dsl.check_size import tree_size

BUDGET = 30_000  # steps of proof in one spec: well below a second
NODES = 25_000  # expressions looked at besides, so that cheap answers are never refused
QUESTION = 5_000  # steps for one of its questions
MAX_DEPTH = 60  # of expressions in definitions in expressions
MAX_FACTS = 60
MAX_SPLITS = 3
MAX_INLINE = 400

_OPPOSITE = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}


class Prover:
    """Atoms, facts and the budget of one spec. Sides that are `moved` start at any positions, at
    the same one if they move `together`."""

    def __init__(
        self, spec: Spec, moved: frozenset[str] = frozenset(), together: bool = False
    ) -> None:
        self.spec = spec
        self.moved = moved
        self.together = together
        self.axes = {axis.name: axis for axis in spec.axes}
        self.decls = {decl.name: decl for decl in spec.decls}
        self.defs = {d.name: d for d in spec.defs}
        self.states = {state.name: state for state in spec.states}
        self.state_ranges: dict[str, Interval] = {}
        self._atoms: list[Expr] = []
        self._numbers: dict[Expr, int] = {}
        self._keep: list[Expr] = []
        self._polys: dict[int, Poly] = {}
        self._declared: dict[int, tuple[Constraint, ...]] = {}
        self._inlined: dict[Read, Expr | None] = {}
        self._by_id: dict[int, int] = {}
        self._depth = 0
        self.every_row: bool | None = None  # `check_rows` finds out
        self._left = BUDGET
        self._nodes = NODES

    # Atoms and polynomials

    def spend(self, steps: int) -> bool:
        """Take steps of the budget; whether they were there."""
        self._left -= steps
        return self._left > 0

    def _look(self) -> bool:
        self._nodes -= 1
        return self._nodes > 0

    def number(self, expr: Expr) -> int:
        """The number of an expression as an atom."""
        found = self._by_id.get(id(expr))
        if found is None:
            found = self._numbers.setdefault(expr, len(self._atoms))
            if found == len(self._atoms):
                self._atoms.append(expr)
            self._by_id[id(expr)] = found
            self._keep.append(expr)
        return found

    def is_int(self, monomial: Monomial) -> bool:
        """Whether a monomial holds ints only."""
        return all(self._atoms[number].kind is Kind.INT for number in monomial)

    def poly(self, expr: Expr) -> Poly:
        """`expr` as a polynomial over atoms."""
        found = self._polys.get(id(expr))
        if found is None:
            self._depth += 1
            opaque = self._depth > MAX_DEPTH or not self._look()
            found = lin.atom(self.number(expr)) if opaque else self._poly(expr)
            self._depth -= 1
            self._polys[id(expr)] = found
            self._keep.append(expr)
        return found

    def _poly(self, expr: Expr) -> Poly:
        match expr:
            case Literal(value):
                return lin.constant(value)
            case Size(of):
                fixed = self.axes[of].size if of in self.axes else None
                if fixed is not None and self.axes[of].role is not Role.BLOCK:
                    return self.poly(fixed)
                if of == "t":
                    return self.poly(Size("j", kind=Kind.INT))
            case Read():
                inlined = self.inlined(expr)
                if inlined is not None:
                    return self.poly(inlined)
            case Apply("neg" | "stopgrad" as op, (a,)):
                return lin.scaled(self.poly(a), -1 if op == "neg" else 1)
            case Apply("add" | "sub" as op, (a, b)):
                return lin.plus(self.poly(a), self.poly(b), 1 if op == "add" else -1)
            case Apply("mul", (a, b)):
                left, right = self.poly(a), self.poly(b)
                if len(left) * len(right) <= 16:
                    product = lin.times(left, right)
                    if all(len(monomial) <= 4 for monomial in product):
                        return product
            case Apply("div", (a, b)):
                divisor = lin.value_of(self.poly(b))
                if divisor:
                    return lin.scaled(self.poly(a), Fraction(1) / divisor)
            case Apply("mod" | "floordiv", (a, _)) if not self.poly(a):
                return {}
            case Apply("mod", (a, b)) if b.kind is Kind.INT and a.kind is Kind.INT:
                quotient = self.number(apply("floordiv", a, b))
                whole = lin.times(self.poly(b), lin.atom(quotient))
                return lin.plus(self.poly(a), whole, -1)
        return lin.atom(self.number(expr))

    def first(self, axis: str) -> Expr | None:
        """The first position of an axis whose side is moved."""
        role = Role.TIME if axis == "t" else self.axes[axis].role if axis in self.axes else None
        side = "i" if role is Role.QUERY else "j" if role in (Role.KEY, Role.TIME) else ""
        if side not in self.moved:
            return None
        ordinal = Size("first" if self.together else f"first {side}", kind=Kind.INT)  # from 1 on
        return apply("sub", ordinal, lit(1))

    def inlined(self, read: Read) -> Expr | None:
        """What a definition reads as at these indices, when that is small enough."""
        if read not in self._inlined:
            self._inlined[read] = self._inline(read)
        return self._inlined[read]

    def _inline(self, read: Read) -> Expr | None:
        definition = self.defs.get(read.name)
        if definition is None or read.pad is not None or tree_size(definition.expr) > MAX_INLINE:
            return None
        try:
            values = dict(zip(definition.axes, read.index, strict=True))
            return substitute(definition.expr, values)
        except ValueError:
            return None

    # Facts

    def assume(self, known: Known, expr: Expr, truth: bool = True) -> Known:
        """`known` and that `expr` holds (or does not)."""
        match expr:
            case Apply("not", (a,)):
                return self.assume(known, a, not truth)
            case Apply("and" | "or" as op, args):
                if (op == "and") is truth:
                    for arg in args:
                        known = self.assume(known, arg, truth)
                    return known
                return replace(
                    known,
                    either=(*known.either, expr if truth else apply("not", expr)),
                    true=known.true,
                    ranges={},
                    atoms={},
                )
            case Literal(bool(value)):
                dead = Constraint(lin.constant(1))
                return self._with(known, (dead,)) if value is not truth else known
            case Read():
                inlined = self.inlined(expr)
                if inlined is not None and expr.kind is Kind.BOOL:
                    return self.assume(known, inlined, truth)
            case Apply("eq" | "ne" as op, (a, b)) if (
                op == "ne"
            ) is truth and a.kind is not Kind.BOOL:
                apart = apply("or", apply("lt", a, b), apply("gt", a, b))
                known = self.assume(known, apart)
        facts = self.constraints(expr, truth)
        held = expr if truth else apply("not", expr)
        return self._with(replace(known, true=(*known.true, held)), facts)

    def constraints(self, expr: Expr, truth: bool = True) -> tuple[Constraint, ...]:
        """The linear facts that a comparison says."""
        if not isinstance(expr, Apply) or expr.op not in _OPPOSITE:
            return ()
        a, b = expr.args
        if Kind.BOOL in (a.kind, b.kind):
            return ()
        op = expr.op if truth else _OPPOSITE[expr.op]
        less = lin.plus(self.poly(a), self.poly(b), -1)
        more = lin.scaled(less, -1)
        match op:
            case "lt" | "le":
                return (Constraint(less, op == "lt"),)
            case "gt" | "ge":
                return (Constraint(more, op == "gt"),)
            case "eq":
                return (Constraint(less), Constraint(more))
        return ()

    def _with(self, known: Known, facts: Iterable[Constraint]) -> Known:
        return replace(known, facts=(*known.facts, *facts), ranges={}, atoms={})

    def rebind(self, known: Known, axes: Iterable[str]) -> Known:
        """`known` where index variables are bound anew: what was said of the old ones goes."""
        gone = frozenset(axes)
        start = self.global_facts(gone)
        return Known(
            facts=tuple(f for f in known.facts if not self._depends(f.poly, gone)) + start,
            either=tuple(e for e in known.either if not e.free & gone),
            true=tuple(e for e in known.true if not e.free & gone),
            pairs=frozenset(pair for pair in known.pairs if not gone & set(pair)),
            rows=known.rows - gone,
            columns=known.columns - gone,
        )

    def _depends(self, poly: Poly, axes: frozenset[str]) -> bool:
        return any(self._atoms[n].free & axes for monomial in poly for n in monomial)

    def global_facts(self, axes: frozenset[str]) -> tuple[Constraint, ...]:
        """What the `require` lines say about index variables over tokens."""
        found: list[Constraint] = []
        for require in self.spec.requires:
            for axis in sorted(axes):
                known = self.axes.get(axis)
                root = known.base if known and known.role is Role.ALIAS else axis
                if root in require.free:
                    try:
                        renamed = require if root == axis else rename(require, {root: axis})
                    except ValueError:
                        continue
                    found.extend(self.assume(Known(), renamed).facts)
        return tuple(found)

    def start(self) -> Known:
        """What holds everywhere."""
        known = Known()
        for require in self.spec.requires:
            known = self.assume(known, require)
        return known

    def at_pair(self, known: Known, row: str, column: str) -> Known:
        """`known` at a pair that the mask allows."""
        mask = self.spec.mask
        known = replace(
            known,
            pairs=known.pairs | {(row, column)},
            rows=known.rows | {row},
            columns=known.columns | {column},
            ranges={},
            atoms={},
        )
        if mask is None:
            return known
        try:
            return self.assume(known, rename(mask, {"i": row, "j": column}))
        except ValueError:
            return known

    # Questions

    def range(self, expr: Expr, known: Known) -> Interval:
        """An interval that holds every value of `expr`."""
        found = known.ranges.get(id(expr))
        if isinstance(expr, Literal):
            return range_of(self, expr, known)
        if found is None:
            known.ranges[id(expr)] = TOP  # a definition that comes back to itself
            self._keep.append(expr)
            self._depth += 1
            if self._depth <= MAX_DEPTH and self._look():
                known.ranges[id(expr)] = range_of(self, expr, known)
            self._depth -= 1
            found = known.ranges[id(expr)]
        return found

    def positive(self, expr: Expr, known: Known) -> bool:
        """Whether `expr` is above 0."""
        return self.range(expr, known).positive or self.holds(apply("gt", expr, lit(0)), known)

    def nonnegative(self, expr: Expr, known: Known) -> bool:
        """Whether `expr` is at least 0."""
        return self.range(expr, known).lo >= 0 or self.holds(apply("ge", expr, lit(0)), known)

    def nonzero(self, expr: Expr, known: Known) -> bool:
        """Whether `expr` is never 0."""
        if self.range(expr, known).nonzero:
            return True
        return self._ask(self.constraints(apply("eq", expr, lit(0))), known)

    def holds(self, comparison: Apply, known: Known) -> bool:
        """Whether a comparison is proved."""
        if comparison.op == "eq" and Kind.BOOL not in (a.kind for a in comparison.args):
            return all(self.holds(apply(op, *comparison.args), known) for op in ("le", "ge"))
        if comparison.op == "lt":  # ranges cost little where many facts are known
            low, high = (self.range(x, known) for x in comparison.args)
            if low.hi < high.lo:
                return True
        negated = self.constraints(comparison, truth=False)
        return self._ask(negated, known) if negated else self.impossible(known)

    def impossible(self, known: Known) -> bool:
        """Whether nothing can be so."""
        return self._ask((), known)

    def _ask(self, extra: tuple[Constraint, ...], known: Known) -> bool:
        """`_refutes` with a share of the budget, so that one hard question starves no other."""
        before = self._left
        self._left = min(before, QUESTION)
        share = self._left
        found = self._refutes(extra, known, MAX_SPLITS)
        self._left = before - (share - self._left)
        return found

    def _refutes(self, extra: tuple[Constraint, ...], known: Known, depth: int) -> bool:
        """Whether `extra` contradicts what is known."""
        rows = self._gather(extra, known)
        self.spend(5 * len(rows))
        if lin.contradictory(rows, self.is_int, self.spend):
            return True
        if depth == 0 or not self.spend(40):
            return False
        for place, either in enumerate(known.either):
            rest = replace(
                known, either=known.either[:place] + known.either[place + 1 :], ranges={}, atoms={}
            )
            options = alternatives(either)
            if options and all(
                self._refutes(extra, self.assume(rest, case, truth), depth - 1)
                for case, truth in options
            ):
                return True
        choice = self._choice(extra)
        if choice is None:
            return False
        number, cases_of = choice
        for conditions, value in cases_of:
            inner = known
            for condition in conditions:
                inner = self.assume(inner, condition)
            moved = tuple(
                Constraint(replace_atom(c.poly, number, self.poly(value)), c.strict) for c in extra
            )
            if not self._refutes(moved, inner, depth - 1):
                return False
        return True

    def _choice(
        self, extra: tuple[Constraint, ...]
    ) -> tuple[int, list[tuple[tuple[Expr, ...], Expr]]] | None:
        """An atom that is one of several values, with the conditions of each."""
        for constraint in extra:
            for monomial in sorted(constraint.poly):
                for number in monomial:
                    found = cases(self._atoms[number])
                    if found:
                        return number, found
        return None

    def _gather(self, extra: tuple[Constraint, ...], known: Known) -> list[Constraint]:
        """`extra`, the known facts, and those of every atom that they speak of."""
        rows = [*extra, *known.facts]
        seen: set[int] = set()
        place = 0
        while place < len(rows) and len(rows) < MAX_FACTS:
            for monomial in rows[place].poly:
                if len(monomial) > 1:
                    rows.extend(self._product_facts(monomial, known))
                for number in monomial:
                    if number not in seen:
                        seen.add(number)
                        rows.extend(self.atom_facts(number, known))
            place += 1
        return rows

    def _product_facts(self, monomial: Monomial, known: Known) -> tuple[Constraint, ...]:
        """A product of what is not negative is not negative, and likewise for positive."""
        ranges = [self.range(self._atoms[n], known) for n in monomial]
        if all(r.lo >= 0 for r in ranges):
            return (Constraint({monomial: -1}, all(r.positive for r in ranges)),)
        return ()

    def declared(self, read: Read) -> tuple[Constraint, ...]:
        """What the `where` of a declaration says of one element."""
        number = self.number(read)
        if number not in self._declared:
            self._declared[number] = ()
            decl = self.decls.get(read.name)
            if decl is not None and decl.where is not None and read.pad is None:
                try:
                    fact = substitute(decl.where, dict(zip(decl.axes, read.index, strict=True)))
                    self._declared[number] = self.assume(Known(), fact).facts
                except ValueError:
                    pass
        return self._declared[number]

    def atom_facts(self, number: int, known: Known) -> tuple[Constraint, ...]:
        """The facts that come with an atom."""
        found = known.atoms.get(number)
        if found is None:
            known.atoms[number] = ()  # while they are being found
            found = facts_of_atom(self, self._atoms[number], known)
            known.atoms[number] = found
        return found
