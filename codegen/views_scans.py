"""What templates see of running sums that gradients flow through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnspec.codegen.plan_types import PairPlan, Scan
from attnspec.codegen.views_gradients import Gradient

# positions along a side, and the one after the last
PLACES = {"i": ("i", "q_start + M"), "j": ("j", "k_start + N")}


@dataclass(frozen=True, slots=True)
class ScanView:
    """One running sum in a backward kernel: its gradient's share of every pair, and the `parts`,
    gradients that get what flows on to what was summed up."""

    scan: Scan
    own: Gradient
    parts: list[Gradient]

    @property
    def name(self) -> str:
        return self.scan.name

    @property
    def side(self) -> str:
        return self.scan.side

    @property
    def share(self) -> str:
        return self.own.share

    @property
    def carried(self) -> str:
        """The operand that other blocks' sums are, where the kernel makes its gradient."""
        return self.own.operand

    @property
    def along(self) -> str:
        """Where pairs stand along the side, as arguments."""
        return ", ".join(PLACES[self.scan.side])

    @property
    def past(self) -> str:
        """Whether a place is past the last along the side: what flows there counts for no pair."""
        return " >= ".join(PLACES[self.scan.side])

    @property
    def back(self) -> str:
        """The sum that runs the other way, as arguments."""
        return f"{self.along}, {not self.scan.after}, {self.scan.own}"


def scan_views(plan: PairPlan, gradients: Sequence[Gradient]) -> list[ScanView]:
    """The running sums of a kernel with these gradients, the last first: one that is part of
    another has its gradient after it."""
    own = {g.name: g for g in gradients if g.role == "scan"}
    return [
        ScanView(scan, own[scan.name], [g for g in gradients if f"d_{scan.name}" in g.more])
        for scan in reversed(plan.scans)
        if scan.name in own
    ]
