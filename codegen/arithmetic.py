"""Operations of a tile for the arithmetic of numbers and of SymPy expressions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from attnspec.codegen.tile import Atom, Tape
from attnspec.dsl.analysis import symbolic
from attnspec.dsl.ast import COMPARISONS, Apply, Expr, Kind, Literal


@dataclass(slots=True)
class Arithmetic:
    """Writes operations on its tape."""

    tape: Tape = field(default_factory=Tape, kw_only=True)

    def scalar(self, expr: Expr) -> Atom:
        """A number of the call."""
        raise NotImplementedError

    def repeated(self, base: Atom, exponent: int, kind: Kind) -> Atom:
        """base ** exponent by squaring."""
        if exponent == 1:
            return base
        half = self.repeated(base, exponent // 2, kind)
        square = self.tape.add("mul", (half, half), kind)
        return square if exponent % 2 == 0 else self.tape.add("mul", (square, base), kind)

    def widened(self, atom: Atom) -> Atom:
        """An int as a float; anything else as it is."""
        if self.tape.kind_of(atom) is not Kind.INT:
            return atom
        return self.tape.add("float", (atom,), Kind.FLOAT) if isinstance(atom, str) else float(atom)

    def symbol(self, atom: Atom) -> Any:
        """An atom in SymPy."""
        match atom:
            case str():
                return sp.Symbol(atom)
            case bool():
                return sp.Symbol(self.tape.add("constant", (atom,), Kind.BOOL))
            case int():
                return sp.Integer(atom)
        return sp.Float(atom)

    def printed(self, expr: Any) -> Atom:
        """Operations for a SymPy expression: one number per class first, then the tile."""
        if expr.is_Symbol:
            return str(expr.name)
        if expr.is_Integer:
            return float(int(expr))
        if expr.is_Number:
            return float(expr)
        if expr.is_Add:
            return self._sum(list(expr.args))
        if expr.is_Mul:
            return self._mul(expr)
        if expr.is_Pow:
            return self._power(*expr.args)
        if isinstance(expr, symbolic.Total):
            return self.printed(expr.args[0])
        if isinstance(expr, symbolic.Fn):
            op = type(expr).op
            kind = Kind.BOOL if op in COMPARISONS else Kind.FLOAT
            atoms = tuple(self.printed(a) for a in expr.args)
            numbers = tuple(Literal(a, kind=Kind.FLOAT) for a in atoms if not isinstance(a, str))
            if len(numbers) == len(atoms):  # what was left of it cancelled: known at the call
                return self.scalar(Apply(op, numbers, kind=kind))
            return self.tape.add(op, atoms, kind)
        raise AssertionError(f"no operation for {type(expr).__name__}")

    def _chain(self, op: str, atoms: list[Atom]) -> Atom:
        """Combine by class, the least often computed first."""
        order = {"": 0, "i": 1, "j": 2, "ij": 3}
        atoms = sorted(atoms, key=lambda a: order[self.tape.class_of((a,))])
        total = atoms[0]
        for atom in atoms[1:]:
            total = self.tape.add(op, (total, atom), Kind.FLOAT)
        return total

    def _sum(self, terms: list[Any]) -> Atom:
        plus = [t for t in terms if not t.could_extract_minus_sign()]
        minus = [-t for t in terms if t.could_extract_minus_sign()]
        if not plus:
            return self.tape.add("neg", (self._sum(minus),), Kind.FLOAT)
        total = self._chain("add", [self.printed(t) for t in plus])
        if not minus:
            return total
        return self.tape.add(
            "sub", (total, self._chain("add", [self.printed(t) for t in minus])), Kind.FLOAT
        )

    def _mul(self, expr: Any) -> Atom:
        if expr.could_extract_minus_sign():
            return self.tape.add("neg", (self.printed(-expr),), Kind.FLOAT)
        above: list[Any] = []
        below: list[Any] = []
        for factor in expr.args:
            inverse = factor.is_Pow and factor.args[1].is_Integer and factor.args[1] < 0
            (below if inverse else above).append(1 / factor if inverse else factor)
        atoms = [a for a in (self.printed(f) for f in above) if a != 1.0]
        if below:
            divisor = self._chain("mul", [self.printed(f) for f in below])
            if self.tape.class_of((divisor,)) == "ij" and atoms:
                return self.tape.add("div", (self._chain("mul", atoms), divisor), Kind.FLOAT)
            atoms.append(self.tape.add("div", (1.0, divisor), Kind.FLOAT))
        return self._chain("mul", atoms) if atoms else 1.0

    def _power(self, base: Any, exponent: Any) -> Atom:
        if not exponent.is_Integer:
            args = (self.printed(base), self.printed(exponent))
            return self.tape.add("pow", args, Kind.FLOAT)
        if exponent < 0:
            return self.tape.add("div", (1.0, self._power(base, -exponent)), Kind.FLOAT)
        return self.repeated(self.printed(base), int(exponent), Kind.FLOAT)
