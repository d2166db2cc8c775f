"""What templates see of the weights that a pass adds up: names and printed lines."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.plan_types import Branch, Operand, PairPlan
from attnspec.codegen.statements import text
from attnspec.codegen.tile import Atom
from attnspec.codegen.views import Tensor
from attnspec.codegen.views_gradients import endings, one_number


@dataclass(frozen=True, slots=True)
class BranchView:
    """One weight of a kernel, whose own names end in `end`."""

    plan: PairPlan
    branch: Branch
    end: str
    forward: bool

    @property
    def softmax(self) -> bool:
        return self.branch.softmax

    @property
    def score(self) -> str:
        logit = self.branch.logit
        if logit is not None:
            return text(logit.kept)
        return text(self.branch.score if self.forward else self.branch.again)

    @property
    def raw(self) -> str:
        """What the maximum is taken of."""
        return "" if self.branch.logit is None else text(self.branch.logit.raw)

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
        logit = self.branch.logit
        return "" if logit is None or logit.factor == 1.0 else text(logit.factor)

    @property
    def alike(self) -> bool:
        """Whether that is the same for every head."""
        logit = self.branch.logit
        return logit is None or one_number(self.plan, logit.factor)

    @property
    def lifted(self) -> str:
        """What the scores of a row lie above the whole logit; empty for nothing."""
        logit = self.branch.logit
        return "" if logit is None or logit.lifted == 0.0 else text(logit.lifted)

    @property
    def highest(self) -> str:
        """The number of the call that no score exceeds; empty where none is known."""
        logit = self.branch.logit
        return "" if logit is None or logit.between is None else text(logit.between[1])

    @property
    def sink(self) -> Tensor | None:
        sink = self.branch.sink
        return None if sink is None else Tensor(sink.name, sink.labels, "i")

    @property
    def coefficient(self) -> Tensor | None:
        """What the softmax is multiplied by, where that is read."""
        found = self.branch.coefficient
        return Tensor(found.name, found.labels, "i") if isinstance(found, Operand) else None

    def times(self, value: str) -> str:
        """The coefficient times `value`."""
        found = self.branch.coefficient
        if isinstance(found, Operand):
            return f"{found.name} * {value}"
        return {1.0: value, -1.0: f"-{value}"}.get(found, f"{text(found)} * {value}")

    @property
    def roots(self) -> list[Atom]:
        """What the forward kernel computes, or else what any backward kernel needs."""
        logit = self.branch.logit
        if logit is None:
            return [self.branch.score] if self.forward else []
        roots: list[Atom] = [logit.raw, logit.factor] if self.forward else [logit.kept]
        roots.append(logit.lifted)
        if self.forward and logit.between is not None:
            roots.append(logit.between[1])
        return roots


def branch_views(plan: PairPlan, forward: bool) -> list[BranchView]:
    """The weights of a kernel."""
    ends = endings(plan)
    return [BranchView(plan, b, e, forward) for b, e in zip(plan.branches, ends, strict=True)]
