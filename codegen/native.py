"""The tile of a pass in C++, for the CPU; `runtime/native.h` walks the tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from attnspec.codegen.diagonals import apart, growth, worthwhile
from attnspec.codegen.passes import operands
from attnspec.codegen.plan_types import Leaf, PairPlan
from attnspec.codegen.spelling import CPP, CPP_MOST, spelled
from attnspec.codegen.tile import Atom, Op, names_used, needed
from attnspec.dsl.ast import Kind

_ROLES = ("row", "column", "head", "pair", "table", "row_table")
_LOADS = ("load", "load_row")
_TYPES = {Kind.FLOAT: "float", Kind.INT: "int", Kind.BOOL: "bool"}


@dataclass(frozen=True, slots=True)
class Share:
    """The gradient of what a pair reads: `value` times that of its score; `place` in a table, the
    same along a diagonal if `along`."""

    leaf: Leaf
    operand: int
    value: str
    place: str
    along: bool

    @property
    def size(self) -> str:
        """How many entries the table has."""
        return f"size_{self.leaf.operand.name}"


@dataclass(frozen=True)
class Native:
    """What the template prints of a pass."""

    plan: PairPlan
    names: tuple[str, ...]

    @property
    def softmax(self) -> bool:
        return self.plan.softmax

    def place(self, name: str) -> int:
        """Where an operand stands."""
        return self.names.index(name)

    @property
    def left(self) -> list[int]:
        return [self.place(dot.left.name) for dot in self.plan.dots]

    @property
    def right(self) -> list[int]:
        return [self.place(dot.right.name) for dot in self.plan.dots]

    @property
    def value(self) -> int:
        return -1 if self.plan.value is None else self.place(self.plan.value.name)

    @property
    def sink(self) -> int:
        found = self.plan.branches[0].sink
        return -1 if found is None else self.place(found.name)

    @property
    def keep(self) -> str:
        return "" if self.plan.keep is None else atom(self.plan.keep)

    @cached_property
    def shares(self) -> list[Share]:
        """The gradients of what takes part in no product."""
        values = {g.of: g.value for g in self.plan.branches[0].gradients}
        return [
            Share(
                leaf,
                self.place(leaf.operand.name),
                times(values[leaf.name]),
                "" if leaf.index is None else atom(leaf.index),
                self._shares_along(leaf),
            )
            for leaf in self.plan.leaves
            if leaf.grad and leaf.name in values
        ]

    @property
    def slopes(self) -> list[str]:
        """What the gradient of the score is multiplied by for each product."""
        values = {g.of: g.value for g in self.plan.branches[0].gradients}
        return [times(values.get(dot.name, 0.0)) for dot in self.plan.dots]

    @property
    def magnitudes(self) -> list[tuple[str, str]]:
        """Of each whole number the size that it cannot exceed."""
        found = [
            (x.name, f"std::abs(call.numbers[{place}])")
            for place, x in enumerate(self.plan.scalars)
            if x.kind is Kind.INT
        ]
        places = {x.operand.name: x for x in self.plan.leaves if x.kind is Kind.INT}
        for name, leaf in places.items():
            known = name if leaf.index is not None else leaf.name
            found.append((known, f"call.largest[{self.place(name)}]"))
        for op in needed(self.plan.ops, self.roots):
            if op.kind is Kind.INT:
                sizes = [_most(a) for a in op.args]
                form = "{0}" if op.op in _LOADS else CPP_MOST[spelled(op.op, op.kind)]
                found.append((op.target, form.format(*sizes)))
        return found

    @property
    def roots(self) -> list[Atom]:
        """All that is computed of a pair."""
        return [self.plan.branches[0].score, *self._backward_roots, *self._mask]

    @property
    def _backward_roots(self) -> list[Atom]:
        branch = self.plan.branches[0]
        places = [s.leaf.index for s in self.shares if s.leaf.index is not None]
        return [branch.again, *(g.value for g in branch.gradients), *places]

    @property
    def _mask(self) -> list[Atom]:
        return [] if self.plan.keep is None else [self.plan.keep]

    @cached_property
    def forward(self) -> Body:
        branch = self.plan.branches[0]
        return self._body([branch.score, *self._mask], branch.score)

    @cached_property
    def backward(self) -> Body:
        return self._body([*self._backward_roots, *self._mask], self.plan.branches[0].again)

    @cached_property
    def _grows(self) -> dict[str, int]:
        heads = [x.name for x in self.plan.leaves if x.role == "head"]
        return growth(
            self.plan.ops, ["LOG2E", "b", "h", *heads, *(x.name for x in self.plan.scalars)]
        )

    def _shares_along(self, leaf: Leaf) -> bool:
        """Whether the pairs of a diagonal share one entry of a table, which gets their sum."""
        return (
            leaf.role == "table"
            and isinstance(leaf.index, str)
            and leaf.index not in ("i", "j")
            and self._grows.get(leaf.index) == 0
        )

    @cached_property
    def _once(self) -> frozenset[str]:
        """What is worked out once for each diagonal of a tile."""
        places = {x.index for x in self.plan.leaves if x.grad and self._shares_along(x)}
        dear = worthwhile(needed(self.plan.ops, self.roots), self._grows)
        return dear | {x for x in places if isinstance(x, str)}

    def along(self, share: Share) -> int:
        """Which of the numbers of a diagonal is a share's place, -1 if none."""
        names = [x.name for x in self.backward.along]
        return names.index(share.place) if share.along else -1

    def diagonals(self, body: Body) -> Body:
        """What `body` reads along diagonals, worked out for the row with the most of them."""
        names = [x.name for x in body.along]
        return self._statements(needed(self.plan.ops, names), names)

    def _body(self, roots: list[Atom], score: Atom) -> Body:
        ops, names = apart(needed(self.plan.ops, roots), roots, self._once)
        kinds = {op.target: op.kind for op in self.plan.ops}
        along = [Along(name, kinds[name] is Kind.INT) for name in names]
        return self._statements(ops, roots, score, along)

    def _statements(
        self,
        ops: Sequence[Op],
        roots: Sequence[Atom],
        score: Atom = 0.0,
        along: Sequence[Along] = (),
    ) -> Body:
        used = names_used(ops, roots)
        return Body(
            atom(score),
            list(along),
            [self._read(leaf) for leaf in self.plan.leaves if _reads(leaf, used, "row")],
            [self._read(leaf) for leaf in self.plan.leaves if _reads(leaf, used, "pair")],
            [leaf.name for leaf in self.plan.leaves if _reads(leaf, used, "pair")],
            [
                f"const {_TYPES[x.kind]} {x.name} = "
                f"static_cast<{_TYPES[x.kind]}>(call.numbers[{place}]);"
                for place, x in enumerate(self.plan.scalars)
                if x.name in used
            ],
            [_line(op) for op in ops if op.axes in ("", "i")],
            [_line(op) for op in ops if op.axes not in ("", "i")],
            [(dot.name, place) for place, dot in enumerate(self.plan.dots) if dot.name in used],
        )

    def _read(self, leaf: Leaf) -> str:
        """A statement that reads a leaf, or where a row's numbers of it begin."""
        kind = "float" if leaf.kind is Kind.FLOAT else "int32_t"
        name, x = leaf.operand.name, f"call.operands[{self.place(leaf.operand.name)}]"
        match leaf.role:
            case "head":
                return f"const auto {leaf.name} = {x}.number<{kind}>(at.b, at.h);"
            case "row":
                return f"const auto {leaf.name} = {x}.number<{kind}>(at.b, at.h, at.row);"
            case "column":
                return f"const auto* of_{leaf.name} = {x}.numbers<{kind}>(at.b, at.hk, at.column);"
            case "pair":
                begin = f"{x}.numbers<{kind}>(at.b, at.h, at.row)"
                return f"const auto* of_{leaf.name} = {begin} + at.column;"
            case "row_table":
                begin = f"{x}.numbers<{kind}>(at.b, at.h, at.row)"
            case _:
                begin = f"{x}.numbers<{kind}>(at.b, at.h)"
        return f"const auto* table_{name} = {begin}; const int64_t size_{name} = {x}.size;"


