"""Which gradients a kernel makes, and how each is summed up."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.plan_types import PairPlan
from attnspec.codegen.spelling import tuple_text
from attnspec.codegen.statements import text
from attnspec.codegen.tile import Atom, names_used, needed
from attnspec.codegen.views_channels import sum_view


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient that the kernel makes. `other` is the tile it multiplies (dots), `after` a
    factor that is the same everywhere and so applied once; `first` of its operand. `repeated`: the
    entries of a token's table that several of its pairs may add to (None: any)."""

    name: str
    role: str
    operand: str
    value: Atom
    after: str = ""
    other: str = ""
    channel: str = ""
    index: str = ""
    first: bool = True
    repeated: tuple[Atom, ...] | None = None
    vectors: tuple[str, ...] = ()

    @property
    def owned(self) -> bool:
        """Whether each token has a table of its own."""
        return self.role in ("row_table", "column_table")

    @property
    def ends(self) -> str:
        """`repeated` as a tuple."""
        return "" if self.repeated is None else tuple_text(text(end) for end in self.repeated)

    @property
    def operands(self) -> tuple[str, ...]:
        """Whose gradients are made of it: of a sum over channels its `vectors`."""
        return self.vectors or (self.operand,)

    @property
    def share(self) -> str:
        """The name of every pair's share, `dp` where the slope is a factor of the whole."""
        return "dp" if self.after or self.value == 1.0 else f"share_{self.name}"


def _once(plan: PairPlan, value: Atom) -> str:
    """The factor to apply after the loop when the slope is one number for a head."""
    if value == 1.0:
        return ""
    axes = {op.target: op.axes for op in plan.ops}
    fixed = {s.name for s in plan.scalars} | {"LOG2E"}
    if isinstance(value, str) and not (axes.get(value) == "" or value in fixed):
        return ""
    return f" * {text(value)}"


def dot_gradients(plan: PairPlan, side: str) -> list[Gradient]:
    """Those of the dots' operands on one side, "rows" or "columns"."""
    found: list[Gradient] = []
    slopes = {g.of: g.value for g in plan.gradients}
    own = [d.left if side == "rows" else d.right for d in plan.dots]
    for dot, mine in zip(plan.dots, own, strict=True):
        other = dot.right if side == "rows" else dot.left
        shared = [o.name for o in own].count(mine.name) > 1
        value = slopes[dot.name]
        # a key head's sum runs over several query heads, each with its own numbers
        apart = shared or (side == "columns" and not one_number(plan, value))
        once = "" if apart else _once(plan, value)
        first = mine.name not in {g.operand for g in found}
        found.append(
            Gradient(dot.name, "dot", mine.name, value, once, other.name, mine.labels[3], "", first)
        )
    return found


def sum_gradients(plan: PairPlan, side: str) -> list[Gradient]:
    """Those of the sums over channels, of which the vectors of one side get theirs."""
    slopes = {g.of: g.value for g in plan.gradients}
    views = [sum_view(part, "", side) for part in plan.sums]
    return [
        Gradient(v.name, "sum", "", slopes[v.name], vectors=tuple(g.operand for g in v.gradients))
        for v in views
        if v.gradients
    ]


def one_number(plan: PairPlan, value: Atom) -> bool:
    """Whether an atom is one number for the whole call."""
    if not isinstance(value, str):
        return True
    heads = {x.name for x in plan.leaves if x.role == "head"} | {"b", "h"}
    return not heads & names_used(needed(plan.ops, [value]), [value])


def leaf_gradients(plan: PairPlan, roles: tuple[str, ...]) -> list[Gradient]:
    """Those of the inputs that are read in one of the roles."""
    slopes = {g.of: g.value for g in plan.gradients}
    found = []
    for leaf in plan.leaves:
        if leaf.grad and leaf.role in roles:
            value = slopes[leaf.name]
            summed = leaf.role in ("row", "head", "table")
            once = _once(plan, value) if summed else ""
            index = "" if leaf.index is None else text(leaf.index)
            name = leaf.operand.name
            found.append(
                Gradient(
                    leaf.name, leaf.role, name, value, once, index=index, repeated=leaf.repeated
                )
            )
    return found
