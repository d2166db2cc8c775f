"""How a spec relates the two positions of a pair: causal, by distance alone, symmetric.

Distance: `shift` gives what is added to a value when every position grows by one (i, j and the
tensors' rows with them): 1 for `i`, 0 for `i - j`, None where that is not one number. A spec whose
outputs all shift by 0 is the same function wherever counting starts. On a grid each coordinate
is moved by itself, and the mask and the score are asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from attnspec.dsl.analysis.canonical import same
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.ast import (
    Apply,
    Concat,
    Contract,
    Coord,
    Cumsum,
    Expr,
    GridIndex,
    Index,
    Literal,
    Normalize,
    Rank,
    Read,
    Reduce,
    Role,
    Rope,
    Size,
    Spec,
)
from attnspec.dsl.build import apply, constant, index, rename
from attnspec.dsl.check_prover import Prover

_TOKENS = frozenset({Role.QUERY, Role.KEY})


def describe(spec: Spec) -> Iterator[Fact]:
    """What is proved of the two positions of a pair."""
    if spec.states:
        return
    if looks_back(spec):
        yield Fact(
            "causal",
            "no pair with j > i",
            "the mask implies j <= i" if spec.mask is not None else "there is no pair",
            "a decode step needs no later key, and a shard none of a later shard",
        )
    along = distances(spec)
    if along == ():
        yield Fact(
            "position-free",
            "no position is used",
            "i and j only say which row of a tensor is read",
            "tokens may come in any order and be counted from anywhere",
        )
    elif along is not None:
        on_grid = along != ("",)
        shown = ", ".join(f"i{a} - j{a}" for a in along)
        yield Fact(
            "translation-invariant",
            f"depends on {shown} alone, apart from the tensors",
            f"moving both {'coordinates' if on_grid else 'positions'} by one cancels at every use",
            "the same pattern at every place of the grid, borders aside"
            if on_grid
            else "only q_start - k_start matters: a cache or a shard may count from anywhere",
        )
    if symmetric(spec):
        yield Fact(
            "symmetric",
            "(j, i) takes part where (i, j) does",
            "the mask is the same with i and j exchanged",
            "what bounds the keys of a tile of queries bounds the queries of a tile of keys",
        )


def looks_back(spec: Spec) -> bool:
    """Whether no pair with j > i takes part, for any start."""
    if spec.mask is None:
        return False
    prover = Prover(spec)
    known = prover.at_pair(prover.start(), "i", "j")
    return prover.holds(apply("le", index("j"), index("i")), known)


def symmetric(spec: Spec) -> bool:
    """Whether the mask is the same with i and j exchanged (on one set of positions)."""
    if spec.mask is None or (spec.grids and not spec.shared_grid):
        return False
    mask = inline(spec, spec.mask)
    try:
        return same(mask, rename(mask, {"i": "j", "j": "i"}))
    except ValueError:
        return False


def distances(spec: Spec) -> tuple[str, ...] | None:
    """Along what a spec knows distances alone: `("",)` for positions, else `.y`, `.x`, ….

    Positions: adding one number to q_start and k_start changes no output. Coordinates: the mask
    and the score of a pair depend on each of them only through the difference. Empty where no
    position is used at all, None where more than distances may count.
    """
    roots = [r.expr for r in spec.returns]
    roots += [e for e in (spec.mask, spec.output) if e is not None]
    plain = _Shift(spec, None)
    if plain.all_still(roots):
        return ("",) if plain.used else ()
    if not spec.grids or not spec.shared_grid:
        return None
    score = spec.definition("score")
    roots = [e for e in (spec.mask, None if score is None else score.expr) if e is not None]
    names = spec.grids[0].names
    still = all(_Shift(spec, name).all_still(roots) for name in names)
    return tuple(f".{name}" for name in names) if still else None


@dataclass(slots=True)
class _Shift:
    """`along` is the coordinate that grows by one; None: the position itself.

    `used`: a position was read as a number, or the order of the rows counts.
    """

    spec: Spec
    along: str | None
    used: bool = False
    _known: dict[int, int | None] = field(default_factory=dict)
    _defs: dict[str, bool] = field(default_factory=dict)

    def all_still(self, roots: list[Expr]) -> bool:
        return all(self.of(root) == 0 for root in roots)

    def of(self, expr: Expr) -> int | None:
        """What is added to `expr`; None where that is not one number."""
        if id(expr) not in self._known:
            self._known[id(expr)] = self._of(expr)
        return self._known[id(expr)]

    def _of(self, expr: Expr) -> int | None:
        match expr:
            case Literal() | Size():
                return 0
            case Index(axis=axis):
                if not self._is_token(axis):
                    return None if self.spec.axis(axis).role is Role.BLOCK else 0
                self.used = True
                return 1 if self.along is None else None
            case Coord(along=along):
                return None if self.along is None else int(along == self.along)
            case Read():
                return 0 if self._reads_along(expr) else None
            case Apply(op=op, args=args):
                return _applied(op, args, [self.of(a) for a in args])
            case Contract(left=Rope() as left, right=Rope() as right):
                return 0 if self._turns(left, right) else None
            case Contract(left=left, right=right):
                return self._still(left, right)
            case Reduce(op=op, body=body, where=where) if op != "argmax":
                return self._still(body, where)
            case Normalize(body=body, where=where, sink=sink, alpha=alpha):
                return self._still(body, where, sink, alpha)
            case Cumsum(body=body, where=where) | Rank(body=body, where=where):
                self.used = True
                return self._still(body, where)
            case Rope(body=body, positions=positions, base=base):
                return self._still(body, base, *positions)
            case Concat(parts=parts):
                return self._still(*(part for _, part in parts))
        return None

    def _still(self, *parts: Expr | None) -> int | None:
        return 0 if all(p is None or self.of(p) == 0 for p in parts) else None

    def _turns(self, left: Rope, right: Rope) -> bool:
        """Two rotations: their product knows the difference of the angles alone."""
        if (left.axis, left.base) != (right.axis, right.base) or self.of(left.base) != 0:
            return False
        if len(left.positions) != len(right.positions) or self._still(left.body, right.body) != 0:
            return False
        pairs = zip(left.positions, right.positions, strict=True)
        return all(self.of(a) is not None and self.of(a) == self.of(b) for a, b in pairs)

    def _reads_along(self, read: Read) -> bool:
        """Whether a read moves with the tensor's rows, and what is read does not change."""
        found = self.spec.decl(read.name) or self.spec.definition(read.name)
        if found is None or (read.pad is not None and self.of(read.pad) != 0):
            return False
        for axis, place in zip(found.axes, read.index, strict=True):
            if not (self._moves(place) if self._is_token(axis) else self.of(place) == 0):
                return False
        if self.spec.decl(read.name) is not None:
            return True
        if read.name not in self._defs:
            definition = self.spec.definition(read.name)
            assert definition is not None
            self._defs[read.name] = self.of(definition.expr) == 0
        return self._defs[read.name]

    def _moves(self, place: Expr) -> bool:
        """Whether a token's place moves by one along with everything else."""
        if isinstance(place, Index):
            return self._is_token(place.axis)
        if isinstance(place, GridIndex):
            names = self.spec.grids[0].names
            parts = zip(names, place.coords, strict=True)
            return self.along is not None and all(
                self.of(part) == (name == self.along) for name, part in parts
            )
        return self.along is None and self.of(place) == 1

    def _is_token(self, axis: str) -> bool:
        found = self.spec.axis(axis)
        while found.role is Role.ALIAS and found.base is not None:
            found = self.spec.axis(found.base)
        return found.role in _TOKENS


def _applied(op: str, args: tuple[Expr, ...], shifts: list[int | None]) -> int | None:
    known = [s for s in shifts if s is not None]
    if len(known) < len(shifts):
        return None
    if not any(known):
        return 0
    match op, known:
        case "add", _:
            return sum(known)
        case "sub", [a, b]:
            return a - b
        case "neg", [a]:
            return -a
        case "mul", [a, b]:
            left, right = constant(args[0]), constant(args[1])
            if isinstance(right, int) and b == 0:
                return a * right
            return b * left if isinstance(left, int) and a == 0 else None
        case "floordiv", [a, 0] if _whole(a, args[1]):
            return a // int(constant(args[1]) or 1)
        case "mod", [a, 0] if _whole(a, args[1]):
            return 0
        case (("lt" | "le" | "gt" | "ge" | "eq" | "ne"), [a, b]) if a == b:
            return 0
        case (("min" | "max" | "clamp"), _) if len(set(known)) == 1:
            return known[0]
        case "where", [0, a, b] if a == b:
            return a
    return None


def _whole(shift: int, divisor: Expr) -> bool:
    """Whether a shift is a multiple of a literal divisor."""
    number = constant(divisor)
    return isinstance(number, int) and number != 0 and shift % number == 0
