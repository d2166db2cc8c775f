"""What is known at a place in a spec."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnspec.dsl.ast import Expr
from attnspec.dsl.check_interval import Interval
from attnspec.dsl.check_linear import Constraint


@dataclass(frozen=True, eq=False, slots=True)
class Known:
    """What holds at a place in the spec.

    `facts` are linear, `either` known disjunctions, `true` known conditions of any form. `pairs`
    are the pairs of index variables that the mask allows; `rows` and `columns` those at which it
    has a pair at least.
    """

    facts: tuple[Constraint, ...] = ()
    either: tuple[Expr, ...] = ()
    true: tuple[Expr, ...] = ()
    pairs: frozenset[tuple[str, str]] = frozenset()
    rows: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    ranges: dict[int, Interval] = field(default_factory=dict)
    atoms: dict[int, tuple[Constraint, ...]] = field(default_factory=dict)