@dataclass(frozen=True, slots=True)
class Along:
    """What pairs read of their diagonal: a float, or the bits of a whole number."""

    name: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Body:
    """Statements of a row and, in its loop, of each pair; `dots` by the tile that holds each."""

    score: str
    along: list[Along]
    row_reads: list[str]
    pair_reads: list[str]
    read: list[str]
    numbers: list[str]
    row: list[str]
    pair: list[str]
    dots: list[tuple[str, int]]


def native(plan: PairPlan) -> Native | None:
    """The pass in C++; None where `runtime/native.h` lacks what it takes."""
    known = all(leaf.role in _ROLES for leaf in plan.leaves)
    apart = (
        plan.sums
        or plan.scans
        or plan.patches
        or plan.search
        or plan.entries
        or len(plan.branches) > 1
    )
    if plan.form not in ("vector", "number") or apart or not known or plan.lanes:
        return None
    found = Native(plan, tuple(o.name for o in operands(plan)))
    ops = needed(plan.ops, found.roots)
    spelt = all(
        op.op in _LOADS
        or (
            spelled(op.op, op.kind) in CPP
            and (op.kind is not Kind.INT or spelled(op.op, op.kind) in CPP_MOST)
        )
        for op in ops
    )
    return found if spelt else None


def _reads(leaf: Leaf, used: frozenset[str], side: str) -> bool:
    """Whether a leaf is read once for each row, or along it."""
    along = leaf.role in ("column", "pair")
    name = leaf.operand.name if leaf.index is not None else leaf.name
    return name in used and along == (side == "pair")


def atom(value: Atom) -> str:
    """An atom as C++."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
    if value in (float("inf"), float("-inf")):
        return "NOTHING" if value < 0 else "-NOTHING"
    return f"{value!r}f"


def _most(value: Atom) -> str:
    """The size that an atom cannot exceed; of what is no whole number it is not asked."""
    return f"most_{value}" if isinstance(value, str) else f"{float(abs(value))!r}"


def times(value: Atom) -> str:
    """A factor, none if it is 1."""
    return "" if value == 1.0 else f" * {atom(value)}"


def _line(op: Op) -> str:
    """One operation as a C++ statement."""
    args = [atom(a) for a in op.args]
    if op.op in _LOADS:
        table, index = args
        return f"const auto {op.target} = table_{table}[within({index}, size_{table})];"
    form = CPP[spelled(op.op, op.kind)]
    return f"const {_TYPES[op.kind]} {op.target} = {form.format(*args)};"
