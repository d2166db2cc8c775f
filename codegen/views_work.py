"""What templates see of a kernel's work: printed lines and loops, no expressions."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.lower import ORIGIN
from attnspec.codegen.plan_types import Loop, PairPlan
from attnspec.codegen.spelling import tuple_text
from attnspec.codegen.statements import annotated, text
from attnspec.codegen.tile import Atom, names_used, needed
from attnspec.codegen.views import LoopView, PatchView, loop_view, patch_view, read_view
from attnspec.codegen.views_channels import Part, SumView, VectorGradient, parts, sum_view
from attnspec.codegen.views_gradients import Gradient, one_number


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
        return self.plan.normalizer == "softmax"

    @property
    def gates(self) -> bool:
        """Whether the kernel makes the gate's gradient."""
        return self.plan.gate is not None and self.name == "backward_rows"

    @property
    def score(self) -> str:
        logit = self.plan.logit
        if logit is not None:
            return text(logit.kept)
        return text(self.plan.score if self.forward else self.plan.again)

    @property
    def raw(self) -> str:
        """What the maximum is taken of."""
        return "" if self.plan.logit is None else text(self.plan.logit.raw)

    @property
    def spread(self) -> bool:
        """Whether a score is the same for a whole row or column, so that it has to be laid out."""
        axes = {op.target: op.axes for op in self.plan.ops}
        pairs = {d.name for d in self.plan.dots} | {s.name for s in self.plan.sums}
        pairs |= {x.name for x in self.plan.leaves if x.role in ("pair", "table")}
        return self.raw not in pairs and axes.get(self.raw, "") != "ij"

    @property
    def factor(self) -> str:
        """What makes a score of `raw`; empty where it is one."""
        logit = self.plan.logit
        return "" if logit is None or logit.factor == 1.0 else text(logit.factor)

    @property
    def lifted(self) -> str:
        """What the scores of a row lie above the whole logit; empty for nothing."""
        logit = self.plan.logit
        return "" if logit is None or logit.lifted == 0.0 else text(logit.lifted)

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
    def highest(self) -> str:
        """The number of the call that no score exceeds; empty where none is known."""
        logit = self.plan.logit
        return "" if logit is None or logit.between is None else text(logit.between[1])

    @property
    def keep(self) -> str:
        return "" if self.plan.keep is None else text(self.plan.keep)

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
        roles = {g.role for g in self.gradients} | {g.role for g in self._vector_gradients}
        return bool(roles & {"head", "table"})

    @property
    def _vector_gradients(self) -> list[VectorGradient]:
        return [g for view in self.sums for g in view.gradients]

    @property
    def _walk(self) -> Loop:
        found = self.plan.patches or self.plan
        return found.rows if self.side == "rows" else found.columns

    @property
    def loop(self) -> LoopView:
        ranges = self.plan.ranges
        if ranges is None:
            return loop_view(self._walk)
        return read_view(ranges.rows if self.side == "rows" else ranges.columns)

    @property
    def patches(self) -> PatchView | None:
        found = self.plan.patches
        return None if found is None else patch_view(found, self.side)

    def _roots(self, masked: bool) -> list[Atom]:
        logit = self.plan.logit
        roots: list[Atom] = []
        if logit is not None:
            roots += [logit.raw, logit.factor] if self.forward else [logit.kept]
            roots.append(logit.lifted)
            if self.forward and logit.between is not None:
                roots.append(logit.between[1])
        elif self.forward or self.gates or (self.side == "columns" and self.plan.value is not None):
            roots.append(self.plan.score if self.forward else self.plan.again)
        entries = self.plan.entries
        if entries is not None:
            roots += [entries.index, entries.size]
            roots += (entries.repeated or ()) if self.forward else ()
        if self.plan.search is not None:
            roots += self.plan.search.atoms
        for g in self.gradients:
            roots.append(g.value)
            if g.index:
                roots.append(g.index)
            roots += g.repeated or ()
        if masked and self.plan.keep is not None:
            roots.append(self.plan.keep)
        return [*roots, *(name for part in self.plan.sums for name in part.outside)]

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

    def parts(self, masked: bool) -> list[Part]:
        return parts(self.plan, self._roots(masked), self.sums)

    @property
    def sums(self) -> list[SumView]:
        shares = {g.name: g.share for g in self.gradients if g.role == "sum"}
        return [
            sum_view(s, shares.get(s.name, ""), self.side if s.name in shares else "")
            for s in self.plan.sums
        ]

    def product(self, g: Gradient) -> str:
        """This gradient's share of a pair."""
        return "dp" if g.after or g.value == 1.0 else f"dp * {text(g.value)}"

    @property
    def shares(self) -> list[str]:
        """The names of all shares, each once."""
        return list(dict.fromkeys(g.share for g in self.gradients))

    def _used(self) -> frozenset[str]:
        roots, loop, patches = self._roots(True), self._walk, self.plan.patches
        ops = (*needed(self.plan.ops, roots), *loop.ops)
        after = [g.value for g in self.gradients]
        grid: list[Atom] = []
        if patches is not None:
            sides = (*patches.i_sides, *patches.j_sides)
            grid = [*patches.steps, *(side for side in sides if side is not None)]
        return names_used(ops, [*roots, *loop.limits, *after, *grid])
