"""Lowering of running sums in a tile."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from attnspec.codegen.channels import TileBuilder
from attnspec.codegen.plan_types import BLOCKED, Gradient, Leaf, Role, Scan
from attnspec.codegen.running import OTHERS, Running, running
from attnspec.codegen.tile import Atom
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.ast import Apply, Cumsum, Expr, Kind, Reduce


@dataclass(slots=True)
class ScanBuilder(TileBuilder):
    """Lowers what is computed of a pair, running sums too: `scans` by expression."""

    scans: dict[Expr, Scan] = field(default_factory=dict)

    @property
    def differentiated(self) -> list[str]:
        """What has derivatives: dots, sums over channels, leaves, running sums."""
        names = [d.name for d in self.dots if d.name in self.flowing]
        names += [s.name for s in self.sums.values() if s.gradients]
        names += [leaf.name for leaf in self.leaves if leaf.grad and leaf.role not in BLOCKED]
        return names + [s.name for s in self.scans.values() if s.gradients]

    def emit(self, expr: Expr, flows: bool = False) -> Atom:
        """Lower to operations; gives the atom of the value."""
        found = self._running(expr)
        if found is None:
            return TileBuilder.emit(self, expr, flows)
        name = self._scan(expr, found, flows)
        return self.tape.add("floor", (name,), Kind.INT) if expr.kind is Kind.INT else name

    def sym(self, expr: Expr) -> Any:
        """Lower to SymPy over atoms."""
        found = self._running(expr)
        if found is None:
            return TileBuilder.sym(self, expr)
        return self.symbol(self._scan(expr, found, self.carries_gradient(expr)))

    def _running(self, expr: Expr) -> Running | None:
        if not isinstance(expr, Reduce | Cumsum) or not expr.free >= self.sides:
            return None
        return running(self.spec, expr)

    def _scan(self, expr: Expr, found: Running, flows: bool) -> str:
        """The name of the tile of a running sum."""
        term = coordinates(found.term(self.spec), self.spec)
        scan = self.scans.get(expr)
        whole = self.sym(term) if flows else None
        if scan is None:
            value = self.widened(self.emit(term)) if whole is None else self.printed(whole)
            side, carried = self.called(found.side), self._carried(expr, found)
            name = self.fresh(f"r{len(self.scans)}")
            args = (value, carried, side, found.after, found.own)
            self.tape.add(f"running_{side}", args, Kind.FLOAT, name)
            scan = Scan(name, side, found.after, found.own, carried, ())
        if whole is not None and not scan.gradients:
            reached = {str(symbol) for symbol in whole.free_symbols}
            names = [name for name in self.differentiated if name in reached]
            slopes = symbolic.derivatives(whole, names)
            given = tuple(Gradient(n, self.printed(slopes[n])) for n in names)
            self.leaves = [
                replace(leaf, grad=True) if leaf.name == scan.carried else leaf
                for leaf in self.leaves
            ]
            scan = replace(scan, gradients=given)
        self.scans[expr] = scan
        return scan.name

    def _carried(self, expr: Expr, found: Running) -> str:
        """The leaf that is what blocks of tokens add to a running sum."""
        role: Role = "row_blocks" if found.side == self.row else "column_blocks"
        outside = Apply(OTHERS, (expr,), kind=Kind.FLOAT)
        operand = self.made("carried", outside, "b", "h", self.row, self.column)
        self.leaves.append(Leaf(operand.name, role, operand, Kind.FLOAT, False))
        return self.tape.declare(operand.name, Kind.FLOAT, "ij")
