"""What templates see of sums over channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnspec.codegen.plan_types import ChannelSum, PairPlan
from attnspec.codegen.statements import CAST, annotated, text
from attnspec.codegen.tile import Atom, names_used, needed
from attnspec.codegen.views import Tensor

# which vectors' gradients a kernel sums up, by the side that its programs own
OWN = {"rows": ("row", "head"), "columns": ("column",)}


@dataclass(frozen=True, slots=True)
class Terms:
    """One loop over channels: what it reads, computes, and takes from that."""

    vectors: tuple[Tensor, ...]
    lines: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VectorGradient:
    """A gradient over a `channel` that a loop adds up, the share of a pair times `slope`."""

    operand: str
    role: str
    channel: str
    slope: Atom

    @property
    def times(self) -> str:
        """What the share is multiplied by, as code."""
        return "" if self.slope == 1.0 else f" * {text(self.slope)}"


@dataclass(frozen=True, slots=True)
class SumView:
    """The tiles `names`, made as `op` says, and the gradients of vectors of the kernel's own
    side."""

    names: tuple[str, ...]
    channel: str
    op: str
    share: str
    terms: Terms
    slopes: Terms
    gradients: tuple[VectorGradient, ...]

    @property
    def vectors(self) -> tuple[Tensor, ...]:
        """Everything that is read."""
        return tuple(dict.fromkeys((*self.terms.vectors, *self.slopes.vectors)))


@dataclass(frozen=True, slots=True)
class Part:
    """Statements for every pair, and the sum over channels that comes after them."""

    lines: tuple[str, ...]
    sum: SumView | None


def vector_gradients(found: ChannelSum, side: str) -> tuple[VectorGradient, ...]:
    """Those that a kernel makes which owns one side."""
    roles = {v.name: v.role for v in found.vectors}
    mine = (g for g in found.gradients if roles[g.of] in OWN.get(side, ()))
    return tuple(VectorGradient(g.of, roles[g.of], found.label, g.value) for g in mine)


def sum_view(found: ChannelSum, used: frozenset[str], share: str, side: str) -> SumView:
    """A sum in a kernel that reads those tiles of it that are `used`, and makes gradients of one
    side, of no side in the forward one."""
    gradients = vector_gradients(found, side)
    slopes = _terms(found, [g.slope for g in gradients])
    totals = {n: x for n, x in ((found.name, found.value), *found.beside) if n in used}
    where = [found.where] if found.op == "place" else []
    terms = _terms(found, [*totals.values(), *where])
    return SumView(tuple(totals), found.label, found.op, share, terms, slopes, gradients)


def _terms(found: ChannelSum, roots: Sequence[Atom]) -> Terms:
    ops = needed(found.ops, roots)
    used = names_used(ops, roots)
    vectors = []
    for v in found.vectors:
        if v.name in used:
            token = v.operand.dims[2] if len(v.operand.dims) > 3 else ""
            dims = ("b", "h", *([token] if token else []), "c")
            vectors.append(Tensor(v.name, dims, token, cast=CAST[v.kind], var=v.name))
    return Terms(tuple(vectors), tuple(annotated(list(ops))), tuple(map(text, roots)))


def needed_sums(plan: PairPlan, roots: Sequence[Atom], asked: frozenset[str]) -> list[ChannelSum]:
    """The sums over channels that `roots` depend on, and those that are `asked` for."""
    used = names_used(needed(plan.ops, roots), roots) | asked
    found = []
    for part in reversed(plan.sums):
        if used & {part.name, *(name for name, _ in part.beside)}:
            found.append(part)
            used |= names_used(needed(plan.ops, part.outside), part.outside)
    return found[::-1]


def parts(
    plan: PairPlan, roots: Sequence[Atom], sums: Sequence[ChannelSum], views: Sequence[SumView]
) -> list[Part]:
    """The computation of a tile in order: what each sum takes before it, then the rest."""
    every = needed(plan.ops, roots)
    done: set[str] = set()
    found = []
    for part, view in zip(sums, views, strict=True):
        ops = [op for op in needed(every, part.outside) if op.axes == "ij"]
        lines = tuple(annotated([op for op in ops if op.target not in done]))
        found.append(Part(lines, view if view.names else None))
        done |= {op.target for op in ops}
    rest = [op for op in every if op.axes == "ij" and op.target not in done]
    return [*found, Part(tuple(annotated(rest)), None)]
