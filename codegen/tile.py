"""The computation of one tile, as a list of single operations.

A tile is a set of queries times a set of keys. Every value has a class: the token variables it
depends on, `""` (one number per batch and head), `"i"`, `"j"` or `"ij"`. Printers spell an
operation in Triton or PyTorch; templates put each class where it is computed least often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from attnspec.dsl.ast import Kind

Atom: TypeAlias = "str | int | float | bool"


@dataclass(frozen=True, slots=True)
class Op:
    """`target = op(args)`; `axes` is the class of the result, `note` what it comes from."""

    target: str
    op: str
    args: tuple[Atom, ...]
    kind: Kind
    axes: str
    note: str = ""


@dataclass(slots=True)
class Tape:
    """Operations in order, each distinct one once; inputs are declared with their class.

    `note` goes with every operation that is added: the line of the spec that it comes from. Names
    begin with `prefix`.
    """

    ops: list[Op] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    note: str = ""
    prefix: str = "t"
    _seen: dict[tuple[object, ...], str] = field(default_factory=dict)

    def declare(self, name: str, kind: Kind, axes: str) -> str:
        """A value that comes from outside: a leaf, a position, a scalar."""
        self.axes[name], self.kinds[name] = axes, kind
        return name

    def add(self, op: str, args: tuple[Atom, ...], kind: Kind, name: str = "") -> str:
        """Append an operation, or find the same one; gives the name of its value."""
        key = (op, *((type(a), a) for a in args))
        if key in self._seen:
            return self._seen[key]
        target = name or f"{self.prefix}{len(self.ops)}"
        axes = self.class_of(args)
        self.ops.append(Op(target, op, args, kind, axes, self.note))
        self._seen[key] = self.declare(target, kind, axes)
        return target

    def class_of(self, args: Iterable[Atom]) -> str:
        """The token variables that any of `args` depends on."""
        found = {c for a in args if isinstance(a, str) for c in self.axes[a]}
        return "".join(c for c in "ij" if c in found)

    def kind_of(self, atom: Atom) -> Kind:
        """The type of an atom."""
        if isinstance(atom, str):
            return self.kinds[atom]
        if isinstance(atom, bool):
            return Kind.BOOL
        return Kind.INT if isinstance(atom, int) else Kind.FLOAT


def needed(ops: Iterable[Op], roots: Iterable[Atom]) -> tuple[Op, ...]:
    """The operations that `roots` depend on, in order."""
    wanted = {r for r in roots if isinstance(r, str)}
    kept: list[Op] = []
    for op in reversed(list(ops)):
        if op.target in wanted:
            kept.append(op)
            wanted.update(a for a in op.args if isinstance(a, str))
    return tuple(reversed(kept))


def names_used(ops: Iterable[Op], roots: Iterable[Atom] = ()) -> frozenset[str]:
    """Every name that the operations or the roots mention."""
    used = {r for r in roots if isinstance(r, str)}
    for op in ops:
        used.update(a for a in op.args if isinstance(a, str))
    return frozenset(used)
