"""What templates see of a kernel's work: printed lines and loops, no expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnspec.codegen.lower import ORIGIN
from attnspec.codegen.packing import packs
from attnspec.codegen.plan_types import ChannelSum, Loop, PairPlan
from attnspec.codegen.spelling import tuple_text
from attnspec.codegen.statements import annotated, text
from attnspec.codegen.tile import Atom, names_used, needed
from attnspec.codegen.views import (
    Dot,
    LoopView,
    PatchView,
    Tensor,
    loop_view,
    patch_view,
    read_view,
)
from attnspec.codegen.views_branches import BranchView, branch_views
from attnspec.codegen.views_channels import (
    Part,
    SumView,
    VectorGradient,
    needed_sums,
    parts,
    sum_view,
)
from attnspec.codegen.views_gradients import Gradient, one_number


@dataclass(frozen=True, slots=True)
class Turn:
    """What a tile computes for one weight: dot products, operations, then gradients."""

    branch: BranchView
    dots: list[Dot]
    parts: list[Part]
    gradients: list[Gradient]
    first: bool
    last: bool

    @property
    def shares(self) -> list[str]:
        """The names of the gradients' shares of a pair, each once."""
        return list(dict.fromkeys(g.share for g in self.gradients))


@dataclass(frozen=True, slots=True)
class Work:
    """What a kernel computes: `side` is "rows" when a program owns queries, "columns" when keys."""

    name: str
    end: str  # of its name in the module
    doc: str
    plan: PairPlan
    side: str
    gradients: tuple[Gradient, ...] = ()
    pointers: tuple[str, ...] = ()
    forward: bool = False

    @property
    def softmax(self) -> bool:
        """Whether every weight is normalised."""
        return self.plan.softmax

    @property
    def split(self) -> bool:
        """Whether several programs may share the keys of a tile of rows, each giving an output of
        its own; these are merged afterwards."""
        return self.forward and self.plan.form == "vector" and not self.several

    @property
    def packs(self) -> bool:
        """Whether a tile may hold rows of several query heads: their numbers then stand upright
        beside it."""
        return self.forward and packs(self.plan)

    @property
    def upright(self) -> str:
        """The head, or that of every row, of what is read beside a tile."""
        return "h.to(tl.int64)" if self.packs else "h64"

    @property
    def first_head(self) -> str:
        """The head, or the first one, of a program's rows."""
        return "first64" if self.packs else "h64"

    @property
    def descending(self) -> bool:
        """Whether later tiles visit more than earlier ones, and so are to begin before them."""
        if self.plan.patches is not None or self.plan.ranges is not None or self.plan.blocks:
            return False
        runs = self._walk.runs
        return all(run.first is None and run.last is not None for run in runs)

    @property
    def gates(self) -> bool:
        """Whether the kernel makes the gate's gradient."""
        return self.plan.gate is not None and self.name == "backward_rows"

    @property
    def branches(self) -> list[BranchView]:
        """The weights that are added up."""
        return branch_views(self.plan, self.forward)

    @property
    def several(self) -> bool:
        return len(self.plan.branches) > 1

    @property
    def total(self) -> str:
        """The sum of what all weights add up to, each times its coefficient."""
        terms = [branch.times(f"acc{branch.end}") for branch in self.branches]
        return " + ".join(terms).replace(" + -", " - ")

    @property
    def coefficients(self) -> list[Tensor]:
        """What the weights are multiplied by."""
        return [t for t in (branch.coefficient for branch in self.branches) if t is not None]

    @property
    def entry(self) -> str:
        """The entry of a table that a pair counts for; empty where that is not asked."""
        return "" if self.plan.entries is None else text(self.plan.entries.index)

    @property
    def entries(self) -> str:
        """How many there are."""
        return "" if self.plan.entries is None else text(self.plan.entries.size)

    @property
    def repeated(self) -> str:
        """Those that several pairs of a row may count for, as a tuple; empty for any."""
        ends = None if self.plan.entries is None else self.plan.entries.repeated
        return "" if ends is None else tuple_text(map(text, ends))

    @property
    def relative(self) -> bool:
        """Whether positions are counted from the program's own tile on."""
        return ORIGIN in self._used()

    @property
    def keep(self) -> str:
        return "" if self.plan.keep is None else text(self.plan.keep)

    @property
    def careful(self) -> bool:
        """Whether a value that is not finite must be kept from the rows that exclude it: at every
        partial tile, or with AGAIN where an output turns out not to be finite."""
        return self.forward and self.plan.value is not None and self.plan.keep is not None

    @property
    def cleans(self) -> bool:
        """Whether an operand that is not finite must be kept from the pairs that exclude it.

        A softmax needs no care: there, whoever runs the kernel passes finite operands, and the
        log-sum-exp makes every pair of a row not a number where one of them is not.
        """
        return bool(self.keep) and not self.softmax

    @property
    def sums_rows(self) -> bool:
        """Whether a gradient adds up several rows, so that rows past the last must not count."""
        roles = {g.role for g in self.gradients} | {g.role for g in self.vectors}
        return bool(roles & {"head", "table"})

    @property
    def holds_rows(self) -> bool:
        """Whether such rows have the last one's position, which lies in the domain of what is
        computed of it; running sums along rows tell those past the last by their own."""
        return self.sums_rows and all(scan.side == "j" for scan in self.plan.scans)

    @property
    def vectors(self) -> list[VectorGradient]:
        """The vectors of the kernel's own side whose gradients it makes, each once."""
        return list({g.operand: g for view in self.sums for g in view.gradients}.values())

    @property
    def _walk(self) -> Loop:
        found = self.plan.patches or self.plan
        return found.rows if self.side == "rows" else found.columns

    @property
    def loop(self) -> LoopView:
        ranges = self.plan.ranges
        if ranges is None:
            return loop_view(self._walk)
        return read_view(ranges.rows if self.side == "rows" else ranges.columns, self.first_head)

    @property
    def patches(self) -> PatchView | None:
        found = self.plan.patches
        return None if found is None else patch_view(found, self.side)

    def _of_branch(self, place: int) -> list[Atom]:
        """What one weight takes."""
        roots, branch = list(self.branches[place].roots), self.plan.branches[place]
        weights = self.gates or (self.side == "columns" and self.plan.value is not None)
        return [*roots, branch.again] if weights and not branch.softmax else roots

    @staticmethod
    def _of_gradient(g: Gradient) -> list[Atom]:
        return [*g.values, *([g.index] if g.index else []), *(g.repeated or ())]

    def _roots(self, masked: bool) -> list[Atom]:
        places = range(len(self.plan.branches))
        roots = [root for place in places for root in self._of_branch(place)]
        entries = self.plan.entries
        if entries is not None:
            roots += [entries.index, entries.size]
            roots += (entries.repeated or ()) if self.forward else ()
        if self.plan.search is not None:
            roots += self.plan.search.atoms
        roots += [root for g in self.gradients for root in self._of_gradient(g)]
        if masked and self.plan.keep is not None:
            roots.append(self.plan.keep)
        return [*roots, *(name for part in self._sums(roots) for name in part.outside)]

    def _sums(self, roots: Sequence[Atom]) -> list[ChannelSum]:
        """The sums over channels that the kernel computes."""
        mine = frozenset(g.name for g in self.gradients if g.role == "sum")
        return needed_sums(self.plan, roots, mine)

    def _ops(self, axes: str, masked: bool = True) -> list[str]:
        ops = needed(self.plan.ops, self._roots(masked))
        return annotated([op for op in ops if op.axes == axes])

    @property
    def number_lines(self) -> list[str]:
        """Operations on numbers of the call alone: the same for every head."""
        ops = needed(self.plan.ops, self._roots(True))
        return annotated([o for o in ops if o.axes == "" and one_number(self.plan, o.target)])

    @property
    def head_lines(self) -> list[str]:
        """Operations on numbers of a head, after `number_lines`."""
        ops = needed(self.plan.ops, self._roots(True))
        return annotated([o for o in ops if o.axes == "" and not one_number(self.plan, o.target)])

    @property
    def row_lines(self) -> list[str]:
        return self._ops("i")

    @property
    def early_column_lines(self) -> list[str]:
        return self._ops("j")

    def column_lines(self, masked: bool) -> list[str]:
        return self._ops("j", masked)

    def turns(self, masked: bool) -> list[Turn]:
        """What a tile computes for one weight after the other, so that it holds the scores of one
        at a time; sums over channels come first, and all that they take."""
        every = [Dot(d.name, d.left.name, d.right.name) for d in self.plan.dots]
        roots = self._roots(masked)
        whole = parts(self.plan, roots, self._sums(self._roots(True)), self.sums)
        if not self.several:
            return [Turn(self.branches[0], every, whole, list(self.gradients), True, True)]
        found: list[Turn] = []
        made: set[str] = set()
        for place, branch in enumerate(self.branches):
            gradients = [g for g in self.gradients if g.place == place]
            roots = self._of_branch(place)
            roots += [root for g in gradients for root in self._of_gradient(g)]
            roots += (
                [self.plan.keep] if masked and place == 0 and self.plan.keep is not None else []
            )
            roots = self._roots(masked) if self.plan.sums else roots
            ops = needed(self.plan.ops, roots)
            used = names_used(ops, roots) | {op.target for op in ops}
            lines = annotated([op for op in ops if op.axes == "ij" and op.target not in made])
            mine = whole if self.plan.sums and place == 0 else [Part(tuple(lines), None)]
            dots = [dot for dot in every if dot.name in used - made]
            ends = place == 0, place + 1 == len(self.branches)
            found.append(Turn(branch, dots, mine, gradients, *ends))
            made |= used
        return found

    @property
    def sums(self) -> list[SumView]:
        shares = {g.name: g.share for g in self.gradients if g.role == "sum"}
        used = self._used()
        return [
            sum_view(s, used, shares.get(s.name, ""), self.side if s.name in shares else "")
            for s in self._sums(self._roots(True))
        ]

    def _used(self) -> frozenset[str]:
        roots, loop, patches = self._roots(True), self._walk, self.plan.patches
        ops = (*needed(self.plan.ops, roots), *loop.ops)
        after = [value for g in self.gradients for value in g.values]
        grid: list[Atom] = []
        if patches is not None:
            sides = (*patches.i_sides, *patches.j_sides)
            grid = [*patches.steps, *(side for side in sides if side is not None)]
        return names_used(ops, [*roots, *loop.limits, *after, *grid])
