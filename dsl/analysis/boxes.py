"""A mask over a whole tile: may any pair of it take part, must every pair?

Three-valued interval arithmetic. A number is a range over the tile, a condition what is possible
and what is certain. Positions run over the tile's rows and columns. What reads tensors at one
token, however nested, runs between the least and the greatest value that the tile's tokens give
it, and a tensor over pairs between those of the tile: these are the `ends`, which the run-time
computes once a block. Exact where no two parts of a condition depend on each other; sound always.

A value that is not a number makes its block's ends so. A comparison with such an end decides
nothing: what is possible is written as the denial of what excludes it. Floats are rounded at most
once on the way to a comparison, as in the kernels, so that fused multiply-adds cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import PAIR
from attnspec.dsl.analysis.logic import Chances
from attnspec.dsl.analysis.runs import FALSE, TRUE, Bounds
from attnspec.dsl.analysis.tensors import tensors
from attnspec.dsl.ast import COMPARISONS, Apply, Expr, Index, Kind, Literal, Read, Spec
from attnspec.dsl.formula import formula

MOST = 2000  # operations, written out; a condition that takes more decides nothing

UNKNOWN: Chances = (TRUE, FALSE)


@dataclass(frozen=True, slots=True)
class End:
    """Names of the least and greatest value of `of` over a tile of `side`: "i", "j" or "ij"."""

    low: str
    high: str
    of: Expr
    side: str


@dataclass(frozen=True, slots=True)
class Box:
    """Whether a tile may hold pairs, and whether it holds nothing else.

    Conditions over `Index("lo_i")`, `Index("hi_i")`, `Index("lo_j")`, `Index("hi_j")` (a tile's
    first and last positions), the names of `ends`, numbers of the call, and values of b and h.
    """

    possible: Expr
    certain: Expr
    ends: tuple[End, ...]

    @property
    def decides(self) -> bool:
        """Whether anything is known of some tile."""
        return self.possible != TRUE or self.certain != FALSE


def box(spec: Spec, mask: Expr) -> Box:
    """The mask of `spec`, inlined and with coordinates written out, over any tile."""
    found = Boxes(spec)
    possible, certain = found.chances(mask)
    if found.most > MOST:
        possible, certain = UNKNOWN
    return Box(possible, certain, tuple(found.ends.values()))


def blocks(spec: Spec, mask: Expr | None, loops: Sequence[Bounds]) -> Box | None:
    """What block lists are made from; None where they could leave out no more than the loops' own
    bounds, which then need no memory."""
    if mask is None or all(loop.tight for loop in loops):
        return None
    found = box(spec, mask)
    return found if found.decides else None


def describe(found: Box | None) -> Iterator[Fact]:
    """Block lists as a fact."""
    if found is None:
        return
    read = ", ".join(dict.fromkeys(formula(end.of) for end in found.ends)) or "positions"
    why = f"over a tile, the mask lies between its values at the extremes of {read}"
    buys = "int32 lists of the tiles to visit, full ones apart; no tensor of the mask's size"
    yield Fact("block lists", f"visited where {formula(found.possible)}", why, buys)


@dataclass(frozen=True, slots=True)
class Range:
    """Least and greatest value. `rounded`: the result of an operation on floats."""

    low: Expr
    high: Expr
    rounded: bool = False

    @property
    def one(self) -> bool:
        """Whether it is one number for the whole tile."""
        return self.low is self.high


@dataclass(slots=True)
class Boxes:
    """Conditions and numbers of a spec over a tile; `ends` and `most`, the operations of the
    longest expression, grow as they are asked for."""

    spec: Spec
    ends: dict[Expr, End] = field(default_factory=dict)
    most: int = 0
    _sizes: dict[int, tuple[Expr, int]] = field(default_factory=dict)
    _known: dict[int, tuple[Expr, Chances | Range | None]] = field(default_factory=dict)

    # conditions

    def chances(self, expr: Expr) -> Chances:
        """(possible, certain) of a condition."""
        if id(expr) not in self._known:
            self._known[id(expr)] = expr, self._chances(expr)
        found = self._known[id(expr)][1]
        assert isinstance(found, tuple)
        return found

    def _chances(self, expr: Expr) -> Chances:
        leaf = self.leaf(expr)
        if leaf is not None:
            return leaf.high, leaf.low
        match expr:
            case Apply(op="and", args=args):
                pairs = [self.chances(a) for a in args]
                return self.every(*(p for p, _ in pairs)), self.every(*(c for _, c in pairs))
            case Apply(op="or", args=args):
                pairs = [self.chances(a) for a in args]
                return self.some(*(p for p, _ in pairs)), self.some(*(c for _, c in pairs))
            case Apply(op="not", args=(a,)):
                return self.denied(self.chances(a))
            case Apply(op="where", args=(c, a, b)):
                return self.chosen(self.chances(c), self.chances(a), self.chances(b))
            case Apply(op=("eq" | "ne"), args=(a, b)) if a.kind is Kind.BOOL:
                one, other = self.chances(a), self.chances(b)
                same = self.chosen(one, other, self.denied(other))
                return same if expr.op == "eq" else self.denied(same)
            case Apply(op=op, args=(a, b)) if op in COMPARISONS:
                x, y = self.range(a), self.range(b)
                return UNKNOWN if x is None or y is None else self.compared(op, x, y)
        return UNKNOWN

    def compared(self, op: str, x: Range, y: Range) -> Chances:
        """A comparison of two ranges."""
        if op in ("gt", "ge"):
            op, x, y = {"gt": "lt", "ge": "le"}[op], y, x
        rounded = x.rounded or y.rounded
        match op:
            case "lt":
                return self.may("lt", x.low, y.high), self.holds("lt", x.high, y.low)
            case "le":  # infinities may have cancelled: strictly below is certain even then
                surely = self.holds("lt" if rounded else "le", x.high, y.low)
                return self.may("le", x.low, y.high), surely
            case "ne":
                return self.denied(self.compared("eq", x, y))
        if x.one and y.one and not rounded:
            same = self.holds("eq", x.low, y.low)
            return same, same
        meet = self.every(self.may("le", x.low, y.high), self.may("le", y.low, x.high))
        if rounded:
            return meet, FALSE
        return meet, self.every(self.holds("eq", x.low, y.high), self.holds("eq", x.high, y.low))

    def may(self, op: str, a: Expr, b: Expr) -> Expr:
        """A comparison of two ends, true as well where one of them is not a number."""
        if a.kind is Kind.INT and b.kind is Kind.INT:
            return self.holds(op, a, b)
        return self.no(self.holds({"lt": "ge", "le": "gt"}[op], a, b))

    def chosen(self, c: Chances, a: Chances, b: Chances) -> Chances:
        """`a` where `c` holds, else `b`."""
        no = self.denied(c)
        possible = self.some(self.every(c[0], a[0]), self.every(no[0], b[0]))
        certain = self.some(self.every(c[1], a[1]), self.every(no[1], b[1]), self.every(a[1], b[1]))
        return possible, certain

    def denied(self, of: Chances) -> Chances:
        """The opposite."""
        return self.no(of[1]), self.no(of[0])

    # numbers

    def range(self, expr: Expr) -> Range | None:
        """The range of a number; None when nothing is known."""
        if id(expr) not in self._known:
            self._known[id(expr)] = expr, self._range(expr)
        found = self._known[id(expr)][1]
        assert found is None or isinstance(found, Range)
        return found

    def _range(self, expr: Expr) -> Range | None:
        leaf = self.leaf(expr)
        if leaf is not None:
            return leaf
        match expr:
            case Index(axis=("i" | "j") as axis):
                return Range(Index(f"lo_{axis}", kind=Kind.INT), Index(f"hi_{axis}", kind=Kind.INT))
            case Apply(op="where", args=(c, a, b)):
                x, y = self.range(a), self.range(b)
                return None if x is None or y is None else self.picked(self.chances(c), x, y)
            case Apply(op=op, args=args):
                ranges = [self.range(a) for a in args]
                known = [r for r in ranges if r is not None]
                return self.applied(op, known, expr.kind) if len(known) == len(ranges) else None
        return None

    def leaf(self, expr: Expr) -> Range | None:
        """What is one number for the tile, or stands between a block's ends."""
        tokens = expr.free & PAIR
        if not tokens:
            return Range(expr, expr)
        if expr.free >= PAIR and not self._over_pairs(expr):
            return None
        if not tensors(self.spec, expr):
            return None
        if expr not in self.ends:
            side = "".join(sorted(tokens))
            stem = f"{expr.name if isinstance(expr, Read) else 'term'}_{side}"
            names = {e.low for e in self.ends.values()}
            counts = (f"{stem}{k}" for k in range(2, len(names) + 3))
            name = next(n for n in (stem, *counts) if f"lo_{n}" not in names)
            self.ends[expr] = End(f"lo_{name}", f"hi_{name}", expr, side)
        end = self.ends[expr]
        return Range(Index(end.low, kind=expr.kind), Index(end.high, kind=expr.kind))

    def _over_pairs(self, expr: Expr) -> bool:
        """Whether it is a tensor over both tokens, read at the pair itself."""
        decl = self.spec.decl(expr.name) if isinstance(expr, Read) else None
        if decl is None or not isinstance(expr, Read) or expr.pad is not None:
            return False
        places = [x.axis if isinstance(x, Index) else "" for x in expr.index]
        return places == list(decl.axes) and PAIR.issubset(places)

    def picked(self, c: Chances, x: Range, y: Range) -> Range:
        """The range of `where`: of one branch where the tile decides, else of both."""

        def end(op: str, a: Expr, b: Expr) -> Expr:
            kind = a.kind
            either = self.op("where", (c[0], self.op(op, (a, b), kind), b), kind)
            return self.op("where", (c[1], a, either), kind)

        return Range(end("min", x.low, y.low), end("max", x.high, y.high), x.rounded or y.rounded)

    def applied(self, op: str, args: list[Range], kind: Kind) -> Range | None:
        """The range of an operation; None where it is not read."""
        rounded = any(a.rounded for a in args)
        floats = kind is Kind.FLOAT
        if op in ("add", "sub", "mul", "div") and floats and rounded:
            return None
        new = floats and op in ("add", "sub", "mul", "div")

        def both(op: str, low: tuple[Expr, ...], high: tuple[Expr, ...]) -> Range:
            return Range(self.op(op, low, kind), self.op(op, high, kind), new or rounded)

        lows, highs = tuple(a.low for a in args), tuple(a.high for a in args)
        match op, args:
            case (("add" | "min" | "max" | "clamp"), _):
                return both(op, lows, highs)
            case "sub", [x, y]:
                return both(op, (x.low, y.high), (x.high, y.low))
            case "neg", [x]:
                return both(op, (x.high,), (x.low,))
            case "abs", [x]:
                return self.size(x, kind)
            case "mul", [x, y]:
                return self.corners(op, x, y, kind)
            case (("div" | "floordiv"), [x, y]) if y.one and (op == "div" or not floats):
                return self.corners(op, x, y, kind)
            case "mod", [x, y] if y.one and not floats:
                return self.residue(x, y.low)
            case "pow", [x, Range(low=Literal(value=int() as n))] if n > 0 and not floats:
                x = x if n % 2 else self.size(x, kind)
                return both(op, (x.low, args[1].low), (x.high, args[1].low))
            case (("floor" | "ceil"), [x]) if self.finite(x):
                return both(op, lows, highs)
        return None

    def size(self, x: Range, kind: Kind) -> Range:
        """The range of abs(x)."""
        zero = Literal(0.0 if kind is Kind.FLOAT else 0, kind=kind)
        least = self.op("max", (x.low, self.op("neg", (x.high,), kind), zero), kind)
        return Range(
            least, self.op("max", (x.high, self.op("neg", (x.low,), kind)), kind), x.rounded
        )

    def finite(self, x: Range) -> bool:
        """Whether the ends are surely numbers: no float of a token went into them."""
        floats = {n for e in self.ends.values() if e.of.kind is Kind.FLOAT for n in (e.low, e.high)}
        return not floats & (x.low.free | x.high.free)

    def corners(self, op: str, x: Range, y: Range, kind: Kind) -> Range:
        """The range of what is monotone in each argument, in a direction that is not known."""
        pairs = {(id(a), id(b)): (a, b) for a in (x.low, x.high) for b in (y.low, y.high)}
        corners = [self.op(op, pair, kind) for pair in pairs.values()]
        if isinstance(y.low, Literal) and y.one and y.low.value > 0:
            return Range(corners[0], corners[-1], kind is Kind.FLOAT)
        least = self.op("min", tuple(corners), kind)
        return Range(least, self.op("max", tuple(corners), kind), kind is Kind.FLOAT)

    def residue(self, x: Range, by: Expr) -> Range:
        """x % by: exact while x stays between two multiples."""
        zero, one = Literal(0, kind=Kind.INT), Literal(1, kind=Kind.INT)

        def op(name: str, *args: Expr) -> Expr:
            return self.op(name, args, Kind.INT)

        same = self.holds("eq", op("floordiv", x.low, by), op("floordiv", x.high, by))
        least = op("min", zero, op("add", by, one))
        most = op("max", zero, op("sub", by, one))
        if isinstance(by, Literal) and by.value > 0:
            least, most = zero, Literal(by.value - 1, kind=Kind.INT)
        return Range(
            op("where", same, op("mod", x.low, by), least),
            op("where", same, op("mod", x.high, by), most),
        )

    # making expressions

    def op(self, op: str, args: tuple[Expr, ...], kind: Kind) -> Expr:
        """An operation on ends."""
        if len(args) == 1 and op in ("min", "max"):
            return args[0]
        match op, args:
            case "where", (Literal(value=chosen), a, b):
                return a if chosen else b
        made = Apply(op, args, kind=kind)
        size = 1 + sum(self._sizes[id(a)][1] for a in args if id(a) in self._sizes)
        self._sizes[id(made)] = made, size
        self.most = max(self.most, size)
        return made

    def holds(self, op: str, a: Expr, b: Expr) -> Expr:
        """A comparison of two ends."""
        return self.op(op, (a, b), Kind.BOOL)

    def every(self, *args: Expr) -> Expr:
        """All of the conditions."""
        return self._joined("and", args, neutral=True)

    def some(self, *args: Expr) -> Expr:
        """Any of the conditions."""
        return self._joined("or", args, neutral=False)

    def _joined(self, op: str, args: tuple[Expr, ...], neutral: bool) -> Expr:
        kept: list[Expr] = []
        for arg in args:
            if isinstance(arg, Literal):
                if bool(arg.value) is not neutral:
                    return arg
            elif not any(arg is other for other in kept):
                kept.append(arg)
        if not kept:
            return Literal(neutral, kind=Kind.BOOL)
        return kept[0] if len(kept) == 1 else self.op(op, tuple(kept), Kind.BOOL)

    def no(self, arg: Expr) -> Expr:
        """The opposite of a condition."""
        match arg:
            case Literal(value=value):
                return Literal(not value, kind=Kind.BOOL)
            case Apply(op="not", args=(inner,)):
                return inner
        return self.op("not", (arg,), Kind.BOOL)
