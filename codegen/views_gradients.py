"""Which gradients a kernel makes, and how each is summed up."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.plan_types import PairPlan
from attnspec.codegen.spelling import tuple_text
from attnspec.codegen.statements import text
from attnspec.codegen.tile import Atom, names_used, needed
from attnspec.codegen.views_channels import vector_gradients


@dataclass(frozen=True, slots=True)
class Slope:
    """A derivative of the weight at `place`, or of what a running sum adds up, and what the
    gradient of that is called."""

    value: Atom
    place: int
    upstream: str

    @property
    def term(self) -> str:
        """What it adds to a share."""
        return self.upstream if self.value == 1.0 else f"{self.upstream} * {text(self.value)}"


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient that the kernel makes, by the `slopes` of weights. `other` is the tile it
    multiplies (dots), `after` a factor that is the same everywhere and so applied once; `first` of
    its operand. `repeated`: the entries of a token's table that several of its pairs may add to
    (None: any). `added`: its slopes as a part of running sums."""

    name: str
    role: str
    operand: str
    slopes: tuple[Slope, ...]
    after: str = ""
    other: str = ""
    channel: str = ""
    index: str = ""
    first: bool = True
    repeated: tuple[Atom, ...] | None = None
    vectors: tuple[str, ...] = ()
    added: tuple[Slope, ...] = ()

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
        return self.vectors or ((self.operand,) if self.operand else ())

    @property
    def computed(self) -> bool:
        """Whether every pair's share is not just the gradient of a weight: the slope is then no
        factor of the whole."""
        apart = len(self.slopes) > 1 or bool(self.added)
        return apart or not (self.after or self.slopes[0].value == 1.0)

    @property
    def share(self) -> str:
        """The name of every pair's share."""
        return f"share_{self.name}" if self.computed else self.slopes[0].upstream

    @property
    def product(self) -> str:
        """That share, where it is computed."""
        found = " + ".join(slope.term for slope in self.slopes if slope.value != 0.0)
        return found or "0.0"

    @property
    def more(self) -> dict[str, str]:
        """What running sums add to it, by what the gradient of each is called."""
        return {slope.upstream: slope.term for slope in self.added}

    @property
    def place(self) -> int:
        """The weight after which it is known."""
        return max(slope.place for slope in self.slopes)

    @property
    def values(self) -> list[Atom]:
        """All its slopes."""
        return [slope.value for slope in (*self.slopes, *self.added)]


def slopes_of(plan: PairPlan, name: str) -> tuple[Slope, ...]:
    """The derivatives of weights by `name`: of several weights, those that are not 0."""
    found = [
        Slope(g.value, place, f"ds{end}" if branch.softmax and end else "dp")
        for place, (branch, end) in enumerate(zip(plan.branches, endings(plan), strict=True))
        for g in branch.gradients
        if g.of == name
    ]
    some = [slope for slope in found if slope.value != 0.0]
    return tuple(some or found[:1])


def added(plan: PairPlan, name: str) -> tuple[Slope, ...]:
    """The derivatives by `name` of what running sums add up."""
    return tuple(
        Slope(g.value, 0, f"d_{scan.name}")
        for scan in plan.scans
        for g in scan.gradients
        if g.of == name
    )


def endings(plan: PairPlan) -> list[str]:
    """What the names of what belongs to each weight end in."""
    several = len(plan.branches) > 1
    return [f"_{place + 1}" if several else "" for place in range(len(plan.branches))]


def _once(plan: PairPlan, slopes: tuple[Slope, ...]) -> str:
    """The factor to apply after the loop when the slope is one number for a head."""
    value = slopes[0].value
    if len(slopes) > 1 or value == 1.0:
        return ""
    axes = {op.target: op.axes for op in plan.ops}
    fixed = {s.name for s in plan.scalars} | {"LOG2E"}
    if isinstance(value, str) and not (axes.get(value) == "" or value in fixed):
        return ""
    return f" * {text(value)}"


def dot_gradients(plan: PairPlan, side: str) -> list[Gradient]:
    """Those of the dots' operands on one side, "rows" or "columns"."""
    found: list[Gradient] = []
    own = [d.left if side == "rows" else d.right for d in plan.dots]
    for dot, mine in zip(plan.dots, own, strict=True):
        other = dot.right if side == "rows" else dot.left
        shared = [o.name for o in own].count(mine.name) > 1
        slopes = slopes_of(plan, dot.name)
        if not slopes:
            continue
        # a key head's sum runs over several query heads, each with its own numbers
        more = added(plan, dot.name)
        apart = shared or (side == "columns" and not one_number(plan, slopes[0].value))
        apart = apart or bool(more)
        once = "" if apart else _once(plan, slopes)
        first, channel = mine.name not in {g.operand for g in found}, mine.labels[3]
        found.append(
            Gradient(
                dot.name, "dot", mine.name, slopes, once, other.name, channel, "", first, added=more
            )
        )
    return found


def sum_gradients(plan: PairPlan, side: str) -> list[Gradient]:
    """Those of the sums over channels, of which the vectors of one side get theirs."""
    vectors = {
        part.name: tuple(g.operand for g in vector_gradients(part, side)) for part in plan.sums
    }
    return [
        Gradient(name, "sum", "", slopes_of(plan, name), vectors=found, added=added(plan, name))
        for name, found in vectors.items()
        if found
    ]


def one_number(plan: PairPlan, value: Atom) -> bool:
    """Whether an atom is one number for the whole call."""
    if not isinstance(value, str):
        return True
    heads = {x.name for x in plan.leaves if x.role == "head"} | {"b", "h"}
    return not heads & names_used(needed(plan.ops, [value]), [value])


def leaf_gradients(plan: PairPlan, roles: tuple[str, ...]) -> list[Gradient]:
    """Those of the inputs that are read in one of the roles."""
    found = []
    for leaf in plan.leaves:
        if leaf.grad and leaf.role in roles:
            slopes = slopes_of(plan, leaf.name)
            summed = leaf.role in ("row", "head", "table")
            more = added(plan, leaf.name)
            once = _once(plan, slopes) if summed and not more else ""
            index = "" if leaf.index is None else text(leaf.index)
            name = leaf.operand.name
            found.append(
                Gradient(
                    leaf.name,
                    leaf.role,
                    name,
                    slopes,
                    once,
                    index=index,
                    repeated=leaf.repeated,
                    added=more,
                )
            )
    return found


def scan_gradients(plan: PairPlan, side: str) -> list[Gradient]:
    """Those of running sums: in the kernel of rows, of what other blocks add to them, too."""
    return [
        Gradient(
            scan.name,
            "scan",
            scan.carried if side == "rows" else "",
            slopes_of(plan, scan.name),
            added=added(plan, scan.name),
        )
        for scan in plan.scans
        if scan.gradients
    ]
