"""What a picture assumes of a call: small sizes, and arguments that show something.

Scalars have their defaults where those are no longer than half of what there is; documents have
several lengths, padding stands at the end, a graph is sprinkled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from attnspec.dsl.ast import Decl, Def, Expr, Form, Kind, Literal, Size, Spec, Values, walk
from attnspec.dsl.check_witness import Number, Point, Unknown, evaluate

HEADS = 4
ALL = Literal(True, kind=Kind.BOOL)
_DOCUMENTS = (0.15, 0.4, 0.75)  # where documents end, as parts of the length


class Scene:
    """Sizes, scalars, and tensors as functions of their indices; `numbers` and `made_up` are those
    that were asked for. Questions raise `Unknown` where scores or reductions decide."""

    def __init__(self, spec: Spec, length: int, side: int) -> None:
        self.spec = spec
        self.length = length
        self.numbers: dict[str, Number] = {"N": length}
        self.made_up: dict[str, None] = {}
        self.sizes = {"b": 1, "h": HEADS, "i": length, "j": length}
        if any(node == Size("h", kind=Kind.INT) for node in walk(spec.mask or ALL)):
            self.numbers["H"] = HEADS
        for grid in spec.grids:
            self.numbers |= {f"G{name.upper()}": side for name in grid.names}
            for where in ("i", "j") if spec.shared_grid else (grid.side,):
                self.sizes |= {f"{where}.{name}": side for name in grid.names}
        self.extent = side if spec.grids else length
        self.given: dict[str, Callable[..., Number]] = {}
        for decl in spec.decls:
            fixed = not decl.axes or (decl.form is Form.PARAM and isinstance(decl.default, Literal))
            self.given[decl.name] = self._number(decl) if fixed else self._tensor(decl)
        self.given |= {d.name: self._definition(d) for d in spec.defs}

    def keeps(self, mask: Expr, i: int, j: int) -> bool:
        """Whether a pair takes part."""
        return bool(self._value(mask, {"b": 0, "h": 0, "i": i, "j": j}))

    def number(self, expr: Expr, at: Mapping[str, Number]) -> Number:
        """An expression over a tile's ends, or at a token."""
        return self._value(expr, {"b": 0, "h": 0, **at})

    def _value(self, expr: Expr, at: Mapping[str, Number]) -> Number:
        return evaluate(self.spec, expr, Point(self.sizes, at, self.given))

    def _definition(self, made: Def) -> Callable[..., Number]:
        return cache(lambda *at: self._value(made.expr, dict(zip(made.axes, at, strict=True))))

    def _number(self, decl: Decl) -> Callable[..., Number]:
        """A default, or a number that shows something at this size."""
        default = decl.default

        def given(*_: int) -> Number:
            value: Number = self.extent // 4
            if isinstance(default, Literal) and default.value <= self.extent // 2:
                value = default.value
            self.numbers[decl.name] = value
            return value

        return given

    def _tensor(self, decl: Decl) -> Callable[..., Number]:
        tokens = [place for place, axis in enumerate(decl.axes) if axis in ("i", "j")]
        others = set(decl.axes) - {"b", "h", "i", "j"}

        def at(*index: int) -> Number:
            if decl.values is not None:
                return _element(decl.values, index)
            if others or decl.form is Form.PARAM:
                raise Unknown
            self.made_up[decl.name] = None
            return self._example(decl.kind, [index[place] for place in tokens])

        return at

    def _example(self, kind: Kind, at: list[int]) -> Number:
        """An element at these positions: of a sequence, of a token, of a pair."""
        if not at:
            return {Kind.BOOL: True, Kind.INT: 3 * self.length // 4, Kind.FLOAT: 0.5}[kind]
        if len(at) == 2:
            drawn = (at[0] * 7 + at[1] * 13) % 11 < 3
            return drawn if kind is Kind.BOOL else int(drawn)
        place = at[0] / self.length
        if kind is Kind.INT:
            return sum(place >= end for end in _DOCUMENTS)
        return place < _DOCUMENTS[-1] if kind is Kind.BOOL else max(_DOCUMENTS[-1] - place, 0.0)


def _element(values: Values, index: tuple[int, ...]) -> Number:
    for place in index:
        if not isinstance(values, tuple) or not 0 <= place < len(values):
            raise Unknown
        values = values[place]
    if isinstance(values, tuple):
        raise Unknown
    return values
